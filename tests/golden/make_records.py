"""Builds the golden store of records: ``python tests/golden/make_records.py``.

It pins what namespaces keep in a store. As with ``make.py``, this refuses to overwrite.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

from make import HERE, START_NS, GoldenFileSystem

import walkv
from walkv.namespaces import registry

TARGET = HERE / f"records-v{registry.VERSION}"
LONG = " ".join(f"word{number}" for number in range(1200))
"""Long enough that an edit is kept as a delta."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A record with a value of every kind in a field of its own."""

    name: str
    number: int
    share: float | None
    done: bool
    data: bytes
    at: datetime
    anything: Any
    tags: list[str] = field(default_factory=list)
    token: str = field(default="", repr=False, metadata={"secret": True})


SAMPLES = walkv.Declaration(
    "samples",
    Sample,
    key=("name", "number"),
    indexes=["share", ("done", "at"), "data"],
    history=2,
    version=2,
    migrations={2: lambda fields: fields},
)

AT = datetime(2024, 2, 29, 12, 30, 15, 123456, tzinfo=UTC)
ANYTHING = {
    "nested": [1, -1, 2**40, 2**70, -(2**70), 1.5, None, True, b"\0\xff", "text \u00e9"],
    ("a", 1): {"set": {3}, "frozen": frozenset({"x"})},
    "times": [AT, date(2024, 2, 29), timedelta(days=-1, microseconds=5)],
    "others": [UUID(int=7), Decimal("1.50"), (1, (2,))],
}


def states() -> list[Any]:
    """States with literals, shared parts and deltas."""
    messages = [{"role": "user", "content": f"message {n} " * 40} for n in range(6)]
    made: list[Any] = [{"messages": messages[: n + 1], "step": n} for n in range(6)]
    made.append({"messages": messages, "step": 6, "draft": LONG})
    made.append({"messages": messages, "step": 7, "draft": LONG.replace("word600", "changed")})
    return made


def fill(agent: walkv.AgentStore) -> None:
    """One record of everything, at least."""
    agent.sessions.create("s1", user_id="ada", metadata={"plan": "pro"})
    agent.sessions.update("s1", increment_requests=True, add_processing_time=1.25)
    agent.messages.append_many(
        "s1",
        [
            {"role": "user", "content": "hello", "message_id": "m1"},
            {"role": "assistant", "content": [{"type": "text"}], "message_id": "m2"},
        ],
    )
    for number, state in enumerate(states()):
        agent.checkpoints.put("t1", f"c{number}", state, metadata={"n": number}, run_id="r1")
    agent.checkpoints.put_writes("t1", "c7", "task", [("x", 1), ("y", {"z": 2})], task_path="p")
    agent.checkpoints.put_writes("t1", "c7", "task", [("__error__", "no")])
    agent.checkpoints.copy_thread("t1", "t2")
    agent.task_contexts.store("s1", {"goal": 1})
    agent.task_contexts.store("s1", {"goal": 2})
    agent.contexts.create("w1", "planner", {"a": [1]}, context_id="x1")
    agent.contexts.save_compressed("x1", "short", 0.5)
    agent.workflows.create("index", ["reader", "writer"], workflow_id="w1", execution_id="e1")
    agent.workflows.update_role_status("w1", "reader", "completed", {"files": 3})
    agent.executions.log(
        tool_name="search", input_data={"q": 1}, output_data=[1], role="planner", execution_id="x1"
    )
    agent.configurations.create("role_config", "planner", {"t": 1}, "1", config_id="f1")
    agent.configurations.create("role_config", "planner", {"t": 2}, "2", config_id="f2")
    agent.configurations.set("log_level", "INFO", "how much is said")
    steps = [{"description": "one", "subtask_id": "b1"}, {"description": "two", "subtask_id": "b2"}]
    agent.tasks.create("s1", "do it", steps, task_id="k1")
    agent.users.create("ada", {"theme": "dark"}, {"openai": "sk-1"})
    agent.users.add_usage("ada", task_count=1, tokens=100)
    agent.knowledge_sources.add("manual", "/doc", "folder", source_id="q1")
    samples = agent.namespace(SAMPLES)
    samples.put(Sample("a", 1, None, False, b"", AT, None))
    for number in (-(2**40), -1, 0, 255, 2**63):
        samples.put(Sample("b\0c", number, number / 2, True, b"\0\1", AT, ANYTHING, ["x"], "t"))
    samples.update(("a", 1), share=0.0)
    samples.update(("a", 1), share=-2.5, done=True)


class StillFileSystem(GoldenFileSystem):
    """Its clock stands still: how often the code looks at it is no part of the format."""

    def wall_time_ns(self) -> int:
        return START_NS


def entries(store: walkv.Store) -> dict[bytes, bytes]:
    """All entries of a store."""
    return dict(store.scan())


def build(target: Path, fill: Callable[[walkv.AgentStore], None]) -> dict[bytes, bytes]:
    """Build a store; returns what is in it."""
    with walkv.AgentStore(target, filesystem=StillFileSystem()) as agent:
        fill(agent)
        agent.store.compact()
        found = entries(agent.store)
    (target / "LOCK").write_bytes(b"")
    return found


def make(target: Path) -> dict[bytes, bytes]:
    """Build the store; returns what is in it."""
    return build(target, fill)


def command(target: Path, make: Callable[[Path], object], description: str | None) -> int:
    """Build a golden store from the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--overwrite", action="store_true", help="only before it is released")
    options = parser.parse_args()
    if target.exists():
        if not options.overwrite:
            sys.stderr.write(f"{target} exists, and golden files are for ever; see --help\n")
            return 1
        shutil.rmtree(target)
    make(target)
    sys.stdout.write(f"made {target}\n")
    return 0


if __name__ == "__main__":
    sys.exit(command(TARGET, make, __doc__))
