"""Forked processes that say in a pipe what they begin and what was acknowledged, and are killed.

A child is made by ``fork`` from a process without other threads: no interpreter has to start. It
never returns into its parent's code. What it says, a line each:

    I worker number             a commit is about to be made
    A worker number sequence    it was acknowledged
    S sequence                  ``sync()`` returned, so everything up to there is durable
    C / D                       close begins / has returned
    O                           the store is open
    L process                   it is locked, by that one (0: not said)
    V sequence                  a reader has seen a prefix up to there, and found it right
    E text                      what must not be
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import select
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import NamedTuple

import walkv
from tests.laboratory.kills.commits import (
    POLICIES,
    Commit,
    Ledger,
    perform,
    perform_async,
)
from walkv.engine.vfs import OsFile, OsFileSystem, Window
from walkv.testing.windows import WritingWindow

_PR_SET_PDEATHSIG = 1

HANGS_SECONDS = 60
"""A child that says nothing for so long hangs."""

Say = Callable[[str], None]


@dataclass
class Heard:
    """What a child has said.

    Attributes:
        begun: per worker, the last commit it began.
        acknowledged: the sequence of each acknowledged commit.
        synced: the highest sequence that a ``sync()`` covered.
        seen: the highest sequence a reader has seen.
        told, tellings: who was said to hold the lock, last; how often somebody was.
        opened, closing, closed: how far it came.
        errors: what must not be.
    """

    begun: dict[int, int] = field(default_factory=dict)
    acknowledged: dict[tuple[int, int], int] = field(default_factory=dict)
    synced: int = 0
    seen: int = 0
    looks: int = 0
    told: int = -1
    tellings: int = 0
    opened: bool = False
    closing: bool = False
    closed: bool = False
    errors: list[str] = field(default_factory=list)

    def take(self, line: str) -> None:
        word, _, rest = line.partition(" ")
        if word == "I":
            worker, number = map(int, rest.split())
            self.begun[worker] = number
        elif word == "A":
            worker, number, sequence = map(int, rest.split())
            self.acknowledged[worker, number] = sequence
        elif word == "S":
            self.synced = max(self.synced, int(rest))
        elif word == "V":
            self.seen = int(rest)
            self.looks += 1
        elif word == "L":
            self.told = int(rest)
            self.tellings += 1
        elif word in ("O", "C", "D"):
            self.opened = True
            self.closing |= word != "O"
            self.closed |= word == "D"
        else:
            self.errors.append(line)


class Child:
    """A forked process and what it has said so far."""

    def __init__(self, body: Callable[[Say], None]) -> None:
        self.heard = Heard()
        self.status: int | None = None
        self._rest = b""
        read, write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(read)
            _live(body, write)
        os.close(write)
        self._pipe = read

    def listen(self, until: Callable[[Heard], bool]) -> bool:
        """Read until something was said; False if the child ended before."""
        while not until(self.heard):
            ready, _, _ = select.select([self._pipe], [], [], HANGS_SECONDS)
            if not ready:
                raise AssertionError(f"a child says nothing for {HANGS_SECONDS} seconds: it hangs")
            if not self._read():
                return False
        return True

    def poll(self) -> None:
        """Take in what it has said by now."""
        while select.select([self._pipe], [], [], 0)[0] and self._read():
            pass

    def _read(self) -> bool:
        data = os.read(self._pipe, 1 << 16)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self.heard.take(line.decode())
        return bool(data)

    def strike(self) -> None:
        """``kill -9``, unless it is dead by its own hand."""
        if self.status is None:
            os.kill(self.pid, signal.SIGKILL)

    def kill(self) -> Heard:
        """``strike``; returns all it has said."""
        self.strike()
        return self.wait()

    def wait(self) -> Heard:
        """Hear it to its end."""
        self.listen(lambda _: False)
        if self.status is None:
            self.status = os.waitpid(self.pid, 0)[1]
        return self.heard

    @property
    def killed(self) -> bool:
        """Whether SIGKILL was its end."""
        return self.status is not None and os.WIFSIGNALED(self.status)

    def end(self) -> None:
        """Leave nothing of it behind."""
        if self.status is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            self.status = os.waitpid(self.pid, 0)[1]
        os.close(self._pipe)


@contextmanager
def forked(body: Callable[[Say], None]) -> Iterator[Child]:
    """A child that does not outlive the block."""
    child = Child(body)
    try:
        yield child
    finally:
        child.end()


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent has died, where it does such things."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _live(body: Callable[[Say], None], pipe: int) -> None:
    """All of a child's life: it must not come back to what its parent was doing."""

    def say(line: str) -> None:
        os.write(pipe, line.encode() + b"\n")

    code = 1
    try:
        for number in (signal.SIGALRM, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        die_with_parent()
        signal.alarm(4 * HANGS_SECONDS)  # should it hang all the same
        logging.disable(logging.CRITICAL)
        warnings.simplefilter("ignore")
        body(say)
        code = 0
    except BaseException:  # noqa: BLE001  # nothing may pass into the parent's code
        with suppress(OSError):
            say("E " + traceback.format_exc().replace("\n", " | "))
    finally:
        os._exit(code)


# -- a file system in which the process kills itself ---------------------------------------------


class Doom(NamedTuple):
    """At which operation of the file system a process ends, and when.

    Attributes:
        site: write, truncate, sync, create, rename, unlink, sync_directory, or any.
        countdown: it is the countdown-th of them.
        moment: before it, after it, or torn: with half of a write done.
    """

    site: str
    countdown: int
    moment: str


class _Counter:
    def __init__(self, doom: Doom) -> None:
        self._doom = doom
        self._numbers = count(1)  # threads share it

    def around(self, site: str, act: Callable[[], object], half: Callable[[], object]) -> None:
        doom = self._doom
        if doom.site not in (site, "any") or next(self._numbers) != doom.countdown:
            act()
            return
        if doom.moment == "torn":
            half()
        elif doom.moment == "after":
            act()
        os.kill(os.getpid(), signal.SIGKILL)


def _nothing() -> None:
    pass


class _DoomedFile(OsFile):
    __slots__ = ("_counter",)

    def __init__(self, path: str, descriptor: int, counter: _Counter) -> None:
        super().__init__(path, descriptor)
        self._counter = counter

    def write(self, data: bytes, offset_bytes: int) -> None:
        whole = super().write
        self._counter.around(
            "write",
            lambda: whole(data, offset_bytes),
            lambda: whole(bytes(data[: len(data) // 2]), offset_bytes),
        )

    def window(self, offset_bytes: int, size_bytes: int) -> Window | None:
        return WritingWindow(self, offset_bytes)

    def truncate(self, size_bytes: int) -> None:
        act = super().truncate
        self._counter.around("truncate", lambda: act(size_bytes), _nothing)

    def sync_data(self) -> None:
        self._counter.around("sync", super().sync_data, _nothing)

    def sync(self) -> None:
        self._counter.around("sync", super().sync, _nothing)


class DoomedFileSystem(OsFileSystem):
    """The operating system's files, until one operation kills the process with SIGKILL."""

    def __init__(self, doom: Doom) -> None:
        self._counter = _Counter(doom)

    def _doomed(self, file: OsFile) -> OsFile:
        descriptor, file._descriptor = file._descriptor, -1
        return _DoomedFile(file.path, descriptor, self._counter)

    def open(self, path: str, *, writable: bool = False) -> OsFile:
        return self._doomed(super().open(path, writable=writable))

    def create(self, path: str) -> OsFile:
        made: list[OsFile] = []
        act = super().create
        self._counter.around("create", lambda: made.append(act(path)), _nothing)
        return self._doomed(made[0])

    def make_directory(self, path: str) -> None:
        act = super().make_directory
        self._counter.around("create", lambda: act(path), _nothing)

    def rename(self, source: str, target: str) -> None:
        act = super().rename
        self._counter.around("rename", lambda: act(source, target), _nothing)

    def unlink(self, path: str) -> None:
        act = super().unlink
        self._counter.around("unlink", lambda: act(path), _nothing)

    def sync_directory(self, path: str) -> None:
        act = super().sync_directory
        self._counter.around("sync_directory", lambda: act(path), _nothing)


# -- what the children do ------------------------------------------------------------------------


@dataclass(frozen=True)
class Work:
    """What a writing child does.

    Attributes:
        path: the store.
        face: loop, threads or tasks.
        policies: a name of ``POLICIES``.
        generation: how many processes have written before.
        first: per worker, its first commit.
        commits: how many each worker makes.
        memtable_bytes: small, so that flushes and merges run.
        compact: compact all the time.
        sync_every: call ``sync()`` after so many commits of a worker; 0 for never.
        doom: where it kills itself, if it does.
    """

    path: str
    face: str
    policies: str
    generation: int
    first: list[int]
    commits: int
    memtable_bytes: int = 65_536
    compact: bool = False
    sync_every: int = 0
    doom: Doom | None = None

    def filesystem(self) -> OsFileSystem:
        return OsFileSystem() if self.doom is None else DoomedFileSystem(self.doom)

    def of(self, worker: int) -> Iterator[Commit]:
        first = self.first[worker]
        for number in range(first, first + self.commits):
            yield Commit(worker, number, self.generation)

    def due(self, commit: Commit) -> bool:
        """Whether ``sync()`` is called after a commit."""
        return self.sync_every > 0 and commit.number % self.sync_every == self.sync_every - 1


def write(work: Work, say: Say) -> None:
    """The life of a writer: open, commit, close."""
    if work.face == "tasks":
        asyncio.run(_write_in_tasks(work, say))
        return
    store = walkv.open(
        work.path,
        sync=POLICIES[work.policies],
        memtable_bytes=work.memtable_bytes,
        min_free_bytes=0,  # the disk may be a small one
        filesystem=work.filesystem(),
    )
    say("O")
    done = threading.Event()
    others: list[Callable[[], None]] = []
    if work.compact:
        others.append(partial(_compact, store, done))
    workers = range(1, len(work.first))
    others += [partial(commit_all, store, work, worker, say) for worker in workers]
    threads = [threading.Thread(target=_guarded, args=(other, say)) for other in others]
    for thread in threads:
        thread.start()
    commit_all(store, work, 0, say)
    done.set()
    for thread in threads:
        thread.join()
    say("C")
    store.close()
    say("D")


def _guarded(body: Callable[[], None], say: Say) -> None:
    try:
        body()
    except BaseException:  # noqa: BLE001  # said aloud, and the process ends
        say("E " + traceback.format_exc().replace("\n", " | "))
        os._exit(1)


def _compact(store: walkv.Store, done: threading.Event) -> None:
    while not done.is_set():
        store.compact()
        time.sleep(0.002)


def commit_all(store: walkv.Store, work: Work, worker: int, say: Say) -> None:
    """Make a worker's commits, saying each before and after."""
    for commit in work.of(worker):
        say(f"I {worker} {commit.number}")
        sequence = perform(store, commit, work.policies)
        say(f"A {worker} {commit.number} {sequence}")
        if work.due(commit):
            store.sync()
            say(f"S {sequence}")


async def _write_in_tasks(work: Work, say: Say) -> None:
    store = await walkv.aopen(
        work.path,
        sync=POLICIES[work.policies],
        memtable_bytes=work.memtable_bytes,
        min_free_bytes=0,
        filesystem=work.filesystem(),
    )
    say("O")

    async def compact() -> None:
        while work.compact:
            await store.compact()
            await asyncio.sleep(0.002)

    async def one(worker: int) -> None:
        for commit in work.of(worker):
            say(f"I {worker} {commit.number}")
            sequence = await perform_async(store, commit, work.policies)
            say(f"A {worker} {commit.number} {sequence}")
            if work.due(commit):
                await store.sync()
                say(f"S {sequence}")

    compacting = asyncio.ensure_future(compact())
    await asyncio.gather(*(one(worker) for worker in range(len(work.first))))
    compacting.cancel()
    with suppress(asyncio.CancelledError):
        await compacting
    say("C")
    await store.close()
    say("D")


def follow(path: str, workers: int, say: Say) -> None:
    """The life of a reader that follows the writers, and sees prefixes only, each longer."""
    while True:
        try:
            store = walkv.open(path, read_only=True)
            break
        except FileNotFoundError:
            time.sleep(0.005)
    ledger = Ledger(workers)
    while True:
        with store.view() as view:
            before = ledger.end
            ledger.advance(view)
        if ledger.end != before:
            say(f"V {ledger.end}")
        time.sleep(0.02)
        store.refresh()
