"""Where an application's store is and how it is opened, also from the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Self

from walkv import limits
from walkv.engine.keyring import Key
from walkv.engine.policies import SyncPolicy, Wal, WriteBack, WriteThrough, check_policy
from walkv.errors import WalkvError

DEFAULT_PATH: Final = "agent.walkv"

POLICIES: Final[dict[str, SyncPolicy]] = {
    "write-through": WriteThrough(),
    "wal": Wal(),
    "write-back": WriteBack(),
}
"""The sync policies by the names that ``WALKV_SYNC`` gives them."""


class ConfigError(WalkvError, ValueError):
    """A setting is not one that a store can be opened with.

    Attributes:
        name: of the field or the environment variable.
        value: what it was set to.
    """

    def __init__(self, message: str, *, name: str = "", value: object = None) -> None:
        super().__init__(message)
        self.name = name
        self.value = value


@dataclass(frozen=True, slots=True)
class StoreConfig:
    """How to open a store.

    Attributes:
        path: the store's directory.
        sync: policy of the commits.
        memtable_bytes, cache_bytes: memory budgets, as in ``walkv.open``.
        key: opens an encrypted store, as in ``walkv.open``; not shown.
    Raises:
        ConfigError: a field is not what it should be.
    """

    path: str = DEFAULT_PATH
    sync: SyncPolicy = Wal()  # noqa: RUF009  # immutable
    memtable_bytes: int = limits.DEFAULT_MEMTABLE_BYTES
    cache_bytes: int = limits.DEFAULT_CACHE_BYTES
    key: Key | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        _check_path("path", self.path)
        try:
            check_policy(self.sync)
        except TypeError as error:
            raise ConfigError(str(error), name="sync", value=self.sync) from None
        _check_bytes("memtable_bytes", self.memtable_bytes, limits.MIN_MEMTABLE_BYTES)
        _check_bytes("cache_bytes", self.cache_bytes, 0)

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Self:
        """What the environment says, and the defaults where it says nothing.

        Args:
            environ: instead of the process's. ``WALKV_PATH`` is the directory, ``WALKV_SYNC`` one
                of ``write-through``, ``wal`` and ``write-back``, ``WALKV_MEMTABLE_BYTES`` and
                ``WALKV_CACHE_BYTES`` are the budgets.
        Raises:
            ConfigError: a variable does not say that; ``name`` is the variable.
        """
        given = os.environ if environ is None else environ
        path = given.get("WALKV_PATH", DEFAULT_PATH)
        _check_path("WALKV_PATH", path)
        policy = given.get("WALKV_SYNC", "wal")
        if policy not in POLICIES:
            raise ConfigError(
                f"WALKV_SYNC is one of {', '.join(POLICIES)}, not {policy!r}",
                name="WALKV_SYNC",
                value=policy,
            )
        return cls(
            path,
            POLICIES[policy],
            _bytes_of(
                given,
                "WALKV_MEMTABLE_BYTES",
                limits.DEFAULT_MEMTABLE_BYTES,
                limits.MIN_MEMTABLE_BYTES,
            ),
            _bytes_of(given, "WALKV_CACHE_BYTES", limits.DEFAULT_CACHE_BYTES, 0),
        )


def _check_path(name: str, value: object) -> None:
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise ConfigError(f"{name} is a directory's path, not {value!r}", name=name, value=value)


def _check_bytes(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise _no_bytes(name, value, least)


def _bytes_of(given: Mapping[str, str], name: str, default: int, least: int) -> int:
    text = given.get(name)
    if text is None:
        return default
    # Not int() alone: it takes "1_000", " 7 " and digits of other scripts.
    if not (text.isascii() and text.isdigit()) or int(text) < least:
        raise _no_bytes(name, text, least)
    return int(text)


def _no_bytes(name: str, value: object, least: int) -> ConfigError:
    return ConfigError(
        f"{name} is a number of bytes, at least {least}, not {value!r}", name=name, value=value
    )
