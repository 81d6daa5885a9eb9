"""The image processor against transformers' Pillow-backed one, Pillow itself and files made here."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image, ImageOps
from sklearn.datasets import load_sample_image
from transformers import ViTImageProcessorPil

import minitrans
from minitrans.processing.image import ViTImageProcessor

SWIN = {
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "ViTFeatureExtractor",
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
    "resample": 3,
    "size": 224,
}
CHINA, FLOWER = (load_sample_image(name)[100:327, 150:451] for name in ("china.jpg", "flower.jpg"))


def reference(images, settings=None, **options):
    """What transformers gives; an array of four channels channel by channel, where Pillow multiplies by the last."""
    processor = ViTImageProcessorPil(**settings or {})
    if getattr(images, "shape", (0,))[-1] == 4 and not options.get("do_convert_rgb"):
        alone = [processor(images[..., [c]], **options)["pixel_values"][0] for c in range(4)]
        return [np.concatenate(alone)]
    return processor(images, **options)["pixel_values"]


def assert_same(images, settings=None, **options):
    """The same list of arrays as transformers gives, for settings made at construction and for a call's options."""
    expected = reference(images, settings, **options)
    found = ViTImageProcessor(**settings or {})(images, **options).pixel_values
    assert [image.shape for image in found] == [image.shape for image in expected]
    for mine, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-6)


def test_a_swin_folder_gives_the_reference_pixels(tmp_path):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(SWIN))
    processor = ViTImageProcessor.from_pretrained(tmp_path)
    found = processor(Image.fromarray(CHINA), return_tensors="pt").pixel_values
    expected = ViTImageProcessorPil.from_pretrained(tmp_path)(Image.fromarray(CHINA), return_tensors="pt")
    assert found.shape == (1, 3, 224, 224)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected["pixel_values"], rtol=0, atol=1e-6)
    assert processor.size == {"height": 224, "width": 224}


@pytest.mark.parametrize("resample", range(6))
@pytest.mark.parametrize(
    "size",
    [
        32,
        500,
        (20, 31),
        {"height": 300, "width": 7},
        {"shortest_edge": 97},
        {"shortest_edge": 97, "longest_edge": 110},
        {"shortest_edge": 227, "longest_edge": 900},
    ],
)
def test_sizes_and_filters(size, resample):
    assert_same([Image.fromarray(CHINA), FLOWER], size=size, resample=resample)


def test_random_sizes_round_like_the_reference():
    random, last = np.random.default_rng(0), {"input_data_format": "channels_last"}
    for height, width, short, long in random.integers(1, 60, (60, 4)):
        image = CHINA[:height, :width]
        assert_same([image], {"size": {"shortest_edge": int(short), "longest_edge": int(short + long)}}, **last)
        assert_same([image], size=int(short), default_to_square=False, **last)


INPUTS = {
    "PIL": Image.fromarray(CHINA),
    "channels last": CHINA,
    "channels first": CHINA.transpose(2, 0, 1),
    "float 0 to 255": CHINA.astype(np.float32),
    "float 0 to 1": CHINA / 255,
    "half precision": (CHINA / 255).astype(np.float16),
    "int64": CHINA.astype(np.int64),
    "grey PIL": [Image.fromarray(CHINA).convert("L")],
    "grey array": CHINA[..., :1],
    "RGBA PIL": Image.fromarray(np.dstack([CHINA, FLOWER[..., 0]])),
    "RGBA array": np.dstack([CHINA, FLOWER[..., 0]]),
    "RGBA floats": np.dstack([CHINA, FLOWER[..., 0]]) / 255,
    "tensor": torch.tensor(CHINA).permute(2, 0, 1),
    "float tensor": torch.tensor(CHINA).permute(2, 0, 1) / 255,
    "batch": np.stack([CHINA, FLOWER]),
    "tensor batch": torch.tensor(np.stack([CHINA, FLOWER])).permute(0, 3, 1, 2),
    "list of sizes": [CHINA[:50], Image.fromarray(FLOWER[:, :70]), torch.tensor(CHINA[5:])],
    "nested lists": [[CHINA, FLOWER], [FLOWER]],
    "both ends look like channels": CHINA[:3, :, :].copy(),
}


@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize(
    "options",
    [
        {"do_convert_rgb": True},
        {"do_normalize": False},
        {"do_rescale": False, "do_convert_rgb": True},
        {"do_resize": False, "do_convert_rgb": True, "image_mean": 0.4, "image_std": [0.1, 0.2, 0.3]},
        {"do_rescale": False, "do_normalize": False, "size": 40},
        {"do_resize": False, "do_rescale": False, "do_normalize": False},
        {"do_center_crop": True, "crop_size": 91, "size": {"shortest_edge": 80}, "do_convert_rgb": True},
        {"do_center_crop": True, "crop_size": {"height": 400, "width": 91}, "do_resize": False, "image_mean": 0.4},
    ],
    ids=str,
)
def test_inputs_and_switches(kind, options):
    if "image_mean" in options:
        options = {"image_std": 0.3, **options}
    assert_same(INPUTS[kind], **options)


def test_options_may_stand_in_the_settings_or_in_the_call():
    options = {"size": 50, "resample": 1, "image_mean": [0.1, 0.2, 0.3], "image_std": 0.5, "rescale_factor": 1 / 127.5}
    in_call = ViTImageProcessor()(CHINA, **options).pixel_values[0]
    in_settings = ViTImageProcessor(**options)(CHINA).pixel_values[0]
    np.testing.assert_array_equal(in_call, in_settings)
    assert_same(CHINA, options)


