"""Every error walkv raises on purpose.

Invariants:
    1. A message says what happened, where, and what to do next.
    2. What a program may want to act on is an attribute, not only words in the message.
    3. A torn tail is not an error: it is a field of the ``RecoveryReport``.
    4. An ``OSError`` of the operating system keeps its class and ``errno``; it is an error of the
       medium, not of walkv. A failed *write* leaves the store usable; a failed *sync* does not,
       and everything after it raises ``StoreFailedError`` with the ``OSError`` as its cause.

Source: the split between "you closed it" and "it broke" follows trio's ``ClosedResourceError`` and
``BrokenResourceError``; one error class for both was rejected because callers need to tell them
apart to know whether reopening helps.
"""

from __future__ import annotations

import errno
from datetime import datetime
from functools import partial
from typing import Any


class WalkvError(Exception):
    """The base of all errors below."""


class ClosedError(WalkvError):
    """The store, view, batch or transaction was closed by its user."""


class StoreFailedError(WalkvError):
    """An earlier write or sync failed and the store stopped; ``__cause__`` says why. Reopen it."""


class LockedError(WalkvError):
    """Another opener holds the store's lock.

    Attributes:
        path: the lock file.
        pid: the holder's process id, when it could be read.
        host: the holder's host name, when it could be read.
    """

    def __init__(
        self, message: str, *, path: str = "", pid: int | None = None, host: str | None = None
    ) -> None:
        super().__init__(message)
        self.path = path
        self.pid = pid
        self.host = host


class ReadOnlyError(WalkvError):
    """A write was asked of a store that was opened with ``read_only=True``."""


class LimitError(WalkvError, ValueError):
    """A bound of ``walkv.limits`` would be exceeded; nothing was written.

    Attributes:
        name: the bound's name in ``walkv.limits``.
        limit: its value.
        actual: what was asked for.
        namespace, field: of the record at fault, where it is about one.
    """

    def __init__(
        self,
        message: str,
        *,
        name: str = "",
        limit: int = 0,
        actual: int = 0,
        namespace: str = "",
        field: str = "",
    ) -> None:
        super().__init__(message)
        self.name = name
        self.limit = limit
        self.actual = actual
        self.namespace = namespace
        self.field = field


class DiskSpaceError(WalkvError, OSError):
    """The disk has less free space than the store leaves alone; nothing was written.

    Reads go on, and so do deletes and compaction, which make room. Its ``errno`` is ``ENOSPC``.

    Attributes:
        path: the store's directory.
        free_bytes: what is free on its disk.
        min_free_bytes: what the store was opened to leave free.
    """

    def __init__(
        self, message: str, *, path: str = "", free_bytes: int = 0, min_free_bytes: int = 0
    ) -> None:
        super().__init__(errno.ENOSPC, message, path)
        self.path = path
        self.free_bytes = free_bytes
        self.min_free_bytes = min_free_bytes

    def __str__(self) -> str:
        return f"{self.path}: {self.strerror}"

    def __reduce__(self) -> tuple[Any, ...]:
        make = partial(
            DiskSpaceError,
            path=self.path,
            free_bytes=self.free_bytes,
            min_free_bytes=self.min_free_bytes,
        )
        return make, (self.strerror,)


class HistoryLostError(WalkvError):
    """The log does not reach back as far as was asked for, or the store has not come so far.

    Attributes:
        since: the sequence asked for.
        oldest: the sequence that the log can be read from: pass it, or one after it, as ``since``.
    """

    def __init__(self, message: str, *, since: int = 0, oldest: int = 0) -> None:
        super().__init__(message)
        self.since = since
        self.oldest = oldest


class FormatError(WalkvError):
    """Not a walkv store, or one of a format this version does not read.

    Attributes:
        path: the file or directory.
        found_version: the format version found, or None when there is none.
        supported: the format versions this release reads.
    """

    def __init__(
        self,
        message: str,
        *,
        path: str = "",
        found_version: int | None = None,
        supported: tuple[int, ...] = (),
    ) -> None:
        super().__init__(message)
        self.path = path
        self.found_version = found_version
        self.supported = supported


class ImportSourceError(FormatError):
    """What was to be imported is not what it was said to be, or is damaged, cut, locked or empty.

    Attributes:
        path: the file.
        offset_bytes: where in the file, when known.
        reason: what is wrong, in a few words.
    """

    def __init__(self, reason: str, *, path: str = "", offset_bytes: int | None = None) -> None:
        super().__init__(reason, path=path)
        self.offset_bytes = offset_bytes
        self.reason = reason

    def __str__(self) -> str:
        where = "" if self.offset_bytes is None else f" at byte {self.offset_bytes}"
        return f"{self.path}{where}: {self.reason}" if self.path else self.reason


