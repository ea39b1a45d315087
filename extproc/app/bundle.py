"""A policy bundle: the exact sources the supervisor checked, so that every worker loads the same bytes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from extproc.config import Settings
from extproc.masking import MaskSecrets, compile_masker
from extproc.masking.rows import compile_rows
from extproc.policy import PolicySet, PolicySource, TargetInfo, load_policies

NO_SECRETS = MaskSecrets(hash_salt=bytes(32), hmac_key=bytes(32))
"""For checking masks only: nothing is masked with these."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """Policy sources with the digest of what they load to."""

    sources: tuple[PolicySource, ...]
    digest: str


def load_bundle(settings: Settings, sources: Sequence[PolicySource]) -> PolicySet:
    """Compile and check everything, masks too. Raises PolicyError with every mistake."""
    targets = {target.name: TargetInfo(target.kind, target.labels) for target in settings.targets}
    policies = load_policies(sources, targets, engine=settings.policies.engine)
    check_masks(policies)
    return policies


def check_masks(policies: PolicySet) -> None:
    """Compile every mask once. Raises PolicyError for an unknown entity or a path that is none."""
    for spec in policies.masks.values():
        compile_rows([spec], NO_SECRETS, compile_masker([spec], NO_SECRETS))


def write_bundle(folder: Path, bundle: Bundle) -> Path:
    """Write it where the workers read it, named by its content. Returns the path."""
    body = orjson.dumps(
        {"digest": bundle.digest, "sources": [{"name": s.name, "text": s.text} for s in bundle.sources]}
    )
    return keep_for_children(folder, "policy", body, ".json")


def keep_for_children(folder: Path, name: str, body: bytes, suffix: str) -> Path:
    """Write what children are started with, for their own user alone and named by its content. Returns the path."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / f"{name}-{hashlib.sha256(body).hexdigest()[:24]}{suffix}"
    part = path.with_suffix(f".{os.getpid()}.part")
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(body)
    part.replace(path)
    return path


def drop_bundles(kept: Path) -> None:
    """Remove every bundle beside `kept`: a worker that was told of one has read it, or starts again."""
    for path in kept.parent.glob("policy-*"):
        if path != kept and path.suffix in (".json", ".part"):
            path.unlink(missing_ok=True)


def read_bundle(path: Path) -> Bundle:
    """Raises OSError and ValueError for what is no bundle."""
    body: dict[str, Any] = orjson.loads(path.read_bytes())
    sources = tuple(PolicySource(entry["name"], entry["text"]) for entry in body["sources"])
    return Bundle(sources, str(body["digest"]))
