"""The feature extractor, reading and resampling, against transformers, soundfile and float64 mathematics."""

import dataclasses
import inspect
import io
import json
import logging
import re
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch
from fuzz.outcomes import is_sentence
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import Wav2Vec2FeatureExtractor as Reference

import minitrans
from minitrans.processing.audio import Recording, Wav2Vec2FeatureExtractor, open_audio, read_audio, resample_audio
from minitrans.processing.document import LayoutLMv2ImageProcessor
from minitrans.processing.image import ViTImageProcessor

RATE = 16000


def clips(lengths, seed=0):
    random = np.random.default_rng(seed)
    return [(0.3 * random.standard_normal(length) + 0.1).astype(np.float32) for length in lengths]


def standardised(samples):
    samples = samples.astype(np.float64)
    return (samples - samples.mean()) / np.sqrt(samples.var() + 1e-7)


def assert_same(ours, reference):
    assert set(ours) == set(reference)
    for key in reference:
        assert len(ours[key]) == len(reference[key])
        for mine, theirs in zip(ours[key], reference[key], strict=True):
            mine, theirs = np.asarray(mine), np.asarray(theirs)
            assert (mine.shape, mine.dtype) == (theirs.shape, theirs.dtype)
            np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-5)


@settings(max_examples=150, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=4),
    seed=st.integers(0, 9),
    config=st.fixed_dictionaries(
        {
            "do_normalize": st.booleans(),
            "padding_value": st.sampled_from([0.0, -1.5]),
            "padding_side": st.sampled_from(["right", "left"]),
        }
    ),
    options=st.fixed_dictionaries(
        {
            "padding": st.sampled_from([True, "longest", "max_length", False, "do_not_pad"]),
            "max_length": st.sampled_from([20, 33, 70]),
            "truncation": st.booleans(),
            "pad_to_multiple_of": st.sampled_from([None, 1, 8]),
            "return_attention_mask": st.booleans(),
        }
    ),
)
def test_padding_and_normalisation_equal_transformers(lengths, seed, config, options):
    # transformers cannot normalise what it could not pad to one length.
    assume(options["padding"] != "max_length" or options["truncation"] or max(lengths) <= options["max_length"])
    batch = clips(lengths, seed)
    ours = Wav2Vec2FeatureExtractor(**config)(batch, sampling_rate=RATE, **options)
    # The reference normalises over the padding where it returns no mask, and counts from the wrong end where it pads
    # on the left: there its own masked, right-padded numbers are the measure.
    reference = Reference(**{**config, "padding_side": "right"})
    masked = reference(batch, sampling_rate=RATE, **{**options, "return_attention_mask": True})
    if config["padding_side"] == "left":
        for key, mask in (("input_values", masked["attention_mask"]), ("attention_mask", masked["attention_mask"])):
            masked[key] = [
                np.roll(row, len(row) - np.sum(real)) for row, real in zip(masked[key], list(mask), strict=True)
            ]
    if not options["return_attention_mask"]:
        del masked["attention_mask"]
    assert_same(ours, masked)


@pytest.mark.parametrize("setting", [True, False])
@pytest.mark.parametrize("asked", [True, False, None])
def test_mask_follows_the_checkpoint_unless_the_call_says_otherwise(setting, asked):
    config = {"return_attention_mask": setting, "do_normalize": False}
    options = {"padding": True, "return_attention_mask": asked, "sampling_rate": RATE, "return_tensors": "pt"}
    ours = Wav2Vec2FeatureExtractor(**config)(clips([5, 9]), **options)
    reference = Reference(**config)(clips([5, 9]), **options)
    assert_same(ours, reference)
    assert all(ours[key].dtype == reference[key].dtype for key in reference)


def test_a_clip_has_the_same_values_alone_and_in_a_batch_without_a_mask():
    batch = clips([400, 1600])
    extractor, reference = Wav2Vec2FeatureExtractor(), Reference()
    alone, padded = (
        extractor(x, sampling_rate=RATE, padding=True, return_tensors="np").input_values[0] for x in (batch[0], batch)
    )
    np.testing.assert_array_equal(padded[:400], alone)
    assert not padded[400:].any()
    alone, padded = (
        reference(x, sampling_rate=RATE, padding=True, return_tensors="np").input_values[0] for x in (batch[0], batch)
    )
    assert np.abs(padded[:400] - alone).max() > 0.1


@pytest.mark.parametrize(
    "make",
    [
        np.asarray,
        np.ndarray.tolist,
        lambda x: tuple(x.tolist()),
        torch.tensor,
        lambda x: torch.tensor(x, requires_grad=True),
        lambda x: x.astype(np.float64),
        lambda x: [x],
        lambda x: [x.tolist()],
        lambda x: [torch.tensor(x)],
        lambda x: np.stack([x, x[::-1]]),
        lambda x: torch.tensor(np.stack([x, x[::-1]])),
        lambda x: [x, x[:7]],
        lambda x: x[None],
    ],
)
def test_every_kind_of_input(make):
    (clip,) = clips([50])
    made = make(clip)
    plain = made.detach().numpy() if isinstance(made, torch.Tensor) else made
    plain = [np.asarray(x) for x in plain] if isinstance(plain, list) and not isinstance(plain[0], float) else plain
    ours = Wav2Vec2FeatureExtractor()(made, sampling_rate=RATE)
    assert_same(ours, Reference()(plain, sampling_rate=RATE))
    assert all(row.dtype == np.float32 for row in ours.input_values)


def test_half_precision_tensors_are_read():
    (clip,) = clips([50])
    for dtype in (torch.bfloat16, torch.float16):
        got = Wav2Vec2FeatureExtractor(do_normalize=False)(torch.tensor(clip).to(dtype), sampling_rate=RATE)
        np.testing.assert_array_equal(got.input_values[0], torch.tensor(clip).to(dtype).float().numpy())


