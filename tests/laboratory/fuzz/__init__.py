"""Hostile bytes for everything that reads bytes.

``targets``   the decoders, and how their input is forged
``inputs``    what they are given
``cases``     the layer
"""

from tests.laboratory.fuzz.cases import LAYER

__all__ = ["LAYER"]
