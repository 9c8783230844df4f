"""Lists of messages to bytes: what was serialized lately is not serialized again.

A graph puts its whole conversation at each step, and most of its messages are as they were. Packing
a message's fields takes a fifth of the time that LangGraph's serializer takes for it, and tells
whether it has changed.

Invariants:
    1. The bytes are those that the serializer gives, for whatever is in the list.
    2. What is remembered is found by class and packed fields alone: it does not matter which object
       it was, or whether that has changed since.
    3. Only LangGraph's own serializer is stood in for, since it is known what its bytes depend on.

Source: finding messages by identity was rejected: each run of a graph loads them anew.
"""

from __future__ import annotations

import secrets
import threading
from typing import Any, Final

import ormsgpack
import xxhash
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from walkv import limits

DEFAULT_CACHE_BYTES: Final = 64 * limits.MIB
MIN_MESSAGES: Final = 4
"""A shorter list is left to the serializer."""

_CLASSES: Final[dict[type, bytes]] = {
    AIMessage: b"a",
    HumanMessage: b"h",
    SystemMessage: b"s",
    ToolMessage: b"t",
}
_SEED: Final = secrets.randbits(64)
"""Nobody who writes messages can look for two that are taken for one."""

# Whatever is not plain data is not packed, and its message is left to the serializer.
_OPTION: Final = (
    ormsgpack.OPT_NON_STR_KEYS
    | ormsgpack.OPT_PASSTHROUGH_DATACLASS
    | ormsgpack.OPT_PASSTHROUGH_DATETIME
    | ormsgpack.OPT_PASSTHROUGH_ENUM
    | ormsgpack.OPT_PASSTHROUGH_UUID
    | ormsgpack.OPT_PASSTHROUGH_SUBCLASS
    | ormsgpack.OPT_REPLACE_SURROGATES
)


class MessageEncoder:
    """Serializes lists of messages. Thread-safe.

    Args:
        cache_bytes: most memory for serialized messages.
    """

    def __init__(self, cache_bytes: int = DEFAULT_CACHE_BYTES) -> None:
        # Two generations: a message that is met again moves to the young one.
        self._young: dict[bytes, bytes] = {}
        self._old: dict[bytes, bytes] = {}
        self._most_bytes = cache_bytes // 2
        self._young_bytes = 0
        self._lock = threading.Lock()

    def encode(self, serde: SerializerProtocol, value: Any) -> bytes | None:
        """A list of messages as ``serde`` would serialize it; None if it is something else."""
        if type(value) is not list or len(value) < MIN_MESSAGES:
            return None
        if type(serde) is not JsonPlusSerializer or type(value[0]) not in _CLASSES:
            return None
        parts = [_header(len(value))]
        for element in value:
            part = self._element(serde, element)
            if part is None:
                return None
            parts.append(part)
        return b"".join(parts)

    # Hot.
    def _element(self, serde: SerializerProtocol, element: Any) -> bytes | None:
        mark = _CLASSES.get(type(element))
        if mark is None or element.__pydantic_extra__:
            return None
        fields = _packed(element)
        if fields is None:
            return None
        key = mark + xxhash.xxh3_128_digest(fields, _SEED)
        found = self._young.get(key)
        if found is None:
            found = self._old.get(key)
            if found is None:
                try:
                    kind, found = serde.dumps_typed(element)
                except (TypeError, ValueError):
                    return None  # who serializes the whole list says what is wrong
                if kind != "msgpack" or _packed(element) != fields:
                    return None  # somebody is changing it
            self._remember(key, found)
        return found

    def _remember(self, key: bytes, data: bytes) -> None:
        with self._lock:
            self._young[key] = data
            self._young_bytes += len(data) + len(key)
            if self._young_bytes > self._most_bytes:
                self._old, self._young = self._young, {}
                self._young_bytes = 0


def _packed(element: Any) -> bytes | None:
    try:
        return ormsgpack.packb(element.__dict__, option=_OPTION)
    except (TypeError, ValueError):  # something else than plain data, or too deep
        return None


def _header(count: int) -> bytes:
    if count < 16:
        return bytes((0x90 | count,))
    if count < 1 << 16:
        return b"\xdc" + count.to_bytes(2, "big")
    return b"\xdd" + count.to_bytes(4, "big")
