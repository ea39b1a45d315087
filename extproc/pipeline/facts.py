"""Facts for policy, built only when a rule reads them and at most once.

A fact that cannot be had raises `FactUnavailableError`: the rules that read it then count as not evaluated.
A fact that two readers could see differently raises ProtocolError, and the request is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from extproc.domain.errors import ProtocolError
from extproc.domain.principal import Principal
from extproc.domain.request import Headers, RequestHead
from extproc.pipeline.governance import TargetPlan
from extproc.policy.facts import RISK, SECRET_HEADERS, variables
from extproc.protocols.http.body import UTF8, charset, decode, is_json, read_json
from extproc.protocols.http.head import RequestLine, query_params

NAMES: Final = tuple(name for name in variables("http") if name != RISK)
_SECRET: Final = SECRET_HEADERS
"""A name of this module's own: compiled code looks every other one up."""


class FactUnavailableError(Exception):
    """This fact does not exist for this exchange now."""


class HttpFacts(Mapping[str, object]):
    """The facts of one exchange. Request parts are fixed; body and response arrive later."""

    __slots__ = (
        "_cache",
        "_strip_headers",
        "body",
        "head",
        "line",
        "now",
        "plan",
        "principal",
        "response_body",
        "response_code",
        "response_findings",
        "response_headers",
        "session_id",
    )  # fmt: skip

    def __init__(
        self,
        head: RequestHead,
        line: RequestLine,
        principal: Principal,
        plan: TargetPlan,
        strip_headers: frozenset[str],
        session_id: str,
        now: float,
    ) -> None:
        self.head = head
        self.line = line
        self.principal = principal
        self.plan = plan
        self.session_id = session_id
        self.now = now
        self.body: bytes | None = b"" if head.end_of_stream else None
        self.response_headers: Headers | None = None
        self.response_code = 0
        self.response_body: bytes | None = None
        self.response_findings: Callable[[], dict[str, int]] | None = None
        self._strip_headers = strip_headers
        self._cache: dict[str, object] = {}

    def __getitem__(self, name: str) -> object:
        cached = self._cache.get(name)
        if cached is not None:
            return cached
        made = _made(self, name)
        self._cache[name] = made
        return made

    def __iter__(self) -> Iterator[str]:
        return iter(NAMES)

    def __len__(self) -> int:
        return len(NAMES)

    def judged_anew(self, plan: TargetPlan, now: float) -> HttpFacts:
        """The same request at another time, under another plan."""
        again = HttpFacts(
            self.head, self.line, self.principal, plan, self._strip_headers, self.session_id, now
        )
        again.body = self.body
        return again

    def plain_body(self) -> bytes:
        """The request body with its content coding undone, within the target's limit."""
        plain = self._cache.get("plain")
        if plain is None:
            if self.body is None:
                raise FactUnavailableError("the request body is not here yet")
            codings = ",".join(self.head.headers.all("content-encoding"))
            plain = decode(self.body, codings, self.plan.request_limit)
            self._cache["plain"] = plain
        assert isinstance(plain, bytes)  # noqa: S101  (only ever stored here)
        return plain

    def is_secret(self, header: str) -> bool:
        """Never a fact, never kept, never shown."""
        return header in _SECRET or header in self._strip_headers

    def header_map(self, headers: Headers) -> dict[str, str]:
        """Header fields for rules: joined with a comma (RFC 9110 §5.3), never one that carries a secret."""
        if not headers.has_repeats:
            return {
                name: value for name, value in headers.items if name[0] != ":" and not self.is_secret(name)
            }
        made: dict[str, str] = {}
        for name, value in headers:
            if name[0] == ":" or self.is_secret(name):
                continue
            made[name] = f"{made[name]},{value}" if name in made else value
        return made


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise FactUnavailableError("the body is not UTF-8") from None


def _request_json(facts: HttpFacts) -> Any:
    body = facts.plain_body()
    if not body:
        raise FactUnavailableError("there is no body")
    content_type = facts.head.headers.get("content-type")
    if (
        not is_json(content_type)
        or charset(content_type) not in UTF8
        or "/" in content_type.partition(";")[2]
    ):
        # not declared as JSON: rules that read it count as not evaluated, others are not disturbed
        raise FactUnavailableError("the request is not declared as JSON in UTF-8")
    return read_json(body, content_type)


def _response_headers(facts: HttpFacts) -> Headers:
    if facts.response_headers is None:
        raise FactUnavailableError("there is no response yet")
    return facts.response_headers


def _response_body(facts: HttpFacts) -> bytes:
    if facts.response_body is None:
        raise FactUnavailableError("the response body was not read")
    return facts.response_body


def _response_json(facts: HttpFacts) -> Any:
    body = _response_body(facts)
    content_type = _response_headers(facts).get("content-type")
    if not body or not is_json(content_type):
        raise FactUnavailableError("the response is not JSON")
    try:
        return read_json(body, content_type)
    except ProtocolError as error:
        # the response is the upstream's: the rules that read it count as not evaluated
        raise FactUnavailableError(error.code) from None


def _findings(facts: HttpFacts) -> dict[str, int]:
    _response_body(facts)
    if facts.response_findings is None:
        raise FactUnavailableError("the response was not searched")
    return facts.response_findings()


def _made(facts: HttpFacts, name: str) -> object:
    """How each fact of `docs/policies.md` is had for HTTP. One row a fact. Raises KeyError for any other name."""
    match name:
        case "request.method":
            return facts.line.method
        case "request.scheme":
            return facts.line.scheme
        case "request.host":
            return facts.line.host
        case "request.path":
            return facts.line.path
        case "request.url_path":
            return facts.line.url_path
        case "request.query":
            return facts.line.query
        case "request.query_params":
            return query_params(facts.line.query)
        case "request.headers":
            return facts.header_map(facts.head.headers)
        case "request.size":
            return len(facts.plain_body())
        case "request.body":
            return _text(facts.plain_body())
        case "request.json":
            return _request_json(facts)
        case "source.address":
            return facts.head.source.address
        case "connection.mtls":
            return facts.head.source.mtls
        case "connection.peer_san":
            return facts.head.source.peer_uri_san
        case "principal.issuer":
            return facts.principal.issuer
        case "principal.subject":
            return facts.principal.subject
        case "principal.kind":
            return facts.principal.kind
        case "principal.person":
            return facts.principal.person
        case "principal.client_id":
            return facts.principal.client_id
        case "principal.groups":
            return list(facts.principal.groups)
        case "principal.claims":
            return dict(facts.principal.claims)
        case "target.name":
            return facts.plan.name
        case "target.kind":
            return facts.plan.kind
        case "target.labels":
            return facts.plan.labels
        case "session.id":
            return facts.session_id
        case "now":
            return datetime.fromtimestamp(facts.now, UTC)
        case "response.code":
            return facts.response_code
        case "response.headers":
            return facts.header_map(_response_headers(facts))
        case "response.bytes":
            return len(_response_body(facts))
        case "response.body":
            return _text(_response_body(facts))
        case "response.json":
            return _response_json(facts)
        case "response.findings":
            return _findings(facts)
    raise KeyError(name)
