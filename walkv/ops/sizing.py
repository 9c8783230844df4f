"""What each namespace of a store takes: records and bytes, counted at one moment."""

from __future__ import annotations

from dataclasses import dataclass

from walkv.engine.inspect import Progress
from walkv.engine.store import Store
from walkv.ops.naming import group_of, kind_of


@dataclass(slots=True)
class Size:
    """What is there of one namespace, or of the application's plain keys.

    Attributes:
        namespace: empty for plain keys.
        record_count: records; of plain keys, entries.
        record_bytes: their keys and values.
        index_bytes: of index entries.
        version_bytes: of old versions of records.
        other_bytes: of what the namespace keeps besides, such as the parts of states.
    """

    namespace: str
    record_count: int = 0
    record_bytes: int = 0
    index_bytes: int = 0
    version_bytes: int = 0
    other_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        """All of it, before compression."""
        return self.record_bytes + self.index_bytes + self.version_bytes + self.other_bytes

    def add(self, kind: str, count: int, size_bytes: int) -> None:
        """Take in entries of one kind, as ``naming.Name`` calls it."""
        if kind in ("record", "key"):
            self.record_count += count
            self.record_bytes += size_bytes
        elif kind == "index":
            self.index_bytes += size_bytes
        elif kind == "version":
            self.version_bytes += size_bytes
        else:
            self.other_bytes += size_bytes


def sizes(store: Store, progress: Progress | None = None) -> list[Size]:
    """What each namespace takes, the largest first; plain keys are one of them.

    Bytes are those of keys and values. Files have them compressed, and may also hold what was
    replaced, deleted or has expired.

    Args:
        progress: called with entries counted, and about how many there are.
    Cost: reads the whole store once.
    """
    found: dict[str, Size] = {}
    stats = store.stats()
    total, done = stats.memtable_entries + stats.snapshot_entries, 0
    engine = store.engine
    point = engine.pin()
    try:
        for keys, values in engine.pages(point, b"", None):
            group = group_of(keys[0])
            if group and keys[-1].startswith(group):
                _add(found, group, len(keys), sum(map(len, keys)) + sum(map(len, values)))
            else:
                for key, value in zip(keys, values, strict=True):
                    _add(found, group_of(key), 1, len(key) + len(value))
            done += len(keys)
            if progress is not None:
                progress(min(done, total), total)
    finally:
        point.release()
    return sorted(found.values(), key=lambda size: (-size.total_bytes, size.namespace))


def _add(found: dict[str, Size], group: bytes, count: int, size_bytes: int) -> None:
    kind, namespace = kind_of(group)
    if kind != "registry":
        found.setdefault(namespace, Size(namespace)).add(kind, count, size_bytes)
