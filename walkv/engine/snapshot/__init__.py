"""One compacted, sorted, immutable file: its format, its writer, its reader, the block cache.

Reading order: ``layout`` (bytes of header, pages and footer), ``blocks`` (what is in a page),
``writer``, ``cache``, ``reader``.
"""

from walkv.engine.snapshot.cache import BlockCache
from walkv.engine.snapshot.layout import file_name, parse_file_name
from walkv.engine.snapshot.reader import ABSENT, UNREAD, SnapshotReader
from walkv.engine.snapshot.writer import SnapshotSummary, SnapshotWriter

__all__ = [
    "ABSENT",
    "UNREAD",
    "BlockCache",
    "SnapshotReader",
    "SnapshotSummary",
    "SnapshotWriter",
    "file_name",
    "parse_file_name",
]
