"""What is measured: each row on one side and on the other, in turn, in one process."""

import random
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.agent import data
from benchmarks.agent.sqlite_side import SqliteSide
from benchmarks.agent.walkv_side import WalkvSide

Side = WalkvSide | SqliteSide
SIDES: dict[str, type[Side]] = {"walkv": WalkvSide, "sqlite": SqliteSide}
SIZES = {"1 KB": 1_000, "64 KB": 64_000, "1 MB": 1_000_000}


@dataclass(frozen=True)
class Options:
    """How much is done."""

    seed: int = 1
    rounds: int = 7
    calls: int = 200
    messages: int = 1_000_000
    conversation: int = 10_000
    executions: int = 100_000
    checkpoint_steps: int = 600
    checkpoint_bytes: int = 400_000


QUICK = Options(
    rounds=2,
    calls=5,
    messages=2_000,
    conversation=500,
    executions=500,
    checkpoint_steps=20,
    checkpoint_bytes=20_000,
)


@dataclass
class Row:
    """Microseconds a call, a sample a round, by side."""

    name: str
    guarantee: str
    samples: dict[str, list[float]] = field(default_factory=dict)

    def median(self, side: str) -> float:
        """The median of a side."""
        return statistics.median(self.samples[side])

    @property
    def ratio(self) -> float:
        """How many times as long SQLite takes."""
        return self.median("sqlite") / self.median("walkv")


@contextmanager
def both(directory: Path, guarantee: str) -> Iterator[dict[str, Side]]:
    """Both sides on fresh stores."""
    with tempfile.TemporaryDirectory(dir=directory) as place:
        sides = {name: side(Path(place), guarantee) for name, side in SIDES.items()}
        try:
            yield sides
        finally:
            for side in sides.values():
                side.close()


Call = Callable[[Side, int], Any]


def measure(name: str, guarantee: str, sides: dict[str, Side], call: Call, options: Options) -> Row:
    """Time a call: rounds of one side and of the other in turn, after one round to warm up."""
    row = Row(name, guarantee, {side: [] for side in sides})
    number = 0
    for round_number in range(options.rounds + 1):
        order = list(sides.items())
        if round_number % 2:
            order.reverse()
        for side_name, side in order:
            begin = time.perf_counter()
            for each in range(number, number + options.calls):
                call(side, each)
            elapsed = time.perf_counter() - begin
            if round_number:
                row.samples[side_name].append(elapsed / options.calls * 1e6)
        number += options.calls
    return row


def small_writes(directory: Path, options: Options) -> Iterator[Row]:
    """Messages and sessions, at each guarantee."""
    for guarantee in ("durable", "process"):
        with both(directory, guarantee) as sides:
            rng = random.Random(options.seed)
            messages = [data.message(rng) for _ in range(500)]
            for side in sides.values():
                side.create_session("s")

            def append(side: Side, number: int, of: Any = messages) -> None:
                side.append("s", of[number % 500])

            yield measure("append a message", guarantee, sides, append, options)
            yield measure(
                "update a session",
                guarantee,
                sides,
                lambda side, number: side.update_session("s"),
                options,
            )
            executions = [data.execution(rng, number) for number in range(500)]

            def log(side: Side, number: int, of: Any = executions) -> None:
                side.log_execution(of[number % 500])

            yield measure("record a tool call", guarantee, sides, log, options)


def crowds(directory: Path, options: Options) -> Iterator[Row]:
    """Durable messages from many threads at once, each in a session of its own."""
    for count in (8, 32):
        with both(directory, "durable") as sides:
            rng = random.Random(options.seed)
            messages = [data.message(rng) for _ in range(500)]
            row = Row(f"append a message, {count} threads", "durable", {side: [] for side in sides})
            for round_number in range(options.rounds + 1):
                for name, side in sides.items():
                    seconds = _crowd(side, count, options.calls, messages)
                    if round_number:
                        row.samples[name].append(seconds / count / options.calls * 1e6)
            yield row


