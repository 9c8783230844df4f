"""An agent that may be killed at any moment, and that goes on where it was when started again.

    python examples/langgraph_agent.py [DIRECTORY]

It answers letters. Each letter is a thread of a LangGraph graph: a model decides, tools act, and to
pay money back somebody has to approve. What it learns from one letter it remembers for the next.
All of that is kept in DIRECTORY/agent.walkv. Press Ctrl-C, or kill -9 it, wherever you like.

The model here is a script, so that no key is needed; a real one goes where ``model`` is.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.store.base import BaseStore
from langgraph.types import Command, interrupt

from walkv import AgentStore
from walkv.integrations.langgraph import WalkvSaver, WalkvStore

LETTERS = {
    "letter 1": ("Ada", "kettle", "My kettle leaks."),
    "letter 2": ("Grace", "radio", "The radio hums."),
    "letter 3": ("Ada", "lamp", "Now the lamp is broken!"),
}
PRICES = {"kettle": 30, "radio": 80, "lamp": 25}


class Letter(MessagesState):
    customer: str
    thing: str


def build(outbox: Path, pause_seconds: float) -> StateGraph[Any]:
    """The graph: the model and the tools take turns; at the end it remembers."""

    def model(state: Letter, *, store: BaseStore) -> dict[str, Any]:
        """Decide what to do next, from what the tools have said so far."""
        time.sleep(pause_seconds)
        customer, thing = state["customer"], state["thing"]
        results = [each for each in state["messages"] if isinstance(each, ToolMessage)]
        known = store.search(("customers", customer))
        greeting = f"Dear {customer}" + (", again" if known else "")
        if not results:
            name, arguments = "look_up", {"thing": thing}
        elif len(results) == 1:
            name, arguments = "pay_back", {"amount": int(results[0].content)}
        elif len(results) == 2:
            name, arguments = "send", {"text": f"{greeting}: your {thing}: {results[1].content}."}
        else:
            return {"messages": [AIMessage("that is all")]}
        say(f"  model: {name} {arguments}")
        call = {"name": name, "args": arguments, "id": f"call {len(results)}"}
        return {"messages": [AIMessage("", tool_calls=[call])]}

    def tools(state: Letter) -> dict[str, Any]:
        """Do what the model asks for.

        What is cut off in the middle is done again: so a tool does the same the second time.
        """
        call = state["messages"][-1].tool_calls[0]
        if call["name"] == "look_up":
            result = str(PRICES[call["args"]["thing"]])
        elif call["name"] == "pay_back":
            # The run ends here, and goes on from here with an answer: in a minute, or next week.
            agreed = interrupt(f"pay {call['args']['amount']} back to {state['customer']}?") == "y"
            result = "the money is on its way" if agreed else "we are sorry"
        else:
            (outbox / f"{state['customer']} {state['thing']}.txt").write_text(call["args"]["text"])
            result = "sent"
        time.sleep(pause_seconds)
        say(f"  tool:  {result}")
        return {"messages": [ToolMessage(result, tool_call_id=call["id"])]}

    def remember(state: Letter, *, store: BaseStore) -> None:
        store.put(("customers", state["customer"]), state["thing"], {"wrote": state["thing"]})

    builder = StateGraph(Letter)
    builder.add_node("model", model)
    builder.add_node("tools", tools)
    builder.add_node("remember", remember)
    builder.add_edge(START, "model")
    builder.add_conditional_edges(
        "model", lambda state: "tools" if state["messages"][-1].tool_calls else "remember"
    )
    builder.add_edge("tools", "model")
    return builder


def answer(graph: Any, name: str, approve: str | None) -> None:
    """Take a letter from wherever it is to its end."""
    customer, thing, text = LETTERS[name]
    config = {"configurable": {"thread_id": name}}
    state = graph.get_state(config)
    if state.metadata is None:
        say(f"{name}: new, from {customer}")
        start: Any = {"messages": [HumanMessage(text)], "customer": customer, "thing": thing}
    elif state.next:
        kept = len(state.values.get("messages", []))
        say(f"{name}: RESUMED before {state.next[0]!r}, with {kept} messages that were kept")
        start = None
    else:
        say(f"{name}: was answered before")
        return
    if not state.interrupts:
        # "sync": a step is on disk before the next one begins.
        graph.invoke(start, config, durability="sync")
    while asked := graph.get_state(config).interrupts:
        given = approve or input(f"  {asked[0].value} [y/n] ")
        say(f"  {asked[0].value} {given}")
        graph.invoke(Command(resume=given), config, durability="sync")
    say(f"{name}: answered")


def say(text: str) -> None:
    print(text, flush=True)  # noqa: T201  # this is what it is for


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    kept = "where everything is kept (default: agent); another one starts anew"
    parser.add_argument("directory", nargs="?", type=Path, default=Path("agent"), help=kept)
    parser.add_argument("--pause", type=float, default=0.5, help="seconds each step takes (0.5)")
    parser.add_argument("--approve", choices=["y", "n"], help="answer so, instead of asking you")
    options = parser.parse_args()
    outbox = options.directory / "outbox"
    outbox.mkdir(parents=True, exist_ok=True)
    path = options.directory / "agent.walkv"
    with AgentStore(path) as agent, WalkvSaver(agent) as saver, WalkvStore(agent) as store:
        graph = build(outbox, options.pause).compile(checkpointer=saver, store=store)
        for name in LETTERS:
            answer(graph, name, options.approve)
        used = saver.usage()
    size_bytes = sum(each.stat().st_size for each in path.rglob("*") if each.is_file())
    say(
        f"{used.checkpoint_count} checkpoints hold {used.state_bytes:,} bytes of states; "
        f"{used.kept_bytes:,} are kept, and {size_bytes:,} are on disk"
    )


if __name__ == "__main__":
    try:
        main()
    except (KeyboardInterrupt, EOFError):
        say("\nstopped; start me again, and I go on from here")
