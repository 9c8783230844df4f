"""Lists of messages are remembered, and nobody can tell, except by the time it takes."""

from __future__ import annotations

import asyncio
import copy
import random
import threading
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    AnyMessage,
    ChatMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
)
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from pydantic import BaseModel

from tests.integrations.langgraph.handmade import (
    Counting,
    config,
    kept_by,
    put,
    recipe,
    state,
    step,
    text,
    values_of,
)
from walkv import AgentStore, WriteBack
from walkv.integrations.langgraph import WalkvSaver
from walkv.integrations.langgraph.encoding import MIN_MESSAGES, MessageEncoder
from walkv.integrations.langgraph.messages import MessageLists
from walkv.integrations.langgraph.serde import strict_serializer
from walkv.testing import SimulatedFileSystem

SERDE = strict_serializer()


@pytest.fixture
def agent() -> Iterator[AgentStore]:
    with AgentStore("/a.walkv", filesystem=SimulatedFileSystem()) as opened:
        yield opened


@pytest.fixture
def saver(agent: AgentStore) -> WalkvSaver:
    return WalkvSaver(agent)


# -- what a message is, to the last detail ---------------------------------------------------------


def detail(value: Any) -> Any:
    """All that can be seen of a value; equal for equal ones only."""
    if isinstance(value, BaseModel):
        return (
            type(value),
            [(name, detail(each)) for name, each in value.__dict__.items()],
            sorted(value.__pydantic_fields_set__),
            detail(value.__pydantic_extra__ or {}),
            value.__pydantic_private__ or {},
        )
    if isinstance(value, dict):
        return (type(value), [(key, detail(each)) for key, each in value.items()])
    if isinstance(value, list | tuple):
        return (type(value), [detail(each) for each in value])
    return (type(value), repr(value))


def changeable(value: Any) -> set[int]:
    """The identities of everything in a value that somebody could change."""
    if isinstance(value, BaseModel):
        extra = value.__pydantic_extra__
        inner = [value.__dict__, *([extra] if extra else [])]
        own = {id(value), id(value.__dict__), id(value.__pydantic_fields_set__)}
        return own.union(*map(changeable, inner))
    if isinstance(value, dict):
        return {id(value)}.union(*map(changeable, value.values()))
    if isinstance(value, list):
        return {id(value)}.union(*map(changeable, value))
    return {id(value)} if isinstance(value, set | deque | bytearray) else set()


TEXT = st.text(st.characters(codec=None), max_size=8)  # surrogates, too
PLAIN = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-9, 1 << 62), st.floats(allow_nan=False), TEXT),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)
ODD = st.sampled_from(
    [
        *(datetime(2024, 5, 1, tzinfo=UTC), UUID(int=1), Path("/x"), (1, "a"), b"bytes", 1 << 63),
        *({1}, {"a": {2}}, deque([1]), [deque([1])]),
    ]
)
FIELDS = st.dictionaries(st.text(max_size=4), st.one_of(PLAIN, PLAIN, PLAIN, ODD), max_size=2)
BLOCK = st.one_of(
    TEXT,
    st.fixed_dictionaries({"type": st.just("text"), "text": TEXT}),
    st.fixed_dictionaries({"type": st.just("image_url"), "image_url": PLAIN}),
)
CONTENT = st.one_of(TEXT, st.lists(BLOCK, max_size=3))
CALL = st.fixed_dictionaries(
    {"name": st.sampled_from(["search", "é"]), "args": FIELDS, "id": st.one_of(st.none(), TEXT)}
)
BAD_CALL = st.fixed_dictionaries(
    {"name": TEXT, "args": TEXT, "id": TEXT, "error": st.one_of(st.none(), TEXT)}
)
COUNT = st.integers(0, 1 << 40)
USAGE = st.fixed_dictionaries(
    {"input_tokens": COUNT, "output_tokens": COUNT, "total_tokens": COUNT},
    optional={"input_token_details": st.fixed_dictionaries({"cache_read": COUNT})},
)
COMMON = {"name": st.one_of(st.none(), TEXT), "id": st.one_of(st.none(), st.text(max_size=4))}
COMMON |= {"additional_kwargs": FIELDS, "response_metadata": FIELDS}


