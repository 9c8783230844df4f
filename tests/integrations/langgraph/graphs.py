"""Graphs without a model, and what is done with them.

A scenario builds its graph and drives it, one call after another. ``Drive`` decides what each call
is made on: which saver, opened when, through the synchronous or the asynchronous methods.
"""

from __future__ import annotations

import asyncio
import itertools
import operator
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager
from typing import Annotated, Any, TypedDict, TypeVar

from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, RemoveMessage
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.errors import NodeError
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.pregel import Pregel
from langgraph.types import Command, Interrupt, RetryPolicy, Send, StateSnapshot, interrupt

T = TypeVar("T")
Saver = BaseCheckpointSaver[Any]
Graph = Pregel[Any, Any, Any, Any]
Config = dict[str, Any]

THREAD: Config = {"configurable": {"thread_id": "t"}}
IN_ORDER: Config = {**THREAD, "max_concurrency": 1}
"""One task at a time: what runs at once otherwise, and which has ended before which, is chance."""


class Drive:
    """Calls of a graph, and what they returned.

    Args:
        opened: gives the saver for one call.
        asynchronous: whether a call is made through the asynchronous methods, by its number. Each
            such call has an event loop of its own.
        durability: of all runs.

    Attributes:
        graph: makes the graph on a saver; set by the scenario.
        durability: of all runs.
        results: of all calls, in order.
    """

    graph: Callable[[Saver], Graph]

    def __init__(
        self,
        opened: Callable[[], AbstractContextManager[Saver]],
        asynchronous: Callable[[int], bool],
        durability: str,
    ) -> None:
        self._opened = opened
        self._asynchronous = asynchronous
        self.durability = durability
        self._run = {"durability": durability}
        self._numbers = itertools.count()
        self.results: list[Any] = []

    def _call(self, sync: Callable[[Graph], T], other: Callable[[Graph], Awaitable[T]]) -> T:
        async def run(graph: Graph) -> T:
            return await other(graph)

        with self._opened() as saver:
            graph = self.graph(saver)
            turn = self._asynchronous(next(self._numbers))
            result = asyncio.run(run(graph)) if turn else sync(graph)
        self.results.append(result)
        return result

    def note(self, result: Any) -> None:
        """Add something else that has to be equal."""
        self.results.append(result)

    def invoke(self, value: Any, config: Config = THREAD) -> Any:
        return self._call(
            lambda graph: graph.invoke(value, config, **self._run),
            lambda graph: graph.ainvoke(value, config, **self._run),
        )

    def fail(self, value: Any, error: type[Exception], config: Config = THREAD) -> None:
        """A run that ends with an error."""

        def sync(graph: Graph) -> str:
            try:
                graph.invoke(value, config, **self._run)
            except error as caught:
                return repr(caught)
            raise AssertionError("it did not fail")

        async def other(graph: Graph) -> str:
            try:
                await graph.ainvoke(value, config, **self._run)
            except error as caught:
                return repr(caught)
            raise AssertionError("it did not fail")

        self._call(sync, other)

    def stream(self, value: Any, mode: str | list[str], config: Config = THREAD) -> list[Any]:
        async def other(graph: Graph) -> list[Any]:
            parts = graph.astream(value, config, stream_mode=mode, subgraphs=True, **self._run)
            return [part async for part in parts]

        return self._call(
            lambda graph: list(
                graph.stream(value, config, stream_mode=mode, subgraphs=True, **self._run)
            ),
            other,
        )

    def state(self, config: Config = THREAD, *, subgraphs: bool = False) -> StateSnapshot:
        return self._call(
            lambda graph: graph.get_state(config, subgraphs=subgraphs),
            lambda graph: graph.aget_state(config, subgraphs=subgraphs),
        )

    def history(self, config: Config = THREAD, **options: Any) -> list[StateSnapshot]:
        async def other(graph: Graph) -> list[StateSnapshot]:
            return [state async for state in graph.aget_state_history(config, **options)]

        return self._call(lambda graph: list(graph.get_state_history(config, **options)), other)

    def update(self, values: Any, config: Config = THREAD, as_node: str | None = None) -> Config:
        found = self._call(
            lambda graph: graph.update_state(config, values, as_node),
            lambda graph: graph.aupdate_state(config, values, as_node),
        )
        self.results[-1] = None  # a config, whose ids are seen in the history
        return found


