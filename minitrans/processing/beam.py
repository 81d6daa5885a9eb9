"""The text of the frames of a CTC model, weighed by a language model of words.

A CTC model gives each frame a probability of every token (Graves et al. 2006). The probability of a text is the sum
over all ways to spread its tokens over the frames; the search sums them prefix by prefix (Hannun et al. 2014) and
keeps the `width` best. An n-gram model adds for each word α · ln p(word | the words before) + β, as pyctcdecode weighs
it, whose folders are read here: alphabet.json and language_model/.
"""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

import numpy as np

LN10 = math.log(10)
NEVER = -math.inf
MISSING = -100.0  # log10 of what a model without "<unk>" gives to unknown words, as in kenlm
WIDTH = 100
KEPT = 32  # words that the search can still change; more than an n-gram looks back
BAND = 1024  # places that an alignment looks at in a frame, half a minute of fast speech

States = dict[int | None, float]  # how a text's frames end: the last token, None for the blank -> ln p


class NGram(Protocol):
    """A language model of words: log10 probabilities, and states that stand for the words before."""

    def start(self, boundary: bool) -> Any:
        """Return the state at the beginning, after "<s>" where `boundary` says so."""

    def score(self, state: Any, word: str) -> tuple[float, Any]:
        """Return log10 p(word | state) and the state after it."""

    def __contains__(self, word: str) -> bool: ...


class ArpaModel:
    """A back-off model (Katz 1987) read from an ARPA file, gzipped or not; ValueError for any other file."""

    def __init__(self, path: Path) -> None:
        self.order = 0
        self._grams: dict[str, tuple[float, float]] = {}  # words with spaces between -> log10 p, log10 back-off
        opened = gzip.open if path.suffix == ".gz" else open
        with opened(path, "rt", encoding="utf-8") as lines:
            for order, line in _sections(lines):
                self.order = max(self.order, order)
                parts = line.split("\t") if "\t" in line else _columns(line, order)
                try:
                    value, words = float(parts[0]), parts[1]
                    self._grams[words] = value, float(parts[2]) if len(parts) > 2 else 0.0
                except (ValueError, IndexError):
                    raise ValueError(f"{path} is not an ARPA file: {line!r:.80} is not a {order}-gram.") from None
        if not self.order:
            raise ValueError(f"{path} is not an ARPA file: it has no section of 1-grams.")
        self._grams.setdefault("<unk>", (MISSING, 0.0))

    def __contains__(self, word: str) -> bool:
        return word in self._grams and word != "<unk>"

    def start(self, boundary: bool) -> tuple[str, ...]:
        """Return no words, or "<s>"."""
        return ("<s>",) if boundary and self.order > 1 else ()

    def score(self, state: tuple[str, ...], word: str) -> tuple[float, tuple[str, ...]]:
        """Return log10 p of a word after others: of the longest n-gram there is, or of a shorter one, backed off."""
        word = word if word in self._grams else "<unk>"
        after = ((*state, word)[-(self.order - 1) :]) if self.order > 1 else ()
        backoff = 0.0
        first = 0
        while (found := self._grams.get(" ".join((*state[first:], word)))) is None:
            backoff += self._grams.get(" ".join(state[first:]), (0.0, 0.0))[1]
            first += 1
        return backoff + found[0], after


def _sections(lines: Iterable[str]) -> Iterator[tuple[int, str]]:
    """Give each n-gram's line with its n."""
    order = 0
    for line in lines:
        line = line.strip("\r\n ")
        if line.startswith("\\"):
            order = int(line[1:].partition("-")[0]) if line.endswith("-grams:") else 0
        elif line and order:
            yield order, line


def _columns(line: str, order: int) -> list[str]:
    """Split a line whose columns stand apart by spaces, as some programs write them."""
    parts = line.split()
    return [parts[0], " ".join(parts[1 : order + 1]), *parts[order + 1 :]]


