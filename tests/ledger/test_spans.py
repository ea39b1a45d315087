from typing import Any

import pytest

from extproc.domain.record import Record
from extproc.ledger.join import OPEN_LIMIT, OUTCOME_GRACE, PARENT_GRACE, Joiner
from extproc.ledger.lines import Chain, Line, parse_line
from extproc.ledger.spans import SpanView, checkpoint_span
from tests.ledger.test_checkpoint import FULL
from tests.support.books import START, intent, outcome

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"


class Book:
    """Lines of one writer, and a joiner that takes them."""

    def __init__(self) -> None:
        self.chain = Chain("worker0-a-1")
        self.joiner: Joiner[int] = Joiner()
        self.lines: list[Line] = []

    def add(self, record: Record) -> list[SpanView]:
        line = parse_line(self.chain.encode(record.kind, record.at, record.fields))
        self.lines.append(line)
        return list(self.joiner.take(line, line.seq))


def exchange(said: dict[str, Any], became: dict[str, Any]) -> SpanView:
    book = Book()
    assert book.add(intent(0, **said)) == []
    (view,) = book.add(outcome(0, **became))
    return view


def test_an_exchange_becomes_one_server_span_under_its_caller():
    book = Book()
    book.add(intent(0, trace={"trace_id": TRACE, "parent_span_id": PARENT}))
    (view,) = book.add(outcome(0, duration_us=2_000_000))
    assert (view.name, view.kind) == ("GET customers-api", "server")
    assert (view.context.trace_id, view.context.span_id, view.parent_id) == (TRACE, f"{1:016x}", PARENT)
    assert view.end_us == (START + 0.25) * 1_000_000
    assert view.start_us == view.end_us - 2_000_000
    assert view.error is None
    assert view.attributes["extproc.record.hash"] == book.lines[0].hash
    assert view.attributes["extproc.outcome.hash"] == book.lines[1].hash


def test_attributes_say_who_asked_what_and_what_became_of_it():
    request = {
        "method": "POST",
        "host": "api.example:8443",
        "scheme": "https",
        "path": "/customers/7?card=[CREDIT_CARD]",
        "source": "10.1.2.3:41234",
        "route": "customers",
        "size": 12,
    }
    rules = [
        {"rule": "watch", "digest": "00", "effect": "allow", "shadow": True},
        {"rule": "readers", "digest": "00", "effect": "allow"},
    ]
    response = {"code": 200, "inspected": "full", "size": 44, "masked": {"IBAN_CODE": 1, "EMAIL_ADDRESS": 2}}
    view = exchange(
        {"request": request, "rules": rules, "masks": ["pii"], "risk": 60}, {"response": response}
    )
    seen = dict(view.attributes)
    assert len(seen.pop("extproc.record.hash")) == len(seen.pop("extproc.outcome.hash")) == 64
    assert seen == {
        "http.request.method": "POST",
        "url.path": "/customers/7",
        "url.query": "card=[CREDIT_CARD]",
        "url.scheme": "https",
        "server.address": "api.example",
        "server.port": 8443,
        "client.address": "10.1.2.3",
        "client.port": 41234,
        "extproc.route": "customers",
        "http.request.body.size": 12,
        "extproc.target": "customers-api",
        "extproc.protocol": "http",
        "extproc.decision.id": "d0",
        "session.id": "s0",
        "extproc.verdict": "allow",
        "extproc.code": "allowed",
        "extproc.policy.digest": "cd" * 32,
        "extproc.risk": 60,
        "extproc.rules": ["watch", "readers"],
        "security_rule.name": "readers",
        "user.id": "agent-0",
        "extproc.principal.issuer": "https://issuer.example",
        "extproc.principal.kind": "agent",
        "extproc.masks": ["pii"],
        "http.response.status_code": 200,
        "extproc.executed": "yes",
        "extproc.end": "complete",
        "extproc.response.inspected": "full",
        "http.response.body.size": 44,
        "extproc.masked.total": 3,
        "extproc.masked.entities": ["EMAIL_ADDRESS=2", "IBAN_CODE=1"],
    }


@pytest.mark.parametrize(
    ("said", "became", "error"),
    [
        ({}, {"response": {"code": 404}}, None),
        ({"verdict": "deny", "code": "denied"}, {"response": {"code": 403}, "end": "refused"}, None),
        ({}, {"response": {"code": 502}}, "502"),
        ({"verdict": "error", "code": "keys-unavailable"}, {"response": {"code": 503}}, "keys-unavailable"),
        ({}, {"response": {"code": 0}, "end": "aborted", "executed": None}, "aborted"),
    ],
)
def test_a_denial_is_an_answer_and_a_failure_is_an_error(said, became, error):
    view = exchange(said, became)
    assert view.error == error
    assert view.attributes.get("error.type") == error


