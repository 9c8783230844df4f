"""Checkpoints as a graph would put them, made by hand, and what a store keeps of them."""

from __future__ import annotations

import base64
import random
from collections.abc import Iterable, Mapping
from typing import Any

from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from walkv.integrations.langgraph import WalkvSaver
from walkv.integrations.langgraph.checkpoints import GraphCheckpoints, State, state_of

Config = dict[str, Any]


def text(seed: int, size_bytes: int) -> str:
    """Text that does not compress much, always the same for a seed."""
    return base64.b64encode(random.Random(seed).randbytes(size_bytes * 3 // 4)).decode()


def config(
    thread_id: Any = "t", checkpoint_id: str | None = None, namespace: str | None = ""
) -> Config:
    """What names a checkpoint, the latest, or of all namespaces if ``namespace`` is None."""
    own: dict[str, Any] = {"thread_id": thread_id}
    if namespace is not None:
        own["checkpoint_ns"] = namespace
    if checkpoint_id is not None:
        own["checkpoint_id"] = checkpoint_id
    return {"configurable": own}


def step(
    checkpoint_id: str,
    values: Mapping[str, Any],
    *,
    thread_id: Any = "t",
    parent: str | None = None,
    namespace: str = "",
    new: Iterable[str] | None = None,
    versions: Mapping[str, Any] | None = None,
    metadata: Mapping[str, Any] | None = None,
    ts: str = "2024-05-01T10:00:00+00:00",
) -> tuple[Config, Any, Any, Any]:
    """Arguments for ``put``.

    Args:
        new: channels that have changed; all of ``values`` by default.
        versions: of the channels; 1 for each by default.
    """
    known = dict.fromkeys(values, 1) if versions is None else dict(versions)
    changed = list(known if new is None else new)
    checkpoint = {
        "v": 4,
        "id": checkpoint_id,
        "ts": ts,
        "channel_values": dict(values),
        "channel_versions": known,
        "versions_seen": {},
        "updated_channels": sorted(changed),
    }
    new_versions = {name: known[name] for name in changed if name in known}
    return config(thread_id, parent, namespace), checkpoint, dict(metadata or {}), new_versions


def put(saver: Any, checkpoint_id: str, values: Mapping[str, Any], **options: Any) -> Config:
    """Put a checkpoint; see ``step``."""
    made: Config = saver.put(*step(checkpoint_id, values, **options))
    return made


def chat(saver: Any, turns: int, thread_id: str = "t", size_bytes: int = 400) -> None:
    """Put a thread whose list of messages grows by one at each step, next to an unchanged one."""
    said: list[dict[str, Any]] = []
    for n in range(turns):
        said = [*said, {"role": "user", "id": f"m{n}", "content": text(n, size_bytes)}]
        values = {"messages": said, "step": n, "profile": {"about": text(-1, 2000)}}
        put(
            saver,
            f"{n:06}",
            values,
            thread_id=thread_id,
            parent=f"{n - 1:06}" if n else None,
            new=values if n == 0 else ("messages", "step"),
            versions={"messages": n + 1, "step": n + 1, "profile": 1},
            metadata={"step": n, "source": "loop"},
        )


def values_of(saver: Any, where: Config | None = None) -> Any:
    """The channel values of a checkpoint; None if it is not there."""
    found = saver.get_tuple(where or config())
    return found and found.checkpoint["channel_values"]


def ids(found: Iterable[Any]) -> list[str]:
    return [each.config["configurable"]["checkpoint_id"] for each in found]


def writes_of(saver: Any, where: Config | None = None) -> list[tuple[str, str, Any]]:
    """The pending writes of a checkpoint."""
    found = saver.get_tuple(where or config())
    assert found is not None
    return list(found.pending_writes)


# -- what is kept ----------------------------------------------------------------------------------


def kept_by(saver: WalkvSaver) -> GraphCheckpoints:
    """The namespace behind a saver."""
    return saver._faces.threads


def state(
    saver: WalkvSaver, checkpoint_id: str | None = None, thread_id: str = "t", namespace: str = ""
) -> State:
    """A checkpoint as it is stored."""
    record = kept_by(saver).record_at(saver.agent.store, thread_id, namespace, checkpoint_id)
    assert record is not None
    return state_of(record)


def recipe(saver: WalkvSaver, channel: str, checkpoint_id: str, **where: str) -> bytes:
    """How a channel's value is put together."""
    return state(saver, checkpoint_id, **where).channels[channel].recipe


def entries(saver: WalkvSaver, part: bytes = b"") -> dict[bytes, bytes]:
    """Keys and values of the namespace, or of a part of what is kept besides the records."""
    prefix = kept_by(saver).table.other + part if part else b"\0langgraph_checkpoints\0"
    return dict(saver.agent.store.scan(prefix))


def parts(saver: WalkvSaver) -> dict[bytes, bytes]:
    """The parts of all values."""
    start = len(kept_by(saver).table.other) + 1 + 8
    return {
        key: value for key, value in entries(saver, b"p").items() if key[start : start + 1] == b"p"
    }


def left_behind(saver: WalkvSaver) -> list[bytes]:
    """Keys of the namespace, but for the counter of pools."""
    return [key for key in entries(saver) if key != kept_by(saver).table.other + b"n"]


def written_bytes(saver: WalkvSaver) -> int:
    """Bytes that commits have written to the log so far."""
    position: int = saver.agent.store.engine.write_log.position  # type: ignore[union-attr]
    return position


def unneeded_bytes(saver: WalkvSaver) -> int:
    """Bytes of parts that nothing needs any more, in all pools. Changes nothing."""
    checkpoints = kept_by(saver)
    start = len(checkpoints.table.other) + 1
    pools = {int.from_bytes(key[start : start + 8], "big") for key in entries(saver, b"p")}
    tx = saver.agent.store.transaction()
    freed = sum(checkpoints._collect(tx, pool) for pool in sorted(pools))  # type: ignore[arg-type]
    tx.discard()
    return freed


class Counting(JsonPlusSerializer):
    """LangGraph's serializer, strict, which notes what is given to it."""

    def __init__(self) -> None:
        super().__init__(allowed_msgpack_modules=None)
        self.dumped: list[Any] = []
        self.loaded: list[bytes] = []

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        self.dumped.append(obj)
        return super().dumps_typed(obj)

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        self.loaded.append(data[1])
        return super().loads_typed(data)
