"""Users: preferences, secrets and usage."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from walkv.engine.policies import SyncPolicy, WriteThrough
from walkv.namespaces.base import Declaration, Namespace


@dataclass(frozen=True, slots=True)
class User:
    """One user.

    Attributes:
        api_keys: secret: not in ``repr``, and masked in listings and exports unless asked for.
        usage_stats: ``task_count`` and ``total_tokens``.
    """

    user_id: str
    created_at: datetime
    updated_at: datetime
    preferences: dict[str, Any] = field(default_factory=dict)
    api_keys: dict[str, str] = field(default_factory=dict, repr=False, metadata={"secret": True})
    usage_stats: dict[str, int] = field(default_factory=dict)


class Users(Namespace[User]):
    """All users. Default sync policy: ``WriteThrough()``."""

    declaration = Declaration("users", User, key="user_id", sync=WriteThrough())

    def create(
        self,
        user_id: str,
        preferences: dict[str, Any] | None = None,
        api_keys: dict[str, str] | None = None,
        *,
        sync: SyncPolicy | None = None,
    ) -> User:
        """Add a user.

        Raises:
            RecordExistsError: there is one with this id.
        """
        now = self.now()
        usage = {"task_count": 0, "total_tokens": 0}
        user = User(user_id, now, now, preferences or {}, api_keys or {}, usage)
        self.add(user, sync=sync)
        return user

    def update_preferences(
        self,
        user_id: str,
        preferences: dict[str, Any],
        *,
        merge: bool = False,
        sync: SyncPolicy | None = None,
    ) -> User:
        """Replace the preferences of a user, or merge into them."""
        now = self.now()

        def change(user: User) -> dict[str, Any]:
            made = _merged(user.preferences, preferences) if merge else preferences
            return {"preferences": made, "updated_at": now}

        return self._modify(user_id, change, sync)

    def update_api_keys(
        self,
        user_id: str,
        api_keys: dict[str, str],
        *,
        merge: bool = False,
        sync: SyncPolicy | None = None,
    ) -> User:
        """Replace the keys of a user, or merge into them."""
        now = self.now()

        def change(user: User) -> dict[str, Any]:
            made = _merged(user.api_keys, api_keys) if merge else api_keys
            return {"api_keys": made, "updated_at": now}

        return self._modify(user_id, change, sync)

    def add_usage(
        self,
        user_id: str,
        task_count: int = 0,
        tokens: int = 0,
        *,
        sync: SyncPolicy | None = None,
    ) -> dict[str, int]:
        """Add to the usage of a user, exactly, also when many do; returns it as it is now."""
        now = self.now()
        for name, value in (("task_count", task_count), ("tokens", tokens)):
            if type(value) is not int:
                raise self.table.schema.bad("usage_stats", f"{name} is an int, not {value!r}"[:80])

        def change(user: User) -> dict[str, Any]:
            usage = dict(user.usage_stats)
            usage["task_count"] = usage.get("task_count", 0) + task_count
            usage["total_tokens"] = usage.get("total_tokens", 0) + tokens
            return {"usage_stats": usage, "updated_at": now}

        return self._modify(user_id, change, sync).usage_stats

    def info(self, user_id: str, *, secrets: bool = False) -> dict[str, Any] | None:
        """Everything about a user; keys are masked unless ``secrets`` is set. None if unknown."""
        user = self.get(user_id)
        return None if user is None else self.table.schema.as_dict(user, secrets=secrets)


def _merged(kept: dict[str, Any], given: Any) -> Any:
    # What is no dict is left to the check of the field, which knows what is secret.
    return {**kept, **given} if isinstance(given, dict) else given
