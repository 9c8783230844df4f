"""Which records are asked for: a few of them often, most of them seldom.

*Source*: Gray, Sundaresan, Englert, Baclawski and Weinberger, "Quickly Generating Billion-Record
Synthetic Databases" (SIGMOD 1994), for the numbers; Cooper, Silberstein, Tam, Ramakrishnan and
Sears, "Benchmarking Cloud Serving Systems with YCSB" (SoCC 2010), for theta and for scattering
them by a hash, without which the popular records would be neighbours.
"""

from random import Random

THETA = 0.99
FNV_OFFSET = 0xCBF29CE484222325
FNV_PRIME = 0x100000001B3
MASK_64 = (1 << 64) - 1


class Zipfian:
    """Ranks from 0 to `count` - 1; rank r comes in proportion to 1 / (r + 1) ** theta."""

    def __init__(self, count: int, generator: Random, theta: float = THETA) -> None:
        self._count = count
        self._random = generator.random
        self._zeta = sum(1 / rank**theta for rank in range(1, count + 1))
        self._first_two = 1 + 0.5**theta
        self._alpha = 1 / (1 - theta)
        # With one or two records the branches of `next` for ranks 0 and 1 take all.
        self._eta = (
            (1 - (2 / count) ** (1 - theta)) / (1 - self._first_two / self._zeta)
            if count > 2
            else 0.0
        )

    def next(self) -> int:
        uniform = self._random()
        scaled = uniform * self._zeta
        if scaled < 1:
            return 0
        if scaled < self._first_two or self._count <= 2:
            return min(1, self._count - 1)
        rank = int(self._count * (self._eta * uniform - self._eta + 1) ** self._alpha)
        return min(rank, self._count - 1)


def fnv_64(number: int) -> int:
    """FNV-1a of the eight octets of `number`, the least significant first."""
    digest = FNV_OFFSET
    for _ in range(8):
        digest = (digest ^ (number & 0xFF)) * FNV_PRIME & MASK_64
        number >>= 8
    return digest
