"""The command for records: show."""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any, Final, cast

import click

from walkv import AgentStore, Wal, WriteBack, WriteThrough
from walkv.cli import listing, output, own, values
from walkv.cli.options import json_option, not_empty
from walkv.cli.stores import Failure, reading
from walkv.cli.tables import Column, Record, table
from walkv.cli.text import one_line, path_text
from walkv.namespaces import registry
from walkv.namespaces.base import Namespace
from walkv.namespaces.faces import CLASSES
from walkv.namespaces.keyvalue import Reader
from walkv.namespaces.registry import Entry
from walkv.ops.naming import record_prefix

_NAMESPACES: Final = "namespaces"
_POLICY_NAMES: Final = {WriteThrough: "write-through", Wal: "wal", WriteBack: "write-back"}
_FIELDS: Final = {
    "session": "session_id",
    "thread": "thread_id",
    "workflow": "workflow_id",
    "task": "task_id",
    "user": "user_id",
    "role": "role",
    "status": "status",
    "tool": "tool_name",
}
"""What an option is about."""

_TIMES: Final = ("created_at", "started_at", "updated_at", "last_updated")


@click.command()
@click.argument("what", metavar="[WHAT]", required=False)
@click.argument("path", metavar="STORE", required=False)
@click.option("--session", metavar="ID", help="Only what belongs to this session.")
@click.option("--thread", metavar="ID", help="Only checkpoints of this thread.")
@click.option("--workflow", metavar="ID", help="Only what belongs to this workflow.")
@click.option("--task", metavar="ID", help="Only what belongs to this task.")
@click.option("--user", metavar="ID", help="Only what belongs to this user.")
@click.option("--role", help="Only what this role has done or said.")
@click.option("--status", help="Only what is in this status.")
@click.option("--tool", metavar="NAME", help="Only calls of this tool.")
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    metavar="COUNT",
    help="At most so many records.",
)
@click.option("--secrets", is_flag=True, help="Show API keys and other secrets, too.")
@json_option
def show(
    what: str | None,
    path: str | None,
    limit: int,
    secrets: bool,
    as_json: bool,
    **filters: str | None,
) -> None:
    """List the records of an agent: its namespaces, or what is in one of them.

    WHAT is sessions, messages, checkpoints, task_contexts, contexts, workflows, executions,
    configurations, settings, tasks, subtasks, users, knowledge_sources, or a namespace of your own.
    Without it, all namespaces of the store are listed, with the number of their records and the
    sync policy that they have by default.

    The newest records come first. Of one session, messages are the last ones, in the order of the
    conversation. The table is cut to the window; with --json each record is whole, one a line:
    times are ISO 8601, bytes {"base64": "..."}, and checkpoints have their state. Secrets are
    masked unless --secrets is given.

    \b
    Examples:
      walkv show agent.walkv
      walkv show sessions agent.walkv
      walkv show messages agent.walkv --session s1 --limit 50
      walkv show executions agent.walkv --tool search --status failed
      walkv show checkpoints agent.walkv --thread s1 --json
    """
    if path is None:
        what, path = None, what
    if path is None:
        raise click.UsageError("missing argument 'STORE'")
    not_empty(path)
    if path in CLASSES and not os.path.isdir(path):
        raise click.UsageError(f"the store comes last: walkv show {path} {what or 'STORE'}")
    wanted = {_FIELDS[name]: value for name, value in filters.items() if value is not None}
    with reading(path) as store, AgentStore(store) as agent:
        known = registry.read(cast(Reader, store))
        if what is None or what == _NAMESPACES:
            if wanted:
                raise click.UsageError("these options are for the records of one namespace")
            _show_namespaces(agent, known, path, as_json)
        elif what in CLASSES:
            _check_filters(what, wanted, agent.by_name[what].table.schema.names)
            _show_known(agent, what, wanted, limit, secrets, as_json)
        elif what in known:
            _check_filters(what, wanted, own.names(known[what]))
            _show_own(agent, what, known[what], wanted, limit, secrets, as_json)
        else:
            raise Failure(_no_such_namespace(what, path, known))


def _no_such_namespace(what: str, path: str, known: Iterable[str]) -> str:
    names = sorted({*CLASSES, *known})
    return (
        f"there is no namespace '{one_line(what)}' in {path_text(path)}; there are "
        f"{', '.join(names)}"
    )


