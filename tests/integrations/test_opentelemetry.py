"""What OpenTelemetry is told: the SDK's own readers and exporters say what arrives."""

from __future__ import annotations

import asyncio
import functools
import gc
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

import walkv
from walkv import AgentStore, AsyncAgentStore, ConflictError, Declaration, RecordExistsError
from walkv.integrations.measures import HEALTH, MEASURES, Kind
from walkv.integrations.opentelemetry import instrument

SECRET = "sk-do-not-tell"


class Telemetry:
    """Providers whose output stays in memory."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.tracer_provider = TracerProvider()
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.reader = InMemoryMetricReader()
        self.meter_provider = MeterProvider([self.reader])

    @property
    def providers(self) -> dict[str, Any]:
        return {"meter_provider": self.meter_provider, "tracer_provider": self.tracer_provider}

    def spans(self) -> list[ReadableSpan]:
        """In the order in which they began."""
        return sorted(self.exporter.get_finished_spans(), key=lambda span: span.start_time or 0)

    def tree(self) -> list[str]:
        """Names of spans, each behind that of its parent."""
        by_id = {span.context.span_id: span for span in self.spans() if span.context}

        def path(span: ReadableSpan) -> str:
            above = by_id.get(span.parent.span_id) if span.parent else None
            return span.name if above is None else f"{path(above)} / {span.name}"

        return [path(span) for span in self.spans()]

    def metrics(self) -> dict[str, list[Any]]:
        """Data points by the name of their metric, of a collection now."""
        data = self.reader.get_metrics_data()
        return {
            metric.name: list(metric.data.data_points)
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    found = Telemetry()
    yield found
    found.meter_provider.shutdown()
    found.tracer_provider.shutdown()


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[AgentStore]:
    with AgentStore(tmp_path / "a.walkv") as store:
        yield store


def double(number: int) -> int:
    return 2 * number


# -- spans -----------------------------------------------------------------------------------------


def test_an_operation_is_one_span_by_the_conventions(
    agent: AgentStore, telemetry: Telemetry
) -> None:
    with instrument(agent, **telemetry.providers):
        agent.sessions.create("s1", user_id="ada")
    (span,) = telemetry.spans()
    assert span.name == "create sessions"
    assert span.kind is SpanKind.CLIENT
    assert span.status.status_code is StatusCode.UNSET
    assert dict(span.attributes or {}) == {
        "db.system.name": "walkv",
        "db.namespace": agent.path,
        "db.operation.name": "create",
        "db.collection.name": "sessions",
    }


def test_what_an_operation_calls_by_itself_has_no_span(
    agent: AgentStore, telemetry: Telemetry
) -> None:
    with instrument(agent, **telemetry.providers):
        agent.sessions.put(agent.sessions.create("s1", user_id="ada"))  # put calls put_many
        agent.executions.list(role="planner")  # asks a query
    assert telemetry.tree() == ["create sessions", "put sessions", "list executions"]


def test_a_failed_operation_names_the_class_of_its_error_and_quotes_nothing(
    agent: AgentStore, telemetry: Telemetry
) -> None:
    agent.sessions.create(SECRET, user_id="ada")
    with instrument(agent, **telemetry.providers), pytest.raises(RecordExistsError):
        agent.sessions.create(SECRET, user_id="ada")
    (span,) = telemetry.spans()
    assert span.status.status_code is StatusCode.ERROR
    assert (span.attributes or {})["error.type"] == "walkv.errors.RecordExistsError"
    assert not span.events
    assert span.status.description is None


def test_no_key_value_or_secret_is_recorded(agent: AgentStore, telemetry: Telemetry) -> None:
    def fail(_: str) -> None:
        raise ValueError(SECRET)

    with instrument(agent, **telemetry.providers):
        agent.users.create(SECRET, api_keys={"model": SECRET})
        agent.messages.append(SECRET, role="user", content=SECRET)
        with pytest.raises(ValueError, match=SECRET):
            agent.executions.once(SECRET, fail, SECRET)
        with agent.executions.record(role=SECRET, tool_name=SECRET, input_data=SECRET) as call:
            call.output = SECRET
        agent.executions.query(role=SECRET).all()
    told = "".join(span.to_json() for span in telemetry.spans())
    told += str(telemetry.metrics())
    assert "record executions" in told
    assert SECRET not in told


def test_a_step_says_whether_its_function_was_called(
    agent: AgentStore, telemetry: Telemetry
) -> None:
    @agent.step(key="double/{number}")
    def stepped(number: int) -> int:
        return 2 * number

    with instrument(agent, **telemetry.providers):
        assert [agent.executions.once("k", double, 4) for _ in range(2)] == [8, 8]
        assert stepped(5) == 10
    first, again, decorated = telemetry.spans()
    assert first.name == again.name == "step double"
    assert first.kind is SpanKind.INTERNAL
    assert (first.attributes or {})["code.function.name"] == f"{__name__}.double"
    ran = [(span.attributes or {})["walkv.step.ran"] for span in (first, again, decorated)]
    assert ran == [True, False, True]
    assert decorated.name.endswith("stepped")


def test_the_record_of_a_step_is_the_same_with_and_without(
    agent: AgentStore, telemetry: Telemetry
) -> None:
    bound = functools.partial(functools.partial(divmod, 7), 2)

    def kept(key: str) -> Any:
        agent.executions.once(key, bound)
        execution = agent.executions.get(f"step/{key}")
        assert execution is not None
        return execution.input_data, execution.metadata, execution.tool_name, execution.output_data

    plain = kept("plain")
    with instrument(agent, **telemetry.providers):
        assert kept("traced") == plain


def test_what_a_step_does_is_inside_its_span(agent: AgentStore, telemetry: Telemetry) -> None:
    def work() -> None:
        agent.sessions.create("s1", user_id="ada")

    with instrument(agent, **telemetry.providers):
        agent.executions.once("k", work)
    assert telemetry.tree()[-1].endswith("work / create sessions")


def test_batches_transactions_and_recordings_are_around_what_is_in_them(
    agent: AgentStore, telemetry: Telemetry
) -> None:
    with instrument(agent, **telemetry.providers):
        with agent.batch():
            agent.sessions.create("s1", user_id="ada")
        agent.transact(lambda: agent.sessions.exists("s1"))
        with agent.executions.record(tool_name="look"):
            agent.messages.append("s1", role="user", content="hello")
    assert telemetry.tree() == [
        "batch",
        "batch / create sessions",
        "transact",
        "transact / batch",
        "transact / batch / exists sessions",
        "record executions",
        "record executions / start executions",
        "record executions / append messages",
        "record executions / finish executions",
    ]


def test_a_conflict_is_seen_on_the_batch(agent: AgentStore, telemetry: Telemetry) -> None:
    agent.sessions.create("s1", user_id="ada")
    update = AgentStore(agent.store).sessions.update  # of another object, so not traced

    def collide() -> None:
        agent.sessions.update("s1", user_id="grace")
        thread = threading.Thread(target=update, args=("s1",), kwargs={"user_id": "x"})
        thread.start()
        thread.join()

    with instrument(agent, **telemetry.providers), pytest.raises(ConflictError):
        agent.transact(collide, retries=0)
    assert telemetry.tree() == [
        "transact",
        "transact / batch",
        "transact / batch / update sessions",
    ]
    errors = [(span.attributes or {}).get("error.type") for span in telemetry.spans()]
    assert errors == ["walkv.errors.ConflictError", "walkv.errors.ConflictError", None]


def test_queries_are_spans_when_they_are_read(agent: AgentStore, telemetry: Telemetry) -> None:
    agent.sessions.create("s1", user_id="ada")
    with instrument(agent, **telemetry.providers):
        query = agent.sessions.query(user_id="ada").limit(5)
        assert telemetry.tree() == []
        assert [each.session_id for each in query] == ["s1"]
        assert query.count() == 1
        assert query.delete() == 1
    assert telemetry.tree() == ["query sessions", "query sessions", "delete sessions"]


def test_namespaces_that_are_declared_later_are_traced(
    agent: AgentStore, telemetry: Telemetry
) -> None:
    @dataclass
    class Note:
        note_id: str

    with instrument(agent, **telemetry.providers):
        agent.namespace(Declaration("notes", Note, key="note_id")).add(Note("n1"))
    assert telemetry.tree() == ["add notes"]


def test_long_work_of_a_store(agent: AgentStore, telemetry: Telemetry) -> None:
    with instrument(agent, **telemetry.providers):
        agent.store.compact()
        agent.store.verify()
        agent.sync()
    assert telemetry.tree() == ["compact", "verify", "sync"]


def test_tasks_are_traced_alike(tmp_path: Path, telemetry: Telemetry) -> None:
    async def work() -> None:
        async with AsyncAgentStore(tmp_path / "a.walkv") as agent:
            with instrument(agent, **telemetry.providers):
                async with agent.batch():
                    await agent.sessions.create("s1", user_id="ada")

                async def step(number: int) -> int:
                    assert await agent.sessions.query(user_id="ada").count() == 1
                    async for _ in agent.sessions.query().limit(1):
                        pass
                    return number

                assert await agent.executions.once("k", step, 7) == 7
                assert await agent.executions.once("k", step, 7) == 7
                async with agent.executions.record(tool_name="look"):
                    pass
                await agent.transact(functools.partial(agent.sessions.exists, "s1"))
                await agent.store.compact()
                with pytest.raises(RecordExistsError):
                    await agent.sessions.create("s1", user_id="ada")

    asyncio.run(work())
    step = next(name for name in telemetry.tree() if name.startswith("step "))
    assert telemetry.tree() == [
        "batch",
        "batch / create sessions",
        step,
        f"{step} / query sessions",
        f"{step} / query sessions",
        step,
        "record executions",
        "transact",
        "transact / batch",
        "transact / batch / exists sessions",
        "compact",
        "create sessions",
    ]
    ran = [(s.attributes or {})["walkv.step.ran"] for s in telemetry.spans() if s.name == step]
    assert ran == [True, False]
    assert telemetry.spans()[-1].status.status_code is StatusCode.ERROR


def test_concurrent_tasks_do_not_mix_their_spans(tmp_path: Path, telemetry: Telemetry) -> None:
    async def work() -> None:
        async with AsyncAgentStore(tmp_path / "a.walkv") as agent:
            with instrument(agent, **telemetry.providers):

                async def step(name: str) -> None:
                    await agent.sessions.create(name, user_id="ada")

                await asyncio.gather(
                    *(agent.executions.once(f"k{n}", step, f"s{n}") for n in range(20))
                )

    asyncio.run(work())
    parents = [span.parent.span_id for span in telemetry.spans() if span.parent]
    assert len(parents) == len(set(parents)) == 20


def test_a_coroutine_function_is_refused_by_threads_as_ever(
    agent: AgentStore, telemetry: Telemetry
) -> None:
    async def work() -> None: ...

    with instrument(agent, **telemetry.providers), pytest.raises(TypeError, match="coroutine"):
        agent.executions.once("k", work)
    with instrument(agent, **telemetry.providers), pytest.raises(TypeError, match="calls the func"):
        agent.executions.once("k", 3)  # type: ignore[arg-type]


# -- numbers ---------------------------------------------------------------------------------------


def test_the_numbers_are_those_of_the_store(tmp_path: Path, telemetry: Telemetry) -> None:
    with walkv.open(tmp_path / "s.walkv") as store, instrument(store, **telemetry.providers):
        for number in range(20):
            store.put(b"%d" % number, b"value")
        points, stats = telemetry.metrics(), store.stats()
    (commits,) = points["walkv.commits"]
    assert commits.value == stats.commit_count == 20
    assert dict(commits.attributes) == {"db.system.name": "walkv", "db.namespace": store.path}
    assert points["walkv.log.written"][0].value == stats.written_bytes
    assert points["walkv.disk.used"][0].value == stats.disk_bytes
    syncs = stats.sync_seconds
    assert points["walkv.log.sync.duration.count"][0].value == syncs.count >= 20
    assert points["walkv.log.sync.duration.sum"][0].value == pytest.approx(syncs.total)
    quantiles = {
        p.attributes["quantile"]: p.value for p in points["walkv.log.sync.duration.quantile"]
    }
    assert quantiles == {q: syncs.percentile(100 * q) for q in (0.5, 0.9, 0.99, 1.0)}
    assert "walkv.merge.duration.quantile" not in points, "there was none"
    health = {point.attributes["status"]: point.value for point in points["walkv.health"]}
    assert health == {"ok": 1, "degraded": 0, "failed": 0}
    assert set(health) == set(HEALTH)


def test_every_measure_is_told(tmp_path: Path, telemetry: Telemetry) -> None:
    with walkv.open(tmp_path / "s.walkv") as store, instrument(store, **telemetry.providers):
        store.put(b"key", b"value")
        points = telemetry.metrics()
    for measure in MEASURES:
        if measure.kind is Kind.HISTOGRAM:
            assert f"walkv.{measure.name}.sum" in points
            assert f"walkv.{measure.name}.count" in points
        else:
            assert f"walkv.{measure.name}" in points


def test_a_collection_takes_the_numbers_of_a_store_once(
    tmp_path: Path, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    with walkv.open(tmp_path / "s.walkv") as store:
        taken = []
        stats = store.stats
        monkeypatch.setattr(store, "stats", lambda: taken.append(stats()) or taken[-1])
        with instrument(store, **telemetry.providers):
            for round_ in (1, 2, 3):
                store.put(b"key", b"value")
                assert telemetry.metrics()["walkv.commits"][0].value == round_
                assert len(taken) == round_


def test_operations_are_timed(agent: AgentStore, telemetry: Telemetry) -> None:
    with instrument(agent, **telemetry.providers):
        for _ in range(3):
            agent.sessions.exists("s1")
        with pytest.raises(walkv.RecordNotFoundError):
            agent.sessions.update("s1", user_id="ada")
        points = telemetry.metrics()["db.client.operation.duration"]
    found = {point.attributes["db.operation.name"]: point for point in points}
    assert found["exists"].count == 3
    assert found["exists"].sum > 0
    assert found["exists"].attributes["db.collection.name"] == "sessions"
    assert found["exists"].explicit_bounds[0] == 0.00001
    assert "error.type" not in found["exists"].attributes
    assert found["update"].attributes["error.type"] == "walkv.errors.RecordNotFoundError"


def test_several_stores_under_one_provider_and_closing(
    tmp_path: Path, telemetry: Telemetry, caplog: pytest.LogCaptureFixture
) -> None:
    def told() -> dict[Any, Any]:
        points = telemetry.metrics().get("walkv.commits", [])
        return {Path(point.attributes["db.namespace"]).name: point.value for point in points}

    with walkv.open(tmp_path / "a") as one, walkv.open(tmp_path / "b") as other:
        first = instrument(one, **telemetry.providers)
        instrument(other, **telemetry.providers)
        one.put(b"key", b"value")
        assert told() == {"a": 1, "b": 0}
        first.uninstrument()
        assert told() == {"b": 0}
        with instrument(one, **telemetry.providers):
            assert told() == {"a": 1, "b": 0}
    assert told() == {}
    assert not caplog.records, "the SDK has nothing to complain about"


def test_a_store_that_was_closed_is_let_go_of(tmp_path: Path, telemetry: Telemetry) -> None:
    store = walkv.open(tmp_path / "s")
    instrument(store, **telemetry.providers)
    reference = weakref.ref(store)
    store.close()
    assert telemetry.metrics() == {}
    del store
    gc.collect()
    assert reference() is None


def test_without_the_extra_it_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['opentelemetry'] = None; import walkv.integrations.opentelemetry"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "pip install 'walkv[otel]'" in done.stderr.splitlines()[-1]


# -- taking it back --------------------------------------------------------------------------------


def test_nothing_is_left_behind(agent: AgentStore, telemetry: Telemetry) -> None:
    owners = [agent, agent.store, *agent.by_name.values()]
    before = [dict(vars(owner)) for owner in owners]
    instrumentation = instrument(agent, **telemetry.providers)
    query = agent.sessions.query()
    assert [dict(vars(owner)) for owner in owners] != before
    instrumentation.uninstrument()
    instrumentation.uninstrument()
    assert [dict(vars(owner)) for owner in owners] == before
    agent.sessions.create("s1", user_id="ada")
    query.all()
    assert telemetry.spans() == []
    assert telemetry.metrics() == {}


def test_who_wrapped_it_again_still_calls_through(agent: AgentStore, telemetry: Telemetry) -> None:
    instrumentation = instrument(agent, **telemetry.providers)
    traced = agent.sessions.create
    agent.sessions.create = functools.partial(traced)  # type: ignore[method-assign]
    instrumentation.uninstrument()
    assert agent.sessions.create("s1", user_id="ada").user_id == "ada"
    assert telemetry.spans() == []


def test_instrumenting_twice_is_refused_and_changes_nothing(
    agent: AgentStore, telemetry: Telemetry
) -> None:
    with instrument(agent, **telemetry.providers):
        with pytest.raises(walkv.WalkvError, match="already"):
            instrument(agent, **telemetry.providers)
        with pytest.raises(walkv.WalkvError, match="already"):
            instrument(agent.store, **telemetry.providers)
        agent.sessions.create("s1", user_id="ada")
    assert telemetry.tree() == ["create sessions"]
    with instrument(agent.store, **telemetry.providers):
        agent.sessions.get("s1")
    assert telemetry.tree() == ["create sessions"]


def test_what_is_no_store(telemetry: Telemetry, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="not a str"):
        instrument("agent.walkv", **telemetry.providers)  # type: ignore[arg-type]
    with pytest.raises(walkv.ClosedError, match="not open yet"):
        instrument(AsyncAgentStore(tmp_path / "a.walkv"), **telemetry.providers)
