"""The documents: links lead somewhere, files and commands that they name exist, their programs run."""

import ast
import importlib.util
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import soundfile
import torch
import transformers
from families import PUBLISHED
from lanes import SLOW
from PIL import Image
from programs import starts

import minitrans
from minitrans import cli
from minitrans.tasks.names import MADE_FOR

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
# What the repository holds: a virtual environment in its root has documents of its own.
FOLDERS = [
    ROOT / name for name in ("benchmarks", "docs", "examples", "kernels", "minitrans", "tests", ".ci", ".github")
]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(path for folder in FOLDERS for path in folder.rglob("*.md"))])
PROSE = [path for path in DOCUMENTS if "results" not in path.parts]


class Block(NamedTuple):
    language: str
    text: str


def blocks(path: Path) -> list[Block]:
    """The fenced blocks of a document."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", path.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [Block(*block) for block in found]


def prose(path: Path) -> str:
    """A document without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def spans(path: Path) -> list[str]:
    """What stands between backticks, over line ends too."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose(path))]


def anchors(path: Path) -> set[str]:
    """The anchors of a document's headings, as they are made on the web: lower case, punctuation left out."""
    headings = re.findall(r"^#+ (.+)$", prose(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(path)):
        if re.match(r"https?://", target):
            continue
        file, _, anchor = target.partition("#")
        found = (path.parent / file).resolve() if file else path
        assert found.exists(), target
        assert found.is_relative_to(ROOT), target
        assert not anchor or anchor in anchors(found), target


def test_anchors_of_headings(tmp_path):
    (tmp_path / "a.md").write_text("# The `map` of it: all\n\n## What's new, and where\n```\n# no heading\n```\n")
    assert anchors(tmp_path / "a.md") == {"the-map-of-it-all", "whats-new-and-where"}


# Files as text names them: with a folder or an ending. NAME, DIR and the like stand for the reader's own.
FILE = re.compile(r"(?:[\w.-]+/)*(?:[\w.*-]+\.(?:py|md|json|txt|toml|yml|yaml|in)|[\w.*-]+/)|\.ci/run")
# Files of checkpoints and of users.
OTHERS = {"config.json", "tokenizer.json", "vocab.json", "vocab.txt", "a.json"}


@pytest.mark.parametrize("path", PROSE, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_that_are_named(path):
    """From the root, from the document's folder, or in a folder that the same line names before."""
    known = {file.relative_to(ROOT) for folder in FOLDERS for file in folder.rglob("*")}
    for line in prose(path).splitlines():
        folders = [ROOT, path.parent, ROOT / "minitrans", ROOT / "kernels"]
        for span in re.findall(r"`([^`]+)`", line):
            for name in [span] if FILE.fullmatch(span) else [word for word in span.split() if FILE.fullmatch(word)]:
                if name in OTHERS or re.search(r"\b[A-Z]{3,}\b(?!\.md)|…", name):
                    continue
                found = [file for folder in folders for file in folder.glob(name)]
                inside = [file for file in known if file.match(name)] if "/" not in name else []
                assert found or inside, f"{path.name} names {name}"
                folders += [file if file.is_dir() else file.parent for file in found]


# Commands

PLACEHOLDERS = {"FILE…": "a.json", "INPUT…": "input", "…": "input"}


def commands(path: Path) -> list[list[str]]:
    """The words of each command of ours in a document, fenced or between backticks."""
    lines = [line for block in blocks(path) if not block.language for line in block.text.splitlines()]
    found = []
    for command in [part for line in [*lines, *spans(path)] for part in re.split(r" && | \| ", line)]:
        words = (
            [PLACEHOLDERS.get(word, word) for word in shlex.split(command.split("  #")[0])]
            if "'" not in command
            else []
        )
        while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
            words.pop(0)
        if words[:1] == ["minitrans"] or words[:2] == ["python", "-m"] or words[0:1] == ["python"]:
            found.append(words)
    return found


ALL = {" ".join(words): words for path in PROSE for words in commands(path)}


def test_commands_are_found():
    assert {"minitrans demo", "python -m pytest -m not slow -n 2", "python -m benchmarks.aot --write"} <= {*ALL}


@pytest.mark.parametrize("words", [words for words in ALL.values() if words[0] == "minitrans"], ids=" ".join)
def test_commands_of_ours(words, capsys):
    """Its parser takes the whole line; of one without its inputs, every word is a command or an option."""
    parser, run = cli._parsers()
    if words == ["minitrans"]:
        return
    if words[-1] == "--help":
        with pytest.raises(SystemExit, match="0"):
            parser.parse_args(words[1:])
    elif words[1] != "run":
        parser.parse_args([*words[1:], *(["MODEL"] if words[1:] in (["bench"], ["info"]) else [])])
    else:
        run.parse_intermixed_args([*(["MODEL"] if not words[2:] or words[2].startswith("--") else []), *words[2:],
                                   *(["stage1"] if words[-1] == "--features" else [])])  # fmt: skip


@pytest.mark.parametrize("words", [words for words in ALL.values() if words[0] == "python"], ids=" ".join)
def test_commands_of_python(words):
    """The module or file is there, and its own help, or that of pytest, lists the options."""
    if words[1] != "-m":
        assert (ROOT / words[1]).exists()
        return
    module, options = words[2], [word for word in words[3:] if re.match(r"--?[a-z]", word)]
    if module == "venv":
        return
    assert importlib.util.find_spec(module) is not None
    for word in words[3:]:
        assert not FILE.fullmatch(word) or "…" in word or word in OTHERS or (ROOT / word).exists(), word
    if module == "pytest":
        helped = helps("pytest", "tests/fuzz")
    elif options:
        helped = helps(module)
    for option in options:
        assert re.search(rf"(?<![\w-]){option}(?![\w-])", helped), option


@cache
def helps(*words: str) -> str:
    """What a module prints when it is asked for help."""
    command = [sys.executable, "-m", *words, "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


# Programs


def stand_in(name: str, folder: Path, minilm: Path) -> Path:
    """A local checkpoint for a hub id: the real MiniLM, or a random one of the same class."""
    kinds = {"NER": "BertForTokenClassification", "swin": "SwinForImageClassification", "wav2vec2": "Wav2Vec2ForCTC"}
    if "MiniLM" in name:
        return minilm
    kind = next(kind for part, kind in kinds.items() if part in name)
    deep = {"depths": [1, 1, 1, 1], "num_heads": [1, 2, 4, 8]} if "swin" in name else {}
    return starts(folder / name.replace("/", "-"), kind, **deep)


# Those of docs/corpora.md run in test_corpora.py, with Ray.
@pytest.mark.parametrize("path", [path for path in PROSE if any(b.language == "python" for b in blocks(path))
                                  and path.name != "corpora.md"],
                         ids=lambda path: str(path.relative_to(ROOT)))  # fmt: skip
def test_programs(path, minilm, tmp_path, monkeypatch):
    """A document's Python runs from top to bottom; hub ids stand for local checkpoints, files for some of ours."""
    monkeypatch.chdir(tmp_path)
    program = "\n".join(block.text for block in blocks(path) if block.language == "python")
    for name in sorted(set(re.findall(r'"([\w.-]+/[\w.-]+)"', program)), key=len):
        program = program.replace(f'"{name}"', repr(str(stand_in(name, tmp_path, minilm))))
    Image.fromarray(np.arange(40 * 30 * 3, dtype=np.uint8).reshape(40, 30, 3)).save("photo.jpg")
    soundfile.write("talk.wav", np.sin(np.arange(8000) / 9), 16000)
    torch.manual_seed(0)
    names: dict[str, object] = {}
    exec(compile(program, path.name, "exec"), names)
    if path.name == "README.md" and path.parent == ROOT:
        theirs = transformers.AutoModel.from_pretrained(minilm)
        mask = names["batch"]["attention_mask"][..., None]
        with torch.no_grad():
            torch.testing.assert_close(
                names["states"], theirs(**names["batch"]).last_hidden_state * mask, atol=1e-4, rtol=0
            )
        assert names["vectors"].shape == (2, 384)
        assert [tuple(x.shape[2:]) for x in names["maps"]] == [(4, 4), (1, 1)]


# Claims

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_table_of_classes():
    rows = re.findall(r"^\| `…(\w+)` \|(.*)\|$", README, re.MULTILINE)
    families = ("Bert", "DistilBert", "Swin", "Wav2Vec2")
    for end, cells in rows:
        *marks, tasks = (cell.strip() for cell in cells.split("|"))
        for family, mark in zip(families, marks, strict=True):
            assert (f"{family}{end}" in PUBLISHED) == (mark == "✓"), f"{family}{end}"
        found = {row[end] for row in MADE_FOR.values() if end in row}
        assert found <= set(tasks.split(", ")) <= {*cli.JOBS, "", "`minitrans run --features`"}, end
    assert {end for end, _ in rows} == {re.sub("^(DistilBert|Bert|Swin|Wav2Vec2)", "", name) for name in PUBLISHED}
    named = set(re.findall(r"[\w-]+", " ".join(cells for _, cells in rows)))
    assert named >= {*cli.JOBS} - {"sentence-embedding"}


def code_lines(path: Path) -> int:
    """Lines of a module without blank ones, comments and docstrings."""
    text = path.read_text(encoding="utf-8")
    described = (ast.Module, ast.ClassDef, ast.FunctionDef)
    nodes = [
        node.body[0] for node in ast.walk(ast.parse(text)) if isinstance(node, described) and ast.get_docstring(node)
    ]
    docstrings = {line for node in nodes for line in range(node.lineno, node.end_lineno + 1)}
    lines = enumerate(text.splitlines(), 1)
    return sum(number not in docstrings and re.match(r"\s*[^#\s]", line) is not None for number, line in lines)


def test_sizes():
    """What is said of lines of code holds to a tenth."""
    said = re.search(
        r"The path of\s+a BERT \((.+?)\)\s+is about\s+([\d,]+).+?`minitrans/`\s+is ([\d,]+)", README, re.DOTALL
    )
    path = [ROOT / "minitrans" / name for name in re.findall(r"`(.+?)`", said[1])]
    for files, number in ((path, said[2]), ([*(ROOT / "minitrans").rglob("*.py")], said[3])):
        assert sum(map(code_lines, files)) == pytest.approx(int(number.replace(",", "")), rel=0.1)


def test_versions():
    """One place has the version; Python's are those of setup.py."""
    assert re.search(
        rf"^## {re.escape(minitrans.__version__)}\b", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE
    )
    workflow = (ROOT / ".github/workflows/ci.yml").read_text("utf-8")
    first, last = re.findall(r'"(3\.\d+)"', workflow)
    assert f"Python {first} to {last}" in README
    assert f'python_requires=">={first}"' in (ROOT / "setup.py").read_text("utf-8")


@pytest.mark.parametrize("start", SLOW)
def test_what_the_fast_lane_leaves_out_is_there(start):
    file, _, name = start.partition("::")
    files = [path for path in TESTS.rglob("*.py") if path.relative_to(TESTS).as_posix().startswith(file)]
    assert files
    assert any(name.split("::")[-1] in path.read_text(encoding="utf-8") for path in files)


# Private names of torch


def private_names(text: str) -> set[str]:
    """Every private name of torch in a module's source, dotted, and private attributes of nn.Module."""
    tree, found = ast.parse(text), set()
    roots = {"torch": "torch"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            roots |= {
                alias.asname: alias.name for alias in node.names if alias.asname and alias.name.startswith("torch")
            }
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "torch":
            roots |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    found |= {name for name in roots.values() if is_private(name)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            root, _, rest = ast.unparse(node).partition(".")
            if re.fullmatch(r"[\w.]+", rest) and root in roots and is_private(name := f"{roots[root]}.{rest}"):
                found.add(re.match(r".*\._\w+", name)[0])
        name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "value", None)
        if isinstance(name, str) and name in MODULE:
            found.add(f"torch.nn.Module().{name}")
    return {name for name in found if not any(other.startswith(f"{name}.") for other in found)}


def is_private(name: str) -> bool:
    return any(re.match("_[^_]", part) for part in name.split("."))


MODULE = {name for name in dir(torch.nn.Module()) if is_private(name)}
TABLE = re.findall(r"^\| `(torch[\w.()]+)` \|", (ROOT / "docs" / "design.md").read_text("utf-8"), re.MULTILINE)


def test_private_names_are_in_the_table():
    sources = [*(ROOT / "minitrans").rglob("*.py"), *(ROOT / "kernels" / "src").rglob("*.py")]
    found = set().union(*(private_names(path.read_text("utf-8")) for path in sources))
    assert found == {name for name in TABLE if is_private(name)}


def test_private_names_are_found():
    text = (
        "import torch.nn.modules.module as m\nfrom torch.utils import _pytree\nm._global()\ntorch.ops.a._b(x._modules)"
    )
    expected = {
        "torch.nn.modules.module._global",
        "torch.utils._pytree",
        "torch.ops.a._b",
        "torch.nn.Module()._modules",
    }
    assert private_names(text) == expected


@pytest.mark.parametrize("name", TABLE)
def test_private_names_are_in_torch(name):
    """What to run first at an upgrade."""
    importlib.import_module("torch.utils._pytree")
    found: object = torch
    for part in name.split(".")[1:]:
        found = getattr(found, part.removesuffix("()"))
        found = found() if part.endswith("()") else found
    assert found is not None
