"""The models: checked against transformers in 16 bits, and timed against it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity

import minitrans

from .measure import Make, Setup, clocks, floor_ms, in_turns, name_of, relative
from .operations import HALF

ALLOWED = 3.0  # times transformers' own error in the same dtype
Inputs = dict[str, Tensor]


@dataclass(frozen=True)
class Family:
    """Names of transformers' classes, and a configuration for a dry run; the full one is the published default."""

    prefix: str
    tiny: dict[str, Any]


TEXT = {"vocab_size": 97, "max_position_embeddings": 40}
FAMILIES = {
    "BERT-base": Family(
        "Bert",
        {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48, **TEXT},
    ),
    "DistilBERT": Family("DistilBert", {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 48, **TEXT}),
    "Swin-T": Family(
        "Swin", {"image_size": 32, "embed_dim": 16, "depths": [1, 2], "num_heads": [1, 2], "window_size": 4}
    ),
    "Wav2Vec2-base": Family(
        "Wav2Vec2",
        {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 48,
            "conv_dim": [16, 16],
            "conv_kernel": [10, 3],
            "conv_stride": [5, 2],
            "num_conv_pos_embeddings": 16,
            "num_conv_pos_embedding_groups": 4,
        },
    ),
}


def checkpoint(name: str, setup: Setup) -> Path:
    """A folder with a random model, written by transformers; every tensor differs from its start."""
    import transformers

    folder = setup.folder / name
    if not (folder / "model.safetensors").exists():
        transformers.utils.logging.disable_progress_bar()
        family = FAMILIES[name]
        config = getattr(transformers, f"{family.prefix}Config")(**(family.tiny if setup.dry else {}))
        torch.manual_seed(0)
        with setup.device:
            model = getattr(transformers, f"{family.prefix}Model")(config)
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(torch.randn_like(parameter), alpha=0.02)
        model.cpu().save_pretrained(folder)
    return folder


def theirs(name: str, setup: Setup, dtype: torch.dtype, attention: str) -> Any:
    import transformers

    kind = getattr(transformers, f"{FAMILIES[name].prefix}Model")
    model = kind.from_pretrained(checkpoint(name, setup), dtype=dtype, attn_implementation=attention)
    return model.to(setup.device).eval()


def ours(name: str, setup: Setup, dtype: torch.dtype) -> Any:
    """Our model with its kernels, or an error: nothing silently falls back to torch."""
    model = minitrans.AutoModel.from_pretrained(checkpoint(name, setup), dtype=dtype, device=setup.device)
    model.engine = "triton"
    return model


def text(setup: Setup, lengths: list[int]) -> Inputs:
    """Right-padded texts; the mask stays on the CPU, where a tokenizer makes it."""
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    words = torch.randint(TEXT["vocab_size"] if setup.dry else 30522, mask.shape) * mask
    return {"input_ids": words.to(setup.device), "attention_mask": mask}


def images(setup: Setup, dtype: torch.dtype, count: int) -> Inputs:
    side = 32 if setup.dry else 224
    return {"pixel_values": Make(dtype, setup.device).normal(count, 3, side, side)}


def sound(setup: Setup, dtype: torch.dtype, clips: int, seconds: float) -> Inputs:
    return {"input_values": Make(dtype, setup.device).normal(clips, int(seconds * (200 if setup.dry else 16000)))}


def on_device(inputs: Inputs, setup: Setup, dtype: torch.dtype) -> Inputs:
    """As transformers takes them: all on the device."""
    return {name: x.to(setup.device, dtype if x.is_floating_point() else None) for name, x in inputs.items()}


def check(name: str, setup: Setup) -> dict[str, Any]:
    """The errors of our last hidden states and of transformers' in 16 bits, against transformers' in float64."""
    torch.manual_seed(0)
    inputs = {
        "Swin-T": lambda: images(setup, torch.float32, 2),
        "Wav2Vec2-base": lambda: sound(setup, torch.float32, 2, 2.0),
    }.get(name, lambda: text(setup, [30, 7, 1, 18]))()
    exact = theirs(name, setup, torch.float64, "eager")(**on_device(inputs, setup, torch.float64)).last_hidden_state
    mask = inputs.get("attention_mask")
    real = torch.ones(exact.shape[:2]) if mask is None else mask
    real = real.to(setup.device)[..., None] != 0
    found, passed = {}, True
    for dtype in setup.dtypes:
        given = on_device(inputs, setup, dtype)
        outputs = [
            model(**given).last_hidden_state.where(real, 0.0)
            for model in (ours(name, setup, dtype), theirs(name, setup, dtype, "eager"))
        ]
        error, torch_error = (relative(output, exact.where(real, 0.0)) for output in outputs)
        allowed = ALLOWED * torch_error + torch.finfo(dtype).eps / 4
        found[name_of(dtype)] = {"error": error, "torch": torch_error, "allowed": allowed, "passed": error <= allowed}
        passed = passed and error <= allowed
    return {"passed": passed, "dtypes": found}


