"""Swin against transformers: numbers, losses, gradients, checkpoints, and what a Swin without state gives."""

import copy
import inspect
import itertools
import json
import logging
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from checkpoints import relative
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch._dynamo.testing import CompileCounter

import minitrans
from minitrans import ops, plain

TINY: dict[str, Any] = {
    "image_size": 24,
    "patch_size": 2,
    "embed_dim": 8,
    "depths": [2, 2],
    "num_heads": [2, 4],
    "window_size": 3,
    "encoder_stride": 4,
    "drop_path_rate": 0.0,
    "attn_implementation": "eager",
}
HEADS = ["SwinForImageClassification", "SwinForMaskedImageModeling"]
CLASSES = ["SwinModel", *HEADS, "SwinBackbone"]
# What is easy to miss -> configuration, and the image's height and width. The numbers are random, norms included.
FACTS: dict[str, tuple[dict[str, Any], tuple[int, int]]] = {
    "whole windows": ({}, (24, 24)),
    "padding has the projection's bias": ({}, (20, 28)),
    "padding has zeros without a bias": ({"qkv_bias": False}, (20, 28)),
    "padding of the image, of the maps and in merging": ({"depths": [2, 2, 2], "num_heads": [1, 2, 4]}, (33, 27)),
    "block and final norms have the configuration's eps, the others torch's": ({"layer_norm_eps": 0.3}, (24, 24)),
    "a stage no larger than a window": ({}, (12, 12)),
    "a stage as narrow as a window": ({}, (12, 40)),
    "one channel": ({"num_channels": 1}, (24, 24)),
    "patches that are not square": ({"patch_size": [2, 3], "image_size": [24, 36]}, (24, 36)),
    "patches of one": ({"patch_size": 1, "encoder_stride": 2}, (12, 12)),
    "other activation and width": ({"hidden_act": "relu", "mlp_ratio": 1.3}, (24, 24)),
    "tanh gelu, one head": ({"hidden_act": "gelu_new", "num_heads": [1, 1]}, (24, 24)),
    "positions": ({"use_absolute_embeddings": True}, (24, 24)),
    "one stage of one layer": ({"depths": [1], "num_heads": [2], "encoder_stride": 2}, (24, 24)),
    "odd numbers of layers": ({"depths": [3, 1, 3], "num_heads": [1, 2, 4], "encoder_stride": 8}, (48, 48)),
    **{f"windows of {window}": ({"window_size": window}, (4 * window + 6, 4 * window + 6)) for window in range(2, 13)},
}


def reference(name: str, **values: Any) -> Any:
    """A transformers model in evaluation mode, every number random."""
    torch.manual_seed(0)
    model = getattr(transformers, name)(transformers.SwinConfig(**{**TINY, **values}))
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            parameter.normal_(1.0 if "norm" in path and path.endswith("weight") else 0.0, 0.3)
    return model.eval()


def pair(name: str, folder: Path, **values: Any) -> tuple[Any, Any]:
    """The transformers model and ours, loaded from what it saved in `folder`."""
    theirs = reference(name, **values)
    theirs.save_pretrained(folder)
    return theirs, getattr(minitrans, name).from_pretrained(folder)


def images(model: Any, size: tuple[int, int] = (24, 24), count: int = 2) -> Tensor:
    return torch.randn(count, model.config.num_channels, *size, generator=torch.Generator().manual_seed(1))


def assert_same(ours: Any, theirs: Any, tolerance: float = 1e-5) -> None:
    """Equal names, order and shapes, and numbers within the tolerance."""
    assert list(ours.keys()) == list(theirs.keys())
    for name in theirs:
        both = [value if isinstance(value, tuple) else (value,) for value in (ours[name], theirs[name])]
        assert len(both[0]) == len(both[1]), name
        for index, (a, b) in enumerate(zip(*both, strict=True)):
            assert relative(a, b) <= tolerance, f"{name}[{index}]"


def with_traces(model: Any, *inputs: Any, **options: Any) -> Any:
    with torch.no_grad():
        return model(*inputs, output_hidden_states=True, output_attentions=True, **options)


# The numbers


# Transformers restores square maps only.
PAIRS = [(name, fact) for name in CLASSES for fact in FACTS if "Masked" not in name or len(set(FACTS[fact][1])) == 1]


@pytest.mark.parametrize(("name", "fact"), PAIRS)
def test_every_output_equals_transformers(name, fact, tmp_path):
    values, size = FACTS[fact]
    theirs, ours = pair(name, tmp_path, **values)
    pixels = images(theirs, size)
    assert_same(with_traces(ours, pixels), with_traces(theirs, pixels))