@pytest.mark.parametrize(
    "clip",
    [
        np.zeros(500, np.float32),
        np.full(500, 0.7, np.float32),
        np.full(500, 100.0) + np.sin(np.arange(500)),
        np.full(500, 100.0) + 1e-4 * np.sin(np.arange(500)),
        1e-6 * np.sin(np.arange(500)),
        np.sign(np.sin(np.arange(500))),
        np.ones(1),
    ],
)
def test_normalisation_is_accurate_for_awkward_sound(clip):
    clip = clip.astype(np.float32)
    got = Wav2Vec2FeatureExtractor()(clip, sampling_rate=RATE).input_values[0]
    np.testing.assert_allclose(got, standardised(clip), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "int32"])
def test_integer_pcm_is_scaled(dtype):
    info = np.iinfo(dtype)
    levels = np.linspace(info.min, info.max, 9).astype(dtype)
    middle = 128 if dtype == "uint8" else 0
    expected = (levels.astype(np.float64) - middle) / (128 if dtype == "uint8" else -float(info.min))
    extractor = Wav2Vec2FeatureExtractor(do_normalize=False)
    for made in (levels, torch.from_numpy(levels)):
        np.testing.assert_allclose(extractor(made, sampling_rate=RATE).input_values[0], expected, atol=1e-7)


@pytest.mark.parametrize("shape", [(2, 400), (400, 2), (6, 400)])
def test_stereo_is_mixed_on_request(shape):
    sound = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    mixed = sound.astype(np.float64).mean(axis=int(shape[0] > shape[1]))
    extractor = Wav2Vec2FeatureExtractor(do_normalize=False)
    for made in (sound, [sound], torch.from_numpy(sound), [torch.from_numpy(sound)]):
        (got,) = extractor(made, sampling_rate=RATE, mono=True).input_values
        np.testing.assert_allclose(got, mixed, atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "count"), [((8, 2), 8), ((9, 9), 9), ((9, 10), 9), ((8, 8), 8), ((1, 9), 1), ((2, 50), 2), ((7, 1), 7)]
)
def test_rows_of_an_array_are_clips(shape, count):
    """But for an array that is as long, and as narrow, as a recording of several channels."""
    sound = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    found = Wav2Vec2FeatureExtractor(do_normalize=False)(sound, sampling_rate=RATE).input_values
    assert len(found) == count
    np.testing.assert_array_equal(found, sound)
    for wide in ((9, 8), (9, 2)):
        with pytest.raises(ValueError, match=f"the clip has {wide[1]} channels"):
            Wav2Vec2FeatureExtractor()(np.zeros(wide), sampling_rate=RATE)


@pytest.mark.parametrize("shape", [(1, 30), (30, 1), (8, 8), (2, 2), (30, 8), (1, 1)])
def test_channels_of_a_clip(shape):
    """There is one in a clip of one row or column; a square has its channels first."""
    sound = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    extractor = Wav2Vec2FeatureExtractor(do_normalize=False)
    expected = sound.mean(axis=1 if shape[0] > shape[1] else 0, dtype=np.float64)
    (found,) = extractor([sound], sampling_rate=RATE, mono=True).input_values
    np.testing.assert_allclose(found, expected, atol=1e-6)
    if 1 in shape:
        np.testing.assert_array_equal(extractor([sound], sampling_rate=RATE).input_values[0], sound.ravel())


@pytest.mark.parametrize("name", ["__call__", "pad"])
def test_defaults_are_the_published_ones(name):
    ours, theirs = (
        inspect.signature(getattr(kind, name)).parameters for kind in (Wav2Vec2FeatureExtractor, Reference)
    )
    shared = [parameter for parameter in theirs.values() if parameter.kind is parameter.POSITIONAL_OR_KEYWORD]
    assert [*ours][: len(shared)] == [parameter.name for parameter in shared]
    assert [ours[parameter.name].default for parameter in shared] == [parameter.default for parameter in shared]


@pytest.mark.parametrize("spec", dataclasses.fields(Wav2Vec2FeatureExtractor)[:-1], ids=lambda spec: spec.name)
def test_null_is_the_default_but_for_the_step(spec, tmp_path):
    """As in transformers, which does not normalise where a file says null."""
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({spec.name: None}))
    found = Wav2Vec2FeatureExtractor.from_pretrained(tmp_path)
    assert getattr(found, spec.name) == (False if spec.name == "do_normalize" else spec.default)
    assert type(getattr(found, spec.name)) is type(spec.default)


def test_pad_collates_like_transformers():
    config = {"return_attention_mask": True, "do_normalize": False}
    ours, reference = Wav2Vec2FeatureExtractor(**config), Reference(**config)
    rows = clips([5, 9, 7])
    with_masks = [{"input_values": row, "attention_mask": np.ones(len(row), np.int32)} for row in rows]
    for features in (
        {"input_values": rows},
        [{"input_values": row} for row in rows],
        [{"input_values": torch.tensor(row)} for row in rows],
        [{"input_values": row.tolist()} for row in rows],
        with_masks,
    ):
        for options in (
            {"return_tensors": "pt"},
            {"padding": "max_length", "max_length": 8, "truncation": True, "return_tensors": "np"},
            {"pad_to_multiple_of": 4, "return_attention_mask": False} if features is not with_masks else {},
        ):
            assert_same(ours.pad(features, **options), reference.pad(features, **options))
    assert isinstance(ours.pad([{"input_values": torch.tensor(row)} for row in rows]).input_values, torch.Tensor)


