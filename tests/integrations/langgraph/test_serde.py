"""What is decoded and what is refused: types, pickles, poison, and what was not encrypted."""

from __future__ import annotations

import asyncio
import pickle
import re
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import numpy as np
import ormsgpack
import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.serde.types import _DeltaSnapshot
from langgraph.types import Command, Interrupt, Send
from pydantic import BaseModel

from tests.integrations.langgraph.handmade import (
    Counting,
    config,
    ids,
    put,
    state,
    text,
    values_of,
    writes_of,
)
from walkv import AgentStore, CodecError, WriteBack
from walkv.integrations.langgraph import WalkvSaver, serde
from walkv.testing import SimulatedFileSystem

HERE = __name__
CALLS: list[Any] = []


@dataclass
class Point:
    x: int
    y: int = 0


class Model(BaseModel):
    name: str


class Color(Enum):
    RED = "red"


class Pair(NamedTuple):
    left: int
    right: int


class Strange:
    """Only a pickle holds this."""

    def __eq__(self, other: object) -> bool:
        return type(other) is Strange

    def __hash__(self) -> int:
        return 0


OWN: list[Any] = [Point(1, 2), Model(name="ada"), Color.RED, Pair(1, 2)]


def explode(*args: Any, **kwargs: Any) -> Any:
    """What poison would call."""
    CALLS.append((args, kwargs))
    return "exploded"


class Explosive:
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        explode(*args, **kwargs)

    @classmethod
    def method(cls, *args: Any) -> Any:
        return explode(*args)


@pytest.fixture(autouse=True)
def nothing_was_called() -> Iterator[None]:
    CALLS.clear()
    yield
    assert CALLS == []


@pytest.fixture
def agent() -> Iterator[AgentStore]:
    with AgentStore("/a.walkv", filesystem=SimulatedFileSystem()) as opened:
        yield opened


def read_in_each_way(saver: WalkvSaver, channel: str = "x") -> Iterator[Any]:
    """Calls that decode a channel of the latest checkpoint, one that has no value above it, and
    a pending write of it."""
    yield lambda: values_of(saver)[channel]
    yield lambda: asyncio.run(saver.aget(config()))["channel_values"][channel]  # type: ignore[index]
    yield lambda: next(saver.list(config())).checkpoint["channel_values"][channel]
    yield lambda: saver.get_delta_channel_history(config=config("t", "2"), channels=[channel])[
        channel
    ]["seed"]
    yield lambda: writes_of(saver, config("u"))[0][2]


def put_in_each_way(saver: WalkvSaver, value: Any, channel: str = "x") -> None:
    for thread_id in ("t", "u"):
        saver.delete_thread(thread_id)
    put(saver, "2", {}, parent="1")
    put(saver, "1", {channel: value})
    put(saver, "3", {channel: value})
    where = put(saver, "1", {}, thread_id="u")
    saver.put_writes(where, [(channel, value)], "task")


# -- types -----------------------------------------------------------------------------------------

SAFE: list[Any] = [
    None,
    b"bytes",
    {"a": [1, 2.5, True, None, "é\U0001f600"], 5: {"b": (1,)}},
    datetime(2024, 5, 1, tzinfo=UTC),
    date(2024, 5, 1),
    timedelta(days=1, microseconds=3),
    UUID(int=7),
    Decimal("1.50"),
    {1, 2},
    frozenset("ab"),
    deque([1, 2]),
    Path("/tmp/x"),
    re.compile("a+", re.IGNORECASE),
    [HumanMessage("hi", id="1"), AIMessage("there", id="2")],
    Send("node", {"a": 1}),
    Interrupt(value="why", id="i"),
    Command(update={"a": 1}),
    _DeltaSnapshot([1, "x"]),
]


@pytest.mark.parametrize("value", SAFE, ids=lambda value: type(value).__name__)
def test_what_langgraph_calls_safe_comes_back(agent: AgentStore, value: Any) -> None:
    saver = WalkvSaver(agent)
    put_in_each_way(saver, value)
    expected = JsonPlusSerializer().loads_typed(JsonPlusSerializer().dumps_typed(value))
    for read in read_in_each_way(saver):
        found = read()
        assert found == expected
        assert type(found) is type(expected)


