"""Settings and policies become a `Governance`: targets with rules and maskers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from extproc.app.state_keys import StateKeys
from extproc.config import Settings, Target
from extproc.config.certificates import client_context, server_context, token_key
from extproc.config.settings import Listener
from extproc.domain.mask import MaskSpec
from extproc.identity import TokenIdentifier
from extproc.masking import ENTITIES, Masker, MaskSecrets, compile_masker
from extproc.masking.literal_stream import build_literals
from extproc.masking.literals import literal_forms
from extproc.masking.rows import RowMasks, compile_rows
from extproc.pipeline import Credential, DatabasePlan, DatabaseRole, Governance, TargetPlan
from extproc.pipeline.governance import CALLERS_PROOF
from extproc.pipeline.listeners import Caller, ListenerPlan
from extproc.pipeline.locks import LockBoard
from extproc.policy import PolicySet
from extproc.protocols.tls import ServerTlsPlan

MAX_COMBINATIONS = 64
"""Combinations of a target's masks that stay compiled; callers choose by what they ask which ones are met."""


def build_governance(
    settings: Settings,
    policies: PolicySet,
    state: StateKeys,
    identifier: TokenIdentifier,
    locks: LockBoard | None = None,
) -> Governance:
    """Everything an exchange needs, compiled. Raises PolicyError and ConfigError."""
    masking = MaskSecrets(
        hash_salt=_secret(settings.masking.hash_salt, state.hash_salt),
        hmac_key=_secret(settings.masking.hmac_key, state.hmac),
    )
    plans = {target.name: _plan(settings, target, policies, masking) for target in settings.targets}
    return Governance(
        targets=plans,
        identifier=identifier,
        policy_digest=policies.digest,
        binding_key=state.binding,
        record_key=state.record,
        strip_headers=CALLERS_PROOF | {settings.identity.header},
        max_wait=max(0.0, settings.limits.max_message_timeout - 15.0),
        degraded=_degraded(settings),
        locks=locks or LockBoard(),
        skews={provider.name: provider.skew for provider in settings.identity.providers},
        listeners={
            listener.name: _listener(listener)
            for listener in settings.listeners
            if listener.protocol != "http"
        },
    )


def _listener(listener: Listener) -> ListenerPlan:
    """Certificates are read here, so that a reload takes new ones. Raises ConfigError."""
    tls, address = listener.tls, listener.address
    ended_here = tls is not None and tls.terminate == "extproc"
    return ListenerPlan(
        name=listener.name,
        target=listener.target or "",
        tls=server_context(tls) if tls is not None and ended_here else None,
        rsa_key=token_key(listener.rsa_key) if listener.rsa_key is not None else None,
        takes_cleartext=not ended_here
        and (tls is not None or listener.cleartext_tokens or address.is_unix or address.is_loopback),
        filtered=tls is not None and tls.terminate == "contrib",
        callers=tuple(
            Caller(caller.uri, caller.kind, caller.groups, caller.person) for caller in listener.callers
        ),
    )


def _plan(settings: Settings, target: Target, policies: PolicySet, secrets: MaskSecrets) -> TargetPlan:
    credential = None
    literals: list[str] = []
    if target.credential is not None:
        secret = target.credential.value.resolve()
        value = target.credential.prefix + secret
        credential = Credential(target.credential.header, value, build_literals(literal_forms(secret)))
        literals.append(secret)
    database = _database(settings, target)
    if database is not None:
        literals.extend(role.password for role in database.roles.values() if role.password)
    # headers are masked too, and all of a request's together are no longer than Envoy lets them be
    limit = max(target.limits.request_body, target.limits.response_body, settings.limits.header_bytes) + 1024
    masker_for = _maskers(policies.masks, secrets, literals, limit)
    if database is not None:
        database = replace(database, row_masks=_row_masks(policies.masks, secrets, masker_for, target.kind))
    return TargetPlan(
        name=target.name,
        kind=target.kind,
        labels=dict(target.labels),
        rules=policies.for_target(target.name),
        record_masker=compile_masker(
            [_record_spec(settings, target)], secrets, literals=literals, max_bytes=limit
        ),
        masker_for=masker_for,
        credential=credential,
        volatile_headers=frozenset(target.volatile_headers),
        request_limit=target.limits.request_body,
        response_limit=target.limits.response_body,
        record_request=target.record.request,
        record_response=target.record.response,
        record_max=target.record.max_bytes,
        unparsable_json=target.unparsable_json,
        prefer_wait=target.prefer.wait,
        prefer_async=target.prefer.asynchronous,
        degraded=_target_degraded(target),
        database=database,
    )