def test_pad_takes_columns_of_every_kind():
    extractor, rows = Wav2Vec2FeatureExtractor(), np.linspace(-0.5, 0.5, 12, dtype=np.float32).reshape(3, 4)
    for columns in ({"input_values": rows}, {"input_values": tuple(rows)}, {"input_values": torch.tensor(rows)},
                    {"input_values": rows.tolist(), "attention_mask": None}):  # fmt: skip
        found = extractor.pad(columns, pad_to_multiple_of=5, return_tensors="np")
        assert list(found) == ["input_values"]
        np.testing.assert_array_equal(found["input_values"], np.pad(rows, ((0, 0), (0, 1))))
    given = {"input_values": torch.tensor(rows), "attention_mask": [[True, True, False, False]] * 3}
    found = extractor.pad(given, truncation=True, max_length=3)
    assert isinstance(found["input_values"], torch.Tensor)
    assert found["attention_mask"].dtype == torch.int32
    assert found["attention_mask"].tolist() == [[1, 1, 0]] * 3
    assert isinstance(extractor.pad(given, return_tensors="np")["input_values"], np.ndarray)
    assert list(extractor.pad(given, return_attention_mask=False)) == ["input_values"]


def test_an_empty_clip_stays_empty_where_nothing_is_padded():
    found = Wav2Vec2FeatureExtractor().pad({"input_values": [[], [0.5]]}, padding=False)
    assert [clip.tolist() for clip in found["input_values"]] == [[], [0.5]]


def test_the_longest_padding():
    """A clip may become 30 million samples longer."""
    extractor, options = Wav2Vec2FeatureExtractor(), {"padding": "max_length", "return_tensors": "np"}
    with pytest.raises(ValueError, match="adds more than 30000000"):
        extractor.pad({"input_values": [[0.5]]}, max_length=3 * 10**7 + 2, **options)
    assert (
        extractor.pad({"input_values": [[0.5]]}, max_length=3 * 10**7 + 1, **options)["input_values"].size > 3 * 10**7
    )


@pytest.mark.parametrize(
    ("suffix", "subtype"), [("wav", "PCM_16"), ("wav", "FLOAT"), ("wav", "PCM_U8"), ("flac", "PCM_24")]
)
@pytest.mark.parametrize("channels", [1, 2])
def test_files_are_read(tmp_path, suffix, subtype, channels):
    sound = np.random.default_rng(1).uniform(-0.9, 0.9, (700, channels))
    path = tmp_path / f"sound.{suffix}"
    soundfile.write(path, sound, 8000, subtype=subtype)
    samples, rate = read_audio(path)
    step = {"PCM_16": 2**-15, "FLOAT": 1e-7, "PCM_U8": 2**-7, "PCM_24": 2**-23}[subtype]
    assert rate == 8000
    assert samples.dtype == np.float32
    np.testing.assert_allclose(samples, sound[:, 0] if channels == 1 else sound.T, atol=1.01 * step + 1e-7)


def test_the_extractor_takes_paths(tmp_path, caplog):
    first, second = clips([300, 500])
    paths = [tmp_path / "first.wav", tmp_path / "second.flac"]
    soundfile.write(paths[0], first, RATE, subtype="FLOAT")
    soundfile.write(paths[1], second / 4, RATE, subtype="PCM_24")
    extractor = Wav2Vec2FeatureExtractor(do_normalize=False)
    got = extractor([paths[0], str(paths[1])], padding=True, return_tensors="pt")
    assert got.input_values.shape == (2, 500)
    np.testing.assert_allclose(got.input_values[0, :300], first, atol=1e-6)
    np.testing.assert_allclose(got.input_values[1], second / 4, atol=1e-6)
    assert not caplog.records, "a file brings its own sampling rate"

    stereo = tmp_path / "stereo.wav"
    soundfile.write(stereo, np.stack([first, -first], 1), 8000, subtype="FLOAT")
    with pytest.raises(ValueError, match="2 channels"):
        extractor(stereo)
    with pytest.raises(ValueError, match=r"stereo.wav is sampled at 8000 Hz.*resample=True"):
        extractor(stereo, mono=True)
    (mixed,) = extractor(stereo, mono=True, resample=True).input_values
    assert len(mixed) == 600
    np.testing.assert_allclose(mixed, 0, atol=1e-6)


def test_files_beside_samples(tmp_path, caplog):
    """A file brings its own rate, the samples beside it have that of the call, or none."""
    minitrans.logging._said.clear()
    first, second = clips([1600, 800])
    soundfile.write(tmp_path / "first.wav", first, RATE, subtype="FLOAT")
    extractor = Wav2Vec2FeatureExtractor(do_normalize=False)
    for batch in ([tmp_path / "first.wav", second], [second, tmp_path / "first.wav"]):
        found = extractor(batch, sampling_rate=8000, resample=True).input_values
        by_file = found[batch[0] is second]
        np.testing.assert_array_equal(by_file, first)
        np.testing.assert_array_equal(found[batch[0] is not second], resample_audio(second, 8000, RATE))
    assert not caplog.records
    assert [len(clip) for clip in extractor([tmp_path / "first.wav", second]).input_values] == [1600, 800]
    assert "sampling_rate was not given" in caplog.text
    with pytest.raises(ValueError, match="clip 1 is sampled at 8000 Hz"):
        extractor([tmp_path / "first.wav", second], sampling_rate=8000)
    assert extractor(first, sampling_rate=16000.0).input_values[0].dtype == np.float32


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_resampling_gives_the_sine_that_was_recorded(rate):
    frequency = 440
    source = np.sin(2 * np.pi * frequency * np.arange(rate) / rate)
    expected = np.sin(2 * np.pi * frequency * np.arange(RATE) / RATE)
    got = Wav2Vec2FeatureExtractor(do_normalize=False)(source, sampling_rate=rate, resample=True).input_values[0]
    assert got.dtype == np.float32
    assert abs(len(got) - RATE) <= 1
    inner = slice(1000, RATE - 1000)
    np.testing.assert_allclose(got[inner], expected[inner], atol=1e-4)
    np.testing.assert_array_equal(got, resample_audio(source.astype(np.float32), rate, RATE))


