"""Everything `extproc.yaml` can say, as one frozen tree; each part of the program is handed its own branch.

Durations are seconds (float), sizes are bytes (int), paths are absolute once loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, field

from extproc.config.secret import SecretRef
from extproc.config.units import DURATION_PATTERN, SIZE_PATTERN, Address, StoreLocation
from extproc.domain.mask import MaskSpec, OperatorName
from extproc.domain.principal import PrincipalKind

KIB, MIB = 1 << 10, 1 << 20

Duration = Annotated[float, Meta(extra={"unit": "duration"}, extra_json_schema={"pattern": DURATION_PATTERN})]
Size = Annotated[
    int,
    Meta(
        ge=0,
        extra={"unit": "size"},
        extra_json_schema={"pattern": SIZE_PATTERN},
    ),
]
Name = Annotated[
    str,
    Meta(pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$", max_length=63, extra={"like": "lower-case-with-dashes"}),
]
HeaderName = Annotated[
    str,
    Meta(pattern=r"^[a-z0-9!#$%&'*+.^_`|~-]+$", max_length=128, extra={"like": "x-api-key, in lower case"}),
]
RoleName = Annotated[
    str,
    Meta(
        pattern=r"^(\*|[A-Za-z_][A-Za-z0-9_$-]*)$",
        max_length=63,
        extra={"like": "a database user name, or *"},
    ),
]
UrlPath = Annotated[str, Meta(pattern=r"^/[^?#\s]*$", extra={"like": "/v1/customers, without a query"})]
Text = Annotated[str, Meta(min_length=1)]
Count = Annotated[int, Meta(ge=1)]
Uid = Annotated[int, Meta(ge=0, le=4294967294)]


def about(text: str) -> Meta:
    """What a setting is for: shown by editors and in docs/configuration.md."""
    return Meta(description=text)


# Where things are kept when neither the file nor `load_config` says. Factories keep paths out of the JSON Schema.
def _state() -> Path:
    return Path("state")


def _ledger() -> Path:
    return _state() / "ledger"


def _hold_store() -> StoreLocation:
    return StoreLocation(path=_state() / "holds.db")


def _ca_bundle() -> Path:
    return Path("/etc/ssl/certs/ca-certificates.crt")


def _socket(name: str) -> Callable[[], Address]:
    return lambda: Address(path=_state() / "run" / name)


class Branch(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of the tree. Unknown settings are refused."""


class ServerTls(Branch, frozen=True, kw_only=True):
    """TLS where we listen and every client must prove itself."""

    certificate: Annotated[Path, about("PEM certificate chain of this server.")]
    key: Annotated[Path, about("PEM private key of this server.")]
    client_ca: Annotated[Path, about("PEM authorities that may sign client certificates.")]
    client_sans: Annotated[
        tuple[Text, ...], about("Subject alternative names (URI or DNS) that may connect; nobody else may.")
    ]


class Peers(Branch, frozen=True, kw_only=True):
    """Who may connect to a unix socket, as the kernel names them (SO_PEERCRED)."""

    uids: Annotated[
        tuple[Uid, ...], about("User ids that may connect; our own uid always may. Give Envoy's here.")
    ] = ()
    gid: Annotated[
        Uid | None, about("Group the socket is given to, with mode 0660; without it the mode is 0600.")
    ] = None


class Processor(Branch, frozen=True, kw_only=True):
    """Where Envoy calls us."""

    listen: Annotated[
        Address,
        about("`unix:path` or `host:port`. Several workers listen at `name-0.sock`, `name-1.sock`, …"),
    ] = field(default_factory=_socket("processor.sock"))
    relay: Annotated[
        Address,
        about("Unix socket of the relay, for listeners with `front: relay`; numbered as `listen` is."),
    ] = field(default_factory=_socket("relay.sock"))
    peers: Annotated[Peers, about("Who may connect to the unix sockets.")] = Peers()
    tls: Annotated[ServerTls | None, about("Mutual TLS; required off loopback.")] = None
    insecure: Annotated[
        bool,
        about("Allow plain TCP on loopback. Whoever reaches it can forge identities; every record says so."),
    ] = False
    workers: Annotated[int, Meta(ge=1, le=64), about("Worker processes, each with a socket of its own.")] = 1
    drain: Annotated[
        Duration,
        about(
            "How long a worker that a rolling reload replaced finishes what it has, waits for people too; ≤ 1h."
        ),
    ] = 60.0
    transport: Annotated[
        Literal["lean", "grpcio"],
        about("gRPC by our own lean HTTP/2 server or by grpcio, with the same settings."),
    ] = "lean"
    reflection: Annotated[
        bool,
        about(
            "Answer gRPC server reflection (v1 and v1alpha) to whoever may connect, for tools such as grpcurl."
        ),
    ] = False

    @property
    def addresses(self) -> tuple[Address, ...]:
        """One address per worker: the plain one for a single worker, numbered ones for several."""
        if self.workers == 1:
            return (self.listen,)
        return tuple(self.listen.worker(number) for number in range(self.workers))

    @property
    def relay_addresses(self) -> tuple[Address, ...]:
        """The same for the relay."""
        if self.workers == 1:
            return (self.relay,)
        return tuple(self.relay.worker(number) for number in range(self.workers))


