"""Runs jobs on all cores: once, or round after round for hours."""

from __future__ import annotations

import multiprocessing
import resource
import time
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field

from tests.laboratory.job import Figures, Job, Scale
from tests.laboratory.registry import NAMES, find, run_job

Tell = Callable[[Job, Figures, int, int], None]
"""Called with a job that has ended, what it found, and how many of how many are done."""

Stop = Callable[[], None]
"""Called when Ctrl-C came, before the jobs under way are waited for."""


@dataclass
class Results:
    """What was found.

    Attributes:
        figures: of each layer.
        seconds: of work in each layer, over all cores, children included.
        job_count: jobs that have ended.
        elapsed_seconds: in all.
        rounds: of a soak; 1 otherwise.
        interrupted: Ctrl-C came before the end.
    """

    figures: dict[str, Figures] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    elapsed_seconds: float = 0.0
    job_count: int = 0
    rounds: int = 0
    interrupted: bool = False

    def total(self) -> Figures:
        """All layers together."""
        sum_of_all = Figures()
        for figures in self.figures.values():
            sum_of_all.add(figures)
        return sum_of_all


def run(
    names: Iterable[str], scale: Scale, seed: int, *, workers: int, tell: Tell, stop: Stop
) -> Results:
    """Every job of some layers once."""
    results = Results()
    _round(results, tuple(names), scale, seed, workers, tell, stop)
    return results


def soak(
    names: Iterable[str], hours: float, seed: int, *, workers: int, tell: Tell, stop: Stop
) -> Results:
    """Random jobs with ever new seeds until the time is over, or the first failure.

    A round that has begun is ended, so it takes somewhat longer.
    """
    results = Results()
    names = tuple(names)
    deadline = time.monotonic() + hours * 3600
    while not results.interrupted and time.monotonic() < deadline:
        before = results.job_count
        _round(results, names, Scale.SOAK, seed + results.rounds * 1000, workers, tell, stop)
        if results.total().failures or results.job_count == before:
            break
    return results


def _round(
    results: Results,
    names: tuple[str, ...],
    scale: Scale,
    seed: int,
    workers: int,
    tell: Tell,
    stop: Stop,
) -> None:
    began = time.monotonic()
    try:
        jobs = [job for name in names for job in find(name).jobs(scale, seed)]
        # The longest first, so that no core waits for one that was begun last.
        jobs.sort(key=lambda job: -job.weight)
        _run_all(results, jobs, workers, tell, stop)
    except KeyboardInterrupt:
        results.interrupted = True
    # In the order of the report, whichever ended first.
    results.figures = {n: results.figures[n] for n in NAMES if n in results.figures}
    results.rounds += 1
    results.elapsed_seconds += time.monotonic() - began


def _run_all(results: Results, jobs: list[Job], workers: int, tell: Tell, stop: Stop) -> None:
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
                results.figures.setdefault(job.layer, Figures()).add(figures)
                results.seconds[job.layer] = results.seconds.get(job.layer, 0.0) + seconds
                results.job_count += 1
                tell(job, figures, done_count, len(jobs))
    except KeyboardInterrupt:
        stop()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _timed(job: Job) -> tuple[Figures, float]:
    began = _seconds_used()
    figures = run_job(job)
    return figures, _seconds_used() - began


def _seconds_used() -> float:
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used)


def _result(future: Future[tuple[Figures, float]], job: Job) -> tuple[Figures, float]:
    try:
        return future.result()
    except BrokenProcessPool as error:
        figures = Figures()
        figures.fail(job, error, "the process that ran this job, or one beside it, has died")
        return figures, 0.0
