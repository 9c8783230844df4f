"""diskcache: a cache in pure Python above SQLite, used as a store that forgets nothing."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import ClassVar

from benchmarks.dataset import Item
from benchmarks.engines.base import (
    CACHE_BYTES,
    MIB,
    SQLITE_PAGE_BYTES,
    WAL_AUTOCHECKPOINT_PAGES,
    Feature,
    Get,
    Guarantee,
    SerializedWriter,
    Writer,
)

SYNCHRONOUS = {"durable": 2, "process": 1}
"""SQLite's FULL and NORMAL."""


class DiskCache:
    """One ``Cache``. ``FanoutCache``, which has several databases, has no order of keys.

    *Source*: diskcache's tutorial, "Settings" and "Transactions".
    """

    configuration: ClassVar[str] = (
        "Cache; eviction_policy none, cull_limit 0; WAL; durable: sqlite_synchronous 2; process: "
        "1; sqlite_cache_size 64 MiB, sqlite_mmap_size 64 MiB, "
        "sqlite_wal_autocheckpoint: durable: 1000 pages, the default; process: 64 MiB; values up "
        "to 1 MiB in the database; transact() for batches; scan is sorted(cache) and a get each, "
        "as iterkeys() begins again at the first key for every hundred; threads share one cache "
        "behind a lock; compact is check(fix=True), which vacuums"
    )
    group_commits: ClassVar[bool] = False
    unsupported: ClassVar[Mapping[Feature, str]] = {
        "seek": "iterkeys() begins at the first key or the last",
        "millions": "at about 50 us a write, millions of entries would take most of a run",
    }

    def __init__(self, path: Path, guarantee: Guarantee, *, value_bytes: int) -> None:
        import diskcache

        self._cache = diskcache.Cache(
            str(path),
            eviction_policy="none",
            cull_limit=0,
            disk_min_file_size=MIB,
            sqlite_cache_size=CACHE_BYTES // SQLITE_PAGE_BYTES,
            sqlite_wal_autocheckpoint=WAL_AUTOCHECKPOINT_PAGES[guarantee],
            sqlite_synchronous=SYNCHRONOUS[guarantee],
        )
        self.put = self._cache.set
        self.get = self._cache.get
        self.delete = self._cache.delete
        self.close = self._cache.close
        self._shared = SerializedWriter(self.put)

    @staticmethod
    def version() -> str:
        import diskcache

        return str(diskcache.__version__)

    def reading(self) -> AbstractContextManager[Get]:
        return nullcontext(self.get)

    def write_batch(self, items: Sequence[Item]) -> None:
        put = self._cache.set
        with self._cache.transact():
            for key, value in items:
                put(key, value)

    def scan(self, *, reverse: bool = False) -> Iterator[Item]:
        get = self._cache.get
        return ((key, get(key)) for key in sorted(self._cache, reverse=reverse))

    def read_from(self, start: bytes, count: int, /) -> list[Item]:
        raise NotImplementedError(self.unsupported["seek"])

    def compact(self) -> None:
        self._cache.check(fix=True)

    def for_thread(self) -> Writer:
        return self._shared
