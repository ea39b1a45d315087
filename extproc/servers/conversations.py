"""Which conversation a target's connections speak."""

from __future__ import annotations

from collections.abc import Callable

from extproc.domain.request import Source
from extproc.servers.envoy_proto import CallMetadata
from extproc.servers.mysql_conversation import open_mysql
from extproc.servers.network_ext_proc import Conversation, Opener, Output
from extproc.servers.postgres_conversation import open_postgres
from extproc.servers.service import Service

KINDS: dict[str, Opener] = {"postgres": open_postgres, "mysql": open_mysql}
"""By the target's kind."""


def open_conversation(
    service: Service, call: CallMetadata, source: Source, later: Callable[[Output], None]
) -> Conversation | None:
    """The conversation of a new connection; None when Envoy's configuration names no database target."""
    plan = service.current().targets.get(call.target)
    opener = KINDS.get(plan.kind) if plan is not None else None
    return opener(service, call, source, later) if opener is not None else None