def encoder_flops(size: int, inner: int, tokens: float, pairs: float) -> float:
    """One transformer layer: four projections, the feed-forward block, and attention over `pairs` pairs of tokens."""
    return tokens * (8 * size**2 + 4 * size * inner) + 4 * size * pairs


def text_cost(config: Any, inputs: Inputs) -> tuple[float, float]:
    """Bytes (of the layers' weights, once) and FLOPs of a text model in 16 bits."""
    lengths = inputs["attention_mask"].sum(1).double()
    size, inner = config.hidden_size, config.intermediate_size
    flops = encoder_flops(size, inner, float(lengths.sum()), float(lengths.square().sum()))
    weights = 4 * size**2 + 2 * size * inner
    return 2.0 * config.num_hidden_layers * weights, config.num_hidden_layers * flops


def swin_cost(config: Any, inputs: Inputs) -> tuple[float, float]:
    """Bytes and FLOPs of Swin in 16 bits.

    26 maps per layer: read and written by norm (2), projection to q, k, v (4), attention (4), projection and sum (3),
    norm (2), the feed-forward block's first half with its activation (5) and second with the sum (6).
    """
    batch, _, height, width = inputs["pixel_values"].shape
    tokens, moved, flops = batch * height * width / config.patch_size**2, 0.0, 0.0
    for stage, depth in enumerate(config.depths):
        size = config.embed_dim * 2**stage
        moved += depth * 26 * 2 * tokens * size
        flops += depth * encoder_flops(size, int(config.mlp_ratio * size), tokens, tokens * config.window_size**2)
        tokens /= 4
    return moved, flops


def sound_cost(config: Any, inputs: Inputs) -> tuple[float, float]:
    """Bytes (weights alone) and FLOPs of wav2vec 2.0 in 16 bits."""
    clips, frames = inputs["input_values"].shape
    flops, channels = 0.0, 1
    for size, kernel, stride in zip(config.conv_dim, config.conv_kernel, config.conv_stride, strict=True):
        frames = (frames - kernel) // stride + 1
        flops += 2.0 * clips * frames * size * channels * kernel
        channels = size
    size, layers = config.hidden_size, config.num_hidden_layers
    taps = config.num_conv_pos_embeddings * size // config.num_conv_pos_embedding_groups
    flops += clips * frames * 2.0 * size * taps
    flops += layers * encoder_flops(size, config.intermediate_size, clips * frames, clips * frames**2)
    return 2.0 * layers * (4 * size**2 + 2 * size * config.intermediate_size), flops


@dataclass(frozen=True)
class Work:
    """What is timed; `goal` is in milliseconds on an H100, from the project's plan."""

    model: str
    inputs: Callable[[Setup], Inputs]
    cost: Callable[[Any, Inputs], tuple[float, float]]
    goal: float


def _lengths(setup: Setup, lengths: list[int]) -> list[int]:
    return [min(length, 9) for length in lengths[:2]] if setup.dry else lengths


WORKS = {
    "BERT-base 32 × 128": Work("BERT-base", lambda setup: text(setup, _lengths(setup, [128] * 32)), text_cost, 1.2),
    "BERT-base 1 × 128": Work("BERT-base", lambda setup: text(setup, _lengths(setup, [128])), text_cost, 0.25),
    "BERT-base 64 × 512, 256 on average": Work(
        "BERT-base", lambda setup: text(setup, _lengths(setup, HALF)), text_cost, 5.2
    ),
    "Swin-T 64": Work(
        "Swin-T", lambda setup: images(setup, setup.timed_dtype, 1 if setup.dry else 64), swin_cost, 3.2
    ),
    "Wav2Vec2-base 16 × 10 s": Work(
        "Wav2Vec2-base", lambda setup: sound(setup, setup.timed_dtype, 1 if setup.dry else 16, 10.0), sound_cost, 10.0
    ),
}


