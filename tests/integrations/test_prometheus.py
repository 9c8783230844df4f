"""What Prometheus is told: its own parser reads what a store gives, and the numbers agree."""

from __future__ import annotations

import asyncio
import math
import re
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

import walkv
from walkv import AgentStore, AsyncAgentStore, StoreFailedError
from walkv.integrations.measures import HEALTH, MEASURES, Kind
from walkv.integrations.prometheus import WalkvCollector, published_text, text
from walkv.testing import Fault, FaultyFileSystem, SimulatedFileSystem

ROOT = Path(__file__).parent.parent.parent


def parsed(answer: bytes) -> dict[str, Metric]:
    """Families by name; fails where one comes twice."""
    families = list(text_string_to_metric_families(answer.decode()))
    found = {family.name: family for family in families}
    assert len(found) == len(families)
    return found


def value(answer: bytes, name: str, **labels: str) -> float:
    """The one sample with this name and at least these labels."""
    (sample,) = [
        sample
        for family in parsed(answer).values()
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]
    return sample.value


def test_the_numbers_are_those_of_the_store(tmp_path: Path) -> None:
    with walkv.open(tmp_path / "s.walkv") as store:
        for number in range(50):
            store.put(b"%d" % number, b"value")
        store.compact()
        store.put(b"more", b"value")
        answer, stats = text(store), store.stats()
        assert value(answer, "walkv_commits_total", store=store.path) == stats.commit_count == 51
        assert value(answer, "walkv_log_written_bytes_total") == stats.written_bytes > 51 * 40
        assert value(answer, "walkv_log_syncs_total") == stats.sync_count
        assert value(answer, "walkv_snapshots") == 1
        assert value(answer, "walkv_memtable_entries") == 1
        assert value(answer, "walkv_disk_used_bytes") == stats.disk_bytes
        assert value(answer, "walkv_disk_free_bytes") > 0
        assert value(answer, "walkv_uptime_seconds") > 0
        assert value(answer, "walkv_background_failing") == 0
        assert value(answer, "walkv_store_info", sync_policy="Wal()", read_only="false") == 1


def test_histograms_are_those_of_prometheus(tmp_path: Path) -> None:
    with walkv.open(tmp_path / "s.walkv") as store:
        before = text(store)
        for number in range(40):
            store.put(b"%d" % number, b"value")
        answer, syncs = text(store), store.stats().sync_seconds
    name = "walkv_log_sync_duration_seconds"
    family = parsed(answer)[name]
    assert family.type == "histogram"
    buckets = {
        float(sample.labels["le"]): sample.value
        for sample in family.samples
        if sample.name == f"{name}_bucket"
    }
    assert list(buckets) == sorted(buckets)
    assert max(buckets) == math.inf
    assert list(buckets.values()) == sorted(buckets.values()), "they are cumulative"
    assert buckets[math.inf] == value(answer, f"{name}_count") == syncs.count >= 40
    assert value(answer, f"{name}_sum") == pytest.approx(syncs.total)
    middle = min(bound for bound, below in buckets.items() if below >= syncs.count / 2)
    assert min(bound for bound in buckets if bound >= syncs.percentile(50)) <= middle * 2
    empty = [sample for sample in parsed(before)[name].samples if sample.name == f"{name}_bucket"]
    assert {float(sample.labels["le"]) for sample in empty} == set(buckets)


def test_health_is_one_for_the_status_and_zero_for_the_others(tmp_path: Path) -> None:
    with walkv.open(tmp_path / "s.walkv") as store:
        answer = text(store)
    found = {status: value(answer, "walkv_health", status=status) for status in HEALTH}
    assert found == {"ok": 1, "degraded": 0, "failed": 0}


def test_a_store_that_has_failed_still_tells_its_health() -> None:
    filesystem = FaultyFileSystem(SimulatedFileSystem())
    store = walkv.open("/s", filesystem=filesystem)
    store.put(b"key", b"value")
    filesystem.fault = Fault(lambda call: call.operation == "sync_data")
    with pytest.raises(StoreFailedError):
        store.put(b"key", b"other")
    answer = text(store)
    assert value(answer, "walkv_health", status="failed") == 1
    assert value(answer, "walkv_health", status="ok") == 0
    assert not parsed(answer)["walkv_commits"].samples
    with pytest.raises(StoreFailedError):
        store.close()
    assert not parsed(text(store))["walkv_health"].samples


def test_a_store_that_was_closed_gives_nothing_and_raises_nothing(tmp_path: Path) -> None:
    registry = CollectorRegistry(auto_describe=True)
    store = walkv.open(tmp_path / "s.walkv")
    registry.register(WalkvCollector(store))
    assert value(generate_latest(registry), "walkv_commits_total") == 0
    store.close()
    assert not [each for each in parsed(generate_latest(registry)).values() if each.samples]


