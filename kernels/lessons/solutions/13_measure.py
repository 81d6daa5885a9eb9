"""How much faster one of two is, from interleaved times."""

import statistics


def speedup(ours: list[float], theirs: list[float]) -> float:
    """Times of two candidates, round by round -> theirs over ours. Clocks drift, and some rounds are disturbed."""
    return statistics.median(their / our for our, their in zip(ours, theirs, strict=True))