Scenario = Callable[[Drive], None]


def interrupts_of(output: dict[str, Any]) -> dict[str, Interrupt]:
    """The interrupts that a run ended with, by what they ask."""
    return {str(each.value): each for each in output["__interrupt__"]}


def at(states: Sequence[StateSnapshot], *following: str) -> StateSnapshot:
    """The newest state of a history that has these tasks before it.

    With durability "exit" there may be none; then the newest of all.
    """
    return next((state for state in states if state.next == following), states[0])


# -- interrupts ----------------------------------------------------------------------------------


class Log(TypedDict):
    log: Annotated[list[str], operator.add]


def one_node_asks_twice(drive: Drive) -> None:
    def ask(state: Log) -> Log:
        name = interrupt("name?")
        colour = interrupt({"favourite colour of": name})
        return {"log": [f"{name} likes {colour}"]}

    builder = StateGraph(Log)
    builder.add_node("greet", lambda state: {"log": ["hello"]})
    builder.add_node("ask", ask)
    builder.add_node("leave", lambda state: {"log": ["bye"]})
    builder.add_edge(START, "greet")
    builder.add_edge("greet", "ask")
    builder.add_edge("ask", "leave")
    drive.graph = lambda saver: builder.compile(checkpointer=saver)
    drive.invoke({"log": ["start"]})
    drive.state()
    drive.invoke(Command(resume="Ada"))
    drive.state()
    drive.invoke(Command(resume="red"))
    drive.history()
    drive.invoke({"log": ["again"]})
    drive.invoke(Command(resume="Grace"))
    drive.invoke(Command(resume="blue", update={"log": ["told"]}))


def an_answer_with_an_update_is_cut_off(drive: Drive) -> None:
    """The run stops after the answer was kept and before the question is asked again."""
    runs: list[int] = []

    def ask(state: Log) -> Log:
        runs.append(len(runs))
        if len(runs) == 3:
            raise ConnectionError("cut off")
        return {"log": [interrupt("first?"), interrupt("second?")]}

    builder = StateGraph(Log)
    builder.add_node("ask", ask)
    builder.add_edge(START, "ask")
    drive.graph = lambda saver: builder.compile(checkpointer=saver)
    drive.invoke({"log": []})
    drive.invoke(Command(resume="one"))
    drive.fail(Command(resume="two", update={"log": ["noted"]}), ConnectionError)
    drive.state()
    drive.invoke(None)


def two_tasks_ask_at_once(drive: Drive) -> None:
    def ask(name: str) -> Callable[[Log], Log]:
        return lambda state: {"log": [f"{name}: {interrupt(name)}"]}

    builder = StateGraph(Log)
    for name in ("left", "right"):
        builder.add_node(name, ask(name))
        builder.add_edge(START, name)
    builder.add_node("middle", lambda state: {"log": ["silent"]})
    builder.add_edge(START, "middle")
    drive.graph = lambda saver: builder.compile(checkpointer=saver)
    asked = interrupts_of(drive.invoke({"log": []}))
    drive.fail(Command(resume="to whom?"), RuntimeError)
    drive.invoke(Command(resume={asked["right"].id: "answered first"}))
    drive.state()
    drive.invoke(Command(resume={asked["left"].id: "answered last"}))
    drive.history()


def stops_that_are_declared(drive: Drive) -> None:
    builder = StateGraph(Log)
    for name in "abcd":
        builder.add_node(name, lambda state, name=name: {"log": [name]})
    for pair in itertools.pairwise((START, *"abcd", END)):
        builder.add_edge(*pair)
    drive.graph = lambda saver: builder.compile(
        checkpointer=saver, interrupt_before=["b"], interrupt_after=["c"]
    )
    drive.invoke({"log": []})
    drive.state()
    drive.update({"log": ["changed while it stood"]})
    drive.invoke(None)
    drive.update({"log": ["skipped d"]}, as_node="d")
    drive.invoke(None)
    drive.history()


# -- subgraphs -----------------------------------------------------------------------------------


