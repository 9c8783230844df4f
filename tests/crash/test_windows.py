"""What was put into a mapped window is in the hands of the operating system."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

import walkv

WRITER = """
import mmap, os, signal, sys
import walkv

store = walkv.open(sys.argv[1], sync=walkv.WriteBack(interval_seconds=60.0))
for number in range(20_000):
    store.put(b"%05d" % number, b"x" * (number % 100))
print(isinstance(store.engine.write_log._window, mmap.mmap), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_commits_in_a_window_survive_kill_9(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WRITER, str(tmp_path / "s")], capture_output=True, text=True
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    with walkv.open(tmp_path / "s") as store:
        assert not store.recovery_report.clean
        found = dict(store.scan())
        assert found == {b"%05d" % number: b"x" * (number % 100) for number in range(20_000)}
        assert store.verify().ok
    if done.stdout.strip() != "True":
        pytest.skip("there are no windows on the file system of the temporary directory")
