"""What of a value is embedded, and what of embeddings is stored.

Source: LangGraph's stores, whose configuration and paths these are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, Final

from langgraph.store.base import ensure_embeddings, get_text_at_path, tokenize_path

from walkv.integrations.langgraph import vectors
from walkv.integrations.langgraph.vectors import DISTANCES, Distance, Query

_WHOLE: Final = "$"
"""The path of a value as a whole."""


class Index:
    """The configuration of an index.

    Args:
        config: an ``IndexConfig``, which may have a ``distance_type``.
    Raises:
        ValueError: it lacks ``dims`` or ``embed``, or has an unknown distance.

    Attributes:
        dims: of the vectors.
        embeddings: make them.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        dims = config.get("dims")
        if not isinstance(dims, int) or dims < 1:
            raise ValueError(f"an index has the dims of its vectors, 1 or more, not {dims!r}")
        distance: Any = config.get("distance_type") or "cosine"
        if distance not in DISTANCES:
            known = ", ".join(DISTANCES)
            raise ValueError(f"distance_type is one of {known}, not {distance!r}")
        self.dims: int = dims
        self._distance: Distance = distance
        self.embeddings = ensure_embeddings(config.get("embed"))
        self._paths = [_path(field) for field in config.get("fields") or [_WHOLE]]

    def texts(self, value: dict[str, Any], fields: Sequence[str] | None) -> list[str]:
        """What of a value is embedded.

        Args:
            fields: paths to it, instead of those of the configuration.
        Raises:
            CodecError: a part of it is no JSON, so that it has no text.
        """
        paths = self._paths if fields is None else map(_path, fields)
        try:
            return list(chain.from_iterable(get_text_at_path(value, path) for path in paths))
        except (TypeError, ValueError, RecursionError) as error:
            raise vectors.bad(
                f"the text to embed cannot be made: {error}; store the item with index=False, or "
                "name fields that hold text"
            ) from error

    def query(self, vector: Any) -> Query:
        """What is looked for.

        Raises:
            CodecError: it is not of the index's dimensions.
        """
        return Query(vectors.pack(vector, self.dims), self._distance)

    def packed(self, embedded: Sequence[Any], wanted: int) -> list[bytes]:
        """The vectors of so many texts, as they are stored.

        Raises:
            CodecError: they are not as many, or not of the index's dimensions.
        """
        if len(embedded) != wanted:
            raise vectors.bad(f"{wanted} texts were to be embedded, and {len(embedded)} came back")
        return [vectors.pack(vector, self.dims) for vector in embedded]


def _path(field: str) -> str | list[str]:
    return field if field == _WHOLE else tokenize_path(field)
