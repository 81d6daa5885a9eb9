"""What the kernels' checks share: fresh memory holds NaN, and the error budget is torch's own."""

import pytest
import torch


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
