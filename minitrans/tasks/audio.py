"""Sound in, results out: text with the times of its words, classes of clips and of moments, vectors of speakers.

Recordings are read block by block, and a long one reaches the model in chunks that overlap, so that memory does not
grow with its length beyond what the result takes.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from typing_extensions import override

from minitrans.auto import (
    AutoFeatureExtractor,
    AutoModelForAudioClassification,
    AutoModelForAudioFrameClassification,
    AutoModelForAudioXVector,
    AutoModelForCTC,
    AutoProcessor,
)
from minitrans.processing.audio import check_rate, import_soxr, open_audio
from minitrans.processing.features import as_array
from minitrans.tasks.base import Classifier, Piece, Task, as_bytes, check_labels, label_of
from minitrans.tasks.options import NUMBER, SECONDS, STRIDES, SWITCH, or_none

logger = logging.getLogger("minitrans")

Sound: TypeAlias = "str | Path | bytes | tuple[Any, float]"  # as `AudioTask.read` gives it
BLOCK = 2**17  # samples read from a file at a time
WHOLE = 2**40  # frames, more than any clip has


class AudioTask(Task):
    """A task on sounds; the budget is in samples.

    A sound is the path of a file, its bytes, an open file, a tuple (samples, sampling rate in Hz), or a mapping with
    "array" or "raw" and "sampling_rate", with "bytes" or "path", or with one of these under "audio", as a dataset's
    examples are.

    Any rate is converted and several channels are averaged. Where the checkpoint normalises, a clip's mean and
    variance are those of the whole clip, as in the feature extractor, however it is cut afterwards: a file is read
    twice then.
    """

    unit = "s"
    takes = (
        "a sound (the path of a file, its bytes, an open file, a tuple (samples, sampling rate), or a mapping with "
        '"array" and "sampling_rate")'
    )
    budget = 60 * 16000
    read_ahead = 8
    unneeded = r"(^|\.)masked_spec_embed$"  # what stands for hidden frames in training; many checkpoints lack it

    def __init__(self, model: Any, processor: Any, *more: Any) -> None:
        super().__init__(model, processor, *more)
        self.extractor = getattr(processor, "feature_extractor", processor)
        self.rate: int = self.extractor.sampling_rate
        self.fewest: int = model.base_model.feature_encoder.samples(1)  # samples that make a frame

    @override
    def is_one(self, inputs: Any) -> bool:
        is_decoder = hasattr(inputs, "get_all_samples")
        return super().is_one(inputs) or isinstance(inputs, os.PathLike) or is_decoder or _is_samples(inputs)

    def _several(self, inputs: Any) -> Iterable[Any]:
        if _is_numbers(inputs):
            raise self.refusal(inputs, "and an array does not say its rate: give (array, rate)")
        return super()._several(inputs)

    def read(self, source: Any) -> Sound:
        """A sound as a path, bytes or (samples, rate); raises TypeError for anything else."""
        source = as_bytes(source)
        if isinstance(source, (str, os.PathLike, bytes)):
            return source  # type: ignore[return-value]
        if _is_samples(source):
            check_rate(source[1])
            samples, rate = source
            return as_array(samples) if hasattr(samples, "detach") else samples, rate
        if hasattr(source, "get_all_samples"):  # torchcodec's decoder, as datasets gives it
            samples = source.get_all_samples()
            return samples.data, samples.sample_rate
        if _is_numbers(source):
            raise self.refusal(source, "and an array does not say its rate: give (array, rate)")
        if isinstance(source, Mapping):
            return self._of_mapping(source)
        raise self.refusal(source)

    def _of_mapping(self, mapping: Mapping[str, Any]) -> Sound:
        if mapping.get("stride") is not None:
            raise self.refusal(mapping, "and no stride beside it: a long recording is cut here")
        samples = next((mapping[key] for key in ("array", "raw") if mapping.get(key) is not None), None)
        if samples is not None and mapping.get("sampling_rate") is not None:
            check_rate(mapping["sampling_rate"])
            return samples, mapping["sampling_rate"]
        found = next((mapping[key] for key in ("audio", "bytes", "path") if mapping.get(key) is not None), None)
        if found is None or samples is not None:
            raise self.refusal(mapping, f"not a mapping with {', '.join(map(repr, mapping)) or 'nothing in it'}")
        return self.read(found)

    def total(self, inputs: Iterable[Any]) -> int | None:
        """Whole seconds. All files are opened, so that a missing file is reported before any work starts."""
        if not isinstance(inputs, Sequence):
            return None
        seconds = 0
        for source in inputs:
            try:
                sound = self.read(source)
                seconds += int(len(sound[0]) / sound[1]) if isinstance(sound, tuple) else _seconds(sound)
            except (ValueError, TypeError, OSError):
                if self.on_error == "raise":
                    raise
        return seconds

    def blocks(self, sound: Sound) -> Iterator[np.ndarray]:
        """The model's input for a clip, float32 (n,), block by block."""
        if isinstance(sound, tuple):
            options = {"sampling_rate": sound[1], "resample": True, "mono": True}
            yield self.extractor(sound[0], **options)["input_values"][0]
            return
        mean, deviation = 0.0, 1.0
        if self.extractor.do_normalize:
            mean, deviation = _statistics(read_blocks(sound, self.rate, warn=False))
        for block in read_blocks(sound, self.rate):
            # In float64: beside a large offset the mean has too few digits in float32 for quiet sound.
            yield ((block.astype(np.float64) - mean) / deviation).astype(np.float32)

    def prepare(self, found: list[Sound]) -> Iterator[Piece]:
        """Clips are not chunked."""
        for sound in found:
            samples = np.concatenate(list(self.blocks(sound)))
            yield self.piece(sound, samples, 0, len(samples))

    def piece(self, sound: Sound, samples: np.ndarray, start: int, end: int, **place: Any) -> Piece:
        """A piece of a clip; of the clip, it decides the samples from `start` to `end`."""
        if len(samples) < self.fewest:
            name = sound if isinstance(sound, (str, os.PathLike)) else "The clip"
            raise ValueError(f"{name} has {len(samples)} samples at {self.rate} Hz; the model needs {self.fewest}.")
        done = end // self.rate - start // self.rate
        return Piece(sound, torch.from_numpy(samples), len(samples), done=done, **place)

    def output(self, pieces: list[Piece]) -> Any:
        """The model's output for a batch; no piece looks beyond its end."""
        lengths = torch.tensor([piece.size for piece in pieces])
        values = pad_sequence([piece.inputs for piece in pieces], batch_first=True)
        mask = torch.arange(values.shape[1]) < lengths[:, None]
        device = self.model.device
        return self.model(values.to(device, self.model.dtype), attention_mask=mask.to(device))

    def frames(self, samples: int) -> int:
        """How many frames the model makes of `samples` samples."""
        base = self.model.base_model
        count = base.feature_encoder.frames(samples)
        for _ in base.adapter.layers if base.adapter is not None else ():
            count = base.adapter.frames(count)
        return count

    @property
    def hop(self) -> int:
        """How many samples there are from a frame to the next."""
        config = self.model.config
        return config.inputs_to_logits_ratio * config.adapter_stride ** (
            config.num_adapter_layers if config.add_adapter else 0
        )


