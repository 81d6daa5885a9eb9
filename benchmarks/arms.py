"""The candidates: how each library makes a program of a checkpoint and inputs, and in which process it runs."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import minitrans
from benchmarks.rows import (
    CHECKPOINTS,
    COMPILED,
    DEFAULT,
    EAGER,
    FROZEN,
    HALF,
    LOADED,
    NARROW,
    ONNX,
    OPENVINO,
    SDPA,
    SENTENCES,
    Row,
    docstrings,
    minilm,
)
from minitrans import cpu

# A program that gives an output, of which numbers are compared.
Run = Callable[[], Tensor]
# What limits torch, its compiler and the libraries that it calls to an older instruction set.
HELD = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS")


class AbsentError(Exception):
    """Why a candidate is not measured."""


@dataclass(frozen=True)
class Arm:
    """`process` is where it runs, with others of its library; `load` and `run` make a model, and a program of it."""

    process: str
    load: Callable[[str, Path], Any]
    run: Callable[[Any, Row], Run]
    packages: tuple[str, ...] = ()
    check: Callable[[], None] = lambda: None

    def check_here(self, row: Row) -> None:
        """AbsentError, with the reason, if it cannot run a row on this machine."""
        if row.measure.endswith("bfloat16"):
            _needs_bfloat16()
        for package in self.packages:
            if importlib.util.find_spec(package) is None:
                raise AbsentError(f"not installed: pip install {package}")
        self.check()


class FirstOutput(nn.Module):
    """A model's first output for its inputs in their order: what all ways of writing a program can carry."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.model(*inputs)[0]


def _ours(freeze: Callable[[Any], Any]) -> Callable[[str, Path], Any]:
    def load(checkpoint: str, folder: Path) -> Any:
        if checkpoint == "MiniLM, real":
            embedder = minitrans.Embedder.from_pretrained(folder)
            embedder.model = freeze(embedder.model)
            return embedder
        return freeze(getattr(minitrans, CHECKPOINTS[checkpoint].kind).from_pretrained(folder))

    return load


def _theirs(attention: str, dtype: torch.dtype = torch.float32) -> Callable[[str, Path], Any]:
    @cache
    def load(checkpoint: str, folder: Path) -> Any:
        import transformers

        published = getattr(transformers, CHECKPOINTS[checkpoint].kind)
        return published.from_pretrained(folder, attn_implementation=attention, dtype=dtype).eval()

    return load


def _torch(model: Any, row: Row) -> Run:
    if row.measure.startswith("encode"):
        return _encoding(model, row)
    if row.trains:
        return _step(model.train(), row)
    inputs = tuple(x.to(model.dtype) if x.is_floating_point() else x for x in row.inputs())

    @torch.inference_mode()
    def run() -> Tensor:
        return model(*inputs)[0]

    return run


def _step(model: Any, row: Row) -> Run:
    """Forward and backward; what dropout leaves is not the same twice, and so no number is given."""
    inputs, narrow = row.inputs(), row.measure.endswith("bfloat16")

    def run() -> Tensor:
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
            output = model(*inputs)[0]
        output.float().square().mean().backward()
        return torch.empty(0)

    return run


def _encoding(model: Any, row: Row) -> Run:
    texts: Any = "How do I stop bread from going stale?" if row.measure == "encode query" else docstrings()
    return lambda: torch.from_numpy(model.encode(texts, show_progress_bar=False))


def _sentence_transformer(checkpoint: str, folder: Path) -> Any:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu")


def _compiled(model: Any, row: Row) -> Run:
    """By inductor, its weights folded into the program and packed: `freezing`."""
    import torch._inductor.config as inductor

    inductor.freezing = True
    torch.compiler.reset()
    inputs, program = row.inputs(), torch.compile(model, dynamic=False)

    @torch.inference_mode()
    def run() -> Tensor:
        return program(*inputs)[0]

    return run


