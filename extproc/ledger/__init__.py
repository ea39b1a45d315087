"""Records, chain, trees, checkpoints, the verifier. `docs/ledger.md` is the format; files live in adapters."""

from extproc.ledger.lines import Line, RecordError, format_time, new_writer_id, parse_line
from extproc.ledger.note import NoteError, NoteKey, parse_key
from extproc.ledger.report import Problem, Report
from extproc.ledger.verify import Segment, WriterFiles, verify

__all__ = [
    "Line",
    "NoteError",
    "NoteKey",
    "Problem",
    "RecordError",
    "Report",
    "Segment",
    "WriterFiles",
    "format_time",
    "new_writer_id",
    "parse_key",
    "parse_line",
    "verify",
]
