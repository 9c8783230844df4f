"""pytest-benchmark's micro-benchmarks of the hot paths, to compare two commits.

    python -m benchmarks.micro                              # two minutes at most
    python -m benchmarks.micro -k put                       # some of them
    python -m benchmarks.micro --benchmark-save=before      # at one commit
    python -m benchmarks.micro --benchmark-save=after       # at the other
    pytest-benchmark compare                                # the runs that were saved, side by side
    python -m benchmarks.micro --benchmark-compare          # or with the last one, at once

What is saved goes to ``.benchmarks``, below the current directory. Whatever is not an option of
``benchmarks.micro`` is given to pytest; ``python -m pytest benchmarks/micro`` does the same without
choosing a disk.

    stores         the stores that are read, made once a run
    rounds         rounds of a fixed number of calls
    bench_formats  frames, payloads, pages, blocks, filters: no disk
    bench_commits  puts by policy, from a thread and from tasks, and batches
    bench_reads    look-ups and scans, from the memtable, the cache and the files
    bench_upkeep   replay, opening, flush and merge
    bench_records  a message and a checkpoint
"""
