"""How figures are written, in tables and in pictures alike."""

import math


def readable(value: float) -> str:
    """Three digits or more, with thousands apart."""
    if math.isinf(value):
        return "infinite"
    if value and abs(value) < 0.001:
        return f"{value:.1e}"
    decimals = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3
    return f"{value:,.{decimals}f}"
