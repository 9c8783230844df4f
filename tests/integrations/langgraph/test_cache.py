"""LangGraph's cache in a store: what is found, for how long, and what is a miss."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.graph import END, START, StateGraph
from langgraph.types import CachePolicy

import walkv
from walkv import AgentStore, ClosedError, CodecError, LimitError, LockedError, ReadOnlyError
from walkv.integrations.langgraph.cache import WalkvCache
from walkv.testing import ManualClock, SimulatedFileSystem

NAMESPACE = ("node", "a")


@dataclass
class Point:
    """A type of the caller's."""

    x: int
    y: int


@pytest.fixture
def fs() -> SimulatedFileSystem:
    return SimulatedFileSystem(clock=ManualClock())


@pytest.fixture
def agent(fs: SimulatedFileSystem) -> Iterator[AgentStore]:
    with AgentStore("/a.walkv", filesystem=fs) as made:
        yield made


@pytest.fixture
def cache(agent: AgentStore) -> Iterator[WalkvCache[Any]]:
    with WalkvCache[Any](agent) as made:
        yield made


def encrypted(key: bytes) -> EncryptedSerializer:
    return EncryptedSerializer.from_pycryptodome_aes(JsonPlusSerializer(), key=key)


def only(cache: WalkvCache[Any], namespace: tuple[str, ...], key: str = "k") -> Any:
    """The value of one key; None if there is none."""
    return cache.get([(namespace, key)]).get((namespace, key))


# -- what is found ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        None,
        "text",
        b"\0bytes",
        {"a": [1, 2.5, None]},
        [["messages", [HumanMessage("hello", id="1"), AIMessage("there", id="2")]]],
        "x" * 3_000_000,
    ],
    ids=["none", "text", "bytes", "dict", "messages", "large"],
)
def test_a_value_comes_back(cache: WalkvCache[Any], value: Any) -> None:
    key = (NAMESPACE, "k")
    cache.set({key: (value, None)})
    assert cache.get([key]) == {key: value}

    async def in_a_loop() -> Any:
        assert await cache.aget([key]) == {key: value}
        await cache.aset({(NAMESPACE, "other"): (value, 60)})
        return await cache.aget([(NAMESPACE, "other")])

    assert asyncio.run(in_a_loop()) == {(NAMESPACE, "other"): value}


def test_only_what_is_there_is_in_the_answer(cache: WalkvCache[Any]) -> None:
    cache.set({(NAMESPACE, "a"): (1, None), (NAMESPACE, "c"): (3, None)})
    wanted = [(NAMESPACE, "c"), (NAMESPACE, "b"), (NAMESPACE, "a"), (("node",), "a")]
    assert cache.get(wanted) == {(NAMESPACE, "a"): 1, (NAMESPACE, "c"): 3}
    assert cache.get([]) == {}
    cache.set({})
    cache.set({(NAMESPACE, "a"): (2, None)})
    assert only(cache, NAMESPACE, "a") == 2


ALIKE: list[tuple[str, ...]] = [
    (),
    ("",),
    ("", ""),
    ("a", "b"),
    ("a,b",),
    ("a", "b", ""),
    ("a,", "b"),
    ("a", ",b"),
    ('a", "b',),
    ('["a", "b"]',),
    ("a\0", "b"),
    ("a", "\0b"),
    ("a\0b",),
    ("a\0\xffb",),
    ("a\\u0000b",),
    ("a.b",),
    ("a/b",),
    ("é",),
    ("e\u0301",),
    ("\ud800",),
    ("😀",),
]


def test_labels_of_any_text_are_told_apart(cache: WalkvCache[Any]) -> None:
    every = {(labels, key): (labels, key) for labels in ALIKE for key in ("", "k", "k\0", "\ud800")}
    cache.set({key: (number, None) for number, key in enumerate(every)})
    assert cache.get(list(every)) == {key: number for number, key in enumerate(every)}
    for labels in ALIKE:
        cache.clear([labels])
        gone = {key for key in every if key[0] == labels}
        found = cache.get(list(every))
        assert set(found) == set(every) - gone
        cache.set(dict.fromkeys(gone, (0, None)))


def test_a_text_is_not_taken_for_a_namespace(cache: WalkvCache[Any]) -> None:
    cache.set({(("a", "b"), "k"): (1, None)})
    with pytest.raises(TypeError, match="a namespace of the cache is a tuple of labels, not 'ab'"):
        cache.clear(["ab"])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="tuple of labels"):
        cache.clear(("a", "b"))  # type: ignore[arg-type]  # one namespace, not several
    assert only(cache, ("a", "b")) == 1


