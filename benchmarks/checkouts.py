"""This checkout against another one, such as the commit before a change: `python -m benchmarks.checkouts OTHER`.

    git worktree add ../before HEAD~1
    python -m benchmarks.checkouts ../before --output benchmarks/results/checkouts.json

Each checkout computes in its own process, and the two are interleaved, so clock drift affects both equally. Printed
are the medians and the median of the ratios other / this: above 1, this checkout is faster. The weights are random
(the shapes are those of the published base models); what is timed does not depend on their values.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

THREADS = 2
SECONDS = 0.5  # of a turn, so that one that computes for milliseconds is repeated
ROUNDS = 15

# The lines of a process: it makes `run`, says so, and times as many calls as each line of its input says.
WORKER = """
import sys, time
sys.path.insert(0, {checkout!r})
import torch
import minitrans
torch.set_num_threads({threads})
torch.manual_seed(0)
{case}
print("ready", flush=True)
for line in sys.stdin:
    start = time.perf_counter()
    for _ in range(int(line)):
        run()
    print((time.perf_counter() - start) / int(line), flush=True)
"""

TEXT = """
model = minitrans.{kind}(minitrans.{config}).eval(){frozen}
ids = torch.randint(1000, 2000, {shape})
mask = torch.ones_like(ids)
lengths = {lengths}
if lengths is not None:
    mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
def run():
    with torch.inference_mode():
        model(ids, attention_mask=None if lengths is None else mask)
"""
OTHER = """
model = minitrans.{kind}(minitrans.{config}).eval(){frozen}
x = torch.randn{shape}
def run():
    with torch.inference_mode():
        model(x)
"""
TRAINING = """
model = minitrans.{kind}(minitrans.{config}).train()
x = {x}
def run():
    model.zero_grad()
    model(x).last_hidden_state.square().mean().backward()
"""
MINILM = "BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)"
RAGGED = "torch.cat([torch.tensor([128]), torch.randint(8, 67, (31,))])"


def text(config: str, shape: tuple, lengths: str = "None", frozen: str = "", kind: str = "BertModel") -> str:
    return TEXT.format(kind=kind, config=config, shape=shape, lengths=lengths, frozen=frozen)


def other(kind: str, shape: tuple, frozen: str = "") -> str:
    return OTHER.format(kind=f"{kind}Model", config=f"{kind}Config()", shape=shape, frozen=frozen)


def training(kind: str, x: str) -> str:
    return TRAINING.format(kind=f"{kind}Model", config=f"{kind}Config()", x=x)


CASES = {
    "MiniLM, 1 × 12 tokens": text(MINILM, (1, 12)),
    "BERT-base, 1 × 16 tokens": text("BertConfig()", (1, 16)),
    "BERT-base, 1 × 16 tokens, frozen": text("BertConfig()", (1, 16), frozen=".freeze()"),
    "BERT-base, 8 × 128 tokens": text("BertConfig()", (8, 128)),
    "BERT-base, 32 × 128 tokens, 29 % of them real": text("BertConfig()", (32, 128), RAGGED),
    "DistilBERT, 8 × 128 tokens": text("DistilBertConfig()", (8, 128), kind="DistilBertModel"),
    "Swin-T, 1 image": other("Swin", (1, 3, 224, 224)),
    "Swin-T, 1 image, frozen": other("Swin", (1, 3, 224, 224), ".freeze()"),
    "Swin-T, 8 images": other("Swin", (8, 3, 224, 224)),
    "Wav2Vec2-base, 1 × 1 s": other("Wav2Vec2", (1, 16_000)),
    "Wav2Vec2-base, 1 × 10 s": other("Wav2Vec2", (1, 160_000)),
    "BERT-base, a training step on 8 × 128 tokens": training("Bert", "torch.randint(1000, 2000, (8, 128))"),
    "Swin-T, a training step on 4 images": training("Swin", "torch.randn(4, 3, 224, 224)"),
    "Wav2Vec2-base, a training step on 2 × 5 s": training("Wav2Vec2", "torch.randn(2, 80_000)"),
}


class Worker:
    def __init__(self, checkout: Path, case: str) -> None:
        script = WORKER.format(checkout=str(checkout), threads=THREADS, case=case)
        self.process = subprocess.Popen(
            [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=checkout
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline().strip() == "ready", f"{checkout} cannot compute this case"

    def seconds(self, calls: int) -> float:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{calls}\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def stop(self) -> None:
        self.process.communicate()


def measured(case: str, checkouts: tuple[Path, Path], rounds: int) -> dict[str, Any]:
    workers = [Worker(checkout, case) for checkout in checkouts]
    start = time.perf_counter()
    for worker in workers:
        worker.seconds(1)
    calls = max(1, round(SECONDS / ((time.perf_counter() - start) / 2)))
    times = []
    for turn in range(rounds):
        order = (0, 1) if turn % 2 else (1, 0)
        pair = {index: workers[index].seconds(calls) for index in order}
        times.append((pair[0], pair[1]))
    for worker in workers:
        worker.stop()
    ratios = sorted(there / here for there, here in times)
    return {
        "other_ms": round(statistics.median(there for there, _ in times) * 1e3, 2),
        "this_ms": round(statistics.median(here for _, here in times) * 1e3, 2),
        "ratio": round(statistics.median(ratios), 3),
        "quartiles": [round(ratios[len(ratios) // 4], 3), round(ratios[-1 - len(ratios) // 4], 3)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, help="the other checkout")
    parser.add_argument("--output", type=Path, help="a JSON file for the figures")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="turns of each checkout")
    parser.add_argument("--only", default="", help="the cases whose names hold this")
    arguments = parser.parse_args()
    checkouts = (arguments.other.resolve(), Path(__file__).resolve().parent.parent)
    commits = [
        subprocess.run(["git", "rev-parse", "HEAD"], cwd=path, capture_output=True, text=True).stdout.strip()
        for path in checkouts
    ]
    rows = {}
    for name, case in CASES.items():
        if arguments.only in name:
            rows[name] = row = measured(case, checkouts, arguments.rounds)
            print(
                f"{name}: {row['other_ms']} ms, here {row['this_ms']} ms, ratio {row['ratio']} {row['quartiles']}",
                flush=True,
            )
    if arguments.output:
        cpu = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                    if line.startswith("model name")), platform.processor())  # fmt: skip
        report = {"cpu": cpu, "threads": THREADS, "python": platform.python_version(), "other": commits[0],
                  "this": commits[1], "cases": rows}  # fmt: skip
        arguments.output.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
