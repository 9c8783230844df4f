"""Waiting for the background work of an engine, which none of them announces."""

from pathlib import Path
from time import monotonic, sleep

from benchmarks.machine import allocated_bytes

POLL_SECONDS = 0.01
LONGEST_SECONDS = 120.0


def settle(store_path: Path, quiet_ms: int) -> float:
    """Waits until the files of an open store are at rest; how many seconds that took.

    They are at rest if they have not changed in size for `quiet_ms`. A store that is not at rest
    after `LONGEST_SECONDS` is waited for no longer.
    """
    start_seconds = changed_seconds = monotonic()
    size_bytes = allocated_bytes(store_path)
    while (now_seconds := monotonic()) - changed_seconds < quiet_ms / 1_000:
        if now_seconds - start_seconds > LONGEST_SECONDS:
            break
        sleep(POLL_SECONDS)
        before_bytes, size_bytes = size_bytes, allocated_bytes(store_path)
        if size_bytes != before_bytes:
            changed_seconds = monotonic()
    return changed_seconds - start_seconds
