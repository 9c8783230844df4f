"""One long thread: what its turns take, and reading it."""

import random
import statistics
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from langchain_core.messages import BaseMessage

from benchmarks.collector import freeze
from benchmarks.langgraph import data
from benchmarks.langgraph.options import Measured, Options
from benchmarks.langgraph.sides import GUARANTEES, ON_DISK, SIDES, Saver
from benchmarks.langgraph.timing import elapsed_ms, median_ms
from benchmarks.processes import run_job

THREAD = "t"


def turns(side: str, directory: Path, options: Options) -> Iterator[Measured]:
    """A turn of a long conversation, and all of it, as LangGraph and the disk acknowledge it."""
    said = _said(options)
    for guarantee in GUARANTEES:
        for durability in ("async", "sync"):
            where = directory / f"{guarantee}-{durability}"
            where.mkdir()
            freeze()
            with SIDES[side].saver(where, guarantee) as saver:
                took_ms = _talk(saver, said, durability)
            way = f'durability="{durability}"'
            name = f"a turn, {way}: the last {options.last_turns} of {options.turns}"
            yield name, guarantee, "ms", statistics.median(took_ms[-options.last_turns :])
            yield f"all {options.turns} turns, {way}", guarantee, "s", sum(took_ms) / 1e3


def reads(side: str, directory: Path, options: Options) -> Iterator[Measured]:
    """Checkpoints of a long thread, as they are read by who wrote them and by others."""
    said = _said(options)
    freeze()
    with SIDES[side].saver(directory, "process") as saver:
        _talk(saver, said, "async")
        latest = partial(saver.get_tuple, data.thread(THREAD))
        name = "get_tuple of the latest, by the process that wrote it"
        yield name, "read", "ms", median_ms(latest, options.calls)
        old = _old(saver, options)
        if side not in ON_DISK:
            # It cannot be opened again.
            yield from _later(saver, old, said, options)
    if side in ON_DISK:
        yield from _first(side, directory, options)
        with SIDES[side].saver(directory, "process") as saver:
            yield from _later(saver, old, said, options)


def _said(options: Options) -> list[BaseMessage]:
    return data.messages(options.seed, options.message_bytes, 2 * options.turns)


def _talk(saver: Saver, said: Sequence[BaseMessage], durability: str) -> list[float]:
    """Milliseconds of each turn of a conversation."""
    graph = data.Talk(saver, iter(said))
    return [elapsed_ms(partial(graph.turn, THREAD, durability)) for _ in range(len(said) // 2)]


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


def _later(
    saver: Saver, old: Sequence[str], said: Sequence[BaseMessage], options: Options
) -> Iterator[Measured]:
    """What a saver that was just opened reads."""
    name = f"get_tuple of any with {options.old_bytes // 1024} KB of state or more, just opened"
    each_ms = [elapsed_ms(partial(_messages, saver, checkpoint_id)) for checkpoint_id in old]
    yield name, "read", "ms", statistics.median(each_ms)
    # What is fast and wrong is no result.
    for checkpoint_id in old:
        found = _messages(saver, checkpoint_id)
        assert found == said[: len(found)]
    for what, limit in (("the 10 newest", 10), ("all", None)):
        listed = partial(_listed, saver, limit)
        calls = 1 if limit is None else options.calls
        yield f"list {what}: {listed()}", "read", "ms", median_ms(listed, calls)


def _messages(saver: Saver, checkpoint_id: str) -> list[Any]:
    found = saver.get_tuple(data.thread(THREAD, checkpoint_id))
    assert found is not None
    messages: list[Any] = found.checkpoint["channel_values"]["messages"]
    return messages


def _listed(saver: Saver, limit: int | None) -> int:
    return len(list(saver.list(data.thread(THREAD), limit=limit)))


def _first(side: str, directory: Path, options: Options) -> Iterator[Measured]:
    job = {"side": side, "directory": str(directory)}
    found = run_job("benchmarks.langgraph.first", job, environment={})
    if "error" in found:
        raise RuntimeError(f"the first read of a process: {found['error']}")
    assert found["message_count"] == 2 * options.turns
    yield "opening the saver, in a process of its own", "read", "ms", found["open_ms"]
    yield "get_tuple of the latest, the first of that process", "read", "ms", found["read_ms"]