def _is_numbers(item: Any) -> bool:
    """Whether this is an array or tensor of numbers."""
    kind = getattr(getattr(item, "dtype", None), "kind", "f")
    return hasattr(item, "ndim") and hasattr(item, "dtype") and kind in "iufb" and not hasattr(item, "get_all_samples")


def _is_samples(item: Any) -> bool:
    """Whether this is (samples, rate), whatever the rate."""
    is_two = isinstance(item, tuple) and len(item) == 2 and (_is_numbers(item[0]) or isinstance(item[0], list))
    return is_two and (item[1] is None or isinstance(item[1], (Real, str)) or getattr(item[1], "ndim", 1) == 0)


class AudioClassifier(Classifier, AudioTask):
    """Sounds -> [{"label", "score"}], best first; see `Classifier`. Clips are not chunked."""

    auto = AutoModelForAudioClassification
    heads = ("ForSpeechClassification",)
    processing = AutoFeatureExtractor

    @override
    def run(self, pieces: list[Piece]) -> Sequence[list[dict[str, Any]]]:
        return self.ranked(self.output(pieces).logits)


class SpeakerEncoder(AudioTask):
    """Sounds -> vectors (C,) float32 of who speaks (Snyder et al. 2018): one speaker's have a large cosine."""

    auto = AutoModelForAudioXVector
    processing = AutoFeatureExtractor
    unneeded = rf"{AudioTask.unneeded}|^(classifier|objective)\."  # for the loss in training

    @property
    @override
    def shape(self) -> tuple[int]:
        return (self.model.config.xvector_output_dim,)

    @override
    def run(self, pieces: list[Piece]) -> Sequence[np.ndarray]:
        return list(self.output(pieces).embeddings.float().cpu().numpy())


