"""What the other processes of `test_hold_store.py` do. Usage: hold_process.py PATH JOB [ARGUMENT]."""

from __future__ import annotations

import asyncio
import random
import sys
from pathlib import Path

from extproc.adapters.hold_sqlite import SqliteHoldStore
from extproc.domain.hold import HoldAsk, HoldError, HoldLimits, HoldState, Verdict
from extproc.domain.terms import GrantLimit
from tests.support.holds import ANNA, BERT, CLEO, NOW, ask, demand, shaped, vote


def granted_ask(binding: str = "b1") -> HoldAsk:
    """What the grants of `use_grants` are for."""
    return ask(binding, wants=demand(grant=GrantLimit(1800.0, 10_000, "shape")), shape=shaped(v1="one"))


async def release_all(store: SqliteHoldStore, name: str) -> None:
    """Wait for a line, then try to spend every approval there is, and say which were ours."""
    holds = await store.find(states=[HoldState.APPROVED], limit=1000, now=NOW)
    print("ready", flush=True)
    sys.stdin.readline()
    for held in holds:
        try:
            await store.release(held.id, f"{name}-{held.id}", NOW)
        except HoldError as error:
            assert error.code == "not_open"
        else:
            print(held.id, flush=True)


async def approve_one(store: SqliteHoldStore, hold_id: str) -> None:
    """Wait for a line, then approve."""
    print("ready", flush=True)
    sys.stdin.readline()
    await store.vote(hold_id, vote(ANNA), NOW)


async def live(store: SqliteHoldStore, seed: str) -> None:
    """Do one random thing after the other for ever, and say what was acknowledged, until somebody ends it."""
    chance = random.Random(seed)
    n = 0
    while True:
        n += 1
        held = await store.open(ask(f"{seed}-{n}"), NOW)
        print(held.id, held.version, flush=True)
        for _ in range(chance.randrange(5)):
            act = chance.choice(("approve", "deny", "withdraw", "release", "revoke", "expire", "leave"))
            try:
                match act:
                    case "approve" | "deny":
                        who = chance.choice((ANNA, BERT, CLEO))
                        held = await store.vote(held.id, vote(who, act == "approve"), NOW)
                    case "withdraw":
                        held = await store.close(held.id, Verdict.WITHDRAW, NOW, by="x", reason="y")
                    case "release":
                        held = await store.release(held.id, f"dec-{n}", NOW)
                    case "revoke":
                        held = await store.close(held.id, Verdict.REVOKE, NOW, by="x", reason="y")
                    case "expire":
                        await store.sweep(NOW)
                    case _:
                        await store.leave(held.id, NOW)
            except HoldError:
                continue
            print(held.id, held.version, flush=True)


async def use_grants(store: SqliteHoldStore, name: str) -> None:
    """Wait for a line, then use whatever covers the ask for as long as something does. A use is acknowledged with
    `counted N`, and what it is for is said to be done with `ran N`: whoever dies between the two did less."""
    print("ready", flush=True)
    sys.stdin.readline()
    n = 0
    while (grant := await store.covering(granted_ask(), NOW)) is not None:
        n += 1
        try:
            await store.use_grant(grant.id, f"{name}-{n}", NOW)
        except HoldError as error:
            assert error.code == "not_open"
            continue
        print(f"counted {name}-{n}", flush=True)
        print(f"ran {name}-{n}", flush=True)


async def main(path: str, job: str, argument: str) -> None:
    jobs = {"release_all": release_all, "approve_one": approve_one, "live": live, "use_grants": use_grants}
    async with SqliteHoldStore(Path(path), limits=HoldLimits(10**6, 10**6), lock_wait=30.0) as store:
        await jobs[job](store, argument)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
