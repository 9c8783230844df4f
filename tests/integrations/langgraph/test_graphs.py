"""Real graphs leave the same behind, and return the same, as on LangGraph's saver in memory."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.types import Command, interrupt

from tests.integrations.langgraph import graphs, traces
from tests.integrations.langgraph.graphs import THREAD, Drive, Log, Saver, Scenario
from walkv.errors import CodecError
from walkv.integrations.langgraph import WalkvSaver

Opened = Callable[[], AbstractContextManager[Saver]]

WAYS: dict[str, Callable[[int], bool]] = {
    "sync": lambda number: False,
    "async": lambda number: True,
    "mixed": lambda number: number % 2 == 1,
}
"""Which calls are asynchronous. Each of these has an event loop of its own."""

DURABILITIES = ("sync", "async", "exit")

scenarios = pytest.mark.parametrize("scenario", graphs.SCENARIOS, ids=lambda each: each.__name__)
ways = pytest.mark.parametrize("way", WAYS)
durabilities = pytest.mark.parametrize("durability", DURABILITIES)


def driven(scenario: Scenario, opened: Opened, way: str, durability: str) -> Drive:
    drive = Drive(opened, WAYS[way], durability)
    scenario(drive)
    return drive


def in_memory(
    scenario: Scenario, way: str, durability: str, saver: Saver | None = None
) -> tuple[traces.Plain, traces.Plain]:
    """What calls return, and what is left behind."""
    saver = saver or InMemorySaver()
    drive = driven(scenario, lambda: nullcontext(saver), way, durability)
    return traces.told(drive.results), traces.kept(saver)


@scenarios
@ways
@durabilities
def test_one_saver_for_all_calls(
    scenario: Scenario, way: str, durability: str, tmp_path: Path
) -> None:
    told, kept = in_memory(scenario, way, durability)
    with WalkvSaver(tmp_path / "s") as saver:
        drive = driven(scenario, lambda: nullcontext(saver), way, durability)
        assert traces.told(drive.results) == told
        assert traces.kept(saver) == kept
    with WalkvSaver(tmp_path / "s") as saver:
        assert traces.kept(saver) == kept


@scenarios
@pytest.mark.parametrize(("way", "durability"), [("sync", "sync"), ("mixed", "exit")])
def test_a_saver_for_each_call(
    scenario: Scenario, way: str, durability: str, tmp_path: Path
) -> None:
    told, kept = in_memory(scenario, way, durability)
    opened = partial(WalkvSaver, tmp_path / "s")
    drive = driven(scenario, opened, way, durability)
    assert traces.told(drive.results) == told
    with opened() as saver:
        assert traces.kept(saver) == kept


# -- the comparison itself ------------------------------------------------------------------------


class Orphaning(InMemorySaver):
    """Forgets which checkpoint was before."""

    def put(self, config: Any, *rest: Any) -> Any:
        own = {**config["configurable"], "checkpoint_id": None}
        return super().put({"configurable": own}, *rest)


class Reversing(InMemorySaver):
    """Gives pending writes in another order."""

    def get_tuple(self, config: Any) -> Any:
        found = super().get_tuple(config)
        return found and found._replace(pending_writes=[*reversed(found.pending_writes or ())])

    def list(self, *args: Any, **options: Any) -> Iterator[Any]:
        for found in super().list(*args, **options):
            yield found._replace(pending_writes=[*reversed(found.pending_writes or ())])


class Losing(InMemorySaver):
    """Loses what a task answered first."""

    def put_writes(self, config: Any, writes: Any, *rest: Any) -> None:
        super().put_writes(config, [*writes][1:], *rest)


class Blurring(InMemorySaver):
    """Does not know steps apart."""

    def put(self, config: Any, checkpoint: Any, metadata: Any, versions: Any) -> Any:
        return super().put(config, checkpoint, {**metadata, "step": 1}, versions)


class Repeating(InMemorySaver):
    """Keeps the versions of channels that it had."""

    def put(self, config: Any, checkpoint: Any, metadata: Any, versions: Any) -> Any:
        return super().put(config, checkpoint, metadata, dict(list(versions.items())[:1]))


@pytest.mark.parametrize("bad", [Orphaning, Reversing, Losing, Blurring, Repeating])
def test_the_comparison_sees_a_saver_that_is_not_right(bad: type[InMemorySaver]) -> None:
    good = in_memory(graphs.map_and_reduce, "sync", "async")
    try:
        found = in_memory(graphs.map_and_reduce, "sync", "async", bad())
    except (KeyError, ValueError, RuntimeError):
        return  # the graph itself saw it
    assert found[1] != good[1]


@scenarios
def test_the_comparison_is_not_of_chance(scenario: Scenario) -> None:
    assert in_memory(scenario, "sync", "sync") == in_memory(scenario, "async", "sync")


# -- channels that are kept as differences --------------------------------------------------------


@contextmanager
def noted(path: Path) -> Iterator[tuple[WalkvSaver, graphs.Graph]]:
    """A thread with channels kept as differences, in an opened store."""
    with WalkvSaver(path) as saver:
        driven(graphs.differences, lambda: nullcontext(saver), "sync", "async")
    with WalkvSaver(path) as saver:
        yield saver, graphs.notes_graph().compile(checkpointer=saver)


def of_thread(name: str) -> graphs.Config:
    return {"configurable": {"thread_id": name}}


def values(graph: graphs.Graph, name: str = "t") -> list[Any]:
    return [state.values for state in graph.get_state_history(of_thread(name))]


def test_differences_are_the_same_after_copying(tmp_path: Path) -> None:
    with noted(tmp_path / "s") as (saver, graph):
        before = values(graph)
        saver.copy_thread("t", "copy")
        assert values(graph, "copy") == before
        saver.delete_thread("t")
        assert values(graph, "copy") == before
        expected = graph.invoke({"notes": ["more"]}, of_thread("copy"))
        assert expected["notes"][: len(before[0]["notes"])] == before[0]["notes"]
    with noted(tmp_path / "s") as (saver, graph):
        assert values(graph) == before
        assert graph.get_state(of_thread("copy")).values == expected


@pytest.mark.parametrize("keep", [1, 2, 5])
def test_differences_are_the_same_after_pruning(tmp_path: Path, keep: int) -> None:
    with noted(tmp_path / "s") as (saver, graph):
        before = values(graph)
        saver.copy_thread("t", "copy")
        saver.prune(["t"], strategy="keep_latest", keep_last=keep)
        assert values(graph)[:keep] == before[:keep]
        assert len(values(graph)) < len(before)
        assert values(graph, "copy") == before
        graph.invoke({"notes": ["more"]}, of_thread("t"))
        graph.invoke({"notes": ["more"]}, of_thread("copy"))
        assert values(graph)[0] == values(graph, "copy")[0]
    with WalkvSaver(tmp_path / "s") as saver:
        graph = graphs.notes_graph().compile(checkpointer=saver)
        assert values(graph)[0] == values(graph, "copy")[0]


def test_the_history_of_differences_is_that_of_the_published_walk(tmp_path: Path) -> None:
    channels = ["notes", "rare", "turn", "no such channel"]
    walk = BaseCheckpointSaver.get_delta_channel_history
    walk_async = BaseCheckpointSaver.aget_delta_channel_history
    with noted(tmp_path / "s") as (saver, _):
        configs: list[Any] = [found.config for found in traces.contents(saver)]
        assert len(configs) > 12
        for config in [*configs, of_thread("t"), of_thread("nobody")]:
            expected = walk(saver, config=config, channels=channels)
            assert saver.get_delta_channel_history(config=config, channels=channels) == expected
            found = asyncio.run(saver.aget_delta_channel_history(config=config, channels=channels))
            assert found == asyncio.run(walk_async(saver, config=config, channels=channels))
            assert found == expected


# -- many at once --------------------------------------------------------------------------------


def echo_graph(saver: Saver) -> graphs.Graph:
    def echo(state: Log) -> Log:
        return {"log": [state["log"][-1].upper()]}

    builder = StateGraph(Log)
    builder.add_node("first", echo)
    builder.add_node("second", lambda state: {"log": [f"{len(state['log'])}"]})
    builder.add_edge(START, "first")
    builder.add_edge(START, "second")
    return builder.compile(checkpointer=saver)


def one_after_another(names: list[str]) -> dict[str, traces.Plain]:
    """What several threads leave behind if none is disturbed."""
    saver = InMemorySaver()
    for name in names:
        for text in ("a", "b", "c"):
            echo_graph(saver).invoke({"log": [text]}, of_thread(name))
    return {name: traces.kept(saver, name) for name in names}


def test_many_threads_run_at_once_from_threads_and_from_tasks(tmp_path: Path) -> None:
    names = [f"thread {number}" for number in range(12)]
    with WalkvSaver(tmp_path / "s") as saver:
        graph = echo_graph(saver)

        def in_a_thread(name: str) -> None:
            for text in ("a", "b", "c"):
                graph.invoke({"log": [text]}, of_thread(name))

        async def in_a_task(name: str) -> None:
            for text in ("a", "b", "c"):
                await graph.ainvoke({"log": [text]}, of_thread(name))

        async def in_tasks(some: list[str]) -> None:
            await asyncio.gather(*map(in_a_task, some))

        with ThreadPoolExecutor(6) as pool:
            done = [pool.submit(in_a_thread, name) for name in names[:4]]
            done += [pool.submit(asyncio.run, in_tasks(names[at : at + 4])) for at in (4, 8)]
        for each in done:
            each.result()
        assert {name: traces.kept(saver, name) for name in names} == one_after_another(names)


def test_streaming_and_listing_while_another_thread_writes(tmp_path: Path) -> None:
    """Who reads sees one moment of the store, and holds nobody up."""
    names = ["streamed", "written"]
    with WalkvSaver(tmp_path / "s") as saver:
        graph = echo_graph(saver)
        graph.invoke({"log": ["a"]}, of_thread("streamed"))
        begun, written = threading.Event(), threading.Event()

        def write() -> None:
            assert begun.wait(60)
            for text in ("a", "b", "c"):
                graph.invoke({"log": [text]}, of_thread("written"))
            written.set()

        with ThreadPoolExecutor(1) as pool:
            writing = pool.submit(write)
            listing = saver.list(None)
            seen = [next(listing)]
            parts = graph.stream({"log": ["b"]}, of_thread("streamed"), stream_mode="values")
            streamed = [next(parts)]
            begun.set()
            # Neither goes on before all is written that another thread had to write.
            assert written.wait(60)
            streamed += list(parts)
            seen += list(listing)
            writing.result()
        assert [part["log"][-1] for part in streamed] == ["b", "4"]
        assert {found.config["configurable"]["thread_id"] for found in seen} == {"streamed"}
        graph.invoke({"log": ["c"]}, of_thread("streamed"))
        assert {name: traces.kept(saver, name) for name in names} == one_after_another(names)


def test_an_asynchronous_listing_and_stream_while_other_tasks_write(tmp_path: Path) -> None:
    names = ["streamed", "written"]

    async def run(saver: WalkvSaver) -> None:
        graph = echo_graph(saver)
        await graph.ainvoke({"log": ["a"]}, of_thread("streamed"))
        listing = saver.alist(None)
        seen = [await anext(listing)]
        parts = graph.astream({"log": ["b"]}, of_thread("streamed"), stream_mode="values")
        streamed = [await anext(parts)]
        for text in ("a", "b", "c"):
            await graph.ainvoke({"log": [text]}, of_thread("written"))
            if text == "b":  # a synchronous call from within the loop's thread
                graph.get_state(of_thread("written"))
        streamed += [part async for part in parts]
        seen += [found async for found in listing]
        assert [part["log"][-1] for part in streamed] == ["b", "4"]
        assert {found.config["configurable"]["thread_id"] for found in seen} == {"streamed"}
        await graph.ainvoke({"log": ["c"]}, of_thread("streamed"))

    with WalkvSaver(tmp_path / "s") as saver:
        asyncio.run(run(saver))
        assert {name: traces.kept(saver, name) for name in names} == one_after_another(names)


def test_a_run_that_is_left_in_the_middle_goes_on_elsewhere(tmp_path: Path) -> None:
    """Interrupted in one thread, answered in a task, read in another loop, on one saver."""
    builder = StateGraph(Log)
    builder.add_node("ask", lambda state: {"log": [interrupt("which?")]})
    builder.add_edge(START, "ask")
    with WalkvSaver(tmp_path / "s") as saver:
        graph = builder.compile(checkpointer=saver)
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(graph.invoke, {"log": ["a"]}, THREAD).result()
        assert asked["__interrupt__"][0].value == "which?"
        answered = asyncio.run(graph.ainvoke(Command(resume="this"), THREAD))
        assert answered == {"log": ["a", "this"]}
        state = asyncio.run(graph.aget_state(THREAD))
        assert state == graph.get_state(THREAD)
        assert state.values == answered
        assert state.next == ()


# -- types of the caller's ------------------------------------------------------------------------


@dataclass
class Place:
    name: str
    size: int


def test_a_type_of_the_callers_has_to_be_allowed(tmp_path: Path) -> None:
    builder = StateGraph(dict)
    builder.add_node("go", lambda state: {"at": Place("Rome", 3)})
    builder.add_edge(START, "go")
    with WalkvSaver(tmp_path / "s", allow=[Place]) as saver:
        graph = builder.compile(checkpointer=saver)
        graph.invoke({"at": None}, THREAD)
        assert graph.get_state(THREAD).values == {"at": Place("Rome", 3)}
    with WalkvSaver(tmp_path / "s") as saver, pytest.raises(CodecError, match="allow="):
        builder.compile(checkpointer=saver).get_state(THREAD)
