"""Checkpoints told to somebody outside, and a ledger held against what they have."""

from __future__ import annotations

import asyncio
import base64
import json
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import httpx2
import pytest
from click.testing import CliRunner
from standardwebhooks.webhooks import Webhook

from extproc.adapters.ledger_reader import CHECKPOINTS
from extproc.adapters.ledger_verify import verify_directory
from extproc.adapters.webhooks import Endpoint, key_of
from extproc.adapters.witness import FileWitness, Witness, WitnessError, tell_witnesses
from extproc.adapters.witness_webhook import WebhookWitness, newest
from extproc.commands.ledger import ledger as command
from extproc.ledger.note import split_notes
from tests.support.books import KEY, fill, open_checkpointer, open_writer, read_all, sign_now

pytestmark = pytest.mark.anyio
SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    """Three checkpoints over some records."""
    place = tmp_path / "ledger"
    writer = open_writer(place)
    checkpointer = open_checkpointer(place)
    for number in range(3):
        fill(writer, 2, 2 * number)
        read_all(checkpointer)
        checkpointer.sign()
    writer.close()
    checkpointer.close()
    return place


def notes(ledger: Path) -> bytes:
    return (ledger / CHECKPOINTS).read_bytes()


async def tell(witness: Witness, ledger: Path) -> bool:
    return await witness.tell(ledger / CHECKPOINTS, len(notes(ledger)))


class TestFile:
    async def test_it_is_a_copy_that_grows(self, ledger: Path, tmp_path: Path):
        copy, witness = tmp_path / "copy", FileWitness(tmp_path / "copy")
        first = len(split_notes(notes(ledger))[0][0]) + 1
        assert await witness.tell(ledger / CHECKPOINTS, first)
        assert copy.read_bytes() == notes(ledger)[:first]
        assert await tell(witness, ledger)
        assert copy.read_bytes() == notes(ledger)
        assert not await tell(witness, ledger)

    @pytest.mark.parametrize("torn", [1, 70, 200])
    async def test_a_write_that_was_cut_short_is_finished(self, ledger: Path, tmp_path: Path, torn: int):
        (tmp_path / "copy").write_bytes(notes(ledger)[:torn])
        assert await tell(FileWitness(tmp_path / "copy"), ledger)
        assert (tmp_path / "copy").read_bytes() == notes(ledger)

    async def test_another_history_is_refused_and_left_as_it_is(self, ledger: Path, tmp_path: Path):
        for other in (b"x" + notes(ledger)[1:50], notes(ledger) + b"extproc"):
            (tmp_path / "copy").write_bytes(other)
            with pytest.raises(WitnessError, match="the witness has"):
                await tell(FileWitness(tmp_path / "copy"), ledger)
            assert (tmp_path / "copy").read_bytes() == other

    async def test_a_place_that_cannot_be_written_is_said(self, ledger: Path, tmp_path: Path):
        with pytest.raises(WitnessError, match="No such file"):
            await tell(FileWitness(tmp_path / "none" / "copy"), ledger)
        with pytest.raises(WitnessError, match="Is a directory"):
            await tell(FileWitness(tmp_path), ledger)


class Receiver:
    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses)
        self.got: list[httpx2.Request] = []

    async def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.got.append(request)
        return httpx2.Response(self.statuses.pop(0) if self.statuses else 204)


def webhook(receiver: Receiver, cursor: Path) -> WebhookWitness:
    endpoint = Endpoint("notary", "https://notary.test/x", key_of(SECRET), frozenset())
    return WebhookWitness(endpoint, cursor, lambda: 1_900_000_000.0, httpx2.MockTransport(receiver))


