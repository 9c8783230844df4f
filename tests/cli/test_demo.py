from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import pytest
from click.testing import Result

import walkv
from walkv import AgentStore
from walkv.cli.demo import audit, child, command, facts, folder, report, telling, trial, twin
from walkv.cli.demo.effects import ABSENT, Effect, Effects, read
from walkv.cli.demo.folder import Listing, list_files
from walkv.cli.demo.trial import Begun, Expected, Heard, Run, Stepping

RunCommand = Callable[..., Result]
Start = Callable[..., subprocess.Popen[bytes]]
Fails = Callable[..., str]

ROWS = {
    "users": "write-through",
    "sessions": "wal",
    "messages": "wal",
    "workflows": "wal",
    "checkpoints": "wal",
    "tool calls": "write-back",
    "steps": "wal",
}
FILES = {
    "a.txt": b"Ada writes programs, programs for engines.\nengines\n",
    "empty": b"",
    "deep/er/b.bin": bytes(range(256)) * 50,
    "[x]\udcff\n": b"!",
    "deep/c.py": b"def compute():\n    pass\n\n\nclass Engine:\n    pass\n",
}
STEPS = len(FILES) + 3
"""Files, and a page for each directory."""


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder of files, and of things that are to be left out."""
    root = tmp_path / "files"
    for name, content in FILES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    for name in (".git/config", "x/__pycache__/y.pyc", ".venv/z", "node_modules/w"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"left out")
    (root / "link").symlink_to(root / "a.txt")
    (root / "link_to_folder").symlink_to(root / "deep")
    os.mkfifo(root / "fifo")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(root / "socket"))
    with walkv.open(root / "other.walkv") as store:
        store.put(b"k", b"v")
    return root


def listed(root: Path) -> Listing:
    (root.parent / "elsewhere").mkdir(exist_ok=True)
    return list_files(os.fsencode(root), os.fsencode(root.parent / "elsewhere"))


class TestFolder:
    def test_lists_regular_files_only(self, files: Path) -> None:
        listing = listed(files)
        assert set(listing.stamps) == {os.fsencode(name) for name in FILES}
        assert listing.total_bytes == sum(map(len, FILES.values()))
        assert listing.skipped == [(b"other.walkv", "a walkv store")]

    def test_leaves_out_the_place_of_the_store(self, files: Path) -> None:
        (files / "place").mkdir()
        (files / "place" / "trace").touch()
        listing = list_files(os.fsencode(files), os.fsencode(files / "place"))
        assert b"place/trace" not in listing.stamps

    def test_large_and_many_files(self, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(folder, "LARGEST_FILE_BYTES", 100)
        listing = listed(files)
        assert (b"deep/er/b.bin", "12,800 bytes, more than 100") in listing.skipped
        with pytest.raises(OSError, match="more than 100"):
            folder.read_file(os.fsencode(files / "deep/er/b.bin"))
        monkeypatch.setattr(folder, "MOST_FILES", 2)
        assert len(listed(files).stamps) == 2

    def test_reports_what_cannot_be_read(
        self, files: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Permissions do not stop the super-user, who may be running the tests.
        monkeypatch.setattr(os, "access", lambda path, mode: not path.endswith(b"a.txt"))
        listing = listed(files)
        assert (b"a.txt", "Permission denied") in listing.skipped
        assert b"a.txt" not in listing.stamps

    @pytest.mark.parametrize("name", ["fifo", "socket", "deep", "link", "none"])
    def test_reads_regular_files_only(self, files: Path, name: str) -> None:
        with pytest.raises(OSError):  # noqa: PT011  # of several kinds
            folder.read_file(os.fsencode(files / name))

    def test_the_stamp_tells_of_a_change(self, files: Path) -> None:
        path = os.fsencode(files / "a.txt")
        stamp = listed(files).stamps[b"a.txt"]
        assert folder.read_file(path) == (FILES["a.txt"], stamp)
        (files / "a.txt").write_bytes(b"Eda")
        os.utime(path, ns=(stamp[2], stamp[2]))  # as if nothing had happened
        data, now = folder.read_file(path)
        assert data == b"Eda"
        assert now != stamp

    def test_a_change_while_it_is_read_is_noticed(
        self, files: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path, stated = files / "a.txt", []
        fstat = os.fstat

        def fstat_late(descriptor: int) -> os.stat_result:
            if stated:
                path.write_bytes(FILES["a.txt"].upper())
            stated.append(descriptor)
            return fstat(descriptor)

        monkeypatch.setattr(folder.os, "fstat", fstat_late)
        assert folder.read_file(os.fsencode(path)) == (FILES["a.txt"], None)


class TestFacts:
    def test_of_a_text(self) -> None:
        found = facts.extract(b"a.txt", FILES["a.txt"])
        assert (found["size_bytes"], found["kind"], found["lines"]) == (51, "text", 2)
        assert found["words"] == {"engines": 2, "programs": 2, "writes": 1}
        said = facts.describe("a.txt", found)
        assert said == "a.txt: text, 2 lines, 51 bytes. Mostly about engines, programs, writes."

    @pytest.mark.parametrize(
        ("name", "data", "headings", "said"),
        [
            (b"a.md", b"# One\ntext\n\n## Two ##\n#no\n", ["One", "Two"], "Headings: One, Two."),
            (b"a.py", FILES["deep/c.py"], ["compute", "Engine"], "Defines compute, Engine."),
        ],
    )
    def test_headings_and_definitions(
        self, name: bytes, data: bytes, headings: list[str], said: str
    ) -> None:
        found = facts.extract(name, data)
        assert found["headings"] == headings
        assert said in facts.describe("x", found)

    @pytest.mark.parametrize(
        ("data", "kind"),
        [
            (b"", "empty"),
            (b"\xff\xfe", "binary"),
            (b"text with a \0 in it", "binary"),
            ("é".encode(), "text"),
            ("é".encode() * (150 * 1024), "text"),  # the cut goes through no character
            (b"x" + "é".encode() * (150 * 1024), "text"),  # and here it does
            ("é".encode()[:1], "binary"),
        ],
    )
    def test_kinds(self, data: bytes, kind: str) -> None:
        found = facts.extract(b"readme", data)
        assert found["kind"] == kind
        assert f"{len(data):,} bytes" in facts.describe("readme", found)

    @pytest.mark.parametrize("name", [b"a.\x1b[31m", b"a.\xff", b"a." + b"x" * 200])
    def test_an_odd_suffix_is_harmless(self, name: bytes) -> None:
        kind = facts.extract(name, b"text")["kind"]
        assert kind.isprintable()
        assert len(kind) <= 12

    def test_they_are_small_and_plain(self) -> None:
        data = b"".join(b"# heading%d %s\n" % (n, b"word%d " % n * 50) for n in range(10_000))
        found = facts.extract(b"a.md", data)
        assert len(json.dumps(found)) < 1_000
        assert json.loads(json.dumps(found)) == found

    def test_a_page(self) -> None:
        pages = {"a": facts.extract(b"a", FILES["a.txt"]), "b": {"unreadable": "gone"}}
        text = facts.page("docs", pages)
        assert text.splitlines()[0].startswith("docs: 2 files, 2 lines, 51 bytes; about engines")
        assert text.splitlines()[1:] == ["  a", "  b"]
        assert facts.describe("b", pages["b"]) == "b could not be read: gone."


class TestEffects:
    def test_what_is_appended_is_found(self, tmp_path: Path) -> None:
        path = str(tmp_path / "log")
        log = Effects(path)
        log.append("one", {"a": [1]})
        log.append("two", None)
        assert log.find("one") == {"a": [1]}
        assert log.find("two") is None
        assert log.find("three") is ABSENT
        log.close()
        assert read(path) == [Effect("one", {"a": [1]}), Effect("two", None)]

    def test_no_log(self, tmp_path: Path) -> None:
        assert read(str(tmp_path / "none")) == []

    def test_a_line_that_was_cut_short_is_none(self, tmp_path: Path) -> None:
        path = tmp_path / "log"
        whole = b'{"step": "one", "result": 1}\n'
        for cut in range(1, len(whole) - 1):  # the line break is none of the effect
            path.write_bytes(whole.replace(b"one", b"two") + whole[:cut])
            log = Effects(str(path))
            assert log.find("one") is ABSENT, cut
            log.append("one", 1)
            log.close()
            assert [each.step for each in read(str(path))] == ["two", "one"], cut


class TestSteps:
    def test_every_file_and_a_page_a_chapter(self) -> None:
        paths = [b"a", b"d/1", b"d/2", *(b"e/%02d" % number for number in range(30))]
        parts = child.chapters(paths)
        assert [(part.title, len(part.paths)) for part in parts] == [
            ("the folder", 1),
            ("d", 2),
            ("e", 12),
            ("e, part 2", 12),
            ("e, part 3", 6),
        ]
        steps = child.steps_of(parts)
        assert [step.number for step in steps] == list(range(len(paths) + len(parts)))
        assert [step.path for step in steps if step.path] == paths
        assert steps[1].about == "index of the folder"
        assert len(child.Step(0, 0, parts[0], b"x" * 4_000).about) <= 100

    def test_some_files_are_slow(self) -> None:
        slow = sum(child.is_slow(b"%d" % number) for number in range(1_200))
        assert 100 < slow < 300


# -- the audit -------------------------------------------------------------------------------------


class _StopError(Exception):
    """The agent has done enough."""


class Work:
    """An agent that works in this process, and what was heard of it."""

    def __init__(self, files: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        place.mkdir(exist_ok=True)
        self.store = str(place / "agent.walkv")
        self.effects = str(place / "effects.log")
        self.listing = listed(files)
        self.heard = Heard()
        self._patch = monkeypatch

    def go_on(self, step_count: int) -> Run:
        """Let it do so many steps."""
        run = Run()
        self.heard.runs.append(run)

        def tell(*message: Any) -> None:
            data = msgpack.packb(message)
            self.heard.hear(run, *msgpack.unpackb(data, use_list=False))
            if len(run.ended) == step_count:
                raise _StopError

        for module in (telling, child):
            self._patch.setattr(module, "tell", tell)
        log = Effects(self.effects)
        with AgentStore(self.store) as store, pytest.raises(_StopError):
            child.Agent(store, self.listing.root, list(self.listing.stamps), log).work()
        log.close()
        return run

    def audit(self, spoil: Callable[[AgentStore], Any] | None = None) -> audit.Audit:
        with AgentStore(self.store) as store:
            if spoil is not None:
                spoil(store)
            return audit.audit(store, self.heard, read(self.effects))


@pytest.fixture
def work(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Work:
    """An agent that has gone round the folder once and a bit, with two restarts."""
    work = Work(files, tmp_path / "place", monkeypatch)
    for step_count in (3, STEPS - 3, 4):
        work.go_on(step_count)
    return work


def row(found: audit.Audit, name: str) -> audit.Row:
    return next(row for row in found.rows if row.name == name)


class TestAudit:
    def test_all_is_well(self, work: Work) -> None:
        found = work.audit()
        assert (found.ok, found.lost, found.problems, found.repeated) == (True, 0, [], {})
        assert {row.name: row.policy for row in found.rows} == ROWS
        assert [(row.records, row.found) for row in found.rows] == [
            (row.acknowledged,) * 2 for row in found.rows
        ]
        assert row(found, "steps").acknowledged == found.effect_count == STEPS + 4
        assert row(found, "messages").acknowledged == 2 * (STEPS + 4)
        assert row(found, "sessions").acknowledged == 2
        assert found.tool_calls["success"] >= STEPS + 4
        assert (found.in_doubt, found.unacknowledged) == ([], 0)

    def test_what_was_left_is_taken_up(self, work: Work) -> None:
        first, second, third = work.heard.runs
        assert [run.resumed_at for run in (first, second, third)] == [
            Stepping(1, 1, STEPS, "[x]\\xff\\n"),
            Stepping(1, 4, STEPS, "index of the folder"),
            Stepping(2, 1, STEPS, "[x]\\xff\\n"),
        ]
        assert not any(run.recalled or run.doubts for run in work.heard.runs)
        with AgentStore(work.store) as store:
            assert store.sessions.get("round-0001").status == "completed"  # type: ignore[union-attr]
            state = store.checkpoints.get("round-0001").data  # type: ignore[union-attr]
            answers = store.messages.history("round-0001")
        assert state["next"] == STEPS
        assert len(state["files"]) == len(FILES)
        assert len(state["pages"]) == 3
        assert [answer.role for answer in answers] == ["user", "assistant"] * STEPS

    @pytest.mark.parametrize(
        ("name", "spoil"),
        [
            ("messages", lambda store: store.messages.delete(("round-0001", 4))),
            ("workflows", lambda store: store.workflows.delete("round-0001/0001")),
            ("users", lambda store: store.users.delete("demo")),
            ("sessions", lambda store: store.sessions.delete("round-0002")),
            ("checkpoints", lambda store: store.checkpoints.delete("round-0001", "00002")),
            (
                "tool calls",
                lambda store: store.executions.delete(
                    store.executions.list(role="writer")[0].execution_id
                ),
            ),
            (
                "steps",
                lambda store: store.executions.delete(
                    store.executions.scan(reverse=True, limit=1)[0].execution_id
                ),
            ),
        ],
    )
    def test_a_missing_record_is_noticed(self, work: Work, name: str, spoil: Any) -> None:
        found = work.audit(spoil)
        assert row(found, name).missing > 0
        assert not found.ok
        others = {each.name for each in found.rows if each.lost} - {name}
        assert others <= ({"messages"} if name == "sessions" else set())

    @pytest.mark.parametrize(
        ("name", "spoil"),
        [
            (
                "messages",
                lambda store: store.messages.update(("round-0001", 4), metadata={"x": 1}),
            ),
            ("workflows", lambda store: store.workflows.update("round-0001/0001", name="y")),
            ("users", lambda store: store.users.update_preferences("demo", {})),
            ("sessions", lambda store: store.sessions.update("round-0001", status="failed")),
            (
                "checkpoints",
                lambda store: store.checkpoints.put("round-0001", "00002", {"next": 2}),
            ),
            (
                "tool calls",
                lambda store: store.executions.update(
                    store.executions.list(role="writer")[0].execution_id, output_data=1
                ),
            ),
        ],
    )
    def test_another_record_is_noticed(self, work: Work, name: str, spoil: Any) -> None:
        found = work.audit(spoil)
        assert [(each.name, each.wrong) for each in found.rows if each.lost] == [(name, 1)]
        assert not found.ok

    def test_what_a_kill_cut_off_may_be_as_it_likes(self, work: Work) -> None:
        place = ("users", ("demo",))
        work.heard.runs[-1].cut_off = Begun("changing the user", [place], 0)
        work.heard.kill(work.heard.runs[-1])
        assert work.heard.expected[place].in_doubt
        assert work.audit(lambda store: store.users.update_preferences("demo", {})).ok

    def test_records_that_nobody_wrote_are_noticed(self, work: Work) -> None:
        found = work.audit(lambda store: store.messages.append("round-0001", role="x", content=1))
        assert found.unacknowledged == 1
        assert found.problems == ["1 records are there that nobody wrote"]
        work.heard.runs[-1].cut_off = Begun("storing the question", [], 1)
        assert work.audit().ok

    def test_what_was_committed_together_is_counted(self, work: Work) -> None:
        def spoil(store: AgentStore) -> None:
            changed = store.sessions.update("round-0001", increment_requests=True)
            user = store.users.get("demo")
            store.users.add_usage("demo", task_count=1)
            work.heard.expected[telling.place(changed)] = Expected(telling.content(changed))
            work.heard.expected[telling.place(user)] = Expected(b"", in_doubt=True)

        found = work.audit(spoil)
        assert found.lost == 0
        assert [problem.partition(" ")[0] for problem in found.problems] == ["round-0001", "4"]

    def test_a_step_that_was_done_twice_is_noticed(self, work: Work) -> None:
        log = Path(work.effects)
        lines = log.read_bytes().splitlines(keepends=True)
        log.write_bytes(b"".join([*lines, lines[2]]))
        found = work.audit()
        assert list(found.repeated.values()) == [2]
        assert not found.ok

    def test_a_step_that_was_not_done_is_noticed(self, work: Work) -> None:
        log = Path(work.effects)
        lines = log.read_bytes().splitlines(keepends=True)
        log.write_bytes(b"".join(lines[:2] + lines[3:]))
        found = work.audit()
        assert len(found.undone) == found.lost == 1
        assert not found.ok

    def test_another_result_than_the_recorded_one_is_noticed(self, work: Work) -> None:
        log = Path(work.effects)
        log.write_bytes(log.read_bytes().replace(b'"size_bytes": 51', b'"size_bytes": 52', 1))
        (problem,) = work.audit().problems
        assert problem.endswith("has another result than its effect")

    def test_an_effect_before_its_time_is_noticed(self, work: Work) -> None:
        with Path(work.effects).open("ab") as log:
            log.write(b'{"step": "round-0009/00001 x", "result": 1}\n')
        (problem,) = work.audit().problems
        assert problem == "step round-0009/00001 x took effect before it had begun"

    def test_a_disagreement_at_a_restart_is_noticed(self, work: Work) -> None:
        with AgentStore(work.store) as store:
            store.sessions.update("round-0002", metadata={"x": 1})
        work.go_on(1)
        (problem,) = work.audit().problems
        assert problem == "('sessions', ('round-0002',)) was not as acknowledged"

    def test_a_disagreement_between_records_and_indexes_is_noticed(self, work: Work) -> None:
        def spoil(store: AgentStore) -> None:
            key = next(iter(store.store.scan(b"\0messages\0i", keys_only=True)))
            store.store.delete(key)

        found = work.audit(spoil)
        assert any("index entry" in problem for problem in found.problems)

    def test_damage_is_noticed(self, work: Work) -> None:
        with walkv.open(work.store) as store:
            store.compact()
        (file,) = (Path(work.store) / "snapshots").iterdir()
        data = bytearray(file.read_bytes())
        for at in range(4_096, len(data) - 4_096, 64):
            data[at] ^= 1
        file.write_bytes(data)
        found = work.audit()
        assert found.lost > 0
        assert any("checksum" in problem for problem in found.problems)

    def test_a_store_that_does_not_open_has_lost_everything(self, work: Work) -> None:
        found = audit.lost_all(work.heard, "it does not open")
        assert found.lost == len(work.heard.expected)
        assert not found.ok


def test_what_was_done_before_a_kill_is_not_done_again(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All states that a kill can leave a step in, one after the other."""
    work = Work(files, tmp_path / "place", monkeypatch)
    work.go_on(1)
    path = list(work.listing.stamps)[1]
    with AgentStore(work.store) as store:
        agent = child.Agent(
            store, work.listing.root, list(work.listing.stamps), Effects(os.devnull)
        )
        agent.session_id = "round-0001"
        step = agent.steps[1]
        key = f"step/{agent.key(step)}"

        def killed(*_: Any) -> None:
            raise _StopError

        # Begun, and nothing done: a kill leaves no trace of how it ended.
        monkeypatch.setattr(type(store.executions.steps), "_end_failed", lambda *_: None)
        with pytest.raises(_StopError):
            store.executions.once(agent.key(step), killed)
    run = work.go_on(1)
    assert run.doubts == [(agent.key(step), False)]
    assert [effect.step for effect in read(work.effects)].count(agent.key(step)) == 1

    # Begun and done, and not recorded.
    with AgentStore(work.store) as store:
        step = agent.steps[2]
        with pytest.raises(_StopError):
            store.executions.once(agent.key(step), killed)
    log = Effects(work.effects)
    log.append(agent.key(step), {"unreadable": "as the log says"})
    log.close()
    run = work.go_on(1)
    assert run.doubts == [(agent.key(step), True)]
    assert [effect.step for effect in read(work.effects)].count(agent.key(step)) == 1

    # Recorded, and in no checkpoint.
    step = agent.steps[3]
    with AgentStore(work.store) as store:
        store.executions.once(agent.key(step), lambda: {"page": "as the store says"})
    run = work.go_on(1)
    assert run.recalled == [agent.key(step)]
    with AgentStore(work.store) as store:
        answers = [message.content for message in store.messages.history("round-0001")]
        assert store.executions.get(key).output_data == facts.extract(  # type: ignore[union-attr]
            path, (files / os.fsdecode(path)).read_bytes()
        )
    assert answers[5] == f"{agent.steps[2].about} could not be read: as the log says."
    assert answers[7] == "as the store says"


