"""The comparison of engines runs, checks answers, counts, and leaves nothing behind.

How fast anything is, is not for a test to say.
"""

from __future__ import annotations

import gc
import importlib.util
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, fields, replace
from itertools import chain
from pathlib import Path
from random import Random
from typing import Any, ClassVar

import pytest

from benchmarks import rendering, report, resources, runner
from benchmarks.dataset import Item
from benchmarks.distributions import Zipfian
from benchmarks.engines import DURABLE_POLICIES, ENGINES, SUBJECT, Sqlite, Walkv
from benchmarks.engines.walkv import sync_policy
from benchmarks.processes import run_job
from benchmarks.runner import Outcome
from benchmarks.worker import work
from benchmarks.workloads import GROUPS, WORKLOADS, base
from benchmarks.workloads.base import QUICK, Context, Options
from benchmarks.workloads.ycsb import MIXES, Operations

ROOT = Path(__file__).parent.parent
COMMAND = [sys.executable, "-m", "benchmarks", "--quick"]
CHOSEN = (
    "fillrandom",
    "fillsync-4k",
    "deleterandom",
    "readrandom-4k",
    "ycsb-e",
    "commit-threads-4",
    "commit-tasks-16",
)
TINY = replace(
    QUICK,
    entries=20,
    large_entries=20,
    seeks=5,
    durable_operations=2,
    commits=4,
    ycsb_records=20,
    ycsb_operations=20,
    open_entries=20,
)


