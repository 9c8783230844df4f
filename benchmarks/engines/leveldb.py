"""LevelDB through plyvel."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import ClassVar

from benchmarks.dataset import Item
from benchmarks.engines.base import (
    BLOOM_FILTER_BITS,
    CACHE_BYTES,
    WRITE_BUFFER_BYTES,
    Feature,
    Get,
    Guarantee,
    Writer,
)


class Plyvel:
    """One database.

    *Source*: LevelDB's ``doc/index.md``, "Performance": write buffer, cache and filter.
    """

    configuration: ClassVar[str] = (
        "write_buffer_size and lru_cache_size 64 MiB each, bloom_filter_bits=10; defaults "
        "otherwise (snappy, checksums not verified on reads); durable: sync=True; process: "
        "sync=False; one handle for all threads; compact is compact_range(), twice"
    )
    group_commits: ClassVar[bool] = True
    unsupported: ClassVar[Mapping[Feature, str]] = {}

    def __init__(self, path: Path, guarantee: Guarantee, *, value_bytes: int) -> None:
        import plyvel

        self._sync = guarantee == "durable"
        self._db = plyvel.DB(
            str(path),
            create_if_missing=True,
            write_buffer_size=WRITE_BUFFER_BYTES,
            lru_cache_size=CACHE_BYTES,
            bloom_filter_bits=BLOOM_FILTER_BITS,
        )
        self.put = partial(self._db.put, sync=True) if self._sync else self._db.put
        self.delete = partial(self._db.delete, sync=True) if self._sync else self._db.delete
        self.get = self._db.get
        self.close = self._db.close

    @staticmethod
    def version() -> str:
        import plyvel

        return f"{plyvel.__version__} (LevelDB {plyvel.__leveldb_version__})"

    def reading(self) -> AbstractContextManager[Get]:
        return nullcontext(self.get)

    def write_batch(self, items: Sequence[Item]) -> None:
        with self._db.write_batch(sync=self._sync) as batch:
            put = batch.put
            for key, value in items:
                put(key, value)

    def scan(self, *, reverse: bool = False) -> Iterator[Item]:
        entries: Iterator[Item] = self._db.iterator(reverse=reverse)
        return entries

    def read_from(self, start: bytes, count: int, /) -> list[Item]:
        with self._db.iterator(start=start) as entries:
            return list(itertools.islice(entries, count))

    def compact(self) -> None:
        # LevelDB decides how many levels to compact before it flushes its memtable, so that one
        # call can leave several levels behind; the second merges them.
        self._db.compact_range()
        self._db.compact_range()

    def for_thread(self) -> Writer:
        return self
