"""A workload of a few dozen commits that passes through every room of the engine, with its oracle.

Each commit writes its number under ``b"n"``, so a state tells which prefix it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import walkv
from walkv import Store

State = dict[bytes, bytes]


class Step(NamedTuple):
    """One call of the workload.

    Attributes:
        name: for messages.
        run: does it.
        effect: the state after it; None where it changes nothing.
    """

    name: str
    run: Callable[[Store], object]
    effect: Callable[[State], None] | None


def state_of(store: Store) -> State:
    return dict(store.scan())


def put(key: bytes, value: bytes) -> Step:
    def effect(state: State) -> None:
        state[key] = value

    return Step(f"put {key!r}", lambda store: store.put(key, value), effect)


def delete(key: bytes) -> Step:
    def effect(state: State) -> None:
        state.pop(key, None)

    return Step(f"delete {key!r}", lambda store: store.delete(key), effect)


def batch(number: int, *keys: bytes) -> Step:
    value = b"%d" % number

    def run(store: Store) -> None:
        with store.batch() as batch:
            for key in (b"n", *keys):
                batch.put(key, value)

    def effect(state: State) -> None:
        state.update(dict.fromkeys((b"n", *keys), value))

    return Step(f"batch {number}", run, effect)


def delete_range(number: int, prefix: bytes) -> Step:
    def run(store: Store) -> None:
        with store.batch() as batch:
            batch.delete_range(prefix)
            batch.put(b"n", b"%d" % number)

    def effect(state: State) -> None:
        for key in [k for k in state if k.startswith(prefix)]:
            del state[key]
        state[b"n"] = b"%d" % number

    return Step(f"delete_range {prefix!r}", run, effect)


def compare_and_set(number: int) -> Step:
    value = b"%d" % number

    def run(store: Store) -> None:
        _, version = store.get_versioned(b"n")
        store.put(b"n", value, expected=version)

    def effect(state: State) -> None:
        state[b"n"] = value

    return Step(f"compare-and-set {number}", run, effect)


def transaction(number: int, key: bytes) -> Step:
    value = b"%d" % number

    def run(store: Store) -> None:
        with store.transaction() as transaction:
            transaction.get(b"n")
            list(transaction.scan(b"b"))
            transaction.put(b"n", value)
            transaction.put(key, value)

    def effect(state: State) -> None:
        state[b"n"] = value
        state[key] = value

    return Step(f"transaction {number}", run, effect)


def call(name: str, run: Callable[[Store], object]) -> Step:
    return Step(name, run, None)


def conflict(store: Store) -> None:
    """A compare-and-set that must fail."""
    try:
        store.put(b"n", b"never", expected=10**9)
    except walkv.ConflictError:
        return
    raise AssertionError("no conflict")


def fillers(count: int, size_bytes: int, first: int = 0) -> list[Step]:
    """Puts that fill the memtable."""
    return [put(b"f%03d" % n, bytes([n % 256]) * size_bytes) for n in range(first, first + count)]


def long_workload() -> list[Step]:
    """Everything once, with rotations and flushes in the middle, at ``memtable_bytes=65536``."""
    return [
        put(b"n", b"1"),
        put(b"b1", b"x" * 100),
        batch(2, b"b2", b"b3", b"b4"),
        compare_and_set(3),
        call("conflict", conflict),
        delete(b"b3"),
        transaction(4, b"t1"),
        call("sync", lambda store: store.sync()),
        *fillers(6, 6_000),
        batch(5, b"b5", b"b6"),
        *fillers(6, 6_000, first=3),
        delete_range(6, b"f00"),
        call("compact", lambda store: store.compact()),
        compare_and_set(7),
        *fillers(12, 6_000, first=20),
        batch(8, b"b1", b"b7"),
        call("get", lambda store: store.get(b"f021")),
        call("scan", lambda store: list(store.scan())),
        call("compact again", lambda store: store.compact()),
        put(b"n", b"9"),
        transaction(10, b"t2"),
    ]
