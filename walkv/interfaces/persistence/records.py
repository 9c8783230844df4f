"""The records of the persistence interface, and how they become records of walkv's namespaces.

Invariants:
    1. From a record to the namespace's and back nothing is lost; a time comes back in UTC.
    2. ``metadata=None`` means no metadata, ``{}``.
    3. A time without a zone is local time, as for Python and for drivers of databases; the
       namespaces below, which refuse it, never see one.

Source: field names, their order and defaults are those of the interface; shared ``None`` defaults
of dictionaries are not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any, ClassVar, Generic, Self, TypeVar

from walkv.errors import CodecError
from walkv.namespaces.configurations import Configuration
from walkv.namespaces.contexts import Context
from walkv.namespaces.executions import Execution
from walkv.namespaces.workflows import Workflow

N = TypeVar("N")


class Record(Generic[N]):
    """What the four records have in common.

    Attributes:
        namespace: where they are kept.
    """

    namespace: ClassVar[str]
    _stored_type: ClassVar[type[Any]]
    _stored_names: ClassVar[Mapping[str, str]] = {}
    _only_stored: ClassVar[Mapping[str, Any]] = {}
    __dataclass_fields__: ClassVar[dict[str, Any]]
    metadata: dict[str, Any] | None

    def __post_init__(self) -> None:
        if self.metadata is None:
            self.metadata = {}

    def to_stored(self) -> N:
        """The namespace's record; what it may hold is checked when it is written.

        Raises:
            CodecError: a time that is out of range.
        """
        made: N = self._stored_type(**self._only_stored, **self.stored_values())
        return made

    def stored_values(self) -> dict[str, Any]:
        """The values of all fields, by the names they have in the namespace."""
        return self.changes({each.name: getattr(self, each.name) for each in fields(self)})

    @classmethod
    def from_stored(cls, stored: N) -> Self:
        """The record of a namespace's record."""
        names = cls._stored_names
        made = {each.name: getattr(stored, names.get(each.name, each.name)) for each in fields(cls)}
        return cls(**made)

    @classmethod
    def changes(cls, updates: Mapping[str, Any]) -> dict[str, Any]:
        """Changes of this record's fields as changes of the namespace's.

        Raises:
            CodecError: there is no such field, or a time that is out of range.
        """
        made = {}
        for name, value in updates.items():
            if name not in cls.__dataclass_fields__:
                known = ", ".join(each.name for each in fields(cls))
                raise CodecError(
                    f"{cls.namespace}.{name}: there is no such field; there are {known}",
                    namespace=cls.namespace,
                    field=name,
                )
            if name == "metadata" and value is None:
                value = {}
            elif isinstance(value, datetime):
                value = in_utc(value, cls.namespace, name)
            made[cls._stored_names.get(name, name)] = value
        return made


def in_utc(moment: datetime, namespace: str, field: str) -> datetime:
    """A time in UTC; one without a zone is local time.

    Raises:
        CodecError: it is out of range there.
    """
    try:
        return moment.astimezone(UTC)
    except (OverflowError, ValueError, OSError) as error:
        raise CodecError(
            f"{namespace}.{field}: the time {moment} is out of range in UTC; give it a time zone",
            namespace=namespace,
            field=field,
        ) from error


@dataclass
class WorkflowRecord(Record[Workflow]):
    """A workflow.

    Attributes:
        status: pending, running, paused, completed, failed or cancelled.
        current_role_index: how many of its roles, from the first on, are over.
        role_statuses, role_results: by role; statuses of roles are your own words.
    """

    workflow_id: str
    execution_id: str
    name: str
    description: str
    status: str
    current_role_index: int
    roles: list[str]
    role_statuses: dict[str, str]
    role_results: dict[str, Any]
    created_at: datetime
    started_at: datetime | None = None
    completed_at: datetime | None = None
    created_by: str = ""
    metadata: dict[str, Any] | None = None
    error_info: str | None = None

    namespace = "workflows"
    _stored_type = Workflow


@dataclass
class ContextRecord(Record[Context]):
    """The context of a role in a workflow.

    Attributes:
        context_type: isolated, compressed or handoff.
    """

    context_id: str
    workflow_id: str
    role: str
    context_type: str
    sections: dict[str, Any]
    created_at: datetime
    last_updated: datetime
    compressed_content: str | None = None
    compression_ratio: float | None = None
    metadata: dict[str, Any] | None = None

    namespace = "contexts"
    _stored_type = Context


@dataclass
class ExecutionRecord(Record[Execution]):
    """What a role or a tool did.

    One that was noted through walkv's own interface may have no workflow (None), and something else
    than a dictionary as its input and output.

    Attributes:
        action_type: role_execution, tool_call, handoff, error; or step, see ``Executions.once``.
        status: running, success, failed or cancelled.
        execution_time: in seconds.
    """

    execution_id: str
    workflow_id: str
    role: str
    tool_name: str | None
    action_type: str
    input_data: dict[str, Any]
    output_data: dict[str, Any]
    status: str
    started_at: datetime
    completed_at: datetime | None = None
    execution_time: float | None = None
    error_message: str | None = None
    metadata: dict[str, Any] | None = None

    namespace = "executions"
    _stored_type = Execution
    _stored_names: ClassVar[Mapping[str, str]] = {"execution_time": "execution_time_seconds"}
    _only_stored: ClassVar[Mapping[str, Any]] = {"task_id": None}


@dataclass
class ConfigurationRecord(Record[Configuration]):
    """A version of a configuration.

    Attributes:
        config_type: role_config, system_config or user_config.
        is_active: whether it is the one in force for its type and name.
    """

    config_id: str
    config_type: str
    name: str
    content: dict[str, Any]
    version: str
    created_at: datetime
    updated_at: datetime
    created_by: str
    is_active: bool = True
    metadata: dict[str, Any] | None = None

    namespace = "configurations"
    _stored_type = Configuration