@pytest.mark.parametrize("filter", ["nearest", "bilinear", "BICUBIC", "lanczos", "box", "hamming"])
@pytest.mark.parametrize("size", [{"max_height": 20, "max_width": 20}, {"max_height": 400, "max_width": 33}])
def test_filters_by_name_and_sizes_to_fit_into(size, filter):
    assert_same([CHINA], size=size, resample=getattr(Image.Resampling, filter.upper()))
    named, numbered = (
        ViTImageProcessor(size=size, resample=kind) for kind in (filter, Image.Resampling[filter.upper()])
    )
    assert named == numbered
    assert type(named.to_dict()["resample"]) is int
    found = named(CHINA, return_tensors="pt", device="meta").pixel_values
    assert found.device.type == "meta"
    assert found.shape == numbered(CHINA, return_tensors="np").pixel_values.shape


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 9])
@pytest.mark.parametrize("kind", [np.uint8, np.float32, "0 to 1"])
def test_channels_are_resized_one_by_one(count, kind):
    image = np.random.default_rng(count).integers(0, 256, (23, 31, count), dtype=np.uint8)
    image[..., -1] = 0  # were it transparency, nothing would be left
    image = image / 255 if kind == "0 to 1" else image.astype(kind)
    options = {"size": {"height": 10, "width": 14}, "image_mean": [0.3] * count, "image_std": [0.2] * count}
    found = ViTImageProcessor(**options)(image, return_tensors="np").pixel_values[0]
    one = ViTImageProcessorPil(size=options["size"], image_mean=[0.3], image_std=[0.2])
    for channel in range(count):
        expected = one(image[..., [channel]], return_tensors="np")["pixel_values"][0, 0]
        np.testing.assert_allclose(found[channel], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "count", "axis"),
    [((1, 9, 3), 3, 2), ((3, 9, 1), 3, 0), ((4, 9, 3), 3, 2), ((4, 9, 3), 4, 0), ((1, 9, 4), 1, 0), ((7, 9, 2), 2, 2),
     ((2, 9, 7), 2, 0), ((3, 9, 4), 3, 0), ((3, 9, 3), 3, 0), ((1, 3, 3), 3, 2)],
)  # fmt: skip
@pytest.mark.parametrize("normalised", [True, False])
def test_the_axis_of_the_channels_follows_the_means(shape, count, axis, normalised):
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    options = {"do_resize": False, "image_mean": [0.5] * count, "image_std": [0.5] * count}
    options["do_normalize"] = normalised
    side = ("channels_first", "channels_last")[axis > 0]
    found, expected = (ViTImageProcessor(**options)(image, input_data_format=given) for given in (None, side))
    np.testing.assert_array_equal(found.pixel_values[0], expected.pixel_values[0])
    assert found.pixel_values[0].shape[0] == count


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_is_the_same_by_path_and_by_picture(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(CHINA).save(tmp_path / "photo.jpg", exif=exif)
    by_path = pixels(tmp_path / "photo.jpg")
    picture = Image.open(tmp_path / "photo.jpg")
    np.testing.assert_array_equal(pixels(picture), by_path)
    np.testing.assert_array_equal(pixels(ImageOps.exif_transpose(picture)), by_path)
    assert by_path.shape == (CHINA.shape if orientation < 5 else (301, 227, 3))


@pytest.mark.parametrize("name", ["a.eps", "a.png", "a.wmf"])
def test_no_program_is_started_to_draw_a_file(tmp_path, monkeypatch, name):
    started = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: started.append(1))
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: started.append(1))
    (tmp_path / name).write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"
    )
    with pytest.raises(OSError, match="cannot be read as an image"):
        ViTImageProcessor()(tmp_path / name)
    if name != "a.wmf":  # which is not what its name says
        with pytest.raises(OSError, match="Image 0 is EPS, which is not opened here"):
            ViTImageProcessor()(Image.open(tmp_path / name))
    assert not started


def test_no_file_within_a_file_is_drawn(tmp_path, monkeypatch):
    """IPTC holds an image of any format, which Pillow opens as it opens anything."""
    started = []
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: started.append(1))
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", "gs")
    inside = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"

    def record(number, content, page=3):
        return bytes([0x1C, page, number]) + len(content).to_bytes(2, "big") + content

    fields = record(60, b"\x01\0") + record(20, b"\0\x09") + record(30, b"\0\x09")
    (tmp_path / "a.png").write_bytes(fields + record(120, b"\x05") + record(10, inside, page=8))
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.format == "IPTC"
        with pytest.raises(OSError, match="Image 0 is IPTC, which is not opened here"):
            ViTImageProcessor()(picture)
    with pytest.raises(OSError, match="cannot be read as an image"):
        ViTImageProcessor()(tmp_path / "a.png")
    assert not started


@pytest.mark.parametrize(
    "kind", sorted({"PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM", "TGA"})
)
def test_formats_with_pixels(tmp_path, kind):
    Image.fromarray(CHINA[:40, :50]).save(tmp_path / "picture", format=kind)
    with Image.open(tmp_path / "picture") as picture:
        expected = np.asarray(picture.convert("RGB"))
    (pixels,) = ViTImageProcessor(do_resize=False, do_normalize=False)(tmp_path / "picture")["pixel_values"]
    np.testing.assert_array_equal(pixels, (expected.transpose(2, 0, 1) / 255).astype(np.float32))