class Route(Branch, frozen=True, kw_only=True):
    """Which requests of a listener go to which target. The first match wins."""

    target: Annotated[Name, about("Name of the target.")]
    prefix: Annotated[
        UrlPath | None, about("Match this path and everything below it: `/v1` is not `/v10`.")
    ] = None
    path: Annotated[UrlPath | None, about("Match this path alone.")] = None
    hosts: Annotated[tuple[Text, ...], about("Host names served; `*` is any, `*.example.com` a suffix.")] = (
        "*",
    )
    timeout: Annotated[Duration, about("Longest wait for the upstream's whole answer; 0s is no bound.")] = 0.0


class ListenerTls(Branch, frozen=True, kw_only=True):
    """TLS for the callers of a listener."""

    certificate: Annotated[Path, about("PEM certificate chain, as whoever ends TLS sees the path.")]
    key: Annotated[Path, about("PEM private key, as whoever ends TLS sees the path.")]
    client_ca: Annotated[Path | None, about("Verify client certificates against these authorities.")] = None
    require_client_certificate: Annotated[bool, about("Refuse callers without a certificate.")] = False
    terminate: Annotated[
        Literal["envoy", "extproc", "contrib"],
        about(
            "Who ends TLS. `extproc` is for databases: it answers Postgres' SSLRequest (`sslmode=require`), "
            "which stock Envoy cannot, and direct TLS too; and MySQL's TLS, which begins after the greeting. "
            "`contrib` has Envoy's contrib build answer it, for Postgres."
        ),
    ] = "envoy"


class CertificateCaller(Branch, frozen=True, kw_only=True):
    """A caller whose verified certificate is proof enough: it is asked for no token."""

    uri: Annotated[
        Text,
        about("URI in the certificate, such as `spiffe://example.org/etl`; a closing `/*` is all below."),
    ]
    kind: Annotated[PrincipalKind, about("What it is.")] = "service"
    groups: Annotated[tuple[Text, ...], about("Groups it is in.")] = ()
    person: Annotated[str, about("The human behind it; empty is nobody but itself.")] = ""


class Listener(Branch, frozen=True, kw_only=True):
    """Where callers reach Envoy."""

    name: Annotated[Name, about("Unique name.")]
    address: Annotated[Address, about("IP address and port, or `unix:path`.")]
    routes: Annotated[tuple[Route, ...], about("Where HTTP requests go.")] = ()
    target: Annotated[Name | None, about("The one target of a database listener.")] = None
    protocol: Annotated[Literal["http", "postgres", "mysql"], about("What callers speak.")] = "http"
    mode: Annotated[
        Literal["ext_proc", "ext_authz"],
        about("`ext_proc` sees requests and responses; `ext_authz` only allows, denies and holds."),
    ] = "ext_proc"
    front: Annotated[
        Literal["ext_proc", "relay"],
        about(
            "How a database listener reaches us: Envoy asks about every chunk, or hands the connection over to a "
            "relay that dials the database itself, with back-pressure for large results."
        ),
    ] = "ext_proc"
    tls: Annotated[ListenerTls | None, about("TLS for callers.")] = None
    trusted_hops: Annotated[
        int, Meta(ge=0, le=16), about("Proxies in front whose `x-forwarded-for` entries are believed.")
    ] = 0
    upgrades: Annotated[
        tuple[Literal["websocket"], ...], about("Upgrades let through; they are recorded as `opaque`.")
    ] = ("websocket",)
    cleartext_tokens: Annotated[
        bool,
        about("Take tokens as database passwords without TLS off loopback; a tunnel must protect them."),
    ] = False
    rsa_key: Annotated[
        Path | None,
        about(
            "PEM private RSA key, from 4096 bits on, under which MySQL clients without TLS may encrypt their token. "
            "Its size bounds the token: 469 bytes with 4096 bits, 981 with 8192."
        ),
    ] = None
    callers: Annotated[
        tuple[CertificateCaller, ...],
        about("Callers of a database listener known by their certificate; the first match counts."),
    ] = ()


