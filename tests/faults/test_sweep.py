"""Every call of small workloads fails; the rules are in ``tests/laboratory/faults/rules.py``."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

import walkv
from tests.laboratory.faults.script import Case
from tests.laboratory.faults.sweep import LAYER
from tests.laboratory.job import Job, Scale
from walkv.engine.keyring import as_text
from walkv.testing import Fault, FaultyFileSystem

JOBS = LAYER.jobs(Scale.QUICK, 1)

# Each was once an error of the engine.
FOUND = [
    # A refused commit was there after a power failure.
    "Wal short forever write wal 3: put! f; put~ g",
    # Bytes that were cut off were behind a seal, and the store was refused.
    "Wal shortEIO once write wal 2: put a 300; rotate; put b 30; rotate; put a",
    "Wal EIO once sync_data wal 3: put b; put a; flush",
    # After a refresh that failed a reader lacked the keys that were put meanwhile.
    "Wal EIO once size wal 6: put a 300; follow; put a; follow",
]


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.text)
def test_every_call_fails(job: Job) -> None:
    figures = LAYER.run(job)
    assert figures.failures == []
    if job.text.startswith("sites"):
        assert figures.counts["call sites"] > 50
    else:
        assert figures.counts["faults injected"] > 0
        assert figures.counts["faults not reached"] == 0 or job.text.startswith("random")
        assert figures.counts["crash states after faults"] > 0
        assert figures.counts["recoveries after faults"] > 0


@pytest.mark.parametrize(
    "job", [job for job in JOBS if job.text.startswith("random")], ids=lambda job: job.text
)
def test_every_call_fails_under_encrypted_stores(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WALKV_KEY", as_text(bytes(range(32))))
    test_every_call_fails(job)


@pytest.mark.parametrize("text", FOUND)
def test_what_was_found_before(text: str) -> None:
    assert LAYER.run(Job(LAYER.name, text, 0)).failures == []


@pytest.mark.parametrize("text", FOUND)
def test_a_case_is_its_text(text: str) -> None:
    assert str(Case.parse(text)) == text


def test_a_failed_open_gives_the_lock_back(tmp_path: Path) -> None:
    path = tmp_path / "s.walkv"
    walkv.open(path).close()
    fault = Fault(lambda call: call.operation == "read_file", errno.EIO)
    with pytest.raises(OSError, match="Input/output error"):
        walkv.open(path, filesystem=FaultyFileSystem(fault=fault))
    walkv.open(path).close()