def three_floors(drive: Drive) -> None:
    """Subgraphs that keep their checkpoints under their parent's, and ask at the bottom."""

    def dig(state: Log) -> Log:
        return {"log": [f"dug {interrupt('how deep?')}"]}

    cellar = StateGraph(Log)
    cellar.add_node("lamp", lambda state: {"log": ["lamp"]})
    cellar.add_node("dig", dig)
    cellar.add_edge(START, "lamp")
    cellar.add_edge("lamp", "dig")
    ground = StateGraph(Log)
    ground.add_node("door", lambda state: {"log": ["door"]})
    ground.add_node("cellar", cellar.compile())
    ground.add_edge(START, "door")
    ground.add_edge("door", "cellar")
    house = StateGraph(Log)
    house.add_node("street", lambda state: {"log": ["street"]})
    house.add_node("ground", ground.compile())
    house.add_node("home", lambda state: {"log": ["home"]})
    house.add_edge(START, "street")
    house.add_edge("street", "ground")
    house.add_edge("ground", "home")
    drive.graph = lambda saver: house.compile(checkpointer=saver)
    drive.stream({"log": []}, "updates")
    inside = drive.state(subgraphs=True)
    drive.history(inside.tasks[0].state.config)
    drive.invoke(Command(resume="3 m"))
    drive.invoke(None, at(drive.history(), "ground").config)
    drive.state(subgraphs=True)
    drive.invoke(Command(resume="9 m"))
    drive.history()


def subgraphs_with_and_without_memory(drive: Drive) -> None:
    """One that remembers across runs, one that keeps nothing, and one called from a node.

    Under durability "sync" LangGraph itself fails in a subgraph that keeps nothing.
    """

    def inner(name: str) -> StateGraph[Any]:
        builder = StateGraph(Log)
        builder.add_node(name, lambda state: {"log": [f"{name} {len(state['log'])}"]})
        builder.add_edge(START, name)
        return builder

    remembers = inner("remembers").compile(checkpointer=True)
    keeps = None if drive.durability == "sync" else False
    forgets = inner("forgets").compile(checkpointer=keeps)
    called = inner("called").compile()
    builder = StateGraph(Log)
    builder.add_node("one", remembers)
    builder.add_node("two", forgets)
    builder.add_node("three", lambda state: called.invoke({"log": ["from a node"]}))
    for pair in itertools.pairwise((START, "one", "two", "three")):
        builder.add_edge(*pair)
    drive.graph = lambda saver: builder.compile(checkpointer=saver)
    for text in ("first", "second", "third"):
        drive.invoke({"log": [text]})
    drive.history()


def subgraphs_at_once(drive: Drive) -> None:
    """Two of them ask; one is changed by hand, and from a time before."""

    def sign(state: Log) -> Log:
        return {"log": [f"{state['log'][0]} signed by {interrupt(state['log'][0])}"]}

    office = StateGraph(Log)
    office.add_node("read", lambda state: {"log": ["read"]})
    office.add_node("sign", sign)
    office.add_edge(START, "read")
    office.add_edge("read", "sign")
    builder = StateGraph(Log)
    builder.add_node("office", office.compile())
    builder.add_node("post", lambda state: {"log": [f"{len(state['log'])} letters"]})
    builder.add_conditional_edges(
        START, lambda state: [Send("office", {"log": [name]}) for name in state["log"]], ["office"]
    )
    builder.add_edge("office", "post")
    drive.graph = lambda saver: builder.compile(checkpointer=saver)
    asked = interrupts_of(drive.invoke({"log": ["will", "lease"]}, IN_ORDER))
    inside = drive.state(subgraphs=True)
    drive.update({"log": ["by hand"]}, inside.tasks[0].state.config)
    drive.invoke(Command(resume={asked["lease"].id: "Ada"}), IN_ORDER)
    drive.state(subgraphs=True)
    drive.invoke(Command(resume={asked["will"].id: "Grace"}), IN_ORDER)
    drive.history()
    older = drive.history(inside.tasks[1].state.config)
    drive.invoke(None, {**IN_ORDER, **at(older, "read").config})
    drive.state(subgraphs=True)
    drive.history()


# -- parallel tasks ------------------------------------------------------------------------------


class Parts(TypedDict, total=False):
    items: list[int]
    parts: Annotated[list[int], operator.add]
    total: int


