"""The power fails at every operation: a small share of the laboratory, and cases worth a name."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from unittest.mock import patch

import pytest

import walkv
from tests.laboratory import crashes
from tests.laboratory.job import Figures, Job, Scale
from tests.laboratory.mutants.bugs import MUTANTS
from tests.laboratory.mutants.planting import planted
from tests.laboratory.steps import open_store, small_store
from walkv import Wal, WriteBack, WriteThrough, limits
from walkv.engine import wal
from walkv.engine.keyring import as_text
from walkv.testing import SimulatedFileSystem


@pytest.fixture
def small() -> Iterator[None]:
    with small_store():
        yield


def counts(fs: SimulatedFileSystem, seed: int = 0) -> list[int]:
    """How many entries there are after each power failure that may happen now."""
    found = []
    for disk in fs.crash_states(Random(seed)):
        after = SimulatedFileSystem.after_power_failure(disk)
        with open_store(after, create=False) as store:
            found.append(store.count())
            assert list(store.scan(keys_only=True)) == [b"%02d" % n for n in range(found[-1])]
    return found


@pytest.mark.parametrize("job", crashes.LAYER.jobs(Scale.QUICK, 7), ids=lambda job: job.text)
def test_the_laboratory(job: Job) -> None:
    figures = crashes.LAYER.run(job)
    assert figures.failures == []
    assert figures.counts["crash points"] > 30
    assert len(figures.states) > 20
    assert figures.counts["acknowledged checked"] > 0


@pytest.fixture
def encrypted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every store is made with a key, and opened with it."""
    monkeypatch.setenv("WALKV_KEY", as_text(bytes(range(32))))


RANDOM = [job for job in crashes.LAYER.jobs(Scale.QUICK, 11) if job.text.startswith("random")]


@pytest.mark.parametrize("job", RANDOM, ids=lambda job: job.text)
@pytest.mark.usefixtures("encrypted")
def test_the_laboratory_on_encrypted_stores(job: Job) -> None:
    figures = crashes.LAYER.run(job)
    assert figures.failures == []
    assert len(figures.states) > 20
    assert figures.counts["acknowledged checked"] > 0


@pytest.mark.usefixtures("encrypted")
def test_an_encrypted_store_is_killed_at_every_operation_then_a_power_failure() -> None:
    test_killed_at_every_operation_then_a_power_failure("Wal")


@pytest.mark.parametrize("policy", ["Wal", "WriteBack"])
def test_killed_at_every_operation_then_a_power_failure(policy: str) -> None:
    steps = "put a 200; batch b -a c; flush; delete b; rotate; put a; compact; put d"
    figures = crashes.LAYER.run(Job("crashes", f"killed {policy}: {steps}", 3))
    assert figures.failures == []
    assert figures.counts["kills simulated"] > 50


def test_with_the_real_amount_written_ahead() -> None:
    figures = Figures()
    memory = crashes.Memory(Random(3), figures, 0.02)
    steps = ["put a", "batch b c", "delete a", "sync", "close", "put d", "transact e"]
    with small_store(), patch.object(wal, "_AHEAD", bytes(256 * limits.KIB)):
        crashes.Trial(Wal(), steps, memory, Random(3), figures).run()
    assert len(figures.states) > 50


def test_the_directories_above_a_new_store_are_durable() -> None:
    fs = SimulatedFileSystem()
    with walkv.open("/one/two/three/s.walkv", filesystem=fs) as store:
        store.put(b"k", b"v")
        disks = list(fs.crash_states(Random(0)))
    assert disks
    for disk in disks:
        after = SimulatedFileSystem.after_power_failure(disk)
        with walkv.open("/one/two/three/s.walkv", create=False, filesystem=after) as store:
            assert store[b"k"] == b"v"


@pytest.mark.usefixtures("small")
def test_write_back_loses_at_most_its_interval() -> None:
    fs = SimulatedFileSystem()
    store = open_store(fs, WriteBack(interval_seconds=1.0))
    times: list[float] = []
    for number in range(30):
        store.put(b"%02d" % number, b"x" * 20)
        times.append(fs.clock.monotonic_seconds)
        fs.clock.advance(0.15)
        now = fs.clock.monotonic_seconds
        due = sum(1 for time in times if time <= now - 1.0 - 0.15)
        assert min(counts(fs, number)) >= due


@pytest.mark.usefixtures("small")
def test_write_back_loses_at_most_its_bytes() -> None:
    fs = SimulatedFileSystem()
    store = open_store(fs, WriteBack(interval_seconds=1e9, max_unsynced_bytes=1_000))
    for number in range(40):
        store.put(b"%02d" % number, b"x" * 100)
        # A frame of such a put has more than 144 bytes.
        assert number + 1 - min(counts(fs, number)) <= 1_000 // 144


@pytest.mark.usefixtures("small")
def test_a_write_through_commit_makes_earlier_ones_durable() -> None:
    fs = SimulatedFileSystem()
    store = open_store(fs, WriteBack(interval_seconds=1e9))
    store.put(b"00", b"1")
    store.put(b"01", b"2")
    assert min(counts(fs)) == 0
    store.put(b"02", b"3", sync=WriteThrough())
    assert set(counts(fs)) == {3}


def test_a_failure_is_found_and_cut_down_to_what_fails() -> None:
    """The laboratory itself: with a bug in the engine it names the shortest workload."""
    steps = "put b 30; sync; put c; delete b; wait 1; put a; rotate; put a; batch b c; sync"
    bug = next(mutant for mutant in MUTANTS if mutant.name == "seal without sync")
    with planted(bug):
        figures = crashes.LAYER.run(Job("crashes", f"WriteBack: {steps}", 1))
        assert len(figures.failures) == 1
        shortest = figures.failures[0].job
        assert len(shortest.text.partition(":")[2].split(";")) <= 3
        assert shortest.command().startswith("python -m tests.laboratory --job 'crashes: WriteBack")
        assert crashes.LAYER.run(shortest).failures[0].job == shortest
    assert crashes.LAYER.run(shortest).failures == []
