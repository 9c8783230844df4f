"""Other processes and other hands: races to open, forks in the middle, files that are taken away.

1. One process writes. The others are told which; after its ``kill -9`` one of them wins.
2. A forked child can neither use its parent's store nor keep it locked.
3. A directory or file taken away is noticed. Nothing is written where the store no longer is,
   and what was moved holds all that was acknowledged.
"""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

import walkv
from tests.laboratory.job import Figures, Job
from tests.laboratory.kills.chains import check_begun, lost_of
from tests.laboratory.kills.commits import Commit, Ledger, perform
from tests.laboratory.kills.process import (
    HANGS_SECONDS,
    Child,
    Heard,
    Say,
    Work,
    commit_all,
    forked,
)

MEMTABLE_BYTES = 65_536
RETRY_SECONDS = 0.001
MOST_TELLINGS = 5_000


# -- races to open -------------------------------------------------------------------------------


def race(job: Job, options: dict[str, str], directory: str) -> Figures:
    """``race openers=8 rounds=2``: all open at once; the winner is killed, until none is left."""
    figures, chooser = Figures(), random.Random(job.seed)
    openers = int(options["openers"])
    for number in range(int(options["rounds"])):
        path = os.path.join(directory, f"s{number}")
        if chooser.random() < 0.5:
            walkv.open(path).close()
            _pretend_holder(path, chooser)
        _one_race(path, openers, figures)
        with walkv.open(path) as store:
            assert store[b"wins"] == b"%d" % openers, "an opener's commit is lost"
            assert store.verify().ok
    return figures


def _pretend_holder(path: str, chooser: random.Random) -> None:
    """The name of a process that lives and does not hold the lock: its number was used again."""
    holder = chooser.choice((os.getpid(), os.getppid(), 1))
    Path(path, "LOCK").write_text(json.dumps({"pid": holder, "host": "elsewhere"}))


def _one_race(path: str, openers: int, figures: Figures) -> None:
    start, go = os.pipe()
    with ExitStack() as stack:
        children = [
            stack.enter_context(forked(partial(_opener, path, start, go))) for _ in range(openers)
        ]
        os.close(start)
        os.close(go)  # now all of them run
        figures.counts["races to open"] += 1
        while children:
            winner = _winner(children)
            others = [child for child in children if child is not winner]
            _are_told(winner, others, figures)
            winner.kill()
            children = others


def _is_told(holder: int, most: int, heard: Heard) -> bool:
    # What was said before the winner had won may still be on its way.
    return heard.told == holder or heard.tellings > most or heard.opened


def _opener(path: str, start: int, go: int, say: Say) -> None:
    os.close(go)
    os.read(start, 1)  # until the parent has closed the other end
    while True:
        try:
            store = walkv.open(path)
        except walkv.LockedError as error:
            say(f"L {error.pid or 0}")
            time.sleep(RETRY_SECONDS)
            continue
        wins = int(store.get(b"wins", b"0")) + 1
        store.put(b"wins", b"%d" % wins)
        say("O")
        time.sleep(600)


def _winner(children: list[Child]) -> Child:
    """The one that has opened the store; whoever is second within its life is a failure."""
    while True:
        for child in children:
            child.poll()
            assert not child.heard.errors, child.heard.errors[0]
            if child.heard.opened:
                return child
        time.sleep(RETRY_SECONDS)


def _are_told(winner: Child, others: list[Child], figures: Figures) -> None:
    """Every other one learns who holds the store, and none has it."""
    for child in others:
        child.listen(partial(_is_told, winner.pid, child.heard.tellings + MOST_TELLINGS))
        figures.counts["openers told who holds the store"] += 1
    for child in others:
        child.poll()
        assert not child.heard.opened, "two processes have opened the store"
        assert child.heard.told == winner.pid, f"told of {child.heard.told}"


# -- forks ---------------------------------------------------------------------------------------


