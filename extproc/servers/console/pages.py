"""Templates become answers. Everything in them is escaped for HTML, and was escaped for display before."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.responses import HTMLResponse, Response

from extproc.domain.display import escape_for_display
from extproc.domain.principal import Principal
from extproc.servers.console import words
from extproc.servers.console.sessions import Session


class Role(StrEnum):
    """What somebody may see beside their own."""

    OPERATOR = "operator"
    AUDITOR = "auditor"


NAV: tuple[tuple[str, str, frozenset[Role] | None], ...] = (
    ("/holds", "Inbox", None),
    ("/grants", "Grants", None),
    ("/sessions", "Sessions", frozenset(Role)),
    ("/policies", "Policies", frozenset(Role)),
    ("/health", "Health", frozenset(Role)),
)
"""Path, title, and who sees it; None is everybody."""


def nav(roles: frozenset[Role]) -> list[tuple[str, str]]:
    """The pages that somebody of these roles is led to."""
    return [(path, title) for path, title, whose in NAV if whose is None or whose & roles]


class Pages:
    """The console's templates. `readers` are the groups of each role."""

    def __init__(self, now: Callable[[], float], readers: Mapping[Role, frozenset[str]]) -> None:
        self._readers = readers
        self._environment = Environment(
            loader=PackageLoader("extproc.servers.console"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters |= {
            "marked": words.marked,
            "label": words.label,
            "yes_no": words.yes_no,
            "clock": words.clock,
            "span": words.span,
            "precise": words.precise,
            "laid_out": words.laid_out,
            "flat": words.flat,
            "relative": lambda text: words.relative(text, now()),
            "plain": escape_for_display,
        }
        static = resources.files("extproc.servers.console").joinpath("static")
        scripts = sorted(file.name for file in static.iterdir() if file.name.endswith(".min.js"))
        self._environment.globals |= {"scripts": scripts, "nav": nav}
        self._environment.globals["parts"] = self._environment.get_template("parts.html").module

    def roles(self, principal: Principal) -> frozenset[Role]:
        """What the groups of a token make somebody here."""
        if principal.kind != "human":
            return frozenset()
        return frozenset(
            role for role, groups in self._readers.items() if not groups.isdisjoint(principal.groups)
        )

    def show(
        self, template: str, session: Session, *, status: int = 200, headers: Mapping[str, str] | None = None,
        **values: Any,
    ) -> Response:  # fmt: skip
        """A page for somebody who is logged in, with what is to be said once."""
        said, session.said = session.said, []
        return self._answer(
            template, status, headers, said=said, csrf=session.csrf, me=session.principal,
            emergencies=session.emergencies, roles=self.roles(session.principal), **values,
        )  # fmt: skip

    def part(self, template: str, session: Session, **values: Any) -> Response:
        """A piece of a page; what is to be said waits for a whole one."""
        return self._answer(
            template, 200, None, csrf=session.csrf, me=session.principal,
            roles=self.roles(session.principal), **values,
        )  # fmt: skip

    def bare(self, template: str, *, status: int = 200, said: str = "", **values: Any) -> Response:
        """A page for somebody who is not logged in."""
        return self._answer(template, status, None, said=[said] if said else [], me=None, **values)

    def _answer(
        self, template: str, status: int, headers: Mapping[str, str] | None, **values: Any
    ) -> Response:
        text = self._environment.get_template(template).render(**values)
        return HTMLResponse(text, status, headers)
