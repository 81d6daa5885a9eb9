"""How much faster one of two is, from times that were taken in turns.

HOLE: one disturbed round moves a mean as far as it likes. And rounds were taken in turns so that both see the same
clock: what is compared, then?
"""

import statistics


def speedup(ours: list[float], theirs: list[float]) -> float:
    """Times of two contestants, round by round -> theirs over ours. Clocks drift, and some rounds are disturbed."""
    return statistics.mean(theirs) / statistics.mean(ours)  # HOLE