def test_what_lies_above_the_new_rate_is_removed_and_not_folded_back():
    source = np.sin(2 * np.pi * 12000 * np.arange(44100) / 44100).astype(np.float32)
    assert np.abs(resample_audio(source, 44100, RATE)[500:-500]).max() < 1e-3


GOOD = np.linspace(-0.5, 0.5, 50)
BAD = [
    (GOOD, {"sampling_rate": 8000}, ValueError, "sampled at 8000 Hz.*16000 Hz.*resample=True"),
    (GOOD, {"sampling_rate": -1}, ValueError, "sampling_rate is -1"),
    (GOOD, {"sampling_rate": "16k"}, ValueError, "sampling_rate is '16k'"),
    *[
        (GOOD, {"sampling_rate": rate, "resample": True}, ValueError, "from 1000 to 384000")
        for rate in (1, 100, 999, 1e18, 384_001, 10**400, float("inf"), float("nan"), True, [8000], np.zeros(2))
    ],
    (GOOD, {"sampling_rate": None, "resample": True}, ValueError, "resample=True needs sampling_rate"),
    ([], {}, ValueError, "no clip"),
    (np.zeros((0, 5)), {}, ValueError, "no clip"),
    (np.zeros(0), {}, ValueError, "is empty"),
    (np.zeros(0, np.int64), {}, ValueError, "is empty"),
    ([GOOD, []], {}, ValueError, "clip 1 is empty"),
    ([GOOD, np.r_[GOOD, np.nan]], {}, ValueError, "clip 1 holds NaN"),
    (np.r_[GOOD, -np.inf], {}, ValueError, "NaN or infinite"),
    (np.zeros((2, 3, 50)), {}, ValueError, r"shape \(2, 3, 50\)"),
    (np.zeros((50, 2)), {}, ValueError, "2 channels.*mono=True"),
    ([GOOD, np.zeros((2, 50))], {}, ValueError, "clip 1 has 2 channels.*mono=True"),
    (np.zeros((50, 60)), {"mono": True}, ValueError, r"shape \(50, 60\)"),
    (np.zeros(50, np.int64), {}, TypeError, "int64"),
    (np.zeros(50, complex), {}, TypeError, "complex128"),
    ([[0, 1, 0]], {}, TypeError, "int64"),
    ([["a", "b"]], {}, TypeError, "<U1"),
    ([[[0.1], [0.1, 0.2]]], {}, ValueError, "unequal"),
    (3.0, {}, ValueError, "shape"),
    *[(kind(b"RIFF"), {}, TypeError, f"not a {kind.__name__}") for kind in (bytes, bytearray, memoryview)],
    ("missing.wav", {}, FileNotFoundError, "There is no audio file missing.wav[.]$"),
    ("https://example.org/a.wav", {}, FileNotFoundError, r"a.wav \(it is an address: nothing is downloaded here\)"),
    (__file__, {}, ValueError, "could not be read as audio"),
    (GOOD, {"padding": "longst"}, ValueError, "'longst'"),
    (GOOD, {"padding": "max_length"}, ValueError, "needs max_length"),
    (GOOD, {"truncation": True}, ValueError, "needs max_length"),
    (GOOD, {"padding": True, "pad_to_multiple_of": 0}, ValueError, "pad_to_multiple_of"),
    *[
        (GOOD, {"padding": "max_length", "max_length": 60, option: value}, ValueError, f"{option}=.* must be a whole")
        for option in ("max_length", "pad_to_multiple_of")
        for value in (8000.0, "9", 2.5, True, [9], -1, 0)
    ],
    *[
        ([GOOD, GOOD], {"padding": True, **options}, ValueError, "adds more than 30000000; give a smaller")
        for options in (
            {"pad_to_multiple_of": 10**9},
            {"pad_to_multiple_of": 10**30},
            {"padding": "max_length", "max_length": 10**12},
            {"padding": "max_length", "max_length": 10**30},
        )
    ],
    *[(GOOD, {"truncation": wrong, "max_length": 9}, ValueError, "truncation=") for wrong in ("x", 5, [True])],
    (GOOD, {"return_tensors": "tf"}, ValueError, "'tf'"),
    (GOOD, {"return_tensors": 5}, ValueError, "return_tensors is 5"),
    ([GOOD, GOOD[:9]], {"return_tensors": "pt"}, ValueError, "padding=True"),
]


@pytest.mark.parametrize(("audio", "options", "kind", "sentence"), BAD)
def test_bad_input_is_refused_with_a_sentence(audio, options, kind, sentence):
    with pytest.raises(kind, match=sentence):
        Wav2Vec2FeatureExtractor()(audio, **{"sampling_rate": RATE, **options})


@pytest.mark.parametrize(
    "features",
    [{}, [], {"input_ids": [[1]]}, {"input_values": []}, [{"input_values": GOOD}, {"labels": [1]}], 5]
    + [{"input_values": values} for values in (GOOD, GOOD.tolist(), torch.zeros(2, 3, 4), [[[0.5]]])],
)
def test_pad_refuses_what_is_no_features(features):
    for options in ({}, {"truncation": True, "max_length": 2}):
        with pytest.raises(ValueError, match=r"features|input_values"):
            Wav2Vec2FeatureExtractor().pad(features, **options)


