"""`kill -9` of a job over a corpus, at random moments: of the command, of one of its workers, of an actor of Ray's.

Whatever was killed, the next run of the same command ends the job: every row is there once, with the bits that one
process gives, and nothing half-written has its final name.
"""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
import test_tasks_text

import minitrans
from minitrans import corpora

ROWS, COUNT = 7, 300


@pytest.fixture(scope="module")
def job(minilm: Path, tmp_path_factory: Any) -> tuple[Any, Path, np.ndarray, float]:
    """What loads a task, a file of texts, their vectors in one process, and the seconds that took."""
    folder = tmp_path_factory.mktemp("job")
    model = test_tasks_text.checkpoint(minilm, folder / "model", "BertModel")
    (folder / "texts.txt").write_text("".join(f"text {number} of {COUNT}\n" for number in range(COUNT)))
    task, start = partial(minitrans.Embedder.from_pretrained, str(model)), time.perf_counter()
    corpora.run(task, folder / "texts.txt", folder / "out", rows=ROWS)
    return task, folder / "texts.txt", vectors(folder / "out"), time.perf_counter() - start


def vectors(folder: Path) -> np.ndarray:
    """Those of all rows, each of which is there once."""
    tables = [pq.ParquetFile(path).read() for path in sorted(folder.glob("part-*"))]  # each is whole
    rows = [row for table in tables for row in table["row"].to_pylist()]
    assert rows == sorted(set(rows))
    return np.array([vector for table in tables for vector in table["vector"].to_pylist()], np.float32)


def ended(job: Any, output: Path) -> None:
    """The job, begun again in this process, is done, and nothing else is left."""
    task, texts, expected, _ = job
    vectors(output)
    done = corpora.run(task, texts, output, rows=ROWS)
    assert (done.rows, done.failed, done.missing) == (COUNT, 0, {})
    assert np.array_equal(vectors(output), expected)
    assert {path.name.partition("-")[0] for path in output.iterdir()} == {"part", "_job.json"}


def test_one_process(job: Any, cases: int, tmp_path: Path) -> None:
    task, texts, _, seconds = job
    found = []
    for seed in range(max(1, cases // 2)):
        draw, output = random.Random(seed), tmp_path / str(seed)
        child = os.fork()
        if child == 0:
            try:
                corpora.run(task, texts, output, rows=ROWS)
            finally:
                os._exit(0)
        time.sleep(draw.uniform(0, seconds))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        found.append(len(list(output.glob("part-*"))))
        ended(job, output)
    print(f"{len(found)} kills, after {sorted(found)} of {-(-COUNT // ROWS)} parts")


HOLDER = """
import os, signal, sys
from functools import partial
from tqdm import tqdm
import minitrans
from minitrans import corpora

lock = tqdm.get_lock()
if (child := os.fork()) == 0:
    lock.acquire()
    os.kill(os.getpid(), signal.SIGKILL)
os.waitpid(child, 0)
model, texts, output = sys.argv[1:]
print(minitrans.Embedder.from_pretrained(model).encode(["a text"], show_progress=True).shape)
print(corpora.run(partial(minitrans.Embedder.from_pretrained, model), texts, output).rows)
"""


def test_a_forked_process_that_held_the_lock_of_progress_bars(job: Any, tmp_path: Path) -> None:
    """tqdm's own bars wait for it for ever."""
    task, texts, _, _ = job
    command = [sys.executable, "-c", HOLDER, task.args[0], str(texts), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stdout.split("\n") == [str((1, 32)), str(COUNT), ""], done.stderr


@pytest.mark.parametrize("victim", ["command", "worker"])
def test_workers(job: Any, victim: str, cases: int, tmp_path: Path) -> None:
    """Of a worker, the same command ends the job; with the command its workers end too."""
    task, texts, expected, seconds = job
    words = [sys.executable, "-m", "minitrans", "run", task.args[0], str(texts), "--rows", str(ROWS), "--workers", "2"]
    for seed in range(max(1, cases // 20)):
        draw, output = random.Random(seed), tmp_path / str(seed)
        with subprocess.Popen([*words, "--output", str(output)], stderr=subprocess.PIPE, text=True) as process:
            while not list(output.glob("part-*")) and process.poll() is None:
                time.sleep(0.01)
            time.sleep(draw.uniform(0, seconds / 2))
            whole = psutil.Process(process.pid)
            workers = [child for child in whole.children() if "spawn_main" in " ".join(child.cmdline())]
            if victim == "worker" and workers:
                for worker in workers:  # as a terminal tells all of them, for the command to end
                    with suppress(psutil.NoSuchProcess):
                        worker.send_signal(signal.SIGINT)
                time.sleep(draw.uniform(0, 0.1))
                draw.choice(workers).kill()
                _, said = process.communicate()
                assert process.returncode == 0, said
                assert "Interrupt" not in said
                assert np.array_equal(vectors(output), expected)
            process.kill()
        assert not psutil.wait_procs(workers, timeout=60)[1]
        ended(job, output)


@pytest.mark.ray
def test_actors(cluster: None, job: Any, cases: int, tmp_path: Path) -> None:
    """What an actor had in hand is done by another."""
    task, texts, expected, seconds = job
    for seed in range(max(1, cases // 20)):
        draw, output, killed, done = random.Random(seed), tmp_path / str(seed), [], threading.Event()

        def kill(draw: random.Random = draw, output: Path = output, killed: list = killed, done: Any = done) -> None:
            while not list(output.glob("part-*")) and not done.is_set():
                time.sleep(0.001)
            time.sleep(draw.uniform(0, seconds / 2))
            children = psutil.Process().children(recursive=True)
            actors = [child for child in children if "MapWorker" in " ".join(child.cmdline())]
            draw.choice(actors).kill()
            killed.append(len(list(output.glob("part-*"))))

        thread = threading.Thread(target=kill, daemon=True)
        thread.start()
        corpora.run(task, texts, output, ray=True, workers=2, rows=ROWS)
        done.set()
        thread.join()
        assert len(killed) == 1
        assert np.array_equal(vectors(output), expected)
        ended(job, output)
