"""Failing calls: what the caller is told, and what is there afterwards.

``script``   faults, as text, and where calls come from
``rules``    what must be true after a fault
``trial``    one workload with its faults
``sweep``    the layer
"""

from tests.laboratory.faults.sweep import LAYER

__all__ = ["LAYER"]