class UpstreamTls(Branch, frozen=True, kw_only=True):
    """How the upstream is proven, and we to it."""

    server_name: Annotated[
        str | None, about("SNI and the DNS name its certificate must carry; default is the host name.")
    ] = None
    ca: Annotated[Path | None, about("PEM authorities; default is `envoy.ca_bundle`.")] = None
    certificate: Annotated[Path | None, about("Client certificate chain.")] = None
    key: Annotated[Path | None, about("Client private key.")] = None
    originate: Annotated[
        Literal["envoy", "extproc", "contrib"],
        about(
            "Who speaks TLS with it (behind the relay, extproc does in any case). `extproc` is for databases: it "
            "asks by Postgres' SSLRequest, which stock Envoy "
            "cannot and servers before PostgreSQL 17 need; paths are as the processor sees them. "
            "`contrib` has Envoy's contrib build ask. With MySQL it is always `extproc`, whatever stands here."
        ),
    ] = "envoy"


class Upstream(Branch, frozen=True, kw_only=True):
    """The real service."""

    address: Annotated[Address, about("`host:port` or `unix:path`.")]
    tls: Annotated[
        UpstreamTls | Literal["off"] | None,
        about("On unless the address is a unix socket. `off` sends cleartext and is recorded."),
    ] = None
    host: Annotated[str | None, about("Host header sent upstream; default is what the caller sent.")] = None
    protocol: Annotated[Literal["http1", "http2"], about("What the upstream speaks.")] = "http1"
    connect_timeout: Annotated[Duration, about("Longest wait for a connection.")] = 5.0

    @property
    def transport(self) -> UpstreamTls | None:
        """How the connection is protected; None is cleartext, by `tls: off` or because it is a unix socket."""
        if self.tls == "off":
            return None
        if self.tls is None:
            return None if self.address.is_unix else UpstreamTls()
        return self.tls


class Credential(Branch, frozen=True, kw_only=True):
    """What the upstream wants to see instead of the caller's token."""

    header: Annotated[HeaderName, about("Header that carries it.")]
    value: Annotated[SecretRef, about("The secret.")]
    prefix: Annotated[str, about("Text before the secret, such as `Bearer `.")] = ""


class RecordPlan(Branch, frozen=True, kw_only=True):
    """What is kept of an exchange; all of it masked."""

    mask: Annotated[Name | None, about("Name of the mask everything recorded goes through.")] = None
    request: Annotated[Literal["none", "masked"], about("Keep the request body?")] = "none"
    response: Annotated[Literal["none", "masked"], about("Keep the response body?")] = "none"
    max_bytes: Annotated[Size, about("Longest body kept.")] = 64 * KIB


class TargetLimits(Branch, frozen=True, kw_only=True):
    """Bodies above these are refused by an explicit verdict."""

    request_body: Annotated[Size, about("Longest request body.")] = 1 * MIB
    response_body: Annotated[Size, about("Longest response body that is inspected.")] = 4 * MIB


class Prefer(Branch, frozen=True, kw_only=True):
    """Which wishes of RFC 7240 shorten a wait; all of them pass on untouched."""

    asynchronous: Annotated[
        bool, about("`Prefer: respond-async` answers at once, as `hold=async` always does.")
    ] = field(default=False, name="async")
    wait: Annotated[bool, about("`Prefer: wait=N` bounds the wait in seconds.")] = False


class DatabaseRole(Branch, frozen=True, kw_only=True):
    """The database user that stands behind a caller."""

    user: Annotated[Text, about("User to log in as.")]
    password: Annotated[SecretRef | None, about("Its password; none where the server asks for none.")] = None
    groups: Annotated[
        tuple[Text, ...], about("Only members of one of these groups may use it; empty is everybody.")
    ] = ()


class DatabaseSessions(Branch, frozen=True, kw_only=True):
    """How long a connection may live."""

    on_expiry: Annotated[
        Literal["close", "max_age"],
        about(
            "When the caller's token ends: `close` ends the session too, `max_age` only at its largest age."
        ),
    ] = "close"
    max_age: Annotated[Duration | None, about("Largest age of a session; none without it.")] = None