def test_several_stores_are_told_apart(tmp_path: Path) -> None:
    with walkv.open(tmp_path / "a") as one, walkv.open(tmp_path / "b") as other:
        one.put(b"key", b"value")
        answer = text(one, other, labels={"service": "x"})
        assert value(answer, "walkv_commits_total", store=one.path, service="x") == 1
        assert value(answer, "walkv_commits_total", store=other.path, service="x") == 0
        with pytest.raises(ValueError, match="same labels"):
            WalkvCollector(one, other, labels={"store": "main"})
        with pytest.raises(ValueError, match="same labels"):
            WalkvCollector(one, one)
        assert value(text(one, labels={"store": "main"}), "walkv_commits_total", store="main") == 1


@pytest.mark.parametrize("name", ["le", "status", "__name", "a-b", "", "1a", "käse"])
def test_labels_that_prometheus_does_not_take(tmp_path: Path, name: str) -> None:
    with walkv.open(tmp_path / "s") as store, pytest.raises(ValueError, match="cannot be a label"):
        WalkvCollector(store, labels={name: "x"})


def test_a_path_with_quotes_and_newlines_is_read_back(tmp_path: Path) -> None:
    with walkv.open(tmp_path / 'a"b\\c\nd') as store:
        assert value(text(store), "walkv_commits_total", store=store.path) == 0


def test_a_second_collector_in_one_registry_is_refused(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    with walkv.open(tmp_path / "a") as one, walkv.open(tmp_path / "b") as other:
        registry.register(WalkvCollector(one))
        with pytest.raises(ValueError, match="Duplicated"):
            registry.register(WalkvCollector(other))


def test_every_face_of_a_store_is_taken(tmp_path: Path) -> None:
    async def of_tasks() -> bytes:
        async with AsyncAgentStore(tmp_path / "s.walkv") as agent:
            await agent.store.put(b"key", b"value")
            assert text(agent) != b""
            return text(agent.store)

    assert value(asyncio.run(of_tasks()), "walkv_commits_total") >= 1
    with AgentStore(tmp_path / "s.walkv") as agent:
        with walkv.open(tmp_path / "s.walkv", read_only=True) as reader:
            assert value(text(reader), "walkv_store_info", read_only="true") == 1
        assert value(text(agent), "walkv_store_info", read_only="false") == 1
    with pytest.raises(TypeError, match="not a str"):
        WalkvCollector("s.walkv")  # type: ignore[arg-type]


def test_what_another_process_publishes(tmp_path: Path) -> None:
    path = tmp_path / "s.walkv"
    with walkv.open(path) as store:
        for _ in range(6000):  # a minute at most; it is published about once a second
            store.put(b"key", b"value")
            if b"walkv_commits_total{" in published_text(path):
                break
            time.sleep(0.01)
        answer = published_text(path, labels={"service": "x"})
        assert value(answer, "walkv_open", store=store.path, service="x") == 1
        assert value(answer, "walkv_published_age_seconds") >= 0
        assert value(answer, "walkv_commits_total") >= 0
    assert value(published_text(path), "walkv_open") == 0
    assert "walkv_commits" not in parsed(published_text(path))
    with pytest.raises(FileNotFoundError):
        published_text(tmp_path / "none.walkv")


def test_without_the_extra_it_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['prometheus_client'] = None; import walkv.integrations.prometheus"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "pip install 'walkv[prometheus]'" in done.stderr.splitlines()[-1]


# -- the table and the page ------------------------------------------------------------------------

NOT_TOLD = {"path", "read_only", "sync_policy", "encrypted", "pid", "opened_at"}
"""These are labels, or the same as another number, or do not change."""


class Asked:
    """Remembers which fields it was asked for."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def __getattr__(self, name: str) -> int:
        self.names.add(name)
        return 0


def test_everything_that_stats_has_is_told() -> None:
    asked: Any = Asked()
    for measure in MEASURES:
        measure.read(asked)
    assert asked.names == {field.name for field in fields(walkv.Stats)} - NOT_TOLD
    assert len({measure.name for measure in MEASURES}) == len(MEASURES)


def family_names() -> dict[str, str]:
    suffix = {Kind.COUNTER: "_total", Kind.GAUGE: "", Kind.HISTOGRAM: ""}
    units = {"seconds": "_seconds", "bytes": "_bytes"}
    return {
        f"walkv_{m.name.replace('.', '_')}{units.get(m.unit, '')}{suffix[m.kind]}": m.kind.value
        for m in MEASURES
    }


def test_the_page_lists_every_field_and_every_metric() -> None:
    page = (ROOT / "docs" / "watching.md").read_text()
    rows = re.findall(r"^\| `(walkv_\w+)` \| (\w+) \|", page, re.MULTILINE)
    assert dict(rows) == family_names()
    spans = set(re.findall(r"`(\w+)`", page))
    assert {field.name for field in fields(walkv.Stats)} <= spans
    named = set(re.findall(r"walkv_[a-z_]+", page)) - {"walkv_log_written_bytes"}
    known = {*family_names(), "walkv_health", "walkv_store_info", "walkv_open"}
    known |= {"walkv_published_age_seconds"}
    ends = re.compile(r"_(bucket|sum|count)$")
    assert {name for name in named if ends.sub("", name) not in known} == set()
