"""What an idle thread costs: `python -m benchmarks.idle_thread`.

A thread that has once computed in parallel keeps its OpenMP workers. While it lives there are more workers than cores,
so libgomp lets them sleep between operations instead of spinning, and every small operation of every other thread
first wakes one. Printed are the median time of Swin-T for 8 images, alone and beside such a thread, and
how often a forward pass sleeps; with `OMP_WAIT_POLICY=active` in the environment it sleeps less.
"""

from __future__ import annotations

import resource
import statistics
import threading
import time
from typing import Any

import torch

import minitrans

ROUNDS = 5
THREADS = 2


@torch.inference_mode()
def measured(model: Any, pixels: torch.Tensor, passes: int = 7) -> tuple[float, float]:
    """The median of a forward pass in milliseconds, and how often one sleeps."""
    model(pixels)
    before, times = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw, []
    for _ in range(passes):
        start = time.perf_counter()
        model(pixels)
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times), (resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw - before) / passes


def beside_an_idle_thread(model: Any, pixels: torch.Tensor) -> tuple[float, float]:
    computed, finish = threading.Event(), threading.Event()

    def once() -> None:
        torch.randn(512, 512) @ torch.randn(512, 512)
        computed.set()
        finish.wait()

    thread = threading.Thread(target=once)
    thread.start()
    computed.wait()
    found = measured(model, pixels)
    finish.set()
    thread.join()
    return found


def main() -> None:
    torch.set_num_threads(THREADS)
    model = minitrans.SwinForImageClassification(minitrans.SwinConfig(num_labels=1000)).eval()
    pixels = torch.randn(8, 3, 224, 224)
    rounds = [(measured(model, pixels), beside_an_idle_thread(model, pixels)) for _ in range(ROUNDS)]
    for name, index in (("alone", 0), ("beside an idle thread", 1)):
        times, sleeps = zip(*(both[index] for both in rounds), strict=True)
        print(f"{name}: {statistics.median(times):.0f} ms, {statistics.median(sleeps):.0f} sleeps")
    print(f"median of ratios: {statistics.median(beside[0] / alone[0] for alone, beside in rounds):.2f}")


if __name__ == "__main__":
    main()
