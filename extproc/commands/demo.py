"""`extproc demo`: the whole thing on this machine, with a story."""

from __future__ import annotations

import signal
import sys
import tempfile
import time
from pathlib import Path

import click


@click.command()
@click.option("--once", is_flag=True, help="Play the story and exit: 0 when everything happened as told.")
@click.option("--keep", is_flag=True, help="Keep the folder with ledger, configuration and logs.")
def demo(once: bool, keep: bool) -> None:
    """Play the whole story on this machine with real traffic.

    Starts Envoy, extproc, a small API with personal data, a Postgres, a MariaDB where one is installed, a
    token issuer and an OTLP receiver, all on loopback.
    """
    from extproc.demo.processes import StartError
    from extproc.demo.scene import Scene
    from extproc.demo.stage import DemoError
    from extproc.demo.story import Story, by_hand

    folder = Path(tempfile.mkdtemp(prefix="extproc-demo-"))
    click.echo(f"Starting Envoy, extproc, the API, databases, the issuer and the OTLP receiver in {folder} …")
    started = time.monotonic()
    code = 0
    # so that a kill also stops the children
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        with Scene(folder) as scene:
            click.echo(
                f"Ready after {time.monotonic() - started:.1f} s. An agent calls {scene.url}; Envoy asks extproc."
            )
            story = Story(scene)
            try:
                story.play()
                click.secho("\nAll five answers were shown: identify, decide, hold, mask, record.", bold=True)
                if not once:
                    click.echo(by_hand(story))
                    signal.pause()
            except DemoError as error:
                click.secho(f"   ✗ {error}", fg="red", err=True)
                click.echo(f"The logs are in {folder}.", err=True)
                code, keep = 1, True
    except StartError as error:
        click.echo(str(error), err=True)
        code, keep = 3, True
    except KeyboardInterrupt:
        click.echo("\nStopping.")
    finally:
        if not keep:
            import shutil

            shutil.rmtree(folder, ignore_errors=True)
    sys.exit(code)
