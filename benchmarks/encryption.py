"""What encryption costs: the same operations with a key and without, in turns.

``python -m benchmarks.encryption``
"""

import json
import os
import signal
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich import box
from rich.console import Console
from rich.table import Table

import walkv
from benchmarks import arguments, machine
from benchmarks.cost_model.timing import Statement, medians_ns
from benchmarks.micro import stores
from walkv.engine.keyring import VARIABLE

ROUNDS, QUICK_ROUNDS = 101, 3
ENTRIES, QUICK_ENTRIES = 50_000, 10_000
KEYS: Mapping[str, bytes | None] = {"plain": None, "encrypted": bytes(range(32))}
SCANNED = 1_000


@dataclass(frozen=True)
class Row:
    """One operation: nanoseconds without a key and with one."""

    name: str
    plain_ns: float
    encrypted_ns: float

    @property
    def ratio(self) -> float:
        return self.encrypted_ns / self.plain_ns


def measured(directory: Path, rounds: int, entries: int) -> list[Row]:
    """All operations; each round goes through both kinds of store."""
    statements: dict[str, Statement] = {}
    with ExitStack() as opened:
        for kind, key in KEYS.items():
            texts = _operations(directory / kind, key, entries, opened)
            statements |= {f"{name} {kind}": each for name, each in texts.items()}
        found = medians_ns(statements, rounds)
    names = [name.removesuffix(" plain") for name in statements if name.endswith(" plain")]
    return [Row(name, found[f"{name} plain"], found[f"{name} encrypted"]) for name in names]


def _operations(
    directory: Path, key: bytes | None, entries: int, opened: ExitStack
) -> dict[str, Statement]:
    directory.mkdir()
    data = stores.dataset(entries)
    items = dict(item for batch in data.batches(list(range(1_000)), 1_000) for item in batch)
    some_key, some_value = next(iter(items.items()))

    def open_store(name: str, **options: Any) -> walkv.Store:
        return opened.enter_context(walkv.open(directory / name, key=key, **options))

    writer = open_store("back", sync=walkv.WriteBack())
    durable = open_store("durable")
    with walkv.open(directory / "settled", key=key, sync=walkv.WriteBack()) as store:
        stores.fill(store, data, range(entries))
        store.compact()
    settled = open_store("settled", read_only=True, cache_bytes=stores.COLD_CACHE_BYTES)
    start = data.key(entries // 3)
    put = {"put": writer.put, "key": some_key, "value": some_value}
    large = {**put, "value": some_value * 640}
    scanned = {"scan": settled.scan, "start": start, "count": SCANNED}
    opening = {"open": walkv.open, "path": directory / "settled", "secret": key}
    return {
        "put, write-back": Statement("put(key, value)", put),
        "put of 64,000 bytes, write-back": Statement("put(key, value)", large, calls=20),
        "durable commit": Statement("put(key, value)", {**put, "put": durable.put}, calls=3),
        "get from the memtable": Statement("get(key)", {"get": writer.get, "key": some_key}),
        "get of a cold block": Statement(
            "get(next(keys))", {"get": settled.get, "keys": stores.cold_keys(data)}, calls=20
        ),
        f"scan of {SCANNED:,} entries": Statement(
            "for _ in scan(start=start, limit=count): pass", scanned, calls=1
        ),
        "open, and close": Statement(
            "open(path, read_only=True, key=secret).close()", opening, calls=3
        ),
    }


def to_markdown(rows: list[Row]) -> str:
    table = Table(box=box.MARKDOWN)
    for name in ("operation", "plain, us", "encrypted, us", "ratio", "more, us"):
        table.add_column(name, justify="left" if name == "operation" else "right")
    for row in rows:
        more_ns = row.encrypted_ns - row.plain_ns
        figures = [f"{ns / 1e3:,.2f}" for ns in (row.plain_ns, row.encrypted_ns)]
        table.add_row(row.name, *figures, f"{row.ratio:.2f}", f"{more_ns / 1e3:,.2f}")
    console = Console(width=200)
    with console.capture() as captured:
        console.print(table)
    return "\n".join(line.rstrip() for line in captured.get().splitlines()).strip("\n")


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--rounds",
    type=click.IntRange(1),
    help=f"Rounds to take the medians of.  [default: {ROUNDS}; with --quick {QUICK_ROUNDS}]",
)
@click.option("--quick", is_flag=True, help="Few rounds: shows that it runs, not how fast.")
@arguments.directory
@arguments.json_path
def main(*, rounds: int | None, quick: bool, directory: Path, json_path: Path | None) -> None:
    """Show, as Markdown, what the same operations cost with a key and without.

    Keys of 16 bytes, values of 100. Stores with and without a key take turns.
    """
    # Whoever ends the run, its stores are removed.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    os.environ.pop(VARIABLE, None)  # stores without a key are to have none
    rounds = rounds or (QUICK_ROUNDS if quick else ROUNDS)
    about = machine.describe(directory)
    commit, date = machine.git_commit(), datetime.now(UTC).isoformat(timespec="seconds")
    with tempfile.TemporaryDirectory(prefix=".benchmarks-encryption-", dir=directory) as root:
        rows = measured(Path(root), rounds, QUICK_ENTRIES if quick else ENTRIES)
    click.echo(to_markdown(rows))
    shown = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in about.items())
    click.echo(f"\nMedians of {rounds} rounds; {shown}; commit {commit}, {date}")
    if json_path is not None:
        facts = {"date": date, "commit": commit, "machine": about, "rounds": rounds}
        found = {"facts": facts, "rows": [asdict(row) for row in rows]}
        json_path.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
