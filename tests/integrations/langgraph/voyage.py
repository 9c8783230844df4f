"""A process that runs a graph to its end, and says what it does before and after doing it.

It stops at each point until it is let go on, so it can be killed between any two of them. It starts
as a user would start it: it looks at the thread, and goes on from there.

What it says are lists:

    put begins / put            namespace, parent, checkpoint, source, digest
    writes begin / writes       namespace, checkpoint, task, whether the task has ended with them
    task begins / task          name, checkpoint, task
    end                         values, history, {namespace and checkpoint: digest}
    error                       a traceback
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import operator
import os
import threading
import traceback
from multiprocessing.connection import Connection
from typing import Annotated, Any, TypedDict

from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.base import WRITES_IDX_MAP, CheckpointTuple
from langgraph.graph import START, StateGraph
from langgraph.pregel import Pregel
from langgraph.runtime import get_runtime
from langgraph.types import Command, Send, StateSnapshot, interrupt

from tests.integrations.langgraph import traces
from tests.integrations.langgraph.graphs import joined
from walkv.integrations.langgraph import WalkvSaver

CONFIG: dict[str, Any] = {"configurable": {"thread_id": "voyage"}}
FIRST, SECOND = "by train", "on foot"


class Teller:
    """Says things, and waits after each until it may go on; one thread at a time."""

    def __init__(self, pipe: Connection, effects: str) -> None:
        self._pipe = pipe
        self._lock = threading.Lock()
        self._effects = effects

    def say(self, *words: Any) -> None:
        with self._lock:
            self._pipe.send_bytes(json.dumps(words).encode())
            self._pipe.recv_bytes()

    def do(self, name: str) -> None:
        """What a task does to the world: a line in a file, durable before it returns."""
        task = get_runtime().execution_info
        about = (name, task.checkpoint_id, task.task_id)
        self.say("task begins", *about)
        file = os.open(self._effects, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(file, f"{name}\n".encode())
        os.fsync(file)
        os.close(file)
        self.say("task", *about)


# -- the saver -----------------------------------------------------------------------------------


class TellingSaver(WalkvSaver):
    """The saver, saying what it is asked to write and what it has acknowledged."""

    teller: Teller

    def put(self, config: Any, checkpoint: Any, metadata: Any, new_versions: Any) -> Any:
        about = _put(config, checkpoint, metadata)
        self.teller.say("put begins", *about)
        named = super().put(config, checkpoint, metadata, new_versions)
        self.teller.say("put", *about)
        return named

    async def aput(self, config: Any, checkpoint: Any, metadata: Any, new_versions: Any) -> Any:
        about = _put(config, checkpoint, metadata)
        self.teller.say("put begins", *about)
        named = await super().aput(config, checkpoint, metadata, new_versions)
        self.teller.say("put", *about)
        return named

    def put_writes(self, config: Any, writes: Any, task_id: str, task_path: str = "") -> None:
        about = _writes(config, writes, task_id)
        self.teller.say("writes begin", *about)
        super().put_writes(config, writes, task_id, task_path)
        self.teller.say("writes", *about)

    async def aput_writes(
        self, config: Any, writes: Any, task_id: str, task_path: str = ""
    ) -> None:
        about = _writes(config, writes, task_id)
        self.teller.say("writes begin", *about)
        await super().aput_writes(config, writes, task_id, task_path)
        self.teller.say("writes", *about)


def _put(config: Any, checkpoint: Any, metadata: Any) -> tuple[Any, ...]:
    own = config["configurable"]
    named = own["checkpoint_ns"], own.get("checkpoint_id"), checkpoint["id"]
    return *named, metadata["source"], _digest(checkpoint, metadata["step"])


def _writes(config: Any, writes: Any, task_id: str) -> tuple[Any, ...]:
    own = config["configurable"]
    ended = any(channel not in WRITES_IDX_MAP for channel, _ in writes)
    return own["checkpoint_ns"], own["checkpoint_id"], task_id, ended


def _digest(checkpoint: Any, step: int) -> str:
    text = json.dumps([step, checkpoint], sort_keys=True, default=repr)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


# -- the graph -----------------------------------------------------------------------------------


class Check(TypedDict, total=False):
    way: str
    done: Annotated[list[str], operator.add]


class Voyage(Check, total=False):
    stops: list[str]
    log: Annotated[list[str], DeltaChannel(joined, snapshot_frequency=3)]


def build(teller: Teller) -> StateGraph[Any]:
    """Plan, see the stops at once, have a subgraph look and ask, and arrive."""

    def task(name: str, state: Check) -> Voyage:
        teller.do(f"{name} {state['way']}")
        return {"done": [name], "log": [name]}

    def plan(state: Voyage) -> Voyage:
        return {**task("plan", state), "stops": ["Rome", "Oslo"]}

    def ask(state: Check) -> Check:
        answer = interrupt(f"go {state['way']}?")
        teller.do(f"ask {state['way']}")
        return {"done": [f"{answer}, {state['way']}"]}

    inner = StateGraph(Check)
    inner.add_node("look", lambda state: {"done": task("look", state)["done"]})
    inner.add_node("ask", ask)
    inner.add_edge(START, "look")
    inner.add_edge("look", "ask")

    def leave(state: Voyage) -> list[Send]:
        return [Send("see", {"way": state["way"], "stop": stop}) for stop in state["stops"]]

    builder = StateGraph(Voyage)
    builder.add_node("plan", plan)
    builder.add_node("see", lambda state: task(f"see {state['stop']}", state))
    builder.add_node("check", inner.compile())
    builder.add_node("arrive", lambda state: task("arrive", state))
    builder.add_edge(START, "plan")
    builder.add_conditional_edges("plan", leave, ["see"])
    builder.add_edge("see", "check")
    builder.add_edge("check", "arrive")
    return builder


# -- what a user does with it --------------------------------------------------------------------


def next_move(history: list[StateSnapshot]) -> Any:
    """What is to be done next: an input to invoke with, a state to fork from, or END."""
    if not history:
        return {"way": FIRST, "done": []}
    newest = history[0]
    if newest.interrupts:
        return Command(resume="yes")
    if newest.next:
        return None
    if not any(state.metadata["source"] == "update" for state in history):
        return next(state for state in history if state.next == ("check",))
    return newest


def run(graph: Pregel[Any, Any, Any, Any]) -> list[StateSnapshot]:
    """Go on from wherever the thread is, to the end; returns the history."""
    while True:
        history = list(graph.get_state_history(CONFIG))
        move = next_move(history)
        if not isinstance(move, StateSnapshot):
            graph.invoke(move, CONFIG, durability="sync")
        elif move is history[0]:
            return history
        else:
            graph.update_state(move.config, {"way": SECOND}, as_node="see")


async def run_async(graph: Pregel[Any, Any, Any, Any]) -> list[StateSnapshot]:
    """As ``run``."""
    while True:
        history = [state async for state in graph.aget_state_history(CONFIG)]
        move = next_move(history)
        if not isinstance(move, StateSnapshot):
            await graph.ainvoke(move, CONFIG, durability="sync")
        elif move is history[0]:
            return history
        else:
            await graph.aupdate_state(move.config, {"way": SECOND}, as_node="see")


def found_in(checkpoint: CheckpointTuple) -> tuple[str, str]:
    """A checkpoint that was found, and its digest."""
    own = checkpoint.config["configurable"]
    digest = _digest(checkpoint.checkpoint, checkpoint.metadata["step"])
    return f"{own['checkpoint_ns']} {own['checkpoint_id']}", digest


async def live_async(path: str, teller: Teller) -> None:
    async with TellingSaver.from_conn_string(path) as saver:
        saver.teller = teller
        history = await run_async(build(teller).compile(checkpointer=saver))
        found = dict([found_in(each) async for each in saver.alist(CONFIG)])
    teller.say("end", traces.told([history[0].values, history]), found)


def live_sync(path: str, teller: Teller) -> None:
    with TellingSaver(path) as saver:
        saver.teller = teller
        history = run(build(teller).compile(checkpointer=saver))
        found = dict(map(found_in, saver.list(CONFIG)))
    teller.say("end", traces.told([history[0].values, history]), found)


def live(pipe: Connection, directory: str, asynchronous: bool) -> None:
    """All of a process's life."""
    teller = Teller(pipe, os.path.join(directory, "effects"))
    path = os.path.join(directory, "agent.walkv")
    try:
        if asynchronous:
            asyncio.run(live_async(path, teller))
        else:
            live_sync(path, teller)
    except BaseException:
        teller.say("error", traceback.format_exc())
        raise
