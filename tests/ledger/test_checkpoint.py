from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.ledger.checkpoint import (
    Alarm,
    Checkpoint,
    CheckpointError,
    Clock,
    Lineage,
    WriterHead,
    parse_checkpoint,
    writers_root,
)
from extproc.ledger.lines import ZERO_HASH
from extproc.ledger.note import sign_note
from tests.support.books import KEY, OTHER_KEY

HEADS = (WriterHead("worker0-a", 3, "ab" * 32, "cd" * 32), WriterHead("worker1-a", 1, "12" * 32, "34" * 32))
FULL = Checkpoint(
    origin="extproc-ledger",
    number=0,
    previous=ZERO_HASH,
    time="2026-11-23T17:50:01.000000Z",
    heads=HEADS,
    writers=2,
    writers_root=writers_root(HEADS),
    records=4,
    clock=Clock("kernel", -132),
    counts={"intent": 2, "outcome": 1},
    alarms=(Alarm("worker1-a", 1, "rewritten"),),
    next_key=OTHER_KEY.key,
)


def follow(*checkpoints: Checkpoint) -> Lineage:
    lineage = Lineage()
    for checkpoint in checkpoints:
        lineage.follow(sign_note(checkpoint.to_text(), KEY), checkpoint)
    return lineage


def after(checkpoint: Checkpoint, *heads: WriterHead, **changes) -> Checkpoint:
    """The next checkpoint, in which these writers moved."""
    lineage = follow(checkpoint)
    everyone = lineage.heads | {head.writer: head for head in heads}
    settled: dict[str, Any] = {
        "number": 1,
        "previous": lineage.digest,
        "heads": heads,
        "full": False,
        "writers": len(everyone),
        "writers_root": writers_root(everyone.values()),
        "records": sum(head.size for head in everyone.values()),
    }
    return replace(checkpoint, **(settled | changes))


def test_a_checkpoint_survives_writing():
    assert parse_checkpoint(FULL.to_text()) == FULL


def test_a_checkpoint_reads_as_documented():
    assert FULL.to_text().decode().split("\n")[:8] == [
        "extproc-ledger-checkpoint/v1",
        "origin extproc-ledger",
        "number 0",
        "previous " + "0" * 64,
        "time 2026-11-23T17:50:01.000000Z",
        "clock kernel -132",
        "scope full",
        "records 4",
    ]


def test_the_next_checkpoint_lists_only_what_moved():
    grown = WriterHead("worker0-a", 9, "ee" * 32, "ff" * 32)
    lineage = follow(FULL, after(FULL, grown))
    assert lineage.heads == {"worker0-a": grown, "worker1-a": HEADS[1]}


GROWN = WriterHead("worker0-a", 9, "ee" * 32, "ff" * 32)


@pytest.mark.parametrize(
    "following",
    [
        pytest.param(after(FULL, GROWN, number=2), id="a number is left out"),
        pytest.param(after(FULL, GROWN, previous="00" * 32), id="names another one before it"),
        pytest.param(after(FULL, replace(GROWN, size=2)), id="a writer shrinks"),
        pytest.param(after(FULL, replace(HEADS[0], root="00" * 32)), id="a tree changes without growing"),
        pytest.param(after(FULL, GROWN, full=True), id="full, but a writer is left out"),
        pytest.param(after(FULL, GROWN, writers=3), id="wrong number of writers"),
        pytest.param(after(FULL, GROWN, writers_root="00" * 32), id="wrong root over the writers"),
        pytest.param(after(FULL, GROWN, records=11), id="wrong sum"),
    ],
)
def test_what_does_not_follow_is_refused(following):
    lineage = follow(FULL)
    with pytest.raises(CheckpointError):
        lineage.follow(sign_note(following.to_text(), KEY), following)
    assert lineage.last == FULL


LINES = FULL.to_text().split(b"\n")


@pytest.mark.parametrize("at", range(len(LINES) - 1))
def test_no_line_may_be_missing_or_out_of_place(at):
    optional = (b"count", b"writer ", b"alarm", b"key")
    without = LINES[:at] + LINES[at + 1 :]
    swapped = [*without[:-1], LINES[at], b""]
    if not LINES[at].startswith(optional):
        with pytest.raises(CheckpointError):
            parse_checkpoint(b"\n".join(without))
    if at < len(LINES) - 2:
        with pytest.raises(CheckpointError):
            parse_checkpoint(b"\n".join(swapped))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"number 0", b"number 00"),
        (b"number 0", b"number -1"),
        (b"clock kernel -132", b"clock kernel -0"),
        (b"clock kernel -132", b"clock kernel 1.5"),
        (b"scope full", b"scope some"),
        (b"2026-11-23T", b"2026-11-23 "),
        (b"worker0-a", b"../../etc"),
        (b"worker0-a", b"worker2-a"),
        (b"abab", b"ABAB"),
        (b"alarm worker1-a 1 rewritten", b"alarm worker1-a 1 Re"),
        (b"/v1", b"/v2"),
        (b"intent", "íntent".encode()),
    ],
)
def test_what_is_malformed_is_refused(old, new):
    text = FULL.to_text()
    assert old in text
    with pytest.raises(CheckpointError):
        parse_checkpoint(text.replace(old, new, 1))


@given(st.binary(max_size=300) | st.binary(max_size=40).map(lambda tail: FULL.to_text()[:-60] + tail))
def test_any_bytes_are_a_checkpoint_or_a_checkpoint_error(data):
    try:
        parse_checkpoint(data)
    except CheckpointError:
        pass
