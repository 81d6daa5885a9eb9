"""The kernels: checked against float64, tuned, and timed against torch."""

import importlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
import triton
from minitrans.kernels.launch import Tiles
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from minitrans import ops, plain
from minitrans.sequences import Sequences

from .measure import Make, Setup, clocks, floor_ms, in_turns, name_of, relative, replayed

Inputs = tuple[Any, ...]
ALLOWED = 4.0  # times torch's own error in the same dtype, as in tests/interpreted
EPS = 1e-5


@dataclass(frozen=True)
class Operation:
    """An operation as our kernel and as torch compute it, and its minimum cost."""

    ours: Callable[..., Any]
    torch: Callable[..., Any]  # under the plain engine
    flops: Callable[..., float] = lambda *_: 0.0
    moved: Callable[..., float] | None = None  # bytes, where it is not all inputs and the output, once each

    def in_torch(self, *inputs: Any) -> Any:
        with ops.engine("plain"):
            return self.torch(*inputs)


def through_ops(call: Callable[..., Any], **cost: Any) -> Operation:
    """An operation of `minitrans.ops`, which either engine runs."""

    def ours(*inputs: Any) -> Any:
        with ops.engine("triton"):
            return call(*inputs)

    return Operation(ours, call, **cost)


def kernel(module: str, name: str | None = None) -> Callable[..., Any]:
    return getattr(importlib.import_module(f"minitrans.kernels.{module}"), name or module)


def causal(q: Tensor, k: Tensor, v: Tensor, sequences: Sequences) -> Tensor:
    rows = sequences.starts, sequences.lengths, sequences.longest
    return kernel("attention")(q, k, v, *rows, causal=True)


def causal_torch(q: Tensor, k: Tensor, v: Tensor, sequences: Sequences) -> Tensor:
    future = torch.full((sequences.longest,) * 2, -torch.inf, dtype=q.dtype, device=q.device).triu(1)
    return plain.attention(q, k, v, sequences, future.expand(q.shape[1], -1, -1), 0.0)


def gradients(q: Tensor, k: Tensor, v: Tensor, sequences: Sequences) -> Tensor:
    leaves = [x.detach().requires_grad_() for x in (q, k, v)]
    with torch.enable_grad():
        out = ops.attention(*leaves, sequences)
        return torch.cat(torch.autograd.grad(out, leaves, grad_outputs=v))


def attention_flops(q: Tensor, k: Tensor, v: Tensor, sequences: Sequences, *_: Any) -> float:
    assert sequences.spans is not None
    return 4.0 * q.shape[1] * q.shape[2] * sum(length**2 for _, length in sequences.spans)


def window_flops(qkv: Tensor, table: Tensor, window: int, *_: Any) -> float:
    return 4.0 * window**2 * qkv[..., 0, :, :].numel()


def gathered(ids: Tensor, positions: Tensor, types: Tensor, word: Tensor, *_: Any) -> float:
    return 2.0 * ids.numel() * word.shape[1] * word.element_size()


OPERATIONS = {
    "attention": through_ops(ops.attention, flops=attention_flops),
    "attention, bias": through_ops(lambda q, k, v, sequences, bias: ops.attention(q, k, v, sequences, bias=bias)),
    "attention, causal": Operation(causal, causal_torch),
    "attention, gradients": through_ops(gradients, flops=lambda *inputs: 3.5 * attention_flops(*inputs)),
    "window_attention": through_ops(ops.window_attention, flops=window_flops),
    "layer_norm": through_ops(ops.layer_norm),
    "add_layer_norm": through_ops(ops.add_layer_norm),
    "residual_layer_norm": through_ops(lambda *inputs: torch.cat(ops.residual_layer_norm(*inputs))),
    "bias_gelu": Operation(lambda x, bias: kernel("bias_gelu")(x, bias), lambda x, bias: F.gelu(x + bias)),
    "embedding_layer_norm": through_ops(ops.embedding_layer_norm, moved=gathered),
    "merge_layer_norm": through_ops(ops.merge_layer_norm),
    "convolution": through_ops(partial(ops.convolution, stride=5, activation="gelu")),
}