# -- for how long ----------------------------------------------------------------------------------


def test_a_value_lasts_as_long_as_it_was_told(
    cache: WalkvCache[Any], fs: SimulatedFileSystem
) -> None:
    wanted = [(NAMESPACE, name) for name in ("short", "long", "always")]
    ttls = [10, 20, None]
    cache.set({key: ("value", ttl) for key, ttl in zip(wanted, ttls, strict=True)})
    for seconds, left in [(9.99, 3), (0.01, 2), (9.99, 2), (0.01, 1), (1e9, 1)]:
        fs.clock.advance(seconds)
        assert len(cache.get(wanted)) == left
    cache.set({wanted[2]: ("value", 10)})  # from now on it ends
    cache.set({wanted[0]: ("value", 10)})
    cache.set({wanted[0]: ("value", None)})  # and this does not
    fs.clock.advance(10)
    assert set(cache.get(wanted)) == {wanted[0]}


@pytest.mark.parametrize("ttl", [0, -1])
def test_what_lasts_no_time_is_not_kept(cache: WalkvCache[Any], ttl: int) -> None:
    cache.set({(NAMESPACE, "k"): ("old", None), (NAMESPACE, "other"): ("stays", None)})
    cache.set({(NAMESPACE, "k"): ("new", ttl), (NAMESPACE, "more"): ("new", 5)})
    assert cache.get([(NAMESPACE, name) for name in ("k", "other", "more")]) == {
        (NAMESPACE, "other"): "stays",
        (NAMESPACE, "more"): "new",
    }


def test_what_has_expired_takes_no_room(
    cache: WalkvCache[Any], agent: AgentStore, fs: SimulatedFileSystem
) -> None:
    cache.set({(NAMESPACE, str(number)): ("x" * 1000, 10) for number in range(500)})
    agent.store.compact()
    full = agent.store.stats().disk_bytes
    fs.clock.advance(11)
    agent.store.compact()
    assert agent.store.stats().disk_bytes < full / 10
    assert list(agent.store.scan(b"\0langgraph_cache\0r")) == []


# -- clearing --------------------------------------------------------------------------------------


def test_clear_takes_exactly_what_was_named(cache: WalkvCache[Any], agent: AgentStore) -> None:
    agent.users.create("ada")
    agent.store.put(b"own", b"value")
    inner, outer, other = ("a", "b"), ("a",), ("b",)
    every = [(labels, key) for labels in (inner, outer, other) for key in ("1", "2")]
    cache.set(dict.fromkeys(every, (1, None)))
    cache.clear([])
    cache.clear([("a", "c")])
    assert len(cache.get(every)) == 6
    cache.clear([outer])
    assert {labels for labels, _ in cache.get(every)} == {inner, other}
    cache.clear([inner, other])
    assert cache.get(every) == {}
    cache.set(dict.fromkeys(every, (1, None)))
    asyncio.run(cache.aclear([outer, inner]))
    assert {labels for labels, _ in cache.get(every)} == {other}
    asyncio.run(cache.aclear())
    assert cache.get(every) == {}
    cache.set(dict.fromkeys(every, (1, None)))
    cache.clear()
    assert cache.get(every) == {}
    assert agent.users.get("ada") is not None
    assert agent.store.get(b"own") == b"value"
    cache.set({every[0]: (2, None)})
    assert cache.get(every) == {every[0]: 2}


def test_a_large_cache_is_cleared_by_a_small_commit(
    cache: WalkvCache[Any], agent: AgentStore
) -> None:
    for at in range(0, 20_000, 1000):
        cache.set({(NAMESPACE, str(number)): (number, None) for number in range(at, at + 1000)})
    before = agent.store.stats().log_bytes
    cache.clear([NAMESPACE])
    assert agent.store.stats().log_bytes - before < 200
    assert only(cache, NAMESPACE, "19999") is None


# -- commits ---------------------------------------------------------------------------------------


