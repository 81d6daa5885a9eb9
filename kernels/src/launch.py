"""What every launcher asks: may a kernel run here, in which tile, and how exact are its float32 products."""

import functools
from collections.abc import Callable, Iterable
from importlib.metadata import version
from itertools import zip_longest
from typing import Any, NamedTuple, TypeVar, cast

import torch
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable

INTERPRETED: bool = triton.knobs.runtime.interpret
"""True if `TRITON_INTERPRET=1` was set when triton was imported: kernels then run on CPU tensors, slowly."""

DTYPES = (torch.float16, torch.bfloat16, torch.float32)

Launcher = TypeVar("Launcher", bound=Callable)
Asked = TypeVar("Asked", bound=Callable)


class Tiles(NamedTuple):
    """A row of a table of shipped configurations: the tile's rows and columns, its warps, its pipeline's depth."""

    rows: int
    columns: int
    num_warps: int
    num_stages: int


_forget: list[Callable[[], None]] = []


def forget_target() -> None:
    """Ask all questions about the machine again: what is compiled from here on is for another one."""
    for forget in _forget:
        forget()


def asked_once(question: Asked) -> Asked:
    """A question about the machine: answered once, and for torch.compile a constant."""
    cached = functools.cache(question)

    @functools.wraps(question)
    def ask(*arguments: object) -> object:
        return cached(*arguments)

    _forget.append(cached.cache_clear)
    return cast(Asked, torch.compiler.assume_constant_result(ask))


@asked_once
def exact_on_tensor_cores() -> bool:
    """Whether three TF32 products on tensor cores, whose sum is as exact as float32's own product, are fast here.

    They are by the warpgroup's instructions of compute capability 9; elsewhere they take too many registers.
    """
    if INTERPRETED:
        return True
    target = triton.runtime.driver.active.get_current_target()
    return target.backend == "cuda" and target.arch // 10 == 9


@asked_once
def tf32_products() -> bool:
    """Whether a product may be asked for in TF32, which AMD's compiler refuses for all targets but one."""
    return INTERPRETED or triton.runtime.driver.active.get_current_target().backend == "cuda"


def dot_precision(dtype: torch.dtype) -> str | None:
    """`tl.dot`'s precision: float32 stays exact unless torch's own matrix products may use TF32."""
    if dtype is not torch.float32:
        return None
    if torch.backends.cuda.matmul.fp32_precision == "tf32" and tf32_products():
        return "tf32"
    return "tf32x3" if exact_on_tensor_cores() else "ieee"


def why_no_interpreter() -> str | None:
    """The reason why Triton's interpreter fails with the installed packages, or None."""
    numpy = version("numpy")
    number, other = (tuple(map(int, each.split(".")[:2])) for each in (triton.__version__, numpy))
    if number < (3, 7) and other >= (2, 4):
        return (
            f"the interpreter of Triton {triton.__version__} fails with numpy {numpy} (triton#9171); "
            "it needs numpy<2.4, or triton>=3.7"
        )
    return None


@asked_once
def _objection(device: torch.device, dtype: torch.dtype) -> str | None:
    """The reason against tensors of this kind; asked once, as the hardware is slow to tell its age."""
    if device.type == "cpu" and not INTERPRETED:
        return "the tensors are on the CPU; Triton kernels need a GPU, or TRITON_INTERPRET=1 from the start"
    if INTERPRETED and (reason := why_no_interpreter()):
        return reason
    if device.type not in ("cpu", "cuda"):
        return f"the tensors are on {device.type!r}; Triton kernels run on NVIDIA and AMD GPUs"
    if dtype not in DTYPES:
        return f"the dtype is {dtype}; the kernels compute in float16, bfloat16 and float32"
    if dtype is torch.bfloat16 and INTERPRETED:
        return "Triton's interpreter multiplies bfloat16 matrices as if they held integers"
    if device.type == "cuda" and torch.version.hip is None and torch.cuda.get_device_capability(device) < (8, 0):
        return "the GPU is older than compute capability 8.0, which the kernels are compiled for"
    return None


def gradient_wanted(arguments: Iterable[object]) -> bool:
    """Whether autograd asks for the gradient of one of a launcher's arguments."""
    return torch.is_grad_enabled() and any(getattr(argument, "requires_grad", False) for argument in arguments)


def why_not_here(tensors: Iterable[Tensor | None], *, backward: bool = False) -> str | None:
    """The reason why no kernel of this package can take these tensors, or None; `backward`: it has gradients."""
    given = [tensor for tensor in tensors if tensor is not None]
    for tensor in given:
        if tensor.device != given[0].device:
            return f"the tensors are on {given[0].device} and {tensor.device}; a kernel runs on one device"
        if tensor.dtype != given[0].dtype:
            return f"the dtypes are {given[0].dtype} and {tensor.dtype}; the kernels take one"
    reason = _objection(given[0].device, given[0].dtype) if given else None
    if not reason and not backward and gradient_wanted(given):
        return "a gradient is wanted, and this kernel has no backward pass"
    return reason


