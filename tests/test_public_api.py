"""The face of walkv: its names, their documentation, and that both stores agree."""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import inspect
from collections.abc import Iterator
from typing import Any

import pytest

import walkv
from walkv import errors

NAMES = [
    "RUN_AGAIN",
    "AgentStore",
    "AsyncAgentStore",
    "AsyncStore",
    "Batch",
    "Change",
    "ClosedError",
    "CodecError",
    "ConflictError",
    "CorruptionError",
    "Declaration",
    "Delete",
    "DeleteRange",
    "DiskSpaceError",
    "EncryptionError",
    "FormatError",
    "Health",
    "Histogram",
    "HistoryLostError",
    "IndeterminateError",
    "KeepLog",
    "LimitError",
    "LockedError",
    "Namespace",
    "Page",
    "Plan",
    "Published",
    "Put",
    "Query",
    "ReadOnlyError",
    "RecordExistsError",
    "RecordNotFoundError",
    "RecoveryReport",
    "Stats",
    "StepFailedError",
    "Store",
    "StoreFailedError",
    "TamperedError",
    "Transaction",
    "VerifyReport",
    "View",
    "Wal",
    "WalkvError",
    "WriteBack",
    "WriteThrough",
    "aopen",
    "open",
]

STORE = [
    "batch",
    "changes",
    "close",
    "compact",
    "count",
    "delete",
    "delete_range",
    "get",
    "get_many",
    "get_versioned",
    "health",
    "last_sequence",
    "path",
    "put",
    "rekey",
    "recovery_report",
    "scan",
    "stats",
    "sync",
    "transact",
    "transaction",
    "verify",
    "view",
]


def test_all_is_exactly_this() -> None:
    assert walkv.__all__ == NAMES
    assert all(hasattr(walkv, name) for name in NAMES)


def test_nothing_public_is_left_out_of_all() -> None:
    modules = {
        "agent",
        "cli",
        "engine",
        "errors",
        "integrations",
        "interfaces",
        "limits",
        "namespaces",
        "ops",
    }
    modules |= {"records", "testing"}
    there = {name for name in vars(walkv) if not name.startswith("_")} - modules
    assert there == set(NAMES)


def test_the_package_is_typed_and_has_a_version() -> None:
    assert importlib.resources.files("walkv").joinpath("py.typed").is_file()
    assert importlib.metadata.version("walkv") == walkv.__version__


def test_store_has_what_was_promised() -> None:
    for name in STORE:
        assert hasattr(walkv.Store, name), name
        assert hasattr(walkv.AsyncStore, name), name


def public(cls: type[Any]) -> Iterator[tuple[str, Any]]:
    for name in dir(cls):
        if not name.startswith("_"):
            yield name, inspect.getattr_static(cls, name)


@pytest.mark.parametrize("name", NAMES)
def test_everything_public_is_documented(name: str) -> None:
    thing = getattr(walkv, name)
    assert inspect.getdoc(thing)
    if not inspect.isclass(thing):
        return
    for member, value in public(thing):
        if callable(value) or isinstance(value, property | classmethod | staticmethod):
            documented = member == "with_traceback" or inspect.getdoc(getattr(thing, member))
            assert documented, f"{name}.{member} has no docstring"


def parameters(function: Any) -> list[tuple[str, Any, Any]]:
    found = inspect.signature(function).parameters.values()
    return [(each.name, each.kind, each.default) for each in found]


def test_both_stores_have_the_same_names() -> None:
    sync = {name for name, _ in public(walkv.Store)} - {"engine"}
    other = {name for name, _ in public(walkv.AsyncStore)}
    # What threads write as ``key in store`` is a method here, and each face leads to the other.
    extra = {"contains", "of", "as_sync"}
    assert sync <= other
    assert {name for name in other - sync if name in extra} == extra


@pytest.mark.parametrize("name", [n for n, _ in public(walkv.Store) if n != "engine"])
def test_both_stores_have_the_same_signatures(name: str) -> None:
    one = inspect.getattr_static(walkv.Store, name)
    other = inspect.getattr_static(walkv.AsyncStore, name)
    assert isinstance(one, property) == isinstance(other, property)
    if not isinstance(one, property):
        assert parameters(one) == parameters(other)


def test_open_and_aopen_have_the_same_signature() -> None:
    assert parameters(walkv.open) == parameters(walkv.aopen)
    assert list(inspect.signature(walkv.open).parameters) == [
        "path",
        "sync",
        "read_only",
        "create",
        "memtable_bytes",
        "cache_bytes",
        "keep_log",
        "min_free_bytes",
        "slow_seconds",
        "filesystem",
        "key",
    ]
    assert inspect.signature(walkv.open).parameters["sync"].default == walkv.Wal()


@pytest.mark.parametrize("name", ["get", "get_versioned", "get_many", "scan", "count"])
def test_whatever_reads_reads_alike(name: str) -> None:
    expected = parameters(getattr(walkv.Store, name))
    assert parameters(getattr(walkv.View, name)) == expected
    assert parameters(getattr(walkv.Transaction, name)) == expected


@pytest.mark.parametrize("name", ["put", "delete", "delete_range"])
def test_batches_and_transactions_write_alike(name: str) -> None:
    assert parameters(getattr(walkv.Batch, name)) == parameters(getattr(walkv.Transaction, name))


def test_every_error_is_a_walkv_error_and_documented() -> None:
    found = [e for e in vars(errors).values() if inspect.isclass(e) and issubclass(e, Exception)]
    assert len(found) >= 10
    for error in found:
        assert issubclass(error, walkv.WalkvError)
        assert inspect.getdoc(error)
    assert {name for name in NAMES if name.endswith("Error")} <= {e.__name__ for e in found}
