"""Memory is bounded by the budgets, whatever the size of the data.

Linux only: the peak of a process's resident memory is read from ``/proc``.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import os, sys
import walkv

MIB = 1 << 20

def peak():
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith("VmHWM"))
    return int(line.split()[1]) << 10

baseline = peak()
budgets = dict(memtable_bytes=4 * MIB, cache_bytes=4 * MIB)
with walkv.open(sys.argv[1], sync=walkv.WriteBack(), **budgets) as store:
    for number in range(80_000):
        store.put(b"%08d" % (number * 7919 % 80_000), os.urandom(1000))
    assert store.stats().disk_bytes > 70 * MIB
with walkv.open(sys.argv[1], **budgets) as store:
    assert sum(len(value) for _, value in store.scan()) == 80_000_000
    for number in range(0, 80_000, 10):
        assert len(store.get(b"%08d" % number)) == 1000
print((peak() - baseline) // MIB)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_ten_times_the_budgets_stay_within_them(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "s")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 8 + 64
