"""The state machine: programs made of every public call, with crashes and faults, against a model.

Hypothesis makes the programs, from the job's seed, and shrinks one that fails. A job's text is
``POLICY programs=N`` or, for one program, ``POLICY replay=...`` with the choices that Hypothesis
made (which only the same version of it can read).

Invariants, after each step:
    1. A full scan gives what the model holds.
    2. Open views show their moment, and a follower what it last took in.
    3. A store that a fault has stopped refuses everything, and says why.
After each death: the store opens, verifies, and is a prefix of the commits with A <= j <= I.
"""

from __future__ import annotations

import logging
import random
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final
from unittest import mock

import hypothesis
import hypothesis.strategies as st
from hypothesis import HealthCheck, Phase, settings
from hypothesis.internal.conjecture import providers
from hypothesis.internal.constants_ast import Constants
from hypothesis.reporting import with_reporter
from hypothesis.stateful import initialize, invariant, run_state_machine_as_test

from tests.laboratory.job import Failure, Figures, Job, Layer, Scale, off_main_thread
from tests.laboratory.programs.life import Deaths, Follower, Tasks, Upkeep
from tests.laboratory.programs.rules import Reads, Transactions, Writes, raises
from tests.laboratory.programs.world import FACES, POLICIES, STORE_KEYS, Fuse
from walkv import StoreFailedError, limits
from walkv.engine import wal

NAMES: Final = {
    "Wal": POLICIES[0],
    "WriteThrough": POLICIES[1],
    "WriteBack": POLICIES[2],
    "WriteBack-bytes": POLICIES[3],
}
_STEPS: Final = 50
_INVARIANT: Final = re.compile(
    r"state\.(same_as_model|views_stand_still|follower_stands_still|stopped_for_good)\(\)"
)
_TEXT: Final = re.compile(r"(\S+) (?:programs=(\d+)|replay=(\S+))")


class Machine(Writes, Reads, Transactions, Upkeep, Follower, Tasks, Deaths):
    """All rules, and what holds after each."""

    @initialize(
        memtable_bytes=st.sampled_from([1_500, 4_000, 20_000]),
        by_tasks=FACES,
        background=FACES,
        encrypted=FACES,
        nth=st.integers(0, 20),
    )
    def begin(
        self, memtable_bytes: int, by_tasks: bool, background: bool, encrypted: bool, nth: int
    ) -> None:
        """Make the store; the power may fail meanwhile."""
        if encrypted:
            self.key, self.other_key = STORE_KEYS
        self.memtable_bytes = memtable_bytes
        self.by_tasks = by_tasks
        self.background = background
        self.fuse = Fuse("power", nth, nth) if nth else None
        self.open(create=True)
        self.ready = self.moment is None
        self.after_step()

    @invariant()
    def same_as_model(self) -> None:
        if not self.ready or self.failed:
            return
        with self.looking():
            try:
                found = dict(self.store.scan())
            except StoreFailedError as error:
                self.excuse(error)  # a sync in the background has failed
                return
            live = self.live()
            assert found == live
            assert self.store.count() == len(live)

    @invariant()
    def views_stand_still(self) -> None:
        if self.failed:
            return
        with self.looking():
            for view, number in self.views:
                live = self.live(view, number)
                assert dict(view.scan()) == live
                assert list(view.scan(reverse=True)) == list(live.items())[::-1]
                assert view.get(b"own") == live.get(b"own")

    @invariant()
    def follower_stands_still(self) -> None:
        if self.reader is not None:
            with self.looking():
                found = dict(self.reader.scan())
                assert found == self.live(self.reader, self.reader_number)

    @invariant()
    def stopped_for_good(self) -> None:
        if self.failed:
            with self.looking():
                self.excuse(raises(StoreFailedError, self.store.get, b"a"))


@contextmanager
def surroundings() -> Iterator[None]:
    """Small memtables, little written ahead, no log output; and no chance from elsewhere.

    Hypothesis also draws constants that it has read in whatever modules are loaded: a job must not
    depend on those.
    """
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    nothing = Constants()
    try:
        with (
            mock.patch.object(limits, "MIN_MEMTABLE_BYTES", 1),
            mock.patch.object(wal, "_AHEAD", bytes(300)),
            mock.patch.object(wal, "_SMALL_FRAMES", 1),
            mock.patch.object(providers, "_get_local_constants", return_value=nothing),
        ):
            providers.CONSTANTS_CACHE.cache.clear()
            yield
    finally:
        providers.CONSTANTS_CACHE.cache.clear()
        logging.disable(disabled)


@off_main_thread
def run(job: Job) -> Figures:
    """Run the programs of a job; at the first that fails, shrink it."""
    matched = _TEXT.fullmatch(job.text)
    if matched is None or matched[1] not in NAMES:
        raise ValueError(f"no such job: {job.text}")
    name, programs, replay = matched.groups()
    figures = Figures()
    members: dict[str, Any] = {
        "figures": figures.counts,
        "states": figures.states,
        "policies": (NAMES[name],),
    }
    machine: Any = hypothesis.seed(job.seed)(type("Machine", (Machine,), members))
    if replay:
        version = hypothesis.__version__
        machine = hypothesis.reproduce_failure(version, replay.encode())(machine)
    printed: list[object] = []
    chosen = settings(
        max_examples=int(programs or 1),
        stateful_step_count=_STEPS,
        database=None,
        deadline=None,
        derandomize=False,
        print_blob=True,
        report_multiple_bugs=False,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    state = random.getstate()
    try:
        with surroundings(), with_reporter(printed.append):
            run_state_machine_as_test(machine, settings=chosen)
    except Exception as error:  # noqa: BLE001  # whatever it is, it is the finding
        text = "\n".join([*map(str, printed), *getattr(error, "__notes__", [])])
        error.__notes__ = []
        steps = [line for line in text.splitlines() if line and not _INVARIANT.match(line)]
        figures.fail(job, error, "\n".join(steps))
        figures.failures[-1] = smallest(figures.failures[-1], name, text)
    finally:
        random.setstate(state)
    return figures


def smallest(failure: Failure, name: str, steps: str) -> Failure:
    """The failure with the one program that shows it as its job, if Hypothesis named it."""
    found = re.search(r"reproduce_failure\('[^']*', b'([^']*)'\)", steps)
    if found is None:
        return failure
    return failure._replace(job=failure.job._replace(text=f"{name} replay={found[1]}"))


_SCALES: Final = {Scale.QUICK: (1, 45), Scale.FULL: (2, 95), Scale.SOAK: (2, 120)}
"""Jobs a policy, and programs a job."""

_PROGRAM_SECONDS: Final = 0.05


def jobs(scale: Scale, seed: int) -> list[Job]:
    rounds, programs = _SCALES[scale]
    names = [name for _ in range(rounds) for name in NAMES]
    return [
        Job("programs", f"{name} programs={programs}", seed + number, programs * _PROGRAM_SECONDS)
        for number, name in enumerate(names)
    ]


LAYER: Final = Layer("programs", "State machine over the public interface", jobs, run)
