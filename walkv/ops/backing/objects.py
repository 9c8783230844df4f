"""Backups in an object store: S3 and what speaks its language, Google Cloud Storage, Azure.

The library is ``obstore`` (the extra ``walkv[objects]``): one wheel without dependencies for all of
them, with streams, retries, and multipart uploads that end whole or not at all. Credentials and
endpoints come from where it looks for them: ``AWS_ACCESS_KEY_ID``, ``AWS_ENDPOINT_URL`` and so on.

Source: ``fsspec`` with ``s3fs`` was rejected: it needs an event loop in a thread of its own, some
twenty packages, and another package for each other kind of store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, Final, TypeVar

from walkv import limits
from walkv.errors import BackupError
from walkv.ops.backing.pacing import CHUNK_BYTES, Pace
from walkv.ops.backing.targets import BACKUPS, DAMAGED, OBJECTS, REMOVED, Entry, not_backups

T = TypeVar("T")

_RETRY_COUNT: Final = 6
_RETRY_FOR: Final = timedelta(seconds=60)
_PART_BYTES: Final = 8 * limits.MIB
_PART_COUNT: Final = 5_000
"""An upload may have 10,000 parts; longer objects get larger ones."""

_REMOVED_AT_ONCE: Final = 500


class ObjectTarget:
    """Backups under a URL."""

    exclusive = False

    def __init__(self, url: str) -> None:
        self.path = url
        try:
            from obstore.exceptions import BaseError
            from obstore.store import from_url
        except ModuleNotFoundError:
            raise BackupError(
                f'{url}: object stores need obstore; install it with: pip install "walkv[objects]"',
                target=url,
            ) from None
        self._errors: tuple[type[Exception], ...] = (BaseError, ValueError)
        retries: Any = {"max_retries": _RETRY_COUNT, "retry_timeout": _RETRY_FOR}
        self._store: Any = self._try(lambda: from_url(url, retry_config=retries))

    def _try(self, action: Callable[[], T]) -> T:
        try:
            return action()
        except FileNotFoundError:
            raise
        except self._errors as error:
            raise self._failed(error) from error

    def _failed(self, error: Exception) -> BackupError:
        reason = str(error).partition("\n\n")[0].replace("\n", " ")
        return BackupError(f"{self.path}: {reason}", target=self.path)

    def prepare(self) -> None:
        found: Any = self._try(self._store.list_with_delimiter)
        folders = {path.rpartition("/")[2] for path in found["common_prefixes"]}
        foreign = folders | {each["path"] for each in found["objects"]}
        if BACKUPS not in foreign and not foreign <= {OBJECTS, REMOVED, DAMAGED}:
            raise not_backups(self.path, min(foreign))

    def entries(self, folder: str) -> dict[str, Entry]:
        pages: Any = self._try(lambda: list(self._store.list(prefix=folder)))
        return {
            each["path"].rpartition("/")[2]: Entry(each["size"], each["last_modified"].timestamp())
            for page in pages
            for each in page
        }

    def put(self, folder: str, name: str, chunks: Iterable[bytes], size_bytes: int) -> None:
        part_bytes = max(_PART_BYTES, size_bytes // _PART_COUNT)
        given = _Given(chunks)
        try:
            self._store.put(f"{folder}/{name}", given, chunk_size=part_bytes, max_concurrency=2)
        except BaseException as error:
            # The library may wrap what the iterator raises; the original is the caller's to see.
            if given.error is not None:
                raise given.error from None
            if isinstance(error, self._errors):
                raise self._failed(error) from error
            raise

    def read(self, folder: str, name: str) -> Iterator[bytes]:
        found: Any = self._try(lambda: self._store.get(f"{folder}/{name}"))
        stream = iter(found.stream(min_chunk_size=CHUNK_BYTES))
        while True:
            data = self._try(lambda: next(stream, None))
            if data is None:
                return
            yield bytes(data)

    def set_aside(self, name: str) -> None:
        # There is no renaming: this copies, and then deletes.
        self._try(lambda: self._store.rename(f"{OBJECTS}/{name}", f"{DAMAGED}/{name}"))

    def remove(self, folder: str, names: Iterable[str]) -> None:
        paths = [f"{folder}/{name}" for name in names]
        for start in range(0, len(paths), _REMOVED_AT_ONCE):
            some = paths[start : start + _REMOVED_AT_ONCE]
            with suppress(FileNotFoundError):
                self._try(lambda some=some: self._store.delete(some))  # type: ignore[misc]

    @contextmanager
    def lock(self, pace: Pace) -> Iterator[None]:
        pace.proceed()
        yield


class _Given:
    """An iterator that remembers what ended it."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self.error: BaseException | None = None

    def __iter__(self) -> _Given:
        return self

    def __next__(self) -> bytes:
        try:
            return next(self._chunks)
        except StopIteration:
            raise
        except BaseException as error:
            self.error = error
            raise
