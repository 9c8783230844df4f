"""What is timed. Each module below has its steps and, in `WORKLOADS`, the rows they fill.

To add a workload: write its step, name it in the module's `WORKLOADS`, and it runs.
"""

import itertools

from benchmarks.workloads import (
    concurrency,
    fills,
    latency,
    memory,
    opening,
    reads,
    scale,
    sustained,
    ycsb,
)
from benchmarks.workloads.base import Step, Workload

MODULES = (fills, reads, ycsb, concurrency, opening, memory, latency, sustained, scale)

WORKLOADS: dict[str, Workload] = {
    workload.name: workload for module in MODULES for workload in module.WORKLOADS
}

GROUPS: dict[str, tuple[str, ...]] = {
    module.__name__.rpartition(".")[2]: tuple(workload.name for workload in module.WORKLOADS)
    for module in MODULES
}
"""The names of the workloads of each module, by the name of the module."""

STEPS: dict[str, Step] = {
    step.__name__: step
    for step in itertools.chain.from_iterable(
        (*workload.steps, *([workload.fixture] if workload.fixture else ()))
        for workload in WORKLOADS.values()
    )
}
