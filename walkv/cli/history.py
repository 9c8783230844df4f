"""The command for what a key was: history."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import click

from walkv import Store
from walkv.cli import operations, output, values
from walkv.cli.operations import Knowledge
from walkv.cli.options import hex_option, json_option, key_bytes, store_argument
from walkv.cli.stores import Failure, reading
from walkv.cli.tables import Column, table
from walkv.cli.text import shown
from walkv.namespaces import keys
from walkv.namespaces.registry import Entry
from walkv.ops.naming import record_prefix
from walkv.ops.versions import Version, history

_COLUMNS = (
    Column("sequence", numeric=True),
    Column("time", whole=True),
    Column("what", whole=True),
    Column("size", shown=values.size, numeric=True, spare=True),
    Column("value", long=True),
)


@click.command("history")
@store_argument
@click.argument("key", metavar="KEY...", nargs=-1, required=True)
@click.option(
    "--namespace",
    "-n",
    metavar="NAME",
    help="KEY... are the key fields of a record of this namespace.",
)
@click.option(
    "--limit", type=click.IntRange(min=1), metavar="COUNT", help="At most so many, the newest."
)
@click.option("--secrets", is_flag=True, help="Show API keys and other secrets, too.")
@hex_option
@json_option
def history_command(
    path: str,
    key: tuple[str, ...],
    namespace: str | None,
    limit: int | None,
    secrets: bool,
    as_hex: bool,
    as_json: bool,
) -> None:
    """Show what a key was: every version that is still known, the newest first.

    KEY is a plain key. With --namespace it is a record of an agent, named by its key fields in
    order; a number or a time is given as walkv show shows it. The log knows when a version was
    written, as far as it goes back; walkv keep sets how far that is. Of what was settled long ago
    only the last version is known, without its time. A namespace that keeps history adds its old
    versions, with the sequence of the write that replaced each.

    Exit status 1 if nothing is known of the key.

    \b
    Examples:
      walkv history agent.walkv user/1
      walkv history agent.walkv user/1 --json
      walkv history agent.walkv --namespace sessions s1
      walkv history agent.walkv --namespace messages s1 7
    """
    if namespace is None and len(key) > 1:
        raise click.UsageError("give one KEY, or --namespace with the key fields of a record")
    with reading(path) as store:
        knowledge = Knowledge(store, secrets=secrets)
        if namespace is None:
            wanted, named = key_bytes(key[0], as_hex), shown(key_bytes(key[0], as_hex), as_hex)
        else:
            wanted, named = _record_key(store, knowledge.known, namespace, key)
        found = history(store, wanted, versioned=namespace is not None)[:limit]
        if not found:
            raise Failure(f"nothing is known of {named}: it is not there, nor in the log")
        if as_json:
            for version in found:
                output.emit_json(_fields(version, wanted, knowledge))
        else:
            rows = [_row(version, wanted, knowledge, as_hex) for version in found]
            output.console().print(table(_COLUMNS, rows))


def _fields(version: Version, key: bytes, knowledge: Knowledge) -> dict[str, Any]:
    name = knowledge.name(key)
    time, expires_at = version.time, version.expires_at
    fields: dict[str, Any] = {
        "what": version.kind,
        "sequence": version.sequence,
        "time": None if time is None else time.isoformat(),
        "expires_at": None if expires_at is None else expires_at.isoformat(),
        "value_bytes": None if version.value is None else len(version.value),
    }
    if version.value is not None:
        fields |= operations.value_fields(name, version.value, knowledge)
    return fields


def _row(version: Version, key: bytes, knowledge: Knowledge, as_hex: bool) -> dict[str, Any]:
    name = knowledge.name(key)
    value = version.value
    preview = "" if value is None else knowledge.preview(name, value)
    if value is not None and as_hex and name.kind == "key":
        preview = value[: values.LONGEST_CELL].hex()
    kept = version.kind == "version"
    return {
        "sequence": f"before {version.sequence}" if kept else str(version.sequence),
        "time": version.time,
        "what": "kept version" if kept else version.kind,
        "size": None if value is None else len(value),
        "value": preview,
    }


def _record_key(
    store: Store, known: dict[str, Entry], namespace: str, fields: tuple[str, ...]
) -> tuple[bytes, str]:
    """The key of a record, and what to call it.

    What an argument means, text or a number or a time, is not registered; records of the namespace
    show it.
    """
    entry = known.get(namespace)
    if entry is None:
        names = ", ".join(sorted(known)) or "none"
        raise Failure(f"there is no namespace {namespace!r} in this store; there are {names}")
    if len(fields) != len(entry.key):
        wanted = " ".join(name.upper() for name in entry.key)
        raise click.UsageError(f"the key fields of {namespace} are {wanted}")
    prefix = record_prefix(namespace)
    sample = next(store.scan(prefix, limit=1, keys_only=True), None)
    like = ("",) * len(fields) if sample is None else keys.unpack(sample[len(prefix) :])
    packed = [
        _packed(name, argument, each)
        for name, argument, each in zip(entry.key, fields, like, strict=True)
    ]
    return prefix + b"".join(packed), f"{namespace} {' '.join(fields)}"


def _packed(name: str, argument: str, like: Any) -> bytes:
    try:
        if isinstance(like, bool):
            return keys.pack_one({"true": True, "false": False}[argument.lower()])
        if isinstance(like, int):
            return keys.pack_one(int(argument.replace(",", "")))
        if isinstance(like, float):
            return keys.pack_one(float(argument))
        if isinstance(like, datetime):
            return keys.pack_one(values.read_instant(argument))
        if isinstance(like, bytes):
            return keys.pack_one(bytes.fromhex(argument))
        return keys.pack_one(argument)
    except (ValueError, KeyError) as error:
        raise click.BadParameter(
            f"{name} is like {values.cell(like)!r} here, and this is {argument!r}",
            param_hint="'KEY'",
        ) from error
