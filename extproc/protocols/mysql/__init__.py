"""The MySQL protocol, as MySQL and MariaDB speak it."""

from __future__ import annotations

from extproc.protocols.endings import ClientLeft, Ended, Refused, StatementEnded
from extproc.protocols.mysql.connection import MysqlConnection
from extproc.protocols.mysql.events import (
    BoundParameter,
    Column,
    Event,
    InquiryAnswered,
    LoggedIn,
    LoginReceived,
    MessageReceived,
    RowsDescribed,
    RowsReceived,
    SessionReset,
    StatementReceived,
)
from extproc.protocols.mysql.limits import Limits, Refusal, UpstreamLogin

__all__ = [
    "BoundParameter",
    "ClientLeft",
    "Column",
    "Ended",
    "Event",
    "InquiryAnswered",
    "Limits",
    "LoggedIn",
    "LoginReceived",
    "MessageReceived",
    "MysqlConnection",
    "Refusal",
    "Refused",
    "RowsDescribed",
    "RowsReceived",
    "SessionReset",
    "StatementEnded",
    "StatementReceived",
    "UpstreamLogin",
]
