"""Backends by name."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any

from walkv.interfaces.storage_backend.backend import WalkvStorageBackend
from walkv.interfaces.storage_backend.memory import MemoryStorageBackend


class StorageType(Enum):
    """What a factory can make."""

    WALKV = "walkv"
    MEMORY = "memory"


class StorageFactory:
    """Makes backends."""

    @staticmethod
    def create_storage_backend(
        storage_type: StorageType | str, config: Mapping[str, Any] | None = None
    ) -> WalkvStorageBackend:
        """A backend, not open yet.

        Args:
            storage_type: one of ``StorageType``, or its value.
            config: for ``WALKV`` ``path`` and, if wanted, options of ``WalkvStorageBackend``; for
                ``MEMORY`` options, and a path is passed over.
        Raises:
            ValueError: there is no such type, or the path is missing.
            TypeError: there is no such option.
        """
        try:
            wanted = StorageType(storage_type)
        except ValueError:
            known = ", ".join(repr(each.value) for each in StorageType)
            raise ValueError(f"there is no storage type {storage_type!r}; {known}") from None
        options = dict(config or {})
        path = options.pop("path", None)
        if wanted is StorageType.MEMORY:
            return MemoryStorageBackend(**options)
        if path is None:
            raise ValueError("a walkv storage needs a path: {'path': 'agent.walkv'}")
        return WalkvStorageBackend(path, **options)
