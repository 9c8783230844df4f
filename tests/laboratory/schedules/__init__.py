"""Several threads and tasks at once, one at a time.

``oracle``   what they commit, and what must be true at every operation
``plans``    the layer
"""

from tests.laboratory.schedules.plans import LAYER

__all__ = ["LAYER"]