@pytest.mark.parametrize("name", ["SwinForImageClassification", "SwinBackbone"])
def test_attentions_at_real_sizes_are_one_a_stage(name, tmp_path):
    """Where a stage otherwise takes a few images at a time."""
    values = {"image_size": 224, "patch_size": 4, "embed_dim": 96, "depths": [2, 1], "num_heads": [3, 6]}
    theirs, ours = pair(name, tmp_path, **values, window_size=7)
    pixels = images(theirs, (224, 224), 4)
    with torch.no_grad():
        found, expected = (model(pixels, output_attentions=True) for model in (ours, theirs))
    assert_same(found, expected, 1e-4)
    assert len(found.attentions) == 2


def test_a_plain_configuration_is_the_published_one():
    ours, theirs = minitrans.SwinConfig().to_dict(), transformers.SwinConfig().to_dict()
    for key in set(ours) & set(theirs) - {"architectures", "dtype"}:
        assert ours[key] == (list(theirs[key]) if isinstance(theirs[key], tuple) else theirs[key]), key


def test_float64(tmp_path):
    theirs, ours = pair("SwinModel", tmp_path, attn_implementation="sdpa")  # eager rounds its softmax to float32
    pixels = images(theirs, (30, 26)).double()
    assert_same(ours.double()(pixels), theirs.double()(pixels), 1e-12)


def test_half_precision_is_as_near_as_transformers(tmp_path):
    theirs, ours = pair("SwinModel", tmp_path, layer_norm_eps=1e-3)
    pixels = images(theirs, (30, 26))
    with torch.no_grad():
        exact = copy.deepcopy(theirs).double()(pixels.double()).last_hidden_state
        found, expected = (m.bfloat16()(pixels.bfloat16()).last_hidden_state.double() for m in (ours, theirs))
    assert relative(found, exact) <= 2 * relative(expected, exact)


def test_masked_patches(tmp_path):
    theirs, ours = pair("SwinForMaskedImageModeling", tmp_path, use_absolute_embeddings=True)
    pixels = images(theirs)
    masked = torch.rand(2, 144, generator=torch.Generator().manual_seed(2)) < 0.4
    for given in (masked, masked.long()):
        assert_same(with_traces(ours, pixels, given), with_traces(theirs, pixels, given))
    none = ours(pixels, torch.zeros_like(masked))
    assert none.loss == 0
    assert torch.equal(none.reconstruction, ours(pixels).reconstruction)
    backbone = ours.swin(pixels, masked).last_hidden_state
    assert relative(backbone, theirs.swin(pixels, masked).last_hidden_state) <= 1e-5


def test_masked_patches_of_an_image_that_is_not_square(tmp_path):
    """Transformers cannot; the loss is the mean over the masked pixels."""
    _, ours = pair("SwinForMaskedImageModeling", tmp_path)
    pixels, masked = images(ours, (16, 32)), torch.zeros(2, 8, 16, dtype=torch.bool)
    masked[0, 2, 5] = masked[1, 7, 15] = masked[1, 0, 3] = True
    output = ours(pixels, masked.flatten(1))
    assert output.reconstruction.shape == pixels.shape
    errors = (output.reconstruction - pixels).abs()
    squares = [errors[0, :, 4:6, 10:12], errors[1, :, 14:16, 30:32], errors[1, :, 0:2, 6:8]]
    assert relative(output.loss, torch.stack(squares).mean()) <= 1e-5


@pytest.mark.parametrize("name", CLASSES)
def test_positions_are_interpolated_on_request(name, tmp_path):
    theirs, ours = pair(name, tmp_path, use_absolute_embeddings=True)
    for size in ((24, 24), (40, 40), (16, 16)) if "Masked" in name else ((24, 24), (40, 28), (16, 36)):
        pixels = images(theirs, size)
        fresh = getattr(transformers, name).from_pretrained(tmp_path, attn_implementation="eager").eval()
        options = {"interpolate_pos_encoding": True}
        assert_same(with_traces(ours, pixels, **options), with_traces(fresh, pixels, **options))
        if size != (24, 24):
            with pytest.raises(ValueError, match="interpolate_pos_encoding=True"):
                ours(pixels)


# No state


def test_an_image_does_not_change_what_a_later_one_gives(tmp_path):
    """Transformers' layers overwrite their own shift: where the small image was computed first, it is wrong."""
    theirs, ours = pair("SwinModel", tmp_path)
    small, large = images(theirs, (12, 12)), images(theirs, (48, 48))
    with torch.no_grad():
        expected = theirs(large).last_hidden_state
        before = ours(large).last_hidden_state
        theirs(small), ours(small)
        assert relative(theirs(large).last_hidden_state, expected) > 0.01
        assert torch.equal(ours(large).last_hidden_state, before)
    assert relative(before, expected) <= 1e-5


