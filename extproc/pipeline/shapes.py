"""What stays of a request when its values are taken out: what a grant wider than the exact request is bound to.

Everything the exact binding covers stays, but the values: caller, target, session settings, deciding rules, headers.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Iterable, Iterator
from itertools import islice

from extproc.domain.errors import ProtocolError
from extproc.domain.principal import Principal
from extproc.domain.terms import Shape
from extproc.pipeline.binding import bound_headers
from extproc.pipeline.facts import FactUnavailableError, HttpFacts
from extproc.protocols.http.head import query_params

MAX_VALUES = 256
"""Values of one request that can be pinned; those behind are open in every scope but `exact`."""
MAX_NAME = 128
HTTP_SAME, HTTP_FREE = "the same method, host, path, headers and query names", "any values in query and body"


def http_shape(
    key: bytes,
    principal: Principal,
    facts: HttpFacts,
    rules_digest: str,
    unbound: Iterable[frozenset[str]],
    wishes: frozenset[str],
) -> Shape:
    """One request without the values of its query and without its body.

    Values that can be pinned: `?name`, every value of a query parameter; a JSON pointer (RFC 6901), one plain value
    of a JSON body (fractions compare as doubles); `body`, all its bytes. A name that the target's record plan would
    mask is not offered. Raises ProtocolError for a query that cannot be read.
    """
    line, headers = facts.line, facts.head.headers
    parameters = query_params(line.query)
    names = {*parameters, *query_params(line.query.replace(";", "&"))}  # some servers split there too
    who = (
        principal.issuer, principal.subject, facts.plan.name, rules_digest,
        line.method, line.scheme, line.host, line.path.partition("?")[0], *sorted(names),
    )  # fmt: skip
    digests = Digests(key, b"http-shape", who, bound_headers(headers, unbound, wishes))
    values = [(f"?{name}", b"query", json.dumps(found).encode()) for name, found in parameters.items()]
    if facts.body:
        values.append(("body", b"body", facts.body))
        values += [(pointer, b"json", text.encode()) for pointer, text in _leaves(facts)]
    masker = facts.plan.record_masker
    return Shape(
        digests.key, HTTP_SAME, HTTP_FREE,
        digests.of([value for value in values if len(value[0]) <= MAX_NAME and masker.text(value[0])[0] == value[0]]),
    )  # fmt: skip


class Digests:
    """Keyed digests (HMAC-SHA256, hex) of one shape and its values. Parts are length-prefixed."""

    def __init__(self, key: bytes, kind: bytes, who: Iterable[str], more: Iterable[bytes] = ()) -> None:
        self._secret = key
        parts = [kind, *(text.encode("utf-8", "surrogatepass") for text in who), b"", *more]
        self.key = self._digest(parts)

    def of(self, values: Iterable[tuple[str, bytes, bytes]]) -> dict[str, str]:
        """By name: each value's digest, which is worth nothing beside another shape."""
        shape = self.key.encode()
        kept = list(values)[:MAX_VALUES]
        return {
            name: self._digest((b"value", shape, name.encode(), kind, value)) for name, kind, value in kept
        }

    def _digest(self, parts: Iterable[bytes]) -> str:
        mac = hmac.new(self._secret, digestmod="sha256")
        for part in parts:
            mac.update(len(part).to_bytes(8, "big"))
            mac.update(part)
        return mac.hexdigest()


def _leaves(facts: HttpFacts) -> Iterator[tuple[str, str]]:
    """JSON pointer and spelling of each plain value; none when the body is not JSON that is read in one way only."""
    try:
        document = facts["request.json"]
    except (FactUnavailableError, ProtocolError):
        return
    waiting: list[tuple[str, object]] = [("", document)]
    found = 0
    while waiting and found < MAX_VALUES:
        pointer, value = waiting.pop()
        if isinstance(value, dict):
            steps = [(f"{pointer}/{_escaped(k)}", item) for k, item in islice(value.items(), MAX_VALUES)]
            waiting.extend(reversed(steps))
        elif isinstance(value, list):
            waiting.extend(reversed([(f"{pointer}/{n}", item) for n, item in enumerate(value[:MAX_VALUES])]))
        elif pointer:
            found += 1
            yield pointer, f"{type(value).__name__}:{value!r}"


def _escaped(name: str) -> str:
    """A member's name as a step of a JSON pointer (RFC 6901 §3)."""
    return name.replace("~", "~0").replace("/", "~1")