def forks(job: Job, options: dict[str, str], directory: str) -> Figures:
    """``fork rounds=4``: a writer forks all the time and is killed while its children live on."""
    figures, chooser = Figures(), random.Random(job.seed)
    path = os.path.join(directory, "s")
    ledger = Ledger(4)
    for number in range(1, int(options["rounds"]) + 1):
        work = Work(
            path=path,
            face="threads",
            policies=chooser.choice(("wal", "back", "mixed")),
            generation=number,
            first=list(ledger.next_numbers),
            commits=400,
            compact=chooser.random() < 0.5,
        )
        wait, done = os.pipe()
        most = chooser.randint(1, 8)
        with forked(partial(_forking_writer, work, most, wait, done)) as child:
            os.close(wait)
            child.listen(partial(_has_forked, most))
            time.sleep(chooser.choice((0.0, 0.002)))
            child.strike()
            # Its children still live, with all that they have inherited.
            with _open_soon(path) as store:
                ledger.advance(store)
                assert store.verify().ok
            os.close(done)
            heard = child.wait()
        assert not heard.errors, heard.errors[0]
        check_begun(ledger, heard)
        lost = lost_of(ledger, heard)
        assert not lost, f"acknowledged and lost: {lost[:5]}"
        figures.counts["forks in the middle of commits"] += heard.looks
        figures.counts["writers killed while forked children live"] += 1
    return figures


def _has_forked(most: int, heard: Heard) -> bool:
    return heard.looks >= most


def _open_soon(path: str) -> walkv.Store:
    """Open what a process that is just dying has held; a child at its fork may hold it as well."""
    for _ in range(20_000):
        with suppress(walkv.LockedError):
            return walkv.open(path, memtable_bytes=MEMTABLE_BYTES)
        time.sleep(RETRY_SECONDS)
    raise AssertionError("forked children keep the store locked")


def _forking_writer(work: Work, most: int, wait: int, done: int, say: Say) -> None:
    os.close(done)
    store = walkv.open(work.path, memtable_bytes=work.memtable_bytes, filesystem=work.filesystem())
    threads = [
        threading.Thread(target=commit_all, args=(store, work, worker, say), daemon=True)
        for worker in range(len(work.first))
    ]
    for thread in threads:
        thread.start()
    for number in range(most):
        if os.fork() == 0:
            _in_grandchild(store, wait, say)
        say(f"V {number}")
    time.sleep(600)


def _in_grandchild(store: walkv.Store, wait: int, say: Say) -> None:
    """Everything is refused here, and nothing reaches the files."""
    signal.alarm(HANGS_SECONDS)  # a fork does not inherit its parent's
    attempts: list[Callable[[], object]] = [
        lambda: store.put(b"child", b"1"),
        lambda: store.get(b"total"),
        lambda: list(store.scan()),
        store.compact,
        store.sync,
    ]
    try:
        for attempt in attempts:
            try:
                attempt()
            except walkv.StoreFailedError:
                continue
            say("E a forked child could use its parent's store")
        store.close()
        os.read(wait, 1)
    finally:
        os._exit(0)


# -- what is taken away --------------------------------------------------------------------------


def vanish(job: Job, options: dict[str, str], directory: str) -> Figures:
    """``vanish``: files and directories of an open store are moved or deleted."""
    figures, chooser = Figures(), random.Random(job.seed)
    for number, (name, take) in enumerate(TAKEN.items()):
        if options.get("what", name) != name:
            continue
        for end in ("put", "compact", "fill", "close"):
            root = os.path.join(directory, f"{number}-{end}")
            os.mkdir(root)
            try:
                _taken(root, take, end, chooser.randint(1, 150))
            except AssertionError as error:
                figures.fail(job._replace(text=f"vanish what={name}"), error, f"then {end}")
            figures.counts["files and directories taken away"] += 1
    return figures