def test_many_pairs_are_one_commit(agent: AgentStore, fs: SimulatedFileSystem) -> None:
    every = [(NAMESPACE, str(number)) for number in range(20)]
    seen = set()

    def look(operation: str, path: str) -> None:
        for disk in fs.crash_states():
            with AgentStore("/a.walkv", filesystem=fs.after_power_failure(disk)) as found:
                seen.add(len(WalkvCache[Any](found).get(every)))

    cache = WalkvCache[Any](agent, sync=walkv.Wal())
    fs.on_operation = look
    cache.set(dict.fromkeys(every, (1, None)))
    fs.on_operation = None
    assert seen == {0, 20}


@pytest.mark.parametrize(
    ("value", "ttl", "error"),
    [
        (object(), None, CodecError),
        (1, float("nan"), ValueError),
        (1, float("inf"), ValueError),
    ],
)
def test_what_cannot_be_kept_is_refused_with_all_that_came_with_it(
    cache: WalkvCache[Any], value: Any, ttl: Any, error: type[Exception]
) -> None:
    cache.set({(NAMESPACE, "a"): ("old", None)})
    pairs = {(NAMESPACE, "a"): ("new", None), (NAMESPACE, "bad"): (value, ttl)}
    with pytest.raises(error):
        cache.set(pairs)
    with pytest.raises(error):
        asyncio.run(cache.aset(pairs))
    assert cache.get([(NAMESPACE, "a"), (NAMESPACE, "bad")]) == {(NAMESPACE, "a"): "old"}


def test_an_endless_key_is_refused(cache: WalkvCache[Any]) -> None:
    with pytest.raises(LimitError, match=r"langgraph_cache\.name: .* has at most 4096 bytes"):
        cache.set({(NAMESPACE, "k" * 5000): (1, None)})


def test_the_error_of_a_value_says_which(cache: WalkvCache[Any]) -> None:
    with pytest.raises(CodecError, match=r"cache entry \(\('node', 'a'\), 'k'\): this cannot be"):
        cache.set({(NAMESPACE, "k"): (object(), None)})


# -- misses ----------------------------------------------------------------------------------------


def the_warning(caplog: pytest.LogCaptureFixture) -> str:
    (record,) = (record for record in caplog.records if record.name == "walkv")
    assert record.levelno == logging.WARNING
    caplog.clear()
    return record.getMessage()


def test_a_type_that_is_not_allowed_is_a_miss(
    agent: AgentStore, caplog: pytest.LogCaptureFixture
) -> None:
    good, bad = (NAMESPACE, "good"), (NAMESPACE, "bad")
    allowing = WalkvCache[Any](agent, allow=[Point])
    allowing.set({good: (1, None), bad: ([Point(1, 2)], None)})
    assert allowing.get([good, bad]) == {good: 1, bad: [Point(1, 2)]}
    strict = WalkvCache[Any](agent)
    assert strict.get([bad, good]) == {good: 1}
    assert "Point, which is not among the types allowed here" in the_warning(caplog)
    assert asyncio.run(strict.aget([bad, good])) == {good: 1}
    assert "this is a miss" in the_warning(caplog)
    assert allowing.get([bad]) == {bad: [Point(1, 2)]}
    assert WalkvCache[Any](agent, allow=[(__name__, "Point")]).get([bad]) == {bad: [Point(1, 2)]}
    assert caplog.records == []


def test_without_the_key_it_was_encrypted_with_it_is_a_miss(
    agent: AgentStore, caplog: pytest.LogCaptureFixture
) -> None:
    key = (NAMESPACE, "k")
    WalkvCache[Any](agent, serde=encrypted(b"1" * 16)).set({key: ("secret text", None)})
    assert not any(b"secret text" in value for _, value in agent.store.scan())
    for serde in (encrypted(b"2" * 16), JsonPlusSerializer()):
        assert WalkvCache[Any](agent, serde=serde).get([key]) == {}
        assert "cache entry (('node', 'a'), 'k')" in the_warning(caplog)
    right = WalkvCache[Any](agent, serde=encrypted(b"1" * 16))
    assert right.get([key]) == {key: "secret text"}
    # What anybody could have put there is not taken for what was encrypted.
    WalkvCache[Any](agent).set({key: ("forged", None)})
    assert right.get([key]) == {}
    assert "it was stored without encryption" in the_warning(caplog)


class Odd(JsonPlusSerializer):
    """Raises what no serializer of LangGraph's does."""

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        raise KeyError("odd")