def some(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({"content": CONTENT}, optional={**COMMON, **fields})


EXTRA = {"foo": PLAIN, "other": FIELDS}
MESSAGE: st.SearchStrategy[Any] = st.one_of(
    some(example=st.booleans(), **EXTRA).map(lambda given: HumanMessage(**given)),
    some(
        tool_calls=st.lists(CALL, max_size=2),
        invalid_tool_calls=st.lists(BAD_CALL, max_size=1),
        usage_metadata=USAGE,
        **EXTRA,
    ).map(lambda given: AIMessage(**given)),
    some().map(lambda given: SystemMessage(**given)),
    some(artifact=PLAIN, status=st.sampled_from(["success", "error"])).map(
        lambda given: ToolMessage(tool_call_id="c", **given)
    ),
)
OTHER = st.one_of(
    st.just(RemoveMessage(id="gone")),
    st.builds(AIMessageChunk, content=TEXT),
    st.builds(ChatMessage, content=TEXT, role=TEXT),
    PLAIN,
)
SAID = st.lists(st.one_of(*[MESSAGE] * 12, OTHER), max_size=7)


@st.composite
def conversations(draw: st.DrawFn) -> list[list[Any]]:
    """A list of messages, and what becomes of it."""
    said = draw(SAID)
    found = [said]
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(said) - 1, 0)))
        match draw(st.sampled_from(["add", "add", "add", "insert", "delete", "change", "fewer"])):
            case "add":
                said = [*said, *draw(st.lists(MESSAGE, min_size=1, max_size=3))]
            case "insert":
                said = [*said[:at], draw(MESSAGE), *said[at:]]
            case "delete":
                said = [*said[:at], *said[at + 1 :]]
            case "change":
                said = [*said[:at], draw(MESSAGE), *said[at + 1 :]]
            case "fewer":
                said = said[:at]
        found.append(said)
    return found


@given(sequence=conversations(), loads=st.integers(0, 2))
@settings(max_examples=40, deadline=None)
def test_copies_are_what_the_serializer_gives(sequence: list[list[Any]], loads: int) -> None:
    fs = SimulatedFileSystem()
    with AgentStore("/a", filesystem=fs, sync=WriteBack()) as agent:
        saver = WalkvSaver(agent, sync=WriteBack())
        expected = []
        for n, said in enumerate(sequence):
            kind, data = SERDE.dumps_typed(said)
            expected.append(SERDE.loads_typed((kind, data)))
            parent = str(n - 1) if n else None
            put(saver, str(n), {"said": said}, parent=parent, versions={"said": n})
            channel = state(saver, str(n)).channels["said"]
            assert channel.kind == kind
            assert kept_by(saver).value(agent.store, 1, channel.recipe) == data  # type: ignore[arg-type]
            found = [values_of(saver)["said"] for _ in range(loads)]
            for each in found:
                assert detail(each) == detail(expected[n])
                assert each == expected[n]
        fresh = WalkvSaver(agent, sync=WriteBack())
        held: list[Any] = []
        for each in (saver, fresh, fresh):
            found = values_of(each)["said"]
            assert detail(found) == detail(expected[-1])
            for n in range(len(sequence)):
                found = values_of(each, config("t", str(n)))["said"]
                assert detail(found) == detail(expected[n])
                held.append(found)  # so that no identity is used again
        seen: set[int] = set()
        for found in held:
            mine = changeable(found)
            assert not mine & seen
            seen |= mine


# -- whoever changes what he was given -------------------------------------------------------------


def conversation(count: int) -> list[AnyMessage]:
    """Messages with everything that can be changed in them."""
    made: list[AnyMessage] = [SystemMessage("be kind", id="s")]
    for n in range(count):
        made += [
            HumanMessage(
                [{"type": "text", "text": text(n, 50)}, "more"],
                id=f"h{n}",
                additional_kwargs={"a": {"b": [n]}},
                note={"deep": [n]},
            ),
            AIMessage(
                "",
                id=f"a{n}",
                tool_calls=[{"name": "f", "args": {"x": [n]}, "id": f"c{n}"}],
                usage_metadata={"input_tokens": n, "output_tokens": 1, "total_tokens": n + 1},
                response_metadata={"model": {"name": "m"}},
            ),
            ToolMessage("done", id=f"t{n}", tool_call_id=f"c{n}", artifact={"rows": [[n]]}),
        ]
    return made


