"""The command line. Commands load lazily, so `--help` stays quick."""

from __future__ import annotations

import importlib
import sys

import click

from extproc.app.form import is_compiled

COMMANDS: dict[str, tuple[str, str]] = {
    "serve": (
        "extproc.commands.serve:serve",
        "Run the service: workers, approvals API, exporter, checkpointer.",
    ),
    "demo": ("extproc.commands.demo:demo", "Play the whole story on this machine with real traffic."),
    "health": ("extproc.commands.health:health", "Ask every worker whether it serves."),
    "config": ("extproc.commands.config:config", "Check, show or describe extproc.yaml, put it in force."),
    "policy": ("extproc.commands.policy:policy", "Check, test and explain policies, load them again."),
    "holds": ("extproc.commands.holds:holds", "List, show, approve, deny and watch holds."),
    "grants": (
        "extproc.commands.grants:grants",
        "List, show and revoke approvals that let more than one request go.",
    ),
    "lock": ("extproc.commands.lock:lock", "Lock callers and sessions out, list and remove locks."),
    "sessions": (
        "extproc.commands.sessions:sessions",
        "List, show, follow and export what was done, from the ledger.",
    ),
    "why": ("extproc.commands.why:why", "Say why a request was decided as it was, from the ledger."),
    "ledger": ("extproc.commands.ledger:ledger", "Verify, tail and show the ledger."),
    "evidence": (
        "extproc.commands.evidence:evidence",
        "Export packets that an auditor can check alone, verify them, share single records.",
    ),
    "store": ("extproc.commands.store:store", "Make the tables of a hold store in Postgres."),
    "render": ("extproc.commands.render:render", "Write Envoy configuration from extproc.yaml."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called, not when they are listed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), name)
        assert isinstance(command, click.Command)  # noqa: S101
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(
    package_name="extproc",
    message=f"%(prog)s, version %(version)s ({'compiled' if is_compiled() else 'pure Python'})",
)
def main() -> None:
    """Identity, policy, approvals, masking and a tamper-evident ledger for traffic that Envoy carries.

    Exit codes: 0 done, 1 the check or test failed, 2 wrong usage, 3 the service or its state cannot be reached.
    """


if __name__ == "__main__":
    sys.exit(main())