class Database(Branch, frozen=True, kw_only=True):
    """How connections of a database target are governed."""

    roles: Annotated[
        Mapping[RoleName, DatabaseRole],
        about("By the user name that callers give: whom they become. `*` is any other name."),
    ]
    statement_bytes: Annotated[Size, about("Longest statement with its parameters.")] = 1 * MIB
    waiting_bytes: Annotated[
        Size, about("What a caller may send behind a statement that waits; more ends the connection.")
    ] = 4 * MIB
    wait_in_transaction: Annotated[
        Duration, about("Longest wait for an approval inside a transaction, whose locks others wait for.")
    ] = 30.0
    notice_every: Annotated[Duration, about("How often a caller is told that its statement waits.")] = 15.0
    unparsed: Annotated[
        Literal["deny", "judge"],
        about("Statements that are not fully understood: `judge` leaves them to the rules and is recorded."),
    ] = "deny"
    masked_use: Annotated[
        Literal["deny", "whole"],
        about(
            "Statements that do more with a masked column than show it: `whole` runs those that only read and hides"
            " every column of their result."
        ),
    ] = "deny"
    session: Annotated[DatabaseSessions, about("How long a connection may live.")] = DatabaseSessions()


class Target(Branch, frozen=True, kw_only=True):
    """A service under governance."""

    name: Annotated[Name, about("Unique name; policies name it.")]
    upstream: Annotated[Upstream, about("Where it is.")]
    kind: Annotated[
        Literal["http", "postgres", "mysql"], about("What it is; `mysql` is MariaDB as well.")
    ] = "http"
    database: Annotated[Database | None, about("For kinds `postgres` and `mysql`.")] = None
    labels: Annotated[Mapping[str, str], about("For label selectors in policies.")] = {}
    credential: Annotated[
        Credential | None, about("Put in after the intent is recorded; masked in everything that comes back.")
    ] = None
    record: Annotated[RecordPlan, about("What is kept.")] = RecordPlan()
    volatile_headers: Annotated[
        tuple[HeaderName, ...], about("Headers that may differ between a held request and its repetition.")
    ] = ()
    limits: Annotated[TargetLimits, about("Body sizes.")] = TargetLimits()
    unparsable_json: Annotated[
        Literal["refuse", "allow"],
        about("A body called JSON that cannot be parsed, where a rule or mask needs it."),
    ] = "refuse"
    prefer: Annotated[Prefer, about("Which `Prefer` wishes are honoured.")] = Prefer()

    @property
    def wire_tls(self) -> UpstreamTls | None:
        """TLS that we begin ourselves inside the protocol, in place of Envoy or of who dials."""
        tls = self.upstream.transport
        return tls if tls is not None and (self.kind == "mysql" or tls.originate == "extproc") else None


class KeySource(Branch, frozen=True, kw_only=True):
    """Where a provider's signing keys are; exactly one."""

    discovery: Annotated[bool, about("Read `jwks_uri` from the issuer's OpenID configuration.")] = False
    jwks_url: Annotated[str | None, about("URL of the key set.")] = None
    jwks_file: Annotated[Path | None, about("File with the key set.")] = None


class Claims(Branch, frozen=True, kw_only=True):
    """Which claims say what; dots lead into objects (`realm_access.roles`)."""

    groups: Annotated[Text, about("List of groups.")] = "groups"
    kind: Annotated[Text, about("human, agent, service or machine; anything else is agent.")] = "kind"
    person: Annotated[str, about("Names the human behind it; empty is issuer and subject.")] = ""


Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]


class Provider(Branch, frozen=True, kw_only=True):
    """An issuer whose tokens are believed."""

    name: Annotated[Name, about("Unique name.")]
    issuer: Annotated[Text, about("The `iss` claim, exactly; https, and the base of discovery.")]
    audiences: Annotated[tuple[Text, ...], Meta(min_length=1), about("One of these must be in `aud`.")]
    keys: Annotated[KeySource, about("Where its keys are.")]
    algorithms: Annotated[
        tuple[Algorithm, ...],
        Meta(min_length=1),
        about("Signature algorithms accepted; never `none` or HS*."),
    ] = ("RS256", "ES256", "EdDSA")
    skew: Annotated[Duration, about("Clock difference forgiven, at most 5m.")] = 30.0
    claims: Annotated[Claims, about("Where groups, kind and person are.")] = Claims()
    default_kind: Annotated[
        PrincipalKind, about("Kind of a principal whose token names none. Only humans may approve.")
    ] = "agent"
    insecure_loopback: Annotated[
        bool, about("Allow http for an issuer or key set on loopback (demo and tests).")
    ] = False


class TrustedMetadata(Branch, frozen=True, kw_only=True):
    """Envoy's own verified token, handed over as dynamic metadata."""

    namespace: Annotated[Text, about("Metadata namespace, such as `envoy.filters.http.jwt_authn`.")]
    key: Annotated[Text, about("Key of the payload in it.")]
    issuer: Annotated[Text, about("The `iss` it must have.")]
    audiences: Annotated[tuple[Text, ...], Meta(min_length=1), about("One of these must be in `aud`.")]


