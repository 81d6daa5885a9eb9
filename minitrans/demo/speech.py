"""Made speech: fourteen sounds, one a letter, spoken by numpy in as many voices as one likes.

A vowel is the harmonics of a pitch, as loud as its formants make them; m, n, l and r are softer vowels; s and f are
noise; p, t and k are a silence and a burst of noise. A voice has its own pitch, length of the vocal tract and speed,
and a clip its own loudness and noise. No person has said any of it, and a person's speech is not understood.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

RATE = 8000  # Hz
STEP = 40  # samples between two values of what changes slowly: loudness, formants, pitch
VOICED = {  # formants in Hz, loudness
    "a": (800, 1250, 2500, 1.0), "e": (500, 1900, 2550, 0.9), "i": (290, 2300, 3050, 0.8), "o": (500, 850, 2450, 0.9),
    "u": (310, 650, 2250, 0.7), "m": (250, 1000, 2100, 0.35), "n": (280, 1550, 2600, 0.35),
    "l": (380, 1050, 2900, 0.5), "r": (430, 1300, 1700, 0.5),
}  # fmt: skip
NOISE = {"s": (3300, 500, 0.25), "f": (2000, 1500, 0.12), "p": (600, 400, 0.5), "t": (3300, 700, 0.5),
         "k": (1700, 350, 0.5)}  # middle and width in Hz, loudness  # fmt: skip
STOPS = "ptk"
SECONDS = {"vowel": (0.09, 0.17), "consonant": (0.06, 0.11), "pause": (0.12, 0.3)}
VOWELS, CONSONANTS = "aeiou", "mnlrsfptk"
SYLLABLES = ["CV", "CV", "CV", "CVC", "V", "CVV", "CCV"]
# Words to hear that training never says.
HELD_OUT = (
    "luna", "sol", "mar", "pasta", "tomate", "patata", "limon", "melon", "menta", "kiosko", "familia", "animal",
    "natural", "musika", "opera", "salsa", "tenor", "soprano", "piano", "kilo", "metro", "minuto", "final", "postal",
    "turista", "malaria", "fosforo", "silo", "pirata", "no", "si", "isla",
)  # fmt: skip


class Clip(NamedTuple):
    """Samples (n,) float32 at `RATE`, and what is said in them: words with their start and end in seconds."""

    samples: np.ndarray
    words: list[tuple[str, float, float]]

    @property
    def text(self) -> str:
        """The words, with a space between."""
        return " ".join(word for word, _, _ in self.words)


def say(words: Sequence[str], random: np.random.Generator) -> Clip:
    """Say words of the fourteen letters in a voice, at a speed and in a noise that `random` chooses."""
    tract, pitch, speed = random.uniform(0.85, 1.18), random.uniform(85, 240), random.uniform(0.8, 1.3)
    sounds, times = [_sound(" ", random)], []
    for word in words:
        start = sum(count for _, count in sounds)
        sounds += [_sound(letter, random, speed) for letter in word]
        end = sum(count for _, count in sounds)
        times.append((word, start * STEP / RATE, end * STEP / RATE))
        sounds.append(_sound(" ", random))
    samples = _voice(sounds, tract, pitch, random) + _hiss(sounds, random)
    samples += random.normal(0, 10 ** random.uniform(-3.5, -2), len(samples))
    return Clip((samples * random.uniform(0.2, 0.9) / np.abs(samples).max()).astype(np.float32), times)


def random_words(random: np.random.Generator) -> list[str]:
    """One to five words of random syllables, none of them in `HELD_OUT`."""
    words: list[str] = []
    count = random.integers(1, 6)
    while len(words) < count:
        kinds = "".join(random.choice(SYLLABLES, random.integers(1, 4)))
        word = "".join(random.choice(list(VOWELS if kind == "V" else CONSONANTS)) for kind in kinds)
        if word not in HELD_OUT and all(a != b for a, b in pairwise(word)):
            words.append(word)
    return words


def held_out(count: int, seed: int = 1_000_000) -> list[Clip]:
    """Clips of three to five held-out words each, every one in a voice of its own."""
    random = np.random.default_rng(seed)
    return [say(random.choice(HELD_OUT, random.integers(3, 6)).tolist(), random) for _ in range(count)]


def word_errors(said: str, heard: str) -> int:
    """How many words must be changed, added or left out to make of what was said what was heard."""
    row = [*range(len(heard.split()) + 1)]
    for i, word in enumerate(said.split(), 1):
        before, row = row, [i]
        for j, other in enumerate(heard.split(), 1):
            row.append(min(before[j] + 1, row[-1] + 1, before[j - 1] + (word != other)))
    return row[-1]


def _sound(letter: str, random: np.random.Generator, speed: float = 1.0) -> tuple[str, int]:
    """A sound and how many steps it lasts."""
    shortest, longest = SECONDS["vowel" if letter in VOWELS else "pause" if letter == " " else "consonant"]
    return letter, round(random.uniform(shortest, longest) / speed * RATE / STEP)


def _voice(sounds: list[tuple[str, int]], tract: float, pitch: float, random: np.random.Generator) -> np.ndarray:
    """The harmonics of a gliding pitch under formants that glide from sound to sound."""
    rows, row = [], VOICED["a"]
    for letter, _ in reversed(sounds):  # a silence or noise has the formants of what comes after, unheard
        row = VOICED.get(letter, (*row[:3], 0.0))
        rows.append(row)
    tracks = _smooth(np.repeat(rows[::-1], [count for _, count in sounds], axis=0))
    formants, loudness = tracks[:, :3] * tract * random.uniform(0.96, 1.04, 3), tracks[:, 3]
    time = np.arange(len(loudness)) / len(loudness)
    pitches = pitch * (1 + 0.08 * np.sin(2 * np.pi * (time * random.uniform(1, 4) + random.random())) - 0.15 * time)
    harmonics = 1 + np.arange(int(0.95 * RATE / 2 / pitches.max()))
    distance = (harmonics[:, None, None] * pitches[:, None] - formants) / (50 + 0.05 * formants)
    gains = (np.array([1, 0.6, 0.35]) / (1 + distance**2)).sum(-1) * loudness
    cycles = harmonics[:, None] * np.cumsum(np.repeat(pitches / RATE, STEP))
    phases = 2 * np.pi * (cycles - np.floor(cycles)).astype(np.float32)
    return (np.repeat(gains.astype(np.float32), STEP, axis=1) * np.sin(phases)).sum(0)


def _hiss(sounds: list[tuple[str, int]], random: np.random.Generator) -> np.ndarray:
    """Bands of noise for s and f, and bursts at the end of p, t and k."""
    pieces = []
    for letter, count in sounds:
        piece, size = np.zeros(count * STEP), count * STEP
        if letter in NOISE:
            middle, width, loudness = NOISE[letter]
            size = int(random.integers(100, 200)) if letter in STOPS else size
            spectrum = np.fft.rfft(random.standard_normal(size))
            spectrum *= np.exp(-(((np.fft.rfftfreq(size, 1 / RATE) - middle) / width) ** 2))
            noise = np.fft.irfft(spectrum, size)
            fade = np.exp(-np.arange(size) / size * 3) if letter in STOPS else np.hanning(size) ** 0.3
            piece[len(piece) - size :] = loudness * fade * noise / np.abs(noise).max()
        pieces.append(piece)
    return np.concatenate(pieces)


def _smooth(tracks: np.ndarray, width: int = 5) -> np.ndarray:
    padded = np.pad(tracks, ((width // 2, width // 2), (0, 0)), mode="edge")
    return np.lib.stride_tricks.sliding_window_view(padded, width, axis=0).mean(-1)
