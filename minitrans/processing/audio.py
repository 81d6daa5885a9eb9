"""Sound becomes the sample values that a speech checkpoint was trained on: mono, at its rate, normalised, padded.

The numbers are those of transformers' `Wav2Vec2FeatureExtractor`, but for one thing: the mean and the variance are
always those of the real samples. transformers takes them over the padding too where no mask is returned, so that a
clip's values depend on its neighbours. torch is imported only where tensors are asked for.
"""

from __future__ import annotations

import io
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from numbers import Real
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import numpy as np
from typing_extensions import override

from minitrans import hub
from minitrans.processing.encoding import PADDING, SIDES, TRUNCATION, choose, padded_length, rounded
from minitrans.processing.features import (
    BatchFeature,
    Likeness,
    as_array,
    gathered,
    open_with,
    read_settings,
)
from minitrans.processing.kinds import Kind, check_kinds, is_bool, plain, shown, whole
from minitrans.utils.logging import warn_once

if TYPE_CHECKING:
    from soundfile import SoundFile

logger = logging.getLogger(__name__)

PCM = {"int8": (0, 2**7), "uint8": (2**7, 2**7), "int16": (0, 2**15), "int32": (0, 2**31)}  # silence, full scale
MAX_CHANNELS = 8
FLOAT32 = float(np.finfo(np.float32).max)
RATES = 1000, 384_000  # Hz; what lies outside is not sound, and converting it could take any memory or time
# What FFmpeg may take a file for, by its names: formats that show in the content, unlike those that it knows by the
# ending of a name alone and would hear any text in, and none that names other files or addresses to open.
CONTAINERS = "mov,matroska,asf,aac,avi,flv,mpegts,mpeg,mp3,ogg,wav,flac,aiff,caf,amr,ape,wv"
MOST_SAMPLES = 3 * 10**7  # half an hour, that padding adds to the longest clip
CORRECTED = re.compile(r":\s*(\d+) \(should be (\d+)\)")  # in libsndfile's log
UNKNOWN_SIZE = 0x7FFFFF00
NO_HEADER = "no header says what its bytes are"
Source: TypeAlias = "str | os.PathLike[str] | bytes | bytearray"
TYPE_KEYS = ("feature_extractor_type", "processor_class")
KINDS: dict[str, Kind] = dict.fromkeys(("do_normalize", "return_attention_mask"), (is_bool, "true or false"))


