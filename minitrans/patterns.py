"""Regular expressions out of files, matched without backtracking.

A pattern becomes a program (Thompson 1968, "Regular expression search algorithm"), of which each step is reached at
each place of a text once at most: whoever wrote the pattern, a match takes no more than their product.
"""

import re
from functools import lru_cache

Program = list["re.Pattern[str] | tuple[int, ...]"]  # what is to match next, or how many steps to go on, each way

LONGEST = 1000  # characters of a pattern, and steps of its program
TOKEN = re.compile(r"\\.|\[\^?\]?(?:\\.|[^]\\])*\]|\(\?:|[*+?]\??|\{\d+(?:,\d*)?\}\??|.", re.DOTALL)
REPEATS = {"*": (0, None), "+": (1, None), "?": (0, 1)}


def matches(text: str, *patterns: str) -> bool:
    """Whether patterns, one after the other, match a whole text, as `re.fullmatch` says.

    Raises ValueError for what is no pattern, and for one that looks ahead or back, or refers to a group.
    """
    program = [step for pattern in patterns for step in _compiled(pattern)]
    seen, left = {(0, 0)}, [(0, 0)]
    while left:
        step, place = left.pop()
        if step == len(program):
            if place == len(text):
                return True
            continue
        action = program[step]
        if isinstance(action, tuple):
            reached = {(step + jump, place) for jump in action}
        else:
            found = action.match(text, place)
            reached = {(step + 1, found.end())} if found else set()
        left += reached - seen
        seen |= reached
    return False


@lru_cache
def _compiled(pattern: str) -> Program:
    try:
        program = _program(TOKEN.findall(pattern[: LONGEST + 1]))
        if max(len(pattern), len(program)) > LONGEST:
            raise ValueError
        return program
    except (re.error, IndexError, ValueError):
        raise ValueError(
            f"{pattern!r:.80} is no regular expression of characters, classes, groups, '|' and repeats, or too long a "
            "one; write a simpler one."
        ) from None


def _program(tokens: list[str]) -> Program:
    stack: list[tuple[list[Program], list[Program]]] = []  # of the groups that are open
    others: list[Program] = []
    parts: list[Program] = []
    repeatable = False
    for token in tokens:
        bounds = _bounds(token)
        if bounds is not None and not repeatable:
            raise ValueError
        if bounds is not None:
            parts.append(_repeated(parts.pop(), *bounds))
        elif token in ("(", "(?:"):
            stack.append((others, parts))
            others, parts = [], []
        elif token == "|":
            others, parts = [*others, _joined(parts)], []
        elif token == ")":
            group = _either([*others, _joined(parts)])
            others, parts = stack.pop()
            parts.append(group)
        else:
            parts.append([re.compile(token)])
        repeatable = bounds is None and token not in ("(", "(?:", "|")
    if stack:
        raise ValueError
    return _either([*others, _joined(parts)])


def _joined(parts: list[Program]) -> Program:
    return [step for part in parts for step in part]


def _bounds(token: str) -> tuple[int, int | None] | None:
    """How often what is before a token may be repeated, None for one that is no such."""
    if token[0] in REPEATS:
        return REPEATS[token[0]]
    found = re.fullmatch(r"\{(\d+)(,?)(\d*)\}\??", token)
    if found is None:
        return None
    low = int(found[1])
    return low, int(found[3]) if found[3] else None if found[2] else low


def _repeated(part: Program, low: int, high: int | None) -> Program:
    if len(part) * max(low, high or 0) > LONGEST or (high is not None and high < low):
        raise ValueError
    if high is None:
        return [*part * low, (1, len(part) + 2), *part, (-len(part) - 1,)]
    return part * low + [(1, len(part) + 1), *part] * (high - low)


def _either(parts: list[Program]) -> Program:
    size, starts, program = sum(len(part) + 1 for part in parts), [], Program()
    for part in parts:
        starts.append(len(program) + 1)
        program += [*part, (size - len(program) - len(part),)]
    return [tuple(starts), *program]