class Trust(Branch, frozen=True, kw_only=True):
    """What is believed beside tokens we verify ourselves."""

    metadata: Annotated[TrustedMetadata | None, about("Envoy's verified token.")] = None


class Identity(Branch, frozen=True, kw_only=True):
    """How a caller proves who it is."""

    header: Annotated[HeaderName, about("Header with the token; `authorization` expects `Bearer `.")] = (
        "authorization"
    )
    providers: Annotated[tuple[Provider, ...], about("Issuers believed.")] = ()
    trust: Annotated[Trust, about("What else is believed.")] = Trust()


class Policies(Branch, frozen=True, kw_only=True):
    """Where rules are."""

    folders: Annotated[tuple[Path, ...], about("Folders with policy files.")] = ()
    engine: Annotated[
        Literal["cel-expr", "cel-python"] | None,
        about("CEL engine; default is the fast one where it exists."),
    ] = None


class Mask(Branch, frozen=True, kw_only=True):
    """What to find and what to do with it."""

    paths: Annotated[tuple[Text, ...], about("JSON paths, such as `$..card`.")] = ()
    entities: Annotated[tuple[Text, ...], about("Recognizers, such as EMAIL_ADDRESS.")] = ()
    columns: Annotated[tuple[Text, ...], about("SQL columns, such as `users.email`.")] = ()
    operator: Annotated[OperatorName, about("What happens to what is found.")] = "redact"
    replacement: Annotated[str, about("Text that `replace` writes; empty is the recognizer's name.")] = ""
    keep_last: Annotated[int, Meta(ge=0, le=64), about("Characters that `partial` leaves.")] = 4

    def to_spec(self, name: str) -> MaskSpec:
        """The noun that masking compiles."""
        return MaskSpec(
            name=name,
            columns=self.columns,
            paths=self.paths,
            entities=self.entities,
            operator=self.operator,
            replacement=self.replacement,
            keep_last=self.keep_last,
        )


class MaskingKeys(Branch, frozen=True, kw_only=True):
    """Keys of the `hash` and `hmac` operators; made in `state` when absent."""

    hash_salt: Annotated[SecretRef | None, about("Salt of `hash`, at least 16 bytes.")] = None
    hmac_key: Annotated[SecretRef | None, about("Key of `hmac`, at least 32 bytes.")] = None


class HoldLimits(Branch, frozen=True, kw_only=True):
    """Bounds on open holds."""

    per_principal: Annotated[Count, about("Open holds of one principal.")] = 20
    total: Annotated[Count, about("Open holds altogether.")] = 10_000
    waiters: Annotated[Count, about("Requests waiting on one hold.")] = 100


class Holds(Branch, frozen=True, kw_only=True):
    """Where requests wait."""

    store: Annotated[StoreLocation, about("`sqlite:path`.")] = field(default_factory=_hold_store)
    postgres: Annotated[
        SecretRef | None,
        about(
            "Connection string of a Postgres that several machines share, instead of `store`; "
            "`extproc store migrate` makes its tables."
        ),
    ] = None
    limits: Annotated[HoldLimits, about("How many may be open.")] = HoldLimits()
    keep: Annotated[
        Duration, about("How long a closed hold stays in the store; the ledger keeps its moves for good.")
    ] = 30 * 86400.0


class ApprovalsTls(Branch, frozen=True, kw_only=True):
    """TLS of the approvals API."""

    certificate: Annotated[Path, about("PEM certificate chain.")]
    key: Annotated[Path, about("PEM private key.")]


HoldMoveKind = Literal[
    "hold.opened",
    "hold.vote",
    "hold.approved",
    "hold.rejected",
    "hold.expired",
    "hold.withdrawn",
    "hold.abandoned",
    "hold.void",
    "hold.released",
    "hold.revoked",
    "hold.break_glass",
    "hold.review_overdue",
    "hold.reviewed",
]


class Webhook(Branch, frozen=True, kw_only=True):
    """A system that is told what happens to holds, by signed messages (Standard Webhooks)."""

    name: Annotated[Name, about("Unique name.")]
    url: Annotated[Text, about("Where messages are posted; https.")]
    secret: Annotated[SecretRef, about("`whsec_` and base64 of at least 24 bytes; signs every message.")]
    events: Annotated[tuple[HoldMoveKind, ...], Meta(min_length=1), about("What is told.")] = ("hold.opened",)
    insecure_loopback: Annotated[bool, about("Allow http on this machine.")] = False


