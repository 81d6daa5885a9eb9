"""Wav2Vec2 against transformers on random checkpoints: numbers, losses, gradients, files."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor

import minitrans

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

TINY: dict[str, Any] = {
    "vocab_size": 19,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 37,
    "conv_dim": (12, 16, 12),
    "conv_stride": (5, 2, 2),
    "conv_kernel": (10, 3, 2),
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 4,
    "num_codevectors_per_group": 7,
    "codevector_dim": 12,
    "proj_codevector_dim": 10,
    "classifier_proj_size": 9,
    "tdnn_dim": (14, 10, 15),
    "tdnn_kernel": (5, 3, 1),
    "tdnn_dilation": (1, 2, 1),
    "xvector_output_dim": 11,
    "num_labels": 5,
    "attn_implementation": "eager",
}
SHAPES: dict[str, dict[str, Any]] = {
    "group norm": {},
    "layer norm, pre-norm, bias": {
        "feat_extract_norm": "layer",
        "do_stable_layer_norm": True,
        "conv_bias": True,
    },
    "group norm, pre-norm, bias, odd positions": {
        "do_stable_layer_norm": True,
        "conv_bias": True,
        "num_conv_pos_embeddings": 7,
        "num_conv_pos_embedding_groups": 1,
    },
    "layer norm, post-norm, other activations and eps": {
        "feat_extract_norm": "layer",
        "feat_extract_activation": "relu",
        "hidden_act": "gelu_new",
        "layer_norm_eps": 1e-3,
        "num_conv_pos_embedding_groups": 24,
    },
    "one convolution, positions of one tap, no masks": {
        "conv_dim": (12,),
        "conv_stride": (3,),
        "conv_kernel": (7,),
        "num_conv_pos_embeddings": 1,
        "mask_time_prob": 0.0,
    },
    "long kernels, stride 1, silu": {
        "conv_dim": (8, 16),
        "conv_stride": (4, 1),
        "conv_kernel": (31, 5),
        "feat_extract_activation": "silu",
        "num_conv_pos_embeddings": 128,
    },
    "no layer": {"num_hidden_layers": 0},
}
ADAPTERS: dict[str, dict[str, Any]] = {
    "adapter": {"add_adapter": True},
    "adapter of another size": {
        "add_adapter": True,
        "output_hidden_size": 18,
        "num_adapter_layers": 2,
        "adapter_kernel_size": 4,
        "adapter_stride": 3,
    },
    "adapters of languages": {"do_stable_layer_norm": True, "adapter_attn_dim": 6},
}
LAYER_NORM = {"feat_extract_norm": "layer", "do_stable_layer_norm": True}
HEADS = ["ForPreTraining", "ForCTC", "ForSequenceClassification", "ForAudioFrameClassification", "ForXVector"]


def reference(name: str = "Model", seed: int = 0, **values: Any) -> Any:
    """A transformers model in evaluation mode, every number random, biases and norms included."""
    torch.manual_seed(seed)
    config = transformers.Wav2Vec2Config(**{**TINY, **values})
    model = getattr(transformers, f"Wav2Vec2{name}")(config)
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            centre = 1.0 if path.endswith("norm.weight") or "original0" in path else 0.0
            parameter.normal_(centre, 0.5 if "conv" in path else 0.2)
    return model.eval()


def pair(folder: Path, name: str = "Model", seed: int = 0, **values: Any) -> tuple[Any, Any]:
    """The transformers model, and ours loaded from what it saved in `folder`."""
    theirs = reference(name, seed, **values)
    theirs.save_pretrained(folder)
    ours = getattr(minitrans, f"Wav2Vec2{name}").from_pretrained(folder, strict=True)
    return theirs, ours


def sound(*lengths: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Clips of so many samples as a batch, with its mask."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return torch.randn(mask.shape, generator=generator) * mask, mask.long()


def relative(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference over the largest value."""
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max() / theirs.abs().max().clamp_min(1e-30))


def agree(ours: Any, theirs: Any, names: list[str], limit: float = 2e-5) -> None:
    for name in names:
        here, there = ours[name], theirs[name]
        pairs = zip(here, there, strict=True) if isinstance(there, tuple) else [(here, there)]
        for index, (x, y) in enumerate(pairs):
            assert relative(x, y) < limit, (name, index, relative(x, y))


@pytest.mark.parametrize("shape", [*SHAPES, *ADAPTERS])
@torch.no_grad()
def test_model_equals_transformers(shape: str, tmp_path: Path) -> None:
    theirs, ours = pair(tmp_path, **{**SHAPES, **ADAPTERS}[shape])
    samples, _ = sound(600, 600)
    options = {"output_hidden_states": True, "output_attentions": True}
    names = ["last_hidden_state", "extract_features"]
    if ours.config.num_hidden_layers:
        names += ["hidden_states", "attentions"]
    agree(ours(samples, **options), theirs(samples, **options), names)


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("norm", ["group", "layer"])
@torch.no_grad()
def test_heads_equal_transformers(name: str, norm: str, tmp_path: Path) -> None:
    theirs, ours = pair(tmp_path, name, feat_extract_norm=norm)
    samples, _ = sound(600, 600)
    expected, found = theirs(samples), ours(samples)
    agree(found, expected, [key for key in expected if isinstance(expected[key], Tensor)])
    assert list(found) == list(expected)


@torch.no_grad()
def test_masked_layer_norm_checkpoint_equals_transformers(tmp_path: Path) -> None:
    theirs, ours = pair(tmp_path, "ForCTC", **LAYER_NORM)
    samples, mask = sound(900, 431, 29 + 5 + 10)
    expected = theirs(samples, attention_mask=mask).logits
    found = ours(samples, attention_mask=mask).logits
    for clip, length in enumerate(mask.sum(1).tolist()):
        frames = ours.wav2vec2.features.frames(length)
        assert relative(found[clip, :frames], expected[clip, :frames]) < 2e-5
