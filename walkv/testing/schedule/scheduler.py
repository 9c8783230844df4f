"""Runs threads and tasks one at a time, in an order that a seed decides and repeats.

The threads are real ones, and so are those of the engine, but only one of them has the baton. At
every *point* (an operation of the file system, a lock, a queue, the start or end of a thread, a
sleep, an event loop that waits) a strategy says who has it next. Time is the clock of the
simulated file system: it moves when nobody can go on, to the earliest moment somebody waits for.

    >>> import walkv
    >>> from walkv.testing import SimulatedFileSystem
    >>> with Schedule(SimulatedFileSystem(), seed=7) as schedule:
    ...     store = walkv.open("/s", filesystem=schedule.filesystem)
    ...     for name in ("a", "b"):
    ...         schedule.start(store.put, name.encode(), b"1", name=name)
    ...     schedule.run()
    ...     store.close()

Invariants:
    1. Whoever runs has the baton, and gives it up at a point only. So nothing here needs a lock.
    2. The same seed, strategy and work lead to the same points and the same choices.
    3. No real lock is held across a point. What happens inside one operation of the file system,
       ``on_operation`` included, has no points.
    4. On leaving the ``with`` block every thread of the schedule has ended.

Source: loom and shuttle, for Rust. Generators in place of threads were rejected: it is the engine's
own code that is to run.
"""

from __future__ import annotations

import math
import sys
import threading
from _thread import allocate_lock
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from random import Random
from types import FrameType, ModuleType
from typing import Any, Final, Self, cast

import walkv.engine.store  # noqa: F401  # loads every module of the engine, to be patched
from walkv.engine.vfs import FileSystem
from walkv.testing.clock import ManualClock
from walkv.testing.schedule.standins import CooperativeLoop, ScheduledFileSystem, stand_ins
from walkv.testing.schedule.strategies import RandomWalk, Strategy

_TICK_SECONDS: Final = 0.0001
"""What ``perf_counter`` moves by at every call, so that work seems to take time."""

_END_SECONDS: Final = 10.0


class Deadlock(Exception):
    """Nobody can go on and nobody waits for a time; says who waits for what, and where."""


class _Abandoned(BaseException):
    """Ends a thread of a schedule that is over."""


class Worker:
    """A thread of a schedule; to the engine a ``threading.Thread``."""

    def __init__(
        self, schedule: Schedule, target: Callable[..., Any], args: tuple[Any, ...], name: str
    ) -> None:
        self._schedule = schedule
        self._call = (target, args)
        self.name = name
        self.number = -1
        self.gate = allocate_lock()
        self.gate.acquire()
        self.waits_for: str | None = None
        self.deadline: float | None = None
        self.timed_out = False
        self.ended = False
        self.joiners: list[Worker] = []
        self.real = threading.Thread(target=self._body, name=name, daemon=True)

    def start(self) -> None:
        self._schedule._add(self)
        self.real.start()
        self._schedule.point("start of a thread")

    def join(self, timeout: float | None = None) -> None:
        self._schedule.point("join")
        while not self.ended:
            if not self._schedule.wait(self.joiners, f"the end of {self.name}", timeout):
                return

    def is_alive(self) -> bool:
        return self.number >= 0 and not self.ended

    def _body(self) -> None:
        schedule = self._schedule
        target, arguments = self._call
        self.gate.acquire()
        try:
            if not schedule._ending:
                schedule._trace()
                target(*arguments)
        except _Abandoned:
            pass
        except BaseException as error:  # noqa: BLE001  # ``run`` raises it
            schedule.stop(error)
        finally:
            sys.settrace(None)
            schedule._leave(self)


