"""A masker: several mask specs and the configured literals compiled into one plan for bodies, headers, URLs, text.

Specs add up. Wherever two of them meet at one spot the strictest operator wins. A body that cannot be read is an
error, never a body let through; the caller refuses it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from extproc.domain.errors import MaskingError, PolicyError
from extproc.domain.mask import Masked, MaskSpec
from extproc.masking.content import ContentType, from_utf8, parse_content_type, to_utf8
from extproc.masking.finder import Finder, Tally
from extproc.masking.json_body import check_json, first_look, mask_json
from extproc.masking.literals import LITERAL
from extproc.masking.operators import MaskSecrets, Operator, build_operator, strictest
from extproc.masking.paths import PathRule, compile_paths, parse_path
from extproc.masking.recognizers import build_recognizers, table_digest
from extproc.masking.rules import Rules
from extproc.masking.text_body import mask_form, mask_markup, mask_percent, mask_text, mask_url

MEBIBYTE = 1 << 20
MAX_FINDINGS = 100_000
"""Candidates looked at and values replaced in one body: a second of CPU or so, whatever the body holds."""

REMEMBERED_TEXTS = 2048
REMEMBERED_LENGTH = 256

REDACT = Operator("redact", (4, 1, 0, ""), lambda _, __: "")
LITERAL_OPERATOR = Operator("replace", (4, 0, 0, ""), lambda entity, _: f"[{entity}]")

FRAMING_HEADERS = frozenset(
    {":method", ":scheme", ":status", "content-length", "content-type", "content-encoding", "transfer-encoding",
     "connection", "date", "age", "expires", "last-modified", "cache-control"}
)  # fmt: skip
"""Values that HTTP itself reads; never masked."""
URL_HEADERS = frozenset({":path", "location", "content-location", "referer", "link", "x-envoy-original-path"})


def compile_masker(
    specs: Sequence[MaskSpec],
    secrets: MaskSecrets,
    *,
    literals: Sequence[str] = (),
    max_bytes: int = 8 * MEBIBYTE,
    max_findings: int = MAX_FINDINGS,
) -> Masker:
    """Check and compile. Raises PolicyError: unknown entity or operator, bad path, weak key, short literal.

    `literals` are values such as an injected credential; they are replaced by `[LITERAL]` unless a spec names
    the entity LITERAL with a stricter operator. Specs' `columns` are for SQL and ignored here.
    """
    operators: dict[str, Operator] = {}
    paths: list[PathRule] = []
    described: list[object] = []
    for spec in specs:
        operator = build_operator(spec, secrets)
        described.append([sorted(spec.entities), sorted(spec.paths), operator.name, operator.parameters])
        for entity in spec.entities:
            operators[entity] = strictest(operators.get(entity), operator) or operator
        for path in spec.paths:
            try:
                steps = parse_path(path)
            except PolicyError as problem:
                raise PolicyError(f'mask "{spec.name}": {problem}') from None
            if operator.rank:
                paths.append(PathRule(path, steps, operator))
    literal_spec = operators.pop(LITERAL, None)
    try:
        rows = build_recognizers(tuple(operators), literals)
    except PolicyError as problem:
        raise PolicyError(_with_mask(specs, str(problem))) from None
    if literals:
        operators[LITERAL] = strictest(LITERAL_OPERATOR, literal_spec) or LITERAL_OPERATOR
    own = tuple(
        spec.replacement.encode() for spec in specs if spec.operator == "replace" and spec.replacement
    )
    active = {entity: operator for entity, operator in operators.items() if operator.rank}
    described_text = json.dumps([table_digest(), sorted(map(json.dumps, described)), len(literals)])
    return Masker(
        Rules(Finder(rows), active, compile_paths(paths), tuple(rule.names for rule in paths)),
        entities=tuple(operators),
        own=own,
        digest=hashlib.sha256(described_text.encode()).hexdigest(),
        max_bytes=max_bytes,
        max_findings=max_findings,
        literals_only=not paths and set(active) <= {LITERAL},
    )


@dataclass(frozen=True, slots=True, repr=False)
class Masker:
    """A compiled plan. Pure: the same input gives the same output.

    `digest` names recognizers, specs and operator parameters. It tells nothing of secrets or literals.
    """

    _rules: Rules
    entities: tuple[str, ...]
    own: tuple[bytes, ...]
    digest: str
    max_bytes: int
    max_findings: int
    literals_only: bool
    _clean_texts: set[str] = field(default_factory=set)
    """Short texts in which nothing was found: hosts, paths and media types come again and again."""
    _clean_urls: set[str] = field(default_factory=set)

    def __repr__(self) -> str:
        return f"Masker({self.digest[:12]})"

    def body(self, data: bytes, content_type: str, *, without_paths: bool = False) -> Masked:
        """Mask a whole body, already without its content coding.

        `without_paths` leaves path rules out, for a target that explicitly allows a body they cannot be applied to.
        Raises MaskingError: unparsable-body, too-deep, unsupported-type, charset, too-large, over-budget.
        """
        tally = Tally(self.max_findings)
        rules = replace(self._rules, root=None) if without_paths else self._rules
        masked = self._body(data, content_type, rules, tally)
        return Masked(masked, masked is not data, tally.counts)

    def findings(self, data: bytes, content_type: str) -> dict[str, int]:
        """How often each entity of the plan occurs, `keep` included, path rules aside. Raises as `body` does."""
        tally = Tally(self.max_findings)
        every = dict.fromkeys(self.entities, REDACT)
        self._body(data, content_type, replace(self._rules, operators=every, root=None), tally)
        return tally.counts

    def residual(self, data: bytes, content_type: str) -> dict[str, int]:
        """What the plan's recognizers still find in masked bytes, its own replacement texts aside; {} is proof.

        Entities that the plan keeps are not counted. Raises as `body` does.
        """
        tally = Tally(self.max_findings)
        self._body(data, content_type, replace(self._rules, own=self.own, root=None), tally)
        return tally.counts

    def text(self, text: str) -> tuple[str, dict[str, int]]:
        """Mask a text of ours or theirs, such as an error message. Raises MaskingError: too-large, over-budget."""
        return self._string(text, mask_text, self._clean_texts)

    def url(self, path_with_query: str) -> tuple[str, dict[str, int]]:
        """Mask a path with its query; what is percent-encoded is decoded before looking. Raises as `text` does."""
        return self._string(path_with_query, mask_url, self._clean_urls)

    def headers(self, items: Iterable[tuple[str, str]]) -> tuple[tuple[tuple[str, str], ...], dict[str, int]]:
        """Mask header values (text decoded from Latin-1), names in lower case. Raises as `text` does.

        Values that frame the message are left alone.
        """
        fields = tuple(items)
        tally = Tally(self.max_findings)
        self._check_size(sum(len(value) for _, value in fields))
        return tuple((name, self._header(name, value, tally)) for name, value in fields), tally.counts

    def _header(self, name: str, value: str, tally: Tally) -> str:
        if name in FRAMING_HEADERS:
            return value
        raw, codec = _encoded(value)
        mask = mask_url if name in URL_HEADERS else mask_percent
        masked = mask(raw, self._rules, tally)
        return (
            value
            if masked is raw
            else masked.decode(codec, "surrogatepass" if codec == "utf-8" else "strict")
        )

    def _string(
        self, text: str, mask: Callable[[bytes, Rules, Tally], bytes], clean: set[str]
    ) -> tuple[str, dict[str, int]]:
        if text in clean:
            return text, {}
        tally = Tally(self.max_findings)
        self._check_size(len(text))
        raw = text.encode("utf-8", "surrogatepass")
        masked = mask(raw, self._rules, tally)
        if masked is not raw:
            return masked.decode("utf-8", "surrogatepass"), tally.counts
        if len(text) <= REMEMBERED_LENGTH:
            if len(clean) >= REMEMBERED_TEXTS:
                clean.clear()
            clean.add(text)
        return text, tally.counts

    def _check_size(self, size: int) -> None:
        if size > self.max_bytes:
            raise MaskingError("too-large", f"more than {self.max_bytes} bytes cannot be masked")

    def _body(self, data: bytes, content_type: str, rules: Rules, tally: Tally) -> bytes:
        if not data or (not rules.operators and rules.root is None):
            return data
        self._check_size(len(data))
        try:
            kind = parse_content_type(content_type)
            body, codec, mark = to_utf8(data, kind.charset, is_json=kind.format.startswith("json"))
            masked = _mask(body, kind, rules, tally)
        except MaskingError as trouble:
            if self.literals_only and trouble.code in _UNREADABLE and self._is_free_of_literals(data):
                return data
            raise
        return data if masked is body else from_utf8(masked, codec, mark)

    def _is_free_of_literals(self, data: bytes) -> bool:
        """Of a plan that only looks for literals: whether none is in these bytes, whatever they are."""
        return not first_look(data, self._rules) and not first_look(data.replace(b"\0", b""), self._rules)


_UNREADABLE = frozenset({"unparsable-body", "unsupported-type", "charset", "too-deep"})


def _mask(body: bytes, kind: ContentType, rules: Rules, tally: Tally) -> bytes:
    match kind.format:
        case "json":
            return body if not body.strip() else mask_json(body, rules, tally)
        case "json-lines":
            return _each(body, b"\n", rules, tally)
        case "json-seq":  # RFC 7464: a record separator before every text
            return _each(body, b"\x1e", rules, tally)
        case "form":
            return mask_form(body, rules, tally)
        case "unknown":
            raise MaskingError("unsupported-type", "a body of this content type cannot be inspected")
    if body.lstrip()[:1] in (b"{", b"["):  # JSON under another name would hide values behind its escapes
        try:
            check_json(body)
        except MaskingError as trouble:
            if trouble.code != "unparsable-body":
                raise
        else:
            return mask_json(body, rules, tally)
    if rules.root is not None:
        raise MaskingError("unsupported-type", "a mask has path rules, and this body is not JSON")
    return (mask_markup if kind.format == "markup" else mask_text)(body, rules, tally)


def _each(body: bytes, separator: bytes, rules: Rules, tally: Tally) -> bytes:
    changed = False
    lines = body.split(separator)
    for index, line in enumerate(lines):
        if line.strip():
            masked = mask_json(line, rules, tally)
            if masked is not line:
                lines[index] = masked
                changed = True
    return separator.join(lines) if changed else body


def _encoded(value: str) -> tuple[bytes, str]:
    try:
        return value.encode("latin-1"), "latin-1"
    except UnicodeEncodeError:
        return value.encode("utf-8", "surrogatepass"), "utf-8"


def _with_mask(specs: Sequence[MaskSpec], problem: str) -> str:
    for spec in specs:
        for entity in spec.entities:
            if f'"{entity}"' in problem:
                return f'mask "{spec.name}": {problem}'
    return problem
