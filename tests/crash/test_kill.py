"""``kill -9`` of real processes: the laboratory's layer, some seconds of it."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from tests.laboratory.job import Job, Scale
from tests.laboratory.kills.chains import LAYER

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

SEED = random.randrange(1 << 30)


def run(text: str, seed: int) -> Counter[str]:
    figures = LAYER.run(Job(LAYER.name, text, seed))
    assert not figures.failures, figures.failures[0]
    return figures.counts


def test_nothing_acknowledged_is_lost() -> None:
    counts: Counter[str] = Counter()
    for job in LAYER.jobs(Scale.QUICK, SEED):
        counts += run(job.text, job.seed)
    print(f"seed {SEED}: {dict(counts)}")  # noqa: T201  # every run says what it covered
    assert counts["kills of writers"] >= 16
    assert counts["kills while a store was made"] > 0
    assert counts["acknowledged checked"] > 0
    assert counts["acknowledged lost"] == 0
    assert counts["prefixes seen by a following reader"] > 0
