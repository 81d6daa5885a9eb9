"""How Triton's interpreter is listened to: its methods tell a `Listener`, if one is entered, what a kernel does.

`lab.count` is what uses it. The interpreter has a method for each operation of a kernel (`create_masked_load`,
`create_dot` and so on), which this file wraps when it is imported.
"""

import ast
import functools
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor
from triton.runtime import interpreter


class KernelError(Exception):
    """A kernel did what no kernel may do; the message is for its author."""


class Access(NamedTuple):
    """One `tl.load` or `tl.store` of one program: the addresses of the elements that its mask let through."""

    program: tuple[int, int, int]
    written: bool
    tensor: str
    size: int
    addresses: np.ndarray


class Listener:
    """Hears of every launch, program, access and operation of the interpreter while it is entered."""

    def __init__(self, counts: Any) -> None:  # a `lab.Counts`
        self.counts = counts
        self.kernel = ""
        self.spans: dict[str, tuple[int, int]] = {}  # of a launch's parameters, as addresses
        self.program = (0, 0, 0)
        self.stored = True

    def __enter__(self) -> None:
        global listener
        listener = self

    def __exit__(self, *_: object) -> None:
        global listener
        listener = None
        self._end_program()

    def launch(self, executor: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        """Which tensors the parameters are, and where their memory begins and ends."""
        given = {**dict(zip(executor.arg_names, arguments, strict=False)), **keywords}
        self.kernel, self.spans = executor.fn.__name__, {}
        for name, tensor in given.items():
            if isinstance(tensor, Tensor):
                self.counts.kept.append(tensor)
                memory = tensor.untyped_storage()
                span = memory.data_ptr(), memory.data_ptr() + memory.nbytes()
                shared = [other for other in self.spans if self.spans[other] == span]
                for other in shared:
                    del self.spans[other]
                self.spans[", ".join([*shared, name])] = span

    def start_program(self, builder: Any, x: int, y: int, z: int) -> None:
        self._end_program()
        self.counts.programs += 1
        self.program, self.stored = (x, y, z), False

    def _end_program(self) -> None:
        self.counts.idle += not self.stored
        self.stored = True

    def load(self, builder: Any, pointers: Any, mask: Any, *_: Any) -> None:
        self._access(pointers, mask, written=False)

    def store(self, builder: Any, pointers: Any, value: Any, mask: Any, *_: Any) -> None:
        self.stored = True
        self._access(pointers, mask, written=True)

    def add(self, builder: Any, operation: Any, pointers: Any, value: Any, mask: Any, *_: Any) -> None:
        """An atomic operation reads and writes."""
        self.load(builder, pointers, mask)
        self.store(builder, pointers, value, mask)

    def _access(self, pointers: Any, mask: Any, written: bool) -> None:
        addresses = pointers.data[np.broadcast_to(mask.data, pointers.data.shape)].astype(np.uint64)
        if addresses.size:
            element = max(1, pointers.get_element_ty().primitive_bitwidth // 8)
            tensor = self._owner(addresses, "writes" if written else "reads")
            self.counts.accesses.append(Access(self.program, written, tensor, element, addresses))

    def _owner(self, addresses: np.ndarray, does: str) -> str:
        """The parameter whose memory holds these addresses; a kernel that leaves it is stopped before it does harm."""
        inside = {n: int(((addresses >= a) & (addresses < b)).sum()) for n, (a, b) in self.spans.items()}
        nearest = max(inside, key=lambda name: inside[name])
        if inside[nearest] == addresses.size:
            return nearest
        raise KernelError(
            f"Program {self.program} of {self.kernel} {does} {addresses.size - inside[nearest]} elements outside "
            f"{nearest if inside[nearest] else 'every tensor it was given'}; a mask must keep them out."
        )

    def dot(self, result: Any, a: Any, *_: Any) -> None:
        self.counts.dot_flops += 2 * result.data.size * a.data.shape[-1]

    def reduce(self, result: Any, values: tuple[Any, ...]) -> None:
        self.counts.reductions += 1
        if values[0].dtype.is_floating():
            first = result[0] if isinstance(result, (list, tuple)) else result
            self.counts.other_flops += values[0].handle.data.size - first.handle.data.size

    def flop(self, result: Any, *_: Any) -> None:
        self.counts.other_flops += result.data.size

    def fused(self, result: Any, *_: Any) -> None:
        self.counts.other_flops += 2 * result.data.size

    def power(self, result: Any, *_: Any) -> None:
        self.counts.powers += result.data.size

    def barrier(self, *_: Any) -> None:
        self.counts.barriers += 1


listener: Listener | None = None

FLOPS = "fadd fsub fmul fdiv precise_divf approx_divf maxnumf minnumf maximumf minimumf sqrt precise_sqrt rsqrt erf"


def _report(owner: type, method: str, event: str, *, after: bool) -> None:
    """Tell the listener, if there is one, of each call of a method: its arguments before, or its result after it."""
    original = getattr(owner, method)

    @functools.wraps(original)
    def call(self: Any, *arguments: Any, **keywords: Any) -> Any:
        if listener is not None and not after:
            getattr(listener, event)(self, *arguments, **keywords)
        result = original(self, *arguments, **keywords)
        if listener is not None and after:
            getattr(listener, event)(result, *arguments)
        return result

    setattr(owner, method, call)


def _trip() -> None:
    if listener is not None:
        listener.counts.trips += 1


def _visit_loop(transformer: ast.NodeTransformer, node: Any) -> ast.AST:
    """Let every turn of a kernel's loop call `_trip` first; the interpreter runs a rewritten source."""
    transformer.generic_visit(node)
    if not (isinstance(node, ast.For) and "static_range" in ast.unparse(node.iter)):
        node.body.insert(0, ast.Expr(ast.Call(ast.Name("_trip", ast.Load()), [], [])))
    return node


def _connect() -> None:
    builder = interpreter.InterpreterBuilder
    _report(interpreter.GridExecutor, "_init_args_hst", "launch", after=False)
    for method, event in (("set_grid_idx", "start_program"), ("create_masked_load", "load"),
                          ("create_masked_store", "store"), ("create_atomic_rmw", "add")):  # fmt: skip
        _report(builder, method, event, after=False)
    operations = {"flop": FLOPS, "fused": "fma", "power": "exp exp2", "dot": "dot", "barrier": "barrier"}
    for event, names in operations.items():
        for name in names.split():
            if hasattr(builder, f"create_{name}"):  # Triton's versions differ in some
                _report(builder, f"create_{name}", event, after=True)
    for owner in (interpreter.ReduceOps, interpreter.ScanOps):
        _report(owner, "apply_impl", "reduce", after=True)
    interpreter.ASTTransformer.visit_For = interpreter.ASTTransformer.visit_While = _visit_loop
    interpreter._trip = _trip  # the names in this module are what a rewritten kernel can name


_connect()
