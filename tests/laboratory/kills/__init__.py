"""Real processes, killed while they write.

``commits``   what they write, and how to tell a prefix of it
``process``   the processes
``chains``    the layer: kill after kill on one store
"""

from tests.laboratory.kills.chains import LAYER

__all__ = ["LAYER"]