# Inputs, each from a `Make` and sizes.


def sequences_of(lengths: Iterable[int], device: torch.device) -> Sequences:
    lengths = list(lengths)
    return Sequences.from_lengths(lengths, max(lengths), device)


def attention_inputs(make: Make, lengths: list[int], heads: int, size: int) -> Inputs:
    q, k, v = make.normal(sum(lengths), 3, heads, size).unbind(1)
    return q, k, v, sequences_of(lengths, make.device)


def biased_inputs(make: Make, lengths: list[int], heads: int, size: int) -> Inputs:
    return *attention_inputs(make, lengths, heads, size), make.normal(heads, max(lengths), max(lengths))


def window_inputs(
    make: Make, batch: int, sides: tuple[int, int], heads: int, size: int, window: int, shift: int
) -> Inputs:
    table = make.normal((2 * window - 1) ** 2, heads)
    padding = make.normal(3, heads, size) if any(side % window for side in sides) else None
    return make.normal(batch, *sides, 3, heads, size), table, window, shift, padding


def norm_inputs(make: Make, tensors: int, rows: int, width: int) -> Inputs:
    return *(make.normal(rows, width) for _ in range(tensors)), make.normal(width), make.normal(width), EPS


def gelu_inputs(make: Make, rows: int, width: int) -> Inputs:
    return make.normal(rows, width), make.normal(width)


def embedding_inputs(make: Make, rows: int, width: int, words: int) -> Inputs:
    sizes = words, 512, 2
    tables = (make.normal(size, width) for size in sizes)
    return *(make.indices(size, rows) for size in sizes), *tables, make.normal(width), make.normal(width), EPS


def merge_inputs(make: Make, batch: int, height: int, width: int, channels: int) -> Inputs:
    return make.normal(batch, height, width, channels), make.normal(4 * channels), make.normal(4 * channels), EPS


def convolution_inputs(make: Make, samples: int, channels: int) -> Inputs:
    return make.normal(samples, 1), make.normal(channels, 10, 1, scale=0.3), make.normal(channels)


# Checks

RAGGED = [1, 129, 64, 17, 63, 65, 128, 300]
CHECKS: dict[str, tuple[str, Callable[..., Inputs]]] = {
    **{
        f"attention, heads of {size}": ("attention", partial(attention_inputs, lengths=RAGGED, heads=3, size=size))
        for size in (24, 64, 80, 128)
    },
    "attention, many short": ("attention", partial(attention_inputs, lengths=[2, 1, 31] * 70, heads=2, size=64)),
    "attention, bias": ("attention, bias", partial(biased_inputs, lengths=RAGGED, heads=3, size=64)),
    "attention, causal": ("attention, causal", partial(attention_inputs, lengths=RAGGED, heads=3, size=64)),
    "attention, gradients": ("attention, gradients", partial(attention_inputs, lengths=RAGGED, heads=3, size=64)),
    **{
        f"windows of {window}, map {sides[0]} × {sides[1]}, shift {shift}": (
            "window_attention",
            partial(window_inputs, batch=2, sides=sides, heads=3, size=32, window=window, shift=shift),
        )
        for window, sides, shift in ((7, (14, 14), 0), (7, (10, 17), 3), (4, (9, 8), 2), (12, (24, 25), 6))
    },
    "layer_norm": ("layer_norm", partial(norm_inputs, tensors=1, rows=1001, width=768)),
    "add_layer_norm": ("add_layer_norm", partial(norm_inputs, tensors=2, rows=1001, width=96)),
    "residual_layer_norm": ("residual_layer_norm", partial(norm_inputs, tensors=2, rows=1001, width=1024)),
    "bias_gelu": ("bias_gelu", partial(gelu_inputs, rows=1001, width=3072)),
    "embedding_layer_norm": ("embedding_layer_norm", partial(embedding_inputs, rows=1001, width=768, words=30522)),
    "merge_layer_norm": ("merge_layer_norm", partial(merge_inputs, batch=3, height=15, width=14, channels=96)),
    "convolution": ("convolution", partial(convolution_inputs, samples=16013, channels=512)),
}
# The interpreter runs one program at a time: a dry run uses these sizes instead of those above.
TINY = {
    "lengths": [1, 17], "heads": 1, "batch": 1, "rows": 5, "width": 48, "words": 60, "samples": 100, "channels": 16,
    "height": 5,
}  # fmt: skip


