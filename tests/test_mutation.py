"""The program that mutates the code: each operator changes what it says, and what a test can see is killed."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "tests" / "mutation"
sys.path.insert(0, str(FOLDER))

from operators import is_another_program, mutants  # noqa: E402
from workplace import environment  # noqa: E402

CHANGES = {
    "a < b": {"a <= b", "a >= b"},
    "a is not None": {"a is None"},
    "a  not  in b": {"a  in b"},
    "a == b != c": {"a != b != c", "a == b == c"},
    "a + b * c": {"a - b * c", "a + b / c"},
    "a // b ** c": {"a * b ** c", "a // b * c"},
    "a and b or c": {"a or b or c", "a and b and c"},
    "not a": {"(a)"},
    "x = -a": {"x = (a)"},
    "x = 3": {"x = 4", "x = 2"},
    "x = 0.5": {"x = 1.5"},
    "x = True": {"x = False"},
    "x.float()": {"pass", "x"},
    "y = (a or b).to(c)": {"y = (a or b)", "y = (a and b).to(c)"},
    "y = x.clone()": {"y = x"},
    "y = min(a, b)": {"y = max(a, b)"},
    "y = int(a)": {"y = (a)"},
    "y = a if b else c": {"y = (c) if b else (a)"},
    "if f(a):\n    y = a": {"if not (f(a)):\n    y = a"},
    "if a:\n    raise ValueError(f'{a} is 1')": {
        "if not (a):\n    raise ValueError(f'{a} is 1')", "if a:\n    pass",
    },
    "def f():\n    if a < 1:\n        return b\n    return c": {
        "def f():\n    if a <= 1:\n        return b\n    return c",
        "def f():\n    if a >= 1:\n        return b\n    return c",
        "def f():\n    if a < 2:\n        return b\n    return c",
        "def f():\n    if a < 0:\n        return b\n    return c",
        "def f():\n    if a < 1:\n        pass\n    return c",
    },
    "x.y = a": {"pass"},
    "x += a": {"pass", "x -= a"},
    "é = a < b": {"é = a <= b", "é = a >= b"},
    "(a <  # < or >\n b)": {"(a <=  # < or >\n b)", "(a >=  # < or >\n b)"},
}  # fmt: skip
NEVER = [
    '"""A docstring of 3 lines, not 4."""',
    "def f(x: tuple[int, 3]) -> Literal[1]: ...",
    "x: Literal[3] | None",
    "if TYPE_CHECKING:\n    x = 3",
    "x = f'{y:.3f} {y + 1}'",
    "x = 'a' + y",
    "@lru_cache(maxsize=64)\ndef f(): ...",
    "y = zip(a, b, strict=True)",
    "logger.debug('%d', 3)",
    "assert x is not None",
]


@pytest.mark.parametrize("text", CHANGES)
def test_each_operator_changes_one_place(text):
    source = text.encode()
    assert {mutant.applied(source).decode() for mutant in mutants("file.py", source)} == CHANGES[text]


@pytest.mark.parametrize("text", NEVER)
def test_what_no_test_need_notice_is_no_mutant(text):
    assert mutants("file.py", text.encode()) == []


def test_mutants_of_the_code_are_other_programs():
    files = [*ROOT.glob("minitrans/**/*.py"), *ROOT.glob("kernels/src/*.py")]
    sources = {str(path.relative_to(ROOT)): path.read_bytes() for path in files}
    every = [mutant for file, source in sources.items() for mutant in mutants(file, source)]
    for mutant in random.Random(0).sample(every, 25):
        source = sources[mutant.file]
        assert is_another_program(mutant, source), mutant
        assert source[mutant.start : mutant.end].decode() == mutant.old
        assert mutant.first <= mutant.line <= mutant.last, mutant


def served(tree, source, collect, jobs):
    """The answers of a server in a folder with a module `minitrans.counting`, which it imports as `source`."""
    (tree / "minitrans").mkdir()
    (tree / "minitrans" / "__init__.py").touch()
    (tree / "minitrans" / "counting.py").write_bytes(source)
    server = subprocess.Popen(
        [sys.executable, FOLDER / "server.py"], cwd=tree, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    print(json.dumps({"modules": [], "collect": collect}), file=server.stdin, flush=True)
    assert server.stdout.readline() == "ready\n"
    for text, job in jobs:
        (tree / "minitrans" / "counting.py").write_bytes(text)
        print(json.dumps(job), file=server.stdin, flush=True)
        yield json.loads(server.stdout.readline())
    server.stdin.close()
    assert server.wait() == 0


@pytest.mark.parametrize("collect", [[], ["test_counting.py", "test_nothing.py"]], ids=["imported", "collected"])
def test_a_mutant_is_killed_where_a_test_sees_it_survives_where_none_does_and_is_ended_where_it_hangs(
    collect, tmp_path
):
    source = (
        b"FIRST = 0\n\n\ndef count(items):\n    n = FIRST\n    while n < len(items):\n        n += 1\n    return n\n"
    )
    test = "from minitrans import counting\n\n\ndef test_count():\n    assert counting.count([{}]) == {}\n"
    (tmp_path / "test_counting.py").write_text(test.format("1, 2, 3", 3))
    (tmp_path / "test_nothing.py").write_text(test.format("", 0))
    found = mutants("minitrans/counting.py", source)
    changed = {(mutant.old, mutant.new): mutant.applied(source) for mutant in found}
    cases = [
        (source, "test_counting.py", "passed"),
        (changed["<", "<="], "test_counting.py", "failed"),
        (changed["1", "2"], "test_nothing.py", "passed"),
        (changed["n += 1", "pass"], "test_counting.py", "timed out"),
        (changed["1", "2"], "test_counting.py", "failed"),
    ]
    shared = {"file": "minitrans/counting.py", "original": source.decode()}
    jobs = [
        (text, {**shared, "stages": [[file, None]], "seconds": 3 if "out" in end else 60}) for text, file, end in cases
    ]
    for (_, file, end), answer in zip(cases, served(tmp_path, source, collect, jobs), strict=True):
        assert answer["end"] == end, answer
        assert answer.get("test") == (f"{file}::test_count" if end == "failed" else None)


@pytest.mark.parametrize(
    ("old", "new", "end"), [("n = 1", "n = 2", "failed"), ("inner() + 1", "inner() + 2", "at import")],
    ids=["a function within one that is decorated", "a function that ran when its module was imported"],
)  # fmt: skip
def test_what_ran_before_the_tests_must_be_imported_anew(old, new, end, tmp_path):
    source = (
        "from functools import cache\n\n\n@cache\ndef outer():\n    def inner():\n        n = 1\n        return n\n\n"
        "    return inner() + 1\n\n\ndef early():\n    def inner():\n        return 1\n\n    return inner() + 1\n\n\n"
        "TWO = early()\n"
    )
    test = "from minitrans import counting\n\n\ndef test_outer():\n    assert counting.outer() == counting.TWO == 2\n"
    (tmp_path / "test_counting.py").write_text(test)
    changed = new.join(source.rsplit(old, 1)).encode()
    job = {"file": "minitrans/counting.py", "original": source, "stages": [["test_counting.py", None]], "seconds": 60}
    [answer] = served(tmp_path, source.encode(), ["test_counting.py"], [(changed, job)])
    assert answer["end"] == end


def test_a_script_that_a_test_starts_imports_the_copy(tmp_path):
    (tmp_path / "tree" / "minitrans").mkdir(parents=True)
    (tmp_path / "tree" / "minitrans" / "__init__.py").write_text("WHOSE = 'the copy'\n")
    (tmp_path / "elsewhere.py").write_text("import minitrans\nprint(minitrans.WHOSE, end='')\n")
    command = [sys.executable, tmp_path / "elsewhere.py"]
    assert subprocess.check_output(command, env=environment(tmp_path, {}), text=True) == "the copy"
