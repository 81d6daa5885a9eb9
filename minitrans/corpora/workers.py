"""Who does the shards of a job: this process, several, or the actors of a Ray cluster."""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import signal
import threading
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from copy import copy
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch

from minitrans.corpora.jobs import Batch, Job, batches
from minitrans.corpora.parts import JsonPart, ParquetPart
from minitrans.corpora.tables import UNREADABLE, Shard, sentence
from minitrans.saving import OutputError, atomic_file
from minitrans.tasks import subtitles
from minitrans.tasks.base import Task

ATTEMPTS = 3  # workers that may die of one shard
SUBTITLES = {"srt": subtitles.srt, "vtt": subtitles.vtt}
# How many compiled products oneDNN keeps, and torch above it; by default 1,024. Texts take four for each number of
# tokens in a batch, of which a corpus has thousands, and what is kept among the rest leaves holes in the memory.
PRODUCTS = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "16", "LRU_CACHE_CAPACITY": "16"}


@dataclass(frozen=True)
class Outcome:
    """What became of a shard: how many rows failed, the first one's error, and what kept the shard from being done.

    With `is_fatal` that would keep every other from being done.
    """

    number: int
    failed: int = 0
    first: str | None = None
    error: Exception | None = None
    is_fatal: bool = False


def outcomes(task: Task, inputs: Iterable[Any], **options: Any) -> Iterator[tuple[Any, str | None]]:
    """The result for each input, or None and a sentence that says why there is none; options as in `Task.stream`."""
    said: list[str] = []
    task = copy(task)
    task.report = lambda name, error: said.append(sentence(error))  # type: ignore[method-assign]
    for _, result in task.stream(inputs, on_error="skip", show_progress=False, **options):
        yield result, said.pop() if result is None else None


class Worker:
    """Does shards with one task, which is loaded for the first of them."""

    def __init__(self, job: Job, device: str | None = None) -> None:
        for name, value in PRODUCTS.items():
            os.environ.setdefault(name, value)  # heeded where this process has computed nothing before
        self.job, self.device = job, device
        self.task: Task | None = None

    def __call__(self, shard: Shard, advance: Callable[[int], Any]) -> Outcome:
        """Do one, and call `advance` with the number of rows whenever some are done; no error is raised."""
        is_loaded = False
        try:
            self.task = self.task or self.job.load(self.device)
            is_loaded = True
            return self._do(self.task, shard, advance)
        except Exception as error:
            of_shard = is_loaded and isinstance(error, UNREADABLE) and not isinstance(error, OutputError)
            return Outcome(shard.number, error=_plain(error), is_fatal=not of_shard)

    def _do(self, task: Task, shard: Shard, advance: Callable[[int], Any]) -> Outcome:
        failed, first = 0, None
        kind = ParquetPart if self.job.form == "parquet" else JsonPart
        with atomic_file(self.job.part(shard)) as stream, closing(kind(self.job, task, shard, stream)) as part:
            for batch, results in self._results(task, shard):
                for target, result in zip(batch.targets, results, strict=False):
                    if result is not None:
                        self._subtitle(target, result)
                part.write(batch, results, batch.errors)
                wrong = [place for place, error in enumerate(batch.errors) if error is not None]
                if wrong and first is None:
                    row = "" if batch.first is None else f", row {batch.first + wrong[0]}"
                    first = f"{batch.files[wrong[0]]}{row}: {batch.errors[wrong[0]]}"
                failed += len(wrong)
                advance(len(results))
        return Outcome(shard.number, failed, first)

    def _results(self, task: Task, shard: Shard) -> Iterator[tuple[Batch, list[Any]]]:
        """The shard's batches with their results, None beside an error, of which one or two are read ahead."""
        pending: deque[Batch] = deque()

        def inputs() -> Iterator[Any]:
            for batch in batches(self.job, shard, task.read_ahead):
                pending.append(batch)
                yield from batch.inputs

        pairs: list[tuple[Any, str | None]] = []
        for outcome in outcomes(task, inputs(), budget=self.job.budget):
            while not pending[0].inputs:
                yield _merged(pending.popleft(), [])
            pairs.append(outcome)
            if len(pairs) == len(pending[0].inputs):
                yield _merged(pending.popleft(), pairs)
                pairs = []
        while pending:
            yield _merged(pending.popleft(), [])

    def _subtitle(self, target: str, result: dict[str, Any]) -> None:
        lines = SUBTITLES[self.job.form](result["words"], result["characters"])
        with atomic_file(self.job.folder / target) as stream:
            stream.write("".join(f"{line}\n" for line in lines).encode())


def _merged(batch: Batch, pairs: list[tuple[Any, str | None]]) -> tuple[Batch, list[Any]]:
    """All rows of a batch in their order: results, and errors in the batch."""
    found, results = iter(pairs), []
    for number, error in enumerate(batch.errors):
        result, batch.errors[number] = (None, error) if error is not None else next(found)
        results.append(result)
    return batch, results


def _plain(error: Exception) -> Exception:
    """An error that any process can read, with the same sentence."""
    for kind in (ImportError, OSError, TypeError, ValueError, EOFError):
        if isinstance(error, kind):
            return kind(sentence(error))
    return RuntimeError(f"{type(error).__name__}: {sentence(error)}")


def here(job: Job, shards: Sequence[Shard], advance: Callable[[int], Any]) -> Generator[Outcome]:
    """The shards done in this process."""
    worker = Worker(job)
    for shard in shards:
        yield worker(shard, advance)


