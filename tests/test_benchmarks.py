"""The benchmarks run; how fast is not for a test to say."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.agent import parts as agent_parts
from benchmarks.agent.sqlite_side import SqliteSide
from benchmarks.agent.tasks import TARGET_ROWS
from benchmarks.agent.timing import Call, time_threads
from benchmarks.comparison import Row, losses, table
from benchmarks.langgraph import options as graph_options
from benchmarks.langgraph.sides import SIDES
from benchmarks.langgraph.worker import MEASURES

ROOT = Path(__file__).parent.parent


def _run(module: str, tmp_path: Path, *options: str) -> tuple[str, dict[str, Any]]:
    """What a quick run printed, and its JSON; what it leaves behind is these files only."""
    result, page = tmp_path / "result.json", tmp_path / "result.md"
    command = [sys.executable, "-m", module, "--quick", "--directory", str(tmp_path)]
    done = subprocess.run(
        [*command, "--json", str(result), "--markdown", str(page), *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert page.read_text() == done.stdout
    return done.stdout, json.loads(result.read_text())


def _is_shown(row: dict[str, Any], page: str) -> bool:
    return any(line.startswith(f"| {row['name']} ") for line in page.splitlines())


def test_the_work_of_an_agent_is_measured(tmp_path: Path) -> None:
    page, found = _run("benchmarks.agent", tmp_path, "--seed", "7")
    missing = set(found["facts"]["unavailable"])
    assert missing <= {"openai-agents", "agentfs"}  # what an environment may lack
    for side in missing:
        assert f"{side} is not available" in page
    assert {row["part"] for row in found["rows"]} == set(agent_parts.PARTS)
    for row in found["rows"]:
        assert _is_shown(row, page)
        sides = set(agent_parts.PARTS[row["part"]].sides) - missing
        assert set(row["samples"]) == sides
        assert set(row["times_as_good"]) == sides - {"walkv"}
        assert all(sample > 0 for samples in row["samples"].values() for sample in samples)
    for name in TARGET_ROWS:
        peer = "agentfs" if "tool call" in name else "openai-agents"
        shown = [line for line in page.splitlines() if line.startswith(f"- {name}")]
        assert peer in missing or any(f"x {peer}, m" in line for line in shown)
    assert found["facts"]["options"]["seed"] == 7
    assert {path.name for path in tmp_path.iterdir()} == {"result.json", "result.md"}


@pytest.mark.parametrize("module", ["benchmarks.agent", "benchmarks.langgraph"])
def test_a_run_that_is_terminated_leaves_nothing_behind(module: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", module, "--directory", str(tmp_path)]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        # Until a store is written to, by a process of its own.
        while not list(tmp_path.glob("*/*/*")) and process.poll() is None:
            time.sleep(0.01)
        process.terminate()
        process.communicate()
    assert process.returncode != 0
    assert not list(tmp_path.iterdir())


def test_threads_of_an_agent_append_whatever_they_are_told(tmp_path: Path) -> None:
    side = SqliteSide(tmp_path, "durable")
    message = {"role": "user", "content": "hello", "metadata": {}}

    def appending(thread: int) -> Call:
        append = side.appender()
        return lambda _: append(f"session-{thread}", message)

    assert time_threads([appending(thread) for thread in range(8)], 5) > 0
    assert [side.last(f"session-{thread}", 50) for thread in range(8)] == [10] * 8
    side.close()


def test_an_error_in_a_thread_is_not_lost() -> None:
    def fails(number: int) -> None:
        raise ArithmeticError(number)

    with pytest.raises(ArithmeticError):
        time_threads([fails, lambda number: None], 1)


def test_a_row_says_how_many_times_as_good_walkv_is() -> None:
    slower = Row("wait", "read", "us", "p", {"walkv": [2.0, 4.0, 3.0], "peer": [6.0]})
    lost = Row("work", "durable", "steps/s", "p", {"walkv": [10.0], "peer": [40.0]})
    alone = Row("alone", "read", "us", "p", {"walkv": [1.0]})
    assert slower.times_as_good("peer") == 2
    assert lost.times_as_good("peer") == 0.25
    assert alone.times_as_good("peer") is None
    page = table([slower, lost, alone], ["walkv", "peer"])
    assert "3.00 (2.00-4.00)" in page
    assert "6.00 2.00x" in page
    assert "**0.25x**" in page
    assert losses([slower, lost, alone], ["peer"]) == [
        "walkv loses 1 of 2 comparisons",
        "work, durable: 0.25x peer",
    ]
    assert "**" not in table([lost], ["walkv", "peer"], ceilings=["peer"])


def test_a_package_that_is_not_installed_is_named(tmp_path: Path) -> None:
    (tmp_path / "agentfs_sdk.py").write_text("raise ImportError('no such package here')")
    options = ["--quick", "--part", "values", "--directory", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.agent", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert "agentfs is not available: ImportError: pip install agentfs-sdk" in done.stdout
    assert "set a small value" in done.stdout


def test_every_micro_benchmark_runs(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.micro", "--quick", "-v"]
    done = subprocess.run(
        [*command, "--directory", str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
    sources = "".join(path.read_text() for path in (ROOT / "benchmarks" / "micro").glob("bench_*"))
    declared = set(re.findall(r"^def (bench_\w+)", sources, re.MULTILINE))
    assert declared == set(re.findall(r"::(bench_\w+)\S* PASSED", done.stdout))
    assert not list(tmp_path.iterdir())


def test_a_run_of_micro_benchmarks_is_kept_to_be_compared(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    quickly = ["--benchmark-max-time=0.01", "--benchmark-min-rounds=2", "-k", "frame_encode"]
    command = [sys.executable, "-m", "benchmarks.micro", "--directory", str(tmp_path), *quickly]
    command += [f"--benchmark-storage={kept}", "--benchmark-save=before"]
    # A run of its own, and not a worker of the one that this is a part of.
    own = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    subprocess.run(command, cwd=ROOT, env=own, capture_output=True, check=True)
    (before,) = kept.rglob("*_before.json")
    shutil.copy(before, before.with_name("0002_after.json"))  # as of another commit
    compare = [sys.executable, "-m", "pytest_benchmark", "--storage", str(kept), "compare"]
    done = subprocess.run(compare, cwd=ROOT, capture_output=True, text=True, check=True)
    for name in ("0001_before", "0002_after"):
        assert f"bench_frame_encode ({name})" in done.stdout


def test_the_costs_of_a_put_and_of_a_get_are_taken_apart(tmp_path: Path) -> None:
    result = tmp_path / "result.json"
    command = [sys.executable, "-m", "benchmarks.cost_model", "--quick"]
    done = subprocess.run(
        [*command, "--directory", str(tmp_path), "--json", str(result)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    operations = json.loads(result.read_text())["operations"]
    kinds = {operation["name"][:3] for operation in operations}
    assert kinds >= {"put", "get"}
    for operation in operations:
        assert f"## {operation['name']}\n" in done.stdout
        summed_ns = sum(step["elapsed_ns"] for step in operation["steps"])
        assert operation["sum_ns"] == pytest.approx(summed_ns)
        assert operation["whole_ns"] == pytest.approx(summed_ns + operation["residual_ns"])
        assert all(step["name"] in done.stdout for step in operation["steps"])
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_the_cost_of_encryption_is_measured(tmp_path: Path) -> None:
    result = tmp_path / "result.json"
    command = [sys.executable, "-m", "benchmarks.encryption", "--quick"]
    done = subprocess.run(
        [*command, "--directory", str(tmp_path), "--json", str(result)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    rows = json.loads(result.read_text())["rows"]
    assert len(rows) >= 6
    for row in rows:
        assert row["name"] in done.stdout
        assert row["plain_ns"] > 0
        assert row["encrypted_ns"] > 0
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_the_work_of_a_graph_is_measured(tmp_path: Path) -> None:
    drawn = tmp_path / "growth.svg"
    page, found = _run("benchmarks.langgraph", tmp_path, "--plot", str(drawn))
    assert {row["part"] for row in found["rows"]} == set(graph_options.PARTS) == set(MEASURES)
    assert set(graph_options.NAMES) == set(SIDES)
    longest = graph_options.QUICK.growth_turns["walkv"][-1]
    of_walkv_only = graph_options.size_names(graph_options.of_turns(longest))
    for row in found["rows"]:
        assert _is_shown(row, page)
        assert "walkv" in row["samples"]
        assert ("sqlite" in row["samples"]) == (row["name"] not in of_walkv_only)
        assert all(sample > 0 for samples in row["samples"].values() for sample in samples)
    assert drawn.read_text().startswith("<?xml")
    assert {path.name for path in tmp_path.iterdir()} == {"growth.svg", "result.json", "result.md"}


def test_a_plot_that_cannot_be_drawn_is_refused_before_anything_is_measured(
    tmp_path: Path,
) -> None:
    command = [sys.executable, "-m", "benchmarks.langgraph", "--directory", str(tmp_path)]
    for options, complaint in (
        (["--plot", str(tmp_path / "growth.doc")], "the name ends in none of"),
        (["--plot", str(tmp_path / "growth.svg"), "--part", "turns"], "add --part growth"),
    ):
        done = subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 2
        assert complaint in done.stderr
