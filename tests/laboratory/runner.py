"""Runs jobs on all cores: once, or round after round for hours."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field

from tests.laboratory.layer import Figures, Job, Scale
from tests.laboratory.layers import layer, run_job

Tell = Callable[[Job, Figures, int, int], None]
"""Called with a job that has ended, what it found, and how many of how many are done."""


@dataclass
class Results:
    """What was found.

    Attributes:
        figures: of each layer.
        seconds: of each layer, over all cores.
        elapsed_seconds: in all.
        rounds: of a soak; 1 otherwise.
        interrupted: Ctrl-C came before the end.
    """

    figures: dict[str, Figures] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    elapsed_seconds: float = 0.0
    rounds: int = 0
    interrupted: bool = False

    def total(self) -> Figures:
        """All layers together."""
        sum_of_all = Figures()
        for figures in self.figures.values():
            sum_of_all.add(figures)
        return sum_of_all


def run(names: Iterable[str], scale: Scale, seed: int, *, workers: int, tell: Tell) -> Results:
    """Every job of some layers once."""
    results = Results()
    _round(results, tuple(names), scale, seed, workers, tell)
    return results


def soak(names: Iterable[str], hours: float, seed: int, *, workers: int, tell: Tell) -> Results:
    """Random jobs with ever new seeds until the time is over, or the first failure."""
    results = Results()
    names = tuple(names)
    deadline = time.monotonic() + hours * 3600
    while not results.interrupted and time.monotonic() < deadline:
        _round(results, names, Scale.SOAK, seed + results.rounds * 1000, workers, tell)
        if results.total().failures:
            break
    return results


def _round(
    results: Results, names: tuple[str, ...], scale: Scale, seed: int, workers: int, tell: Tell
) -> None:
    began = time.monotonic()
    jobs = [job for name in names for job in layer(name).jobs(scale, seed)]
    # The longest first, so that no core waits for one that was begun last.
    jobs.sort(key=lambda job: -job.weight)
    for name in names:
        results.figures.setdefault(name, Figures())
        results.seconds.setdefault(name, 0.0)
    try:
        _run_all(results, jobs, workers, tell)
    except KeyboardInterrupt:
        results.interrupted = True
    results.rounds += 1
    results.elapsed_seconds += time.monotonic() - began


def _run_all(results: Results, jobs: list[Job], workers: int, tell: Tell) -> None:
    # Fresh processes that have no threads: some layers fork.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context)
    try:
        running = {pool.submit(_timed, job): job for job in jobs}
        done_count = 0
        while running:
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                job = running.pop(future)
                figures, seconds = _result(future, job)
                done_count += 1
                results.figures[job.layer].add(figures)
                results.seconds[job.layer] += seconds
                tell(job, figures, done_count, len(jobs))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _timed(job: Job) -> tuple[Figures, float]:
    began = time.process_time()
    figures = run_job(job)
    return figures, time.process_time() - began


def _result(future: Future[tuple[Figures, float]], job: Job) -> tuple[Figures, float]:
    try:
        return future.result()
    except BrokenProcessPool as error:
        figures = Figures()
        figures.fail(job, error, "the process that ran this job, or one beside it, has died")
        return figures, 0.0