def map_and_reduce(drive: Drive) -> None:
    builder = StateGraph(Parts)
    builder.add_node("plan", lambda state: {"items": [*state["items"], 7]})
    builder.add_node("square", lambda item: {"parts": [item["n"] ** 2]})
    builder.add_node("sum", lambda state: {"total": sum(state["parts"])})
    builder.add_edge(START, "plan")
    builder.add_conditional_edges(
        "plan", lambda state: [Send("square", {"n": n}) for n in state["items"]], ["square"]
    )
    builder.add_edge("square", "sum")
    drive.graph = lambda saver: builder.compile(checkpointer=saver)
    drive.stream({"items": [1, 2, 3]}, "values")
    drive.history()
    drive.invoke({"items": list(range(12))})
    drive.state()


def one_of_several_fails(drive: Drive) -> None:
    """What its siblings have written is kept, and they do not run again."""
    ran: list[int] = []

    def work(item: dict[str, int]) -> Parts:
        ran.append(item["n"])
        if item["n"] == 2 and ran.count(2) < 3:
            raise ValueError(f"two, the {ran.count(2)}. time")
        return {"parts": [item["n"]]}

    builder = StateGraph(Parts)
    builder.add_node("work", work)
    builder.add_node("sum", lambda state: {"total": sum(state["parts"])})
    builder.add_conditional_edges(
        START, lambda state: [Send("work", {"n": n}) for n in state["items"]], ["work"]
    )
    builder.add_edge("work", "sum")
    drive.graph = lambda saver: builder.compile(checkpointer=saver)
    drive.fail({"items": [0, 1, 2]}, ValueError, IN_ORDER)
    drive.state()
    drive.fail(None, ValueError, IN_ORDER)
    drive.state()
    drive.invoke(None, IN_ORDER)
    drive.note(list(ran))
    assert ran == [0, 1, 2, 2, 2]
    drive.history()


def errors_that_are_handled(drive: Drive) -> None:
    tries: list[str] = []

    def flaky(state: Log) -> Log:
        tries.append("flaky")
        if len(tries) < 3:
            raise ConnectionError("not now")
        return {"log": [f"after {len(tries)} tries"]}

    def broken(state: Log) -> Log:
        raise ValueError("never")

    def handle(state: Log, error: NodeError) -> Log:
        return {"log": [f"handled {error.error!r}"]}

    policy = RetryPolicy(initial_interval=0, jitter=False, max_attempts=5)
    builder = StateGraph(Log)
    builder.add_node("flaky", flaky, retry_policy=policy)
    builder.add_node("broken", broken, error_handler=handle)
    builder.add_edge(START, "flaky")
    builder.add_edge("flaky", "broken")
    drive.graph = lambda saver: builder.compile(checkpointer=saver)
    drive.invoke({"log": []})
    drive.history()


# -- time travel ---------------------------------------------------------------------------------


def time_travel(drive: Drive) -> None:
    def pick(state: Log) -> Command[Any]:
        return Command(goto="loud" if len(state["log"]) % 2 else "soft", update={"log": ["pick"]})

    builder = StateGraph(Log)
    builder.add_node("pick", pick, destinations=("loud", "soft"))
    builder.add_node("loud", lambda state: {"log": ["LOUD"]})
    builder.add_node("soft", lambda state: {"log": ["soft"]})
    builder.add_node("end", lambda state: {"log": ["end"]}, defer=True)
    builder.add_edge(START, "pick")
    builder.add_edge("loud", "end")
    builder.add_edge("soft", "end")
    drive.graph = lambda saver: builder.compile(checkpointer=saver)
    drive.invoke({"log": ["one"]})
    states = drive.history()
    drive.invoke(None, at(states, "loud").config)
    fork = drive.update({"log": ["two"]}, at(states, "pick").config)
    drive.state(fork)
    drive.invoke(None, fork)
    drive.invoke({"log": ["three"]})
    drive.update({"log": ["by hand"]}, as_node="pick")
    drive.history()
    drive.history(limit=2, before=drive.state().config)
    drive.history(filter={"source": "update"})


# -- channels that are kept as differences -------------------------------------------------------


def joined(state: list[str], updates: Sequence[list[str]]) -> list[str]:
    return [*state, *itertools.chain.from_iterable(updates)]


class Notes(TypedDict):
    notes: Annotated[list[str], DeltaChannel(joined, snapshot_frequency=3)]
    rare: Annotated[list[str], DeltaChannel(joined, snapshot_frequency=1000)]
    count: int


