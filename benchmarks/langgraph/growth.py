"""What a thread takes on disk as it grows."""

from collections.abc import Iterator
from pathlib import Path

from benchmarks.langgraph import data
from benchmarks.langgraph.options import Measured, Options, of_turns
from benchmarks.langgraph.sides import ON_DISK
from benchmarks.langgraph.thread import THREAD
from benchmarks.langgraph.upkeep import sizes


def growth(side: str, directory: Path, options: Options) -> Iterator[Measured]:
    """The size of a thread after so many turns, closed."""
    lengths = options.growth_turns[side]
    said = iter(data.messages(options.seed, options.message_bytes, 2 * max(lengths)))
    where = directory / "store"
    where.mkdir()
    done = 0
    for turns in lengths:
        with ON_DISK[side].saver(where, "process") as saver:
            graph = data.Talk(saver, said)
            for _ in range(turns - done):
                graph.turn(THREAD, "async")
        done = turns
        yield from sizes(of_turns(turns), side, where)
