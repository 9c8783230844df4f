"""Bytes on disk as a thread grows."""

import tempfile
from pathlib import Path

from benchmarks.langgraph import data
from benchmarks.langgraph.rows import Options, Tell
from benchmarks.langgraph.sides import ON_DISK
from benchmarks.langgraph.thread import THREAD
from benchmarks.langgraph.upkeep import Size, measured


def growth(directory: Path, options: Options, tell: Tell) -> dict[int, list[Size]]:
    """The size of a thread after so many turns, closed, by turns."""
    found: dict[int, list[Size]] = {}
    for side, disk in ON_DISK.items():
        said = data.messages(options.seed, options.message_bytes)
        done = 0
        with tempfile.TemporaryDirectory(dir=directory) as place:
            where = Path(place) / side
            where.mkdir()
            for turns in options.growth_turns[side]:
                tell(f"growth to {turns:,} turns: {side}")
                with disk.saver(where, "process") as saver:
                    graph = data.Talk(saver, said)
                    for _ in range(turns - done):
                        graph.turn(THREAD, "async")
                done = turns
                found.setdefault(turns, []).append(measured(f"{turns:,} turns", side, where))
    return found
