"""Moving data: export to files that say themselves how they are read, import of these and others.

items        what moves: records, entries, checkpoints; their digests
jsonform     values <-> JSON, whatever they are
moment       a store as of one moment, with what expires when
collecting   a store as items, in the order of its keys
framing      documents <-> bytes of a file
documents    header, items and end of an export file
exporting    export
declared     namespaces of applications, written without their classes
shelves      items into a store, and read again
sources/     where items come from
importing    import_
"""

from walkv.ops.moving.exporting import ExportReport, export
from walkv.ops.moving.importing import ImportReport, Moved, import_
from walkv.ops.moving.sources.opening import detect

__all__ = ["ExportReport", "ImportReport", "Moved", "detect", "export", "import_"]
