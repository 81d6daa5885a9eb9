"""Sounds and images: values of any type, and files of which bytes were changed, cut off or put under another name.

What is heard is what soundfile reads of the same bytes, and what is seen what Pillow shows.
"""

import io
import random
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
import torch
import transformers
from outcomes import Outcomes
from PIL import Image, ImageFile

from minitrans.processing.audio import Wav2Vec2FeatureExtractor, read_audio
from minitrans.processing.image import RASTER, ViTImageProcessor

RATES: list[Any] = [16000, 8000, 44100, 48000.0, 22050, 1000, 384_000, 0, -1, 1, 999, 1e18, float("nan"), float("inf"),
                    10**400, None, "16000", True, [16000]]  # fmt: skip
DTYPES: list[Any] = ["float16", "float32", "float64", "longdouble", "int8", "uint8", "int16", "uint16", "int32",
                     "uint32", "int64", "uint64", "bool", "complex64", "object", "U8", "datetime64[s]"]  # fmt: skip
OTHERS: list[Any] = [None, 5, 1.5, True, "", "x", "a\0b", b"abc", bytearray(b"abc"), [], [None], [[]], ["a"], {},
                     {"a": 1}, (), object(), range(5), np.array(None), np.zeros((2, 0)), torch.zeros(5, device="meta"),
                     torch.zeros(9).to_sparse(), torch.zeros(9, dtype=torch.cfloat), "x" * 400, Path("/")]  # fmt: skip
SCALES = {"int8": 2.0**7, "int16": 2.0**15, "int32": 2.0**31}


def clip(rng: random.Random, generator: np.random.Generator) -> Any:
    """A clip of any dtype and shape, or no clip at all."""
    if rng.random() < 0.2:
        return rng.choice(OTHERS)
    dtype = rng.choice(DTYPES)
    shape = rng.choice([(900,), (900,), (900,), (1, 900), (900, 1), (2, 900), (900, 2), (3, 4, 5), (0,), (), (1,)])
    samples = generator.uniform(-1, 1, shape)
    if np.dtype(dtype).kind in "iu":
        samples = samples * 100
    samples = samples.astype(dtype)
    if samples.size and samples.dtype.kind == "f" and rng.random() < 0.1:
        samples.flat[rng.randrange(samples.size)] = rng.choice([np.nan, np.inf, -np.inf])
    form = rng.choice(["array", "array", "list", "tensor"])
    if form == "tensor" and dtype in ("float16", "float32", "float64", "int16", "int32", "uint8"):
        return torch.from_numpy(np.asarray(samples))
    return samples.tolist() if form == "list" and samples.dtype.kind == "f" else samples


def heard(sound: Any, rate: Any, found: np.ndarray) -> bool:
    """Whether these are transformers' values of the same samples, scaled and resampled before."""
    samples = np.asarray(sound)
    samples = samples[0] if samples.ndim == 3 or (isinstance(sound, list) and samples.ndim == 2) else samples
    name = samples.dtype.name
    if name in SCALES:
        samples = samples / SCALES[name]
    elif name == "uint8":
        samples = (samples.astype(np.float64) - 128) / 128
    samples = samples.astype(np.float32)
    samples = samples.mean(int(samples.shape[0] > samples.shape[1])) if samples.ndim == 2 else samples
    samples = samples if rate == 16000 else soxr.resample(samples, rate, 16000)
    expected = transformers.Wav2Vec2FeatureExtractor()(samples, sampling_rate=16000)["input_values"][0]
    return found.shape == expected.shape and np.allclose(found, expected, atol=2e-3)


def test_values_of_sounds(cases: int) -> None:
    rng, generator, outcomes = random.Random(0), np.random.default_rng(0), Outcomes("values of sounds")
    extractor = Wav2Vec2FeatureExtractor()
    for _ in range(cases):
        sound, rate = clip(rng, generator), rng.choice([16000, 16000, *RATES])
        if rate is None:
            continue  # believed to be 16000, with a warning

        def hear(sound: Any = sound, rate: Any = rate) -> np.ndarray:
            return extractor(sound, sampling_rate=rate, resample=True, mono=True)["input_values"][0]

        outcomes.judge((sound, rate), hear, partial(heard, sound, rate))
    outcomes.check()


def mutated(content: bytes, rng: random.Random) -> bytes:
    """Bytes changed, most in the header, cut off, doubled or put in."""
    data = bytearray(content)
    for _ in range(rng.choice([0, 1, 1, 2, 4])):
        place = rng.randrange(min(len(data), rng.choice([16, 64, len(data)])))
        data[place] = rng.choice([0, 1, 127, 128, 255, rng.randrange(256)])
    how = rng.random()
    if how < 0.2:
        return bytes(data[: rng.randrange(len(data) + 1)])
    return bytes(data) + rng.randbytes(rng.randrange(50)) if how < 0.3 else bytes(data)


