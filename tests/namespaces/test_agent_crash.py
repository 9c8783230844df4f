"""Crashes at every operation of the disk: across namespaces, while a store is made or changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

import pytest

import walkv
from walkv import AgentStore, Declaration, WriteBack
from walkv.testing import SimulatedFileSystem

PATH = "/a.walkv"


@pytest.fixture
def fs() -> SimulatedFileSystem:
    return SimulatedFileSystem()


def machines(fs: SimulatedFileSystem, known: set[bytes], most: int) -> list[SimulatedFileSystem]:
    """What may be found after a crash now: of a killed process, and of power failures."""
    rng = Random(fs.operation_count)
    disks = {disk.digest(): disk for disk in fs.crash_states(rng)}
    new = sorted(disks.keys() - known)
    picked = rng.sample(new, min(len(new), most))
    known.update(picked)
    failed = [SimulatedFileSystem.after_power_failure(disks[digest]) for digest in picked]
    return [fs.after_kill(), *failed]


def at_every_operation(
    fs: SimulatedFileSystem,
    run: Callable[[], object],
    look: Callable[[AgentStore], object],
    *,
    most: int = 20,
) -> int:
    """Crash at each operation of ``run``, in up to ``most`` ways, and look; how often."""
    known: set[bytes] = set()
    looked = 0

    def crash(operation: str, path: str) -> None:
        nonlocal looked
        for machine in machines(fs, known, most):
            with AgentStore(PATH, filesystem=machine) as found:
                assert found.verify() == []
                look(found)
            looked += 1

    fs.on_operation = crash
    run()
    fs.on_operation = None
    return looked


def contents(agent: AgentStore) -> dict[bytes, bytes]:
    """Everything, but for the registry."""
    return {key: value for key, value in agent.store.scan() if key != b"\0\0"}


# -- the first time ------------------------------------------------------------------------------


def test_a_crash_while_a_store_is_made(fs: SimulatedFileSystem) -> None:
    def look(agent: AgentStore) -> None:
        agent.sessions.create("s1", "ada")
        assert agent.sessions.query(user_id="ada").count() == 1

    def run() -> None:
        AgentStore(PATH, filesystem=fs).close()

    assert at_every_operation(fs, run, look) > 20


def test_a_crash_while_a_store_of_others_becomes_an_agents(fs: SimulatedFileSystem) -> None:
    with walkv.open(PATH, filesystem=fs) as store:
        store.put(b"mine", b"kept")

    def look(agent: AgentStore) -> None:
        assert agent.store.get(b"mine") == b"kept"
        assert contents(agent) == {b"mine": b"kept"}

    def run() -> None:
        AgentStore(PATH, filesystem=fs).close()

    assert at_every_operation(fs, run, look) > 3


@dataclass(frozen=True, slots=True)
class Note:
    note_id: str
    author: str
    text: str


def test_a_crash_while_indexes_are_built_and_removed(fs: SimulatedFileSystem) -> None:
    before = Declaration("notes", Note, key="note_id", indexes=["author"])
    after = Declaration("notes", Note, key="note_id", indexes=["text", ("author", "note_id")])
    with AgentStore(PATH, filesystem=fs) as agent:
        notes = agent.namespace(before)
        notes.put_many(Note(f"n{n}", f"a{n % 3}", f"t{n % 5}") for n in range(60))
    found: set[tuple[str, ...]] = set()

    def look(agent: AgentStore) -> None:
        known = walkv.namespaces.registry.read(agent.store)["notes"]
        found.add(tuple(known.indexes))
        machine = agent.store.engine.fs
        agent.close()
        for declaration in (before, after, before):
            with AgentStore(PATH, filesystem=machine) as again:
                notes = again.namespace(declaration)
                assert notes.verify() == []
                assert notes.count(author="a1") == notes.query(text="t1").count() + 8 == 20
                assert len(notes.table.indexes) == len(declaration.indexes)

    agent = AgentStore(PATH, filesystem=fs)
    at_every_operation(fs, lambda: agent.namespace(after), look)
    agent.close()
    assert found == {("author",), ("text", "author,note_id")}


# -- across namespaces ---------------------------------------------------------------------------


def steps_of(agent: AgentStore) -> list[Callable[[], object]]:
    """What an agent does in a day; each is one commit."""

    def together() -> None:
        with agent.batch():
            agent.sessions.create("s2", "bob")
            agent.messages.append_many("s2", [{"role": "user", "content": n} for n in range(3)])
            agent.checkpoints.put("t1", "c2", {"n": [2] * 50, "draft": "y" * 3000})
            agent.tasks.create("s2", "x", [{"description": "y"}], task_id="k2")
            agent.executions.log(tool_name="ls", execution_id="e2")

    return [
        lambda: agent.sessions.create("s1", "ada"),
        lambda: agent.messages.append("s1", role="user", content="hello", message_id="m1"),
        lambda: agent.checkpoints.put("t1", "c1", {"n": [1] * 50, "draft": "x" * 3000}),
        lambda: agent.task_contexts.store("s1", {"n": 1}),
        lambda: agent.task_contexts.store("s1", {"n": 2}),
        lambda: agent.tasks.create("s1", "x", [{"description": "y"}] * 3, task_id="k1"),
        together,
        lambda: agent.configurations.create("role_config", "coder", {}, config_id="f1"),
        lambda: agent.configurations.create("role_config", "coder", {}, config_id="f2"),
        lambda: agent.users.create("ada", api_keys={"k": "sk"}),
        lambda: agent.contexts.create("w1", "planner", context_id="x1"),
        lambda: agent.contexts.save_compressed("x1", "short", 0.5),
        lambda: agent.workflows.create("w", ["a"], workflow_id="w1"),
        lambda: agent.workflows.update_role_status("w1", "a", "completed", 7),
        lambda: agent.knowledge_sources.add("docs", source_id="k1"),
        lambda: agent.knowledge_sources.delete("k1"),
        lambda: agent.messages.splice("s2", 1, 3, [{"role": "system", "content": "summary"}]),
        lambda: agent.tasks.delete("k1"),
        lambda: agent.checkpoints.copy_thread("t1", "t2"),
        lambda: agent.checkpoints.prune("t1", keep_last=1),
        lambda: agent.sessions.delete("s2"),
        lambda: agent.checkpoints.delete_thread("t2"),
    ]


@pytest.mark.parametrize("durable", [True, False])
def test_what_is_found_is_what_the_first_calls_have_made(
    fs: SimulatedFileSystem, durable: bool
) -> None:
    """Under the default policies all that had returned; under write-back perhaps less, but never
    something without what was before it."""
    policies: Any = None
    if not durable:
        policies = dict.fromkeys(AgentStore(PATH, filesystem=SimulatedFileSystem()).by_name, None)
        policies = dict.fromkeys(policies, WriteBack(1e9))
    agent = AgentStore(PATH, filesystem=fs, policies=policies)
    agent.sync()
    pictures = [contents(agent)]
    returned = 0
    found: set[int] = set()

    def look(after: AgentStore) -> None:
        there = contents(after)
        if there in pictures:
            number = len(pictures) - 1 - pictures[::-1].index(there)
            assert number >= returned or not durable
        else:
            # The call under way: its commit is there, and it has not returned.
            number = returned + 1
            under_way.append(there)
        found.add(number)

    for step in steps_of(agent):
        under_way: list[dict[bytes, bytes]] = []
        at_every_operation(fs, step, look, most=20 if durable else 5)
        returned += 1
        pictures.append(contents(agent))
        assert all(there == pictures[-1] for there in under_way)
    assert found == set(range(returned + 1)) if durable else found >= {0, returned}
    agent.close()


def test_a_day_with_settled_files(fs: SimulatedFileSystem) -> None:
    """The same over snapshots, which hold a part of the records and of the indexes."""
    agent = AgentStore(PATH, filesystem=fs)
    rng = Random(4)
    for step in steps_of(agent):
        step()
        if rng.random() < 0.3:
            before = contents(agent)

            def look(after: AgentStore, expected: Any = before) -> None:
                assert contents(after) == expected

            assert at_every_operation(fs, agent.store.compact, look, most=2) > 5
    assert agent.verify() == []
    agent.close()
