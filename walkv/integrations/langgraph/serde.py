"""Values of LangGraph to bytes and back, with nothing decoded that was not allowed.

Invariants:
    1. Without a serializer of the caller's, only the types that LangGraph calls safe are decoded,
       and those the caller has allowed by name; and what early versions stored as JSON may hold
       classes of langchain-core. Nothing is ever unpickled.
    2. A value that holds another type is refused.
    3. Behind an ``EncryptedSerializer`` nothing is decoded that was not encrypted.

Source: LangGraph's serializers decode what they do not know by importing and calling it, unless
told otherwise; told so, they hand out the raw arguments of a type that they block, and take plain
text where ciphertext was expected.
"""

from __future__ import annotations

import threading
from collections.abc import Collection
from typing import Any, Final

from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.event_hooks import SerdeEvent, register_serde_event_listener
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from walkv.errors import CodecError

Allowed = Collection[type | tuple[str, str]]
"""Types, or their modules and names."""


class _Blocked(threading.local):
    """What was blocked while this thread loads a value; None while it does not."""

    names: list[str] | None = None


_blocked: Final = _Blocked()


def _note(event: SerdeEvent) -> None:
    if _blocked.names is not None and event["kind"].endswith("blocked"):
        _blocked.names.append(f"{event['module']}.{event['name']}")


register_serde_event_listener(_note)


def strict_serializer(allow: Allowed = ()) -> JsonPlusSerializer:
    """LangGraph's serializer, for its safe types and those in ``allow``."""
    # Left out, these would mean "everything" to it, unless an environment variable is set.
    return JsonPlusSerializer(allowed_msgpack_modules=list(allow) or None)


def chosen(serde: SerializerProtocol | None, allow: Allowed) -> SerializerProtocol:
    """The caller's serializer, or a strict one.

    Raises:
        TypeError: both are given.
    """
    for each in allow:
        if isinstance(each, str):
            raise TypeError(f"allow is a list of classes or (module, name), not {each!r}")
    if serde is None:
        return strict_serializer(allow)
    if allow:
        raise TypeError("allow is for the serializer that is made here; allow it in yours")
    return serde


def dump(serde: SerializerProtocol, value: Any, what: str) -> tuple[str, bytes]:
    """Type and bytes of a value.

    Args:
        what: it is, for the error.
    Raises:
        CodecError: it cannot be serialized.
    """
    try:
        kind, data = serde.dumps_typed(value)
    except (TypeError, ValueError) as error:
        raise _bad(what, f"this cannot be serialized: {error}") from error
    return kind, bytes(data)


def load(
    serde: SerializerProtocol, kind: str, data: bytes, what: str, *, read_plaintext: bool = False
) -> Any:
    """The value of a type and bytes.

    Args:
        what: it is, for the error.
        read_plaintext: also behind an ``EncryptedSerializer`` take what was not encrypted.
    Raises:
        CodecError: it holds a type that is not allowed, was not encrypted, or cannot be decoded.
    """
    if isinstance(serde, EncryptedSerializer) and "+" not in kind and not read_plaintext:
        raise _bad(
            what,
            "it was stored without encryption, and a serializer that encrypts does not take it; if "
            "you know that it is from before you encrypted, pass read_plaintext=True",
        )
    names: list[str] = []
    _blocked.names = names
    try:
        value = serde.loads_typed((kind, data))
    except NotImplementedError as error:
        raise _bad(
            what,
            f"it was stored as {kind!r}, which this serializer does not read ({error}); what "
            "is encrypted needs an EncryptedSerializer with its key, as serde=",
        ) from error
    except Exception as error:  # what a cipher of the caller's raises has no common base
        raise _bad(what, f"this cannot be decoded as {kind!r}: {error}") from error
    finally:
        _blocked.names = None
    if names:
        raise _bad(
            what,
            f"it holds a {names[0]}, which is not among the types allowed here; if you trust what "
            "is stored, pass allow=[...] with the class, or a serializer of your own",
        )
    return value


def _bad(what: str, why: str) -> CodecError:
    return CodecError(f"langgraph {what}: {why}", namespace="langgraph", field=what)
