"""Lists of messages, decoded once: what was loaded or put lately is handed out again as copies.

Most of what it costs to load a conversation is making its messages anew. A channel's value that
was put or loaded before is known by its recipe. So its messages are kept, as prototypes, and who
loads it again gets copies, which are the caller's own.

Invariants:
    1. A prototype is made from the bytes that were stored, never from objects of the caller, who
       may change them meanwhile.
    2. A copy shares with its prototype only what cannot be changed: text, numbers, None.
    3. Only message classes of LangChain itself with plain data in them have prototypes. A list
       with anything else in it is decoded each time.

Source: lazily decoded messages were rejected, since graphs read all of them; so were shared ones,
since a node may change a message in place.
"""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from typing import Any, Final, NamedTuple

import msgpack
import xxhash
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.jsonplus import EXT_PYDANTIC_V2, JsonPlusSerializer

from walkv import limits
from walkv.integrations.langgraph.serde import load
from walkv.namespaces.checkpoints.cutting import array_header

DEFAULT_CACHE_BYTES: Final = 64 * limits.MIB
_MESSAGE_COST_BYTES: Final = 1024
"""Memory that a prototype takes besides its text."""

_NODE_COST_BYTES: Final = 150
"""And each value in its lists and dicts."""

_MAX_DEPTH: Final = 32
"""Of lists and dicts in a message; a deeper one is decoded each time."""

_EXT_SIZE_BYTES: Final = {0xC7: 1, 0xC8: 2, 0xC9: 4}
_PYDANTIC: Final = bytes((EXT_PYDANTIC_V2,))

_CLASSES: Final = frozenset((AIMessage, HumanMessage, SystemMessage, ToolMessage))
_SCALARS: Final = frozenset((str, int, float, bool, type(None)))
_CONTAINERS: Final = frozenset((dict, list))
_SEED: Final = secrets.randbits(64)
"""Nobody who writes messages can look for two beginnings that are taken for one."""

_set: Final = object.__setattr__


class _Prototype(NamedTuple):
    """A message to copy.

    Attributes:
        nested: names of the fields that hold lists and dicts.
        node_count: values in these.
    """

    cls: type[Any]
    fields: dict[str, Any]
    nested: list[str]
    names: set[str]
    extra: dict[str, Any]
    node_count: int


class _List(NamedTuple):
    """A list of messages.

    Attributes:
        digest: of the msgpack of what has prototypes, behind the header, which counts the elements,
        length_bytes: and its length.
        data: of the whole value, if it was put and has more messages than these.
        node_count: values in lists and dicts of the prototypes.
    """

    prototypes: list[_Prototype]
    digest: bytes
    length_bytes: int
    data: bytes | None = None
    node_count: int = 0

    @property
    def cost_bytes(self) -> int:
        """About what it takes in memory."""
        cost = 2 * self.length_bytes + _MESSAGE_COST_BYTES * len(self.prototypes)
        cost += _NODE_COST_BYTES * self.node_count
        return cost + (0 if self.data is None else len(self.data))


class MessageLists:
    """Lists of messages by pool and recipe. Thread-safe.

    Args:
        cache_bytes: most memory that they take.
    """

    def __init__(self, cache_bytes: int = DEFAULT_CACHE_BYTES) -> None:
        self._cache_bytes = cache_bytes
        self._lists: OrderedDict[tuple[int, bytes], _List] = OrderedDict()
        self._used_bytes = 0
        self._lock = threading.Lock()

    # Hot.
    def put(
        self,
        serde: SerializerProtocol,
        pool: int,
        recipe: bytes,
        kind: str,
        data: bytes,
        previous: bytes | None,
    ) -> None:
        """Remember a value that was put.

        Args:
            previous: recipe of the value that it probably goes on from.
        """
        if kind != "msgpack" or type(serde) is not JsonPlusSerializer or not _is_of_messages(data):
            return
        with self._lock:
            old = _NONE if previous is None else self._lists.pop((pool, previous), _NONE)
            self._used_bytes -= old.cost_bytes
            self._keep((pool, recipe), old._replace(data=data))

    def get(self, serde: SerializerProtocol, pool: int, recipe: bytes) -> list[Any] | None:
        """The messages of a value, for the caller to keep; None if they are not known.

        Cost: 1 us a message; a few for one that was not decoded before.
        """
        with self._lock:
            found = self._lists.get((pool, recipe))
            if found is None:
                return None
            self._lists.move_to_end((pool, recipe))
        if found.data is not None:
            found = _decoded(serde, found, found.data)
            with self._lock:
                self._used_bytes -= self._lists.pop((pool, recipe), _NONE).cost_bytes
                if found is None:
                    return None
                self._keep((pool, recipe), found)
        return [_copy(prototype) for prototype in found.prototypes]

    def loaded(self, pool: int, recipe: bytes, kind: str, data: bytes, value: Any) -> Any:
        """Remember a value that was decoded from ``data`` just now; gives it, or copies, back."""
        if type(value) is not list or not value or kind != "msgpack":
            return value
        prototypes = _prototypes(value)
        if prototypes is None:
            return value
        start, _ = array_header(data)
        with self._lock:
            self._keep((pool, recipe), _list(prototypes, data[start:]))
        return [_copy(prototype) for prototype in prototypes]

    def _keep(self, key: tuple[int, bytes], new: _List) -> None:
        # Under the lock.
        self._used_bytes += new.cost_bytes - self._lists.pop(key, _NONE).cost_bytes
        self._lists[key] = new
        while self._used_bytes > self._cache_bytes:
            _, oldest = self._lists.popitem(last=False)
            self._used_bytes -= oldest.cost_bytes


