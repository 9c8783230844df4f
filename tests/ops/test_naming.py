from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest

import walkv
from walkv.namespaces import registry
from walkv.namespaces.keyvalue import Reader
from walkv.ops.naming import Name, name_of, record_of, record_prefix


@dataclass(frozen=True, slots=True)
class Account:
    account_id: str
    number: int
    owner: str
    token: str = field(repr=False, metadata={"secret": True})


DECLARATION = walkv.Declaration(
    "accounts", Account, key=("account_id", "number"), indexes=[("owner", "number")], history=2
)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    with walkv.AgentStore(tmp_path / "s") as agent:
        accounts = agent.namespace(DECLARATION)
        accounts.put(Account("a", 7, "ada", "hidden"))
        accounts.update(("a", 7), owner="grace")
        agent.store.put(b"plain", b"v")
    return tmp_path / "s"


def test_every_key_has_a_name(store: Path) -> None:
    with walkv.open(store, read_only=True) as reader:
        known = registry.read(cast(Reader, reader))
        names = [name_of(key, known) for key in reader.scan(keys_only=True)]
    assert names == [
        Name("registry"),
        Name("version", "accounts", ("a", 7)),
        Name("index", "accounts", ("a", 7), "owner,number"),
        Name("record", "accounts", ("a", 7)),
        Name("key"),
    ]


@pytest.mark.parametrize(
    "key", [b"\0", b"\0x", b"\0A\0r\x50k\0", b"\0a\0q", b"\0a\0r\x99", b"\0a\0i", b"k", b"\0\0k"]
)
def test_what_no_namespace_can_read_is_a_plain_key(key: bytes) -> None:
    assert name_of(key, {}) == Name("key")


def test_secrets_are_masked_unless_they_are_asked_for(store: Path) -> None:
    with walkv.open(store, read_only=True) as reader:
        entry = registry.read(cast(Reader, reader))["accounts"]
        ((_, value),) = reader.scan(record_prefix("accounts"))
    assert record_of(value, "accounts", entry)["token"] == "***"
    assert record_of(value, "accounts", entry, secrets=True)["token"] == "hidden"
    with pytest.raises(walkv.CodecError, match="accounts"):
        record_of(b"\x01", "accounts", entry)
