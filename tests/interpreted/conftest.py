"""What the kernels' checks share: fresh memory holds NaN, and the error budget is torch's own."""

import pytest
import torch
import triton.language as tl


@pytest.fixture(autouse=True)
def _seeded_with_nan_in_fresh_memory():
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True)
    assert torch.empty(3).isnan().all()


@pytest.fixture
def check():
    """Compare with float64: at most a few times the error that torch makes in the kernel's own dtype."""

    def compare(result, torch_result, exact, factor=4.0):
        assert result.shape == exact.shape
        assert result.dtype == torch_result.dtype
        norm = exact.norm()
        allowed = factor * (torch_result.double() - exact).norm() / norm + torch.finfo(result.dtype).eps / 4
        error = (result.double() - exact).norm() / norm
        assert error <= allowed, f"relative error {error:.2e}, allowed {allowed:.2e}"

    return compare


@pytest.fixture
def check_gradients(check):
    """Compare the gradients of a kernel's outputs by all its inputs with float64's, and two runs bit by bit."""

    def compare(kernel, torch_function, *tensors):
        def gradients(function, dtype):
            inputs = [tensor.detach().to(dtype).requires_grad_() for tensor in tensors]
            outputs = function(*inputs)
            outputs = outputs if isinstance(outputs, tuple) else (outputs,)
            generator = torch.Generator().manual_seed(1)
            upstream = [torch.randn(out.shape, generator=generator).to(tensors[0].dtype).to(dtype) for out in outputs]
            return torch.autograd.grad(outputs, inputs, upstream)

        dtype = tensors[0].dtype
        result, again = gradients(kernel, dtype), gradients(kernel, dtype)
        plain, exact = gradients(torch_function, dtype), gradients(torch_function, torch.float64)
        for gradient, same, other, truth in zip(result, again, plain, exact, strict=True):
            assert gradient.equal(same)
            check(gradient, other, truth)

    return compare


@pytest.fixture
def in_doubles(monkeypatch):
    """Kernels and their scratch memory have float64 for float32, so that small differences can be told apart."""
    monkeypatch.setattr(tl, "float32", tl.float64)
    monkeypatch.setattr(torch, "float32", torch.float64)


@pytest.fixture
def launches(monkeypatch):
    """What a module launches, with the arguments by name."""

    def of(module):
        seen = []
        launch = module.launch

        def remember(kernel, grid, *arguments, **options):
            seen.append(dict(zip(kernel.arg_names, arguments, strict=False)))
            launch(kernel, grid, *arguments, **options)

        monkeypatch.setattr(module, "launch", remember)
        return seen

    return of
