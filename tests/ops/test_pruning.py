from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import walkv
from walkv import testing
from walkv.ops import Pruned, Rules, prune

DAY = 86_400.0


@pytest.fixture
def clock() -> testing.ManualClock:
    return testing.ManualClock()


@pytest.fixture
def agent(clock: testing.ManualClock) -> Iterator[walkv.AgentStore]:
    """Two sessions, of which one is forty days old but for a message; 5 checkpoints; and more."""
    fs = testing.SimulatedFileSystem(clock=clock)
    with walkv.AgentStore("s", filesystem=fs) as agent:
        agent.sessions.create("idle", user_id="ada")
        agent.sessions.create("talks", user_id="ada")
        agent.messages.append("idle", role="user", content="x")
        for number in range(5):
            agent.checkpoints.put("t1", f"c{number}", {"n": number, "text": f"{number}" * 3000})
        clock.advance(40 * DAY)
        agent.sessions.create("new", user_id="ada")
        for number in range(6):
            agent.messages.append("talks", role="user", content=f"{number}")
        yield agent


def done(agent: walkv.AgentStore, dry_run: bool = False, **rules: Any) -> dict[str, int]:
    found = list(prune(agent.by_name, Rules(**rules), dry_run=dry_run))
    return {each.namespace: each.record_count for each in found}


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ({}, {}),
        ({"checkpoints_keep": 2}, {"checkpoints": 3}),
        ({"checkpoints_seconds": 30 * DAY}, {"checkpoints": 4}),
        ({"checkpoints_seconds": 50 * DAY}, {"checkpoints": 0}),
        ({"checkpoints_seconds": 30 * DAY, "checkpoints_keep": 3}, {"checkpoints": 2}),
        ({"sessions_seconds": 30 * DAY}, {"sessions": 1}),
        ({"sessions_seconds": 50 * DAY}, {"sessions": 0}),
        ({"messages_keep": 4}, {"messages": 2}),
        ({"messages_keep": 0}, {"messages": 7}),
        ({"messages_keep": 6}, {"messages": 0}),
        ({"messages_keep": 1, "checkpoints_keep": 5}, {"messages": 5, "checkpoints": 0}),
    ],
)
def test_what_goes(agent: walkv.AgentStore, rules: Any, expected: dict[str, int]) -> None:
    before = agent.store.last_sequence
    assert done(agent, dry_run=True, **rules) == expected
    assert agent.store.last_sequence == before
    assert done(agent, **rules) == expected
    assert set(done(agent, **rules).values()) <= {0}
    assert agent.verify() == []


def test_the_newest_stay(agent: walkv.AgentStore) -> None:
    done(agent, messages_keep=2, checkpoints_keep=1, sessions_seconds=30 * DAY)
    assert [message.content for message in agent.messages.history("talks")] == ["4", "5"]
    assert agent.messages.count("talks") == 2
    assert [each.checkpoint_id for each in agent.checkpoints.list("t1")] == ["c4"]
    assert [session.session_id for session in agent.sessions.scan()] == ["new", "talks"]
    assert agent.messages.history("idle") == []


def test_contexts_and_executions(agent: walkv.AgentStore, clock: testing.ManualClock) -> None:
    agent.executions.once("step", lambda: 1)
    agent.executions.log(tool_name="search")
    agent.contexts.create("w", "writer")
    clock.advance(40 * DAY)
    agent.executions.log(tool_name="search")
    rules = {"executions_seconds": 30 * DAY, "contexts_seconds": 30 * DAY}
    for dry_run in (True, False):
        assert done(agent, dry_run, **rules) == {"contexts": 1, "executions": 1}
    # A step that is forgotten would be run again.
    assert agent.executions.count() == 2
    assert agent.executions.once("step", lambda: 2) == 1


def test_freed_bytes_are_not_known_before(agent: walkv.AgentStore) -> None:
    rules = Rules(checkpoints_keep=1)
    assert list(prune(agent.by_name, rules, dry_run=True)) == [Pruned("checkpoints", 4, None)]
    (found,) = prune(agent.by_name, rules)
    assert found.freed_bytes is not None
