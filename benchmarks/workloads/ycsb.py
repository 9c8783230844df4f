"""The core workloads of the Yahoo! Cloud Serving Benchmark, A to F.

A record is one value of ``--ycsb-value-bytes``, and an update replaces all of it. Keys are hashes,
so that new records fall between old ones. All operations are made before the loop, the same for
every engine: the loop holds calls and nothing else.

*Source*: Cooper et al., "Benchmarking Cloud Serving Systems with YCSB" (SoCC 2010), and the files
``workloads/workload[a-f]`` of its distribution.
"""

import gc
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from random import Random

from benchmarks.dataset import Dataset
from benchmarks.distributions import Zipfian, fnv_64
from benchmarks.engines import Engine
from benchmarks.workloads.base import (
    Context,
    Figures,
    Metric,
    Options,
    Step,
    Workload,
    WrongAnswerError,
)
from benchmarks.workloads.timing import CHECKED_ANSWERS, Call, per_operation_us, time_calls

LONGEST_SCAN = 100
"""A scan reads from 1 to so many records, each length as often."""
VALUE_COUNT = 1_000
"""So many different values are written: a value for each operation would fill the memory."""


@dataclass(frozen=True)
class Mix:
    """The shares of the operations in percent, and which records they ask for."""

    letter: str
    description: str
    read: int = 0
    update: int = 0
    insert: int = 0
    scan: int = 0
    read_modify_write: int = 0
    latest: bool = False

    @property
    def name(self) -> str:
        return f"ycsb-{self.letter}"

    @property
    def shares(self) -> dict[str, int]:
        return {
            "read": self.read,
            "update": self.update,
            "insert": self.insert,
            "scan": self.scan,
            "read_modify_write": self.read_modify_write,
        }


MIXES = (
    Mix("a", "50% read, 50% update, zipfian", read=50, update=50),
    Mix("b", "95% read, 5% update, zipfian", read=95, update=5),
    Mix("c", "read only, zipfian", read=100),
    Mix("d", "95% read, 5% insert, latest", read=95, insert=5, latest=True),
    Mix("e", "95% scan of 1 to 100, 5% insert, zipfian", scan=95, insert=5),
    Mix("f", "50% read, 50% read-modify-write, zipfian", read=50, read_modify_write=50),
)


def record_key(index: int) -> bytes:
    """The key of record `index`, in the order of insertion: 16 bytes, scattered."""
    return b"%016x" % fnv_64(index)


class Operations:
    """The operations of one run on an engine, and what the records are once they are done."""

    def __init__(self, mix: Mix, options: Options) -> None:
        data = _dataset(options)
        self._values = [data.value(i) for i in range(min(VALUE_COUNT, data.entries))]
        self._random = Random(f"{options.seed}/{mix.name}")
        self._keys = [record_key(i) for i in range(data.entries)]
        self._zipfian = Zipfian(data.entries, self._random)
        self._loaded_count = data.entries
        self.records = {key: _loaded_value(data, i) for i, key in enumerate(self._keys)}
        choose = self._latest if mix.latest else self._scrambled
        kinds = self._random.choices(
            list(mix.shares), list(mix.shares.values()), k=options.ycsb_operations
        )
        self._steps = [self._operation(kind, choose) for kind in kinds]

    def calls(self, engine: Engine) -> list[Call]:
        """The operations as calls of an open engine."""
        get, put = engine.get, engine.put

        def read_modify_write(key: bytes, value: bytes) -> None:
            get(key)
            put(key, value)

        functions: dict[str, Callable[..., object]] = {
            "read": get,
            "update": put,
            "insert": put,
            "scan": engine.read_from,
            "read_modify_write": read_modify_write,
        }
        return [(functions[kind], arguments) for kind, arguments in self._steps]

    def _operation(self, kind: str, choose: Callable[[], bytes]) -> tuple[str, tuple[object, ...]]:
        if kind == "read":
            return kind, (choose(),)
        if kind == "scan":
            return kind, (choose(), self._random.randint(1, LONGEST_SCAN))
        if kind == "insert":
            key = record_key(len(self._keys))
            self._keys.append(key)
        else:
            key = choose()
        value = self.records[key] = self._random.choice(self._values)
        return kind, (key, value)

    def _scrambled(self) -> bytes:
        return self._keys[fnv_64(self._zipfian.next()) % self._loaded_count]

    def _latest(self) -> bytes:
        return self._keys[-1 - self._zipfian.next()]


def ycsb_loaded(context: Context) -> Figures:
    """Fixture: the load phase."""
    options = context.options
    data = _dataset(options)
    items = ((record_key(i), _loaded_value(data, i)) for i in range(data.entries))
    engine = context.open("process")
    while batch := list(islice(items, options.batch_entries)):
        engine.write_batch(batch)
    engine.close()
    return {}


def _step(mix: Mix) -> Step:
    def run(context: Context) -> Figures:
        operations = Operations(mix, context.options)
        engine = context.open("process")
        calls = operations.calls(engine)
        # Opening froze the operations, and these calls were made of them after that.
        gc.freeze()
        elapsed_ns = time_calls(calls)
        _check(engine, operations.records, scans=mix.scan > 0)
        engine.close()
        return {
            mix.name: per_operation_us(elapsed_ns, len(calls)),
            f"{mix.name}-rate": len(calls) / elapsed_ns * 1e9,
        }

    run.__name__ = mix.name.replace("-", "_")
    return run


def _check(engine: Engine, records: dict[bytes, bytes], *, scans: bool) -> None:
    order = sorted(records)
    for key in order[:: max(1, len(order) // CHECKED_ANSWERS)]:
        if engine.get(key) != records[key]:
            raise WrongAnswerError(f"get({key!r}) did not return its last value")
        if scans:
            start = bisect_left(order, key)
            expected = [(k, records[k]) for k in order[start : start + LONGEST_SCAN]]
            if engine.read_from(key, LONGEST_SCAN) != expected:
                raise WrongAnswerError(f"the records from {key!r} on are not the stored ones")


def _dataset(options: Options) -> Dataset:
    return Dataset(options.ycsb_records, options.value_bytes, options.seed)


def _loaded_value(data: Dataset, index: int) -> bytes:
    return data.value(index % VALUE_COUNT)


WORKLOADS = tuple(
    Workload(
        mix.name,
        (_step(mix),),
        (
            Metric(mix.name, "us", "process", f"{mix.description}; per operation"),
            Metric(
                f"{mix.name}-rate",
                "ops/s",
                "process",
                mix.description,
                "higher",
                counted=False,
            ),
        ),
        fixture=ycsb_loaded,
        overrides={"value_bytes": "ycsb_value_bytes"},
        needs=("seek",) if mix.scan else (),
    )
    for mix in MIXES
)
