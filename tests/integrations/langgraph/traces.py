"""What a graph's run left behind, written so that two runs on different savers can be compared.

Ids are made at random or from the clock, so they are replaced by numbers in the order in which they
are met, and versions of channels by their counts. Everything else has to be equal: values, next
tasks, errors, interrupts, metadata, parents, pending writes and their order.

One thing may differ. What a ``DeltaChannel`` snapshots belongs to the checkpoint that it is put
with. A saver that keeps values by their versions finds it in the checkpoints after it too, until
the channel changes; one that keeps what it is given does not. Both rebuild the same value, which
the states of the graph show.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any

from langchain_core.messages import BaseMessage
from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple
from langgraph.checkpoint.serde.types import _DeltaSnapshot
from langgraph.types import Interrupt, PregelTask, Send, StateSnapshot

Plain = Any
"""Strings, numbers, lists and dictionaries of them."""

_ID = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}|\b[0-9a-f]{32}\b")
_CONFIG = ("thread_id", "checkpoint_ns", "checkpoint_id", "checkpoint_map")


class Labels:
    """Numbers for ids, in the order in which they are met."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def text(self, text: str) -> str:
        """A text with its ids replaced."""
        numbers = self._numbers
        return _ID.sub(lambda found: f"<{numbers.setdefault(found[0], len(numbers))}>", text)

    def plain(self, value: Any) -> Plain:
        """Anything a graph returns."""
        match value:
            case str():
                return self.text(value)
            case StateSnapshot():
                return self._snapshot(value)
            case PregelTask():
                fields = value._asdict()
                state = fields.pop("state")
                fields["state"] = self.config(state) if isinstance(state, dict) else state
                return self.plain(fields)
            case Interrupt():
                return ["Interrupt", self.plain(value.value), self.text(value.id)]
            case Send():
                return ["Send", value.node, self.plain(value.arg)]
            case BaseMessage():
                return [type(value).__name__, self.plain(value.model_dump())]
            case BaseException():
                return self.text(repr(value))
            case Mapping():
                return self._mapping(value)
            case list() | tuple():
                # Tasks of one step ask in the order in which their threads come to it.
                asked = value and all(isinstance(each, Interrupt) for each in value)
                ordered = sorted(value, key=lambda each: repr(each.value)) if asked else value
                return [self.plain(each) for each in ordered]
            case set() | frozenset():
                return sorted((self.plain(each) for each in value), key=repr)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return [type(value).__name__, self.plain(vars(value))]
        return value

    def _mapping(self, value: Mapping[Any, Any]) -> Plain:
        # Ids are met in an order that does not depend on them.
        items = sorted(value.items(), key=lambda item: _ID.sub("", str(item[0])))
        return {self.plain(key): self.plain(each) for key, each in items}

    def config(self, config: Mapping[str, Any] | None) -> Plain:
        """What a config says about a checkpoint."""
        if config is None:
            return None
        own = config["configurable"]
        return self.plain({key: own[key] for key in _CONFIG if own.get(key)})

    def _snapshot(self, state: StateSnapshot) -> Plain:
        fields = state._asdict()
        del fields["created_at"]
        for name in ("config", "parent_config"):
            fields[name] = self.config(fields[name])
        return self.plain(fields)

    def checkpoint(self, found: CheckpointTuple) -> Plain:
        """All that a saver keeps of a checkpoint."""
        checkpoint = dict(found.checkpoint)
        versions = checkpoint.pop("channel_versions")
        seen = checkpoint.pop("versions_seen")
        del checkpoint["ts"]
        return {
            "config": self.config(found.config),
            "parent": self.config(found.parent_config),
            "checkpoint": self.plain(checkpoint),
            "versions": _counts(versions),
            "seen": {self.text(node): _counts(each) for node, each in seen.items()},
            "metadata": self.plain(found.metadata),
            "writes": self.plain(found.pending_writes),
        }


def _counts(versions: Mapping[str, Any]) -> dict[str, int]:
    """Versions of channels without what makes them unique."""
    return {name: int(str(version).partition(".")[0]) for name, version in versions.items()}


def contents(
    saver: BaseCheckpointSaver[Any], thread_id: str | None = None
) -> list[CheckpointTuple]:
    """Every checkpoint, of one thread or of all, oldest first."""
    config: Any = {"configurable": {"thread_id": thread_id}} if thread_id else None

    def place(found: CheckpointTuple) -> tuple[str, str, str]:
        own = found.config["configurable"]
        return own["checkpoint_id"], own["thread_id"], own["checkpoint_ns"]

    return sorted(saver.list(config), key=place)


def kept(saver: BaseCheckpointSaver[Any], thread_id: str | None = None) -> Plain:
    """``contents``, to be compared."""
    labels = Labels()
    found = contents(saver, thread_id)
    versions = {each.checkpoint["id"]: each.checkpoint["channel_versions"] for each in found}
    return [labels.checkpoint(_without_echoes(each, versions)) for each in found]


def _without_echoes(found: CheckpointTuple, versions: Mapping[str, Any]) -> CheckpointTuple:
    """A checkpoint without the snapshots of channels that are as in its parent."""
    parent = found.parent_config and found.parent_config["configurable"]["checkpoint_id"]
    before = versions.get(parent, {})
    values = {
        name: value
        for name, value in found.checkpoint["channel_values"].items()
        if not isinstance(value, _DeltaSnapshot)
        or before.get(name) != found.checkpoint["channel_versions"][name]
    }
    return found._replace(checkpoint={**found.checkpoint, "channel_values": values})


def told(results: Iterable[Any]) -> Plain:
    """What calls returned, to be compared."""
    labels = Labels()
    return [labels.plain(result) for result in results]