def spoil(value: Any) -> None:
    """Change everything in a value that can be changed, from the inside out."""
    if isinstance(value, BaseModel):
        for each in list(value.__dict__.values()):
            spoil(each)
        spoil(value.__pydantic_extra__ or {})
        for name in ("content", "id", "name"):
            value.__dict__[name] = "spoilt"
        value.__pydantic_fields_set__.add("spoilt")
        if value.__pydantic_extra__ is not None:
            value.__pydantic_extra__["spoilt"] = 1
    elif isinstance(value, dict):
        for each in list(value.values()):
            spoil(each)
        value["spoilt"] = 1
    elif isinstance(value, list):
        for each in value:
            spoil(each)
        value.append("spoilt")


WAYS: dict[str, Any] = {
    "get_tuple": lambda saver: values_of(saver)["said"],
    "by id": lambda saver: values_of(saver, config("t", "2"))["said"],
    "list": lambda saver: next(saver.list(config())).checkpoint["channel_values"]["said"],
    "aget_tuple": lambda saver: asyncio.run(saver.aget(config()))["channel_values"]["said"],
    "history": lambda saver: saver.get_delta_channel_history(
        config=config("t", "3"), channels=["said"]
    )["said"]["seed"],
}


@pytest.mark.parametrize("first", WAYS)
@pytest.mark.parametrize("warm", [True, False])
def test_nobody_sees_what_another_one_changes(agent: AgentStore, first: str, warm: bool) -> None:
    saver = WalkvSaver(agent)
    said = conversation(3)
    put(saver, "1", {"said": said[:-2]})
    put(saver, "2", {"said": said}, parent="1", versions={"said": 2})
    put(saver, "3", {}, parent="2")
    kept_by(saver).delete("t", "3")
    put(saver, "3", {}, parent="2", namespace="")
    kept_by(saver).delete("t", "3")
    put(saver, "2", {"said": said}, parent="1", versions={"said": 2})
    expected = detail(SERDE.loads_typed(SERDE.dumps_typed(said)))
    if not warm:
        saver = WalkvSaver(agent)
    spoil(said)
    if first != "history":
        for way in (first, first, *WAYS):
            if way == "history":
                continue
            found = WAYS[way](saver)
            assert detail(found) == expected
            spoil(found)
    put(saver, "3", {}, parent="2")
    for _ in range(3):
        found = WAYS["history"](saver)
        assert detail(found) == expected
        spoil(found)
    assert detail(WAYS["by id"](saver)) == expected


def test_a_message_that_a_node_changes_in_place_is_put_as_it_is(agent: AgentStore) -> None:
    saver = WalkvSaver(agent)
    said: list[Any] = conversation(4)
    expected = []
    for n in range(6):
        parent = str(n - 1) if n else None
        expected.append(detail(SERDE.loads_typed(SERDE.dumps_typed(said))))
        put(saver, str(n), {"said": said}, parent=parent, versions={"said": n})
        if n % 2:
            said = values_of(saver)["said"]
        said[n].content = f"changed {n}"
        said[2].tool_calls[0]["args"]["x"].append(n)
        said[1].additional_kwargs["a"]["b"] = n
        del said[-1]
    for each in (saver, WalkvSaver(agent)):
        for n in range(6):
            assert detail(values_of(each, config("t", str(n)))["said"]) == expected[n]
        assert detail(values_of(each)["said"]) == expected[-1]


def test_another_message_of_the_same_length_is_told_apart(agent: AgentStore) -> None:
    saver = WalkvSaver(agent)
    for n, content in enumerate(["good", "evil", "good", "same"]):
        said = [HumanMessage(content, id=str(number)) for number in range(6)]
        said.append(AIMessage(content, id=str(n)))
        parent = str(n - 1) if n else None
        put(saver, str(n), {"said": said}, parent=parent, versions={"said": n})
        assert values_of(saver)["said"] == said
    # Nor does it matter which of them is another one.
    for number in range(6):
        said[number] = HumanMessage("evil", id=str(number))
        put(saver, "x", {"said": said}, parent="3", versions={"said": 9})
        assert values_of(saver)["said"] == said
        said = [*said]