class CorruptionError(WalkvError):
    """Bytes that had been durable are damaged or missing. Nothing was changed on disk.

    Attributes:
        path: the damaged file.
        offset_bytes: where in the file, when known.
        reason: what is wrong, in a few words.
        expected: what should have been there (a checksum, a length, a name).
        found: what was there.
    """

    def __init__(
        self,
        reason: str,
        *,
        path: str = "",
        offset_bytes: int | None = None,
        expected: object = None,
        found: object = None,
    ) -> None:
        super().__init__(reason)
        self.path = path
        self.offset_bytes = offset_bytes
        self.reason = reason
        self.expected = expected
        self.found = found

    def __str__(self) -> str:
        where = self.path or "store"
        if self.offset_bytes is not None:
            where += f" at byte {self.offset_bytes}"
        detail = ""
        if self.expected is not None or self.found is not None:
            detail = f" (expected {self.expected}, found {self.found})"
        return (
            f"{where}: {self.reason}{detail}. Nothing was changed on disk: keep a copy of the "
            "directory, then restore it from a backup, or save what can be read with walkv repair."
        )


class BackupError(WalkvError):
    """A backup was not made, restored or deleted. The ones before are as they were.

    Attributes:
        target: where the backups are.
        sequences: what could have been restored, where the point asked for could not: first and
            last sequence of each stretch.
        times: likewise, as pairs of times in UTC.
    """

    def __init__(
        self,
        message: str,
        *,
        target: str = "",
        sequences: tuple[tuple[int, int], ...] = (),
        times: tuple[tuple[datetime, datetime], ...] = (),
    ) -> None:
        super().__init__(message)
        self.target = target
        self.sequences = sequences
        self.times = times


class TamperedError(CorruptionError):
    """Bytes of an encrypted store were changed, moved or forged: their checksum is right, and they
    are not what was sealed there with the store's key. Attributes as of ``CorruptionError``.
    """


class EncryptionError(WalkvError):
    """The key does not fit the store; nothing was read or changed.

    Attributes:
        path: the store's manifest; empty where the key is none, whatever the store.
        reason: ``"missing"``, the store is encrypted and no key was given; ``"wrong"``, it is not
            the store's key, or none at all; ``"not-encrypted"``, a key was given and the store is
            not encrypted; ``"lost"``, the wrapped data keys are gone with the manifest;
            ``"not-installed"``, what encrypts is not there.
    """

    def __init__(self, message: str, *, path: str = "", reason: str = "") -> None:
        super().__init__(message)
        self.path = path
        self.reason = reason


class WouldBlockError(WalkvError):
    """What was asked for would have to wait, and the caller must not; nothing was done.

    Walkv says it to itself, between an event loop's thread and the threads that may wait; it does
    not reach users.
    """


class CodecError(WalkvError, ValueError):
    """A record cannot be turned into bytes, or bytes into a record.

    Attributes:
        namespace: the namespace of the record.
        field: the field at fault.
    """

    def __init__(self, message: str, *, namespace: str = "", field: str = "") -> None:
        super().__init__(message)
        self.namespace = namespace
        self.field = field


class RecordExistsError(WalkvError):
    """A record with this key is already there."""


class RecordNotFoundError(WalkvError, KeyError):
    """There is no record with this key."""

    def __str__(self) -> str:
        return Exception.__str__(self)


class IndeterminateError(WalkvError):
    """A step had begun when its process ended, and nobody knows what it did.

    Attributes:
        key: the step's.
    """

    def __init__(self, message: str, *, key: str = "") -> None:
        super().__init__(message)
        self.key = key


class StepFailedError(WalkvError):
    """A step has failed before, and a step that is over is not run again.

    Attributes:
        key: the step's.
        error_type: name of the class of the exception it ended with.
        error_message: what that exception said.
    """

    def __init__(
        self, message: str, *, key: str = "", error_type: str = "", error_message: str = ""
    ) -> None:
        super().__init__(message)
        self.key = key
        self.error_type = error_type
        self.error_message = error_message


class ConflictError(WalkvError):
    """Something a compare-and-set or a transaction relied on has changed; nothing was written.

    Attributes:
        key: the key that changed, or the start of the range that did.
        expected_version: the version relied on; None means "absent".
        actual_version: the version found; None means "absent" or "a range changed".
    """

    def __init__(
        self,
        message: str,
        *,
        key: bytes = b"",
        expected_version: int | None = None,
        actual_version: int | None = None,
    ) -> None:
        super().__init__(message)
        self.key = key
        self.expected_version = expected_version
        self.actual_version = actual_version
