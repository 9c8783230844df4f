from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import walkv
from tests.ops.backup_help import no_syncs
from tests.support.processes import run
from walkv.errors import BackupError
from walkv.ops import BackupSchedule, backup, backups, restore, verify_backups
from walkv.ops.backing import schedule as schedule_module

__all__ = ["no_syncs"]

PATIENCE_SECONDS = 60.0


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[walkv.AgentStore]:
    with walkv.AgentStore(tmp_path / "agent.walkv") as opened:
        opened.sessions.create("s1", user_id="ada")
        yield opened


def wait_until(found: Callable[[], Any]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not found():
        assert time.monotonic() < deadline, "it has not happened"
        time.sleep(0.01)


def test_again_and_again(agent: walkv.AgentStore, tmp_path: Path) -> None:
    target = tmp_path / "b"
    schedule = agent.schedule_backups(target, every_seconds=0.02, keep=3)
    names = set()

    def seen_five() -> bool:
        if schedule.last_report is not None:
            names.add(schedule.last_report.name)
        return len(names) >= 5

    wait_until(seen_five)
    assert schedule.running
    assert schedule.last_error is None
    assert schedule.target == str(target)
    agent.close()
    assert not schedule.running
    found = backups(target)
    assert len(found) == 3
    assert verify_backups(target).ok
    restore(target, tmp_path / "r")
    with walkv.AgentStore(tmp_path / "r") as restored:
        assert restored.sessions.get("s1").user_id == "ada"
    time.sleep(0.1)
    assert backups(target) == found


def test_the_first_one_waits_for_its_time(agent: walkv.AgentStore, tmp_path: Path) -> None:
    target = tmp_path / "b"
    backup(agent, target)
    schedule = agent.schedule_backups(target, every_seconds=3600)
    time.sleep(0.2)
    assert schedule.last_report is None
    assert len(backups(target)) == 1
    schedule.stop()
    schedule.stop()
    (old,) = (target / "backups").iterdir()
    old.unlink()
    schedule = agent.schedule_backups(target, every_seconds=3600)
    wait_until(lambda: schedule.last_report)
    schedule.stop()


def test_what_goes_wrong_is_told_and_tried_again(
    agent: walkv.AgentStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    target = tmp_path / "b"
    target.write_text("a file")
    told: list[Exception] = []

    def on_error(error: Exception) -> None:
        told.append(error)
        raise RuntimeError("in the callback")

    schedule = agent.schedule_backups(target, every_seconds=0.02, on_error=on_error)
    wait_until(lambda: len(told) >= 2)
    assert isinstance(schedule.last_error, BackupError)
    assert "no backup was made" in caplog.text
    assert "on_error failed" in caplog.text
    target.unlink()
    wait_until(lambda: schedule.last_report)
    wait_until(lambda: schedule.last_error is None)


def test_closing_gives_up_what_is_being_made(
    agent: walkv.AgentStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "b"
    for number in range(3):
        agent.store.put(b"%d" % number, os.urandom(8 << 20))
    began = threading.Event()
    real = backup

    def slow(*arguments: Any, progress: Any, **options: Any) -> Any:
        def noticed(done: int, total: int) -> None:
            began.set()
            progress(done, total)

        return real(*arguments, progress=noticed, max_bytes_per_second=1000, **options)

    monkeypatch.setattr(schedule_module, "backup", slow)
    schedule = agent.schedule_backups(target, every_seconds=3600)
    assert began.wait(PATIENCE_SECONDS)
    agent.close()
    assert not schedule.running
    assert schedule.last_error is None
    assert list((target / "backups").iterdir() if target.exists() else ()) == []


def test_arguments(agent: walkv.AgentStore, tmp_path: Path) -> None:
    for wrong in ({"every_seconds": 0}, {"every_seconds": 1, "keep": 0}):
        with pytest.raises(ValueError, match="0"):
            agent.schedule_backups(tmp_path / "b", **wrong)  # type: ignore[arg-type]
    agent.close()
    with pytest.raises(walkv.ClosedError):
        agent.schedule_backups(tmp_path / "b", every_seconds=1)


def test_for_tasks(tmp_path: Path) -> None:
    async def main() -> BackupSchedule:
        async with walkv.AsyncAgentStore(tmp_path / "a") as agent:
            await agent.sessions.create("s1", user_id="ada")
            schedule = await agent.schedule_backups(tmp_path / "b", every_seconds=0.02)
            while schedule.last_report is None:
                await asyncio.sleep(0.01)
        return schedule

    schedule = asyncio.run(main())
    assert not schedule.running
    assert backups(tmp_path / "b")[0].sequence > 0


def test_a_forked_child_makes_none(tmp_path: Path) -> None:
    assert (
        run(
            f"""
            import os, time, warnings, walkv
            from walkv.ops import backups
            warnings.simplefilter("ignore", DeprecationWarning)
            agent = walkv.AgentStore({str(tmp_path / "a")!r})
            schedule = agent.schedule_backups({str(tmp_path / "b")!r}, every_seconds=3600)
            while schedule.last_report is None:
                time.sleep(0.01)
            child = os.fork()
            if child == 0:
                assert not schedule.running
                schedule.stop()
                os._exit(7)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
            assert schedule.running
            agent.close()
            assert not schedule.running
            print(len(backups({str(tmp_path / "b")!r})))
            """
        )
        == "1\n"
    )


def test_a_program_may_end_without_closing(tmp_path: Path) -> None:
    run(
        f"""
        import time, walkv
        agent = walkv.AgentStore({str(tmp_path / "a")!r})
        schedule = agent.schedule_backups({str(tmp_path / "b")!r}, every_seconds=0.01)
        while schedule.last_report is None:
            time.sleep(0.01)
        """
    )
    assert verify_backups(tmp_path / "b").ok
