"""Backups every so often, made in a thread."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from walkv.engine.keyring import Key
from walkv.engine.vfs import OsFileSystem
from walkv.errors import WalkvError
from walkv.ops.backing import listings
from walkv.ops.backing.making import BackupReport, backup
from walkv.ops.backing.places import open_target
from walkv.ops.backing.retention import Retention
from walkv.ops.keys import engine_of

log = logging.getLogger("walkv")

_PATIENCE_SECONDS: Final = 10.0
"""So long ``stop`` waits for a backup to be given up. What then still hangs in the network reads
files and nothing of the store."""


class _StoppedError(Exception):
    """The schedule was stopped while it made a backup."""


class BackupSchedule:
    """Makes a backup every ``every_seconds``, until it is stopped. Thread-safe.

    The first one is made when the newest backup in the target is that old; at once, where there is
    none. One that fails is logged, and tried again at the next time. A forked child has no thread,
    and makes none.

    Args:
        store, target, keep, keep_days, key: as for ``backup``.
        every_seconds: from the end of one backup to the next.
        on_error: called in the thread with what went wrong.
    Raises:
        ValueError, BackupError: one of these is not what it should be.

    Attributes:
        last_error: why the last one was not made, or None.
        last_report: of the last one that was made, or None.
    """

    def __init__(
        self,
        store: Any,
        target: str | os.PathLike[str],
        *,
        every_seconds: float,
        keep: int | None = None,
        keep_days: float | None = None,
        key: Key | None = None,
        on_error: Callable[[Exception], None] | None = None,
    ) -> None:
        if not 0 < every_seconds <= threading.TIMEOUT_MAX:
            raise ValueError(f"every_seconds is above 0, not {every_seconds!r}")
        Retention.checked(keep, keep_days)
        self._place = open_target(target)
        self.path = os.path.abspath(os.fsdecode(getattr(store, "path", store)))
        self.every_seconds = every_seconds
        self.last_error: Exception | None = None
        self.last_report: BackupReport | None = None
        self._keep, self._keep_days = keep, keep_days
        # Not the store itself, which somebody may let go of.
        engine = engine_of(store)
        self._keyring = None if engine is None else engine.catalog.keyring
        self._given = key
        self._on_error = on_error
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = threading.Thread(
            target=self._run, name="walkv-backups", daemon=True
        )
        self._forget_fork = OsFileSystem().on_fork(self._in_child)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<walkv.BackupSchedule of {self.path!r} to {self.target!r}>"

    @property
    def target(self) -> str:
        """Where the backups are."""
        return self._place.path

    @property
    def running(self) -> bool:
        """Whether the thread is there."""
        return self._thread is not None and self._thread.is_alive()

    def stop(self) -> None:
        """End it; a backup that is being made is given up. Stopping twice is allowed."""
        self._stopping.set()
        self._forget_fork()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(_PATIENCE_SECONDS)

    def _in_child(self) -> None:
        # Only the thread that forked goes on there, and others may have held the event's lock.
        self._stopping = threading.Event()
        self._thread = None

    def _run(self) -> None:
        wait_seconds: float | None = None
        while True:
            try:
                if wait_seconds is None:
                    wait_seconds = self._first_wait_seconds()
                if self._stopping.wait(wait_seconds):
                    return
                wait_seconds = self.every_seconds
                self.last_report = backup(
                    self.path,
                    self.target,
                    keep=self._keep,
                    keep_days=self._keep_days,
                    key=self._key(),
                    progress=self._proceed,
                )
                self.last_error = None
            except _StoppedError:
                return
            except Exception as error:  # noqa: BLE001  # kept, logged and told; nobody else is there
                wait_seconds = self.every_seconds
                self._failed(error)

    def _key(self) -> Key | None:
        """What was given, or what opens the store now."""
        if self._given is None and self._keyring is not None:
            return self._keyring.secret
        return self._given

    def _failed(self, error: Exception) -> None:
        self.last_error = error
        log.error("walkv: %s: no backup was made: %s", self.path, error)
        if self._on_error is not None:
            try:
                self._on_error(error)
            except Exception:
                log.exception("walkv: %s: on_error failed", self.path)

    def _proceed(self, done: int, total: int) -> None:
        if self._stopping.is_set():
            raise _StoppedError

    def _first_wait_seconds(self) -> float:
        try:
            newest = next(iter(listings.names(self._place)), None)
        except (OSError, WalkvError):
            return 0.0  # the backup meets the same error, and tells of it
        if newest is None:
            return 0.0
        age_seconds = (datetime.now(UTC) - listings.named_time(newest)).total_seconds()
        return min(max(self.every_seconds - age_seconds, 0.0), self.every_seconds)
