"""Writes, by the names they have in LevelDB's db_bench."""

from time import perf_counter_ns

from benchmarks.dataset import Dataset
from benchmarks.engines.base import MIB
from benchmarks.machine import allocated_bytes
from benchmarks.workloads.base import (
    Context,
    Figures,
    Metric,
    Workload,
    WrongAnswerError,
)
from benchmarks.workloads.reads import settled_store
from benchmarks.workloads.sizes import at_both_sizes
from benchmarks.workloads.timing import (
    check_answers,
    checked_indexes,
    per_operation_us,
    time_batches,
    time_deletes,
    time_gets,
    time_puts,
)


def fillseq(context: Context) -> Figures:
    """Puts every entry by itself, in key order."""
    data = context.dataset()
    items = [(data.key(i), data.value(i)) for i in range(data.entries)]
    engine = context.open("process")
    elapsed_ns = time_puts(engine.put, items)
    check_answers(engine.get, data)
    engine.close()
    return {"fillseq": per_operation_us(elapsed_ns, data.entries)}


def fillrandom(context: Context) -> Figures:
    """Puts every entry by itself, reads them back, closes, and measures what is on disk."""
    data = context.dataset()
    order = data.random_order("fill")
    items = [(data.key(i), data.value(i)) for i in order]
    read_keys = [data.key(i) for i in data.random_order("read")]

    engine = context.open("process")
    fill_ns = time_puts(engine.put, items)
    read_ns = time_gets(engine.get, read_keys)
    check_answers(engine.get, data)
    start_ns = perf_counter_ns()
    engine.close()
    close_ns = perf_counter_ns() - start_ns
    closed_bytes = allocated_bytes(context.store_path)

    engine = context.open("process")
    engine.compact()
    engine.close()
    return {
        "fillrandom": per_operation_us(fill_ns, data.entries),
        "read-after-fill": per_operation_us(read_ns, data.entries),
        "close-after-fill": close_ns / 1e6,
        "disk-closed": closed_bytes / MIB,
        "disk-compacted": allocated_bytes(context.store_path) / MIB,
    }


def fillsync(context: Context) -> Figures:
    """Puts entries by themselves, each on the medium before the next."""
    data = context.dataset()
    order = data.random_order("fill")[: context.options.durable_operations]
    items = [(data.key(i), data.value(i)) for i in order]
    engine = context.open("durable")
    elapsed_ns = time_puts(engine.put, items)
    for key, value in items:
        if engine.get(key) != value:
            raise WrongAnswerError(f"get({key!r}) did not return its value")
    engine.close()
    return {"fillsync": per_operation_us(elapsed_ns, len(items))}


def fillbatch(context: Context) -> Figures:
    """Writes every entry in atomic batches."""
    data = context.dataset()
    batches = list(data.batches(data.random_order("fill"), context.options.batch_entries))
    engine = context.open("process")
    elapsed_ns = time_batches(engine.write_batch, batches)
    check_answers(engine.get, data)
    engine.close()
    return {"fillbatch": per_operation_us(elapsed_ns, data.entries)}


def overwrite(context: Context) -> Figures:
    """Puts every entry of a settled store again, with another value."""
    data = context.dataset()

    def new_value(index: int) -> bytes:
        return data.value(index + 1)

    items = [(data.key(i), new_value(i)) for i in data.random_order("overwrite")]
    engine = context.open("process")
    elapsed_ns = time_puts(engine.put, items)
    check_answers(engine.get, data, new_value)
    engine.close()
    return {"overwrite": per_operation_us(elapsed_ns, data.entries)}


def deleterandom(context: Context) -> Figures:
    """Deletes every entry of a settled store but the last, one by one."""
    data = context.dataset()
    last = data.entries - 1
    keys = [data.key(i) for i in data.random_order("delete") if i != last]
    engine = context.open("process")
    elapsed_ns = time_deletes(engine.delete, keys)
    _check_deleted(list(engine.scan()), data, last)
    for index in checked_indexes(data):
        if index != last and engine.get(data.key(index)) is not None:
            raise WrongAnswerError(f"get({data.key(index)!r}) returned a deleted value")
    engine.close()
    return {"deleterandom": per_operation_us(elapsed_ns, len(keys))}


def _check_deleted(left: list[tuple[bytes, bytes]], data: Dataset, last: int) -> None:
    if left != [(data.key(last), data.value(last))]:
        raise WrongAnswerError(f"{len(left)} entries are left instead of the last one")


WORKLOADS = at_both_sizes(
    (
        Workload(
            "fillseq",
            (fillseq,),
            (Metric("fillseq", "us", "process", "put one by one, in key order"),),
        ),
        Workload(
            "fillrandom",
            (fillrandom,),
            (
                Metric("fillrandom", "us", "process", "put one by one, random order"),
                Metric("read-after-fill", "us", "process", "get after that fill, not reopened"),
                Metric("close-after-fill", "ms", "process", "close after that fill"),
                Metric("disk-closed", "MiB", "process", "on disk after that fill, closed"),
                Metric("disk-compacted", "MiB", "process", "the same, compacted"),
            ),
        ),
        Workload(
            "fillsync",
            (fillsync,),
            (Metric("fillsync", "us", "durable", "put one by one, random order"),),
        ),
        Workload(
            "fillbatch",
            (fillbatch,),
            (Metric("fillbatch", "us", "process", "put in atomic batches, per entry"),),
        ),
        Workload(
            "overwrite",
            (overwrite,),
            (Metric("overwrite", "us", "process", "put over a settled store, random order"),),
            fixture=settled_store,
        ),
        Workload(
            "deleterandom",
            (deleterandom,),
            (Metric("deleterandom", "us", "process", "delete from a settled store, random order"),),
            fixture=settled_store,
        ),
    )
)
