"""How a password is proven without saying it, by authentication plugin."""

from __future__ import annotations

import hashlib

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from nacl.bindings import (
    crypto_core_ed25519_scalar_add,
    crypto_core_ed25519_scalar_mul,
    crypto_core_ed25519_scalar_reduce,
    crypto_scalarmult_ed25519_base_noclamp,
)

from extproc.domain.errors import ProtocolError

NATIVE = "mysql_native_password"
CACHING_SHA2 = "caching_sha2_password"
CLEAR = "mysql_clear_password"
ED25519 = "client_ed25519"
_OAEP = padding.OAEP(mgf=padding.MGF1(algorithm=hashes.SHA1()), algorithm=hashes.SHA1(), label=None)  # noqa: S303


def _xor(one: bytes, other: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(one, other, strict=True))


def native(password: bytes, nonce: bytes) -> bytes:
    """SHA1(password) XOR SHA1(nonce + SHA1(SHA1(password)))."""
    if not password:
        return b""
    once = hashlib.sha1(password, usedforsecurity=False).digest()
    twice = hashlib.sha1(once, usedforsecurity=False).digest()
    return _xor(once, hashlib.sha1(nonce + twice, usedforsecurity=False).digest())


def caching_sha2(password: bytes, nonce: bytes) -> bytes:
    """SHA256(password) XOR SHA256(SHA256(SHA256(password)) + nonce)."""
    if not password:
        return b""
    once = hashlib.sha256(password).digest()
    twice = hashlib.sha256(once).digest()
    return _xor(once, hashlib.sha256(twice + nonce).digest())


def ed25519(password: bytes, nonce: bytes) -> bytes:
    """A signature of the nonce (MariaDB's plugin): Ed25519, but with a password of any length in the key's place."""
    secret = hashlib.sha512(password).digest()
    scalar = bytearray(secret[:32])
    scalar[0] &= 248
    scalar[31] = scalar[31] & 127 | 64
    once = crypto_core_ed25519_scalar_reduce(hashlib.sha512(secret[32:] + nonce).digest())
    point = crypto_scalarmult_ed25519_base_noclamp(once)
    public = crypto_scalarmult_ed25519_base_noclamp(bytes(scalar))
    challenge = crypto_core_ed25519_scalar_reduce(hashlib.sha512(point + public + nonce).digest())
    answer = crypto_core_ed25519_scalar_add(crypto_core_ed25519_scalar_mul(challenge, bytes(scalar)), once)
    return bytes(point + answer)


def _masked(password: bytes, nonce: bytes) -> bytes:
    """The password with its NUL, XORed with the nonce over and over: what goes under RSA."""
    text = password + b"\x00"
    return bytes(byte ^ nonce[number % len(nonce)] for number, byte in enumerate(text))


def encrypt(password: bytes, nonce: bytes, pem: bytes) -> bytes:
    """For a server's public key. Raises ProtocolError."""
    try:
        key = load_pem_public_key(pem)
        if not isinstance(key, rsa.RSAPublicKey) or key.key_size < 2048:
            raise ValueError
        return key.encrypt(_masked(password, nonce), _OAEP)
    except (ValueError, UnsupportedAlgorithm):
        raise ProtocolError("upstream-login", "the database's RSA key cannot be used") from None


def public_pem(key: rsa.RSAPrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def decrypt(encrypted: bytes, nonce: bytes, key: rsa.RSAPrivateKey) -> bytes:
    """What a client sent under our key. Raises ValueError."""
    text = key.decrypt(encrypted, _OAEP)
    return bytes(byte ^ nonce[number % len(nonce)] for number, byte in enumerate(text))