class KenlmModel:
    """A binary file of kenlm, read by kenlm; ImportError where that is not installed, ValueError for another file."""

    def __init__(self, path: Path) -> None:
        try:
            import kenlm
        except ImportError as error:
            raise ImportError(f"{path} is read by kenlm, which is not installed") from error
        self._new_state = kenlm.State
        try:
            self._model = kenlm.Model(str(path))
        except (OSError, RuntimeError) as error:
            raise ValueError(f"{path} cannot be read by kenlm ({error})") from error

    def __contains__(self, word: str) -> bool:
        return word in self._model

    def start(self, boundary: bool) -> Any:
        """Return the state after "<s>", or after nothing."""
        state = self._new_state()
        (self._model.BeginSentenceWrite if boundary else self._model.NullContextWrite)(state)
        return state

    def score(self, state: Any, word: str) -> tuple[float, Any]:
        """Return log10 p(word | state) and the state after it."""
        after = self._new_state()
        return self._model.BaseScore(state, word, after), after


@dataclass
class LanguageModel:
    """What a text's words add to its score, in natural logarithms.

    `alpha` weighs the n-gram model, `beta` is given for each word, `unk_score_offset` (log10) for a word that is not
    in `unigrams`, or not in the model where there are none; with `score_boundary` texts begin with "<s>" and end with
    "</s>".
    """

    ngram: NGram
    unigrams: frozenset[str] = frozenset()
    alpha: float = 0.5
    beta: float = 1.5
    unk_score_offset: float = -10.0
    score_boundary: bool = True
    prefixes: frozenset[str] = field(default=frozenset(), repr=False)

    def __post_init__(self) -> None:
        if self.unigrams and not self.prefixes:
            self.prefixes = frozenset(prefix for word in self.unigrams for prefix in accumulate(word))

    def start(self) -> Any:
        """Return the state before the first word."""
        return self.ngram.start(self.score_boundary)

    def word(self, state: Any, word: str) -> tuple[float, Any]:
        """Return what a word adds, and the state after it."""
        score, after = self.ngram.score(state, word)
        unknown = word not in self.ngram or bool(self.unigrams and word not in self.unigrams)
        return self.alpha * LN10 * (score + (self.unk_score_offset if unknown else 0.0)) + self.beta, after

    def part(self, part: str) -> float:
        """Return what is certain already of a word that begins so: that it is unknown."""
        certain = self.prefixes and part not in self.prefixes
        return self.alpha * LN10 * self.unk_score_offset if certain else 0.0

    def end(self, state: Any) -> float:
        """Return what the end of the text adds."""
        return self.alpha * LN10 * self.ngram.score(state, "</s>")[0] if self.score_boundary else 0.0


@dataclass
class Prefix:
    """A beginning of the text: the tokens that spell it, and what its finished words add."""

    text: str  # words, one space between; a space at the end where the last word is finished
    tokens: tuple[int, ...] = ()
    added: float = 0.0
    state: Any = None
    part: str = ""  # of the unfinished word
    certain: float = 0.0  # what that part adds already


@dataclass
class Found:
    """A text with ln p of the frames, the score with the language model's part, and the tokens that spell it."""

    text: str
    logit_score: float
    lm_score: float
    tokens: tuple[int, ...]


