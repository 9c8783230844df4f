"""Ctrl-C, wherever it can strike.

Python runs signal handlers in the main thread, between two instructions: when a function begins,
after a call of C code, and at the end of a loop's body. The first test strikes at such places of
the engine one by one, by tracing; the second sends real signals at random moments.

Afterwards every acknowledged commit is there, the interrupted one is there as a whole or not at
all, the store goes on, and what is opened next is what the live store showed.
"""

from __future__ import annotations

import contextlib
import dis
import logging
import os
import random
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest
from support.processes import run
from support.workload import (
    State,
    Step,
    batch,
    call,
    compare_and_set,
    delete_range,
    put,
    state_of,
    transaction,
)

import walkv
from walkv import Store, Wal, WriteBack, limits
from walkv.engine import wal
from walkv.testing import Call, FaultyFileSystem, SimulatedFileSystem

ROOMS = (
    "core",
    "wal",
    "catalog",
    "manifest",
    "segment",
    "compaction",
    "opening",
    "recovery",
    "memtable",
    "syncer",
    "reads",
)
_ENGINE = str(Path(walkv.__file__).parent / "engine")
TRIALS = int(os.environ.get("WALKV_STRIKES", "200"))
HANG_SECONDS = 20


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(limits, "MIN_MEMTABLE_BYTES", 1)
    monkeypatch.setattr(wal, "_AHEAD", bytes(300))
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


Place = tuple[str, str, int]
"""File, function and offset of an instruction."""


