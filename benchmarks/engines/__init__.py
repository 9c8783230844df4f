"""One small adapter per engine, all behind the `Engine` protocol.

`put`, `get` and `delete` are the engine's own bound methods wherever it has such a method, so
that the loops in `workloads` time the engine and not its adapter. Where an engine needs more than
one call (a transaction, a row tuple), that is its price to a Python user, and it is timed.

Each engine is set up the way its own documentation recommends for speed at a guarantee:

- ``durable``: a commit that returned survives power loss;
- ``process``: it survives the death of the process, but not of the machine.

Buffers and caches are those of walkv's defaults, where an engine lets them be chosen. Peers are
imported when first used: one that is not installed costs the others nothing.
"""

from benchmarks.engines.base import Engine, Feature, Get, Guarantee, Put, Writer
from benchmarks.engines.diskcache import DiskCache
from benchmarks.engines.leveldb import Plyvel
from benchmarks.engines.lmdb import Lmdb
from benchmarks.engines.rocksdb import Rocksdict
from benchmarks.engines.sqlite import Sqlite
from benchmarks.engines.tasks import AsyncPut, open_async_put
from benchmarks.engines.walkv import DURABLE_POLICIES, Walkv

SUBJECT = "walkv"
BASELINE = "sqlite3"
"""What a Python program has without any installation: every row names its ratio to it."""

ENGINES: dict[str, type[Engine]] = {
    SUBJECT: Walkv,
    BASELINE: Sqlite,
    "lmdb": Lmdb,
    "plyvel": Plyvel,
    "rocksdict": Rocksdict,
    "diskcache": DiskCache,
}

__all__ = [
    "BASELINE",
    "DURABLE_POLICIES",
    "ENGINES",
    "SUBJECT",
    "AsyncPut",
    "DiskCache",
    "Engine",
    "Feature",
    "Get",
    "Guarantee",
    "Lmdb",
    "Plyvel",
    "Put",
    "Rocksdict",
    "Sqlite",
    "Walkv",
    "Writer",
    "open_async_put",
]
