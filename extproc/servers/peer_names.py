"""The names of a client certificate that an allow-list may hold. The same for both transports."""

from __future__ import annotations

from functools import lru_cache

from cryptography import x509


@lru_cache(maxsize=64)
def certificate_names(der: bytes) -> frozenset[str]:
    """URI and DNS names, as they stand in it; none where they cannot be read. Whoever asks has verified it."""
    try:
        found = x509.load_der_x509_certificate(der).extensions.get_extension_for_class(
            x509.SubjectAlternativeName
        )
    except (ValueError, x509.DuplicateExtension, x509.ExtensionNotFound, x509.UnsupportedGeneralNameType):
        return frozenset()
    uris = found.value.get_values_for_type(x509.UniformResourceIdentifier)
    return frozenset(uris) | frozenset(found.value.get_values_for_type(x509.DNSName))
