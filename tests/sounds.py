"""Sound for the tests, made by numpy alone: the rhythm, pitch and formants of speech, but no words."""

import numpy as np

FORMANTS = ((730, 1090, 2440), (270, 2290, 3010), (300, 870, 2240), (530, 1840, 2480), (660, 1720, 2410))  # Hz, vowels


def babble(seconds: float, rate: int, seed: int) -> np.ndarray:
    """About this many seconds of syllables in words with pauses between: float32 samples at `rate` Hz, below 1."""
    generator = np.random.default_rng(seed)
    pieces, total = [], 0
    while total < seconds * rate:
        loudness = generator.uniform(0.2, 1.0)
        for _ in range(generator.integers(1, 4)):
            pieces += [loudness * hiss(generator, rate), loudness * vowel(generator, rate)]
        pieces.append(np.zeros(int(generator.uniform(0.05, 0.3) * rate)))
        total = sum(map(len, pieces))
    sound = np.concatenate(pieces)
    return (0.5 * sound / np.abs(sound).max() + generator.normal(0, 1e-4, len(sound))).astype(np.float32)


def vowel(generator: np.random.Generator, rate: int) -> np.ndarray:
    """The harmonics of a falling pitch, as loud as a vowel's formants make them, rising and fading."""
    time = np.arange(int(generator.uniform(0.08, 0.2) * rate)) / rate
    pitch = generator.uniform(90, 150) * (1 - 0.4 * time)
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    formants = np.array(FORMANTS[generator.integers(len(FORMANTS))])
    sound = np.zeros_like(time)
    for harmonic in range(1, 30):
        distance = (harmonic * pitch[0] - formants) / (60 + 0.05 * formants)
        sound += (1 / (1 + distance**2)).sum() * np.sin(harmonic * phase)
    return sound * np.hanning(len(time))


def hiss(generator: np.random.Generator, rate: int) -> np.ndarray:
    """A consonant: a short burst of noise, high or low."""
    noise = generator.normal(0, generator.uniform(0.3, 1.0), int(generator.uniform(0.02, 0.08) * rate))
    return (np.diff(noise, prepend=0) if generator.random() < 0.5 else noise) * np.hanning(len(noise))