class FrameClassifier(AudioTask):
    """Sounds -> the stretches of each class [{"label", "score", "start", "end"}], times in seconds, in their order.

    A class holds where the sigmoid of its score exceeds `threshold`, several at a time where they do, as speakers who
    talk at once; the score is the mean over the stretch.
    """

    auto = AutoModelForAudioFrameClassification
    processing = AutoFeatureExtractor
    options: ClassVar = {"threshold": NUMBER}
    threshold = 0.5

    def __init__(self, model: Any, processor: Any) -> None:
        super().__init__(model, processor)
        check_labels(model.config)

    @override
    def run(self, pieces: list[Piece]) -> Sequence[np.ndarray]:
        scores = self.output(pieces).logits.float().sigmoid().cpu().numpy()
        return [each[: self.frames(piece.size)] for each, piece in zip(scores, pieces, strict=True)]

    @override
    def assemble(self, found: Any, outputs: list[np.ndarray]) -> list[dict[str, Any]]:
        scores, step = outputs[0], self.hop / self.rate
        holds = np.pad(scores > self.threshold, ((1, 1), (0, 0))).astype(np.int8)
        changes = np.diff(holds, axis=0)  # 1 where a stretch begins, -1 after its end
        stretches = []
        for index in range(scores.shape[1]):
            begins, ends = (np.flatnonzero(changes[:, index] == sign).tolist() for sign in (1, -1))
            for begin, end in zip(begins, ends, strict=True):
                name, score = label_of(self.model.config.id2label, index), float(scores[begin:end, index].mean())
                stretches.append({"label": name, "score": score, "start": begin * step, "end": end * step})
        return sorted(stretches, key=lambda item: (item["start"], item["end"]))


