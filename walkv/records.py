"""The record types of the namespaces, to import and to annotate with.

from walkv.records import Message, Session
"""

from walkv.namespaces.checkpoints import Checkpoint, PendingWrite, Pruned, Usage
from walkv.namespaces.configurations import Configuration, Setting
from walkv.namespaces.contexts import Context, TaskContext
from walkv.namespaces.executions import Execution
from walkv.namespaces.knowledge import KnowledgeSource
from walkv.namespaces.messages import Message
from walkv.namespaces.sessions import Session
from walkv.namespaces.tasks import Subtask, Task, TaskDetails
from walkv.namespaces.users import User
from walkv.namespaces.workflows import Workflow

__all__ = [
    "Checkpoint",
    "Configuration",
    "Context",
    "Execution",
    "KnowledgeSource",
    "Message",
    "PendingWrite",
    "Pruned",
    "Session",
    "Setting",
    "Subtask",
    "Task",
    "TaskContext",
    "TaskDetails",
    "Usage",
    "User",
    "Workflow",
]