@dataclass
class Wav2Vec2FeatureExtractor(Likeness, hub.Saved):
    """Raw speech to `input_values` and, where the checkpoint wants it, an `attention_mask`.

    Each field is a setting of preprocessor_config.json. `sampling_rate` is in Hz. `do_normalize` gives every clip zero
    mean and unit variance, (x − mean) / √(variance + 1e-7), before `padding_value` is appended on `padding_side`.
    """

    published_names: ClassVar[tuple[str, ...]] = ("Wav2Vec2FeatureExtractor",)
    model_input_names: ClassVar[tuple[str, ...]] = ("input_values", "attention_mask")
    shown_as = ("transformers.feature_extraction_sequence_utils", "SequenceFeatureExtractor")

    feature_size: int = 1
    sampling_rate: int = 16000
    padding_value: float = 0.0
    return_attention_mask: bool = False
    do_normalize: bool = True
    padding_side: str = "right"
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.do_normalize = plain(self.do_normalize) or False  # as transformers reads null
        for spec in fields(self):
            value = getattr(self, spec.name)
            setattr(self, spec.name, spec.default if value is None else plain(value))
        check_kinds(vars(self), KINDS, "the feature extractor")
        if self.feature_size != 1:
            raise ValueError(f"feature_size is {self.feature_size!r}; Wav2Vec2 hears one value per sample, so 1.")
        check_rate(self.sampling_rate)
        if not isinstance(self.padding_value, Real) or not abs(self.padding_value) <= FLOAT32:
            raise ValueError(f"padding_value is {self.padding_value!r:.80}; it must be a number that float32 holds.")
        choose("padding_side", self.padding_side, SIDES)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: hub.Source, **options: Any) -> Wav2Vec2FeatureExtractor:
        """Read preprocessor_config.json, or its part of processor_config.json, of a folder or hub id, or a JSON file.

        `options` are those of `minitrans.hub.open_repository` and settings that override the file's. Keys that this
        class does not know are kept in `extra` and saved back. Raises ValueError where the file belongs to another
        kind of extractor, TypeError for an unknown option.
        """
        repository, overrides = open_with(pretrained_model_name_or_path, options, "preprocessor_config.json")
        values = read_settings(repository, "feature_extractor")
        found = values.get("feature_extractor_type")
        if found is not None and found not in cls.published_names:
            raise ValueError(f"{repository.name} has a {found!r:.80}; {cls.__name__} cannot prepare its inputs.")
        known = {spec.name for spec in fields(cls)} - {"extra"}
        extra = {key: value for key, value in values.items() if key not in known.union(TYPE_KEYS)}
        return cls(**{**{key: values[key] for key in known & set(values)}, **overrides}, extra=extra)

    def to_dict(self) -> dict[str, Any]:
        """All settings, as they stand in preprocessor_config.json."""
        values = {spec.name: getattr(self, spec.name) for spec in fields(self) if spec.name != "extra"}
        return {**self.extra, **values, "feature_extractor_type": self.published_names[0]}

    def write_files(self, folder: Path) -> None:
        """Write preprocessor_config.json into an existing folder."""
        text = json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"
        (folder / "preprocessor_config.json").write_text(text, encoding="utf-8")

    def __call__(
        self, raw_speech: Any, padding: bool | str = False, max_length: int | None = None, truncation: bool = False,
        pad_to_multiple_of: int | None = None, return_attention_mask: bool | None = None,
        return_tensors: str | None = None, sampling_rate: float | None = None,
        resample: bool = False, mono: bool = False,
    ) -> BatchFeature:  # fmt: skip
        """Make float32 `input_values` (and an int32 `attention_mask`) of one clip or a batch.

        A clip is a numpy array, a torch tensor or a list of floats of shape (n,), or the path of a file; a batch is a
        list of clips or an array (B, n). Integer PCM (int8, uint8, int16, int32) is scaled to [−1, 1). Without
        `sampling_rate` (Hz) the samples are believed to have the checkpoint's rate, with a warning; another rate is
        refused, or converted where `resample=True`. A file brings its own rate. A clip of several channels is refused,
        or averaged where `mono=True`, which also takes an array (channels, n) or (n, channels) as one clip.

        `padding` is True or "longest", "max_length", or False; `truncation` cuts to `max_length` samples, rounded up
        to `pad_to_multiple_of`. Values are a list of arrays, or one "np" array or "pt" tensor (B, N). Raises
        ValueError or TypeError for sound that cannot give right numbers, OSError for a file missing or damaged.
        """
        limit = _limit(truncation, max_length, pad_to_multiple_of)
        clips, sampling_rate = _named_clips(raw_speech, mono), plain(sampling_rate)
        if sampling_rate is not None:
            check_rate(sampling_rate)
        elif not all(isinstance(clip, (str, Path)) for _, clip in clips):
            if resample:
                raise ValueError("resample=True needs sampling_rate, the rate in Hz at which the samples were taken.")
            warn_once(f"sampling_rate was not given; the samples are taken to be at {self.sampling_rate} Hz.")
        values = [self._samples(clip, name, sampling_rate, resample, mono)[:limit] for name, clip in clips]
        if self.do_normalize:
            values = [_normalised(samples) for samples in values]
        options = (padding, max_length, truncation, pad_to_multiple_of, return_attention_mask, return_tensors)
        return self.pad({"input_values": values}, *options)

    def pad(
        self, processed_features: Any, padding: bool | str = True, max_length: int | None = None,
        truncation: bool = False, pad_to_multiple_of: int | None = None, return_attention_mask: bool | None = None,
        return_tensors: str | None = None,
    ) -> BatchFeature:  # fmt: skip
        """Pad features that this extractor has made: a dict of lists, or a list of dicts as a collator holds.

        Nothing is normalised again. Torch tensors give tensors unless `return_tensors` says otherwise. Raises
        ValueError where `input_values` are missing, empty or no finite numbers, and where a mask has not 1 or 0 for
        each of them.
        """
        columns = _columns(processed_features)
        if return_tensors is None and hasattr(columns["input_values"][0], "detach"):
            return_tensors = "pt"
        limit = _limit(truncation, max_length, pad_to_multiple_of)
        values = [_real(clip, f"input_values of clip {index}") for index, clip in enumerate(columns["input_values"])]
        masks = columns.pop("attention_mask", None)
        if return_attention_mask is None:
            return_attention_mask = self.return_attention_mask or masks is not None
        if masks is None:
            masks = [np.ones(len(clip), np.int32) for clip in values]
        else:
            masks = [_mask(mask, len(values[index]), index) for index, mask in enumerate(masks)]
        how = choose("padding", padding, PADDING)
        if how == "max_length" and max_length is None:
            raise ValueError('padding="max_length" needs max_length, a number of samples.')
        values = [clip[:limit] for clip in values]
        length = padded_length(how, values, max_length, pad_to_multiple_of, MOST_SAMPLES) if how else 0
        columns["input_values"] = [self._padded(clip, length, self.padding_value) for clip in values]
        if return_attention_mask:
            columns["attention_mask"] = [self._padded(mask[:limit], length, 0) for mask in masks]
        advice = "Padding fills input_values and attention_mask, nothing else." if how else "Pass padding=True."
        return BatchFeature(columns).convert_to_tensors(return_tensors, advice=advice)

    def _padded(self, values: np.ndarray, length: int, value: float) -> np.ndarray:
        missing = max(0, length - len(values))
        return np.pad(values, (0, missing) if self.padding_side == "right" else (missing, 0), constant_values=value)

    def _samples(self, clip: Any, name: str, rate: float | None, resample: bool, mono: bool) -> np.ndarray:
        """One clip of any accepted kind as float32 (n,) at the checkpoint's rate."""
        if isinstance(clip, (str, Path)):
            name = str(clip)
            samples, rate = read_audio(clip)
        else:
            samples = _scaled(_array(clip), name)
        samples = _one_channel(samples, name, mono)
        if not samples.size:
            raise ValueError(f"{name} is empty; a clip needs at least one sample.")
        if not np.isfinite(samples).all():
            raise ValueError(f"{name} holds NaN or infinite samples.")
        if rate is None or rate == self.sampling_rate:
            return samples
        if not resample:
            expected = f"the checkpoint expects {self.sampling_rate} Hz; pass resample=True to convert it"
            raise ValueError(f"{name} is sampled at {rate} Hz, but {expected}.")
        return resample_audio(samples, rate, self.sampling_rate)