class Schedule:
    """See the module. A context manager: inside it the engine's threads are the schedule's.

    The thread that enters is one of them; what it starts waits for ``run``.

    Attributes:
        filesystem: to be given to ``walkv.open``: the one of the schedule, with points.
        current: who has the baton.
        point_count: points so far.
        choice_count: points so far at which more than one thread could go on.
        deviations: choices that were not the default, for ``Only``.
        entered_by: the thread that entered the ``with`` block.
        is_quiet: whoever has the baton keeps it.
    """

    def __init__(
        self,
        fs: FileSystem,
        *,
        seed: int = 0,
        strategy: Strategy | None = None,
        sync_seconds: float = 0.0,
        lines: Iterable[ModuleType] = (),
        max_points: int = 200_000,
    ) -> None:
        """
        Args:
            fs: a ``SimulatedFileSystem``, or a ``FaultyFileSystem`` over one.
            sync_seconds: how long a sync takes; what it covers is settled at its begin or end.
            lines: modules between any two lines of which there is a point as well.
            max_points: a run that goes on for longer is taken for a ``Deadlock``.
        """
        clock = getattr(fs, "clock", None) or getattr(getattr(fs, "base", None), "clock", None)
        if not isinstance(clock, ManualClock):
            raise TypeError("a schedule needs a simulated file system, with a ManualClock")
        self.clock = clock
        self.filesystem = cast(FileSystem, ScheduledFileSystem(self, fs))
        self.current = self.entered_by = Worker(self, lambda: None, (), "main")
        self.point_count = 0
        self.choice_count = 0
        self.deviations: dict[int, int] = {}
        self.sync_seconds = sync_seconds
        self.chooser = Random(f"{seed} syncs")
        self._strategy = RandomWalk() if strategy is None else strategy
        self._strategy.begin(Random(f"{seed} choices"))
        self._seed = seed
        self._files = {module.__file__ for module in lines}
        self._max_points = max_points
        self._workers: list[Worker] = []
        self._held: list[Worker] = []
        self._started: list[Worker] = []
        self._count = 0
        self._ticks = 0
        self.is_quiet = False
        self._ending = False
        self._told = False
        self._error: BaseException | None = None
        self._patched: list[tuple[ModuleType, str, Any]] = []

    # -- for the test ----------------------------------------------------------------------------

    def __enter__(self) -> Self:
        global _active
        if _active is not None:
            raise RuntimeError("one schedule at a time")
        _active = self
        self.entered_by.real = threading.current_thread()
        self._add(self.entered_by)
        replacements = stand_ins(self, self._seed)
        for name, module in list(sys.modules.items()):
            if name.startswith("walkv.engine.") and name != "walkv.engine.vfs":
                for attribute, value in list(vars(module).items()):
                    for real, stand_in in replacements:
                        if value is real:
                            self._patched.append((module, attribute, value))
                            setattr(module, attribute, stand_in)
        return self

    def __exit__(self, *exception: object) -> None:
        global _active
        self._abandon()
        for module, attribute, value in self._patched:
            setattr(module, attribute, value)
        _active = None

    def start(self, function: Callable[..., Any], *args: Any, name: str | None = None) -> None:
        """Call ``function(*args)`` in a thread of its own, once ``run`` is called."""
        worker = Worker(self, function, args, name or f"thread-{len(self._started) + 1}")
        self._held.append(worker)
        self._started.append(worker)

    def start_tasks(
        self, function: Callable[..., Coroutine[Any, Any, Any]], *args: Any, name: str = "tasks"
    ) -> None:
        """Run a coroutine function in an event loop of its own, in a thread of its own."""
        self.start(lambda: CooperativeLoop(self).run_main(function(*args)), name=name)

    def run(self) -> None:
        """Let go until everything started has ended.

        Raises:
            Deadlock: nobody can go on.
            BaseException: the first that a thread has raised, or that ``stop`` was given.
        """
        held, self._held = self._held, []
        for worker in held:
            self._add(worker)
            worker.real.start()
        for worker in held:
            while not worker.ended and self._error is None:
                self.wait(worker.joiners, f"the end of {worker.name}")
        if self._error is not None:
            raise self._error

    def stop(self, error: BaseException) -> None:
        """``run`` is to raise this, at the next point."""
        if self._error is None and not self._ending:
            self._error = error
            self.entered_by.waits_for = None

    @property
    def alive(self) -> list[str]:
        """The names of the threads that have not ended, but for the one that entered."""
        return [worker.name for worker in self._workers if worker is not self.entered_by]

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Whoever has the baton keeps it; locks made here are real ones, and uncontended."""
        before, self.is_quiet = self.is_quiet, True
        try:
            yield
        finally:
            self.is_quiet = before

    def sleep(self, seconds: float) -> None:
        """Let the others go on until so much time has passed."""
        if seconds > 0 and not self.is_quiet:
            self.wait([], f"{seconds:g} s to pass", seconds)
        else:
            self.point("sleep")

    # -- the baton -------------------------------------------------------------------------------

    def point(self, what: str) -> None:
        """Anybody may go on from here."""
        if self.is_quiet:
            return
        if self._ending:
            if self.current is not self.entered_by:
                raise _Abandoned
            return
        self._switch()

    def wait(self, queue_of: list[Worker], what: str, timeout: float | None = None) -> bool:
        """Go on once ``wake`` is called for the queue, or in time; whether it was the former."""
        me = self.current
        if self._ending and me is not self.entered_by:
            raise _Abandoned
        if self.is_quiet or self._ending:
            raise RuntimeError(f"{me.name} would wait for {what}, and nobody else runs")
        me.waits_for, me.timed_out = what, False
        if timeout is not None:
            now = self.clock.monotonic_seconds
            me.deadline = max(now + timeout, math.nextafter(now, math.inf))
        queue_of.append(me)
        try:
            self._switch()
        finally:
            me.waits_for = me.deadline = None
            if me in queue_of:
                queue_of.remove(me)
        return not me.timed_out

    def wake(self, queue_of: list[Worker], count: int | None = None) -> None:
        """Let those who wait go on: the first ``count`` of them, or all."""
        for worker in queue_of[:count]:
            worker.waits_for = worker.deadline = None
        del queue_of[:count]

    def _switch(self) -> None:
        me = self.current
        if self._told:
            self._abandon()  # the error was raised before, and whoever got it asks again
            return
        chosen = self._pick()
        if chosen is not me:
            self.current = chosen
            chosen.gate.release()
            me.gate.acquire()
        if self._ending:
            raise _Abandoned
        if me is self.entered_by and self._error is not None:
            self._told = True
            raise self._error

    def _pick(self) -> Worker:
        self.point_count += 1
        if self._error is None and self.point_count > self._max_points:
            self.stop(Deadlock(f"no end after {self._max_points} points:\n{self._describe()}"))
        if self._error is not None:
            self.entered_by.waits_for = None
            return self.entered_by
        while not (ready := [each for each in self._workers if each.waits_for is None]):
            if not self._let_time_pass():
                self.stop(Deadlock(f"nobody can go on:\n{self._describe()}"))
        if len(ready) == 1:
            return ready[0]
        numbers = [each.number for each in ready]
        number = self.current.number
        default = min(numbers, key=lambda other: (other < number, other))
        picked = self._strategy.pick(self.choice_count, numbers, default)
        if picked != default:
            self.deviations[self.choice_count] = picked
        self.choice_count += 1
        return ready[numbers.index(picked)]

    def _let_time_pass(self) -> bool:
        deadlines = [each.deadline for each in self._workers if each.deadline is not None]
        if not deadlines:
            return False
        clock, earliest = self.clock, min(deadlines)
        clock.advance(max(0.0, earliest - clock.monotonic_seconds))
        clock.monotonic_seconds = max(clock.monotonic_seconds, earliest)
        for worker in self._workers:
            if worker.deadline is not None and worker.deadline <= clock.monotonic_seconds:
                worker.waits_for = worker.deadline = None
                worker.timed_out = True
        return True

    def _describe(self) -> str:
        frames = sys._current_frames()
        rows = []
        for each in self._workers:
            where = _where(frames.get(each.real.ident or 0))
            rows.append(f"  {each.name}: waits for {each.waits_for or 'its turn'}, {where}")
        return "\n".join(rows)

    # -- threads ---------------------------------------------------------------------------------

    def worker(self, function: Callable[..., Any], name: str, *args: Any) -> Worker:
        """A thread of this schedule, not yet started."""
        return Worker(self, function, args, name)

    def _add(self, worker: Worker) -> None:
        if self._ending:
            raise RuntimeError("can't start new thread: the schedule is over")
        worker.number = self._count
        self._count += 1
        self._workers.append(worker)

    def _leave(self, worker: Worker) -> None:
        worker.ended = True
        self._workers.remove(worker)
        self.wake(worker.joiners)
        if not self._ending:
            self.current = self._pick()
            self.current.gate.release()

    def _abandon(self) -> None:
        """End every other thread, the newest first."""
        self._ending = True
        for worker in reversed(list(self._workers)):
            if worker is not self.entered_by:
                self.current = worker
                worker.gate.release()
                worker.real.join(_END_SECONDS)
                if worker.real.is_alive():
                    raise RuntimeError(f"{worker.name} cannot be ended")
        self.current = self.entered_by

    def _trace(self) -> None:
        if self._files:
            sys.settrace(self._trace_call)

    def _trace_call(self, frame: FrameType, event: str, argument: Any) -> Any:
        chosen = not self.is_quiet and frame.f_code.co_filename in self._files
        return self._trace_line if chosen else None

    def _trace_line(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "line":
            self.point("line")
        return self._trace_line

    def tick(self) -> float:
        """In the place of ``time.perf_counter``."""
        self._ticks += 1
        return self.clock.monotonic_seconds + self._ticks * _TICK_SECONDS


_active: Schedule | None = None


def _where(frame: FrameType | None) -> str:
    found: list[str] = []
    while frame is not None and len(found) < 3:
        name = frame.f_code.co_filename
        if name != __file__ and not name.startswith(sys.base_prefix):
            short = name.replace("\\", "/").rpartition("/")[2]
            found.append(f"{short}:{frame.f_lineno} {frame.f_code.co_name}")
        frame = frame.f_back
    return "at " + " < ".join(found)
