"""Words with times become the cues of a subtitle file, SubRip (.srt) or WebVTT (.vtt)."""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

Timed: TypeAlias = dict[str, Any]

LONGEST_TEXT = 80  # characters: two lines on a screen
LONGEST_CUE = 7.0  # seconds
PAUSE = 1.0  # seconds of silence that end a cue
JOINER = "\u200d"  # makes one character of two


def cues(words: Sequence[Timed], characters: Sequence[Timed] = ()) -> Iterator[tuple[float, float, str]]:
    """Start, end and text of each cue of [{"word", "start", "end"}], times in seconds.

    A word that alone is more than a cue may hold, as a sentence is in languages without spaces, is cut between its
    characters, at the times in `characters` [{"character", "start", "end"}], or else as if all took the same time.
    """
    start, end, text = 0.0, 0.0, ""
    for part, begin, stop, joint in _parts(words, characters):
        longer = f"{text}{joint}{part}"
        full = len(longer) > LONGEST_TEXT or stop - start > LONGEST_CUE or begin - end > PAUSE
        if text and full:
            yield start, end, text
        if full or not text:
            start, longer = begin, part
        end, text = stop, longer
    if text:
        yield start, end, text


def _parts(words: Sequence[Timed], characters: Sequence[Timed]) -> Iterator[tuple[str, float, float, str]]:
    """What is not cut: text, start, end and what joins it to the part before; words, and characters of long ones."""
    spoken = iter([item for item in characters if item["character"].strip()])
    for word in words:
        text = word["word"]
        own = list(_taken(spoken, text)) if characters else []
        if len(text) <= LONGEST_TEXT and word["end"] - word["start"] <= LONGEST_CUE:
            yield text, word["start"], word["end"], " "
            continue
        timed = own if "".join(part for part, _, _ in own) == text else list(_evenly(word))
        for number, (part, start, end) in enumerate(_whole(timed)):
            yield part, start, end, "" if number else " "


def _taken(spoken: Iterator[Timed], text: str) -> Iterator[tuple[str, float, float]]:
    """The next characters, as many as a word has."""
    length = 0
    while length < len(text) and (item := next(spoken, None)) is not None:
        length += len(item["character"])
        yield item["character"], item["start"], item["end"]


def _evenly(word: Timed) -> Iterator[tuple[str, float, float]]:
    step = (word["end"] - word["start"]) / len(word["word"])
    for number, character in enumerate(word["word"]):
        yield character, word["start"] + number * step, word["start"] + (number + 1) * step


def _whole(timed: list[tuple[str, float, float]]) -> Iterator[tuple[str, float, float]]:
    """Characters with the marks that combine with them."""
    held: tuple[str, float, float] | None = None
    for text, start, end in timed:
        joins = held is not None and (unicodedata.category(text[0])[0] == "M" or JOINER in (text[0], held[0][-1]))
        if held is not None and joins:
            held = held[0] + text, held[1], end
            continue
        if held is not None:
            yield held
        held = text, start, end
    if held is not None:
        yield held


def srt(words: Sequence[Timed], characters: Sequence[Timed] = ()) -> Iterator[str]:
    """The lines of a SubRip file; see `cues`."""
    for number, (start, end, text) in enumerate(cues(words, characters), 1):
        yield from (str(number), f"{_time(start, ',')} --> {_time(end, ',')}", text, "")


def vtt(words: Sequence[Timed], characters: Sequence[Timed] = ()) -> Iterator[str]:
    """The lines of a WebVTT file; see `cues`."""
    yield from ("WEBVTT", "")
    for start, end, text in cues(words, characters):
        yield from (f"{_time(start, '.')} --> {_time(end, '.')}", html.escape(text, quote=False), "")


def _time(seconds: float, point: str) -> str:
    minutes, milliseconds = divmod(round(seconds * 1000), 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{milliseconds // 1000:02}{point}{milliseconds % 1000:03}"