class TestWebhook:
    async def test_the_newest_checkpoint_is_told_once_and_signed(self, ledger: Path, tmp_path: Path):
        receiver = Receiver()
        witness = webhook(receiver, tmp_path / "seen" / "notary")
        assert await tell(witness, ledger)
        assert not await tell(witness, ledger)
        (request,) = receiver.got
        told = json.loads(request.content)
        raw = split_notes(notes(ledger))[0][-1]
        assert told["type"] == "ledger.checkpoint"
        assert told["data"] == {"number": 2, "sha256": sha256(raw).hexdigest(), "note": raw.decode()}
        assert request.headers["webhook-id"] == "checkpoint.2"
        at = datetime.fromtimestamp(int(request.headers["webhook-timestamp"]), tz=UTC)
        signed = Webhook(SECRET).sign("checkpoint.2", at, request.content.decode())
        assert request.headers["webhook-signature"] == signed
        assert not await tell(webhook(receiver, tmp_path / "seen" / "notary"), ledger)  # after a restart

    async def test_a_refusal_is_told_again(self, ledger: Path, tmp_path: Path):
        receiver = Receiver(500, 302)
        witness = webhook(receiver, tmp_path / "notary")
        for _ in range(2):
            with pytest.raises(WitnessError, match="did not take"):
                await tell(witness, ledger)
        assert await tell(witness, ledger)
        assert [request.headers["webhook-id"] for request in receiver.got] == ["checkpoint.2"] * 3

    async def test_a_log_that_became_shorter_is_said(self, ledger: Path, tmp_path: Path):
        witness = webhook(Receiver(), tmp_path / "notary")
        assert await tell(witness, ledger)
        with pytest.raises(WitnessError, match="it was told of"):
            await witness.tell(ledger / CHECKPOINTS, 10)

    def test_a_log_that_ends_badly_is_no_message(self, ledger: Path):
        for size in (10, len(notes(ledger)) - 1):
            with pytest.raises(WitnessError, match="does not end"):
                newest(ledger / CHECKPOINTS, 0, size)

    @pytest.mark.parametrize("since", [0, 1, 77, 300, 500])
    def test_the_newest_is_found_from_wherever_it_is_looked_for(self, ledger: Path, since: int):
        size, first = len(notes(ledger)), len(split_notes(notes(ledger))[0][0]) + 1
        told = newest(ledger / CHECKPOINTS, 0, size)
        assert told["data"]["number"] == 2
        assert newest(ledger / CHECKPOINTS, since, size) == newest(ledger / CHECKPOINTS, first, size) == told


async def test_all_are_told_until_the_end_and_one_that_fails_stops_no_other(
    ledger: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    stopping, told = asyncio.Event(), tmp_path / "copy"
    witnesses = [FileWitness(tmp_path / "none" / "x"), FileWitness(told)]
    size = len(notes(ledger))
    running = asyncio.create_task(tell_witnesses(witnesses, ledger / CHECKPOINTS, lambda: size, stopping))
    while not told.exists() or told.stat().st_size < size:
        await asyncio.sleep(0.01)
    stopping.set()
    await running
    assert told.read_bytes() == notes(ledger)
    assert capsys.readouterr().out.count("witness.not_told") == 1


class TestVerify:
    def verify(self, ledger: Path, witness: Path) -> tuple[int, str]:
        words = ["verify", "--dir", str(ledger), "--key", str(KEY.key), "--witness", str(witness)]
        done = CliRunner().invoke(command, words)
        return done.exit_code, done.output

    def test_what_the_witness_has_is_what_the_ledger_begins_with(self, ledger: Path, tmp_path: Path):
        copy = tmp_path / "copy"
        copy.write_bytes(notes(ledger))
        assert self.verify(ledger, copy)[0] == 0
        copy.write_bytes(notes(ledger)[:-300])
        code, told = self.verify(ledger, copy)
        assert code == 0 and "300 bytes of checkpoints that the witness has not seen" in told

    def test_a_ledger_cut_back_with_its_checkpoints_is_found(self, ledger: Path, tmp_path: Path):
        """The signing key and all files are in the forger's hands: nothing else can tell."""
        copy = tmp_path / "copy"
        copy.write_bytes(notes(ledger))
        kept = split_notes(notes(ledger))[0]
        (ledger / CHECKPOINTS).write_bytes(b"".join(raw + b"\n" for raw in kept[:2]))
        code, told = self.verify(ledger, copy)
        assert code == 1 and "checkpoint 3 of the witness is not there in the ledger" in told

    def test_a_ledger_written_anew_with_the_same_key_is_found(self, ledger: Path, tmp_path: Path):
        copy, other = tmp_path / "copy", tmp_path / "other"
        copy.write_bytes(notes(ledger))
        fill(open_writer(other), 3)
        sign_now(other)
        assert verify_directory(other, KEY.key).ok  # by itself it is a whole ledger
        code, told = self.verify(other, copy)
        assert code == 1 and "checkpoint 1 of the witness is another in the ledger" in told
