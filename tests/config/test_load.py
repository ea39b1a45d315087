"""Settings are read whole or refused with every mistake named."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from extproc.config import Address, InvalidConfigError, Settings, check_waits, load_config, parse_config
from extproc.config.show import to_data
from extproc.domain.errors import ConfigError
from extproc.domain.mask import MaskSpec

BASE = Path("/srv/extproc")
GOOD = """\
apiVersion: extproc/v1
kind: Config
listeners:
  - {name: http, address: "127.0.0.1:10000", routes: [{prefix: /, target: api}]}
targets:
  - name: api
    upstream: {address: "127.0.0.1:8080", tls: off}
    record: {mask: records}
    limits: {request_body: 64KiB}
identity:
  providers:
    - {name: corp, issuer: "https://issuer.example", audiences: [api], keys: {discovery: true}}
masks: {records: {entities: [EMAIL_ADDRESS]}}
"""


def read(text: str) -> Settings:
    return parse_config(text, base=BASE)


def mistakes(text: str) -> list[str]:
    """What is wrong, a line each, without the file's name."""
    with pytest.raises(InvalidConfigError) as caught:
        read(text)
    return [line.removeprefix("extproc.yaml:") for line in str(caught.value).splitlines()]


def change(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new)


# ---------------------------------------------------------------------- what is read


def test_defaults_are_safe_and_lie_below_the_state_folder():
    settings = read(GOOD)
    assert settings.state == BASE / "state"
    assert settings.processor.listen == Address(path=BASE / "state/run/processor.sock")
    assert settings.approvals.listen == Address(path=BASE / "state/run/approvals.sock")
    assert settings.envoy.admin == Address(path=BASE / "state/run/envoy-admin.sock")
    assert settings.holds.store.path == BASE / "state/holds.db"
    assert settings.ledger.directory == BASE / "state/ledger"
    assert settings.processor.insecure is settings.approvals.insecure is False
    assert settings.targets[0].unparsable_json == "refuse"
    assert settings.identity.providers[0].default_kind == "agent"


def test_moving_the_state_folder_moves_what_is_kept_in_it_but_not_what_is_named():
    settings = read(GOOD + "state: /var/lib/x\nledger: {directory: ledger}\n")
    assert settings.holds.store.path == Path("/var/lib/x/holds.db")
    assert settings.processor.listen.path == Path("/var/lib/x/run/processor.sock")
    assert settings.ledger.directory == BASE / "ledger"


def test_units_become_seconds_and_bytes():
    settings = read(
        GOOD + "limits: {max_message_timeout: 10m, stream_idle_timeout: 1.5h, token_bytes: 4096}\n"
    )
    assert settings.limits.max_message_timeout == 600.0
    assert settings.limits.stream_idle_timeout == 5400.0
    assert settings.limits.token_bytes == 4096
    assert settings.targets[0].limits.request_body == 65536


def test_off_is_a_word_here_and_not_false():
    for spelling in ("off", "false", '"off"'):
        settings = read(change("tls: off", f"tls: {spelling}"))
        assert settings.targets[0].upstream.tls == "off"
        assert settings.targets[0].upstream.transport is None


def test_tls_is_on_unless_it_is_switched_off_or_the_socket_is_local():
    by_name = read(change('"127.0.0.1:8080", tls: off', '"api.internal:443"')).targets[0].upstream
    local = read(change('"127.0.0.1:8080", tls: off', '"unix:a.sock"')).targets[0].upstream
    assert by_name.transport is not None
    assert local.transport is None


def test_a_mask_becomes_the_noun_that_masking_compiles():
    assert read(GOOD).masks["records"].to_spec("records") == MaskSpec("records", entities=("EMAIL_ADDRESS",))


def test_workers_have_addresses_of_their_own_only_when_there_are_several():
    one = read(GOOD)
    three = read(GOOD + 'processor: {listen: "unix:run/p.sock", workers: 3}\n')
    assert one.processor.addresses == (one.processor.listen,)
    assert [address.path.name for address in three.processor.addresses if address.path] == [
        "p-0.sock",
        "p-1.sock",
        "p-2.sock",
    ]


def test_aliases_repeat_what_they_name():
    again = change(
        "{records: {entities: [EMAIL_ADDRESS]}}", "{records: &m {entities: [EMAIL_ADDRESS]}, more: *m}"
    )
    assert read(again).masks["more"] == read(again).masks["records"]


def test_settings_can_be_handed_to_another_process():
    settings = read(GOOD)
    assert pickle.loads(pickle.dumps(settings)) == settings


