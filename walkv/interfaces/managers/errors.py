"""What the managers raise besides walkv's own errors."""

from __future__ import annotations

from walkv.errors import BackupError, WalkvError

__all__ = ["BackupError", "BackupNotFoundError", "NoSqlError", "RestoreError"]


class NoSqlError(WalkvError, NotImplementedError):
    """SQL was asked for, and a store has none."""


class RestoreError(WalkvError):
    """A backup was not restored. The store is as it was."""


class BackupNotFoundError(BackupError, FileNotFoundError):
    """There is no such backup."""
