"""Files of other stores, small, under the names that examples have for them."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import diskcache
from agents import SQLiteSession

from walkv import AgentStore
from walkv.ops import export


def make_sources(folder: Path) -> None:
    """Make ``agent.walkv``, and what can be imported: one of each that examples name."""
    with AgentStore(folder / "agent.walkv") as agent:
        agent.messages.append("s1", role="user", content="hello")
        export(agent.store, folder / "exported.jsonl", secrets=True)
    items: list[Any] = [{"role": "user", "content": "hi"}]
    session = SQLiteSession("ada", folder / "conversations.db")
    asyncio.run(session.add_items(items))
    session.close()
    with diskcache.Cache(str(folder / "cache")) as cache:
        cache["key"] = "value"
    connection = sqlite3.connect(folder / "data.db")
    connection.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY, body TEXT)")
    connection.execute("INSERT INTO notes (body) VALUES ('hello')")
    connection.commit()
    connection.close()