def test_tool_calls_that_were_cut_off_are_closed(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = Work(files, tmp_path / "place", monkeypatch)
    work.go_on(1)
    with AgentStore(work.store) as store:
        cut_off = store.executions.start(role="reader", tool_name="read_file")
    run = work.go_on(1)
    assert run.opened is not None
    assert run.opened.cut_off_count == 1
    with AgentStore(work.store) as store:
        closed = store.executions.get(cut_off.execution_id)
    assert closed is not None
    assert (closed.status, closed.error_message) == ("cancelled", "its process was killed")
    assert work.audit().tool_calls["cancelled"] == 1


def test_a_file_that_is_gone_is_a_step_too(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = Work(files, tmp_path / "place", monkeypatch)
    (files / "a.txt").unlink()
    run = work.go_on(STEPS)
    assert work.heard.skipped == {b"a.txt": "No such file or directory"}
    assert len(run.ended) == STEPS
    assert work.audit().ok


def test_slow_tools_are_called_again(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child, "is_slow", lambda path: path == b"a.txt")
    work = Work(files, tmp_path / "place", monkeypatch)
    work.go_on(STEPS)
    with AgentStore(work.store) as store:
        failed = store.executions.list(status="failed")
        again = store.executions.query(tool_name="read_file").order_by("started_at").all()
    (only,) = failed
    assert only.error_message == "TimeoutError: no answer for a.txt in time"
    attempts = [(each.input_data["attempt"], each.status) for each in again]
    assert Counter(attempts) == {(1, "success"): 4, (1, "failed"): 1, (2, "success"): 1}
    assert work.audit().tool_calls["failed"] == 1


class TestTwin:
    def test_it_holds_the_same_records(self, work: Work, tmp_path: Path) -> None:
        path = tmp_path / "same.sqlite"
        done: list[int] = []
        with AgentStore(work.store) as store:
            made = twin.write(str(path), store, work.heard.calls, done.append)
            assert made is not None
            assert made.size_bytes == path.stat().st_size > 10_000
            assert made.elapsed_seconds > 0
            assert done == [0]
            database = sqlite3.connect(path)
            for name in ("users", "sessions", "messages", "workflows", "executions"):
                (count,) = database.execute(f"SELECT count(*) FROM {name}").fetchone()
                assert count == store.by_name[name].count(), name
            for thread, checkpoint_id, text in database.execute("SELECT * FROM checkpoints"):
                checkpoint = store.checkpoints.get(thread, checkpoint_id)
                assert checkpoint is not None
                assert json.loads(text)["data"] == checkpoint.data
            (content,) = database.execute(
                "SELECT json_extract(record, '$.content') FROM messages WHERE seq = 2"
            ).fetchone()
            message = store.messages.get(("round-0001", 2))
            assert message is not None
            assert content == message.content
            database.close()

    def test_what_sqlite_cannot_do_is_an_error_of_its_own(self, work: Work, tmp_path: Path) -> None:
        with (
            AgentStore(work.store) as store,
            pytest.raises(OSError, match="SQLite: unable to open") as caught,
        ):
            twin.write(str(tmp_path), store, work.heard.calls, print)
        assert caught.value.filename == str(tmp_path)

    def test_without_sqlite(
        self, work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "sqlite3", None)
        with AgentStore(work.store) as store:
            assert twin.write(str(tmp_path / "x"), store, work.heard.calls, print) is None


# -- the command -----------------------------------------------------------------------------------


def sabotage(program: str) -> list[str]:
    """A command for a child that first does something else."""
    start = trial._child_command()
    run = start[3].replace(" main()", f" exec({program!r}); main()")
    return [*start[:3], run, *start[4:]]


class TestDemo:
    def test_loses_and_repeats_nothing(self, run: RunCommand, files: Path, tmp_path: Path) -> None:
        place = tmp_path / "place"
        arguments = ("--kills", "3", "--seconds", "0.3", "--seed", "7", "--directory", place)
        result = run("demo", files, *arguments)
        lines = result.stdout.splitlines()
        assert f"folder  {files} (5 files, 12.6 KiB)" in lines
        assert f"store   {place} (kept)" in lines
        assert "seed    7" in lines
        assert "walkv: skipped other.walkv: a walkv store\n" in result.stderr
        assert [line for line in lines if line.startswith("run ")] == ["run 1", "run 2", "run 3"]
        assert result.stdout.count("  a new store, and nothing in it\n") == 1
        assert result.stdout.count("  opened again in ") == 2
        assert result.stdout.count("  the last checkpoint says where to go on: round ") == 2
        assert result.stdout.count("  killed after 0.") == 3
        assert "none twice, none missing" in result.stdout
        for name, policy in ROWS.items():
            (found,) = [line for line in lines if f"{name}  " in line and policy in line]
            records, acknowledged, there, lost = found.split()[-4:]
            assert int(acknowledged.replace(",", "")) > 0
            assert (there, lost) == (acknowledged, "0")
            assert int(records.replace(",", "")) >= int(acknowledged.replace(",", ""))
        assert "3 kills: of " in result.stdout
        assert (place / "same.sqlite").stat().st_size > 10_000
        hints = [line.split() for line in lines if line.startswith("  walkv ")]
        assert len(hints) == 4
        assert "rm -r" not in result.stdout
        for _, *words in hints:
            assert run(*words).stdout
        assert "walkv: run 2: the agent works until it is killed\n" in result.stderr

    def test_json(self, start: Start, files: Path, tmp_path: Path) -> None:
        environment = os.environ | {"TMPDIR": str(tmp_path)}
        arguments = ("demo", files, "--kills=2", "--seconds=0.3", "--json")
        with start(*arguments, env=environment) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            found = json.loads(process.stdout.read())
            process.stderr.read()
        assert process.returncode == 0
        assert (found["ok"], found["lost"], found["file_count"]) == (True, 0, 5)
        assert (found["repeated"], found["undone"], found["problems"]) == ({}, [], [])
        assert found["error"] == ""
        assert isinstance(found["seed"], int)
        assert Path(found["directory"]).parent == tmp_path
        assert {row["kind"]: row["policy"] for row in found["namespaces"]} == ROWS
        for row in found["namespaces"]:
            assert row["acknowledged"] == row["found"] > 0
            assert row["missing"] == row["wrong"] == row["lost"] == 0
        assert [each["error"] for each in found["runs"]] == ["", ""]
        assert [each["opened"]["created"] for each in found["runs"]] == [True, False]
        assert found["runs"][1]["opened"]["frame_count"] > 0
        assert found["runs"][0]["killed_at"]["step_count"] == STEPS
        assert found["step_count"] == sum(each["step_count"] for each in found["runs"])
        # Each kill may have come between an effect and the word that its step has ended.
        assert 0 <= found["effect_count"] - found["step_count"] <= 2
        assert 0 < found["disk_bytes"]["walkv"] < found["disk_bytes"]["sqlite"]
        assert len(Path(found["effects"]).read_bytes().splitlines()) >= found["effect_count"]
        with AgentStore(found["store"], read_only=True) as store:
            assert store.messages.count("round-0001") > 0

    def test_interrupt_kills_the_agent(self, start: Start, files: Path, tmp_path: Path) -> None:
        with start("demo", files, "--seconds=60", "--directory", tmp_path / "place") as process:
            assert process.stderr is not None
            log = tmp_path / "place" / "effects.log"
            while not log.exists():
                assert process.poll() is None
            process.send_signal(signal.SIGINT)
            last = process.stderr.read().splitlines()[-1]
        assert (last, process.returncode) == (b"walkv: interrupted", 130)
        walkv.open(tmp_path / "place" / "agent.walkv").close()  # nobody has the lock any more

    def fake(self, monkeypatch: pytest.MonkeyPatch, work: Work, spoil: Any) -> None:
        """Let the demo hear of work that is then tampered with."""

        def run_until_killed(*given: Any) -> Run:
            heard: Heard = given[3]
            heard.expected, heard.calls = work.heard.expected, work.heard.calls
            heard.runs.append(work.heard.runs[0])
            os.rename(work.store, given[0])
            os.rename(work.effects, given[1])
            with AgentStore(given[0]) as store:
                spoil(store, Path(given[1]))
            return heard.runs[-1]

        monkeypatch.setattr(trial, "run_until_killed", run_until_killed)

    def test_a_loss_is_told(
        self, run: RunCommand, work: Work, files: Path, tmp_path: Path, monkeypatch: Any
    ) -> None:
        self.fake(monkeypatch, work, lambda store, _: store.messages.delete(("round-0001", 4)))
        place = tmp_path / "again"
        result = run("demo", files, "--kills=1", "--directory", place, status=1)
        total = len(work.heard.expected)
        assert f"LOST: 1 of {total} acknowledged records and steps." in result.stdout
        assert "none was lost" not in result.stdout
        assert not (place / "same.sqlite").exists()

    def test_a_repetition_is_told(
        self, run: RunCommand, work: Work, files: Path, tmp_path: Path, monkeypatch: Any
    ) -> None:
        def spoil(_: AgentStore, log: Path) -> None:
            log.write_bytes(log.read_bytes() + log.read_bytes().splitlines(keepends=True)[0])

        self.fake(monkeypatch, work, spoil)
        place = tmp_path / "again"
        result = run("demo", files, "--kills=1", "--directory", place, status=1)
        assert "REPEATED: step 1 ([x]\\xff\\n) took effect 2 times" in result.stdout
        assert "REPEATED: 1 steps took effect more than once." in result.stdout

    def test_it_is_told_to_programs_too(
        self, run: RunCommand, work: Work, files: Path, tmp_path: Path, monkeypatch: Any
    ) -> None:
        def spoil(store: AgentStore, log: Path) -> None:
            log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[1:]))

        self.fake(monkeypatch, work, spoil)
        place = tmp_path / "again"
        result = run("demo", files, "--kills=1", "--directory", place, "--json", status=1)
        found = json.loads(result.stdout)
        assert (found["ok"], found["lost"]) == (False, 1)
        assert found["undone"] == ["round-0001/00001 [x]\\xff\\n"]

    def test_a_store_that_does_not_open_has_lost_everything(
        self, run: RunCommand, work: Work, files: Path, tmp_path: Path, monkeypatch: Any
    ) -> None:
        def spoil(store: AgentStore, _: Path) -> None:
            store.close()
            (Path(store.path) / "MANIFEST").write_bytes(b"x")

        self.fake(monkeypatch, work, spoil)
        place = tmp_path / "again"
        result = run("demo", files, "--kills=1", "--directory", place, status=1)
        total = len(work.heard.expected)
        assert f"LOST: {total} of {total} acknowledged records and steps." in result.stdout
        assert "PROBLEM: " in result.stdout

    def test_an_agent_that_repeats_a_step_is_caught(
        self, run: RunCommand, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # It sleeps where a kill leaves a step in doubt, and does not look into the log then.
        program = (
            "import time; from walkv.cli.demo import effects\n"
            "append = effects.Effects.append\n"
            "def slow(log, step, result):\n"
            "    append(log, step, result)\n"
            "    if '00003' in step: time.sleep(60)\n"
            "effects.Effects.append = slow\n"
            "effects.Effects.find = lambda log, step: effects.ABSENT\n"
        )
        broken = sabotage(program)
        monkeypatch.setattr(trial, "_child_command", lambda: broken)
        arguments = ("--kills=2", "--seconds=0.3", "--directory", tmp_path / "place")
        result = run("demo", files, *arguments, status=1)
        assert "took effect 2 times" in result.stdout
        assert "REPEATED: 1 steps took effect more than once." in result.stdout

    def test_an_agent_that_acknowledges_what_it_did_not_store_is_caught(
        self, run: RunCommand, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        program = (
            "from walkv.namespaces.messages import Message, Messages\n"
            "append = Messages.append\n"
            "def lie(self, session_id, *, message_id, **given):\n"
            "    made = Message(session_id, 4, message_id, *given.values(), {}, self.now())\n"
            "    if message_id == '00002-answer': return made\n"
            "    return append(self, session_id, message_id=message_id, **given)\n"
            "Messages.append = lie\n"
        )
        broken = sabotage(program)
        monkeypatch.setattr(trial, "_child_command", lambda: broken)
        arguments = ("--kills=1", "--seconds=0.3", "--directory", tmp_path / "place")
        result = run("demo", files, *arguments, status=1)
        assert "answers" in result.stdout
        assert "PROBLEM: round-0001 has " in result.stdout

    def test_a_failed_agent_is_told(
        self, run: RunCommand, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        program = trial._child_command()
        broken = [*program[:3], "raise SystemExit('no such luck')"]
        monkeypatch.setattr(trial, "_child_command", lambda: broken)
        result = run("demo", files, "--directory", tmp_path / "place", status=1)
        message = "failed: the agent ended by itself, with status 1: no such luck"
        assert result.stdout.count(message) == 1
        assert "The demo failed, see above." in result.stdout

    def test_an_agent_that_cannot_open_its_store(self, files: Path, tmp_path: Path) -> None:
        path = str(tmp_path / "small.walkv")
        with walkv.open(path):
            run = self.trial(path, files, 3_600)
        assert "has this store open for writing" in run.error

    def trial(self, path: str, files: Path, seconds: float, heard: Heard | None = None) -> Run:
        log = str(files.parent / "log")
        heard = heard or Heard()
        return trial.run_until_killed(path, log, listed(files), heard, seconds, lambda text: None)

    def test_stops_early_rather_than_fill_the_disk(
        self, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("_MOST_CALLS", "_MOST_STATE_BYTES"):
            with monkeypatch.context() as patch:
                patch.setattr(trial, name, 10)
                heard = Heard()
                for _ in range(2):
                    run = self.trial(str(tmp_path / name), files, 3_600, heard)
                    assert run.error == ""
                    assert run.killed_after_seconds > 0
                assert heard.enough

    def test_the_working_directory_does_not_matter(
        self, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "random.py").write_text("raise SystemExit('wrong module')")
        (tmp_path / "walkv.py").write_text("raise SystemExit('wrong module')")
        monkeypatch.chdir(tmp_path)
        run = self.trial("here.walkv", files, 0)
        assert run.error == ""
        assert run.commit_count

    def test_the_seed_repeats_the_moments(
        self, run: RunCommand, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        moments: list[float] = []

        def run_until_killed(*given: Any) -> Run:
            moments.append(given[4])
            given[3].runs.append(Run(error=""))
            return Run()

        monkeypatch.setattr(trial, "run_until_killed", run_until_killed)
        for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
            place = ("--directory", tmp_path / name)
            run("demo", files, *place, "--seed", seed, "--kills=4", "--seconds=2", status=1)
        assert moments[:4] == moments[4:8] != moments[8:]
        assert len(set(moments[:4])) == 4
        assert all(0.6 <= moment <= 2 for moment in moments)

    def test_its_own_files_are_the_default(self) -> None:
        root = command._own_files()
        assert root / "walkv" / "__init__.py" == Path(walkv.__file__)
        assert (root / "pyproject.toml").is_file()

    def test_bad_arguments(self, fails: Fails, files: Path, tmp_path: Path) -> None:
        assert "there is no folder" in fails("demo", tmp_path / "none", status=2)
        assert "there is no folder" in fails("demo", files / "a.txt", status=2)
        (tmp_path / "bare").mkdir()
        message = fails("demo", tmp_path / "bare", "--directory", tmp_path / "place")
        assert message == f"{tmp_path / 'bare'}: there is no file to read in this folder"
        for name in ("agent.walkv", "effects.log", "same.sqlite"):
            (tmp_path / "place" / name).touch()
            message = fails("demo", files, "--directory", tmp_path / "place")
            assert message.startswith(f"{tmp_path / 'place' / name}: is there already")
            (tmp_path / "place" / name).unlink()
        assert "range" in fails("demo", files, "--seconds", "1e9", status=2)
        assert "range" in fails("demo", files, "--kills", "0", status=2)


class TestReport:
    def lines(self, run: Run) -> list[str]:
        return list(report.run_lines(run))

    def test_what_a_kill_did(self) -> None:
        run = Run(
            opened=trial.Opening(False, 1_234, 56, 7.8, 1),
            resumed_at=Stepping(2, 3, 40, "a.txt"),
            at=Stepping(2, 9, 40, "b.txt"),
            ended=["x"] * 6,
            commit_count=48,
            doubts=[("round-0002/00003 a.txt", True), ("round-0002/00004 c.txt", False)],
            recalled=["round-0002/00005 d.txt"],
            cut_off=Begun("storing the question", [], 1),
            killed_after_seconds=1.25,
        )
        assert self.lines(run) == [
            "opened again in 8 ms: 1,234 commits replayed, 56 bytes of an unfinished one cut off",
            "the last checkpoint says where to go on: round 2, step 3 of 40",
            "1 tool call cut off, and noted as cancelled",
            "step 3 (a.txt) had begun and not ended: the effects log has its line, so it is not "
            "done again",
            "step 4 (c.txt) had begun and not ended: the effects log has no line of it, so it is "
            "done now",
            "step 5 (d.txt) had ended, behind the last checkpoint: its result is recalled",
            "6 steps, 48 commits acknowledged",
            "killed after 1.25 s in step 9 (b.txt), while storing the question",
        ]

    def test_between_two_calls(self) -> None:
        run = Run(at=Stepping(1, 9, 40, "b.txt"), last="storing the question")
        run.killed_after_seconds = 1.0
        (line,) = self.lines(run)
        assert line.endswith("(b.txt), between two calls, after storing the question")