def time_model(label: str, setup: Setup) -> dict[str, Any]:
    """Ours, as loaded and frozen, against transformers, eager and with torch's attention."""
    return _timed(label, setup, lambda inputs: _frozen(label, setup, inputs), ("eager", "sdpa"), {})


def time_compiled(label: str, setup: Setup) -> dict[str, Any]:
    """Ours again, as loaded, frozen and compiled, against transformers under torch.compile."""
    options: dict[str, Any] = {"backend": "eager"} if setup.dry else {"mode": "max-autotune"}
    torch._dynamo.reset()

    def more(inputs: Inputs) -> dict[str, Callable[[], Any]]:
        model = torch.compile(ours(WORKS[label].model, setup, setup.timed_dtype), dynamic=False, **options)
        given = on_device(inputs, setup, setup.timed_dtype)
        return _frozen(label, setup, inputs) | {"ours, torch.compile": lambda: model(**given)}

    return _timed(label, setup, more, ("sdpa",), options)


def _timed(
    label: str,
    setup: Setup,
    more: Callable[[Inputs], dict[str, Callable[[], Any]]],
    attentions: tuple[str, ...],
    options: dict[str, Any],
) -> dict[str, Any]:
    work, dtype = WORKS[label], setup.timed_dtype
    torch.manual_seed(0)
    inputs = work.inputs(setup)
    mine, given = ours(work.model, setup, dtype), on_device(inputs, setup, dtype)
    arms = {"ours": lambda: mine(**inputs)} | more(inputs)
    for attention in attentions:
        model = _theirs_or_eager(work.model, setup, dtype, attention)
        name = f"transformers {model.config._attn_implementation}"
        if options:
            model, name = torch.compile(model, dynamic=False, **options), f"{name}, torch.compile"
        arms[name] = lambda model=model: model(**given)
    times = in_turns(arms, setup, seconds=2.0)
    busy = {name: partial(_repeat, arm) for name, arm in arms.items() if "ms" in times[name]}
    return {
        "times": times,
        "throughput": in_turns(busy, setup, seconds=2.0, per=IN_A_ROW),
        "floor_ms": floor_ms(*work.cost(mine.config, inputs)),
        "goal_ms": work.goal,
        "clocks": {} if setup.dry else clocks(),
    }


IN_A_ROW = 10


def _repeat(call: Callable[[], Any]) -> None:
    """Back-to-back calls, without waiting for results: what a busy server or a training loop sees."""
    for _ in range(IN_A_ROW):
        call()


def _theirs_or_eager(name: str, setup: Setup, dtype: torch.dtype, attention: str) -> Any:
    try:
        return theirs(name, setup, dtype, attention)
    except ValueError:  # not every model has every attention
        return theirs(name, setup, dtype, "eager")


def _frozen(label: str, setup: Setup, inputs: Inputs) -> dict[str, Callable[[], Any]]:
    kept: list[Any] = []

    def run() -> Any:
        if not kept:
            batch, length = next(iter(inputs.values())).shape[:2]
            sizes = {} if "pixel_values" in inputs else {"lengths": [length]}
            kept.append(ours(WORKS[label].model, setup, setup.timed_dtype).freeze(batch_sizes=[batch], **sizes))
        return kept[0](**inputs)

    return {"ours, frozen": run}


def profile(label: str, setup: Setup) -> dict[str, Any]:
    """The kernels of one forward pass of ours by their time, from torch's profiler: milliseconds and launches."""
    work = WORKS[label]
    torch.manual_seed(0)
    inputs = work.inputs(setup)
    model = ours(work.model, setup, setup.timed_dtype)
    repeats = 1 if setup.dry else 5
    for _ in range(2):
        model(**inputs)
    activity = ProfilerActivity.CPU if setup.dry else ProfilerActivity.CUDA
    with torch.profiler.profile(activities=[activity]) as profiler:
        for _ in range(repeats):
            model(**inputs)
        if not setup.dry:
            torch.cuda.synchronize()
    rows = [
        {
            "name": event.key[:120],
            "ms": (event.cpu_time_total if setup.dry else event.self_device_time_total) / 1e3 / repeats,
            "launches": event.count / repeats,
        }
        for event in profiler.key_averages()
    ]
    rows.sort(key=lambda row: row["ms"], reverse=True)
    return {
        "ms": sum(row["ms"] for row in rows),
        "launches": sum(row["launches"] for row in rows),
        "kernels": rows[:25],
    }
