"""The door to the operating system: whole writes, locks, forks, syncs, mounts."""

from __future__ import annotations

import errno
import fcntl
import gc
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import walkv
from walkv.engine import vfs
from walkv.engine.vfs import LockHeldError, OsFileSystem, SyncError, ensure_synced, mounts, system
from walkv.engine.vfs.mounts import Mount

FS = OsFileSystem()


def test_read_write_size_truncate(tmp_path: Path) -> None:
    file = FS.create(str(tmp_path / "f"))
    assert file.size() == 0
    file.write(b"hello world", 5)
    assert file.read(0, 100) == bytes(5) + b"hello world"
    assert file.read(10, 3) == b" wo"
    assert file.read(16, 5) == b""
    assert file.read(0, 0) == b""
    file.truncate(8)
    file.sync_data()
    file.sync()
    assert (file.size(), file.link_count()) == (8, 1)
    FS.unlink(str(tmp_path / "f"))
    assert file.link_count() == 0
    assert file.read(5, 9) == b"hel"
    file.close()
    file.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        file.read(0, 1)


def test_create_and_open_modes(tmp_path: Path) -> None:
    path = str(tmp_path / "f")
    with pytest.raises(FileNotFoundError):
        FS.open(path)
    FS.create(path).close()
    with pytest.raises(FileExistsError):
        FS.create(path)
    with pytest.raises(OSError, match="Bad file descriptor"):
        FS.open(path).write(b"x", 0)
    FS.open(path, writable=True).write(b"x", 0)
    assert FS.read_file(path, 10) == b"x"
    assert FS.read_file(path, 0) == b""


def test_descriptors_close_with_their_file_and_are_not_inherited(tmp_path: Path) -> None:
    path = str(tmp_path / "f")
    file = FS.create(path)
    descriptor = file._descriptor
    assert not os.get_inheritable(descriptor)
    del file
    gc.collect()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_short_writes_and_reads_go_on_to_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = FS.create(str(tmp_path / "f"))
    pwrite, pread = os.pwrite, os.pread
    sizes: list[int] = []

    def short_write(descriptor: int, data: Any, offset: int) -> int:
        sizes.append(len(data))
        return pwrite(descriptor, bytes(data)[:7], offset)

    monkeypatch.setattr(os, "pwrite", short_write)
    data = bytes(range(100))
    file.write(data, 3)
    assert sizes == list(range(100, 0, -7))
    monkeypatch.setattr(os, "pread", lambda d, size, offset: pread(d, min(size, 9), offset))
    assert file.read(3, 100) == data
    assert file.read(3, 1000) == data
    assert file.read(50, 4) == data[47:51]


def test_a_write_that_makes_no_progress_or_fails_half_way_raises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = FS.create(str(tmp_path / "f"))
    monkeypatch.setattr(os, "pwrite", lambda d, data, offset: 0)
    with pytest.raises(OSError, match="no progress"):
        file.write(b"data", 0)
    results = iter([2])

    def fails_then(descriptor: int, data: Any, offset: int) -> int:
        for done in results:
            return done
        raise OSError(errno.ENOSPC, "No space left")

    monkeypatch.setattr(os, "pwrite", fails_then)
    with pytest.raises(OSError, match="No space"):
        file.write(b"data", 0)


def test_directories(tmp_path: Path) -> None:
    inside = str(tmp_path / "a" / "b")
    FS.make_directory(inside)
    FS.make_directory(inside)
    FS.sync_directory(inside)
    assert FS.is_directory(inside)
    for name in ("z", "a", "m"):
        FS.create(FS.join(inside, name)).close()
    assert FS.list(inside) == ["a", "m", "z"]
    before = FS.fingerprint(FS.join(inside, "a"))
    assert FS.fingerprint(FS.join(inside, "a")) == before
    FS.rename(FS.join(inside, "z"), FS.join(inside, "a"))
    assert FS.list(inside) == ["a", "m"]
    assert FS.fingerprint(FS.join(inside, "a")) != before
    assert not FS.is_directory(FS.join(inside, "a"))
    assert FS.parent(inside) == str(tmp_path / "a")
    assert FS.absolute("x") == os.path.join(os.getcwd(), "x")
    with pytest.raises(NotADirectoryError):
        FS.sync_directory(FS.join(inside, "a"))


def test_ensure_synced_tells_a_failed_sync_from_a_failed_write() -> None:
    def failing() -> None:
        raise OSError(errno.EIO, "I/O error")

    with pytest.raises(SyncError) as caught:
        ensure_synced(failing)
    assert caught.value.error.errno == errno.EIO
    assert not isinstance(caught.value, OSError)
    ensure_synced(lambda: None)


