"""Durations (`30s`, `10m`), sizes (`64KiB`), addresses and store locations: text in, small values out, and back."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path

_DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE_UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
DURATION_PATTERN = r"^[0-9]+(\.[0-9]+)?(ms|s|m|h|d)$"
SIZE_PATTERN = r"^[0-9]+(B|KiB|MiB|GiB)$"
_HOST_NAME = re.compile(
    r"(?=.{1,253}$)[A-Za-z0-9_]([A-Za-z0-9_-]{0,62})(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,62}))*\.?$"
)
LONGEST_SOCKET_PATH = 107
"""`sun_path` is 108 bytes with its closing zero (unix(7)); Envoy's pipe addresses have the same bound."""


def parse_duration(text: str) -> float:
    """`30s` -> 30.0 seconds. Raises ValueError with a sentence."""
    if not re.fullmatch(DURATION_PATTERN, text):
        raise ValueError(
            f'"{text}" is not a duration; write a number and a unit, such as 500ms, 30s, 10m, 24h or 7d'
        )
    number, unit = re.fullmatch(r"([0-9.]+)([a-z]+)", text).groups()  # type: ignore[union-attr]
    return float(number) * _DURATION_UNITS[unit]


def format_duration(seconds: float) -> str:
    """The shortest text that `parse_duration` reads back to the same number."""
    for unit in ("d", "h", "m", "s"):
        if seconds and seconds % _DURATION_UNITS[unit] == 0:
            return f"{int(seconds / _DURATION_UNITS[unit])}{unit}"
    if seconds == 0:
        return "0s"
    millis = seconds * 1000
    return f"{int(millis)}ms" if millis == int(millis) else f"{seconds!r}s"


def parse_size(text: str) -> int:
    """`64KiB` -> 65536 bytes. Raises ValueError with a sentence."""
    found = re.fullmatch(r"([0-9]+)(B|KiB|MiB|GiB)", text)
    if found is None:
        raise ValueError(
            f'"{text}" is not a size; write whole bytes or a number and B, KiB, MiB or GiB, such as 64KiB'
        )
    return int(found[1]) * _SIZE_UNITS[found[2]]


def format_size(size: int) -> str:
    """The shortest text that `parse_size` reads back to the same number."""
    for unit in ("GiB", "MiB", "KiB"):
        if size and size % _SIZE_UNITS[unit] == 0:
            return f"{size // _SIZE_UNITS[unit]}{unit}"
    return f"{size}B"


@dataclass(frozen=True, slots=True)
class Address:
    """A unix socket (`path`) or a host and port; never both."""

    path: Path | None = None
    host: str = ""
    port: int = 0

    @classmethod
    def parse(cls, text: str, base: Path) -> Address:
        """`unix:./run/a.sock`, `127.0.0.1:80`, `[::1]:80` or `api.internal:443`.

        Relative paths start at `base`. Raises ValueError with a sentence.
        """
        if text.startswith("unix:"):
            if not text[5:]:
                raise ValueError("unix: needs a path, such as unix:./state/run/a.sock")
            return cls(path=absolute(text[5:], base))
        host, colon, port = text.rpartition(":")
        if not colon or not re.fullmatch(r"[0-9]{1,5}", port) or not 0 < int(port) < 65536:
            raise ValueError(f'"{text}" is not an address; write host:port or unix:path')
        bracketed = host.startswith("[") and host.endswith("]")
        host = host[1:-1] if bracketed else host
        if ":" in host and not bracketed:
            raise ValueError(f'"{text}": an IPv6 address stands in brackets, such as [::1]:{port}')
        if not _is_ip(host) and (bracketed or not _HOST_NAME.match(host)):
            raise ValueError(f'"{text}": "{host}" is neither an IP address nor a host name')
        return cls(host=host, port=int(port))

    @property
    def is_unix(self) -> bool:
        return self.path is not None

    @property
    def is_ip(self) -> bool:
        return _is_ip(self.host)

    @property
    def is_loopback(self) -> bool:
        """A unix socket, a loopback IP or `localhost`: nothing of it leaves this machine."""
        if self.is_unix or self.host == "localhost":
            return True
        return self.is_ip and ipaddress.ip_address(self.host).is_loopback

    def worker(self, number: int) -> Address:
        """The address of worker `number` when there are several: `a-1.sock`, or the port plus one."""
        if self.path is not None:
            return Address(path=self.path.with_name(f"{self.path.stem}-{number}{self.path.suffix}"))
        return Address(host=self.host, port=self.port + number)

    def __str__(self) -> str:
        if self.path is not None:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class StoreLocation:
    """Where holds are kept: `sqlite:./state/holds.db`."""

    path: Path
    engine: str = "sqlite"

    @classmethod
    def parse(cls, text: str, base: Path) -> StoreLocation:
        """Raises ValueError with a sentence."""
        engine, _, path = text.partition(":")
        if engine != "sqlite" or not path:
            raise ValueError(
                f'"{text}" is not a hold store; write sqlite: and a path, such as sqlite:./state/holds.db'
            )
        return cls(path=absolute(path, base))

    def __str__(self) -> str:
        return f"{self.engine}:{self.path}"


def absolute(text: str, base: Path) -> Path:
    """Relative paths start at the folder of the file that names them."""
    return Path(base, text).absolute()


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
