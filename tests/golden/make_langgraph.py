"""Builds the golden store of LangGraph's adapters: ``python tests/golden/make_langgraph.py``.

It pins what they keep in a store. As with ``make.py``, this refuses to overwrite. Values are plain
data: what classes are serialized to is LangGraph's.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from make import HERE
from make_records import LONG, build, command

import walkv
from walkv.integrations.langgraph import WalkvCache, WalkvSaver, WalkvStore

VERSION = 1
TARGET = HERE / f"langgraph-v{VERSION}"
TS = "2024-02-29T12:30:15.123456+00:00"
INDEX: Any = {
    "dims": 2,
    "embed": lambda texts: [[float(len(text)), 0.5] for text in texts],
    "fields": ["text", "notes[*]"],
}


def states() -> list[dict[str, Any]]:
    """Channel values of a thread: some stay, one grows, one changes, one goes."""
    messages = [{"role": "user", "content": f"message {n} " * 40} for n in range(6)]
    made: list[dict[str, Any]] = [
        {"messages": messages[: n + 1], "step": n, "profile": {"about": "me " * 200}, "none": None}
        for n in range(6)
    ]
    made.append({**made[-1], "draft": LONG})
    made.append({**made[-1], "draft": LONG.replace("word600", "changed"), "data": b"\0\xff" * 9})
    del made[-1]["profile"]
    return made


def fill(agent: walkv.AgentStore) -> None:
    """Everything that the adapters write."""
    saver = WalkvSaver(agent)
    config: Any = {"configurable": {"thread_id": "t1", "checkpoint_ns": ""}}
    before: dict[str, Any] = {}
    versions: dict[str, Any] = {}
    for number, state in enumerate(states()):
        new = {name: number + 1 for name, value in state.items() if before.get(name) != value}
        versions |= new
        if number > 5:
            versions["notes"] = 6  # a delta channel
        before = state
        checkpoint: Any = {
            "v": 4,
            "id": f"c{number}",
            "ts": TS,
            "channel_values": state,
            "channel_versions": dict(versions),
            "versions_seen": {"node": {"step": number}},
            "updated_channels": sorted(new),
        }
        metadata: Any = {"source": "loop", "step": number, "parents": {}, "run_id": "r1"}
        if number > 5:
            metadata["counters_since_delta_snapshot"] = {"notes": [1, 2]}
        config = saver.put(config, checkpoint, metadata, new)
        saver.put_writes(config, [("step", number + 1), ("log", "text")], f"task{number}", "~p, 1")
    saver.put_writes(config, [("__interrupt__", ["stop"])], "task7", "~p, 1")
    saver.put_writes(config, [("draft", LONG * 2)], "large")
    child: Any = {"configurable": {"thread_id": "t1", "checkpoint_ns": "child:1"}}
    version = f"{1:032}.{0.25:016}"
    checkpoint = {
        "v": 4,
        "id": "s0",
        "ts": TS,
        "channel_values": {"text": "in a subgraph"},
        "channel_versions": {"text": version},
        "versions_seen": {},
    }
    saver.put(child, checkpoint, {"step": 0}, {"text": version})
    saver.copy_thread("t1", "t2")

    store = WalkvStore(agent, index=INDEX, ttl={"default_ttl": None})
    store.put(("users", "ada"), "profile", {"text": "likes tea", "notes": ["a", "bc"], "n": [1.5]})
    store.put(("users",), "all", {"count": 1}, ttl=30)
    store.put(("users", "grace"), "profile", {"text": "x"}, index=False)

    cache = WalkvCache(agent)
    cache.set({(("a", "b,c"), "k"): ({"result": [1, None]}, None), ((), "k"): ("r", 10**9)})


def make(target: Path) -> dict[bytes, bytes]:
    """Build the store; returns what is in it."""
    return build(target, fill)


if __name__ == "__main__":
    sys.exit(command(TARGET, make, __doc__))
