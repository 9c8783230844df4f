"""The layer "fuzz" at its smallest scale, and inputs worth keeping."""

from __future__ import annotations

import msgpack
import pytest
import zstandard

from tests.laboratory.fuzz.cases import LAYER
from tests.laboratory.fuzz.targets import (
    KEYS,
    MAX_BLOCK_BYTES,
    SALT,
    TARGETS,
    MemoryExceededError,
    Target,
    forge_manifest,
    lowered_limits,
    page,
    snapshot_file,
    try_target,
)
from tests.laboratory.job import Job, Scale
from walkv import CorruptionError
from walkv.engine.snapshot import blocks, layout

SEED = 20240611
JOBS = LAYER.jobs(Scale.QUICK, SEED)
BLOCK = blocks.encode_data([b"a", b"key/1"], [b"1", None], [1, 2])
PAGE = (layout.STORED, len(BLOCK), BLOCK)


def accepts(name: str, data: bytes) -> bool:
    with lowered_limits():
        return try_target(TARGETS[name], data, measured=True)


@pytest.mark.parametrize("job", JOBS, ids=[job.text.replace(" ", "-") for job in JOBS])
def test_decoders(job: Job) -> None:
    figures = LAYER.run(job)
    assert [failure[:2] for failure in figures.failures] == []
    assert figures.counts["fuzz cases"] > 0
    assert figures.counts["fuzz refused"] + figures.counts["fuzz accepted"] > 0
    assert figures.counts["fuzz untyped"] == 0


@pytest.mark.parametrize("name", TARGETS)
def test_a_job_names_one_input(name: str) -> None:
    figures = LAYER.run(Job(LAYER.name, f"{name} input 00ff", SEED))
    assert (figures.counts["fuzz cases"], figures.counts["fuzz untyped"]) == (1, 0)


def test_a_valid_snapshot_is_accepted() -> None:
    """Else everything behind the first check would go untested."""
    starts = [0, layout.PAGE_HEADER_BYTES + len(BLOCK)]
    hashes = [blocks.hash_key(key) for key in (b"a", b"key/1")]
    index = blocks.encode_index([b"a"], starts, hashes)
    assert not accepts("snapshot", snapshot_file([PAGE], index, None))  # the footer says one entry
    one = blocks.encode_data([b"a"], [b"1"], [1])
    assert accepts("snapshot", snapshot_file([(layout.STORED, len(one), one)], None, None))


def test_an_index_page_that_names_itself() -> None:
    starts = [0, layout.PAGE_HEADER_BYTES + len(BLOCK)]
    for first_key in (b"m", b"\xff"):
        index = blocks.encode_index([first_key], starts, [blocks.hash_key(key) for key in KEYS])
        assert not accepts("snapshot", snapshot_file([PAGE], index, None))


@pytest.mark.parametrize("column", [0, 1])
def test_a_column_that_is_a_map(column: int) -> None:
    """It has a length, and its keys are of the right type."""
    columns: list[object] = [[b"a", b"b"], [b"1", b"2"], blocks.encode_sequences([1, 2])]
    columns[column] = {b"a": b"1", b"b": b"2"}
    payload = msgpack.packb(columns)
    assert not accepts("data", payload)
    assert not accepts(
        "snapshot", snapshot_file([(layout.STORED, len(payload), payload)], None, None)
    )


@pytest.mark.parametrize("declared", [True, False])
def test_a_bomb_takes_no_memory(declared: bool) -> None:
    """Whatever size the page claims, what comes out is bounded before it comes out."""
    pack = zstandard.ZstdCompressor(write_content_size=declared).compress
    body = pack(bytes(64 << 20))
    for claimed in (0, 100, MAX_BLOCK_BYTES, MAX_BLOCK_BYTES + 1, 64 << 20):
        assert not accepts("page", page(layout.DATA, layout.ZSTD, claimed, body, 64))


def test_nothing_is_decompressed_that_declares_another_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bomb = zstandard.ZstdCompressor(write_content_size=True).compress(bytes(64 << 20))
    data = page(layout.DATA, layout.ZSTD, 100, bomb, 64)
    monkeypatch.setattr(layout, "_decompressor", lambda: pytest.fail("it was decompressed"))
    with pytest.raises(CorruptionError, match="declares another size"):
        layout.decode_page(data, layout.DATA, path="p", salt=SALT, offset=64)


@pytest.mark.parametrize("head", [b"\x91", b"\x92\xc0", b"\xdd\xff\xff\xff\xff", b"\x81\xa1k"])
def test_deep_nesting_is_refused(head: bytes) -> None:
    for name in ("batch", "data", "index", "root"):
        assert not accepts(name, head * 5000)
    assert not accepts("manifest", forge_manifest(head * 5000))


@pytest.mark.parametrize("data", [b"[" * 4096, b'{"pid":' * 580, b"\xff", b"9" * 4096])
def test_a_damaged_lock_names_nobody(data: bytes) -> None:
    assert not accepts("lock", data)


def test_memory_is_measured() -> None:
    greedy = Target(lambda data: bool(bytes(64 << 20)), (), lambda data: data)
    with pytest.raises(MemoryExceededError):
        try_target(greedy, b"", measured=True)
