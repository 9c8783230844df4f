"""One face's set of the namespaces, and how a store gets to know them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, Final, cast

from walkv.engine.core import Engine
from walkv.engine.follower import Follower
from walkv.engine.policies import SyncPolicy
from walkv.engine.store import ExclusiveStore, open
from walkv.namespaces import registry
from walkv.namespaces.access import Access
from walkv.namespaces.base import Namespace
from walkv.namespaces.checkpoints import Checkpoints
from walkv.namespaces.configurations import Configurations
from walkv.namespaces.contexts import Contexts, TaskContexts
from walkv.namespaces.faces import CLASSES
from walkv.namespaces.keyvalue import KeyValue, Writer
from walkv.namespaces.knowledge import KnowledgeSources
from walkv.namespaces.messages import Messages
from walkv.namespaces.sessions import Sessions
from walkv.namespaces.steps import Executions
from walkv.namespaces.tasks import Tasks
from walkv.namespaces.users import Users
from walkv.namespaces.workflows import Workflows

_FOLLOWS: Final = {"subtasks": "tasks", "settings": "configurations"}
"""Namespaces whose policy is another one's unless they are given one."""


class Namespaces:
    """One face's set of the namespaces, by name and as attributes."""

    sessions: Sessions
    messages: Messages
    checkpoints: Checkpoints
    task_contexts: TaskContexts
    contexts: Contexts
    workflows: Workflows
    executions: Executions
    configurations: Configurations
    tasks: Tasks
    users: Users
    knowledge_sources: KnowledgeSources

    def __init__(self, access: Access, policies: Mapping[str, SyncPolicy]) -> None:
        unknown = set(policies) - set(CLASSES)
        if unknown:
            known = ", ".join(CLASSES)
            raise ValueError(f"policies: there is no namespace {min(unknown)!r}; {known}")
        self.by_name: dict[str, Namespace[Any]] = {}
        for name, cls in CLASSES.items():
            policy = policies.get(name) or policies.get(_FOLLOWS.get(name, ""))
            self.by_name[name] = cls(access, sync=policy)
            setattr(self, name, self.by_name[name])
        self.sessions.dependents = (self.messages, self.task_contexts)
        self.configurations.settings = self.by_name["settings"]  # type: ignore[assignment]
        self.tasks.subtasks = self.by_name["subtasks"]  # type: ignore[assignment]
        self.tasks.executions = self.executions

    @property
    def policies(self) -> dict[str, SyncPolicy]:
        """The sync policy of each namespace that has one of its own, by name."""
        found = {name: each.sync for name, each in self.by_name.items() if name in CLASSES}
        return {name: policy for name, policy in found.items() if policy is not None}


def key_value(engine: Engine | Follower, *, blocking: bool = True) -> KeyValue:
    """An engine as the namespaces see it; see ``ExclusiveStore``."""
    # The protocol has one signature where the engine's views and transactions have overloads.
    return cast(KeyValue, ExclusiveStore(engine, blocking=blocking))


def attach(kv: KeyValue, namespaces: list[Namespace[Any]]) -> None:
    """Register what the store does not know yet; see ``registry``.

    Raises:
        TypeError: a namespace of this open store is declared otherwise elsewhere.
    """
    if kv.writable:
        for namespace in namespaces:
            # Who kept up other indexes, or wrote another layout, would not know of this one.
            declared = kv.shared.setdefault(namespace.name, namespace.agreement)
            if declared != namespace.agreement:
                raise TypeError(
                    f"namespace {namespace.name!r} was declared otherwise for this open store; "
                    "close it first, or use one declaration"
                )
    known = registry.read(kv)
    up_to_date = [namespace.attach(known) for namespace in namespaces]
    if all(up_to_date) or not kv.writable:
        return

    def run(tx: Writer) -> None:
        entries = registry.read(tx)
        for namespace in namespaces:
            namespace.register(tx, entries)
        registry.write(tx, entries)

    _, ticket = kv.transact(run, None)
    if ticket is not None:
        ticket.wait()
    known = registry.read(kv)
    for namespace in namespaces:
        namespace.attach(known)


def refuse_options(options: Mapping[str, Any]) -> None:
    """Refuse options of opening for a store that is open already.

    Raises:
        TypeError: one of them is given.
    """
    defaults = inspect.signature(open).parameters
    for name, value in options.items():
        if name not in defaults or value != defaults[name].default:
            raise TypeError(f"{name} is for a path, and this is an open store")
