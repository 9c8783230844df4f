"""Start the demo's agent, listen to it, and kill it in the middle of its work; again and again.

Invariants:
    1. Only what was acknowledged is expected, and all of it: the pipe is read to its end after the
       kill.
    2. What a call that had begun and not returned was changing may be as before or as after, and
       nothing else may. What it was making may be there or not.
    3. What a started agent finds and goes on from has to be what was acknowledged, too.
"""

from __future__ import annotations

import os
import selectors
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import msgpack

import walkv
from walkv import limits
from walkv.cli.demo import telling
from walkv.cli.demo.folder import Listing
from walkv.namespaces import codec

_START_SECONDS: Final = 60.0
"""How long to wait for the first acknowledgement."""

_MOST_STATE_BYTES: Final = 512 * limits.MIB
_MOST_CALLS: Final = 200_000
"""The agent is killed at once when it has done so much: the demo is to fill no disk."""

_END_SECONDS: Final = 10.0
"""How long an agent that closed its pipe without being killed may take to end."""

_REPORT_SECONDS: Final = 0.1

Place = tuple[str, tuple[Any, ...]]
"""Row and key of a record."""


class Begun(NamedTuple):
    """A call that has begun."""

    what: str
    places: list[Place]
    new_count: int


class Call(NamedTuple):
    """A call to the store that has returned.

    Attributes:
        records: places and contents of what it wrote.
    """

    latency_ns: int
    records: list[tuple[Place, bytes]]


class Opening(NamedTuple):
    """What opening the store found and did.

    Attributes:
        frame_count: commits replayed from the log.
        cut_bytes: of a torn tail, cut off.
        cut_off_count: tool calls of the last process that had not ended.
    """

    created: bool
    frame_count: int
    cut_bytes: int
    elapsed_ms: float
    cut_off_count: int


class Stepping(NamedTuple):
    """The step that the agent is at."""

    round_number: int = 0
    number: int = 0
    step_count: int = 0
    about: str = ""

    def __str__(self) -> str:
        return f"round {self.round_number}, step {self.number:,} of {self.step_count:,}"


@dataclass(slots=True)
class Expected:
    """What has to be there of a record.

    Attributes:
        content: as it was acknowledged last.
        in_doubt: a call that changes it was cut off since.
    """

    content: bytes
    in_doubt: bool = False


@dataclass(slots=True)
class Run:
    """What was heard of one process until it was dead.

    Attributes:
        opened: what opening the store found; None if it was not heard of.
        resumed_at: the first step that it did.
        at: the step that it was at.
        ended: steps whose call returned.
        commit_count: calls to the store that returned and had written something.
        doubts: steps that had begun and not ended, and whether they had taken effect.
        recalled: steps whose result came from the store.
        cut_off: the call that had begun and not returned; None if there was none.
        last: what had returned last.
        killed_after_seconds: since the first acknowledgement.
        error: why it was not killed in the middle of its work; empty if it was.
    """

    opened: Opening | None = None
    resumed_at: Stepping = field(default_factory=Stepping)
    at: Stepping = field(default_factory=Stepping)
    ended: list[str] = field(default_factory=list)
    commit_count: int = 0
    doubts: list[tuple[str, bool]] = field(default_factory=list)
    recalled: list[str] = field(default_factory=list)
    cut_off: Begun | None = None
    last: str = ""
    killed_after_seconds: float = 0.0
    error: str = ""


@dataclass(slots=True)
class Heard:
    """What was heard of all processes.

    Attributes:
        expected: what has to be in the store.
        calls: that wrote something, in order.
        disagreements: places where a started agent found something else than was acknowledged.
        skipped: files that could not be read, and why.
        state_bytes: of the states of all checkpoints, each as a whole.
    """

    runs: list[Run] = field(default_factory=list)
    expected: dict[Place, Expected] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    disagreements: list[Place] = field(default_factory=list)
    skipped: dict[bytes, str] = field(default_factory=dict)
    state_bytes: int = 0

    def hear(self, run: Run, kind: int, *message: Any) -> None:
        """Take in a message."""
        if kind == telling.BEGAN:
            what, places, new_count = message
            run.cut_off = Begun(what, [(row, tuple(key)) for row, key in places], new_count)
        elif kind == telling.DONE:
            run.last, latency_ns, entries = message
            run.cut_off = None
            self._take(run, latency_ns, _records(entries))
        elif kind == telling.FOUND:
            self._hold_against(_records(message[0]))
        elif kind == telling.STEP:
            run.at = Stepping(*message)
            if not run.resumed_at.number:
                run.resumed_at = run.at
        elif kind == telling.OPENED:
            run.opened = Opening(*message)
        elif kind == telling.DOUBT:
            run.doubts.append(message)
        elif kind == telling.RECALLED:
            run.recalled.append(*message)
        elif kind == telling.ENDED:
            run.ended.append(*message)
        elif kind == telling.SKIPPED:
            path, reason = message
            self.skipped[path] = reason
        else:
            run.error = f"the agent ended by itself: {message[0]}"

    def _take(self, run: Run, latency_ns: int, records: list[tuple[Place, bytes]]) -> None:
        if not records:
            return
        run.commit_count += 1
        self.calls.append(Call(latency_ns, records))
        for place, content in records:
            self.expected[place] = Expected(content)
            if place[0] == telling.CHECKPOINTS:
                self.state_bytes += codec.decode(content)["size_bytes"]

    def _hold_against(self, records: list[tuple[Place, bytes]]) -> None:
        for place, content in records:
            known = self.expected.get(place)
            if known is not None and known.content != content and not known.in_doubt:
                self.disagreements.append(place)
            self.expected[place] = Expected(content)

    def kill(self, run: Run) -> None:
        """Nothing more will be heard of that process."""
        if run.cut_off is not None:
            for place in run.cut_off.places:
                if place in self.expected:
                    self.expected[place].in_doubt = True

    @property
    def enough(self) -> bool:
        """Whether the disk has had enough."""
        return len(self.calls) >= _MOST_CALLS or self.state_bytes >= _MOST_STATE_BYTES


