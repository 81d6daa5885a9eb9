"""Triton kernels for the operations that dominate a forward pass; torch and triton are all they import.

Each module holds one operation: the kernels, its launchers, and `why_not`, which takes a launcher's arguments and
returns None, or a sentence that says why this kernel cannot take them. Launchers assume that it returned None.

    attention              attention(q, k, v, starts, lengths, longest, *, scale=None, causal=False, bias=None)
    window_attention       window_attention(qkv, bias_table, window, shift, padding)
    layer_norm             layer_norm(x, weight, bias, eps)
                           add_layer_norm(x, residual, weight, bias, eps)
                           residual_layer_norm(x, residual, weight, bias, eps) -> (sum, normed)
    bias_gelu              bias_gelu(x, bias)
    embedding_layer_norm   embedding_layer_norm(ids, positions, types, word, position, type_, weight, bias, eps,
                                                padding_idx)
    merge_layer_norm       merge_layer_norm(x, weight, bias, eps)
    convolution            convolution(rows, weight, bias, stride, dilation, activation)

How each works, and what it costs: kernels/README.md.
"""
