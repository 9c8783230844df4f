"""Messages from a seed, the graph that talks, and threads that are put step by step."""

import random
import string
import uuid
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, TypedDict

from langchain_core.messages import AIMessage, AnyMessage, BaseMessage, HumanMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver, Checkpoint, CheckpointMetadata
from langgraph.checkpoint.base.id import uuid6
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages

VOCABULARY = 5_000


def messages(seed: int, size_bytes: int, count: int) -> list[BaseMessage]:
    """A human's and an assistant's messages in turn: made-up words, ids of UUIDs."""
    rng = random.Random(seed)
    words = [
        "".join(rng.choices(string.ascii_lowercase, k=rng.randint(2, 10)))
        for _ in range(VOCABULARY)
    ]
    made: list[BaseMessage] = []
    for number in range(count):
        kind = AIMessage if number % 2 else HumanMessage
        text = " ".join(rng.choices(words, k=size_bytes // 3 + 1))[:size_bytes]
        made.append(kind(text, id=str(uuid.UUID(int=rng.getrandbits(128), version=4))))
    return made


class State(TypedDict):
    """A conversation."""

    messages: Annotated[list[AnyMessage], add_messages]


def thread(thread_id: str, checkpoint_id: str | None = None) -> RunnableConfig:
    """The config of a thread, or of one of its checkpoints."""
    named = {} if checkpoint_id is None else {"checkpoint_id": checkpoint_id}
    return {"configurable": {"thread_id": thread_id, "checkpoint_ns": "", **named}}


class Talk:
    """A graph of one node that answers each message with the next one there is.

    Args:
        tasks: whether the node is a coroutine.
    """

    def __init__(
        self, saver: BaseCheckpointSaver[Any], said: Iterator[BaseMessage], *, tasks: bool = False
    ) -> None:
        self._said = said
        graph = StateGraph(State)
        graph.add_node("bot", self._areply if tasks else self._reply)
        graph.add_edge(START, "bot")
        graph.add_edge("bot", END)
        self._graph: Any = graph.compile(checkpointer=saver)

    def _reply(self, state: State) -> dict[str, Any]:
        return {"messages": [next(self._said)]}

    async def _areply(self, state: State) -> dict[str, Any]:
        return self._reply(state)

    def turn(self, thread_id: str, durability: str) -> None:
        """A message and its answer."""
        said = {"messages": [next(self._said)]}
        self._graph.invoke(said, thread(thread_id), durability=durability)

    async def aturn(self, thread_id: str, durability: str) -> None:
        """As `turn`, for tasks."""
        said = {"messages": [next(self._said)]}
        await self._graph.ainvoke(said, thread(thread_id), durability=durability)


class Steps:
    """A conversation as a graph puts it, a message and a checkpoint a step, without the graph."""

    def __init__(self, saver: BaseCheckpointSaver[Any], thread_id: str) -> None:
        self.saver = saver
        self.config = thread(thread_id)
        self._messages: list[BaseMessage] = []
        self._version: Any = None
        self._step = -1

    def _next(self, message: BaseMessage) -> tuple[Checkpoint, CheckpointMetadata, dict[str, Any]]:
        self._messages = [*self._messages, message]
        self._version = self.saver.get_next_version(self._version, None)
        self._step += 1
        versions = {"messages": self._version}
        checkpoint: Any = {
            "v": 4,
            "id": str(uuid6(clock_seq=self._step)),
            "ts": "2026-01-01T00:00:00.000000+00:00",
            "channel_values": {"messages": self._messages},
            "channel_versions": versions,
            "versions_seen": {"__input__": {}, "bot": versions},
            "updated_channels": ["messages"],
        }
        return checkpoint, {"source": "loop", "step": self._step, "parents": {}}, versions

    def begin(self, message: BaseMessage) -> None:
        """The first checkpoint, which nothing was written for."""
        self.config = self.saver.put(self.config, *self._next(message))

    def step(self, message: BaseMessage) -> None:
        """What a node has written, and the checkpoint that takes it in."""
        self.saver.put_writes(self.config, [("messages", [message])], str(uuid.uuid4()))
        self.config = self.saver.put(self.config, *self._next(message))

    async def abegin(self, message: BaseMessage, earlier: Sequence[BaseMessage] = ()) -> None:
        """As `begin`, for tasks; of a conversation that has gone on elsewhere."""
        self._messages = [*earlier]
        self.config = await self.saver.aput(self.config, *self._next(message))

    async def astep(self, message: BaseMessage) -> None:
        """As `step`, for tasks."""
        await self.saver.aput_writes(self.config, [("messages", [message])], str(uuid.uuid4()))
        self.config = await self.saver.aput(self.config, *self._next(message))
