"""Reloads: every worker follows or starts anew, whoever asked is answered, nothing piles up."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from extproc.adapters.control import MAX_LINE
from extproc.app import supervisor as module
from extproc.app.children import Child
from extproc.app.supervisor import Supervisor
from extproc.config import load_config
from extproc.domain.errors import PolicyError

ASKED = {"by": "test"}
POLICY = """\
apiVersion: extproc/v1
kind: Policy
metadata: {{name: p}}
target: api
default: deny
rules:
  - name: r
    when: request.url_path == "/{number}"
    then: {{allow: {{}}}}
"""


class Process:
    """A child process of which only its end matters."""

    def __init__(self) -> None:
        self.killed = False

    def kill(self) -> None:
        self.killed = True


class Worker:
    """The other end of a worker's line: it follows, and tells `asked` first."""

    def __init__(self, child: Child, asked: Callable[[dict[str, Any]], None] = lambda message: None) -> None:
        self._child = child
        self._asked = asked

    async def send(self, message: dict[str, Any]) -> None:
        self._asked(message)
        digest = self._child_digest(message)
        name = "prepared" if "prepare" in message else "active"
        self._child.answers.put_nowait({name: digest})

    def _child_digest(self, message: dict[str, Any]) -> str:
        if "activate" in message:
            return str(message["activate"])
        return str(Path(message["prepare"]).read_text().split('"digest":"')[1].split('"')[0])


def play(folder: Path, part: Callable[[Supervisor, Path], Awaitable[None]]) -> None:
    policies = folder / "policies"
    policies.mkdir(mode=0o755)
    config = folder / "extproc.yaml"
    settings = {
        "apiVersion": "extproc/v1",
        "kind": "Config",
        "state": str(folder / "state"),
        "processor": {"listen": f"unix:{folder}/p.sock"},
        "listeners": [
            {"name": "http", "address": "127.0.0.1:10000", "routes": [{"prefix": "/", "target": "api"}]}
        ],
        "targets": [{"name": "api", "kind": "http", "upstream": {"address": "127.0.0.1:9", "tls": "off"}}],
        "identity": {
            "providers": [
                {
                    "name": "corp",
                    "issuer": "https://issuer.example",
                    "audiences": ["api"],
                    "algorithms": ["ES256"],
                    "keys": {"discovery": True},
                }
            ]
        },
        "policies": {"folders": [str(policies)]},
        "approvals": {"listen": f"unix:{folder}/a.sock", "clients": ["console"]},
    }
    config.write_text(yaml.safe_dump(settings))

    async def main() -> None:
        write(policies, 0)
        supervisor = Supervisor(load_config(config), config, config.read_text())
        read, author, sources = supervisor._read()
        supervisor._accept(read, author, sources, before="")
        supervisor.children = []
        await part(supervisor, policies)
        supervisor._ledger.close()

    asyncio.run(main())


def write(policies: Path, number: int) -> None:
    path = policies / "p.yaml"
    path.write_text(POLICY.format(number=number))
    path.chmod(0o644)


def joined(supervisor: Supervisor, asked: Callable[[dict[str, Any]], None] = lambda message: None) -> Child:
    child = Child("worker", len(supervisor.children), policy=supervisor._digest)
    child.process = Process()  # type: ignore[assignment]
    child.control = Worker(child, asked)  # type: ignore[assignment]
    child.ready.set()
    supervisor.children.append(child)
    return child


def killed(child: Child) -> bool:
    process: Any = child.process
    return bool(process.killed)


def test_every_worker_follows_a_reload(tmp_path: Path) -> None:
    async def part(supervisor: Supervisor, policies: Path) -> None:
        child = joined(supervisor)
        write(policies, 1)
        answer = await supervisor.reload(ASKED)
        assert answer["policy"] == supervisor._digest == child.policy != answer["before"]
        assert not killed(child)

    play(tmp_path, part)


def test_a_worker_that_came_up_during_a_reload_does_not_keep_the_old_policy(tmp_path: Path) -> None:
    async def part(supervisor: Supervisor, policies: Path) -> None:
        late = joined(supervisor)
        late.ready.clear()

        def come_up(message: dict[str, Any]) -> None:
            late.ready.set()  # with the digest that is still in force

        follower = joined(supervisor, come_up)
        write(policies, 1)
        await supervisor.reload(ASKED)
        assert killed(late)
        assert not killed(follower)

    play(tmp_path, part)


@pytest.mark.parametrize("error", [OSError(28, "disk full"), RuntimeError("loop"), PermissionError(13, "x")])
def test_a_reload_that_breaks_is_answered_and_the_next_one_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    async def part(supervisor: Supervisor, policies: Path) -> None:
        before = supervisor._digest
        with monkeypatch.context() as broken:

            def fail(*_: object) -> None:
                raise error

            broken.setattr(module, "write_bundle", fail)
            answer = await supervisor.reload(ASKED)
        assert answer["policy"] == supervisor._digest == before
        assert "error" in answer
        write(policies, 1)
        assert (await supervisor.reload(ASKED))["before"] == before

    play(tmp_path, part)


def test_bundles_that_are_no_longer_in_force_are_removed(tmp_path: Path) -> None:
    async def part(supervisor: Supervisor, policies: Path) -> None:
        for number in range(1, 4):
            write(policies, number)
            await supervisor.reload(ASKED)
        assert list((tmp_path / "state" / "run").glob("policy-*")) == [supervisor._bundle]

    play(tmp_path, part)


def test_an_error_is_short_enough_for_a_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def part(supervisor: Supervisor, policies: Path) -> None:
        def mistaken(*_: object) -> None:
            raise PolicyError("p.yaml:1:1: wrong\n" * 100_000)

        monkeypatch.setattr(module, "load_bundle", mistaken)
        answer = await supervisor.reload(ASKED)
        assert 0 < len(answer["error"]) < MAX_LINE // 2

    play(tmp_path, part)
