"""Planted bugs, which the other layers must notice.

``bugs``       the list
``planting``   the layer
"""

from tests.laboratory.mutants.planting import LAYER

__all__ = ["LAYER"]
