"""What a rolling reload may change is one table; everything else is refused, with a reason."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from extproc.config import Settings, parse_config
from extproc.config.rolling import RESTARTS, ROLLS, changed, check_roll
from extproc.domain.errors import ConfigError

HEAD = "apiVersion: extproc/v1\nkind: Config\n"
LISTEN = "processor: {listen: 'unix:p.sock'}\n"


def of(text: str) -> Settings:
    return parse_config(HEAD + text, base=Path("/srv/extproc"))


def test_every_setting_is_in_the_table() -> None:
    branches = {field.encode_name for field in msgspec.structs.fields(Settings)}
    named = {place.partition(".")[0] for place in ROLLS}
    assert named | set(RESTARTS) == branches
    assert not ROLLS & set(RESTARTS)


def test_every_named_setting_exists() -> None:
    settings = of(LISTEN)
    for place in ROLLS:
        branch, _, name = place.partition(".")
        assert hasattr(settings, branch)
        assert not name or hasattr(getattr(settings, branch), name)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("limits: {open_waits: 5}\n", "limits.open_waits"),
        ("envoy: {node: other}\n", "envoy.node"),
        ("holds: {keep: 1h}\n", "holds.keep"),
        ("masks: {m: {entities: [EMAIL_ADDRESS]}}\n", "masks"),
    ],
)
def test_what_workers_read_may_change(text: str, place: str) -> None:
    assert check_roll(of(LISTEN), of(LISTEN + text)) == (place,)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("state: elsewhere\n", "state"),
        ("processor: {listen: 'unix:q.sock'}\n", "processor.listen"),
        ("processor: {listen: 'unix:p.sock', workers: 2}\n", "processor.workers"),
        ("processor: {listen: 'unix:p.sock', transport: grpcio}\n", "processor.transport"),
        ("processor: {listen: 'unix:p.sock', peers: {uids: [7]}}\n", "processor.peers"),
        ("ledger: {directory: other}\n", "ledger.directory"),
        ("ledger: {durability: disk}\n", "ledger.durability"),
        ("holds: {store: 'sqlite:other.db'}\n", "holds.store"),
        ("telemetry: {service_name: other}\n", "telemetry.service_name"),
    ],
)
def test_the_rest_needs_a_restart_and_says_so(text: str, place: str) -> None:
    after = of(text if "processor" in text else LISTEN + text)
    with pytest.raises(ConfigError) as refused:
        check_roll(of(LISTEN), after)
    assert f"\n{place}: " in str(refused.value)
    assert "restart extproc serve" in str(refused.value)


def test_all_that_needs_a_restart_is_named_at_once() -> None:
    with pytest.raises(ConfigError, match=r"(?s)processor\.workers: .*ledger\.durability: "):
        check_roll(
            of(LISTEN), of("processor: {listen: 'unix:p.sock', workers: 2}\nledger: {durability: disk}\n")
        )


def test_nothing_changed_is_nothing() -> None:
    assert changed(of(LISTEN), of(LISTEN)) == ()
    assert check_roll(of(LISTEN), of(LISTEN)) == ()


TCP = "processor: {listen: '127.0.0.1:9000', insecure: true%s}\n"
TLS = (
    "processor: {listen: '127.0.0.1:9000', tls: {certificate: %s, key: k, client_ca: a,"
    " client_sans: ['spiffe://mesh/envoy']}}\n"
)


def test_tcp_ports_are_handed_on_by_the_lean_transport_alone() -> None:
    assert check_roll(of(TCP % ""), of(TCP % ", drain: 5s")) == ("processor.drain",)
    with pytest.raises(ConfigError, match="grpcio cannot hand a TCP port"):
        check_roll(of(TCP % ", transport: grpcio"), of(TCP % ", transport: grpcio"))


def test_what_a_worker_shows_in_tls_may_change_but_not_whether_it_speaks_tls() -> None:
    assert check_roll(of(TLS % "old"), of(TLS % "new")) == ("processor.tls",)
    for before, after in ((TCP % "", TLS % "new"), (TLS % "old", TCP % "")):
        with pytest.raises(ConfigError, match=r"(?s)restart.*processor\.tls: Envoy"):
            check_roll(of(before), of(after))
