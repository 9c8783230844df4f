"""Compares walkv with its peers, within one run and one guarantee class.

Reading order: `dataset` (what is stored) -> `engines` (one adapter per engine) -> `workloads`
(what is timed) -> `worker` (one measurement, one process) -> `runner` (interleaves engines) ->
`report` (medians and ratios). `machine` says what all of it ran on.

Run ``python -m benchmarks --help``; needs the ``bench`` extra.
"""