def tiny(inputs: partial, setup: Setup) -> partial:
    given = {name: TINY[name] for name in inputs.keywords if name in TINY}
    if "window" in inputs.keywords:
        window = min(inputs.keywords["window"], 9)
        given |= {"window": window, "sides": (window, window + 1), "shift": min(inputs.keywords["shift"], 3)}
    return partial(inputs, **given) if setup.dry else inputs


@contextmanager
def fresh_memory_is_nan() -> Iterator[None]:
    """What a kernel leaves unwritten shows."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def check(label: str, setup: Setup) -> dict[str, Any]:
    """The error of our kernel and of torch against float64, in each dtype."""
    name, inputs = CHECKS[label]
    operation, found, passed = OPERATIONS[name], {}, True
    for dtype in setup.dtypes:
        if dtype is torch.float32 and inputs.keywords.get("size", 0) > 64:
            continue  # `why_not` leaves them to torch
        torch.manual_seed(0)
        given = tiny(inputs, setup)(Make(dtype, setup.device))
        exact = operation.in_torch(*(_double(x) for x in given))
        with fresh_memory_is_nan():
            error = relative(operation.ours(*given), exact)
        torch_error = relative(operation.in_torch(*given), exact)
        allowed = ALLOWED * torch_error + torch.finfo(dtype).eps / 4
        found[name_of(dtype)] = {"error": error, "torch": torch_error, "allowed": allowed, "passed": error <= allowed}
        passed = passed and error <= allowed
    return {"passed": passed, "dtypes": found}


def _double(x: Any) -> Any:
    return x.double() if isinstance(x, Tensor) and x.is_floating_point() else x


# Timings. Goals are milliseconds on an H100, from the project's plan.

HALF = [512, *(4 + 8 * (index * 29 % 63) for index in range(63))]  # shuffled, 256 tokens on average
TIMED: dict[str, tuple[str, Callable[..., Inputs]]] = {
    "attention, 64 × 512, 12 heads of 64": (
        "attention", partial(attention_inputs, lengths=[512] * 64, heads=12, size=64)),
    "attention, 64 × 512 half filled": ("attention", partial(attention_inputs, lengths=HALF, heads=12, size=64)),
    "attention and its gradients, 64 × 512": (
        "attention, gradients", partial(attention_inputs, lengths=[512] * 64, heads=12, size=64)),
    "windows of 7, 64 × 56 × 56, 3 heads of 32, shifted": (
        "window_attention",
        partial(window_inputs, batch=64, sides=(56, 56), heads=3, size=32, window=7, shift=3)),
    "windows of 12, 16 × 96 × 96, 4 heads of 32": (
        "window_attention",
        partial(window_inputs, batch=16, sides=(96, 96), heads=4, size=32, window=12, shift=6)),
    "add_layer_norm, 4096 × 768": ("add_layer_norm", partial(norm_inputs, tensors=2, rows=4096, width=768)),
    "bias_gelu, 4096 × 3072": ("bias_gelu", partial(gelu_inputs, rows=4096, width=3072)),
    "embedding_layer_norm, 4096 × 768": (
        "embedding_layer_norm", partial(embedding_inputs, rows=4096, width=768, words=30522)),
    "merge_layer_norm, 64 × 56 × 56 × 96": (
        "merge_layer_norm", partial(merge_inputs, batch=64, height=56, width=56, channels=96)),
    "convolution of 160 s in 512 channels": (
        "convolution", partial(convolution_inputs, samples=2560000, channels=512)),
}  # fmt: skip
GOALS = {
    "attention, 64 × 512, 12 heads of 64": 0.130,
    "attention, 64 × 512 half filled": 0.55 * 0.130,
    "windows of 7, 64 × 56 × 56, 3 heads of 32, shifted": 0.065,
}


def timed_inputs(label: str, setup: Setup) -> tuple[Operation, Inputs]:
    name, inputs = TIMED[label]
    torch.manual_seed(0)
    return OPERATIONS[name], tiny(inputs, setup)(Make(setup.timed_dtype, setup.device))


def sdpa_arms(q: Tensor, k: Tensor, v: Tensor, sequences: Sequences) -> dict[str, Callable[[], Any]]:
    """Torch's own attention in every way it offers, on the rows as a projection leaves them."""
    arms = {}
    grids = [sequences.unpack(x).transpose(1, 2) for x in (q, k, v)]
    mask = None
    if sequences.ragged:
        mask = (torch.arange(sequences.longest, device=q.device) < sequences.lengths[:, None])[:, None, None]
        offsets = torch.cat((sequences.starts, sequences.starts[-1:] + sequences.lengths[-1:]))
        nested = [torch.nested.nested_tensor_from_jagged(x.contiguous(), offsets).transpose(1, 2) for x in (q, k, v)]
        arms["SDPA, nested"] = lambda: F.scaled_dot_product_attention(*nested)

    def padded(backend: SDPBackend) -> Tensor:
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(*grids, attn_mask=mask)

    for name in ("FLASH_ATTENTION", "CUDNN_ATTENTION", "EFFICIENT_ATTENTION"):
        arms[f"SDPA, {name.lower()}"] = partial(padded, getattr(SDPBackend, name))
    return arms


