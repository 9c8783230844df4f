"""Workloads as text: what a job's command line shows, what is cut down when one fails.

A workload is steps with ``;`` between them. Words of a step are divided by blanks:

    put KEY [SIZE]        one entry            delete KEY          range START [STOP]
    expire KEY SECONDS    one that expires     cas KEY             compare-and-set
    batch WORD ...        several at once: KEY is put, -KEY deleted, =START deleted as a range
    transact KEY ...      reads and scans, then puts the keys
    conflict KEY          puts a key that an open transaction has read, which must not commit
    phantom KEY           likewise one within a range that it has scanned
    view                  a view, held until the store is closed
    sync   compact   read                      of the public interface
    rotate   flush                             of the engine: a new segment; the memtable settled
    close   kill                               and opened again
    wait SECONDS                               on the simulated clock

``put!`` and the like ask for WriteThrough, ``put~`` for WriteBack, ``put+`` for Wal; without a mark
the store's policy holds. The value of a put is made of the number of its commit, so no two states
of a store are equal by accident.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random
from typing import Final
from unittest.mock import patch

import walkv
from walkv import ConflictError, Store, Wal, WriteBack, WriteThrough, limits
from walkv.engine import wal
from walkv.engine.core import Engine
from walkv.engine.policies import SyncPolicy
from walkv.engine.vfs import FileSystem
from walkv.testing import Operation

PATH: Final = "/data/s.walkv"
MEMTABLE_BYTES: Final = 4_096

POLICIES: Final[dict[str, SyncPolicy]] = {
    "Wal": Wal(),
    "WriteThrough": WriteThrough(),
    "WriteBack": WriteBack(interval_seconds=1.0),
    "WriteBackBytes": WriteBack(interval_seconds=1e6, max_unsynced_bytes=1_000),
}
MARKS: Final[dict[str, SyncPolicy]] = {
    "!": WriteThrough(),
    "~": WriteBack(interval_seconds=1.0),
    "+": Wal(),
}


@contextmanager
def small_store() -> Iterator[None]:
    """A memtable of a few entries, and little written ahead: the same code, more of it a byte."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            patch.object(limits, "MIN_MEMTABLE_BYTES", 1),
            patch.object(wal, "_AHEAD", bytes(700)),
            patch.object(wal, "_SMALL_FRAMES", 1),
        ):
            yield
    finally:
        logging.disable(level)


def open_store(
    fs: FileSystem,
    policy: SyncPolicy | None = None,
    *,
    create: bool = True,
    read_only: bool = False,
) -> Store:
    """Open the store of a workload."""
    return walkv.open(
        PATH,
        sync=Wal() if policy is None else policy,
        create=create,
        read_only=read_only,
        memtable_bytes=MEMTABLE_BYTES,
        cache_bytes=100_000,
        filesystem=fs,
    )


def parse(text: str) -> list[str]:
    """The steps of a workload."""
    return [step.strip() for step in text.split(";") if step.strip()]


def check_known(steps: list[str]) -> None:
    """``ValueError`` where one of the steps is none of the language."""
    known = sorted({kind.split()[0].rstrip("*") for _, kind in _KINDS})
    for step in steps:
        if name_of(step) not in known:
            raise ValueError(f"{step!r} is no step; there are {', '.join(known)}")


def name_of(step: str) -> str:
    """Its first word, without a mark."""
    return step.split()[0].rstrip("!~+")


def policy_of(step: str) -> SyncPolicy | None:
    """The policy its mark asks for; None for the store's own."""
    return MARKS.get(step.split()[0][-1])