def why_not_indices(indices: Iterable[Tensor | None], device: torch.device) -> str | None:
    """The reason why a kernel on this device cannot take these indices, or None."""
    for tensor in indices:
        if tensor is not None and tensor.device != device:
            return f"indices are on {tensor.device}, the rest on {device}"
        if tensor is not None and tensor.dtype not in (torch.int32, torch.int64):
            return f"the dtype of indices is {tensor.dtype}; the kernels take int32 and int64"
    return None


def why_not_sizes(**tensors: tuple[Tensor | None, tuple[int, ...]]) -> str | None:
    """The reason, by name, if one of these tensors does not have the shape given with it, or None.

    A kernel would read past the end of a shorter one.
    """
    for name, (tensor, shape) in tensors.items():
        if tensor is not None and tensor.shape != shape:
            return f"{name} is {tuple(tensor.shape)}, not {tuple(shape)}"
    return None


FURTHEST = 2**31
"""Elements that an offset of 32 bits can step over. Offsets within a sequence or an image have 32, for speed."""

WIDEST_ROW = 16384
"""Channels that a program can hold in registers; a backward pass half as many, in addition to the weights' sums."""

STRIPS = 1024
"""The most warps that share the rows of which a backward pass takes sums, and the most partial sums written."""


def power_of_2(size: int) -> int:
    """The least power of two that is at least a size."""
    return 1 << (size - 1).bit_length()  # Triton's own function takes five microseconds


@functools.cache
def row_tile(width: int) -> dict[str, int]:
    """Options of a kernel that holds whole rows: at least 1024 elements per program, 32 per thread.

    Many elements per thread keep a row in one warp, or in few, which have less to exchange.
    """
    block = power_of_2(width)
    rows = max(1, 1024 // block)
    return {"ROWS": rows, "BLOCK_C": block, "num_warps": rows * block // 1024}


def too_wide(width: int, *, backward: bool = False) -> str | None:
    """The reason why rows of this width cannot be held, or None; `backward`: their gradients are wanted too."""
    widest = WIDEST_ROW // 2 if backward else WIDEST_ROW
    return f"rows have {width} channels; a program holds up to {widest}" if width > widest else None


def launch(kernel: triton.JITFunction, grid: tuple[int, ...], first: Tensor, *rest: object, **options: object) -> None:
    """Run a kernel on its first argument's device, with multiply-adds fused (Triton 3.10 stops assuming so)."""
    with torch.cuda.device_of(first):
        kernel[grid](first, *rest, enable_fp_fusion=True, **options)


def operator(fake: Callable, gradients: Callable[..., tuple] | None = None) -> Callable[[Launcher], Launcher]:
    """Make a launcher one opaque node of `torch.compile`'s graph; `fake` gives the shapes that come out.

    `gradients(needed, upstream, *inputs)` makes it differentiable, once: from those of the outputs, a gradient for
    each input up to the last that may have one. What is not needed is left out.

    Called eagerly, the launcher runs directly: the dispatcher would add about 13 µs to a launch of 10.
    """

    def remember(ctx: Any, inputs: tuple, output: object) -> None:
        ctx.save_for_backward(*(each if isinstance(each, Tensor) else None for each in inputs))
        ctx.others = [None if isinstance(each, Tensor) else each for each in inputs]

    def through(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        inputs = [
            other if saved is None else saved for saved, other in zip(ctx.saved_tensors, ctx.others, strict=True)
        ]
        needed = ctx.needs_input_grad[: len(inputs)]

        def those_needed(*_: object) -> tuple[Tensor | None, ...]:
            assert gradients is not None
            found = gradients(needed, upstream, *inputs)
            return tuple(gradient if each else None for gradient, each in zip_longest(found, needed))

        # It sees the inputs too: a second derivative by them is an error, not a missing term.
        return once_differentiable(those_needed)(ctx, *upstream, *inputs)

    def register(launcher: Launcher) -> Launcher:
        node = torch.library.custom_op(f"minitrans::{launcher.__name__}", launcher, mutates_args=())
        node.register_fake(fake)
        if gradients is not None:
            node.register_autograd(through, setup_context=remember)

        class Eager(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, *inputs: object) -> object:
                output = launcher(*inputs)
                remember(ctx, inputs, output)
                return output

            backward = staticmethod(through)

        @functools.wraps(launcher)
        def call(*inputs: object) -> object:
            # What a compiler differentiates runs on stand-ins for tensors while nothing says that it is compiling.
            if torch.compiler.is_compiling() or type(inputs[0]) not in (Tensor, torch.nn.Parameter):
                return node(*inputs)
            return Eager.apply(*inputs) if gradients is not None and gradient_wanted(inputs) else launcher(*inputs)

        return cast(Launcher, call)

    return register
