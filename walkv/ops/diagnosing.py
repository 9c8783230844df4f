"""Is this a good place for a store, and is the store in it fit to be opened?

Each check is a function that yields findings; none changes anything that is there. Measurements are
made in a directory of their own, which goes away again.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import resource
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Literal, NamedTuple

from walkv import limits
from walkv.engine import manifest
from walkv.engine.keyring import VARIABLE, Key
from walkv.engine.store import open as open_store
from walkv.engine.vfs import OsFileSystem
from walkv.engine.vfs.mounts import Mount, mount_of
from walkv.errors import EncryptionError, FormatError, WalkvError
from walkv.ops import machine, probing
from walkv.ops.storefiles import examine

Level = Literal["ok", "warning", "error"]

_LIBRARIES: Final = ("msgpack", "xxhash", "zstandard", "sortedcontainers", "cryptography")
_LEAST_FILES: Final = 256
_LOW_SHARE: Final = 0.05
_SANE_SINCE: Final = 1_700_000_000
"""A time of day before this one is wrong: walkv is younger."""
_CLOCK_TOLERANCE_SECONDS: Final = 2.0

_NO_SYNC_SECONDS: Final = 50e-6
"""No medium that keeps what it is given answers sooner."""
_FAST_SECONDS: Final = 1e-3
_ORDINARY_SECONDS: Final = 30e-3

_BAD_OPTIONS: Final = {
    "nobarrier": "write barriers are off, so what was synced may be lost with the power",
    "barrier=0": "write barriers are off, so what was synced may be lost with the power",
    "data=writeback": "after a crash files may end in old bytes; walkv's checksums find them",
    "sync": "every write waits for the disk, also those that need not",
    "dirsync": "every change of a directory waits for the disk",
}


class Finding(NamedTuple):
    """One thing that was looked at.

    Attributes:
        check: what, in a word or two.
        level: whether it is as it should be.
        text: what was found, and what follows from it.
        facts: the same for a program, by name.
    """

    check: str
    level: Level
    text: str
    facts: dict[str, Any]


@dataclass(frozen=True)
class Diagnosis:
    """What ``doctor`` found.

    Attributes:
        directory: absolute.
        findings: in the order in which they were made.
    """

    directory: str
    findings: tuple[Finding, ...] = field(default=())

    @property
    def level(self) -> Level:
        """The worst of all findings."""
        levels = {finding.level for finding in self.findings}
        return "error" if "error" in levels else "warning" if "warning" in levels else "ok"

    @property
    def ok(self) -> bool:
        """Whether nothing is an error; there may be warnings."""
        return self.level != "error"


def doctor(directory: str | os.PathLike[str], *, key: Key | None = None) -> Diagnosis:
    """Look at a directory, its file system and the machine, and at the store, if there is one.

    Args:
        directory: a store, or where one is to be.
        key: of the store, as ``walkv.open`` takes it. Without it, and without WALKV_KEY, all is
            looked at but whether an encrypted store opens.
    Raises:
        OSError: there is no such directory.
    Cost: some seconds at most: up to 400 syncs, and a look at the store as opening takes.
    """
    path = os.path.abspath(os.fspath(directory))
    os.listdir(path)  # says what is wrong with it, if it is no directory
    findings = [*_system(), *_environment(), *_file_system(path), *_space(path)]
    findings += _measured(path)
    findings += _store(path, key)
    return Diagnosis(path, tuple(findings))


def _finding(check: str, level: Level, text: str, **facts: Any) -> Finding:
    return Finding(check, level, text, facts)


# -- the machine -----------------------------------------------------------------------------------


def _system() -> Iterator[Finding]:
    name, release, version = platform.system(), platform.release(), platform.python_version()
    kind = platform.python_implementation()
    yield _finding("system", "ok", f"{name} {release}", system=name, release=release)
    yield _finding("python", "ok", f"{kind} {version}", implementation=kind, version=version)
    versions = {each: _version(each) for each in ("walkv", *_LIBRARIES)}
    versions["sqlite"] = sqlite3.sqlite_version
    there = {each: found for each, found in versions.items() if found is not None}
    text = ", ".join(f"{each} {found}" for each, found in there.items())
    yield _finding("libraries", "ok", text, **versions)


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _environment() -> Iterator[Finding]:
    wanted = limits.DEFAULT_MEMTABLE_BYTES + limits.DEFAULT_CACHE_BYTES
    memory = machine.available_memory_bytes()
    if memory is not None:
        level: Level = "ok" if memory >= 2 * wanted else "warning"
        text = f"{_mib(memory)} available"
        if level != "ok":
            text += (
                f", and a store takes up to {_mib(wanted)} by default; give memtable_bytes and "
                "cache_bytes when opening"
            )
        yield _finding("memory", level, text, available_bytes=memory)
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = most == resource.RLIM_INFINITY
    level = "ok" if unlimited or most >= _LEAST_FILES else "warning"
    text = "no limit" if unlimited else f"up to {most:,} at once"
    if level != "ok":
        text += f"; a store may need {_LEAST_FILES}: raise it with ulimit -n"
    yield _finding("open files", level, text, limit=None if unlimited else most)
    key = bool(os.environ.get(VARIABLE))
    text = "set: new stores are encrypted, and such stores opened with it" if key else "not set"
    yield _finding(VARIABLE, "ok", text, set=key)
    now = time.time()
    if now < _SANE_SINCE:
        shown = time.strftime("%Y-%m-%d", time.gmtime(now))
        yield _finding("clock", "error", f"the time of day is {shown}; set the clock", now=now)


# -- the file system -------------------------------------------------------------------------------


def _file_system(path: str) -> Iterator[Finding]:
    mount = mount_of(path)
    if mount is None:
        text = "not known: there is no mount table here"
        yield _finding("file system", "ok", text, kind=None)
        return
    level, text = _judged(mount, OsFileSystem().network_name(path) is not None)
    shown = f"{mount.kind} at {mount.point}" + (f": {text}" if text else "")
    facts = mount._asdict() | {"options": list(mount.options)}
    yield _finding("file system", level, shown, **facts)
    for option in mount.options:
        if option in _BAD_OPTIONS:
            yield _finding(
                "mount option", "warning", f"{option}: {_BAD_OPTIONS[option]}", option=option
            )
    if "ro" in mount.options:
        text = "mounted read-only, so a store here can only be read"
        yield _finding("mount option", "error", text, option="ro")


def _judged(mount: Mount, network: bool) -> tuple[Level, str]:
    if network:
        return "warning", "a network file system, where locks and syncs may not do what they say"
    if mount.in_memory:
        return "warning", "in memory, so everything is gone with the power"
    if mount.kind == "overlay":
        return "warning", "a container's own layer, which goes with it; use a volume"
    return "ok", ""


def _space(path: str) -> Iterator[Finding]:
    found = os.statvfs(path)
    free, total = found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize
    level: Level = "ok"
    text = f"{_mib(free)} of {_mib(total)} free"
    if free < limits.DEFAULT_MIN_FREE_BYTES:
        least = _mib(limits.DEFAULT_MIN_FREE_BYTES)
        level, text = "error", f"{text}; below {least} stores refuse puts: make room"
    elif free < total * _LOW_SHARE:
        level, text = "warning", f"{text}, which is little: compaction needs room for a while"
    yield _finding("free space", level, text, free_bytes=free, total_bytes=total)
    if found.f_files:
        level = "ok" if found.f_favail > found.f_files * _LOW_SHARE else "warning"
        text = f"{found.f_favail:,} of {found.f_files:,} free"
        yield _finding("inodes", level, text, free=found.f_favail, total=found.f_files)


def _measured(path: str) -> Iterator[Finding]:
    beside = path
    if os.path.exists(os.path.join(path, manifest.NAME)):
        # No file of ours belongs into a store, so what is next to it is measured.
        beside = os.path.dirname(path)
        if os.stat(beside).st_dev != os.stat(path).st_dev:
            text = (
                "not measured: the store is the whole of its file system, and nothing is put there"
            )
            yield _finding("sync", "ok", text)
            return
    try:
        with probing.workplace(beside) as place:
            yield from _probed(place)
    except OSError as error:
        text = f"{beside}: {error.strerror}: nothing could be measured"
        yield _finding("writing", "error", text, errno=error.errno)


def _probed(place: str) -> Iterator[Finding]:
    cost = probing.append_sync(place)
    level, text = _judged_sync(cost.median_seconds)
    shown = f"{_ms(cost.median_seconds)} (99 %: {_ms(cost.p99_seconds)}): {text}"
    yield _finding("sync", level, shown, **cost._asdict())
    cost = probing.directory_sync(place)
    shown = f"{_ms(cost.median_seconds)} (99 %: {_ms(cost.p99_seconds)})"
    yield _finding("directory sync", "ok", shown, **cost._asdict())
    try:
        works, reason = probing.lock_works(place), "two openers got one lock"
    except OSError as error:
        works, reason = False, str(error.strerror)
    text = "work" if works else f"{reason}: nothing keeps two writers apart here; use another disk"
    yield _finding("locks", "ok" if works else "error", text, works=works)
    works = probing.window_works(place)
    text = "used for write-back commits" if works else "not used on this file system"
    yield _finding("mapped writes", "ok", text, used=works)
    ahead = probing.clock_difference_seconds(place)
    apart = abs(ahead) > _CLOCK_TOLERANCE_SECONDS
    text = f"the file system's is {ahead:+.1f} s off this machine's" if apart else "agree"
    yield _finding("clocks", "warning" if apart else "ok", text, difference_seconds=ahead)


def _judged_sync(median_seconds: float) -> tuple[Level, str]:
    if median_seconds < _NO_SYNC_SECONDS:
        return "warning", (
            "too fast to be true. The disk is in memory, or a drive or virtual machine says done "
            "before it is; power loss takes acknowledged commits"
        )
    if median_seconds < _FAST_SECONDS:
        return "ok", "fast, as drives with protected caches are"
    if median_seconds < _ORDINARY_SECONDS:
        return "ok", "ordinary; commits that arrive together share one"
    return "warning", "slow; batches, or WriteBack() for what may be lost, will help most"


# -- the store -------------------------------------------------------------------------------------


def _store(path: str, key: Key | None) -> Iterator[Finding]:
    try:
        found = examine(path)
    except FormatError as error:
        if error.found_version is not None:
            yield _finding("store", "error", str(error), error=type(error).__name__)
            return
        found = None  # a directory with other things in it
    except (WalkvError, OSError) as error:
        yield _finding("store", "error", str(error), error=type(error).__name__)
        return
    if found is None:
        yield _finding("store", "ok", "none here yet", exists=False)
        return
    encrypted = ", encrypted" if found.encrypted else ""
    text = f"format {found.format_version}{encrypted}"
    facts = {"exists": True, "format_version": found.format_version, "encrypted": found.encrypted}
    yield _finding("store", "ok", text, **facts)
    holder = found.holder
    if holder is None:
        yield _finding("lock", "ok", "nobody writes to it", held=False)
    else:
        text = f"process {holder.pid} on {holder.host} has it open for writing"
        yield _finding("lock", "ok", text, held=True, pid=holder.pid, host=holder.host)
    yield _opening(path, key, held=holder is not None)
    if found.quarantined:
        text = (
            f"{len(found.quarantined):,} files with {_mib(found.quarantine_bytes)} that recovery "
            "cut from torn tails, or repair set aside; look at them, then delete them"
        )
        names, size_bytes = list(found.quarantined), found.quarantine_bytes
        yield _finding("quarantine", "warning", text, files=names, size_bytes=size_bytes)
    if found.leftovers and holder is None:
        text = f"{', '.join(found.leftovers[:3])}: unfinished; the next writer removes them"
        yield _finding("leftovers", "ok", text, files=list(found.leftovers))
    ahead = (found.newest - datetime.now(UTC)).total_seconds()
    if ahead > _CLOCK_TOLERANCE_SECONDS:
        text = f"a file of the store is {ahead:,.0f} s from the future; the clock is, or was, wrong"
        yield _finding("clock", "warning", text, ahead_seconds=ahead)


def _opening(path: str, key: Key | None, *, held: bool) -> Finding:
    """Whether the store can be read, from its manifest to the end of its log."""
    try:
        with open_store(path, read_only=True, key=key) as store:
            report = store.recovery_report
    except EncryptionError as error:
        if error.reason != "missing":
            return _finding("opening", "error", str(error), error=type(error).__name__)
        text = f"not tried: it is encrypted, and no key was given; set {VARIABLE}"
        return _finding("opening", "warning", text, error=type(error).__name__)
    except (WalkvError, OSError) as error:
        return _finding("opening", "error", str(error), error=type(error).__name__)
    text = "opens"
    if not report.clean and not held:
        text = "opens; it was not closed cleanly, so the next writer recovers it"
    return _finding("opening", "ok", text, clean=report.clean)


def _mib(size_bytes: int) -> str:
    if size_bytes >= limits.GIB:
        return f"{size_bytes / limits.GIB:,.1f} GiB"
    return f"{size_bytes / limits.MIB:,.1f} MiB"


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.2f} ms" if seconds >= 1e-4 else f"{seconds * 1e6:.0f} us"
