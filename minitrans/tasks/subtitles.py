"""Words with times become the cues of a subtitle file, SubRip (.srt) or WebVTT (.vtt)."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from typing import Any

LONGEST_TEXT = 80  # characters: two lines on a screen
LONGEST_CUE = 7.0  # seconds
PAUSE = 1.0  # seconds of silence that end a cue


def cues(words: Sequence[dict[str, Any]]) -> Iterator[tuple[float, float, str]]:
    """Start, end and text of each cue of [{"word", "start", "end"}], times in seconds."""
    start, end, text = 0.0, 0.0, ""
    for word in words:
        longer = f"{text} {word['word']}".lstrip()
        full = len(longer) > LONGEST_TEXT or word["end"] - start > LONGEST_CUE or word["start"] - end > PAUSE
        if text and full:
            yield start, end, text
        if full or not text:
            start, longer = word["start"], word["word"]
        end, text = word["end"], longer
    if text:
        yield start, end, text


def srt(words: Sequence[dict[str, Any]]) -> Iterator[str]:
    """The lines of a SubRip file."""
    for number, (start, end, text) in enumerate(cues(words), 1):
        yield from (str(number), f"{_time(start, ',')} --> {_time(end, ',')}", text, "")


def vtt(words: Sequence[dict[str, Any]]) -> Iterator[str]:
    """The lines of a WebVTT file."""
    yield from ("WEBVTT", "")
    for start, end, text in cues(words):
        yield from (f"{_time(start, '.')} --> {_time(end, '.')}", html.escape(text, quote=False), "")


def _time(seconds: float, point: str) -> str:
    minutes, milliseconds = divmod(round(seconds * 1000), 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{milliseconds // 1000:02}{point}{milliseconds % 1000:03}"