CLIP = [0.5, -0.5]
UNPADDABLE = {
    "attention_mask of clip 0 is .*; it must have 1 or 0 for each of its 2 samples": [
        {"input_values": [CLIP], "attention_mask": [mask]}
        for mask in ([1], [1, 1, 1], [0.5, 1], ["1", "1"], [[1, 1]], 1, [2, 1], [None, 1], torch.ones(1))
    ],
    "There are 2 clips, but attention_mask has not a value for each": [
        {"input_values": [CLIP, CLIP], "attention_mask": mask} for mask in ([[1, 1]], 5, np.ones((1, 2)), [[1, 1]] * 3)
    ],
    "There are 1 clips, but labels has not a value for each": [
        {"input_values": [CLIP], "labels": labels} for labels in ([1, 2], 5)
    ],
    "input_values of clip 0 is .*; it must be real numbers that float32 holds": [
        {"input_values": [clip]} for clip in ([1j], ["a"], [None], [float("nan")], [1e300], np.ones(2, complex))
    ],
    "pad needs a dict with input_values": [
        {"input_values": values} for values in (None, "ab", 5, {"a": 1}, np.array(5.0), torch.tensor(5.0))
    ],
    "Of 2 examples only some have 'labels'": [
        [{"input_values": CLIP, "labels": 1}, {"input_values": CLIP}],
        [{"input_values": CLIP}, {"input_values": CLIP, "labels": 1}],
    ],
}  # fmt: skip


@pytest.mark.parametrize("sentence", UNPADDABLE)
def test_what_cannot_be_padded(sentence):
    for features in UNPADDABLE[sentence]:
        for options in (
            {},
            {"padding": False},
            {"truncation": True, "max_length": 1},
            {"return_attention_mask": False},
        ):
            with pytest.raises(ValueError, match=sentence) as caught:
                Wav2Vec2FeatureExtractor().pad(features, **options)
            assert is_sentence(caught.value)


@pytest.mark.parametrize("labels", [[0, 1], np.array([0, 1]), torch.tensor([0, 1])], ids=lambda x: type(x).__name__)
def test_a_label_for_each_clip(labels):
    found = Wav2Vec2FeatureExtractor().pad(
        {"input_values": [CLIP, [*CLIP, 0.25]], "labels": labels}, padding=True, return_tensors="np"
    )
    assert found["labels"].tolist() == [0, 1]
    assert found["input_values"].shape == (2, 3)


def test_labels_that_padding_does_not_fill():
    for labels in (([1], [1, 2]), ([[1], [1, 2]], [[1], [1]])):
        features = [{"input_values": CLIP, "labels": item} for item in labels]
        with pytest.raises(ValueError, match=r"labels .*Padding fills input_values and attention_mask, nothing else"):
            Wav2Vec2FeatureExtractor().pad(features, return_tensors="pt")


@pytest.mark.parametrize("whole", [np.int64, np.uint16, torch.tensor, np.array])
def test_whole_numbers_of_other_libraries(tmp_path, whole):
    made = Wav2Vec2FeatureExtractor(whole(1), whole(16000), np.float32(0), np.True_, extra={"note": whole(3)})
    made.save_pretrained(tmp_path)
    assert Wav2Vec2FeatureExtractor.from_pretrained(tmp_path) == made
    assert Reference.from_pretrained(tmp_path).sampling_rate == 16000
    options = {"padding": "max_length", "truncation": np.True_, "return_tensors": "np"}
    found = made(GOOD, max_length=whole(60), pad_to_multiple_of=whole(8), sampling_rate=whole(RATE), **options)
    assert found["input_values"].shape == (1, 64)


@pytest.mark.parametrize("dtype", [">f4", ">f8", np.longdouble, np.float16, "<f8"])
def test_samples_of_every_kind_of_float(dtype):
    extractor = Wav2Vec2FeatureExtractor(do_normalize=False)
    clip = np.array(CLIP, dtype)
    for features in (extractor(clip, sampling_rate=RATE, return_tensors="pt"),
                     extractor.pad({"input_values": [clip], "note": clip[None]}, return_tensors="pt")):  # fmt: skip
        assert features["input_values"].tolist() == [CLIP]
        assert features["input_values"].dtype == torch.float32


@pytest.mark.parametrize("nested", [3, [], "x", True, 1.5, [1]], ids=repr)
@pytest.mark.parametrize("kind", [Wav2Vec2FeatureExtractor, ViTImageProcessor, LayoutLMv2ImageProcessor])
def test_parts_of_processor_files_that_are_no_settings(tmp_path, kind, nested):
    part = "feature_extractor" if kind is Wav2Vec2FeatureExtractor else "image_processor"
    (tmp_path / "processor_config.json").write_text(json.dumps({part: nested}))
    with pytest.raises(TypeError, match=f"{part} of processor_config.json of .*; it must be an object") as caught:
        kind.from_pretrained(tmp_path)
    assert is_sentence(caught.value)


@pytest.mark.parametrize(
    "config", [{"feature_size": 80}, {"sampling_rate": 0}, {"padding_value": "x"}, {"padding_side": "top"}]
)
def test_bad_settings_are_refused(config):
    with pytest.raises(ValueError, match=next(iter(config))):
        Wav2Vec2FeatureExtractor(**config)


def test_a_missing_sampling_rate_warns_once(caplog):
    extractor = Wav2Vec2FeatureExtractor(sampling_rate=12345)
    with caplog.at_level(logging.WARNING):
        extractor(GOOD)
        extractor(GOOD)
    assert [record.message for record in caplog.records if "12345" in record.message] == [
        "sampling_rate was not given; the samples are taken to be at 12345 Hz."
    ]


def test_saved_folders_open_in_transformers_and_back(tmp_path):
    config = {"sampling_rate": 8000, "do_normalize": False, "padding_value": 0.5, "return_attention_mask": True}
    ours = Wav2Vec2FeatureExtractor(**config, extra={"note": "kept"})
    ours.save_pretrained(tmp_path / "ours")
    reference = Reference.from_pretrained(tmp_path / "ours")
    assert {key: getattr(reference, key) for key in config} == config
    assert reference.note == "kept"
    reference.save_pretrained(tmp_path / "theirs")
    assert Wav2Vec2FeatureExtractor.from_pretrained(tmp_path / "theirs") == ours
    assert Wav2Vec2FeatureExtractor.from_pretrained(tmp_path / "theirs", sampling_rate=16000).sampling_rate == 16000