def test_a_serializer_that_raises_anything_is_a_miss(
    agent: AgentStore, caplog: pytest.LogCaptureFixture
) -> None:
    cache = WalkvCache[Any](agent, serde=Odd())
    cache.set({(NAMESPACE, "k"): (1, None)})
    assert only(cache, NAMESPACE) is None
    the_warning(caplog)


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x90", b"\x95\0\1\2\3\4", b"\xff" * 40])
def test_a_damaged_entry_is_a_miss_until_it_is_replaced(
    agent: AgentStore,
    cache: WalkvCache[Any],
    data: bytes,
    caplog: pytest.LogCaptureFixture,
) -> None:
    cache.set({(NAMESPACE, "k"): ("value", None), (NAMESPACE, "other"): ("fine", None)})
    (full_key, _), _ = agent.store.scan(b"\0langgraph_cache\0r")
    agent.store.put(full_key, data)
    assert cache.get([(NAMESPACE, "k"), (NAMESPACE, "other")]) == {(NAMESPACE, "other"): "fine"}
    assert "this is a miss" in the_warning(caplog)
    cache.set({(NAMESPACE, "k"): ("again", None)})
    assert only(cache, NAMESPACE) == "again"
    assert caplog.records == []


def test_a_damaged_value_is_a_miss(
    agent: AgentStore, cache: WalkvCache[Any], caplog: pytest.LogCaptureFixture
) -> None:
    cache.set({(NAMESPACE, "k"): (["a long enough text"], None)})
    ((full_key, data),) = agent.store.scan(b"\0langgraph_cache\0r")
    agent.store.put(full_key, data.replace(b"a long enough", b"\xff\xfe long enough"[:13]))
    assert only(cache, NAMESPACE) is None
    assert "cannot be decoded as 'msgpack'" in the_warning(caplog)


# -- nodes that are not run again ------------------------------------------------------------------


class State(TypedDict, total=False):
    question: str
    answer: list[Any]


class Runs:
    """A graph whose node counts its runs, as a function or as a coroutine."""

    def __init__(self, cache: WalkvCache[Any], ttl: int | None = None, *, tasks: bool) -> None:
        self.count = 0
        self._tasks = tasks
        graph = StateGraph(State)
        graph.add_node("think", self.athink if tasks else self.think, cache_policy=self.policy(ttl))
        graph.add_edge(START, "think")
        graph.add_edge("think", END)
        self.graph = graph.compile(cache=cache)

    @staticmethod
    def policy(ttl: int | None) -> CachePolicy[Any]:
        return CachePolicy(key_func=lambda state: state["question"], ttl=ttl)

    def think(self, state: State) -> State:
        self.count += 1
        return {"answer": [AIMessage(state["question"].upper(), id="a")]}

    async def athink(self, state: State) -> State:
        return self.think(state)

    def ask(self, question: str) -> Any:
        if self._tasks:
            return asyncio.run(self.graph.ainvoke({"question": question}))["answer"]
        return self.graph.invoke({"question": question})["answer"]

    def clear(self) -> None:
        if self._tasks:
            asyncio.run(self.graph.aclear_cache())
        else:
            self.graph.clear_cache()


@pytest.mark.parametrize("tasks", [False, True], ids=["threads", "tasks"])
def test_a_node_runs_once_for_each_question(
    cache: WalkvCache[Any], fs: SimulatedFileSystem, tasks: bool
) -> None:
    runs = Runs(cache, ttl=60, tasks=tasks)
    for question in ("a", "b", "a", "b", "a"):
        assert runs.ask(question) == [AIMessage(question.upper(), id="a")]
    assert runs.count == 2
    fs.clock.advance(61)
    runs.ask("a")
    assert runs.count == 3
    runs.ask("a")
    assert runs.count == 3
    runs.clear()
    assert runs.ask("a") == [AIMessage("A", id="a")]
    assert runs.count == 4


@pytest.mark.parametrize("tasks", [False, True], ids=["threads", "tasks"])
def test_a_node_is_not_run_again_after_a_restart(tmp_path: Path, tasks: bool) -> None:
    for count in (1, 0, 0):
        with WalkvCache[Any](tmp_path / "agent.walkv") as cache:
            runs = Runs(cache, tasks=tasks)
            assert runs.ask("a") == [AIMessage("A", id="a")]
            assert runs.count == count


