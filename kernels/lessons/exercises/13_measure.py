"""How much faster one of two is, from interleaved times.

HOLE: a single disturbed round can move a mean arbitrarily far. And the rounds were interleaved so that both run at the
same clock rate: what should be compared, then?
"""

import statistics


def speedup(ours: list[float], theirs: list[float]) -> float:
    """Times of two candidates, round by round -> theirs over ours. Clocks drift, and some rounds are disturbed."""
    return statistics.mean(theirs) / statistics.mean(ours)  # HOLE
