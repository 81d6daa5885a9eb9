"""Compiles every shipped configuration for sm_80 and sm_90, in a process that does not interpret."""

import os
import subprocess
import sys
from pathlib import Path

import triton

ROOT = Path(__file__).parents[1]


def configurations(table):
    """What each target says of a configuration, by kernel, case and tile, of a table that benchmarks/aot.py wrote."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("| ")]
    targets = rows[0][3:]
    return {tuple(row[:3]): dict(zip(targets, row[3:], strict=True)) for row in rows[2:]}


def test_no_configuration_spills_or_outgrows_the_device_and_the_table_says_what_the_compiler_says():
    command = [sys.executable, "-m", "benchmarks.aot", "sm_80", "sm_90"]
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    written = (ROOT / "kernels" / "results" / "compiled.md").read_text("utf-8")
    committed, compiled = configurations(written), configurations(result.stdout)
    assert len(compiled) > 50
    assert compiled.keys() == committed.keys()
    if f"with Triton {triton.__version__}:" in written:  # another one makes other code
        assert compiled == {
            row: {target: cells[target] for target in ("sm_80", "sm_90")} for row, cells in committed.items()
        }


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
