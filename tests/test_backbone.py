"""`SwinBackbone` where transformers' stands in published programs: in segmenters and detectors, and by its names."""

from typing import Any

import pytest
import torch
import transformers
from checkpoints import relative
from torch import Tensor, nn

import minitrans

SWIN: dict[str, Any] = {
    "image_size": 64, "patch_size": 2, "embed_dim": 16, "depths": [2, 2, 1, 1], "num_heads": [2, 2, 4, 4],
    "window_size": 4, "drop_path_rate": 0.0, "attn_implementation": "eager",
}  # fmt: skip
STAGES = ["stage1", "stage2", "stage3", "stage4"]
PIXELS = torch.randn(2, 3, 64, 48, generator=torch.Generator().manual_seed(0))


def pair(folder, **values: Any) -> tuple[Any, Any]:
    """Transformers' backbone, every number random, and ours."""
    torch.manual_seed(0)
    theirs = transformers.SwinBackbone(transformers.SwinConfig(**{**SWIN, **values})).eval()
    with torch.no_grad():
        for tensor in theirs.parameters():
            tensor.add_(torch.randn_like(tensor) * 0.1)
    theirs.save_pretrained(folder)
    return theirs, minitrans.SwinBackbone.from_pretrained(folder)


def upernet(config: Any) -> tuple[nn.Module, str, list[str]]:
    options = {"hidden_size": 16, "num_labels": 3, "auxiliary_in_channels": 64}
    config = transformers.UperNetConfig(backbone_config=config, **options)
    return transformers.UperNetForSemanticSegmentation(config), "backbone", ["logits", "hidden_states", "attentions"]


def mask2former(config: Any) -> tuple[nn.Module, str, list[str]]:
    config = transformers.Mask2FormerConfig(
        backbone_config=config, feature_size=32, mask_feature_size=32, hidden_dim=32, encoder_feedforward_dim=16,
        dim_feedforward=16, num_attention_heads=2, encoder_layers=1, decoder_layers=2, num_queries=5, num_labels=3,
    )  # fmt: skip
    model = transformers.Mask2FormerForUniversalSegmentation(config)
    return model, "model.pixel_level_module.encoder", ["class_queries_logits", "masks_queries_logits"]


def detr(config: Any) -> tuple[nn.Module, str, list[str]]:
    config = transformers.DetrConfig(
        backbone_config=config, use_timm_backbone=False, backbone=None, d_model=16, encoder_layers=1,
        decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=16,
        decoder_ffn_dim=16, num_queries=5,
    )  # fmt: skip
    return transformers.DetrForObjectDetection(config), "model.backbone.model", ["logits", "pred_boxes"]


@pytest.mark.parametrize("make", [upernet, mask2former, detr])
def test_models_of_transformers_around_our_backbone(make, tmp_path):
    stages = ["stage4"] if make is detr else STAGES
    torch.manual_seed(0)
    model, place, fields = make(transformers.SwinConfig(**SWIN, out_features=stages))
    owner, _, name = place.rpartition(".")
    outputs = []
    for backbone in pair(tmp_path, out_features=stages):
        setattr(model.get_submodule(owner), name, backbone)
        with torch.no_grad():
            asked = {key: True for key in ("output_hidden_states", "output_attentions") if make is upernet}
            outputs.append(model.eval()(PIXELS, **asked))
    for field in fields:
        expected, found = (x if isinstance(x, tuple) else (x,) for x in (output[field] for output in outputs))
        assert len(found) == len(expected) > 0
        assert all(relative(x, y) <= 1e-4 for x, y in zip(found, expected, strict=True)), field


@pytest.mark.parametrize(
    "values",
    [{}, {"out_features": ["stem", "stage3"]}, {"out_indices": [1, 2]}, {"out_indices": (-2, -1)},
     {"out_features": ["stage2"], "out_indices": [2]}],
    ids=str,
)  # fmt: skip
def test_names_that_necks_and_heads_read(values, tmp_path):
    theirs, ours = pair(tmp_path, **values)
    for name in ("out_features", "out_indices", "stage_names", "num_features", "out_feature_channels", "channels",
                 "has_attentions"):  # fmt: skip
        assert getattr(ours, name) == getattr(theirs, name), name
    with torch.no_grad():
        found, expected = (
            model.forward_with_filtered_kwargs(PIXELS, output_attentions=True) for model in (ours, theirs)
        )
        assert [*found] == [*expected]
        assert len(found.feature_maps) == len(ours.out_features)
        ours.forward_with_filtered_kwargs(PIXELS, of_no_model=1)
    for x, y in zip(found.feature_maps + found.attentions, expected.feature_maps + expected.attentions, strict=True):
        assert relative(x, y) <= 1e-4


def test_fewer_stages_than_it_was_made_for(tmp_path):
    theirs, ours = pair(tmp_path, out_features=STAGES)
    for model in (theirs, ours):
        model.out_features = ["stage1", "stage3"]
        assert list(model.out_indices) == [1, 3]
    with torch.no_grad():
        maps: tuple[tuple[Tensor, ...], ...] = tuple(model(PIXELS).feature_maps for model in (ours, theirs))
    assert all(relative(x, y) <= 1e-4 for x, y in zip(*maps, strict=True))
    ours.out_indices = [2]
    assert ours.channels == [32]
    ours.out_features = ["stem"]
    with pytest.raises(ValueError, match=r"'stem'.*stage1, stage2, stage3, stage4.*before it is made"):
        ours(PIXELS)
