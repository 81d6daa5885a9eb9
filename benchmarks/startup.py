"""Whole processes, interleaved: from their start to the first output, loading, and the most memory that they held."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

MODEL = """
import json, pathlib, resource, sys, time
import torch
torch.set_num_threads({threads})
from {library} import AutoModel
imported = time.time()
model = AutoModel.from_pretrained({folder!r}).eval()
loaded = time.time()
with torch.inference_mode():
    model(torch.arange(1000, 1016)[None])
status = pathlib.Path("/proc/self/status")  # a child's ru_maxrss on Linux begins at what its parent held
lines = status.read_text().splitlines() if status.exists() else []
high = [int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")]
peak = high[0] if high else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({{"cold": time.time() - float(sys.argv[1]), "load": loaded - imported, "peak": peak}}))
"""
TOKENIZER = """
import json, sys, time
from {library} import AutoTokenizer
AutoTokenizer.from_pretrained({folder!r})("In a hole in the ground there lived a hobbit.")
print(json.dumps({{"tokenizer": time.time() - float(sys.argv[1])}}))
"""
# What is measured -> the program of the process, whose last line has it.
SCRIPTS = {"cold": MODEL, "load": MODEL, "peak": MODEL, "tokenizer": TOKENIZER}


def process(script: str, library: str, folder: Path, threads: int) -> dict[str, float]:
    """Seconds and bytes of one process, by what they measure."""
    code = script.format(library=library, folder=str(folder), threads=threads)
    command = [sys.executable, "-c", code, str(time.time())]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])