SOUNDS = [("WAV", "PCM_16"), ("WAV", "FLOAT"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("AIFF", "PCM_16"),
          ("AU", "PCM_16")]  # fmt: skip
ENDINGS = ["wav", "au", "snd", "vox", "gsm", "raw", "mp3", "txt", ""]


def same_sound(path: Path, found: tuple[np.ndarray, int]) -> bool:
    """Whether soundfile, by the bytes alone, reads the same samples, as far as there are any."""
    samples, rate = found
    with soundfile.SoundFile(path.rename(path.with_name("content"))) as sound:
        there, parts = sound.samplerate, [np.empty((0, sound.channels), np.float32)]
        sound.seekable = lambda: False  # in a file cut off it cannot go back to where it is
        while len(part := sound.read(777, dtype="float32", always_2d=True)):
            parts.append(part)
    expected = np.concatenate(parts)
    ours = samples[:, None] if samples.ndim == 1 else samples.T
    count = min(len(ours), len(expected))
    return rate == there and (not count or np.array_equal(ours[:count], expected[:count], equal_nan=True))


def test_files_of_sound(tmp_path: Path, cases: int) -> None:
    rng, outcomes = random.Random(1), Outcomes("files of sound")
    tone = (np.sin(np.arange(3000) * 0.05) * 0.4)[:, None]
    for _ in range(cases):
        kind, subtype = rng.choice(SOUNDS)
        stream = io.BytesIO()
        soundfile.write(
            stream, np.repeat(tone, rng.choice([1, 2]), 1), rng.choice([8000, 16000]), subtype, format=kind
        )
        content = rng.choice([stream.getvalue(), stream.getvalue(), stream.getvalue(), b"no sound, but text\n" * 99])
        content = mutated(content, rng)
        path = tmp_path / f"sound.{rng.choice(ENDINGS)}"
        path.write_bytes(content)
        outcomes.judge((kind, path.name, content[:60]), partial(read_audio, path), partial(same_sound, path))
    outcomes.check()


def same_image(path: Path, found: np.ndarray) -> bool:
    """Whether Pillow sees the same in the file."""
    with Image.open(path, formats=[name for name in RASTER if name in Image.ID]) as image:
        image.load()
        if image.mode not in ("RGB", "L", "P", "1") or image.getexif().get(0x0112, 1) != 1:
            return True
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
        flat = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image) if image.mode == "RGBA" else image
        expected = np.asarray(flat.convert("L" if len(found) == 1 else "RGB"))
        expected = expected[None] if expected.ndim == 2 else expected.transpose(2, 0, 1)
    return found.shape == expected.shape and np.array_equal(np.round(found * 255), expected)


@pytest.mark.filterwarnings("ignore")
def test_files_of_images(tmp_path: Path, cases: int) -> None:
    rng, outcomes = random.Random(2), Outcomes("files of images")
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
    processor = ViTImageProcessor(do_resize=False, do_normalize=False)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 17, 3), dtype=np.uint8))
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"
    for _ in range(cases):
        stream = io.BytesIO()
        kind = rng.choice(["PNG", "JPEG", "BMP", "GIF", "TIFF", "PPM", "WEBP", "TGA", "EPS"])
        if kind != "EPS":
            picture.convert(rng.choice(["RGB", "L"])).save(stream, kind)
        content = mutated(stream.getvalue() or eps, rng)
        path = tmp_path / f"image.{rng.choice(['png', 'jpg', 'eps', 'ps', 'wmf', ''])}"
        path.write_bytes(content)
        outcomes.judge(
            (kind, content[:60]), lambda path=path: processor(path)["pixel_values"][0], partial(same_image, path)
        )
    outcomes.check()


def test_values_of_images(cases: int) -> None:
    rng, generator, outcomes = random.Random(3), np.random.default_rng(3), Outcomes("values of images")
    processor = ViTImageProcessor(do_resize=False, do_normalize=False)
    for _ in range(cases):
        image: Any = rng.choice(OTHERS)
        if rng.random() < 0.8:
            shape = rng.choice(
                [(9, 8, 3), (3, 9, 8), (9, 8), (1, 9, 8), (9, 8, 4), (2, 9, 8, 3), (9,), (0, 3, 3), (5, 6, 7)]
            )
            image = (generator.uniform(0, 1, shape) * rng.choice([1, 255, 255, 70000])).astype(rng.choice(DTYPES))
            if image.dtype.kind == "f" and image.size and rng.random() < 0.1:
                image.flat[0] = rng.choice([np.nan, np.inf, -5])

        def see(image: Any = image) -> list[np.ndarray]:
            return processor(image)["pixel_values"]

        def right(found: list[np.ndarray], image: Any = image) -> bool:
            array = np.asarray(image)
            parts = array if array.ndim == 4 else array[None]
            parts = [part[None] if part.ndim == 2 else part for part in parts]
            axes = [part if part.shape[0] in (1, 3) else part.transpose(2, 0, 1) for part in parts]
            scale = np.float32(1) if array.dtype == bool else np.float32(1 / 255)
            return all(
                np.allclose(ours, there.astype(np.float64) * scale, atol=1e-5)
                for ours, there in zip(found, axes, strict=True)
            )

        outcomes.judge(image if not isinstance(image, np.ndarray) else (image.dtype, image.shape), see, right)
    outcomes.check()
