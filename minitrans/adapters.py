"""Published low-rank adapters, as peft writes them, merged into a model's weights."""

from __future__ import annotations

import math
import re
from typing import Any

import torch
from torch import Tensor, nn

from minitrans import hub, weights
from minitrans.config import Size, checked
from minitrans.patterns import matches

PREFIX = "base_model.model."
MATRIX = re.compile(r"^(.*)\.lora_(embedding_)?([AB])(\.default)?(\.weight)?$")
# Settings that change what the matrices mean, or what they are added to -> the values for which they do not.
PLAIN = {
    "peft_type": ("LORA", None),
    "init_lora_weights": (True, False, None, "gaussian", "orthogonal", "eva", "mica"),
    "use_dora": (False, None),
    "use_qalora": (False, None),
    "use_bdlora": (None,),
    "lora_bias": (False, None),
    "megatron_config": (None,),
    "monteclora_config": (None,),
    "kasa_config": (None,),
    "arrow_config": (None,),
    "layer_replication": (None,),
    "alora_invocation_tokens": (None,),
    "trainable_token_indices": (None,),
    "target_parameters": (None,),
}
# Settings that are read -> what peft takes for a missing one, and what they may be.
READ: dict[str, tuple[Any, Any]] = {
    "r": (8, Size),
    "lora_alpha": (8, float),
    "rank_pattern": (None, dict | None),
    "alpha_pattern": (None, dict | None),
    "use_rslora": (False, bool),
    "target_modules": (None, list[str] | str | None),
    "exclude_modules": (None, list[str] | str | None),
    "modules_to_save": (None, list[str] | None),
    "layers_to_transform": (None, list[int] | int | None),
    "layers_pattern": (None, list[str] | str | None),
}
TARGETS = {"bert": ["query", "value"]}  # model_type -> the layers that peft adapts where the settings name none


@torch.no_grad()
def merge(model: Any, repository: hub.Repository, options: dict[str, Any]) -> None:
    """Add s · B A of each pair of matrices to its weight, and take what was trained whole as it is.

    s is alpha / rank, or alpha / √rank (Kalajdzievski 2023), by the settings' patterns. Nothing is changed where
    anything does not fit: ValueError says what. `options` must be empty.
    """
    if options:
        raise TypeError(f"load_adapter has no option {min(options)!r}.")
    if model.device.type == "meta":
        raise ValueError("A model on the meta device has no weights to add to; load it on another.")
    settings = _settings(repository, model.config.model_type)
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
    tied = model.tied()
    tensors = {**weights.tensors_of(model), **{place: model.get_parameter(place) for place in tied}}
    places = model.match(tensors, [*pairs, *whole])
    if lost := sorted({*pairs, *whole} - {*places.values()}):
        raise ValueError(f"{path} adapts {lost[0]}, which is not a tensor of this {type(model).__name__}.")
    for place, name in places.items():
        layer = model.get_submodule(place.rpartition(".")[0])
        if name in pairs and not _is_target(name.removesuffix(".weight"), layer, model, settings):
            raise ValueError(f"{path} adapts {name}, and by adapter_config.json beside it that layer is not adapted.")
    others = map(model.translation("outside"), weights.tensors_of(model).keys() - places.keys())
    if lacking := sorted(name for name in others if _is_saved(name, settings)):
        raise ValueError(f"{path} lacks {lacking[0]}, which by adapter_config.json beside it was trained whole.")
    results = {}
    for place, name in places.items():
        old = tensors[place]
        if name in whole:
            checkpoint.check(sources[name], old.dtype)
        total = whole.get(name, old).to(old.device)
        change = _product(name, pairs[name], settings).to(old.device) if name in pairs else torch.zeros_like(total)
        if not total.shape == change.shape == old.shape:
            wrong = change if total.shape == old.shape else total
            raise ValueError(f"{path} changes {name} {tuple(old.shape)} by a tensor {tuple(wrong.shape)}.")
        results[place] = (total + change).to(old.dtype)
        if not results[place].isfinite().all():
            raise ValueError(f"{path} holds NaN or infinite numbers for {name}, or makes it such.")
    # What is trained on its own stands apart from what shares its tensor; all else changes both, as peft has it.
    apart = {place for place, name in places.items() if name in pairs or _is_saved(name, settings)}
    if apart & {*tied, *tied.values()}:
        for place in places.keys() - apart:
            tensors[place].copy_(results[place])
        model.untie()
    for place, result in results.items():
        model.get_parameter_or_buffer(place).copy_(result)


