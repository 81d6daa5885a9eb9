"""Who may import whom, read from the sources; what is imported when, seen from a fresh process."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from checkpoints import CLASSES, reference

import minitrans

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "minitrans"
KERNELS = ROOT / "kernels" / "src"

# A part of the package -> the parts that it may import. A folder is one part.
LEAVES = {"sequences", "hub", "names", "saving"}
BELOW_MODELS = {"ops", "activations", "config", "weights", "outputs", "layers", "pretrained", "heads", *LEAVES}
ALLOWED: dict[str, set[str]] = {
    "sequences": set(),
    "cpu": set(),
    "plain": {"cpu", "sequences"},
    "ops": {"cpu", "plain", "sequences", "kernels", "utils"},
    "activations": {"ops"},
    "saving": set(),
    "hub": {"saving"},
    "config": {"hub", "saving"},
    "names": set(),
    "weights": {"hub", "names", "saving"},
    "outputs": {"sequences"},
    "layers": {"ops", "activations", "config", "names", "outputs", "sequences"},
    "text_inputs": {"ops", "config", "layers", "outputs", "sequences"},
    "audio_layers": {"ops", "layers", "names", "sequences"},
    "patterns": set(),
    "adapters": {"weights", "hub", "config", "patterns"},
    "frozen": {"audio_layers", "config", "cpu", "ops", "layers", "sequences"},
    "cuda_graphs": {"ops", "layers", "sequences", "config", "frozen"},
    "pretrained": {"cpu", "ops", "layers", "weights", "config", "adapters", "frozen", "cuda_graphs", *LEAVES},
    "heads": BELOW_MODELS - {"heads"},
    "audio_heads": {*BELOW_MODELS, "audio_layers"},
    "models": {*BELOW_MODELS, "text_inputs", "audio_layers", "audio_heads"},
    "processing": {"hub", "utils"},
    "auto": {"models", "processing", "config", "hub"},
    "tasks": {"auto", "ops", "outputs", "processing", "sequences", "hub", "weights"},
    "demo": {"tasks", "hub"},
    "bench": {"auto", "config", "cpu", "hub"},
    "corpora": {"tasks", "processing", "hub", "weights", "saving"},
    "cli": {"corpora", "tasks", "auto", "hub", "demo", "bench"},
    "__main__": {"cli"},
    "utils": set(),
    "kernels": set(),
}
# The face of the package names all parts, and imports them on first use.
FACES = {"__init__"}
# Imported inside functions, so that nobody needs or waits for what he does not use.
LATE = {
    "transformers", "huggingface_hub", "PIL", "soundfile", "soxr", "av", "pytesseract", "phonemizer", "kenlm",
    "triton", "sklearn", "pyarrow", "ray",
}  # fmt: skip


class Import(NamedTuple):
    part: str  # of the importing file
    target: str  # dotted name
    late: bool  # inside a function, or by name


def sources() -> list[Path]:
    return [*PACKAGE.rglob("*.py"), *KERNELS.rglob("*.py")]


def part_of(path: Path) -> str:
    if path.is_relative_to(KERNELS):
        return "kernels"
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(part: str, text: str) -> Iterator[Import]:
    """Every import in a file, those for type checkers left out, those by a string included."""

    def walk(node: ast.AST, late: bool) -> Iterator[Import]:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, ast.Import):
            yield from (Import(part, alias.name, late) for alias in node.names)
        if isinstance(node, ast.ImportFrom) and node.level:
            yield Import(part, f"relative.{node.module or ''}", late)
        elif isinstance(node, ast.ImportFrom):
            yield from (Import(part, f"{node.module}.{alias.name}", late) for alias in node.names)
        text = node.value if isinstance(node, ast.Constant) else None
        if isinstance(text, str) and re.match(r"minitrans\.[a-z_]+(\.|:|$)", text):
            yield Import(part, text.replace(":", "."), True)
        inside = late or isinstance(node, (ast.FunctionDef, ast.Lambda))
        for child in ast.iter_child_nodes(node):
            yield from walk(child, inside)

    yield from walk(ast.parse(text), False)


def inner_target(found: Import) -> str | None:
    """The part of this package that an import leads to."""
    names = found.target.split(".")
    if names[0] != "minitrans" or len(names) < 2:
        return None
    if names[1] in ALLOWED:
        return names[1]
    # A public name of the package: the part that it comes from.
    home = minitrans._HOME.get(names[1], "")
    return home.split(".")[1] if home else None


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_only_the_arrows_of_the_design(path):
    part = part_of(path)
    found_here = list(imports(part, path.read_text(encoding="utf-8")))
    if part in FACES:
        assert not [found for found in found_here if found.target.startswith("minitrans") and not found.late]
        return
    assert part in ALLOWED, f"Say in tests/test_imports.py what {part} may import."
    for found in found_here:
        target = inner_target(found)
        assert target is None or target == part or target in ALLOWED[part], f"{part} imports {found.target}"
        assert target != "kernels" or part == "kernels" or found.late, "ops imports kernels inside functions"
        top = found.target.split(".")[0]
        if part == "kernels":
            assert top in {"torch", "triton", "relative"} or top in sys.stdlib_module_names, found.target
        else:
            assert top != "relative", f"{path.name} imports {found.target}: write the whole name"
            assert found.late or top not in LATE, f"{path.name} imports {top} on top"
            assert found.late or top != "torch" or part not in {"hub", "config", "processing", "auto", "cli"}


def test_the_reader_finds_imports_of_every_form():
    found = set(
        imports(
            "ops",
            """
