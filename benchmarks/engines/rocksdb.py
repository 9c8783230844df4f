"""RocksDB through rocksdict."""

import importlib.metadata
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import ClassVar, cast

from benchmarks.dataset import Item
from benchmarks.engines.base import (
    BLOOM_FILTER_BITS,
    CACHE_BYTES,
    MIB,
    WRITE_BUFFER_BYTES,
    Feature,
    Get,
    Guarantee,
    SerializedWriter,
    Writer,
)


class Rocksdict:
    """One database in raw mode: bytes in, bytes out.

    *Source*: RocksDB's wiki, "Setup Options and Basic Tuning". Of what it recommends, three are
    left at their defaults, as they save memory or space and cost time: blocks of 16 KiB; index and
    filter blocks in the cache, where even pinned ones take room from data, while outside of it they
    stay in memory for as long as their file is open; and zstd for the last level, which makes half
    random values no smaller than snappy does and slows scans of large ones by a fifth.
    """

    configuration: ClassVar[str] = (
        "raw_mode; write buffers of 64 MiB, at most two; block cache 64 MiB; full Bloom filter of "
        "10 bits, with the indexes in memory outside of the cache; increase_parallelism(cores); "
        "level_compaction_dynamic_level_bytes; bytes_per_sync 1 MiB; defaults otherwise; durable: "
        "WriteOptions.sync; process: not; threads share one handle behind a lock; compact is "
        "flush() and compact_range()"
    )
    # RocksDB does group commits, but rocksdict holds the interpreter lock while it writes: threads
    # that take turns by a lock of Python's are faster than threads that fight for that one.
    group_commits: ClassVar[bool] = False
    unsupported: ClassVar[Mapping[Feature, str]] = {}

    def __init__(self, path: Path, guarantee: Guarantee, *, value_bytes: int) -> None:
        import rocksdict

        tables = rocksdict.BlockBasedOptions()
        tables.set_block_cache(rocksdict.Cache(CACHE_BYTES))
        tables.set_bloom_filter(BLOOM_FILTER_BITS, block_based=False)
        options = rocksdict.Options(raw_mode=True)
        options.set_block_based_table_factory(tables)
        options.set_write_buffer_size(WRITE_BUFFER_BYTES)
        options.set_max_write_buffer_number(2)
        options.increase_parallelism(os.cpu_count() or 1)
        options.set_level_compaction_dynamic_level_bytes(True)
        options.set_bytes_per_sync(MIB)

        self._batch = partial(rocksdict.WriteBatch, raw_mode=True)
        self._write_options = rocksdict.WriteOptions()
        self._write_options.sync = guarantee == "durable"
        self._db = rocksdict.Rdict(str(path), options)
        self._db.set_write_options(self._write_options)
        self.put = self._db.put
        self.get = self._db.get
        self.delete = self._db.delete
        self.close = self._db.close
        self._shared = SerializedWriter(self.put)

    @staticmethod
    def version() -> str:
        import rocksdict

        return importlib.metadata.version(rocksdict.__name__)

    def reading(self) -> AbstractContextManager[Get]:
        return nullcontext(self.get)

    def write_batch(self, items: Sequence[Item]) -> None:
        batch = self._batch()
        put = batch.put
        for key, value in items:
            put(key, value)
        # A batch does not take the options that were set for single puts.
        self._db.write(batch, self._write_options)

    def scan(self, *, reverse: bool = False) -> Iterator[Item]:
        # Its stub does not know that in raw mode keys are bytes.
        return cast("Iterator[Item]", self._db.items(backwards=reverse))

    def read_from(self, start: bytes, count: int, /) -> list[Item]:
        entries = cast("Iterator[Item]", self._db.items(from_key=start))
        return list(itertools.islice(entries, count))

    def compact(self) -> None:
        self._db.flush()
        self._db.compact_range(None, None)

    def for_thread(self) -> Writer:
        return self._shared
