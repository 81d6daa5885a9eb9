"""What became of a case: an answer that an oracle confirms, a refusal in a sentence, or one of what must not be."""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

REFUSALS = (ValueError, TypeError, OSError, ImportError)
LONGEST = 1200  # characters of a sentence, names of files included


class Outcomes:
    """Counts of "accepted", "refused", "unclear", "wrong" and "crashed", with the first cases of what must not be."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, list[str]] = {}

    def judge(self, case: object, call: Callable[[], Any], is_right: Callable[[Any], Any], *named: str) -> str:
        """Run a case: an answer must be what `is_right` confirms, a refusal a sentence with what is `named`."""
        try:
            found = call()
        except REFUSALS as error:
            outcome = "refused" if is_sentence(error) and all(x in str(error) for x in named) else "unclear"
            detail = f"{type(error).__name__}: {error}"
        except Exception as error:
            outcome, detail = "crashed", f"{type(error).__name__}: {error}"
        else:
            outcome, detail = ("accepted" if is_right(found) else "wrong"), f"{found!r:.80}"
        self.counts[outcome] += 1
        if outcome not in ("accepted", "refused"):
            self.examples.setdefault(outcome, []).append(f"{case!r:.300} -> {detail[:300]}".replace("\n", " "))
        return outcome

    def check(self) -> None:
        """Print the figures, and fail with examples where a case is unclear, wrong or crashed."""
        print(f"\n{self.name}: {sum(self.counts.values())} cases, {dict(sorted(self.counts.items()))}")
        listed = [f"{outcome}: {case}" for outcome, found in self.examples.items() for case in found[:40]]
        assert not listed, "\n".join(listed)


def is_sentence(error: BaseException) -> bool:
    """Whether an error was raised by this package, in one line that is not too long."""
    text, raised_in = str(error), traceback.extract_tb(error.__traceback__)[-1].filename
    return "minitrans" in Path(raised_in).parts[:-1] and bool(text) and "\n" not in text and len(text) <= LONGEST
