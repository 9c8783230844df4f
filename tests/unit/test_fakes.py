"""The fakes of ``walkv.testing``: do they lose what a power failure may lose, and nothing else?"""

from __future__ import annotations

import doctest
import errno
import inspect
from random import Random

import pytest

import walkv
from walkv import testing
from walkv.engine.vfs import FileSystem, LockHeldError
from walkv.testing import (
    Call,
    Disk,
    Fault,
    FaultyFileSystem,
    LostError,
    ManualClock,
    ModelStore,
    SimulatedFileSystem,
    clock,
    faults,
    medium,
    model,
    simulated,
)
from walkv.testing.medium import SECTOR_BYTES, TRUNCATE, SimulatedDirectory, SimulatedFile

MODULES = [clock, faults, medium, model, simulated]


def file_with(base: bytes, *writes: tuple[int, bytes | None]) -> SimulatedFile:
    file = SimulatedFile(1, base)
    for offset, data in writes:
        file.apply(offset, data)
    return file


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_examples(module: object) -> None:
    found = doctest.testmod(module, optionflags=doctest.ELLIPSIS)  # type: ignore[arg-type]
    assert found.failed == 0


@pytest.mark.parametrize("name", testing.__all__)
def test_everything_public_is_documented(name: str) -> None:
    assert inspect.getdoc(getattr(testing, name))


# -- files ---------------------------------------------------------------------------------------


def test_a_synced_file_is_certain() -> None:
    file = file_with(b"base", (4, b"more"))
    file.sync()
    assert file.variants() == [b"basemore"]


def test_nothing_comes_first_and_everything_last() -> None:
    variants = file_with(b"base", (4, b"1234"), (8, b"5678")).variants()
    assert variants[0] == b"base"
    assert variants[-1] == b"base12345678"
    assert len(variants) == len(set(variants))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("prefix", b"base1234"),
        ("torn after one byte", b"base1"),
        ("torn in the middle", b"base12"),
        ("torn before the end", b"base123"),
        ("a later one torn", b"base123456"),
        ("zero head", b"base\0\x0034"),
        ("hole", b"base\0\0\0\x005678"),
        ("zero tail", b"base" + bytes(8)),
        ("zero tail behind a prefix", b"base1234" + bytes(4)),
    ],
)
def test_what_may_be_left_of_two_writes(kind: str, expected: bytes) -> None:
    assert expected in file_with(b"base", (4, b"1234"), (8, b"5678")).variants(), kind


def test_later_pages_may_arrive_first() -> None:
    new = bytes([1]) * SECTOR_BYTES + bytes([2]) * SECTOR_BYTES + bytes([3]) * SECTOR_BYTES
    variants = file_with(b"", (0, new)).variants()
    assert bytes(2 * SECTOR_BYTES) + new[2 * SECTOR_BYTES :] in variants
    assert bytes(SECTOR_BYTES) + new[SECTOR_BYTES:] in variants
    assert new[:SECTOR_BYTES] in variants  # torn at a sector


def test_an_overwrite_leaves_old_or_new_bytes_and_nothing_else() -> None:
    for left in file_with(b"aaaa", (0, b"bbbb")).variants():
        assert len(left) == 4
        assert set(left) <= set(b"ab")


def test_a_truncation_is_there_or_not() -> None:
    assert file_with(b"abcdef", (2, TRUNCATE)).variants() == [b"abcdef", b"ab"]
    assert b"abXY" in file_with(b"abcdef", (2, TRUNCATE), (2, b"XY")).variants()


def test_nothing_is_invented_before_the_base() -> None:
    rng = Random(1)
    for _ in range(200):
        base = rng.randbytes(rng.randrange(40))
        writes = [(len(base) + 10 * n, rng.randbytes(10)) for n in range(rng.randrange(1, 6))]
        for left in file_with(base, *writes).variants():
            assert left.startswith(base)
            assert len(left) <= len(base) + 10 * len(writes)


def test_what_a_failed_sync_lost_is_read_and_never_synced() -> None:
    fs = SimulatedFileSystem(seed=3)
    file = fs.create("/f")
    fs.sync_directory("/")
    for number in range(20):
        file.write(b"%02d" % number, 2 * number)
    fs.lose_unsynced("/f")
    whole = b"".join(b"%02d" % number for number in range(20))
    assert file.read(0, 100) == whole
    file.sync()
    (disk,) = fs.crash_states(Random(0))
    assert disk.files["/f"] != whole
    assert fs.after_kill().read_file("/f", 100) == whole
    assert fs.after_kill(evicted=True).read_file("/f", 100) == disk.files["/f"]
    # Written again, it is on the medium.
    file.write(whole, 0)
    file.sync()
    (disk,) = fs.crash_states(Random(0))
    assert disk.files["/f"] == whole


# -- directories ---------------------------------------------------------------------------------


def names(directory: SimulatedDirectory) -> list[set[str]]:
    return [set(found) for found in directory.variants()]


def test_names_are_lost_in_any_subset_of_up_to_five() -> None:
    directory = SimulatedDirectory()
    for name in "abc":
        directory.apply((name, SimulatedFile(1)))
    found = names(directory)
    assert found[0] == set()
    assert found[-1] == {"a", "b", "c"}
    assert len(found) == 8
    for name in "defg":
        directory.apply((name, SimulatedFile(1)))
    assert names(directory) == [set("abcdefg"[:n]) for n in range(8)]


