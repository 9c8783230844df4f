"""The work on an `AgentStore`."""

from pathlib import Path
from typing import Any, ClassVar

import walkv
from benchmarks.agent.sides import Append, Guarantee

POLICIES: dict[Guarantee, walkv.Wal | walkv.WriteBack] = {
    "durable": walkv.Wal(),
    "process": walkv.WriteBack(),
}


class WalkvSide:
    """An agent's store; `guarantee` is what every commit survives."""

    configuration: ClassVar[str] = (
        "AgentStore, the same policy for every namespace; durable: Wal(); process: WriteBack(); "
        "one store for all threads"
    )

    def __init__(self, directory: Path, guarantee: Guarantee) -> None:
        policy = POLICIES[guarantee]
        names = ("sessions", "messages", "checkpoints", "executions")
        self.path = directory / "agent.walkv"
        self.agent = walkv.AgentStore(self.path, sync=policy, policies=dict.fromkeys(names, policy))

    @staticmethod
    def version() -> str:
        return walkv.__version__

    def appender(self) -> Append:
        """The same for every thread."""
        return self.append

    def fill_messages(self, session_id: str, messages: list[dict[str, Any]]) -> None:
        """Many messages of one session, as bulk."""
        for at in range(0, len(messages), 1000):
            self.agent.messages.append_many(
                session_id, messages[at : at + 1000], sync=walkv.WriteBack()
            )

    def append(self, session_id: str, message: dict[str, Any]) -> None:
        """One message, one commit."""
        self.agent.messages.append(session_id, **message)

    def last(self, session_id: str, limit: int) -> int:
        """The newest messages; returns how many there were."""
        return len(self.agent.messages.history(session_id, limit))

    def create_session(self, session_id: str) -> None:
        """A session."""
        self.agent.sessions.create(session_id, user_id="ada", metadata={"plan": "pro"})

    def update_session(self, session_id: str) -> None:
        """Count a request and its time, in one commit."""
        self.agent.sessions.update(session_id, increment_requests=True, add_processing_time=0.25)

    def put_checkpoint(self, thread_id: str, checkpoint_id: str, state: Any) -> None:
        """A state, in one commit."""
        self.agent.checkpoints.put(thread_id, checkpoint_id, state, metadata={"source": "loop"})

    def checkpoint(self, thread_id: str, checkpoint_id: str | None) -> Any:
        """A state, the latest without an id."""
        found = self.agent.checkpoints.get(thread_id, checkpoint_id)
        assert found is not None
        return found.data

    def checkpoints(self, thread_id: str, limit: int) -> int:
        """The newest states with their metadata; returns how many there were."""
        return len(self.agent.checkpoints.list(thread_id, limit))

    def fill_executions(self, executions: list[dict[str, Any]]) -> None:
        """Many executions, as bulk."""
        for at in range(0, len(executions), 500):
            with self.agent.batch(sync=walkv.WriteBack()):
                for execution in executions[at : at + 500]:
                    self.agent.executions.log(**execution)

    def log_execution(self, execution: dict[str, Any]) -> None:
        """One execution, one commit."""
        self.agent.executions.log(**execution)

    def list_executions(self, role: str, status: str, limit: int) -> int:
        """The newest of a role and status; returns how many there were."""
        return len(self.agent.executions.list_by_role(role, status, limit))  # type: ignore[arg-type]

    def compact(self) -> None:
        """Make one snapshot of the store."""
        self.agent.store.compact()

    def close(self) -> None:
        """Close the store."""
        self.agent.close()
