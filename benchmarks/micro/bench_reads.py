"""Look-ups and scans: from the memtable, from cached blocks, from the files."""

from collections import deque
from itertools import cycle
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

import walkv
from benchmarks.dataset import Dataset
from benchmarks.micro import stores
from benchmarks.micro.conftest import Sizes
from benchmarks.micro.rounds import in_rounds

GETS = 1_000


def _gets(benchmark: BenchmarkFixture, store: walkv.Store, keys: list[bytes], rounds: int) -> None:
    """Look up the keys in turn; a round is GETS look-ups."""
    following = cycle(keys).__next__
    get = store.get
    in_rounds(benchmark, lambda: get(following()), rounds=rounds, calls=GETS)


@pytest.mark.benchmark(group="get")
def bench_get_memtable(
    benchmark: BenchmarkFixture, unsettled: walkv.Store, data: Dataset, sizes: Sizes
) -> None:
    keys = [data.key(index) for index in data.random_order("get")[:GETS]]
    assert None not in map(unsettled.get, keys)
    _gets(benchmark, unsettled, keys, 5 * sizes.rounds)


@pytest.mark.benchmark(group="get")
def bench_get_cached(
    benchmark: BenchmarkFixture, settled: walkv.Store, data: Dataset, sizes: Sizes
) -> None:
    keys = [data.key(index) for index in data.random_order("get")[:GETS]]
    assert None not in map(settled.get, keys)
    _gets(benchmark, settled, keys, 5 * sizes.rounds)


@pytest.mark.benchmark(group="get")
def bench_get_cold_block(
    benchmark: BenchmarkFixture, settled_path: Path, data: Dataset, sizes: Sizes
) -> None:
    """Every look-up reads a block from the file (from the system's page cache, not the medium)."""
    following = stores.cold_keys(data).__next__
    with walkv.open(settled_path, read_only=True, cache_bytes=stores.COLD_CACHE_BYTES) as store:
        get = store.get
        in_rounds(benchmark, lambda: get(following()), rounds=sizes.rounds, calls=GETS)


@pytest.mark.benchmark(group="get")
def bench_get_missing(
    benchmark: BenchmarkFixture, settled: walkv.Store, data: Dataset, sizes: Sizes
) -> None:
    keys = [data.missing_key(index) for index in data.random_order("missing")[:GETS]]
    assert set(map(settled.get, keys)) == {None}
    _gets(benchmark, settled, keys, 5 * sizes.rounds)


@pytest.mark.benchmark(group="scan of everything")
def bench_scan_memtable(
    benchmark: BenchmarkFixture, unsettled: walkv.Store, data: Dataset, sizes: Sizes
) -> None:
    _scans(benchmark, unsettled, data.entries, sizes)


@pytest.mark.benchmark(group="scan of everything")
def bench_scan_snapshot(
    benchmark: BenchmarkFixture, settled: walkv.Store, data: Dataset, sizes: Sizes
) -> None:
    _scans(benchmark, settled, data.entries, sizes)


@pytest.mark.benchmark(group="scan of everything")
def bench_scan_merged(
    benchmark: BenchmarkFixture, tmp_path: Path, data: Dataset, sizes: Sizes
) -> None:
    """Every other entry in a snapshot, and the others in the memtable."""
    stores.settled(tmp_path / "store", data, range(0, data.entries, 2))
    with walkv.open(tmp_path / "store", sync=walkv.WriteBack()) as store:
        stores.fill(store, data, range(1, data.entries, 2))
        _scans(benchmark, store, data.entries, sizes)


def _scans(benchmark: BenchmarkFixture, store: walkv.Store, entries: int, sizes: Sizes) -> None:
    """A round is one scan of all ``entries``."""
    assert store.count() == entries
    benchmark.extra_info["entries"] = entries
    in_rounds(benchmark, lambda: deque(store.scan(), maxlen=0), rounds=sizes.rounds)
