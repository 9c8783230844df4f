"""What a step uses of the machine: memory, bytes written, syncs, disk.

Syncs are counted by `syncs.c`, a library that is loaded into the workers before the C library. It
is compiled once per run; without a compiler, or on a system other than Linux, they are not counted.
Bytes are those that Linux counts in ``/proc/self/io``; on other systems they are not counted.
"""

import ctypes
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.machine import allocated_bytes, peak_memory_bytes

SOURCE = Path(__file__).with_name("syncs.c")
COMPILE_SECONDS = 60.0


class NotCountedError(Exception):
    """Syncs cannot be counted here; says why."""


@dataclass(frozen=True)
class Resources:
    """What one step used, from its start to its end, closing of the store included.

    `peak_memory_bytes` is the largest resident size of the whole process, which holds the keys
    and values of the workload too. `written_bytes` went to the medium or wait in the page cache
    for it, in whole pages; `passed_bytes` were passed to ``write`` and its kin, in any file. None
    stands for what this system does not count.
    """

    peak_memory_bytes: int
    written_bytes: int | None
    passed_bytes: int | None
    sync_count: int | None
    disk_bytes: int


class Meter:
    """Reads the counters at its making, and what they have grown by when it is asked."""

    def __init__(self) -> None:
        self._start = _counters()

    def read(self, directory: Path) -> dict[str, int | None]:
        """The fields of `Resources` since the start; `directory` is what is measured on disk."""
        grown = {
            name: None if count is None else count - (self._start[name] or 0)
            for name, count in _counters().items()
        }
        return asdict(
            Resources(
                peak_memory_bytes=peak_memory_bytes(),
                disk_bytes=allocated_bytes(directory),
                **grown,
            )
        )


def compile_sync_counter(directory: Path) -> Path:
    """Compiles `syncs.c` into `directory`; raises `NotCountedError` where that is not possible."""
    if not sys.platform.startswith("linux"):
        raise NotCountedError(f"syncs are counted on Linux only, not on {sys.platform}")
    compiler = shutil.which("cc")
    if compiler is None:
        raise NotCountedError("counting syncs takes a C compiler, and there is no cc")
    library = directory / "syncs.so"
    command = [compiler, "-O2", "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-ldl"]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=COMPILE_SECONDS)
    except subprocess.CalledProcessError as error:
        raise NotCountedError(f"{SOURCE.name} does not compile: {error.stderr.strip()}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotCountedError(f"{SOURCE.name} does not compile: {error}") from error
    return library


def preloaded(library: Path) -> dict[str, str]:
    """The environment of a worker whose syncs `library` counts."""
    return {"LD_PRELOAD": " ".join(filter(None, [str(library), os.environ.get("LD_PRELOAD")]))}


def counting_environment(directory: Path) -> tuple[dict[str, str], str]:
    """What workers need in their environment to count syncs, and whether they count them."""
    try:
        return preloaded(compile_sync_counter(directory)), "counted"
    except NotCountedError as error:
        return {}, f"not counted: {error}"


def _counters() -> dict[str, int | None]:
    written_bytes, passed_bytes = _bytes_written()
    return {
        "written_bytes": written_bytes,
        "passed_bytes": passed_bytes,
        "sync_count": _sync_count(),
    }


def _bytes_written() -> tuple[int | None, int | None]:
    try:
        lines = Path("/proc/self/io").read_text().splitlines()
    except OSError:
        return None, None
    counts = {name: int(count) for name, _, count in (line.partition(":") for line in lines)}
    return counts["write_bytes"], counts["wchar"]


def _sync_count() -> int | None:
    try:
        return ctypes.c_ulonglong.in_dll(ctypes.CDLL(None), "benchmarks_sync_count").value
    except ValueError:
        return None
