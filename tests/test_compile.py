"""torch.compile, by its default backend and once for all lengths; torch.jit.trace with a model's usual output."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from checkpoints import CLASSES, reference, relative
from torch import Tensor
from torch._dynamo.testing import CompileCounter

import minitrans

torch._inductor.config.compile_threads = 1

BATCH = 2
# Every number that makes a training step random is 0.
SWIN: dict[str, Any] = {
    "image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4,
    "encoder_stride": 4, "drop_path_rate": 0.0, "num_labels": 3,
}  # fmt: skip
WAV2VEC2: dict[str, Any] = {
    "vocab_size": 29, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
    "conv_dim": (16, 16, 16), "conv_kernel": (10, 3, 2), "conv_stride": (5, 2, 2), "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4, "num_codevectors_per_group": 8, "codevector_dim": 16,
    "proj_codevector_dim": 16, "tdnn_dim": (16, 16, 16), "tdnn_kernel": (3, 2, 1), "tdnn_dilation": (1, 1, 1),
    "xvector_output_dim": 16, "classifier_proj_size": 24, "num_labels": 3, "hidden_dropout": 0.0,
    "activation_dropout": 0.0, "attention_dropout": 0.0, "final_dropout": 0.0, "layerdrop": 0.0,
    "apply_spec_augment": False, "ctc_loss_reduction": "mean",
}  # fmt: skip
RANDOM = {name: 0.1 for name, value in WAV2VEC2.items() if value == 0.0} | {
    "layerdrop": 0.5, "apply_spec_augment": True, "mask_time_prob": 0.5, "mask_time_length": 3,
    "mask_feature_prob": 0.3, "mask_feature_length": 4,
}  # fmt: skip
SHALLOW = {"depths": [2], "num_heads": [2]}  # shifted windows, but no merging
SWINS = ["SwinModel", "SwinForImageClassification", "SwinForMaskedImageModeling", "SwinBackbone"]
SOUNDS = [f"Wav2Vec2{kind}" for kind in (
    "Model", "ForPreTraining", "ForCTC", "ForSequenceClassification", "ForAudioFrameClassification", "ForXVector",
)]  # fmt: skip
EVERY = [*CLASSES, *SWINS, *SOUNDS]
QUIET = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "max_position_embeddings": 64}


def pair(name: str, folder: Path, **values: Any) -> tuple[Any, Any]:
    """The transformers model, every number random, and ours."""
    if name in CLASSES:
        quiet = {**QUIET, "classifier_dropout": 0.0} if "DistilBert" in name else QUIET
        theirs = reference(name, **{**quiet, **values})
    else:
        family = getattr(transformers, name)
        torch.manual_seed(0)
        theirs = family(family.config_class(**{**(SWIN if name in SWINS else WAV2VEC2), **values})).eval()
        with torch.no_grad():
            for path, parameter in theirs.named_parameters():
                parameter.normal_(1.0 if "norm" in path.lower() and path.endswith("weight") else 0.0, 0.2)
    theirs.save_pretrained(folder)
    return theirs, getattr(minitrans, name).from_pretrained(folder)


def given(model: Any, size: int = 11, *, masked: bool = False, labels: bool = False) -> dict[str, Tensor]:
    """Inputs and labels for any class, `size` tokens or frames in the longest row; an image's size is the model's."""
    name, config = type(model).__name__, model.config
    torch.manual_seed(size)
    if name in SWINS:
        patches = (config.image_size // config.patch_size) ** 2
        inputs = {"pixel_values": torch.randn(BATCH, 3, config.image_size, config.image_size)}
        if name == "SwinForMaskedImageModeling":
            inputs["bool_masked_pos"] = torch.randint(0, 2, (BATCH, patches)).bool()
        return {**inputs, "labels": torch.tensor([0, 2])} if labels and "Classification" in name else inputs
    if name in SOUNDS:
        samples = 5 * (2 * (2 * size + 1)) + 5  # what this many frames are made of
        lengths = torch.tensor([samples, samples * 2 // 3])
        inputs = {"input_values": torch.randn(BATCH, samples)}
        if masked:
            inputs["attention_mask"] = (torch.arange(samples) < lengths[:, None]).long()
        if name == "Wav2Vec2ForPreTraining":
            inputs["mask_time_indices"] = (torch.arange(size) % 3 == 1).expand(BATCH, -1) & (torch.arange(size) < 7)
            if labels:
                inputs["sampled_negative_indices"] = torch.arange(BATCH * size * 2).view(BATCH, size, 2) % 7
        elif labels and name != "Wav2Vec2Model":
            frames = torch.randint(0, 3, (BATCH, size))
            kinds = {
                "Wav2Vec2ForCTC": torch.tensor([[3, 4], [5, -100]]),
                "Wav2Vec2ForAudioFrameClassification": frames,
            }
            inputs["labels"] = kinds.get(name, torch.tensor([0, 2]))
        return inputs
    shape = (BATCH, 3, size) if "Choice" in name else (BATCH, size)
    inputs = {"input_ids": torch.randint(1, config.vocab_size, shape)}
    if masked:
        inputs["attention_mask"] = (torch.rand(shape).argsort(-1) < size * 2 // 3).long()
    if labels:
        tokens, one = torch.randint(0, 2, shape), torch.tensor([0, 1])
        kinds = {
            "PreTraining": {"labels": tokens, "next_sentence_label": one},
            "MaskedLM": {"labels": tokens},
            "TokenClassification": {"labels": tokens},
            "QuestionAnswering": {"start_positions": one, "end_positions": one + 1},
            "Model": {},
        }
        inputs |= kinds.get(name.rpartition("Bert")[2].removeprefix("For"), {"labels": one})
    return inputs


def tensors(output: Any) -> list[Tensor]:
    """All tensors of an output, of its maps too."""
    values = list(output.values())
    return [x for value in values for x in (value if isinstance(value, tuple) else (value,))]


def step(model: Any, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The gradients of a training step; without labels, of the outputs' squares."""
    model.zero_grad()
    output = model(**inputs)
    loss = output["loss"] if "loss" in output else sum(x.float().square().mean() for x in tensors(output))
    loss.backward()
    module = getattr(model, "_orig_mod", model)
    return {path: x.grad.clone() for path, x in module.named_parameters() if x.grad is not None}


