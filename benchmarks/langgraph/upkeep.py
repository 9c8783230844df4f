"""Copying threads, and what deleting and pruning them gives back."""

import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks.langgraph import data
from benchmarks.langgraph.rows import Options, Row, Tell, in_turn
from benchmarks.langgraph.sides import ON_DISK, Disk, Saver, size_bytes


@dataclass
class Size:
    """Bytes on disk of one side at one moment.

    Attributes:
        reclaimed_bytes: after what is left was rewritten.
    """

    what: str
    side: str
    closed_bytes: int
    reclaimed_bytes: int


def measured(what: str, side: str, directory: Path) -> Size:
    """The size of a closed store; that of a copy of it, rewritten, too."""
    with tempfile.TemporaryDirectory(dir=directory.parent) as place:
        copy = Path(place) / "copy"
        shutil.copytree(directory, copy)
        ON_DISK[side].reclaim(copy)
        return Size(what, side, size_bytes(directory), size_bytes(copy))


def copies(directory: Path, options: Options, tell: Tell) -> tuple[Row, list[Size]]:
    """Copy a long thread, and what a store takes before and after."""
    count = options.copied_checkpoints
    number = dict.fromkeys(ON_DISK, 0)
    sizes: list[Size] = []
    with tempfile.TemporaryDirectory(dir=directory) as place:
        places = {side: Path(place) / side for side in ON_DISK}
        for side, where in places.items():
            tell(f"a thread to copy: {side}")
            where.mkdir()
            with ON_DISK[side].saver(where, "process") as saver:
                said = data.messages(options.seed, options.copied_message_bytes)
                steps = data.Steps(saver, "t")
                steps.begin(next(said))
                for _ in range(count - 1):
                    steps.step(next(said))
            sizes.append(measured(f"a thread of {count:,} checkpoints", side, where))
        with ExitStack() as stack:
            savers = {
                side: stack.enter_context(ON_DISK[side].saver(where, "durable"))
                for side, where in places.items()
            }

            def copy(side: str) -> float:
                tell(f"copy: {side}")
                number[side] += 1
                begin = time.perf_counter()
                ON_DISK[side].copy_thread(savers[side], "t", f"copy-{number[side]}")
                return (time.perf_counter() - begin) * 1e3

            samples = in_turn(list(ON_DISK), options.rounds, copy)
            for side, saver in savers.items():
                copied = list(saver.list(data.thread(f"copy-{number[side]}"), limit=2))
                assert len(copied[0].checkpoint["channel_values"]["messages"]) == count
                assert len(copied[1].pending_writes or ()) == 1
        what = f"and {options.rounds} copies of it"
        sizes += [measured(what, side, where) for side, where in places.items()]
    return Row(f"copy a thread of {count:,} checkpoints", "durable", "ms", samples), sizes


def space(directory: Path, options: Options, tell: Tell) -> list[Size]:
    """Bytes on disk as threads are deleted and pruned."""
    sizes = []
    threads = [f"t{number}" for number in range(options.threads)]
    half = len(threads) // 2
    for side, disk in ON_DISK.items():
        with tempfile.TemporaryDirectory(dir=directory) as place:
            where = Path(place) / side
            where.mkdir()
            for what, do in _deeds(threads, half, options):
                tell(f"space, {what}: {side}")
                with disk.saver(where, "process") as saver:
                    do(disk, saver)
                sizes.append(measured(what, side, where))
    return sizes


def _deeds(
    threads: list[str], half: int, options: Options
) -> list[tuple[str, Callable[[Disk, Saver], None]]]:
    """What is done to a store, one after the other, and what it is called."""

    def fill(disk: Disk, saver: Saver) -> None:
        graph = data.Talk(saver, data.messages(options.seed, options.message_bytes))
        for _ in range(options.thread_turns):
            for thread_id in threads:
                graph.turn(thread_id, "async")

    def delete(disk: Disk, saver: Saver) -> None:
        for thread_id in threads[:half]:
            saver.delete_thread(thread_id)

    def prune(disk: Disk, saver: Saver) -> None:
        disk.prune(saver, threads[half:])
        for thread_id in threads[half:]:
            (kept,) = saver.list(data.thread(thread_id))
            messages = kept.checkpoint["channel_values"]["messages"]
            assert len(messages) == 2 * options.thread_turns

    def delete_rest(disk: Disk, saver: Saver) -> None:
        for thread_id in threads[half:]:
            saver.delete_thread(thread_id)

    return [
        (f"{len(threads)} threads of {options.thread_turns} turns", fill),
        (f"{half} of them deleted", delete),
        ("the others pruned to their latest checkpoints", prune),
        ("and deleted", delete_rest),
    ]
