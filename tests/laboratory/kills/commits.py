"""Commits that real processes make, and the ledger that says which prefix of them a store holds.

Commit ``number`` of a worker is the same whenever it is made: a put, a compare-and-set, a batch, a
deleted range or a transaction, over keys that all workers share. With it goes a key of the
journal, ``j/<worker>/<number>``, which is never touched again. Its version is the commit's place in
the order of all workers, so the order that was found can be replayed and compared.

    1. Sequences ascend without a gap over all workers: what is there is a prefix.
    2. The commits found, applied in that order, give exactly the state found.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from typing import NamedTuple, Protocol

import walkv
from walkv.engine.policies import SyncPolicy

State = dict[bytes, bytes]

KINDS = ("put", "put", "batch", "cas", "put", "batch", "range", "put", "batch", "transaction")
OPERATIONS = {"put": 1, "cas": 1, "batch": 4, "range": 3, "transaction": 4}
"""How many sequences a commit of each kind takes."""

MAX_UNSYNCED_BYTES = 60_000
POLICIES: dict[str, SyncPolicy] = {
    "wal": walkv.Wal(),
    "through": walkv.WriteThrough(),
    "back": walkv.WriteBack(interval_seconds=0.01, max_unsynced_bytes=MAX_UNSYNCED_BYTES),
    "mixed": walkv.Wal(),
}
_MIXED = (None, POLICIES["back"], POLICIES["through"], POLICIES["back"], POLICIES["wal"])

_FILLING = random.Random(0).randbytes(120_000)
"""Bytes that cannot be compressed: they fill disks as fast as memory."""


class Commit(NamedTuple):
    """One commit of one worker, made by the generation-th process."""

    worker: int
    number: int
    generation: int

    @property
    def dice(self) -> int:
        """A number that looks random and is always the same for this commit."""
        mixed = (self.number * 2_654_435_761 + self.worker * 40_503 + 12_345) & 0xFFFFFFFF
        return (mixed ^ (mixed >> 15)) * 2_246_822_519 % (1 << 32) >> 7

    @property
    def kind(self) -> str:
        return KINDS[self.dice % len(KINDS)]

    @property
    def journal(self) -> bytes:
        return b"j/%d/%07d" % (self.worker, self.number)

    @property
    def value(self) -> bytes:
        """What the journal says: the generation, and filling of many sizes."""
        size = 5_000 if self.dice % 61 == 0 else 70_000 if self.dice % 457 == 0 else self.dice % 400
        start = self.dice % 50_000
        return b"%d " % self.generation + _FILLING[start : start + size]

    def shared(self, place: int) -> bytes:
        """One of the forty keys that all workers write."""
        return b"s/%02d" % ((self.dice >> place) % 40)

    @property
    def prefix(self) -> bytes:
        """The quarter of the shared keys that a range deletes."""
        return b"s/%d" % (self.dice % 4)

    def policy(self, policies: str) -> SyncPolicy | None:
        """What is asked for this commit alone."""
        return _MIXED[self.dice % len(_MIXED)] if policies == "mixed" else None

    def least_bytes(self) -> int:
        """A lower bound of what it takes in the log."""
        return len(self.journal) + len(self.value)


class Writes(Protocol):
    """What batches and transactions of both faces have in common."""

    def put(self, key: bytes, value: bytes) -> None: ...
    def delete(self, key: bytes) -> None: ...
    def delete_range(self, prefix: bytes) -> None: ...


def fill(batch: Writes, commit: Commit) -> None:
    """The operations of a batch or of a deleted range."""
    if commit.kind == "range":
        batch.delete_range(commit.prefix)
        batch.put(commit.shared(3), b"range %d" % commit.number)
    else:
        batch.put(commit.shared(3), b"%d %d" % (commit.worker, commit.number))
        batch.delete(commit.shared(9))
        batch.put(commit.shared(15), b"x" * (commit.dice % 90))
    batch.put(commit.journal, commit.value)


def fill_transaction(batch: Writes, commit: Commit, total: bytes | None, seen: int) -> None:
    """The operations of a transaction, from what it read."""
    batch.put(b"total", b"%d" % (int(total or b"0") + 1))
    batch.put(b"seen/%d" % commit.worker, b"%d" % seen)
    batch.put(commit.shared(5), b"transaction")
    batch.put(commit.journal, commit.value)


class _Replay:
    """A state that is written as a batch is."""

    def __init__(self, state: State) -> None:
        self.state = state

    def put(self, key: bytes, value: bytes) -> None:
        self.state[key] = value

    def delete(self, key: bytes) -> None:
        self.state.pop(key, None)

    def delete_range(self, prefix: bytes) -> None:
        for key in [key for key in self.state if key.startswith(prefix)]:
            del self.state[key]


def apply(state: State, commit: Commit) -> None:
    """What a commit does to the state."""
    kind = commit.kind
    if kind in ("put", "cas"):
        state[commit.journal] = commit.value
    elif kind == "transaction":
        seen = sum(key.startswith(b"s/") for key in state)
        fill_transaction(_Replay(state), commit, state.get(b"total"), seen)
    else:
        fill(_Replay(state), commit)


def perform(store: walkv.Store, commit: Commit, policies: str) -> int:
    """Make a commit; returns the sequence of its last operation."""
    kind, sync = commit.kind, commit.policy(policies)
    if kind == "put":
        return store.put(commit.journal, commit.value, sync=sync)
    if kind == "cas":
        return store.put(commit.journal, commit.value, expected=None, sync=sync)
    if kind != "transaction":
        batch = store.batch(sync)
        fill(batch, commit)
        return batch.commit() or 0
    while True:
        transaction = store.transaction(sync)
        seen = transaction.count(b"s/")
        fill_transaction(transaction, commit, transaction.get(b"total"), seen)
        try:
            return transaction.commit() or 0
        except walkv.ConflictError:
            continue


async def perform_async(store: walkv.AsyncStore, commit: Commit, policies: str) -> int:
    """``perform`` for tasks."""
    kind, sync = commit.kind, commit.policy(policies)
    if kind == "put":
        return await store.put(commit.journal, commit.value, sync=sync)
    if kind == "cas":
        return await store.put(commit.journal, commit.value, expected=None, sync=sync)
    if kind != "transaction":
        batch = store.batch(sync)
        fill(batch, commit)
        return await batch.commit() or 0
    while True:
        transaction = await store.transaction(sync)
        seen = await transaction.count(b"s/")
        fill_transaction(transaction, commit, await transaction.get(b"total"), seen)
        try:
            return await transaction.commit() or 0
        except walkv.ConflictError:
            continue


class Reads(Protocol):
    """What a store and a view have in common."""

    def get_versioned(self, key: bytes) -> tuple[bytes, int] | tuple[None, None]: ...
    def scan(self) -> Iterable[tuple[bytes, bytes]]: ...


class Ledger:
    """Which prefix a store holds, and the state that it must show.

    Attributes:
        state: after all commits found so far.
        next_numbers: per worker, the first commit that was not found.
        end: the sequence of the last commit found.
        versions: where each commit found stands in the order of all.
    """

    MOST_SKIPPED = 64
    """Sequences that may be skipped between the commits of two processes: opening a store after
    a kill begins a new segment, and one that stays empty leaves a sequence unused."""

    def __init__(self, workers: int) -> None:
        self.state: State = {}
        self.next_numbers = [0] * workers
        self.end = 0
        self.versions: dict[tuple[int, int], int] = {}
        self._generation = 0

    def advance(self, store: Reads) -> list[Commit]:
        """Take in what was committed since, and check the two promises of the module.

        Returns:
            The commits that are new, in their order.
        """
        found = sorted(
            (version, commit)
            for worker in range(len(self.next_numbers))
            for version, commit in self._of_worker(store, worker)
        )
        for version, commit in found:
            self._take(version, commit)
        state = dict(store.scan())
        if state != self.state:
            text = differences(self.state, state)
            raise AssertionError(f"this is no prefix of the commits: {text}")
        return [commit for _, commit in found]

    def _of_worker(self, store: Reads, worker: int) -> Iterable[tuple[int, Commit]]:
        number = self.next_numbers[worker]
        while True:
            value, version = store.get_versioned(Commit(worker, number, 0).journal)
            if value is None or version is None:
                return
            yield version, Commit(worker, number, int(value.split(b" ", 1)[0]))
            number += 1

    def _take(self, version: int, commit: Commit) -> None:
        skipped = version - OPERATIONS[commit.kind] - self.end
        most = 0 if commit.generation == self._generation else self.MOST_SKIPPED
        if commit.generation < self._generation or not 0 <= skipped <= most:
            raise AssertionError(
                f"{commit} ends at sequence {version} and the one before it, of generation "
                f"{self._generation}, at {self.end}: a commit between them is missing"
            )
        self.end, self._generation = version, commit.generation
        self.next_numbers[commit.worker] = commit.number + 1
        self.versions[commit.worker, commit.number] = version
        apply(self.state, commit)


def differences(expected: Mapping[bytes, bytes], found: Mapping[bytes, bytes]) -> str:
    """A few keys that differ."""
    keys = sorted(k for k in expected.keys() | found.keys() if expected.get(k) != found.get(k))
    texts = [f"{k!r}: expected {expected.get(k)!r:.60}, found {found.get(k)!r:.60}" for k in keys]
    return f"{len(keys)} keys differ; " + "; ".join(texts[:4])