class Approvals(Branch, frozen=True, kw_only=True):
    """The API that lets held requests go."""

    listen: Annotated[Address, about("`unix:path` or `host:port`.")] = field(
        default_factory=_socket("approvals.sock")
    )
    audience: Annotated[Text, about("Tokens must carry it; no data-path audience may equal it.")] = (
        "extproc-approvals"
    )
    clients: Annotated[
        tuple[Text, ...], about("Clients (`azp` or `client_id`) whose tokens may approve; empty is nobody.")
    ] = ()
    operators: Annotated[tuple[Text, ...], about("Groups that may reload policies and read every hold.")] = (
        "operators",
    )
    auditors: Annotated[tuple[Text, ...], about("Groups that may read every hold.")] = ("auditors",)
    webhooks: Annotated[tuple[Webhook, ...], about("Who is told what happens to holds.")] = ()
    tls: Annotated[ApprovalsTls | None, about("Required off loopback.")] = None
    insecure: Annotated[bool, about("Allow plain TCP on loopback.")] = False


class ConsoleLogin(Branch, frozen=True, kw_only=True):
    """Login at an issuer: OpenID Connect's code flow with PKCE."""

    provider: Annotated[Name, about("One of `identity.providers`; its issuer is asked who somebody is.")]
    client_id: Annotated[Text, about("The console at that issuer; must be in `approvals.clients`.")]
    client_secret: Annotated[SecretRef | None, about("Its secret; none for a public client.")] = None
    scopes: Annotated[tuple[Text, ...], about("Asked for; must bring the groups and the audience.")] = (
        "openid",
        "profile",
        "email",
        "groups",
    )
    token: Annotated[
        Literal["access", "id"],
        about("Which token carries `approvals.audience` and the groups: the access token or the ID token."),
    ] = "access"  # noqa: S105  (a kind of token)


class OneTimeCode(Branch, frozen=True, kw_only=True):
    """A way in that works once, on this machine, for a demo."""

    code: Annotated[SecretRef, about("What is typed; at least 16 characters.")]
    person: Annotated[Text, about("Who comes in by it.")]
    groups: Annotated[tuple[Text, ...], about("Groups that person is in.")] = ()


class Console(Branch, frozen=True, kw_only=True):
    """The web pages that people decide and look things up with."""

    listen: Annotated[Address, about("`unix:path` or `host:port`.")]
    url: Annotated[Text, about("As browsers see it: scheme, host and port; issuers send people back to it.")]
    login: Annotated[ConsoleLogin | None, about("Login at an issuer.")] = None
    one_time: Annotated[OneTimeCode | None, about("A way in that works once; on loopback only.")] = None
    session: Annotated[Duration, about("How long a login lasts at most.")] = 8 * 3600.0
    idle: Annotated[Duration, about("How long a login lasts that nobody uses.")] = 1800.0
    tls: Annotated[ApprovalsTls | None, about("Required off loopback.")] = None
    insecure: Annotated[bool, about("Allow plain TCP on loopback.")] = False


class Keep(Branch, frozen=True, kw_only=True):
    """How long payloads are kept."""

    keep: Annotated[Duration, about("Older payloads are erased by `extproc ledger purge`.")]
    targets: Annotated[tuple[Text, ...], about("Only of these targets; `*` matches anything.")] = ()
    payloads: Annotated[
        tuple[Text, ...], about("Only these: `request`, `response`, `view`, `sources`, …")
    ] = ()


class Ship(Branch, frozen=True, kw_only=True):
    """Where `extproc ledger ship` copies closed segments and checkpoints."""

    url: Annotated[
        Text,
        about(
            "`s3://bucket/prefix`, `gs://…`, `az://…` or `file:///folder`; keys come from the environment."
        ),
    ]
    endpoint: Annotated[Text | None, about("URL of an S3-compatible service that is not AWS.")] = None
    region: Annotated[Text | None, about("Region of the bucket.")] = None
    payloads: Annotated[bool, about("Ship payloads too: what is locked there cannot be erased.")] = False


class PayloadKey(Branch, frozen=True, kw_only=True):
    """One key-encryption key."""

    id: Annotated[
        str,
        Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,15}$", extra={"like": "k2026, at most 16 characters"}),
        about("Names it in the ledger; never give an id to another key."),
    ]
    key: Annotated[SecretRef, about("32 bytes in hexadecimal: `openssl rand -hex 32`.")]


class Encryption(Branch, frozen=True, kw_only=True):
    """Payloads are sealed, each with a data key of its own."""

    keys: Annotated[
        tuple[PayloadKey, ...], Meta(min_length=1), about("The first wraps new data keys, all of them open.")
    ]