def test_a_message_that_changes_while_it_is_put(saver: WalkvSaver) -> None:
    said = conversation(3)
    expected = detail(SERDE.loads_typed(SERDE.dumps_typed(said)))

    async def test() -> None:
        tasks = [asyncio.create_task(saver.aput(*step("1", {"said": said})))]
        await asyncio.sleep(0)
        spoil(said)
        await asyncio.gather(*tasks)
        found = await saver.aget_tuple(config())
        assert found is not None
        assert detail(found.checkpoint["channel_values"]["said"]) == expected

    asyncio.run(test())


# -- what is remembered ----------------------------------------------------------------------------


def used_bytes(lists: MessageLists) -> int:
    assert lists._used_bytes == sum(each.cost_bytes for each in lists._lists.values())
    return lists._used_bytes


def test_what_was_loaded_is_not_decoded_again(agent: AgentStore) -> None:
    writing = WalkvSaver(agent, serde=Counting())
    for n in range(5):
        put(writing, str(n), {"said": conversation(n)}, versions={"said": n})
    saver = WalkvSaver(agent)
    said = SERDE.dumps_typed(conversation(4))[1]
    decoded: list[bytes] = []
    real = saver.serde.loads_typed

    def loads_typed(data: tuple[str, bytes]) -> Any:
        decoded.append(data[1])
        return real(data)

    saver.serde.loads_typed = loads_typed  # type: ignore[method-assign]
    # Who goes through the past does not go on from there.
    assert len(list(saver.list(config()))) == 5
    values_of(saver, config("t", "2"))
    assert saver._messages._lists == {}
    assert decoded.count(said) == 1
    for _ in range(3):
        values_of(saver)
        asyncio.run(saver.aget_tuple(config()))
        next(saver.list(config()))
        values_of(saver, config("t", "4"))
    assert decoded.count(said) == 2


def test_what_was_put_is_not_decoded_by_who_loads_the_next_step(agent: AgentStore) -> None:
    saver = WalkvSaver(agent)
    said: list[Any] = []
    decoded: list[bytes] = []

    class Watched(JsonPlusSerializer):
        """Not taken for LangGraph's own."""

    real = saver.serde.loads_typed

    def loads_typed(data: tuple[str, bytes]) -> Any:
        decoded.append(data[1])
        return real(data)

    saver.serde.loads_typed = loads_typed  # type: ignore[method-assign]
    counts = []
    for n in range(30):
        said = [*said, HumanMessage(text(n, 500), id=str(n))]
        parent = str(n - 1) if n else None
        put(saver, str(n), {"said": said}, parent=parent, versions={"said": n})
        decoded.clear()
        assert values_of(saver)["said"] == said
        counts.append(sum(len(each) for each in decoded if len(each) > 400))
    assert max(counts[1:]) < 1500  # one message at a time
    decoded.clear()
    assert values_of(saver)["said"] == said
    assert all(len(each) < 400 for each in decoded)
    # One list of a thread is remembered, not one for each of its steps.
    assert len(saver._messages._lists) == 1
    other = WalkvSaver(agent, serde=Watched(allowed_msgpack_modules=None))
    put(other, "30", {"said": said}, parent="29")
    assert other._messages._lists == {}
    assert values_of(other)["said"] == said


class Own(HumanMessage):
    """A message of the caller's."""

    mood: dict[str, Any]


OTHERS = [
    RemoveMessage(id="1"),
    AIMessageChunk("x"),
    {"role": "user"},
    5,
    Own("x", mood={"good": [1]}),
    HumanMessage("x", at=datetime(2024, 5, 1, tzinfo=UTC)),
    AIMessage("x", additional_kwargs={"at": [{1}]}),
]


