"""`extproc.yaml`: one frozen tree of settings, read and checked at start."""

from extproc.config.checks import WAIT_MARGIN, check_waits
from extproc.config.document import InvalidConfigError, Problem
from extproc.config.load import load_config, parse_config
from extproc.config.secret import SecretRef
from extproc.config.settings import (
    Listener,
    Provider,
    Route,
    Settings,
    Target,
)
from extproc.config.units import Address, StoreLocation

__all__ = [
    "WAIT_MARGIN",
    "Address",
    "InvalidConfigError",
    "Listener",
    "Problem",
    "Provider",
    "Route",
    "SecretRef",
    "Settings",
    "StoreLocation",
    "Target",
    "check_waits",
    "load_config",
    "parse_config",
]