def test_axes_in_and_out():
    wide = np.ascontiguousarray(CHINA[:3])
    processor = ViTImageProcessor(do_resize=False)
    with pytest.raises(ValueError, match="301"):
        processor(CHINA[:, :, :2])
    expected = ViTImageProcessorPil(do_resize=False)(wide, input_data_format="channels_last")["pixel_values"][0]
    found = processor(wide, input_data_format="channels_last")
    np.testing.assert_array_equal(found.pixel_values[0], expected)
    last = processor(wide, input_data_format="channels_last", data_format="channels_last", return_tensors="np")
    np.testing.assert_array_equal(last.pixel_values, expected.transpose(1, 2, 0)[None])


def pixels(image, **options):
    """The pixels (H, W, C) as they are before resizing, rescaling and normalising."""
    off = {"do_resize": False, "do_rescale": False, "do_normalize": False, "data_format": "channels_last"}
    return ViTImageProcessor(**off)(image, **options).pixel_values[0]


def test_colours_are_converted_as_pillow_shows_them(tmp_path):
    colour = Image.fromarray(CHINA)
    np.testing.assert_array_equal(pixels(colour.convert("1"))[..., 0], np.asarray(colour.convert("1").convert("L")))
    palette = colour.quantize(64)
    np.testing.assert_array_equal(pixels(palette), np.asarray(palette.convert("RGB")))
    cmyk = colour.convert("CMYK")
    np.testing.assert_array_equal(pixels(cmyk), CHINA)
    assert pixels(colour.convert("LA"), do_convert_rgb=True).shape == CHINA.shape
    np.testing.assert_array_equal(pixels(CHINA[..., 0] > 99)[..., 0], np.where(CHINA[..., 0] > 99, 255, 0))

    grey = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)
    Image.fromarray(grey).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(pixels(tmp_path / "deep.png")[..., 0], np.arange(256).reshape(16, 16))


def test_white_lies_behind_what_is_transparent(tmp_path):
    clear = np.dstack([CHINA, np.zeros_like(CHINA[..., 0])])
    clear[:20, :, 3] = 255
    image = Image.fromarray(clear)
    image.save(tmp_path / "alpha.png")
    hole = Image.fromarray(CHINA).quantize(8)
    hole.save(tmp_path / "palette.png", transparency=hole.getpixel((40, 40)))
    expected = np.concatenate([CHINA[:20], np.full_like(CHINA[20:], 255)])
    np.testing.assert_array_equal(pixels(image, do_convert_rgb=True), expected)
    np.testing.assert_array_equal(pixels(tmp_path / "alpha.png", do_convert_rgb=True), expected)
    seen = pixels(tmp_path / "palette.png", do_convert_rgb=True)
    assert tuple(seen[40, 40]) == (255, 255, 255)
    opaque = np.asarray(hole) != hole.getpixel((40, 40))
    np.testing.assert_array_equal(seen[opaque], np.asarray(hole.convert("RGB"))[opaque])


def test_channels_follow_the_mean():
    grey = Image.fromarray(CHINA).convert("L")
    processor = ViTImageProcessor(size=16)
    np.testing.assert_array_equal(processor(grey).pixel_values[0], processor(grey.convert("RGB")).pixel_values[0])
    one = ViTImageProcessor(size=16, image_mean=[0.5], image_std=[0.5])
    assert one([grey, Image.fromarray(CHINA)], return_tensors="np").pixel_values.shape == (2, 1, 16, 16)
    assert_same(grey, {"size": 16, "image_mean": [0.5], "image_std": [0.5]})


def test_a_file_and_a_pil_image_are_turned_upright(tmp_path):
    path = tmp_path / "turned.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(CHINA).save(path, exif=exif)
    assert_same(str(path))
    np.testing.assert_array_equal(pixels(path), np.rot90(CHINA, -1))
    with Image.open(path) as image:
        np.testing.assert_array_equal(pixels(image), np.rot90(CHINA, -1))
        np.testing.assert_array_equal(pixels(image.convert("RGB")), np.rot90(CHINA, -1))


def test_batches_and_tensors():
    processor = ViTImageProcessor(size=24)
    batch = processor([CHINA, FLOWER[:90]], return_tensors="pt")
    assert batch["pixel_values"].shape == (2, 3, 24, 24)
    for index, image in enumerate([CHINA, FLOWER[:90]]):
        np.testing.assert_array_equal(batch.pixel_values[index], processor(image).pixel_values[0])
    assert batch.to("cpu", torch.float16).pixel_values.dtype == torch.float16
    assert isinstance(processor(CHINA, return_tensors="np").pixel_values, np.ndarray)
    with pytest.raises(ValueError, match=r"\(3, 90, 301\), \(3, 227, 301\).*do_resize"):
        processor([CHINA, FLOWER[:90]], do_resize=False, return_tensors="pt")


