"""Repositories of plain dataclasses, and checkpoints by key, for services that await them.

    from walkv.interfaces.repository import AgentConversation, WalkvRepository

    repository = WalkvRepository(AgentConversation, path="agent.walkv")
    conversation = await repository.add(AgentConversation(title="Plans"))
    conversation.title = "Better plans"
    await repository.update(conversation)

``protocols`` is what a service depends on, ``records`` the records that come with it and how to
declare others, ``config`` where the store is, ``connection`` how it is opened and shared,
``stored`` what an entity becomes in the store, ``repository`` and ``checkpoint`` walkv's own.

Source: the persistence layer of yai-nexus-agentkit, whose names, arguments, defaults and results
these are. Its object mapper and its PostgreSQL server have no counterpart.
"""

from walkv.interfaces.repository.checkpoint import WalkvCheckpoint
from walkv.interfaces.repository.config import ConfigError, StoreConfig
from walkv.interfaces.repository.protocols import BaseCheckpoint, BaseRepository
from walkv.interfaces.repository.records import AgentConversation, AgentMessage, belongs_to
from walkv.interfaces.repository.repository import WalkvRepository

__all__ = [
    "AgentConversation",
    "AgentMessage",
    "BaseCheckpoint",
    "BaseRepository",
    "ConfigError",
    "StoreConfig",
    "WalkvCheckpoint",
    "WalkvRepository",
    "belongs_to",
]