def test_keys_that_nobody_knows_are_kept(tmp_path):
    known = {"sampling_rate": 8000, "feature_extractor_type": "Wav2Vec2FeatureExtractor", "processor_class": "Any"}
    unknown = {"extra": {"a": 1}, "note": [2]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**known, **unknown}))
    found = Wav2Vec2FeatureExtractor.from_pretrained(tmp_path, padding_value=0.5)
    assert found == Wav2Vec2FeatureExtractor(sampling_rate=8000, padding_value=0.5, extra=unknown)
    assert found.to_dict().items() >= unknown.items()
    assert Wav2Vec2FeatureExtractor.from_pretrained(tmp_path, sampling_rate=1000).sampling_rate == 1000


def test_another_kind_of_extractor_is_refused(tmp_path):
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({"feature_extractor_type": "WhisperFeatureExtractor"})
    )
    with pytest.raises(ValueError, match="WhisperFeatureExtractor"):
        Wav2Vec2FeatureExtractor.from_pretrained(tmp_path)


def test_no_torch_is_imported_until_a_tensor_is_asked_for():
    code = (
        "import sys, numpy\n"
        "from minitrans.processing.audio import Wav2Vec2FeatureExtractor as E\n"
        "E()([numpy.ones(4), [0.1, 0.2]], padding=True, sampling_rate=16000, return_tensors='np')\n"
        "assert not {'torch', 'soundfile', 'soxr', 'transformers'} & set(sys.modules)\n"
        "E()(numpy.ones(4), sampling_rate=16000, return_tensors='pt')\n"
        "assert 'torch' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("package", "options"), [("soundfile", {}), ("soxr", {"sampling_rate": 8000, "resample": True})]
)
def test_a_missing_extra_is_named(monkeypatch, package, options):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=r'pip install "minitrans\[audio\]"'):
        Wav2Vec2FeatureExtractor()(__file__ if package == "soundfile" else GOOD, **options)


