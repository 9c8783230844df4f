"""A process that runs a graph is killed between any two steps, and another one goes on.

The graph has interrupts, a subgraph, parallel tasks, a channel that is kept as differences, and a
fork from an earlier state; see ``voyage``. It is killed by SIGKILL at every point at which it says
something, and at random moments in between. Then:

    1. The final state and the history are those of a run that nobody killed.
    2. A task whose end was acknowledged never runs again. None is left out.
    3. Every checkpoint that was acknowledged is in the history, as it was put.

A task's end is acknowledged when the checkpoint after it is, or its writes and the checkpoint that
they are on: LangGraph may put the writes first, and on their own they say nothing.
"""

from __future__ import annotations

import json
import multiprocessing
import random
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from tests.integrations.langgraph import voyage

SEED = random.randrange(1 << 30)
HANGS_SECONDS = 60
MOST_POINTS = 1000
PARTS = 4
"""The points are dealt out to so many tests, which may run at once."""

# Children are forks of a server without threads, which has imported all they need and opened
# nothing.
context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload([voyage.__name__])

ways = pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])


@dataclass
class Known:
    """What is known from outside of the processes, one after another.

    Attributes:
        put: acknowledged checkpoints, by namespace and id, with their digests.
        followed: checkpoints after which the next one of their run was acknowledged.
        written: the checkpoint of each task whose writes at its end were acknowledged.
        names: what each checkpoint's tasks are called that have ended, by task.
    """

    put: dict[str, str] = field(default_factory=dict)
    followed: set[str] = field(default_factory=set)
    written: dict[str, str] = field(default_factory=dict)
    names: dict[str, dict[str, str]] = field(default_factory=dict)

    def hear(self, what: str, *words: Any) -> None:
        match what, words:
            case "put", (namespace, parent, checkpoint, source, digest):
                self.put[f"{namespace} {checkpoint}"] = digest
                if source == "loop":
                    self.followed.add(parent)
            case "writes", (namespace, checkpoint, task, True):
                self.written[task] = f"{namespace} {checkpoint}"
            case "task", (name, checkpoint, task):
                self.names.setdefault(checkpoint, {})[task] = name

    def ended(self) -> set[str]:
        """Names of the tasks whose end was acknowledged."""
        return {
            name
            for checkpoint, tasks in self.names.items()
            for task, name in tasks.items()
            if checkpoint in self.followed or self.written.get(task) in self.put
        }

    def lived(self, heard: list[list[Any]]) -> None:
        """Take in what a process has said, and hold it against what was known before."""
        ended = self.ended()
        again = [words[0] for what, *words in heard if what == "task begins" and words[0] in ended]
        assert not again, f"their end was acknowledged, and they ran again: {again}"
        for each in heard:
            self.hear(*each)


class Child:
    """A process that lives a ``voyage``."""

    def __init__(self, directory: Path, asynchronous: bool) -> None:
        self.heard: list[list[Any]] = []
        self._pipe, its = context.Pipe()
        arguments = (its, str(directory), asynchronous)
        self._process = context.Process(target=voyage.live, args=arguments)
        self._process.start()
        its.close()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.join()
        while self._hear(HANGS_SECONDS):  # what it had said when it was struck
            pass
        self._pipe.close()

    def _hear(self, seconds: float) -> bool:
        """Whether it has said something within the time."""
        try:
            if not self._pipe.poll(max(seconds, 0)):
                return False
            self.heard.append(json.loads(self._pipe.recv_bytes()))
        except (EOFError, ConnectionResetError):
            return False
        what, *words = self.heard[-1]
        assert what != "error", words[0]
        return True

    def _go_on(self) -> None:
        with suppress(BrokenPipeError):
            self._pipe.send_bytes(b"")

    def run(self, point_count: int | None = None) -> bool:
        """Let it go on until it has come to so many points, or to its end; whether it has not."""
        while len(self.heard) != point_count:
            assert len(self.heard) < MOST_POINTS, f"it goes round in circles: {self.heard[-3:]}"
            if self.heard:
                self._go_on()
            if not self._hear(HANGS_SECONDS):
                self._process.join(HANGS_SECONDS)
                assert self._process.exitcode == 0, f"it died or hangs after {self.heard[-3:]}"
                return False
        return True

    def run_for(self, seconds: float) -> None:
        """Let it go on for some time."""
        deadline = time.monotonic() + seconds
        self._go_on()
        while self._hear(deadline - time.monotonic()):
            self._go_on()


def whole_life(directory: Path, asynchronous: bool) -> list[list[Any]]:
    """What a process says that nobody kills."""
    with Child(directory, asynchronous) as child:
        child.run()
    return child.heard


