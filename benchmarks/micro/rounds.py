"""Rounds of a fixed number of calls, for what cannot be repeated at will."""

from collections.abc import Callable
from typing import Any

WARM_UP_ROUNDS = 1


def in_rounds(
    # Any: the plugin's own methods have no types.
    benchmark: Any,
    call: Callable[..., Any],
    *,
    rounds: int,
    calls: int = 1,
    setup: Callable[[], Any] | None = None,
) -> Any:
    """Time ``rounds`` rounds of ``calls`` calls, after those that warm up.

    Args:
        setup: called before each round, untimed; gives the arguments of the one call in it. There
            is no round to warm up then.
    Returns:
        What the last call returned.
    """
    if setup is not None:
        return benchmark.pedantic(call, setup=setup, rounds=rounds)
    return benchmark.pedantic(call, rounds=rounds, iterations=calls, warmup_rounds=WARM_UP_ROUNDS)
