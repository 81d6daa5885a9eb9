"""What the compiled code of the shipped kernels says at the sizes that kernels/README.md discusses; needs no GPU.

`python -m benchmarks.counts` prints the table, `--write` writes it to kernels/results/counts.md, with which a test
compares later changes. How it is counted: `minitrans.kernels.report`. TRITON_INTERPRET must not be set.
"""

import argparse
from pathlib import Path

import triton
from minitrans.kernels.report import report

TABLE = Path(__file__).parents[1] / "kernels" / "results" / "counts.md"
TARGET = "sm_90"
ABOUT = f"""# What the compiled code says, in µs

Written by `python -m benchmarks.counts --write` with Triton {triton.__version__} for {TARGET}, an H100 at 1.755 GHz.
Nothing here was timed. "Issue" is all warps' instructions, prologues included, over all issue slots; a kernel takes
longer. "Bound by" is the issue slots, a unit or memory, whichever needs the most time.
`python -m minitrans.kernels.report` shows where the instructions are.

"""

SHIPPED = (
    ("attention", (64, 512, 12, 64), "bfloat16", 75.0),
    ("attention", (32, 128, 12, 64), "bfloat16", 3.5),
    ("attention", (64, 512, 12, 64), "float32", 320.0),
    ("attention_backward", (64, 512, 12, 64), "bfloat16", None),
    ("attention_dropout", (64, 512, 12, 64), "bfloat16", None),
    ("attention_backward_dropout", (64, 512, 12, 64), "bfloat16", None),
    ("window_attention", (64, 56, 56, 3, 32, 7, 3), "bfloat16", 46.0),
    ("window_attention", (64, 28, 28, 6, 32, 7, 3), "bfloat16", 23.0),
    ("window_attention", (64, 14, 14, 12, 32, 7, 3), "bfloat16", 12.0),
    ("window_attention", (64, 7, 7, 24, 32, 7, 0), "bfloat16", 8.0),
    ("window_attention", (8, 48, 48, 6, 32, 12, 6), "bfloat16", None),
    ("window_attention_backward", (64, 56, 56, 3, 32, 7, 3), "bfloat16", None),
    ("window_attention_backward", (64, 7, 7, 24, 32, 7, 0), "bfloat16", None),
    ("layer_norm", (200704, 96), "bfloat16", None),
    ("add_layer_norm", (4096, 768), "bfloat16", None),
    ("residual_layer_norm", (4096, 768), "bfloat16", None),
    ("embedding_layer_norm", (4096, 768), "bfloat16", None),
    ("merge_layer_norm", (64, 56, 56, 96), "bfloat16", 29.0),
    ("bias_gelu", (4096, 3072), "bfloat16", 10.0),
    ("layer_norm_backward", (200704, 96), "bfloat16", None),
    ("add_layer_norm_backward", (4096, 768), "bfloat16", None),
    ("embedding_layer_norm_backward", (4096, 768), "bfloat16", None),
    ("merge_layer_norm_backward", (64, 56, 56, 96), "bfloat16", None),
    ("bias_gelu_backward", (4096, 3072), "bfloat16", None),
    ("convolution", (16, 160000, 512, 10, 5), "bfloat16", 230.0),
)
"""Kernel, shape as `report` takes it, dtype, and the goal for the issue time in µs: for windows of the first two
stages, the roofline."""


def table() -> str:
    """A row for each kernel of each call, in Markdown."""
    lines = [
        "| kernel | shape, dtype | instructions per warp | registers | programs per multiprocessor | roofline | issue "
        "| goal | bound by |",
        "| --- " * 9 + "|",
    ]
    for kernel, shape, dtype, goal in SHIPPED:
        reports = report(kernel, shape, dtype, TARGET)
        for each in reports:
            name = kernel if len(reports) == 1 else each.kernel.removesuffix("_forward")
            if kernel.endswith("_dropout"):
                name = name.removesuffix("_dropout") + ", dropout"
            size = " × ".join(map(str, shape))
            tightest = f"{each.tightest} {each.unit_us[each.tightest]:.1f}"
            lines.append(
                f"| {name} | {size}, {dtype} | {each.instructions:.0f} "
                f"| {each.registers} | {each.resident} | {each.roofline_us:.1f} | {each.issue_us:.2f} "
                f"| {f'{goal:g}' if goal else ''} | {tightest} |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Count the shipped kernels' instructions without a GPU.")
    parser.add_argument("--write", action="store_true", help=f"write the table to {TABLE.name}")
    options = parser.parse_args()
    text = table()
    print(text)
    if options.write:
        TABLE.write_text(f"{ABOUT}{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
