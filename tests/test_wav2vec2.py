"""Wav2Vec2 against transformers on random checkpoints: numbers, losses, gradients, files."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor

import minitrans
from minitrans import audio_layers

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
DROPOUTS = ("hidden_dropout", "activation_dropout", "attention_dropout", "feat_proj_dropout", "final_dropout")
QUIET: dict[str, Any] = dict.fromkeys((*DROPOUTS, "layerdrop"), 0.0)
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
    """Clips of these numbers of samples as a batch, with its mask."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return torch.randn(mask.shape, generator=generator) * mask, mask.long()


def relative(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference over the largest value."""
    assert ours.shape == theirs.shape
    return float((ours - theirs).detach().abs().max() / theirs.detach().abs().max().clamp_min(1e-30))


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
        frames = ours.wav2vec2.feature_encoder.frames(length)
        assert relative(found[clip, :frames], expected[clip, :frames]) < 2e-5


@torch.no_grad()
def test_masked_heads_of_a_layer_norm_checkpoint_equal_transformers(tmp_path: Path) -> None:
    samples, mask = sound(900, 600)
    for name, values in (
        ("ForSequenceClassification", {}),
        ("ForSequenceClassification", {"use_weighted_layer_sum": True}),
        ("ForXVector", {"tdnn_dilation": (1, 1, 1)}),  # with dilation, transformers averages frames that are not there
    ):
        theirs, ours = pair(tmp_path / f"{name}{len(values)}", name, **LAYER_NORM, **values)
        expected, found = theirs(samples, attention_mask=mask), ours(samples, attention_mask=mask)
        agree(found, expected, list(expected))


@pytest.mark.parametrize("shape", ["group norm", "layer norm, pre-norm, bias", "adapter"])
@torch.no_grad()
def test_a_clip_gives_the_same_numbers_alone_and_in_a_batch(shape: str, tmp_path: Path) -> None:
    """And transformers does not, for group norm: it takes the padding into the statistics."""
    theirs, ours = pair(tmp_path, **{**SHAPES, **ADAPTERS}[shape])
    differences: dict[Any, list[float]] = {ours: [], theirs: []}
    for seed in range(4):
        lengths = torch.randint(60, 2000, (5,), generator=torch.Generator().manual_seed(seed)).tolist()
        samples, mask = sound(*lengths, seed=seed)
        for model, seen in differences.items():
            batch = model(samples, attention_mask=mask).last_hidden_state
            for clip, length in enumerate(lengths):
                alone = model(samples[clip : clip + 1, :length]).last_hidden_state[0]
                seen.append(relative(batch[clip, : len(alone)], alone))
                if model is ours:
                    assert batch[clip, len(alone) :].eq(0).all()
    assert max(differences[ours]) < 1e-5
    if shape != "layer norm, pre-norm, bias":
        assert max(differences[theirs]) > 0.05


@pytest.mark.parametrize("norm", ["group", "layer"])
@torch.no_grad()
def test_every_head_gives_the_same_alone_and_in_a_batch(norm: str) -> None:
    samples, mask = sound(900, 333, 512)
    for name in HEADS:
        ours = minitrans.AutoModelForCTC if name == "ForCTC" else getattr(minitrans, f"Wav2Vec2{name}")
        ours = ours.from_config(minitrans.Wav2Vec2Config(**{**TINY, "feat_extract_norm": norm})).eval()
        batch = ours(samples, attention_mask=mask)
        output = "projected_states" if name == "ForPreTraining" else "logits"
        for clip, length in enumerate(mask.sum(1).tolist()):
            alone = ours(samples[clip : clip + 1, :length])[output][0]
            here = batch[output][clip] if alone.dim() == 1 else batch[output][clip, : len(alone)]
            assert relative(here, alone) < 1e-5, name


@torch.no_grad()
def test_without_a_mask_the_whole_row_counts(tmp_path: Path) -> None:
    theirs, ours = pair(tmp_path)
    samples, _ = sound(900, 400)
    agree(ours(samples), theirs(samples), ["last_hidden_state"])


@torch.no_grad()
def test_frames_beyond_the_end_are_blank(tmp_path: Path) -> None:
    _, ours = pair(tmp_path, "ForCTC", pad_token_id=4)
    samples, mask = sound(900, 400)
    logits = ours(samples, attention_mask=mask).logits
    frames = ours.wav2vec2.feature_encoder.frames(400)
    assert (logits[1, frames:].argmax(-1) == 4).all()
    assert logits[1, frames:].log_softmax(-1)[:, 4].eq(0).all()


def test_blocks_give_what_the_whole_gives() -> None:
    """A clip longer than a block of frames, with autograd (whole) and without (block by block)."""
    torch.manual_seed(0)
    for values in ({}, {"feat_extract_norm": "layer"}, {"conv_kernel": (10, 1, 2), "conv_stride": (5, 2, 3)}):
        encoder = minitrans.Wav2Vec2Model(minitrans.Wav2Vec2Config(**{**TINY, **values})).feature_encoder
        clip = torch.randn(128 * 30 * 3 + 17)
        whole = encoder(clip)
        with torch.no_grad():
            assert relative(encoder(clip), whole) < 1e-5
        assert encoder.frames(encoder.samples(len(whole))) == len(whole)


def _difficult() -> dict[str, Tensor]:
    time = torch.arange(8000) / 16000
    speech = torch.sin(2 * torch.pi * 220 * time) * torch.sin(2 * torch.pi * 3 * time) + 0.01 * torch.randn(8000)
    return {
        "speech": speech,
        "silence": torch.zeros(8000),
        "constant": torch.full((8000,), 0.7),
        "clipped": (5 * speech).clamp(-1, 1),
        "offset of 100": speech + 100,
        "offset of -1000, faint": 0.01 * speech - 1000,
        "amplitude of 1e-6": 1e-6 * speech,
        "amplitude of 1e4": 1e4 * speech,
        "one click": torch.zeros(8000).index_fill(0, torch.tensor([4321]), 1.0),
    }


@torch.no_grad()
def test_group_norm_from_the_covariance_is_as_exact_as_float32() -> None:
    """Against the same layer computed straight in float64, whatever the sound."""
    torch.manual_seed(0)
    model = reference().feature_extractor.conv_layers[0]
    ours = minitrans.Wav2Vec2Model(minitrans.Wav2Vec2Config(**TINY)).feature_encoder.layers[0]
    ours.conv.weight.copy_(model.conv.weight)
    ours.norm.load_state_dict(model.layer_norm.state_dict())
    exact = model.double()
    for name, clip in _difficult().items():
        samples = clip[:, None]
        expected = exact(clip.double()[None, None])[0].T
        found = ours.prepared(samples)(samples)
        assert found.isfinite().all()
        assert relative(found.double(), expected) < 5e-6, name


@pytest.mark.parametrize("trains", [False, True])
@pytest.mark.parametrize("graded", [False, True])
def test_frames_are_computed_in_blocks_where_no_gradient_is_wanted(
    graded: bool, trains: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of which one is in memory at a time; a gradient needs all of them."""
    encoder = minitrans.Wav2Vec2Model(minitrans.Wav2Vec2Config(**TINY)).feature_encoder.requires_grad_(trains)
    clip, calls, convolution = torch.randn(6000), [], audio_layers.ops.convolution
    monkeypatch.setitem(audio_layers.FRAMES_AT_ONCE, "cpu", 50)
    monkeypatch.setattr(audio_layers.ops, "convolution", lambda *x, **y: calls.append(1) or convolution(*x, **y))
    with torch.set_grad_enabled(graded):
        frames = encoder(clip)
    blocks = 1 if graded and trains else -(-len(frames) // 50)
    assert len(calls) == blocks * len(encoder.layers)


@torch.no_grad()
@pytest.mark.parametrize("hooked", ["norm", "conv"])
def test_a_norm_that_is_seen_is_of_the_whole_clip(hooked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames are computed in blocks, unless a layer has to have all of them."""
    torch.manual_seed(0)
    encoder = minitrans.Wav2Vec2Model(minitrans.Wav2Vec2Config(**TINY)).feature_encoder
    clip = torch.cat([torch.randn(3000), 5 * torch.randn(3000)])
    monkeypatch.setitem(audio_layers.FRAMES_AT_ONCE, "cpu", 50)
    expected, seen = encoder(clip), []
    with getattr(encoder.layers[0], hooked).register_forward_hook(lambda _, inputs, output: seen.append(output)):
        assert relative(encoder(clip), expected) < 1e-5
    assert len(seen) == 1


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_group_norm_of_clips_together_is_that_of_each(dtype) -> None:
    """As a traced model computes it, with noise for padding; sums over a clip exceed what float16 holds."""
    torch.manual_seed(0)
    layer = minitrans.Wav2Vec2Model(minitrans.Wav2Vec2Config(**TINY)).feature_encoder.layers[0].to(dtype)
    layer.conv.weight.mul_(20)
    clips, counts = torch.randn(3, 48_000), torch.tensor([48_000, 30_000, 400])
    clips[1] += 5
    exact, weight = clips.to(dtype).double(), layer.conv.weight.double()
    found = layer.forward_padded(clips.to(dtype)[..., None], counts).double()
    for clip, count, rows in zip(exact, counts.tolist(), found, strict=True):
        frames = torch.nn.functional.conv1d(clip[None, None, :count], weight, stride=layer.conv.stride)
        assert frames.square().sum() > (65504 if count > 400 else 0)
        norm = torch.nn.functional.group_norm(frames, frames.shape[1], eps=layer.norm.eps)
        expected = torch.nn.functional.gelu(norm)[0].T
        assert relative(rows[: len(expected)], expected) <= 4 * torch.finfo(dtype).eps + 4e-6


def test_positions_follow_their_parameters() -> None:
    """The filter is kept between calls, and made anew once a parameter is another, however it was changed."""
    torch.manual_seed(0)
    model = minitrans.Wav2Vec2Model(minitrans.Wav2Vec2Config(**TINY)).eval()
    samples, _ = sound(900)
    expected = model(samples).last_hidden_state
    for change in (
        lambda: None,
        lambda: model.positions.weight.original1.data.neg_(),
        lambda: model.positions.weight.original0.data.mul_(2),
        lambda: setattr(
            model.positions.weight, "original1", torch.nn.Parameter(-model.positions.weight.original1.detach())
        ),
        lambda: model.load_state_dict(minitrans.Wav2Vec2Model(model.config).state_dict()),
    ):
        change()
        expected = model(samples).last_hidden_state
        for _ in range(2):
            with torch.inference_mode():
                assert relative(model(samples).last_hidden_state, expected) < 1e-5
    model.positions.requires_grad_(False)  # what inference kept may be trained through
    model(samples).last_hidden_state.sum().backward()
    assert model.feature_encoder.layers[0].conv.weight.grad is not None
    double = model.double()(samples.double()).last_hidden_state
    assert relative(double.float(), expected) < 1e-4


STEPS: dict[str, dict[str, Any]] = {
    "group norm": {},
    "layer norm": {**LAYER_NORM, "conv_bias": True},
    "adapters": {"add_adapter": True, "output_hidden_size": 18, "adapter_attn_dim": 6, "do_stable_layer_norm": True},
}


@pytest.mark.parametrize("step", STEPS)
def test_one_step_of_training_is_saved_as_transformers_saves_it(step: str, tmp_path: Path) -> None:
    theirs, ours = pair(tmp_path / "start", "ForCTC", **STEPS[step])
    samples, mask = sound(900, 900)
    labels = torch.tensor([[3, 5, 5, 7, -100], [1, 2, 0, 0, 0]])
    saved = []
    for model, folder in ((theirs, tmp_path / "theirs"), (ours, tmp_path / "ours")):
        loss = model(samples, attention_mask=mask, labels=labels).loss
        saved.append(loss.detach())
        loss.backward()
        torch.optim.SGD(model.parameters(), lr=1e-2).step()
        model.save_pretrained(folder)
    assert relative(saved[1], saved[0]) < 2e-5
    start, expected, found = (load_file(tmp_path / name / "model.safetensors") for name in ("start", "theirs", "ours"))
    assert found.keys() == expected.keys()
    for name in expected:
        assert relative(found[name], expected[name]) < 2e-5, name
        moved = (expected[name] - start[name]).abs().max()
        assert (found[name] - expected[name]).abs().max() <= 1e-3 * moved + 1e-6, name
    again, info = transformers.Wav2Vec2ForCTC.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    with torch.no_grad():
        agree(ours.eval()(samples), again.eval()(samples), ["logits"])


def _losses(name: str) -> dict[str, Any]:
    """The inputs that give a head a loss, for two clips of 600 samples (28 frames)."""
    generator = torch.Generator().manual_seed(0)
    frames = minitrans.Wav2Vec2Model(minitrans.Wav2Vec2Config(**TINY)).feature_encoder.frames(600)
    if name == "ForPreTraining":
        masked = torch.rand(2, frames, generator=generator) < 0.4
        others = torch.randint(0, 2 * frames, (2, frames, 6), generator=generator)
        return {"mask_time_indices": masked, "sampled_negative_indices": others}
    if name == "ForCTC":
        return {"labels": torch.randint(0, 19, (2, 7), generator=generator)}
    if name == "ForAudioFrameClassification":
        classes = torch.randint(0, 5, (2, frames), generator=generator)
        return {"labels": torch.nn.functional.one_hot(classes, 5)}
    return {"labels": torch.randint(0, 5, (2,), generator=generator)}


@pytest.mark.parametrize("name", HEADS)
def test_losses_and_gradients_equal_transformers(name: str, tmp_path: Path) -> None:
    given = 0.05 if name == "ForPreTraining" else 0.0  # its masked frames are given, others would be drawn
    values = {**QUIET, "mask_time_prob": given, "use_weighted_layer_sum": True}
    theirs, ours = pair(tmp_path, name, **values)
    samples, _ = sound(600, 600)
    for model in (theirs, ours):
        model.train()
        torch.manual_seed(5)  # pre-training draws codes
        model.output = model(samples, **_losses(name))
        model.output.loss.backward()
    agree(ours.output, theirs.output, [key for key in theirs.output if key != "hidden_states"])
    gradients = {path: tensor.grad for path, tensor in theirs.named_parameters()}
    for name, tensor in ours.named_parameters():
        expected = gradients[name]
        if tensor.grad is not None and not name.endswith("k_proj.bias"):  # it cannot change a softmax: only rounding
            scale = max(float(expected.abs().max()), 1e-4 * float(theirs.output.loss.detach()))
            assert float((tensor.grad - expected).abs().max()) < 1e-3 * scale, name


@pytest.mark.parametrize("reduction", ["sum", "mean", "none"])
@torch.no_grad()
def test_ctc_loss_of_a_padded_batch_is_that_of_its_clips(reduction: str) -> None:
    config = minitrans.Wav2Vec2Config(**{**TINY, "ctc_loss_reduction": reduction, "ctc_zero_infinity": True})
    model = minitrans.Wav2Vec2ForCTC(config).eval()
    samples, mask = sound(900, 500)
    labels = torch.tensor([[3, 5, 5, 7], [1, 2, -100, -100]])
    loss = model(samples, attention_mask=mask, labels=labels).loss
    alone = torch.stack([
        model(samples[:1], labels=labels[:1]).loss.squeeze(),
        model(samples[1:, :500], labels=labels[1:, :2]).loss.squeeze(),
    ])  # fmt: skip
    combined = {"sum": alone.sum(), "mean": alone.mean(), "none": alone}[reduction]
    assert relative(loss, combined) < 1e-5


@pytest.mark.parametrize("zero", [False, True])
def test_more_tokens_than_frames(zero: bool, tmp_path: Path) -> None:
    """An infinite loss, or none where the configuration says so."""
    theirs, ours = pair(tmp_path, "ForCTC", ctc_zero_infinity=zero)
    samples, _ = sound(100, 600)
    labels = torch.arange(1, 15).expand(2, -1)
    samples = samples[:, :100]
    loss = ours(samples, labels=labels).loss
    assert loss == theirs(samples, labels=labels).loss == (0.0 if zero else float("inf"))


@pytest.mark.parametrize("name", HEADS[2:])
@torch.no_grad()
def test_layers_in_a_weighted_sum_are_given_where_asked_for(name: str) -> None:
    samples, _ = sound(600)
    states = {}
    for kept in (False, True):
        config = minitrans.Wav2Vec2Config(**{**TINY, "use_weighted_layer_sum": True, "output_hidden_states": kept})
        model = getattr(minitrans, f"Wav2Vec2{name}")(config).eval()
        for asked in (None, False, True):
            states[kept, asked] = model(samples, output_hidden_states=asked).get("hidden_states")
    for (kept, asked), found in states.items():
        assert (found is not None) is (kept if asked is None else asked)
        assert found is None or len(found) == 3


@pytest.mark.parametrize("training", [False, True])
def test_pretraining_in_half_precision(training: bool, tmp_path: Path) -> None:
    """Scores of codes and of frames are compared in float32, as in transformers."""
    theirs, ours = pair(tmp_path, "ForPreTraining", **{**QUIET, "mask_time_prob": 0.05})
    samples, _ = sound(600, 600)
    outputs = []
    for model in (theirs, ours):
        torch.manual_seed(0)
        outputs.append(model.bfloat16().train(training)(samples.bfloat16(), **_losses("ForPreTraining")))
    for key in ("loss", "contrastive_loss", "diversity_loss", "codevector_perplexity"):
        there, here = (output[key] for output in outputs)
        assert here.dtype == there.dtype, key
        assert relative(here.float(), there.float()) < 0.03, key
    outputs[1].loss.backward()


@torch.no_grad()
def test_frame_labels_in_every_form() -> None:
    """Classes, one-hot of any dtype: the same loss."""
    model = minitrans.Wav2Vec2ForAudioFrameClassification(minitrans.Wav2Vec2Config(**TINY)).eval()
    samples, _ = sound(600, 600)
    one_hot = _losses("ForAudioFrameClassification")["labels"]
    expected = model(samples, labels=one_hot.argmax(2)).loss
    for dtype in (torch.int64, torch.bool, torch.float32, torch.uint8):
        assert torch.equal(model(samples, labels=one_hot.to(dtype)).loss, expected), dtype


@pytest.mark.parametrize(
    "values",
    [
        {"mask_time_prob": 0.3, "mask_time_length": 3},
        {"mask_time_prob": 0.05, "mask_time_length": 2, "mask_time_min_masks": 4},
        {"mask_time_prob": 0.0, "mask_feature_prob": 0.3, "mask_feature_length": 4},
        {"mask_time_prob": 0.0, "mask_feature_prob": 0.02, "mask_feature_length": 3, "mask_feature_min_masks": 3},
        {"mask_time_prob": 0.2, "mask_time_length": 2, "mask_feature_prob": 0.4, "mask_feature_length": 5},
    ],
)
def test_a_seed_of_numpy_masks_what_it_masks_in_transformers(values: dict[str, Any], tmp_path: Path) -> None:
    models, (samples, _) = pair(tmp_path, "Model", **{**QUIET, **values}), sound(9000, 9000)
    found = []
    for model in models:
        np.random.seed(3)
        found.append(model.train()(samples).last_hidden_state)
    assert relative(found[1], found[0]) < 1e-4
    assert relative(models[1].eval()(samples).last_hidden_state, found[1]) > 1e-2


@pytest.mark.parametrize("shape", ["group norm", "layer norm, pre-norm, bias", *ADAPTERS])
@torch.no_grad()
def test_layers_are_left_out_as_in_transformers(shape: str, tmp_path: Path) -> None:
    """With a rate of 1 all of them in training, those of an adapter too, and none in evaluation."""
    values = {**SHAPES, **ADAPTERS}[shape]
    theirs, ours = pair(tmp_path, **{**QUIET, **values, "layerdrop": 1.0, "mask_time_prob": 0.0})
    samples, _ = sound(600, 600)
    agree(ours(samples), theirs(samples), ["last_hidden_state"])
    agree(ours.train()(samples), theirs.train()(samples), ["last_hidden_state", "extract_features"])


def traced(**values: Any) -> tuple[Any, Any, Tensor]:
    """A model in training, what torch.jit.trace writes down of it, and samples."""
    torch.manual_seed(0)
    config = minitrans.Wav2Vec2Config(**{**TINY, **QUIET, "num_hidden_layers": 1, "initializer_range": 0.2,
                                         "mask_time_prob": 0.0, **values})  # fmt: skip
    model, (samples, _) = minitrans.Wav2Vec2Model(config).train(), sound(600, 600)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model, torch.jit.trace(model, samples, strict=False, check_trace=False), samples


@pytest.mark.parametrize("shape", ["group norm", "layer norm, pre-norm, bias", "adapter", "adapter of another size"])
@torch.no_grad()
def test_a_trace_gives_the_same_numbers_for_other_sounds(shape: str) -> None:
    model, _, samples = traced(**{**SHAPES, **ADAPTERS}[shape])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.jit.trace(model.eval(), samples, strict=False, check_trace=False)
    other = 3 * samples.flip(1) + 1
    agree(program(other), model(other), ["last_hidden_state", "extract_features"])


@torch.no_grad()
def test_a_trace_leaves_layers_out_anew_each_time() -> None:
    for rate in (0.5, 1.0, 1e-9):
        model, program, samples = traced(layerdrop=rate)
        model.layers[0].layerdrop = 1.0
        without = model(samples).last_hidden_state
        whole = model.eval()(samples).last_hidden_state
        assert relative(without, whole) > 1e-2
        found = [program(samples)["last_hidden_state"] for _ in range(20)]
        left_out = [relative(states, without) < 1e-5 for states in found]
        assert all(out or relative(states, whole) < 1e-5 for out, states in zip(left_out, found, strict=True))
        assert set(left_out) == {0.5: {True, False}, 1.0: {True}, 1e-9: {False}}[rate]


@pytest.mark.parametrize("values", [{"mask_time_prob": 0.3, "mask_time_length": 3}, {"mask_feature_prob": 0.3}])
@torch.no_grad()
def test_a_trace_draws_masks_anew_each_time(values: dict[str, Any]) -> None:
    model, program, samples = traced(**values)
    first, second = (program(samples)["last_hidden_state"] for _ in range(2))
    assert relative(first, second) > 1e-3
    assert relative(first, model.eval()(samples).last_hidden_state) > 1e-3


def test_training_masks_frames_and_channels_and_drops_layers() -> None:
    torch.manual_seed(0)
    samples, mask = sound(4000, 2500)
    config = minitrans.Wav2Vec2Config(**{**TINY, **QUIET, "layerdrop": 1.0, "mask_time_prob": 0.3})
    model = minitrans.Wav2Vec2Model(config)
    output = model(samples, attention_mask=mask, output_hidden_states=True)
    assert all(torch.equal(output.hidden_states[0], state) for state in output.hidden_states)
    model.masked_spec_embed.grad = None
    output.last_hidden_state.sum().backward()
    assert model.masked_spec_embed.grad is not None
    assert not torch.equal(model.eval()(samples, attention_mask=mask).last_hidden_state, output.last_hidden_state)
    config = minitrans.Wav2Vec2Config(**{**TINY, **QUIET, "mask_time_prob": 0.3,
                                         "mask_feature_prob": 0.5, "apply_spec_augment": False})  # fmt: skip
    model = minitrans.Wav2Vec2Model(config)
    trained = model.train()(samples, attention_mask=mask).last_hidden_state
    assert relative(model.eval()(samples, attention_mask=mask).last_hidden_state, trained) < 1e-5


def test_given_frames_are_masked_as_in_transformers(tmp_path: Path) -> None:
    theirs, ours = pair(tmp_path)
    samples, _ = sound(600, 600)
    masked = _losses("ForPreTraining")["mask_time_indices"]
    with pytest.raises(ValueError, match="needs a model with mask_time_prob or mask_feature_prob above 0"):
        minitrans.Wav2Vec2Model(minitrans.Wav2Vec2Config(**{**TINY, "mask_time_prob": 0.0}))(
            samples, mask_time_indices=masked
        )
    with torch.no_grad():
        agree(
            ours(samples, mask_time_indices=masked),
            theirs(samples, mask_time_indices=masked.bool()),
            ["last_hidden_state"],
        )


@pytest.mark.parametrize("seed", range(40))
def test_spans_are_drawn_as_in_transformers(seed: int) -> None:
    """The same ones from the same seed, and the generator is left where transformers leaves it."""
    from transformers.models.wav2vec2.modeling_wav2vec2 import _compute_mask_indices as published

    from minitrans.models.wav2vec2 import _compute_mask_indices

    random = np.random.default_rng(seed)
    width, count = int(random.integers(4, 80)), int(random.integers(1, 5))
    lengths = random.integers(0, width + 1, count)
    lengths[0] = width
    real = (torch.arange(width) < torch.tensor(lengths)[:, None]).long()
    options = float(random.random()), int(random.integers(1, min(width, 8) + 1))
    for mask in (real, None):
        found = []
        for draw in (published, _compute_mask_indices):
            np.random.seed(seed)
            spans = draw((count, width), *options, attention_mask=mask, min_masks=seed % 4)
            found.append((spans & real.numpy().astype(bool) if mask is not None else spans, np.random.rand()))
        assert (found[0][0] == found[1][0]).all()
        assert found[0][1] == found[1][1]


@pytest.mark.parametrize("seed", range(6))
def test_distractors_are_drawn_as_in_transformers(seed: int) -> None:
    """The same ones from the same seed for each masked frame, which transformers takes two of at least."""
    from transformers.models.wav2vec2.modeling_wav2vec2 import _sample_negative_indices as published

    from minitrans.models.wav2vec2 import _sample_negative_indices

    masked = np.random.default_rng(seed).random((3, 11)) < 0.5
    masked[0] = np.arange(11) < 2
    masked[2, [3, 8]] = True
    for mask in (masked, masked.astype(int), None):
        found = []
        for draw in (published, _sample_negative_indices):
            np.random.seed(seed)
            found.append(draw((3, 11), 4, mask_time_indices=mask))
        there, here = found
        counted = np.ones((3, 11), bool) if mask is None else masked
        assert here.dtype == there.dtype == np.int32
        assert (here[counted] == there[counted]).all()
        assert not here[~counted].any()
    masked[1] = np.arange(11) == 4  # one frame has no other
    assert not _sample_negative_indices((3, 11), 4, masked)[1].any()


def test_checkpointed_and_frozen_training_gives_the_same_gradients() -> None:
    torch.manual_seed(0)
    config = minitrans.Wav2Vec2Config(**{**TINY, **QUIET, "apply_spec_augment": False})
    model = minitrans.Wav2Vec2ForCTC(config)
    samples, mask = sound(900, 700)
    gradients = []
    for prepare in (lambda: None, model.gradient_checkpointing_enable, model.freeze_feature_encoder):
        prepare()
        model.zero_grad()
        model(samples, attention_mask=mask, labels=torch.tensor([[1, 2], [3, 3]])).loss.backward()
        gradients.append({path: tensor.grad for path, tensor in model.named_parameters()})
    plain, checkpointed, frozen = gradients
    for path in plain:
        if plain[path] is None:
            assert path == "wav2vec2.masked_spec_embed"
            continue
        assert relative(checkpointed[path], plain[path]) < 1e-4, path
        if path.startswith("wav2vec2.feature_extractor."):
            assert frozen[path] is None
        else:
            assert relative(frozen[path], plain[path]) < 1e-4, path
    model.freeze_base_model()
    assert [path for path, tensor in model.named_parameters() if tensor.requires_grad] == [
        "lm_head.weight",
        "lm_head.bias",
    ]


@torch.no_grad()
def test_old_spelling_of_the_weight_norm_loads(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    theirs, ours = pair(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    old = {"original0": "weight_g", "original1": "weight_v"}
    for new, name in old.items():
        key = f"encoder.pos_conv_embed.conv.parametrizations.weight.{new}"
        state[f"encoder.pos_conv_embed.conv.{name}"] = state.pop(key)
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    again = minitrans.AutoModel.from_pretrained(tmp_path, strict=True)
    samples, _ = sound(600)
    assert torch.equal(again(samples).last_hidden_state, ours(samples).last_hidden_state)
    assert relative(again(samples).last_hidden_state, theirs(samples).last_hidden_state) < 2e-5


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
@torch.no_grad()
def test_languages_are_loaded_from_their_adapter_files(suffix: str, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    theirs, ours = pair(tmp_path, "ForCTC", **ADAPTERS["adapters of languages"])
    samples, _ = sound(600)
    before = ours(samples).logits
    other = reference("ForCTC", seed=7, **ADAPTERS["adapters of languages"], vocab_size=23)
    language = {key: tensor.contiguous() for key, tensor in other._get_adapters().items()}
    language = {key: tensor.detach().clone() for key, tensor in language.items()}
    if suffix == "bin":
        torch.save(language, tmp_path / "adapter.kab.bin")
    else:
        save_file(language, tmp_path / "adapter.kab.safetensors")
    theirs = transformers.Wav2Vec2ForCTC.from_pretrained(tmp_path).eval()
    theirs.load_adapter("kab")
    ours.load_adapter("kab")
    assert ours.target_lang == "kab"
    assert ours.config.vocab_size == 23
    agree(ours(samples), theirs(samples), ["logits"])
    assert before.shape != ours(samples).logits.shape
    direct = minitrans.AutoModelForCTC.from_pretrained(tmp_path, target_lang="kab")
    assert torch.equal(direct(samples).logits, ours(samples).logits)
    for model in (theirs, ours):
        model.lm_head.bias.zero_()
        model.load_adapter("kab", force_load=False)  # it is there
        assert not model.lm_head.bias.any()
        model.load_adapter("kab")
        assert torch.equal(model.lm_head.bias, language["lm_head.bias"])
    with pytest.raises(FileNotFoundError, match=r"adapter\.xyz\.safetensors"):
        ours.load_adapter("xyz")
    for values, words in ((ADAPTERS["adapters of languages"], "is 6 here"), ({}, "is None here")):
        made = minitrans.Wav2Vec2ForCTC(minitrans.Wav2Vec2Config(**{**TINY, **values}))
        with pytest.raises(
            ValueError, match=rf"The language 'kab' needs a model that from_pretrained made.*it {words}"
        ):
            made.load_adapter("kab")
    with pytest.raises(ValueError, match="Wav2Vec2ForCTC has no adapters of languages: adapter_attn_dim is None"):
        made._get_adapters()
    state = {path: tensor.clone() for path, tensor in ours.state_dict().items()}
    one = torch.ones(23).index_fill(0, torch.tensor([5]), float("nan"))
    for name, spoilt in {"nan": one, "inf": one * float("inf"), "int": torch.ones(23, dtype=torch.int8)}.items():
        save_file({**language, "lm_head.bias": spoilt}, tmp_path / f"adapter.{name}.safetensors")
        with pytest.raises(ValueError, match=r"NaN or infinite|lm_head\.bias as int8"):
            ours.load_adapter(name)
    assert all(torch.equal(tensor, state[path]) for path, tensor in ours.state_dict().items())
    language.pop("lm_head.weight")
    save_file(language, tmp_path / "adapter.bad.safetensors")
    with pytest.raises(ValueError, match=r"lm_head\.weight"):
        ours.load_adapter("bad")


def test_the_weight_norm_starts_as_the_norm_of_its_direction() -> None:
    """transformers' start of the convolution does not reach the parts of its weight norm."""
    ours = minitrans.Wav2Vec2Model(minitrans.Wav2Vec2Config(**TINY))
    direction = ours.positions.weight.original1.norm(dim=(0, 1), keepdim=True)
    assert torch.allclose(ours.positions.weight.original0, direction)


@pytest.mark.parametrize(
    ("auto", "name"),
    [
        ("AutoModel", "Model"),
        ("AutoModelForPreTraining", "ForPreTraining"),
        ("AutoModelForCTC", "ForCTC"),
        ("AutoModelForAudioClassification", "ForSequenceClassification"),
        ("AutoModelForAudioFrameClassification", "ForAudioFrameClassification"),
        ("AutoModelForAudioXVector", "ForXVector"),
    ],
)
def test_auto_classes(auto: str, name: str) -> None:
    model = getattr(minitrans, auto).from_config(minitrans.Wav2Vec2Config(**TINY))
    assert type(model).__name__ == f"Wav2Vec2{name}"
    assert type(model) is getattr(minitrans, f"Wav2Vec2{name}")


BAD_INPUTS: dict[str, tuple[str, Any, str]] = {
    "one clip without a batch": ("Model", lambda x, m: {"input_values": x[0]}, r"\(900,\).*input_values\[None\]"),
    "integers": ("Model", lambda x, m: {"input_values": x.short()}, "torch.int16"),
    "another dtype": ("Model", lambda x, m: {"input_values": x.double()}, "torch.float64"),
    "NaN": ("Model", lambda x, m: {"input_values": x / 0}, "NaN"),
    "nothing": ("Model", lambda x, m: {"input_values": x[:, :0]}, "not empty"),
    "too short": ("Model", lambda x, m: {"input_values": x[:, :24]}, "Clip 0 has 24 samples.*30"),
    "too short in a batch": (
        "Model",
        lambda x, m: {"input_values": x, "attention_mask": m * (torch.arange(900) < 20)},
        "Clip 0 has 20 samples",
    ),
    "mask of another shape": ("Model", lambda x, m: {"input_values": x, "attention_mask": m[:, 1:]}, r"\(2, 899\)"),
    "padding on the left": ("Model", lambda x, m: {"input_values": x, "attention_mask": m.flip(1)}, "clip 1"),
    "a hole": ("Model", lambda x, m: {"input_values": x, "attention_mask": m * (torch.arange(900) != 7)}, "clip 0"),
    "a soft mask": ("Model", lambda x, m: {"input_values": x, "attention_mask": m * 0.5}, "clip 0"),
    "masked frames of another shape": (
        "Model",
        lambda x, m: {"input_values": x, "mask_time_indices": torch.ones(2, 3)},
        r"\(2, 3\)",
    ),
    "tokens outside the vocabulary": (
        "ForCTC",
        lambda x, m: {"input_values": x, "labels": torch.tensor([[1], [19]])},
        "19.*0 to 18",
    ),
    "negative tokens": ("ForCTC", lambda x, m: {"input_values": x, "labels": torch.tensor([[1], [-3]])}, "-3"),
    "tokens without a batch": ("ForCTC", lambda x, m: {"input_values": x, "labels": torch.tensor([1])}, r"\(1,\)"),
    "a class that is not": (
        "ForSequenceClassification",
        lambda x, m: {"input_values": x, "labels": torch.tensor([0, 5])},
        "5",
    ),
    "a speaker that is not": ("ForXVector", lambda x, m: {"input_values": x, "labels": torch.tensor([0, 5])}, "5"),
    "too short for a deviation": ("ForXVector", lambda x, m: {"input_values": x[:, :100]}, "at least 10"),
    "frame labels of another shape": (
        "ForAudioFrameClassification",
        lambda x, m: {"input_values": x, "labels": torch.zeros(2, 3).long()},
        r"\(2, 3\)",
    ),
    "one-hot for others": (
        "ForAudioFrameClassification",
        lambda x, m: {"input_values": x, "labels": torch.zeros(2, 43, 4)},
        "4 classes, not 5",
    ),
    "a loss without masked frames": (
        "ForPreTraining",
        lambda x, m: {"input_values": x, "sampled_negative_indices": torch.zeros(2, 43, 3).long()},
        "mask_time_indices",
    ),
    **{
        f"the frame {frame}, of 2 · 44": (
            "ForPreTraining",
            lambda x, m, frame=frame: {
                "input_values": x,
                "mask_time_indices": torch.arange(44).eq(3).expand(2, 44),
                "sampled_negative_indices": torch.full((2, 44, 3), frame),
            },
            rf"sampled_negative_indices holds {frame}, outside the batch of frames of 88 rows \(0 to 87\)",
        )
        for frame in (88, -1)
    },
    **{
        f"others of shape {shape}": (
            "ForPreTraining",
            lambda x, m, shape=shape: {
                "input_values": x,
                "mask_time_indices": torch.arange(44).eq(3).expand(2, 44),
                "sampled_negative_indices": torch.zeros(shape).long(),
            },
            rf"has the shape \({shape[0]}, {shape[1]}.*must be \(2, 44, n\): n other frames for each",
        )
        for shape in ((2, 44), (2, 43, 3), (1, 44, 3))
    },
}


@pytest.mark.parametrize("case", BAD_INPUTS)
def test_bad_input_is_one_sentence(case: str) -> None:
    name, make, message = BAD_INPUTS[case]
    model = getattr(minitrans, f"Wav2Vec2{name}")(minitrans.Wav2Vec2Config(**TINY)).eval()
    with pytest.raises(ValueError, match=message) as error:
        model(**make(*sound(900, 600)))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("Model", {"conv_dim": (8, 8)}, "conv_dim"),
        ("Model", {"feat_extract_norm": "batch"}, "feat_extract_norm"),
        ("Model", {"num_conv_pos_embedding_groups": 5}, "num_conv_pos_embedding_groups is 5"),
        ("Model", {"num_attention_heads": 5}, "24"),
        ("Model", {"feat_extract_activation": "snake"}, "snake"),
        ("ForCTC", {"ctc_loss_reduction": "max"}, "max"),
        ("ForCTC", {"vocab_size": None}, "vocab_size is None"),
        ("ForCTC", {"pad_token_id": None}, "pad_token_id None"),
        ("ForPreTraining", {"codevector_dim": 13}, "num_codevector_groups is 2"),
        ("ForSequenceClassification", {"add_adapter": True}, "add_adapter=False"),
        ("ForAudioFrameClassification", {"add_adapter": True}, "add_adapter=False"),
        ("ForXVector", {"add_adapter": True, "output_hidden_size": 8}, "add_adapter=False"),
        ("ForXVector", {"add_adapter": True, "use_weighted_layer_sum": True}, "add_adapter=False"),
        ("ForPreTraining", {"add_adapter": True, "output_hidden_size": 8}, "add_adapter=False"),
        ("ForSpeechClassification", {"add_adapter": True, "output_hidden_size": 8}, "add_adapter=False"),
    ],
)
def test_what_is_not_computed_is_refused(name: str, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        getattr(minitrans, f"Wav2Vec2{name}")(minitrans.Wav2Vec2Config(**{**TINY, **values}))


@pytest.mark.parametrize("name", ["ForXVector", "ForCTC", "ForPreTraining"])
@torch.no_grad()
def test_heads_on_an_adapter_equal_transformers(name: str, tmp_path: Path) -> None:
    theirs, ours = pair(tmp_path, name, add_adapter=True, num_adapter_layers=1)
    samples, _ = sound(1200, 1200)
    if name == "ForPreTraining":  # whose codes are of the frames before the adapter
        agree(ours(samples), theirs(samples), ["projected_states", "projected_quantized_states"])
        given = {"mask_time_indices": torch.ones(2, 59), "sampled_negative_indices": torch.zeros(2, 59, 3).long()}
        with pytest.raises(ValueError, match="a model without add_adapter"):
            ours(samples, **given)
    else:
        agree(ours(samples), theirs(samples), ["logits"])
