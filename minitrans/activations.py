"""The activations that models compute, as modules by their published names: `ACT2FN["gelu"]`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor, nn

from minitrans import ops

# What transformers prints for them; the others are its classes of torch.nn.
PRINTED = {
    "gelu": "GELUActivation",
    "gelu_10": "ClippedGELUActivation",
    "gelu_accurate": "AccurateGELUActivation",
    "gelu_fast": "FastGELUActivation",
    "gelu_new": "NewGELUActivation",
    "gelu_python": "GELUActivation",
    "gelu_python_tanh": "GELUTanh",
    "gelu_pytorch_tanh": "GELUTanh",
    "laplace": "LaplaceActivation",
    "linear": "LinearActivation",
    "mish": "MishActivation",
    "quick_gelu": "QuickGELUActivation",
    "relu2": "ReLUSquaredActivation",
    "silu": "SiLUActivation",
}
TORCH: dict[str, type[nn.Module]] = {
    "leaky_relu": nn.LeakyReLU,
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "sigmoid": nn.Sigmoid,
    "swish": nn.SiLU,
    "tanh": nn.Tanh,
}


class Activation(nn.Module):
    """An activation of `ops.ACTIVATIONS` by its name; tensors of any shape."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        """Apply it to each number."""
        return ops.ACTIVATIONS[self.name](x)

    def _get_name(self) -> str:
        return PRINTED.get(self.name, type(self).__name__)


class Activations(Mapping[str, nn.Module]):
    """A mapping from a published name to a new module each time; KeyError, with those known, for another name."""

    def __getitem__(self, name: str) -> nn.Module:
        if name not in ops.ACTIVATIONS:
            raise KeyError(f"There is no activation {name!r}; there are {', '.join(self)}.")
        return TORCH[name]() if name in TORCH else Activation(name)

    def __iter__(self) -> Iterator[str]:
        return iter(ops.ACTIVATIONS)

    def __len__(self) -> int:
        return len(ops.ACTIVATIONS)


ACT2FN = Activations()


def get_activation(activation_string: str) -> nn.Module:
    """Return the activation of a published name."""
    return ACT2FN[activation_string]
