"""What the runbook's reader has: an agent's store that has been used, and backups of it."""

from __future__ import annotations

from pathlib import Path

import walkv
from walkv.ops import backup

STORE = "agent.walkv"
BACKUPS = "backups"


def make_store(directory: Path) -> None:
    """A store in a directory, and a backup of it: snapshots, a log, records and plain keys."""
    with walkv.AgentStore(directory / STORE) as agent:
        agent.store.put(b"user/1", b"Ada")
        agent.sessions.create("s1", user_id="ada")
        for number in range(20):
            agent.messages.append("s1", role="user", content=f"message {number}")
            agent.checkpoints.put("thread-1", f"c{number:02}", {"step": number})
        agent.store.compact()
        with agent.executions.record(role="planner", tool_name="search"):
            agent.messages.append("s1", role="user", content="the last one")
        agent.sync()
        backup(agent, directory / BACKUPS)