def test_a_map_smaller_than_a_window_is_one_window_and_stays(tmp_path):
    """Transformers fails; told to pad and, where the map is small, not to shift, it says what is right."""
    theirs, ours = pair("SwinModel", tmp_path)
    pixels = images(theirs, (8, 24))  # maps of 4 × 12 and 2 × 6
    with pytest.raises(RuntimeError):
        copy.deepcopy(theirs)(pixels)
    for block in theirs.encoder.layers[1].blocks:
        block.shift_size = 0
    expected = theirs.encoder(*theirs.embeddings(pixels), always_partition=True).last_hidden_state
    assert relative(ours(pixels).last_hidden_state, theirs.layernorm(expected)) <= 1e-5


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("size", [(2, 2), (2, 31), (3, 5), (7, 24), (25, 25)])
def test_any_size_from_one_patch(name, size, tmp_path):
    _, ours = pair(name, tmp_path)
    pixels = images(ours, size, 3)
    together = ours(pixels)[-1]
    alone = [ours(pixels[index : index + 1])[-1] for index in range(3)]
    for whole, *parts in zip(*((x if isinstance(x, tuple) else (x,)) for x in (together, *alone)), strict=True):
        assert whole.isfinite().all()
        assert relative(whole, torch.cat(parts)) <= 5e-6


def test_blocks_change_nothing(tmp_path, monkeypatch):
    """Without autograd images, rows and windows are computed in blocks; with it at once."""
    _, ours = pair("SwinModel", tmp_path)
    pixels = images(ours, (46, 50), 3)
    whole = ours(pixels)
    assert whole.last_hidden_state.requires_grad
    for size in (1, 10_000, 100_000):
        monkeypatch.setattr(plain, "_BLOCK_BYTES", size)
        with torch.no_grad():
            assert_same(ours(pixels), whole, 5e-6)


@pytest.mark.parametrize("place", ["embeddings.norm", "stages.0.layers.1", "mergings.0"])
def test_a_hook_sees_the_batch_and_not_its_blocks(place, tmp_path, monkeypatch):
    _, ours = pair("SwinModel", tmp_path)
    monkeypatch.setattr(plain, "_BLOCK_BYTES", 1)
    batches = []
    hook = ours.get_submodule(place).register_forward_hook(lambda _, inputs, output: batches.append(output.shape[0]))
    pixels = images(ours, count=3)
    with torch.no_grad():
        seen = ours(pixels)
        hook.remove()
        assert_same(ours(pixels), seen, 5e-6)
    assert batches == [3]


# Training


@pytest.mark.parametrize("options", [{}, {"qkv_bias": False, "use_absolute_embeddings": True}])
@pytest.mark.parametrize("name", CLASSES)
def test_one_step_of_training_saves_the_same_checkpoint(name, options, tmp_path):
    theirs, ours = pair(name, tmp_path / "before", num_labels=5, **options)
    pixels = images(theirs)
    extra = {"bool_masked_pos": torch.arange(288).view(2, 144) % 3 == 0} if "Masked" in name else {}
    extra = {"labels": torch.tensor([4, 0])} if "Classification" in name else extra
    for model, folder in ((theirs, "theirs"), (ours, "ours")):
        output = model.train()(pixels, **extra)
        feature = output.feature_maps[0] if "Backbone" in name else output[0]
        loss = output.loss if extra else feature.square().mean()
        loss.backward()
        torch.optim.SGD([p for p in model.parameters() if p.grad is not None], lr=0.1).step()
        model.save_pretrained(tmp_path / folder)
    before, after, saved = (load_file(tmp_path / x / "model.safetensors") for x in ("before", "theirs", "ours"))
    # A backbone of transformers keeps the model's last norm, which it does not compute with.
    unused = {"swin.layernorm.weight", "swin.layernorm.bias"} if "Backbone" in name else set()
    assert set(after) == set(saved) | unused
    assert not unused & set(saved)
    for key, tensor in saved.items():
        assert relative(tensor, after[key]) <= 1e-5, key
    assert sum(not torch.equal(after[key], before[key]) for key in after) > 0.9 * len(saved)
    again = getattr(transformers, name).from_pretrained(tmp_path / "ours").eval()
    assert_same(ours.eval()(pixels, **extra), again(pixels, **extra))