def search(
    logp: np.ndarray, symbols: Sequence[str | None], model: LanguageModel | None, width: int = WIDTH,
    beam_prune_logp: float = NEVER, token_min_logp: float = NEVER,
) -> list[Found]:  # fmt: skip
    """Return the best texts of frames, the best first.

    logp (T, V) are log probabilities; `symbols` says what each of the V tokens writes: None the blank, " " the space
    between words. `width` texts are kept from frame to frame, so that the search is exact where there are no more.
    Where there are, ways to a text that look too bad to be kept are not tried: in unclear frames a narrow search may
    keep other texts than one that tries all. Texts that are worse than the best by `beam_prune_logp`, and tokens (but
    the best) below `token_min_logp`, are left out where these are given. In a long recording, words that lie more than
    `KEPT` back are settled as the best text has them.
    """
    first = Prefix("", state=model.start() if model else None)
    prefixes = {"": first}
    beams: dict[str, States] = {"": {None: 0.0}}
    settled = Prefix("")
    blank, bonus = symbols.index(None), max(0.0, model.beta) if model else 0.0
    for frame in logp:
        logits = frame.tolist()
        order = [t for t in np.argsort(-frame, kind="stable").tolist() if logits[t] > NEVER]
        order = [t for t in order if logits[t] >= token_min_logp] or order[:1]
        totals = {text: _total(states.values()) for text, states in beams.items()}
        bound = NEVER
        if len(beams) >= width:  # each text that is kept goes on with the likeliest token, about so well
            bound = min(total + _added(prefixes[text]) for text, total in totals.items()) + logits[order[0]]
        grown: dict[str, States] = {}
        for text, states in beams.items():
            prefix, total = prefixes[text], totals[text]
            for last, value in states.items():
                if last is not None and logits[last] > NEVER:
                    _add(grown, text, last, value + logits[last])
            if logits[blank] > NEVER:
                _add(grown, text, None, total + logits[blank])
            for token in order:
                symbol = symbols[token]
                if total + logits[token] + _added(prefix) + bonus < bound:
                    break
                if symbol is not None:
                    others = states
                    if token in states:
                        others = {last: value for last, value in states.items() if last != token}
                    if others:
                        longer = _extended(prefix, token, symbol, prefixes, model)
                        reached = total if others is states else _total(others.values())
                        _add(grown, longer, token, reached + logits[token])
        scores = {text: _total(states.values()) + _added(prefixes[text]) for text, states in grown.items()}
        ranked = sorted(scores, key=scores.__getitem__, reverse=True)[:width]
        least = scores[ranked[0]] + beam_prune_logp
        beams = {text: grown[text] for text in ranked if scores[text] >= least}
        prefixes = {text: prefixes[text] for text in beams}
        if ranked[0].count(" ") >= 2 * KEPT:
            head = " ".join(ranked[0].split(" ")[:KEPT]) + " "
            settled = Prefix(settled.text + head, settled.tokens + _spelling(prefixes[ranked[0]], head, symbols))
            beams, prefixes = _settle(beams, prefixes, head, symbols)
    return _finished(beams, prefixes, model, settled)


def _spelling(prefix: Prefix, head: str, symbols: Sequence[str | None]) -> tuple[int, ...]:
    """Return the tokens of a prefix that spell its first characters."""
    count = length = 0
    while length < len(head):
        length += len(symbols[prefix.tokens[count]] or "")
        count += 1
    return prefix.tokens[:count]


def _settle(
    beams: dict[str, States], prefixes: dict[str, Prefix], head: str, symbols: Sequence[str | None]
) -> tuple[dict[str, States], dict[str, Prefix]]:
    """Return the texts that begin so, without that beginning.

    What differs so far back weighs the same for all that is to come, so that it would only take the places of texts
    that differ where something can still change; and each frame would copy the whole text.
    """
    kept, shorter = {}, {}
    for text, states in beams.items():
        if text.startswith(head):
            prefix, rest = prefixes[text], text[len(head) :]
            tokens = prefix.tokens[len(_spelling(prefix, head, symbols)) :]
            kept[rest], shorter[rest] = states, replace(prefix, text=rest, tokens=tokens)
    return kept, shorter


def _total(values: Collection[float]) -> float:
    """Return the logarithm of a sum of probabilities, of which the logarithms are given."""
    top = max(values)
    if len(values) == 1:
        return top
    return top + math.log(sum(math.exp(value - top) for value in values))


def _added(prefix: Prefix) -> float:
    return prefix.added + prefix.certain


def _add(beams: dict[str, States], text: str, last: int | None, value: float) -> None:
    states = beams.setdefault(text, {})
    states[last] = _total([states[last], value]) if last in states else value


def _extended(
    prefix: Prefix, token: int, symbol: str, prefixes: dict[str, Prefix], model: LanguageModel | None
) -> str:
    """Return the text with one more token, which `prefixes` knows from then on."""
    if symbol == " ":
        if not prefix.part:
            return prefix.text
        text = prefix.text + " "
        if text not in prefixes:
            added, state = model.word(prefix.state, prefix.part) if model else (0.0, None)
            prefixes[text] = Prefix(text, (*prefix.tokens, token), prefix.added + added, state)
        return text
    text = prefix.text + symbol
    if text not in prefixes:
        part = prefix.part + symbol
        certain = model.part(part) if model else 0.0
        prefixes[text] = Prefix(text, (*prefix.tokens, token), prefix.added, prefix.state, part, certain)
    return text