@pytest.mark.parametrize("last", OTHERS, ids=lambda last: type(last).__name__)
@pytest.mark.parametrize("first", [False, True])
def test_a_list_with_something_else_in_it_is_decoded_each_time(
    agent: AgentStore, last: Any, first: bool
) -> None:
    saver = WalkvSaver(agent, allow=[Own])
    said = [last, *conversation(3)] if first else [*conversation(3), last]
    put(saver, "1", {"said": conversation(3)})
    put(saver, "2", {"said": said}, parent="1", versions={"said": 2})
    serde = strict_serializer([Own])
    expected = serde.loads_typed(serde.dumps_typed(said))
    assert type(expected[0 if first else -1]) is type(last)
    for _ in range(3):
        found = values_of(saver)["said"]
        assert detail(found) == detail(expected)
        spoil([each for each in found if type(each) is not RemoveMessage])
    assert (1, recipe(saver, "said", "2")) not in saver._messages._lists
    used_bytes(saver._messages)


def test_what_is_remembered_has_a_limit(agent: AgentStore) -> None:
    saver = WalkvSaver(agent)
    sizes = []
    for limit in (0, 1, 60_000, 1 << 21):
        saver._messages = MessageLists(limit)
        for n in range(40):
            said = conversation(2 + n % 3)
            put(saver, "1", {"said": said}, thread_id=str(n))
            assert detail(values_of(saver, config(str(n)))["said"]) == detail(
                SERDE.loads_typed(SERDE.dumps_typed(said))
            )
            assert used_bytes(saver._messages) <= limit
        sizes.append(len(saver._messages._lists))
        for n in range(40):
            assert len(values_of(saver, config(str(n)))["said"]) == 1 + 3 * (2 + n % 3)
    assert sizes[0] == sizes[1] == 0
    assert 0 < sizes[2] < 10
    assert sizes[3] == 40


def test_who_was_asked_for_last_stays(agent: AgentStore) -> None:
    saver = WalkvSaver(agent)
    saver._messages = MessageLists(60_000)
    for n in range(40):
        put(saver, "1", {"said": conversation(2)}, thread_id=str(n))
        values_of(saver, config(str(n)))
        values_of(saver, config("0"))
    pools = [pool for pool, _ in saver._messages._lists]
    assert 1 in pools
    assert pools[-1] == 1
    assert 40 in pools
    assert 2 not in pools


def test_threads_that_read_put_and_spoil(tmp_path: Path) -> None:
    with WalkvSaver(tmp_path / "s", sync=WriteBack()) as saver:
        saver._messages = MessageLists(100_000)
        whole = conversation(12)
        expected = {n: detail(SERDE.loads_typed(SERDE.dumps_typed(whole[:n]))) for n in range(38)}
        for n in range(3):
            put(saver, "0", {"said": whole[:1]}, thread_id=f"t{n}")
        errors: list[BaseException] = []

        def work(seed: int) -> None:
            rng = random.Random(seed)
            mine = f"t{seed % 3}"
            try:
                for _ in range(40):
                    if rng.random() < 0.4:
                        count = rng.randrange(1, len(whole))
                        said = copy.deepcopy(whole[:count])
                        put(saver, str(count), {"said": said}, thread_id=mine)
                        spoil(said)
                    found = values_of(saver, config(mine))["said"]
                    assert detail(found) == expected[len(found)]
                    spoil(found)
            except BaseException as error:  # noqa: BLE001  # told below
                errors.append(error)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        used_bytes(saver._messages)


# -- serializing -----------------------------------------------------------------------------------


@given(said=st.lists(st.one_of(*[MESSAGE] * 12, OTHER), max_size=20), twice=st.booleans())
@settings(max_examples=50, deadline=None)
def test_the_bytes_are_those_of_the_serializer(said: list[Any], twice: bool) -> None:
    encoder = MessageEncoder()
    for _ in range(1 + twice):
        data = encoder.encode(SERDE, said)
        assert data is None or ("msgpack", data) == SERDE.dumps_typed(said)
    # And it does not matter what it has seen before.
    for each in said:
        if isinstance(each, BaseModel):
            each.__dict__["id"] = "another"
    data = encoder.encode(SERDE, said)
    assert data is None or ("msgpack", data) == SERDE.dumps_typed(said)


