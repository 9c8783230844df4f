"""What a store does for itself: replay, opening, flush and merge. A round is one of them."""

import shutil
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

import walkv
from benchmarks.micro import stores
from benchmarks.micro.conftest import Sizes
from benchmarks.micro.rounds import in_rounds
from walkv import limits
from walkv.engine import recovery
from walkv.engine.snapshot import BlockCache
from walkv.engine.vfs import OsFileSystem


@pytest.mark.benchmark(group="upkeep")
def bench_replay(benchmark: BenchmarkFixture, tmp_path: Path, sizes: Sizes) -> None:
    """Reads the log of a store that was not closed, one put a commit, and changes nothing."""
    data, path = stores.dataset(sizes.upkeep_entries), tmp_path / "store"
    benchmark.extra_info["commits"] = data.entries
    with walkv.open(path, sync=walkv.WriteBack()) as store:
        for index in range(data.entries):
            store.put(data.key(index), data.value(index))
        # Its log is in the system's hands: whoever looks at it now sees what a crash would leave.
        found = in_rounds(
            benchmark,
            lambda: recovery.look(
                OsFileSystem(), str(path), BlockCache(limits.DEFAULT_CACHE_BYTES)
            ),
            rounds=sizes.rounds,
        )
    assert found.operation_count == data.entries


@pytest.mark.benchmark(group="upkeep")
def bench_open_and_close(
    benchmark: BenchmarkFixture, tmp_path: Path, settled_path: Path, sizes: Sizes
) -> None:
    """Opens a store that was closed cleanly, for writing."""
    path = tmp_path / "store"
    shutil.copytree(settled_path, path)
    in_rounds(benchmark, lambda: walkv.open(path).close(), rounds=2 * sizes.rounds)


@pytest.mark.benchmark(group="upkeep")
def bench_flush(benchmark: BenchmarkFixture, tmp_path: Path, sizes: Sizes) -> None:
    """Makes the first snapshot, of a memtable."""
    data = stores.dataset(sizes.upkeep_entries)

    def unsettled(path: Path) -> walkv.Store:
        store = walkv.open(path, sync=walkv.WriteBack())
        stores.fill(store, data, range(data.entries))
        return store

    _compactions(benchmark, tmp_path, sizes, unsettled)


@pytest.mark.benchmark(group="upkeep")
def bench_merge(benchmark: BenchmarkFixture, tmp_path: Path, sizes: Sizes) -> None:
    """Makes one snapshot of two that hold every other entry each."""
    data = stores.dataset(sizes.upkeep_entries)
    source = tmp_path / "source"
    stores.settled(source, data, range(0, data.entries, 2))
    with walkv.open(source, sync=walkv.WriteBack()) as store:
        stores.fill(store, data, range(1, data.entries, 2))
    # So much was not settled that closing has made a snapshot of it.
    assert len(list((source / "snapshots").iterdir())) == 2

    def twofold(path: Path) -> walkv.Store:
        shutil.copytree(source, path)
        return walkv.open(path, sync=walkv.WriteBack())

    _compactions(benchmark, tmp_path, sizes, twofold)


def _compactions(
    benchmark: BenchmarkFixture,
    directory: Path,
    sizes: Sizes,
    make: Callable[[Path], walkv.Store],
) -> None:
    """Time ``compact()`` on a new store of ``make`` in each round."""
    numbers = count()
    stores_made: list[walkv.Store] = []

    def setup() -> tuple[tuple[walkv.Store], dict[str, object]]:
        _close(stores_made)
        stores_made.append(make(directory / f"round-{next(numbers)}"))
        return (stores_made[-1],), {}

    benchmark.extra_info["entries"] = sizes.upkeep_entries
    try:
        in_rounds(benchmark, walkv.Store.compact, setup=setup, rounds=sizes.rounds)
        assert stores_made[-1].count() == sizes.upkeep_entries
    finally:
        _close(stores_made)


def _close(stores_made: list[walkv.Store]) -> None:
    for store in stores_made:
        store.close()
        shutil.rmtree(store.path)
    stores_made.clear()
