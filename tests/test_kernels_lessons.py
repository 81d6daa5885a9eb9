"""Runs every lesson as a reader would."""

import subprocess
import sys
from pathlib import Path

import pytest

LESSONS = sorted((Path(__file__).parents[1] / "kernels" / "lessons").glob("[0-9]*.py"))


def test_there_are_lessons():
    assert [lesson.name[:2] for lesson in LESSONS] == [f"{number:02}" for number in range(1, len(LESSONS) + 1)]


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.stem)
def test_lesson_checks_itself(lesson):
    result = subprocess.run([sys.executable, lesson], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "right: relative error" in result.stdout