@pytest.mark.parametrize("kind", ["regression", "single", "multi", "one"])
def test_classification_losses(kind, tmp_path):
    theirs, ours = pair("SwinForImageClassification", tmp_path, num_labels=1 if kind == "one" else 3)
    labels = {
        "regression": torch.randn(2, 3),
        "single": torch.tensor([2, 0]),
        "multi": torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.0, 0.0]]),
        "one": torch.randn(2),
    }[kind]
    for model in (theirs, ours):
        model.config.problem_type = "regression" if kind == "regression" else None
    assert_same(ours(images(ours), labels), theirs(images(ours), labels))
    with pytest.raises(ValueError, match="7"):
        ours(images(ours), torch.tensor([0, 7])) if kind == "single" else ours(images(ours), torch.zeros(7, 7))


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float32, torch.float16], ids=str)
def test_masks_of_any_dtype_that_are_of_zeros_and_ones(dtype, tmp_path):
    theirs, ours = pair("SwinForMaskedImageModeling", tmp_path)
    mask = (torch.arange(288).view(2, 144) % 3 == 0).to(dtype)
    assert_same(ours(images(ours), bool_masked_pos=mask), theirs(images(ours), bool_masked_pos=mask))


def test_drop_path_drops_what_transformers_drops(tmp_path):
    """The same random numbers drop the same images in the same layers, the later the likelier."""
    theirs, ours = pair("SwinModel", tmp_path, drop_path_rate=0.6, depths=[2, 4])
    pixels = images(theirs, (24, 24), 6)
    found = []
    for model in (ours, theirs):
        torch.manual_seed(5)
        found.append(model.train()(pixels))
    assert_same(*found)
    assert relative(found[0].pooler_output, ours.eval()(pixels).pooler_output) > 0.01


def test_without_rates_training_draws_no_random_numbers(tmp_path):
    _, ours = pair("SwinModel", tmp_path)
    pixels = images(ours, (24, 24), 2)
    before = torch.get_rng_state()
    trained = ours.train()(pixels).pooler_output
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(trained, ours.eval()(pixels).pooler_output)


def test_an_attention_that_is_always_dropped_adds_nothing(tmp_path):
    """At a rate of 1, where transformers divides by zero."""
    _, ours = pair("SwinModel", tmp_path, drop_path_rate=1.0, depths=[1, 1])  # rates of 0 and 1
    pixels = images(ours, (24, 24), 3)
    trained = ours.train()(pixels).last_hidden_state
    whole = ours.eval()(pixels).last_hidden_state
    with torch.no_grad():
        for path, parameter in ours.named_parameters():
            if path.startswith("encoder.layers.1.blocks.0.attention.output."):
                parameter.zero_()
    assert relative(trained, ours(pixels).last_hidden_state) < 1e-6
    assert relative(trained, whole) > 0.01


@pytest.mark.parametrize("rate", ["hidden_dropout_prob", "attention_probs_dropout_prob", "drop_path_rate"])
def test_each_rate_works_in_training_only(rate, tmp_path):
    theirs, ours = pair("SwinModel", tmp_path, **{rate: 0.5})
    pixels = images(ours, (24, 24), 64)
    still = ours(pixels).pooler_output
    assert torch.equal(ours(pixels).pooler_output, still)
    spread = []
    for model in (ours, theirs):
        torch.manual_seed(7)
        spread.append(torch.stack([model.train()(pixels).pooler_output for _ in range(4)]).std(0).mean())
    assert spread[0] > 0.01
    assert 0.9 < spread[0] / spread[1] < 1.1


