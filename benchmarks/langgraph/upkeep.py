"""Copying threads, and what deleting and pruning them gives back."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from benchmarks.collector import freeze
from benchmarks.langgraph import data
from benchmarks.langgraph.options import Measured, Options, size_names
from benchmarks.langgraph.sides import ON_DISK, Disk, Saver
from benchmarks.langgraph.timing import elapsed_ms
from benchmarks.machine import allocated_bytes


def sizes(what: str, side: str, directory: Path) -> Iterator[Measured]:
    """What a closed store takes on disk, and what a copy of it takes once it was rewritten."""
    closed, rewritten = size_names(what)
    yield closed, "process", "bytes", float(allocated_bytes(directory))
    with tempfile.TemporaryDirectory(dir=directory.parent) as place:
        copy = Path(place) / "copy"
        shutil.copytree(directory, copy)
        ON_DISK[side].reclaim(copy)
        yield rewritten, "process", "bytes", float(allocated_bytes(copy))


def copies(side: str, directory: Path, options: Options) -> Iterator[Measured]:
    """Copy a long thread, and what the store takes before and after."""
    count = options.copied_checkpoints
    said = data.messages(options.seed, options.copied_message_bytes, count)
    where = directory / "store"
    where.mkdir()
    with ON_DISK[side].saver(where, "process") as saver:
        steps = data.Steps(saver, "t")
        steps.begin(said[0])
        for message in said[1:]:
            steps.step(message)
    what = f"a thread of {count:,} checkpoints"
    yield from sizes(what, side, where)
    freeze()
    with ON_DISK[side].saver(where, "durable") as saver:
        copy = partial(ON_DISK[side].copy_thread, saver, "t", "copy")
        yield f"copy {what}", "durable", "ms", elapsed_ms(copy)
        copied = list(saver.list(data.thread("copy"), limit=2))
        assert len(copied[0].checkpoint["channel_values"]["messages"]) == count
        assert len(copied[1].pending_writes or ()) == 1
    yield from sizes(f"{what} and a copy of it", side, where)


def space(side: str, directory: Path, options: Options) -> Iterator[Measured]:
    """What a store takes on disk as threads are deleted and pruned."""
    where = directory / "store"
    where.mkdir()
    for what, do in _deeds(options):
        with ON_DISK[side].saver(where, "process") as saver:
            do(ON_DISK[side], saver)
        yield from sizes(what, side, where)


def _deeds(options: Options) -> list[tuple[str, Callable[[Disk, Saver], None]]]:
    """What is done to a store, one after the other, and what it is called."""
    threads = [f"t{number}" for number in range(options.threads)]
    half = len(threads) // 2
    said = data.messages(
        options.seed, options.message_bytes, 2 * options.thread_turns * options.threads
    )

    def fill(disk: Disk, saver: Saver) -> None:
        graph = data.Talk(saver, iter(said))
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
        (f"{half} of {len(threads)} threads deleted", delete),
        ("the other threads pruned to their latest checkpoints", prune),
        ("all threads deleted", delete_rest),
    ]
