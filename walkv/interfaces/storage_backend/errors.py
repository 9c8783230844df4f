"""What these interfaces raise besides walkv's own errors."""

from __future__ import annotations

from walkv.errors import WalkvError


class StorageError(WalkvError):
    """The base of the errors below."""


class SessionNotFoundError(StorageError, KeyError):
    """Something was to be added to a session that is not there.

    Attributes:
        session_id: of the session.
    """

    def __init__(self, message: str, *, session_id: str = "") -> None:
        super().__init__(message)
        self.session_id = session_id

    def __str__(self) -> str:
        return Exception.__str__(self)


class StorageConnectionError(StorageError):
    """The storage cannot be opened, or no longer be read or written; ``__cause__`` says why."""
