"""What the managers raise besides walkv's own errors."""

from __future__ import annotations

from walkv.errors import WalkvError


class NoSqlError(WalkvError, NotImplementedError):
    """SQL was asked for, and a store has none."""


class BackupError(WalkvError):
    """A backup was not made, listed or deleted. The ones before are as they were."""


class RestoreError(WalkvError):
    """A backup was not restored. The store is as it was."""


class BackupNotFoundError(BackupError, FileNotFoundError):
    """There is no such backup."""