def test_nothing_can_be_changed_once_loaded():
    with pytest.raises(AttributeError):
        read(GOOD).processor.workers = 2


def test_what_is_shown_loads_back_to_the_same_settings():
    settings = read(
        GOOD + "approvals: {clients: [console]}\ntelemetry: {otlp: {endpoint: 'http://127.0.0.1:4317'}}\n"
    )
    assert read(yaml.safe_dump(to_data(settings))) == settings


# ---------------------------------------------------------------------- what is refused

MISTAKES: dict[str, tuple[str, str]] = {
    "unknown setting": (
        change("upstream: {address", "upstream: {adress"),
        '7:16: targets[0].upstream: unknown setting "adress"; did you mean "address"?',
    ),
    "unknown at the top": (GOOD + "polices: {}\n", 'unknown setting "polices"; did you mean "policies"?'),
    "nothing close": (GOOD + "zzz: {}\n", '14:1: unknown setting "zzz"; known are apiVersion, approvals'),
    "missing setting": (change("name: http, ", ""), '4:5: listeners[0]: missing setting "name"'),
    "wrong type": (
        GOOD + "processor: {workers: two}\n",
        "processor.workers: expected a whole number, got text",
    ),
    "bool as text": (
        change("name: api\n", "name: yes\n"),
        'expected text, got true or false; quote it: "yes"',
    ),
    "list as text": (change("[{prefix: /, target: api}]", "all"), "routes: expected a list, got text"),
    "settings as list": (
        GOOD + "ledger: []\n",
        "ledger: expected settings (directory, durability, segment_bytes, encryption, ship, witnesses, retention)",
    ),
    "too many workers": (GOOD + "processor: {workers: 65}\n", "must be at most 64"),
    "odd choice": (
        GOOD + "ledger: {durability: disc}\n",
        '"disc" is not disk or process; did you mean "disk"?',
    ),
    "duration without unit": (GOOD + "limits: {max_message_timeout: 30}\n", '"30" is not a duration'),
    "decimal size": (GOOD + "ledger: {segment_bytes: 64MB}\n", '"64MB" is not a size'),
    "name": (change("name: api\n", "name: My_API\n"), '"My_API" must look like lower-case-with-dashes'),
    "name with newline": (change("name: api\n", 'name: "api\\n"\n'), "must look like lower-case-with-dashes"),
    "address without port": (change('"127.0.0.1:8080"', '"127.0.0.1"'), '"127.0.0.1" is not an address'),
    "port": (change('"127.0.0.1:8080"', '"127.0.0.1:65536"'), "is not an address"),
    "bare IPv6": (change('"127.0.0.1:8080"', '"::1:80"'), "an IPv6 address stands in brackets"),
    "set twice": (GOOD + "kind: Config\n", '14:1: "kind" is set twice, first in line 2'),
    "merge key": (GOOD + "ledger: {<<: {}}\n", "merge keys (<<) are not supported"),
    "tag": (
        GOOD + "ledger: {directory: !!python/name:os.system x}\n",
        "directory: expected text, got python/name:os",
    ),
    "no listener routes": (change("[{prefix: /, target: api}]", "[]"), "routes: needs at least 1 entry"),
    "literal secret": (
        change("record: {mask", "credential: {header: x-api-key, value: hush}\n    record: {mask"),
        "targets[0].credential.value: expected settings (env, file), got text",
    ),
    "secret from two places": (
        GOOD + "masking: {hash_salt: {env: A, file: b}}\n",
        "masking.hash_salt: needs exactly one of env and file",
    ),
    "plain loopback": (GOOD + 'processor: {listen: "127.0.0.1:5000"}\n', "set processor.insecure: true"),
    "plain everywhere": (
        GOOD + 'processor: {listen: "0.0.0.0:5000", insecure: true}\n',
        "can be reached from elsewhere: set processor.tls or use a unix socket",
    ),
    "plain by name": (
        GOOD + 'processor: {listen: "box:5000", insecure: true}\n',
        "can be reached from elsewhere",
    ),
    "insecure socket": (
        GOOD + "processor: {insecure: true}\n",
        "processor.insecure: means nothing on a unix socket",
    ),
    "tls for everybody": (
        GOOD
        + 'processor: {listen: "10.0.0.1:5000", tls: {certificate: c, key: k, client_ca: a, client_sans: []}}\n',
        "name the clients that may connect",
    ),
    "peers of TCP": (
        GOOD + 'processor: {listen: "127.0.0.1:5000", insecure: true, peers: {uids: [1]}}\n',
        "only a unix socket knows its peers",
    ),
    "approvals everywhere": (
        GOOD + 'approvals: {listen: "0.0.0.0:1"}\n',
        "set approvals.tls or use a unix socket",
    ),
    "approvals audience": (
        change("audiences: [api]", "audiences: [api, extproc-approvals]"),
        "a data-path token must never approve",
    ),
    "socket path": (GOOD + f"state: /{'x' * 100}\n", "is longer than the 107 bytes a socket path may have"),
    "unknown target": (
        change("target: api}", "target: apy}"),
        '4:75: listeners[0].routes[0].target: unknown target "apy"; did you mean "api"?',
    ),
    "witness of both kinds": (
        GOOD + 'ledger: {witnesses: [{name: w, file: /x/y, url: "https://w.test"}]}\n',
        "ledger.witnesses[0]: is a file or a url",
    ),
    "witness of no kind": (
        GOOD + "ledger: {witnesses: [{name: w}]}\n",
        "ledger.witnesses[0]: is a file or a url",
    ),
    "witness beside the ledger": (
        GOOD + "ledger: {witnesses: [{name: w, file: state/copy}]}\n",
        "ledger.witnesses[0].file: is beside what it is to witness",
    ),
    "witness without a secret": (
        GOOD + 'ledger: {witnesses: [{name: w, url: "https://w.test"}]}\n',
        "ledger.witnesses[0].secret: is missing: messages are signed",
    ),
    "witness over http": (
        GOOD + 'ledger: {witnesses: [{name: w, url: "http://w.test", secret: {env: S}}]}\n',
        "ledger.witnesses[0].url:",
    ),
    "witness twice": (
        GOOD + "ledger: {witnesses: [{name: w, file: /x/y}, {name: w, file: /x/z}]}\n",
        'ledger.witnesses[1].name: "w" is taken by witnesses[0]',
    ),
    "target twice": (
        change("identity:", '  - {name: api, upstream: {address: "unix:a"}}\nidentity:'),
        'targets[1].name: "api" is taken by targets[0]',
    ),
    "route that never matches": (
        change("target: api}]", "target: api}, {prefix: /, target: api}]"),
        "routes[1]: never matches: routes[0] takes the same requests",
    ),
    "prefix and path": (
        change("{prefix: /,", "{prefix: /, path: /a,"),
        "needs exactly one of prefix and path",
    ),
    "query in a route": (
        change("{prefix: /,", '{prefix: "/a?b",'),
        "must look like /v1/customers, without a query",
    ),
    "listener by name": (change('"127.0.0.1:10000"', '"localhost:10000"'), "Envoy listens on IP addresses"),
    "tls to an address": (
        change('"127.0.0.1:8080", tls: off', '"10.0.0.1:443"'),
        "needs tls.server_name to check its certificate, or tls: off",
    ),
    "unknown mask": (
        change("mask: records", "mask: record"),
        'unknown mask "record"; did you mean "records"?',
    ),
    "empty mask": (change("entities: [EMAIL_ADDRESS]", "operator: redact"), "masks.records: finds nothing"),
    "body above the buffer": (
        change("request_body: 64KiB", "request_body: 8MiB"),
        "must be below envoy.buffer_bytes (8MiB)",
    ),
    "credential in a connection header": (
        change("record: {mask", "credential: {header: connection, value: {env: A}}\n    record: {mask"),
        '"connection" belongs to the connection or to Envoy',
    ),
    "credential in Envoy's header": (
        change("record: {mask", "credential: {header: x-envoy-key, value: {env: A}}\n    record: {mask"),
        "cannot carry a credential",
    ),
    "volatile authorization": (
        change("record: {mask", "volatile_headers: [authorization]\n    record: {mask"),
        '"authorization" is part of what is approved',
    ),
    "http issuer": (change("https://issuer.example", "http://issuer.example"), "issuer: must be https"),
    "http issuer on loopback": (
        change("https://issuer.example", "http://127.0.0.1:9"),
        "for a demo on this machine set insecure_loopback: true",
    ),
    "http issuer with a trick": (
        change("https://issuer.example", "http://127.0.0.1.evil.example").replace(
            "keys:", "insecure_loopback: true, keys:"
        ),
        "issuer: must be https",
    ),
    "issuer with a password": (
        change("https://issuer", "https://a:b@issuer"),
        "must not have a user, password",
    ),
    "issuer twice": (
        GOOD.replace(
            "masks:",
            '    - {name: b, issuer: "https://issuer.example", audiences: [b], keys: {discovery: true}}\nmasks:',
            1,
        ),
        'providers[1].issuer: "https://issuer.example" is taken by providers[0]',
    ),
    "two key sources": (
        change("{discovery: true}", '{discovery: true, jwks_url: "https://a.example/k"}'),
        "needs exactly one of discovery, jwks_url and jwks_file",
    ),
    "http key set": (
        change("{discovery: true}", '{jwks_url: "http://a.example/k"}'),
        "jwks_url: must be https",
    ),
    "symmetric algorithm": (
        change("keys: {disc", "algorithms: [HS256], keys: {disc"),
        '"HS256" is not ES256 or',
    ),
    "no algorithm": (change("keys: {disc", "algorithms: [none], keys: {disc"), '"none" is not ES256 or'),
    "empty algorithms": (
        change("keys: {disc", "algorithms: [], keys: {disc"),
        "algorithms: needs at least 1",
    ),
    "skew": (change("keys: {disc", "skew: 10m, keys: {disc"), "skew: must be at most 5m"),
    "no provider": (
        change(
            '  providers:\n    - {name: corp, issuer: "https://issuer.example", audiences: [api], '
            "keys: {discovery: true}}\n",
            "  header: authorization\n",
        ),
        "every request would be refused",
    ),
    "trusting ourselves": (
        change(
            "identity:\n",
            "identity:\n  trust: {metadata: {namespace: extproc, key: k, issuer: i, audiences: [a]}}\n",
        ),
        '"extproc" is where we write',
    ),
    "wait above Envoy's bound": (
        GOOD + "limits: {max_message_timeout: 2h, stream_idle_timeout: 3h}\n",
        "must be more than 15s and at most 1h",
    ),
    "idle before the wait ends": (
        GOOD + "limits: {max_message_timeout: 10m, stream_idle_timeout: 10m}\n",
        "must be longer than limits.max_message_timeout (10m)",
    ),
    "token above headers": (GOOD + "limits: {token_bytes: 96KiB}\n", "below limits.header_bytes"),
    "admin on TCP": (GOOD + 'envoy: {admin: "127.0.0.1:9901"}\n', "must be a unix socket"),
    "collector without a port": (GOOD + "telemetry: {otlp: {endpoint: 'http://otel'}}\n", "needs a port"),
    "collector with a path": (
        GOOD + "telemetry: {otlp: {endpoint: 'http://otel:1/v1'}}\n",
        "must be a URL of scheme",
    ),
    "metrics for nobody": (GOOD + "telemetry: {metrics: {}}\n", "telemetry.metrics: goes nowhere"),
    "metrics for everybody": (
        GOOD + 'telemetry: {metrics: {listen: "0.0.0.0:9464"}}\n',
        "can be reached from elsewhere: set tls, or insecure: true",
    ),
    "metrics insecure on a socket": (
        GOOD + "telemetry: {metrics: {listen: 'unix:/tmp/m.sock', insecure: true}}\n",
        "means nothing here",
    ),
    "metrics in a hurry": (
        GOOD + "telemetry: {metrics: {otlp: true, every: 100ms}}\n",
        "must be at least 1s",
    ),
    "null": (GOOD + "ledger:\n", "ledger: expected settings"),
    "no YAML": ("a: [", "did not find expected node content"),
    "empty": ("# nothing\n", "is empty"),
    "two documents": ("a: 1\n---\nb: 2\n", "but found another document"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_named_with_its_place(name: str):
    text, expected = MISTAKES[name]
    found = mistakes(text)
    assert any(expected in line for line in found), found


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file():
    text = (
        change("prefix: /,", "prefx: /,")
        .replace("64KiB", "64kb")
        .replace("discovery: true", "discovery: maybe")
    )
    found = mistakes(text)
    assert [line.split(":")[0] for line in found] == ["4", "9", "12"]


def test_a_mistake_never_quotes_what_could_be_a_secret():
    text = change("record: {mask", "credential: {header: x-api-key, value: canary-hush}\n    record: {mask")
    assert "canary-hush" not in "\n".join(mistakes(text))


HOSTILE = {
    "deep": "[" * 100_000,
    "deep flow": "a: " + "{a: " * 500,
    "laughs": "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
    + "".join(
        f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    ),
    "cycle": "a: &a [*a]\n",
    "control": "a: \x00\n",
    "tab": "a:\n\t- b\n",
    "binary": "a: !!binary aGk=\n",
    "long key": "? [a, b]\n: c\n",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_yaml_is_refused_and_costs_little(name: str):
    assert mistakes(HOSTILE[name])


@given(st.text(max_size=200))
def test_any_text_is_settings_or_mistakes(text: str):
    with pytest.raises(InvalidConfigError):
        read(text)


@given(st.integers(0, len(GOOD)), st.integers(0, len(GOOD)))
def test_cutting_a_piece_out_gives_settings_or_mistakes(start: int, end: int):
    text = GOOD[: min(start, end)] + GOOD[max(start, end) :]
    try:
        assert isinstance(read(text), Settings)
    except InvalidConfigError as error:
        assert error.problems


# ---------------------------------------------------------------------- waits


def test_a_policy_may_wait_as_long_as_envoy_does_less_the_margin():
    check_waits(read(GOOD), 885.0)


def test_a_policy_that_waits_longer_is_refused_with_what_to_do():
    with pytest.raises(ConfigError, match="a policy waits 1h, but Envoy gives up after 15m"):
        check_waits(read(GOOD), 3600.0)


# ---------------------------------------------------------------------- files


def write(folder: Path, text: str = GOOD, mode: int = 0o644) -> Path:
    file = folder / "extproc.yaml"
    file.write_text(text)
    file.chmod(mode)
    return file


def test_paths_start_at_the_folder_of_the_file(tmp_path: Path):
    settings = load_config(write(tmp_path, GOOD + "policies: {folders: [policies]}\n"))
    assert settings.policies.folders == (tmp_path / "policies",)


@pytest.mark.parametrize("mode", [0o666, 0o664, 0o646])
def test_a_file_that_others_may_change_is_refused(tmp_path: Path, mode: int):
    with pytest.raises(InvalidConfigError, match="chmod go-w"):
        load_config(write(tmp_path, mode=mode))


def test_a_missing_folder_or_odd_file_is_named(tmp_path: Path):
    with pytest.raises(InvalidConfigError, match="No such file"):
        load_config(tmp_path / "none.yaml")
    with pytest.raises(InvalidConfigError, match="directory"):
        load_config(tmp_path)
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"a: \xe9\n")
    with pytest.raises(InvalidConfigError, match="is not UTF-8"):
        load_config(latin)
    large = tmp_path / "large.yaml"
    large.write_bytes(b"#" * (1 << 20) + b"\n")
    with pytest.raises(InvalidConfigError, match="is larger than"):
        load_config(large)


# ---------------------------------------------------------------------- the console

CONSOLE = (
    GOOD
    + """\
approvals: {clients: [web]}
console:
  listen: 127.0.0.1:8443
  url: http://127.0.0.1:8443
  insecure: true
  login: {provider: corp, client_id: web}
"""
)


def test_there_is_no_console_unless_it_is_asked_for():
    assert read(GOOD).console is None
    console = read(CONSOLE).console
    assert console is not None and console.login is not None
    assert (console.session, console.idle, console.login.token) == (8 * 3600.0, 1800.0, "access")


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("listen: 127.0.0.1:8443", "listen: 10.0.0.1:8443", "can be reached from elsewhere"),
        ("insecure: true", "insecure: false", "is plain TCP"),
        ("url: http://127.0.0.1:8443", "url: http://console.example", "console.url: must be https"),
        ("url: http://127.0.0.1:8443", "url: https://console.example/at/a/path", "scheme, host and port"),
        ("url: http://127.0.0.1:8443", "url: https://me@console.example", "must not have a user"),
        ("login: {provider: corp, client_id: web}", "idle: 1m", "has no way in"),
        ("provider: corp", "provider: other", '"other" is none of identity.providers'),
        ("client_id: web", "client_id: rich-client", "is not in approvals.clients"),
        ("client_id: web}", "client_id: web, scopes: [email]}", "must have openid"),
        ("insecure: true", "insecure: true\n  session: 25h", "must be from 1m to 1d"),
        ("insecure: true", "insecure: true\n  idle: 9h", "must be from 1m to console.session"),
        ("insecure: true", "insecure: true\n  tls: {certificate: a, key: b}", "contradicts tls"),
    ],
)
def test_a_console_that_would_be_unsafe_or_unreachable_is_refused(old: str, new: str, told: str):
    assert old in CONSOLE
    assert any(told in line for line in mistakes(CONSOLE.replace(old, new)))


def test_a_one_time_code_is_for_this_machine_alone():
    text = CONSOLE.replace(
        "insecure: true",
        "tls: {certificate: a, key: b}\n  one_time: {code: {env: CODE}, person: fiona}",
    ).replace("http://127.0.0.1:8443", "https://c.example")
    assert any("is for a demo on this machine" in line for line in mistakes(text))