def notes_graph() -> StateGraph[Any]:
    """Three supersteps a run, two of which write to channels kept as differences."""

    def write(state: Notes) -> dict[str, Any]:
        return {"notes": [f"n{len(state['notes'])}"]}

    builder = StateGraph(Notes)
    builder.add_node("write", write)
    builder.add_node(
        "aside", lambda state: {"notes": ["aside"], "rare": [f"r{len(state['notes'])}"]}
    )
    builder.add_node("count", lambda state: {"count": len(state["notes"])})
    builder.add_edge(START, "write")
    builder.add_edge(START, "aside")
    builder.add_edge("write", "count")
    return builder


def differences(drive: Drive) -> None:
    builder = notes_graph()
    drive.graph = lambda saver: builder.compile(checkpointer=saver)
    for turn in range(4):
        drive.invoke({"notes": [f"input {turn}"]})
        drive.state()
    states = drive.history()
    drive.invoke(None, at(states, "count").config)
    older = at([*states[4:], states[-1]], "count")
    fork = drive.update({"notes": ["forked"]}, older.config, as_node="write")
    drive.invoke(None, fork)
    drive.invoke({"rare": ["last"]})
    drive.history()


# -- the rest of what a graph can be -------------------------------------------------------------


def functions(drive: Drive) -> None:
    """The functional API: tasks, an interrupt, and what the last run has left."""
    ran: list[str] = []

    @task
    def double(number: int) -> int:
        ran.append(f"double {number}")
        return 2 * number

    @task
    def slow(number: int) -> int:
        ran.append(f"slow {number}")
        return number + 1

    def work(number: int, *, previous: int | None = None) -> Any:
        doubled = [double(n) for n in range(number)]
        one = slow(number).result()
        sure = interrupt({"sure about": one})
        total = sum(each.result() for each in doubled) + one + (previous or 0)
        return entrypoint.final(value=f"{total} {sure}", save=total)

    drive.graph = lambda saver: entrypoint(checkpointer=saver)(work)
    drive.invoke(3)
    drive.state()
    drive.invoke(Command(resume="yes"))
    drive.note(sorted(ran))
    assert len(ran) == 4
    drive.invoke(2)
    drive.invoke(Command(resume="no"))
    drive.history()


class Talk(TypedDict):
    messages: Annotated[list[AnyMessage], add_messages]


def messages(drive: Drive) -> None:
    def answer(state: Talk) -> dict[str, Any]:
        last = state["messages"][-1]
        call = {"name": "look", "args": {"at": last.content}, "id": f"call-{len(last.content)}"}
        return {"messages": [AIMessage("I look", id=f"a-{last.id}", tool_calls=[call])]}

    def forget(state: Talk) -> dict[str, Any]:
        surplus = state["messages"][:-3]
        return {"messages": [RemoveMessage(id=str(each.id)) for each in surplus]}

    builder = StateGraph(Talk)
    builder.add_node("answer", answer)
    builder.add_node("forget", forget)
    builder.add_edge(START, "answer")
    builder.add_edge("answer", "forget")
    drive.graph = lambda saver: builder.compile(checkpointer=saver)
    for number in range(3):
        drive.invoke({"messages": [HumanMessage(f"question {number}", id=f"q{number}")]})
    drive.stream({"messages": [HumanMessage("the last", id="q9")]}, ["updates", "values"])
    drive.history()


def several_threads_and_namespaces(drive: Drive) -> None:
    builder = StateGraph(Log)
    builder.add_node("echo", lambda state: {"log": [state["log"][-1].upper()]})
    builder.add_edge(START, "echo")
    drive.graph = lambda saver: builder.compile(checkpointer=saver)
    for name in ("one", "two/three", "ünï", "a" * 200, "5"):
        config: Config = {"configurable": {"thread_id": name}, "metadata": {"who": name}}
        drive.invoke({"log": [name]}, config)
        drive.state(config)
        drive.invoke({"log": ["again"]}, config)
        drive.history(config)


SCENARIOS: list[Scenario] = [
    one_node_asks_twice,
    an_answer_with_an_update_is_cut_off,
    two_tasks_ask_at_once,
    stops_that_are_declared,
    three_floors,
    subgraphs_with_and_without_memory,
    subgraphs_at_once,
    map_and_reduce,
    one_of_several_fails,
    errors_that_are_handled,
    time_travel,
    differences,
    functions,
    messages,
    several_threads_and_namespaces,
]
