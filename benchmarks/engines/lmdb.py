"""LMDB through py-lmdb."""

import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from benchmarks.dataset import Item
from benchmarks.engines.base import Feature, Get, Guarantee, Writer

MAP_BYTES = 16 << 30
"""Address space, not disk: the file may be as long, but takes blocks only where it has pages."""


class Lmdb:
    """One environment with its unnamed database.

    *Source*: py-lmdb's documentation of ``Environment``. ``writemap`` without a sync leaves
    commits in the page cache, which outlives the process; with a sync for every commit it brings
    nothing. ``metasync=False`` may lose the last commit with the power, hence is not durable.
    """

    configuration: ClassVar[str] = (
        "durable: defaults; process: writemap=True, sync=False; max_spare_txns=1; one transaction "
        "per put, get and delete; putmulti for batches; one environment for all threads; no cache "
        "of its own, the page cache serves it; compact is copy(compact=True)"
    )
    group_commits: ClassVar[bool] = False
    unsupported: ClassVar[Mapping[Feature, str]] = {}

    def __init__(self, path: Path, guarantee: Guarantee, *, value_bytes: int) -> None:
        self._path = path
        self._guarantee: Guarantee = guarantee
        self._open()

    def _open(self) -> None:
        import lmdb

        durable = self._guarantee == "durable"
        self._environment = lmdb.open(
            str(self._path),
            map_size=MAP_BYTES,
            sync=durable,
            writemap=not durable,
            max_spare_txns=1,
        )
        self._begin = self._environment.begin

    @staticmethod
    def version() -> str:
        import lmdb

        return f"{lmdb.__version__} (LMDB {'.'.join(map(str, lmdb.version()))})"

    def put(self, key: bytes, value: bytes, /) -> None:
        with self._begin(write=True) as transaction:
            transaction.put(key, value)

    def get(self, key: bytes, /) -> bytes | None:
        with self._begin() as transaction:
            value: bytes | None = transaction.get(key)
            return value

    def delete(self, key: bytes, /) -> None:
        with self._begin(write=True) as transaction:
            transaction.delete(key)

    @contextmanager
    def reading(self) -> Iterator[Get]:
        with self._begin() as transaction:
            yield transaction.get

    def write_batch(self, items: Sequence[Item]) -> None:
        with self._begin(write=True) as transaction:
            transaction.cursor().putmulti(items)

    def scan(self, *, reverse: bool = False) -> Iterator[Item]:
        # The iterator keeps its cursor, and the cursor its transaction, alive.
        cursor = self._begin().cursor()
        entries: Iterator[Item] = cursor.iterprev() if reverse else cursor.iternext()
        return entries

    def read_from(self, start: bytes, count: int, /) -> list[Item]:
        with self._begin() as transaction:
            cursor = transaction.cursor()
            return list(itertools.islice(cursor, count)) if cursor.set_range(start) else []

    def compact(self) -> None:
        copy = self._path.with_suffix(".compact")
        copy.mkdir()
        self._environment.copy(str(copy), compact=True)
        self._environment.close()
        os.replace(copy / "data.mdb", self._path / "data.mdb")
        copy.rmdir()
        self._open()

    def for_thread(self) -> Writer:
        return self

    def close(self) -> None:
        self._environment.close()
