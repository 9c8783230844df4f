"""The command for two checkpoints of a thread: diff."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple, cast

import click
from rich.text import Text

from walkv import AgentStore
from walkv.cli import output, values
from walkv.cli.options import json_option, store_argument
from walkv.cli.stores import Failure, reading
from walkv.cli.text import one_line
from walkv.namespaces import registry
from walkv.namespaces.keyvalue import Reader
from walkv.ops.comparing import Difference, differences

_GRAPHS: Final = "langgraph_checkpoints"
_NEEDS_LANGGRAPH: Final = (
    "the checkpoints of this thread are LangGraph's: pip install 'walkv[cli,langgraph]'"
)
_SIGNS: Final = {"added": ("+", "green"), "removed": ("-", "red"), "changed": ("~", "yellow")}
_LONGEST: Final = 200


class _Side(NamedTuple):
    """One of the two checkpoints."""

    checkpoint_id: str
    state: Any
    parent_id: str | None


@click.command()
@store_argument
@click.argument("before", metavar="[A]", required=False)
@click.argument("after", metavar="[B]", required=False)
@click.option("--thread", "thread_id", metavar="ID", required=True, help="The thread.")
@click.option(
    "--namespace",
    metavar="NAME",
    default="",
    help="The checkpoint namespace within the thread, of a subgraph.",
)
@json_option
def diff(
    path: str,
    before: str | None,
    after: str | None,
    thread_id: str,
    namespace: str,
    as_json: bool,
) -> None:
    """Show what changed between two checkpoints of a thread.

    A and B are ids of checkpoints, as walkv show checkpoints lists them. Without B it is the latest
    one; without A as well, the one before the latest is compared with it. What was added begins
    with +, what was removed with -, what changed with ~, each with its place in the state.

    Checkpoints that LangGraph keeps are read too, if walkv[langgraph] is installed; their states
    are the values of their channels.

    \b
    Examples:
      walkv diff agent.walkv --thread t1
      walkv diff agent.walkv c1 c2 --thread t1
      walkv diff agent.walkv c1 --thread t1 --json
    """
    with reading(path) as store, AgentStore(store) as agent:
        get = _reader_of(agent, thread_id, namespace)
        new = get(after)
        old = get(new.parent_id if before is None else before)
        if before is None and new.parent_id is None:
            raise Failure(f"checkpoint {new.checkpoint_id} is the first of its thread; name two")
        found = list(differences(old.state, new.state))
    if as_json:
        output.emit_json(
            {
                "before": old.checkpoint_id,
                "after": new.checkpoint_id,
                "differences": [_fields(each) for each in found],
            }
        )
        return
    console = output.console()
    console.print(Text(f"{old.checkpoint_id} -> {new.checkpoint_id}", "bold"))
    for each in found:
        console.print(_line(each))
    if not found:
        output.note("no differences")


def _reader_of(agent: AgentStore, thread_id: str, namespace: str) -> Callable[[str | None], _Side]:
    """What gets a checkpoint by its id, or the latest; of whichever namespace has the thread."""
    get: Callable[[str | None], _Side | None]
    if agent.checkpoints.exists(thread_id, namespace=namespace):

        def get(checkpoint_id: str | None) -> _Side | None:
            return _own(agent, thread_id, namespace, checkpoint_id)

    elif _GRAPHS in registry.read(cast(Reader, agent.store)):
        get = _graph_reader(agent, thread_id, namespace)
    else:
        get = _nothing

    def found(checkpoint_id: str | None) -> _Side:
        side = get(checkpoint_id)
        if side is None:
            what = "no checkpoints" if checkpoint_id is None else f"no checkpoint {checkpoint_id!r}"
            within = f" in its namespace {namespace!r}" if namespace else ""
            raise Failure(f"thread {thread_id!r} has {what}{within}")
        return side

    return found


def _nothing(_: str | None) -> None:
    return None


def _own(
    agent: AgentStore, thread_id: str, namespace: str, checkpoint_id: str | None
) -> _Side | None:
    checkpoint = agent.checkpoints.get(thread_id, checkpoint_id, namespace=namespace)
    if checkpoint is None:
        return None
    parent_id = checkpoint.parent_id
    if parent_id is None:
        # Most do not say which one they follow; then it is the one that was put before.
        previous = agent.checkpoints.list(
            thread_id, 1, checkpoint.checkpoint_id, namespace=namespace, with_data=False
        )
        parent_id = previous[0].checkpoint_id if previous else None
    return _Side(checkpoint.checkpoint_id, checkpoint.data, parent_id)


def _graph_reader(
    agent: AgentStore, thread_id: str, namespace: str
) -> Callable[[str | None], _Side | None]:
    try:
        from walkv.integrations.langgraph import WalkvSaver
    except ImportError as error:
        raise Failure(_NEEDS_LANGGRAPH) from error
    saver = WalkvSaver(agent)

    def get(checkpoint_id: str | None) -> _Side | None:
        place = {"thread_id": thread_id, "checkpoint_ns": namespace}
        if checkpoint_id is not None:
            place["checkpoint_id"] = checkpoint_id
        found = saver.get_tuple({"configurable": place})
        if found is None:
            return None
        parent = found.parent_config
        parent_id = None if parent is None else parent["configurable"]["checkpoint_id"]
        state = _known(found.checkpoint["channel_values"])
        return _Side(found.checkpoint["id"], state, parent_id)

    return get


def _known(value: Any) -> Any:
    """A value without the classes of messages and models: they are mappings of their fields."""
    if hasattr(value, "model_dump"):
        return _known(value.model_dump())
    if isinstance(value, dict):
        return {key: _known(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_known, value)) if type(value) in (list, tuple) else list(value)
    return value


def _fields(found: Difference) -> dict[str, Any]:
    fields: dict[str, Any] = {"path": values.plain(found.path), "kind": found.kind}
    if found.kind != "added":
        fields["before"] = values.plain(found.before)
    if found.kind != "removed":
        fields["after"] = values.plain(found.after)
    return fields


def _line(found: Difference) -> Text:
    sign, style = _SIGNS[found.kind]
    text = Text.assemble((f"{sign} ", style), (_path(found.path), style), "  ")
    if found.kind == "changed":
        return text.append(f"{_value(found.before)} -> {_value(found.after)}")
    return text.append(_value(found.after if found.kind == "added" else found.before))


def _path(path: Iterable[Any]) -> str:
    text = ""
    for step in path:
        if isinstance(step, str):
            text += f".{values.cell(step)}" if text else values.cell(step)
        else:
            text += f"[{values.cell(step)}]"
    return text or "(the whole state)"


def _value(value: Any) -> str:
    text = one_line(json.dumps(values.plain(value), ensure_ascii=False))
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
