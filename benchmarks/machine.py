"""What the measurements ran on, and what a process or a directory uses of it."""

import os
import platform
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
CAN_DROP_PAGE_CACHE = hasattr(os, "posix_fadvise")


def describe(directory: Path) -> dict[str, str]:
    """The facts a reader needs to judge figures of stores in `directory`; no names of hosts."""
    return {
        "cpu": _cpu_model(),
        "cores": str(os.cpu_count()),
        "memory": f"{_memory_bytes() / 2**30:.1f} GiB",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "file_system": file_system(directory),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "load_average_at_start": f"{os.getloadavg()[0]:.2f}",
    }


def git_commit() -> str:
    """The commit of the checkout, marked when its files differ from it; "unknown" outside git."""
    try:
        commit = _git("rev-parse", "HEAD")
        return (
            f"{commit} (modified)"
            if _git("status", "--porcelain", "--untracked-files=no")
            else commit
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def file_system(directory: Path) -> str:
    """The type of the file system that holds `directory`, or "unknown"."""
    try:
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return "unknown"
    # Format: id parent major:minor root MOUNT-POINT options... - TYPE source options.
    # Of several mounts on one point, the last covers the others, here as there.
    types = {
        Path(before.split()[4]): after.split()[0]
        for before, _, after in (line.partition(" - ") for line in mounts)
    }
    resolved = directory.resolve()
    return next((types[path] for path in (resolved, *resolved.parents) if path in types), "unknown")


def peak_memory_bytes() -> int:
    """The largest resident size this process has had.

    Linux counts ``ru_maxrss`` from before the exec, so a small process started by a large one
    would inherit the large one's peak; ``VmHWM`` starts afresh.
    """
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def allocated_bytes(directory: Path) -> int:
    """What the files under `directory` take on the medium: holes not counted, padding counted."""
    return sum(path.stat().st_blocks * 512 for path in directory.rglob("*") if path.is_file())


def drop_page_cache(directory: Path) -> None:
    """Asks the system to forget what it has cached of the files under `directory`.

    It forgets pages that are on the medium and mapped by nobody: sync first. Where
    `CAN_DROP_PAGE_CACHE` is false, nothing happens.
    """
    if not CAN_DROP_PAGE_CACHE:
        return
    for path in directory.rglob("*"):
        if path.is_file():
            file = os.open(path, os.O_RDONLY)
            try:
                os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(file)


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _git(*arguments: str) -> str:
    completed = subprocess.run(
        ["git", *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    return completed.stdout.strip()
