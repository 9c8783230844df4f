"""Mutants: bugs planted in the engine, one at a time, and the other layers must notice each.

A planted bug is a piece of a function's source with another in its place. The function is compiled
anew and put where the engine finds it; if the piece is no longer in the source, the mutant is stale
and that is a failure too, so the list cannot rot in silence.
"""

from __future__ import annotations

import inspect
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from typing import Any, Final

from tests.laboratory import registry
from tests.laboratory.job import Figures, Job, Layer, Scale
from tests.laboratory.mutants.bugs import MUTANTS, Mutant


@contextmanager
def planted(mutant: Mutant) -> Iterator[None]:
    """The engine with a bug.

    Raises:
        ValueError: the mutant is stale.
    """
    module = import_module(mutant.module)
    *owners, name = mutant.function.split(".")
    owner: Any = module
    for step in owners:
        owner = getattr(owner, step)
    original = inspect.getattr_static(owner, name)
    source = textwrap.dedent(inspect.getsource(original))
    names: dict[str, Any] = {}
    code = "from __future__ import annotations\n" + _mutated(source, mutant)
    exec(compile(code, f"<mutant {mutant.name}>", "exec"), vars(module), names)
    places = [owner] if owners else _holders(name, original)
    for place in places:
        setattr(place, name, names[name])
    try:
        yield
    finally:
        for place in places:
            setattr(place, name, original)


def _mutated(source: str, mutant: Mutant) -> str:
    """The source with every line of ``new`` indented as the line is in which ``old`` begins."""
    before, found, after = source.partition(mutant.old)
    if not found:
        raise ValueError(f"stale mutant: {mutant.function} has no {mutant.old!r}")
    line = before.rpartition("\n")[2]
    indent = " " * (len(line) - len(line.lstrip()))
    after = after.replace(mutant.old, mutant.new.replace("\n", "\n" + indent))
    return before + mutant.new.replace("\n", "\n" + indent) + after


def _holders(name: str, function: Any) -> list[Any]:
    """The modules of walkv that know a function, their own and those that have imported it."""
    modules = [m for key, m in sorted(sys.modules.items()) if key.startswith("walkv")]
    return [module for module in modules if vars(module).get(name) is function]


@cache
def _passes(job: Job) -> bool:
    return not registry.run_job(job).failures


def jobs(scale: Scale, seed: int) -> list[Job]:
    """One mutant each. They do not change with the seed, so a soak leaves them out."""
    if scale is Scale.SOAK:
        return []
    chosen = MUTANTS[::6] if scale is Scale.QUICK else MUTANTS
    return [Job(LAYER.name, mutant.name, seed, 4.0) for mutant in chosen]


def run(job: Job) -> Figures:
    """Try the jobs that should kill a mutant, one after the other, until one does.

    A job that also fails on the sound engine has noticed nothing.
    """
    figures = Figures()
    mutant = next(mutant for mutant in MUTANTS if mutant.name == job.text)
    figures.counts["mutants planted"] += 1
    killer = _killer(mutant, job.seed)
    if killer is not None and _passes(killer):
        figures.counts["mutants killed"] += 1
        figures.counts[f"killed by {killer.layer}: {mutant.name}"] += 1
    else:
        figures.counts["mutants survived"] += 1
        figures.fail(job, AssertionError(f"nothing has noticed this bug: {mutant.name}"))
    return figures


def _killer(mutant: Mutant, seed: int) -> Job | None:
    with planted(mutant):
        for text in mutant.killers:
            name, _, work = text.partition(": ")
            if registry.run_job(Job(name, work, seed)).failures:
                return Job(name, work, seed)
    return None


LAYER: Final = Layer("mutants", "Planted bugs", jobs, run)
