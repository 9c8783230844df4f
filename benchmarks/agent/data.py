"""The records of an agent, made from a seed."""

import random
from collections.abc import Iterator
from typing import Any

ROLES = ("planner", "researcher", "writer", "reviewer", "tester")
STATUSES = ("success", "failed", "cancelled", "running")
_SENTENCE = (
    "the agent reads a file and finds that its index is older than the log so it asks a tool for "
    "the newest entry before it writes an answer about state steps and what was acknowledged"
)
_WORDS = _SENTENCE.split()


def text(rng: random.Random, size_bytes: int) -> str:
    """Words with numbers between them, so that neither side can compress it to nothing."""
    parts: list[str] = []
    length = 0
    while length < size_bytes:
        part = rng.choice(_WORDS) if rng.random() < 0.8 else str(rng.randrange(1_000_000))
        parts.append(part)
        length += len(part) + 1
    return " ".join(parts)[:size_bytes]


def message(rng: random.Random) -> dict[str, Any]:
    """A message of some 300 bytes."""
    return {
        "role": rng.choice(("user", "assistant")),
        "content": text(rng, rng.randrange(100, 500)),
        "metadata": {"tokens": rng.randrange(500), "model": "m-1"},
    }


def item(rng: random.Random) -> dict[str, Any]:
    """A message as models are given it, of some 300 bytes."""
    return {
        "role": rng.choice(("user", "assistant")),
        "content": text(rng, rng.randrange(100, 500)),
    }


def state(rng: random.Random, size_bytes: int, step: int = 0) -> dict[str, Any]:
    """A conversation's state of about that size."""
    each = min(1000, size_bytes // 2)
    messages = [
        {"role": "user", "content": text(rng, each - 60), "id": f"m{number}"}
        for number in range(max(size_bytes // each, 1))
    ]
    return {"messages": messages, "step": step, "scratch": {"last_tool": "search"}}


def grown(rng: random.Random, before: dict[str, Any], step: int) -> dict[str, Any]:
    """The state of the next step: a message more (the oldest goes, so that the size stays)."""
    each = len(before["messages"][-1]["content"])
    new = {"role": "user", "content": text(rng, each), "id": f"n{step}"}
    return {"messages": [*before["messages"][1:], new], "step": step, "scratch": {"last": step}}


def conversation(rng: random.Random, steps: int, end_bytes: int) -> Iterator[dict[str, Any]]:
    """The states of a conversation that grows to `end_bytes`, of text that does not compress."""
    each = end_bytes // steps
    messages: list[dict[str, str]] = []
    for step in range(steps):
        content = rng.randbytes(max(each - 50, 8)).hex()[: max(each - 50, 8)]
        messages.append({"role": "user", "content": content, "id": f"m{step}"})
        yield {"messages": list(messages), "step": step, "scratch": {"last": step}}


def execution(rng: random.Random, number: int) -> dict[str, Any]:
    """A tool call that is over."""
    return {
        "role": rng.choice(ROLES),
        "status": rng.choices(STATUSES, (90, 7, 2, 1))[0],
        "tool_name": f"tool-{rng.randrange(20)}",
        "workflow_id": f"workflow-{number // 50}",
        "input_data": {"query": text(rng, 60), "limit": 10},
        "output_data": {"hits": rng.randrange(100), "text": text(rng, 100)},
        "execution_time_seconds": rng.random(),
        "metadata": {"attempt": 1},
    }