class _Taken:
    """A store whose files are taken, and where what is left of it can be opened.

    Attributes:
        path: where the store was opened.
        found_at: where it can be opened afterwards; None if its data is gone.
        stranger: a store, or nothing, that stands at the path now and must stay as it is.
    """

    def __init__(self, root: str) -> None:
        self.path = os.path.join(root, "s")
        self.moved = os.path.join(root, "moved")
        self.found_at: str | None = self.path
        self.stranger = False
        self.put_back: Callable[[], None] = lambda: None

    def move(self, name: str) -> None:
        """Move a part away; it is put back before the store is opened again."""
        path = os.path.join(self.path, name)
        os.rename(path, self.moved)

        def put_back() -> None:
            # A manifest is written anew by whoever commits on.
            if name != "MANIFEST" or not os.path.exists(path):
                os.rename(self.moved, path)

        self.put_back = put_back

    def move_all(self) -> None:
        os.rename(self.path, self.moved)
        self.found_at, self.stranger = self.moved, True


def _newest_segment() -> Callable[[_Taken], str]:
    return lambda taken: os.path.join("log", max(os.listdir(os.path.join(taken.path, "log"))))


def _replace_by_store(taken: _Taken) -> None:
    taken.move_all()
    with walkv.open(taken.path) as other:
        other.put(b"other", b"store")


def _replace_by_directory(taken: _Taken) -> None:
    taken.move_all()
    os.mkdir(taken.path)


def _delete_all(taken: _Taken) -> None:
    while os.path.exists(taken.path):
        try:
            shutil.rmtree(taken.path)
        except OSError as error:
            # The store's background thread makes and removes files while they are deleted.
            if error.errno not in (errno.ENOTEMPTY, errno.ENOENT):
                raise
    taken.found_at, taken.stranger = None, True


def _delete_segment(taken: _Taken) -> None:
    os.unlink(os.path.join(taken.path, _newest_segment()(taken)))
    taken.found_at = None


TAKEN: dict[str, Callable[[_Taken], None]] = {
    "segment-moved": lambda taken: taken.move(_newest_segment()(taken)),
    "segment-deleted": _delete_segment,
    "log-moved": lambda taken: taken.move("log"),
    "snapshots-moved": lambda taken: taken.move("snapshots"),
    "manifest-moved": lambda taken: taken.move("MANIFEST"),
    "lock-moved": lambda taken: taken.move("LOCK"),
    "all-moved": _Taken.move_all,
    "all-deleted": _delete_all,
    "another-store-instead": _replace_by_store,
    "an-empty-directory-instead": _replace_by_directory,
}


def _taken(root: str, take: Callable[[_Taken], None], end: str, commits: int) -> None:
    taken, ledger = _Taken(root), Ledger(1)
    store = walkv.open(taken.path, memtable_bytes=MEMTABLE_BYTES)
    for number in range(commits):
        perform(store, Commit(0, number, 1), "wal")
    ledger.advance(store)
    take(taken)
    before = _everything(taken.path)
    acknowledged = _use(store, end, commits)
    if taken.stranger:
        assert _everything(taken.path) == before, "written where the store no longer is"
    taken.put_back()
    if taken.found_at is None:
        return
    with walkv.open(taken.found_at, memtable_bytes=MEMTABLE_BYTES) as store:
        ledger.advance(store)
        found = ledger.next_numbers[0]
        # The one that met the error may be there, or not.
        assert acknowledged <= found <= acknowledged + 1, f"{acknowledged} returned, {found} found"
        assert store.verify().ok


def _use(store: walkv.Store, end: str, first: int) -> int:
    """Go on until the store says what is wrong; returns how many commits have returned."""
    told = (OSError, walkv.StoreFailedError, walkv.CorruptionError)
    number = first
    with suppress(*told):
        while number < first + {"fill": 600, "close": 0}.get(end, 5):
            perform(store, Commit(0, number, 1), "wal")
            number += 1
    with suppress(*told):
        if end == "compact":
            store.compact()
    with suppress(*told):
        store.close()
    return number


def _everything(path: str) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in Path(path).rglob("*") if file.is_file()}
