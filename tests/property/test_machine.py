"""The state machine of the laboratory, briefly; and that it exercises the whole public API."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator
from typing import Any

import pytest

from tests.laboratory.job import Figures, Job, Scale
from tests.laboratory.programs.machine import LAYER
from walkv import AsyncStore, Batch, Store, Transaction, View
from walkv.engine.store import opening
from walkv.engine.store.async_parts import AsyncBatch, AsyncTransaction, AsyncView

CLASSES: list[type[Any]] = [
    Store,
    Batch,
    Transaction,
    View,
    AsyncStore,
    AsyncBatch,
    AsyncTransaction,
    AsyncView,
]
NOT_CALLS = {"engine"}  # private to walkv
SPECIAL = ["__getitem__", "__setitem__", "__delitem__", "__contains__", "__len__"]
SPECIAL += ["__enter__", "__exit__", "__aenter__", "__aexit__"]


def members(cls: type[Any]) -> Iterator[str]:
    for name in dir(cls):
        special = name in SPECIAL and inspect.isfunction(inspect.getattr_static(cls, name))
        if special or not name.startswith("_"):
            yield name


def wanted() -> set[tuple[str, str, str]]:
    """Each class, method and parameter; a method without parameters stands for itself."""
    found = set()
    for cls in CLASSES:
        for name in set(members(cls)) - NOT_CALLS:
            value = inspect.getattr_static(cls, name)
            found.add((cls.__name__, name, ""))
            if inspect.isfunction(value):
                parameters = inspect.signature(value).parameters.values()
                found |= {
                    (cls.__name__, name, each.name)
                    for each in list(parameters)[1:]
                    if each.kind in (each.KEYWORD_ONLY, each.POSITIONAL_OR_KEYWORD)
                    and not name.startswith("__")
                }
    for name, function in (("open", opening.open), ("aopen", opening.aopen)):
        found |= {("walkv", name, each) for each in inspect.signature(function).parameters}
    return found


class Recorder:
    """Notes which methods are called, with which arguments that are not the default."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: set[tuple[str, str, str]] = set()
        self._monkeypatch = monkeypatch
        for cls in CLASSES:
            for name in members(cls):
                value = inspect.getattr_static(cls, name)
                if isinstance(value, property):
                    self._replace(cls, name, property(self._noting(cls, name, value.fget)))
                elif isinstance(value, classmethod):
                    self._replace(cls, name, classmethod(self._noting(cls, name, value.__func__)))
                else:
                    self._replace(cls, name, self._noting(cls, name, value))

    def _replace(self, owner: Any, name: str, value: Any) -> None:
        self._monkeypatch.setattr(owner, name, value)

    def _noting(self, cls: type[Any], name: str, function: Any) -> Any:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def call(*args: Any, **options: Any) -> Any:
            # Inherited methods are wrapped once for each class: the object tells which it is.
            label = type(args[0]).__name__ if args[0] is not cls else cls.__name__
            label = label if label in LABELS else cls.__name__
            self.note(label, name, signature, args, options)
            return function(*args, **options)

        return call

    def note(self, label: str, name: str, signature: Any, args: Any, options: Any) -> None:
        self.seen.add((label, name, ""))
        given = list(zip(list(signature.parameters)[: len(args)], args, strict=False))
        for parameter, value in [*given, *options.items()]:
            known = signature.parameters.get(parameter)
            if known is not None and value is not known.default:
                self.seen.add((label, name, parameter))


LABELS = {cls.__name__ for cls in CLASSES}


def run_all(seed: int) -> Figures:
    figures = Figures()
    for job in LAYER.jobs(Scale.QUICK, seed):
        figures.add(LAYER.run(job))
    return figures


def test_every_program_agrees_with_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """And each method and parameter is used by some program: a new one cannot be forgotten."""
    recorder = Recorder(monkeypatch)
    for name in ("open", "aopen"):
        signature = inspect.signature(getattr(opening, name))
        function = getattr(opening, name)

        def recorded(
            *args: Any,
            name: str = name,
            signature: Any = signature,
            function: Any = function,
            **o: Any,
        ) -> Any:
            recorder.note("walkv", name, signature, args, o)
            return function(*args, **o)

        monkeypatch.setattr(f"walkv.{name}", recorded)
    figures = run_all(seed=1)
    assert not figures.failures, "\n".join(
        f"{failure.job.command()}\n{failure.what}\n{failure.detail}" for failure in figures.failures
    )
    for count in (
        "programs",
        "steps of programs",
        "crashes in programs",
        "faults in programs",
        "readers inside operations",
    ):
        assert figures.counts[count] > 0
    assert figures.states
    missing = sorted(wanted() - recorder.seen)
    assert not missing, f"used by no program: {missing}"


def test_a_job_does_the_same_when_it_is_run_again() -> None:
    job = Job("programs", "WriteBack programs=3", 7)
    first, again = LAYER.run(job), LAYER.run(job)
    assert (first.counts, first.states) == (again.counts, again.states)


def test_a_job_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="no such job"):
        LAYER.run(Job("programs", "Nothing programs=1", 0))
