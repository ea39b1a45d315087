"""A worker: one process, one event loop, one socket that Envoy calls."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from extproc.adapters.control import Control
from extproc.adapters.random_hex import RandomHex
from extproc.app.bundle import load_bundle, read_bundle
from extproc.app.figures import tell_figures
from extproc.app.form import is_compiled
from extproc.app.governing import build_governance
from extproc.app.hold_stores import open_holds
from extproc.app.identifying import build_identifier, open_keys
from extproc.app.leaving import Retirement
from extproc.app.ledgers import open_ledger
from extproc.app.lock_keeper import lock_file
from extproc.app.loops import loop_name
from extproc.app.memory import settle_request_path
from extproc.app.relaying import build_relay
from extproc.app.renewing import CertificateWatch, keep_renewed
from extproc.app.siblings import Siblings
from extproc.app.state_keys import load_state_keys
from extproc.config import Address, Settings
from extproc.config.certificates import processor_context
from extproc.config.settings import ServerTls
from extproc.pipeline import Governance
from extproc.pipeline.locks import LockBoard
from extproc.servers.desk import HoldDesk
from extproc.servers.lean_transport import LeanServer
from extproc.servers.peer_gate import PeerGate, beside
from extproc.servers.relay import RelayServer
from extproc.servers.service import Service

if TYPE_CHECKING:
    import grpc

    from extproc.servers.grpc_transport import GrpcServer
    from extproc.servers.reflection import Reflection

log = structlog.get_logger()

DRAIN = 5.0
"""Seconds running exchanges get after Envoy was told that we are going."""
LAST_WORD = 1.0
"""Seconds before the end of them in which database sessions that still run are told."""
HEALTH_SEEN = 1.5
"""Seconds for Envoy's health check to notice."""