def _finished(
    beams: dict[str, States], prefixes: dict[str, Prefix], model: LanguageModel | None, settled: Prefix
) -> list[Found]:
    """Return the texts that the prefixes are after what is settled, best first.

    A space at the end makes no other text.
    """
    found: dict[str, Found] = {}
    for text, states in beams.items():
        prefix, added = prefixes[text], 0.0
        if model:
            word, state = model.word(prefix.state, prefix.part) if prefix.part else (0.0, prefix.state)
            added = prefix.added + word + model.end(state)
        whole, score = (settled.text + text).strip(), _total(states.values())
        tokens = settled.tokens + prefix.tokens
        tokens = tokens if prefix.part or not tokens else tokens[:-1]
        if whole in found:
            score = _total([found[whole].logit_score, score])
        found[whole] = Found(whole, score, score + added, tokens)
    return sorted(found.values(), key=lambda item: item.lm_score, reverse=True)


def aligned(logp: np.ndarray, tokens: Sequence[int], blank: int, band: int = BAND) -> list[tuple[int, int]]:
    """Return the frames from and to (exclusive) of each token, in the likeliest way to spread them over (T, V).

    Of a long recording only `band` places around the best are looked at in each frame, a token and a blank being two.
    Raises ValueError where there are too few frames for the tokens.
    """
    if not tokens:
        return []
    spoken = np.asarray(tokens)
    places = np.full(2 * len(tokens) + 1, blank)
    places[1::2] = spoken
    width = min(len(places), band)
    can_skip = np.zeros(len(places), dtype=bool)
    can_skip[3::2] = spoken[1:] != spoken[:-1]
    low, lows = 0, np.zeros(len(logp), np.int64)  # the first place that is looked at
    scores = np.full(width, NEVER)
    scores[:2] = logp[0, places[:2]]
    steps = np.zeros((len(logp), width), np.int8)
    for time in range(1, len(logp)):
        new = max(low, min(low + int(scores.argmax()) - width // 2, len(places) - width))
        shift, low = new - low, new
        before = np.concatenate([[NEVER, NEVER], scores, np.full(shift, NEVER)])[shift:]
        here = slice(low, low + width)
        skipped = np.where(can_skip[here], before[:width], NEVER)
        choices = np.stack([before[2:], before[1 : width + 1], skipped])
        steps[time], lows[time] = choices.argmax(0), low
        scores = choices.max(0) + logp[time, places[here]]
    place = len(places) - 1 - int(scores[-2] > scores[-1])
    if low + width < len(places) or scores[place - low] == NEVER:
        if width < len(places):
            return aligned(logp, tokens, blank, 4 * band)
        raise ValueError(f"{len(logp)} frames are too few for {len(tokens)} tokens.")
    spans = [(len(logp), 0)] * len(tokens)
    for time in range(len(logp) - 1, -1, -1):
        if place % 2:
            start, end = spans[place // 2]
            spans[place // 2] = min(start, time), max(end, time + 1)
        place -= int(steps[time, place - lows[time]])
    return spans


def read_folder(alphabet: Path | None, files: dict[str, Path]) -> LanguageModel:
    """Read what pyctcdecode saved: alphabet.json, and by name the files of language_model/.

    Raises ValueError for what cannot be read here, ImportError for a binary model without kenlm.
    """
    if alphabet is not None and json.loads(alphabet.read_text(encoding="utf-8")).get("is_bpe"):
        raise ValueError("its alphabet is one of parts of words")
    attributes = json.loads(files["attrs.json"].read_text(encoding="utf-8")) if "attrs.json" in files else {}
    unigrams = files["unigrams.txt"].read_text(encoding="utf-8").split() if "unigrams.txt" in files else []
    models = [path for name, path in files.items() if name not in ("attrs.json", "unigrams.txt")]
    if len(models) != 1:
        raise ValueError(f"language_model/ should hold one n-gram model, and holds {len(models)}")
    ngram: NGram = (ArpaModel if models[0].name.endswith((".arpa", ".arpa.gz")) else KenlmModel)(models[0])
    known = ("alpha", "beta", "unk_score_offset", "score_boundary")
    return LanguageModel(
        ngram, frozenset(unigrams), **{name: attributes[name] for name in known if name in attributes}
    )