@pytest.mark.parametrize(
    ("said", "became", "plain"),
    [
        ({}, {}, True),
        ({"verdict": "deny"}, {"response": {"code": 403}}, False),
        ({"verdict": "hold", "hold": {"id": "h1", "state": "pending"}}, {}, False),
        ({"hold": {"id": "h1", "state": "released"}}, {}, False),
        ({"degraded": ["insecure"]}, {}, False),
        ({}, {"response": {"code": 404}}, False),
        ({}, {"response": {"code": 500}}, False),
        ({}, {"end": "aborted"}, False),
    ],
)
def test_only_uneventful_allows_may_be_sampled_out(said, became, plain):
    assert exchange(said, became).plain is plain


def test_a_method_that_a_client_made_up_is_no_name_for_a_span():
    view = exchange({"request": {"method": "EVIL-1234"}}, {})
    assert view.name == "HTTP customers-api"
    assert view.attributes["http.request.method"] == "_OTHER"
    assert view.attributes["http.request.method_original"] == "EVIL-1234"


@pytest.mark.parametrize("bad", ["", "0" * 32, "xyz", "A" * 32, 7, None])
def test_an_unusable_trace_id_is_replaced_by_the_records_own(bad):
    book = Book()
    book.add(intent(0, trace={"trace_id": bad, "parent_span_id": "nonsense"}, span_id=bad))
    (view,) = book.add(outcome(0))
    assert view.context.trace_id == book.lines[0].hash[:32]
    assert view.context.span_id == book.lines[0].hash[32:48]
    assert view.parent_id == ""


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [
        ("api.example", "api.example", None),
        ("10.0.0.1:80", "10.0.0.1", 80),
        ("[::1]:80", "::1", 80),
        ("::1", "::1", None),
        ("fe80::2:80", "fe80::2:80", None),
        ("host:port", "host:port", None),
    ],
)
def test_addresses_are_taken_apart(address, host, port):
    view = exchange({"request": {"method": "GET", "source": address}}, {})
    assert (view.attributes["client.address"], view.attributes.get("client.port")) == (host, port)


def test_an_intent_without_outcome_is_an_error_once_its_writer_is_gone():
    book = Book()
    book.add(intent(0))
    at = book.lines[0].at_us
    assert list(book.joiner.give_up(at + OUTCOME_GRACE - 1, lambda _: True)) == []
    assert list(book.joiner.give_up(at + OUTCOME_GRACE, lambda _: False)) == []
    (view,) = book.joiner.give_up(at + OUTCOME_GRACE, lambda _: True)
    assert (view.error, view.attributes["error.type"], view.plain) == (
        "outcome unknown",
        "outcome_unknown",
        False,
    )
    assert list(book.joiner.open_places()) == []
    assert list(book.joiner.give_up(at + OPEN_LIMIT, lambda _: True)) == []


def test_an_exchange_that_stays_open_too_long_is_shown_as_unknown():
    book = Book()
    book.add(intent(0))
    (view,) = book.joiner.give_up(book.lines[0].at_us + OPEN_LIMIT, lambda _: False)
    assert view.error == "outcome unknown"
    (late,) = book.add(outcome(0))
    assert late.context == view.context  # the same span again, now with its end


def hold_record(kind: str, at: float, **fields) -> Record:
    return Record(kind, START + at, {"hold": "h1", "move": f"h1.{at:g}", **fields})


OPENED = {
    "decision_id": "d0",
    "trace_id": f"{1:032x}",
    "requester": {"subject": "agent-0"},
    "rules": ["risky"],
}


def test_a_hold_is_a_span_from_opening_to_decision_under_its_request():
    book = Book()
    assert book.add(hold_record("hold.opened", 0, **OPENED)) == []
    assert (
        book.add(hold_record("hold.vote", 5, approver={"subject": "alice"}, vote="approve", reason="ok"))
        == []
    )
    assert book.add(hold_record("hold.approved", 5, **{"from": "pending", "to": "approved"})) == []
    (released,) = book.add(hold_record("hold.released", 6, decision_id="d0"))
    (hold,) = book.add(intent(0, hold={"id": "h1", "state": "released"}))
    (request,) = book.add(outcome(0))
    assert (hold.name, hold.start_us, hold.end_us) == ("hold", START * 1_000_000, (START + 5) * 1_000_000)
    assert hold.context.trace_id == request.context.trace_id
    assert hold.parent_id == request.context.span_id
    assert hold.attributes["extproc.hold.state"] == "approved"
    assert hold.attributes["extproc.hold.approvers"] == ["alice"]
    assert (released.context.trace_id, released.parent_id) == (hold.context.trace_id, hold.context.span_id)
    assert request.links == (hold.context,)
    assert list(book.joiner.open_places()) == []


