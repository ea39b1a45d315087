"""identify → decide → hold → mask → record, without sockets or a clock.

`HttpExchange` is one request and its response; every call takes an event and returns a `Step`.
"""

from extproc.pipeline.exchange import HttpExchange
from extproc.pipeline.governance import (
    Credential,
    DatabasePlan,
    DatabaseRole,
    Governance,
    Identifier,
    TargetPlan,
)
from extproc.pipeline.settled import HoldSettled

__all__ = [
    "Credential",
    "DatabasePlan",
    "DatabaseRole",
    "Governance",
    "HoldSettled",
    "HttpExchange",
    "Identifier",
    "TargetPlan",
]