@pytest.mark.parametrize("name", CLASSES)
def test_gradient_checkpointing_gives_equal_gradients(name, tmp_path):
    _, ours = pair(name, tmp_path)
    gradients = []
    for checkpointing in (False, True):
        model = copy.deepcopy(ours).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        output = model(images(model, (20, 20)), output_attentions=True)
        value = output.feature_maps[0] if "Backbone" in name else output[0]
        value.square().sum().backward()
        gradients.append({path: p.grad for path, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert all(relative(gradients[1][path], gradient) <= 1e-6 for path, gradient in gradients[0].items())


# The backbone


def test_a_backbone_over_all_choices_of_stages(tmp_path):
    values = {"depths": [2, 2, 1], "num_heads": [1, 2, 4], "image_size": 32}
    reference("SwinModel", **values).save_pretrained(tmp_path / "model")
    pixels = torch.randn(2, 3, 30, 34)
    for count in range(1, 5):
        for indices in itertools.combinations(range(4), count):
            theirs = reference("SwinBackbone", **values, out_indices=indices)
            theirs.save_pretrained(tmp_path / "backbone")
            ours = minitrans.AutoBackbone.from_pretrained(tmp_path / "backbone")
            assert ours.config.out_features == theirs.out_features
            assert ours.channels == theirs.channels
            assert_same(ours(pixels), theirs(pixels))
            assert_same(with_traces(ours, pixels), with_traces(theirs, pixels))
            for (_, channels, stride), found in zip(ours.feature_info, ours(pixels).feature_maps, strict=True):
                assert found.shape[1] == channels
                assert found.shape[2:] == (-(-30 // stride), -(-34 // stride))
            by_index = minitrans.SwinBackbone.from_pretrained(tmp_path / "model", out_indices=indices)
            assert [feature.stage for feature in by_index.feature_info] == theirs.out_features
            behind = minitrans.SwinBackbone.from_pretrained(tmp_path / "model", out_indices=[i - 4 for i in indices])
            assert behind.feature_info == by_index.feature_info
            named = minitrans.SwinBackbone.from_pretrained(tmp_path / "model", out_features=theirs.out_features)
            assert named.config.out_indices == list(indices)


@pytest.mark.parametrize("size", [(6, 6), (4, 4), (6, 22), (12, 12)])
def test_a_backbone_shifts_on_maps_no_larger_than_a_window(size, tmp_path):
    """Where the model does not; of an image of 6 × 6 already the first map is one window."""
    theirs, ours = pair("SwinBackbone", tmp_path, out_features=["stage1", "stage2"])
    pixels = images(theirs, size)
    found = ours(pixels)
    assert_same(found, theirs(pixels))
    ours.config.window_size = 1  # which the shift is taken from; the layers keep their own
    assert relative(ours(pixels).feature_maps[0], found.feature_maps[0]) > 0.01


@pytest.mark.parametrize(("indices", "layers"), [((0,), 0), ((1,), 2), ((0, 2), 4), ((-1,), 5)])
def test_stages_after_the_last_are_not_computed(indices, layers, tmp_path):
    _, ours = pair("SwinBackbone", tmp_path, depths=[2, 2, 1], num_heads=[1, 2, 4], out_indices=indices)
    ran = []
    for stage in ours.stages:
        for layer in stage.layers:
            layer.register_forward_hook(lambda *_: ran.append(1))
    ours(images(ours))
    assert len(ran) == layers
    assert len(ours(images(ours), output_hidden_states=True).hidden_states) == 4


def test_strides_of_patches_that_are_not_square():
    config = minitrans.SwinConfig(**TINY | {"patch_size": (2, 3), "image_size": 24}, out_indices=(0, 1, 2))
    assert minitrans.SwinBackbone(config).feature_info == (
        ("stem", 8, (2, 3)),
        ("stage1", 8, (2, 3)),
        ("stage2", 16, (4, 6)),
    )


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ({"out_features": ["stage2", "stage1"]}, "in the model's order"),
        ({"out_features": ["stage1", "stage1"]}, "each once"),
        ({"out_features": ["stage3"]}, "'stage3'"),
        ({"out_features": []}, "name some"),
        ({"out_features": "stage1"}, "'stage1'"),
        ({"out_indices": (3,)}, "holds 3"),
        ({"out_indices": (-4,)}, "holds -4"),
        ({"out_indices": (2, 1)}, "in the model's order"),
        ({"out_indices": (2, -1)}, "each once"),
        ({"out_indices": 1}, "out_indices is 1"),
        ({"out_indices": ()}, "name some"),
        ({"out_features": ["stage1"], "out_indices": (2,)}, "stages of out_indices"),
    ],
)
def test_stages_that_cannot_be(choice, words, tmp_path):
    reference("SwinModel").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=re.escape(words)):
        minitrans.AutoBackbone.from_pretrained(tmp_path, **choice)


def test_a_choice_replaces_the_saved_one(tmp_path):
    reference("SwinBackbone", out_features=["stage1"]).save_pretrained(tmp_path)
    assert minitrans.AutoBackbone.from_pretrained(tmp_path).config.out_indices == [1]
    assert minitrans.AutoBackbone.from_pretrained(tmp_path, out_indices=(0, 2)).config.out_features == [
        "stem",
        "stage2",
    ]
    config = minitrans.AutoConfig.from_pretrained(tmp_path, out_features=["stem"])
    assert config.out_indices == [0]
    config.out_features = ["stage2"]
    assert minitrans.SwinBackbone(config).out_indices == [2]


# Checkpoints


def test_the_published_classifier_as_a_backbone(tmp_path, caplog):
    """The real shapes of microsoft/swin-tiny-patch4-window7-224, written as it was published."""
    torch.manual_seed(0)
    theirs = transformers.SwinForImageClassification(transformers.SwinConfig(num_labels=1000))
    theirs.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    for name in [name for name in state if name.endswith("relative_position_bias_table")]:
        state[name.replace("bias_table", "index")] = torch.zeros(49, 49, dtype=torch.long)
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    published = {"embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24], "model_type": "swin"}
    published |= {"path_norm": True, "hidden_size": 768, "num_layers": 4, "image_size": 224, "layer_norm_eps": 1e-5}
    published |= {"id2label": {str(index): f"class {index}" for index in range(1000)}, "torch_dtype": "float32"}
    (tmp_path / "config.json").write_text(json.dumps(published))
    with caplog.at_level(logging.WARNING, "minitrans"):
        backbone = minitrans.AutoBackbone.from_pretrained(tmp_path, out_indices=(1,))
    pixels = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        (found,) = backbone(pixels).feature_maps
    assert found.shape == (1, 96, 56, 56)
    assert float(found.mean(1).abs().max()) < 1e-5  # normalised
    report = backbone.load_report
    assert report.missing == ["hidden_states_norms.stage1.weight", "hidden_states_norms.stage1.bias"]
    unused = [f"{module}.{leaf}" for module in ("classifier", "swin.layernorm") for leaf in ("bias", "weight")]
    assert report.unexpected == unused
    for words in (
        "classifier.{bias,weight}",
        "swin.layernorm.{bias,weight}",
        "hidden_states_norms.stage1.{bias,weight}",
    ):
        assert words in caplog.text
    whole = minitrans.AutoModelForImageClassification.from_pretrained(tmp_path)
    assert not whole.load_report.needs_attention
    assert whole.config.path_norm is True
    with torch.no_grad():
        assert relative(whole(pixels).logits, theirs.eval()(pixels).logits) <= 1e-5
    assert whole.config.id2label[999] == "class 999"


@pytest.mark.parametrize(("name", "auto"), [("SwinModel", "AutoModel"), *((x, f"AutoModel{x[4:]}") for x in HEADS),
                                            ("SwinBackbone", "AutoBackbone")])  # fmt: skip
def test_auto_classes_and_saving(name, auto, tmp_path):
    reference(name, use_absolute_embeddings=True).save_pretrained(tmp_path / "theirs")
    ours = getattr(minitrans, auto).from_pretrained(tmp_path / "theirs")
    assert type(ours).__name__ == name
    assert repr(type(ours)) == f"<class 'minitrans.models.swin.{name}'>"
    ours.save_pretrained(tmp_path / "ours")
    before, after = (load_file(tmp_path / x / "model.safetensors") for x in ("theirs", "ours"))
    assert all(torch.equal(before[key], tensor) for key, tensor in after.items())
    theirs, own = (json.loads((tmp_path / x / "config.json").read_text()) for x in ("theirs", "ours"))
    assert {key: own.get(key) for key in theirs} == theirs
    fresh = getattr(minitrans, auto).from_config(ours.config)
    assert {path: p.shape for path, p in fresh.named_parameters()} == {p: x.shape for p, x in ours.named_parameters()}


# Calling


@pytest.mark.parametrize("name", CLASSES)
def test_arguments_have_the_same_places(name, tmp_path):
    theirs, ours = pair(name, tmp_path)
    own = list(inspect.signature(ours.forward).parameters)
    published = [
        parameter.name
        for parameter in inspect.signature(theirs.forward).parameters.values()
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ]
    assert own[: len(published)] == published
    with pytest.raises(TypeError, match="output_everything"):
        ours(images(ours), output_everything=True)


@pytest.mark.parametrize("name", CLASSES)
def test_tuples_and_what_the_configuration_asks_for(name, tmp_path):
    theirs, ours = pair(name, tmp_path, output_hidden_states=True)
    found, expected = ours(images(ours), return_dict=False), theirs(images(ours), return_dict=False)
    assert type(found) is tuple
    assert len(found) == len(expected)
    assert_same(ours(images(ours)), theirs(images(ours)))
    assert "hidden_states" not in ours(images(ours), output_hidden_states=False)
    ours.config.return_dict = False
    assert type(ours(images(ours))) is tuple


def test_without_a_pooling_layer(tmp_path):
    theirs = reference("SwinModel")
    theirs.save_pretrained(tmp_path)
    ours = minitrans.SwinModel(minitrans.SwinConfig.from_pretrained(tmp_path), add_pooling_layer=False)
    assert list(ours(images(ours)).keys()) == ["last_hidden_state"]


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ((torch.zeros(1, 1, 24, 24),), "(1, 1, 24, 24)"),
        ((torch.zeros(3, 24, 24),), "(3, 24, 24)"),
        ((torch.zeros(0, 3, 24, 24),), "(0, 3, 24, 24)"),
        ((torch.zeros(1, 24, 24, 3),), "(B, 3, height, width)"),
        ((torch.zeros(1, 3, 24, 1),), "24 × 1 pixels"),
        ((torch.zeros(1, 3, 24, 24, dtype=torch.uint8),), "torch.uint8"),
        ((torch.zeros(1, 3, 24, 24, dtype=torch.float64),), "torch.float64"),
        ((torch.zeros(1, 3, 24, 24, device="meta"),), "meta"),
        ((torch.full((1, 3, 24, 24), torch.nan),), "NaN"),
        ((torch.full((1, 3, 24, 24), -torch.inf),), "infinite"),
        ((torch.zeros(1, 3, 24, 24), torch.zeros(1, 143)), "(1, 143)"),
        ((torch.zeros(2, 3, 24, 24), torch.zeros(1, 144)), "(2, 144)"),
        ((torch.zeros(2, 3, 24, 24), torch.zeros(2, 12, 12)), "(2, 12, 12)"),
        ((torch.zeros(1, 3, 20, 24), torch.zeros(1, 144)), "(1, 120)"),
        ((torch.zeros(1, 3, 21, 24), torch.zeros(1, 132)), "no loss"),
    ],
)
def test_inputs_that_cannot_be(inputs, words, tmp_path):
    _, ours = pair("SwinForMaskedImageModeling", tmp_path)
    with pytest.raises(ValueError, match=re.escape(words)):
        ours(*inputs)


