"""Bytes to frames, payloads and pages, and back: no disk."""

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.micro import stores
from walkv.engine import batch, frame
from walkv.engine.snapshot import blocks, layout

SALT = 0x1234_5678_9ABC_DEF1
OFFSET = 4_096
PATH = "memory"
ENTRIES = 75
"""About one block of 8 KiB."""
FILTERED_KEYS = 8_000
DATA = stores.dataset(FILTERED_KEYS)
KEYS = [DATA.key(index) for index in range(ENTRIES)]
VALUES = [DATA.value(index) for index in range(ENTRIES)]


def _frame(payload: bytes) -> bytes:
    return frame.encode(
        payload,
        salt=SALT,
        offset=OFFSET,
        operation_count=1,
        first_sequence=1,
        time_ns=1,
        synced_offset=0,
    )


@pytest.mark.benchmark(group="formats")
def bench_frame_encode(benchmark: BenchmarkFixture) -> None:
    payload = batch.encode([KEYS[0], VALUES[0]])
    benchmark(_frame, payload)


@pytest.mark.benchmark(group="formats")
def bench_frame_decode(benchmark: BenchmarkFixture) -> None:
    payload = batch.encode([KEYS[0], VALUES[0]])
    found = benchmark(frame.decode, _frame(payload), 0, salt=SALT, offset=OFFSET)
    assert found.payload == payload


@pytest.mark.benchmark(group="formats")
def bench_payload_encode_one_put(benchmark: BenchmarkFixture) -> None:
    operations = _operations(1)
    assert batch.decode(benchmark(batch.encode, operations)) == operations


@pytest.mark.benchmark(group="formats")
def bench_payload_encode_1000_puts(benchmark: BenchmarkFixture) -> None:
    benchmark(batch.encode, _operations(1_000))


@pytest.mark.benchmark(group="formats")
def bench_payload_decode_1000_puts(benchmark: BenchmarkFixture) -> None:
    operations = _operations(1_000)
    assert benchmark(batch.decode, batch.encode(operations)) == operations


def _operations(count: int) -> list[bytes]:
    return [part for i in range(count) for part in (DATA.key(i), DATA.value(i))]


@pytest.mark.benchmark(group="formats")
def bench_block_encode(benchmark: BenchmarkFixture) -> None:
    benchmark(blocks.encode_data, KEYS, VALUES, list(range(ENTRIES)))


@pytest.mark.benchmark(group="formats")
def bench_block_decode(benchmark: BenchmarkFixture) -> None:
    payload = blocks.encode_data(KEYS, VALUES, list(range(ENTRIES)))
    assert list(benchmark(blocks.decode_data, payload, True).keys) == KEYS


@pytest.mark.benchmark(group="formats")
def bench_page_encode(benchmark: BenchmarkFixture) -> None:
    payload = blocks.encode_data(KEYS, VALUES, list(range(ENTRIES)))
    encoder = layout.PageEncoder()
    benchmark(
        lambda: layout.place_page(encoder.encode(layout.DATA, payload, plain=True), SALT, OFFSET)
    )


@pytest.mark.benchmark(group="formats")
def bench_page_decode(benchmark: BenchmarkFixture) -> None:
    payload = blocks.encode_data(KEYS, VALUES, list(range(ENTRIES)))
    body = layout.PageEncoder().encode(layout.DATA, payload, plain=True)
    page = layout.place_page(body, SALT, OFFSET)
    found = benchmark(layout.decode_page, page, layout.DATA, path=PATH, salt=SALT, offset=OFFSET)
    assert found == (payload, True)


@pytest.mark.benchmark(group="formats")
@pytest.mark.parametrize("present", [True, False], ids=["present", "absent"])
def bench_filter_look_up(benchmark: BenchmarkFixture, present: bool) -> None:
    keys = [DATA.key(index) for index in range(FILTERED_KEYS)]
    hashes = list(map(blocks.hash_key, keys))
    index = blocks.decode_index(blocks.encode_index(keys[:1], [0, 1], hashes))
    key = keys[FILTERED_KEYS // 2] if present else DATA.missing_key(FILTERED_KEYS // 2)
    found = benchmark(index.may_contain, blocks.hash_key(key))
    assert found or not present
