"""Where backups are: a directory, or an object store behind a URL.

    backups/<name>.json     one listing a backup
    removed/<name>.json     listings of backups that were removed, for a while; object stores only
    objects/<name>          what the listings name
    damaged/<name>          objects that were found damaged, and set aside
    LOCK                    held while a backup is made or removed; directories only

Invariants:
    1. A name holds the whole of what was put there, durably, or what it held before: never a part.
    2. Names that begin with a point are unfinished. They are not listed, and whoever holds the lock
       may remove them.
    3. What is in the target and is not of a backup is left alone, and a directory that has only
       such things is refused.

Source: an object store has neither locks nor renames. So nothing here is ever changed in place,
and the same layout serves both.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Final, NamedTuple, Protocol

from walkv.errors import BackupError
from walkv.ops.backing.pacing import Pace

BACKUPS: Final = "backups"
REMOVED: Final = "removed"
OBJECTS: Final = "objects"
DAMAGED: Final = "damaged"
LOCK_NAME: Final = "LOCK"


class Entry(NamedTuple):
    """What is under a name; ``modified`` in seconds since 1970."""

    size_bytes: int
    modified: float


class Target(Protocol):
    """What backups need of the place where they are."""

    path: str
    """The directory or URL, for messages."""
    exclusive: bool
    """Whether ``lock`` keeps others out."""

    def prepare(self) -> None:
        """Make the place, if there is none.

        Raises:
            BackupError: it holds something, and no backups.
        """

    def entries(self, folder: str) -> dict[str, Entry]:
        """What is in a folder, by name; nothing where there is no such folder."""

    def put(self, folder: str, name: str, chunks: Iterable[bytes], size_bytes: int) -> None:
        """Put bytes under a name, whole and durable, or raise and leave it as it was."""

    def read(self, folder: str, name: str) -> Iterator[bytes]:
        """The bytes under a name, in pieces; ``FileNotFoundError`` if there is none."""

    def set_aside(self, name: str) -> None:
        """Move an object to ``damaged/``, durably, over what may be there of this name."""

    def remove(self, folder: str, names: Iterable[str]) -> None:
        """Take names away, durably; those that are not there do not matter."""

    def lock(self, pace: Pace) -> AbstractContextManager[None]:
        """Keep others from changing the target; waits for them. Nothing on an object store."""


def not_backups(path: str, name: str) -> BackupError:
    return BackupError(
        f"{path}: there are no backups here, and there is something else ({name!r}); choose an "
        "empty place",
        target=path,
    )
