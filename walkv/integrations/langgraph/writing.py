"""Checkpoints of graphs, ready to be written: serialized, and told from what has not changed.

Invariant: what has changed is serialized when the saver is called, in the caller's thread, and not
when it is written: a graph goes on and may change it meanwhile.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache, partial
from typing import Any, NamedTuple

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    get_checkpoint_metadata,
)
from langgraph.checkpoint.serde.base import SerializerProtocol

from walkv.integrations.langgraph.checkpoints import Document, Place, Typed, Value
from walkv.integrations.langgraph.encoding import MessageEncoder
from walkv.integrations.langgraph.reading import config_of
from walkv.integrations.langgraph.serde import dump


class Prepared(NamedTuple):
    """A checkpoint to be put.

    Attributes:
        config: names it.
        document: it, without its channels ...
        values: ... and those of its channels that have a value.
        size_bytes: of what is serialized so far.
    """

    config: RunnableConfig
    document: Document
    values: dict[str, Value]
    size_bytes: int


class PreparedWrites(NamedTuple):
    """Writes of a task to be put; arguments of ``GraphCheckpoints.put_task_writes``."""

    place: Place
    task_id: str
    writes: list[tuple[str, Typed]]
    task_path: str


def prepare(
    serializer: SerializerProtocol,
    encoder: MessageEncoder,
    config: RunnableConfig,
    checkpoint: Checkpoint,
    metadata: CheckpointMetadata,
    new_versions: ChannelVersions,
) -> Prepared:
    """A checkpoint that ``config`` and ``new_versions`` say how to put; see ``WalkvSaver.put``.

    Raises:
        CodecError: something in it cannot be serialized.
    """
    fields: dict[str, Any] = {**checkpoint}
    channels: dict[str, Any] = fields.pop("channel_values")
    versions = checkpoint["channel_versions"]
    merged = get_checkpoint_metadata(config, metadata)
    document = Document(
        _place(config, checkpoint["id"]),
        dump(serializer, fields, "checkpoint"),
        dump(serializer, merged, "metadata"),
        *noted(checkpoint, channels, merged),
    )
    size_bytes = len(document.checkpoint[1]) + len(document.metadata[1])
    values = {}
    for name, value in channels.items():
        changed = name in new_versions or name not in versions
        dumped = cache(partial(_dump, serializer, encoder, name, value))
        if changed:
            size_bytes += len(dumped()[1])
        values[name] = Value(versions.get(name, 0), changed, dumped)
    thread_id = config["configurable"]["thread_id"]
    place = document.place
    named = config_of(thread_id, place.namespace, place.checkpoint_id)
    return Prepared(named, document, values, size_bytes)


def _dump(serializer: SerializerProtocol, encoder: MessageEncoder, name: str, value: Any) -> Typed:
    data = encoder.encode(serializer, value)
    return ("msgpack", data) if data else dump(serializer, value, f"channel {name!r}")


def prepare_writes(
    serializer: SerializerProtocol,
    config: RunnableConfig,
    writes: Sequence[tuple[str, Any]],
    task_id: str,
    task_path: str,
) -> PreparedWrites:
    """Writes of a task; see ``WalkvSaver.put_writes``.

    Raises:
        CodecError: one of them cannot be serialized.
    """
    typed = [(name, dump(serializer, value, f"write to {name!r}")) for name, value in writes]
    place = _place(config, config["configurable"]["checkpoint_id"])
    return PreparedWrites(place, task_id, typed, task_path)


def _place(config: RunnableConfig, checkpoint_id: str) -> Place:
    named = config["configurable"]
    namespace = named.get("checkpoint_ns", "")
    return Place(str(named["thread_id"]), namespace, checkpoint_id, named.get("checkpoint_id"))


def noted(
    checkpoint: Mapping[str, Any], channels: Collection[str], metadata: Mapping[str, Any]
) -> tuple[str | None, list[str], datetime | None]:
    """The run, the delta channels without a value, and the time of a checkpoint; see ``Document``.

    Args:
        channels: that have a value in it.
    """
    run_id = metadata.get("run_id")
    counters = metadata.get("counters_since_delta_snapshot") or {}
    versions = checkpoint.get("channel_versions") or {}
    try:
        created_at = datetime.fromisoformat(checkpoint["ts"]).astimezone(UTC)
    except (KeyError, TypeError, ValueError, OverflowError):
        created_at = None
    return (
        run_id if isinstance(run_id, str) else None,
        # One that was never written has no version, and nothing to be rebuilt from.
        [name for name in counters if name not in channels and name in versions],
        created_at,
    )
