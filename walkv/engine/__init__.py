"""Bytes in, bytes out: the key-value engine. Nothing here knows what the bytes mean.

Each module imports only from those above it in this list; ``tests/test_layers.py`` says so:

    vfs/, shield, ranges  the world outside; Ctrl-C; sets of key ranges
    meter                 how long things take
    cipher, keyring       payload <-> sealed payload; the keys of an encrypted store
    frame, batch          bytes <-> frame; operations <-> payload
    segment               one log file
    keep                  settled segments that are kept
    policies              when a commit is acknowledged
    wal, syncer           the log: append, rotate, group commit; its thread
    merge                 several sorted runs -> one
    memtable              the index of unsettled writes
    snapshot/             one compacted file: writer, reader, cache
    manifest              which files are the store
    files                 their names; how a store begins
    recovery              look, then act
    catalog               the files and memtables that are the store right now
    picking               which snapshots to merge, and when
    compaction            flush and merge
    reads, writes         get, scan, views; commits and rotation
    core, follower        the writing and the read-only opener
    watch                 a store in numbers, and how it fares
    opening               lock, recover, run; or look and follow
    changes               the feed of committed batches
    inspect               verify
    store/                Store, AsyncStore, Batch, Transaction, View
"""
