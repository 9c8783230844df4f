"""The key at hand for a store: the one that was given, that of the open store, or WALKV_KEY."""

from __future__ import annotations

from typing import Any

from walkv.engine.core import Engine
from walkv.engine.follower import Follower
from walkv.engine.keyring import Key, Secret
from walkv.engine.opening import given_secret


def engine_of(store: Any) -> Engine | Follower | None:
    """What is behind a store or an agent's store, whether for threads or tasks; None of a path."""
    face = getattr(store, "store", store)
    if hasattr(face, "as_sync"):
        face = face.as_sync()
    engine = getattr(face, "engine", None)
    return engine if isinstance(engine, (Engine, Follower)) else None


def secret_for(store: Any, key: Key | None) -> Secret | None:
    """What opens a store, as far as it is known.

    Args:
        store: a path, or what is open.
    Raises:
        EncryptionError, TypeError: ``key`` is none.
    """
    engine = engine_of(store)
    if key is None and engine is not None:
        key = engine.catalog.keyring.secret
    return given_secret(key)
