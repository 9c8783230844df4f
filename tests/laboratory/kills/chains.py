"""Real processes on a real file system that SIGKILL ends while they commit, recover and close.

A chain of kills goes over one store. What the processes acknowledged is known outside of them,
through a pipe; ``commits.Ledger`` knows which state each prefix of the commits has. After
each kill:

    1. Everything acknowledged is there, under every policy, at the sequence that was told.
    2. What is there is a prefix in commit order over all workers, and nothing that was not begun.
    3. ``verify()`` finds nothing, and recovery changes nothing, however often it is killed too.

A kill comes from outside after a number of acknowledgements, or from within, at one operation of
the file system: before it, after it, or with half of a write done.

Job texts: ``chain face=threads policies=wal kills=16 compact=1 follow=1`` and ``birth``. Processes
are not deterministic: a job repeats the same choices, not the same moments. A failure in a chain
names the job that ends with the kill that showed it.
"""

from __future__ import annotations

import logging
import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial

import walkv
from tests.laboratory.job import Failure, Figures, Job, Layer, Scale
from tests.laboratory.kills.commits import Ledger, differences
from tests.laboratory.kills.process import (
    Child,
    Doom,
    DoomedFileSystem,
    Heard,
    Say,
    Work,
    follow,
    forked,
    write,
)

NAME = "kills"
WORKERS = {"loop": 1, "threads": 4, "tasks": 8}
MEMTABLE_BYTES = 65_536
MOST_STEPS = 200
"""More operations than any recovery, or the making of a store, takes."""

_SITES = (
    *(("write", 150), ("write", 30), ("sync", 80), ("any", 300), ("truncate", 8), ("create", 10)),
    *(("rename", 6), ("unlink", 6), ("sync_directory", 16)),
)
"""Where a process kills itself, and up to which of these operations."""

_MOMENTS = ("before", "after", "torn")
_TEARING = ("torn", "torn", "torn", "before", "after")


def jobs(scale: Scale, seed: int) -> list[Job]:
    chooser = random.Random(seed)
    if scale is Scale.QUICK:
        faces = (("loop", "mixed"), ("threads", "back"), ("threads", "wal"), ("tasks", "through"))
        chains = [_chain(chooser, *pair, kills=4) for pair in faces]
        chains[1] = chains[1]._replace(text=f"{chains[1].text.split(' compact')[0]} follow=1")
    elif scale is Scale.FULL:
        pairs = [(face, policies) for face in WORKERS for policies in _POLICY_NAMES]
        chains = [_chain(chooser, *pair, kills=15) for pair in pairs * 2]
    else:
        chains = [
            _chain(chooser, face, chooser.choice(_POLICY_NAMES), kills=30) for face in WORKERS
        ]
    return [*chains, Job(NAME, "birth", chooser.randrange(1 << 30), 1.0)]


_POLICY_NAMES = ("wal", "through", "back", "mixed")


def _chain(chooser: random.Random, face: str, policies: str, kills: int) -> Job:
    compact, follower = int(chooser.random() < 0.3), int(chooser.random() < 0.4)
    text = f"chain face={face} policies={policies} kills={kills}"
    text += " compact=1" * compact + " follow=1" * follower
    return Job(NAME, text, chooser.randrange(1 << 30), kills * 0.1)


def run(job: Job) -> Figures:
    kind, *words = job.text.split()
    options = dict(word.split("=", 1) for word in words)
    with _quiet(), tempfile.TemporaryDirectory(prefix="walkv-kills-") as directory:
        path = os.path.join(directory, "s")
        if kind == "birth":
            return _births(path, random.Random(job.seed))
        return _Chain(path, job, options).run()


@contextmanager
def _quiet() -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


@dataclass
class _Plan:
    """How one process of a chain is to end."""

    acknowledgements: int
    delay_seconds: float
    at_close: bool
    commits: int
    doom: Doom | None

    def reached(self, heard: Heard) -> bool:
        if self.at_close:
            return heard.closing
        return len(heard.acknowledged) >= self.acknowledgements or heard.closed