def test_settings_are_saved_and_read_back_by_both(tmp_path):
    processor = ViTImageProcessor(size=(20, 30), resample=Image.Resampling.BOX, crop_size=9, image_mean=0.3)
    processor.extra = {"made_by": "someone"}
    processor.save_pretrained(tmp_path)
    assert ViTImageProcessor.from_pretrained(tmp_path) == processor
    reference = ViTImageProcessorPil.from_pretrained(tmp_path)
    np.testing.assert_array_equal(reference(CHINA)["pixel_values"][0], processor(CHINA).pixel_values[0])
    reference.save_pretrained(tmp_path / "theirs")
    again = ViTImageProcessor.from_pretrained(tmp_path / "theirs", do_normalize=False)
    np.testing.assert_array_equal(again(CHINA, do_normalize=True).pixel_values[0], processor(CHINA).pixel_values[0])
    assert not again.do_normalize

    nested = {"image_processor": {**SWIN, "size": None, "resample": None}}
    (tmp_path / "processor_config.json").write_text(json.dumps(nested))
    assert ViTImageProcessor.from_pretrained(tmp_path).size == {"height": 224, "width": 224}
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": {"do_pad": True}}))
    with pytest.raises(ValueError, match="do_pad"):
        ViTImageProcessor.from_pretrained(tmp_path)
    nested = {"image_processor": {"image_processor_type": "CLIPImageProcessor"}}
    (tmp_path / "processor_config.json").write_text(json.dumps(nested))
    with pytest.raises(ValueError, match="CLIPImageProcessor"):
        ViTImageProcessor.from_pretrained(tmp_path)


BROKEN = CHINA / 255
BROKEN[3, 3, 1] = np.nan


