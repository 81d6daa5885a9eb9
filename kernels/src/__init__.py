"""Triton kernels for the operations that dominate a forward pass; torch and triton are all they import.

Each module holds one operation: the kernels, the launcher, and `why_not`, which takes the launcher's arguments and
gives None, or the sentence that says why this kernel cannot take them. Launchers assume that `why_not` gave None.

    attention          attention(q, k, v, starts, lengths, longest, *, scale=None, causal=False, bias=None)
    window_attention   window_attention(qkv, bias_table, window, shift, padding)

How each works, and what it costs: kernels/README.md.
"""
