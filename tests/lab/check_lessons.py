"""Lessons and solutions run; unsolved exercises fail with their sentence, broken kernels fail their lesson."""

import contextlib
import io
import re
import runpy

import check
import lab
import pytest
import roofline

UNSOLVED = {
    "00": "numbers are not finite", "01": "sectors; the target is", "02": "its relative error is",
    "03": "to issue its instructions; the target is", "04": "its relative error is", "05": "its relative error is",
    "06": "numbers are not finite", "07": "bytes; the target is", "08": "outside rows", "09": "its relative error is",
    "10": "is (17, 'registers'), not (2, 'shared memory')", "11": "its relative error is",
    "12": "its relative error is", "13": "is 5.0, not 2.0", "14": "to issue its instructions; the target is",
}  # fmt: skip

# A line of a lesson and what a reader may make of it: not one of them may pass.
BROKEN = {
    "00_first_kernel": ("inside = offset < length", "inside = offset < length - 1"),
    "01_rows": ("power / tl.sum(power, 0)", "power / tl.max(power, 0)"),
    "02_layer_norm": ("tl.where(inside, tile - mean[:, None], 0.0)", "tile - mean[:, None]"),
    "03_gelu": ("0.5307027145", "0.5407027145"),
    "04_product": ("total = tl.dot(left, right, total", "total = tl.dot(left, right, total * 0.99"),
    "05_three_kernels": ('other=float("-inf")', "other=0.0"),
    "06_online_softmax": ("z = z * shrink + tl.sum(p, 1)", "z = z + tl.sum(p, 1)"),
    "07_fewer_instructions": ("place = key[:, None] * WIDTH", "place = (key + 1)[:, None] * WIDTH"),
    "08_packed_rows": ("range(0, length, TILE)", "range(0, length - 1, TILE)"),
    "09_tile_list": ("before = ends <= tile", "before = ends < tile"),
    "10_hardware": ("32 * warps)", "64 * warps)"),
    "11_backward": ("p * (dp - delta[:, None])", "p * dp"),
    "12_windows": ("token % WINDOW + shift", "token % WINDOW"),
    "13_measure": ('* 1e6)  # at this card', '* 1e5)  # at this card'),
    "14_capstone": ('counts.bytes_of("x", "out")', 'counts.bytes_of("x")'),
}  # fmt: skip

counted = {}


@pytest.mark.parametrize("name", roofline.names())
def test_a_lesson_runs(name):
    assert [name[:2] for name in roofline.names()] == [f"{number:02}" for number in range(15)]
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        counted[name] = runpy.run_path(str(lab.LESSONS / f"{name}.py"), run_name="__main__").get("counts")
    source = (lab.LESSONS / f"{name}.py").read_text("utf-8").replace("\n# ", " ")
    assert text.getvalue().count("write your prediction down") >= 1
    assert source.count("**The idea.**") == source.count("MY_PREDICTION = None") == source.count("**Exercise.**") == 1
    assert "does not show.**" in source


def test_the_roofline_shows_what_the_lessons_count():
    found = {name: counted[name] if name in counted else roofline.run(name) for name in roofline.names()}
    points = {name: roofline.intensity(counts) for name, counts in found.items() if counts}
    drawn, committed = roofline.draw(points), roofline.PICTURE.read_text("utf-8")
    number = re.compile(r"\d+\.\d")
    assert number.sub("", drawn) == number.sub("", committed)
    places = [[float(each) for each in number.findall(picture)] for picture in (drawn, committed)]
    assert places[0] == pytest.approx(places[1], abs=5), "python kernels/lessons/roofline.py draws it anew"


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_kernel_fails_its_lesson(name, tmp_path):
    source = (lab.LESSONS / f"{name}.py").read_text("utf-8")
    whole, broken = BROKEN[name]
    assert whole in source
    path = tmp_path / f"{name}.py"
    path.write_text(source.replace(whole, broken), encoding="utf-8")
    with pytest.raises((lab.KernelError, AssertionError)), contextlib.redirect_stdout(io.StringIO()):
        runpy.run_path(str(path), run_name="__main__")


@pytest.mark.parametrize("number", check.EXERCISES)
def test_a_solution_passes_and_the_exercise_as_shipped_fails_with_its_sentence(number, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["check.py", number, "--solution"])
    assert check.main() == 0
    assert capsys.readouterr().out.endswith("is solved.\n")
    monkeypatch.setattr("sys.argv", ["check.py", number])
    assert check.main() == 1
    verdict, hint = capsys.readouterr().out.splitlines()[-2:]
    assert "is not solved: " in verdict
    assert UNSOLVED[number] in verdict
    assert hint == f"Hint: {check.EXERCISES[number].hint}"
    assert "HOLE" in check.path_of(number, "exercises").read_text("utf-8")
    assert "HOLE" not in check.path_of(number, "solutions").read_text("utf-8")


def test_what_a_readers_code_raises_is_the_verdict(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(check, "path_of", lambda number, folder: tmp_path / "13_measure.py")
    (tmp_path / "13_measure.py").write_text("def speedup(ours, theirs):\n    return ours[99]\n", encoding="utf-8")
    monkeypatch.setattr("sys.argv", ["check.py", "13"])
    assert check.main() == 1
    assert "is not solved: IndexError: list index out of range" in capsys.readouterr().out


def test_the_scoreboard_holds_what_is_counted(monkeypatch, tmp_path):
    lines = check.SCOREBOARD.read_text("utf-8").splitlines(keepends=True)
    bounds = bound, shipped = check.check("14", "solutions")
    assert check.line("the shipped kernel", shipped, shipped) in lines
    assert check.line("solutions/14_capstone.py", bound, shipped) in lines
    monkeypatch.setattr(check, "check", lambda *_: bounds)
    monkeypatch.setattr(check, "SCOREBOARD", tmp_path / "scoreboard.md")
    monkeypatch.setattr("sys.argv", ["check.py", "14", "--solution", "--record", "me"])
    assert check.main() == 0
    assert check.SCOREBOARD.read_text("utf-8") == check.line("me", bound, shipped)
