"""The long workloads run at small sizes, and their pictures are drawn; looks are for people."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from benchmarks.dataset import Dataset
from benchmarks.workloads.base import QUICK
from benchmarks.workloads.latency import percentile
from benchmarks.workloads.streams import scattered_batches
from benchmarks.workloads.sustained import WINDOWS

ROOT = Path(__file__).parent.parent
WORKLOADS = (
    "fillsync",
    "commit-threads-1",
    "commit-threads-4",
    "latency-put",
    "latency-get",
    "sustained",
    "memory",
    "scale-1000",
    "scale-10000",
)
PICTURES = {
    "benchmarks-concurrency.svg",
    "benchmarks-durable-fills.svg",
    "benchmarks-latency.svg",
    "benchmarks-memory.svg",
    "benchmarks-process-latency.svg",
    "benchmarks-process-sustained.svg",
    "benchmarks-scale.svg",
    "benchmarks-sustained.svg",
}


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def result_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of every kind of workload that has a picture."""
    directory = tmp_path_factory.mktemp("run")
    path = directory / "result.json"
    chosen = [word for name in WORKLOADS for word in ("--workload", name)]
    engines = ["--engine", "walkv", "--engine", "sqlite3"]
    where = ["--directory", str(directory), "--json", str(path)]
    # Three processes take longer than a tenth of a second: the size after the first is left out.
    limit = ["--scale-limit-seconds", "1"]
    done = _run("benchmarks", "--quick", *chosen, *engines, *where, *limit)
    assert done.returncode == 0, done.stderr
    return path


@pytest.fixture
def result(result_path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(result_path.read_text())
    return found


def test_each_long_workload_fills_its_rows(result: dict[str, Any]) -> None:
    for row in result["rows"]:
        if row["workload"] == "scale-10000":
            continue
        alone = row["workload"] == "memory" or row["metric"].endswith("-compactions")
        engines = {"walkv"} if alone else {"walkv", "sqlite3"}
        medians = {engine: row["engines"][engine]["median"] for engine in engines}
        assert None not in medians.values(), (row["metric"], medians)


def test_a_size_that_would_take_too_long_is_left_out_and_named(result: dict[str, Any]) -> None:
    assert set(result["left_out"]) == {"scale-10000"}
    for reason in result["left_out"]["scale-10000"].values():
        assert "ten times scale-1000" in reason
        assert "--scale-limit-seconds" in reason


def test_steps_report_curves(result: dict[str, Any]) -> None:
    (points,) = result["series"]["sustained-rate"]["walkv"]
    window_entries = QUICK.sustained_entries // WINDOWS
    assert [x for x, _ in points] == [window_entries * (n + 1) for n in range(WINDOWS)]
    (points,) = result["series"]["latency-put-compacting"]["walkv"]
    latencies = [y for _, y in points]
    assert latencies == sorted(latencies)
    rows = {row["metric"]: row["engines"]["walkv"]["median"] for row in result["rows"]}
    assert latencies[-1] == rows["latency-put-compacting-max"]
    grown = rows["latency-put-compacting-p99"] / rows["latency-put-rest-p99"]
    assert grown == pytest.approx(rows["latency-put-p99-grown"])
    assert rows["latency-put-compactions"] > 0
    assert rows["latency-get-compactions"] > 0


def test_memory_stays_within_what_the_target_allows(result: dict[str, Any]) -> None:
    rows = {row["metric"]: row["engines"]["walkv"]["median"] for row in result["rows"]}
    assert rows["memory-data"] >= QUICK.memory_ratio * rows["memory-budget"]
    for step in ("memory-fill", "memory-scan", "memory-get"):
        assert rows[step] < rows["memory-limit"]


def test_pictures_are_drawn_and_the_same_again(result_path: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the pictures need the extra bench")
    drawn = []
    for directory in (tmp_path / "first", tmp_path / "second"):
        done = _run("benchmarks.plots", str(result_path), "--into", str(directory))
        assert done.returncode == 0, done.stderr
        drawn.append({path.name: path.read_bytes() for path in directory.iterdir()})
    assert set(drawn[0]) == PICTURES
    assert drawn[0] == drawn[1]
    for content in drawn[0].values():
        assert ElementTree.fromstring(content).tag.endswith("svg")


def test_pictures_have_no_place_unless_it_is_named(result_path: Path) -> None:
    done = _run("benchmarks.plots", str(result_path))
    assert done.returncode == 2
    assert "--into" in done.stderr


def test_what_a_result_does_not_have_is_said(result: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the pictures need the extra bench")
    from benchmarks.plots.bars import draw_bars
    from benchmarks.plots.results import load

    result["rows"] = [row for row in result["rows"] if row["group"] != "concurrency"]
    for row in result["rows"]:
        if row["metric"] == "sustained-close":
            row["engines"]["sqlite3"].update(median=None, times_best_peer_cost=None)
    result["errors"] = {"sustained": {"sqlite3": "the disk is full"}}
    result["unavailable"] = {"lmdb": "No module named 'lmdb'"}
    path = tmp_path / "result.json"
    path.write_text(json.dumps(result))
    done = _run("benchmarks.plots", str(path), "--into", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "benchmarks-concurrency.svg: not drawn, the result has no such rows" in done.stdout
    assert not (tmp_path / "benchmarks-concurrency.svg").exists()

    figure = draw_bars(load(path), "sustained", "process")
    assert figure is not None
    texts = [text.get_text() for text in figure.texts]
    assert "sustained of sqlite3 failed: the disk is full" in "\n".join(texts)
    assert "lmdb is not available" in "\n".join(texts)
    labels = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert labels.count("not measured") == 1


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"schema_version": 0}'])
def test_what_is_not_a_result_is_refused_with_the_way_to_one(content: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the pictures need the extra bench")
    path = tmp_path / "other.json"
    path.write_text(content)
    done = _run("benchmarks.plots", str(path), "--into", str(tmp_path / "pictures"))
    assert done.returncode == 1
    assert "python -m benchmarks" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "pictures").exists()


@pytest.mark.parametrize(
    ("percent", "expected"), [(50, 500), (99, 990), (99.9, 999), (99.95, 1000), (100, 1000)]
)
def test_a_percentile_is_the_nearest_rank(percent: float, expected: int) -> None:
    assert percentile(list(range(1, 1001)), percent) == expected


def test_a_percentile_of_one_is_that_one() -> None:
    assert percentile([7], 50) == 7


@pytest.mark.parametrize("entries", [1, 999, 1_000, 4_097])
def test_the_scattered_order_visits_every_entry_once(entries: int) -> None:
    data = Dataset(entries, 100, seed=1)
    batches = list(scattered_batches(data, 1_000))
    assert [len(batch) for batch in batches[:-1]] == [1_000] * (len(batches) - 1)
    items = [item for batch in batches for item in batch]
    assert sorted(items) == [(data.key(i), data.value(i)) for i in range(entries)]
    assert entries < 10 or items != sorted(items)
