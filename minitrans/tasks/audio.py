"""Sound in, answers out: text with the times of its words, and classes.

Files are read block by block, and a long one reaches the model in chunks that overlap, so that memory does not grow
with its length beyond what the answer takes.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from minitrans.auto import AutoFeatureExtractor, AutoModelForAudioClassification, AutoModelForCTC, AutoProcessor
from minitrans.processing.audio import import_soxr, open_audio
from minitrans.tasks.base import Piece, Task, ranked

Sound: TypeAlias = str | Path | tuple[Any, float]
BLOCK = 2**17  # samples read from a file at a time


class AudioTask(Task):
    """A task on sounds: the paths of files, or pairs (samples, sampling rate in Hz); the budget is in samples.

    Any rate is converted and several channels are averaged. Where the checkpoint normalises, a clip's mean and
    variance are those of the whole clip, as in the feature extractor, however it is cut afterwards: a file is read
    twice then.
    """

    unit = "s"
    budget = 60 * 16000
    window = 8
    single = (str, os.PathLike, tuple)

    def __init__(self, model: Any, processor: Any) -> None:
        super().__init__(model, processor)
        self.extractor = getattr(processor, "feature_extractor", processor)
        self.rate: int = self.extractor.sampling_rate

    def total(self, inputs: Iterable[Sound]) -> int | None:
        """See `Task`: whole seconds. All files are opened, so that one that is missing is told before the work."""
        if not isinstance(inputs, Sequence):
            return None
        return sum(int(len(sound[0]) / sound[1]) if isinstance(sound, tuple) else _seconds(sound) for sound in inputs)

    def blocks(self, sound: Sound) -> Iterator[np.ndarray]:
        """The model's input for a clip, float32 (n,), block by block."""
        if isinstance(sound, tuple):
            options = {"sampling_rate": sound[1], "resample": True, "mono": True}
            yield self.extractor(sound[0], **options)["input_values"][0]
            return
        mean, deviation = _statistics(read_blocks(sound, self.rate)) if self.extractor.do_normalize else (0.0, 1.0)
        for block in read_blocks(sound, self.rate):
            # In float64: beside a large offset the mean has too few digits in float32 for quiet sound.
            yield ((block.astype(np.float64) - mean) / deviation).astype(np.float32)

    def piece(self, sound: Sound, samples: np.ndarray, start: int, end: int, **place: Any) -> Piece:
        """A piece of a clip; it answers for the clip's samples from `start` to `end`."""
        needed = self.model.base_model.features.samples(1)
        if len(samples) < needed:
            name = "The clip" if isinstance(sound, tuple) else sound
            raise ValueError(f"{name} has {len(samples)} samples at {self.rate} Hz; the model needs {needed}.")
        done = end // self.rate - start // self.rate
        return Piece(sound, torch.from_numpy(samples), len(samples), done=done, **place)

    def logits(self, pieces: list[Piece]) -> torch.Tensor:
        """The model's scores for a batch; no piece looks beyond its end."""
        lengths = torch.tensor([piece.size for piece in pieces])
        values = pad_sequence([piece.inputs for piece in pieces], batch_first=True)
        mask = torch.arange(values.shape[1]) < lengths[:, None]
        device = self.model.device
        return self.model(values.to(device, self.model.dtype), attention_mask=mask.to(device)).logits


class AudioClassifier(AudioTask):
    """Sounds -> [{"label", "score"}], best first; see `ranked`. A clip is heard whole."""

    auto = AutoModelForAudioClassification
    processing = AutoFeatureExtractor

    def pieces(self, sounds: Iterable[Sound]) -> Iterator[Piece]:
        """See `Task`."""
        for sound in sounds:
            samples = np.concatenate(list(self.blocks(sound)))
            yield self.piece(sound, samples, 0, len(samples))

    def run(self, pieces: list[Piece]) -> Sequence[list[dict[str, Any]]]:
        """See `Task`."""
        return ranked(self.model.config, self.logits(pieces))


