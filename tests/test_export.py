"""Programs that torch writes of a model, for other shapes and other padding than they were written with.

Each sequence must have the numbers that transformers gives it alone.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
import transformers
from checkpoints import TINY, relative
from test_swin import TINY as TINY_SWIN
from test_wav2vec2 import TINY as TINY_WAV2VEC2
from torch import Tensor, nn

import minitrans

AUTO = torch.export.Dim.AUTO
LONG = (2, 800), (3, 1177)
# Transformers' class and configuration, and the shapes of the inputs to write the program with and to run it with.
MODELS: dict[str, tuple[str, dict[str, Any], tuple[int, ...], tuple[int, ...]]] = {
    "bert": ("BertModel", TINY, (2, 7), (3, 11)),
    "distilbert": ("DistilBertModel", {"vocab_size": 97, "dim": 32, "n_layers": 2, "n_heads": 4}, (2, 7), (3, 11)),
    "swin": ("SwinForImageClassification", TINY_SWIN, (2, 3, 20, 28), (3, 3, 20, 28)),
    "wav2vec2": ("Wav2Vec2Model", TINY_WAV2VEC2, *LONG),
    "wav2vec2, layer norm": ("Wav2Vec2ForXVector", {**TINY_WAV2VEC2, "feat_extract_norm": "layer"}, *LONG),
    "wav2vec2, adapter": ("Wav2Vec2Model", {**TINY_WAV2VEC2, "add_adapter": True, "num_adapter_layers": 2}, *LONG),
}
PADDED = [name for name in MODELS if name != "swin"]


class FirstOutput(nn.Module):
    """A model's first output for its inputs in their order: what all ways of writing a program can carry."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.model(*inputs)[0]


def dynamic(inputs: tuple[Tensor, ...]) -> tuple[dict[int, Any], ...]:
    """Batch, and what is no image's, of any size."""
    return tuple(dict.fromkeys(range(2 if x.dim() == 2 else 1), AUTO) for x in inputs)


def exported(model: nn.Module, inputs: tuple[Tensor, ...], folder: Path) -> Callable[..., Tensor]:
    shapes = {"inputs": dynamic(inputs)}
    return torch.export.export(FirstOutput(model).eval(), inputs, dynamic_shapes=shapes).module()  # type: ignore[return-value]


def traced(model: nn.Module, inputs: tuple[Tensor, ...], folder: Path) -> Callable[..., Tensor]:
    return torch.jit.trace(FirstOutput(model).eval(), inputs)


def onnx(model: nn.Module, inputs: tuple[Tensor, ...], folder: Path) -> Callable[..., Tensor]:
    file = folder / "model.onnx"
    torch.onnx.export(
        FirstOutput(model).eval(), inputs, file, dynamic_shapes={"inputs": dynamic(inputs)}, verbose=False
    )
    session = onnxruntime.InferenceSession(file)
    names = [x.name for x in session.get_inputs()]
    return lambda *given: torch.from_numpy(
        session.run(None, dict(zip(names, (x.numpy() for x in given), strict=True)))[0]
    )


def pair(name: str, folder: Path) -> tuple[Any, Any]:
    """The transformers model, every number random, and ours."""
    published, values, *_ = MODELS[name]
    torch.manual_seed(0)
    family = getattr(transformers, published)
    theirs = family(family.config_class(**values)).eval()
    with torch.no_grad():
        for path, parameter in theirs.named_parameters():
            parameter.normal_(1.0 if "norm" in path.lower() and path.endswith("weight") else 0.0, 0.2)
    theirs.save_pretrained(folder)
    return theirs, getattr(minitrans, published).from_pretrained(folder)


def given(name: str, shape: tuple[int, ...], padded: bool) -> tuple[Tensor, ...]:
    """Inputs of a shape; with padding, every sequence but the first is shorter than it, and has a mask."""
    torch.manual_seed(sum(shape))
    values = torch.randn(shape) if "bert" not in name else torch.randint(97, shape)
    if not padded:
        return (values,)
    lengths = torch.linspace(shape[1], shape[1] // 2, shape[0]).long()
    return values, (torch.arange(shape[1]) < lengths[:, None]).long()


@torch.no_grad()
def check(program: Callable[..., Tensor], theirs: Any, inputs: tuple[Tensor, ...]) -> None:
    found = program(*inputs)
    for index, values in enumerate(inputs[0]):
        length = int(inputs[1][index].sum()) if len(inputs) == 2 else len(values)
        alone = theirs(values[None, :length])[0][0]
        assert relative(found[index, : len(alone)], alone) <= 1e-5
    assert found.isfinite().all()


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*deprecated:DeprecationWarning")
@pytest.mark.parametrize("write", [exported, traced, onnx], ids=lambda write: write.__name__)
@pytest.mark.parametrize(("name", "padded"), [*((name, True) for name in PADDED), *((name, False) for name in MODELS)])
def test_a_program_holds_for_other_shapes_and_other_padding(write, name, padded, tmp_path):
    theirs, ours = pair(name, tmp_path)
    first, second = (given(name, shape, padded) for shape in MODELS[name][2:])
    program = write(ours, first, tmp_path)
    check(program, theirs, first)
    check(program, theirs, second)
    check(program, theirs, tuple(x[:1] for x in second))
    if padded:
        whole = torch.ones_like(second[1])
        whole[0, len(whole[0]) // 2 :] = 0
        check(program, theirs, (second[0], whole))


def test_a_whole_model_with_named_inputs_as_onnx(tmp_path):
    """As a user of transformers would: no wrapper, names from the forward pass and from the output."""
    torch.manual_seed(0)
    theirs = transformers.BertForSequenceClassification(transformers.BertConfig(**TINY)).eval()
    theirs.save_pretrained(tmp_path)
    ours = minitrans.AutoModelForSequenceClassification.from_pretrained(tmp_path)
    names = ["input_ids", "attention_mask", "token_type_ids"]
    first, second = ((*given("bert", shape, True), torch.ones(shape, dtype=torch.long)) for shape in ((2, 7), (4, 5)))
    shapes = {name: {0: AUTO, 1: AUTO} for name in names}
    file = tmp_path / "model.onnx"
    torch.onnx.export(
        ours,
        kwargs=dict(zip(names, first, strict=True)),
        f=file,
        dynamic_shapes=shapes,
        input_names=names,
        output_names=[*ours(*first)],
        verbose=False,
    )
    inputs = dict(zip(names, second, strict=True))
    session = onnxruntime.InferenceSession(file)
    assert [x.name for x in session.get_outputs()] == ["logits"]
    found = session.run(None, {name: x.numpy() for name, x in inputs.items()})
    with torch.no_grad():
        assert relative(torch.from_numpy(found[0]), theirs(**inputs).logits) <= 1e-5