def effects(directory: Path) -> Counter[str]:
    return Counter((directory / "effects").read_text().splitlines())


@cache
def undisturbed(asynchronous: bool) -> tuple[int, Any, set[str]]:
    """How many points a run has, what it ends with, and the names of its tasks."""
    with TemporaryDirectory() as directory:
        heard = whole_life(Path(directory), asynchronous)
        done = effects(Path(directory))
    assert set(done.values()) == {1}
    assert heard[-1][0] == "end"
    return len(heard), heard[-1][1], set(done)


def without_results(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A history, but for what the tasks of its past steps had returned.

    LangGraph puts a checkpoint and the writes that led to it at the same time. If the checkpoint
    was kept and one of the writes was not, nothing is lost: the checkpoint holds its effect.
    """
    return [
        {**state, "tasks": [{**task, "result": None} for task in state["tasks"]]}
        for state in history
    ]


def finish(directory: Path, asynchronous: bool, known: Known, lives: int) -> None:
    """Let a last process go on to the end, and look whether all is as it has to be."""
    _, expected, names = undisturbed(asynchronous)
    heard = whole_life(directory, asynchronous)
    known.lived(heard)
    what, (values, history), found = heard[-1]
    assert what == "end"
    assert values == expected[0]
    assert without_results(history) == without_results(expected[1])
    done = effects(directory)
    assert set(done) == names
    assert max(done.values()) <= lives
    lost = {place for place, digest in known.put.items() if found.get(place) != digest}
    assert not lost, f"acknowledged, and not there or not as they were: {lost}"


# -- the tests -----------------------------------------------------------------------------------


@ways
def test_an_undisturbed_run_is_what_it_should_be(asynchronous: bool) -> None:
    count, (values, history), names = undisturbed(asynchronous)
    assert count > 60
    assert names == {
        f"{name} {way}"
        for way in (voyage.FIRST, voyage.SECOND)
        for name in ("plan", "see Rome", "see Oslo", "look", "ask", "arrive")
        if way == voyage.FIRST or name in ("look", "ask", "arrive")
    }
    assert len(history) > 8
    assert values["way"] == voyage.SECOND
    assert values["done"][-1] == "arrive"
    assert values["log"] == ["plan", "see Rome", "see Oslo", "arrive"]


@ways
@pytest.mark.parametrize("part", range(PARTS))
def test_killed_between_any_two_steps(asynchronous: bool, part: int, tmp_path: Path) -> None:
    point_count = undisturbed(asynchronous)[0]
    for point in range(1 + part, point_count, PARTS):
        directory = tmp_path / str(point)
        directory.mkdir()
        known = Known()
        with Child(directory, asynchronous) as child:
            assert child.run(point)
        known.lived(child.heard)
        finish(directory, asynchronous, known, 2)


@ways
def test_killed_at_any_moment_again_and_again(asynchronous: bool, tmp_path: Path) -> None:
    chooser = random.Random(f"{SEED} {asynchronous}")
    print(f"seed {SEED}")  # noqa: T201  # a failure is to be had again
    point_count = undisturbed(asynchronous)[0]
    total = 0
    for number in range(4):
        directory = tmp_path / str(number)
        directory.mkdir()
        known = Known()
        kills = 0
        while kills < 4:
            with Child(directory, asynchronous) as child:
                point = chooser.randint(0, point_count // 3)
                if not child.run(point):
                    break
                # Before the first point the store is opened and recovered, which takes longer.
                child.run_for(chooser.uniform(0, 0.004 if point else 0.04))
            kills += 1
            known.lived(child.heard)
        finish(directory, asynchronous, known, kills + 1)
        total += kills
    assert total >= 8


def test_what_is_looked_for_would_be_seen() -> None:
    """A task that runs again after its end was acknowledged, however that was."""
    begins, ends = ["task begins", "plan", "c1", "t1"], ["task", "plan", "c1", "t1"]
    written = [["put", "", None, "c1", "input", "d"], ["writes", "", "c1", "t1", True]]
    followed = [["put", "", "c1", "c2", "loop", "d"]]
    for after in (written, written[::-1], followed):
        known = Known()
        known.lived([begins, ends, *after])
        assert known.ended() == {"plan"}
        with pytest.raises(AssertionError, match="they ran again"):
            known.lived([["task begins", "plan", "c9", "t9"]])
    for after in ([], written[:1], written[1:], [["put", "", "c1", "c2", "update", "d"]]):
        known = Known()
        known.lived([begins, ends, *after])
        assert known.ended() == set()