def read_audio(source: Source) -> tuple[np.ndarray, int]:
    """Read a recording: float32 samples in [−1, 1], (n,) or (channels, n), and their rate in Hz.

    Raises what `open_audio` raises.
    """
    with open_audio(source) as recording:
        blocks = list(recording.blocks(2**20)) or [np.empty((0, 1), np.float32)]
        samples = np.concatenate(blocks).T
        return np.ascontiguousarray(samples[0] if len(samples) == 1 else samples), recording.samplerate


class Recording:
    """An open recording: its `samplerate` in Hz, and the `frames` that its file promises (0 where it does not say).

    `name` stands in messages. A file that ends early gives what is there, and the log says so.
    """

    name: str
    samplerate: int
    frames: int

    def blocks(self, size: int, warn: bool = True) -> Iterator[np.ndarray]:
        """The samples, float32 (n, channels) of `size` at most; never more than the file holds."""
        count = 0
        # `SoundFile.blocks` gives memory that nobody wrote where a file holds fewer samples than it says.
        while len(block := self.next(size)):
            count += len(block)
            yield block
        if warn and (reason := self.early_end(count)):
            logger.warning("%s ends early, after %.2f s: %s.", self.name, count / self.samplerate, reason)

    def early_end(self, count: int) -> str | None:
        """How one sees that a file of which `count` frames could be read lacks its end; None where it has it."""
        promised = self.promised(count)
        # What a file of compressed sound says of its length may be an estimate.
        least = 0.05 * self.samplerate
        if promised - count > least or self.frames - count > max(least, 0.01 * self.frames):
            return f"{max(promised, self.frames) / self.samplerate:.2f} s were recorded, by its header"
        return "the end of the file is missing" if self.is_cut() else None

    def next(self, size: int) -> np.ndarray:
        """The next block, empty at the end."""
        raise NotImplementedError

    def promised(self, count: int) -> float:
        """How many frames there should be, by what the file says beside `frames`; `count` were read."""
        return count

    def is_cut(self) -> bool:
        """Whether the file lacks its end, as far as that shows."""
        return False