def time_operation(label: str, setup: Setup) -> dict[str, Any]:
    """Our kernel against torch's operations, eager and compiled, and its roofline."""
    operation, given = timed_inputs(label, setup)
    arms = {"ours": partial(operation.ours, *given), "torch": partial(operation.in_torch, *given)}
    if TIMED[label][0] == "attention":
        arms |= sdpa_arms(*given)
        if not setup.dry and given[3].ragged:
            torch._dynamo.reset()
            arms["FlexAttention, documents"] = flex_arm(*given)
    elif TIMED[label][0] != "attention, gradients":
        options = {"backend": "eager"} if setup.dry else {"mode": "max-autotune-no-cudagraphs"}
        torch._dynamo.reset()
        compiled = replace(operation, torch=torch.compile(operation.torch, dynamic=False, **options))
        arms["torch.compile"] = partial(compiled.in_torch, *given)
    times = in_turns(arms, setup, seconds=2.0, flush=True)
    if not setup.dry and label in SHORT_WORK:
        times |= in_turns(replayed_arms(label, setup, operation), setup, seconds=1.0, per=LAUNCHES)
    moved = operation.moved(*given) if operation.moved else _bytes(*given, operation.ours(*given))
    floor = floor_ms(moved, operation.flops(*given))
    return {"times": times, "floor_ms": floor, "goal_ms": GOALS.get(label), "clocks": {} if setup.dry else clocks()}


LAUNCHES = 20
SHORT_WORK = {label for label in TIMED if "layer_norm" in label or "gelu" in label}


