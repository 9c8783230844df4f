"""Faults: every call of small workloads fails, in every way it can, once and for ever.

What must be true after a fault is in ``rules``, how a call is named in ``script``. A
sweep runs a workload once to number its calls, and then once for every call and every way in which
it can fail; no call is left out. ``pairs`` fails every sync of a workload, and then every call of
the recovery that follows. ``random`` fails up to three calls of random workloads.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from itertools import product
from random import Random
from typing import Final

from tests.laboratory.crashes import Memory
from tests.laboratory.faults.script import (
    Case,
    Spot,
    note_sites,
    places,
    spots_of,
)
from tests.laboratory.faults.trial import Trial
from tests.laboratory.job import Figures, Job, Layer, Scale, off_main_thread
from tests.laboratory.steps import POLICIES, parse, random_steps, shrink, small_store
from walkv.engine import core
from walkv.testing import Call
from walkv.testing.faults import SYNCS

WORKLOADS: Final[dict[str, str]] = {
    "create": "put a; read",
    "commits": "put a 200; batch c -a; cas b; range c; transact b e; conflict b; delete b; mark; "
    "put! f; put~ g; sync; phantom b",
    "rotate": "put a 300; rotate; put b 30; rotate; put a",
    "full": "put a 1500; put b 900; put c 1500; read; put a",
    "compact": "put a 300; view; flush; put b; range a; compact; read; put c",
    "merge": "put a 900; flush; put m 300; flush; put b; read",
    "close": "put a; close; put c 1500; close",
    "litter": "put a 300; flush; rotate; put c 200; litter; put d",
    "many": "put a 200; kills 4; kill; put b",
    "follow": "put a 300; follow; put a; follow; flush; rotate; put a; follow; compact; follow",
}
PAIRS: Final = "put a 300; rotate; put b; flush; put c"
QUICK: Final = ("create", "commits", "rotate", "litter", "follow")

CREATE: Final = "create"

_THOROUGH_SHARE: Final = 0.002
_FAILURES_SHOWN: Final = 3
_SAMPLE_ALONE: Final = 20
_LENGTH: Final = 14


@contextmanager
def small_engine() -> Iterator[None]:
    """A small store, whose log is settled at open after fewer unclean ends, and which settles less
    at its close."""
    before = core._MANY_SEGMENTS, core._CLOSE_FLUSH_BYTES
    core._MANY_SEGMENTS, core._CLOSE_FLUSH_BYTES = 4, 1_000  # type: ignore[misc]  # constants
    try:
        with small_store():
            yield
    finally:
        core._MANY_SEGMENTS, core._CLOSE_FLUSH_BYTES = before  # type: ignore[misc]


class Sweep:
    """Runs cases, and notes what becomes of them; one for a job."""

    def __init__(self, job: Job, figures: Figures) -> None:
        self._job = job
        self._figures = figures
        self._chooser = Random(job.seed)
        self._memory = Memory(self._chooser, figures, _THOROUGH_SHARE)
        self._looked: set[Hashable] = set()
        self._shown: set[str] = set()

    def probe(self, case: Case) -> Trial:
        """A run of a case for the sake of its calls."""
        trial = self._trial(case, Figures())
        trial.run()
        return trial

    def _trial(self, case: Case, figures: Figures) -> Trial:
        return Trial(case, self._memory, self._looked, self._chooser, figures, seed=self._job.seed)

    def try_case(self, case: Case) -> None:
        """Run a case; a failure is noted, cut down."""
        counts = self._figures.counts
        trial = self._trial(case, self._figures)
        try:
            trial.run()
        except Exception as error:  # noqa: BLE001  # every failure is reported
            self._report(case, error)
        counts["faulty runs"] += 1
        counts["failed calls"] += len(trial.fs.failed_calls)
        counts["faults injected"] += len(trial.fs.fired)
        counts["faults not reached"] += len(case.spots) - len(trial.fs.fired)
        for call in trial.fs.fired:
            counts[f"faults injected in {call.operation}"] += 1

    def repeat(self, case: Case) -> None:
        """Run a case as it is."""
        self._figures.counts["faulty runs"] += 1
        error = run_alone(case, self._job.seed)
        if error is not None:
            self._figures.fail(self._job, error)

    def _report(self, case: Case, error: Exception) -> None:
        self._figures.counts["runs that broke a rule"] += 1
        kind = f"{type(error).__name__} {str(error)[:40]}"
        if kind in self._shown or len(self._shown) >= _FAILURES_SHOWN:
            return
        self._shown.add(kind)
        found = run_alone(case, self._job.seed)
        if found is None:
            # It takes the choices made before it: only the whole job repeats it.
            self._figures.fail(self._job, error, str(case))
            return
        case, error = smallest(case, found, self._job.seed)
        self._figures.fail(self._job._replace(text=str(case)), error)


def run_alone(case: Case, seed: int) -> Exception | None:
    """What a case raises when nothing ran before it."""
    chooser = Random(seed)
    memory = Memory(chooser, Figures(), _THOROUGH_SHARE)
    try:
        Trial(case, memory, set(), chooser, Figures(), seed=seed, sample=_SAMPLE_ALONE).run()
    except Exception as error:  # noqa: BLE001  # any failure will do
        return error
    return None


def smallest(case: Case, error: Exception, seed: int) -> tuple[Case, Exception]:
    """A case with fewer faults and steps that still fails alone, and what it raises."""
    best = case, error

    def fails(spots: tuple[Spot, ...], steps: list[str]) -> bool:
        nonlocal best
        for shifted in _shifted(spots):
            smaller = Case(case.policy, shifted, tuple(steps))
            found = run_alone(smaller, seed)
            if found is not None:
                best = smaller, found
                return True
        return False

    for spot in case.spots:
        fewer = tuple(other for other in best[0].spots if other != spot)
        if fewer:
            fails(fewer, list(case.steps))
    shrink(list(best[0].steps), lambda steps: fails(best[0].spots, steps))
    return best


def _shifted(spots: tuple[Spot, ...]) -> Iterator[tuple[Spot, ...]]:
    """The same faults, with the first at the calls of its kind before that one, nearest first: in
    a shorter workload a call has a lower number."""
    first = spots[0]
    for nth in range(first.nth, 0, -1):
        yield (first._replace(nth=nth), *spots[1:])


def sweep(runs: Sweep, workload: str, policy: str, figures: Figures) -> None:
    """Every call of a workload, in every way it can fail.

    What creates the store is the same in all of them, and fails in one.
    """
    case = Case(policy, (), tuple(parse(WORKLOADS[workload])))
    calls = runs.probe(case).fs.calls
    created = 0 if workload == CREATE else len(runs.probe(case._replace(steps=())).fs.calls)
    figures.counts["calls that fail in turn"] += len(calls) - created
    for place in places(calls)[created:]:
        for spot in spots_of(*place):
            runs.try_case(case._replace(spots=(spot,)))


def pairs(runs: Sweep, policy: str) -> None:
    """Every sync of a workload, and with it every call of the recovery that follows."""
    case = Case(policy, (), tuple(parse(PAIRS)))
    for operation, file, nth in places(runs.probe(case).fs.calls):
        if operation not in SYNCS:
            continue
        first = Spot("EIO", "once", operation, file, nth)
        try:
            trial = runs.probe(case._replace(spots=(first,)))
        except Exception:  # noqa: BLE001  # reported by the case below
            runs.try_case(case._replace(spots=(first,)))
            continue
        recovery = trial.fs.calls[trial.fs.fired[0].number + 1 : trial.recovered_at]
        for place in places(recovery):
            runs.try_case(case._replace(spots=(first, Spot("EIO", "once", *place))))


def random_cases(runs: Sweep, count: int, policy: str, chooser: Random) -> None:
    """Workloads of everything, in which up to three calls fail."""
    for _ in range(count):
        steps = random_steps(chooser, _LENGTH)
        for extra in ("follow", "follow", "mark", "litter"):
            steps.insert(chooser.randrange(len(steps) + 1), extra)
        case = Case(policy, (), tuple(steps))
        calls = runs.probe(case).fs.calls
        spots = [random_spot(chooser, calls) for _ in range(chooser.choice([1, 2, 2, 3, 3]))]
        runs.try_case(case._replace(spots=tuple(spots)))


def random_spot(chooser: Random, calls: list[Call]) -> Spot:
    """A call, the kinds of calls being equally likely; often one of the next of its kind."""
    every = places(calls)
    kinds = sorted({place[:2] for place in every})
    operation, file = chooser.choice(kinds)
    last = max(nth for *kind, nth in every if tuple(kind) == (operation, file))
    nth = chooser.randint(1, chooser.choice([min(last, 3), last]))
    return chooser.choice(spots_of(operation, file, nth))


def sites(job: Job, scale: Scale, figures: Figures) -> None:
    """How many different places of the engine the sweeps make fail."""
    found: set[tuple[str, str, str]] = set()
    chooser = Random(job.seed)
    memory = Memory(chooser, Figures(), 0.0)
    workloads, policies = _sweeps(scale)
    for workload, policy in product(workloads, "+".join(policies).split("+")):
        case = Case(policy, (), tuple(parse(WORKLOADS[workload])))
        trial = Trial(case, memory, set(), chooser, Figures(), seed=job.seed)
        trial.fs.before = note_sites(found)
        trial.run()
    figures.counts["call sites"] += len(found)


def _sweeps(scale: Scale) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Workloads, and policies: those in one job share what was looked at."""
    if scale is Scale.QUICK:
        return QUICK, ("Wal",)
    return tuple(WORKLOADS), ("Wal+WriteThrough", "WriteBack+WriteBackBytes")