class SoundFileRecording(Recording):
    """A recording that libsndfile reads."""

    def __init__(self, name: str, sound: SoundFile, tail: bytes) -> None:
        self.name, self.sound, self.tail = name, sound, tail
        self.samplerate, self.frames = sound.samplerate, sound.frames
        # Else soundfile seeks after each block to where it is, which in an MP3 loses what frames hand on to the next.
        sound.seekable = lambda: False

    @override
    def next(self, size: int) -> np.ndarray:
        return self.sound.read(size, dtype="float32", always_2d=True)

    def promised(self, count: int) -> float:
        """Libsndfile corrects sizes in a header that the file does not reach, and logs it."""
        sizes = ((int(said), int(is_there)) for said, is_there in CORRECTED.findall(self.sound.extra_info))
        # A program that writes into a pipe cannot know the size, and writes the largest there is.
        shares = [said / is_there for said, is_there in sizes if 0 < is_there < said < UNKNOWN_SIZE]
        return count * max(shares, default=1.0)

    def is_cut(self) -> bool:
        """The last page of an Ogg file is whole, and has a flag that says so."""
        if self.sound.format != "OGG":
            return False
        page = self.tail[self.tail.rfind(b"OggS") :]
        segments = page[27 : 27 + page[26]] if len(page) > 26 else b""
        return not segments or page[5] < 4 or len(page) < 27 + len(segments) + sum(segments)


class AvRecording(Recording):
    """A recording in a container of films, which FFmpeg's libraries read by PyAV."""

    def __init__(self, name: str, container: Any, library: ModuleType) -> None:
        if not container.streams.audio:
            raise ValueError(f"{name} could not be read as audio: there is no sound in it.")
        stream = container.streams.audio[0]
        check_rate(stream.rate, f"{name} cannot be heard: its")
        self.name, self.samplerate = name, stream.rate
        seconds = stream.duration * stream.time_base if stream.duration else (container.duration or 0) / 1e6
        self.frames = int(seconds * stream.rate)
        self.decoded = container.decode(stream)
        self.planar = library.AudioResampler(format="fltp")
        self.held = np.empty((0, stream.channels), np.float32)

    @override
    def next(self, size: int) -> np.ndarray:
        blocks, count = [self.held], len(self.held)
        while count < size and (frame := next(self.decoded, None)) is not None:
            blocks += [part.to_ndarray().T for part in self.planar.resample(frame)]
            count = sum(map(len, blocks))
        held = np.concatenate(blocks)
        self.held = held[size:]
        return np.ascontiguousarray(held[:size], np.float32)


@contextmanager
def open_audio(source: Source) -> Iterator[Recording]:
    """Open a recording, to be read in blocks; what is broken inside it may show only then.

    It is the path of a file or the bytes of one: WAV, FLAC, OGG, MP3 and what else libsndfile reads, and with PyAV
    M4A, AAC, WebM, WMA and others. Raises FileNotFoundError where there is none, ValueError where it is not audio,
    ImportError without `soundfile`.
    """
    try:
        import soundfile
    except ImportError as error:
        raise ImportError('Audio files are read with soundfile: pip install "minitrans[audio]".') from error
    is_bytes = isinstance(source, (bytes, bytearray))
    name = f"A recording of {len(source)} bytes" if is_bytes else str(source)  # type: ignore[arg-type]
    if not is_bytes and not os.path.isfile(source):  # type: ignore[arg-type]
        address = " (it is an address: nothing is downloaded here)" if "://" in name else ""
        raise FileNotFoundError(f"There is no audio file {name[:300]}{address}.")
    try:
        sound = soundfile.SoundFile(io.BytesIO(source) if is_bytes else source)  # type: ignore[arg-type]
    except (soundfile.LibsndfileError, TypeError) as error:
        with _open_av(source, name, getattr(error, "error_string", NO_HEADER)) as recording:
            yield recording
        return
    try:
        with sound:
            if sound.format == "RAW":  # libsndfile went by the ending of the name, and would hear any text
                raise ValueError(f"{name} could not be read as audio: {NO_HEADER}.")
            check_rate(sound.samplerate, f"{name} cannot be heard: its")
            yield SoundFileRecording(name, sound, _tail(source))
    except soundfile.LibsndfileError as error:
        raise ValueError(f"{name} could not be read as audio: {error.error_string}") from error