def replayed_arms(label: str, setup: Setup, operation: Operation) -> dict[str, Callable[[], Any]]:
    """What takes microseconds, without its launches: twenty of them in a CUDA graph, over uncached inputs."""
    sets = [timed_inputs(label, setup)[1] for _ in range(LAUNCHES)]
    arms = {"ours, in a graph": operation.ours, "torch, in a graph": operation.in_torch}
    return {name: replayed(call, sets, LAUNCHES) for name, call in arms.items()}


def registers(setup: Setup) -> dict[str, Any]:
    """What this card's own Triton made of the kernels that have run: registers, spills, shared memory."""
    found = []
    for name in sorted({name.split(",")[0] for name in OPERATIONS} - {"add_layer_norm", "residual_layer_norm"}):
        for kernel_name, function in vars(importlib.import_module(f"minitrans.kernels.{name}")).items():
            caches: dict = getattr(function, "device_caches", {}) if isinstance(function, triton.JITFunction) else {}
            for cache in caches.values():
                found += [
                    {
                        "kernel": kernel_name,
                        "warps": compiled.metadata.num_warps,
                        "stages": compiled.metadata.num_stages,
                        "registers": compiled.n_regs,
                        "spilled": compiled.n_spills,
                        "shared": compiled.metadata.shared,
                    }
                    for compiled in cache[0].values()
                ]
    return {"kernels": found}