def same_gradients(model: Any, compiled: Any, inputs: dict[str, Tensor], tolerance: float) -> None:
    expected, found = (step(one, inputs) for one in (model, compiled))
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    assert found.keys() == expected.keys()
    for path, gradient in found.items():
        assert float((gradient - expected[path]).abs().max()) <= tolerance * largest, path


# Heads of a family share most kernels, and the time that a C++ compiler takes for them.
COMBINATIONS = [
    *((name, False, True, "float32", {"num_hidden_layers": 1}) for name in CLASSES),
    *((name, False, False, "bfloat16", {}) for name in SWINS),
    *((name, False, True, "float32", {"num_hidden_layers": 1}) for name in SOUNDS),
    ("DistilBertForTokenClassification", True, False, "bfloat16", {"num_hidden_layers": 1}),
    ("SwinForImageClassification", True, False, "float32", SHALLOW),
    ("Wav2Vec2ForAudioFrameClassification", True, False, "bfloat16", {"num_hidden_layers": 1}),
]


@pytest.mark.needs("a C++ compiler")
@pytest.mark.parametrize(("name", "training", "masked", "dtype", "values"), COMBINATIONS)
def test_inductor_compiles_every_class(name, training, masked, dtype, values, tmp_path):
    """With the numbers that the model has uncompiled."""
    _, ours = pair(name, tmp_path, **values)
    torch._dynamo.reset()
    ours = ours.to(getattr(torch, dtype)).train(training)
    inputs = given(ours, masked=masked, labels=training)
    inputs = {key: x.to(ours.dtype) if x.is_floating_point() else x for key, x in inputs.items()}
    compiled = torch.compile(ours, fullgraph=True)
    exact = dtype == "float32"
    if training:
        same_gradients(ours, compiled, inputs, 1e-4 if exact else 0.05)
        return
    with torch.no_grad():
        for x, y in zip(tensors(compiled(**inputs)), tensors(ours(**inputs)), strict=True):
            assert relative(x.float(), y.float()) <= (1e-4 if exact else 0.1)


