"""The steps of ``Store.put``, of a small key and value."""

from itertools import cycle
from pathlib import Path
from threading import Lock
from types import SimpleNamespace
from typing import Any

from xxhash import xxh3_64_digest

import walkv
from benchmarks.cost_model.costs import Costs, Step
from benchmarks.cost_model.timing import Statement, medians_ns
from benchmarks.micro import stores
from walkv.engine import frame
from walkv.engine.batch import KEY_HEADS, VALUE_HEADS
from walkv.engine.core import Engine
from walkv.engine.frame import SEED_MASK, pack_body
from walkv.engine.vfs import OsFileSystem

SYNCED_CALLS = 5
AHEAD_BYTES = 256 << 10
FRAME_BYTES = 164
_DIFFERENCE = "difference: all of it less the steps in it, without a write"


def hollow_store(**methods: Any) -> walkv.Store:
    """A store's face over an engine that has nothing but these: what is left is the face."""
    engine = object.__new__(Engine)
    for name, method in methods.items():
        setattr(engine, name, method)
    return walkv.Store(engine)


def put_costs(directory: Path, rounds: int) -> list[Costs]:
    """A put as the process class commits it, and what the durable class adds."""
    data = stores.dataset(1_000)
    key, value = data.key(0), data.value(0)
    with (
        walkv.open(directory / "put", sync=walkv.WriteBack()) as store,
        walkv.open(directory / "unwritten", sync=walkv.Wal()) as unwritten,
    ):
        process = _process_costs(medians_ns(_statements(store, unwritten, key, value), rounds))
    # A store and a file of its own: what the statements above have left unsynced is not synced at
    # the expense of these.
    with walkv.open(directory / "durable", sync=walkv.Wal()) as store:
        store.put(key, value)
        durable = medians_ns(_durable_statements(store, key, value), rounds)
    return [process, _durable_costs(process, durable)]


def _statements(
    store: walkv.Store, unwritten: walkv.Store, key: bytes, value: bytes
) -> dict[str, Statement]:
    """The log of ``unwritten``, which has no windows, writes nothing: what is timed on it never
    waits for a disk."""
    engine = unwritten.engine
    assert isinstance(engine, Engine)
    log = engine.write_log
    nothing = lambda data, offset_bytes: None  # noqa: E731 - named as what it does
    log._write_file = nothing
    payload = KEY_HEADS[len(key)] + key + VALUE_HEADS[len(value)] + value
    body = pack_body(frame.COMMIT, len(payload), 1, 1, 1, 0) + payload
    fs = OsFileSystem()
    data = bytes(frame.CHECKSUM_BYTES) + body
    file = fs.create(f"{store.path}/frames")
    file.write(bytes(AHEAD_BYTES), 0)
    window = file.window(0, AHEAD_BYTES)
    append = lambda key, value: (0, 0)  # noqa: E731 - named as the method it stands for
    hollow = hollow_store(
        commit_lock=Lock(), append_one=append, syncer=SimpleNamespace(quiet_position=0)
    )
    names = {
        "store": store,
        "hollow": hollow,
        "append": append,
        "engine": engine,
        "log": log,
        "nothing": nothing,
        "lock": Lock(),
        "key": key,
        "value": value,
        "payload": payload,
        "body": body,
        "data": data,
        "file": file,
        "window": window,
        "offsets": cycle(range(0, AHEAD_BYTES - len(data), len(data))),
        "table": {key: (1, value, 0, None)},
        "wall_time_ns": fs.wall_time_ns,
        "KEY_HEADS": KEY_HEADS,
        "VALUE_HEADS": VALUE_HEADS,
        "SEED_MASK": SEED_MASK,
        "pack_body": pack_body,
        "xxh3_64_digest": xxh3_64_digest,
    }

    hand_over = "file.write(data, at)" if window is None else "window[at : at + len(data)] = data"

    def timed(text: str, **options: Any) -> Statement:
        return Statement(text, names, **options)

    return {
        "face": timed("hollow.put(key, value)", without="append(key, value)"),
        "lock": timed("with lock: pass"),
        "append_one": timed("engine.append_one(key, value)", without="nothing(data, 0)"),
        "payload": timed("KEY_HEADS[len(key)] + key + VALUE_HEADS[len(value)] + value"),
        "publish": timed("table[key] = (2, value, 0, None)"),
        "log_write": timed("log.write(payload, 1, 1)", without="nothing(data, 0)"),
        "clock": timed("wall_time_ns()"),
        "header": timed("pack_body(1, 120, 1, 1, 1, 0) + payload"),
        "hash": timed("xxh3_64_digest(body, (1 << 63) + 4096 & SEED_MASK) + body"),
        "hand_over": timed(f"at = next(offsets); {hand_over}", without="at = next(offsets)"),
        "put": timed("store.put(key, value)"),
    }


def _durable_statements(store: walkv.Store, key: bytes, value: bytes) -> dict[str, Statement]:
    # As the log does it for small commits: into zeros written ahead, so that the size stays.
    file = OsFileSystem().create(f"{store.path}/frames")
    file.write(bytes(AHEAD_BYTES), 0)
    file.sync()
    data = b"\1" * FRAME_BYTES
    offsets = cycle(range(0, AHEAD_BYTES - FRAME_BYTES, FRAME_BYTES))
    in_file = {"file": file, "data": data, "offsets": offsets}
    write = "file.write(data, next(offsets))"
    in_store = {
        "store": store,
        "engine": store.engine,
        "key": key,
        "value": value,
        "policy": walkv.Wal(),
    }
    return {
        "acknowledge": Statement("engine.acknowledge(0, policy)", in_store),
        "fdatasync": Statement(f"{write}; file.sync_data()", in_file, SYNCED_CALLS, write),
        "put": Statement("store.put(key, value)", in_store, SYNCED_CALLS),
    }


def _process_costs(found: dict[str, float]) -> Costs:
    in_write = ("clock", "header", "hash")
    write_own = found["log_write"] - sum(found[name] for name in in_write)
    append_own = found["append_one"] - sum(found[n] for n in ("payload", "log_write", "publish"))
    steps = (
        Step(
            "the call of put, its checks, the way to the engine",
            found["face"] - found["lock"],
            "Store.put over a hollow engine, less the lock",
        ),
        Step("commit lock", found["lock"], "taken and given back"),
        Step("Engine.append_one, its own", append_own, _DIFFERENCE),
        Step("encode the payload", found["payload"], "heads of msgpack from a table, three joins"),
        Step("Log.write, its own", write_own, _DIFFERENCE),
        Step("clock", found["clock"], "FileSystem.wall_time_ns"),
        Step("pack the header", found["header"], "frame.pack_body, joined with the payload"),
        Step("hash", found["hash"], "xxh3-64 of header and payload, joined with them"),
        Step("hand over to the OS", found["hand_over"], "into a window where there are windows"),
        Step("publish", found["publish"], "a new entry in the memtable's dict"),
    )
    return Costs("put, process (WriteBack)", steps, found["put"])


def _durable_costs(process: Costs, found: dict[str, float]) -> Costs:
    steps = (
        Step("a put of the process class", process.whole_ns, "as above, as a whole"),
        Step("acknowledge", found["acknowledge"], "Engine.acknowledge with nothing to wait for"),
        Step("fdatasync", found["fdatasync"], "File.sync_data of one frame, among zeros"),
    )
    return Costs("put, durable (Wal), one thread", steps, found["put"])
