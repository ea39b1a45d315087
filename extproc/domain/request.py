"""One HTTP request and its response, as the pipeline sees them."""

from __future__ import annotations

from collections.abc import Iterator, KeysView, Mapping
from typing import Any, Final

from extproc.domain.nouns import NOTHING, noun

Fields = tuple[tuple[str, str], ...]


class Headers:
    """Header fields in arrival order, names in lower case, pseudo-headers (`:path`) included.

    Values are text as decoded from Latin-1, so every byte survives a round trip.
    """

    __slots__ = ("_first", "_items")

    def __init__(self, items: Fields | None) -> None:
        """`items` is None in a subclass that reads them when somebody asks."""
        self._items: Fields = items or ()
        self._first: dict[str, str] | None = None if items is None else _first_of(items)

    def read(self) -> Fields:
        """The fields, asked for once where they were not given."""
        raise NotImplementedError

    def _by_name(self) -> dict[str, str]:
        first = self._first
        if first is None:
            self._items = items = self.read()
            self._first = first = _first_of(items)
        return first

    @property
    def items(self) -> Fields:
        """All of them, in arrival order."""
        if self._first is None:
            self._by_name()
        return self._items

    def get(self, name: str, default: str = "") -> str:
        """The first value of `name`, which is given in lower case."""
        return self._by_name().get(name, default)

    def all(self, name: str) -> list[str]:
        """Every value of `name`, in order."""
        first = self._by_name().get(name)
        if first is None:
            return []
        if not self.has_repeats:
            return [first]  # no name is repeated at all, as nearly always
        return [value for key, value in self.items if key == name]

    def __contains__(self, name: object) -> bool:
        return name in self._by_name()

    @property
    def names(self) -> KeysView[str]:
        """Every name, once."""
        return self._by_name().keys()

    @property
    def has_repeats(self) -> bool:
        """Whether some name stands more than once."""
        return len(self._by_name()) != len(self._items)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)

    def __repr__(self) -> str:
        return f"Headers({len(self.items)} fields)"


def _first_of(items: Fields) -> dict[str, str]:
    first: dict[str, str] = {}
    for name, value in items:
        first.setdefault(name, value)
    return first


NO_HEADERS: Final = Headers(())


@noun(frozen=True, slots=True)
class Source:
    """Where the connection came from, as Envoy tells it; never taken from client bytes."""

    address: str = ""
    mtls: bool = False
    peer_uri_san: str = ""


NO_SOURCE: Final = Source()


@noun(frozen=True, slots=True)
class Trace:
    """W3C trace context of the call from Envoy: hex ids, empty when there is none."""

    trace_id: str = ""
    parent_span_id: str = ""
    sampled: bool = True


NO_TRACE: Final = Trace()


@noun(slots=True, init=False, unsafe_hash=True)
class RequestHead:
    """Everything known before the body: the first message of an exchange."""

    target: Final[str]
    headers: Final[Headers]
    end_of_stream: Final[bool]
    source: Final[Source]
    trace: Final[Trace]
    route: Final[str]
    metadata: Final[Mapping[str, Any]]
    """Envoy's forwarded dynamic metadata by namespace, when identity trusts one."""

    def __init__(
        self,
        target: str,
        headers: Headers,
        end_of_stream: bool,
        source: Source = NO_SOURCE,
        trace: Trace = NO_TRACE,
        route: str = "",
        metadata: Mapping[str, Any] = NOTHING,
    ) -> None:
        self.target = target
        self.headers = headers
        self.end_of_stream = end_of_stream
        self.source = source
        self.trace = trace
        self.route = route
        self.metadata = metadata
