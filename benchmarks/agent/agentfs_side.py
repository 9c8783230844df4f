"""Tool calls and values in AgentFS, as that package sets up its Turso database.

A commit waits for an fsync of the write-ahead log (``synchronous`` is FULL): it survives power
loss. AgentFS has no option for less.
"""

import time
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar, Self

from agentfs_sdk import AgentFS, AgentFSOptions

from benchmarks.agent.sides import Guarantee, Record

_FULL = 2


class AgentfsSide:
    """An agent's file system, of which the tool calls and the key-value store are used."""

    configuration: ClassVar[str] = (
        "one AgentFS on one file; its own defaults: journal_mode=WAL, synchronous=FULL"
    )

    def __init__(self, files: AgentFS) -> None:
        self._files = files

    @classmethod
    async def open(cls, directory: Path, guarantee: Guarantee) -> Self:
        files = await AgentFS.open(AgentFSOptions(path=str(directory / "agent.db")))
        cursor = await files.get_database().execute("PRAGMA synchronous")
        row = await cursor.fetchone()
        found = "durable" if row is not None and row[0] >= _FULL else "process"
        if found != guarantee:
            await files.close()
            raise RuntimeError(
                f"AgentFS commits with synchronous={row and row[0]} here and does not give the "
                f"guarantee {guarantee!r}"
            )
        return cls(files)

    @staticmethod
    def version() -> str:
        return f"{metadata.version('agentfs-sdk')} (Turso {metadata.version('pyturso')})"

    async def call_tool(self, execution: Record) -> None:
        number = await self._files.tools.start(execution["tool_name"], execution["input_data"])
        await self._files.tools.success(number, execution["output_data"])

    async def log_call(self, execution: Record) -> None:
        now = int(time.time())
        await self._files.tools.record(
            execution["tool_name"],
            started_at=now,
            completed_at=now,
            parameters=execution["input_data"],
            result=execution["output_data"],
        )

    async def list_calls(self, tool_name: str, limit: int) -> int:
        return len(await self._files.tools.get_by_name(tool_name, limit))

    async def set_value(self, key: str, value: Any) -> None:
        await self._files.kv.set(key, value)

    async def value(self, key: str) -> Any:
        return await self._files.kv.get(key)

    async def close(self) -> None:
        await self._files.close()