def _decoded(serde: SerializerProtocol, known: _List, data: bytes) -> _List | None:
    """A list with prototypes of all messages in ``data``; None if one of them has none."""
    start, count = array_header(data)
    end = start + known.length_bytes
    if count < len(known.prototypes) or _digest(data[start:end]) != known.digest:
        known, end = _NONE, start
    try:
        fresh = _prototypes(_elements(serde, data[end:], count - len(known.prototypes)))
    except (ValueError, TypeError, msgpack.UnpackException):
        return None  # who loads it whole is told what is wrong
    return None if fresh is None else _list([*known.prototypes, *fresh], data[start:])


def _is_of_messages(data: bytes) -> bool:
    """Whether this looks like a list whose first element is an object of pydantic."""
    start, count = array_header(data)
    size = _EXT_SIZE_BYTES.get(data[start]) if count and start < len(data) else None
    return size is not None and data[start + 1 + size : start + 2 + size] == _PYDANTIC


def _digest(data: bytes) -> bytes:
    return xxhash.xxh3_128_digest(data, _SEED)


_NONE: Final = _List([], _digest(b""), 0)


def _list(prototypes: list[_Prototype], body: bytes) -> _List:
    nodes = sum(prototype.node_count for prototype in prototypes)
    return _List(prototypes, _digest(body), len(body), node_count=nodes)


def _elements(serde: SerializerProtocol, data: bytes, count: int) -> list[Any]:
    unpacker = msgpack.Unpacker(read_size=max(len(data), 1), max_buffer_size=max(len(data), 1))
    unpacker.feed(data)
    found, start = [], 0
    for _ in range(count):
        unpacker.skip()
        end = unpacker.tell()
        found.append(load(serde, "msgpack", data[start:end], "message"))
        start = end
    return found


# Hot.
def _prototypes(messages: list[Any]) -> list[_Prototype] | None:
    """Prototypes of freshly decoded messages; None if one of them has none."""
    made = []
    for message in messages:
        if type(message) not in _CLASSES or message.__pydantic_private__:
            return None
        nested, total = [], 0
        extra = message.__pydantic_extra__ or {}
        for name, value in (*message.__dict__.items(), ("", extra)):
            if type(value) in _SCALARS:
                continue
            count = _nodes(value)
            if count < 0:
                return None
            total += count
            nested.append(name)
        nested.pop()  # what is extra is copied apart
        names = message.__pydantic_fields_set__
        made.append(_Prototype(type(message), message.__dict__, nested, names, extra, total))
    return made


def _nodes(value: Any, depth: int = _MAX_DEPTH) -> int:
    """How many values there are in plain data; -1 if it is something else, or too deep."""
    kind = type(value)
    if kind in _SCALARS:
        return 1
    if not depth or kind not in _CONTAINERS:
        return -1
    if kind is dict and not all(type(key) is str for key in value):
        return -1
    total = 1
    for each in value.values() if kind is dict else value:
        count = _nodes(each, depth - 1)
        if count < 0:
            return -1
        total += count
    return total


def _plain_copy(value: Any) -> Any:
    kind = type(value)
    if kind is dict:
        return {key: _plain_copy(each) for key, each in value.items()}
    if kind is list:
        return [_plain_copy(each) for each in value]
    return value


# Hot.
def _copy(prototype: _Prototype) -> Any:
    """What ``model_copy(deep=True)`` gives, in a tenth of the time."""
    cls, fields, nested, names, extra, _ = prototype
    message = object.__new__(cls)
    copied = fields.copy()
    for name in nested:
        value = copied[name]
        copied[name] = _plain_copy(value) if value else type(value)()
    _set(message, "__dict__", copied)
    _set(message, "__pydantic_fields_set__", names.copy())
    _set(message, "__pydantic_extra__", _plain_copy(extra) if extra else {})
    _set(message, "__pydantic_private__", None)
    return message
