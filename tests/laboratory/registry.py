"""The layers of the laboratory, in the order of the report."""

from __future__ import annotations

from importlib import import_module
from typing import Final

from tests.laboratory.job import Figures, Job, Layer

NAMES: Final = (
    "crashes",
    "schedules",
    "programs",
    "faults",
    "damage",
    "fuzz",
    "kills",
    "systems",
    "mutants",
)


def find(name: str) -> Layer:
    """One layer; ``ValueError`` if there is none of that name."""
    if name not in NAMES:
        raise ValueError(f"no layer {name!r}; there are {', '.join(NAMES)}")
    found = import_module(f"tests.laboratory.{name}").LAYER
    assert isinstance(found, Layer)
    return found


def run_job(job: Job) -> Figures:
    """Do a job; what escapes from it is a failure of it."""
    try:
        return find(job.layer).run(job)
    except Exception as error:  # noqa: BLE001  # every failure is reported
        figures = Figures()
        figures.fail(job, error)
        return figures
