"""Managers of tasks, settings, users, knowledge sources, tool logs and backups, for threads.

    from walkv.interfaces.managers import DatabaseManager, TaskHistoryManager

    database = DatabaseManager("agent_flow.walkv")
    history = TaskHistoryManager(database)
    task_id = history.create_task("session-1", "Sort my mail", [{"description": "Read it"}])
    history.update_task_status(task_id, "completed", {"sorted": 12})

``database`` holds the store, ``tasks`` and ``records`` the managers, ``copying`` and ``backup``
what makes copies of a store and puts them back, ``errors`` what they raise.

Source: the local data module of AI Agent Flow, whose names, arguments, defaults and results these
are. Its SQL has no counterpart: ``DatabaseManager.get_connection`` gives the ``AgentStore``.
"""

from walkv.interfaces.managers.backup import BackupManager
from walkv.interfaces.managers.database import DatabaseManager
from walkv.interfaces.managers.errors import (
    BackupError,
    BackupNotFoundError,
    NoSqlError,
    RestoreError,
)
from walkv.interfaces.managers.records import (
    ConfigManager,
    KnowledgeSourceManager,
    ToolLogManager,
    UserManager,
)
from walkv.interfaces.managers.tasks import SubTask, TaskHistory, TaskHistoryManager

__all__ = [
    "BackupError",
    "BackupManager",
    "BackupNotFoundError",
    "ConfigManager",
    "DatabaseManager",
    "KnowledgeSourceManager",
    "NoSqlError",
    "RestoreError",
    "SubTask",
    "TaskHistory",
    "TaskHistoryManager",
    "ToolLogManager",
    "UserManager",
]
