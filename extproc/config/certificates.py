"""TLS that ends in the processor: certificate and key from the files that the settings name."""

from __future__ import annotations

import os
import ssl
import stat
from collections.abc import Iterator
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509 import load_pem_x509_certificate

from extproc.config.settings import ListenerTls, ServerTls, Settings, UpstreamTls
from extproc.domain.errors import ConfigError

POSTGRES_ALPN = "postgresql"
"""The protocol name that direct TLS must ask for (PostgreSQL, SSL Session Encryption)."""
HTTP2_ALPN = "h2"
"""The same for gRPC (RFC 9113 section 3.2)."""
HTTP2_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""What TLS 1.2 may use under HTTP/2: nothing of the prohibited list (RFC 9113 appendix A)."""
SHORTEST_RSA = 4096
"""Bits. OAEP with SHA-1 leaves 470 bytes of them, of which one ends the token."""


def server_context(tls: ListenerTls) -> ssl.SSLContext:
    """A context for one listener, TLS 1.2 or newer.

    Raises ConfigError when a file cannot be read, the key does not fit the certificate or others may read the key.
    """
    _check_key_file(tls.key)
    context = _listening(POSTGRES_ALPN)
    _load_pair(context, tls.certificate, tls.key)
    if tls.client_ca is not None:
        load_authorities(context, tls.client_ca)
        context.verify_mode = ssl.CERT_REQUIRED if tls.require_client_certificate else ssl.CERT_OPTIONAL
    return context


def processor_context(tls: ServerTls) -> ssl.SSLContext:
    """A context for the lean transport: TLS 1.2 or newer, clients must prove themselves. As grpcio, it takes an
    authority that another one signed as good enough by itself. Raises ConfigError when a file cannot be used.
    """
    context = _listening(HTTP2_ALPN)
    context.set_ciphers(HTTP2_CIPHERS)
    _load_pair(context, tls.certificate, tls.key)
    load_authorities(context, tls.client_ca)
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VERIFY_X509_TRUSTED_FIRST
    return context


def client_context(tls: UpstreamTls, authorities: Path) -> ssl.SSLContext:
    """A context for one server, TLS 1.2 or newer; `authorities` where the settings name none. Raises ConfigError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # checks certificate and name
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    load_authorities(context, tls.ca or authorities)
    if tls.certificate is not None and tls.key is not None:
        _check_key_file(tls.key)
        _load_pair(context, tls.certificate, tls.key)
    return context


def token_key(path: Path) -> RSAPrivateKey:
    """What MySQL clients encrypt their token under. Raises ConfigError, also when others may read it."""
    _check_key_file(path)
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ConfigError(f"{path}: is no PEM private key that can be read without a password") from None
    if not isinstance(key, RSAPrivateKey) or key.key_size < SHORTEST_RSA:
        raise ConfigError(f"{path}: is no RSA key of {SHORTEST_RSA} bits or more; no token fits under less")
    return key


def until(certificate: Path) -> str:
    """When the first certificate of a file ends, as ISO 8601 has it. Raises ConfigError."""
    try:
        return load_pem_x509_certificate(certificate.read_bytes()).not_valid_after_utc.isoformat()
    except OSError as error:
        raise ConfigError(f"{certificate}: {error.strerror}") from None
    except ValueError:
        raise ConfigError(f"{certificate}: has no PEM certificate") from None


def load_authorities(context: ssl.SSLContext, authorities: Path) -> None:
    """Trust these. Raises ConfigError when the file cannot be read or has none."""
    try:
        context.load_verify_locations(cafile=authorities)
    except ssl.SSLError:
        raise ConfigError(f"{authorities}: has no PEM certificates") from None
    except OSError as error:
        raise ConfigError(f"{authorities}: {error.strerror}") from None


def certificate_faults(settings: Settings) -> Iterator[tuple[str, str]]:
    """The place and the fault of everything that TLS in the processor cannot use."""
    if settings.processor.tls is not None:
        try:
            processor_context(settings.processor.tls)
        except ConfigError as error:
            yield "processor.tls", str(error)
    for number, listener in enumerate(settings.listeners):
        if listener.tls is not None and listener.tls.terminate == "extproc":
            try:
                server_context(listener.tls)
            except ConfigError as error:
                yield f"listeners[{number}].tls", str(error)
        if listener.rsa_key is not None:
            try:
                token_key(listener.rsa_key)
            except ConfigError as error:
                yield f"listeners[{number}].rsa_key", str(error)
    for number, target in enumerate(settings.targets):
        tls = target.wire_tls
        if tls is not None:
            try:
                client_context(tls, settings.envoy.ca_bundle)
            except ConfigError as error:
                yield f"targets[{number}].upstream.tls", str(error)


def check_certificates(settings: Settings) -> None:
    """Raises ConfigError with the first fault."""
    for place, fault in certificate_faults(settings):
        raise ConfigError(f"{place}: {fault}")


def _listening(alpn: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # Every connection is verified anew: a ticket would carry a verified certificate past its end.
    context.num_tickets = 0
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols([alpn])
    return context


def _check_key_file(key: Path) -> None:
    """Only its owner may read it; a key of root may be for a group as well, as PostgreSQL has it."""
    try:
        status = key.stat()
    except OSError as error:
        raise ConfigError(f"{key}: {error.strerror}") from None
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError(f"{key}: is not a regular file")
    if status.st_uid not in (0, os.geteuid()):
        raise ConfigError(f"{key}: belongs to another user (uid {status.st_uid})")
    others = 0o077 if status.st_uid == os.geteuid() != 0 else 0o037
    if status.st_mode & others:
        raise ConfigError(
            f"{key}: others may use this key (mode {stat.S_IMODE(status.st_mode):04o}); chmod 600 it"
        )


def _load_pair(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except ssl.SSLError as error:
        raise ConfigError(f"{certificate}: {_chain_trouble(error)} ({key})") from None
    except OSError as error:
        raise ConfigError(f"{certificate}: {error.strerror}") from None


def _no_password() -> str:
    raise ConfigError("the key is encrypted; extproc cannot ask for its password")


def _chain_trouble(error: ssl.SSLError) -> str:
    if error.reason == "KEY_VALUES_MISMATCH":
        return "the key does not belong to this certificate"
    return "certificate and key cannot be read as PEM"
