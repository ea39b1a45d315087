"""One database session by plain calls: login, decisions, holds, what is written down, what is masked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from extproc.domain.grant import Grant, GrantState
from extproc.domain.hold import HeldRequest, HoldState
from extproc.domain.mask import MaskSpec
from extproc.domain.principal import Principal
from extproc.domain.request import Source
from extproc.domain.statement import Statement
from extproc.domain.steps import NeedKeys, Wait
from extproc.domain.terms import GrantTerms
from extproc.masking import ENTITIES, compile_masker
from extproc.masking.rows import compile_rows
from extproc.pipeline import DatabasePlan, DatabaseRole, Governance, HoldSettled, TargetPlan
from extproc.pipeline.catalogue import CONTENT, SIGNATURE
from extproc.pipeline.database_session import DatabaseSession
from extproc.pipeline.database_steps import AcceptLogin, Asked, Ended, Inquire, Login, RefuseLogin, Run, Stop
from extproc.pipeline.parameters import read_parameter
from extproc.pipeline.row_masking import masked_message
from extproc.pipeline.statements import GovernedStatement
from extproc.policy import PolicySource, TargetInfo, load_policies
from extproc.sql import analyze
from tests.support.governed import NOW, SECRETS, Believes, Ids

POLICY = """
default: deny
rules:
  - name: read
    when: sql.effects.all(e, e == "read")
    then: {allow: {}}
  - name: no-delete
    when: sql.verb == "DELETE"
    then: {deny: {message: "Nothing is deleted here."}}
  - name: not-number-13
    when: '"13" in sql.parameters'
    then: {deny: {message: "Not 13."}}
  - name: pay
    when: '"payments" in sql.tables_written'
    then:
      risk: 60
      hold: {approvers: {all_of: [{group: finance, count: 1}]}, wait: 5m, expires: 1h, use_within: 10m}
"""
MASKED = """
default: deny
rules:
  - name: read
    when: sql.effects.all(e, e == "read")
    then: {allow: {}, mask: pii}
masks:
  pii: {columns: [users.email], operator: replace}
