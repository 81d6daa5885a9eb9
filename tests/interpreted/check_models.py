"""Whole tiny models on the kernels give the numbers they give in plain torch."""

import pytest
import torch

import minitrans
from minitrans import ops
from minitrans.auto import AutoConfig, AutoModel

SIZES = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
MASK = torch.tensor([[1] * 20, [1] * 7 + [0] * 13])
TOKENS = {"input_ids": torch.randint(1, 60, (2, 20)), "attention_mask": MASK}
SOUND = {"input_values": torch.randn(2, 1600), "attention_mask": torch.arange(1600) < torch.tensor([[1600], [900]])}

MODELS = {
    "bert": ({**SIZES, "vocab_size": 60}, TOKENS),
    "distilbert": ({"vocab_size": 60, "dim": 48, "n_layers": 2, "n_heads": 2, "hidden_dim": 64}, TOKENS),
    "swin": (
        {"image_size": 28, "embed_dim": 16, "depths": [2, 2], "num_heads": [1, 2], "window_size": 4},
        {"pixel_values": torch.randn(2, 3, 28, 28)},
    ),
    "wav2vec2": (
        {
            **SIZES,
            "conv_dim": [16] * 7,
            "num_conv_pos_embeddings": 8,
            "num_conv_pos_embedding_groups": 2,
            "layerdrop": 0.0,
            "mask_time_prob": 0.0,
        },
        SOUND,
    ),
}
KERNELS = {
    "bert": {"attention", "bias_gelu", "embedding_layer_norm", "layer_norm"},
    "distilbert": {"attention", "bias_gelu", "embedding_layer_norm", "layer_norm"},
    "swin": {"window_attention", "bias_gelu", "layer_norm", "merge_layer_norm"},
    "wav2vec2": {"attention", "bias_gelu", "convolution", "layer_norm"},
}
WITHOUT_GRADIENTS = {"convolution"}


@pytest.mark.parametrize("name", MODELS)
def test_model(name, monkeypatch):
    values, inputs = MODELS[name]
    model = AutoModel.from_config(AutoConfig.for_model(name, **values)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    chosen = []
    choose = ops._kernel

    def remember(kernel, *arguments, **options):
        module = choose(kernel, *arguments, **options)
        chosen.append((kernel, module is not None))
        return module

    with torch.inference_mode():
        with minitrans.engine("plain"):
            expected = model(**inputs).last_hidden_state
        monkeypatch.setattr(ops, "_kernel", remember)
        with minitrans.engine("triton"):
            result = model(**inputs).last_hidden_state
    assert {kernel for kernel, ran in chosen if ran} == KERNELS[name]
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_training(name, monkeypatch):
    values, inputs = MODELS[name]
    model = AutoModel.from_config(AutoConfig.for_model(name, **values)).eval()
    chosen = set()

    def as_on_a_gpu(kernel, *arguments, objection=None, **options):
        module, _ = ops._import(kernel)
        if objection or module.why_not(*arguments, **options):
            return None
        chosen.add(kernel)
        return module

    def gradients():
        model.zero_grad()
        model(**inputs).last_hidden_state.square().mean().backward()
        return {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}

    expected = gradients()
    monkeypatch.setattr(ops, "_kernel", as_on_a_gpu)
    result = gradients()
    assert chosen == KERNELS[name] - WITHOUT_GRADIENTS
    assert result.keys() == expected.keys()
    for path, gradient in result.items():
        torch.testing.assert_close(gradient, expected[path], rtol=1e-3, atol=1e-6)
    chosen.clear()
    model.train()  # with the dropout that published configurations have
    assert all(gradient.isfinite().all() for gradient in gradients().values())
    assert chosen >= KERNELS[name] & {"attention"}
