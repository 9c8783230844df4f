"""Places of a real kernel for a store: small disks, read-only ones, and ones that can be shut down.

Everything is mounted in a forked process with a mount namespace of its own. When that process ends,
however it ends, the mounts are gone and the loop devices with them.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import pickle
import select
import shutil
import signal
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from tests.laboratory.job import Figures, Job
from tests.laboratory.kills.process import die_with_parent

_CLONE_NEWNS: Final = 0x00020000
_CLONE_NEWUSER: Final = 0x10000000
_MS_REC_PRIVATE: Final = 0x4000 | 1 << 18
_FS_IOC_SHUTDOWN: Final = 0x8004587D
_PROGRAMS: Final = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])

SHUTDOWNS: Final = {"flush": 0, "log": 1, "nothing": 2}
"""What reaches the disk before a file system is shut down: all, its journal, or nothing."""

JOB_SECONDS: Final = 120


class NotHereError(Exception):
    """Something that this machine does not have or does not allow."""


def apart(job: Job, body: Callable[[str], Figures], *, mounts: bool = True) -> Figures:
    """Run a body in a forked process of its own, with a temporary directory.

    Args:
        mounts: give it a mount namespace of its own.
    """
    with tempfile.TemporaryDirectory(prefix="walkv-machines-") as directory:
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(read)
            _child(job, body, directory, mounts, write)
        os.close(write)
        try:
            data = _read_all(read)
        finally:
            os.close(read)
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            status = os.waitpid(pid, 0)[1]
    if not data:
        raise AssertionError(f"the process of this job ended with status {status}")
    figures = pickle.loads(data)
    assert isinstance(figures, Figures)
    return figures


def _read_all(pipe: int) -> bytes:
    data = b""
    while True:
        ready, _, _ = select.select([pipe], [], [], JOB_SECONDS)
        if not ready:
            raise AssertionError(f"this job says nothing for {JOB_SECONDS} seconds: it hangs")
        more = os.read(pipe, 1 << 16)
        if not more:
            return data
        data += more


def _child(
    job: Job, body: Callable[[str], Figures], directory: str, mounts: bool, pipe: int
) -> None:
    figures = Figures()
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        die_with_parent()
        signal.alarm(2 * JOB_SECONDS)
        if mounts:
            _own_namespace()
        figures = body(directory)
    except NotHereError as error:
        figures.skipped.append(f"{job.layer}: {job.text.split()[0]}: {error}")
    except BaseException as error:  # noqa: BLE001  # nothing may pass into the parent's code
        figures.fail(job, error)
    finally:
        try:
            data = pickle.dumps(figures)
            while data:
                data = data[os.write(pipe, data) :]
        finally:
            os._exit(0)


def _own_namespace() -> None:
    """A mount namespace that nobody outside sees, as root or in a user namespace."""
    flags = _CLONE_NEWNS if os.geteuid() == 0 else _CLONE_NEWNS | _CLONE_NEWUSER
    user, group = os.geteuid(), os.getegid()
    library = ctypes.CDLL(None, use_errno=True)
    if not hasattr(library, "unshare"):
        raise NotHereError("this system has no mount namespaces")
    if library.unshare(flags) != 0:
        text = os.strerror(ctypes.get_errno())
        raise NotHereError(f"a mount namespace is not allowed here: {text}")
    if flags & _CLONE_NEWUSER:
        for name, line in (
            ("setgroups", "deny"),
            ("uid_map", f"0 {user} 1"),
            ("gid_map", f"0 {group} 1"),
        ):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(line)
    if library.mount(b"none", b"/", None, _MS_REC_PRIVATE, None) != 0:
        text = os.strerror(ctypes.get_errno())
        raise NotHereError(f"mounts cannot be made private here: {text}")


def call(*command: str) -> None:
    """Run a program of the system.

    Raises:
        NotHereError: it is not there, or says no.
    """
    program = shutil.which(command[0], path=_PROGRAMS)
    if program is None:
        raise NotHereError(f"there is no {command[0]} here")
    done = subprocess.run([program, *command[1:]], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        text = (done.stderr or done.stdout).strip().splitlines()
        reason = text[-1] if text else f"status {done.returncode}"
        raise NotHereError(f"{' '.join(command[:3])} is not possible: {reason}")


def _unmount(point: str) -> None:
    """Unmount; where somebody still looks at it, once that has ended."""
    for options in ([], ["--lazy"]):
        program = shutil.which("umount", path=_PROGRAMS) or "umount"
        if (
            subprocess.run([program, *options, point], capture_output=True, check=False).returncode
            == 0
        ):
            return
    raise AssertionError(f"{point} cannot be unmounted")


@contextmanager
def tmpfs(directory: str, options: str) -> Iterator[str]:
    """A small file system in memory."""
    point = os.path.join(directory, "disk")
    os.makedirs(point, exist_ok=True)
    call("mount", "-t", "tmpfs", "-o", options, "tmpfs", point)
    try:
        yield point
    finally:
        _unmount(point)


@contextmanager
def read_only(path: str, point: str) -> Iterator[str]:
    """A directory seen through a read-only mount."""
    os.makedirs(point, exist_ok=True)
    call("mount", "--bind", path, point)
    try:
        call("mount", "-o", "remount,bind,ro", point)
        yield point
    finally:
        _unmount(point)


class Disk:
    """A real file system on a loop device, in a file; mounted and unmounted at will."""

    SIZES: Final = {"ext4": 48 << 20, "xfs": 320 << 20}
    """XFS is not made smaller than 300 MB; the file is sparse."""

    def __init__(self, directory: str, kind: str, options: str, size_bytes: int = 0) -> None:
        self.point = os.path.join(directory, "disk")
        self._image = os.path.join(directory, "image")
        self.kind = kind
        self._options = ",".join(filter(None, ["loop", options]))
        os.makedirs(self.point, exist_ok=True)
        with open(self._image, "wb") as file:
            file.truncate(size_bytes or self.SIZES[kind])
        quiet = ["-q", "-F"] if kind == "ext4" else ["-q", "-f"]
        call(f"mkfs.{kind}", *quiet, self._image)

    @contextmanager
    def mounted(self) -> Iterator[str]:
        """Mount it, which replays its journal, and unmount it."""
        call("mount", "-t", self.kind, "-o", self._options, self._image, self.point)
        try:
            yield self.point
        finally:
            _unmount(self.point)

    def shut_down(self, how: str) -> None:
        """Let the file system die as if the machine had: nothing reaches the disk any more."""
        descriptor = os.open(self.point, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, _FS_IOC_SHUTDOWN, struct.pack("I", SHUTDOWNS[how]))
        except OSError as error:
            raise NotHereError(f"{self.kind} cannot be shut down here: {error}") from error
        finally:
            os.close(descriptor)