"""


def governance(policy: str = POLICY, *, believes: Believes | None = None, **plan: Any) -> Governance:
    text = f"apiVersion: extproc/v1\nkind: Policy\nmetadata: {{name: t}}\ntarget: db\n{policy}"
    policies = load_policies([PolicySource("t.yaml", text)], {"db": TargetInfo("postgres", {})})

    def masker_for(names: tuple[str, ...]):
        return compile_masker([policies.masks[name] for name in names], SECRETS)

    roles = {"app": DatabaseRole("app_owner", "pw"), "boss": DatabaseRole("root", "pw", frozenset({"dba"}))}
    database = DatabasePlan(
        roles=roles,
        row_masks=lambda names: compile_rows(
            [policies.masks[name] for name in names], SECRETS, masker_for(names)
        ),
    )
    target = TargetPlan(
        name="db",
        kind="postgres",
        labels={},
        rules=policies.for_target("db"),
        record_masker=compile_masker([MaskSpec("r", entities=tuple(ENTITIES), operator="replace")], SECRETS),
        masker_for=masker_for,
        database=replace(database, **plan),
    )
    return Governance(
        targets={"db": target},
        identifier=believes or Believes(),
        policy_digest=policies.digest,
        binding_key=b"b" * 32,
        record_key=b"r" * 32,
    )


class World:
    """A session under a governance that can be exchanged."""

    def __init__(self, gov: Governance | None = None, target: str = "db") -> None:
        self.gov = gov or governance()
        self.session = DatabaseSession(lambda: self.gov, Ids(), target, Source("10.0.0.1:5"), NOW)

    def login(self, token: str = "alice", user: str = "app") -> AcceptLogin | RefuseLogin | NeedKeys:
        return self.session.login(Login(user, "shop", "psql", token), NOW)

    def ask(
        self, text: str, *parameters: str, transaction: str = "I", bound: bool = True, name: str = "",
        settings: Mapping[str, str] | None = None,
    ) -> GovernedStatement:  # fmt: skip
        values = tuple(read_parameter(25, 0, value.encode(), "utf-8") for value in parameters)
        statement = Statement(text, analyze(text, "postgres"), values, "bound" if parameters else "simple")
        return self.session.statement(
            Asked(statement, transaction, bound, name, settings or {}, ("search_path",)), NOW
        )

    def decide(self, text: str, *parameters: str, **more: Any) -> Run | Stop | Wait | Inquire:
        return self.ask(text, *parameters, **more).decide(NOW)


@pytest.fixture
def world() -> World:
    made = World()
    assert isinstance(made.login(), AcceptLogin)
    return made


def held_of(wait: Wait, state: HoldState = HoldState.APPROVED) -> HeldRequest:
    return HeldRequest("hold_1", wait.ask, state, 2, NOW, NOW + 60, use_before=NOW + 60)


# ---------------------------------------------------------------------- login


def test_a_known_token_and_user_become_the_role_behind_it() -> None:
    step = World().login()
    assert isinstance(step, AcceptLogin)
    assert step.role.user == "app_owner"
    (record,) = step.records
    assert record.fields["verdict"] == "allow"
    assert record.fields["operation"] == "login"
    assert record.fields["connection"]["user"] == "app"
    assert "pw" not in repr(step)


@pytest.mark.parametrize(
    ("token", "user", "code"),
    [
        ("mallory", "app", "token-missing"),
        ("alice", "nobody", "role-unknown"),
        ("alice", "boss", "role-not-yours"),
    ],
)
def test_who_may_not_log_in_is_refused_and_recorded(token: str, user: str, code: str) -> None:
    step = World().login(token, user)
    assert isinstance(step, RefuseLogin)
    assert step.sqlstate.startswith("28")
    assert [record.kind for record in step.records] == ["intent", "outcome"]
    assert step.records[0].fields["code"] == code
    assert step.records[1].fields["executed"] is False


def test_a_listener_without_a_database_target_lets_nobody_in() -> None:
    step = World(target="elsewhere").login()
    assert isinstance(step, RefuseLogin)
    assert step.records[0].fields["code"] == "no-target"


def test_keys_are_asked_for_once_and_their_absence_refuses() -> None:
    believes = Believes()
    believes.keys_missing = True
    world = World(governance(believes=believes))
    assert isinstance(world.login(), NeedKeys)
    step = world.session.keys_ready(NOW)
    assert isinstance(step, RefuseLogin)
    assert step.records[0].fields["verdict"] == "error"


# ---------------------------------------------------------------------- decide


def test_an_allowed_statement_is_written_down_before_it_runs(world: World) -> None:
    statement = world.ask("SELECT name FROM users WHERE id = $1", "7")
    step = statement.decide(NOW)
    assert isinstance(step, Run)
    (intent,) = step.records
    assert intent.fields["verdict"] == "allow"
    assert intent.fields["statement"]["tables_read"] == ["users"]
    assert intent.fields["statement"]["parameters"][0]["text"] == "7"
    assert intent.fields["trace"]["parent_span_id"] == world.session.scribe.span_id
    (outcome,) = statement.ended(Ended("complete", True, rows=1, tags=("SELECT 1",)), NOW + 0.5)
    assert outcome.fields["decision_id"] == intent.fields["decision_id"]
    assert outcome.fields["duration_us"] == 500_000


def test_a_denial_names_rule_and_decision(world: World) -> None:
    step = world.decide("DELETE FROM users")
    assert isinstance(step, Stop)
    assert step.sqlstate == "42501"
    assert step.message == "Nothing is deleted here."
    assert 'rule "t/no-delete"' in step.detail and "decision dec_" in step.detail
    assert step.hint
    assert step.records[0].fields["verdict"] == "deny"


@pytest.mark.parametrize("text", ["SELECT 1; DELETE FROM users", "DELETE FROM users; SELECT 1"])
def test_one_denied_statement_denies_the_whole_text(world: World, text: str) -> None:
    assert isinstance(world.decide(text), Stop)


def test_at_parse_only_what_the_text_alone_decides_is_denied(world: World) -> None:
    assert isinstance(world.decide("DELETE FROM users", bound=False), Stop)
    early = world.decide("SELECT name FROM users WHERE id = $1", bound=False)
    assert isinstance(early, Run) and not early.records
    assert isinstance(world.decide("SELECT name FROM users WHERE id = $1", "12"), Run)
    assert isinstance(world.decide("SELECT name FROM users WHERE id = $1", "13"), Stop)


def test_what_is_not_understood_is_denied_unless_the_target_leaves_it_to_rules(world: World) -> None:
    step = world.decide("EXECUTE unknown_name")
    assert isinstance(step, Stop)
    assert "sql-not-understood" in step.detail
    assert isinstance(world.decide("SELECT 'a\\' FROM t; --", settings={}), Run | Stop)
    lenient = World(governance(unparsed="judge"))
    lenient.login()
    judged = lenient.decide("EXECUTE unknown_name")
    assert isinstance(judged, Stop) and "no-rule-matched" in judged.detail


def test_execute_is_judged_as_every_text_its_name_may_stand_for(world: World) -> None:
    assert isinstance(world.decide("PREPARE a AS SELECT 1"), Run)
    assert isinstance(world.decide("EXECUTE a"), Run)
    assert isinstance(world.decide("INSERT INTO payments VALUES ($1)", bound=False, name="a"), Run)
    assert isinstance(world.decide("EXECUTE a"), Wait)


def test_a_connection_that_named_too_much_runs_nothing_by_name_any_more(world: World) -> None:
    for number in range(10):
        assert isinstance(world.decide(f"SELECT '{'x' * 1_000_000}'", bound=False, name=f"n{number}"), Run)
    assert isinstance(world.decide("EXECUTE n1"), Stop)
    assert isinstance(world.decide("PREPARE a AS SELECT 1"), Run)
    assert isinstance(world.decide("EXECUTE a"), Stop)
    assert isinstance(world.decide("SELECT 1"), Run)


def test_an_expired_token_stops_every_further_statement_and_the_session() -> None:
    soon = Principal("https://issuer", "bob", "agent", "bob", expires_at=NOW + 10)
    world = World(governance(believes=Believes(bob=soon)))
    world.login("bob")
    assert isinstance(world.ask("SELECT 1").decide(NOW + 9), Run)
    step = world.ask("SELECT 1").decide(NOW + 10)
    assert isinstance(step, Stop)
    assert step.sqlstate == "28000" and step.ends_session


SOON = Principal("https://issuer", "bob", "agent", "bob", provider="corp", expires_at=NOW + 10)


@pytest.mark.parametrize(
    ("plan", "end", "code"),
    [
        ({}, 15, "token-expired"),
        ({"max_age": 12.0}, 12, "session-too-old"),
        ({"max_age": 99.0}, 15, "token-expired"),
        ({"on_expiry": "max_age", "max_age": 99.0}, 99, "session-too-old"),
    ],
)
def test_a_session_ends_with_its_token_and_the_skew_or_at_its_largest_age(
    plan: dict[str, Any], end: int, code: str
) -> None:
    world = World(
        replace(governance(believes=Believes(bob=SOON), **plan), skews={"corp": 5.0, "other": 300.0})
    )
    world.login("bob")
    assert isinstance(world.ask("SELECT 1").decide(NOW + end - 1), Run)
    statement = world.ask("SELECT 1")
    step = statement.decide(NOW + end)
    assert isinstance(step, Stop)
    assert step.sqlstate == "28000" and step.ends_session and code in step.detail
    assert step.hint.startswith("Connect again")


def test_a_caller_without_an_end_has_one_only_by_age() -> None:
    endless = Principal("x509", "spiffe://a/b", "service", "b")
    for age, over in ((0.0, ""), (60.0, "session-too-old")):
        world = World(governance(believes=Believes(bob=endless), max_age=age))
        world.login("bob")
        assert world.session.over(NOW + 1e9) == over


def test_a_wait_lasts_no_longer_than_the_session() -> None:
    world = World(governance(believes=Believes(bob=SOON)))
    world.login("bob")
    statement = world.ask("INSERT INTO payments VALUES (1)")
    wait = statement.decide(NOW)
    assert isinstance(wait, Wait) and wait.wait == 10
    assert statement.recheck(held_of(wait), NOW + 10) == "token-expired"
    step = statement.hold_settled(HoldSettled("waiting"), NOW + 10)
    assert isinstance(step, Stop)
    assert step.sqlstate == "28000" and step.ends_session
    (record,) = step.records
    assert (record.fields["verdict"], record.fields["code"]) == ("hold", "token-expired")


def test_a_target_that_went_away_stops_its_sessions(world: World) -> None:
    world.gov = replace(world.gov, targets={})
    step = world.decide("SELECT 1")
    assert isinstance(step, Stop) and step.ends_session


# ---------------------------------------------------------------------- hold


def test_a_held_statement_waits_and_runs_when_released(world: World) -> None:
    statement = world.ask("INSERT INTO payments VALUES ($1)", "5")
    wait = statement.decide(NOW)
    assert isinstance(wait, Wait)
    assert wait.wait == 300
    assert wait.ask.view["facts"]["tables_written"] == ["payments"]
    assert wait.ask.view["raw"]["parameters"] == ["5"]
    assert wait.ask.view["truncated"] is False
    held = held_of(wait)
    assert statement.recheck(held, NOW) == ""
    step = statement.hold_settled(HoldSettled("released", held), NOW + 3)
    assert isinstance(step, Run)
    assert step.records[0].fields["code"] == "released"
    assert step.records[0].fields["hold"]["id"] == "hold_1"


def test_a_rule_that_allows_a_shape_offers_one_and_its_use_is_written_down() -> None:
    wide = POLICY.replace(
        "use_within: 10m", "use_within: 10m, grant: {max: {for: 30m, uses: 5, scope: shape}}"
    )
    world = World(governance(wide))
    world.login()
    statement = world.ask("INSERT INTO payments VALUES ($1)", "5")
    wait = statement.decide(NOW)
    assert isinstance(wait, Wait)
    assert wait.ask.shape is not None and list(wait.ask.shape.values) == ["$1"]
    held = held_of(wait)
    grant = Grant("g_1", held, "key", GrantTerms(60, 5, "shape"), GrantState.LIVE, 2, NOW, NOW + 60, used=3)
    step = statement.hold_settled(HoldSettled("released", held, grant), NOW + 3)
    assert isinstance(step, Run)
    assert step.records[0].fields["code"] == "granted"
    assert step.records[0].fields["hold"]["grant"] == {"id": "g_1", "use": 3, "uses": 5, "scope": "shape"}


def test_without_a_wider_scope_no_shape_is_made(world: World) -> None:
    wait = world.decide("INSERT INTO payments VALUES ($1)", "5")
    assert isinstance(wait, Wait)
    assert wait.ask.shape is None


def test_a_wait_inside_a_transaction_is_shorter(world: World) -> None:
    step = world.decide("INSERT INTO payments VALUES (1)", transaction="T")
    assert isinstance(step, Wait)
    assert step.wait == 30


@pytest.mark.parametrize(
    ("outcome", "sqlstate"),
    [("waiting", "57014"), ("rejected", "42501"), ("closed", "57014"), ("void", "42501"), ("too_many", "53400"),
     ("unavailable", "58000"), ("token_expired", "28000")],
)  # fmt: skip
def test_every_other_end_of_a_wait_is_an_error(world: World, outcome: Any, sqlstate: str) -> None:
    statement = world.ask("INSERT INTO payments VALUES (1)")
    assert isinstance(statement.decide(NOW), Wait)
    step = statement.hold_settled(HoldSettled(outcome), NOW)
    assert isinstance(step, Stop)
    assert step.sqlstate == sqlstate
    (outcome_record,) = statement.ended(Ended("denied", False), NOW)
    assert outcome_record.fields["executed"] is False


def test_an_approval_is_bound_to_caller_text_parameters_and_settings(world: World) -> None:
    def binding(*args: Any, text: str = "INSERT INTO payments VALUES ($1)", **more: Any) -> str:
        wait = world.decide(text, *args, **more)
        assert isinstance(wait, Wait)
        return wait.ask.binding

    same = binding("5")
    assert binding("5") == same
    assert binding("6") != same
    assert binding("5", transaction="T") != same
    assert binding("5", settings={"search_path": "evil"}) != same
    assert binding("5", text="INSERT INTO payments  VALUES ($1)") != same


def test_an_approval_of_execute_is_bound_to_what_it_runs(world: World) -> None:
    bindings = []
    for number in (1, 2):
        other = World(world.gov)
        other.login()
        other.decide(f"INSERT INTO payments VALUES ({number})", bound=False, name="p")
        wait = other.decide("EXECUTE p")
        assert isinstance(wait, Wait)
        assert f"VALUES ({number})" in wait.ask.view["raw"]["underlying"][0]
        bindings.append(wait.ask.binding)
    assert bindings[0] != bindings[1]


def test_an_approval_dies_with_the_rule_that_asked_for_it(world: World) -> None:
    statement = world.ask("INSERT INTO payments VALUES (1)")
    wait = statement.decide(NOW)
    assert isinstance(wait, Wait)
    world.gov = governance(
        "default: deny\nrules: [{name: none, when: principal.subject == 'zoe', then: {allow: {}}}]"
    )
    assert statement.recheck(held_of(wait), NOW) == "denied-now"


def test_a_statement_that_was_abandoned_has_both_records(world: World) -> None:
    statement = world.ask("INSERT INTO payments VALUES (1)")
    assert isinstance(statement.decide(NOW), Wait)
    intent, outcome = statement.ended(Ended("abandoned", False), NOW + 1)
    assert (intent.fields["verdict"], outcome.fields["end"]) == ("hold", "aborted")
    assert outcome.fields["executed"] is False


# ---------------------------------------------------------------------- record


def test_what_is_kept_is_masked_and_passwords_are_not_kept(world: World) -> None:
    step = world.decide(
        "SELECT name FROM users WHERE mail = 'ada@example.com' AND x = $1", "grace@example.com"
    )
    assert isinstance(step, Run)
    assert "ada@" not in str(step.records[0]) and "grace@" not in str(step.records[0])
    step = world.decide("ALTER USER bob PASSWORD 'geheim-123'")
    assert isinstance(step, Stop)
    assert "geheim" not in str(step.records[0])


def test_the_end_of_a_session_sums_up(world: World) -> None:
    statement = world.ask("SELECT 1")
    statement.decide(NOW)
    statement.ended(Ended("complete", True, rows=3, bytes_returned=40), NOW)
    world.decide("DELETE FROM users")
    (record,) = world.session.closed(NOW + 2, "complete", "by-client")
    counts = record.fields["response"]
    assert (counts["statements"], counts["denied"], counts["rows"], counts["bytes"]) == (2, 1, 3, 40)
    assert world.session.closed(NOW + 2, "complete", "again") == ()


# ---------------------------------------------------------------------- masks


USERS, ADDRESSES = 20000, 20001
RULE = (
    "({QUERY :setOperations <> :cteList <> :rtable ({RANGETBLENTRY :rtekind 0 :relid 20000})"
    " :targetList ({TARGETENTRY :expr {VAR :varno 1 :varattno 2 :varlevelsup 0}"
    " :resno 1 :resname a :resorigtbl 20000 :resorigcol 2 :resjunk false})})"
)
CONTENT_ROWS = [
    (b"s", b"signature one", None, None, None, None),
    (b"c", b"20000", b"public", b"users", b"r", None),
    (b"a", b"20000", b"1", b"id", b"", None),
    (b"a", b"20000", b"2", b"email", b"", None),
    (b"c", b"20001", b"public", b"addresses", b"v", None),
    (b"a", b"20001", b"1", b"a", b"", None),
]


def settle(statement: GovernedStatement, rows: Any = CONTENT_ROWS, at: float = NOW) -> Run | Stop | Wait:
    """Decide, answering what is asked of the server."""
    step = statement.decide(at)
    while isinstance(step, Inquire):
        if not step.runs:
            step = statement.answered(
                [Result("id", USERS, 1, 23), Result("email", USERS, 2)], (), "utf-8", at
            )
        elif step.text == SIGNATURE:
            step = statement.answered((), rows[:1] and [rows[0][1:2]], "utf-8", at)
        else:
            told = rows if step.text == CONTENT else [(b"v", b"20001", RULE.encode(), None, None, None)]
            step = statement.answered((), told, "utf-8", at)
    return step


def catalogued() -> World:
    world = World(governance(MASKED))
    world.login()
    assert isinstance(settle(world.ask("SELECT id FROM users")), Run)
    return world


def test_the_catalogue_is_asked_for_before_anything_that_must_be_masked_runs() -> None:
    world = World(governance(MASKED))
    world.login()
    step = world.decide("SELECT id FROM users")
    assert step == Inquire(CONTENT)
    step = world.ask("SELECT id FROM users").decide(NOW)
    assert step == Inquire(CONTENT)


def test_a_catalogue_that_cannot_be_read_stops_the_statement() -> None:
    world = World(governance(MASKED))
    world.login()
    statement = world.ask("SELECT id FROM users")
    assert isinstance(statement.decide(NOW), Inquire)
    step = statement.answered((), [(b"?", None, None, None, None, None)], "utf-8", NOW)
    assert isinstance(step, Stop) and "rows-not-maskable" in step.detail


def test_a_connection_older_than_the_masks_must_connect_again() -> None:
    world = catalogued()
    world.session.reads_messages = False
    step = world.decide("SELECT id FROM users")
    assert isinstance(step, Stop) and "connect again" in step.message


@pytest.mark.parametrize(
    "text",
    ["SELECT lower(email) FROM users", "SELECT u FROM users u", "SELECT lower(a) FROM addresses",
     "COPY (SELECT lower(email) FROM users) TO STDOUT", "SELECT * FROM (SELECT * FROM addresses) x",
     "SELECT id FROM users WHERE email = 'x'", "SELECT email FROM users UNION SELECT ''"],
)  # fmt: skip
def test_a_masked_column_may_only_stand_by_itself(text: str) -> None:
    assert isinstance(settle(catalogued().ask(text)), Stop)


class Result:
    """A result column as the server describes it."""

    def __init__(
        self, name: str, table_oid: int, attribute: int, type_oid: int = 25, format: int = 0
    ) -> None:
        self.name, self.table_oid, self.attribute = name, table_oid, attribute
        self.type_oid, self.format = type_oid, format


def test_rows_are_masked_by_where_they_come_from() -> None:
    world = catalogued()
    statement = world.ask("SELECT id, email AS id2 FROM users")
    assert isinstance(statement.decide(NOW), Run)
    mask = statement.rows([Result("id", 20000, 1, 23), Result("id2", 20000, 2)], "utf-8")
    assert mask is not None
    assert mask.row((b"1", b"ada@example.com")) == [b"1", b"[users.email]"]
    assert mask.row((b"1", None)) is None
    assert mask.counts == {"users.email": 1}


def test_a_column_of_an_unknown_table_is_hidden() -> None:
    statement = catalogued().ask("SELECT a FROM made_since")
    assert isinstance(settle(statement), Run)
    mask = statement.rows([Result("a", 30000, 1), Result("b", 30000, 2, 23)], "utf-8")
    assert mask is not None
    assert mask.row((b"secret", b"7")) == [b"", None]


def test_a_named_masked_column_that_no_result_column_is_hides_what_is_computed() -> None:
    statement = catalogued().ask("SELECT email FROM users")
    assert isinstance(statement.decide(NOW), Run)
    mask = statement.rows([Result("email", 0, 0)], "utf-8")
    assert mask is not None
    assert mask.row((b"ada@example.com",)) == [b""]


@pytest.mark.parametrize("state", ["22001", "45000", "HY000"])
def test_a_message_that_may_hold_a_masked_value_is_withheld(state: str) -> None:
    masks = compile_rows([MaskSpec("m", columns=("users.email",))], SECRETS, compile_masker([], SECRETS))
    assert "withheld" in masked_message(masks, {"C": state, "M": "it is x"})["M"]
    # of a statement whose every column is hidden, no message is shown
    assert masked_message(masks, {"C": "42000", "M": "it is x"})["M"] == "it is x"
    assert "withheld" in masked_message(masks, {"C": "42000", "M": "it is x"}, hides_all=True)["M"]