def operations_of(step: str, number: int) -> list[Operation] | None:
    """What a commit does, being the ``number``-th; None for a step that commits nothing."""
    name, *words = step.split()
    keys = [word.encode() for word in words]
    value = b"%d." % number
    match name.rstrip("!~+"):
        case "put":
            size = int(words[1]) if len(words) > 1 else 0
            return [("put", keys[0], (value * (size // len(value) + 1))[: size or None], None)]
        case "expire":
            return [("put", keys[0], value, float(words[1]))]
        case "cas" | "conflict" | "phantom":
            return [("put", keys[0], value, None)]
        case "delete":
            return [("delete", keys[0])]
        case "range":
            return [("delete_range", keys[0], keys[1] if len(keys) > 1 else None)]
        case "transact":
            return [("put", key, value, None) for key in keys]
        case "batch":
            return [_part_of_batch(key, value) for key in keys]
    return None


def _part_of_batch(word: bytes, value: bytes) -> Operation:
    if word.startswith(b"-"):
        return ("delete", word[1:])
    if word.startswith(b"="):
        return ("delete_range", word[1:], word[1:] + b"\xff")
    return ("put", word, value, None)


def perform(store: Store, step: str, operations: list[Operation] | None) -> None:
    """Do a step that leaves the store open, on its public interface where there is one."""
    sync = policy_of(step)
    if operations is not None:
        _commit(store, name_of(step), operations, sync)
        return
    match name_of(step):
        case "sync":
            store.sync()
        case "compact":
            store.compact()
        case "read":
            entries = dict(store.scan())
            assert store.get_many(entries) == list(entries.values())
        case "rotate":
            rotate(store)
        case "flush":
            flush(store)
        case unknown:
            raise ValueError(f"unknown step {unknown!r}")


def _commit(store: Store, name: str, operations: list[Operation], sync: SyncPolicy | None) -> None:
    first = operations[0]
    match name:
        case "conflict" | "phantom":
            _overtake(store, name, first[1], first[2], sync)
        case "put" | "expire":
            store.put(first[1], first[2], ttl_seconds=first[3], sync=sync)
        case "delete":
            store.delete(first[1], sync=sync)
        case "range":
            store.delete_range(start=first[1], stop=first[2], sync=sync)
        case "cas":
            _, version = store.get_versioned(first[1])
            store.put(first[1], first[2], expected=version, sync=sync)
        case "transact":
            with store.transaction(sync=sync) as transaction:
                transaction.get_many([operation[1] for operation in operations])
                transaction.count()
                for operation in operations:
                    transaction.put(operation[1], operation[2])
        case _:
            with store.batch(sync=sync) as batch:
                for kind, *arguments in operations:
                    if kind == "put":
                        batch.put(arguments[0], arguments[1])
                    elif kind == "delete":
                        batch.delete(arguments[0])
                    else:
                        batch.delete_range(start=arguments[0], stop=arguments[1])


def _overtake(store: Store, name: str, key: bytes, value: bytes, sync: SyncPolicy | None) -> None:
    """Put a key under a transaction that has read it, and see that it does not commit."""
    transaction = store.transaction()
    if name == "conflict":
        transaction.get(key)
    else:
        transaction.count(start=key, stop=key + b"\xff")
    transaction.put(b"overtaken", b"never")
    try:
        store.put(key, value, sync=sync)
    except BaseException:
        transaction.discard()
        raise
    try:
        transaction.commit()
    except ConflictError:
        return
    raise AssertionError(f"a transaction was committed although {key!r} had changed")


def _engine(store: Store) -> Engine:
    engine = store.engine
    assert isinstance(engine, Engine)
    return engine


def rotate(store: Store) -> None:
    """Begin a new segment, as a full memtable would."""
    engine = _engine(store)
    with engine.commit_lock:
        engine.check()
        engine._rotate()


def flush(store: Store) -> None:
    """Settle the memtable, as a full one would be."""
    engine = _engine(store)
    with engine.commit_lock:
        engine.check()
        if len(engine._memtable) or engine._memtable.ranges:
            engine._freeze()
            engine._start_flush()


_KINDS: Final = (
    (8, "put* KEY SIZE"),
    (3, "batch* KEY KEY -KEY"),
    (1, "batch* =KEY KEY"),
    (3, "delete* KEY"),
    (2, "range* KEY"),
    (2, "transact* KEY KEY"),
    (1, "cas* KEY"),
    (1, "conflict* KEY"),
    (1, "phantom* KEY"),
    (1, "expire* KEY TTL"),
    (1, "view"),
    (1, "read"),
    (1, "sync"),
    (1, "rotate"),
    (2, "flush"),
    (1, "compact"),
    (1, "close"),
    (1, "kill"),
    (2, "wait PAUSE"),
)
"""How often each kind of step comes, and what it is made of."""

_WORDS: Final = {
    "*": ("", "", "", "", *MARKS),
    "KEY": tuple(f"k{number}" for number in range(9)),
    "SIZE": ("0", "0", "30", "300", "1500", "5000"),
    "TTL": ("0.5", "1000000"),
    "PAUSE": ("0.2", "0.9", "3"),
}
_WORD: Final = re.compile(r"\*|KEY|SIZE|TTL|PAUSE")


def random_steps(chooser: Random, count: int) -> list[str]:
    """A workload of everything, long enough for flushes and merges."""
    kinds = [kind for weight, kind in _KINDS for _ in range(weight)]
    return [
        _WORD.sub(lambda word: chooser.choice(_WORDS[word[0]]), chooser.choice(kinds))
        for _ in range(count)
    ]


def shrink(
    steps: list[str], fails: Callable[[list[str]], bool], *, attempt_count: int = 200
) -> list[str]:
    """A shorter workload that still fails: runs of steps are left out, long ones first.

    Source: delta debugging (Zeller).
    """
    size = max(len(steps) // 2, 1)
    while size:
        at = 0
        while at < len(steps) and attempt_count:
            attempt_count -= 1
            shorter = steps[:at] + steps[at + size :]
            if shorter and fails(shorter):
                steps = shorter
            else:
                at += size
        size //= 2
    return steps
