"""Every attribute of every kind of span is in OpenTelemetry's registry, or under `extproc.`."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
from pathlib import Path

import pytest
from opentelemetry.semconv import _incubating, attributes

import extproc.ledger.spans
import extproc.ledger.statement_spans
from extproc.domain.record import INTENT, OUTCOME, Record
from extproc.ledger.checkpoint import Alarm, Checkpoint, Clock
from extproc.ledger.lines import ZERO_HASH
from extproc.ledger.spans import checkpoint_span
from tests.ledger.test_spans import Book, exchange
from tests.ledger.test_statement_spans import COMMON, STATEMENT, span

KEY = re.compile(r"[a-z_]+(?:\.[a-z_]+)+\Z")


def registry() -> set[str]:
    """Names of all attributes, stable and incubating, of the installed version."""
    found: set[str] = set()
    for package in (attributes, importlib.import_module(f"{_incubating.__name__}.attributes")):
        for module in pkgutil.iter_modules(package.__path__):
            loaded = importlib.import_module(f"{package.__name__}.{module.name}")
            found |= {v for k, v in vars(loaded).items() if k.isupper() and isinstance(v, str)}
    return found


def seen() -> dict[str, set[str]]:
    """Attributes by kind of span, from records with everything in them."""
    request = {
        "method": "BREW",
        "host": "a:1",
        "scheme": "http",
        "path": "/?q",
        "source": "b:2",
        "size": 1,
        "route": "r",
    }
    rules = [{"rule": "p/r", "digest": "d", "effect": "deny", "risk": 5, "shadow": False, "errored": True}]
    principal = {
        "issuer": "i",
        "subject": "s",
        "kind": "agent",
        "person": "p",
        "groups": ["g"],
        "client_id": "c",
    }
    said = {
        "request": request, "rules": rules, "principal": principal, "degraded": ["x"], "masks": ["m"], "risk": 7,
        "hold": {"id": "h", "state": "released", "grant": {"id": "g", "use": 1}},
    }  # fmt: skip
    became = {
        "response": {"code": 503, "size": 3, "inspected": "full", "masked": {"EMAIL_ADDRESS": 1}, "residual": {"X": 1}},
        "executed": True, "end": "complete", "reason": "r",
    }  # fmt: skip
    found = {"exchange": set(exchange(said, became).attributes)}
    answer = {
        "code": 0,
        "rows": 3,
        "affected": 3,
        "bytes": 4,
        "sqlstate": "42501",
        "statements": 1,
        "denied": 1,
        "held": 1,
    }
    for protocol in ("postgres", "mysql"):
        for operation in ("statement", "login"):
            common = {"operation": operation, "protocol": protocol}
            asked = {**STATEMENT, **common, "rules": rules, "principal": principal}
            view = span(asked, {**common, "executed": False, "end": "error", "response": answer})
            found[f"{protocol} {operation}"] = set(view.attributes)
    book = Book()
    opened = {"hold": "h", "decision_id": "d", "requester": principal, "rules": ["p/r"], "target": "t"}
    moves = [
        Record("hold.opened", 1.0, opened),
        Record("hold.vote", 2.0, {"hold": "h", "approver": principal, "vote": "deny", "reason": "no"}),
        Record(INTENT, 2.5, {**COMMON, "decision_id": "d"}),
        Record("hold.denied", 3.0, {"hold": "h", "reason": "no"}),
        Record("hold.late", 4.0, {"hold": "h", "by": principal}),
        Record(
            OUTCOME,
            5.0,
            {**COMMON, "decision_id": "d", "executed": False, "end": "refused", "response": {"code": 403}},
        ),
        Record(
            "policy.activated",
            6.0,
            {"policy": "p", "author": "a", "files": [{"name": "n"}], "asked_by": {"by": "api"}},
        ),
        Record("admin.child_died", 7.0, {"child": "worker-0", "code": -9}),
        Record("gap", 8.0, {"refused_records": 1, "cause": "ENOSPC"}),
        Record("retention.erased", 9.0, {"writer_of": "w", "payload": "request", "seqs": [1]}),
    ]
    for move in moves:
        for view in book.add(move):
            found.setdefault(view.name, set()).update(view.attributes)
    checkpoint = Checkpoint(
        "o", 1, ZERO_HASH, "2026-11-23T17:50:01.000000Z", (), 0, ZERO_HASH, 0, clock=Clock("kernel", 1),
        counts={"intent": 1}, alarms=(Alarm("w", 1, "altered"),),
    )  # fmt: skip
    found["checkpoint"] = set(checkpoint_span(checkpoint, ZERO_HASH).attributes)
    return found


def test_every_attribute_of_every_kind_of_span_is_in_the_registry_or_ours():
    found = seen()
    assert len(found) >= 8
    known = registry()
    foreign = {
        kind: {name for name in names if not name.startswith("extproc.") and name not in known}
        for kind, names in found.items()
    }
    assert {kind: names for kind, names in foreign.items() if names} == {}
    assert {"http.request.method", "http.response.status_code", "user.id", "session.id", "url.path"} <= found[
        "exchange"
    ]
    for protocol in ("postgres", "mysql"):
        names = found[f"{protocol} statement"]
        assert {"db.system.name", "db.query.text", "db.response.status_code"} <= names


@pytest.mark.parametrize(
    "module", [extproc.ledger.spans, extproc.ledger.statement_spans], ids=["spans", "statements"]
)
def test_no_name_in_the_source_is_outside_of_both(module):
    known = registry()
    tree = ast.parse(Path(module.__file__).read_text())
    names = {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and KEY.match(node.value)
    }
    kinds = {
        name for name in names if name.startswith(("hold.", "grant.", "policy.", "admin."))
    }  # of records
    assert {name for name in names - kinds if not name.startswith("extproc.") and name not in known} == set()
