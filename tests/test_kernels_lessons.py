"""Runs the lab's tests in a process of their own (triton has to be told early to interpret), and its notebooks."""

import os
import subprocess
import sys
from pathlib import Path

import jupytext
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
LESSONS = ROOT / "kernels" / "lessons"


def test_the_lab():
    files = sorted(str(path) for path in (ROOT / "tests" / "lab").glob("check_*.py"))
    command = [sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider", *files]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-20000:] + result.stderr


def test_the_notebooks_of_all_lessons_run():
    """As `jupytext --to ipynb` makes them: one after the other in one kernel, so that torch is imported once."""
    lessons = sorted(LESSONS.glob("[0-9]*.py"))
    notebook = jupytext.reads("", "py:percent")
    for lesson in lessons:
        cells = jupytext.read(lesson).cells
        assert [cell.cell_type for cell in cells[:2]] == ["markdown", "code"]
        notebook.cells += cells
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(LESSONS)}}).execute()
    pictures = [
        output for cell in notebook.cells if cell.cell_type == "code"
        for output in cell.outputs if "image/svg+xml" in output.get("data", {})
    ]  # fmt: skip
    assert len(pictures) >= 5
