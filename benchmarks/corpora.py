"""A corpus of short texts by MiniLM, beside `Embedder.encode` in memory: `python -m benchmarks.corpora --write`.

Texts have 1 to 4 words, as what people type into a search field, and the model is frozen in the dtype that is the
fastest on this CPU. Each figure is of a process of its own, which prints its seconds and the peak of its memory; those
that are compared take turns, and the median of `--rounds` runs counts. With `--write` they go into
benchmarks/results/corpora-<cpu>.json and, as tables, into docs/corpora.md between its two `measured` marks.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import measure as machines
from benchmarks.rows import minilm
from benchmarks.tables import write

PAGE = Path(__file__).parent.parent / "docs" / "corpora.md"
WORDS = (
    "ferry", "museum", "comet", "chisel", "ink", "paper", "damp", "air", "fine", "boots", "rubber", "hobbit", "hole",
    "ground", "seven", "ten", "of", "the", "and",
)  # fmt: skip
IMAGES = 96
THREADS = 2
FASTEST = {"frozen": True, "dtype": "fastest"}
# What is timed -> the settings of the job; None is `encode` in memory.
FORMS: dict[str, dict[str, Any] | None] = {
    "encode": None,
    "one process": {"workers": 1},
    "one process, nothing ahead": {"workers": 1},
    "two processes": {"workers": 2},
    "images": {"workers": 1},
    "images, nothing ahead": {"workers": 1},
}


def text(number: int) -> str:
    draw = random.Random(number)
    return " ".join(draw.choices(WORDS, k=draw.randint(1, 4)))


def measure(form: str, count: int, folder: Path) -> None:
    """In a process of its own: print the seconds, without those of the start, and the peak of memory in MiB."""
    from minitrans import Embedder, ImageVectors, corpora

    torch.set_num_threads(THREADS)
    of_images, options = form.startswith("images"), FORMS[form]
    corpora.jobs.PREFETCH = 0 if form.endswith("nothing ahead") else corpora.jobs.PREFETCH
    kind, model = (ImageVectors, folder / "swin") if of_images else (Embedder, minilm())
    load: Any = partial(kind.from_pretrained, model, **FASTEST)
    names = ("images", "few") if of_images else (f"{count}.txt", "few.txt")
    source, few = (folder / name for name in names)

    def job(task: Any, source: Path, **options: Any) -> None:
        settings = {"pool": True} if of_images else {}
        with tempfile.TemporaryDirectory(dir=folder) as output:
            corpora.run(task, source, output, show_progress=False, **options, **settings)

    if options is None:
        task = load()
        task.encode(few.read_text().splitlines())  # what is done once
        start = time.perf_counter()
        task.encode(source.read_text().splitlines(), show_progress=False)
    else:
        job(load, few)  # first of all, as in a process that does nothing else
        # Several processes load the model each, which counts: so they are used.
        given = load() if options["workers"] == 1 else load
        start = time.perf_counter()
        job(given, source, **options)
    seconds = time.perf_counter() - start
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 1024
    print(json.dumps({"seconds": seconds, "peak": peak}))


def prepare(folder: Path, counts: list[int]) -> None:
    """Texts, and photographs of two megapixels with a Swin-T that has not been trained."""
    import numpy as np
    from PIL import Image

    from minitrans import SwinConfig, SwinModel

    for name, count in {"few": 64, **{str(count): count for count in counts}}.items():
        with (folder / f"{name}.txt").open("w") as stream:
            stream.writelines(f"{text(number)}\n" for number in range(count))
    SwinModel(SwinConfig()).save_pretrained(folder / "swin")
    settings = {"image_processor_type": "ViTImageProcessor", "size": {"height": 224, "width": 224}}
    (folder / "swin" / "preprocessor_config.json").write_text(json.dumps(settings))
    (folder / "images").mkdir()
    (folder / "few").mkdir()
    coarse = np.random.default_rng(0).integers(0, 256, (IMAGES, 12, 16, 3), dtype=np.uint8)
    for number, pixels in enumerate(coarse):
        Image.fromarray(pixels).resize((1600, 1200), Image.Resampling.BICUBIC).save(folder / f"images/{number}.jpg")
    shutil.copy(folder / "images/0.jpg", folder / "few")


def measured(form: str, count: int, folder: Path) -> dict[str, float]:
    words = [
        sys.executable,
        "-m",
        "benchmarks.corpora",
        "--measure",
        form,
        "--counts",
        str(count),
        "--folder",
        str(folder),
    ]
    done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def tables(figures: dict[str, Any]) -> list[str]:
    """What the page shows of the figures."""
    lines = ["| | texts or images | per second | relative to `encode` | peak memory |", "|---|---:|---:|---:|---:|"]
    by = {(item["form"], item["count"]): item for item in figures["measurements"]}
    for (form, count), item in by.items():
        whole = by.get(("encode", count))
        ratio = "" if whole is None or "images" in form else f"{whole['seconds'] / item['seconds']:.2f}"
        rate, peak = count / item["seconds"], item["peak"]
        name = form.replace("nothing ahead", "no prefetching")
        lines.append(f"| {name} | {count:,} | {rate:,.4g} | {ratio} | {peak:.0f} MiB |")
    largest = max(count for form, count in by if form == "two processes")
    rate = largest / by["two processes", largest]["seconds"]
    core = rate / THREADS
    about, cores = figures["measured_on"], (THREADS, 64, 1280)
    machine = f"On {THREADS} cores of {about['brand']}, torch {about['versions']['torch']}"
    speed = f"{core:,.0f} texts per second and core. The time of larger jobs at that speed, and the bytes written:"
    lines += ["", f"{machine}: {speed}", ""]
    lines += [f"| rows | core hours | {' | '.join(f'{n} cores' for n in cores)} | float32 | float16 |",
              "|---:|" + "---:|" * (len(cores) + 3)]  # fmt: skip
    for rows in (10**6, 10**8, 10**10):
        times = " | ".join(duration(rows / core / n) for n in cores)
        sizes = " | ".join(size(rows * 384 * width) for width in (4, 2))
        lines.append(f"| {rows:,} | {rows / core / 3600:,.1f} | {times} | {sizes} |")
    lines += ["", f"{1e9 / (core * 1536):,.0f} such cores write 1 GB/s of float32."]
    return lines


def duration(seconds: float) -> str:
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.0f} {unit}"
    return f"{seconds:,.0f} s"


def size(count: float) -> str:
    return f"{count / 1e12:,.1f} TB" if count >= 1e12 else f"{count / 1e9:,.1f} GB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--counts", type=int, nargs="+", default=[10**5, 10**6])
    parser.add_argument("--rounds", type=int, default=3, help="of smaller counts; the largest once")
    parser.add_argument("--folder", type=Path, help="where the texts and the results are written")
    parser.add_argument("--measure", choices=FORMS, help=argparse.SUPPRESS)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.measure, arguments.counts[0], arguments.folder)
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder, found = Path(name), []
        prepare(folder, arguments.counts)
        for count in [*arguments.counts, IMAGES]:
            largest = count == max(arguments.counts)
            forms = [form for form in FORMS if form.startswith("images") == (count == IMAGES)]
            forms = [form for form in forms if not (largest and form.endswith("nothing ahead"))]
            rounds = 1 if largest else arguments.rounds
            runs = [{form: measured(form, count, folder) for form in forms} for _ in range(rounds)]
            for form in forms:
                medians = {key: statistics.median(run[form][key] for run in runs) for key in ("seconds", "peak")}
                found.append({"form": form, "count": count, "rounds": rounds, **medians})
                print(found[-1], flush=True)
    figures = {"measured_on": machines.machine(THREADS), "measurements": found}
    lines = "\n".join(tables(figures))
    print(lines)
    if arguments.write:
        file = Path(__file__).parent / "results" / f"corpora-{machines.name_of(figures['measured_on'])}.json"
        file.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
        write(PAGE, lines)


if __name__ == "__main__":
    main()
