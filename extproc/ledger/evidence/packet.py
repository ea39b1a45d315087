"""Puts a packet together: files with their hashes, a manifest, a signature over it, one zip (docs/evidence.md)."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

from extproc.ledger.evidence.tables import TABLES
from extproc.ledger.exchanges import csv_cell
from extproc.ledger.note import Signer, sign_note

FORMAT = "extproc-evidence-manifest/v1"
_EPOCH = (1980, 1, 1, 0, 0, 0)
"""Times of files in the zip; the manifest says when it was made."""


def table_files(tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, bytes]:
    """Each table as JSON lines and as CSV with a byte order mark, which spreadsheets want for UTF-8."""
    files: dict[str, bytes] = {}
    for name, rows in tables.items():
        files[f"tables/{name}.jsonl"] = json_lines(rows)
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\r\n")
        writer.writerow(TABLES[name].columns)
        writer.writerows([csv_cell(row[column]) for column in TABLES[name].columns] for row in rows)
        files[f"tables/{name}.csv"] = b"\xef\xbb\xbf" + text.getvalue().encode("utf-8", "replace")
    return files


def json_lines(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """One object a line."""
    return b"".join(json.dumps(row, ensure_ascii=False).encode("utf-8", "replace") + b"\n" for row in rows)


def build_manifest(facts: Mapping[str, Any], files: Mapping[str, bytes]) -> bytes:
    """`facts` and every file's size and SHA-256."""
    listed = [
        {"name": name, "size": len(data), "sha256": sha256(data).hexdigest()}
        for name, data in sorted(files.items())
    ]
    return (
        json.dumps({"format": FORMAT, **facts, "files": listed}, indent=1, ensure_ascii=False).encode()
        + b"\n"
    )


def sign_manifest(manifest: bytes, packet: str, signer: Signer) -> bytes:
    """A signed note that names the manifest's hash and the packet's id."""
    text = f"{FORMAT}\nmanifest {sha256(manifest).hexdigest()}\npacket {packet}\n"
    return sign_note(text.encode(), signer)


def build_zip(files: Mapping[str, bytes]) -> bytes:
    """The same files give the same bytes."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for name, data in sorted(files.items()):
            info = zipfile.ZipInfo(name, _EPOCH)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = 0o644 << 16
            archive.writestr(info, data)
    return out.getvalue()
