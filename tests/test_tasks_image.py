"""Whole image jobs against transformers' processor and models."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.numpy import load_file
from transformers import pipeline
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

import minitrans
from minitrans import FeatureMaps, ImageClassifier
from minitrans.tasks.image import save_maps

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

SIZE = {"height": 80, "width": 80}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: Any) -> Path:
    """A random tiny Swin of transformers' with names for its classes, and its processor."""
    folder = tmp_path_factory.mktemp("swin")
    torch.manual_seed(0)
    config = transformers.SwinConfig(
        image_size=80, patch_size=4, embed_dim=12, depths=[1, 2, 1], num_heads=[1, 2, 4], window_size=5,
        initializer_range=0.4, id2label={index: f"kind {index}" for index in range(7)},
    )  # fmt: skip
    transformers.SwinForImageClassification(config).save_pretrained(folder)
    ViTImageProcessorPil(size=SIZE).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory: Any) -> list[Path]:
    """Image files of three sizes and two modes."""
    folder, generator = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    paths = []
    for number, shape in enumerate([(30, 52, 3), (64, 64, 3), (47, 31), (90, 20, 3)]):
        coarse = Image.fromarray(generator.integers(0, 256, (6, 6, *shape[2:]), dtype=np.uint8))
        paths.append(folder / f"{number}.png")
        coarse.resize(shape[1::-1], Image.Resampling.BICUBIC).save(paths[-1])
    return paths


def pixels(folder: Path, paths: list[Path]) -> torch.Tensor:
    processor = ViTImageProcessorPil.from_pretrained(folder)
    return processor([Image.open(path).convert("RGB") for path in paths], return_tensors="pt")["pixel_values"]


def test_classes(folder: Path, images: list[Path]) -> None:
    model = transformers.SwinForImageClassification.from_pretrained(folder).eval()
    with torch.inference_mode():
        scores = model(pixels(folder, images)).logits.softmax(-1)
    ours = ImageClassifier.from_pretrained(folder)
    for answer, row in zip(ours(images, budget=3), scores, strict=True):
        assert [item["label"] for item in answer] == [f"kind {index}" for index in row.argsort(descending=True)]
        assert [item["score"] for item in answer] == pytest.approx(sorted(row.tolist(), reverse=True), rel=1e-4)
    theirs = pipeline("image-classification", model, image_processor=ViTImageProcessorPil(size=SIZE), device="cpu")
    assert [item["label"] for item in theirs(str(images[0]))] == [item["label"] for item in ours(images[0])[:5]]


def test_one_image_of_any_kind(folder: Path, images: list[Path]) -> None:
    classify = ImageClassifier.from_pretrained(folder)
    expected = classify(images)[1]
    image = Image.open(images[1])
    kinds = [images[1], str(images[1]), image, np.asarray(image), torch.from_numpy(np.array(image))]
    for one in kinds:
        answer = classify(one)
        assert [item["label"] for item in answer] == [item["label"] for item in expected]
        assert answer[0]["score"] == pytest.approx(expected[0]["score"], rel=1e-5)
    many = classify(np.stack([np.asarray(image)] * 2))
    assert [answer[0]["label"] for answer in many] == [expected[0]["label"]] * 2
    assert classify([]) == []
    assert [answer[0]["label"] for answer in classify(path for path in images[1:2])] == [expected[0]["label"]]


def test_a_model_that_pools_nothing(folder: Path, images: list[Path]) -> None:
    processor = minitrans.AutoImageProcessor.from_pretrained(folder)
    for pooling in (True, False):
        model = minitrans.SwinModel.from_pretrained(folder, add_pooling_layer=pooling)
        read = minitrans.pipeline("image-feature-extraction", model=model, image_processor=processor)
        assert len(np.shape(read(images[0], pool=False))) == 3
        if pooling:
            assert np.shape(read(images[0], pool=True)) == (1, model.config.hidden_size)
        else:
            with pytest.raises(ValueError, match=r"The model pools nothing .*leave pool out"):
                read(images[0], pool=True)


