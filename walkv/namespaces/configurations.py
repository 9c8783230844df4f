"""Configurations with one active version each, and plain settings."""

from __future__ import annotations

import builtins
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from walkv.engine.policies import SyncPolicy, WriteThrough
from walkv.namespaces.base import Declaration, Namespace
from walkv.namespaces.common import UNSET, Unset, new_id
from walkv.namespaces.keyvalue import Writer
from walkv.namespaces.schema import Stored

ConfigType = Literal["role_config", "system_config", "user_config"]


@dataclass(frozen=True, slots=True)
class Configuration:
    """One version of a configuration.

    Attributes:
        is_active: whether it is the one in force for its type and name.
    """

    config_id: str
    config_type: ConfigType
    name: str
    content: dict[str, Any]
    version: str
    is_active: bool
    created_at: datetime
    updated_at: datetime
    created_by: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)


class Configurations(Namespace[Configuration]):
    """All configurations. Default sync policy: ``WriteThrough()``.

    At most one configuration of each type and name is active; every write keeps it so.
    """

    declaration = Declaration(
        "configurations",
        Configuration,
        key="config_id",
        indexes=[("config_type", "name", "is_active"), ("is_active", "config_type")],
        sync=WriteThrough(),
    )
    settings: Settings

    def create(
        self,
        config_type: ConfigType,
        name: str,
        content: dict[str, Any],
        version: str = "1",
        *,
        config_id: str | None = None,
        is_active: bool = True,
        created_by: str = "",
        metadata: dict[str, Any] | None = None,
        sync: SyncPolicy | None = None,
    ) -> Configuration:
        """Add a version of a configuration; if active, it takes the place of the active one.

        Raises:
            RecordExistsError: there is one with this id.
        """
        now = self.now()
        made = Configuration(
            config_id or new_id(),
            config_type,
            name,
            content,
            version,
            is_active,
            now,
            now,
            created_by,
            metadata or {},
        )
        self.add(made, sync=sync)
        return made

    def update(
        self,
        key: Any,
        /,
        *,
        sync: SyncPolicy | None = None,
        expected_version: int | Unset | None = UNSET,
        **changes: Any,
    ) -> Configuration:
        """Change a configuration; its ``updated_at`` moves."""
        now = self.now()
        return self._modify(key, lambda _: {"updated_at": now, **changes}, sync, expected_version)

    def activate(self, config_id: str, *, sync: SyncPolicy | None = None) -> Configuration:
        """Put a version in force, and the one before out of it, in one commit."""
        return self.update(config_id, is_active=True, sync=sync)

    def get_active(self, config_type: ConfigType, name: str) -> Configuration | None:
        """The version in force, or None."""
        return self.query(config_type=config_type, name=name, is_active=True).first()

    def list(
        self, config_type: ConfigType | None = None, is_active: bool | None = True
    ) -> builtins.list[Configuration]:
        """Configurations of a type, or all; ``is_active=None`` for those in force and not."""
        given = {"config_type": config_type, "is_active": is_active}
        wanted = {name: value for name, value in given.items() if value is not None}
        return self.query(**wanted).all()

    def write_in(
        self,
        tx: Writer,
        key: bytes,
        values: builtins.list[Any],
        old: bytes | None,
        ttl_seconds: float | None,
        *,
        keep_expiry: bool = False,
        before: Stored | None = None,
    ) -> None:
        """Write a configuration; if it is active, no other of its type and name stays so."""
        made = self.table.schema.build(values)
        if made.is_active:
            index = self.table.index_of("config_type", "name", "is_active")
            active = [made.config_type, made.name, True]
            named = zip(index.fields, active, strict=True)
            prefix = index.prefix + b"".join([self.table.pack(n, value) for n, value in named])
            for full_key in list(self.table.record_keys(tx.scan(prefix))):
                other, now = full_key[len(self.table.records) :], made.updated_at
                active_now = tx.get(full_key)
                if other != key and active_now is not None:
                    stored = self.table.schema.decode(active_now)
                    changes = {"is_active": False, "updated_at": now}
                    changed = self.table.schema.changed(stored.values, changes)
                    super().write_in(
                        tx, other, changed, active_now, None, keep_expiry=True, before=stored
                    )
        super().write_in(tx, key, values, old, ttl_seconds, keep_expiry=keep_expiry, before=before)

    # -- settings --------------------------------------------------------------------------------

    def set(
        self,
        key: str,
        value: Any,
        description: str | None = None,
        *,
        sync: SyncPolicy | None = None,
    ) -> None:
        """Set a plain setting; a description that is not given stays."""
        self.settings.assign(key, value, description, sync=sync)

    def setting(self, key: str, default: Any = None) -> Any:
        """The value of a plain setting, or a default."""
        found = self.settings.get(key)
        return default if found is None else found.value

    def all(self) -> dict[str, Any]:
        """All plain settings."""
        return {setting.key: setting.value for setting in self.settings.query()}

    def unset(self, key: str, *, sync: SyncPolicy | None = None) -> bool:
        """Remove a plain setting; returns whether it was there."""
        return self.settings.delete(key, sync=sync)


@dataclass(frozen=True, slots=True)
class Setting:
    """A plain setting."""

    key: str
    value: Any
    description: str
    updated_at: datetime


class Settings(Namespace[Setting]):
    """Plain settings, by key; reached through ``Configurations``."""

    declaration = Declaration("settings", Setting, key="key", sync=WriteThrough())

    def assign(
        self, key: str, value: Any, description: str | None, *, sync: SyncPolicy | None = None
    ) -> None:
        """Set a setting; see ``Configurations.set``."""
        table, now = self.table, self.now()
        packed = table.packed_key(key)

        def run(tx: Writer) -> None:
            old = tx.get(table.records + packed)
            text = description
            if text is None:
                text = "" if old is None else self._record(old).description
            values = table.schema.checked([key, value, text, now])
            self.write_in(tx, packed, values, old, None)

        self._write(run, sync)
