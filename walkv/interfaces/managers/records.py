"""The managers of settings, users, knowledge sources and tool logs."""

from __future__ import annotations

from typing import Any, Final, cast

from walkv.errors import CodecError, RecordNotFoundError
from walkv.interfaces.managers.database import DatabaseManager
from walkv.namespaces.executions import Execution, ExecutionStatus
from walkv.namespaces.knowledge import KnowledgeSource, SourceStatus
from walkv.namespaces.query import Query
from walkv.namespaces.schema import MASK

Row = dict[str, Any]


def number_of(key: str) -> int | str:
    """The number that a record's key stands for; the key itself, if none was given to it."""
    return int(key) if key.isascii() and key.isdigit() and key == str(int(key)) else key


class ConfigManager:
    """Plain settings: text by key. Missing defaults are set when it is made, and no others."""

    DEFAULTS: Final = {
        "llm_model": "openai/gpt-4o",
        "llm_temperature": "0.7",
        "llm_max_tokens": "4000",
        "rag_enabled": "true",
        "rag_top_k": "5",
        "mcp_server_timeout": "30",
        "max_subtasks": "20",
        "info_gathering_max_rounds": "5",
        "auto_validation": "false",
        "log_level": "INFO",
    }

    def __init__(self, db_manager: DatabaseManager) -> None:
        self.db_manager = db_manager
        self._init_default_config()

    def _init_default_config(self) -> None:
        agent = self.db_manager.agent
        configurations = agent.configurations

        def set_missing() -> None:
            for key, value in self.DEFAULTS.items():
                if not configurations.settings.exists(key):
                    configurations.set(key, value, f"Default {key} configuration")

        if not configurations.all().keys() >= self.DEFAULTS.keys():
            agent.transact(set_missing)

    def set_config(self, key: str, value: str, description: str = "") -> None:
        """Set a setting; a description that is not given stays.

        Raises:
            CodecError: the value is no text; nothing was written.
        """
        if not isinstance(value, str):
            raise CodecError(
                f"settings.value: the value of {key!r} is text, not a {type(value).__name__}",
                namespace="settings",
                field="value",
            )
        self.db_manager.agent.configurations.set(key, value, description or None)

    def get_config(self, key: str, default: str | None = None) -> str | None:
        """The value of a setting, or a default."""
        return cast("str | None", self.db_manager.agent.configurations.setting(key, default))

    def get_all_config(self) -> dict[str, str]:
        """All settings."""
        return self.db_manager.agent.configurations.all()

    def delete_config(self, key: str) -> None:
        """Remove a setting, if it is there. A default comes back when a manager is made anew."""
        self.db_manager.agent.configurations.unset(key)


class UserManager:
    """Users: preferences, secrets and usage."""

    def __init__(self, db_manager: DatabaseManager) -> None:
        self.db_manager = db_manager

    def create_user(
        self,
        user_id: str,
        preferences: dict[str, Any] | None = None,
        api_keys: dict[str, str] | None = None,
    ) -> None:
        """Add a user.

        Raises:
            RecordExistsError: there is one with this id.
        """
        self.db_manager.agent.users.create(user_id, preferences, api_keys)

    def update_user_preferences(self, user_id: str, preferences: dict[str, Any]) -> bool:
        """Replace the preferences of a user; returns whether there is such a user."""
        try:
            self.db_manager.agent.users.update_preferences(user_id, preferences)
        except RecordNotFoundError:
            return False
        return True

    def update_user_api_keys(self, user_id: str, api_keys: dict[str, str]) -> bool:
        """Replace the keys of a user; returns whether there is such a user."""
        try:
            self.db_manager.agent.users.update_api_keys(user_id, api_keys)
        except RecordNotFoundError:
            return False
        return True

    def update_usage_stats(self, user_id: str, task_count: int = 0, tokens: int = 0) -> bool:
        """Add to the usage of a user, exactly, however many do; returns whether there is one."""
        try:
            self.db_manager.agent.users.add_usage(user_id, task_count, tokens)
        except RecordNotFoundError:
            return False
        return True

    def get_user_preferences(self, user_id: str) -> dict[str, Any]:
        """The preferences of a user; {} if there is no such user."""
        user = self.db_manager.agent.users.get(user_id)
        return {} if user is None else user.preferences

    def get_user_api_keys(self, user_id: str) -> dict[str, str]:
        """The keys of a user, in clear; {} if there is no such user."""
        user = self.db_manager.agent.users.get(user_id)
        return {} if user is None else user.api_keys

    def get_user_stats(self, user_id: str) -> dict[str, int]:
        """``task_count`` and ``total_tokens`` of a user; {} if there is no such user."""
        user = self.db_manager.agent.users.get(user_id)
        return {} if user is None else user.usage_stats

    def get_user_info(self, user_id: str, *, secrets: bool = False) -> Row:
        """Everything about a user; {} if there is no such user.

        Args:
            secrets: give the keys in clear; else their names only.
        """
        user = self.db_manager.agent.users.get(user_id)
        if user is None:
            return {}
        keys = user.api_keys if secrets else dict.fromkeys(user.api_keys, MASK)
        return {
            "user_id": user.user_id,
            "preferences": user.preferences,
            "api_keys": keys,
            "usage_stats": user.usage_stats,
            "created_at": user.created_at,
            "updated_at": user.updated_at,
        }


