"""What the kernel says about its clock: disciplined or not, and how far off it thinks it is."""

from __future__ import annotations

import ctypes
import ctypes.util

from extproc.ledger.checkpoint import Clock

_STA_UNSYNC = 0x40
_STA_NANO = 0x2000
_TIME_ERROR = 5


class _Timex(ctypes.Structure):
    """`struct timex` of adjtimex(2), as far as we read it; the rest is room for the kernel to write into."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_byte * 256),
    )


def kernel_clock() -> Clock:
    """Ask adjtimex without changing anything; `unknown` where there is no such call."""
    try:
        libc = ctypes.CDLL(ctypes.util.find_library("c"), use_errno=True)
        state = _Timex()
        answer = libc.adjtimex(ctypes.byref(state))
    except (OSError, AttributeError):
        return Clock()
    if answer < 0:
        return Clock()
    if answer == _TIME_ERROR or state.status & _STA_UNSYNC:
        return Clock("unsynchronised", None)
    offset = int(state.offset)
    # the kernel counts in nanoseconds if STA_NANO is set, else in microseconds
    return Clock("kernel", round(offset / 1000) if state.status & _STA_NANO else offset)
