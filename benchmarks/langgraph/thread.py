"""One long thread: what its turns take, and reading it."""

import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.langgraph import data
from benchmarks.langgraph.rows import Options, Row, Tell, in_turn
from benchmarks.langgraph.sides import ON_DISK, SIDES, Saver
from benchmarks.machine import REPOSITORY

THREAD = "t"


def talk(saver: Saver, options: Options, durability: str) -> list[float]:
    """Milliseconds of each turn of a conversation."""
    graph = data.Talk(saver, data.messages(options.seed, options.message_bytes))
    return [_ms(lambda: graph.turn(THREAD, durability)) for _ in range(options.turns)]


def turns(directory: Path, options: Options, tell: Tell) -> Iterator[Row]:
    """A turn of a long conversation, and all of it, as LangGraph and the disk acknowledge it."""
    for guarantee in ("durable", "process"):
        for durability in ("async", "sync"):
            last: dict[str, list[float]] = {side: [] for side in SIDES}

            def whole(
                side: str,
                guarantee: str = guarantee,
                durability: str = durability,
                last: dict[str, list[float]] = last,
            ) -> float:
                tell(f"turns, {durability}, {guarantee}: {side}")
                with (
                    tempfile.TemporaryDirectory(dir=directory) as place,
                    SIDES[side].saver(Path(place), guarantee) as saver,
                ):
                    took = talk(saver, options, durability)
                last[side].append(statistics.median(took[-options.last_turns :]))
                return sum(took) / 1e3

            samples = in_turn(list(SIDES), options.rounds, whole)
            way = f'durability="{durability}"'
            name = f"a turn, {way}: the last {options.last_turns} of {options.turns}"
            yield Row(name, guarantee, "ms", last)
            yield Row(f"all {options.turns} turns, {way}", guarantee, "s", samples)


def reads(directory: Path, options: Options, tell: Tell) -> Iterator[Row]:
    """Checkpoints of a long thread, as they are read by who wrote them and by others."""
    with tempfile.TemporaryDirectory(dir=directory) as place, ExitStack() as memory:
        places = {side: Path(place) / side for side in SIDES}
        old: dict[str, list[str]] = {}
        with ExitStack() as stack:
            savers: dict[str, Saver] = {}
            for side, where in places.items():
                tell(f"a thread to read: {side}")
                where.mkdir()
                owner = stack if side in ON_DISK else memory
                savers[side] = owner.enter_context(SIDES[side].saver(where, "process"))
                talk(savers[side], options, "async")
            yield Row(
                "get_tuple of the latest, by the process that wrote it",
                "read",
                "ms",
                _timed(savers, options, lambda saver: saver.get_tuple(data.thread(THREAD))),
            )
            old = {side: _old(saver, options) for side, saver in savers.items()}
        with ExitStack() as stack:
            _compare(stack, places, old, savers["memory"])
        yield from _first(places, options, tell)
        yield Row(
            f"get_tuple of any with {options.old_bytes // 1024} KB of state or more, just opened",
            "read",
            "ms",
            in_turn(
                list(SIDES),
                options.rounds,
                lambda side: _any(side, places[side], old[side], savers["memory"]),
            ),
        )
        with ExitStack() as stack:
            for side in ON_DISK:
                saver = stack.enter_context(SIDES[side].saver(places[side], "process"))
                savers[side] = saver
            tell("list")
            for name, limit in (("the 10 newest", 10), ("all", None)):
                count = len(list(savers["memory"].list(data.thread(THREAD), limit=limit)))

                def listed(saver: Saver, limit: int | None = limit, count: int = count) -> None:
                    assert len(list(saver.list(data.thread(THREAD), limit=limit))) == count

                fewer = 1 if limit is None else options.calls
                samples = _timed(savers, options, listed, calls=fewer)
                yield Row(f"list {name}: {count}", "read", "ms", samples)


def _old(saver: Saver, options: Options) -> list[str]:
    """Ids of the checkpoints that have so much state, in an order of chance."""
    least = options.old_bytes / options.message_bytes
    found = [
        each.config["configurable"]["checkpoint_id"]
        for each in saver.list(data.thread(THREAD))
        if len(each.checkpoint["channel_values"].get("messages", ())) >= least
    ]
    random.Random(options.seed).shuffle(found)
    return found


def _compare(
    stack: ExitStack, places: dict[str, Path], old: dict[str, list[str]], memory: Saver
) -> None:
    """See that all sides hold the same messages: what is fast and wrong is no result."""
    for side in ON_DISK:
        saver = stack.enter_context(SIDES[side].saver(places[side], "process"))
        for one, other in zip(old[side], old["memory"], strict=True):
            assert _messages(saver, one) == _messages(memory, other)


def _messages(saver: Saver, checkpoint_id: str) -> list[Any]:
    found = saver.get_tuple(data.thread(THREAD, checkpoint_id))
    assert found is not None
    messages: list[Any] = found.checkpoint["channel_values"]["messages"]
    return messages


def _any(side: str, where: Path, ids: list[str], memory: Saver) -> float:
    """Milliseconds of a read, the median over these checkpoints, of a saver that was just opened.

    Memory cannot be opened again.
    """
    with ExitStack() as stack:
        saver = memory
        if side in ON_DISK:
            saver = stack.enter_context(SIDES[side].saver(where, "process"))

        return statistics.median(_ms(partial(_messages, saver, each)) for each in ids)


def _first(places: dict[str, Path], options: Options, tell: Tell) -> Iterator[Row]:
    opened: dict[str, list[float]] = {side: [] for side in ON_DISK}

    def read(side: str) -> float:
        tell(f"the first read of a process: {side}")
        command = [sys.executable, "-m", "benchmarks.langgraph.first", side, str(places[side])]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
        found: dict[str, Any] = json.loads(done.stdout)
        opened[side].append(found["open_ms"])
        assert found["message_count"] == 2 * options.turns
        return float(found["read_ms"])

    samples = in_turn(list(ON_DISK), options.rounds, read)
    yield Row("opening the saver, in a process of its own", "read", "ms", opened)
    yield Row("get_tuple of the latest, the first of that process", "read", "ms", samples)


def _timed(
    savers: dict[str, Saver],
    options: Options,
    call: Callable[[Saver], Any],
    *,
    calls: int | None = None,
) -> dict[str, list[float]]:
    """Milliseconds of a call, the median of a round's."""

    def sample(side: str) -> float:
        count = options.calls if calls is None else calls
        return statistics.median(_ms(lambda: call(savers[side])) for _ in range(count))

    return in_turn(list(savers), options.rounds, sample, warm_up=True)


def _ms(call: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    call()
    return (time.perf_counter() - begin) * 1e3
