"""Backups in a directory."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from walkv.engine import manifest
from walkv.engine.vfs import LockHeldError, OsFileSystem
from walkv.errors import BackupError
from walkv.ops.backing.pacing import CHUNK_BYTES, Pace
from walkv.ops.backing.targets import (
    BACKUPS,
    DAMAGED,
    LOCK_NAME,
    OBJECTS,
    Entry,
    not_backups,
)
from walkv.ops.placing import make_directory

_UNFINISHED: Final = ".tmp"
_LOST_AND_FOUND: Final = "lost+found"


class DirectoryTarget:
    """Backups in a directory."""

    exclusive = True

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(path)
        self._fs = OsFileSystem()

    def prepare(self) -> None:
        try:
            names = set(self._fs.list(self.path))
        except FileNotFoundError:
            names = set()
        except NotADirectoryError:
            raise BackupError(
                f"{self.path}: this is a file, and backups are kept in a directory",
                target=self.path,
            ) from None
        foreign = {name for name in names if name[0] != "." and name != _LOST_AND_FOUND}
        # The listings' folder is made last.
        ours = BACKUPS in names or foreign <= {OBJECTS, LOCK_NAME}
        if manifest.NAME in names or not ours:
            raise not_backups(self.path, min(foreign))
        for folder in (OBJECTS, BACKUPS):
            make_directory(os.path.join(self.path, folder))

    def entries(self, folder: str) -> dict[str, Entry]:
        found = {}
        try:
            with os.scandir(os.path.join(self.path, folder)) as inside:
                for each in inside:
                    if each.name[0] != "." and each.is_file():
                        status = each.stat()
                        found[each.name] = Entry(status.st_size, status.st_mtime)
        except FileNotFoundError:
            return {}
        return found

    def put(self, folder: str, name: str, chunks: Iterable[bytes], size_bytes: int) -> None:
        inside = os.path.join(self.path, folder)
        temporary = os.path.join(inside, f".{secrets.token_hex(8)}{_UNFINISHED}")
        file = self._fs.create(temporary)
        try:
            try:
                offset = 0
                for chunk in chunks:
                    file.write(chunk, offset)
                    offset += len(chunk)
                file.sync()
            finally:
                file.close()
            self._fs.rename(temporary, os.path.join(inside, name))
        except BaseException:
            with suppress(OSError):
                self._fs.unlink(temporary)
            raise
        self._fs.sync_directory(inside)

    def read(self, folder: str, name: str) -> Iterator[bytes]:
        file = self._fs.open(os.path.join(self.path, folder, name))
        try:
            offset = 0
            while data := file.read(offset, CHUNK_BYTES):
                yield data
                offset += len(data)
        finally:
            file.close()

    def set_aside(self, name: str) -> None:
        old, new = (os.path.join(self.path, folder) for folder in (OBJECTS, DAMAGED))
        make_directory(new)
        self._fs.rename(os.path.join(old, name), os.path.join(new, name))
        self._fs.sync_directory(new)
        self._fs.sync_directory(old)

    def remove(self, folder: str, names: Iterable[str]) -> None:
        inside = os.path.join(self.path, folder)
        for name in names:
            with suppress(FileNotFoundError):
                self._fs.unlink(os.path.join(inside, name))
        if os.path.isdir(inside):
            self._fs.sync_directory(inside)

    @contextmanager
    def lock(self, pace: Pace) -> Iterator[None]:
        while True:
            try:
                held = self._fs.lock(os.path.join(self.path, LOCK_NAME))
                break
            except LockHeldError:
                pace.nap()
        try:
            self._remove_unfinished()
            yield
        finally:
            held.release()

    def _remove_unfinished(self) -> None:
        # The lock is held, so whoever began them has ended.
        for folder in (OBJECTS, BACKUPS):
            inside = os.path.join(self.path, folder)
            for name in self._fs.list(inside) if os.path.isdir(inside) else ():
                if name[0] == "." and name.endswith(_UNFINISHED):
                    self._fs.unlink(os.path.join(inside, name))
