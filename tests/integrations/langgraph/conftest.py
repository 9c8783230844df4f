"""A store on a simulated disk, and the clock that its expiries go by."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from walkv import AgentStore
from walkv.integrations.langgraph import WalkvStore
from walkv.testing import ManualClock, SimulatedFileSystem


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def fs(clock: ManualClock) -> SimulatedFileSystem:
    return SimulatedFileSystem(clock=clock)


@pytest.fixture
def agent(fs: SimulatedFileSystem) -> Iterator[AgentStore]:
    with AgentStore("/a.walkv", filesystem=fs) as made:
        yield made


@pytest.fixture
def store(agent: AgentStore) -> Iterator[WalkvStore]:
    with WalkvStore(agent) as made:
        yield made