@pytest.mark.parametrize("value", [1e18, 1e36])  # of the latter the sum overflows, and the norms of transformers too
def test_large_finite_pixels_are_computed(value, tmp_path):
    theirs, ours = pair("SwinModel", tmp_path)
    pixels = torch.full((1, 3, 24, 24), value)
    torch.testing.assert_close(ours(pixels)[0], theirs(pixels)[0], equal_nan=True)


def test_a_model_without_a_mask_token_takes_no_mask(tmp_path):
    _, ours = pair("SwinModel", tmp_path)
    with pytest.raises(ValueError, match="use_mask_token=True"):
        ours(images(ours), torch.zeros(2, 144))
    _, classifier = pair("SwinForImageClassification", tmp_path)
    with pytest.raises(TypeError, match="no input 'bool_masked_pos'"):
        classifier(images(ours), bool_masked_pos=torch.zeros(2, 144))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"num_heads": [3, 4]}, "3 does not divide a stage's 8"),
        ({"num_heads": [2]}, "both have one number a stage"),
        ({"depths": [], "num_heads": []}, "empty"),
        ({"depths": [2, 0]}, "depths"),
        ({"window_size": 0}, "window_size"),
        ({"patch_size": [2, 2, 2]}, "[2, 2, 2]"),
        ({"image_size": "large"}, "'large'"),
        ({"hidden_act": "softsign"}, "'softsign'"),
        ({"drop_path_rate": 1.5}, "1.5"),
        ({"num_channels": 3.5}, "3.5"),
    ],
)
def test_configurations_that_cannot_be(values, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        minitrans.SwinModel(minitrans.SwinConfig(**{**TINY, **values}))


def test_compiled_once_for_one_size(tmp_path):
    _, ours = pair("SwinForImageClassification", tmp_path)
    counter = CompileCounter()
    compiled = torch.compile(ours, backend=counter, fullgraph=True)
    pixels = images(ours, (20, 28))
    assert relative(compiled(pixels).logits, ours(pixels).logits) <= 1e-5
    assert relative(compiled(2 * pixels).logits, ours(2 * pixels).logits) <= 1e-5
    assert counter.frame_count == 1


@pytest.mark.parametrize("name", CLASSES)
def test_models_can_be_copied_and_pickled(name, tmp_path):
    _, ours = pair(name, tmp_path)
    for other in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert_same(other(images(ours)), ours(images(ours)), 0)


# The operations


def brute_force(qkv: Tensor, table: Tensor, window: int, shift: int, padding: Tensor) -> Tensor:
    """The definition, position by position, in float64: who shares a window after the roll, and who may see whom."""
    batch, height, width, _, heads, size = qkv.shape
    tall, wide = -(-height // window) * window, -(-width // window) * window
    filled = padding.expand(batch, tall, wide, 3, heads, size).clone()
    filled[:, :height, :width] = qkv
    out = torch.zeros(batch, height, width, heads, size, dtype=qkv.dtype)
    cells = [(y, x) for y in range(tall) for x in range(wide)]

    def rolled(y: int, x: int) -> tuple[int, int]:
        return (y - shift) % tall, (x - shift) % wide

    for y, x in itertools.product(range(height), range(width)):
        here = rolled(y, x)
        keys, scores = [], []
        for ky, kx in cells:
            there = rolled(ky, kx)
            if (there[0] // window, there[1] // window) != (here[0] // window, here[1] // window):
                continue
            row = (here[0] - there[0] + window - 1) * (2 * window - 1) + here[1] - there[1] + window - 1
            score = (filled[:, y, x, 0] * filled[:, ky, kx, 1]).sum(-1) / size**0.5 + table[row]
            if (y < shift) != (ky < shift) or (x < shift) != (kx < shift):
                score = score - 100
            keys.append(filled[:, ky, kx, 2])
            scores.append(score)
        weights = torch.stack(scores, -1).softmax(-1)
        out[:, y, x] = (weights[..., None] * torch.stack(keys, 2)).sum(2)
    return out.flatten(3)


@pytest.mark.parametrize(("height", "width", "window", "shift"), [
    (4, 4, 2, 0), (4, 4, 2, 1), (6, 6, 3, 1), (5, 7, 3, 1), (5, 7, 3, 2), (2, 3, 4, 2), (1, 1, 3, 1), (4, 9, 4, 3),
])  # fmt: skip
def test_window_attention_is_its_definition(height, width, window, shift):
    torch.manual_seed(0)
    qkv = torch.randn(2, height, width, 3, 2, 3, dtype=torch.float64, requires_grad=True)
    table = torch.randn((2 * window - 1) ** 2, 2, dtype=torch.float64, requires_grad=True)
    padding = torch.randn(3, 2, 3, dtype=torch.float64, requires_grad=True)
    given = (qkv, table, window, shift, padding)
    found, expected = ops.window_attention(*given), brute_force(*given)
    assert relative(found, expected) <= 1e-12
    weight = torch.randn_like(expected)
    gradients = [
        torch.autograd.grad((x * weight).sum(), (qkv, table, padding), allow_unused=True) for x in (found, expected)
    ]
    for a, b in zip(*gradients, strict=True):
        assert a is b is None or relative(torch.zeros_like(b) if a is None else a, b) <= 1e-11
    zeros = ops.window_attention(qkv, table, window, shift, None)
    assert relative(zeros, brute_force(qkv, table, window, shift, padding.detach() * 0)) <= 1e-12
    mixed, weights = ops.window_attention_with_weights(*given)
    assert relative(mixed, expected) <= 1e-12
    windows = -(-height // window) * -(-width // window)
    assert weights.shape == (2 * windows, 2, window**2, window**2)
    assert relative(weights.sum(-1), torch.ones_like(weights[..., 0])) <= 1e-12


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"qkv": torch.zeros(1, 4, 4, 2, 2, 3)}, "(1, 4, 4, 2, 2, 3)"),
        ({"qkv": torch.zeros(1, 4, 4, 12)}, "(1, 4, 4, 12)"),
        ({"bias_table": torch.zeros(9, 3)}, "(9, 3)"),
        ({"window": 3}, "(25, 2)"),
        ({"shift": 2}, "by 2"),
        ({"shift": -1}, "by -1"),
        ({"padding": torch.zeros(3, 6)}, "(3, 6)"),
    ],
)
def test_window_attention_refuses_shapes_that_do_not_fit(change, words):
    given = {"qkv": torch.zeros(1, 4, 4, 3, 2, 3), "bias_table": torch.zeros(9, 2), "window": 2, "shift": 1}
    for operation in (ops.window_attention, ops.window_attention_with_weights):
        with pytest.raises(ValueError, match=re.escape(words)):
            operation(**{**given, "padding": None, **change})


@pytest.mark.parametrize(("height", "width"), [(4, 6), (5, 6), (4, 7), (1, 1), (3, 5)])
def test_merging_is_its_definition(height, width):
    torch.manual_seed(0)
    x, weight, bias = torch.randn(2, height, width, 3), torch.randn(12), torch.randn(12)
    found = ops.merge_layer_norm(x, weight, bias, 1e-5)
    assert found.shape == (2, -(-height // 2), -(-width // 2), 12)
    for y, z in itertools.product(range(found.shape[1]), range(found.shape[2])):
        corners = [(2 * y, 2 * z), (2 * y + 1, 2 * z), (2 * y, 2 * z + 1), (2 * y + 1, 2 * z + 1)]
        parts = [x[:, i, j] if i < height and j < width else torch.zeros(2, 3) for i, j in corners]
        expected = torch.nn.functional.layer_norm(torch.cat(parts, 1), (12,), weight, bias, 1e-5)
        assert relative(found[:, y, z], expected) <= 1e-6