def test_a_rename_is_whole() -> None:
    directory = SimulatedDirectory()
    old, new = SimulatedFile(1), SimulatedFile(2)
    directory.apply(("M", old))
    directory.apply(("tmp", new))
    directory.sync()
    directory.apply(("tmp", None), ("M", new))
    assert directory.variants() == [{"M": old, "tmp": new}, {"M": new}]


def test_neither_syncs_the_other() -> None:
    fs = SimulatedFileSystem()
    file = fs.create("/f")
    file.write(b"x", 0)
    file.sync()
    assert any("/f" not in disk.files for disk in fs.crash_states(Random(0)))
    fs = SimulatedFileSystem()
    file = fs.create("/f")
    file.write(b"x", 0)
    fs.sync_directory("/")
    assert {disk.files["/f"] for disk in fs.crash_states(Random(0))} == {b"", b"\0", b"x"}


# -- the file system -----------------------------------------------------------------------------


def test_it_is_a_file_system() -> None:
    fs: FileSystem = SimulatedFileSystem()
    faulty: FileSystem = FaultyFileSystem(fs)
    for each in (fs, faulty):
        with pytest.raises(FileNotFoundError):
            each.open("/none")
        each.make_directory("/a/b")
        with pytest.raises(IsADirectoryError):
            each.open("/a/b")
        file = each.create(f"/a/b/{id(each)}")
        with pytest.raises(FileExistsError):
            each.create(f"/a/b/{id(each)}")
        with pytest.raises(NotADirectoryError):
            each.list(f"/a/b/{id(each)}")
        assert file.link_count() == 1
        each.unlink(file.path)
        assert file.link_count() == 0
        file.close()
        with pytest.raises(OSError, match="Bad file descriptor"):
            file.read(0, 1)


def test_two_lock_and_one_gets_it() -> None:
    fs = SimulatedFileSystem()
    lock = fs.lock("/LOCK")
    with pytest.raises(LockHeldError):
        fs.lock("/LOCK")
    assert lock.valid()
    fs.unlink("/LOCK")
    assert not lock.valid()
    lock.release()
    fs.lock("/LOCK")


def test_a_killed_process_calls_nothing() -> None:
    fs = SimulatedFileSystem()
    file = fs.create("/f")
    fs.kill()
    with pytest.raises(AssertionError, match="killed"):
        file.write(b"x", 0)
    with pytest.raises(AssertionError, match="killed"):
        fs.list("/")


def test_two_runs_are_the_same() -> None:
    def digests() -> list[bytes]:
        fs = SimulatedFileSystem(seed=5)
        with walkv.open("/s", filesystem=fs) as store:
            store.put(b"a", b"1")
            return [disk.digest() for disk in fs.crash_states(Random(1))]

    assert digests() == digests()


def test_digests_tell_disks_apart() -> None:
    one = Disk({"/a": b"1", "/b": b""}, frozenset())
    others = [
        Disk({"/a": b"", "/b": b"1"}, frozenset()),
        Disk({"/a": b"1"}, frozenset()),
        Disk({"/a": b"1", "/b": b""}, frozenset(("/c",))),
    ]
    assert len({disk.digest() for disk in [one, *others]}) == 4
    assert one.digest() == Disk({"/b": b"", "/a": b"1"}, frozenset()).digest()


def test_a_fault_happens_once_or_for_ever() -> None:
    for forever in (False, True):
        fs = FaultyFileSystem(SimulatedFileSystem(), fault=Fault(1, errno.ENOSPC, forever=forever))
        file = fs.create("/f")
        with pytest.raises(OSError, match="No space left"):
            file.write(b"abcd", 0)
        if forever:
            with pytest.raises(OSError, match="No space left"):
                file.write(b"abcd", 0)
            assert file.read(0, 4) == b""  # what takes no space works on a full disk
            fs.heal()
        file.write(b"abcd", 0)
        assert fs.calls[:2] == [Call(0, "create", "/f"), Call(1, "write", "/f")]
        assert len(fs.raised) == 1 + forever


def test_a_short_write_writes_half() -> None:
    fs = FaultyFileSystem(SimulatedFileSystem(), fault=Fault(1, short=True))
    file = fs.create("/f")
    with pytest.raises(OSError, match="Input/output"):
        file.write(b"abcd", 0)
    assert file.read(0, 9) == b"ab"


# -- the model -----------------------------------------------------------------------------------


def test_the_rule() -> None:
    model = ModelStore()
    for number in range(1, 5):
        model.begin([("put", b"n", b"%d" % number, None)], now_ms=0)
    model.acknowledge(2)
    for number in (2, 3, 4):
        assert model.check({b"n": b"%d" % number}, now_ms=0) == number
    with pytest.raises(LostError, match="acknowledged and not there"):
        model.check({b"n": b"1"}, now_ms=0)
    with pytest.raises(LostError, match="no prefix"):
        model.check({b"n": b"4", b"x": b""}, now_ms=0)
    assert model.check({b"n": b"4"}, now_ms=0, at_least=4) == 4
    with pytest.raises(LostError):
        model.check({b"n": b"3"}, now_ms=0, at_least=4)
    model.recovered(3)
    assert (model.acknowledged, model.begun) == (3, 3)


def test_the_clock() -> None:
    clock = ManualClock(wall_ns=5)
    clock.advance(1.5)
    assert (clock.wall_ns, clock.monotonic_seconds) == (1_500_000_005, 2.5)