@dataclass
class _Chain:
    """Kills over one store."""

    path: str
    job: Job
    options: dict[str, str]
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.face = self.options["face"]
        self.policies = self.options["policies"]
        self.compact = self.options.get("compact") == "1"
        self.random = random.Random(self.job.seed)
        self.ledger = Ledger(WORKERS[self.face])

    def run(self) -> Figures:
        figures = Figures(self.counts)
        with ExitStack() as stack:
            follower: Child | None = None
            if self.options.get("follow") == "1":
                body = partial(follow, self.path, len(self.ledger.next_numbers))
                follower = stack.enter_context(forked(body))
            for number in range(1, int(self.options["kills"]) + 1):
                plan = self._plan()
                try:
                    self._one(number, plan)
                except Exception as error:  # noqa: BLE001  # whatever it is, it must not be
                    figures.fail(self._until(number), error, f"kill {number}: {plan}")
                    return figures
            if follower is not None:
                self._ask(follower, figures)
        return figures

    def _until(self, number: int) -> Job:
        """The job that ends with a kill."""
        words = {**self.options, "kills": str(number)}
        text = " ".join(["chain", *(f"{key}={value}" for key, value in words.items())])
        return self.job._replace(text=text)

    def _plan(self) -> _Plan:
        chooser = self.random
        doom = None
        if chooser.random() < 0.55:
            site, most = chooser.choice(_SITES)
            early = 1 + int(most * chooser.random() ** 2)
            doom = Doom(site, early, chooser.choice(_MOMENTS if site != "write" else _TEARING))
        at_close = chooser.random() < 0.2
        return _Plan(
            acknowledgements=int(chooser.uniform(0, 20) ** 2),
            delay_seconds=chooser.choice((0.0, 0.0, chooser.uniform(0.0, 0.004))),
            at_close=at_close,
            commits=chooser.randint(5, 60) if at_close else 800 // len(self.ledger.next_numbers),
            doom=doom,
        )

    def _one(self, number: int, plan: _Plan) -> None:
        ledger = self.ledger
        work = Work(
            path=self.path,
            face=self.face,
            policies=self.policies,
            generation=number,
            first=list(ledger.next_numbers),
            commits=plan.commits,
            memtable_bytes=self.random.choice((MEMTABLE_BYTES, MEMTABLE_BYTES, 1 << 20)),
            compact=self.compact,
            doom=plan.doom,
        )
        with forked(partial(write, work)) as child:
            outside = child.listen(plan.reached)
            if outside:
                time.sleep(plan.delay_seconds)
            heard = child.kill()
            assert child.killed or heard.closed, f"the writer ended by itself: {heard.errors}"
        self._note(heard, outside)
        self._check(heard)
        if self.random.random() < 0.15:
            self._kill_recoveries()
        if self.random.random() < 0.4:
            self._reopen()

    def _note(self, heard: Heard, outside: bool) -> None:
        counts = self.counts
        counts["kills"] += 1
        counts["kills of writers"] += 1
        counts["kills at one file-system operation"] += not outside
        counts["kills while opening"] += not heard.opened
        counts["kills while closing"] += heard.closing and not heard.closed
        assert not heard.errors, heard.errors[0]

    def _check(self, heard: Heard) -> None:
        """What the dead process left, looked at without changing it."""
        ledger, counts = self.ledger, self.counts
        try:
            store = walkv.open(self.path, read_only=True)
        except FileNotFoundError:
            assert len(heard.acknowledged) + ledger.end == 0, "the store is gone"
            return
        with store:
            new = ledger.advance(store)
            assert store.verify().ok, store.verify().problems[0]
            assert store.recovery_report.clean or not heard.closed, "it was closed"
        check_begun(ledger, heard)
        lost = lost_of(ledger, heard)
        counts["acknowledged checked"] += len(heard.acknowledged)
        counts["acknowledged lost"] += len(lost)
        assert not lost, f"acknowledged and lost: {lost[:5]}; the store ends at {ledger.end}"
        counts["commits found beyond the acknowledged"] += len(new) - len(heard.acknowledged)

    def _kill_recoveries(self) -> None:
        """Kill an opener at its first operation, the next at its second, ... until one is open."""
        for step in range(1, MOST_STEPS):
            doom = Doom("any", step, self.random.choice(_MOMENTS))
            with forked(partial(_open_only, self.path, doom)) as child:
                opened = child.listen(lambda heard: heard.opened)
                heard = child.kill()
            assert child.killed, heard.errors
            if opened:
                break
            self.counts["kills"] += 1
            self.counts["kills during recovery"] += 1
            self._unchanged()
        else:
            raise AssertionError(f"recovery is not done after {MOST_STEPS} operations")
        self._unchanged()

    def _unchanged(self) -> None:
        """Nothing was committed since the last look, so the state is the same."""
        try:
            store = walkv.open(self.path, read_only=True)
        except FileNotFoundError:
            assert not self.ledger.end, "the store is gone"
            return
        with store:
            self._same(store)

    def _same(self, store: walkv.Store) -> None:
        state = dict(store.scan())
        assert state == self.ledger.state, (
            f"recovery changes the state: {differences(self.ledger.state, state)}"
        )

    def _reopen(self) -> None:
        """Recover here, twice."""
        for _ in range(2):
            with walkv.open(self.path, memtable_bytes=MEMTABLE_BYTES) as store:
                self._same(store)
                assert store.verify().ok
                self.counts["torn tails cut"] += store.recovery_report.cut_bytes > 0
                self.counts["unfinished files removed"] += len(store.recovery_report.removed_files)
        self.counts["recoveries checked"] += 1

    def _ask(self, follower: Child, figures: Figures) -> None:
        """What the follower has seen: prefixes, and none longer than what survived."""
        heard = follower.kill()
        self.counts["prefixes seen by a following reader"] += heard.looks
        for error in heard.errors:
            figures.failures.append(Failure(self.job, "a following reader: " + error[:200], error))
        if heard.seen > self.ledger.end:
            what = f"a reader saw sequence {heard.seen}, and the store ends at {self.ledger.end}"
            figures.failures.append(Failure(self.job, what))