@contextmanager
def _open_av(source: Source, name: str, refusal: str) -> Iterator[Recording]:
    """What libsndfile refused, by PyAV."""
    reason = f"{name} could not be read as audio: {refusal.rstrip('.')}."
    try:
        import av
    except ImportError as error:
        raise ValueError(f'{reason} (M4A, AAC, WebM and WMA need PyAV: pip install "minitrans[av]".)') from error
    try:
        place = io.BytesIO(source) if isinstance(source, (bytes, bytearray)) else f"file:{os.fspath(source)}"
        with av.open(place, options={"format_whitelist": CONTAINERS}) as container:
            yield AvRecording(name, container, av)
    except av.ArgumentError as error:  # a format beside these
        raise ValueError(f"{name} could not be read as audio: it is not one of {CONTAINERS}.") from error
    except av.FFmpegError as error:
        raise ValueError(f"{name} could not be read as audio: {error.strerror}.") from error


def _tail(source: Source, size: int = 2**17) -> bytes:
    """The last bytes of a recording: an Ogg page has 65307 at most."""
    if isinstance(source, (bytes, bytearray)):
        return bytes(source[-size:])
    with open(source, "rb") as stream:
        stream.seek(max(0, os.path.getsize(source) - size))
        return stream.read()


def resample_audio(samples: np.ndarray, rate: float, target: float) -> np.ndarray:
    """Convert float32 samples (n,) from one rate in Hz to another by soxr's high-quality filter."""
    return import_soxr().resample(samples, rate, target)


def import_soxr() -> ModuleType:
    """The library that converts sampling rates; ImportError, with what to install, where it is missing."""
    try:
        import soxr
    except ImportError as error:
        raise ImportError('Sampling rates are converted with soxr: pip install "minitrans[audio]".') from error
    return soxr


def check_rate(rate: Any, whose: str = "") -> None:
    """ValueError, which begins with `whose`, for what is not a number of samples per second in `RATES`."""
    low, high = RATES
    is_number = isinstance(rate, (int, float, np.integer, np.floating)) and not isinstance(rate, bool)
    if not is_number or not low <= rate <= high:
        wanted = f"it must be a number of samples per second (Hz) from {low} to {high}"
        raise ValueError(f"{whose} sampling_rate is {rate!r:.80}; {wanted}.".lstrip())


def _limit(truncation: Any, max_length: int | None, multiple: int | None) -> int | None:
    """How many samples of a clip truncation keeps, None for all; ValueError for what are no lengths."""
    max_length, multiple = whole("max_length", max_length, 1), whole("pad_to_multiple_of", multiple, 1)
    if choose("truncation", truncation, TRUNCATION) is None:
        return None
    if max_length is None:
        raise ValueError("truncation=True needs max_length, a number of samples.")
    return rounded(max_length, multiple)


def _columns(features: Any) -> dict[str, Any]:
    """Bring a list of dicts, or a dict of lists, to a new dict of lists, all as long as that of input_values."""
    columns = dict(features if isinstance(features, Mapping) else gathered(features))
    count = _count(columns.get("input_values"))
    if not count:
        raise ValueError(f"pad needs a dict with input_values, or a list of such dicts, not {shown(features)}.")
    for name, values in columns.items():
        if values is not None and _count(values) != count:
            raise ValueError(f"There are {count} clips, but {name} has not a value for each: {shown(values)}.")
    return columns