def _settings(repository: hub.Repository, model_type: str) -> dict[str, Any]:
    """What adapter_config.json says, and else peft's defaults; ValueError for what is no plain LoRA."""
    given = repository.json("adapter_config.json")
    for key, values in PLAIN.items():
        value = given.get(key, values[0])
        if (value.lower() if key == "init_lora_weights" and isinstance(value, str) else value) not in values:
            raise ValueError(
                f"{repository.name} is an adapter with {key} = {value!r:.80}, and only a plain LoRA on a model's own "
                "weights is added: let peft convert it (path_initial_model_for_weight_conversion=), or merge it."
            )
    settings = {
        key: checked(f"{key} in adapter_config.json of {repository.name}", given.get(key, default), hint)
        for key, (default, hint) in READ.items()
    }
    if settings["target_modules"] is None:
        settings["target_modules"] = TARGETS.get(model_type)
    by_pattern = isinstance(settings["target_modules"], str)
    if settings["target_modules"] is None or (by_pattern and settings["layers_to_transform"] is not None):
        raise ValueError(
            f"adapter_config.json of {repository.name} does not say which layers are adapted: target_modules must "
            "name them, and layers_to_transform goes with a list of these only."
        )
    return settings


def _is_target(name: str, layer: nn.Module, model: Any, settings: dict[str, Any]) -> bool:
    """Whether peft adapts a layer, which the file calls `name`, under these settings."""
    targets, layers = settings["target_modules"], settings["layers_to_transform"]
    if _is_saved(name, settings) or _is_named(name, settings["exclude_modules"] or ()):
        return False
    if isinstance(targets, str) and targets.lower() == "all-linear":
        return isinstance(layer, nn.Linear) and layer is not model.get_output_embeddings()
    if not _is_named(name, targets) or layers in (None, []):
        return _is_named(name, targets)
    parts = name.split(".")
    indices = (
        int(parts[end])
        for pattern in _as_list(settings["layers_pattern"] or r".*\.[^.]*")
        for end in range(1, len(parts) - 1)
        if parts[end].isdecimal() and matches(".".join(parts[:end]), r"(.*\.)?", pattern)
    )
    return next(indices, None) in _as_list(layers)


def _is_named(name: str, chosen: Any) -> bool:
    """Whether a pattern is a layer's whole name, or one of several names its end."""
    if isinstance(chosen, str):
        return matches(name, chosen)
    return any(f".{name}".endswith(f".{end}") for end in chosen)


def _is_saved(name: str, settings: dict[str, Any]) -> bool:
    """Whether a layer or tensor is in a module that was trained whole."""
    return any(f".{module}." in f".{name}." for module in settings["modules_to_save"] or ())


def _as_list(value: Any) -> list:
    return value if isinstance(value, list) else [value]


def _product(name: str, pair: dict[str, Tensor], settings: dict[str, Any]) -> Tensor:
    """s · B A in the weight's layout: of a linear layer (C_out, C_in), of a table (rows, C), of a convolution."""
    kind = "embedding_" if any(key.startswith("embedding_") for key in pair) else ""
    a, b = pair.get(f"{kind}A"), pair.get(f"{kind}B")
    if a is None or b is None:
        raise ValueError(f"The adapter has only one of the two matrices for {name}.")
    layer = name.removesuffix(".weight")
    rank = checked(f"The adapter's rank for {layer}", _chosen(settings["rank_pattern"], layer, settings["r"]), Size)
    alpha = _chosen(settings["alpha_pattern"], layer, settings["lora_alpha"])
    alpha = checked(f"The adapter's alpha for {layer}", alpha, float)
    if min(a.dim(), b.dim()) < 2 or not a.shape[0] == b.shape[1] == math.prod(b.shape[1:]) == rank:
        raise ValueError(
            f"The adapter's matrices for {name} are {tuple(a.shape)} and {tuple(b.shape)}, and by its configuration "
            f"of rank {rank}."
        )
    scale = alpha / (rank**0.5 if settings["use_rslora"] else rank)
    product = (b.flatten(1) @ a.flatten(1)).view(b.shape[0], *a.shape[1:])
    return scale * (product.T if kind else product)


def _chosen(patterns: dict[str, Any] | None, layer: str, default: Any) -> Any:
    """The value of the first pattern that a layer's name ends with, as peft reads them."""
    found = (value for pattern, value in (patterns or {}).items() if matches(layer, r"(.*\.)?", pattern))
    return next(found, default)