class TestRecordings:
    """What is read is what the file holds, and what it lacks is said."""

    kinds = (
        ("WAV", "PCM_16"), ("WAV", "FLOAT"), ("WAVEX", "PCM_24"), ("RF64", "PCM_16"), ("W64", "PCM_16"),
        ("AIFF", "PCM_16"), ("AU", "PCM_16"), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III"),
        ("FLAC", "PCM_16"), ("CAF", "PCM_16"),
    )  # fmt: skip

    @staticmethod
    def content(kind, subtype, channels=1, seconds=4):
        tone = np.sin(np.arange(seconds * RATE)[:, None] * np.linspace(0.05, 0.09, channels)) * 0.4
        noise = np.random.default_rng(0).normal(size=tone.shape).cumsum(0)
        sound = tone + noise / np.abs(noise).max() * 0.3
        stream = io.BytesIO()
        soundfile.write(stream, sound.astype(np.float32), RATE, format=kind, subtype=subtype)
        return stream.getvalue()

    @pytest.mark.parametrize(("kind", "subtype"), kinds)
    @pytest.mark.parametrize("channels", [1, 2])
    def test_whole(self, kind, subtype, channels, tmp_path, caplog):
        content = self.content(kind, subtype, channels)
        (tmp_path / "sound").write_bytes(content)
        expected, rate = soundfile.read(tmp_path / "sound", dtype="float32")
        for source in (content, bytearray(content), tmp_path / "sound", str(tmp_path / "sound")):
            samples, found = read_audio(source)
            assert found == rate
            np.testing.assert_allclose(samples.T, expected, atol=1e-6)
            with open_audio(source) as recording:
                parts = np.concatenate(list(recording.blocks(1000)))
            np.testing.assert_allclose(parts.squeeze(), expected, atol=1e-6)
        assert not caplog.records

    @pytest.mark.parametrize(("kind", "subtype"), kinds)
    def test_a_tone_in_blocks(self, kind, subtype):
        """An MP3's frames hand bits on, most of all in a steady tone: a seek between two blocks would lose them."""
        stream = io.BytesIO()
        tone = np.sin(np.arange(10 * RATE) * 2 * np.pi * 440 / RATE) * 0.5
        soundfile.write(stream, tone, RATE, format=kind, subtype=subtype)
        expected, _ = soundfile.read(io.BytesIO(stream.getvalue()), dtype="float32")
        for size in (1000, RATE):
            with open_audio(stream.getvalue()) as recording:
                np.testing.assert_allclose(np.concatenate(list(recording.blocks(size)))[:, 0], expected, atol=1e-6)

    @pytest.mark.parametrize(("kind", "subtype"), [kind for kind in kinds if kind[0] not in ("FLAC", "CAF")])
    @pytest.mark.parametrize("share", [0.3, 0.9])
    def test_cut(self, kind, subtype, share, tmp_path, caplog):
        content = self.content(kind, subtype, seconds=20)
        whole, _ = read_audio(content)
        path = tmp_path / "sound"
        path.write_bytes(content[: int(len(content) * share)])
        with open_audio(path) as recording:
            blocks = list(recording.blocks(1000))
        samples = np.concatenate(blocks)[:, 0]
        assert all(0 < len(block) <= 1000 for block in blocks)
        assert share - 0.16 < len(samples) / len(whole) <= share + (0.1 if kind in ("OGG", "MP3") else 0)
        # What is there is what was recorded, but for the last moment of a compressed frame.
        kept = len(samples) - 2304
        np.testing.assert_allclose(samples[:kept], whole[:kept], atol=1e-4)
        assert np.isfinite(samples).all()
        (record,) = caplog.records
        assert f"{path} ends early, after {len(samples) / RATE:.2f} s: " in record.getMessage()
        if kind != "OGG":
            assert re.search(r"(19\.9\d|20\.00) s were recorded, by its header", record.getMessage())

    @pytest.mark.parametrize("is_path", [True, False])
    def test_an_ogg_that_lacks_any_bytes_of_its_last_page(self, is_path, tmp_path, caplog):
        """Where its header, its table of segments or its segments are cut; nothing lacks where it is whole."""
        content = self.content("OGG", "VORBIS", seconds=1)
        page = content.rindex(b"OggS")
        ends = [*range(page, page + 29 + content[page + 26]), *range(len(content) - 3, len(content))]
        for end in [*ends, len(content)]:
            source = content[:end]
            if is_path:
                source = tmp_path / "sound"
                source.write_bytes(content[:end])
            caplog.clear()
            samples, _ = read_audio(source)
            assert (samples.size == RATE) is (end == len(content))
            assert ("the end of the file is missing" in caplog.text) is (end < len(content)), end

    @pytest.mark.parametrize("missing", [799, 800, 801])
    def test_a_twentieth_of_a_second_may_be_missing(self, missing, caplog):
        content = self.content("WAV", "PCM_16", seconds=1)
        assert read_audio(content[: -2 * missing])[0].shape == (RATE - missing,)
        assert ("1.00 s were recorded, by its header" in caplog.text) is (missing > 800)

    @pytest.mark.parametrize("count", [0, 1, 2])
    def test_nearly_nothing_is_there(self, count, caplog):
        content = self.content("WAV", "PCM_U8", seconds=1)
        samples, rate = read_audio(content[: 44 + count])
        assert (samples.shape, rate) == ((count,), RATE)
        assert ("ends early, after 0.00 s: 1.00 s were recorded" in caplog.text) is (count > 0)

    @pytest.mark.parametrize(
        ("frames", "promised", "count", "early"),
        [(1000, 0, 950, False), (1000, 0, 949, True), (10_000, 0, 9900, False), (10_000, 0, 9899, True),
         (0, 1000, 950, False), (0, 1000, 949, True), (0, 10_000, 9949, True), (0, 0, 9, False), (9, 9, 99, False)],
    )  # fmt: skip
    def test_how_much_may_be_missing(self, frames, promised, count, early, caplog):
        """A twentieth of a second; a hundredth of what a header estimates."""

        class Made(Recording):
            def __init__(self):
                self.name, self.samplerate, self.frames, self.left = "Made", 1000, frames, count

            def next(self, size):
                given = min(size, self.left)
                self.left -= given
                return np.zeros((given, 1), np.float32)

            def promised(self, read):
                assert read == count
                return promised or read

        assert sum(map(len, Made().blocks(100, warn=False))) == count
        assert not caplog.records
        assert {len(block) for block in Made().blocks(1)} == {1}
        text = f"Made ends early, after {count / 1000:.2f} s: {max(frames, promised) / 1000:.2f} s were recorded"
        assert (text in caplog.text) is early
        assert bool(caplog.records) is early

    @pytest.mark.parametrize("rate", [1, 100, 999, 400_000, 2**31 - 1])
    def test_rates_that_no_sound_has(self, rate, tmp_path):
        soundfile.write(tmp_path / "a.wav", np.zeros(9000), rate, format="WAV")
        for source in (tmp_path / "a.wav", (tmp_path / "a.wav").read_bytes()):
            with pytest.raises(
                ValueError, match=f"cannot be heard: its sampling_rate is {rate}; .* from 1000 to 384000"
            ):
                read_audio(source)

    @pytest.mark.parametrize(
        "ending", ["au", "snd", "vox", "gsm", "raw", "wav", "al", "ul", "sw", "g722", "sln", "aptx"]
    )
    @pytest.mark.parametrize(
        "content", [b"This is no sound at all, but a text.\n" * 99, bytes(4000)], ids=["text", "0"]
    )
    @pytest.mark.parametrize("with_av", [True, False])
    def test_what_has_no_header_is_no_sound(self, ending, content, with_av, tmp_path, monkeypatch):
        if with_av:
            pytest.importorskip("av", reason="comes with the extra test")
        else:
            monkeypatch.setitem(sys.modules, "av", None)
        (tmp_path / f"a.{ending}").write_bytes(content)
        with pytest.raises(ValueError, match="could not be read as audio"):
            read_audio(tmp_path / f"a.{ending}")

    def test_what_has_one_is_read_under_any_name(self, tmp_path):
        for kind, ending in (("AU", "au"), ("AU", "snd"), ("WAV", "vox"), ("FLAC", "gsm")):
            soundfile.write(tmp_path / f"a.{ending}", np.full(500, 0.25), 8000, format=kind, subtype="PCM_16")
            np.testing.assert_array_equal(read_audio(tmp_path / f"a.{ending}")[0], np.full(500, 0.25))

    def test_a_list_of_other_files_is_no_sound(self, tmp_path):
        pytest.importorskip("av", reason="comes with the extra test")
        (tmp_path / "other.wav").write_bytes(self.content("WAV", "PCM_16"))
        lists = {"a.m3u8": "#EXTM3U\n#EXTINF:9,\nother.wav\n#EXT-X-ENDLIST\n",
                 "a.txt": "ffconcat version 1.0\nfile other.wav\n"}  # fmt: skip
        for name, content in lists.items():
            (tmp_path / name).write_text(content)
            with pytest.raises(ValueError, match="could not be read as audio"):
                read_audio(tmp_path / name)

    def test_cut_and_refused(self):
        content = self.content("FLAC", "PCM_16")
        with pytest.raises(ValueError, match="could not be read as audio"):
            read_audio(content[: len(content) // 2])

    @pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFFFFF, 0xFFFFFFFF - 36, 0x7FFFFF00])
    def test_a_wav_of_unknown_length(self, size, caplog):
        """As programs write that stream into a pipe: nothing is missing."""
        content = bytearray(self.content("WAV", "PCM_16"))
        place = content.index(b"data") + 4
        content[place : place + 4] = size.to_bytes(4, "little")
        content[4:8] = (0xFFFFFFFF).to_bytes(4, "little")
        assert read_audio(content)[0].shape == (4 * RATE,)
        assert not caplog.records
        content[place : place + 4] = (0x7FFFFEFF).to_bytes(4, "little")  # which only a file of that size says
        assert read_audio(content)[0].shape == (4 * RATE,)
        assert "ends early" in caplog.text

    def test_what_needs_pyav(self, monkeypatch, tmp_path):
        monkeypatch.setitem(sys.modules, "av", None)
        (tmp_path / "a.m4a").write_bytes(b"\0\0\0\x20ftypM4A " + bytes(99))
        with pytest.raises(ValueError, match=r'a\.m4a could not be read as audio: .*pip install "minitrans\[av\]"'):
            read_audio(tmp_path / "a.m4a")

    @pytest.mark.parametrize(
        ("container", "codec"), [("mp4", "aac"), ("webm", "libopus"), ("adts", "aac"), ("asf", "wmav2")]
    )
    def test_containers(self, container, codec, tmp_path, caplog):
        av = pytest.importorskip("av", reason="comes with the extra test")
        path, rate = tmp_path / f"sound.{container}", 48000
        tone = (np.sin(np.arange(2 * rate) * 0.05)[None] * np.array([[0.5], [0.1]])).astype(np.float32)
        with av.open(str(path), "w", format=container) as out:
            stream = out.add_stream(codec, rate=rate, layout="stereo")
            if codec.startswith("wma"):
                stream.bit_rate = 128000
            queue = av.AudioFifo()
            frame = av.AudioFrame.from_ndarray(tone, format="fltp", layout="stereo")
            frame.sample_rate = rate
            queue.write(frame)
            for part in queue.read_many(stream.frame_size or 960, partial=True):
                out.mux(stream.encode(part))
            out.mux(stream.encode(None))
        for source in (path, path.read_bytes()):
            samples, found = read_audio(source)
            assert found == rate
            assert samples.shape[0] == 2
            assert abs(samples.shape[1] - 2 * rate) < 0.1 * rate
            middle = np.abs(np.fft.rfft(samples[0, rate // 2 : rate // 2 + rate]))
            assert abs(int(middle.argmax()) - round(0.05 * rate / (2 * np.pi))) <= 2
        assert not caplog.records
        (tmp_path / "cut").write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        if container in (
            "webm",
            "asf",
        ):  # others have at their end what one needs to read them, or no length in their header
            assert read_audio(tmp_path / "cut")[0].shape[1] < 1.2 * rate
            assert "ends early" in caplog.text
        else:
            with pytest.raises(ValueError, match="could not be read as audio"):
                read_audio(tmp_path / "cut")

    @pytest.mark.parametrize("container", ["matroska", "mov"])
    @pytest.mark.parametrize("channels", [1, 2])
    def test_sound_of_a_container_that_loses_nothing(self, container, channels, tmp_path, caplog):
        av = pytest.importorskip("av", reason="comes with the extra test")
        sound = np.random.default_rng(0).integers(-(2**15), 2**15, (5000, channels), dtype=np.int16)
        layout = {1: "mono", 2: "stereo"}[channels]

        def written(rate):
            with av.open(str(tmp_path / "sound"), "w", format=container) as out:
                stream = out.add_stream("pcm_s16le", rate=rate, layout=layout)
                frame = av.AudioFrame.from_ndarray(sound.reshape(1, -1), format="s16", layout=layout)
                frame.sample_rate = rate
                queue = av.AudioFifo()
                queue.write(frame)
                for part in queue.read_many(777, partial=True):
                    out.mux(stream.encode(part))
                out.mux(stream.encode(None))
            return tmp_path / "sound"

        samples, rate = read_audio(written(RATE))
        assert rate == RATE
        np.testing.assert_array_equal(np.atleast_2d(samples), sound.T / np.float32(2**15))
        for size in (100, 777, 4999, 5000, 5001):
            with open_audio(tmp_path / "sound") as recording:
                assert abs(recording.frames - 5000) <= 16  # a container counts in thousandths of a second
                blocks = list(recording.blocks(size))
            assert [len(block) for block in blocks] == [size] * (5000 // size) + [5000 % size] * (5000 % size > 0)
            np.testing.assert_array_equal(np.concatenate(blocks), sound / np.float32(2**15))
        assert not caplog.records
        for rate in (999, 400_000):
            with pytest.raises(ValueError, match=f"cannot be heard: its sampling_rate is {rate}; .* from 1000 to"):
                read_audio(written(rate))

    def test_no_sound_in_it(self, tmp_path):
        av = pytest.importorskip("av", reason="comes with the extra test")
        Image.new("RGB", (9, 9)).save(tmp_path / "i.png")
        with pytest.raises(ValueError, match=r"i\.png could not be read as audio: it is not one of mov,"):
            read_audio(tmp_path / "i.png")
        with av.open(str(tmp_path / "a.mp4"), "w") as out:
            stream = out.add_stream("mpeg4", rate=25)
            stream.width = stream.height = 16
            out.mux(stream.encode(av.VideoFrame(16, 16, "yuv420p")))
            out.mux(stream.encode(None))
        with pytest.raises(ValueError, match=r"a\.mp4 could not be read as audio: there is no sound in it"):
            read_audio(tmp_path / "a.mp4")
