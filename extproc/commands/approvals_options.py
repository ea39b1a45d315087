"""What every command that asks the approvals API is given: where it is, and who asks."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from extproc.commands.approvals_client import ApprovalsClient

DEFAULT_API = "unix:./state/run/approvals.sock"
TOKEN_VARIABLE = "EXTPROC_TOKEN"  # noqa: S105  (a name, not a token)

Connect = Callable[[], "ApprovalsClient"]


def client_options(command: Callable[..., None]) -> Callable[..., None]:
    """Where the API is and who asks; the command gets `connect`, and its errors become exit codes."""

    @click.option(
        "--api",
        envvar="EXTPROC_API",
        show_envvar=True,
        default=DEFAULT_API,
        show_default=True,
        help="unix:PATH, https://HOST[:PORT], or http:// on this machine.",
    )
    @click.option(
        "--token-file",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help=f"A file that holds the token. [env var: {TOKEN_VARIABLE} holds the token itself]",
    )
    @click.option(
        "--ca",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="Certificates to trust with https, as PEM.",
    )
    @functools.wraps(command)
    def run(*, api: str, token_file: Path | None, ca: Path | None, **options: Any) -> None:
        from extproc.commands.approvals_client import (  # an HTTP client: when one is called, not to list them
            AddressError,
            ApprovalsClient,
            RefusedError,
            UnreachableError,
        )

        token = _token(token_file)

        def connect() -> ApprovalsClient:
            try:
                return ApprovalsClient(api, token, ca)
            except AddressError as error:
                raise click.UsageError(str(error)) from None

        try:
            command(connect=connect, **options)
        except RefusedError as error:
            click.echo(str(error), err=True)
            sys.exit(1)
        except UnreachableError as error:
            click.echo(str(error), err=True)
            sys.exit(3)

    return run


json_option = click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")
reason_option = click.option("--reason", required=True, help="Why; it is recorded.")


def _token(file: Path | None) -> str:
    token = (
        file.read_text(encoding="utf-8", errors="replace") if file else os.environ.get(TOKEN_VARIABLE, "")
    ).strip()
    if not token:
        raise click.UsageError(f"no token: give --token-file or set {TOKEN_VARIABLE}")
    if not token.isascii() or not token.isprintable() or " " in token:
        raise click.UsageError("the token has characters that no token has")
    return token
