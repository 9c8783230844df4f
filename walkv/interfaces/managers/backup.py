"""``BackupManager``: copies of a store in a directory, made by hand or every so often.

    backup_dir/
      .lock                  held while backups are made, restored or deleted
      <name>/
        backup_info.json     what it is a backup of, and from when
        store.walkv/         the copy, a store like any other
      .making-<name>/        a backup that is being made, or was when the process ended
      .deleted-<name>/       a backup that is being deleted

Invariants:
    1. A backup gets its name when it is complete, durable and checked, in one rename, and loses it
       in one: what is listed can be restored, whenever a process was killed.
    2. Only backups of the manager's own store count towards ``max_backups``.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final, Self

from walkv.engine.vfs import LockHeldError, OsFileSystem
from walkv.errors import WalkvError
from walkv.interfaces.managers import copying
from walkv.interfaces.managers.database import DatabaseManager
from walkv.interfaces.managers.errors import BackupError, BackupNotFoundError, RestoreError
from walkv.ops.copying import check_store, copy_store

log = logging.getLogger("walkv")

STORE_NAME: Final = "store.walkv"
INFO_NAME: Final = "backup_info.json"
_LOCK_NAME: Final = ".lock"
_MAKING: Final = ".making-"
_DELETED: Final = ".deleted-"
_LONGEST_NAME: Final = 200


class _StoppedError(Exception):
    """The thread that makes a backup is to end."""


class BackupManager:
    """Makes, lists, restores and deletes backups of a store. Thread-safe.

    Args:
        db_manager: has the store. Its ``close`` stops the thread of this manager.
        backup_dir: where the backups are; made if there is none.
        max_backups: how many are kept: when another one is made, the oldest go.
        interval_seconds: how often ``start`` makes one.
    Raises:
        ValueError: one of these is not what it should be.

    Attributes:
        last_error: why the thread's last backup was not made, or None.
    """

    def __init__(
        self,
        db_manager: DatabaseManager,
        backup_dir: Any = "./backups",
        max_backups: int = 30,
        interval_seconds: float = 86400,
    ) -> None:
        if not isinstance(max_backups, int) or max_backups < 1:
            raise ValueError(f"max_backups is 1 or more, not {max_backups!r}")
        if not 0 < interval_seconds <= threading.TIMEOUT_MAX:
            raise ValueError(f"interval_seconds is above 0, not {interval_seconds!r}")
        self.db_manager = db_manager
        self.backup_dir = os.path.abspath(os.fsdecode(backup_dir))
        self.max_backups = max_backups
        self.interval_seconds = interval_seconds
        inside = os.path.realpath(self.backup_dir) + os.sep
        if inside.startswith(os.path.realpath(db_manager.db_path) + os.sep):
            raise ValueError(f"{self.backup_dir}: backups cannot be inside the store itself")
        self.last_error: BaseException | None = None
        self._lock = threading.RLock()
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        OsFileSystem().make_directory(self.backup_dir)
        db_manager.before_close(self.stop)

    def __repr__(self) -> str:
        return f"<walkv.BackupManager {self.backup_dir!r} of {self.db_manager.db_path!r}>"

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[None]:
        with self._lock:
            try:
                lock = OsFileSystem().lock(os.path.join(self.backup_dir, _LOCK_NAME))
            except LockHeldError as error:
                raise BackupError(
                    f"{self.backup_dir}: process {error.holder.get('pid')} is at work on these "
                    "backups; try again when it is done"
                ) from None
            try:
                yield
            finally:
                lock.release()

    # -- making ----------------------------------------------------------------------------------

    def create_backup(self, backup_name: str | None = None) -> str:
        """Make a backup of the store as it is now, while others go on writing to it.

        Args:
            backup_name: by default the date and time, in UTC.
        Returns:
            The path of the backup.
        Raises:
            BackupError: the name is none, or taken.
            CorruptionError: the store is damaged.
            ClosedError: it was closed.
            OSError, StoreFailedError: the backup cannot be written.
        Cost: as ``walkv.ops.copy``.
        Durability: the backup is durable. Old ones that cannot be deleted are logged, and tried
            again with the next one.
        """
        return self._create(backup_name, lambda: None)

    def _create(self, backup_name: str | None, proceed: Callable[[], None]) -> str:
        with self._exclusive():
            self._remove_leftovers()
            now = datetime.now(UTC)
            name = self._free_name(now) if backup_name is None else backup_name
            path = self._path_of(name)
            if os.path.lexists(path):
                raise BackupError(f"{path}: there is something of this name already")
            making = os.path.join(self.backup_dir, _MAKING + name)
            try:
                os.mkdir(making)
                source = self.db_manager.agent.store.engine
                secret = source.catalog.keyring.secret
                copied = copy_store(
                    source, os.path.join(making, STORE_NAME), secret, lambda *_: proceed()
                )
                info = {
                    "backup_name": name,
                    "created_at": now.isoformat(timespec="microseconds"),
                    "db_path": self.db_manager.db_path,
                    "chroma_path": None,
                    "entry_count": copied.entry_count,
                    "sequence": copied.sequence,
                }
                data = json.dumps(info, indent=2).encode()
                copying.write_file(os.path.join(making, INFO_NAME), data)
                os.rename(making, path)
            except BaseException:
                shutil.rmtree(making, ignore_errors=True)
                raise
            copying.sync_directory(self.backup_dir)
            try:
                self._delete_oldest(name)
            except OSError as error:  # the new one is complete; the next one tries again
                log.warning("walkv: %s: old backups were not deleted: %s", self.backup_dir, error)
            return path

    def _remove_leftovers(self) -> None:
        # The lock is held, so nobody is at work on them.
        for name in os.listdir(self.backup_dir):
            if name.startswith((_MAKING, _DELETED)):
                shutil.rmtree(os.path.join(self.backup_dir, name))

    def _free_name(self, now: datetime) -> str:
        first = name = f"backup_{now:%Y%m%d_%H%M%S}"
        number = 1
        while os.path.lexists(os.path.join(self.backup_dir, name)):
            number += 1
            name = f"{first}_{number}"
        return name

    def _path_of(self, name: str) -> str:
        if not name or name.startswith(".") or len(name) > _LONGEST_NAME or _has_path(name):
            raise BackupError(
                f"{name[:_LONGEST_NAME]!r} is no name for a backup: one does not begin with a "
                f"point, names no other directory, and has at most {_LONGEST_NAME} characters"
            )
        return os.path.join(self.backup_dir, name)

    def _delete_oldest(self, newest: str) -> None:
        mine = [each["backup_name"] for each in self._own_backups()]
        # The clock may have been set back: what was made just now stays.
        others = [name for name in mine if name != newest]
        for name in others[self.max_backups - 1 :]:
            self._delete(name)

    # -- what there is ---------------------------------------------------------------------------

    def list_backups(self) -> list[dict[str, Any]]:
        """What was written in each backup about it, newest first, with its ``backup_path``.

        A backup that this cannot be read of is left out, and logged: it was complete once, so
        somebody has changed it. It does not count towards ``max_backups``, and ``delete_backup``
        deletes it.
        """
        found = []
        for name in sorted(os.listdir(self.backup_dir)):
            path = os.path.join(self.backup_dir, name)
            if not name.startswith(".") and _is_backup(path):
                try:
                    found.append(_read_info(path))
                except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
                    log.warning("walkv: %s: this is not what walkv writes: %s", path, error)
        return sorted(found, key=lambda info: info["created_at"], reverse=True)

    def _own_backups(self) -> list[dict[str, Any]]:
        own = self.db_manager.db_path
        return [each for each in self.list_backups() if each["db_path"] == own]

    def delete_backup(self, backup_name: str) -> None:
        """Delete a backup.

        Raises:
            BackupNotFoundError: there is none of this name.
        """
        with self._exclusive():
            path = self._path_of(backup_name)
            if not _is_backup(path):
                raise BackupNotFoundError(f"{path}: there is no backup here")
            self._delete(backup_name)

    def _delete(self, name: str) -> None:
        doomed = os.path.join(self.backup_dir, _DELETED + name)
        if os.path.isdir(doomed):
            shutil.rmtree(doomed)
        os.rename(self._path_of(name), doomed)
        copying.sync_directory(self.backup_dir)
        shutil.rmtree(doomed)

    # -- putting back ----------------------------------------------------------------------------

    def restore_backup(self, backup_path: Any) -> None:
        """Put a backup in the place of the manager's store, which is to be closed before, and to be
        opened again after that: ``db_manager.close()`` and ``db_manager.open()``.

        Args:
            backup_path: a backup's path, or its name.
        Raises:
            BackupNotFoundError: there is no backup there.
            LockedError: the store is open.
            RestoreError: the backup is damaged.
            OSError: it cannot be written. Whatever is raised, the store is as it was; or it has
                lost its place to the backup, and to open it with a ``DatabaseManager`` ends that.
        Durability: the restored store is durable, and in place. If the process is killed before,
            it is as it was, or ``walkv.open`` refuses it until a ``DatabaseManager`` has opened it.
        """
        path = os.fsdecode(backup_path)
        if not os.path.isdir(path):
            path = os.path.join(self.backup_dir, path)
        with self._exclusive():
            source = os.path.join(path, STORE_NAME)
            if not _is_backup(path) or not os.path.isdir(source):
                raise BackupNotFoundError(f"{backup_path}: there is no backup here")
            try:
                check_store(source, self.db_manager.key)
            except WalkvError as error:
                raise RestoreError(
                    f"{source}: this backup is damaged, and was not restored: {error}"
                ) from error
            copying.replace_store(source, self.db_manager.db_path, self.db_manager.key)

    # -- every so often --------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """Whether a thread makes backups."""
        thread = self._thread
        return thread is not None and thread.is_alive()

    def start(self) -> None:
        """Make a backup every ``interval_seconds``, in a thread, from the age of the newest one on.

        A backup that cannot be made is logged, and ``last_error`` says why; the next one is tried
        in its time. Started already, nothing happens.
        """
        with self._lock:
            if self.running:
                return
            self._stopping = threading.Event()
            self._thread = threading.Thread(
                target=self._run, args=(self._stopping,), name="walkv-backup", daemon=True
            )
            self._thread.start()

    def stop(self) -> None:
        """End the thread; a backup that it is making is given up. Stopping twice is allowed."""
        self._stopping.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _run(self, stopping: threading.Event) -> None:
        def proceed() -> None:
            if stopping.is_set():
                raise _StoppedError

        wait_seconds = self._first_wait_seconds()
        while not stopping.wait(wait_seconds):
            wait_seconds = self.interval_seconds
            try:
                self._create(None, proceed)
                self.last_error = None
            except _StoppedError:
                return
            except Exception as error:  # noqa: BLE001  # kept and logged; nobody else is there
                self.last_error = error
                log.error("walkv: %s: no backup was made: %s", self.db_manager.db_path, error)

    def _first_wait_seconds(self) -> float:
        try:
            newest = next(iter(self._own_backups()), None)
        except OSError:
            return 0.0
        if newest is None:
            return 0.0
        age = datetime.now(UTC) - datetime.fromisoformat(newest["created_at"])
        return min(max(self.interval_seconds - age.total_seconds(), 0.0), self.interval_seconds)

    def close(self) -> None:
        """End the thread; as ``stop``."""
        self.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def _has_path(name: str) -> bool:
    return "\0" in name or os.sep in name or bool(os.altsep and os.altsep in name)


def _is_backup(path: str) -> bool:
    return os.path.lexists(os.path.join(path, INFO_NAME))


def _read_info(path: str) -> dict[str, Any]:
    """What a backup says about itself.

    Raises:
        OSError, ValueError, KeyError, TypeError, RecursionError: this is not what walkv writes.
    """
    info = json.loads(OsFileSystem().read_file(os.path.join(path, INFO_NAME), 1 << 20))
    wanted = {name: str(info[name]) for name in ("backup_name", "created_at", "db_path")}
    if datetime.fromisoformat(wanted["created_at"]).tzinfo is None:
        raise ValueError("created_at has no time zone")
    # Where it is, whatever it was called when it was made.
    return {**info, **wanted, "backup_name": os.path.basename(path), "backup_path": path}
