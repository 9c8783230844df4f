"""What real machines do to a store: full, limited, read-only and dying disks, races, forks, losses.

The jobs' texts are a kind and options, as each kind's function says. Each runs in a forked process
with mounts of its own, so nothing is left behind. What this machine cannot do is reported as
skipped, with the reason.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple

from tests.laboratory.job import Figures, Job, Layer, Scale
from tests.laboratory.systems import limits, others, shutdown
from tests.laboratory.systems.places import apart

NAME: Final = "systems"

Body = Callable[[Job, dict[str, str], str], Figures]


class Kind(NamedTuple):
    """A kind of job.

    Attributes:
        run: does it, in a directory.
        mounts: whether it needs mounts of its own.
    """

    run: Body
    mounts: bool


KINDS: Final = {
    "full-disk": Kind(limits.full_disk, True),
    "no-inodes": Kind(limits.no_inodes, True),
    "file-size": Kind(limits.file_size, False),
    "descriptors": Kind(limits.descriptors, False),
    "read-only": Kind(limits.read_only_medium, True),
    "race": Kind(others.race, False),
    "fork": Kind(others.forks, False),
    "vanish": Kind(others.vanish, False),
    "shutdown": Kind(shutdown.shutdowns, True),
}


def jobs(scale: Scale, seed: int) -> list[Job]:
    chooser = random.Random(seed)
    times = {Scale.QUICK: 1, Scale.FULL: 8, Scale.SOAK: 10}[scale]

    def job(text: str, weight: float) -> Job:
        return Job(NAME, text, chooser.randrange(1 << 30), weight)

    return [
        *(job(text, 0.3 * times) for text in _full_disks(times, scale)),
        job("no-inodes", 1.0),
        job(f"file-size rounds={4 * times}", 0.2 * times),
        job("descriptors", 1.0),
        job(f"read-only rounds={3 * times}", 0.2 * times),
        job(f"race openers=2 rounds={2 * times}", 0.2 * times),
        job(f"race openers=8 rounds={times}", 0.5 * times),
        job(f"fork rounds={2 * times}", 0.3 * times),
        *(job(text, 1.0) for text in _losses(scale)),
        *(job(text, 0.3 * times) for text in _shutdowns(times, scale)),
    ]


def _full_disks(times: int, scale: Scale) -> list[str]:
    texts = [f"full-disk fs=tmpfs policies=wal memtable=65536 rounds={times}"]
    if scale is not Scale.QUICK:
        texts += [
            f"full-disk fs=tmpfs policies=mixed memtable=67108864 rounds={times}",
            f"full-disk fs=ext4 policies=back memtable=65536 rounds={times // 4}",
            f"full-disk fs=tmpfs policies=back memtable=67108864 rounds={times // 4}",
        ]
    return texts


def _losses(scale: Scale) -> list[str]:
    if scale is not Scale.QUICK:
        return ["vanish"]
    return [f"vanish what={what}" for what in ("all-moved",)]


def _shutdowns(times: int, scale: Scale) -> list[str]:
    settings = [
        "fs=ext4 face=threads policies=wal",
        "fs=ext4 face=loop policies=back mount=data=writeback",
        "fs=ext4 face=tasks policies=mixed",
        "fs=ext4 face=loop policies=mixed mount=data=journal",
        "fs=ext4 face=threads policies=through mount=data=writeback",
        "fs=xfs face=threads policies=mixed",
        "fs=xfs face=loop policies=back",
    ]
    if scale is Scale.QUICK:
        settings = [settings[0], settings[1], settings[-2]]
    return [f"shutdown {setting} rounds={2 + 5 * times // 4}" for setting in settings]


def run(job: Job) -> Figures:
    name, *words = job.text.split()
    options = dict(word.split("=", 1) for word in words)
    kind = KINDS[name]
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        return apart(job, partial(kind.run, job, options), mounts=kind.mounts)
    finally:
        logging.disable(before)


LAYER = Layer(NAME, "Real operating systems", jobs, run)
