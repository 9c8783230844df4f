"""Real operating systems: what they refuse, take away, or lose.

``places``     disks of their own, in memory or on a loop device
``limits``     space, inodes, file sizes, descriptors, read-only mounts
``others``     other processes, forks, what is deleted underneath
``shutdown``   file systems shut down in the middle
``rounds``     the layer
"""

from tests.laboratory.systems.rounds import LAYER

__all__ = ["LAYER"]