def test_sizes_that_differ(folder: Path, images: list[Path]) -> None:
    """Without resizing, each image is computed at its own size."""
    maps = FeatureMaps.from_pretrained(folder, out_features=["stage1"])
    maps.processor.do_resize = False
    maps.processor.do_convert_rgb = True
    theirs = transformers.SwinBackbone.from_pretrained(folder, out_features=["stage1"]).eval()
    processor = ViTImageProcessorPil(do_resize=False)
    for path, answer in zip([*images, images[0]], maps([*images, images[0]]), strict=True):
        with torch.inference_mode():
            given = processor(Image.open(path).convert("RGB"), return_tensors="pt")["pixel_values"]
            (expected,) = theirs(given).feature_maps
        assert answer["stage1"].shape == expected.shape[1:]
        assert np.abs(answer["stage1"] - expected[0].numpy()).max() <= 1e-5 * float(expected.abs().max())


@pytest.mark.parametrize("stages", [["stage1", "stage3"], ["stem"], ["stage2"]])
def test_feature_maps(folder: Path, images: list[Path], stages: list[str], tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = transformers.SwinBackbone(transformers.SwinConfig.from_pretrained(folder, out_features=stages)).eval()
    theirs.save_pretrained(tmp_path)
    ViTImageProcessorPil(size=SIZE).save_pretrained(tmp_path)
    with torch.inference_mode():
        expected = theirs(pixels(folder, images)).feature_maps
    for index, answer in enumerate(FeatureMaps.from_pretrained(tmp_path, out_features=stages)(images)):
        assert list(answer) == stages
        for stage, their in zip(stages, expected, strict=True):
            assert np.abs(answer[stage] - their[index].numpy()).max() <= 1e-5 * float(their.abs().max())


def test_maps_are_written_whole_or_not_at_all(
    folder: Path, images: list[Path], tmp_path: Path, monkeypatch: Any
) -> None:
    task = FeatureMaps.from_pretrained(folder, out_features=["stage1", "stage3"])
    path, names = tmp_path / "maps.safetensors", [str(image) for image in images]
    shapes = save_maps(task.stream(names), path)
    written = load_file(path)
    assert [(name, written[name].shape) for name, _ in shapes] == shapes
    assert set(written) == {f"{name}/{stage}" for name in names for stage in ("stage1", "stage3")}
    for name, answer in zip(names, task(names), strict=True):
        for stage, values in answer.items():
            assert np.abs(written[f"{name}/{stage}"] - values).max() <= 1e-5 * np.abs(values).max()
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match=r"maps.safetensors is there already"):
        save_maps(task.stream(names), path)
    assert path.read_bytes() == before
    with pytest.raises(FileNotFoundError, match="There is no file"):
        save_maps(task.stream([names[0], "gone.png"]), tmp_path / "other.safetensors")
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        save_maps(task.stream(names), tmp_path / "nowhere" / "maps.safetensors")

    def full_disk(maps: Any, unfinished: Path) -> None:
        unfinished.write_bytes(b"half of it")
        raise OSError("No space left on device")

    monkeypatch.setattr("safetensors.numpy.save_file", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_maps(task.stream(names), tmp_path / "other.safetensors")
    assert list(tmp_path.iterdir()) == [path]


def test_refused(folder: Path, images: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"out_features holds 'stage9'; the stages are stem, stage1, stage2, stage3"):
        FeatureMaps.from_pretrained(folder, out_features=["stage9"])
    (tmp_path / "cut.png").write_bytes(images[0].read_bytes()[:200])
    with pytest.raises(OSError, match=r"cut.png \(200 bytes\) cannot be read as an image"):
        ImageClassifier.from_pretrained(folder)([images[0], tmp_path / "cut.png"])