def _count(values: Any) -> int | None:
    """The number of items of a list, array or tensor; None for what has none."""
    is_list = isinstance(values, list | tuple) or getattr(values, "ndim", 0) > 0
    return len(values) if is_list else None


def _real(clip: Any, name: str) -> np.ndarray:
    """A clip (n,) of finite numbers as float32; ValueError for any other."""
    samples = _array(clip)
    if samples.ndim != 1:
        raise ValueError(f"{name} must be a clip of shape (n,), and its shape is {samples.shape}.")
    with np.errstate(over="ignore"):
        single = samples.astype(np.float32, copy=False) if samples.dtype.kind in "fiub" else np.array(np.nan)
    if not np.isfinite(single).all():
        raise ValueError(f"{name} is {shown(samples)}; it must be real numbers that float32 holds.")
    return single


def _mask(mask: Any, count: int, index: int) -> np.ndarray:
    """The mask (n,) of a clip as int32; ValueError for any other."""
    marks = _array(mask)
    if marks.shape != (count,) or not np.isin(marks, (0, 1)).all():
        wanted = f"it must have 1 or 0 for each of its {count} samples"
        raise ValueError(f"attention_mask of clip {index} is {shown(mask)}; {wanted}.")
    return marks.astype(np.int32)


def _normalised(samples: np.ndarray) -> np.ndarray:
    # Beside a large offset the mean has too few digits in float32 for quiet sound; its rest is taken off again.
    centred = samples - np.float32(samples.mean(dtype=np.float64))
    centred -= np.float32(centred.mean(dtype=np.float64))
    centred /= np.float32(np.sqrt(np.square(centred).mean(dtype=np.float64) + 1e-7))
    return centred


def _named_clips(audio: Any, mono: bool) -> list[tuple[str, Any]]:
    """The clips of an input, each with its name for messages."""
    if isinstance(audio, (str, Path)):
        return [("the clip", audio)]
    if isinstance(audio, (bytes, bytearray, memoryview)):
        raise TypeError(f"A clip is an array or list of samples, or the path of a file, not a {type(audio).__name__}.")
    if isinstance(audio, (list, tuple)):
        if len(audio) and isinstance(audio[0], Real):
            return [("the clip", audio)]
    else:
        audio = _array(audio)
        if audio.ndim != 2 or mono:
            return [("the clip", audio)]
        if audio.shape[1] <= MAX_CHANNELS < audio.shape[0]:
            _one_channel(audio, "the clip", mono)
    if not len(audio):
        raise ValueError("There is no clip in the batch.")
    return [(f"clip {index}", clip) for index, clip in enumerate(audio)]


def _array(value: Any) -> np.ndarray:
    if hasattr(value, "detach"):  # a torch tensor
        value = as_array(value)
    try:
        return np.asarray(value)
    except ValueError as error:
        raise ValueError("A clip is a list of numbers; this list holds rows of unequal lengths.") from error


def _scaled(samples: np.ndarray, name: str) -> np.ndarray:
    """Samples as float32; integers are PCM and become [−1, 1)."""
    if samples.dtype.name in PCM:
        silence, full_scale = PCM[samples.dtype.name]
        return ((samples.astype(np.float64) - silence) / full_scale).astype(np.float32)
    if samples.size and samples.dtype.kind != "f":
        accepted = f"give floats in [-1, 1], or PCM as an array of {', '.join(PCM)}"
        raise TypeError(f"{name} has samples of type {samples.dtype}; {accepted}.")
    return samples.astype(np.float32, copy=False)


def _one_channel(samples: np.ndarray, name: str, mono: bool) -> np.ndarray:
    """Bring (n,), (channels, n) or (n, channels) to (n,)."""
    if samples.ndim == 1:
        return samples
    if samples.ndim != 2 or min(samples.shape) > MAX_CHANNELS:
        raise ValueError(f"{name} has the shape {samples.shape}; a clip is (n,), or (channels, n) with mono=True.")
    axis = int(samples.shape[0] > samples.shape[1])
    if samples.shape[axis] > 1 and not mono:
        advice = "the model hears one: pass mono=True to average them, or choose one"
        raise ValueError(f"{name} has {samples.shape[axis]} channels, shape {samples.shape}; {advice}.")
    return samples.mean(axis=axis)