def _records(entries: list[Any]) -> list[tuple[Place, bytes]]:
    return [((row, tuple(key)), content) for row, key, content in entries]


def run_until_killed(
    store: str,
    effects: str,
    listing: Listing,
    heard: Heard,
    kill_after_seconds: float,
    update: Callable[[str], None],
) -> Run:
    """Start the agent, listen to it, and kill it so long after its first acknowledgement.

    Args:
        store, effects: paths of the store and of the effects log.
        heard: takes in what it says.
        update: told how far it is, several times a second.
    """
    order = {
        "store": os.fsencode(store),
        "effects": os.fsencode(effects),
        "root": listing.root,
        "paths": list(listing.stamps),
    }
    run = Run()
    heard.runs.append(run)
    with subprocess.Popen(
        _child_command(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is for this process, which kills the child
    ) as child:
        try:
            _give(child, msgpack.packb(order))
            killed = _listen(child, heard, run, kill_after_seconds, update)
            if not killed:
                with suppress(subprocess.TimeoutExpired):
                    child.wait(_END_SECONDS)
        finally:
            child.kill()
        status = child.wait()
        assert child.stderr is not None, "a pipe"
        complaint = child.stderr.read().decode(errors="replace").strip()
    heard.kill(run)
    if not killed and not run.error:
        last_line = complaint.rpartition("\n")[2]
        run.error = f"the agent ended by itself, with status {status}: {last_line}"
    return run


def _child_command() -> Sequence[str]:
    # -P, and the path at the end: neither a random.py in the working directory nor what lies beside
    # this package may come before the standard library.
    start = (
        "import sys; sys.path.append(sys.argv[1]); from walkv.cli.demo.child import main; main()"
    )
    package = os.path.dirname(os.path.abspath(walkv.__file__))
    return sys.executable, "-P", "-c", start, os.path.dirname(package)


def _give(child: subprocess.Popen[bytes], order: bytes) -> None:
    assert child.stdin is not None, "a pipe"
    try:
        with child.stdin:
            child.stdin.write(order)
    except BrokenPipeError:
        pass  # it ended already; its stderr says why


def _listen(
    child: subprocess.Popen[bytes],
    heard: Heard,
    run: Run,
    kill_after_seconds: float,
    update: Callable[[str], None],
) -> bool:
    """Hear a child to the end of its pipe; returns whether it was killed, and not ended before."""
    assert child.stdout is not None, "a pipe"
    pipe = child.stdout.fileno()
    unpacker = msgpack.Unpacker(use_list=False)
    clock = time.monotonic
    deadline = clock() + _START_SECONDS
    first_at = reported_at = 0.0
    killed = False
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while True:
            now = clock()
            if not killed and (now >= deadline or (heard.enough and run.commit_count)):
                child.kill()
                killed = True
                if run.commit_count:
                    run.killed_after_seconds = now - first_at
                else:
                    run.error = f"no call returned within {_START_SECONDS:.0f} seconds"
            if not selector.select(None if killed else deadline - now):
                continue
            data = os.read(pipe, 1 << 16)
            if not data:
                return killed
            unpacker.feed(data)
            for message in unpacker:
                heard.hear(run, *message)
            if run.commit_count and not first_at:
                first_at = clock()
                deadline = first_at + kill_after_seconds
            if run.at.number and now - reported_at >= _REPORT_SECONDS:
                reported_at = now
                update(f"{run.at}: {run.at.about}")
