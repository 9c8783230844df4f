"""Damage to files: what each kind of it leads to.

``kinds``     damages, as text
``stores``    the stores they are done to, and what they hold
``check``     the one right outcome of each, and whether it came
``running``   damage under a store that is open
``sweep``     the layer
"""

from tests.laboratory.damage.sweep import LAYER

__all__ = ["LAYER"]