def _upstream_tls(settings: Settings, target: Target) -> ServerTlsPlan | None:
    tls = target.wire_tls
    if tls is None:
        return None
    context = client_context(tls, settings.envoy.ca_bundle)
    return ServerTlsPlan(context, tls.server_name or target.upstream.address.host)


def _database(settings: Settings, target: Target) -> DatabasePlan | None:
    database = target.database
    if database is None:
        return None
    upstream = target.upstream
    return DatabasePlan(
        roles={
            name: DatabaseRole(
                role.user,
                role.password.resolve() if role.password is not None else "",
                frozenset(role.groups),
            )
            for name, role in database.roles.items()
        },
        protected=upstream.address.is_unix or upstream.transport is not None,
        wait_in_transaction=database.wait_in_transaction,
        notice_every=database.notice_every,
        statement_limit=database.statement_bytes,
        waiting_limit=database.waiting_bytes,
        unparsed=database.unparsed,
        masked_use=database.masked_use,
        on_expiry=database.session.on_expiry,
        max_age=database.session.max_age or 0.0,
        upstream_tls=_upstream_tls(settings, target),
        filter_asks=upstream.transport is not None and upstream.transport.originate == "contrib",
    )


def _target_degraded(target: Target) -> tuple[str, ...]:
    """Opt-outs of a target that its records carry."""
    found = []
    if target.upstream.tls == "off":
        found.append("upstream-cleartext")
    if target.database is not None and target.database.unparsed != "deny":
        found.append("unparsed-judged")
    return tuple(found)


def _record_spec(settings: Settings, target: Target) -> MaskSpec:
    """What everything kept goes through: the named mask, or every recognizer there is."""
    if target.record.mask is not None:
        return settings.masks[target.record.mask].to_spec(target.record.mask)
    return MaskSpec("record-default", entities=tuple(ENTITIES), operator="replace")


def _maskers(
    specs: Mapping[str, MaskSpec], secrets: MaskSecrets, literals: list[str], limit: int
) -> Callable[[tuple[str, ...]], Masker]:
    """Maskers by combination of names: single masks are compiled now, combinations when first met."""
    made: dict[tuple[str, ...], Masker] = {}
    room = len(specs) + 1 + MAX_COMBINATIONS

    def masker_for(names: tuple[str, ...]) -> Masker:
        masker = made.get(names)
        if masker is None:
            chosen = [specs[name] for name in names]
            masker = compile_masker(chosen, secrets, literals=literals, max_bytes=limit)
            if len(made) >= room:
                del made[next(name for name in made if len(name) > 1)]  # the oldest combination
            made[names] = masker
        return masker

    masker_for(())
    for name in specs:
        masker_for((name,))
    return masker_for


def _row_masks(
    specs: Mapping[str, MaskSpec],
    secrets: MaskSecrets,
    masker_for: Callable[[tuple[str, ...]], Masker],
    kind: str,
) -> Callable[[tuple[str, ...]], RowMasks]:
    """The same for rows."""
    made: dict[tuple[str, ...], RowMasks] = {}

    def row_masks(names: tuple[str, ...]) -> RowMasks:
        masks = made.get(names)
        if masks is None:
            masks = compile_rows([specs[name] for name in names], secrets, masker_for(names))
            made[names] = masks = masks.without_case() if kind == "mysql" else masks
        return masks

    return row_masks


def _secret(reference: Any, made: bytes) -> bytes:
    return reference.resolve().encode() if reference is not None else made


def _degraded(settings: Settings) -> tuple[str, ...]:
    """Opt-outs that every record carries."""
    processor = settings.processor
    is_open = processor.insecure and not processor.listen.is_unix and processor.tls is None
    return ("insecure-listener",) if is_open else ()