class Striker:
    """Traces the engine; notes the places where a signal could strike, or strikes at one.

    Attributes:
        places: how often each place was passed.
    """

    def __init__(self, target: tuple[Place, int] | None = None) -> None:
        self.places: dict[Place, int] = {}
        self.target = target
        self.struck = False
        self._after_call: dict[int, int] = {}
        self._calls: dict[CodeType, dict[int, str]] = {}

    def __enter__(self) -> Striker:
        # From Python 3.12 on instructions are traced only if some frame wanted it before.
        sys._getframe().f_trace_opcodes = True
        sys.settrace(self._trace)
        return self

    def __exit__(self, *error: object) -> None:
        sys.settrace(None)

    def _trace(self, frame: FrameType, event: str, argument: Any) -> Any:
        if frame.f_back is not None:
            # The call under way is one of Python code: no signal strikes where it returns.
            self._after_call.pop(id(frame.f_back), None)
        path = frame.f_code.co_filename
        if not path.startswith(_ENGINE) or Path(path).stem not in ROOMS:
            return None
        if frame.f_code.co_name == "__del__":
            return None  # Python itself swallows what is raised in a destructor
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        self._pass(frame, 0)
        return self._trace_opcodes

    def _trace_opcodes(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "opcode":
            before = self._after_call.pop(id(frame), None)
            if before is not None and same_handler(frame.f_code, before, frame.f_lasti):
                self._pass(frame, frame.f_lasti)
            names = self._calls.get(frame.f_code)
            if names is None:
                names = {i.offset: i.opname for i in dis.get_instructions(frame.f_code)}
                self._calls[frame.f_code] = names
            name = names.get(frame.f_lasti, "")
            if name.startswith(("CALL", "JUMP_BACKWARD")):
                self._after_call[id(frame)] = frame.f_lasti
        elif event == "return":
            self._after_call.pop(id(frame), None)
        return self._trace_opcodes

    def _pass(self, frame: FrameType, offset: int) -> None:
        code = frame.f_code
        place = (Path(code.co_filename).name, code.co_qualname, offset)
        count = self.places[place] = self.places.get(place, 0) + 1
        if not self.struck and self.target == (place, count):
            self.struck = True
            sys.settrace(None)
            raise KeyboardInterrupt


def same_handler(code: CodeType, call_offset: int, next_offset: int) -> bool:
    """Whether an error of a call and one of the instruction after it are handled alike: a real
    signal strikes at the call, and tracing can only strike at the instruction after it."""
    table = dis._parse_exception_table(code)  # type: ignore[attr-defined]  # there is no other way

    def handler(offset: int) -> int | None:
        return next((e.target for e in table if e.start <= offset < e.end), None)

    return handler(call_offset) == handler(next_offset)


def steps() -> list[Step]:
    return [
        put(b"n", b"1"),
        batch(2, b"b1", b"b2"),
        compare_and_set(3),
        *(put(b"f%d" % n, b"%d" % n * 300) for n in range(5)),
        delete_range(4, b"f1"),
        transaction(5, b"t1"),
        call("compact", lambda store: store.compact()),
        put(b"n", b"6"),
        call("sync", lambda store: store.sync()),
        *(put(b"g%d" % n, b"%d" % n * 300) for n in range(7)),
        batch(7, b"b1", b"b9"),
    ]


def open_on(fs: SimulatedFileSystem) -> Store:
    return walkv.open("/s", sync=Wal(), memtable_bytes=3_000, filesystem=fs)


def trial(striker: Striker) -> None:
    """The workload, each step with the striker watching, and all that is asked of it."""
    fs = SimulatedFileSystem(seed=5)

    def attempt(action: Callable[[], Any]) -> tuple[bool, Any]:
        try:
            with striker:
                return True, action()
        except KeyboardInterrupt:
            return False, None

    ended, store = attempt(lambda: open_on(fs))
    if not ended:
        store = open_on(fs)
    possible: list[State] = [{}]
    for step in steps():
        ended, _ = attempt(lambda step=step: step.run(store))  # type: ignore[misc]
        if step.effect is not None:
            after = [dict(state) for state in possible]
            for state in after:
                step.effect(state)
            possible = after if ended else possible + after
        if not ended:
            # One of the two; from here on it must stay the one that the live store shows.
            found = state_of(store)
            assert found in possible
            possible = [found]
    live = state_of(store)
    assert live in possible, "the live store is not what was acknowledged"
    killed = fs.after_kill()
    with open_on(killed) as other:
        assert state_of(other) == live, "opened after a kill, it differs from the live store"
        assert other.verify().ok
    ended, _ = attempt(store.close)
    if not ended:
        store.close()
    with open_on(fs) as other:
        assert state_of(other) == live, "opened after close, it differs from the live store"
        assert other.verify().ok


def test_ctrl_c_at_every_place(request: pytest.FixtureRequest) -> None:
    if sys.gettrace() is not None or not hasattr(signal, "setitimer"):
        pytest.skip("another tracer is active, or there are no timers here")
    survey = Striker()
    trial(survey)
    targets = sorted({(place, n) for place, count in survey.places.items() for n in {1, count}})
    seed = random.randrange(1 << 30)
    chosen = random.Random(seed).sample(targets, min(TRIALS, len(targets)))
    problems = [text for target in chosen if (text := problem_of(target))]
    print(  # noqa: T201  # every run says what it covered
        f"seed {seed}: {len(chosen)} of {len(targets)} strikes at {len(survey.places)} places"
    )
    assert not problems, "\n".join([f"seed {seed}: {len(problems)} of {len(chosen)}", *problems])


def problem_of(target: tuple[Place, int]) -> str:
    """What is wrong after a strike at a place; empty if nothing is."""

    def hang(*_: object) -> None:
        raise TimeoutError("it hangs")

    striker = Striker(target)
    before = signal.signal(signal.SIGALRM, hang)
    signal.setitimer(signal.ITIMER_REAL, HANG_SECONDS)
    try:
        trial(striker)
    except Exception as error:  # noqa: BLE001  # all of them are shown
        return f"  {target}: {type(error).__name__}: {str(error)[:300]}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    return ""


@pytest.mark.parametrize("seed", range(3))
def test_real_signals_at_random_moments(tmp_path: Path, seed: int) -> None:
    out = run(
        f"""
        import logging, random, signal, walkv
        logging.disable(logging.CRITICAL)
        armed = False

        def strike(*_):
            # One that another thread has received may come when all is over.
            if armed:
                raise KeyboardInterrupt

        signal.signal(signal.SIGALRM, strike)
        path = {str(tmp_path / "s")!r}
        chooser = random.Random({seed})
        store = walkv.open(path, memtable_bytes=65536)
        acknowledged, interrupted = set(), set()
        for number in range(3_000):
            key = b"%06d" % number
            delay = chooser.uniform(1e-6, 3e-4) if chooser.random() < 0.4 else 0
            try:
                try:
                    armed = True
                    signal.setitimer(signal.ITIMER_REAL, delay)
                    with store.batch() as batch:
                        batch.put(key + b"/a", key)
                        batch.put(key + b"/b", key + bytes(60))
                    if number % 500 == 499:
                        store.compact()
                finally:
                    armed = False
                    signal.setitimer(signal.ITIMER_REAL, 0)
                acknowledged.add(key)
            except KeyboardInterrupt:
                interrupted.add(key)
        live = dict(store.scan())
        for key in acknowledged:
            assert live[key + b"/a"] == key and live[key + b"/b"] == key + bytes(60), key
        for key in interrupted:
            assert (key + b"/a" in live) == (key + b"/b" in live), key
        assert len(live) % 2 == 0
        store.close()
        with walkv.open(path) as store:
            assert dict(store.scan()) == live
            assert store.verify().ok
        print(len(acknowledged), len(interrupted))
        """
    )
    acknowledged, interrupted = map(int, out.split())
    assert acknowledged + interrupted == 3_000
    assert interrupted > 0


def test_close_interrupted_while_a_flush_runs(tmp_path: Path) -> None:
    # The lock must not be given back while the background thread may still write.
    fs = FaultyFileSystem()
    path = str(tmp_path / "s")
    flushing, go_on = threading.Event(), threading.Event()

    def hold(call: Call) -> None:
        if call.operation == "create" and call.path.endswith(".snap"):
            flushing.set()
            go_on.wait(60)

    store = walkv.open(path, sync=WriteBack(), memtable_bytes=8 << 20, filesystem=fs)
    fs.before = hold
    count = 0
    while not flushing.is_set():
        store.put(b"%06d" % count, bytes(2_000))
        count += 1

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    # Should ``close`` wait for the flush whatever happens, it must not wait for ever.
    release = threading.Timer(3.0, go_on.set)
    release.start()
    try:
        with contextlib.suppress(KeyboardInterrupt):
            store.close()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    try:
        other = walkv.open(path)
    except walkv.LockedError:
        pass
    else:
        others = [t for t in threading.enumerate() if t.name == "walkv-compaction"]
        alive = any(thread.is_alive() for thread in others)
        other.close()
        go_on.set()
        assert not alive, "the lock was given back while the flush was running"
    go_on.set()
    release.join()
    store.close()
    with walkv.open(path) as reopened:
        assert reopened.count() == count
        assert reopened.verify().ok
