"""How much faster one of two is, from times that were taken in turns."""

import statistics


def speedup(ours: list[float], theirs: list[float]) -> float:
    """Times of two contestants, round by round -> theirs over ours. Clocks drift, and some rounds are disturbed."""
    return statistics.median(their / our for our, their in zip(ours, theirs, strict=True))