def check_begun(ledger: Ledger, heard: Heard) -> None:
    """Nothing is there that was not begun."""
    for worker, number in heard.begun.items():
        following = ledger.next_numbers[worker]
        assert following <= number + 1, f"worker {worker} began {number}, found {following - 1}"


def lost_of(ledger: Ledger, heard: Heard) -> list[tuple[int, int]]:
    """Acknowledged commits that are missing, or not where the acknowledgement said."""
    versions = ledger.versions
    return [c for c, sequence in heard.acknowledged.items() if versions.get(c) != sequence]


def _open_only(path: str, doom: Doom, say: Say) -> None:
    # The small budget makes opening flush, too.
    walkv.open(path, memtable_bytes=MEMTABLE_BYTES, filesystem=DoomedFileSystem(doom))
    say("O")
    time.sleep(60)


def _births(path: str, chooser: random.Random) -> Figures:
    """Kill the making of a store at each of its operations."""
    figures = Figures()
    for moment in _MOMENTS:
        for step in range(1, MOST_STEPS):
            target = f"{path}-{moment}-{step}"
            with forked(partial(_open_only, target, Doom("any", step, moment))) as child:
                opened = child.listen(lambda heard: heard.opened)
                heard = child.kill()
            assert not heard.errors, f"it was not killed, it failed: {heard.errors}"
            if opened:
                break
            figures.counts["kills"] += 1
            figures.counts["kills while a store was made"] += 1
            with walkv.open(target) as store:
                assert store.count() == 0
                store.put(b"k%d" % chooser.randrange(9), b"v")
            with walkv.open(target, read_only=True) as store:
                assert store.count() == 1
    return figures


LAYER = Layer(NAME, "kill -9 of real processes", jobs, run)
