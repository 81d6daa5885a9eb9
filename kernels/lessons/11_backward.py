# %% [markdown]
# # 11 · Backward: recompute rather than store
#
# **The idea.** The gradients of attention need P, N² numbers per head. Stored by the forward pass, they would cost
# what lesson 06 saved. But P = exp(S − L), where L = m + log z is one number per row: keep L, and recompute S from q
# and k, which have to be read anyway. With dO the gradient of the output, and ∘ elementwise,
#
#     δ = rowsum(dO ∘ O),   dS = P ∘ (dO Vᵀ − δ),   dQ = dS K / √D,   dK = dSᵀ Q / √D,   dV = Pᵀ dO
#
# dQ is a sum over keys, dK and dV are sums over queries. So there are two kernels: programs over tiles of queries that
# iterate over the keys, and programs over tiles of keys that iterate over the queries. Each writes its own tile, once;
# none adds to another's (no *atomics*), so that the same inputs give the same bits every time.

# %%
import lab
import torch
import triton
import triton.language as tl
from minitrans.kernels.attention import attention as shipped
from torch import Tensor


# %%
@triton.jit
def query_kernel(q, k, v, out, grad, lse, dq, length, scale, WIDTH: tl.constexpr, TILE: tl.constexpr):
    """dQ of one tile of queries of one head; all are (B · H, N, WIDTH), lse is (B · H, N)."""
    query = tl.program_id(0) * TILE + tl.arange(0, TILE)
    channel = tl.arange(0, WIDTH)
    head = tl.program_id(1) * length * WIDTH
    place = head + query[:, None] * WIDTH + channel[None, :]
    inside = (query < length)[:, None]
    q_tile = tl.load(q + place, mask=inside, other=0.0)
    upstream = tl.load(grad + place, mask=inside, other=0.0)
    delta = tl.sum(upstream * tl.load(out + place, mask=inside, other=0.0), 1)
    level = tl.load(lse + tl.program_id(1) * length + query, mask=query < length, other=0.0)
    total = tl.zeros([TILE, WIDTH], tl.float32)
    for start in range(0, length, TILE):
        key = start + tl.arange(0, TILE)
        there = head + key[:, None] * WIDTH + channel[None, :]
        k_tile = tl.load(k + there, mask=(key < length)[:, None], other=0.0)
        v_tile = tl.load(v + there, mask=(key < length)[:, None], other=0.0)
        s = tl.dot(q_tile, tl.trans(k_tile), input_precision="ieee") * scale
        p = tl.where((key < length)[None, :], tl.exp(s - level[:, None]), 0.0)
        dp = tl.dot(upstream, tl.trans(v_tile), input_precision="ieee")
        total = tl.dot(p * (dp - delta[:, None]), k_tile, total, input_precision="ieee")
    tl.store(dq + place, total * scale, mask=inside)


def query_gradient(q: Tensor, k: Tensor, v: Tensor, out: Tensor, grad: Tensor, lse: Tensor, tile: int = 16) -> Tensor:
    """(B, H, N, D) each, lse (B, H, N) -> dQ."""
    batch, heads, length, width = q.shape
    dq = torch.empty_like(q)
    grid = (triton.cdiv(length, tile), batch * heads)
    query_kernel[grid](q, k, v, out, grad, lse, dq, length, width**-0.5, width, tile)
    return dq


def by_torch(q: Tensor, k: Tensor, v: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
    """The output, its logarithm of sums, and dQ, dK, dV, in the dtype of the inputs."""
    leaves = [tensor.detach().requires_grad_() for tensor in (q, k, v)]
    out = lab.attention(*leaves)
    lse = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).logsumexp(-1)
    return out.detach(), lse, *torch.autograd.grad(out, leaves, grad)


if __name__ == "__main__":
    q, k, v, grad = (torch.randn(1, 2, 45, 32) for _ in range(4))
    out, lse, rounded, *_ = by_torch(q, k, v, grad)
    exact = by_torch(*(tensor.double() for tensor in (q, k, v, grad)))[2]
    dq, counts = lab.count(query_gradient, q, k, v, out, grad, lse)
    lab.check(dq, exact, rounded)
    lab.compare("trips", counts.trips, 2 * 3 * 3)
    print(f"kept for it: {lab.size(lse.numel() * 4)} of L; P would be {lab.size(2 * 45**2 * 4)}")

# %% [markdown]
# **Predict**: the forward pass has two products, Q Kᵀ and P V. The backward pass needs five: S again, dO Vᵀ, dQ, dK,
# dV. The shipped one does more than 5 / 2 of the forward pass's product FLOPs. How many times as many, and why?

# %%
MY_PREDICTION = None

if __name__ == "__main__":
    q, k, v = (torch.randn(64, 2, 32, requires_grad=True) for _ in range(3))
    starts, lengths = torch.tensor([0]), torch.tensor([64])
    out, forward = lab.count(shipped, q, k, v, starts, lengths, 64)
    upstream = torch.randn_like(out)
    gradients, backward = lab.count(torch.autograd.grad, out, [q, k, v], upstream)
    heads_first = [tensor.detach().transpose(0, 1)[None] for tensor in (q, k, v, upstream)]
    rounded, exact = by_torch(*heads_first)[2:], by_torch(*(tensor.double() for tensor in heads_first))[2:]
    for ours, there, right in zip(gradients, rounded, exact, strict=True):
        lab.check(ours, right[0].transpose(0, 1), there[0].transpose(0, 1))
    # S and dO Vᵀ are computed in both kernels: 3 products over tiles of queries, 4 over tiles of keys.
    lab.compare("FLOPs of backward / forward", backward.dot_flops / forward.dot_flops, 7 / 2, MY_PREDICTION)
    print(f"powers: {forward.powers:,} forward, {backward.powers:,} backward")

# %% [markdown]
# **What a count does not show.** Two more products are the price of not using atomics; a single kernel would add to dQ
# in memory from every tile of keys, in an order that changes from run to run. Which is faster depends on the card.
#
# **Exercise.** `exercises/11_backward.py`: the other kernel, dK and dV over tiles of keys.
