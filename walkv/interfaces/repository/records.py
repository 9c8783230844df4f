"""The records of conversations, and what a record type says of how it is kept.

A record type is a dataclass. Fields say with ``metadata`` what a column would:

    auto_now: True        the time of every ``add`` and ``update``
    auto_now_add: True    the time of the ``add``, unless a value is given
    max_length: n         at most so many characters

and an inner class ``Meta`` says, with ``table`` and ``indexes``, what the namespace is called and
what its records are found by. ``belongs_to`` ties records to a parent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, NamedTuple, TypeVar
from uuid import UUID, uuid4

C = TypeVar("C", bound=type)


class Child(NamedTuple):
    """Records that go when their parent goes.

    Attributes:
        entity: their type.
        by: the field that holds the parent's id.
    """

    entity: type
    by: str


_children: Final[dict[type, list[Child]]] = {}
_parents: Final[dict[type, dict[str, type]]] = {}


def belongs_to(parent: type, by: str) -> Callable[[C], C]:
    """A class decorator: records of this type belong to a record of another one.

    A record is added only where its parent is (else ``RecordNotFoundError``), and deleted with it,
    in the same commit. To be said before repositories of either type are used.

    Args:
        parent: the other record type.
        by: the field that holds the parent's id; None there means that there is no parent.
    """

    def declare(entity: C) -> C:
        _children.setdefault(parent, []).append(Child(entity, by))
        _parents.setdefault(entity, {})[by] = parent
        return entity

    return declare


def children_of(entity: type) -> tuple[Child, ...]:
    """What belongs to records of a type."""
    return tuple(_children.get(entity, ()))


def parents_of(entity: type) -> dict[str, type]:
    """What records of a type belong to, by field."""
    return dict(_parents.get(entity, {}))


@dataclass(kw_only=True)
class AgentConversation:
    """A conversation.

    Attributes:
        id: a UUID, also given as its text; made up if there is none.
        created_at, updated_at: set by the repository.
    """

    id: UUID = field(default_factory=uuid4)
    title: str | None = field(default=None, metadata={"max_length": 255})
    metadata_: dict[str, Any] | None = None
    created_at: datetime | None = field(default=None, metadata={"auto_now_add": True})
    updated_at: datetime | None = field(default=None, metadata={"auto_now": True})

    class Meta:
        """How conversations are kept."""

        table = "agent_conversations"

    def __post_init__(self) -> None:
        self.id = _as_uuid(self.id)


@belongs_to(AgentConversation, by="conversation_id")
@dataclass(kw_only=True)
class AgentMessage:
    """A message of a conversation.

    Attributes:
        id, conversation_id: UUIDs, also given as their text; an id is made up if there is none.
        created_at: set by the repository.
    """

    id: UUID = field(default_factory=uuid4)
    conversation_id: UUID
    role: str = field(metadata={"max_length": 50})
    content: str
    metadata_: dict[str, Any] | None = None
    created_at: datetime | None = field(default=None, metadata={"auto_now_add": True})

    class Meta:
        """How messages are kept."""

        table = "agent_messages"

    def __post_init__(self) -> None:
        self.id = _as_uuid(self.id)
        self.conversation_id = _as_uuid(self.conversation_id)


def _as_uuid(value: UUID | str) -> UUID:
    return UUID(value) if isinstance(value, str) else value
