"""Which conversation a target's connections speak."""

from __future__ import annotations

from collections.abc import Callable

from extproc.domain.request import Source
from extproc.servers.envoy_proto import CallMetadata
from extproc.servers.network_ext_proc import Conversation, Opener, Output
from extproc.servers.service import Service


def conversations_of(service: Service) -> Opener:
    """What opens the conversations of this service's targets. It opens None for a target that is no database.

    Nothing else takes as long to import as the wires with their readers of SQL. Those that no target speaks are left
    out, the others are imported here and now: settings say which there are, and a new policy adds none.
    """
    kinds = {plan.kind for plan in service.current().targets.values()}
    openers = {kind: WIRES[kind]() for kind in sorted(kinds & WIRES.keys())}

    def open_conversation(
        service: Service, call: CallMetadata, source: Source, later: Callable[[Output], None]
    ) -> Conversation | None:
        plan = service.current().targets.get(call.target)
        opener = openers.get(plan.kind) if plan is not None else None
        return opener(service, call, source, later) if opener is not None else None

    return open_conversation


def _postgres() -> Opener:
    from extproc.servers.postgres_conversation import open_postgres

    return open_postgres


def _mysql() -> Opener:
    from extproc.servers.mysql_conversation import open_mysql

    return open_mysql


WIRES: dict[str, Callable[[], Opener]] = {"postgres": _postgres, "mysql": _mysql}
"""By the target's kind."""