def test_every_installed_engine_fills_every_row(tmp_path: Path) -> None:
    result, document = tmp_path / "result.json", tmp_path / "result.md"
    sizes = ["--entries", "400", "--large-entries", "40", "--durable-operations", "5"]
    named = [word for name in CHOSEN for word in ("--workload", name)]
    outputs = ["--directory", str(tmp_path), "--json", str(result), "--markdown", str(document)]
    done = subprocess.run(
        [*COMMAND, *named, *sizes, *outputs],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(result.read_text())
    modules = {"walkv", "sqlite3", "lmdb", "plyvel", "rocksdict", "diskcache"}
    installed = {name for name in modules if importlib.util.find_spec(name)}
    assert set(found["engines"]) == installed
    assert set(found["unavailable"]) == modules - installed
    for name in found["unavailable"]:
        assert f"{name} not available" in done.stdout
    assert found["errors"] == {}

    rows = {row["metric"]: row for row in found["rows"]}
    assert set(rows) == {metric.name for name in CHOSEN for metric in WORKLOADS[name].metrics}
    for name, row in rows.items():
        assert name in done.stdout
        assert f"| {name} |" in document.read_text()
        for engine, cell in row["engines"].items():
            if cell["inapplicable"]:
                assert (engine, cell["samples"]) == ("diskcache", [])
            else:
                assert len(cell["samples"]) == 1
                assert cell["samples"][0] > 0
        assert row["engines"]["sqlite3"]["times_baseline_cost"] == 1
    assert rows["commit-threads-4"]["series"] == "commit-threads"
    assert rows["commit-threads-4"]["x"] == 4

    used = {(row["workload"], row["engine"]): row for row in found["resources"]}
    assert {workload for workload, _ in used} == set(CHOSEN)
    for row in used.values():
        assert row["peak_memory_bytes"] > 1 << 20
        assert row["disk_bytes"] > 0
        if sys.platform.startswith("linux"):
            assert row["written_bytes"] is not None
    if sys.platform.startswith("linux"):
        for engine in installed:
            assert used["fillsync-4k", engine]["written_bytes"] >= 5 * 4096
    if found["syncs_not_counted"] is None:
        for engine in installed:
            assert used["fillsync-4k", engine]["sync_count"] >= 5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["result.json", "result.md"]


class Forgetful(Sqlite):
    """Loses the last byte of every value that it returns, and deletes nothing."""

    opened: ClassVar[list[Forgetful]] = []

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.opened.append(self)

    def get(self, key: bytes, /) -> bytes | None:
        value = super().get(key)
        return value[:-1] if value else None

    def scan(self, *, reverse: bool = False) -> Iterator[Item]:
        return ((key, value[:-1]) for key, value in super().scan(reverse=reverse))

    def read_from(self, start: bytes, count: int, /) -> list[Item]:
        return [(key, value[:-1]) for key, value in super().read_from(start, count)]

    def delete(self, key: bytes, /) -> None:
        pass


@pytest.fixture
def unfrozen() -> Iterator[None]:
    """The workloads take what exists out of the collector's way; the other tests shall not."""
    yield
    gc.unfreeze()


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in chain.from_iterable(GROUPS.values())
        if name not in GROUPS["memory"]
        and WORKLOADS[name].writers <= 64
        and WORKLOADS[name].scale <= 1_000
    ],
)
@pytest.mark.usefixtures("unfrozen")
def test_an_engine_with_wrong_answers_is_an_error(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "figures" in _run(name, "sqlite3", tmp_path / "right")
    monkeypatch.setitem(ENGINES, "forgetful", Forgetful)
    result = _run(name, "forgetful", tmp_path / "wrong")
    while Forgetful.opened:
        # A worker's process would have ended with the error.
        Forgetful.opened.pop().close()
    assert result["error"].startswith("WrongAnswerError: ")


def _run(name: str, engine: str, directory: Path) -> dict[str, Any]:
    """The result of a workload's first step that fails, or of its last, its fixture run before."""
    directory.mkdir()
    workload = WORKLOADS[name]
    job = {
        "engine": engine,
        "directory": str(directory),
        "options": asdict(workload.options(TINY)),
    }
    if workload.fixture:
        assert "error" not in work({**job, "step": workload.fixture.__name__})
    for step in workload.steps:
        result = work({**job, "step": step.__name__})
        if "error" in result:
            break
    return result


@pytest.mark.usefixtures("unfrozen")
def test_memory_is_not_measured_of_wrong_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class ForgetfulWalkv(Walkv):
        """Finds nothing."""

        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self.get: Any = dict[bytes, bytes]().get

    assert "figures" in _run("memory", SUBJECT, tmp_path / "right")
    monkeypatch.setattr(base, "Walkv", ForgetfulWalkv)
    assert _run("memory", SUBJECT, tmp_path / "wrong")["error"].startswith("WrongAnswerError: ")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_ended_run_leaves_nothing_behind(number: signal.Signals, tmp_path: Path) -> None:
    with subprocess.Popen(
        [*COMMAND, "--engine", SUBJECT, "--directory", str(tmp_path)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # Whoever runs the tests in the background may have told them to ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob(".benchmarks-*/*/store")) and time.monotonic() < deadline:
            time.sleep(0.005)
        assert process.poll() is None
        process.send_signal(number)
        assert process.wait(60) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_choice_that_leaves_nothing_is_explained() -> None:
    done = subprocess.run(
        [*COMMAND, "--workload", "readrandom", "--guarantee", "durable"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "--guarantee, --scale-entries or --most-writers excludes readrandom" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["--workload", "fillseq", "--workload", "scale-10000", "--scale-entries", "1000"],
        ["--workload", "fillseq", "--workload", "commit-threads-16", "--most-writers", "15"],
        ["--workload", "fillseq", "--workload", "fillsync", "--guarantee", "process"],
    ],
    ids=lambda arguments: arguments[3],
)
def test_a_named_workload_is_not_silently_left_out(arguments: list[str]) -> None:
    done = subprocess.run(
        [*COMMAND, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert f"excludes {arguments[3]}" in done.stderr


def test_a_peer_that_is_not_installed_is_named(tmp_path: Path) -> None:
    (tmp_path / "plyvel.py").write_text("raise ImportError('no such package here')")
    chosen = ["--workload", "fillsync", "--engine", SUBJECT, "--engine", "plyvel"]
    done = subprocess.run(
        [*COMMAND, *chosen, "--directory", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "plyvel not available: ImportError: no such package here" in done.stdout


@pytest.mark.parametrize("policy", DURABLE_POLICIES)
def test_the_policy_of_the_command_reaches_the_store(policy: str, tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    chosen = ["--workload", "fillsync", "--engine", SUBJECT, "--policy", policy]
    where = ["--directory", str(tmp_path), "--json", str(path)]
    subprocess.run([*COMMAND, *chosen, *where], cwd=ROOT, capture_output=True, check=True)
    found = json.loads(path.read_text())["options"]
    options = Options(**{field.name: found[field.name] for field in fields(Options)})
    engine = Context(SUBJECT, tmp_path, options).open_at_once("durable")
    assert isinstance(engine, Walkv)
    assert engine._store.stats().sync_policy == str(sync_policy("durable", policy))
    engine.close()
    assert str(sync_policy("durable", "wal")) != str(sync_policy("durable", "write-through"))


def test_engines_take_turns_and_each_job_has_its_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    limits_seconds = set()

    def recording_run_job(module: str, job: dict[str, Any], **how: Any) -> dict[str, Any]:
        limits_seconds.add(how["timeout_seconds"])
        if job["step"] is not None:
            steps.append(f"{job['step']} {job['engine']}")
        return run_job(module, job, **how)

    monkeypatch.setattr(runner, "run_job", recording_run_job)
    labels: list[str] = []
    outcome = runner.Runner(
        engines=("walkv", "sqlite3"),
        workloads=[WORKLOADS["fillsync"], WORKLOADS["readmissing"]],
        options=TINY,
        repetitions=3,
        warm_ups=1,
        root=tmp_path,
        environment={},
        timeout_seconds=123.0,
        progress=lambda label, done, total: labels.append(label),
    ).run()
    assert outcome.errors == {}
    assert limits_seconds == {123.0}
    there, back = ["walkv", "sqlite3"], ["sqlite3", "walkv"]
    fills = [f"fillsync {engine}" for engine in (*back, *there, *back, *there)]
    # The store that is read is made once for each engine.
    once = [f"{step} {engine}" for engine in there for step in ("settled_store", "readmissing")]
    reads = [f"readmissing {engine}" for engine in (*back, *there)]
    assert steps == [*fills, *once, *reads]
    assert labels[:3] == [
        "fillsync, sqlite3, warm-up",
        "fillsync, walkv, warm-up",
        "fillsync, walkv, 1 of 3",
    ]
    # What a warm-up measured is forgotten.
    for name in ("fillsync", "readmissing"):
        assert {len(samples) for samples in outcome.figures[name].values()} == {3}


def test_a_job_that_takes_too_long_is_ended() -> None:
    result = run_job("http.server", {}, environment={"PYTHONUNBUFFERED": "1"}, timeout_seconds=1)
    assert result == {"error": "not done after 1 s"}


def test_latency_without_compaction_is_an_error(tmp_path: Path) -> None:
    options = asdict(replace(QUICK, latency_memtable_bytes=128 << 20))
    job = {"engine": SUBJECT, "step": "latency_put", "directory": str(tmp_path), "options": options}
    error = work(job)["error"]
    assert error.startswith("TooSmallError")
    assert "--latency-operations" in error


def test_losses_and_missed_targets_are_listed() -> None:
    outcome = Outcome(
        versions={"walkv": "1", "sqlite3": "2", "plyvel": "3"},
        figures={
            "fillseq": {"walkv": [1.0, 3.0, 2.0], "sqlite3": [20.0], "plyvel": [1.0]},
            "commit-threads-4": {"walkv": [500.0], "sqlite3": [200.0], "plyvel": [400.0]},
        },
    )
    workloads = [WORKLOADS["fillseq"], WORKLOADS["commit-threads-4"]]
    rows = report.rows(outcome, workloads)
    found = report.to_json(rows, [], {})
    assert found["losses"] == [
        {
            "metric": "fillseq",
            "best_peer": "plyvel",
            "times_best_peer_cost": 2.0,
            "above_limit": True,
        }
    ]
    assert found["below_baseline_target"] == [
        {"metric": "commit-threads-4", "times_baseline_speed": 2.5}
    ]
    assert found["rows"][0]["engines"]["walkv"]["samples"] == [1.0, 3.0, 2.0]
    assert found["rows"][1]["engines"]["walkv"]["times_best_peer_cost"] == pytest.approx(0.8)
    assert [row.metric.name for row in report.rows(outcome, workloads, ["durable"])] == [
        "commit-threads-4"
    ]


@pytest.mark.parametrize(
    ("metric", "subject", "peer", "ratio"),
    [
        ("fillseq", 0.0, 0.0, 1.0),
        ("fillseq", 0.0, 2.0, 0.0),
        ("fillseq", 2.0, 0.0, math.inf),
        ("commit-threads-4", 0.0, 0.0, 1.0),
        ("commit-threads-4", 0.0, 2.0, math.inf),
        ("commit-threads-4", 2.0, 0.0, 0.0),
    ],
)
def test_a_figure_of_nothing_is_a_figure(
    metric: str, subject: float, peer: float, ratio: float
) -> None:
    outcome = Outcome(
        versions={"walkv": "1", "sqlite3": "2"},
        figures={metric: {"walkv": [subject], "sqlite3": [peer]}},
    )
    (row,) = report.rows(outcome, [WORKLOADS[metric]])
    assert row.best_peer == "sqlite3"
    assert row.cells["walkv"].median == subject
    assert row.cells["walkv"].times_best_peer_cost == ratio
    assert (row.loss is not None) == (ratio > 1)
    about = {"version": "1", "configuration": "-"}
    empty = ("unavailable", "errors", "left_out", "inapplicable", "machine", "options")
    facts: dict[str, Any] = {name: {} for name in empty}
    facts |= {"engines": {"walkv": about, "sqlite3": about}, "git_commit": "", "date": ""}
    facts |= {"syncs_not_counted": None, "page_cache_dropped": True}
    assert ("xinfinite" in rendering.to_markdown([row], [], facts)) == (ratio in (0, math.inf))


def test_rows_that_repeat_others_are_no_losses() -> None:
    names = ("sustained-kept", "sustained-longest-put", "sustained-last")
    outcome = Outcome(
        versions={"walkv": "1", "sqlite3": "2"},
        figures={
            "sustained-kept": {"walkv": [0.5], "sqlite3": [1.0]},
            "sustained-longest-put": {"walkv": [9.0], "sqlite3": [1.0]},
            "sustained-last": {"walkv": [5.0], "sqlite3": [10.0]},
        },
    )
    rows = [
        row for row in report.rows(outcome, [WORKLOADS["sustained"]]) if row.metric.name in names
    ]
    assert [row.loss for row in rows] == [2.0, 2.0, 9.0]
    assert [row.metric.name for row in report.losses(rows)] == ["sustained-last"]


def test_a_failed_engine_has_no_figure() -> None:
    outcome = Outcome(
        versions={"walkv": "1", "sqlite3": "2"},
        figures={"fillseq": {"walkv": [1.0], "sqlite3": [20.0]}},
        errors={"fillseq": {"walkv": "WrongAnswerError: x"}},
    )
    (row,) = report.rows(outcome, [WORKLOADS["fillseq"]])
    assert row.cells["walkv"].median is None
    assert row.cells["walkv"].times_baseline_cost is None
    assert report.losses([row]) == []


def test_of_several_steps_memory_is_the_largest_and_writes_are_the_sum() -> None:
    def usage(number: int) -> dict[str, int | None]:
        return {
            "peak_memory_bytes": 10 - number,
            "written_bytes": number,
            "passed_bytes": None,
            "sync_count": number,
            "disk_bytes": number,
        }

    outcome = Outcome(resources={"w": {"walkv": [[usage(1), usage(2)], [usage(3), usage(4)]]}})
    (row,) = report.resource_rows(outcome)
    assert row.samples[0] == {
        "peak_memory_bytes": 9,
        "written_bytes": 3,
        "passed_bytes": None,
        "sync_count": 3,
        "disk_bytes": 2,
    }
    assert row.usage["sync_count"] == 5
    assert row.usage["passed_bytes"] is None


def test_syncs_are_counted_and_still_done(tmp_path: Path) -> None:
    try:
        library = resources.compile_sync_counter(tmp_path)
    except resources.NotCountedError as error:
        pytest.skip(str(error))
    program = (
        "import mmap, os, sys\n"
        "from benchmarks.resources import Meter\n"
        "meter = Meter()\n"
        "file = os.open('x', os.O_RDWR | os.O_CREAT)\n"
        "os.write(file, bytes(4096)); os.fsync(file); os.fdatasync(file)\n"
        "mmap.mmap(file, 4096).flush()\n"
        "always = os.open('y', os.O_WRONLY | os.O_CREAT | os.O_DSYNC)\n"
        "os.write(always, b'1'); os.pwrite(always, b'2', 0)\n"
        "os.writev(always, [b'1']); os.pwritev(always, [b'2'], 0); os.close(always)\n"
        "os.write(os.open('z', os.O_WRONLY | os.O_CREAT), b'3')\n"
        "try: os.fsync(999)\n"
        "except OSError: print(meter.read(__import__('pathlib').Path())['sync_count'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), **resources.preloaded(library)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "8"


def test_ranks_follow_zipfs_law() -> None:
    count, draws = 1_000, 50_000
    zipfian = Zipfian(count, Random(1))
    found = Counter(zipfian.next() for _ in range(draws))
    assert min(found) == 0
    assert max(found) < count
    zeta = sum(1 / rank**0.99 for rank in range(1, count + 1))
    # The method is exact for the first two ranks, and near the law, taken together, beyond them.
    for rank in (0, 1):
        assert found[rank] / draws == pytest.approx(1 / (rank + 1) ** 0.99 / zeta, rel=0.05)
    hundred = sum(1 / rank**0.99 for rank in range(1, 101)) / zeta
    assert sum(found[rank] for rank in range(100)) / draws == pytest.approx(hundred, rel=0.05)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_ranks_stay_in_range(count: int) -> None:
    zipfian = Zipfian(count, Random(1))
    assert {zipfian.next() for _ in range(500)} == set(range(count))


@pytest.mark.parametrize("mix", MIXES, ids=lambda mix: mix.letter)
def test_every_engine_is_given_the_same_mix(mix: Any, tmp_path: Path) -> None:
    options = replace(TINY, ycsb_records=100, ycsb_operations=4_000)
    engine = Sqlite(tmp_path / "store", "process", value_bytes=options.ycsb_value_bytes)
    first, second = (Operations(mix, options).calls(engine) for _ in range(2))
    engine.close()
    assert [arguments for _, arguments in first] == [arguments for _, arguments in second]
    kinds = Counter(call.__name__ for call, _ in first)
    shares = {
        "get": mix.read,
        "put": mix.update + mix.insert,
        "read_from": mix.scan,
        "read_modify_write": mix.read_modify_write,
    }
    for name, percent in shares.items():
        assert kinds[name] / 40 == pytest.approx(percent, abs=3)
