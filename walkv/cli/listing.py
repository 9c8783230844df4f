"""What ``walkv show`` shows of each namespace: its columns, and what comes first.

Invariant:
    Every namespace of an ``AgentStore`` has a listing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from walkv.cli import values
from walkv.cli.tables import Column, Record


class Listing(NamedTuple):
    """How the records of one namespace are shown.

    Attributes:
        order: the field by which the newest come first.
        columns: from left to right.
    """

    order: str
    columns: tuple[Column, ...]


def _time(field: str) -> Column:
    return Column(field, f"{field.removesuffix('_at')} (UTC)", values.moment)


def _number(field: str, heading: str = "") -> Column:
    return Column(field, heading, numeric=True)


def _long(field: str, heading: str = "") -> Column:
    return Column(field, heading, long=True)


def _statuses(statuses: Mapping[str, str]) -> str:
    return values.cell(", ".join(f"{role} {status}" for role, status in statuses.items()))


LISTINGS: Final[dict[str, Listing]] = {
    "sessions": Listing(
        "updated_at",
        (
            _time("updated_at"),
            Column("session_id", "session"),
            Column("user_id", "user"),
            Column("status"),
            _number("request_count", "requests"),
            _number("error_count", "errors"),
            _long("metadata"),
        ),
    ),
    "messages": Listing(
        "created_at",
        (
            _time("created_at"),
            Column("session_id", "session"),
            _number("seq"),
            Column("role"),
            _long("content"),
        ),
    ),
    "checkpoints": Listing(
        "created_at",
        (
            _time("created_at"),
            Column("thread_id", "thread"),
            Column("namespace"),
            Column("checkpoint_id", "checkpoint"),
            Column("state_bytes", "state", values.size, numeric=True),
            _long("metadata"),
        ),
    ),
    "task_contexts": Listing(
        "updated_at",
        (
            _time("updated_at"),
            Column("session_id", "session"),
            _number("version"),
            _long("context"),
        ),
    ),
    "contexts": Listing(
        "last_updated",
        (
            _time("last_updated"),
            Column("context_id", "context"),
            Column("workflow_id", "workflow"),
            Column("role"),
            Column("context_type", "type"),
            _long("sections"),
        ),
    ),
    "workflows": Listing(
        "created_at",
        (
            _time("created_at"),
            Column("workflow_id", "workflow"),
            _long("name"),
            Column("status"),
            Column("role_statuses", "roles", _statuses, long=True),
        ),
    ),
    "executions": Listing(
        "started_at",
        (
            _time("started_at"),
            Column("role"),
            Column("call"),
            Column("status"),
            Column("execution_time_seconds", "took", values.seconds, numeric=True),
            _long("details"),
        ),
    ),
    "configurations": Listing(
        "updated_at",
        (
            _time("updated_at"),
            Column("config_type", "type"),
            Column("name"),
            Column("version"),
            Column("is_active", "active"),
            _long("content"),
        ),
    ),
    "settings": Listing(
        "updated_at",
        (_time("updated_at"), Column("key"), _long("value"), _long("description")),
    ),
    "tasks": Listing(
        "created_at",
        (
            _time("created_at"),
            Column("task_id", "task"),
            Column("session_id", "session"),
            Column("status"),
            _long("user_input", "asked"),
        ),
    ),
    "subtasks": Listing(
        "created_at",
        (
            _time("created_at"),
            Column("task_id", "task"),
            _number("subtask_index", "no."),
            Column("status"),
            _long("description"),
        ),
    ),
    "users": Listing(
        "updated_at",
        (
            _time("updated_at"),
            Column("user_id", "user"),
            _long("preferences"),
            _long("api_keys", "API keys"),
            _long("usage_stats", "usage"),
        ),
    ),
    "knowledge_sources": Listing(
        "created_at",
        (
            _time("created_at"),
            Column("source_id", "source"),
            Column("name"),
            Column("source_type", "type"),
            Column("status"),
            _long("path"),
        ),
    ),
}


def with_details(record: Record) -> Record:
    """An execution with what is best said of it in a few words."""
    call = record["tool_name"] or record["action_type"]
    details = record["error_message"] or record["input_data"] or record["output_data"]
    if record["action_type"] == "step":
        call = "step"
        details = record["error_message"] or record["execution_id"].removeprefix("step/")
    return {**record, "call": call, "details": details}


def for_names(names: Iterable[str]) -> tuple[Column, ...]:
    """Columns of records of which no more is known than the names of their fields."""
    return tuple(_long(name) for name in names)
