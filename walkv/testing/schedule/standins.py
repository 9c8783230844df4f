"""What the engine gets in place of locks, queues, pools, an event loop and the file system.

They are called by whoever has the baton, so each is a few plain lines: what may wait asks the
scheduler to. In a quiet piece of work new locks are real ones, and nobody contends for them.
"""

from __future__ import annotations

import asyncio
import queue
import random
import sys
import threading
import time
from _thread import start_new_thread
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from random import Random
from types import SimpleNamespace
from typing import Any, Final, Protocol

from walkv.engine.vfs import File, FileSystem
from walkv.testing.clock import ManualClock

_SYNCS: Final = frozenset(("sync", "sync_data", "sync_directory"))
_CHANGES: Final = frozenset(("create", "make_directory", "rename", "unlink", "write", "truncate"))


class Baton(Protocol):
    """What is asked of a ``Schedule``. Who waits in a queue is its own affair."""

    clock: ManualClock
    sync_seconds: float
    chooser: Random
    is_quiet: bool

    @property
    def current(self) -> Any: ...

    @property
    def entered_by(self) -> Any: ...

    def point(self, what: str) -> None: ...

    def wait(self, queue_of: list[Any], what: str, timeout: float | None = None) -> bool: ...

    def wake(self, queue_of: list[Any], count: int | None = None) -> None: ...

    def sleep(self, seconds: float) -> None: ...

    def quiet(self) -> AbstractContextManager[None]: ...

    def worker(self, function: Callable[..., Any], name: str, *args: Any) -> Any: ...

    def stop(self, error: BaseException) -> None: ...

    def tick(self) -> float: ...


class CooperativeLock:
    """In the place of ``threading.Lock``. Whoever waited for it tries again once it is free."""

    __slots__ = ("_made_at", "_schedule", "_taken", "_waiting")

    def __init__(self, schedule: Baton, made_at: str) -> None:
        self._schedule = schedule
        self._made_at = made_at
        self._taken = False
        self._waiting: list[Any] = []

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        self._schedule.point("acquire")
        while self._taken:
            if not blocking:
                return False
            limit = None if timeout < 0 else timeout
            if not self._schedule.wait(self._waiting, f"the lock of {self._made_at}", limit):
                return False
        self._taken = True
        return True

    def release(self) -> None:
        if not self._taken:
            raise RuntimeError("release unlocked lock")
        self._taken = False
        self._schedule.wake(self._waiting)
        self._schedule.point("release")

    def locked(self) -> bool:
        return self._taken

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *exception: object) -> None:
        self.release()


class CooperativeCondition:
    """In the place of ``threading.Condition``."""

    def __init__(self, schedule: Baton, lock: CooperativeLock) -> None:
        self._schedule = schedule
        self._lock = lock
        self._waiting: list[Any] = []
        self.acquire = lock.acquire
        self.release = lock.release

    def __enter__(self) -> bool:
        return self._lock.acquire()

    def __exit__(self, *exception: object) -> None:
        self._lock.release()

    def wait(self, timeout: float | None = None) -> bool:
        self._owned()
        # Nobody comes between the release and the wait: the release itself has no point here.
        self._lock._taken = False
        self._schedule.wake(self._lock._waiting)
        try:
            return self._schedule.wait(self._waiting, "a notification", timeout)
        finally:
            self._lock.acquire()

    def notify(self, n: int = 1) -> None:
        self._owned()
        self._schedule.wake(self._waiting, n)

    def notify_all(self) -> None:
        self._owned()
        self._schedule.wake(self._waiting)

    def _owned(self) -> None:
        if not self._lock.locked():
            raise RuntimeError("the condition's lock is not held")


class CooperativeQueue:
    """In the place of ``queue.SimpleQueue``."""

    def __init__(self, schedule: Baton) -> None:
        self._schedule = schedule
        self._items: deque[Any] = deque()
        self._waiting: list[Any] = []

    def put(self, item: Any) -> None:
        self._items.append(item)
        self._schedule.wake(self._waiting)
        self._schedule.point("put")

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        if timeout is not None and timeout < 0:
            raise ValueError("'timeout' must be a non-negative number")
        self._schedule.point("get")
        while not self._items:
            if not block or not self._schedule.wait(self._waiting, "a queue", timeout):
                raise queue.Empty
        return self._items.popleft()

    def empty(self) -> bool:
        return not self._items


class CooperativePool:
    """In the place of ``ThreadPoolExecutor``."""

    def __init__(self, schedule: Baton, max_workers: int, thread_name_prefix: str = "") -> None:
        self._schedule = schedule
        self._size = max_workers
        self._prefix = thread_name_prefix or "pool"
        self._jobs = CooperativeQueue(schedule)
        self._threads: list[Any] = []
        self._idle = 0
        self._closed = False

    def submit(self, function: Callable[..., Any], /, *args: Any, **options: Any) -> Future[Any]:
        if self._closed:
            raise RuntimeError("cannot schedule new futures after shutdown")
        future: Future[Any] = Future()
        if self._idle:
            self._idle -= 1
        elif len(self._threads) < self._size:
            thread = self._schedule.worker(self._run, f"{self._prefix}_{len(self._threads)}")
            self._threads.append(thread)
            thread.start()
        self._jobs.put((future, function, args, options))
        return future

    def _run(self) -> None:
        while True:
            job = self._jobs.get()
            if job is None:
                return
            future, function, args, options = job
            if future.set_running_or_notify_cancel():
                try:
                    result = function(*args, **options)
                except Exception as error:  # noqa: BLE001  # for whoever waits for the result
                    future.set_exception(error)
                else:
                    future.set_result(result)
            self._idle += 1

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        if not self._closed:
            self._closed = True
            for _ in self._threads:
                self._jobs.put(None)
        if wait:
            for thread in self._threads:
                thread.join()