def flex_arm(q: Tensor, k: Tensor, v: Tensor, sequences: Sequences) -> Callable[[], Any]:
    """FlexAttention on the same packed rows, with a mask of documents."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    document = torch.repeat_interleave(torch.arange(len(sequences.lengths), device=q.device), sequences.lengths)
    mask = create_block_mask(
        lambda b, h, i, j: document[i] == document[j], None, None, len(q), len(q), device=q.device.type
    )
    heads_first = [x.transpose(0, 1)[None] for x in (q, k, v)]
    compiled = torch.compile(flex_attention, dynamic=False)
    return lambda: compiled(*heads_first, block_mask=mask)


def _bytes(*tensors: Any) -> float:
    return float(sum(x.numel() * x.element_size() for x in tensors if isinstance(x, Tensor)))


# Tuning

Change = tuple[str, str, Any, Any]  # a kernel's module, a name in it, a key where that is a table, the value


def tiles(module: str, table: str, key: tuple[int, int], rows: Iterable[tuple[int, int, int, int]]) -> list[Change]:
    return [(module, table, key, Tiles(*row)) for row in rows]


def row_tile(elements: int, a_thread: int) -> Callable[[int], dict[str, int]]:
    """A stand-in for the launchers' `row_tile`: at least this many elements per program and per thread."""

    def chosen(width: int) -> dict[str, int]:
        block = 1 << (width - 1).bit_length()
        rows = max(1, elements // block)
        return {"ROWS": rows, "BLOCK_C": block, "num_warps": min(16, max(1, rows * block // (32 * a_thread)))}

    chosen.__qualname__ = f"{elements} elements per program, {a_thread} per thread"
    return chosen


ATTENTION_TILES = [
    (64, 64, 4, 2), (64, 64, 4, 4), (128, 64, 4, 3), (128, 64, 8, 3), (128, 128, 8, 2), (64, 128, 4, 2),
]  # fmt: skip
BACKWARD_TILES = [(64, 64, 4, 2), (64, 32, 4, 3), (128, 64, 8, 2), (64, 128, 4, 2), (128, 32, 8, 2)]
WINDOW_TILES = [(64, 64, 4, 1), (64, 64, 4, 2), (64, 64, 4, 4), (64, 64, 2, 3), (64, 64, 8, 3), (64, 32, 4, 2)]
LARGE_WINDOW_TILES = [(64, 32, 4, 3), (64, 64, 4, 2), (128, 32, 8, 2), (64, 16, 4, 2), (64, 32, 8, 2)]
# What is timed -> the changes to try, each alone or, in a tuple, together.
TUNING: dict[str, list[Any]] = {
    "attention, 64 × 512, 12 heads of 64": tiles("attention", "FORWARD", (16, 64), ATTENTION_TILES),
    "attention, 64 × 512 half filled": tiles("attention", "FORWARD", (16, 64), ATTENTION_TILES),
    "windows of 7, 64 × 56 × 56, 3 heads of 32, shifted": [
        *tiles("window_attention", "SMALL_WINDOWS", (16, 32), WINDOW_TILES),
        *[("window_attention", "ENOUGH_PROGRAMS", None, count) for count in (300, 600, 1500, 3000)],
    ],
    "windows of 12, 16 × 96 × 96, 4 heads of 32": tiles(
        "window_attention", "LARGE_WINDOWS", (16, 32), LARGE_WINDOW_TILES
    ),
    "attention and its gradients, 64 × 512": [
        *tiles("attention", "BACKWARD_QUERY", (16, 64), BACKWARD_TILES),
        *tiles("attention", "BACKWARD_KEY", (16, 64), BACKWARD_TILES),
    ],
    "add_layer_norm, 4096 × 768": [
        ("layer_norm", "row_tile", None, row_tile(*sizes)) for sizes in ((1024, 4), (1024, 16), (2048, 8), (4096, 16))
    ],
    "bias_gelu, 4096 × 3072": [
        (("bias_gelu", "ROWS", None, rows), ("bias_gelu", "COLUMNS", None, columns))
        for rows, columns in ((1, 1024), (4, 1024), (1, 2048), (2, 2048), (4, 512))
    ],
    "merge_layer_norm, 64 × 56 × 56 × 96": [
        ("merge_layer_norm", "row_tile", None, row_tile(*sizes))
        for sizes in ((1024, 4), (1024, 16), (2048, 8), (4096, 16))
    ],
    "convolution of 160 s in 512 channels": [
        (("convolution", "FRAMES", None, frames), ("convolution", "CHANNELS", None, channels))
        for frames, channels in ((128, 64), (64, 64), (128, 128), (32, 128), (64, 256))
    ],
}


@contextmanager
def changed(changes: Iterable[Change]) -> Iterator[None]:
    """Kernels with other settings than the shipped ones."""
    with ExitStack() as stack:
        for module, name, key, value in changes:
            owner = importlib.import_module(f"minitrans.kernels.{module}")
            keyed = key is not None
            stack.enter_context(
                patch.dict(getattr(owner, name), {key: value}) if keyed else patch.object(owner, name, value)
            )
        yield


def spell(changes: Iterable[Change]) -> str:
    parts = []
    for module, name, key, value in changes:
        chosen = getattr(value, "__qualname__", None) or (tuple(value) if isinstance(value, Tiles) else value)
        parts.append(f"{module}.{name}{'' if key is None else list(key)} = {chosen}")
    return "; ".join(parts)


def tune(label: str, setup: Setup) -> dict[str, Any]:
    """The shipped setting and others, interleaved; one that computes something else is excluded."""
    operation, given = timed_inputs(label, setup)
    candidates: list[tuple[Change, ...]] = [
        change if isinstance(change[0], tuple) else (change,) for change in TUNING[label]
    ]
    if setup.dry:
        candidates = candidates[:1]
    shipped = operation.ours(*given)

    def run(changes: tuple[Change, ...]) -> Any:
        with changed(changes):
            return operation.ours(*given)

    def checked(changes: tuple[Change, ...]) -> Callable[[], Any]:
        first = True

        def arm() -> Any:
            nonlocal first
            out = run(changes)
            if first and not relative(out, shipped) < 2e-2:
                raise ValueError("it computes something else")
            first = False
            return out

        return arm

    arms = {"shipped": partial(run, ())} | {spell(changes): checked(changes) for changes in candidates}
    times = in_turns(arms, setup, seconds=3.0, flush=True)
    best = min((name for name in times if "ms" in times[name]), key=lambda name: times[name]["ms"], default=None)
    return {"times": times, "best": best}
