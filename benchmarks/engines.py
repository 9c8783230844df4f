"""One small adapter per engine, all behind the `Engine` protocol.

`put` and `get` are the engine's own bound methods wherever it has such a method, so that the
loops in `workloads` time the engine and not its adapter. Where an engine needs more than one call
(a transaction, a row tuple), that is its price to a Python user, and it is timed.

Each engine is set up the way its own documentation recommends for speed at a guarantee:

- ``durable``: a commit that returned survives power loss;
- ``process``: it survives the death of the process, but not of the machine.

Peers are imported when first used: one that is not installed costs the others nothing.
"""

import asyncio
import importlib.metadata
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, cast

from benchmarks.dataset import Item

Guarantee = Literal["durable", "process"]
Get = Callable[[bytes], bytes | None]
AsyncPut = Callable[[bytes, bytes], Awaitable[object]]

SUBJECT = "walkv"
# Address space, not disk: LMDB maps this much and grows the file only as it fills.
LMDB_MAP_BYTES = 16 << 30
# With 64 writers the last in line waits for all the others; a timeout would be an error.
SQLITE_BUSY_SECONDS = 120.0


class Engine(Protocol):
    """An open store of one engine. A store is a directory, made if missing."""

    configuration: ClassVar[str]

    def __init__(self, path: Path, guarantee: Guarantee) -> None: ...

    @staticmethod
    def version() -> str:
        """Imports the engine and names its version; raises `ImportError` if it is absent."""

    def put(self, key: bytes, value: bytes, /) -> object:
        """Commits one entry."""

    def get(self, key: bytes, /) -> bytes | None:
        """Returns the value of `key`, or None."""

    def reading(self) -> AbstractContextManager[Get]:
        """The engine's cheapest `get` for many keys in a row: inside one transaction, if any."""

    def write_batch(self, items: Sequence[Item]) -> None:
        """Commits `items` atomically."""

    def scan(self, *, reverse: bool = False) -> Iterator[Item]:
        """Iterates over all entries in key order."""

    def compact(self) -> None:
        """Rewrites the store into its smallest, best ordered form, where the engine can."""

    def for_thread(self) -> "Engine":
        """A handle for one more thread: itself, where one handle may be shared."""

    def close(self) -> None:
        """Closes the store cleanly."""


class Walkv:
    """walkv, the engine under test."""

    configuration: ClassVar[str] = "durable: Wal(); process: WriteBack(); one store for all threads"

    def __init__(self, path: Path, guarantee: Guarantee, **budgets_bytes: int) -> None:
        import walkv

        sync = walkv.Wal() if guarantee == "durable" else walkv.WriteBack()
        # Any: mypy would hold `budgets_bytes` against every parameter of open.
        open_store: Any = walkv.open
        store: walkv.Store = open_store(path, sync=sync, **budgets_bytes)
        self._store = store
        self.put = store.put
        self.get = store.get
        self.compact = store.compact
        self.close = store.close

    @staticmethod
    def version() -> str:
        import walkv

        return walkv.__version__

    def reading(self) -> AbstractContextManager[Get]:
        return nullcontext(self.get)

    def write_batch(self, items: Sequence[Item]) -> None:
        with self._store.batch() as batch:
            put = batch.put
            for key, value in items:
                put(key, value)

    def scan(self, *, reverse: bool = False) -> Iterator[Item]:
        return self._store.scan(reverse=reverse)

    def for_thread(self) -> Engine:
        return self


class Sqlite:
    """SQLite through the standard library's sqlite3."""

    configuration: ClassVar[str] = (
        "WAL; durable: synchronous=FULL; process: synchronous=NORMAL; table WITHOUT ROWID; "
        "autocommit for single puts; a connection per thread; compact is VACUUM"
    )

    def __init__(self, path: Path, guarantee: Guarantee) -> None:
        import sqlite3

        path.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._guarantee: Guarantee = guarantee
        # Each connection is used by one thread at a time; the check would only forbid closing
        # the connections of an executor's threads from the main thread.
        self._connection = sqlite3.connect(
            path / "kv.sqlite3",
            isolation_level=None,
            timeout=SQLITE_BUSY_SECONDS,
            check_same_thread=False,
        )
        execute = self._execute = self._connection.execute
        execute("PRAGMA journal_mode=WAL")
        execute(f"PRAGMA synchronous={'FULL' if guarantee == 'durable' else 'NORMAL'}")
        execute("CREATE TABLE IF NOT EXISTS kv(k BLOB PRIMARY KEY, v BLOB) WITHOUT ROWID")

    @staticmethod
    def version() -> str:
        import sqlite3

        return sqlite3.sqlite_version

    def put(self, key: bytes, value: bytes, /) -> None:
        self._execute("INSERT OR REPLACE INTO kv VALUES (?, ?)", (key, value))

    def get(self, key: bytes, /) -> bytes | None:
        row = self._execute("SELECT v FROM kv WHERE k = ?", (key,)).fetchone()
        return row[0] if row else None

    @contextmanager
    def reading(self) -> Iterator[Get]:
        self._execute("BEGIN")
        try:
            yield self.get
        finally:
            self._execute("COMMIT")

    def write_batch(self, items: Sequence[Item]) -> None:
        self._execute("BEGIN")
        self._connection.executemany("INSERT OR REPLACE INTO kv VALUES (?, ?)", items)
        self._execute("COMMIT")

    def scan(self, *, reverse: bool = False) -> Iterator[Item]:
        return self._execute(f"SELECT k, v FROM kv ORDER BY k {'DESC' if reverse else 'ASC'}")

    def compact(self) -> None:
        self._execute("VACUUM")
        self._execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def for_thread(self) -> Engine:
        return Sqlite(self._path, self._guarantee)

    def close(self) -> None:
        self._connection.close()


