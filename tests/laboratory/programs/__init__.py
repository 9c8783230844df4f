"""Random programs over the public interface, against a model.

``loop``      an event loop without waiting
``world``     the store, its model, crashes and faults
``rules``     reads, writes, transactions
``life``      upkeep, readers, tasks, faults
``machine``   the layer
"""

from tests.laboratory.programs.machine import LAYER

__all__ = ["LAYER"]
