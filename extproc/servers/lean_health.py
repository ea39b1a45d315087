"""grpc.health.v1 for the lean transport: what Envoy's health check asks, and who watches."""

from __future__ import annotations

from typing import Protocol

from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2

SERVICES = (
    "",
    "envoy.service.ext_proc.v3.ExternalProcessor",
    "envoy.service.auth.v3.Authorization",
    "envoy.service.network_ext_proc.v3.NetworkExternalProcessor",
)
HEALTH_CHECK_METHOD = "/grpc.health.v1.Health/Check"
HEALTH_WATCH_METHOD = "/grpc.health.v1.Health/Watch"

_Status = health_pb2.HealthCheckResponse
_SERVING: bytes = _Status(status=_Status.SERVING).SerializeToString()
_NOT_SERVING: bytes = _Status(status=_Status.NOT_SERVING).SerializeToString()
SERVICE_UNKNOWN: bytes = _Status(status=_Status.SERVICE_UNKNOWN).SerializeToString()


class Watcher(Protocol):
    """A Watch call."""

    def tell(self, answer: bytes) -> None: ...


class HealthBoard:
    """The health of all our services, which is one."""

    def __init__(self) -> None:
        self._serving = False
        self._watchers: dict[Watcher, str] = {}

    def answer(self, service: str) -> bytes | None:
        """A HealthCheckResponse; None for a service that is not ours."""
        if service not in SERVICES:
            return None
        return _SERVING if self._serving else _NOT_SERVING

    def set(self, serving: bool) -> None:
        """Change it, and tell those who watch."""
        if serving == self._serving:
            return
        self._serving = serving
        for watcher, service in list(self._watchers.items()):
            watcher.tell(self.answer(service) or SERVICE_UNKNOWN)

    def watch(self, watcher: Watcher, service: str) -> None:
        """Tell now and at every change. A service that is not ours is SERVICE_UNKNOWN, and may be watched."""
        self._watchers[watcher] = service
        watcher.tell(self.answer(service) or SERVICE_UNKNOWN)

    def leave(self, watcher: Watcher) -> None:
        """The Watch call ended."""
        self._watchers.pop(watcher, None)


def asked_service(data: bytes) -> str | None:
    """The service a HealthCheckRequest names; None when it does not parse."""
    try:
        return str(health_pb2.HealthCheckRequest.FromString(data).service)
    except DecodeError:
        return None
