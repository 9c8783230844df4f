"""What makes the key of a decorated step."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from walkv.errors import CodecError
from walkv.namespaces import codec


def plain_key(key: Any) -> str:
    """A key as plain text: of an enumeration's member, which is a ``str``, its value.

    Raises:
        TypeError: it is no text.
    """
    if not isinstance(key, str):
        raise TypeError(f"a step's key is a str, and this is a {type(key).__name__}")
    return str.__str__(key)


def check_step(function: Any, key: Any) -> None:
    """Refuse what cannot be decorated as a step.

    Raises:
        TypeError: this is no function, or the key is no text.
    """
    if isinstance(function, str):
        raise TypeError(f"write @agent.step(key={function!r})")
    if function is not None and not callable(function):
        raise TypeError(f"a step is a function, and this is a {type(function).__name__}")
    if key is not None:
        plain_key(key)


def step_key(
    function: Callable[..., Any], key: str | None, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> str:
    """The key of a decorated step, made of the arguments of a call.

    Without a ``key`` it is made of the function's module and qualified name, and of the names and
    values of the arguments:

        - an argument equal to its default counts as not given, so that a function that gains an
          optional argument keeps its keys;
        - it makes no difference in what order arguments are written or declared, how (by position
          or by name), or in what order a dict or a set in them is;
        - a tuple is not a list, 1 is neither 1.0 nor True, and a named tuple is a tuple;
        - another name of the function or of an argument, or another default where it is left out,
          makes other keys.

    Raises:
        CodecError: there is no ``key``, and an argument cannot be stored.
    """
    signature = inspect.signature(function)
    bound = signature.bind(*args, **kwargs)
    if key is not None:
        bound.apply_defaults()
        try:
            return key.format(**bound.arguments)
        except (LookupError, AttributeError) as error:
            named = ", ".join(bound.arguments)
            raise TypeError(f"the step's key {key!r} may name {named}; {error}") from error
    given = {}
    for name, value in bound.arguments.items():
        default = signature.parameters[name].default
        if value is not default and (data := _data(value)) != _data_or_none(default):
            given[name] = data
    digest = codec.digest(sorted(given.items()))
    return f"{function.__module__}.{function.__qualname__}/{digest}"


def _data_or_none(default: Any) -> bytes | None:
    try:
        return _data(default)
    except CodecError:
        return None  # nothing that can be stored is equal to it


def _data(value: Any) -> bytes:
    """The bytes of a value, the same for equal dicts in any order."""
    try:
        return codec.encode(_ordered(value))
    except RecursionError:
        raise CodecError("it is nested too deeply") from None


def _ordered(value: Any) -> Any:
    if isinstance(value, dict):
        pairs = [(codec.encode(key), key, each) for key, each in value.items()]
        pairs.sort(key=lambda pair: pair[0])
        return {key: _ordered(each) for _, key, each in pairs}
    if isinstance(value, list):
        return [_ordered(each) for each in value]
    if isinstance(value, tuple):
        return tuple(_ordered(each) for each in value)
    return value