class CooperativeLoop(asyncio.BaseEventLoop):
    """An event loop without sockets, by the clock of the schedule."""

    def __init__(self, schedule: Baton) -> None:
        super().__init__()
        self._schedule = schedule
        self._waiting: list[Any] = []
        self._woken = False
        # What the base class asks a subclass for, or makes for itself when it is first needed.
        self._selector = self
        self._clock_resolution = 1e-9
        self._default_executor = CooperativePool(schedule, 4, "asyncio")
        self.set_exception_handler(self._report)

    def _report(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, Exception):
            self._schedule.stop(error)

    def time(self) -> float:
        return self._schedule.clock.monotonic_seconds

    def select(self, timeout: float | None) -> list[Any]:
        if self._woken or timeout == 0:
            self._schedule.point("select")
        else:
            self._schedule.wait(self._waiting, "an event", timeout)
        self._woken = False
        return []

    def _process_events(self, events: list[Any]) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        # The last step of ``call_soon_threadsafe``.
        self._woken = True
        self._schedule.wake(self._waiting)
        self._schedule.point("call_soon_threadsafe")

    def run_main(self, main: Coroutine[Any, Any, Any]) -> None:
        """As ``asyncio.run``."""
        try:
            self.run_until_complete(main)
            self.run_until_complete(_end_tasks())
            self.run_until_complete(self.shutdown_asyncgens())
        finally:
            with suppress(BaseException):
                for task in asyncio.all_tasks(self):
                    # The schedule was abandoned: nobody is to hear of what is left.
                    task._log_destroy_pending = False  # type: ignore[attr-defined]
                    task.get_coro().close()
                self.close()


async def _end_tasks() -> None:
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)


class ScheduledFileSystem:
    """A file system with a point before and after whatever changes or syncs something."""

    threads = True

    def __init__(self, schedule: Baton, base: FileSystem) -> None:
        self._schedule = schedule
        self._base = base

    def open(self, path: str, *, writable: bool = False) -> ScheduledFile:
        return ScheduledFile(self._schedule, self._base.open(path, writable=writable))

    def create(self, path: str) -> ScheduledFile:
        created: File = operate(self._schedule, "create", self._base.create, path)
        return ScheduledFile(self._schedule, created)

    def sleep(self, seconds: float) -> None:
        self._schedule.sleep(seconds)

    def __getattr__(self, name: str) -> Any:
        return _with_points(self._schedule, name, getattr(self._base, name))


class ScheduledFile:
    """A file with points; see ``ScheduledFileSystem``."""

    def __init__(self, schedule: Baton, base: File) -> None:
        self._schedule = schedule
        self._base = base

    def __getattr__(self, name: str) -> Any:
        return _with_points(self._schedule, name, getattr(self._base, name))


def _with_points(schedule: Baton, name: str, function: Any) -> Any:
    if name not in _CHANGES and name not in _SYNCS:
        return function
    return lambda *args: operate(schedule, name, function, *args)


def operate(schedule: Baton, name: str, function: Callable[..., Any], *args: Any) -> Any:
    """One operation: whole, with a point on either side. A sync takes its time."""
    takes = schedule.sync_seconds if name in _SYNCS else 0.0
    late = takes > 0 and schedule.chooser.random() < 0.5
    schedule.point(name)
    if late:
        schedule.sleep(takes)
    try:
        with schedule.quiet():
            result = function(*args)
    finally:
        if takes > 0 and not late:
            schedule.sleep(takes)
        schedule.point(name)
    return result


def _caller() -> str:
    frame = sys._getframe(2)
    return f"{frame.f_code.co_filename.rpartition('/')[2]}:{frame.f_lineno}"


def stand_ins(schedule: Baton, seed: int) -> list[tuple[Any, Any]]:
    """Pairs of what modules of the engine import, and what they get in its place."""

    def lock() -> Any:
        return threading.Lock() if schedule.is_quiet else CooperativeLock(schedule, _caller())

    def condition(lock: Any = None) -> Any:
        if isinstance(lock, CooperativeLock):
            return CooperativeCondition(schedule, lock)
        if lock is None and not schedule.is_quiet:
            return CooperativeCondition(schedule, CooperativeLock(schedule, _caller()))
        return threading.Condition(lock)

    def start(function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        schedule.worker(function, function.__name__, *args).start()

    def thread(*, target: Callable[..., Any], name: str = "thread", daemon: bool = True) -> Any:
        return schedule.worker(target, name)

    def current_thread() -> Any:
        return threading.current_thread() if schedule.is_quiet else schedule.current

    threads = SimpleNamespace(
        Lock=lock,
        Condition=condition,
        Thread=thread,
        local=threading.local,
        current_thread=current_thread,
        main_thread=lambda: schedule.entered_by,
    )
    clocks = SimpleNamespace(sleep=schedule.sleep, perf_counter=schedule.tick)

    def pool(max_workers: int, thread_name_prefix: str = "") -> CooperativePool:
        return CooperativePool(schedule, max_workers, thread_name_prefix)

    return [
        (threading, threads),
        (time, clocks),
        (random, Random(f"{seed} engine")),
        (queue.SimpleQueue, lambda: CooperativeQueue(schedule)),
        (start_new_thread, start),
        (ThreadPoolExecutor, pool),
    ]