def _crowd(side: Side, count: int, calls: int, messages: list[dict[str, Any]]) -> float:
    """Seconds until `count` threads have appended `calls` messages each."""
    ready = threading.Barrier(count + 1)

    def work(number: int) -> None:
        mine = side.worker()
        ready.wait()
        for call in range(calls):
            mine.append(f"session-{number}", messages[call % 500])
        mine.leave()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    ready.wait()
    begin = time.perf_counter()
    for thread in threads:
        thread.join()
    return time.perf_counter() - begin


def reads(directory: Path, options: Options, tell: Callable[[str], None]) -> Iterator[Row]:
    """The newest messages of a long conversation in a large store; executions by an index."""
    with both(directory, "process") as sides:
        rng = random.Random(options.seed)
        pool = [data.message(rng) for _ in range(500)]
        count = options.messages // options.conversation
        for number in range(count):
            tell(f"messages {number * options.conversation:,} of {options.messages:,}")
            messages = [rng.choice(pool) for _ in range(options.conversation)]
            for side in sides.values():
                side.fill_messages(f"session-{number}", messages)
        found = {"walkv": 0, "sqlite": 0}

        def last(side: Side, number: int) -> None:
            found[type(side).__name__[:-4].lower()] += side.last(f"session-{number % count}", 50)

        yield measure(
            f"last 50 of {options.conversation:,} messages, {options.messages:,} in the store",
            "read",
            sides,
            last,
            options,
        )
        assert found["walkv"] == found["sqlite"]
    with both(directory, "process") as sides:
        tell("executions")
        rng = random.Random(options.seed)
        executions = [data.execution(rng, number) for number in range(options.executions)]
        for side in sides.values():
            side.fill_executions(executions)

        def newest(side: Side, number: int) -> None:
            side.list_executions(data.ROLES[number % 5], data.STATUSES[number % 2], 50)

        name = f"list 50 executions by (role, status) of {options.executions:,}"
        yield measure(name, "read", sides, newest, options)


def checkpoints(directory: Path, options: Options, tell: Callable[[str], None]) -> Iterator[Row]:
    """States that change a little at each step."""
    for label, size_bytes in SIZES.items():
        tell(f"checkpoints of {label}")
        calls = max(options.calls * 1_000 // max(size_bytes, 4_000), min(options.calls, 10))
        fewer = Options(options.seed, options.rounds, calls)
        for guarantee in ("durable",):
            with both(directory, guarantee) as sides:
                rng = random.Random(options.seed)
                states = [data.state(rng, size_bytes)]
                for step in range(1, (fewer.rounds + 1) * calls):
                    states.append(data.grown(rng, states[-1], step))

                def put(side: Side, number: int, of: Any = states) -> None:
                    side.put_checkpoint("t", f"c{number}", of[number])

                def latest(side: Side, number: int, of: Any = states) -> None:
                    assert side.checkpoint("t", None)["step"] == len(of) - 1

                def older(side: Side, number: int, of: Any = states) -> None:
                    step = number * 7919 % len(of)
                    assert side.checkpoint("t", f"c{step}")["step"] == step

                yield measure(f"checkpoint put, {label}", guarantee, sides, put, fewer)
                yield measure(f"checkpoint latest, {label}", "read", sides, latest, fewer)
                yield measure(f"checkpoint any older, {label}", "read", sides, older, fewer)


def disk(directory: Path, options: Options) -> dict[str, int]:
    """Bytes on disk of the checkpoints of one growing conversation, closed, by side."""
    sizes = {}
    for name, make in SIDES.items():
        with tempfile.TemporaryDirectory(dir=directory) as place:
            side = make(Path(place), "process")
            rng = random.Random(options.seed)
            states = data.conversation(rng, options.checkpoint_steps, options.checkpoint_bytes)
            for step, state in enumerate(states):
                side.put_checkpoint("t", f"c{step}", state)
            side.close()
            sizes[name] = sum(p.stat().st_size for p in Path(place).rglob("*") if p.is_file())
    return sizes