class Witness(Branch, frozen=True, kw_only=True):
    """Somebody outside who keeps checkpoints: a file on another disk or machine, or a receiver of signed messages."""

    name: Annotated[Name, about("Unique name.")]
    file: Annotated[Path | None, about("A copy of the checkpoint log that only grows; outside `state`.")] = (
        None
    )
    url: Annotated[Text, about("Where the newest checkpoint is posted (Standard Webhooks); https.")] = ""
    secret: Annotated[
        SecretRef | None, about("For `url`: `whsec_` and base64 of at least 24 bytes; signs every message.")
    ] = None
    insecure_loopback: Annotated[bool, about("Allow http on this machine.")] = False


class Ledger(Branch, frozen=True, kw_only=True):
    """What happened, kept."""

    directory: Annotated[Path, about("Folder of the segments.")] = field(default_factory=_ledger)
    durability: Annotated[
        Literal["process", "disk"], about("`process` survives kill -9, `disk` a power cut.")
    ] = "process"
    segment_bytes: Annotated[Size, about("A segment is closed at this size.")] = 64 * MIB
    encryption: Annotated[Encryption | None, about("Seals payloads; without it they are plain.")] = None
    ship: Annotated[Ship | None, about("Where copies go.")] = None
    witnesses: Annotated[tuple[Witness, ...], about("Who is told each checkpoint.")] = ()
    retention: Annotated[
        tuple[Keep, ...], about("The first that is for a payload decides; without one it stays.")
    ] = ()


class Otlp(Branch, frozen=True, kw_only=True):
    """The collector."""

    endpoint: Annotated[Text, about("URL of the collector, without a path.")]
    protocol: Annotated[Literal["grpc", "http"], about("`grpc`, or `http` for http/protobuf.")] = "grpc"
    headers: Annotated[Mapping[str, SecretRef], about("Headers sent with every export.")] = {}


class Metrics(Branch, frozen=True, kw_only=True):
    """Counts and gauges, by a process of their own that reads the ledger."""

    listen: Annotated[
        Address | None,
        about("`unix:path` or `host:port` of the Prometheus page `/metrics`; no page without it."),
    ] = None
    otlp: Annotated[bool, about("Send them to `telemetry.otlp` as well.")] = False
    every: Annotated[Duration, about("How often they are sent by OTLP.")] = 15.0
    tls: Annotated[ApprovalsTls | None, about("TLS of the page.")] = None
    insecure: Annotated[
        bool, about("Allow the page in plain HTTP off loopback: it names targets and rules, never callers.")
    ] = False


class Telemetry(Branch, frozen=True, kw_only=True):
    """How the view of the ledger leaves."""

    otlp: Annotated[Otlp | None, about("Where spans go; nothing is exported without it.")] = None
    metrics: Annotated[Metrics | None, about("What is counted; nothing without it.")] = None
    service_name: Annotated[
        Text | None, about("`service.name` of our spans; default is `OTEL_SERVICE_NAME`, else `extproc`.")
    ] = None


class Limits(Branch, frozen=True, kw_only=True):
    """Bounds on everything callers can grow."""

    token_bytes: Annotated[Size, about("Longest token.")] = 16 * KIB
    header_bytes: Annotated[Size, about("All request headers together, whole KiB; Envoy refuses more.")] = (
        96 * KIB
    )
    open_waits: Annotated[Count, about("Requests waiting at one time in one worker.")] = 2000
    max_message_timeout: Annotated[
        Duration,
        about("The longest a request may wait in Envoy, at most 1h. Policies that wait longer are refused."),
    ] = 900.0
    stream_idle_timeout: Annotated[
        Duration, about("Envoy ends a stream with no bytes for this long; longer than `max_message_timeout`.")
    ] = 1200.0


class ProcessorClientTls(Branch, frozen=True, kw_only=True):
    """What Envoy shows our TLS listener; paths as Envoy sees them."""

    certificate: Annotated[Path, about("Envoy's client certificate chain.")]
    key: Annotated[Path, about("Its private key.")]
    ca: Annotated[Path, about("Authorities that sign our certificate.")]
    server_name: Annotated[Text, about("DNS name our certificate must carry.")]


