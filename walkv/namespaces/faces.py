"""The asyncio face of every namespace; ``faces.pyi`` spells their methods out for type checkers.

The stub is made by ``python -m tests.support.stubs``, and a test says that it is up to date.
"""

from __future__ import annotations

from typing import Any, Final

from walkv.namespaces.aio import AsyncExecutionsBase, AsyncNamespace, async_face
from walkv.namespaces.base import Namespace
from walkv.namespaces.checkpoints import Checkpoints
from walkv.namespaces.configurations import Configurations, Settings
from walkv.namespaces.contexts import Contexts, TaskContexts
from walkv.namespaces.knowledge import KnowledgeSources
from walkv.namespaces.messages import Messages
from walkv.namespaces.sessions import Sessions
from walkv.namespaces.steps import Executions
from walkv.namespaces.tasks import Subtasks, Tasks
from walkv.namespaces.users import Users
from walkv.namespaces.workflows import Workflows

CLASSES: Final[dict[str, type[Namespace[Any]]]] = {
    cls.declaration.name: cls
    for cls in (
        Sessions,
        Messages,
        Checkpoints,
        TaskContexts,
        Contexts,
        Workflows,
        Executions,
        Configurations,
        Settings,
        Tasks,
        Subtasks,
        Users,
        KnowledgeSources,
    )
}
"""Every namespace of an agent, by name."""

AsyncGenericNamespace = async_face(Namespace)
AsyncSessions = async_face(Sessions)
AsyncMessages = async_face(Messages)
AsyncCheckpoints = async_face(Checkpoints)
AsyncTaskContexts = async_face(TaskContexts)
AsyncContexts = async_face(Contexts)
AsyncWorkflows = async_face(Workflows)
AsyncExecutions = async_face(Executions, AsyncExecutionsBase)
AsyncConfigurations = async_face(Configurations)
AsyncSettings = async_face(Settings)
AsyncTasks = async_face(Tasks)
AsyncSubtasks = async_face(Subtasks)
AsyncUsers = async_face(Users)
AsyncKnowledgeSources = async_face(KnowledgeSources)

ASYNC_CLASSES: Final[dict[str, type[AsyncNamespace[Any]]]] = {
    name: globals()[f"Async{cls.__name__}"] for name, cls in CLASSES.items()
}
"""The face of each, by name."""
