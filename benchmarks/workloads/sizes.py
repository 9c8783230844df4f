"""The rows of db_bench come twice: with small values, and with large ones in names of their own."""

from collections.abc import Sequence

from benchmarks.workloads.base import Workload

LARGE_SUFFIX = "-4k"
"""Named after the default of --large-value-bytes."""
LARGE_OVERRIDES = {"entries": "large_entries", "value_bytes": "large_value_bytes"}


def at_both_sizes(workloads: Sequence[Workload]) -> tuple[Workload, ...]:
    """Each workload, followed by itself with large values."""
    return tuple(
        sized
        for workload in workloads
        for sized in (
            workload,
            workload.with_suffix(LARGE_SUFFIX, LARGE_OVERRIDES, "large values, fewer entries"),
        )
    )