class Envoy(Branch, frozen=True, kw_only=True):
    """What only `extproc render envoy` reads."""

    node: Annotated[Name, about("Envoy's node id.")] = "extproc-edge"
    admin: Annotated[Address, about("Unix socket of Envoy's admin interface, mode 0600.")] = field(
        default_factory=_socket("envoy-admin.sock")
    )
    message_timeout: Annotated[Duration, about("How long Envoy waits for an ordinary answer of ours.")] = 10.0
    buffer_bytes: Annotated[
        Size, about("What Envoy buffers per direction of a request; larger than every body limit.")
    ] = 8 * MIB
    max_connections: Annotated[Count, about("Connections from callers at one time.")] = 20_000
    max_heap: Annotated[Size, about("Envoy stops taking requests near this much memory.")] = 2048 * MIB
    tracing: Annotated[bool, about("Envoy sends its own spans to `telemetry.otlp`.")] = True
    access_log: Annotated[
        bool,
        about(
            "Envoy tells us how every request and connection ended, those too that we were never asked about; "
            "each is a record."
        ),
    ] = True
    ca_bundle: Annotated[
        Path, about("Authorities for upstreams without a `tls.ca`, where Envoy sees them (Debian's place).")
    ] = field(default_factory=_ca_bundle)
    client_tls: Annotated[ProcessorClientTls | None, about("Needed when `processor.tls` is set.")] = None

    @property
    def grpc_message_bytes(self) -> int:
        """The largest gRPC message between Envoy and us: a full buffer with headers and framing."""
        return self.buffer_bytes + 1 * MIB


class Settings(Branch, frozen=True, kw_only=True):
    """All of `extproc.yaml`."""

    api_version: Annotated[Literal["extproc/v1"], about("Version of this format.")] = field(name="apiVersion")
    kind: Annotated[Literal["Config"], about("What this file is.")]
    state: Annotated[Path, about("Folder for everything kept, mode 0700.")] = field(default_factory=_state)
    processor: Annotated[Processor, about("Where Envoy calls us.")] = field(default_factory=Processor)
    listeners: Annotated[tuple[Listener, ...], about("Where callers reach Envoy.")] = ()
    targets: Annotated[tuple[Target, ...], about("Services under governance.")] = ()
    identity: Annotated[Identity, about("How callers prove who they are.")] = Identity()
    policies: Annotated[Policies, about("Where rules are.")] = Policies()
    masks: Annotated[Mapping[Name, Mask], about("Masks for `record.mask`.")] = {}
    masking: Annotated[MaskingKeys, about("Keys of masking operators.")] = MaskingKeys()
    holds: Annotated[Holds, about("Where requests wait.")] = field(default_factory=Holds)
    approvals: Annotated[Approvals, about("The API that lets them go.")] = field(default_factory=Approvals)
    console: Annotated[Console | None, about("Web pages for people; none without it.")] = None
    ledger: Annotated[Ledger, about("What happened, kept.")] = field(default_factory=Ledger)
    telemetry: Annotated[Telemetry, about("How it leaves.")] = Telemetry()
    limits: Annotated[Limits, about("Bounds.")] = Limits()
    envoy: Annotated[Envoy, about("What only `render` reads.")] = field(default_factory=Envoy)

    @property
    def relayed(self) -> frozenset[str]:
        """Targets that some listener reaches through the relay."""
        return frozenset(listener.target or "" for listener in self.listeners if listener.front == "relay")

    def target(self, name: str) -> Target:
        """Raises KeyError for a name that is no target."""
        for target in self.targets:
            if target.name == name:
                return target
        raise KeyError(name)

    def secrets(self) -> Iterator[tuple[str, SecretRef]]:
        """Every secret reference with its place in the tree."""
        for number, target in enumerate(self.targets):
            if target.credential is not None:
                yield f"targets[{number}].credential.value", target.credential.value
            for name, role in (target.database.roles if target.database is not None else {}).items():
                if role.password is not None:
                    yield f"targets[{number}].database.roles.{name}.password", role.password
        login = self.console.login if self.console is not None else None
        if login is not None and login.client_secret is not None:
            yield "console.login.client_secret", login.client_secret
        if self.console is not None and self.console.one_time is not None:
            yield "console.one_time.code", self.console.one_time.code
        for number, webhook in enumerate(self.approvals.webhooks):
            yield f"approvals.webhooks[{number}].secret", webhook.secret
        for number, witness in enumerate(self.ledger.witnesses):
            if witness.secret is not None:
                yield f"ledger.witnesses[{number}].secret", witness.secret
        if self.holds.postgres is not None:
            yield "holds.postgres", self.holds.postgres
        for place, reference in (
            ("masking.hash_salt", self.masking.hash_salt),
            ("masking.hmac_key", self.masking.hmac_key),
        ):
            if reference is not None:
                yield place, reference
        if self.ledger.encryption is not None:
            for number, one in enumerate(self.ledger.encryption.keys):
                yield f"ledger.encryption.keys[{number}].key", one.key
        if self.telemetry.otlp is not None:
            for name, reference in self.telemetry.otlp.headers.items():
                yield f"telemetry.otlp.headers.{name}", reference