import torch, minitrans.auto
from minitrans import heads
from minitrans.models.bert import BertModel
from .plain import linear
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from minitrans.cli import main
def late():
    import triton
    importlib.import_module("minitrans.kernels.attention")
""",
        )
    )
    early = {"torch", "minitrans.auto", "minitrans.heads", "minitrans.models.bert.BertModel", "relative.plain"}
    expected = {Import("ops", target, False) for target in {*early, "typing.TYPE_CHECKING"}}
    expected |= {Import("ops", target, True) for target in ("triton", "minitrans.kernels.attention")}
    assert found == expected
    assert {inner_target(item) for item in found} == {None, "auto", "heads", "models", "kernels"}


def fresh(code: str, *arguments: str, **environment: str) -> str:
    """What a fresh process prints."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


ABSENT = """
def absent(*names):
    found = sorted(set(names) & set(sys.modules))
    assert not found, found
"""


def test_a_tokenizer_needs_no_torch(minilm):
    code = f"""
import sys
{ABSENT}
import minitrans
absent("torch", "transformers", "triton", "huggingface_hub", "numpy", "tokenizers")
dir(minitrans), minitrans.__version__, minitrans.__all__
absent("torch", "transformers", "triton", "huggingface_hub", "numpy", "tokenizers")
tokenizer = minitrans.AutoTokenizer.from_pretrained(sys.argv[1])
ids = tokenizer("In a hole in the ground there lived a hobbit.")["input_ids"]
minitrans.AutoConfig
absent("torch", "transformers", "triton", "huggingface_hub")
print(ids)
"""
    expected = [101, 1999, 1037, 4920, 1999, 1996, 2598, 2045, 2973, 1037, 7570, 10322, 4183, 1012, 102]
    assert fresh(code, str(minilm)) == str(expected)


def test_a_local_model_needs_no_hub_and_no_compiler(tmp_path):
    reference("BertForMaskedLM").save_pretrained(tmp_path)
    code = f"""
import sys
{ABSENT}
from minitrans import AutoModel
import torch
model = AutoModel.from_pretrained(sys.argv[1])
with torch.inference_mode():
    shape = model(torch.tensor([[1, 2, 3], [4, 5, 6]]), torch.tensor([[1, 1, 1], [1, 1, 0]])).last_hidden_state.shape
absent("transformers", "triton", "huggingface_hub", "torch._dynamo", "torch._inductor")
print(tuple(shape))
"""
    assert fresh(code, str(tmp_path)) == "(2, 3, 32)"


def test_every_public_name_is_there():
    for name in {*minitrans.__all__, *dir(minitrans), *CLASSES, "BertConfig", "DistilBertConfig"}:
        assert getattr(minitrans, name) is not None
    assert set(minitrans.__all__) <= set(dir(minitrans))
    for name in CLASSES:
        assert getattr(minitrans, name).__name__ == name
    namespace: dict[str, object] = {}
    exec("from minitrans import *", namespace)
    assert set(minitrans.__all__) <= set(namespace)


@pytest.mark.parametrize("name", ["Nonsense", "BertForNonsense", "BertModels", "bert", "_private", "__path_hooks__"])
def test_names_that_are_not_there(name):
    with pytest.raises(AttributeError, match=name):
        getattr(minitrans, name)
    assert not hasattr(minitrans, name)
    with pytest.raises(ImportError):
        exec(f"from minitrans import {name}")


def test_the_kernels_folder_hides_no_package(tmp_path):
    """`import kernels` in the repository's root finds the package of that name that pip may have installed."""
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "__init__.py").write_text("")
    found = fresh("import kernels; print(kernels.__file__)", PYTHONPATH=str(tmp_path))
    assert Path(found) == tmp_path / "kernels" / "__init__.py"
    found = fresh("import importlib.util; print(importlib.util.find_spec('minitrans.kernels').origin)")
    assert Path(found) == KERNELS / "__init__.py"


def test_everything_installed_is_listed_in_setup():
    """A folder that setup.py forgets would be missing in an installation that is not editable."""
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    for folder in {path.parent for path in PACKAGE.rglob("*.py")}:
        name = ".".join(["minitrans", *folder.relative_to(PACKAGE).parts])
        assert f'"{name}"' in setup, name
