"""The work of tasks on an `AsyncAgentStore`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import walkv
from benchmarks.agent.sides import Guarantee, Record
from benchmarks.agent.walkv_side import POLICIES


class WalkvTasks:
    """An agent's store, for one event loop."""

    configuration: ClassVar[str] = "AsyncAgentStore; Wal() for every namespace"

    def __init__(self, agent: walkv.AsyncAgentStore) -> None:
        self.agent = agent

    @classmethod
    async def open(cls, directory: Path, guarantee: Guarantee) -> Self:
        policy = POLICIES[guarantee]
        names = ("messages", "executions", "configurations")
        policies = dict.fromkeys(names, policy)
        path = directory / "agent.walkv"
        return cls(await walkv.AsyncAgentStore.open(path, sync=policy, policies=policies))

    @staticmethod
    def version() -> str:
        return walkv.__version__

    async def add(self, session_id: str, items: Sequence[Record]) -> None:
        if len(items) == 1:
            item = items[0]
            await self.agent.messages.append(session_id, role=item["role"], content=item["content"])
        else:
            await self.agent.messages.append_many(session_id, items)

    async def last(self, session_id: str, limit: int) -> int:
        return len(await self.agent.messages.history(session_id, limit))

    async def call_tool(self, execution: Record) -> None:
        begun = await self.agent.executions.start(
            tool_name=execution["tool_name"], input_data=execution["input_data"]
        )
        await self.agent.executions.finish(begun.execution_id, execution["output_data"])

    async def log_call(self, execution: Record) -> None:
        await self.agent.executions.log(
            tool_name=execution["tool_name"],
            input_data=execution["input_data"],
            output_data=execution["output_data"],
            execution_time_seconds=execution["execution_time_seconds"],
        )

    async def list_calls(self, tool_name: str, limit: int) -> int:
        return len(await self.agent.executions.list(tool_name=tool_name, limit=limit))

    async def set_value(self, key: str, value: Any) -> None:
        await self.agent.configurations.set(key, value)

    async def value(self, key: str) -> Any:
        return await self.agent.configurations.setting(key)

    async def close(self) -> None:
        await self.agent.close()
