"""One fault at every call of a workload: what the caller is told, and what is there afterwards.

The rules, for a call that fails:
    - a sync: ``StoreFailedError`` whose cause is that very error, from then on for everything, and
      no sync is ever tried again. What was acknowledged before is kept.
    - anything else: an ``OSError``, or nothing where the caller loses nothing by it. The store goes
      on, holds exactly what was acknowledged, and so does the store that is opened next.
"""

from __future__ import annotations

import errno
import logging
import shutil
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from support.workload import State, Step, long_workload, state_of

import walkv
from walkv import Store, StoreFailedError, Wal, WriteBack, WriteThrough
from walkv.engine.wal import SyncPolicy
from walkv.testing import Call, Fault, FaultyFileSystem
from walkv.testing.faults import SYNCS

MEMTABLE_BYTES = 65_536
POLICIES: list[SyncPolicy] = [Wal(), WriteThrough(), WriteBack()]
KINDS = {
    "EIO": (errno.EIO, False),
    "ENOSPC": (errno.ENOSPC, False),
    "EDQUOT": (errno.EDQUOT, False),
    "short": (errno.ENOSPC, True),
    "short EIO": (errno.EIO, True),
}


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture
def fast_path(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory where there is one: thousands of stores are made here."""
    shared = Path("/dev/shm")
    root = (
        shared / f"walkv-faults-{tmp_path.name}-{id(tmp_path):x}" if shared.is_dir() else tmp_path
    )
    root.mkdir(exist_ok=True)
    yield root
    shutil.rmtree(root, ignore_errors=True)


class Run(NamedTuple):
    """What became of a workload.

    Attributes:
        acknowledged: the state that all acknowledged commits make.
        possible: states that are right as well: with the one commit whose sync failed.
        told: what the callers were told, by step.
    """

    acknowledged: State
    possible: list[State]
    told: list[tuple[str, BaseException]]


def open_store(path: str, fs: FaultyFileSystem, policy: SyncPolicy) -> Store:
    return walkv.open(path, sync=policy, memtable_bytes=MEMTABLE_BYTES, filesystem=fs)


def drive(path: str, fs: FaultyFileSystem, policy: SyncPolicy, steps: list[Step]) -> Run:
    """Run the workload to its end whatever fails, holding the live store against the oracle."""
    state: State = {}
    possible: list[State] = []
    told: list[tuple[str, BaseException]] = []
    store: Store | None = None
    for attempt in range(2):
        try:
            store = open_store(path, fs, policy)
            break
        except (OSError, StoreFailedError) as error:
            check_told(fs, "open", error, told)
            told.append(("open", error))
            if isinstance(error, StoreFailedError) and attempt == 0:
                fs.heal()
    if store is None:
        return Run(state, possible, told)
    for step in steps:
        try:
            step.run(store)
        except (OSError, StoreFailedError) as error:
            check_told(fs, step.name, error, told)
            told.append((step.name, error))
            if isinstance(error, StoreFailedError) and step.effect is not None and not possible:
                begun = dict(state)
                step.effect(begun)
                possible.append(begun)
            if not isinstance(error, StoreFailedError):
                # What is on disk now is what a kill would leave: no trace of the failed commit.
                with walkv.open(path, read_only=True) as reader:
                    assert state_of(reader) == state, "a failed commit can be read from the log"
        else:
            assert not _stopped(told), f"{step.name} worked after the store had failed"
            if step.effect is not None:
                step.effect(state)
    stopped = _stopped([t for t in told if t[0] != "open"])
    if not stopped:
        fs.paused = True
        assert state_of(store) == state, "the live store is not what was acknowledged"
        fs.paused = False
    try:
        store.close()
    except (OSError, StoreFailedError) as error:
        check_told(fs, "close", error, told)
        told.append(("close", error))
    store.close()
    return Run(state, possible, told)


def _stopped(told: list[tuple[str, BaseException]]) -> bool:
    return any(isinstance(error, StoreFailedError) for name, error in told if name != "open")


def check_told(
    fs: FaultyFileSystem,
    name: str,
    error: BaseException,
    told: list[tuple[str, BaseException]],
) -> None:
    """An error that reached the caller is the injected one, or says that it was its cause."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None:
        chain.append(link)
        link = link.__cause__
    injected = [link for link in chain if any(link is raised for raised in fs.raised)]
    assert injected, f"{name}: {error!r} does not lead back to what failed"
    if isinstance(error, StoreFailedError):
        assert error.__cause__ is injected[-1] or isinstance(error.__cause__, OSError)
        for _, earlier in told:
            if isinstance(earlier, StoreFailedError) and name != "open":
                assert error.__cause__ is earlier.__cause__
    else:
        assert isinstance(error, OSError)
        assert error.errno == injected[0].errno  # type: ignore[attr-defined]  # an OSError
        assert error.__cause__ is None or str(error) != str(error.__cause__)


def check_run(fs: FaultyFileSystem, run: Run, fault: Fault) -> None:
    failed = fs.failed_calls
    if not failed:
        assert run.told == []
        return
    first = failed[0]
    names = [name for name, _ in run.told]
    kinds = [type(error) for _, error in run.told]
    if first.operation in SYNCS:
        assert kinds, f"nobody was told that {first} failed"
        assert kinds[0] is StoreFailedError, (names, kinds)
        if names[0] != "open":
            later = [c for c in fs.calls[first.number + 1 :] if c.operation in SYNCS]
            assert later == [], f"synced again after {first} had failed"
    elif not fault.forever:
        assert StoreFailedError not in kinds, (first, names)
        assert len(kinds) <= 1, (first, names)
        if first.operation in ("write", "create", "rename") and first.path.endswith(".wal"):
            closing = first.operation == "write" and names in ([], ["close"])
            assert kinds or closing or not run.acknowledged, f"{first} failed, nobody was told"


def check_reopened(path: str, run: Run) -> None:
    """On a disk that works again, the store is what was acknowledged, twice."""
    for _ in range(2):
        with walkv.open(path, memtable_bytes=MEMTABLE_BYTES) as store:
            found = state_of(store)
            assert found == run.acknowledged or found in run.possible, describe(found, run)
            assert store.verify().ok
    with walkv.open(path, memtable_bytes=MEMTABLE_BYTES) as store:
        store.put(b"after", b"all")
    with walkv.open(path, memtable_bytes=MEMTABLE_BYTES) as store:
        assert store[b"after"] == b"all"


def describe(found: State, run: Run) -> str:
    lost = {k: v[:8] for k, v in run.acknowledged.items() if found.get(k) != v}
    extra = {k: v[:8] for k, v in found.items() if run.acknowledged.get(k) != v}
    return f"acknowledged and not there: {lost}; there and not acknowledged: {extra}"


def count_calls(path: Path, policy: SyncPolicy, steps: list[Step]) -> list[Call]:
    fs = FaultyFileSystem(threads=False)
    run = drive(str(path), fs, policy, steps)
    assert run.told == []
    return list(fs.calls)


def thinned(calls: list[Call]) -> list[Call]:
    """Every call of a kind that is rare, and the first and last few of those that are common."""
    groups: dict[tuple[str, str], list[Call]] = {}
    for call in calls:
        kind = call.path.rsplit("/", 1)[-1]
        groups.setdefault((call.operation, kind), []).append(call)
    chosen: set[Call] = set()
    for group in groups.values():
        step = max(1, len(group) // 6)
        chosen.update(group[:2], group[-2:], group[::step])
    return sorted(chosen)


@pytest.mark.parametrize("forever", [False, True], ids=["once", "forever"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: type(policy).__name__)
def test_every_call_fails(fast_path: Path, policy: SyncPolicy, kind: str, forever: bool) -> None:
    code, short = KINDS[kind]
    steps = long_workload()
    calls = thinned(count_calls(fast_path / "whole", policy, steps))
    if short:
        calls = [call for call in calls if call.operation == "write"]
    elif code != errno.EIO:
        # These errors come from what takes space, and from syncs of what was only promised space.
        takers = {"write", "create", "make_directory", "rename", *SYNCS}
        calls = [call for call in calls if call.operation in takers]
    if code == errno.EDQUOT:
        calls = calls[::3]  # on the way through the engine no different from ENOSPC
    if policy != Wal():
        # The policies differ in what they do to the log.
        calls = [call for call in calls if call.path.endswith(".wal")]
        calls = calls if code == errno.EIO else calls[::3]
    problems: list[str] = []
    for call in calls:
        path = fast_path / "store"
        fault = Fault(call.number, code, forever=forever, short=short)
        fs = FaultyFileSystem(threads=False, fault=fault)
        try:
            run = drive(str(path), fs, policy, steps)
            assert fs.failed_calls, "the workload is not the same every time"
            check_run(fs, run, fault)
            fs.kill()
            check_reopened(str(path), run)
        except Exception as error:  # noqa: BLE001  # all of them are shown
            problems.append(show(call, error))
        finally:
            fs.kill()
            shutil.rmtree(path, ignore_errors=True)
    assert not problems, "\n".join([f"{len(problems)} of {len(calls)} faults:", *problems[:20]])


def show(call: Call, error: BaseException) -> str:
    where = "/".join(call.path.rsplit("/", 2)[-2:])
    line = traceback.extract_tb(error.__traceback__)[-1]
    text = f"{type(error).__name__}: {str(error)[:300]} ({Path(line.filename).name}:{line.lineno})"
    return f"  call {call.number}, {call.operation} {where}: {text}"


# -- recovery ------------------------------------------------------------------------------------


def leave_unclean(path: Path, policy: SyncPolicy) -> State:
    """A store that needs everything a recovery can do: torn tail, several segments, stray files."""
    fs = FaultyFileSystem(threads=False)
    run_steps = long_workload()
    state: State = {}
    store = open_store(str(path), fs, policy)
    failing = Fault(
        lambda call: call.operation == "create" and call.path.endswith(".snap"),
        errno.EIO,
        forever=True,
        operations=frozenset(("create",)),
    )
    for step in run_steps[:-4]:
        step.run(store)
        if step.effect is not None:
            step.effect(state)
    fs.fault = failing
    for number in range(7):
        store.put(b"g%d" % number, b"g" * 6_000)
        state[b"g%d" % number] = b"g" * 6_000
    fs.kill()
    del store
    segments = sorted((path / "log").iterdir())
    tail = segments[-1]
    size = tail.stat().st_size
    with tail.open("r+b") as file:
        data = file.read().rstrip(b"\0")
        file.seek(len(data))
        file.write(b"\0" * 3 + b"torn" * 100)
        file.truncate(max(size, file.tell()))
    (path / "MANIFEST.tmp").write_bytes(b"half a manif")
    (path / "snapshots" / "0000000099.snap").write_bytes(b"unfinished")
    (path / "log" / f"{77777:020d}.wal").write_bytes(b"unfinished")
    return state


@pytest.mark.parametrize("forever", [False, True], ids=["once", "forever"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_call_of_a_recovery_fails(fast_path: Path, kind: str, forever: bool) -> None:
    code, short = KINDS[kind]
    original = fast_path / "original"
    state = leave_unclean(original, Wal())
    copy = fast_path / "store"
    shutil.copytree(original, copy)
    fs = FaultyFileSystem(threads=False)
    with open_store(str(copy), fs, Wal()) as store:
        opening = list(fs.calls)
        assert state_of(store) == state
        assert store.recovery_report.cut_bytes > 0
        assert len(store.recovery_report.removed_files) == 3
        assert (copy / "quarantine").exists()
    shutil.rmtree(copy)
    problems: list[str] = []
    for call in opening:
        if short and call.operation != "write":
            continue
        shutil.copytree(original, copy)
        fault = Fault(call.number, code, forever=forever, short=short)
        fs = FaultyFileSystem(threads=False, fault=fault)
        told: list[tuple[str, BaseException]] = []
        try:
            try:
                opened = open_store(str(copy), fs, Wal())
            except (OSError, StoreFailedError) as error:
                check_told(fs, "open", error, told)
                told_of_sync = isinstance(error, StoreFailedError)
                told.append(("open", error))
            else:
                told_of_sync = False
                fs.paused = True
                assert state_of(opened) == state
            if call.operation in SYNCS:
                assert told_of_sync
            elif not forever:
                # Failing for ever, a write cannot be taken back either, and the store must stop.
                assert not told_of_sync
            fs.kill()
            # Whatever was done half is done again: nothing is lost, and the evidence is kept.
            with walkv.open(copy) as store:
                assert state_of(store) == state
                assert store.verify().ok
            saved = [f.read_bytes() for f in (copy / "quarantine").iterdir()]
            assert any(b"torn" * 100 in data for data in saved)
        except Exception as error:  # noqa: BLE001  # all of them are shown
            problems.append(show(call, error))
        finally:
            fs.kill()
            shutil.rmtree(copy, ignore_errors=True)
    assert not problems, "\n".join([f"{len(problems)} of {len(opening)} faults:", *problems[:20]])


def test_a_failed_open_gives_the_lock_back(tmp_path: Path) -> None:
    path = tmp_path / "s.walkv"
    walkv.open(path).close()
    fault = Fault(lambda call: call.operation == "read_file", errno.EIO)
    with pytest.raises(OSError, match="Input/output error"):
        walkv.open(path, filesystem=FaultyFileSystem(fault=fault))
    walkv.open(path).close()
