"""Recipes: what puts a state together again, a list of literals and runs of parts.

Layout: see ``states``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import msgpack

from walkv.errors import CorruptionError
from walkv.namespaces.checkpoints.deltas import (
    MAX_STATE_BYTES,
    MSGPACK_ERRORS,
    NUMBERS,
    are_numbers,
)

_VERSION: Final = 1

Piece = bytes | tuple[int, int]
"""A literal, or the first of a run of parts and their count."""


def encoded(digest: int, length_bytes: int, pieces: Iterable[Piece]) -> bytes:
    """A recipe of pieces that are merged already."""
    fields: list[Any] = [_VERSION, digest, length_bytes]
    for piece in pieces:
        fields.extend((piece,) if type(piece) is bytes else piece)
    recipe: bytes = msgpack.packb(fields)
    return recipe


def merged(pieces: Iterable[Piece]) -> list[Piece]:
    """Neighbouring literals in one, parts with consecutive numbers in one run."""
    found: list[Piece] = []
    last: Piece | None = None
    for piece in pieces:
        if type(piece) is tuple and type(last) is tuple and sum(last) == piece[0]:
            found[-1] = last = (last[0], last[1] + piece[1])
        elif type(piece) is bytes and type(last) is bytes:
            found[-1] = last = last + piece
        else:
            found.append(piece)
            last = piece
    return found


def decoded(pool: int, recipe: bytes) -> tuple[int, int, list[Piece]]:
    """Digest, length and pieces of a recipe whose form is right."""
    try:
        fields = msgpack.unpackb(recipe)
        version, digest, length_bytes, *flat = fields
        if type(fields) is not list or version != _VERSION:
            raise ValueError(f"version {version!r}")
        if not are_numbers(digest, length_bytes) or length_bytes > MAX_STATE_BYTES:
            raise ValueError("neither a digest nor a length")
        pieces: list[Piece] = []
        rest = iter(flat)
        for field in rest:
            if type(field) is bytes:
                pieces.append(field)
                continue
            count = next(rest, 0)
            if not are_numbers(field, count) or not count or field + count >= NUMBERS:
                raise ValueError("neither a literal nor a run of parts")
            pieces.append((field, count))
    except MSGPACK_ERRORS as error:
        raise damaged(pool, f"a recipe is damaged: {error}") from None
    return digest, length_bytes, pieces


def damaged(pool: int, reason: str) -> CorruptionError:
    """The error for a pool whose entries are not what was written."""
    return CorruptionError(f"pool {pool} of states: {reason}")