@pytest.mark.parametrize(
    ("image", "options", "error", "words"),
    [
        (CHINA, {"sizes": 3}, TypeError, "sizes"),
        (CHINA, {"size": {"height": 3}}, ValueError, "height and width"),
        (CHINA, {"size": 0}, ValueError, "at least 1"),
        (CHINA, {"size": "224"}, ValueError, "'224'"),
        (CHINA, {"resample": 9}, ValueError, "resample is 9"),
        (CHINA, {"resample": "cubic"}, ValueError, "resample is 'cubic'; the filters are nearest, lanczos"),
        (CHINA, {"do_resize": "no"}, ValueError, "do_resize"),
        (CHINA, {"do_resize": 2}, ValueError, "do_resize is 2; it must be True or False"),
        (CHINA, {"do_resize": -1}, ValueError, "do_resize is -1"),
        (CHINA, {"do_resize": 1.0}, ValueError, "do_resize is 1.0"),
        (CHINA, {"default_to_square": "no"}, ValueError, "default_to_square is 'no'"),
        (CHINA, {"resample": -1}, ValueError, "resample is -1"),
        (CHINA, {"resample": 6}, ValueError, "resample is 6"),
        (CHINA, {"do_center_crop": True}, ValueError, "crop_size"),
        (CHINA, {"do_center_crop": True, "crop_size": {"shortest_edge": 9}}, ValueError, "height and width, not"),
        (CHINA, {"image_std": [0.1, 0.0, 0.1]}, ValueError, "image_std"),
        (CHINA, {"image_std": -0.1}, ValueError, "image_std is -0.1; it must be a positive number, or one for each"),
        (CHINA, {"image_std": 0}, ValueError, "image_std is 0"),
        (CHINA, {"image_mean": "imagenet"}, ValueError, "image_mean"),
        (CHINA, {"image_mean": True}, ValueError, "image_mean is True"),
        (CHINA, {"image_mean": []}, ValueError, r"image_mean is \[\]; it must be a number, or one for each channel"),
        (CHINA, {"image_mean": [[0.1, 0.2, 0.3]]}, ValueError, "image_mean is"),
        (
            CHINA,
            {"image_mean": 0.5, "image_std": [0.1, 0.2]},
            ValueError,
            "3 channels, but image_std has 2 values[.]$",
        ),
        (
            Image.fromarray(CHINA).convert("L"),
            {"do_convert_rgb": False},
            ValueError,
            "1 channels, but image_mean has 3",
        ),
        (CHINA, {"image_mean": [0.1, 0.2]}, ValueError, "3 channels, but image_mean has 2"),
        (CHINA, {"input_data_format": "NHWC"}, ValueError, "channels_first"),
        (CHINA, {"return_tensors": "tf"}, ValueError, "return_tensors"),
        (CHINA[..., :1], {}, ValueError, "1 channels, but image_mean has 3.*do_convert_rgb"),
        (CHINA[..., :2], {}, ValueError, "neither the first nor the last"),
        (CHINA[..., :2], {"input_data_format": "channels_last", "do_convert_rgb": True}, ValueError, "2 channels"),
        (np.dstack([CHINA, CHINA[..., :1]]), {}, ValueError, "4 channels.*where the fourth is transparency"),
        (CHINA[:0], {}, ValueError, "a height"),
        (Image.new("RGB", (0, 4)), {}, ValueError, "no pixels"),
        (np.zeros(4), {}, ValueError, r"\(4,\)"),
        (np.zeros((1, 1, 4, 4, 3)), {}, ValueError, "shape"),
        (BROKEN, {}, ValueError, "Image 0 holds NaN"),
        ([CHINA, [BROKEN]], {}, ValueError, "Image 1 holds NaN"),
        (np.stack([CHINA, CHINA, BROKEN]), {}, ValueError, "Image 2 holds NaN"),
        (np.stack([BROKEN, CHINA]), {}, ValueError, "Image 0 holds NaN"),
        (torch.tensor(BROKEN), {}, ValueError, "NaN"),
        (CHINA - 300.0, {}, ValueError, "from -300"),
        (CHINA / 255 - 0.5, {"do_rescale": False}, ValueError, "0 to 1"),
        (CHINA.astype(np.uint16) * 257, {}, ValueError, "to 65535.*such as 65535, to 0 to 255"),
        (CHINA.astype(np.uint16) * 257, {"do_rescale": False}, ValueError, "from its black to its white"),
        (np.dstack([CHINA, CHINA[..., 0]]) - 5.5, {"do_convert_rgb": True}, ValueError, "transparency"),
        (CHINA.astype(str), {}, TypeError, "array of <U3"),
        (CHINA.tolist(), {}, TypeError, "int"),
        (b"GIF89a", {}, TypeError, "bytes"),
        ([], {}, ValueError, "No images"),
        (Image.fromarray(CHINA[..., 0].astype(np.int32) * 9), {}, ValueError, "mode I"),
        (Image.fromarray(CHINA[..., 0] / np.float32(255)), {}, ValueError, "mode F"),
        ("https://example.org/a.png", {}, ValueError, "nothing is downloaded"),
        ("data:image/png;base64,AAAA", {}, ValueError, "nothing is downloaded"),
        ("no/such/file.png", {}, FileNotFoundError, "no/such/file.png"),
        ("a\0b.png", {}, OSError, "cannot be read as an image"),
        ("x" * 300 + ".png", {}, OSError, "cannot be read as an image"),
        (".", {}, OSError, "cannot be read as an image"),
        (None, {}, TypeError, "NoneType"),
        ([[None]], {}, TypeError, "NoneType"),
        ({}, {}, TypeError, "dict"),
        (CHINA, {"image_mean": [[0.1], [0.2, 0.3]]}, ValueError, "image_mean is"),
        (CHINA, {"image_mean": {"r": 1}}, ValueError, "image_mean is"),
        (CHINA, {"image_mean": [0.1, float("nan"), 0.1]}, ValueError, "image_mean is"),
        (CHINA, {"image_mean": [0.1, None, 0.1]}, ValueError, "image_mean is"),
        (CHINA, {"image_mean": [10**400] * 3}, ValueError, "image_mean is"),
        (CHINA, {"image_mean": [1e39] * 3}, ValueError, "image_mean is"),
        (CHINA, {"image_std": [0.1, float("nan"), 0.1]}, ValueError, "image_std is"),
        (CHINA, {"image_std": float("inf")}, ValueError, "image_std is"),
        (CHINA, {"image_std": [1e-60, 1, 1]}, ValueError, "image_std is"),
        (CHINA, {"rescale_factor": float("nan")}, ValueError, "rescale_factor is"),
        (CHINA, {"rescale_factor": [0.1, 0.2]}, ValueError, "rescale_factor is"),
        (CHINA, {"rescale_factor": [0.1]}, ValueError, r"rescale_factor is \[0.1\]; it must be a positive number[.]"),
        (CHINA, {"rescale_factor": 0}, ValueError, "rescale_factor is 0"),
        (CHINA, {"rescale_factor": -0.1}, ValueError, "rescale_factor is -0.1"),
        (CHINA, {"rescale_factor": 1e-60}, ValueError, "rescale_factor is 1e-60"),
        (CHINA, {"size": 10**6}, ValueError, "pixels at most"),
        (CHINA, {"size": 10**400}, ValueError, "pixels at most"),
        (CHINA, {"size": True}, ValueError, "size is True"),
        (CHINA, {"size": {"shortest_edge": 10**6}}, ValueError, "must stay within"),
        (CHINA, {"size": {"max_height": 10**6, "max_width": 10**6}}, ValueError, "must stay within"),
        (np.zeros((1, 9000, 3), np.uint8), {"size": {"shortest_edge": 224}}, ValueError, "must stay within"),
        (CHINA, {"do_center_crop": True, "crop_size": 10**5}, ValueError, "pixels at most"),
        *[
            (
                Image.new("RGB", (9, 9)),
                {"image_mean": [0.5] * count, "image_std": [0.5] * count},
                ValueError,
                f"Image 0 cannot have the {count} channels of image_mean; give an array",
            )
            for count in (2, 5)
        ],
        (CHINA, {"resample": 2.0}, ValueError, "resample is 2.0"),
        (CHINA, {"resample": True}, ValueError, "resample is True"),
        (CHINA, {"size": 16.0}, ValueError, "size is 16.0"),
        (CHINA, {"size": np.int64(0)}, ValueError, "at least 1"),
        (CHINA, {"size": [np.float64(16), 16]}, ValueError, "whole numbers"),
        (CHINA, {"do_resize": [True]}, ValueError, "do_resize is"),
        (CHINA, {"data_format": ["channels_first"]}, ValueError, "data_format is"),
    ],
)
def test_bad_input_gets_a_sentence(image, options, error, words):
    with pytest.raises(error, match=words):
        ViTImageProcessor()(image, **options)


