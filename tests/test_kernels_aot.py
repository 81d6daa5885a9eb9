"""Compiles every shipped configuration for sm_80 and sm_90, in a process that does not interpret."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def configurations(table):
    """Kernel, case and tile of each row of a Markdown table that benchmarks/aot.py wrote."""
    rows = [line.split("|")[1:4] for line in table.splitlines() if re.match(r"\| \w+ \| \w+, [CD] ", line)]
    return {tuple(cell.strip() for cell in row) for row in rows}


def test_no_configuration_spills_or_outgrows_the_device_and_the_table_lists_them_all():
    command = [sys.executable, "-m", "benchmarks.aot", "sm_80", "sm_90"]
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert len(configurations(result.stdout)) > 50
    assert configurations(result.stdout) == configurations(
        (ROOT / "kernels" / "results" / "compiled.md").read_text("utf-8")
    )


def test_no_kernel_is_compiled_again_for_another_size_of_map():
    """Triton compiles once more for a size that is 1 or a multiple of 16, unless it is told not to look."""
    program = """
from minitrans.kernels import merge_layer_norm, window_attention
for way in ("forward", "backward"):
    for module, name in (merge_layer_norm, "merge_layer_norm"), (window_attention, "window_attention"):
        kernel = getattr(module, f"_{name}_{way}")
        print(*(x.name for x in kernel.params if x.do_not_specialize))
"""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    merging, windows, *backward = (set(line.split()) for line in result.stdout.splitlines())
    assert merging == {"rows", "height", "width", "half_height", "half_width"}
    assert windows > {"height", "width", "batch", "windows_each"}
    assert backward == [merging, windows]