def test_arrays_come_back(agent: AgentStore) -> None:
    saver = WalkvSaver(agent)
    value = np.arange(6, dtype="float32").reshape(2, 3)
    put_in_each_way(saver, value)
    for read in read_in_each_way(saver):
        assert (read() == value).all()


def wrapped(value: Any) -> Iterator[Any]:
    yield value
    yield {"deep": [{"inside": [value]}]}
    yield {value} if not isinstance(value, Point | Model) else deque([value])
    yield _DeltaSnapshot([value])
    yield Interrupt(value=[value], id="i")


@pytest.mark.parametrize("value", OWN, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("depth", range(5))
def test_a_type_that_is_not_allowed_is_refused_by_name(
    agent: AgentStore, value: Any, depth: int
) -> None:
    saver = WalkvSaver(agent)
    put_in_each_way(saver, list(wrapped(value))[depth])
    name = f"{HERE}.{type(value).__name__}"
    for read in read_in_each_way(saver):
        with pytest.raises(CodecError, match=re.escape(f"it holds a {name}, ")) as caught:
            read()
        assert "pass allow=[...] with the class" in str(caught.value)
        assert caught.value.namespace == "langgraph"
        assert caught.value.field in ("channel 'x'", "write to 'x'")
    # What follows is not suspected of it.
    assert serde._blocked.names is None
    put(saver, "4", {"x": 1})
    assert values_of(saver) == {"x": 1}


@pytest.mark.parametrize("depth", range(5))
def test_a_type_that_is_allowed_comes_back(agent: AgentStore, depth: int) -> None:
    for value in OWN:
        name = (type(value).__module__, type(value).__name__)
        for allow in ([type(value)], [name], [*map(type, OWN)], {name}):
            saver = WalkvSaver(agent, allow=allow)
            put_in_each_way(saver, list(wrapped(value))[depth])
            for read in read_in_each_way(saver):
                assert read() == list(wrapped(value))[depth]
        others = [type(each) for each in OWN if each is not value]
        with pytest.raises(CodecError, match=name[1]):
            values_of(WalkvSaver(agent, allow=others))


def test_a_type_in_the_metadata_is_refused(agent: AgentStore) -> None:
    saver = WalkvSaver(agent)
    put(saver, "1", {"x": 1}, metadata={"color": Color.RED})
    for read in (
        lambda: saver.get_tuple(config()),
        lambda: list(saver.list(config(), filter={"color": "red"})),
    ):
        with pytest.raises(CodecError, match=r"metadata: it holds a .*Color"):
            read()
    found = WalkvSaver(agent, allow=[Color]).get_tuple(config())
    assert found is not None
    assert found.metadata == {"color": Color.RED}


def test_a_type_inside_a_message_is_refused_though_it_was_just_put(agent: AgentStore) -> None:
    saver = WalkvSaver(agent)
    said = [AIMessage("x", id=str(n)) for n in range(5)]
    put(saver, "1", {"x": said})
    assert values_of(saver) == {"x": said}
    poisoned = [*said, AIMessage("y", id="6", additional_kwargs={"color": Color.RED})]
    put(saver, "2", {"x": poisoned}, parent="1")
    for _ in range(2):
        with pytest.raises(CodecError, match="Color"):
            values_of(saver)
    assert values_of(WalkvSaver(agent, allow=[Color])) == {"x": poisoned}
    with pytest.raises(CodecError, match="Color"):
        values_of(saver)


def test_one_allows_with_classes_or_with_a_serializer(agent: AgentStore) -> None:
    with pytest.raises(TypeError, match="allow it in yours"):
        WalkvSaver(agent, serde=JsonPlusSerializer(), allow=[Point])
    assert serde.strict_serializer().loads_typed(("msgpack", b"\x01")) == 1
    own = Counting()
    assert serde.chosen(own, ()) is own
    # One of the caller's is used as it is.
    saver = WalkvSaver(agent, serde=JsonPlusSerializer(allowed_msgpack_modules=True))
    put(saver, "1", {"x": Point(1)})
    assert values_of(saver) == {"x": Point(1)}
    with pytest.raises(CodecError):
        values_of(WalkvSaver(agent))


def test_an_allow_list_is_of_the_saver_that_was_made_with_it(agent: AgentStore) -> None:
    saver = WalkvSaver(agent, allow=[Color])
    values = {"x": [Point(1), Color.RED]}
    clone = saver.with_allowlist([(HERE, "Point")])
    assert clone is not saver
    assert isinstance(clone, WalkvSaver)
    assert clone.agent is saver.agent
    put(clone, "1", values)
    assert values_of(clone) == values
    assert asyncio.run(clone.aget(config()))["channel_values"] == values  # type: ignore[index]
    with pytest.raises(CodecError, match="Point"):
        values_of(saver)
    further = clone.with_allowlist([(HERE, "Model")])
    put(saver, "2", {"x": Model(name="ada")})
    assert values_of(further) == {"x": Model(name="ada")}
    for each in (saver, clone):
        with pytest.raises(CodecError, match="Model"):
            values_of(each)
    assert saver.with_allowlist([]) is saver
    assert ids(saver.list(config(), limit=0)) == []
    clone.close()
    assert saver.closed


def test_what_cannot_be_serialized_is_told(agent: AgentStore) -> None:
    saver = WalkvSaver(agent)
    with pytest.raises(CodecError, match=r"channel 'x': this cannot be serialized: .*Strange"):
        put(saver, "1", {"x": Strange()})
    with pytest.raises(CodecError, match=r"write to 'x'"):
        saver.put_writes(config("t", "1"), [("x", [Strange()])], "task")
    with pytest.raises(CodecError, match=r"metadata"):
        put(saver, "1", {}, metadata={"x": Strange()})
    nested: Any = []
    for _ in range(5000):
        nested = [nested]
    with pytest.raises(CodecError):
        put(saver, "1", {"x": nested})


def test_threads_are_refused_for_what_they_read_themselves(agent: AgentStore) -> None:
    saver = WalkvSaver(agent)
    put(saver, "1", {"x": [Color.RED] * 500})
    put(saver, "1", {"x": [UUID(int=n) for n in range(500)]}, thread_id="u")
    wrong: list[Any] = []

    def bad() -> None:
        for _ in range(20):
            with suppress(CodecError):
                wrong.append(values_of(saver))

    def good() -> None:
        for _ in range(20):
            try:
                assert len(values_of(saver, config("u"))["x"]) == 500
            except CodecError as error:
                wrong.append(error)

    threads = [threading.Thread(target=each) for each in (bad, good, bad, good)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# -- pickles and poison ----------------------------------------------------------------------------


class Pickled:
    def __reduce__(self) -> Any:
        return explode, ("pickle",)


def stored(saver: WalkvSaver, kind: str, data: bytes) -> None:
    """Put bytes in place of a value, as who writes to the store's files could."""
    real = saver.serde
    poison = Counting()
    poison.dumps_typed = lambda obj: (  # type: ignore[method-assign]
        (kind, data) if obj == "poison" else real.dumps_typed(obj)
    )
    saver.serde = poison
    put_in_each_way(saver, "poison")
    saver.serde = real


def test_a_pickle_is_decoded_only_by_who_asked_for_it(agent: AgentStore) -> None:
    saver = WalkvSaver(agent)
    stored(saver, "pickle", pickle.dumps(Pickled()))
    for each in (saver, WalkvSaver(agent, serde=JsonPlusSerializer())):
        for read in read_in_each_way(each):
            with pytest.raises(CodecError, match="stored as 'pickle', which this serializer does"):
                read()
    trusting = WalkvSaver(agent, serde=JsonPlusSerializer(pickle_fallback=True))
    put_in_each_way(trusting, Strange())
    assert state(trusting).channels["x"].kind == "pickle"
    for read in read_in_each_way(trusting):
        assert read() == Strange()
    for read in read_in_each_way(WalkvSaver(agent)):
        with pytest.raises(CodecError):
            read()


def poison(code: int, *fields: Any) -> bytes:
    return ormsgpack.packb(ormsgpack.Ext(code, ormsgpack.packb(fields)))


POISON: dict[str, bytes] = {
    "one argument": poison(0, "os", "system", "touch {}"),
    "arguments": poison(1, "os", "system", ["touch {}"]),
    "named arguments": poison(2, "os", "system", {"command": "touch {}"}),
    "a method": poison(3, "os", "environ", "X", "__getitem__"),
    "a method of a safe type": poison(3, "datetime", "datetime", "2024", "strptime"),
    "pydantic 1": poison(4, "os", "system", {"command": "touch {}"}),
    "pydantic 2": poison(5, "os", "system", {"command": "touch {}"}, "model_validate_json"),
    "own function": poison(0, HERE, "explode", "x"),
    "own class": poison(2, HERE, "Explosive", {"a": 1}),
    "own method": poison(3, HERE, "Explosive", "x", "method"),
    "eval": poison(0, "builtins", "eval", f"__import__('{HERE}').explode()"),
    "in a snapshot": ormsgpack.packb(ormsgpack.Ext(7, poison(0, HERE, "explode", "x"))),
    "in a set": ormsgpack.packb(
        ormsgpack.Ext(
            0,
            ormsgpack.packb(
                ("builtins", "set", [ormsgpack.Ext(0, poison(0, HERE, "explode", "x")[3:])])
            ),
        )
    ),
}


@pytest.mark.parametrize("name", POISON)
def test_poison_is_refused_and_calls_nothing(
    agent: AgentStore, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    saver = WalkvSaver(agent)
    stored(saver, "msgpack", POISON[name])
    for read in read_in_each_way(saver):
        with pytest.raises(CodecError, match="it holds a "):
            read()
    assert list(tmp_path.iterdir()) == []
    assert CALLS == []


def test_poison_would_work_elsewhere(agent: AgentStore) -> None:
    saver = WalkvSaver(agent, serde=JsonPlusSerializer(allowed_msgpack_modules=True))
    stored(saver, "msgpack", POISON["own function"])
    assert values_of(saver) == {"x": "exploded"}
    assert CALLS == [(("x",), {})]
    CALLS.clear()


def test_objects_in_json_call_nothing(agent: AgentStore) -> None:
    saver = WalkvSaver(agent)
    envelope = f'{{"lc": 2, "type": "constructor", "id": ["{HERE}", "Explosive"], "args": [1]}}'
    stored(saver, "json", envelope.encode())
    for read in read_in_each_way(saver):
        assert read()["id"] == [HERE, "Explosive"]
    stored(saver, "json", envelope.replace('"lc": 2', '"lc": 1').encode())
    for read in read_in_each_way(saver):
        with pytest.raises(CodecError):
            read()


# -- encryption ------------------------------------------------------------------------------------

KEY = b"0123456789abcdef"
SECRETS = ["the-eagle-has-landed", "metadata-of-the-eagle", "what-was-written", "user-of-the-eagle"]


def encrypting(key: bytes = KEY, inner: Any = None) -> EncryptedSerializer:
    return EncryptedSerializer.from_pycryptodome_aes(inner or serde.strict_serializer(), key=key)


def tell(saver: WalkvSaver) -> None:
    """Put secrets in all places."""
    said, meta, written, user = SECRETS
    values = {
        "x": [HumanMessage(f"{said} {n}", id=str(n)) for n in range(6)],
        "draft": text(1, 3000) + said,
    }
    for n in range(3):
        where, *rest = (
            config("t", str(n - 1) if n else None),
            {
                "v": 4,
                "id": str(n),
                "ts": "2024-05-01T10:00:00+00:00",
                "channel_values": values | {"n": n},
                "channel_versions": {"x": 1, "draft": 1, "n": n},
                "versions_seen": {said: {said: 1}},
            },
            {"step": n, "note": meta},
            {"n": n} if n else {"x": 1, "draft": 1, "n": 0},
        )
        where["configurable"]["user"] = user
        placed = saver.put(where, *rest)  # type: ignore[arg-type]
        saver.put_writes(placed, [("x", written), ("y", text(2, 30_000) + written)], "task")


def told(saver: WalkvSaver) -> list[Any]:
    return [*saver.list(config()), saver.get_tuple(config()), saver.get_tuple(config("t", "0"))]


def shows(path: Path) -> list[str]:
    """Secrets that are in a store's files."""
    data = b"".join(each.read_bytes() for each in sorted(path.rglob("*")) if each.is_file())
    return [secret for secret in SECRETS if secret.encode() in data]


def test_nothing_is_readable_in_the_files(tmp_path: Path) -> None:
    with WalkvSaver(tmp_path / "plain", sync=WriteBack()) as saver:
        tell(saver)
        expected = told(saver)
        assert shows(tmp_path / "plain") == SECRETS
    with WalkvSaver(tmp_path / "s", serde=encrypting(), sync=WriteBack()) as saver:
        tell(saver)
        assert told(saver) == expected
        assert asyncio.run(saver.aget_tuple(config())) == expected[-2]
        assert shows(tmp_path / "s") == []
        entries = b"".join(key + value for key, value in saver.agent.store.scan())
        assert not [secret for secret in SECRETS if secret.encode() in entries]
        saver.copy_thread("t", "u")
        saver.prune(["t"], keep_last=2)
        saver.agent.store.compact()
        assert shows(tmp_path / "s") == []
    with WalkvSaver(tmp_path / "s", serde=encrypting()) as saver:
        assert told(saver)[:2] == expected[:2]


def test_plain_text_is_refused_where_ciphertext_is_expected(agent: AgentStore) -> None:
    plain = WalkvSaver(agent)
    put_in_each_way(plain, "plain")
    saver = WalkvSaver(agent, serde=encrypting())
    for read in read_in_each_way(saver):
        with pytest.raises(CodecError, match=r"stored without encryption.*read_plaintext=True"):
            read()
    with pytest.raises(CodecError, match="stored without encryption"):
        list(saver.list(config(), filter={"step": 1}))
    reading = WalkvSaver(agent, serde=encrypting(), read_plaintext=True)
    for read in read_in_each_way(reading):
        assert read() == "plain"
    put_in_each_way(reading, "secret")
    for each in (reading, saver):
        for read in read_in_each_way(each):
            assert read() == "secret"
    # What is in a message list that was decoded for one saver is not there for another.
    put(plain, "9", {"x": [HumanMessage("hi", id="1")]})
    assert values_of(plain) == values_of(reading)
    with pytest.raises(CodecError, match="without encryption"):
        values_of(saver)


def test_who_has_no_key_or_another_one_reads_nothing(agent: AgentStore) -> None:
    saver = WalkvSaver(agent, serde=encrypting())
    put_in_each_way(saver, "secret")
    others = {
        "another key": (encrypting(b"fedcba9876543210"), "cannot be decoded as 'msgpack.aes'"),
        "no key": (None, "stored as 'msgpack.aes', which this serializer does not read"),
        "permissive": (JsonPlusSerializer(pickle_fallback=True), "does not read"),
    }
    for serializer, words in others.values():
        other = WalkvSaver(agent, serde=serializer, read_plaintext=True)
        for read in read_in_each_way(other):
            with pytest.raises(CodecError, match=words):
                read()


def test_what_was_tampered_with_is_refused() -> None:
    serializer = encrypting()
    kind, data = serializer.dumps_typed({"secret": text(1, 100)})
    assert serde.load(serializer, kind, data, "x") == {"secret": text(1, 100)}
    for at in range(len(data)):
        broken = data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :]
        with pytest.raises(CodecError):
            serde.load(serializer, kind, broken, "x")
    for short in (b"", data[:16], data[:-1], data + b"x"):
        with pytest.raises(CodecError):
            serde.load(serializer, kind, short, "x")
    for other in ("msgpack+rot13", "msgpack+", "bytes", "msgpack"):
        with pytest.raises(CodecError):
            serde.load(serializer, other, data, "x")


def test_a_type_that_is_not_allowed_is_refused_behind_a_cipher_too(agent: AgentStore) -> None:
    saver = WalkvSaver(agent, serde=encrypting())
    put_in_each_way(saver, Color.RED)
    for read in read_in_each_way(saver):
        with pytest.raises(CodecError, match=r"it holds a .*Color"):
            read()
    allowing = WalkvSaver(agent, serde=encrypting(inner=serde.strict_serializer([Color])))
    wider = saver.with_allowlist([(HERE, "Color")])
    for each in (allowing, wider):
        for read in read_in_each_way(each):  # type: ignore[arg-type]
            assert read() is Color.RED
    with pytest.raises(CodecError):
        values_of(saver)
    # The clone of one that encrypts takes plain text no more than that one does.
    put(WalkvSaver(agent), "8", {"x": 1})
    with pytest.raises(CodecError, match="without encryption"):
        values_of(wider)
