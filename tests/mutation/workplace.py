"""A copy of the tree to mutate, servers that run its tests, and the map from lines to tests."""

import difflib
import hashlib
import json
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
# What the tests import and what takes long: everything but minitrans and the tests.
MODULES = [
    "torch", "torch._dynamo", "torch.func", "torch.distributed.fsdp", "torch.utils.data", "numpy", "scipy",
    "sklearn.datasets", "PIL.Image", "soundfile", "soxr", "av", "safetensors.torch", "tokenizers",
    "huggingface_hub", "hypothesis", "transformers", "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto", "transformers.models.auto.processing_auto",
    "transformers.models.auto.image_processing_auto", "transformers.pipelines", "transformers.trainer",
    "transformers.models.bert.modeling_bert", "transformers.models.distilbert.modeling_distilbert",
    "transformers.models.swin.modeling_swin", "transformers.models.wav2vec2.modeling_wav2vec2",
    "transformers.models.bert.tokenization_bert_legacy", "transformers.models.vit.image_processing_pil_vit",
    "transformers.models.wav2vec2.tokenization_wav2vec2", "transformers.models.wav2vec2.processing_wav2vec2",
    "peft", "accelerate", "datasets", "lightning", "captum.attr", "sentence_transformers", "onnxruntime",
]  # fmt: skip
FOR_KERNELS = ["torch", "numpy", "pytest", "triton", "triton.language", "transformers"]
CHECKS = sorted(f"tests/interpreted/{path.name}" for path in (ROOT / "tests" / "interpreted").glob("check_*.py"))
INTERPRETER = {"TRITON_INTERPRET": "1"}
# The modules, the tests and the environment with which a server starts.
SERVERS = {
    "imported": (MODULES, [], {}),
    "collected": (MODULES, ["tests"], {}),
    "interpreted": (FOR_KERNELS, [], INTERPRETER),
    "interpreted, collected": (FOR_KERNELS, CHECKS, INTERPRETER),
}


def environment(folder, settings):
    """The variables of a server: what its tests start imports the copy too, not what is installed."""
    tree = str(Path(folder, "tree").absolute())
    paths = os.pathsep.join(filter(None, [tree, os.environ.get("PYTHONPATH")]))
    return {
        **os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false",
        "TMPDIR": str(folder), "PYTHONDONTWRITEBYTECODE": "", "PYTHONPATH": paths, **settings,
    }  # fmt: skip


class Workplace:
    """`folder` holds the copy, `tree`, and the map, `map/`, one file for each file of tests."""

    def __init__(self, folder):
        self.folder, self.tree, self.map = folder, folder / "tree", folder / "map"
        self.map.mkdir(parents=True, exist_ok=True)
        self.servers = {}
        shutil.rmtree(self.tree, ignore_errors=True)
        listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
        for name in subprocess.run(listed, cwd=ROOT, capture_output=True, check=True, text=True).stdout.split("\0"):
            if name and (ROOT / name).is_file():
                (self.tree / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, self.tree / name)
        if not (self.tree / "minitrans" / "kernels").exists():
            (self.tree / "minitrans" / "kernels").symlink_to(Path("..", "kernels", "src"))

        files = [*self.tree.glob("minitrans/**/*.py"), *self.tree.glob("kernels/src/*.py")]
        names = sorted({str(path.resolve().relative_to(self.tree.resolve())) for path in files})
        self.sources = {name: (self.tree / name).read_bytes() for name in names}

    def keep_sources(self):
        """The name under which the sources are kept as they are now, beside a map of their lines."""
        name = hashlib.sha256(b"".join(self.sources.values())).hexdigest()[:12]
        for file, source in self.sources.items():
            path = self.folder / "sources" / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(source)
        return name

    @cache  # noqa: B019
    def lines_then(self, name, file):
        """A file's lines in the kept sources, by what they are now; those that are new are missing."""
        path = self.folder / "sources" / name / file
        then = path.read_bytes().splitlines() if path.exists() else []
        blocks = difflib.SequenceMatcher(None, then, self.sources[file].splitlines(), False).get_matching_blocks()
        return {b + i + 1: a + i + 1 for a, b, size in blocks for i in range(size)}

    def write(self, file, source):
        """Write a file of the tree without a trace in its compiled copies; its own source puts it back."""
        path = self.tree / file
        times = path.stat()
        for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*"):
            compiled.unlink()
        path.write_bytes(source)
        os.utime(path, (times.st_atime, times.st_mtime + (source != self.sources[file])))

    def server(self, kind):
        """One of the `SERVERS`, which is ready."""
        if kind not in self.servers:
            modules, tests, settings = SERVERS[kind]
            server = subprocess.Popen(
                ["nice", "-n", "19", sys.executable, Path(__file__).with_name("server.py")],
                cwd=self.tree, env=environment(self.folder, settings), text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            print(json.dumps({"modules": modules, "collect": tests}), file=server.stdin, flush=True)
            assert server.stdout.readline() == "ready\n", f"The server for tests that are {kind} did not start."
            self.servers[kind] = server
        return self.servers[kind]

    def run(self, kind, mutant=None, **job):
        """A server's answer to a job, with a mutant in the tree."""
        server = self.server(kind)
        if mutant:
            job |= {"file": mutant.file, "original": self.sources[mutant.file].decode()}
            self.write(mutant.file, mutant.applied(self.sources[mutant.file]))
        print(json.dumps(job), file=server.stdin, flush=True)
        answer = json.loads(server.stdout.readline())
        if mutant:
            self.write(mutant.file, self.sources[mutant.file])
        return answer

    def close(self):
        for server in self.servers.values():
            server.stdin.close()
            server.wait()
        self.servers = {}