class Transcriber(AudioTask):
    """Sounds of any length -> {"text", "words": [{"word", "start", "end"}]}, times in seconds, by a CTC checkpoint.

    A clip longer than `chunk_seconds` is heard in chunks of that length. Neighbours share a third of it; each answers
    for the frames up to the middle of what they share, and the frames of all are decoded as one. `float("inf")` hears
    clips whole.
    """

    auto = AutoModelForCTC
    processing = AutoProcessor
    chunk_seconds: float = 20.0

    def __init__(self, model: Any, processor: Any) -> None:
        super().__init__(model, processor)
        config = model.config
        adapters = config.num_adapter_layers if config.add_adapter else 0
        self.hop: int = config.inputs_to_logits_ratio * config.adapter_stride**adapters  # samples a frame

    def pieces(self, sounds: Iterable[Sound]) -> Iterator[Piece]:
        """See `Task`."""
        for sound in sounds:
            yield from self._chunks(sound)

    def _chunks(self, sound: Sound) -> Iterator[Piece]:
        """The chunks of a clip, which start at frames, each with the slice of its frames that it answers for."""
        # transformers' pipeline drops a sixth at each edge too. A frame hardly depends on what is farther away.
        margin = int(min(self.chunk_seconds * self.rate / self.hop, 2**40)) // 6
        if margin < 1:
            raise ValueError(f"chunk_seconds is {self.chunk_seconds}; it must be at least {6 * self.hop / self.rate}.")
        held, start, known = np.empty(0, np.float32), 0, 0  # samples, where they start, frames answered already
        for block in self.blocks(sound):
            held = np.concatenate([held, block])
            while len(held) > 6 * margin * self.hop:
                chunk, step = held[: 6 * margin * self.hop], 4 * margin * self.hop
                place = {"part": slice(known, 5 * margin), "last": False}
                yield self.piece(sound, chunk, start + known * self.hop, start + 5 * margin * self.hop, **place)
                held, start, known = held[step:], start + step, margin
        yield self.piece(sound, held, start + known * self.hop, start + len(held), part=slice(known, None))

    def run(self, pieces: list[Piece]) -> Sequence[torch.Tensor]:
        """See `Task`: the most likely token of each frame; blanks follow a piece that is shorter than its batch."""
        tokens = self.logits(pieces).argmax(-1).cpu()
        return [row[piece.part] for row, piece in zip(tokens, pieces, strict=True)]

    def answer(self, source: Sound, results: list[torch.Tensor]) -> dict[str, Any]:
        """See `Task`."""
        options = {"output_word_offsets": True, "time_per_frame": self.hop / self.rate}
        decoded = self.processor.tokenizer.decode(torch.cat(results), **options)
        words = [
            {"word": word["word"], "start": word["start_time"], "end": word["end_time"]}
            for word in decoded.word_offsets
        ]
        return {"text": decoded.text, "words": words}


def read_blocks(path: str | Path, rate: int) -> Iterator[np.ndarray]:
    """The samples of a sound file at `rate` (Hz), float32 (n,) in [−1, 1], a few seconds at a time.

    Channels are averaged. Errors are those of `read_audio`, and ValueError for NaN or no samples.
    """
    with open_audio(path) as sound:
        resampler = None
        if sound.samplerate != rate:
            resampler = import_soxr().ResampleStream(sound.samplerate, rate, 1, dtype="float32")
        if not sound.frames:
            raise ValueError(f"{path} is empty; a clip needs at least one sample.")
        for block in sound.blocks(BLOCK, dtype="float32", always_2d=True):
            samples = block.mean(axis=1)
            if not np.isfinite(samples).all():
                raise ValueError(f"{path} holds NaN or infinite samples.")
            yield samples if resampler is None else resampler.resample_chunk(samples)
        if resampler is not None:
            yield resampler.resample_chunk(np.empty(0, np.float32), last=True)


def _seconds(path: str | Path) -> int:
    with open_audio(path) as sound:
        return sound.frames // sound.samplerate


def _statistics(blocks: Iterable[np.ndarray]) -> tuple[float, float]:
    """Mean and deviation of a clip as the feature extractor has them, √(variance + 1e-7)."""
    count, total, squares = 0, 0.0, 0.0
    for block in blocks:
        wide = block.astype(np.float64)
        count, total, squares = count + len(wide), total + float(wide.sum()), squares + float(wide @ wide)
    mean = total / count
    return mean, math.sqrt(max(squares / count - mean**2, 0.0) + 1e-7)
