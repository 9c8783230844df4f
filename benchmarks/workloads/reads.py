"""Reads of a settled store, by the names they have in LevelDB's db_bench.

Cold means: the store was just opened, and the page cache had nothing of its files, where the
system can be told so. The other rows follow a pass that warms all caches.
"""

import random

from benchmarks.workloads.base import (
    READS,
    Context,
    Figures,
    Metric,
    Workload,
    WrongAnswerError,
)
from benchmarks.workloads.sizes import at_both_sizes
from benchmarks.workloads.timing import (
    check_answers,
    check_scan,
    checked_indexes,
    per_operation_us,
    time_gets,
    time_scan,
    time_seeks,
)

COLD_FRACTION = 1_000
"""A read is cold once. One read in so many entries is timed, so few that nearly each opens a block
of its own, in every engine: a block has about a hundred of the small entries."""
FEWEST_COLD_READS = 100
SEEK_ENTRIES = 10


def settled_store(context: Context) -> Figures:
    """Fixture: a store with every entry, compacted and closed."""
    data = context.dataset()
    engine = context.open("process")
    for batch in data.batches(data.random_order("fill"), context.options.batch_entries):
        engine.write_batch(batch)
    engine.compact()
    engine.close()
    return {}


def readrandom(context: Context) -> Figures:
    """Gets keys in random order: first cold, then cached, then inside one transaction."""
    data = context.dataset()
    cold, warm, cached, inside = (
        [data.key(i) for i in data.random_order(purpose)]
        for purpose in ("cold", "warm", "cached", "inside")
    )
    del cold[max(FEWEST_COLD_READS, data.entries // COLD_FRACTION) :]
    engine = context.open_cold("process")
    cold_ns = time_gets(engine.get, cold)
    time_gets(engine.get, warm)
    cached_ns = time_gets(engine.get, cached)
    with engine.reading() as get:
        inside_ns = time_gets(get, inside)
    check_answers(engine.get, data)
    engine.close()
    return {
        "readrandom-cold": per_operation_us(cold_ns, len(cold)),
        "readrandom": per_operation_us(cached_ns, data.entries),
        "read-in-transaction": per_operation_us(inside_ns, data.entries),
    }


def readmissing(context: Context) -> Figures:
    """Gets keys that are not there, after a pass over others of the kind."""
    data = context.dataset()
    warm, timed = (
        [data.missing_key(i) for i in data.random_order(purpose)] for purpose in ("warm", "timed")
    )
    engine = context.open("process")
    time_gets(engine.get, warm)
    elapsed_ns = time_gets(engine.get, timed)
    check_answers(engine.get, data)
    engine.close()
    return {"readmissing": per_operation_us(elapsed_ns, data.entries)}


def seekrandom(context: Context) -> Figures:
    """Reads a few entries in order from random keys on, after a pass over others of the kind."""
    data = context.dataset()
    generator = random.Random(f"{data.seed}/seek")
    warm, timed = (
        [data.key(generator.randrange(data.entries)) for _ in range(context.options.seeks)]
        for _ in range(2)
    )
    engine = context.open("process")
    time_seeks(engine.read_from, warm, SEEK_ENTRIES)
    elapsed_ns = time_seeks(engine.read_from, timed, SEEK_ENTRIES)
    for start in checked_indexes(data):
        expected = [
            (data.key(i), data.value(i))
            for i in range(start, min(start + SEEK_ENTRIES, data.entries))
        ]
        if engine.read_from(data.key(start), SEEK_ENTRIES) != expected:
            raise WrongAnswerError(f"entries from {data.key(start)!r} on are not the stored ones")
    engine.close()
    return {"seekrandom": per_operation_us(elapsed_ns, len(timed))}


def readseq(context: Context) -> Figures:
    """Scans the whole store in key order, twice."""
    cold_us, warm_us = _scan_twice(context, reverse=False)
    return {"readseq-cold": cold_us, "readseq": warm_us}


def readreverse(context: Context) -> Figures:
    """Scans the whole store against key order, twice."""
    cold_us, warm_us = _scan_twice(context, reverse=True)
    return {"readreverse-cold": cold_us, "readreverse": warm_us}


def _scan_twice(context: Context, *, reverse: bool) -> tuple[float, float]:
    data = context.dataset()
    engine = context.open_cold("process")
    cold_ns = time_scan(engine.scan(reverse=reverse))
    warm_ns = time_scan(engine.scan(reverse=reverse))
    check_scan(engine.scan(reverse=reverse), data, reverse=reverse)
    engine.close()
    return per_operation_us(cold_ns, data.entries), per_operation_us(warm_ns, data.entries)


WORKLOADS = at_both_sizes(
    (
        Workload(
            "readrandom",
            (readrandom,),
            (
                Metric("readrandom-cold", "us", READS, "get, reopened, nothing cached"),
                Metric("readrandom", "us", READS, "get, reopened, after a warm pass"),
                Metric("read-in-transaction", "us", READS, "the same inside one, if there are any"),
            ),
            fixture=settled_store,
        ),
        Workload(
            "readmissing",
            (readmissing,),
            (Metric("readmissing", "us", READS, "get of absent keys, after a warm pass"),),
            fixture=settled_store,
        ),
        Workload(
            "readseq",
            (readseq,),
            (
                Metric("readseq-cold", "us", READS, "full scan, nothing cached, per entry"),
                Metric("readseq", "us", READS, "full scan again, per entry"),
            ),
            fixture=settled_store,
        ),
        Workload(
            "readreverse",
            (readreverse,),
            (
                Metric("readreverse-cold", "us", READS, "full scan backwards, nothing cached"),
                Metric("readreverse", "us", READS, "full scan backwards again"),
            ),
            fixture=settled_store,
        ),
        Workload(
            "seekrandom",
            (seekrandom,),
            (
                Metric(
                    "seekrandom",
                    "us",
                    READS,
                    f"{SEEK_ENTRIES} entries from a random key on, after a warm pass, per seek",
                ),
            ),
            fixture=settled_store,
            needs=("seek",),
        ),
    )
)