@pytest.mark.parametrize("whole", [np.int64, np.uint8, torch.tensor, np.array])
def test_numbers_of_other_libraries(tmp_path, whole):
    settings = {"size": (whole(16), whole(8)), "resample": whole(3), "do_center_crop": np.True_, "crop_size": whole(8),
                "image_mean": np.array([0.5] * 3), "rescale_factor": np.float32(1 / 255), "do_convert_rgb": np.True_,
                "extra": {"note": whole(3)}}  # fmt: skip
    made = ViTImageProcessor(**settings)
    made.save_pretrained(tmp_path)
    assert ViTImageProcessor.from_pretrained(tmp_path) == made
    plain = {
        "size": [16, 8],
        "resample": 3,
        "do_center_crop": True,
        "crop_size": 8,
        "rescale_factor": made.rescale_factor,
    }
    settings.pop("extra")
    found, expected = ViTImageProcessor()(CHINA, **settings), ViTImageProcessor(**plain)(CHINA)
    np.testing.assert_array_equal(found.pixel_values[0], expected.pixel_values[0])


@pytest.mark.parametrize("dtype", [">f4", ">f8", ">u2", ">i4", ">i8", np.longdouble, np.float16, np.uint16])
def test_tensors_of_arrays_of_every_order_and_width(dtype):
    options = dict.fromkeys(("do_resize", "do_rescale", "do_normalize"), False)
    found = ViTImageProcessor(**options)(CHINA.astype(dtype), return_tensors="pt")["pixel_values"]
    np.testing.assert_array_equal(found[0].permute(1, 2, 0).numpy().astype(int), CHINA)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr",
                                  "LAB", "HSV", "I", "F", "I;16"])  # fmt: skip
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_every_mode_of_pillow(mode, channels):
    options = {"do_resize": False, "image_mean": [0.5] * channels, "image_std": [0.5] * channels}
    found = ViTImageProcessor(**options)(Image.new(mode, (3, 2)))["pixel_values"][0]
    assert found.shape == (channels, 2, 3)


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_colours_multiplied_by_their_opacity(mode):
    image = Image.fromarray(CHINA).convert(mode)
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    options = dict.fromkeys(("do_resize", "do_rescale", "do_normalize"), False)
    premultiplied = {"LA": "La", "RGBA": "RGBa"}[mode]
    found, expected = (
        ViTImageProcessor(**options, do_convert_rgb=True)(item)["pixel_values"][0].astype(int)
        for item in (image.convert(premultiplied), image)
    )
    assert abs(found - expected).max() <= 2


def test_pillow_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r'pip install "minitrans\[image\]"'):
        ViTImageProcessor()(CHINA)


def test_names_that_training_scripts_use(tmp_path, monkeypatch):
    ours, theirs = ViTImageProcessor(size=20), ViTImageProcessorPil(size={"height": 20, "width": 20})
    got, expected = (p.preprocess(CHINA, return_tensors="np", do_rescale=True) for p in (ours, theirs))
    np.testing.assert_allclose(got.pixel_values, expected.pixel_values, atol=1e-6)
    assert list(ours.model_input_names) == list(theirs.model_input_names) == list(got)
    monkeypatch.setattr("minitrans.hub.push_folder", lambda repo_id, write, **options: (repo_id, write(tmp_path)))
    assert ours.push_to_hub("me/tiny")[0] == "me/tiny"
    assert ViTImageProcessor.from_pretrained(tmp_path) == ours


