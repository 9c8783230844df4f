"""The commands for keys and values: get, put, delete, scan."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import IO, Any, Final

import click
from rich.text import Text

from walkv import Store, limits
from walkv.cli import output
from walkv.cli.asking import confirm
from walkv.cli.options import (
    hex_option,
    json_option,
    key_bytes,
    range_bytes,
    store_argument,
    sync_option,
)
from walkv.cli.policies import POLICIES
from walkv.cli.stores import Failure, freeing, reading, writing
from walkv.cli.text import escaped, for_json, shown

_READ_BYTES: Final = 1 * limits.MIB
_LONGEST_TTL_SECONDS: Final = 1e12
_LEAST_PREVIEW_COLUMNS: Final = 20
_RECORDS: Final = b"\0"
_BEHIND_RECORDS: Final = b"\x01"


def _no_such_key(key: bytes, as_hex: bool) -> Failure:
    return Failure(f"no such key: {shown(key, as_hex)}")


@click.command()
@store_argument
@click.argument("key")
@hex_option
@json_option
def get(path: str, key: str, as_hex: bool, as_json: bool) -> None:
    """Print the value of KEY.

    Into a pipe or file the value is written as it is, byte for byte, with nothing added. On a
    terminal a value that is not text is shown escaped. Exit status 1 if there is no such key.

    \b
    Examples:
      walkv get agent.walkv user/1
      walkv get agent.walkv picture.png > picture.png
      walkv get agent.walkv user/1 --json
    """
    wanted = key_bytes(key, as_hex)
    with reading(path) as store:
        value, version = store.get_versioned(wanted)
    if value is None:
        raise _no_such_key(wanted, as_hex)
    if as_json:
        output.emit_json(
            {
                "key": for_json(wanted, as_hex),
                "value": for_json(value, as_hex),
                "version": version,
            }
        )
    elif as_hex:
        click.echo(value.hex())
    elif output.is_terminal(sys.stdout):
        _show(value)
    else:
        click.echo(value, nl=False)


def _show(value: bytes) -> None:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        text = ""
    if text.replace("\n", "").replace("\t", "").isprintable() and (text or not value):
        click.echo(text, nl=not text.endswith("\n"))
    else:
        click.echo(escaped(value))
        output.note("not text, so shown escaped; a pipe or --hex gives the bytes")


@click.command()
@store_argument
@click.argument("key")
@click.argument("value", required=False)
@click.option("--file", "file", type=click.File("rb"), help="Read the value from a file.")
@click.option(
    "--ttl", "ttl_seconds", type=float, metavar="SECONDS", help="The entry is gone after that time."
)
@sync_option
@click.option("--no-create", is_flag=True, help="Fail if there is no store, do not make one.")
@hex_option
@json_option
def put(
    path: str,
    key: str,
    value: str | None,
    file: IO[bytes] | None,
    ttl_seconds: float | None,
    sync: str,
    no_create: bool,
    as_hex: bool,
    as_json: bool,
) -> None:
    """Set KEY to VALUE; a VALUE of - is read from stdin.

    Makes the store if there is none, and says so. When the command returns the entry is durable.
    With --hex what is read from stdin or a file is hex digits too.

    \b
    Examples:
      walkv put agent.walkv user/1 Ada
      walkv put agent.walkv picture.png --file picture.png
      walkv put agent.walkv token secret --ttl 3600
      echo hello | walkv put agent.walkv greeting -
    """
    wanted = key_bytes(key, as_hex)
    if (value is None) == (file is None):
        raise click.UsageError("give either VALUE (or -) or --file")
    if ttl_seconds is not None and not 0 < ttl_seconds < _LONGEST_TTL_SECONDS:
        raise click.BadParameter("the time is above 0 seconds and finite", param_hint="'--ttl'")
    data = _value_bytes(value, file, as_hex)
    with writing(path, create=not no_create) as store:
        created = store.recovery_report.created
        version = store.put(wanted, data, sync=POLICIES[sync], ttl_seconds=ttl_seconds)
    if as_json:
        output.emit_json(
            {
                "key": for_json(wanted, as_hex),
                "version": version,
                "value_bytes": len(data),
                "created": created,
            }
        )


def _value_bytes(value: str | None, file: IO[bytes] | None, as_hex: bool) -> bytes:
    if value is not None and value != "-":
        return range_bytes("VALUE", value, as_hex)
    if file is None and sys.stdin is None:
        raise Failure("there is no stdin to read the value from")
    stream = file or sys.stdin.buffer
    most_bytes = limits.MAX_VALUE_BYTES * (3 if as_hex else 1)
    data = bytearray()
    while block := stream.read(_READ_BYTES):
        data += block
        if len(data) > most_bytes:
            most = output.size(limits.MAX_VALUE_BYTES)
            raise Failure(
                f"a value has at most {most}, and this one has more; split it over several keys"
            )
    if as_hex:
        return range_bytes("VALUE", data.decode("ascii", "replace"), as_hex)
    return bytes(data)


@click.command()
@store_argument
@click.argument("key", required=False)
@click.option("--prefix", help="Delete all keys that begin with it, in one atomic commit.")
@click.option("--yes", is_flag=True, help="Do not ask before deleting a prefix.")
@sync_option
@hex_option
@json_option
def delete(
    path: str,
    key: str | None,
    prefix: str | None,
    yes: bool,
    sync: str,
    as_hex: bool,
    as_json: bool,
) -> None:
    """Delete KEY, or all keys with a prefix.

    Asks before it deletes a prefix, unless --yes is given. Exit status 1 if there is no such key;
    a prefix may match nothing. The disk space comes back in the background, or by walkv compact.

    \b
    Examples:
      walkv delete agent.walkv user/1
      walkv delete agent.walkv --prefix user/ --yes
    """
    if (key is None) == (prefix is None):
        raise click.UsageError("give either KEY or --prefix")
    if key is not None:
        _delete_key(path, key_bytes(key, as_hex), sync, as_hex, as_json)
        return
    assert prefix is not None, "one of the two is given"
    low = range_bytes("--prefix", prefix, as_hex)
    if not yes:
        # Counted without the lock, so that nobody is kept waiting for an answer.
        with reading(path) as store:
            count = store.count(low)
        confirm(f"Delete {_keys(count)} {_beginning(low, as_hex)}?")
    with freeing(path) as store:
        count = store.count(low)
        if count:
            store.delete_range(low, sync=POLICIES[sync])
    if as_json:
        output.emit_json({"prefix": for_json(low, as_hex), "deleted": count})
    else:
        click.echo(f"deleted {_keys(count)} {_beginning(low, as_hex)}")


def _delete_key(path: str, key: bytes, sync: str, as_hex: bool, as_json: bool) -> None:
    with freeing(path) as store:
        found = key in store
        version = store.delete(key, sync=POLICIES[sync]) if found else 0
    if not found:
        raise _no_such_key(key, as_hex)
    if as_json:
        output.emit_json({"key": for_json(key, as_hex), "version": version})


def _keys(count: int) -> str:
    return "1 key" if count == 1 else f"{count:,} keys"


def _beginning(prefix: bytes, as_hex: bool) -> str:
    return f"beginning with {shown(prefix, as_hex)}" if prefix else "(all there are)"


@click.command()
@store_argument
@click.option("--prefix", help="Only keys that begin with it.")
@click.option("--start", help="First key, included.")
@click.option("--stop", help="End, not included.")
@click.option("--reverse", is_flag=True, help="From the last key to the first.")
@click.option(
    "--limit", type=click.IntRange(min=0), metavar="COUNT", help="At most so many entries."
)
@click.option("--keys-only", is_flag=True, help="Print keys without values.")
@click.option(
    "--all", "with_records", is_flag=True, help="Also an agent's records, as bytes, with secrets."
)
@hex_option
@json_option
def scan(
    path: str,
    prefix: str | None,
    start: str | None,
    stop: str | None,
    reverse: bool,
    limit: int | None,
    keys_only: bool,
    with_records: bool,
    as_hex: bool,
    as_json: bool,
) -> None:
    """Print entries in key order.

    An entry is one line: the key, a tab, the value. Bytes that are not printable are shown as
    \\xNN, line breaks and tabs as \\n, \\r and \\t, and a backslash as \\\\. On a terminal long
    values are cut to the width of the window.

    Keys that begin with a zero byte hold the records of an agent: walkv show lists those, and masks
    what is secret. Here they are left out unless --all, or a prefix or start that begins with such
    a byte, asks for them.

    \b
    Examples:
      walkv scan agent.walkv
      walkv scan agent.walkv --prefix user/ --limit 10
      walkv scan agent.walkv --start user/1 --stop user/5 --reverse
      walkv scan agent.walkv --keys-only | wc -l
      walkv scan agent.walkv --json
    """
    if prefix is not None and (start is not None or stop is not None):
        raise click.UsageError("give either --prefix or --start and --stop")
    bounds: dict[str, Any] = {
        name: None if argument is None else range_bytes(f"--{name}", argument, as_hex)
        for name, argument in (("prefix", prefix), ("start", start), ("stop", stop))
    }
    bounds |= {"reverse": reverse, "limit": limit}
    asked = with_records or (bounds["prefix"] or bounds["start"] or b"").startswith(_RECORDS)
    leaves_out = not asked and not bounds["prefix"] and not bounds["start"]
    if leaves_out:
        bounds |= {"prefix": None, "start": _BEHIND_RECORDS}
    with reading(path) as store:
        entries = _entries(store, bounds, keys_only)
        if as_json:
            output.emit_lines(_json_line(key, value, as_hex) for key, value in entries)
        elif output.is_terminal(sys.stdout):
            _show_entries(entries, as_hex)
        else:
            output.emit_lines(_plain_line(key, value, as_hex) for key, value in entries)
        records = store.scan(stop=_BEHIND_RECORDS, limit=1, keys_only=True)
        if leaves_out and next(records, None) is not None:
            output.note("the records of an agent were left out; walkv show lists them")


def _entries(
    store: Store, bounds: dict[str, Any], keys_only: bool
) -> Iterator[tuple[bytes, bytes | None]]:
    if not keys_only:
        return store.scan(**bounds)
    return ((key, None) for key in store.scan(**bounds, keys_only=True))


def _json_line(key: bytes, value: bytes | None, as_hex: bool) -> bytes:
    fields = {"key": for_json(key, as_hex)}
    if value is not None:
        fields["value"] = for_json(value, as_hex)
    return output.json_bytes(fields)


def _plain_line(key: bytes, value: bytes | None, as_hex: bool) -> bytes:
    line = shown(key, as_hex)
    if value is not None:
        line += "\t" + shown(value, as_hex)
    return line.encode()


def _show_entries(entries: Iterator[tuple[bytes, bytes | None]], as_hex: bool) -> None:
    console = output.console()
    count = 0
    for key, value in entries:
        line = Text().append(shown(key, as_hex), style="cyan")
        if value is not None:
            line.append("  ")
            line.append_text(_preview(value, console.width - line.cell_len, as_hex))
        console.print(line)
        count += 1
    if not count:
        output.note("no entries")


def _preview(value: bytes, columns: int, as_hex: bool) -> Text:
    """As much of a value as fits, and its size if that is not all."""
    columns = max(columns, _LEAST_PREVIEW_COLUMNS)
    # A column shows at most one character of at most four bytes.
    text = Text(shown(value[: 4 * columns], as_hex))
    if len(value) <= 4 * columns and text.cell_len <= columns:
        return text
    rest = Text(f"... ({output.size(len(value))})", style="dim")
    text.truncate(max(columns - rest.cell_len, 1))
    return text.append_text(rest)
