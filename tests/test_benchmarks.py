"""The benchmarks run; how fast is not for a test to say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_work_of_an_agent_is_measured(tmp_path: Path) -> None:
    result = tmp_path / "result.json"
    command = [sys.executable, "-m", "benchmarks.agent", "--quick"]
    done = subprocess.run(
        [*command, "--directory", str(tmp_path), "--json", str(result)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(result.read_text())
    assert len(found["rows"]) >= 19
    for row in found["rows"]:
        assert row["name"] in done.stdout
        assert set(row["samples"]) == {"walkv", "sqlite"}
        assert all(sample > 0 for samples in row["samples"].values() for sample in samples)
    assert set(found["disk_bytes"]) == {"walkv", "sqlite"}
    assert found["growth"][0]["records"] == 1000


def test_the_work_of_a_graph_is_measured(tmp_path: Path) -> None:
    result = tmp_path / "result.json"
    command = [sys.executable, "-m", "benchmarks.langgraph", "--quick"]
    done = subprocess.run(
        [*command, "--directory", str(tmp_path), "--json", str(result)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(result.read_text())
    assert len(found["rows"]) == 23
    for row in found["rows"]:
        assert row["name"] in done.stdout
        assert {"walkv", "sqlite"} <= set(row["samples"])
        assert all(sample > 0 for samples in row["samples"].values() for sample in samples)
    sizes = [*found["sizes"], *(size for sizes in found["growth"].values() for size in sizes)]
    assert {size["side"] for size in sizes} == {"walkv", "sqlite"}
    for size in sizes:
        assert size["what"] in done.stdout
        assert f"{size['closed_bytes']:,}" in done.stdout
        assert size["reclaimed_bytes"] > 0
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]
