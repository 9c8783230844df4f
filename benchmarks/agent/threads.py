"""What is measured of calls that threads make: walkv, and SQLite in careful hands."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.agent import data
from benchmarks.agent.options import Options
from benchmarks.agent.sides import Guarantee, ThreadSide
from benchmarks.agent.timing import Call, time_calls, time_threads
from benchmarks.collector import freeze
from benchmarks.machine import allocated_bytes

Measured = tuple[str, str, float]
"""The row, what its writes survive (``read`` where there are none), and the figure."""

SIZES = {"1 KB": 1_000, "64 KB": 64_000, "1 MB": 1_000_000}
CROWDS = (8, 32)
_POOL = 500
_HISTORY = 20


@dataclass(frozen=True)
class Work:
    """One part to be done by one side."""

    make: Callable[[Path, Guarantee], ThreadSide]
    directory: Path
    options: Options

    @contextmanager
    def open(self, guarantee: Guarantee, place: str = "store") -> Iterator[ThreadSide]:
        """The store in a place, new unless it was opened before."""
        directory = self.directory / f"{place}-{guarantee}"
        directory.mkdir(exist_ok=True)
        freeze()
        side = self.make(directory, guarantee)
        try:
            yield side
        finally:
            side.close()

    def rng(self) -> random.Random:
        return random.Random(self.options.seed)


def writes(work: Work) -> Iterator[Measured]:
    """Messages, sessions and tool calls, a commit each."""
    calls = work.options.calls
    guarantees: tuple[Guarantee, ...] = ("durable", "process")
    for guarantee in guarantees:
        rng = work.rng()
        messages = [data.message(rng) for _ in range(_POOL)]
        executions = [data.execution(rng, number) for number in range(_POOL)]
        with work.open(guarantee) as side:
            side.create_session("s")

            def append(number: int, side: ThreadSide = side, of: Any = messages) -> None:
                side.append("s", of[number % _POOL])

            def update(number: int, side: ThreadSide = side) -> None:
                side.update_session("s")

            def log(number: int, side: ThreadSide = side, of: Any = executions) -> None:
                side.log_execution(of[number % _POOL])

            yield "append a message", guarantee, time_calls(append, calls)
            yield "update a session", guarantee, time_calls(update, calls)
            yield "record a tool call", guarantee, time_calls(log, calls)


def crowds(work: Work) -> Iterator[Measured]:
    """Durable messages from many threads at once, each in a session of its own."""
    rng = work.rng()
    messages = [data.message(rng) for _ in range(_POOL)]

    def appending(side: ThreadSide, thread: int) -> Call:
        append, session_id = side.appender(), f"session-{thread}"
        return lambda number: append(session_id, messages[number % _POOL])

    for count in CROWDS:
        with work.open("durable", f"crowd-{count}") as side:
            calls = [appending(side, thread) for thread in range(count)]
            each_us = time_threads(calls, work.options.calls)
        yield f"append a message, {count} threads", "durable", each_us


def fill_reads(work: Work) -> None:
    """The stores that ``reads`` looks into."""
    options, rng = work.options, work.rng()
    pool = [data.message(rng) for _ in range(_POOL)]
    with work.open("process", "messages") as side:
        for number in range(options.messages // options.conversation):
            messages = [rng.choice(pool) for _ in range(options.conversation)]
            side.fill_messages(f"session-{number}", messages)
        # Else the first repetition would be measured while the store still merges.
        side.compact()
    executions = [data.execution(rng, number) for number in range(options.executions)]
    with work.open("process", "executions") as side:
        side.fill_executions(executions)
        side.compact()


def reads(work: Work) -> Iterator[Measured]:
    """The newest messages of a long conversation in a large store; executions by an index."""
    options = work.options
    count = options.messages // options.conversation
    with work.open("process", "messages") as side:

        def last(number: int, side: ThreadSide = side) -> None:
            assert side.last(f"session-{number % count}", 50) == 50

        name = f"last 50 of {options.conversation:,} messages, {options.messages:,} in the store"
        yield name, "read", time_calls(last, options.calls)
    with work.open("process", "executions") as side:

        def newest(number: int, side: ThreadSide = side) -> None:
            assert side.list_executions(data.ROLES[number % 5], data.STATUSES[number % 2], 50) > 0

        name = f"list 50 executions by (role, status) of {options.executions:,}"
        yield name, "read", time_calls(newest, options.calls)


def checkpoints(work: Work) -> Iterator[Measured]:
    """States that change a little at each step."""
    for label, size_bytes in SIZES.items():
        calls = _calls_of(work.options, size_bytes)
        rng = work.rng()
        states = [data.state(rng, size_bytes)]
        for step in range(1, 2 * calls):
            states.append(data.grown(rng, states[-1], step))
        with work.open("durable", label) as side:

            def put(number: int, side: ThreadSide = side, of: Any = states) -> None:
                side.put_checkpoint("t", f"c{number}", of[number])

            def latest(number: int, side: ThreadSide = side, of: Any = states) -> None:
                assert side.checkpoint("t", None)["step"] == len(of) - 1

            def older(number: int, side: ThreadSide = side, of: Any = states) -> None:
                step = number * 7919 % len(of)
                assert side.checkpoint("t", f"c{step}")["step"] == step

            def history(number: int, side: ThreadSide = side, of: Any = states) -> None:
                assert side.checkpoints("t", _HISTORY) == min(_HISTORY, len(of))

            yield f"checkpoint put, {label}", "durable", time_calls(put, calls)
            yield f"checkpoint latest, {label}", "read", time_calls(latest, calls)
            yield f"checkpoint any older, {label}", "read", time_calls(older, calls)
            name = f"checkpoint history, the last {min(_HISTORY, len(states))}, {label}"
            yield name, "read", time_calls(history, calls)


def _calls_of(options: Options, size_bytes: int) -> int:
    """Fewer calls for large states, but never so few that a median of them says nothing."""
    return max(options.calls * 1_000 // max(size_bytes, 4_000), min(options.calls, 10))


def disk(work: Work) -> Iterator[Measured]:
    """Bytes on disk of the checkpoints of one growing conversation, closed."""
    options = work.options
    with work.open("process") as side:
        states = data.conversation(work.rng(), options.checkpoint_steps, options.checkpoint_bytes)
        for step, state in enumerate(states):
            side.put_checkpoint("t", f"c{step}", state)
    name = f"{options.checkpoint_steps} checkpoints of a conversation that grows to "
    name += f"{options.checkpoint_bytes:,} bytes, on disk"
    yield name, "process", float(allocated_bytes(work.directory))