def _check_filters(what: str, wanted: Iterable[str], names: Iterable[str]) -> None:
    options = {field: option for option, field in _FIELDS.items()}
    names = set(names)
    for field in wanted:
        if field not in names:
            usable = [f"--{option}" for option, name in _FIELDS.items() if name in names]
            instead = f"use {', '.join(usable)}" if usable else "they are listed as a whole"
            raise click.UsageError(f"{what} have no --{options[field]}; {instead}")


# -- namespaces ------------------------------------------------------------------------------------


def _show_namespaces(agent: AgentStore, known: dict[str, Entry], path: str, as_json: bool) -> None:
    rows = [
        {
            "namespace": name,
            "records": namespace.count(),
            "policy": _POLICY_NAMES.get(type(namespace.sync)),
        }
        for name, namespace in agent.by_name.items()
        if name in known
    ]
    rows += [
        {"namespace": name, "records": agent.store.count(record_prefix(name)), "policy": None}
        for name in known
        if name not in CLASSES
    ]
    if as_json:
        output.emit_lines(map(output.json_bytes, rows))
        return
    if not rows:
        output.note(f"{path_text(path)} has no records of an agent; for its keys: walkv scan")
        return
    columns = (
        Column("namespace"),
        Column("records", numeric=True),
        Column("policy"),
    )
    output.console().print(table(columns, rows))


# -- records ---------------------------------------------------------------------------------------


def _show_known(
    agent: AgentStore, what: str, wanted: Record, limit: int, secrets: bool, as_json: bool
) -> None:
    namespace, shown = agent.by_name[what], listing.LISTINGS[what]
    conversation = what == "messages" and "session_id" in wanted
    order = "-seq" if conversation else f"-{shown.order}"
    found = namespace.query(**wanted).order_by(order).limit(limit + 1).all()
    more = len(found) > limit
    found = found[:limit]
    if conversation:
        found.reverse()
    if as_json:
        output.emit_lines(map(output.json_bytes, _whole(agent, namespace, found, secrets)))
    else:
        as_dict = namespace.table.schema.as_dict
        records: Iterable[Record] = [as_dict(record, secrets=secrets) for record in found]
        if what == "executions":
            records = map(listing.with_details, records)
        columns = [column for column in shown.columns if column.field not in wanted]
        _print(what, columns, list(records))
    _note_more(more, limit)


def _whole(
    agent: AgentStore, namespace: Namespace[Any], found: list[Any], secrets: bool
) -> Iterator[Any]:
    """Records with everything that belongs to them, for a program."""
    for record in found:
        if namespace is not agent.checkpoints:
            yield values.plain(namespace.table.schema.as_dict(record, secrets=secrets))
            continue
        place = {"namespace": record.namespace}
        checkpoint = agent.checkpoints.get(record.thread_id, record.checkpoint_id, **place)
        writes = agent.checkpoints.get_writes(record.thread_id, record.checkpoint_id, **place)
        assert checkpoint is not None, "the store that is read does not change"
        names = type(checkpoint).__dataclass_fields__
        fields = {name: getattr(checkpoint, name) for name in names}
        fields["pending_writes"] = [write._asdict() for write in writes]
        yield values.plain(fields)


def _show_own(
    agent: AgentStore,
    what: str,
    entry: Entry,
    wanted: Record,
    limit: int,
    secrets: bool,
    as_json: bool,
) -> None:
    names = own.names(entry)
    matching = (
        record
        for record in own.records(agent.store, what, entry, secrets)
        if all(record.get(field) == value for field, value in wanted.items())
    )
    time = next((name for name in _TIMES if name in names), None)
    found = _first(matching, time, limit + 1)
    if as_json:
        output.emit_lines(output.json_bytes(values.plain(record)) for record in found[:limit])
    else:
        columns = [column for column in listing.for_names(names) if column.field not in wanted]
        _print(what, columns, found[:limit])
    _note_more(len(found) > limit, limit)


def _first(records: Iterator[Record], time: str | None, count: int) -> list[Record]:
    """The newest records, where they have a time; else the first ones by key."""
    if time is None:
        return [record for record, _ in zip(records, range(count), strict=False)]

    def moment(record: Record) -> float:
        found = record.get(time)
        return found.timestamp() if isinstance(found, datetime) else 0.0

    return heapq.nlargest(count, records, key=moment)


def _print(what: str, columns: Iterable[Column], records: list[Record]) -> None:
    if records:
        output.console().print(table(columns, records))
    else:
        output.note(f"no {what}")


def _note_more(more: bool, limit: int) -> None:
    if more:
        output.note(f"there are more than these {limit:,}; --limit sets how many are shown")