def test_damaged_files_and_bombs(tmp_path, monkeypatch):
    path = tmp_path / "image.png"
    Image.fromarray(CHINA).save(path)
    whole = path.read_bytes()
    for length in (0, 10, 60, len(whole) // 2):
        path.write_bytes(whole[:length])
        with pytest.raises(OSError, match=r"image.png \(\d+ bytes\) cannot be read"):
            ViTImageProcessor()(path)
        if length > 60:
            with Image.open(path) as image, pytest.raises(OSError, match="Image 0 cannot be read"):
                ViTImageProcessor()(image)
    path.write_bytes(whole)
    count = CHINA.shape[0] * CHINA.shape[1]
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", count - 1)
    with pytest.warns(Image.DecompressionBombWarning), pytest.raises(ValueError, match=r"image.png has more .* bombs"):
        ViTImageProcessor()(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", count // 3)
    with pytest.raises(ValueError, match=r"image.png has more .* bombs"):
        ViTImageProcessor()(path)


def test_pixels_that_are_rescaled_twice_are_named(caplog):
    ViTImageProcessor(rescale_factor=1 / 254)(CHINA / 255)
    assert "do_rescale=False prevents" in caplog.text


def test_torch_is_imported_only_for_tensors(tmp_path):
    """In a program that has opened no image before, so that Pillow knows no format yet."""
    Image.fromarray(CHINA).save(tmp_path / "a.webp")
    program = (
        "import sys; import numpy as np; from minitrans.processing.image import ViTImageProcessor as P; "
        "P()(np.zeros((9, 9, 3), np.uint8), return_tensors='np'); P()(sys.argv[1], return_tensors='np'); "
        "assert 'torch' not in sys.modules; "
        "P()(np.zeros((9, 9, 3), np.uint8), return_tensors='pt'); assert 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program, tmp_path / "a.webp"], check=True)


def test_transparency_in_floats_is_that_in_bytes():
    """Both ends of the range, and just beyond them."""
    pixels = np.random.default_rng(0).integers(0, 256, (9, 11, 4), dtype=np.uint8)
    pixels[0, 0], pixels[0, 1] = 0, 255
    processor = ViTImageProcessor(do_resize=False, do_rescale=False, do_normalize=False, do_convert_rgb=True)
    exact = pixels.astype(np.float64) / 255
    whole, real = (processor(x, return_tensors="np", input_data_format="channels_last")["pixel_values"][0]
                   for x in (pixels, exact))  # fmt: skip
    np.testing.assert_allclose(real * 255, whole.astype(np.float64), atol=0.51)
    for wrong in (1.001, -0.001):
        exact[3, 4, 1] = wrong
        with pytest.raises(ValueError, match="pixels outside 0 to 1, so that its fourth channel is not transparency"):
            processor(exact, input_data_format="channels_last")


@pytest.mark.parametrize("spoilt", [np.nan, np.inf, -np.inf])
def test_one_pixel_that_is_no_number_is_refused(spoilt):
    pixels = np.random.default_rng(0).random((9, 11, 3))
    processor = ViTImageProcessor(do_resize=False)
    processor(pixels)
    pixels[3, 4, 1] = spoilt
    with pytest.raises(ValueError, match="holds NaN or infinite pixels"):
        processor(pixels)


@pytest.mark.parametrize("bits", range(8, 17))
def test_white_is_where_the_factor_says(bits):
    """An image of more bits a channel has its own white, above which there is nothing."""
    white = 2**bits - 1
    levels = np.linspace(0, white, 105).round().astype(np.int64).reshape(7, 5, 3)
    processor = ViTImageProcessor(do_resize=False, do_normalize=False, rescale_factor=1 / white)
    np.testing.assert_allclose(processor(levels).pixel_values[0], levels.transpose(2, 0, 1) / white, atol=1e-6)
    for wrong in (-1, white + 1):
        levels[3, 3, 1] = wrong
        with pytest.raises(
            ValueError, match=f"Image 0 has pixels from .*{abs(wrong)}.* but 0 to {white} are expected"
        ):
            processor(levels)


def test_what_pixels_above_white_need_is_said():
    levels = np.arange(75).reshape(5, 5, 3)
    with pytest.raises(ValueError, match="such as 511, to 0 to 255 first"):
        ViTImageProcessor()(levels + 200)
    for wrong in (levels - 1, levels * 9 - 1):
        with pytest.raises(ValueError, match="pass do_rescale=False for values that are rescaled already"):
            ViTImageProcessor()(wrong)


@pytest.mark.parametrize(
    ("pixels", "said"),
    [(np.float32, True), (np.int64, True), (np.uint8, False), ("black", False), ("brighter", False)],
)
def test_only_what_may_be_rescaled_already_is_said_to_be(pixels, said, caplog):
    minitrans.logging._said.clear()
    image = np.zeros((8, 8, 3), pixels if isinstance(pixels, type) else np.float64)
    image[2:5, 3, 1] = {"black": 0, "brighter": 1.01}.get(pixels, 1)
    ViTImageProcessor(do_resize=False)(image)
    assert ("Pixels up to 1 are rescaled by 0.00392157" in caplog.text) is said
    assert bool(caplog.records) is said
    ViTImageProcessor(do_rescale=False, do_resize=False)(image * 300.0 - 7)


def test_an_ambiguous_shape_is_said(caplog):
    minitrans.logging._said.clear()
    processor = ViTImageProcessor(do_resize=False)
    processor([CHINA, CHINA.transpose(2, 0, 1)])
    processor(CHINA[:3], input_data_format="channels_first", image_mean=0.5, image_std=0.5)
    assert not caplog.records
    processor(CHINA[:3])
    assert "(3, 301, 3) is taken as channels_first" in caplog.text


@pytest.mark.parametrize("mode", ["I", "F"])
def test_bytes_in_a_mode_of_more_bits(mode):
    dtype = {"I": np.int32, "F": np.float32}[mode]
    levels = np.arange(256, dtype=dtype).reshape(16, 16)
    np.testing.assert_array_equal(pixels(Image.fromarray(levels))[..., 0], levels)
    for wrong in (-1, 256) if mode == "I" else (-1, 256, 0.5, 254.5, np.nan):
        levels[3, 4] = wrong
        with pytest.raises(ValueError, match=f"Pillow's mode {mode} and pixels from"):
            pixels(Image.fromarray(levels))


def test_grey_of_16_bits_is_rounded():
    levels = np.random.default_rng(0).integers(0, 2**16, (40, 30), dtype=np.uint16)
    found = pixels(Image.fromarray(levels))[..., 0].astype(int)
    np.testing.assert_array_equal(found, np.floor(levels * (255 / 65535) + 0.5))


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float32])
@pytest.mark.parametrize("axes", ["channels_first", "channels_last"])
def test_the_result_is_in_memory_of_its_own(dtype, axes):
    off = dict.fromkeys(("do_resize", "do_rescale", "do_normalize"), False)
    image = CHINA.astype(dtype)
    for given in (image, image.transpose(2, 0, 1), torch.from_numpy(image)):
        (found,) = ViTImageProcessor(**off, data_format=axes)(given)["pixel_values"]
        assert not np.shares_memory(found, image)
        assert found.dtype == dtype
        assert (found.base if axes == "channels_last" else found).flags["C_CONTIGUOUS"]
    (found,) = ViTImageProcessor(**off)(Image.fromarray(CHINA))["pixel_values"]
    assert found.flags.writeable


@pytest.mark.parametrize("shape", [(1, 400), (400, 1), (1, 1)])
@pytest.mark.parametrize("size", [{"max_height": 20, "max_width": 20}, {"shortest_edge": 1, "longest_edge": 1}])
def test_an_edge_that_rounds_to_nothing_keeps_a_pixel(shape, size):
    if shape == (1, 1) and "max_height" in size:
        size = {"max_height": 1, "max_width": 1}
    found = ViTImageProcessor(size=size)(np.full((*shape, 3), 9, np.uint8))["pixel_values"][0]
    most = max(size.values())
    assert found.shape == (3, min(shape[0], most), min(shape[1], most))


@pytest.mark.parametrize("kind", ["picture", "array", "grey array"])
def test_one_pixel_is_an_image(kind):
    pixel = {"picture": Image.new("RGB", (1, 1), "red"), "array": np.full((1, 1, 3), 9, np.uint8),
             "grey array": np.full((1, 1), 9, np.uint8)}[kind]  # fmt: skip
    found = ViTImageProcessor(size=3, do_convert_rgb=True)(pixel, return_tensors="np")["pixel_values"]
    assert found.shape == (1, 3, 3, 3)
    assert (found == found[:, :, :1, :1]).all()


@pytest.mark.parametrize(
    ("mode", "bands"), [("1", 1), ("L", 1), ("P", 3), ("RGB", 3), ("CMYK", 3), ("RGBA", 4), ("LA", 4)]
)
@pytest.mark.parametrize(
    "options", [{"image_mean": 0.5, "image_std": 0.5}, {"do_normalize": False}, {"do_convert_rgb": False}]
)
def test_channels_stay_where_no_mean_asks_for_others(mode, bands, options):
    given = {"image_mean": [0.5] * bands, "image_std": [0.5] * bands, "do_resize": False, **options}
    found = ViTImageProcessor(**given)(Image.fromarray(CHINA[:4, :5]).convert(mode))["pixel_values"][0]
    assert found.shape == (bands, 4, 5)


@pytest.mark.parametrize("name", [each.name for each in dataclasses.fields(ViTImageProcessor) if each.name != "extra"])
def test_null_leaves_a_step_out_and_any_other_setting_as_it_is(name):
    """As transformers reads it in a file; `do_convert_rgb` is no step that a default asks for."""
    steps = ("do_resize", "do_center_crop", "do_rescale", "do_normalize")
    expected = False if name in steps else getattr(ViTImageProcessor(), name)
    assert getattr(ViTImageProcessor(**{name: None}), name) == expected
    assert dataclasses.replace(ViTImageProcessor(**{name: None}), **{name: expected}) == ViTImageProcessor(
        **{name: expected}
    )


def test_switches_may_be_0_and_1_and_sizes_have_edges_that_are_null():
    numbers = ViTImageProcessor(do_resize=1, do_normalize=0, default_to_square=0, size=30)
    words = ViTImageProcessor(do_resize=True, do_normalize=False, size={"shortest_edge": 30, "longest_edge": None})
    for processor in (numbers, words):
        (found,) = processor(CHINA)["pixel_values"]
        assert found.shape == (3, 30, 39)
        assert 0 <= found.min() < 0.5 < found.max() <= 1


def test_no_limit_of_pillows_and_an_image_of_just_its_size(tmp_path, monkeypatch):
    Image.fromarray(CHINA).save(tmp_path / "a.png")
    for most in (CHINA.shape[0] * CHINA.shape[1], None):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", most)
        np.testing.assert_array_equal(pixels(tmp_path / "a.png"), CHINA)


def test_the_most_pixels_of_a_resized_image():
    off = dict.fromkeys(("do_rescale", "do_normalize"), False)
    processor = ViTImageProcessor(size={"shortest_edge": 64}, resample="nearest", **off)
    assert processor(np.zeros((1, 4096), np.uint8))["pixel_values"][0].shape == (1, 64, 2**18)
    for shape in ((1, 4097), (4097, 1)):
        with pytest.raises(ValueError, match="must stay within 16777216 pixels"):
            processor(np.zeros(shape, np.uint8))


def test_a_device_is_for_tensors():
    processor = ViTImageProcessor(size=4)
    for tensors in (None, "np"):
        (found,) = processor(CHINA, return_tensors=tensors, device="meta")["pixel_values"]
        assert isinstance(found, np.ndarray)
    assert processor(CHINA, return_tensors="pt")["pixel_values"].device.type == "cpu"


def test_files_that_name_their_class_twice(tmp_path):
    """The class of the image processor counts, and the older name only where it is missing."""
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps({**SWIN, "image_processor_type": "ViTImageProcessor", "do_pad": False, "note": [1],
                                "feature_extractor_type": "ConvNextFeatureExtractor"}))  # fmt: skip
    found = ViTImageProcessor.from_pretrained(tmp_path)
    assert found.extra == {"do_pad": False, "note": [1]}
    assert found.resample == 3
    for names in ({"image_processor_type": "ConvNextImageProcessor"}, {"image_processor_type": None}):
        path.write_text(json.dumps({"feature_extractor_type": "ConvNextFeatureExtractor", **names}))
        with pytest.raises(ValueError, match=r"has a 'ConvNext.*, for which ViTImageProcessor does not stand"):
            ViTImageProcessor.from_pretrained(tmp_path)