class Hue(Enum):
    RED = "red"


class Text(str):
    """Text of another class."""


@pytest.mark.parametrize(
    "value",
    [Hue.RED, Text("x"), (1, [2]), {1: "x"}, {"a": {None: 1}}, 1.0, 1, True, bytearray(b"x"), b"x"],
    ids=repr,
)
def test_what_packs_alike_is_told_apart(value: Any) -> None:
    encoder = MessageEncoder()
    for each in ("red", "x", [1, [2]], {"1": "x"}, {"a": {"null": 1}}, 1, 1.0, value, b"x", value):
        said = [HumanMessage("x", id=str(n), additional_kwargs={"a": each}) for n in range(5)]
        data = encoder.encode(SERDE, said)
        assert data is None or ("msgpack", data) == SERDE.dumps_typed(said)


def test_messages_that_differ_in_one_thing_only_are_told_apart() -> None:
    encoder = MessageEncoder()
    disguised = HumanMessage("x")
    disguised.__dict__["type"] = "system"
    pairs: list[tuple[Any, Any]] = [
        (HumanMessage("x", at=1), HumanMessage("x", at=2)),
        (HumanMessage("x"), HumanMessage("x", at=2)),
        (HumanMessage("x"), SystemMessage("x")),
        (disguised, SystemMessage("x")),
        (HumanMessage("x", id="1"), HumanMessage("x", name="1")),
    ]
    for one, other in pairs:
        for each in (one, other):
            data = encoder.encode(SERDE, [each] * 5)
            assert data is None or ("msgpack", data) == SERDE.dumps_typed([each] * 5)


@pytest.mark.parametrize("count", [3, 4, 15, 16, 17, 65_535, 65_536])
def test_lists_of_any_length(count: int) -> None:
    said = [HumanMessage("x", id="1")] * count
    data = MessageEncoder().encode(SERDE, said)
    assert (data is None) == (count < 4)
    if data is not None and count < 100:
        assert ("msgpack", data) == SERDE.dumps_typed(said)
    elif data is not None:
        one = SERDE.dumps_typed(said[0])[1]
        head = b"\xdc\xff\xff" if count < 1 << 16 else b"\xdd\0\1\0\0"
        assert data == head + one * count


def test_what_is_serialized_is_remembered_up_to_a_limit() -> None:
    serde = JsonPlusSerializer()
    dumped: list[Any] = []
    real = serde.dumps_typed

    def dumps_typed(value: Any) -> tuple[str, bytes]:
        dumped.append(value)
        return real(value)

    serde.dumps_typed = dumps_typed  # type: ignore[method-assign]
    encoder = MessageEncoder(40_000)
    said = [HumanMessage(text(n, 400), id=str(n)) for n in range(20)]
    encoder.encode(serde, said)
    assert len(dumped) == 20
    encoder.encode(serde, copy.deepcopy(said))
    assert len(dumped) == 20
    for n in range(400):
        said = [*said[1:], HumanMessage(text(n, 400), id=f"x{n}")]
        encoder.encode(serde, said)
        kept = sum(
            len(k) + len(v) for each in (encoder._young, encoder._old) for k, v in each.items()
        )
        assert kept < 42_000
    assert len(dumped) == 420
    encoder.encode(serde, [HumanMessage(text(n, 400), id=str(n)) for n in range(20)])
    assert len(dumped) == 440  # forgotten meanwhile
    # Another serializer is never stood in for.
    assert encoder.encode(Counting(), said) is None


def test_a_message_that_changes_while_it_is_serialized_is_not_remembered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: Any = [HumanMessage(f"text {n}", id=str(n)) for n in range(MIN_MESSAGES)]
    encoder, serde = MessageEncoder(), strict_serializer()
    original = type(serde).dumps_typed

    def changing(self: Any, obj: Any) -> tuple[str, bytes]:
        obj.content = "changed by a node"
        return original(self, obj)

    with monkeypatch.context() as patched:
        patched.setattr(type(serde), "dumps_typed", changing)
        assert encoder.encode(serde, said) is None
    said[0].content = "text 0"
    assert encoder.encode(serde, said) == serde.dumps_typed(said)[1]
