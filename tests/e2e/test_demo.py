"""The demo keeps its promises and says so with its status; its packet needs nobody's word."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from playwright.sync_api import Request

from extproc.demo.mariadb import MISSING, is_here
from extproc.demo.mysql_story import NOT_HERE
from extproc.ledger.canary import canaries_of, seen_in
from tests.support.browser import CONTRAST, WIDER, Watched, launched, need_chromium
from tests.support.packets import check_numbers, files_of, tables_of

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(280)]

MYSQL = (
    "no e-mail or card number left MariaDB in clear",
    "the DROP is denied, and the rule is named",
    "the connection to MariaDB lives, and every row is there",
    "MariaDB never saw the DROP",
    "the waiting UPDATE ran in MariaDB, exactly once",
    "both sessions at MariaDB are in the ledger, and what was denied",
)


@pytest.fixture(scope="module")
def played() -> Iterator[tuple[str, Path]]:
    """The whole story, once: what it said, and the folder it left."""
    done = subprocess.run(
        [sys.executable, "-m", "extproc.cli", "demo", "--once", "--keep"],
        capture_output=True, text=True, timeout=260, check=False,
    )  # fmt: skip
    found = re.search(r" in (/\S+/extproc-demo-\w+) …", done.stdout)
    assert found, done.stdout[-4000:] + done.stderr[-4000:]
    try:
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
        yield done.stdout, Path(found[1])
    finally:
        shutil.rmtree(found[1], ignore_errors=True)


@pytest.fixture(scope="module")
def packet(played: tuple[str, Path]) -> bytes:
    return (played[1] / "auditor" / "packet.zip").read_bytes()


@pytest.fixture(scope="module")
def unpacked(packet: bytes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an auditor has on another machine: the packet's files and nothing else."""
    folder = tmp_path_factory.mktemp("auditor")
    for name, data in files_of(packet).items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def test_the_whole_story_plays_and_ends_well(played: tuple[str, Path]) -> None:
    story = played[0]
    assert (NOT_HERE.format(MISSING) in story) is not is_here()
    for promise in (
        "no e-mail, card, IBAN, SSN or phone number left the API in clear",
        "it was executed exactly once",
        "no e-mail or card number left the database in clear",
        "the same connection still answers, and every row is there",
        "the waiting statement ran, exactly once",
        "the grant counts: 2 of 3 are used",
        *(MYSQL if is_here() else ()),
        "the ledger verifies",
        "no canary of a GET turned up where it must not",
        "no canary of a POST turned up where it must not",
        "bare Python verifies it, without extproc",
    ):
        assert f"✓ {promise}" in story or f"✓ and {promise}" in story


def bare_python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Python with its standard library: no site-packages, no environment, nothing of this project to be found."""
    return subprocess.run(
        [os.path.realpath(sys.executable), "-I", "-S", *arguments],
        cwd=folder, env={}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_its_packet_verifies_on_a_machine_that_has_only_python(
    played: tuple[str, Path], unpacked: Path, tmp_path: Path
) -> None:
    key = (played[1] / "state" / "ledger" / "checkpoint.pub").read_text().strip()
    assert "ModuleNotFoundError" in bare_python(unpacked, "-c", "import extproc").stderr
    verdict = bare_python(unpacked, "verify.py", "--key", key)
    assert (verdict.returncode, verdict.stderr) == (0, ""), verdict.stdout
    assert "nothing is wrong in what was checked" in verdict.stdout
    changed = shutil.copytree(unpacked, tmp_path / "changed")
    records = changed / "ledger" / "records.jsonl"
    records.write_bytes(records.read_bytes().replace(b'"support-bot"', b'"another-bot"', 1))
    verdict = bare_python(changed, "verify.py", "--key", key)
    assert verdict.returncode == 1
    assert "PROBLEM" in verdict.stderr


def test_every_number_of_its_page_is_computed_again(packet: bytes) -> None:
    assert check_numbers(files_of(packet)) > 80
    tables = tables_of(packet)
    assert {row["target"] for row in tables["exchanges"]} >= {"customers-api", "orders-db"}
    assert tables["approvals"] and tables["masking"] and tables["refusals"] and tables["policies"]
    canaries = tables["canaries"]
    assert {row["looked_in"] for row in canaries} == {"answer", "records", "payloads", "serve.log"}
    assert {(row["verdict"], row["planted"], row["found"], row["recorded"]) for row in canaries} == {
        ("allow", 6, 0, True),
        ("deny", 9, 0, True),
    }
    assert all(row["bytes"] for row in canaries)
    # they can be made again from the seed, and are nowhere in the packet
    everything = b"".join(files_of(packet).values())
    made = [one for row in canaries for one in canaries_of(row["seed"])]
    assert len({one.value for one in made}) == 18
    assert seen_in(everything, tuple(made)) == []


def _note(asked: list[str], request: Request) -> None:
    asked.append(request.url)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_its_page_opens_in_a_browser_and_asks_nothing_of_anybody(unpacked: Path, scheme: str) -> None:
    with launched(need_chromium()) as browser:
        for width in (1280, 390):
            watched = Watched(browser, viewport={"width": width, "height": 900}, color_scheme=scheme)
            asked: list[str] = []
            watched.page.on("request", partial(_note, asked))
            address = (unpacked / "index.html").as_uri()
            watched.page.goto(address)
            assert watched.page.get_by_role("heading", name="Evidence packet").is_visible()
            closed = watched.page.locator("details:not([open]) > summary")
            while closed.count():
                closed.first.click()
            assert watched.page.evaluate(CONTRAST) == []
            assert watched.page.evaluate(WIDER) == 0
            assert watched.complaints == []
            assert asked == [address]