@pytest.mark.parametrize("masked", [False, True])
def test_a_loss_that_torch_cannot_compile_stays_outside_the_graph(masked, tmp_path):
    """Torch's own CTC loss: no `fullgraph` in training."""
    _, ours = pair("Wav2Vec2ForCTC", tmp_path, num_hidden_layers=1)
    torch._dynamo.reset()
    compiled = torch.compile(ours.train(), backend="aot_eager")
    same_gradients(ours, compiled, given(ours, masked=masked, labels=True), 1e-4)


ONCE = [
    "BertModel", "BertForPreTraining", "BertForQuestionAnswering", "DistilBertForMultipleChoice",
    "DistilBertForTokenClassification", "Wav2Vec2Model", "Wav2Vec2ForPreTraining", "Wav2Vec2ForCTC",
    "Wav2Vec2ForXVector",
]  # fmt: skip


@pytest.mark.parametrize("name", ONCE)
def test_two_graphs_do_for_all_lengths(name, tmp_path):
    """Without a mask; the first is of one length, and the second of any."""
    theirs, ours = pair(name, tmp_path, num_hidden_layers=1)
    torch._dynamo.reset()
    counter = CompileCounter()
    compiled = torch.compile(ours, backend=counter, fullgraph=True)
    for size in range(9, 49, 2):
        inputs = given(ours, size)
        with torch.no_grad():
            for x, y in zip(tensors(compiled(**inputs)), tensors(theirs(**inputs)), strict=True):
                assert x.dim() == 0 or relative(x, y) <= 1e-4
    assert counter.frame_count <= 2


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", ["BertForMaskedLM", "Wav2Vec2ForSequenceClassification"])
def test_two_graphs_do_for_training(name, masked, tmp_path):
    """With all that is random in a training step: dropout, masked frames and channels, layers left out."""
    _, ours = pair(name, tmp_path, **(RANDOM if name in SOUNDS else {"hidden_dropout_prob": 0.1}))
    torch._dynamo.reset()
    counter = CompileCounter()
    compiled = torch.compile(ours.train(), backend=counter, fullgraph=True)
    losses = []
    for seed, size in enumerate((11, 11, 17, 20, 26)):
        inputs = given(ours, size, masked=masked, labels=True)
        torch.manual_seed(seed)
        losses.append(compiled(**inputs).loss.item())
    assert counter.frame_count <= 2
    assert losses[0] != losses[1]
    assert all(0 < loss < 100 for loss in losses)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*deprecated:DeprecationWarning")
@pytest.mark.parametrize("name", EVERY)
def test_traced_as_in_transformers(name, tmp_path):
    """The usual output becomes a dict, which torch.jit.trace takes with `strict=False`; a tuple needs nothing."""
    theirs, ours = pair(name, tmp_path)
    inputs = given(ours)
    inputs.pop("mask_time_indices", None)
    with torch.no_grad():
        expected = theirs(**inputs)
        program = torch.jit.trace(ours, example_kwarg_inputs=inputs, strict=False)
        found = program(**inputs)
        assert type(found) is dict
        assert [*found] == [*expected]
        for x, y in zip(tensors(found), tensors(expected), strict=True):
            assert x.dim() == 0 or relative(x, y) <= 1e-4
        with pytest.raises(RuntimeError, match="strict=False"):
            torch.jit.trace(ours, example_kwarg_inputs=inputs)
