"""Locks, kills and forks: one process writes, the others are told."""

from __future__ import annotations

import multiprocessing
import os
import random
import socket
import threading
from pathlib import Path

import pytest
from support.processes import run

import walkv
from tests.laboratory.job import Job, Scale
from tests.laboratory.systems.rounds import LAYER
from walkv import LockedError, StoreFailedError

SEED = random.randrange(1 << 30)
JOBS = [job for job in LAYER.jobs(Scale.QUICK, SEED) if job.text.split()[0] in ("race", "fork")]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("job", JOBS, ids=[job.text for job in JOBS])
def test_races_and_forks_of_real_processes(job: Job) -> None:
    figures = LAYER.run(job)
    assert not figures.failures, figures.failures[0]
    assert figures.counts.total() > 0


def test_a_second_process_is_told_who_holds_the_store(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with walkv.open(path):
        out = run(f"""
            import walkv
            try:
                walkv.open({str(path)!r})
            except walkv.LockedError as error:
                print(error.pid, error.host, error.path)
            """)
        pid, host, lock = out.split()
        assert (int(pid), host, lock) == (os.getpid(), socket.gethostname(), str(path / "LOCK"))
        with walkv.open(path, read_only=True) as reader:
            assert reader.count() == 0
    walkv.open(path).close()


def test_two_opens_in_one_process(tmp_path: Path) -> None:
    with walkv.open(tmp_path / "s") as store:
        with pytest.raises(LockedError, match=f"process {os.getpid()}") as caught:
            walkv.open(tmp_path / "s")
        assert caught.value.pid == os.getpid()
        # Nor by another name, and the failed attempt has not dropped the lock.
        (tmp_path / "link").symlink_to(tmp_path / "s")
        with pytest.raises(LockedError):
            walkv.open(tmp_path / "link")
        out = run(f"""
            import walkv
            try:
                walkv.open({str(tmp_path / "s")!r})
            except walkv.LockedError:
                print("locked")
            """)
        assert out == "locked\n"
        store.put(b"k", b"v")


def in_child(check: str, path: Path) -> str:
    """Fork with an open store (in a process of its own, without threads); what the child says."""
    return run(f"""
        import os, sys, walkv
        from walkv import StoreFailedError
        path = {str(path)!r}
        store = walkv.open(path)
        store.put(b"before", b"1")
        view = store.view()
        entries = store.scan()
        batch = store.batch()
        batch.put(b"batch", b"1")
        import warnings
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            try:
                {check}
            except BaseException as error:
                print("child:", type(error).__name__, error, flush=True)
                os._exit(0)
            print("child: ok", flush=True)
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        assert status == 0, status
        store.put(b"after", b"2")
        assert dict(store.scan()) == {{b"before": b"1", b"after": b"2"}}
        try:
            walkv.open(path)
        except walkv.LockedError as error:
            assert error.pid == os.getpid()
        else:
            raise AssertionError("the child gave the lock away")
        store.close()
        with walkv.open(path) as store:
            assert dict(store.scan()) == {{b"before": b"1", b"after": b"2"}}
            assert store.recovery_report.clean
        """)


@pytest.mark.parametrize(
    "attempt",
    [
        'store.put(b"x", b"y")',
        'store.put(b"x", b"y", sync=walkv.WriteBack())',
        'store.get(b"before")',
        'store.delete(b"before")',
        "list(store.scan())",
        "list(entries)",
        'view.get(b"before")',
        "batch.commit()",
        "store.sync()",
        "store.compact()",
        "store.transaction()",
    ],
)
def test_a_forked_child_may_not_use_the_store(tmp_path: Path, attempt: str) -> None:
    out = in_child(attempt, tmp_path / "s")
    assert out.startswith("child: StoreFailedError")
    assert "fork" in out


@pytest.mark.parametrize(
    "ending",
    [
        "store.close()",
        "store.close(); store.close()",
        "del store, view, entries, batch; import gc; gc.collect()",
        "sys.exit()",
        "pass",
    ],
)
def test_a_forked_child_may_close_and_exit(tmp_path: Path, ending: str) -> None:
    out = in_child(ending, tmp_path / "s")
    assert out.startswith(("child: ok", "child: SystemExit"))


def test_a_forked_child_may_open_its_own_store(tmp_path: Path) -> None:
    out = in_child(
        f'c = walkv.open({str(tmp_path / "own")!r}); c.put(b"k", b"v"); c.close()', tmp_path / "s"
    )
    assert out == "child: ok\n"
    with walkv.open(tmp_path / "own") as store:
        assert store[b"k"] == b"v"


def test_a_fork_while_other_threads_commit(tmp_path: Path) -> None:
    # The locks of the parent's threads must not hang the child.
    run(f"""
        import os, threading, walkv, warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        store = walkv.open({str(tmp_path / "s")!r}, memtable_bytes=65536)
        stop = threading.Event()
        counts = [0] * 4
        def work(number):
            while not stop.is_set():
                store.put(b"%d-%d" % (number, counts[number]), b"x" * 200)
                counts[number] += 1
        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for _ in range(20):
            pid = os.fork()
            if pid == 0:
                for attempt in (lambda: store.put(b"x", b"y"), lambda: store.get(b"x")):
                    try:
                        attempt()
                    except walkv.StoreFailedError:
                        pass
                    else:
                        os._exit(1)
                store.close()
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0
        stop.set()
        for thread in threads:
            thread.join()
        store.close()
        with walkv.open({str(tmp_path / "s")!r}) as store:
            assert store.count() == sum(counts)
        """)


def test_a_fork_while_a_read_only_store_refreshes(tmp_path: Path) -> None:
    run(f"""
        import os, threading, walkv, warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        path = {str(tmp_path / "s")!r}
        store = walkv.open(path)
        store.put(b"k", b"v")
        reader = walkv.open(path, read_only=True)
        stop = threading.Event()
        def refresh():
            while not stop.is_set():
                reader.refresh()
        thread = threading.Thread(target=refresh)
        thread.start()
        for _ in range(30):
            pid = os.fork()
            if pid == 0:
                try:
                    reader.get(b"k")
                except walkv.StoreFailedError:
                    pass
                else:
                    os._exit(1)
                reader.close()
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0
        stop.set()
        thread.join()
        """)


def _use(store: walkv.Store, answers: multiprocessing.queues.Queue[str]) -> None:
    try:
        store.put(b"child", b"1")
    except StoreFailedError as error:
        answers.put(str(error))
    else:
        answers.put("no error")


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_multiprocessing_with_fork(tmp_path: Path) -> None:
    assert threading.current_thread() is threading.main_thread()
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    with walkv.open(tmp_path / "s") as store:
        child = context.Process(target=_use, args=(store, answers))
        child.start()
        assert "'spawn'" in answers.get()
        child.join()
        assert child.exitcode == 0
        store.put(b"parent", b"1")
        assert list(store.scan(keys_only=True)) == [b"parent"]