class Lmdb:
    """LMDB through py-lmdb."""

    configuration: ClassVar[str] = (
        "durable: defaults; process: sync=False; max_spare_txns=1; one transaction per put and "
        "get; putmulti for batches; one environment for all threads; "
        "compact is copy(compact=True)"
    )

    def __init__(self, path: Path, guarantee: Guarantee) -> None:
        self._path = path
        self._guarantee: Guarantee = guarantee
        self._open()

    def _open(self) -> None:
        import lmdb

        self._environment = lmdb.open(
            str(self._path),
            map_size=LMDB_MAP_BYTES,
            sync=self._guarantee == "durable",
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

    def compact(self) -> None:
        copy = self._path.with_suffix(".compact")
        copy.mkdir()
        self._environment.copy(str(copy), compact=True)
        self._environment.close()
        os.replace(copy / "data.mdb", self._path / "data.mdb")
        copy.rmdir()
        self._open()

    def for_thread(self) -> Engine:
        return self

    def close(self) -> None:
        self._environment.close()


class Plyvel:
    """LevelDB through plyvel."""

    configuration: ClassVar[str] = (
        "defaults (snappy, no filter, checksums not verified on reads); "
        "durable: sync=True; process: sync=False; one handle for all threads; "
        "compact is compact_range(), twice"
    )

    def __init__(self, path: Path, guarantee: Guarantee) -> None:
        import plyvel

        self._sync = guarantee == "durable"
        self._db = plyvel.DB(str(path), create_if_missing=True)
        self.put = partial(self._db.put, sync=True) if self._sync else self._db.put
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

    def compact(self) -> None:
        # LevelDB decides how many levels to compact before it flushes its memtable, so that one
        # call can leave several levels behind; the second merges them.
        self._db.compact_range()
        self._db.compact_range()

    def for_thread(self) -> Engine:
        return self


class Rocksdict:
    """RocksDB through rocksdict."""

    configuration: ClassVar[str] = (
        "raw_mode, defaults otherwise; durable: WriteOptions.sync; process: not; "
        "one handle for all threads; compact is flush() and compact_range()"
    )

    def __init__(self, path: Path, guarantee: Guarantee) -> None:
        import rocksdict

        self._batch = partial(rocksdict.WriteBatch, raw_mode=True)
        self._write_options = rocksdict.WriteOptions()
        self._write_options.sync = guarantee == "durable"
        self._db = rocksdict.Rdict(str(path), rocksdict.Options(raw_mode=True))
        self._db.set_write_options(self._write_options)
        self.put = self._db.put
        self.get = self._db.get
        self.close = self._db.close

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

    def compact(self) -> None:
        self._db.flush()
        self._db.compact_range(None, None)

    def for_thread(self) -> Engine:
        return self


ENGINES: dict[str, type[Engine]] = {
    SUBJECT: Walkv,
    "sqlite3": Sqlite,
    "lmdb": Lmdb,
    "plyvel": Plyvel,
    "rocksdict": Rocksdict,
}


@asynccontextmanager
async def open_async_put(name: str, path: Path) -> AsyncIterator[AsyncPut]:
    """Opens a durable store for asyncio tasks and yields its awaitable `put`.

    walkv has an asyncio face. The others have none that commits without a thread, so theirs is
    `asyncio.to_thread`, with one handle per executor thread where an engine asks for that.
    """
    if name == SUBJECT:
        import walkv

        async with await walkv.aopen(path, sync=walkv.Wal()) as store:
            yield store.put
        return

    engine = ENGINES[name](path, "durable")
    handles: list[Engine] = []
    local = threading.local()

    def put_from_thread(key: bytes, value: bytes) -> None:
        try:
            put = local.put
        except AttributeError:
            handles.append(engine.for_thread())
            put = local.put = handles[-1].put
        put(key, value)

    try:
        yield lambda key, value: asyncio.to_thread(put_from_thread, key, value)
    finally:
        for handle in handles:
            if handle is not engine:
                handle.close()
        engine.close()