def jobs(scale: Scale, seed: int) -> list[Job]:
    """The sweeps, the pairs, and random cases; of those alone a soak is made."""
    made = []
    workloads, policies = _sweeps(scale)
    if scale is not Scale.SOAK:
        made.append(Job(LAYER.name, f"sites {scale.value}", seed, 1.0))
        for name, policy in product(workloads, policies):
            made.append(Job(LAYER.name, f"sweep {policy} {name}", seed, 4.0))
    if scale is Scale.FULL:
        made += [Job(LAYER.name, f"pairs {policy}", seed, 4.0) for policy in ("Wal", "WriteBack")]
    count = {Scale.QUICK: 5, Scale.FULL: 20, Scale.SOAK: 100}[scale]
    for number, policy in enumerate(POLICIES):
        made.append(Job(LAYER.name, f"random {policy} {count}", seed + number, 2.0))
    return made


@off_main_thread
def run(job: Job) -> Figures:
    """``sites SCALE``, ``sweep POLICY+... WORKLOAD``, ``pairs POLICY+...``, ``random POLICY
    COUNT``, or a case."""
    figures = Figures()
    kind, _, rest = job.text.partition(" ")
    first, _, second = rest.partition(" ")
    runs = Sweep(job, figures)
    with small_engine():
        if kind == "sites":
            sites(job, Scale(first), figures)
        elif kind in ("sweep", "pairs", "random"):
            for policy in first.split("+"):
                if kind == "sweep":
                    sweep(runs, second, policy, figures)
                elif kind == "pairs":
                    pairs(runs, policy)
                else:
                    random_cases(runs, int(second), policy, Random(job.seed))
        else:
            runs.repeat(Case.parse(job.text))
    return figures


LAYER: Final = Layer("faults", "Fault sweep", jobs, run)
