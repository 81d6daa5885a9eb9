"""Published low-rank adapters, as peft writes them, merged into a model's weights."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn

from minitrans import hub, weights

PREFIX = "base_model.model."
MATRIX = re.compile(r"^(.*)\.lora_(embedding_)?([AB])(\.default)?(\.weight)?$")
# Settings that change what the matrices mean -> the values for which they do not.
PLAIN = {
    "peft_type": ("LORA", None),
    "use_dora": (False, None),
    "lora_bias": (False, None),
    "megatron_config": (None,),
    "layer_replication": (None,),
    "alora_invocation_tokens": (None,),
    "trainable_token_indices": (None,),
    "target_parameters": (None,),
}


@torch.no_grad()
def merge(model: nn.Module, repository: hub.Repository, options: dict[str, Any]) -> None:
    """Add s · B A of each pair of matrices to its weight, and take what was trained whole as it is.

    s is alpha / rank, or alpha / √rank (Kalajdzievski 2023), by the settings' patterns. Nothing is changed where
    anything does not fit: ValueError says what. `options` must be empty.
    """
    if options:
        raise TypeError(f"load_adapter has no option {min(options)!r}.")
    settings = repository.json("adapter_config.json")
    for key, values in PLAIN.items():
        if settings.get(key) not in values:
            raise ValueError(
                f"{repository.name} is an adapter with {key} = {settings[key]!r}; only a plain LoRA is added."
            )
    path = repository.file("adapter_model.safetensors", "adapter_model.bin")
    kind = weights.PickleCheckpoint if path.suffix == ".bin" else weights.SafetensorsCheckpoint
    pairs: dict[str, dict[str, Tensor]] = {}
    whole: dict[str, Tensor] = {}
    sources: dict[str, str] = {}
    with kind([path]) as checkpoint:
        for name in checkpoint.shapes:
            key = name.removeprefix(PREFIX)
            found = MATRIX.match(key)
            if found:
                pairs.setdefault(f"{found[1]}.weight", {})[f"{found[2] or ''}{found[3]}"] = checkpoint.floats(name)
            else:
                key = key.replace(".modules_to_save.default", "").replace(".base_layer", "")
                whole[key], sources[key] = checkpoint.read(name), name
    tensors = weights.tensors_of(model)
    places = model.match(tensors, [*pairs, *whole])  # type: ignore[operator]
    ours = {name: tensors[place] for place, name in places.items()}
    lost = sorted({*pairs, *whole} - ours.keys())
    if lost:
        raise ValueError(f"{path} adapts {lost[0]}, which is not a tensor of this {type(model).__name__}.")
    changes = {name: _product(name, pair, settings) for name, pair in pairs.items()}
    for name, source in sources.items():
        checkpoint.check(source, ours[name].dtype)
    for name, change in {**changes, **whole}.items():
        if not change.isfinite().all():
            raise ValueError(f"{path} holds NaN or infinite numbers for {name}.")
        if change.shape != ours[name].shape:
            raise ValueError(f"{path} changes {name} {tuple(ours[name].shape)} by a tensor {tuple(change.shape)}.")
    for name, change in changes.items():
        ours[name].add_(change.to(ours[name].device))
    for name, tensor in whole.items():
        ours[name].copy_(tensor)


def _product(name: str, pair: dict[str, Tensor], settings: dict[str, Any]) -> Tensor:
    """s · B A in the weight's layout: of a linear layer (C_out, C_in), of a table (rows, C), of a convolution."""
    kind = "embedding_" if any(key.startswith("embedding_") for key in pair) else ""
    a, b = pair.get(f"{kind}A"), pair.get(f"{kind}B")
    if a is None or b is None:
        raise ValueError(f"The adapter has only one of the two matrices for {name}.")
    if min(a.dim(), b.dim()) < 2 or a.shape[0] != b.shape[1]:
        raise ValueError(f"The adapter's matrices for {name} are {tuple(a.shape)} and {tuple(b.shape)}: of two ranks.")
    layer = name.removesuffix(".weight")
    rank = _chosen(settings.get("rank_pattern"), layer, settings.get("r", a.shape[0]))
    alpha = _chosen(settings.get("alpha_pattern"), layer, settings.get("lora_alpha", rank))
    if not isinstance(rank, int) or rank < 1 or not isinstance(alpha, int | float):
        raise ValueError(f"The adapter's rank for {name} is {rank!r} and its alpha {alpha!r}; both must be numbers.")
    scale = alpha / (rank**0.5 if settings.get("use_rslora") else rank)
    product = (b.flatten(1) @ a.flatten(1)).view(b.shape[0], *a.shape[1:]) if a.dim() > 2 else b @ a
    turned = kind or settings.get("fan_in_fan_out")
    return scale * (product.T if turned else product)


def _chosen(patterns: Any, layer: str, default: Any) -> Any:
    """The value of the pattern that a layer's name ends with, as peft reads them."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", layer):
            return value
    return default
