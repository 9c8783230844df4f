"""The background thread of the log: interval syncs, syncs for tasks, sync markers.

Invariants:
    1. A write-back commit is covered by a sync that begins at most its interval after it.
    2. The thread is woken through a ``SimpleQueue``, whose ``put`` is C code. A ``Condition`` that
       Ctrl-C strikes in ``notify`` can lose a later notification.
    3. Listeners are told after every sync done here and once more when the store has closed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Final

from walkv.engine.vfs import FileSystem
from walkv.engine.wal import Log
from walkv.errors import StoreFailedError

_NOWHERE: Final = -1
_NEVER: Final = float("inf")

IDLE_SECONDS: Final = 1.0
"""How long after a durable commit a sync marker may be due."""


class Syncer:
    """The background thread that syncs for write-back commits and for waiting tasks.

    It starts at the first commit that needs it. When the interval that a commit has armed is over,
    it syncs what is unsynced, writes a sync marker if no commit came in between, and sleeps until
    the next commit arms it.
    """

    def __init__(
        self,
        log: Log,
        fs: FileSystem,
        mark_idle: Callable[[], None],
        on_failure: Callable[[BaseException], None],
    ) -> None:
        self._log = log
        self._fs = fs
        self._mark_idle = mark_idle
        self._on_failure = on_failure
        self._lock = threading.Lock()
        self._wakes: SimpleQueue[None] = SimpleQueue()
        self._stopping = False
        self._deadline = 0.0
        self._listeners: list[Callable[[], None]] = []
        self._thread: threading.Thread | None = None
        self.requested = False
        self.quiet_position = _NOWHERE
        """Write-back commits that end up to here need nothing: a deadline is set and they are few.
        It is withdrawn before a sync reads how far to go, so whoever still saw it is covered."""
        self.armed_seconds = _NEVER
        """The interval of the running deadline. Commits arm it only with a shorter one."""

    def arm(self, interval_seconds: float) -> None:
        """Sync at the latest after ``interval_seconds``, and mark it."""
        with self._lock:
            self._start()
            deadline = self._fs.monotonic() + interval_seconds
            if self._deadline:
                deadline = min(self._deadline, deadline)
            armed_seconds = min(self.armed_seconds, interval_seconds)
            if self.running or not self._fs.threads:
                # The thread is woken first: it then waits for the lock, and what Ctrl-C leaves
                # undone here the next commit does. Without a thread the next commit tries again.
                self._wakes.put(None)
                self._deadline = deadline
                self.armed_seconds = armed_seconds

    def allow_quiet(self, position: int) -> None:
        """Commits that end up to ``position`` may skip the syncer, if a deadline is set."""
        with self._lock:
            if self.armed_seconds < _NEVER and self.running:
                self.quiet_position = position

    def request(self) -> bool:
        """Sync soon, then call the listeners; False if there is no thread to do it."""
        with self._lock:
            self._start()
            running = self.running
            self._wakes.put(None)
            self.requested = running
            return running

    def listen(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` after every sync done here, failed or not, and at the close."""
        self._listeners.append(callback)

    def unlisten(self, callback: Callable[[], None]) -> None:
        if callback in self._listeners:
            self._listeners.remove(callback)

    def _start(self) -> None:
        if self._thread is None and self._fs.threads and not self._stopping:
            thread = threading.Thread(target=self._run, name="walkv-sync", daemon=True)
            # No thread may be had: the process is at its limit, or ending. Then commits sync.
            with suppress(RuntimeError):
                thread.start()
                self._thread = thread

    @property
    def running(self) -> bool:
        """Whether there is a thread; without one commits sync for themselves."""
        return self._thread is not None

    def _run(self) -> None:
        while True:
            with self._lock:
                left = self._deadline - self._fs.monotonic() if self._deadline else None
                due = left is not None and left <= 0
                wanted = due or self.requested
                if wanted:
                    self.requested = False
                    self.quiet_position = _NOWHERE
                if due:
                    self._deadline = 0.0
                    self.armed_seconds = _NEVER
            if self._stopping:
                # Ctrl-C in ``Thread.start`` may have led to a second thread: it ends as well.
                self._wakes.put(None)
                return
            if not wanted:
                with suppress(Empty):
                    self._wakes.get(timeout=left)
                continue
            try:
                if self._log.durable < self._log.position:
                    self._log.sync()
                if due:
                    self._mark_idle()
            except (StoreFailedError, OSError):
                # The log has told the engine; whoever waits learns it from there.
                pass
            except Exception as error:  # noqa: BLE001  # nobody else would ever learn of it
                self._on_failure(error)
            self.tell()

    def poll(self) -> None:
        """Where the file system has no threads: sync now if the deadline has passed."""
        if self._deadline and self._fs.monotonic() >= self._deadline:
            self._deadline = 0.0
            self.armed_seconds = _NEVER
            if self._log.durable < self._log.position:
                self._log.sync()

    def stop(self) -> None:
        """End the thread; waits for a sync that is running."""
        self._stopping = True
        self._wakes.put(None)
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def tell(self) -> None:
        """Call the listeners: something has become durable, or never will."""
        for callback in tuple(self._listeners):
            callback()