@pytest.mark.parametrize("tasks", [False, True], ids=["threads", "tasks"])
def test_what_cannot_be_read_does_not_stop_the_agent(
    agent: AgentStore, tasks: bool, caplog: pytest.LogCaptureFixture
) -> None:
    Runs(WalkvCache(agent, serde=encrypted(b"1" * 16)), tasks=tasks).ask("a")
    runs = Runs(WalkvCache(agent, serde=encrypted(b"2" * 16)), tasks=tasks)
    assert runs.ask("a") == [AIMessage("A", id="a")]
    assert runs.count == 1
    the_warning(caplog)
    assert runs.ask("a") == [AIMessage("A", id="a")]
    assert runs.count == 1


# -- opening and closing ---------------------------------------------------------------------------


def test_it_is_opened_and_closed_by_a_block(tmp_path: Path) -> None:
    path = tmp_path / "agent.walkv"
    key = (NAMESPACE, "k")
    with WalkvCache[Any].from_conn_string(str(path)) as cache:
        cache.set({key: (1, None)})
        assert repr(cache) == f"<walkv.WalkvCache {str(path)!r} open>"
    assert repr(cache) == f"<walkv.WalkvCache {str(path)!r} closed>"

    async def in_a_loop() -> None:
        async with WalkvCache[Any].from_conn_string(path) as cache:
            assert await cache.aget([key]) == {key: 1}
        async with WalkvCache[Any](path) as cache:
            assert await cache.aget([key]) == {key: 1}
        with pytest.raises(ClosedError, match="use it inside, or construct it without a block"):
            await cache.aget([key])
        for call in (cache.aset({key: (2, None)}), cache.aclear()):
            with pytest.raises(ClosedError):
                await call
        await cache.aclose()

    asyncio.run(in_a_loop())
    with AgentStore(path) as agent:  # which nobody holds any more
        assert WalkvCache[Any](agent).get([key]) == {key: 1}


def test_a_closed_cache_refuses(agent: AgentStore) -> None:
    cache = WalkvCache[Any](agent)
    cache.close()
    cache.close()
    assert not agent.closed  # it was given open
    for call in (
        lambda: cache.get([(NAMESPACE, "k")]),
        lambda: cache.set({(NAMESPACE, "k"): (1, None)}),
        cache.clear,
    ):
        with pytest.raises(ClosedError):
            call()


def test_caches_of_one_path_share_its_store(tmp_path: Path) -> None:
    path = tmp_path / "agent.walkv"
    key = (NAMESPACE, "k")
    with WalkvCache[Any](path) as one:
        with WalkvCache[Any](str(path)) as other:
            one.set({key: (1, None)})
            assert other.get([key]) == {key: 1}
        assert one.get([key]) == {key: 1}
        with pytest.raises(LockedError):
            AgentStore(path)
    AgentStore(path).close()


def test_it_takes_an_open_store(tmp_path: Path) -> None:
    with walkv.open(tmp_path / "s.walkv") as store:
        with WalkvCache[Any](store) as cache:
            cache.set({(NAMESPACE, "k"): (1, None)})
        assert not store.closed
    with AgentStore(tmp_path / "s.walkv", read_only=True) as agent:
        cache = WalkvCache[Any](agent)
        assert only(cache, NAMESPACE) == 1
        with pytest.raises(ReadOnlyError):
            cache.set({(NAMESPACE, "k"): (2, None)})


def test_a_cache_that_cannot_be_made_holds_nothing(tmp_path: Path) -> None:
    path = tmp_path / "agent.walkv"
    with pytest.raises(TypeError, match="allow it in yours"):
        WalkvCache[Any](path, serde=JsonPlusSerializer(), allow=[Point])
    with pytest.raises(TypeError):
        WalkvCache[Any](path, sync="always")  # type: ignore[arg-type]
    AgentStore(path).close()


def test_one_cache_serves_threads_and_several_loops(cache: WalkvCache[Any]) -> None:
    async def work(number: int) -> None:
        keys = [(NAMESPACE, f"{number}-{each}") for each in range(20)]
        await asyncio.gather(*(cache.aset({key: (number, 60)}) for key in keys))
        found = await asyncio.gather(*(cache.aget([key]) for key in keys))
        assert found == [{key: number} for key in keys]

    for number in range(3):
        asyncio.run(work(number))
        assert only(cache, NAMESPACE, f"{number}-7") == number


def test_inside_a_batch_it_is_a_part_of_it(agent: AgentStore, cache: WalkvCache[Any]) -> None:
    with suppress(RuntimeError), agent.batch():
        cache.set({(NAMESPACE, "k"): (1, None)})
        assert only(cache, NAMESPACE) == 1
        raise RuntimeError
    assert only(cache, NAMESPACE) is None