class Worker:
    """What one worker process runs."""

    def __init__(self, settings: Settings, index: int, bundle: Path, listeners: Sequence[int] = ()) -> None:
        """`listeners`: file descriptors of the TCP sockets at our place, where the supervisor holds them."""
        self._settings = settings
        self._index = index
        self._listeners = [socket.socket(fileno=each) for each in listeners]
        self._keys = open_keys(settings)
        self._identifier = build_identifier(settings, self._keys)
        self._state = load_state_keys(settings.state)
        self._holds = open_holds(settings)
        self._board = LockBoard(lock_file(settings).load())
        self._ledger = open_ledger(settings, f"worker{index}")
        self._prepared: Governance | None = None
        self._retirement = Retirement()
        desk = HoldDesk(self._holds, now=time.time, open_waits=settings.limits.open_waits)
        self._service = Service(
            governance=self._load(bundle),
            ledger=self._ledger,
            desk=desk,
            keys=self._keys,
            now=time.time,
            new_hex=RandomHex(),
            max_message=settings.envoy.grpc_message_bytes,
        )

    async def run(self, control: Control, stopping: asyncio.Event) -> None:
        """Serve until `stopping`. Ready only when policy, keys, holds and ledger are."""
        settings = self._settings
        await self._holds.check()
        await self._keys.refresh_due(time.time())
        siblings = Siblings(control, self._service.sessions, self._board)
        server = self._server()
        relay = build_relay(settings, self._service)
        if relay is not None:
            address = settings.processor.relay_addresses[self._index].path
            assert address is not None  # noqa: S101  (settings were checked)
            address.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            relay.listen(address)
        tls = settings.processor.tls
        watch = CertificateWatch(tls) if tls is not None else None  # before the files are read
        pending = self._listen(server, settings.processor.addresses[self._index])
        settle_request_path()
        background = [
            asyncio.create_task(self._keys.run(), name="keys"),
            asyncio.create_task(self._follow(control, siblings, stopping), name="control"),
        ]
        if watch is not None and isinstance(server, LeanServer):
            background.append(asyncio.create_task(keep_renewed(watch, server.renew), name="certificate"))
        if settings.telemetry.metrics is not None:
            background.append(asyncio.create_task(tell_figures(control, self._figures), name="figures"))
        try:
            # from here on we are at the place of the worker before us, if there is one
            await server.start()
            if isinstance(pending, PeerGate):
                await pending.start()
            elif pending is not None:
                place = settings.processor.addresses[self._index].path
                assert place is not None  # noqa: S101  (only a unix socket is put in its place late)
                pending.replace(place)
            if relay is not None:
                await relay.start()
            log.info(
                "worker.ready",
                index=self._index, policy=self._service.governance.policy_digest, compiled=is_compiled(),
                loop=loop_name(asyncio.get_running_loop()),
            )  # fmt: skip
            await control.send({"ready": self._service.governance.policy_digest})
            await self._retirement.wait(stopping)
            if stopping.is_set():
                await server.set_healthy(False)
                if relay is not None:
                    relay.is_healthy = False
                await asyncio.sleep(HEALTH_SEEN)
            else:
                server.hand_over()
                await self._retirement.until_idle(
                    stopping, lambda: self._is_idle(server, relay), server.settle
                )
            await self._end(server, relay)
        finally:
            for task in background:
                task.cancel()
            await asyncio.gather(*background, return_exceptions=True)
            if isinstance(pending, PeerGate):
                pending.close()
            await self._keys.close()
            await self._holds.aclose()
            self._ledger.close()

    def _is_idle(self, server: GrpcServer | LeanServer, relay: RelayServer | None) -> bool:
        """Nothing is being exchanged, no database session is open, and nobody is about to connect."""
        service = self._service
        return not (
            service.open_streams
            or service.open_checks
            or (relay is not None and relay.has_sessions)
            or (isinstance(server, LeanServer) and server.has_handshakes)
        )

    async def _end(self, server: GrpcServer | LeanServer, relay: RelayServer | None) -> None:
        """Database sessions are told, as they become idle or when their time is over; then everything is cut."""
        service = self._service
        service.go_away(at_once=False)
        last = asyncio.get_running_loop().call_later(DRAIN - LAST_WORD, service.go_away, True)
        try:
            await asyncio.gather(server.stop(DRAIN), *([relay.stop(DRAIN)] if relay is not None else []))
        finally:
            last.cancel()

    def _figures(self) -> dict[str, Any]:
        service = self._service
        ages = {health.provider: health.age for health in self._keys.health(time.time())}
        return {
            "open_streams": service.open_streams,
            "open_waits": service.desk.waiting,
            "refused_commits": service.refused_commits,
            "lost_access": service.lost_access,
            "ledger_healthy": self._ledger.healthy,
            "keys": {name: age for name, age in ages.items() if age is not None},
            "without_keys": [name for name, age in ages.items() if age is None],
        }

    def _load(self, bundle: Path) -> Governance:
        policies = load_bundle(self._settings, read_bundle(bundle).sources)
        return build_governance(self._settings, policies, self._state, self._identifier, self._board)

    def _server(self) -> GrpcServer | LeanServer:
        """The transport that was asked for."""
        processor = self._settings.processor
        sans = frozenset(processor.tls.client_sans) if processor.tls is not None else None
        reflection = _reflection() if processor.reflection else None
        if processor.transport == "grpcio":
            # the lean transport does without grpcio
            from extproc.servers.grpc_transport import GrpcServer

            return GrpcServer(self._service, client_sans=sans, reflection=reflection)
        return LeanServer(
            self._service, uids=processor.peers.uids, gid=processor.peers.gid, client_sans=sans or (),
            reflection=reflection,
        )  # fmt: skip

    def _listen(self, server: GrpcServer | LeanServer, address: Address) -> PeerGate | Path | None:
        """Bind the server, and say what is still to be put at its place once it has started.

        grpcio binds by a name of its own, which it removes at its end. Where others than our own uid may connect,
        it needs a gate that checks them.
        """
        processor = self._settings.processor
        if isinstance(server, LeanServer):
            if address.path is not None:
                address.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                server.listen(str(address))
            else:
                server.take(self._listeners, processor_context(processor.tls) if processor.tls else None)
            return None
        if address.path is None:
            server.listen(str(address), _credentials(processor.tls))
            return None
        address.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        own_only = set(processor.peers.uids) <= {os.geteuid()} and processor.peers.gid is None
        inner = beside(address.path)
        before = os.umask(0o177)
        try:
            server.listen(f"unix:{inner}")
        finally:
            os.umask(before)
        inner.chmod(0o600)
        if own_only:
            return inner
        return PeerGate(address.path, inner, processor.peers.uids, processor.peers.gid)

    async def _follow(self, control: Control, siblings: Siblings, stopping: asyncio.Event) -> None:
        """The supervisor's word: prepare a policy bundle, activate it, stop; what siblings ask, and locks."""
        while True:
            message = await control.receive()
            if message is None:
                log.warning("supervisor.gone")
                stopping.set()
                return
            if "prepare" in message:
                await control.send(self._prepare(Path(message["prepare"])))
            elif "activate" in message:
                await control.send(self._activate(str(message["activate"])))
            elif "retire" in message:
                log.info("worker.retires", index=self._index)
                self._retirement.ask(float(message["retire"]))
            elif "stop" in message:
                stopping.set()
            else:
                try:
                    await siblings.take(message)
                except Exception:
                    # locks that are not understood might mean anybody: better no worker than one without them
                    log.exception("control.not_understood")
                    stopping.set()
                    return

    def _prepare(self, bundle: Path) -> dict[str, Any]:
        try:
            self._prepared = self._load(bundle)
        except Exception as error:
            log.error("policy.refused", error=str(error))
            return {"prepared": "", "error": str(error)[:2000]}
        return {"prepared": self._prepared.policy_digest}

    def _activate(self, digest: str) -> dict[str, Any]:
        if self._prepared is None or self._prepared.policy_digest != digest:
            return {"active": self._service.governance.policy_digest}
        self._service.governance, self._prepared = self._prepared, None
        log.info("policy.active", policy=digest)
        return {"active": digest}


def _reflection() -> Reflection:
    """Its messages are loaded only where it is asked for."""
    from extproc.servers.reflection import Reflection

    return Reflection()


def _credentials(tls: ServerTls | None) -> grpc.ServerCredentials | None:
    """Mutual TLS, or None for plain loopback TCP (which the settings had to ask for by name)."""
    if tls is None:
        return None
    import grpc

    watch = CertificateWatch(tls)

    def shown() -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration(
            [(tls.key.read_bytes(), tls.certificate.read_bytes())],
            root_certificates=tls.client_ca.read_bytes(),
        )

    def renewed() -> grpc.ServerCertificateConfiguration | None:
        """Asked before each handshake; None is that nothing changed."""
        return shown() if watch.look() is not None else None

    # its stub knows no None
    return grpc.dynamic_ssl_server_credentials(shown(), renewed, require_client_authentication=True)  # type: ignore[arg-type]
