"""Real file systems that die in the middle of commits: the crash of a machine, as its disk sees it.

A file system on a loop device is shut down while processes commit into it: from that moment nothing
reaches the device. It is unmounted, mounted again (its own recovery runs), and the store is opened.
All that was ever synced is there and nothing else needs to be.

    1. A <= j <= I. A is the last commit that an acknowledgement under ``Wal`` or ``WriteThrough``,
       or a ``sync()``, had covered before the shutdown began; I the last one begun.
    2. What ``WriteBack`` has lost of what it acknowledged is within ``max_unsynced_bytes``.
    3. What is there is a prefix in commit order, and ``verify()`` finds nothing.

What is acknowledged while the shutdown runs proves nothing: on ext4 an ``fdatasync`` that is under
way then may report success for data that the shutdown has just thrown away, as a program of ten
lines shows. A disk does not do that.
"""

from __future__ import annotations

import os
import random
import time
from functools import partial

import walkv
from tests.laboratory.job import Figures, Job
from tests.laboratory.kills.commits import MAX_UNSYNCED_BYTES, POLICIES, Commit, Ledger
from tests.laboratory.kills.process import Heard, Say, Work, forked, write
from tests.laboratory.systems.places import Disk, NotHereError
from walkv.testing import LostError

WORKERS = {"loop": 1, "threads": 4, "tasks": 8}
MEMTABLE_BYTES = 65_536


def shutdowns(job: Job, options: dict[str, str], directory: str) -> Figures:
    """``shutdown fs=ext4 face=threads policies=wal rounds=9 mount=data=writeback``."""
    disk = Disk(directory, options["fs"], options.get("mount", ""))
    run = _Run(disk, options, random.Random(job.seed))
    for number in range(1, int(options["rounds"]) + 1):
        try:
            run.round(number)
        except (AssertionError, NotHereError) as error:
            if number == 1 and isinstance(error, NotHereError):
                raise
            words = " ".join(f"{k}={v}" for k, v in {**options, "rounds": str(number)}.items())
            run.figures.fail(job._replace(text=f"shutdown {words}"), error)
            break
    return run.figures


class _Run:
    """Shutdowns of one file system, again and again, with one store on it."""

    def __init__(self, disk: Disk, options: dict[str, str], chooser: random.Random) -> None:
        self.disk = disk
        self.face = options["face"]
        self.policies = options["policies"]
        self.random = chooser
        self.figures = Figures()
        self.ledger = Ledger(WORKERS[self.face])
        self.path = os.path.join(disk.point, "s")

    def round(self, number: int) -> None:
        chooser, disk = self.random, self.disk
        work = Work(
            path=self.path,
            face=self.face,
            policies=self.policies,
            generation=number,
            first=list(self.ledger.next_numbers),
            commits=2_000 // len(self.ledger.next_numbers),
            memtable_bytes=chooser.choice((MEMTABLE_BYTES, 1 << 20)),
            compact=chooser.random() < 0.25,
            sync_every=chooser.choice((0, 0, 40)),
        )
        how = chooser.choice(("nothing", "nothing", "nothing", "log", "flush"))
        acknowledgements = int(chooser.uniform(0, 22) ** 2)
        delay_seconds = chooser.choice((0.0, chooser.uniform(0.0, 0.01)))
        noise = chooser.random() < 0.5
        with (
            disk.mounted(),
            forked(partial(_noise, disk.point) if noise else _silence),
            forked(partial(write, work)) as child,
        ):
            child.listen(lambda heard: _enough(heard, acknowledgements))
            time.sleep(delay_seconds)
            child.poll()
            durable = self._durable(child.heard)
            disk.shut_down(how)
            child.listen(lambda heard: heard.closed or bool(heard.errors))
            heard = child.kill()
        self.figures.counts["file-system shutdowns"] += 1
        self.figures.counts[f"file-system shutdowns of {disk.kind}"] += 1
        with disk.mounted():
            self._check(heard, durable)

    def _check(self, heard: Heard, durable: int) -> None:
        ledger, counts = self.ledger, self.figures.counts
        _only_of_the_disk(heard)
        try:
            new = self._look()
        except FileNotFoundError:
            assert not max(durable, ledger.end), "the store is gone"
            return
        for worker, begun in heard.begun.items():
            assert ledger.next_numbers[worker] <= begun + 1, "a commit that was not begun"
        if ledger.end < durable:
            raise LostError(
                f"acknowledged as durable to sequence {durable}, and the store ends at {ledger.end}"
            )
        moved = [
            key
            for key, sequence in heard.acknowledged.items()
            if sequence <= ledger.end and ledger.versions.get(key) != sequence
        ]
        assert not moved, f"acknowledged, and not where it was: {moved[:5]}"
        self._check_write_back(heard)
        counts["commits checked after a shutdown"] += len(new)
        self._go_on()

    def _look(self) -> list[Commit]:
        with walkv.open(self.path, read_only=True) as store:
            new = self.ledger.advance(store)
            assert store.verify().ok, store.verify().problems[0]
        return new

    def _durable(self, heard: Heard) -> int:
        """The sequence up to which something has promised durability."""
        kept = [
            sequence
            for (worker, number), sequence in heard.acknowledged.items()
            if not _is_back(Commit(worker, number, 0), self.policies)
        ]
        return max([heard.synced, *kept], default=0)

    def _check_write_back(self, heard: Heard) -> None:
        """The bound on what write-back loses holds in bytes, whatever the clock says."""
        ledger, counts = self.ledger, self.figures.counts
        lost = [
            Commit(worker, number, 0)
            for (worker, number), sequence in heard.acknowledged.items()
            if sequence > ledger.end and _is_back(Commit(worker, number, 0), self.policies)
        ]
        lost_bytes = sum(commit.least_bytes() for commit in lost)
        assert lost_bytes <= MAX_UNSYNCED_BYTES, f"write-back lost {lost_bytes} bytes"
        counts["write-back commits lost, within the bound"] += len(lost)

    def _go_on(self) -> None:
        """Recover; what is found then is durable."""
        with walkv.open(self.path, memtable_bytes=MEMTABLE_BYTES) as store:
            assert dict(store.scan()) == self.ledger.state, "recovery changes the state"
            counts = self.figures.counts
            counts["torn tails cut after a shutdown"] += store.recovery_report.cut_bytes > 0


def _enough(heard: Heard, acknowledgements: int) -> bool:
    return len(heard.acknowledged) >= acknowledgements or heard.closed


def _is_back(commit: Commit, policies: str) -> bool:
    policy = commit.policy(policies) or POLICIES[policies]
    return isinstance(policy, walkv.WriteBack)


def _only_of_the_disk(heard: Heard) -> None:
    """A writer may fail with the disk's error and the store's, and with nothing else."""
    for error in heard.errors:
        allowed = ("OSError", "StoreFailedError", "Input/output error")
        assert any(word in error for word in allowed), error


def _noise(point: str, say: Say) -> None:
    """Sync other files: the journal then commits, and with it half of what others did."""
    number = 0
    while True:
        number += 1
        with open(os.path.join(point, f"noise-{number % 3}"), "wb") as file:
            file.write(os.urandom(300))
            file.flush()
            os.fsync(file.fileno())
        time.sleep(0.001)


def _silence(say: Say) -> None:
    time.sleep(600)
