"""Who takes part, and what each is asked to do.

*Invariants*

1. Rows compare sides that are called in one way: from threads, or awaited by tasks.
2. A side gives the guarantee that it is opened with, or refuses to open: ``durable`` survives
   power loss, ``process`` the death of the process.
3. Modules of sides are imported where they are used: a package that is not installed costs the
   other sides nothing.
"""

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

Guarantee = Literal["durable", "process"]
Calling = Literal["threads", "tasks"]
Record = dict[str, Any]
Append = Callable[[str, Record], None]

# Module and class by name.
_CLASSES: dict[Calling, dict[str, tuple[str, str]]] = {
    "threads": {
        "walkv": ("walkv_side", "WalkvSide"),
        "sqlite": ("sqlite_side", "SqliteSide"),
    },
    "tasks": {
        "walkv": ("walkv_tasks", "WalkvTasks"),
        "openai-agents": ("openai_side", "OpenaiSide"),
        "agentfs": ("agentfs_side", "AgentfsSide"),
    },
}
_PACKAGES = {"openai-agents": "openai-agents", "agentfs": "agentfs-sdk"}
NAMES: tuple[str, ...] = tuple(dict.fromkeys(name for of in _CLASSES.values() for name in of))


def callings(name: str) -> list[Calling]:
    """How a side can be called."""
    return [calling for calling, of in _CLASSES.items() if name in of]


def side_class(calling: Calling, name: str) -> Any:
    """The class of a side.

    Raises:
        ImportError: its package is not installed.
    """
    module, kind = _CLASSES[calling][name]
    try:
        return getattr(importlib.import_module(f"benchmarks.agent.{module}"), kind)
    except ImportError as error:
        if name not in _PACKAGES:
            raise
        package = _PACKAGES[name]
        raise ImportError(f"pip install {package} to measure it ({error})") from error


class ThreadSide(Protocol):
    """A store of an agent, called from threads. A side is made of an empty directory, or of one
    that it was closed in."""

    configuration: ClassVar[str]

    def __init__(self, directory: Path, guarantee: Guarantee) -> None: ...

    @staticmethod
    def version() -> str: ...

    def appender(self) -> Append:
        """``append`` as one more thread calls it while others do."""

    def fill_messages(self, session_id: str, messages: list[Record]) -> None:
        """Many messages of one session, as bulk."""

    def append(self, session_id: str, message: Record) -> None:
        """One message, one commit."""

    def last(self, session_id: str, limit: int) -> int:
        """The newest messages as records, oldest first; returns how many there were."""

    def create_session(self, session_id: str) -> None: ...

    def update_session(self, session_id: str) -> None:
        """Count a request and its time, in one commit."""

    def put_checkpoint(self, thread_id: str, checkpoint_id: str, state: Any) -> None:
        """A state, in one commit."""

    def checkpoint(self, thread_id: str, checkpoint_id: str | None) -> Any:
        """A state, the latest without an id."""

    def checkpoints(self, thread_id: str, limit: int) -> int:
        """The newest states with their metadata; returns how many there were."""

    def fill_executions(self, executions: list[Record]) -> None:
        """Many executions, as bulk."""

    def log_execution(self, execution: Record) -> None:
        """One execution, one commit."""

    def list_executions(self, role: str, status: str, limit: int) -> int:
        """The newest of a role and status as records; returns how many there were."""

    def compact(self) -> None:
        """Rewrite the store into its best ordered form, and leave nothing to do behind."""

    def close(self) -> None: ...


class TaskSide(Protocol):
    """A store whose calls are awaited. Made by ``open``; a side has the methods of the parts that
    it takes part in, which are those of the three protocols below."""

    configuration: ClassVar[str]

    @classmethod
    async def open(cls, directory: Path, guarantee: Guarantee) -> "TaskSide": ...

    @staticmethod
    def version() -> str: ...

    async def close(self) -> None: ...


class Conversations(TaskSide, Protocol):
    """Keeps the items of conversations: mappings with ``role`` and ``content``."""

    async def add(self, session_id: str, items: Sequence[Record]) -> None:
        """Items at the end of a conversation, in one commit."""

    async def last(self, session_id: str, limit: int) -> int:
        """The newest items, oldest first; returns how many there were."""


class ToolCalls(TaskSide, Protocol):
    """Keeps a record of tool calls."""

    async def call_tool(self, execution: Record) -> None:
        """Note that a call begins, in one commit, and how it ended, in another."""

    async def log_call(self, execution: Record) -> None:
        """Note a call that is over, in one commit."""

    async def list_calls(self, tool_name: str, limit: int) -> int:
        """The newest calls of a tool as records; returns how many there were."""


class Values(TaskSide, Protocol):
    """Keeps plain values by key."""

    async def set_value(self, key: str, value: Any) -> None: ...

    async def value(self, key: str) -> Any: ...
