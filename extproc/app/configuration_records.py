"""What the ledger keeps of settings and policies, so that an auditor can see them as they were."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import orjson

from extproc.app.form import is_compiled
from extproc.config import Settings
from extproc.config.show import to_data
from extproc.policy import PolicySource

NO_PAYLOADS: Mapping[str, bytes] = {}
MAX_TEXTS = 4 << 20
"""Bytes of policy texts or settings that a record keeps; their digests are in the line in any case."""


def settings_loaded(settings: Settings) -> tuple[str, dict[str, Any], dict[str, bytes]]:
    """A `config.loaded` record: the digest of the effective settings and the settings. Secrets are references.

    `compiled` says which form of the request path serves.
    """
    shown = orjson.dumps(to_data(settings), option=orjson.OPT_SORT_KEYS)
    fields = {"digest": "sha256:" + sha256(shown).hexdigest(), "size": len(shown), "compiled": is_compiled()}
    return "config.loaded", fields, {"settings": shown} if len(shown) <= MAX_TEXTS else {}


def policy_texts(sources: Iterable[PolicySource]) -> Mapping[str, bytes]:
    """The payload `sources`: policy files by name (with their folder's), as they were read."""
    texts = {f"{Path(source.name).parent.name}/{Path(source.name).name}": source.text for source in sources}
    kept = orjson.dumps(texts, option=orjson.OPT_SORT_KEYS)
    return {"sources": kept} if len(kept) <= MAX_TEXTS else NO_PAYLOADS
