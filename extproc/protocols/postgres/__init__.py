"""The Postgres wire protocol, sans-io: what a client and its server say, message by message."""

from extproc.protocols.endings import ClientLeft, Ended, Refused, StatementEnded
from extproc.protocols.postgres.connection import PostgresConnection
from extproc.protocols.postgres.events import (
    BackendKey,
    BoundParameter,
    CancelReceived,
    Column,
    CopyReceived,
    CopyStarted,
    Event,
    InquiryAnswered,
    LoggedIn,
    LoginReceived,
    MessageReceived,
    RowsDescribed,
    RowsReceived,
    StatementReceived,
)
from extproc.protocols.postgres.front_filter import FrontFilter
from extproc.protocols.postgres.limits import CLIENT_CHOSEN, Limits, Refusal, UpstreamLogin
from extproc.protocols.tls import ServerTlsPlan

__all__ = [
    "CLIENT_CHOSEN",
    "BackendKey",
    "BoundParameter",
    "CancelReceived",
    "ClientLeft",
    "Column",
    "CopyReceived",
    "CopyStarted",
    "Ended",
    "Event",
    "FrontFilter",
    "InquiryAnswered",
    "Limits",
    "LoggedIn",
    "LoginReceived",
    "MessageReceived",
    "PostgresConnection",
    "Refusal",
    "Refused",
    "RowsDescribed",
    "RowsReceived",
    "ServerTlsPlan",
    "StatementEnded",
    "StatementReceived",
    "UpstreamLogin",
]
