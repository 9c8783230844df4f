"""Checkpoints against dictionaries; what they cost, what damage does, and what a crash leaves."""

from __future__ import annotations

import asyncio
import base64
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

import walkv
from walkv import (
    AgentStore,
    AsyncAgentStore,
    CodecError,
    CorruptionError,
    LimitError,
    RecordExistsError,
    RecordNotFoundError,
    WalkvError,
)
from walkv.namespaces import codec
from walkv.namespaces.checkpoints import WRITES_IDX, Checkpoint, PendingWrite, Pruned
from walkv.namespaces.checkpoints.states import LANE_BITS, MAX_LANE, States
from walkv.testing import SimulatedFileSystem

OTHER = b"\0checkpoints\0x"
PARTS = OTHER + b"p"
Document = dict[str, Any]


def text(seed: int, size_bytes: int) -> str:
    """Text that does not compress much, always the same for a seed."""
    return base64.b64encode(random.Random(seed).randbytes(size_bytes * 3 // 4)).decode()


def conversation(count: int, size_bytes: int = 600, **rest: Any) -> Document:
    """A state of some messages."""
    messages = [{"role": "user", "id": n, "content": text(n, size_bytes)} for n in range(count)]
    return {"messages": messages, "step": count, **rest}


@pytest.fixture
def fs() -> SimulatedFileSystem:
    return SimulatedFileSystem()


@pytest.fixture
def agent(fs: SimulatedFileSystem) -> Iterator[AgentStore]:
    with AgentStore("/a.walkv", filesystem=fs) as opened:
        yield opened
        assert opened.verify() == []


def ids(found: list[Checkpoint]) -> list[str]:
    return [checkpoint.checkpoint_id for checkpoint in found]


def put_steps(agent: AgentStore, thread_id: str, count: int, **options: Any) -> None:
    for n in range(count):
        agent.checkpoints.put(thread_id, f"c{n}", conversation(n), **options)


def left_behind(agent: AgentStore) -> list[bytes]:
    """Keys of the namespace, but for the counter of pools."""
    scan = agent.store.scan(b"\0checkpoints\0", keys_only=True)
    return [key for key in scan if key != OTHER + b"n"]


def parts_of(agent: AgentStore) -> dict[bytes, bytes]:
    return {key: value for key, value in agent.store.scan(PARTS) if key[-9:-8] == b"p"}


def written_bytes(agent: AgentStore) -> int:
    """Bytes that commits have written to the log."""
    return agent.store.engine.write_log.position  # type: ignore[union-attr]


def check_nothing_leaked(agent: AgentStore) -> None:
    """No part that nothing needs, unless it is counted; no pool without a thread."""
    pools = {
        int.from_bytes(key[len(PARTS) :][:8], "big")
        for key in agent.store.scan(PARTS, keys_only=True)
    }
    threads = agent.checkpoints._threads
    members = {pool: threads.members(agent.store, pool) for pool in pools}
    assert all(members.values())
    known = {thread_id for each in members.values() for thread_id in each}
    for thread_id in agent.checkpoints.threads():
        thread = threads.get(agent.store, thread_id)
        assert thread is not None
        assert thread_id in members.get(thread.pool, threads.members(agent.store, thread.pool))
        spaces = agent.checkpoints.namespaces(thread_id)
        assert any(agent.checkpoints.get_record(thread_id, namespace=each) for each in spaces)
    assert known <= set(agent.checkpoints.threads())
    tx = agent.store.transaction()
    for pool in sorted(pools):
        gone, most = threads.debt(agent.store, pool)
        assert 0 <= gone <= most
        freed_bytes = agent.checkpoints._collect(tx, pool)
        assert gone or not freed_bytes
    tx.discard()


# -- one after the other -------------------------------------------------------------------------


def test_put_and_get(agent: AgentStore, fs: SimulatedFileSystem) -> None:
    now = datetime.fromtimestamp(fs.clock.wall_ns / 1e9, UTC)
    data = conversation(5) | {"at": now, "key": (1, "a"), "tags": {"x"}, "big": 1 << 90}
    made = agent.checkpoints.put("t1", "c1", data, metadata={"step": 1}, run_id="r1")
    assert (made.thread_id, made.namespace, made.checkpoint_id) == ("t1", "", "c1")
    assert (made.parent_id, made.run_id, made.created_at) == (None, "r1", now)
    assert made.size_bytes == len(codec.encode(data))
    assert agent.checkpoints.get("t1") == made
    assert agent.checkpoints.get("t1", "c1") == made
    second = agent.checkpoints.put("t1", "c2", None, parent_id="c1")
    assert agent.checkpoints.get("t1") == second
    assert agent.checkpoints.get("t1", "c1") == made
    assert agent.checkpoints.get("t1", "c3") is None
    assert agent.checkpoints.get("t2") is None
    assert agent.checkpoints.get("t1", namespace="sub") is None
    assert agent.checkpoints.exists("t1", "c1")
    assert agent.checkpoints.exists("t1")
    assert not agent.checkpoints.exists("t1", "c3")
    assert not agent.checkpoints.exists("t1", namespace="sub")
    record = agent.checkpoints.get_record("t1", "c1")
    assert record is not None
    assert (record.metadata, record.run_id, record.state_bytes) == (
        {"step": 1},
        "r1",
        made.size_bytes,
    )


def test_list_is_newest_first_and_pages(agent: AgentStore) -> None:
    put_steps(agent, "t1", 25)
    names = [f"c{n}" for n in reversed(range(25))]
    assert ids(agent.checkpoints.list("t1")) == names[:10]
    assert ids(agent.checkpoints.list("t1", limit=None)) == names
    assert ids(agent.checkpoints.list("t1", 3, before="c20")) == ["c19", "c18", "c17"]
    assert ids(agent.checkpoints.list("t1", before="c2")) == ["c1", "c0"]
    assert agent.checkpoints.list("t1", before="c0") == []
    assert agent.checkpoints.list("t1", 0) == []
    assert agent.checkpoints.list("t0") == []
    assert [c.data for c in agent.checkpoints.list("t1", 2)] == [
        conversation(24),
        conversation(23),
    ]
    assert [c.data for c in agent.checkpoints.list("t1", 2, with_data=False)] == [None, None]
    with pytest.raises(RecordNotFoundError, match="'t1' has no checkpoint 'c99'"):
        agent.checkpoints.list("t1", before="c99")
    with pytest.raises(ValueError, match="limit"):
        agent.checkpoints.list("t1", limit=-1)


def test_putting_one_again_replaces_it_in_its_place(agent: AgentStore) -> None:
    put_steps(agent, "t1", 4, run_id="r1")
    agent.checkpoints.put("t1", "c1", {"new": text(9, 5000)}, run_id="r2", parent_id="c0")
    assert ids(agent.checkpoints.list("t1")) == ["c3", "c2", "c1", "c0"]
    found = agent.checkpoints.get("t1", "c1")
    assert found is not None
    assert (found.data, found.run_id, found.parent_id) == ({"new": text(9, 5000)}, "r2", "c0")
    for n in (0, 2, 3):
        other = agent.checkpoints.get("t1", f"c{n}")
        assert other is not None
        assert other.data == conversation(n)
    assert [r.checkpoint_id for r in agent.checkpoints.query(run_id="r2")] == ["c1"]
    # The latest too, again and again: nothing piles up.
    sizes = set()
    for n in range(20):
        agent.checkpoints.put("t1", "c3", {"draft": text(50, 6000) + str(n % 10)})
        sizes.add(agent.checkpoints.usage("t1").kept_bytes)
    assert max(sizes) < 2 * min(sizes)
    latest = agent.checkpoints.get("t1")
    assert latest is not None
    assert latest.data == {"draft": text(50, 6000) + "9"}
    check_nothing_leaked(agent)


def test_a_thread_goes_with_its_last_checkpoint(agent: AgentStore) -> None:
    put_steps(agent, "t1", 3)
    agent.checkpoints.put("t1", "s0", 1, namespace="sub")
    agent.checkpoints.put_writes("t1", "c1", "task", [("x", 1)])
    agent.checkpoints.put_writes("t1", "unknown", "task", [("x", 1)])
    agent.checkpoints.put_writes("t1", "c0", "task", [("x", 1)])
    for name, namespace in (("s0", "sub"), ("c2", ""), ("c0", "")):
        assert agent.checkpoints.delete("t1", name, namespace=namespace)
        assert agent.checkpoints.threads() == ["t1"]
        assert agent.checkpoints.get("t1", "c1").data == conversation(1)  # type: ignore[union-attr]
    assert ids(agent.checkpoints.list("t1")) == ["c1"]
    counts = [len(agent.checkpoints.get_writes("t1", name)) for name in ("c0", "c1", "unknown")]
    assert counts == [0, 1, 1]
    assert agent.checkpoints.delete("t1", "c1")
    assert agent.checkpoints.get_writes("t1", "c1") == []
    assert agent.checkpoints.threads() == []
    assert left_behind(agent) == []


def test_namespaces_of_a_thread_do_not_see_each_other(agent: AgentStore) -> None:
    for n in range(3):
        for namespace in ("", "sub", "sub\0", "sub:1"):
            data = {"of": namespace, "n": n}
            agent.checkpoints.put("t1", f"c{n}", data, namespace=namespace)
    agent.checkpoints.put("t1\0", "c9", "other")
    assert agent.checkpoints.namespaces("t1") == ["", "sub", "sub\0", "sub:1"]
    assert agent.checkpoints.namespaces("t2") == []
    for namespace in ("", "sub", "sub\0", "sub:1"):
        found = agent.checkpoints.list("t1", namespace=namespace)
        assert [c.data for c in found] == [{"of": namespace, "n": n} for n in (2, 1, 0)]
    assert agent.checkpoints.prune("t1", keep_last=2) == Pruned(4, 0)
    assert agent.checkpoints.delete("t1", "c2", namespace="sub")
    assert not agent.checkpoints.delete("t1", "c2", namespace="sub")
    assert ids(agent.checkpoints.list("t1", namespace="sub")) == ["c1"]
    assert ids(agent.checkpoints.list("t1", namespace="sub\0")) == ["c2", "c1"]
    assert agent.checkpoints.delete_thread("t1") == 7
    assert agent.checkpoints.threads() == ["t1\0"]


def test_threads_by_name_and_page(agent: AgentStore) -> None:
    for name in ("b", "a", "a\0", "ab", "é"):
        agent.checkpoints.put(name, "c1", 1)
    assert agent.checkpoints.threads() == ["a", "a\0", "ab", "b", "é"]
    assert agent.checkpoints.threads(limit=2) == ["a", "a\0"]
    assert agent.checkpoints.threads(limit=2, after="a") == ["a\0", "ab"]
    assert agent.checkpoints.threads(after="é") == []


def test_what_cannot_be_kept_is_refused_and_nothing_is_written(agent: AgentStore) -> None:
    put_steps(agent, "t1", 2)
    before = dict(agent.store.scan())
    put = agent.checkpoints.put
    for error, call in [
        (CodecError, lambda: put("t1", "c2", object())),
        (CodecError, lambda: put("t1", "c2", {"at": datetime(2026, 1, 1)})),
        (CodecError, lambda: put("t1", "c2", 1, metadata={"f": print})),
        (CodecError, lambda: put("t1", "c2", 1, metadata=[1])),  # type: ignore[arg-type]
        (CodecError, lambda: put("t1", "c2", 1, created_at=datetime(2026, 1, 1))),
        (CodecError, lambda: put(7, "c2", 1)),  # type: ignore[arg-type]
        (CodecError, lambda: put("t1", b"c2", 1)),  # type: ignore[arg-type]
        (LimitError, lambda: put("t" * 5000, "c2", 1)),
        (LimitError, lambda: put("t1", "c" * 5000, 1)),
        (LimitError, lambda: put("t9", "c" * 5000, 1)),
        (CodecError, lambda: agent.checkpoints.put_writes("t1", "c1", "k", [("a", object())])),
        (CodecError, lambda: agent.checkpoints.put_writes("t1", "c1", "k", [(1, 1)])),  # type: ignore[list-item]
        (CodecError, lambda: agent.checkpoints.put_writes("t1", "c1", "k", ["ab", "x"])),  # type: ignore[list-item]
        (CodecError, lambda: agent.checkpoints.prune(older_than=datetime(2026, 1, 1))),
        (TypeError, lambda: agent.checkpoints.add(1)),
        (TypeError, lambda: agent.checkpoints.put_many([])),
        (TypeError, lambda: agent.checkpoints.update("t1", metadata={})),
        (TypeError, lambda: agent.checkpoints.prune("t1")),
        (ValueError, lambda: agent.checkpoints.prune("t1", keep_last=-1)),
        (RecordNotFoundError, lambda: agent.checkpoints.copy_thread("t0", "t2")),
        (RecordExistsError, lambda: agent.checkpoints.copy_thread("t1", "t1")),
    ]:
        with pytest.raises(error):
            call()
        assert dict(agent.store.scan()) == before


def test_policy_and_index(agent: AgentStore) -> None:
    assert agent.checkpoints.sync == walkv.Wal()
    plan = agent.checkpoints.query(run_id="r1").explain()
    assert (plan.index, plan.equal, plan.filtered) == ("run_id,thread_id", ("run_id",), ())
    plan = agent.checkpoints.query(thread_id="t1", namespace="").order_by("-number").explain()
    assert (plan.index, plan.sorted_in_memory) == ("", False)


# -- pending writes ------------------------------------------------------------------------------


def test_writes_are_in_the_order_of_path_task_and_place(agent: AgentStore) -> None:
    agent.checkpoints.put("t1", "c1", {})
    put_writes = agent.checkpoints.put_writes
    put_writes("t1", "c1", "b", [("x", 1), ("y", {"n": 2}), ("x", 3)], task_path="~1")
    put_writes("t1", "c1", "a", [("z", 4), ("__error__", "boom")], task_path="~1")
    put_writes("t1", "c1", "c", [("z", 5)])
    assert agent.checkpoints.get_writes("t1", "c1") == [
        PendingWrite("c", "z", 5, 0, ""),
        PendingWrite("a", "__error__", "boom", -1, "~1"),
        PendingWrite("a", "z", 4, 0, "~1"),
        PendingWrite("b", "x", 1, 0, "~1"),
        PendingWrite("b", "y", {"n": 2}, 1, "~1"),
        PendingWrite("b", "x", 3, 2, "~1"),
    ]
    assert agent.checkpoints.usage("t1").write_count == 6
    assert agent.checkpoints.get_writes("t1", "c2") == []
    assert agent.checkpoints.get_writes("t1", "c1", namespace="sub") == []


def test_writes_of_special_channels_replace_and_others_stay(agent: AgentStore) -> None:
    assert dict(WRITES_IDX) == {
        "__error__": -1,
        "__scheduled__": -2,
        "__interrupt__": -3,
        "__resume__": -4,
    }
    put_writes, get_writes = agent.checkpoints.put_writes, agent.checkpoints.get_writes

    def found() -> list[tuple[str, Any]]:
        return [(write.channel, write.value) for write in get_writes("t1", "c1")]

    put_writes("t1", "c1", "a", [("x", 1), ("__error__", "one")])
    put_writes("t1", "c1", "a", [("x", 2), ("y", 3)])
    assert found() == [("__error__", "one"), ("x", 1), ("y", 3)]
    # Whatever else is among them.
    put_writes("t1", "c1", "a", [("__error__", "two"), ("y", 5), ("z", 6)])
    assert found() == [("__error__", "two"), ("x", 1), ("y", 3), ("z", 6)]
    put_writes("t1", "c1", "a", [("__resume__", 5)])
    put_writes("t1", "c1", "a", [("__error__", "three"), ("__error__", "four")])
    assert found()[:2] == [("__resume__", 5), ("__error__", "four")]
    put_writes("t1", "c1", "a", [])
    assert len(found()) == 5
    put_writes("t1", "c1", "b", [("__error__", "first"), ("__error__", "second"), ("x", 1)])
    assert found()[-2:] == [("__error__", "second"), ("x", 1)]


# -- against dictionaries ------------------------------------------------------------------------

THREAD = st.sampled_from(["t", "t\0x", "u", "v"])
SPACE = st.sampled_from(["", "sub"])
NAME = st.sampled_from([f"c{n}" for n in range(8)])
RUN = st.sampled_from([None, "r1", "r2"])
EDIT = st.sampled_from(["append", "draft", "insert", "delete", "new", "none"])
CHANNEL = st.sampled_from(["x", "y", *WRITES_IDX])
Writes = dict[tuple[str, int], tuple[str, Any, str]]


class AgainstDictionaries(RuleBasedStateMachine):
    """Random operations; after each, every checkpoint reads back exactly."""

    def __init__(self) -> None:
        super().__init__()
        self.fs = SimulatedFileSystem()
        self.agent = AgentStore("/a", filesystem=self.fs, sync=walkv.WriteBack())
        self.threads: dict[str, dict[str, dict[str, Checkpoint]]] = {}
        self.writes: dict[tuple[str, str, str], Writes] = {}
        self.state: Document = conversation(3, draft=text(1, 4000))
        self.count = 0

    def spaces(self, thread_id: str) -> dict[str, dict[str, Checkpoint]]:
        return self.threads.get(thread_id, {})

    def forget(self, thread_id: str, namespace: str, names: list[str]) -> None:
        for name in names:
            del self.threads[thread_id][namespace][name]
            self.writes.pop((thread_id, namespace, name), None)
        if not any(self.threads[thread_id].values()):
            del self.threads[thread_id]
            self.writes = {key: kept for key, kept in self.writes.items() if key[0] != thread_id}
            self.forget_writes(thread_id)

    def forget_writes(self, thread_id: str) -> None:
        self.writes = {key: kept for key, kept in self.writes.items() if key[0] != thread_id}

    @rule(thread_id=THREAD, namespace=SPACE, name=NAME, run_id=RUN, edit=EDIT, at=st.integers(0, 9))
    def put(
        self, thread_id: str, namespace: str, name: str, run_id: str | None, edit: str, at: int
    ) -> None:
        self.count += 1
        messages = list(self.state["messages"])
        new = {"id": self.count, "content": text(self.count, 700)}
        match edit:
            case "append":
                messages.append(new)
            case "insert":
                messages.insert(at, new)
            case "delete":
                del messages[at : at + 2]
            case "new":
                messages = [new] * 2
        draft = self.state["draft"]
        if edit == "draft":
            draft = draft[: at * 400] + str(self.count) + draft[at * 400 :]
        self.state = {"messages": messages, "draft": draft[:6000], "n": self.count}
        data = None if edit == "none" else self.state
        parent = f"c{at}" if at < 8 else None
        made = self.agent.checkpoints.put(
            thread_id,
            name,
            data,
            parent_id=parent,
            namespace=namespace,
            run_id=run_id,
            metadata={"n": self.count},
        )
        # Assigning keeps the place of a name that is there.
        self.threads.setdefault(thread_id, {}).setdefault(namespace, {})[name] = made

    @rule(thread_id=THREAD, namespace=SPACE, at=st.integers(-3, 3))
    def delete(self, thread_id: str, namespace: str, at: int) -> None:
        names = list(self.spaces(thread_id).get(namespace, {}))
        there = -len(names) <= at < len(names)
        name = names[at] if there else "c9"
        assert self.agent.checkpoints.delete(thread_id, name, namespace=namespace) == there
        if there:
            self.forget(thread_id, namespace, [name])

    @rule(thread_id=THREAD)
    def delete_thread(self, thread_id: str) -> None:
        count = sum(map(len, self.spaces(thread_id).values()))
        assert self.agent.checkpoints.delete_thread(thread_id) == count
        self.threads.pop(thread_id, None)
        self.forget_writes(thread_id)

    @rule(
        thread_id=st.one_of(st.none(), THREAD),
        keep_last=st.one_of(st.none(), st.integers(0, 3)),
        age_seconds=st.one_of(st.none(), st.integers(0, 50)),
        dry_run=st.booleans(),
    )
    def prune(
        self, thread_id: str | None, keep_last: int | None, age_seconds: int | None, dry_run: bool
    ) -> None:
        if keep_last is None and age_seconds is None:
            return
        older_than = None
        if age_seconds is not None:
            older_than = self.agent.checkpoints.now() - timedelta(seconds=age_seconds)
        going = []
        for each in [thread_id] if thread_id else list(self.threads):
            for namespace, kept in self.spaces(each).items():
                stay = 1 if keep_last is None else keep_last
                names = list(kept)[: max(len(kept) - stay, 0)]
                if older_than is not None:
                    names = [name for name in names if kept[name].created_at < older_than]
                going.append((each, namespace, names))
        found = self.agent.checkpoints.prune(
            thread_id, keep_last=keep_last, older_than=older_than, dry_run=dry_run
        )
        assert found.checkpoint_count == sum(len(names) for _, _, names in going)
        if not dry_run:
            for each in [thread_id] if thread_id else list(self.threads):
                head = self.agent.checkpoints._threads.get(self.agent.store, each)
                if head is not None:
                    assert not self.agent.checkpoints._threads.debt(self.agent.store, head.pool)[0]
            for each, namespace, names in going:
                if names:
                    self.forget(each, namespace, names)

    @rule(source=THREAD, copied=THREAD)
    def copy_thread(self, source: str, copied: str) -> None:
        copy = self.agent.checkpoints.copy_thread
        if source not in self.threads:
            with pytest.raises(RecordNotFoundError):
                copy(source, copied)
            return
        if copied in self.threads:
            with pytest.raises(RecordExistsError):
                copy(source, copied)
            return
        assert copy(source, copied) == sum(map(len, self.threads[source].values()))
        self.threads[copied] = {
            namespace: {name: replaced(each, copied) for name, each in kept.items()}
            for namespace, kept in self.threads[source].items()
        }
        for (thread_id, *rest), writes in list(self.writes.items()):
            if thread_id == source:
                mine = self.writes.setdefault((copied, rest[0], rest[1]), {})
                mine.update(writes)

    @rule(runs=st.sets(st.sampled_from(["r1", "r2"])))
    def delete_for_runs(self, runs: set[str]) -> None:
        going = [
            (thread_id, namespace, [name for name, each in kept.items() if each.run_id in runs])
            for thread_id, spaces in self.threads.items()
            for namespace, kept in spaces.items()
        ]
        found = self.agent.checkpoints.delete_for_runs(runs)
        assert found == sum(len(names) for _, _, names in going)
        for thread_id, namespace, names in going:
            if names:
                self.forget(thread_id, namespace, names)

    @rule(
        thread_id=THREAD,
        namespace=SPACE,
        name=NAME,
        task_id=st.sampled_from(["1", "2"]),
        channels=st.lists(CHANNEL, max_size=3),
        path=st.sampled_from(["", "~"]),
    )
    def put_writes(
        self,
        thread_id: str,
        namespace: str,
        name: str,
        task_id: str,
        channels: list[str],
        path: str,
    ) -> None:
        self.count += 1
        writes = [(channel, [self.count, n]) for n, channel in enumerate(channels)]
        self.agent.checkpoints.put_writes(
            thread_id, name, task_id, writes, task_path=path, namespace=namespace
        )
        kept = self.writes.setdefault((thread_id, namespace, name), {})
        for n, (channel, value) in enumerate(writes):
            place = (task_id, WRITES_IDX.get(channel, n))
            if channel in WRITES_IDX or place not in kept:
                kept[place] = (channel, value, path)

    @rule(seconds=st.integers(1, 30))
    def wait(self, seconds: int) -> None:
        self.fs.clock.advance(seconds)

    @rule()
    def reopen(self) -> None:
        self.agent.close()
        self.agent = AgentStore("/a", filesystem=self.fs, sync=walkv.WriteBack())

    @rule()
    def settle(self) -> None:
        self.agent.store.compact()

    @invariant()
    def every_checkpoint_reads_back(self) -> None:
        checkpoints = self.agent.checkpoints
        assert checkpoints.threads() == sorted(self.threads)
        for thread_id, spaces in self.threads.items():
            for namespace, kept in spaces.items():
                expected = list(kept.values())[::-1]
                found = checkpoints.list(thread_id, None, namespace=namespace)
                assert found == expected
                latest = checkpoints.get(thread_id, namespace=namespace)
                assert latest == (expected[0] if expected else None)
                for name, each in kept.items():
                    assert checkpoints.get(thread_id, name, namespace=namespace) == each
        for (thread_id, namespace, name), writes in self.writes.items():
            rows = [
                PendingWrite(task_id, channel, value, idx, path)
                for (task_id, idx), (channel, value, path) in writes.items()
            ]
            rows.sort(key=lambda write: (write.task_path, write.task_id, write.idx))
            assert checkpoints.get_writes(thread_id, name, namespace=namespace) == rows
        count = sum(1 for _ in self.agent.store.scan(OTHER + b"w", keys_only=True))
        assert count == sum(map(len, self.writes.values()))

    @invariant()
    def nothing_leaks(self) -> None:
        check_nothing_leaked(self.agent)
        if not self.threads:
            usage = self.agent.checkpoints.usage()
            assert (usage.checkpoint_count, usage.state_bytes, usage.kept_bytes) == (0, 0, 0)

    def teardown(self) -> None:
        assert self.agent.verify() == []
        for thread_id in ["t", "t\0x", "u", "v"]:
            self.agent.checkpoints.delete_thread(thread_id)
        assert self.agent.checkpoints.usage() == (0, 0, 0, 0)
        assert left_behind(self.agent) == []
        self.agent.close()


def replaced(checkpoint: Checkpoint, thread_id: str) -> Checkpoint:
    """The same of another thread."""
    return Checkpoint(
        thread_id,
        checkpoint.namespace,
        checkpoint.checkpoint_id,
        checkpoint.parent_id,
        checkpoint.data,
        checkpoint.metadata,
        checkpoint.created_at,
        checkpoint.run_id,
        checkpoint.size_bytes,
    )


TestAgainstDictionaries = AgainstDictionaries.TestCase
TestAgainstDictionaries.settings = settings(max_examples=70, stateful_step_count=25, deadline=None)


# -- what is left --------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["delete", "prune", "runs", "query", "thread"])
def test_an_emptied_store_is_empty(agent: AgentStore, way: str) -> None:
    for thread_id in ("t1", "t2"):
        put_steps(agent, thread_id, 6, run_id="r1")
        put_steps(agent, thread_id, 6, run_id="r1", namespace="sub")
        agent.checkpoints.put_writes(thread_id, "c5", "task", [("x", 1)])
    agent.checkpoints.copy_thread("t1", "t3")
    match way:
        case "delete":
            for thread_id in agent.checkpoints.threads():
                for namespace in ("", "sub"):
                    for checkpoint in agent.checkpoints.list(thread_id, namespace=namespace):
                        agent.checkpoints.delete(
                            thread_id, checkpoint.checkpoint_id, namespace=namespace
                        )
        case "prune":
            assert agent.checkpoints.prune(keep_last=0).checkpoint_count == 36
        case "runs":
            assert agent.checkpoints.delete_for_runs(["r0", "r1"]) == 36
        case "query":
            assert agent.checkpoints.query().delete() == 36
        case "thread":
            assert [agent.checkpoints.delete_thread(f"t{n}") for n in (1, 2, 3, 4)] == [
                12,
                12,
                12,
                0,
            ]
    assert agent.checkpoints.usage() == (0, 0, 0, 0)
    assert agent.checkpoints.threads() == []
    assert agent.checkpoints.get("t1") is None
    assert left_behind(agent) == []
    put_steps(agent, "t1", 3)
    latest = agent.checkpoints.get("t1")
    assert latest is not None
    assert latest.data == conversation(2)


def test_prune_looks_again_when_it_deletes(
    agent: AgentStore, fs: SimulatedFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = agent.checkpoints
    put_steps(agent, "t1", 3)
    fs.clock.advance(100)
    limit = checkpoints.now()
    put_steps(agent, "t2", 2)
    real = type(checkpoints)._write
    meanwhile: list[Callable[[], Any]] = []

    def write(self: Any, *args: Any) -> Any:
        if meanwhile:
            meanwhile.pop()()
        return real(self, *args)

    monkeypatch.setattr(type(checkpoints), "_write", write)
    meanwhile.append(lambda: checkpoints.put("t1", "c0", "new"))
    assert checkpoints.prune("t1", older_than=limit).checkpoint_count == 1
    assert [c.data for c in checkpoints.list("t1")] == [conversation(2), "new"]
    meanwhile.append(lambda: checkpoints.delete("t2", "c1"))
    assert checkpoints.prune("t2", keep_last=1) == Pruned(0, 0)
    assert ids(checkpoints.list("t2")) == ["c0"]


@pytest.mark.parametrize("way", ["runs", "query"])
def test_what_was_put_again_since_it_was_found_stays(
    agent: AgentStore, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    checkpoints = agent.checkpoints
    put_steps(agent, "t1", 3, run_id="r1")
    real = type(checkpoints)._write_each

    def write_each(self: Any, *args: Any) -> int:
        checkpoints.put("t1", "c1", "new", run_id="r2")
        return real(self, *args)

    monkeypatch.setattr(type(checkpoints), "_write_each", write_each)
    if way == "runs":
        assert checkpoints.delete_for_runs(["r1"]) == 2
    else:
        assert checkpoints.query(run_id="r1").delete() == 2
    assert [c.data for c in checkpoints.list("t1")] == ["new"]
    check_nothing_leaked(agent)


def test_replacing_or_deleting_one_of_many_does_not_look_at_all(
    agent: AgentStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = agent.checkpoints
    put_steps(agent, "t1", 40)
    agent.checkpoints.copy_thread("t1", "t2")
    collections = []
    real = type(checkpoints._states).collect

    def collect(self: Any, *args: Any) -> int:
        collections.append(1)
        return real(self, *args)

    monkeypatch.setattr(type(checkpoints._states), "collect", collect)
    for n in range(30):
        checkpoints.put("t1", "c39", {"draft": text(n, 3000)})
        check_reads = checkpoints.get("t1")
        assert check_reads is not None
        assert check_reads.data == {"draft": text(n, 3000)}
    for n in range(10):
        assert checkpoints.delete("t2", f"c{n}")
    assert len(collections) == 2
    collections.clear()
    assert checkpoints.prune("t1", keep_last=40).freed_bytes > 1000
    assert checkpoints.prune("t1", keep_last=40) == Pruned(0, 0)
    assert len(collections) == 1
    check_nothing_leaked(agent)


def test_a_thread_takes_the_pending_writes_of_ids_that_were_never_put(agent: AgentStore) -> None:
    for way in range(3):
        agent.checkpoints.put("t1", "c1", 1)
        agent.checkpoints.put_writes("t1", "c2", "task", [("a", "secret")])
        match way:
            case 0:
                agent.checkpoints.prune("t1", keep_last=0)
            case 1:
                agent.checkpoints.delete("t1", "c1")
            case 2:
                agent.checkpoints.query().delete()
        assert agent.checkpoints.get_writes("t1", "c2") == []
        assert left_behind(agent) == []


def test_prune_says_what_it_frees_and_a_dry_run_changes_nothing(agent: AgentStore) -> None:
    put_steps(agent, "t1", 10)
    put_steps(agent, "t2", 3)
    agent.checkpoints.put("t1", "c10", {"all": "new"})
    before = dict(agent.store.scan())
    assert agent.checkpoints.prune(keep_last=1, dry_run=True) == Pruned(12, 0)
    assert dict(agent.store.scan()) == before
    parts_bytes = sum(map(len, parts_of(agent).values()))
    done = agent.checkpoints.prune("t1", keep_last=1)
    assert done.checkpoint_count == 10
    assert done.freed_bytes == parts_bytes - sum(map(len, parts_of(agent).values())) > 3000
    assert agent.checkpoints.prune(keep_last=1).checkpoint_count == 2
    assert agent.checkpoints.prune(keep_last=1) == Pruned(0, 0)


def test_prune_by_age_leaves_the_newest(agent: AgentStore, fs: SimulatedFileSystem) -> None:
    for n in range(6):
        agent.checkpoints.put("t1", f"c{n}", n)
        fs.clock.advance(10)
    limit = agent.checkpoints.get("t1", "c3").created_at  # type: ignore[union-attr]
    assert agent.checkpoints.prune("t1", older_than=limit, keep_last=5).checkpoint_count == 1
    assert agent.checkpoints.prune("t1", older_than=limit).checkpoint_count == 2
    assert ids(agent.checkpoints.list("t1")) == ["c5", "c4", "c3"]
    late = agent.checkpoints.now()
    assert agent.checkpoints.prune(older_than=late).checkpoint_count == 2
    assert ids(agent.checkpoints.list("t1")) == ["c5"]
    assert agent.checkpoints.prune(older_than=late, keep_last=0).checkpoint_count == 1
    assert agent.checkpoints.threads() == []


def test_a_copy_lives_on_its_own(agent: AgentStore) -> None:
    put_steps(agent, "t1", 8)
    agent.checkpoints.put_writes("t1", "c7", "task", [("x", 1)])
    assert agent.checkpoints.copy_thread("t1", "t2") == 8
    copied = agent.checkpoints.get_writes("t2", "c7")
    assert copied == agent.checkpoints.get_writes("t1", "c7")
    assert len(copied) == 1
    agent.checkpoints.put("t2", "c8", conversation(9))
    agent.checkpoints.put("t1", "c8", {"other": text(99, 3000)})
    agent.checkpoints.put_writes("t2", "c7", "task", [("x", 1), ("y", 2)])
    assert len(agent.checkpoints.get_writes("t1", "c7")) == 1
    both = agent.checkpoints.usage()
    apart = [agent.checkpoints.usage(thread_id) for thread_id in ("t1", "t2")]
    assert both.checkpoint_count == sum(each.checkpoint_count for each in apart) == 18
    assert both.kept_bytes < sum(each.kept_bytes for each in apart) * 0.7
    agent.checkpoints.delete_thread("t1")
    check_nothing_leaked(agent)
    assert [c.data for c in agent.checkpoints.list("t2", None)] == [
        conversation(9),
        *(conversation(n) for n in reversed(range(8))),
    ]
    agent.checkpoints.delete_thread("t2")
    assert left_behind(agent) == []


# -- what it costs -------------------------------------------------------------------------------


def test_a_step_costs_its_message_not_its_state(agent: AgentStore) -> None:
    state = conversation(400, 1000)
    agent.checkpoints.put("t1", "c0", state)
    assert written_bytes(agent) > 400_000
    for n in range(1, 6):
        before = written_bytes(agent)
        message = {"role": "user", "id": 400 + n, "content": text(1000 + n, 1000)}
        state = {"messages": [*state["messages"], message], "step": 400 + n}
        agent.checkpoints.put("t1", f"c{n}", state, parent_id=f"c{n - 1}")
        assert written_bytes(agent) - before < 2000
    latest = agent.checkpoints.get("t1")
    assert latest is not None
    assert latest.data == state


def test_a_branch_costs_its_difference_to_its_parent(agent: AgentStore) -> None:
    old = conversation(100, 1000)
    agent.checkpoints.put("t1", "c0", old)
    agent.checkpoints.put("t1", "c1", {"all": text(5000, 100_000)})
    before = written_bytes(agent)
    agent.checkpoints.put("t1", "c2", old | {"more": 1}, parent_id="c0")
    assert written_bytes(agent) - before < 2000


def test_a_copy_of_a_long_thread_writes_no_states(tmp_path: Path) -> None:
    with AgentStore(tmp_path / "a", sync=walkv.WriteBack()) as agent:
        state = conversation(50, 1000)
        for n in range(1000):
            agent.checkpoints.put("t1", f"c{n}", state | {"n": n})
        parts = parts_of(agent)
        before = written_bytes(agent)
        assert agent.checkpoints.copy_thread("t1", "t2") == 1000
        assert written_bytes(agent) - before < 500 * 1000
        assert parts_of(agent) == parts
        found = agent.checkpoints.get("t2", "c500")
        assert found is not None
        assert found.data == state | {"n": 500}
        # Pruning is one commit that names each checkpoint, and no state.
        before = written_bytes(agent)
        assert agent.checkpoints.prune("t1", keep_last=10).checkpoint_count == 990
        assert written_bytes(agent) - before < 500 * 1000
        assert agent.checkpoints.usage().checkpoint_count == 1010


def test_a_page_of_a_long_thread_reads_the_page(
    agent: AgentStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(300):
        agent.checkpoints.put("t1", f"c{n}", {"n": n}, sync=walkv.WriteBack())
    seen: list[Any] = []
    real = agent.checkpoints._record

    def counted(data: bytes) -> Any:
        seen.append(1)
        return real(data)

    monkeypatch.setattr(agent.checkpoints, "_record", counted)
    agent.checkpoints.list("t1", 5, before="c200")
    assert len(seen) == 5
    agent.checkpoints.get("t1")
    agent.checkpoints.get("t1", "c17")
    assert len(seen) == 7


# -- lanes ---------------------------------------------------------------------------------------


def put_in_lane(
    agent: AgentStore, states: States, state: bytes, previous: bytes | None, lane: int
) -> bytes:
    prepared = states.prepare(agent.store, 1, state, previous)
    with agent.store.transaction() as tx:
        return states.write(tx, 1, prepared, lane)


def grown(number: int, count: int) -> bytes:
    return codec.encode([text(number * 100 + n, 400) for n in range(count)])


def numbers_of(agent: AgentStore) -> list[int]:
    return [
        int.from_bytes(key[-8:], "big")
        for key in agent.store.scan(b"lanes/", keys_only=True)
        if key[-9:-8] == b"p"
    ]


LANES = [0, 1, 2, 255, 1 << 16, MAX_LANE]


def test_each_lane_has_numbers_of_its_own(agent: AgentStore) -> None:
    states = States(b"lanes/")
    recipes = {}
    for count in (1, 3):
        for lane in LANES:
            state = grown(lane % 97, count)
            recipes[lane] = put_in_lane(agent, states, state, recipes.get(lane), lane)
    expected = [(lane << LANE_BITS) + n for lane in LANES for n in (1, 2, 3)]
    assert numbers_of(agent) == expected
    counters = {
        key[6 + 8 + 1 :]: int.from_bytes(value, "big")
        for key, value in agent.store.scan(b"lanes/" + (1).to_bytes(8, "big") + b"n")
    }
    names = [lane.to_bytes(4, "big") if lane else b"" for lane in LANES]
    assert counters == dict(zip(names, expected[2::3], strict=True)) | {
        name: (lane << LANE_BITS) + 4 for name, lane in zip(names, LANES, strict=True)
    }
    for cold in (states, States(b"lanes/")):
        for lane in LANES:
            assert cold.read(agent.store, 1, recipes[lane]) == grown(lane % 97, 3)


@pytest.mark.parametrize("apart", [True, False])
def test_states_that_grow_side_by_side_have_short_recipes_in_lanes(
    agent: AgentStore, apart: bool
) -> None:
    states = States(b"lanes/")
    recipes: dict[int, bytes] = {}
    for count in range(1, 50):
        for number in range(1, 5):
            state = grown(number, count)
            lane = number if apart else 0
            recipes[number] = put_in_lane(agent, states, state, recipes.get(number), lane)
    longest = max(map(len, recipes.values()))
    assert longest < 40 if apart else longest > 100
    for number, recipe in recipes.items():
        assert states.read(agent.store, 1, recipe) == grown(number, 49)


def test_a_large_leaf_in_a_lane_is_kept_as_its_difference(agent: AgentStore) -> None:
    states = States(b"lanes/")
    recipes: dict[int, bytes] = {}
    for n in range(40):
        for lane in (3, 7):
            state = codec.encode({"n": n, "draft": text(lane, 20_000) + "x" * n})
            recipes[lane] = put_in_lane(agent, states, state, recipes.get(lane), lane)
    values = [value for key, value in agent.store.scan(b"lanes/") if key[-9:-8] == b"p"]
    assert sum(map(len, values)) < 2 * 20_000 + 80 * 200
    for lane in (3, 7):
        expected = codec.encode({"n": 39, "draft": text(lane, 20_000) + "x" * 39})
        assert States(b"lanes/").read(agent.store, 1, recipes[lane]) == expected


@pytest.mark.parametrize("lane", [0, 5, MAX_LANE])
def test_a_damaged_counter_of_a_lane_is_told(agent: AgentStore, lane: int) -> None:
    states = States(b"lanes/")
    other = 5 if lane == 0 else 0
    recipe = put_in_lane(agent, states, grown(1, 3), None, lane)
    put_in_lane(agent, states, grown(2, 3), None, other)
    key = states._counter(1, lane)
    whole = agent.store[key]
    before = dict(agent.store.scan(b"lanes/"))
    for broken in (
        b"",
        whole[:7],
        whole + b"\0",
        ((lane << LANE_BITS) + 0).to_bytes(8, "big"),
        agent.store[states._counter(1, other)],
        *([((lane + 1 << LANE_BITS) + 1).to_bytes(8, "big")] if lane < MAX_LANE else []),
    ):
        agent.store.put(key, broken)
        with pytest.raises(CorruptionError, match="its counter of parts is damaged"):
            put_in_lane(agent, states, grown(3, 4), recipe, lane)
        # Another lane is not concerned, nor is what reads or writes nothing new.
        with agent.store.transaction() as tx:
            prepared = states.prepare(agent.store, 1, grown(4, 1))
            states.write(tx, 1, prepared, other)
            tx.discard()
        assert put_in_lane(agent, states, grown(1, 3), recipe, lane) == recipe
        assert states.read(agent.store, 1, recipe) == grown(1, 3)
    agent.store.put(key, whole)
    assert dict(agent.store.scan(b"lanes/")) == before


def test_collecting_and_dropping_go_over_all_lanes(agent: AgentStore) -> None:
    states = States(b"lanes/")
    first = {lane: put_in_lane(agent, states, grown(lane % 97, 4), None, lane) for lane in LANES}
    second = {
        lane: put_in_lane(agent, states, grown(lane % 97, 2) + b"\1", first[lane], lane)
        for lane in LANES
    }
    given = set(numbers_of(agent))
    live = [*(first[lane] for lane in LANES[:3]), *(second[lane] for lane in LANES[3:])]
    size_bytes = states.size_bytes(agent.store, 1, live)
    before = sum(len(value) for key, value in agent.store.scan(b"lanes/") if key[-9:-8] == b"p")
    with agent.store.transaction() as tx:
        freed_bytes = states.collect(tx, 1, live)
    kept = numbers_of(agent)
    after = sum(len(value) for key, value in agent.store.scan(b"lanes/") if key[-9:-8] == b"p")
    assert freed_bytes == before - after > 0
    assert after + sum(map(len, live)) == size_bytes
    for lane in LANES:
        mine = [number for number in kept if number >> LANE_BITS == lane]
        assert len(mine) >= 2
    for recipe in live:
        assert len(states.read(agent.store, 1, recipe)) > 800
    for lane in LANES[3:]:
        with pytest.raises(CorruptionError):
            States(b"lanes/").read(agent.store, 1, first[lane])
    # Numbers are not used again.
    for lane in LANES:
        recipe = put_in_lane(agent, states, grown(50, 1), None, lane)
        assert states.read(agent.store, 1, recipe) == grown(50, 1)
    new = sorted(set(numbers_of(agent)) - set(kept))
    assert [number >> LANE_BITS for number in new] == LANES
    assert not set(new) & given
    with agent.store.transaction() as tx:
        states.drop(tx, 1)
    assert list(agent.store.scan(b"lanes/")) == []


# -- damage --------------------------------------------------------------------------------------


def test_a_missing_part_is_told_and_does_no_more_harm(agent: AgentStore) -> None:
    put_steps(agent, "t1", 10)
    agent.checkpoints.put("t2", "c0", conversation(3))
    victim = min(parts_of(agent))
    agent.store.delete(victim)
    broken = 0
    for n in range(10):
        try:
            found = agent.checkpoints.get("t1", f"c{n}")
            assert found is not None
            assert found.data == conversation(n)
        except CorruptionError:
            broken += 1
    assert broken > 0
    with pytest.raises(CorruptionError):
        agent.checkpoints.list("t1", None)
    assert len(agent.checkpoints.list("t1", None, with_data=False)) == 10
    # What comes now is whole, and so are other threads.
    agent.checkpoints.put("t1", "c10", conversation(11))
    latest, other = agent.checkpoints.get("t1"), agent.checkpoints.get("t2")
    assert latest is not None
    assert other is not None
    assert (latest.data, other.data) == (conversation(11), conversation(3))
    agent.checkpoints.prune("t1", keep_last=1)
    assert agent.checkpoints.list("t1", None) == [latest]


def test_whatever_is_damaged_it_is_a_typed_error_or_no_harm(agent: AgentStore) -> None:
    for n in range(6):
        agent.checkpoints.put("t1", f"c{n}", conversation(n, draft=text(1, 5000) + str(n)))
        agent.checkpoints.put_writes("t1", f"c{n}", "task", [("x", n)])
    agent.checkpoints.copy_thread("t1", "t2")
    checkpoints = agent.checkpoints
    expected = {f"c{n}": conversation(n, draft=text(1, 5000) + str(n)) for n in range(6)}

    def use() -> None:
        for thread_id in ("t1", "t2"):
            for name, data in expected.items():
                with suppress(WalkvError):
                    found = checkpoints.get(thread_id, name)
                    # The record may have been changed into that of nobody.
                    assert found is None or found.data == data or found.checkpoint_id != name
                with suppress(WalkvError):
                    checkpoints.get_writes(thread_id, name)
            for call in (
                lambda: checkpoints.get(thread_id),  # noqa: B023
                lambda: checkpoints.list(thread_id, None),  # noqa: B023
                lambda: checkpoints.usage(thread_id),  # noqa: B023
                lambda: checkpoints.namespaces(thread_id),  # noqa: B023
            ):
                with suppress(WalkvError):
                    call()
        for change in (
            lambda: checkpoints.put("t1", "new", conversation(7)),
            lambda: checkpoints.put("t2", "c3", conversation(8)),
            lambda: checkpoints.put_writes("t1", "c5", "task", [("__error__", 1)]),
            lambda: checkpoints.copy_thread("t1", "t3"),
            lambda: checkpoints.delete("t1", "c2"),
            lambda: checkpoints.prune("t2", keep_last=2),
            lambda: checkpoints.delete_for_runs(["r1"]),
            lambda: checkpoints.delete_thread("t1"),
            lambda: checkpoints.threads(),
        ):
            with suppress(WalkvError, _Undone), agent.batch():
                change()
                raise _Undone

    rng = random.Random(5)
    whole = dict(agent.store.scan(b"\0checkpoints\0"))
    for key, value in sorted(whole.items()):
        for broken in (
            b"",
            value[: len(value) // 2],
            flipped(value[:1], rng) + value[1:],
            flipped(value, rng),
            b"\x92\xa1x\x01",
            b"\xc0",
        ):
            agent.store.put(key, broken)
            use()
        agent.store.put(key, value)
    assert dict(agent.store.scan(b"\0checkpoints\0")) == whole
    assert {c.checkpoint_id: c.data for c in checkpoints.list("t1")} == expected


class _Undone(Exception):
    pass


def flipped(value: bytes, rng: random.Random) -> bytes:
    if not value:
        return b"\0"
    at = rng.randrange(len(value))
    return value[:at] + bytes((value[at] ^ 1 << rng.randrange(8),)) + value[at + 1 :]


# -- many at once --------------------------------------------------------------------------------


def run_threads(*works: Any) -> None:
    errors: list[BaseException] = []

    def guarded(work: Any) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001  # told below
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_many_put_to_one_thread_and_nothing_is_lost(tmp_path: Path) -> None:
    with AgentStore(tmp_path / "a", sync=walkv.WriteBack()) as agent:
        barrier = threading.Barrier(8)

        def work(number: int) -> Any:
            def run() -> None:
                barrier.wait()
                for n in range(20):
                    state = conversation(n + 3, 300, by=number)
                    agent.checkpoints.put("t1", f"{number}-{n}", state)

            return run

        run_threads(*map(work, range(8)))
        found = agent.checkpoints.list("t1", None)
        assert len(found) == 160
        for checkpoint in found:
            number, n = map(int, checkpoint.checkpoint_id.split("-"))
            assert checkpoint.data == conversation(n + 3, 300, by=number)
        for number in range(8):
            mine = [name for name in ids(found) if name.startswith(f"{number}-")]
            assert mine == [f"{number}-{n}" for n in reversed(range(20))]
        check_nothing_leaked(agent)
        assert agent.verify() == []


def test_puts_and_reads_while_others_prune(tmp_path: Path) -> None:
    with AgentStore(tmp_path / "a", sync=walkv.WriteBack()) as agent:
        checkpoints = agent.checkpoints
        put_steps(agent, "t1", 3)
        checkpoints.copy_thread("t1", "kept")
        kept = checkpoints.list("kept", None)
        done = threading.Event()

        def put(thread_id: str) -> Any:
            def run() -> None:
                try:
                    for n in range(3, 120):
                        state = conversation(n % 40, 300, draft=text(1, 4000) + str(n))
                        checkpoints.put(thread_id, f"c{n}", state, parent_id=f"c{n - 1}")
                finally:
                    done.set()

            return run

        def prune() -> None:
            while not done.is_set():
                checkpoints.prune("t1", keep_last=2)
                checkpoints.prune(keep_last=200)
            checkpoints.prune("t1", keep_last=2)

        def read() -> None:
            while not done.is_set():
                latest = checkpoints.get("t1")
                assert latest is not None
                checkpoints.list("t1", 3)
                checkpoints.usage("t1")

        run_threads(put("t1"), put("kept"), prune, read)
        checkpoints.prune("t1", keep_last=2)
        assert ids(checkpoints.list("t1", None)) == ["c119", "c118"]
        for thread_id in ("t1", "kept"):
            for n in (118, 119):
                found = checkpoints.get(thread_id, f"c{n}")
                assert found is not None
                assert found.data == conversation(n % 40, 300, draft=text(1, 4000) + str(n))
        assert checkpoints.list("kept", None)[-3:] == kept
        check_nothing_leaked(agent)


def test_a_base_that_goes_while_the_next_state_is_prepared(
    agent: AgentStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_steps(agent, "t1", 5)
    prepare = agent.checkpoints._states.prepare
    going = ["c4", "c3", "c2"]

    def racing(*arguments: Any) -> Any:
        prepared = prepare(*arguments)
        if going:
            name = going.pop(0)
            agent.checkpoints.put("t1", name, {"taken": name})
        return prepared

    monkeypatch.setattr(agent.checkpoints._states, "prepare", racing)
    agent.checkpoints.put("t1", "c9", conversation(6), parent_id="c4")
    found = agent.checkpoints.get("t1")
    assert found is not None
    assert found.data == conversation(6)
    check_nothing_leaked(agent)


def test_a_thread_that_is_deleted_while_its_next_state_is_prepared(
    agent: AgentStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare = agent.checkpoints._states.prepare
    put_steps(agent, "t1", 5)
    rounds = [0]

    def racing(*arguments: Any) -> Any:
        prepared = prepare(*arguments)
        if rounds[0] < 6:
            rounds[0] += 1
            agent.checkpoints.delete_thread("t1")
            if rounds[0] % 2:
                rounds[0] += 1
                agent.checkpoints.put("t1", "c4", conversation(4))
        return prepared

    monkeypatch.setattr(agent.checkpoints._states, "prepare", racing)
    agent.checkpoints.put("t1", "c9", conversation(6))
    monkeypatch.undo()
    found = agent.checkpoints.get("t1")
    assert found is not None
    assert found.data == conversation(6)
    check_nothing_leaked(agent)


def test_for_tasks_too(tmp_path: Path) -> None:
    async def test() -> None:
        async with AsyncAgentStore(tmp_path / "a") as agent:
            checkpoints = agent.checkpoints

            async def work(number: int) -> None:
                for n in range(5):
                    state = conversation(n, 300, by=number)
                    await checkpoints.put(f"t{number % 3}", f"{number}-{n}", state)
                    await checkpoints.put_writes(
                        f"t{number % 3}", f"{number}-{n}", "task", [("x", n)]
                    )

            await asyncio.wait_for(asyncio.gather(*map(work, range(30))), 60)
            assert await checkpoints.threads() == ["t0", "t1", "t2"]
            for thread_id in ("t0", "t1", "t2"):
                found = await checkpoints.list(thread_id, None)
                assert len(found) == 50
                for checkpoint in found:
                    number, n = map(int, checkpoint.checkpoint_id.split("-"))
                    assert checkpoint.data == conversation(n, 300, by=number)
            assert (await checkpoints.usage()).write_count == 150
            await checkpoints.copy_thread("t0", "t9")
            assert (await checkpoints.prune("t0", keep_last=1)).checkpoint_count == 49
            for thread_id in ("t0", "t1", "t2", "t9"):
                await checkpoints.delete_thread(thread_id)
            assert await checkpoints.usage() == (0, 0, 0, 0)

    asyncio.run(test())


# -- crashes -------------------------------------------------------------------------------------


CALLS: list[Callable[[AgentStore], object]] = [
    lambda a: a.checkpoints.put("t1", "c0", conversation(3), metadata={"step": 0}, run_id="r1"),
    lambda a: a.checkpoints.put("t1", "c1", conversation(4, draft=text(1, 4000)), parent_id="c0"),
    lambda a: a.checkpoints.put_writes("t1", "c1", "task", [("x", 1), ("y", text(2, 300))]),
    lambda a: a.checkpoints.put("t1", "c0", {"sub": 1}, namespace="sub", run_id="r1"),
    lambda a: a.checkpoints.copy_thread("t1", "t2"),
    lambda a: a.checkpoints.put("t2", "c2", conversation(5, draft=text(1, 4000) + "!")),
    lambda a: a.store.compact(),
    lambda a: a.checkpoints.put("t1", "c1", conversation(2, draft="short")),
    lambda a: a.checkpoints.prune("t1", keep_last=1),
    lambda a: a.checkpoints.delete("t2", "c1"),
    lambda a: a.checkpoints.put("t1", "c3", conversation(6), parent_id="c1"),
    lambda a: a.checkpoints.delete_thread("t1"),
    lambda a: a.checkpoints.delete_for_runs(["r1"]),
    lambda a: a.store.compact(),
    lambda a: a.checkpoints.prune(keep_last=0),
]


def picture(agent: AgentStore) -> Any:
    """All that can be read of checkpoints, but for times."""
    checkpoints = agent.checkpoints
    return [
        (
            (c.thread_id, namespace, c.checkpoint_id, c.parent_id),
            (c.data, c.metadata, c.run_id),
            checkpoints.get_writes(thread_id, c.checkpoint_id, namespace=namespace),
        )
        for thread_id in checkpoints.threads()
        for namespace in checkpoints.namespaces(thread_id)
        for c in checkpoints.list(thread_id, None, namespace=namespace)
    ]


def test_after_a_power_failure_all_is_whole(fs: SimulatedFileSystem) -> None:
    """At each operation of the disk: what is found is what the calls that had returned have made,
    or these and the one under way, and nothing that no checkpoint needs."""
    with AgentStore("/a.walkv", filesystem=SimulatedFileSystem()) as twin:
        pictures = [picture(twin)]
        for call in CALLS:
            call(twin)
            pictures.append(picture(twin))
    agent = AgentStore("/a.walkv", filesystem=fs)
    returned = 0
    found: dict[bytes, Any] = {}

    def crash(operation: str, path: str) -> None:
        for disk in fs.crash_states(random.Random(fs.operation_count)):
            digest = disk.digest()
            if digest not in found:
                after = SimulatedFileSystem.after_power_failure(disk)
                with AgentStore("/a.walkv", filesystem=after) as recovered:
                    check_nothing_leaked(recovered)
                    assert recovered.verify() == []
                    found[digest] = picture(recovered)
            assert found[digest] in pictures[returned : returned + 2]

    fs.on_operation = crash
    for call in CALLS:
        call(agent)
        returned += 1
    fs.on_operation = None
    assert len(found) > 40
    assert left_behind(agent) == []
    agent.close()


def test_the_last_checkpoint_of_a_copy_leaves_nothing_that_is_not_counted(
    agent: AgentStore,
) -> None:
    agent.checkpoints.put("t1", "c1", conversation(3), run_id="r")
    agent.checkpoints.copy_thread("t1", "t0")
    agent.checkpoints.put("t0", "c2", conversation(5, 300, by=9))
    agent.checkpoints.delete_for_runs(["r"])  # t0's first, and t1 with it
    assert agent.checkpoints.threads() == ["t0"]
    check_nothing_leaked(agent)