class KnowledgeSourceManager:
    """Knowledge sources, numbered from 1 on."""

    FIELDS: Final = {
        "source_name": "name",
        "source_path": "path",
        "source_type": "source_type",
        "status": "status",
        "metadata": "metadata",
    }
    """What can be updated, and the field of the record that has it."""

    def __init__(self, db_manager: DatabaseManager) -> None:
        self.db_manager = db_manager

    def add_knowledge_source(
        self, name: str, path: str, source_type: str, metadata: dict[str, Any] | None = None
    ) -> int:
        """Add a source; returns its number."""
        number = self.db_manager.take_number("knowledge_sources")
        self.db_manager.agent.knowledge_sources.add(
            name, path, source_type, metadata, source_id=str(number)
        )
        return number

    def update_knowledge_source(self, source_id: int, **kwargs: Any) -> int:
        """Change a source; returns how many were changed, 0 or 1.

        Args:
            kwargs: ``source_name``, ``source_path``, ``source_type``, ``status``, ``metadata``.
        Raises:
            CodecError: there is no such field, or it cannot hold that; nothing was written.
        """
        unknown = set(kwargs) - set(self.FIELDS)
        if unknown:
            raise CodecError(
                f"knowledge_sources.{min(unknown)}: there is no such field; there are "
                f"{', '.join(self.FIELDS)}",
                namespace="knowledge_sources",
                field=min(unknown),
            )
        if not kwargs:
            return 0
        changes = {self.FIELDS[name]: value for name, value in kwargs.items()}
        try:
            self.db_manager.agent.knowledge_sources.update(str(source_id), **changes)
        except RecordNotFoundError:
            return 0
        return 1

    def get_knowledge_source(self, source_id: int) -> Row:
        """A source, also a deleted one; {} if there is none."""
        found = self.db_manager.agent.knowledge_sources.get(str(source_id))
        return {} if found is None else _source_row(found)

    def get_all_knowledge_sources(self, status: str = "active") -> list[Row]:
        """Sources of a status, newest first."""
        sources = self.db_manager.agent.knowledge_sources.list(cast(SourceStatus, status))
        return [_source_row(source) for source in sources]

    def delete_knowledge_source(self, source_id: int) -> int:
        """Mark a source as deleted; returns how many there were, 0 or 1."""
        return self.update_knowledge_source(source_id, status="deleted")


def _source_row(source: KnowledgeSource) -> Row:
    return {
        "source_id": number_of(source.source_id),
        "source_name": source.name,
        "source_path": source.path,
        "source_type": source.source_type,
        "metadata": source.metadata,
        "status": source.status,
        "created_at": source.created_at,
        "updated_at": source.updated_at,
    }


class ToolLogManager:
    """Tool calls, numbered from 1 on: the executions of an agent that are tool calls."""

    def __init__(self, db_manager: DatabaseManager) -> None:
        self.db_manager = db_manager

    def log_tool_call(
        self,
        task_id: int,
        tool_name: str,
        tool_args: dict[str, Any],
        tool_result: dict[str, Any],
        execution_time: float,
        status: str = "success",
        error_message: str | None = None,
    ) -> int:
        """Note a tool call that is over; returns its number.

        Args:
            execution_time: seconds.
            status: ``"success"``, ``"failed"`` or ``"cancelled"``.
        Durability: ``WriteBack()``: it survives a kill at once, a power failure within a second.
        """
        number = self.db_manager.take_number("tool_logs")
        self.db_manager.agent.executions.log(
            tool_name=tool_name,
            input_data=tool_args,
            output_data=tool_result,
            execution_time_seconds=execution_time,
            status=cast(ExecutionStatus, status),
            error_message=error_message,
            task_id=str(task_id),
            execution_id=str(number),
        )
        return number

    def get_tool_logs(
        self, task_id: int | None = None, tool_name: str | None = None, limit: int = 100
    ) -> list[Row]:
        """Tool calls of a task or of a tool, or all, last begun first."""
        query = self._calls(task_id, tool_name).order_by("-started_at").limit(limit)
        return [log_row(each) for each in query.all()]

    def get_tool_stats(self, tool_name: str | None = None) -> Row:
        """Counts, success rate and mean time of calls that are over, of a tool or of all.

        Cost: reads these calls.
        """
        total = success = 0
        seconds = 0.0
        for call in self._calls(None, tool_name).where(status__ne="running"):
            total += 1
            success += call.status == "success"
            seconds += call.execution_time_seconds or 0.0
        return {
            "total_calls": total,
            "success_calls": success,
            "failure_calls": total - success,
            "success_rate": success / total if total else 0,
            "avg_execution_time": seconds / total if total else 0,
        }

    def _calls(self, task_id: int | None, tool_name: str | None) -> Query[Execution]:
        query = self.db_manager.agent.executions.query(action_type="tool_call")
        if task_id:
            query = query.where(task_id=str(task_id))
        if tool_name:
            query = query.where(tool_name=tool_name)
        return query


def log_row(call: Execution) -> Row:
    """An execution as a row of the tool log."""
    return {
        "log_id": number_of(call.execution_id),
        "task_id": None if call.task_id is None else number_of(call.task_id),
        "tool_name": call.tool_name,
        "tool_args": call.input_data,
        "tool_result": call.output_data,
        "execution_time": call.execution_time_seconds,
        "status": call.status,
        "error_message": call.error_message,
        "created_at": call.started_at,
    }