class Transcriber(AudioTask):
    """Sounds of any length -> {"text", "words": [{"word", "start", "end"}]}, times in seconds, by a CTC checkpoint.

    A clip longer than `chunk_seconds` is heard in chunks of that length. Each shares `stride_seconds` with what it
    decides of the one before and the one after: a number, or two (left, right), by default a sixth of a chunk. The
    frames of all are decoded as one. `float("inf")` hears clips whole. With `characters` the result has "characters"
    too, [{"character", "start", "end"}], spaces among them. A clip too short for a frame is an empty text. Where the
    processor has an n-gram model, it decodes; times are those of the likeliest way to spread its text over the frames.

    >>> from minitrans import Transcriber
    >>> from minitrans.demo import CHECKPOINTS, speech
    >>> transcriber = Transcriber.from_pretrained(CHECKPOINTS / "wav2vec2")
    >>> clip = speech.held_out(4)[3]
    >>> transcriber((clip.samples, speech.RATE))["text"]
    'silo patata no silo'
    """

    auto = AutoModelForCTC
    processing = AutoProcessor
    options: ClassVar = {"chunk_seconds": SECONDS, "stride_seconds": or_none(STRIDES), "characters": SWITCH}
    chunk_seconds: float = 20.0
    stride_seconds: tuple[float, float] | None = None
    characters = False

    def __init__(self, model: Any, processor: Any) -> None:
        super().__init__(model, processor)
        self.tokenizer = processor.tokenizer
        ours, theirs = model.config.pad_token_id, self.tokenizer.pad_token_id
        if ours != theirs:
            logger.warning(
                "The model's blank is token %s (pad_token_id of config.json) and the tokenizer's is %s; texts are "
                "read with the tokenizer's.", ours, theirs,
            )  # fmt: skip

    @override
    def check(self) -> None:
        super().check()
        self._cut()

    @override
    def prepare(self, found: list[Sound]) -> Iterator[Piece]:
        for sound in found:
            yield from self._chunks(sound)

    def _cut(self) -> tuple[int, int, int]:
        """The frames of a chunk, and how many at its left and right its neighbours decide."""
        frames = self._count(self.chunk_seconds)
        if frames == WHOLE:
            return frames, 0, 0
        # A sixth, as in transformers' pipeline: a frame hardly depends on what is farther away.
        left, right = map(self._count, self.stride_seconds or [self.chunk_seconds / 6] * 2)
        if self.stride_seconds is None and left < 1:
            least = 3 * self.hop / self.rate
            raise ValueError(f"chunk_seconds is {self.chunk_seconds}; it must be more than {least}.")
        if left + right >= frames:
            raise ValueError(
                f"stride_seconds is {self.stride_seconds} and chunk_seconds {self.chunk_seconds}; a chunk must be "
                "longer than both its strides."
            )
        return frames, left, right

    def _count(self, seconds: float) -> int:
        return round(min(seconds * self.rate / self.hop, WHOLE))

    def _chunks(self, sound: Sound) -> Iterator[Piece]:
        """The chunks of a clip, which start at frames, each with the slice of its frames that it decides."""
        frames, left, right = self._cut()
        held, start, known = np.empty(0, np.float32), 0, 0  # samples, where they start, frames decided already
        for block in self.blocks(sound):
            held = np.concatenate([held, block])
            while len(held) > frames * self.hop:
                chunk, step = held[: frames * self.hop], (frames - left - right) * self.hop
                place = {"part": slice(known, frames - right), "last": False}
                end = start + (frames - right) * self.hop
                yield self.piece(sound, chunk, start + known * self.hop, end, **place)
                held, start, known = held[step:], start + step, left
        if len(held) < self.fewest:
            yield Piece(sound, None, 1, done=len(held) // self.rate)  # no frame: nothing is said in it
        else:
            yield self.piece(sound, held, start + known * self.hop, start + len(held), part=slice(known, None))

    def run(self, pieces: list[Piece]) -> Sequence[torch.Tensor]:
        """The most likely token of each frame, or where an n-gram model decodes, all frames' scores."""
        heard = [piece for piece in pieces if piece.inputs is not None]
        found = iter(())
        if heard:
            logits = self.output(heard).logits
            found = iter((logits.float() if self._decoder() else logits.argmax(-1)).cpu())
        nothing = (
            torch.empty((0, self.model.config.vocab_size)) if self._decoder() else torch.empty(0, dtype=torch.long)
        )
        # Of a clip that is shorter than its batch, only its own frames: the model's blank need not be the tokenizer's.
        return [
            nothing if piece.inputs is None else next(found)[: self.frames(piece.size)][piece.part] for piece in pieces
        ]

    def _decoder(self) -> Any:
        """The search with an n-gram model that some processors have."""
        return getattr(self.processor, "decoder", None)

    @override
    def assemble(self, found: Any, outputs: list[torch.Tensor]) -> dict[str, Any]:
        frames = torch.cat(outputs)
        text, words, characters = "", [], []
        if len(frames):
            decoder = self.processor if self._decoder() else self.tokenizer
            decoded = decoder.decode(frames, output_word_offsets=True, output_char_offsets=True)
            text, words = decoded.text, self._timed("word", decoded.word_offsets, "word")
            characters = self._timed("character", decoded.char_offsets, "char")
        return {"text": text, "words": words, **({"characters": characters} if self.characters else {})}

    def _timed(self, name: str, offsets: list[dict[str, Any]], key: str) -> list[dict[str, Any]]:
        """Texts with their frames, as texts with their times; in lower case where the whole text is."""
        lower, step = getattr(self.tokenizer, "do_lower_case", False), self.hop / self.rate
        return [
            {
                name: item[key].lower() if lower else item[key],
                "start": item["start_offset"] * step,
                "end": item["end_offset"] * step,
            }
            for item in offsets
        ]


def read_blocks(sound: str | Path | bytes, rate: int, warn: bool = True) -> Iterator[np.ndarray]:
    """The samples of a sound file at `rate` (Hz), float32 (n,) in [−1, 1], a few seconds at a time.

    Channels are averaged. Errors are those of `read_audio`, and ValueError for NaN or no samples. Unless `warn` is
    False, the log says where a file ends early.
    """
    with open_audio(sound) as recording:
        resampler = None
        if recording.samplerate != rate:
            resampler = import_soxr().ResampleStream(recording.samplerate, rate, 1, dtype="float32")
        count = 0
        for block in recording.blocks(BLOCK, warn):
            samples, count = block.mean(axis=1), count + len(block)
            if not np.isfinite(samples).all():
                raise ValueError(f"{recording.name} holds NaN or infinite samples.")
            yield samples if resampler is None else resampler.resample_chunk(samples)
        if not count:
            raise ValueError(f"{recording.name} is empty; a clip needs at least one sample.")
        if resampler is not None:
            yield resampler.resample_chunk(np.empty(0, np.float32), last=True)


def _seconds(sound: str | Path | bytes) -> int:
    with open_audio(sound) as recording:
        return recording.frames // recording.samplerate


def _statistics(blocks: Iterable[np.ndarray]) -> tuple[float, float]:
    """Mean and deviation of a clip as the feature extractor has them, √(variance + 1e-7)."""
    count, total, squares = 0, 0.0, 0.0
    for block in blocks:
        wide = block.astype(np.float64)
        count, total, squares = count + len(wide), total + float(wide.sum()), squares + float(wide @ wide)
    mean = total / count
    return mean, math.sqrt(max(squares / count - mean**2, 0.0) + 1e-7)