class FakeFcntl:
    """fcntl as macOS has it: records commands, fails with an errno where told."""

    F_FULLFSYNC = 51

    def __init__(self, number: int = 0) -> None:
        self.number = number
        self.commands: list[tuple[int, int]] = []

    def fcntl(self, descriptor: int, command: int) -> int:
        self.commands.append((descriptor, command))
        if self.number:
            raise OSError(self.number, os.strerror(self.number))
        return 0


def test_full_sync_on_macos(monkeypatch: pytest.MonkeyPatch) -> None:
    plain: list[int] = []
    monkeypatch.setattr(os, "fsync", plain.append)
    fake = FakeFcntl()
    monkeypatch.setattr(system, "fcntl", fake)
    system.full_sync(9)
    assert (fake.commands, plain) == ([(9, 51)], [])
    for number in (errno.ENOTSUP, errno.EINVAL, errno.ENOTTY):
        monkeypatch.setattr(system, "fcntl", FakeFcntl(number))
        system.full_sync(9)
    assert plain == [9, 9, 9]
    monkeypatch.setattr(system, "fcntl", FakeFcntl(errno.EIO))
    with pytest.raises(OSError, match="Input/output"):
        system.full_sync(9)
    assert plain == [9, 9, 9]


def test_lock_is_held_by_one_and_says_by_whom(tmp_path: Path) -> None:
    path = str(tmp_path / "LOCK")
    lock = FS.lock(path)
    assert lock.valid()
    for _ in range(2):  # within one process as well
        with pytest.raises(LockHeldError) as caught:
            FS.lock(path)
        assert caught.value.holder == {"pid": os.getpid(), "host": os.uname().nodename}
    code = "import sys; from walkv.engine.vfs import *\ntry: OsFileSystem().lock(sys.argv[1])\n"
    code += "except LockHeldError as e: print(e.holder['pid'])"
    done = subprocess.run(
        [sys.executable, "-c", code, path], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) == os.getpid()
    lock.release()
    lock.release()
    again = FS.lock(path)
    assert json.loads((tmp_path / "LOCK").read_bytes())["pid"] == os.getpid()
    again.release()


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe", b"[]", b"{", b"7", b"x" * 10_000, b"[" * 4_096]
)
def test_a_holder_that_cannot_be_read_is_unknown(tmp_path: Path, content: bytes) -> None:
    path = str(tmp_path / "LOCK")
    lock = FS.lock(path)
    (tmp_path / "LOCK").write_bytes(content)
    with pytest.raises(LockHeldError) as caught:
        FS.lock(path)
    assert caught.value.holder == {}
    lock.release()


def test_lock_file_replaced_between_open_and_flock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "LOCK"
    flock = fcntl.flock
    rounds = 0

    def replace_first(descriptor: int, operation: int) -> None:
        nonlocal rounds
        rounds += 1
        if rounds == 1:
            path.unlink()
            path.write_bytes(b"")
        elif rounds == 2:
            path.unlink()
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", replace_first)
    lock = FS.lock(str(path))
    monkeypatch.undo()
    assert rounds == 3
    assert lock.valid()
    with pytest.raises(LockHeldError):  # so it guards the file that is there now
        FS.lock(str(path))
    lock.release()


def test_a_lock_whose_file_went_away_is_no_longer_valid(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    lock = FS.lock(str(tmp_path / "d" / "LOCK"))
    (tmp_path / "d").rename(tmp_path / "e")
    assert not lock.valid()
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "LOCK").write_bytes(b"")
    assert not lock.valid()
    lock.release()


def test_a_store_whose_directory_was_moved_away_stops(tmp_path: Path) -> None:
    store = walkv.open(tmp_path / "s")
    store.put(b"a", b"1")
    (tmp_path / "s").rename(tmp_path / "moved")
    with pytest.raises((walkv.StoreFailedError, OSError)):
        store.compact()
    with pytest.raises(walkv.StoreFailedError):
        store.close()
    assert not (tmp_path / "s").exists()
    with walkv.open(tmp_path / "moved") as again:
        assert list(again.scan()) == [(b"a", b"1")]


class Told:
    def __init__(self) -> None:
        self.told = False

    def tell(self) -> None:
        self.told = True


def in_child(*asked: Told) -> list[bool]:
    """What a forked child sees in each object."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:  # pragma: no cover - the child's coverage is not collected
        os.write(write_end, bytes(each.told for each in asked))
        os._exit(0)
    os.waitpid(pid, 0)
    found = [bool(byte) for byte in os.read(read_end, 10)]
    os.close(read_end)
    os.close(write_end)
    return found


def test_fork_hook_tells_living_objects_in_the_child_only() -> None:
    one, two, three = Told(), Told(), Told()
    forget_one = FS.on_fork(one.tell)
    forget_two = FS.on_fork(two.tell)
    assert in_child(one, two, three) == [True, True, False]
    assert not one.told
    forget_one()
    forget_one()
    assert in_child(one, two) == [False, True]
    forget_two()
    dropped = Told()
    FS.on_fork(dropped.tell)
    del dropped
    gc.collect()
    assert in_child(one, two) == [False, False]


MOUNTS = """\
22 1 259:2 / / rw,relatime shared:1 - ext4 /dev/root rw
30 22 0:30 / /mnt/nfs rw,relatime shared:9 - nfs4 server:/export rw,vers=4.2
31 22 0:31 / /mnt/nfs/local rw - ext4 /dev/sdb rw
32 22 0:32 / /mnt/with\\040space rw - cifs //server/share rw
33 22 0:33 / /mnt/sshfs rw - fuse.sshfs host:/ rw
34 22 0:34 / /mnt/f\u00fcr rw master:1 propagate_from:2 - 9p share rw
"""


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/mnt/nfs", "nfs4"),
        ("/mnt/nfs/agent.walkv", "nfs4"),
        ("/mnt/nfs/local/agent.walkv", None),
        ("/mnt/nfsx/agent.walkv", None),
        ("/mnt/with space/agent.walkv", "cifs"),
        ("/mnt/sshfs/a/b", "fuse.sshfs"),
        ("/mnt/f\u00fcr/agent.walkv", "9p"),
        ("/home/agent.walkv", None),
    ],
)
def test_network_name_from_the_mount_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, expected: str | None
) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(MOUNTS, encoding="utf-8")
    system_open = open
    monkeypatch.setattr(
        mounts, "open", lambda path, **options: system_open(table, **options), raising=False
    )
    assert FS.network_name(path) == expected


def test_the_mount_of_a_path() -> None:
    found = mounts.mount_of("/proc/self")
    assert found is None or (found.point, found.kind, found.in_memory) == ("/proc", "proc", False)
    if Path("/dev/shm").is_dir() and b" /dev/shm tmpfs " in Path("/proc/mounts").read_bytes():
        shared = mounts.mount_of("/dev/shm")
        assert shared is not None
        assert shared.in_memory


def test_no_mount_table_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(path: str, **options: object) -> None:
        raise FileNotFoundError(2, "no such file", path)

    monkeypatch.setattr(mounts, "open", missing, raising=False)
    assert FS.network_name("/") is None


def test_a_network_file_system_is_warned_of(tmp_path: Path) -> None:
    class OnNfs(OsFileSystem):
        def network_name(self, path: str) -> str | None:
            return "nfs4"

    with pytest.warns(UserWarning, match="network file system"):
        store = walkv.open(tmp_path / "s", filesystem=OnNfs())
    store.close()


def test_clocks_and_randomness() -> None:
    assert FS.random_bytes(16) != FS.random_bytes(16)
    assert len(FS.random_bytes(16)) == 16
    before = FS.monotonic()
    FS.sleep(0)
    assert FS.monotonic() >= before
    assert FS.wall_time_ns() > 1_700_000_000 * 10**9


def test_a_window_sets_bytes_of_the_file(tmp_path: Path) -> None:
    align = vfs.WINDOW_ALIGNMENT_BYTES
    file = FS.create(str(tmp_path / "f"))
    file.write(bytes(2 * align), 0)
    window = file.window(align, align)
    if window is None:
        pytest.skip("there are no windows on the file system of the temporary directory")
    window[5:10] = b"hello"
    window[align - 1 : align] = b"!"
    assert file.read(align + 4, 7) == b"\0hello\0"
    assert (tmp_path / "f").read_bytes()[-1:] == b"!"
    window.close()
    file.close()


@pytest.mark.parametrize(
    ("kind", "given"), [("btrfs", False), ("xfs", False), ("overlay", False), ("ext4", True)]
)
def test_windows_only_where_bytes_stay_in_their_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, given: bool
) -> None:
    device = tmp_path.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    monkeypatch.setattr(
        mounts,
        "mounts",
        lambda: [Mount("0:1", "/proc", "proc", "proc", ()), Mount(number, "/", kind, "d", ())],
    )
    monkeypatch.setattr(mounts, "_in_place_devices", {})
    file = FS.create(str(tmp_path / "f"))
    file.write(bytes(vfs.WINDOW_ALIGNMENT_BYTES), 0)
    window = file.window(0, vfs.WINDOW_ALIGNMENT_BYTES)
    assert (window is not None) == given
    if window is not None:
        window.close()
    file.close()
