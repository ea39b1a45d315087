"""What Envoy and the relay say to each other beside the bytes of a connection: both sides of it read it here."""

from __future__ import annotations

TLV_TARGET, TLV_LISTENER, TLV_PEER, TLV_CERTIFICATE = 0xE0, 0xE1, 0xE2, 0xE3
"""Types in the PROXY header that are ours (the specification leaves 0xE0 to 0xEF to applications): target and
listener, from Envoy's configuration alone; URI SAN and fingerprint of the certificate that the caller showed."""
ABSENT = b"-"
"""What Envoy writes for a value that is not there."""
PING, PONG = b"extproc health?\n", b"serving\n"
"""What Envoy's health check says behind a LOCAL header, and what it hears while we serve."""