def _onnx(model: Any, row: Row) -> Run:
    """The program that torch exports of transformers' model: for images of this size, for texts and audio of any."""
    import onnxruntime

    inputs = row.inputs()
    file = Path(model.name_or_path) / f"{len(inputs)}{row.name if inputs[0].dim() > 2 else ''}.onnx"
    if not file.exists():
        sizes = tuple(dict.fromkeys(range(2), torch.export.Dim.AUTO) if x.dim() == 2 else {} for x in inputs)
        sample = tuple(torch.cat([x, x]) if x.dim() == 2 else x for x in inputs)  # a size of 1 would become static
        torch.onnx.export(FirstOutput(model), sample, file, dynamic_shapes={"inputs": sizes}, verbose=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(file, options)
    given = {x.name: value.numpy() for x, value in zip(session.get_inputs(), inputs, strict=True)}
    return lambda: torch.from_numpy(session.run(None, given)[0])


@lru_cache(maxsize=1)
def _converted(model: Any, row: Row) -> Any:
    """A model as OpenVINO reads it, for these sizes; both precisions compile it."""
    import openvino

    os.environ["CI"] = "true"  # OpenVINO reports to its makers what it converts, but for there
    inputs = row.inputs()
    program = openvino.convert_model(FirstOutput(model), example_input=inputs)
    program.reshape({place: list(x.shape) for place, x in enumerate(inputs)})
    return program


def _openvino(precision: str | None) -> Callable[[Any, Row], Run]:
    def run(model: Any, row: Row) -> Run:
        import openvino

        options: dict[str, Any] = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "NUM_STREAMS": 1}
        if precision:
            options["INFERENCE_PRECISION_HINT"] = precision
        compiled = openvino.Core().compile_model(_converted(model, row), "CPU", options)
        given = [x.numpy() for x in row.inputs()]
        return lambda: torch.from_numpy(compiled(given)[0])

    return run


def _needs_bfloat16() -> None:
    if not cpu.packs(torch.bfloat16):
        raise AbsentError("oneDNN has no bfloat16 on this CPU")


def _needs_a_compiler() -> None:
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        raise AbsentError("needs a C++ compiler, which is not installed (Debian: apt-get install g++)")


def _needs_all_of_the_cpu() -> None:
    if held := [name for name in HELD if os.environ.get(name)]:
        raise AbsentError(f"does not keep to what {', '.join(held)} say")


FASTER = _theirs("sdpa")
ARMS = {
    LOADED: Arm("minitrans", _ours(lambda model: model), _torch),
    FROZEN: Arm("minitrans", _ours(lambda model: model.freeze()), _torch),
    NARROW: Arm("minitrans", _ours(lambda model: model.freeze("bfloat16")), _torch, check=_needs_bfloat16),
    EAGER: Arm("transformers", _theirs("eager"), _torch, ("transformers",)),
    SDPA: Arm("transformers", FASTER, _torch, ("transformers",)),
    HALF: Arm("transformers", _theirs("sdpa", torch.bfloat16), _torch, ("transformers",), _needs_bfloat16),
    COMPILED: Arm("compiled", FASTER, _compiled, ("transformers",), _needs_a_compiler),
    ONNX: Arm(
        "onnxruntime", _theirs("eager"), _onnx, ("transformers", "onnxruntime", "onnxscript"), _needs_all_of_the_cpu
    ),
    OPENVINO: Arm("openvino", FASTER, _openvino("f32"), ("transformers", "openvino"), _needs_all_of_the_cpu),
    DEFAULT: Arm("openvino", FASTER, _openvino(None), ("transformers", "openvino"), _needs_all_of_the_cpu),
    SENTENCES: Arm("sentence-transformers", _sentence_transformer, _torch, ("sentence_transformers",)),
}


def folder_of(checkpoint: str, beside: Path) -> Path:
    """The folder of a checkpoint, made by transformers below `beside` where it is not there yet."""
    if checkpoint == "MiniLM, real":
        return minilm()
    folder = beside / checkpoint.replace(" ", "")
    if not folder.exists():
        CHECKPOINTS[checkpoint].save(folder)
    return folder
