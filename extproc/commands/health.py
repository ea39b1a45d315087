"""`extproc health`: what Envoy's health check sees, for container health checks and people."""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path

import click

from extproc.commands.settings_file import DEFAULT, load_or_exit
from extproc.config import Address, Settings
from extproc.domain.relay import PING, PONG
from extproc.protocols.proxy_header import LOCAL_HEADER

SERVING, NOT_SERVING, UNREACHABLE = "serving", "not serving", "unreachable"


@click.command()
@click.option(
    "--config", "file", type=click.Path(dir_okay=False, path_type=Path), default=DEFAULT, show_default=True
)
@click.option(
    "--timeout", type=click.FloatRange(0.1, 60), default=2.0, show_default=True, help="Seconds per worker."
)
@click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")
def health(file: Path, timeout: float, as_json: bool) -> None:
    """Ask every worker whether it serves.

    Exit codes: 0 all do, 1 one does not, 3 one cannot be reached.
    """
    settings = load_or_exit(file)
    found = {str(address): ask(settings, address, timeout) for address in settings.processor.addresses}
    if settings.relayed:
        found |= {str(relay): ask_relay(relay, timeout) for relay in settings.processor.relay_addresses}
    if as_json:
        click.echo(json.dumps(found))
    else:
        for address, state in found.items():
            click.echo(f"{address}: {state}", err=state != SERVING)
    if UNREACHABLE in found.values():
        sys.exit(3)
    if NOT_SERVING in found.values():
        sys.exit(1)


def ask(settings: Settings, address: Address, timeout: float) -> str:
    """One worker's answer to grpc.health.v1.Health/Check."""
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    with _channel(settings, address) as channel:
        try:
            reply = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=timeout
            )
        except grpc.RpcError:
            return UNREACHABLE
    return SERVING if reply.status == health_pb2.HealthCheckResponse.SERVING else NOT_SERVING


def ask_relay(address: Address, timeout: float) -> str:
    """What one worker's relay answers to a health check."""
    with socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(timeout)
        try:
            asking.connect(str(address.path))
            asking.sendall(LOCAL_HEADER + PING)
            answer = asking.recv(len(PONG))
        except OSError:
            return UNREACHABLE
    return SERVING if answer == PONG else NOT_SERVING


def _channel(settings: Settings, address: Address):  # type: ignore[no-untyped-def]  # grpc stays a lazy import
    import grpc

    client = settings.envoy.client_tls
    if settings.processor.tls is None or client is None:
        # Over a unix socket gRPC would send the path as the authority, which is none.
        return grpc.insecure_channel(str(address), options=[("grpc.default_authority", "localhost")])
    credentials = grpc.ssl_channel_credentials(
        client.ca.read_bytes(), client.key.read_bytes(), client.certificate.read_bytes()
    )
    return grpc.secure_channel(
        str(address), credentials, options=[("grpc.ssl_target_name_override", client.server_name)]
    )