def _serve(job: Job, device: str | None, threads: int, pipe: Connection) -> None:
    """What a worker's process does: shards, until None comes or the parent has ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=lambda: (wait([parent.sentinel]), os._exit(1)), daemon=True).start()
    logging.basicConfig(format="minitrans: %(message)s")
    os.environ.setdefault("RAYON_NUM_THREADS", str(threads))  # the tokenizers'
    torch.set_num_threads(threads)
    worker = Worker(job, device)
    while (shard := pipe.recv()) is not None:
        pipe.send(worker(shard, pipe.send))


@dataclass
class Process:
    """A worker's process and what it has in hand."""

    process: Any
    pipe: Connection
    shard: Shard
    done: int = 0  # rows of the shard


def by_processes(job: Job, shards: Sequence[Shard], advance: Callable[[int], Any], workers: int) -> Generator[Outcome]:
    """The shards done by several processes; that of one that dies is done by another."""
    context = multiprocessing.get_context("spawn")
    threads = max(1, torch.get_num_threads() // workers)
    waiting, deaths, at_work = deque(shards), Counter[int](), list[Process]()
    devices = _devices(job)

    def start(number: int) -> None:
        mine, theirs = context.Pipe()
        device = devices[number % len(devices)]
        process = context.Process(target=_serve, args=(job, device, threads, theirs), daemon=True)
        process.start()
        theirs.close()
        worker = Process(process, mine, waiting.popleft())
        at_work.append(worker)
        send(worker, worker.shard)

    def send(worker: Process, shard: Shard | None) -> None:
        with suppress(OSError):  # it has died, which shows where it is heard
            worker.pipe.send(shard)

    try:
        for number in range(min(workers, len(shards))):
            start(number)
        while at_work:
            ready = wait([worker.pipe for worker in at_work])
            for worker in [worker for worker in at_work if worker.pipe in ready]:
                try:
                    said = worker.pipe.recv()
                except (EOFError, OSError):  # it has died
                    at_work.remove(worker)
                    worker.process.join()
                    advance(-worker.done)
                    deaths[worker.shard.number] += 1
                    if deaths[worker.shard.number] < ATTEMPTS:
                        waiting.appendleft(worker.shard)
                    else:
                        yield Outcome(
                            worker.shard.number, error=_died(worker.process.exitcode, job.part(worker.shard))
                        )
                    if waiting:
                        start(len(at_work))
                    continue
                if isinstance(said, int):
                    worker.done += said
                    advance(said)
                    continue
                yield said
                if waiting:
                    worker.shard, worker.done = waiting.popleft(), 0
                    send(worker, worker.shard)
                else:
                    at_work.remove(worker)
                    send(worker, None)
                    worker.process.join()
    finally:
        for worker in at_work:
            worker.process.kill()
            worker.process.join()


def _died(code: int | None, part: Path) -> Exception:
    how = f"signal {-code}" if code is not None and code < 0 else f"status {code}"
    return RuntimeError(f"{part.name} is missing: {ATTEMPTS} workers ended with {how} at it; is there enough memory?")


def _devices(job: Job) -> list[str | None]:
    """Where the workers compute in turn: on all GPUs where a job says "cuda", None for where it says."""
    return [f"cuda:{index}" for index in range(torch.cuda.device_count())] if job.device == "cuda" else [None]


class Actor:
    """A worker of a Ray cluster: shards as rows of a data set in, outcomes out."""

    def __init__(self, job: Job, threads: int) -> None:
        torch.set_num_threads(threads)
        with suppress(OSError):  # another machine need not have it, where all paths are whole
            os.chdir(job.here)
        self.worker = Worker(job)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Do the shards of a batch, but for those that are done."""
        found = []
        for shard in map(pickle.loads, batch["shard"]):
            failed = self.worker.job.failures(shard)  # where a batch is done again
            found.append(self.worker(shard, lambda rows: None) if failed is None else Outcome(shard.number, failed))
        return {"outcome": list(map(pickle.dumps, found))}


def by_ray(
    job: Job, shards: Sequence[Shard], advance: Callable[[int], Any], workers: int | None, address: str
) -> Generator[Outcome]:
    """The shards done by a pool of actors of Ray Data, which does the work of one that dies by another."""
    for name, value in {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}.items():
        os.environ.setdefault(name, value)
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ImportError('This needs Ray: pip install "minitrans[ray]".') from error
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    is_ours = not ray.is_initialized()
    if is_ours:
        local: dict[str, Any] = {"include_dashboard": False} if address == "local" else {}
        ray.init(address, logging_level=logging.ERROR, log_to_driver=False, **local)
    try:
        on_gpu = str(job.device).startswith("cuda")
        cores = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
        workers = workers or int(ray.cluster_resources().get("GPU", 0) if on_gpu else sum(map(bool, cores))) or 1
        # As many cores each as let all of them find a place.
        each = next((n for n in range(max(cores), 1, -1) if sum(count // n for count in cores) >= workers), 1)
        rows = [{"shard": pickle.dumps(shard)} for shard in shards]
        results = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            Actor, fn_constructor_args=(job, each), batch_size=1, num_cpus=min(each, sum(cores) / workers),
            num_gpus=1 if on_gpu else 0, compute=ray.data.ActorPoolStrategy(size=workers),
        )  # fmt: skip
        for row in results.iter_rows():
            outcome = pickle.loads(row["outcome"])
            advance(next(shard.rows for shard in shards if shard.number == outcome.number))
            yield outcome
    finally:
        if is_ours:
            ray.shutdown()
