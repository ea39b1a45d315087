"""Which settings a rolling reload may change, decided here alone. What is not listed needs a restart."""

from __future__ import annotations

from typing import Final

import msgspec

from extproc.config.settings import Settings
from extproc.domain.errors import ConfigError

ROLLS: Final = frozenset(
    {
        "listeners", "targets", "identity", "policies", "masks", "masking", "approvals", "console", "limits", "envoy",
        "processor.drain", "processor.tls", "holds.limits", "holds.keep", "ledger.ship", "ledger.retention",
    }
)  # fmt: skip
"""Read by the workers and the approvals process, which a roll starts anew, or by commands alone."""
RESTARTS: Final = {
    "apiVersion": "it says how the file is read",
    "kind": "it says how the file is read",
    "state": "everything kept is there",
    "processor": "workers hand their places on, one for one",
    "holds": "old and new workers must see the same holds",
    "ledger": "the supervisor and the checkpointer go on with theirs",
    "telemetry": "the exporter and the metrics go on with theirs",
}
"""Why the rest needs one."""


def changed(before: Settings, after: Settings) -> tuple[str, ...]:
    """Where two trees differ, as `branch` or `branch.setting`."""
    found: list[str] = []
    for field in msgspec.structs.fields(Settings):
        old, new = getattr(before, field.name), getattr(after, field.name)
        if old == new:
            continue
        if isinstance(old, msgspec.Struct) and type(old) is type(new):
            inner = msgspec.structs.fields(type(old))
            found += [
                f"{field.encode_name}.{each.encode_name}"
                for each in inner
                if getattr(old, each.name) != getattr(new, each.name)
            ]
        else:
            found.append(field.encode_name)
    return tuple(found)


def check_roll(before: Settings, after: Settings) -> tuple[str, ...]:
    """What a roll from one to the other changes. Raises ConfigError that names all that needs a restart."""
    old, new = before.processor, after.processor
    if not old.listen.is_unix and old.transport == "grpcio":
        raise ConfigError(
            "processor.listen: grpcio cannot hand a TCP port to a new worker; restart extproc serve"
        )
    places = changed(before, after)
    fixed = {
        place: RESTARTS[place.partition(".")[0]]
        for place in places
        if not {place, place.partition(".")[0]} & ROLLS
    }
    if (old.tls is None) != (new.tls is None):
        fixed["processor.tls"] = "Envoy would have to change at the same moment"
    if fixed:
        reasons = "\n".join(f"{place}: {reason}" for place, reason in fixed.items())
        raise ConfigError(f"a rolling reload cannot change this; restart extproc serve:\n{reasons}")
    return places
