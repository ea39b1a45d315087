"""Settings become those who are believed: issuers with their keys, and Envoy's word where it is trusted."""

from __future__ import annotations

from extproc.adapters.jwks import JwksKeys
from extproc.adapters.jwks_sources import KeySource
from extproc.config import Settings
from extproc.identity import ClaimRules, MetadataTrust, ProviderRules, TokenIdentifier, Verifier


def open_keys(settings: Settings) -> JwksKeys:
    """The key sets of all providers."""
    return JwksKeys(
        KeySource(
            provider=provider.name,
            issuer=provider.issuer,
            discovery=provider.keys.discovery,
            jwks_url=provider.keys.jwks_url or "",
            jwks_file=str(provider.keys.jwks_file or ""),
            insecure_loopback=provider.insecure_loopback,
        )
        for provider in settings.identity.providers
    )


def build_identifier(settings: Settings, keys: JwksKeys) -> TokenIdentifier:
    """Bearer tokens we verify ourselves, or Envoy's verified payload where the settings trust it."""
    return TokenIdentifier(
        Verifier(provider_rules(settings), max_token_bytes=settings.limits.token_bytes),
        keys,
        settings.identity.header,
        _metadata_trust(settings),
    )


def _metadata_trust(settings: Settings) -> MetadataTrust | None:
    """Envoy's verified payload; claims are read as for the provider of the same issuer, where there is one."""
    trusted = settings.identity.trust.metadata
    if trusted is None:
        return None
    known = {rules.issuer: rules for rules in provider_rules(settings)}.get(trusted.issuer)
    return MetadataTrust(
        trusted.namespace,
        trusted.key,
        trusted.issuer,
        tuple(trusted.audiences),
        skew=known.skew if known is not None else 30.0,
        claims=known.claims if known is not None else ClaimRules(),
    )


def provider_rules(settings: Settings, audience: str = "") -> list[ProviderRules]:
    """The identity providers; with `audience`, for tokens of that audience instead of the data path's."""
    return [
        ProviderRules(
            name=provider.name,
            issuer=provider.issuer,
            audiences=(audience,) if audience else tuple(provider.audiences),
            algorithms=tuple(provider.algorithms),
            skew=provider.skew,
            claims=ClaimRules.of(
                groups=provider.claims.groups,
                kind=provider.claims.kind,
                person=provider.claims.person,
                default_kind=provider.default_kind,
            ),
        )
        for provider in settings.identity.providers
    ]
