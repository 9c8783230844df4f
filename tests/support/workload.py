"""Steps of a workload, each with its effect on the oracle.

Each commit writes its number under ``b"n"``, so a state tells which prefix it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

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
