"""Sizes, and the stores that several benchmarks read."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import walkv
from benchmarks.dataset import Dataset
from benchmarks.micro import stores


@dataclass(frozen=True)
class Sizes:
    """How much is done.

    Attributes:
        entries: of the stores that are read.
        upkeep_entries: of the stores that are replayed, flushed and merged.
        rounds: of what cannot be repeated without being set up again.
    """

    entries: int
    upkeep_entries: int
    rounds: int


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="Tiny stores.")


@pytest.fixture(scope="session")
def sizes(pytestconfig: pytest.Config) -> Sizes:
    quick = pytestconfig.getoption("--quick")
    return Sizes(2_000, 3_000, 1) if quick else Sizes(50_000, 20_000, 10)


@pytest.fixture(scope="session")
def data(sizes: Sizes) -> Dataset:
    return stores.dataset(sizes.entries)


@pytest.fixture(scope="session")
def settled_path(tmp_path_factory: pytest.TempPathFactory, data: Dataset) -> Path:
    """A closed store whose entries are all in one snapshot; only for reading."""
    path = tmp_path_factory.mktemp("settled") / "store"
    stores.settled(path, data)
    return path


@pytest.fixture
def settled(settled_path: Path) -> Iterator[walkv.Store]:
    with walkv.open(settled_path, read_only=True) as store:
        yield store


@pytest.fixture
def unsettled(tmp_path: Path, data: Dataset) -> Iterator[walkv.Store]:
    """A store whose entries are all in the memtable."""
    with walkv.open(tmp_path / "store", sync=walkv.WriteBack()) as store:
        stores.fill(store, data, range(data.entries))
        yield store