def test_an_emergency_marks_the_hold_and_the_request_that_went():
    book = Book()
    book.add(hold_record("hold.opened", 0, **OPENED))
    assert book.add(hold_record("hold.break_glass", 5, by={"subject": "olga"}, reason="down")) == []
    book.add(hold_record("hold.approved", 5, **{"from": "pending", "to": "approved", "break_glass": True}))
    (hold,) = book.add(intent(0, hold={"id": "h1", "state": "released", "break_glass": {"reason": "down"}}))
    (request,) = book.add(outcome(0))
    for span in (hold, request):
        assert span.attributes["extproc.hold.break_glass"] is True
    assert request.attributes["extproc.hold.reason"] == "down"
    (late,) = book.add(hold_record("hold.review_overdue", 9))
    assert (late.name, late.parent_id) == ("hold.review_overdue", hold.context.span_id)


def test_a_retry_after_approval_is_linked_to_the_hold_of_another_trace():
    book = Book()
    book.add(hold_record("hold.opened", 0, **OPENED))
    book.add(intent(0, verdict="hold", hold={"id": "h1", "state": "pending"}))
    book.add(outcome(0, end="refused"))
    (hold,) = book.add(hold_record("hold.approved", 60))
    book.add(intent(9, hold={"id": "h1", "state": "released"}))
    (retry,) = book.add(outcome(9))
    assert retry.context.trace_id != hold.context.trace_id
    assert retry.links == (hold.context,)


def test_a_request_that_went_by_a_grant_names_it_and_is_linked_to_its_hold():
    book = Book()
    book.add(hold_record("hold.opened", 0, **OPENED))
    book.add(intent(0, verdict="hold", hold={"id": "h1", "state": "pending"}))
    book.add(outcome(1, executed=False, end="refused"))
    (hold,) = book.add(hold_record("hold.approved", 60))
    book.add(intent(9, hold={"id": "h1", "state": "released", "grant": {"id": "g1", "use": 2, "uses": 5}}))
    (used,) = book.add(outcome(9))
    assert used.links == (hold.context,)
    assert used.attributes["extproc.grant.id"] == "g1"
    (move,) = book.add(Record("grant.used", START + 61, {"grant": "g1", "hold": "h1", "move": "g1.2"}))
    assert move.name == "grant.used"


def test_a_decided_hold_does_not_wait_for_its_request_for_ever():
    book = Book()
    book.add(hold_record("hold.opened", 0, **OPENED))
    book.add(hold_record("hold.expired", 5))
    assert len(list(book.joiner.open_places())) == 2
    assert list(book.joiner.give_up(book.lines[1].at_us + PARENT_GRACE - 1, lambda _: True)) == []
    (hold,) = book.joiner.give_up(book.lines[1].at_us + PARENT_GRACE, lambda _: True)
    assert (hold.parent_id, hold.attributes["extproc.hold.state"]) == ("", "expired")
    assert list(book.joiner.open_places()) == []


def test_a_move_of_an_unknown_hold_stands_alone():
    (view,) = Book().add(hold_record("hold.released", 6, decision_id="d0"))
    assert (view.name, view.parent_id, view.attributes["extproc.hold"]) == ("hold.released", "", "h1")


def test_other_records_are_short_spans_with_their_fields():
    fields = {
        "policy": "ab",
        "by": {"subject": "ops", "groups": ["a", "b"]},
        "count": 3,
        "none": None,
        "mixed": [1],
    }
    (view,) = Book().add(Record("policy.activated", START, fields))
    assert (view.name, view.kind, view.start_us, view.error) == (
        "policy.activated",
        "internal",
        view.end_us,
        None,
    )
    assert view.attributes["extproc.policy"] == "ab"
    assert view.attributes["extproc.by.groups"] == ["a", "b"]
    assert view.attributes["user.id"] == "ops"
    assert "extproc.mixed" not in view.attributes
    assert not view.plain


@pytest.mark.parametrize("kind", ["gap", "policy.refused", "admin.child_died", "admin.roll_failed"])
def test_trouble_is_an_error(kind):
    (view,) = Book().add(Record(kind, START, {}))
    assert view.error == kind


def test_a_record_with_very_many_fields_becomes_a_span_of_bounded_size():
    (view,) = Book().add(Record("admin.x", START, {f"f{n}": n for n in range(500)}))
    assert len(view.attributes) < 60


def test_a_checkpoint_is_a_span_that_can_witness():
    view = checkpoint_span(FULL, "ab" * 32)
    assert view.attributes["extproc.checkpoint.hash"] == "ab" * 32
    assert view.attributes["extproc.checkpoint.heads"][0] == f"worker0-a 3 {'ab' * 32} {'cd' * 32}"
    assert view.attributes["extproc.checkpoint.count.intent"] == 2
    assert view.error == "ledger_refused"  # it carries an alarm


def test_fields_of_the_wrong_type_make_a_poorer_span_and_no_failure():
    nonsense = {"request": 7, "principal": [], "rules": [None, 3], "trace": "x", "hold": 5, "risk": "high"}
    view = exchange(nonsense, {"response": "no", "duration_us": "long"})
    assert view.kind == "server"
