"""What a user installs: the source distribution and the wheel that is built from it, and its import elsewhere."""

import email
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import minitrans

ROOT = Path(__file__).resolve().parent.parent


def run(*command: object, cwd: Path) -> str:
    done = subprocess.run([*map(str, command)], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def tracked():
    """Every file of the repository but what only git reads."""
    listed = run("git", "ls-files", cwd=ROOT).splitlines()
    return {name for name in listed if (ROOT / name).is_file()} - {".gitignore"}


@pytest.fixture(scope="module")
def built(tracked, tmp_path_factory):
    """The folder with both distributions; the wheel is built from the source distribution, not from the clone."""
    clone, out = tmp_path_factory.mktemp("clone"), tmp_path_factory.mktemp("dist")
    for name in tracked:
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, clone / name)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, clone, cwd=out)
    return out


def test_the_source_distribution_holds_the_repository(tracked, built):
    (path,) = built.glob("*.tar.gz")
    assert path.name == f"minitrans-{minitrans.__version__}.tar.gz"
    with tarfile.open(path) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    assert tracked - names == set()


def test_the_wheel_holds_the_package_and_no_more(tracked, built):
    (path,) = built.glob("*.whl")
    assert path.name == f"minitrans-{minitrans.__version__}-py3-none-any.whl"
    with zipfile.ZipFile(path) as file:
        names = {name for name in file.namelist() if ".dist-info/" not in name}
        (about,) = (name for name in file.namelist() if name.endswith("METADATA"))
        metadata = email.message_from_bytes(file.read(about))
        assert any(name.endswith("licenses/LICENSE") for name in file.namelist())
    package = {name for name in tracked if name.startswith("minitrans/")}
    assert "minitrans/py.typed" in names
    kernels = {f"minitrans/kernels/{path.name}" for path in (ROOT / "kernels" / "src").glob("*.py")}
    assert names == package | kernels
    assert metadata["Author"] == "The minitrans authors"
    assert metadata["License-Expression"] == "Apache-2.0"
    page = metadata.get_payload()
    assert page.startswith("# minitrans")
    # On PyPI the repository's files are not beside the page.
    assert re.findall(r"!?\[[^]]*\]\((?!https?://)[^)]*\)|^!.*", page, re.MULTILINE) == []
    assert "Ratios and their quartiles" not in page
    assert "<!--" not in page


def test_the_installed_wheel_imports(built, tmp_path):
    (path,) = built.glob("*.whl")
    place = tmp_path / "site"
    run(sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", place, path, cwd=tmp_path)
    code = """
import sys; sys.path.insert(0, sys.argv[1])
import minitrans, minitrans.cli, minitrans.kernels.attention, minitrans.models.swin, minitrans.tasks.audio
print(minitrans.__version__, minitrans.__file__, minitrans.kernels.__file__)
"""
    version, *files = run(sys.executable, "-c", code, place, cwd=tmp_path).split()
    assert version == minitrans.__version__
    assert all(Path(file).is_relative_to(place) for file in files)
    assert (place / "bin" / "minitrans").exists()
