"""``kill -9`` of real processes that commit, flush and merge; what they acknowledged is elsewhere.

A child writes commits ``i = 0, 1, 2, ...`` and, once commit i has returned, its number into a pipe.
Commit i sets a key of its own and, in the same batch, three counters; now and then it deletes a key
again. So what is found says exactly which prefix it is.
"""

from __future__ import annotations

import logging
import os
import random
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.processes import start

import walkv

KILLS = 10
MEMTABLE_BYTES = 65_536


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


POLICIES = {
    "Wal": "walkv.Wal()",
    "WriteThrough": "walkv.WriteThrough()",
    "WriteBack": "walkv.WriteBack(interval_seconds=0.01)",
}

WORKERS = 4

FILL = """
    def fill(batch, worker, number):
        batch.put(b"k/%d/%08d" % (worker, number), b"v%d" % number + b"x" * (number % 400))
        for counter in (b"a", b"b", b"c"):
            batch.put(b"count/%d/" % worker + counter, b"%d" % number)
        if number % 3 == 2:
            batch.delete(b"k/%d/%08d" % (worker, number - 1))
    """

THREADS = """
    import itertools, os, threading, walkv
    store = walkv.open({path!r}, sync={policy}, memtable_bytes={memtable})
    def work(worker, first):
        for number in itertools.count(first):
            with store.batch() as batch:
                fill(batch, worker, number)
            os.write(1, b"%d %d\\n" % (worker, number))
    for worker, first in enumerate({first}):
        threading.Thread(target=work, args=(worker, first)).start()
    while {compact}:
        store.compact()
    """

TASKS = """
    import asyncio, itertools, os, walkv
    async def main():
        store = await walkv.aopen({path!r}, sync={policy}, memtable_bytes={memtable})
        async def work(worker, first):
            for number in itertools.count(first):
                async with store.batch() as batch:
                    fill(batch, worker, number)
                os.write(1, b"%d %d\\n" % (worker, number))
        async def compact():
            while {compact}:
                await store.compact()
        workers = [work(worker, first) for worker, first in enumerate({first})]
        await asyncio.gather(compact(), *workers)
    asyncio.run(main())
    """


def child(face: str, path: Path, policy: str, first: list[int], **options: object) -> str:
    text = THREADS if face == "threads" else TASKS
    options = {"memtable": MEMTABLE_BYTES, "compact": False, **options}
    return FILL + text.format(path=str(path), policy=policy, first=first, **options)


def expected(last: list[int]) -> dict[bytes, bytes]:
    """The state in which each worker has made its commits up to ``last``."""
    state = {}
    for worker, end in enumerate(last):
        for number in range(end + 1):
            state[b"k/%d/%08d" % (worker, number)] = b"v%d" % number + b"x" * (number % 400)
            if number % 3 == 2:
                del state[b"k/%d/%08d" % (worker, number - 1)]
        if end >= 0:
            for counter in (b"a", b"b", b"c"):
                state[b"count/%d/" % worker + counter] = b"%d" % end
    return state


def last_of(state: dict[bytes, bytes]) -> list[int]:
    return [int(state.get(b"count/%d/a" % worker, b"-1")) for worker in range(WORKERS)]


def check(state: dict[bytes, bytes], heard: list[int], seed: int) -> None:
    """Nothing acknowledged is missing, and every worker's commits are there up to one of them."""
    last = last_of(state)
    for worker in range(WORKERS):
        assert heard[worker] <= last[worker], f"seed {seed}: {heard} acknowledged, {last} found"
    assert state == expected(last), f"seed {seed}: no prefix"


def acknowledged_before_kill(process: subprocess.Popen[bytes], seconds: float) -> list[int]:
    """Let a child work for a while, kill it, and read what it had acknowledged."""
    assert process.stdout is not None
    pipe = process.stdout.fileno()
    heard = b""
    while not heard:
        ready, _, _ = select.select([pipe], [], [], 60)
        assert ready, "the child acknowledges nothing"
        heard += os.read(pipe, 1 << 16)
        assert heard or process.poll() is None, "the child ended"
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        if select.select([pipe], [], [], left)[0]:
            more = os.read(pipe, 1 << 16)
            assert more, "the child ended by itself"
            heard += more
    os.kill(process.pid, signal.SIGKILL)
    while more := os.read(pipe, 1 << 16):
        heard += more
    process.wait()
    process.stdout.close()
    assert process.returncode == -signal.SIGKILL
    last = [-1] * WORKERS
    for line in heard.split(b"\n")[:-1]:
        worker, number = map(int, line.split())
        last[worker] = max(last[worker], number)
    return last


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("face", ["threads", "tasks"])
def test_nothing_acknowledged_is_lost(tmp_path: Path, face: str, policy: str) -> None:
    seed = random.randrange(1 << 30)
    chooser = random.Random(seed)
    path = tmp_path / "s"
    last = [-1] * WORKERS
    flushes = torn = 0
    for number in range(KILLS):
        first = [end + 1 for end in last]
        text = child(face, path, POLICIES[policy], first, compact=number % 3 == 2)
        heard = acknowledged_before_kill(start(text), chooser.uniform(0.0, 0.15))
        with walkv.open(path, memtable_bytes=MEMTABLE_BYTES) as store:
            found = dict(store.scan())
            check(found, heard, seed)
            last = last_of(found)
            assert store.verify().ok
            flushes += store.stats().snapshot_count
            torn += store.recovery_report.cut_bytes > 0
    print(  # noqa: T201  # every run says what it covered
        f"seed {seed}: {KILLS} kills, {sum(last) + WORKERS} commits, lost 0, "
        f"snapshots {flushes}, torn {torn}"
    )
    assert flushes > 0


@pytest.mark.parametrize("face", ["threads", "tasks"])
def test_killed_while_it_recovers(tmp_path: Path, face: str) -> None:
    seed = random.randrange(1 << 30)
    chooser = random.Random(seed)
    path = tmp_path / "s"
    text = child(face, path, "walkv.Wal()", [0] * WORKERS, memtable=8 << 20)
    heard = acknowledged_before_kill(start(text), 0.3)
    state = None
    for _ in range(4):
        opener = start(f"import walkv, time; walkv.open({str(path)!r}); time.sleep(60)")
        time.sleep(chooser.uniform(0.05, 0.25))
        os.kill(opener.pid, signal.SIGKILL)
        opener.wait()
        assert opener.stdout is not None
        opener.stdout.close()
        with walkv.open(path, read_only=True) as reader:
            found = dict(reader.scan())
        check(found, heard, seed)
        assert state in (None, found), f"seed {seed}: recovery is not idempotent"
        state = found
