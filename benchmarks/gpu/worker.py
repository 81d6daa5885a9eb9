"""A process that runs cases: one that hangs or loses the GPU can be ended, and another continues."""

import importlib.util
import multiprocessing
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def use_checkout() -> None:
    """Let `minitrans.kernels` be this checkout's kernels/src, where nothing is installed."""
    folder = ROOT / "kernels" / "src"
    spec = importlib.util.spec_from_file_location(
        "minitrans.kernels", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None
    assert spec.loader is not None
    sys.modules["minitrans.kernels"] = package = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(package)


def work(connection: Connection, todo: list[tuple[str, str]], dry: bool, folder: str) -> None:
    """Run cases one by one; each result goes through the connection, an error as a sentence."""
    use_checkout()
    import torch

    from .cases import sections
    from .measure import DeviceLostError, Setup, check_device, sentence

    setup, parts = Setup(dry, Path(folder)), sections(dry)
    connection.send(None)
    for section, name in todo:
        begin = time.perf_counter()
        try:
            with torch.no_grad():
                result = parts[section].cases[name](setup)
            check_device(setup)
        except DeviceLostError as error:
            connection.send({"error": f"the GPU was lost: {error}", "lost": True})
            return
        except Exception as error:
            result = {"error": sentence(error)}
            try:
                check_device(setup)
            except DeviceLostError:
                connection.send({**result, "lost": True})
                return
        connection.send({**result, "seconds": round(time.perf_counter() - begin, 2)})
        if not dry:
            torch.cuda.empty_cache()


class Worker:
    """A process that runs cases in their order."""

    def __init__(
        self, todo: list[tuple[str, str]], dry: bool, folder: str, target: Callable[..., None] = work
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=target, args=(theirs, todo, dry, folder))
        self.process.start()
        theirs.close()

    def next(self, seconds: float) -> Any:
        """What it sends next; what became of it where it sends nothing."""
        try:
            if self.connection.poll(max(seconds, 0)):
                return self.connection.recv()
            return {"error": f"stopped after {seconds:.0f} s", "lost": True}
        except (EOFError, ConnectionError):
            self.process.join()
            return {"error": f"its process ended with code {self.process.exitcode}", "lost": True}

    def end(self) -> None:
        self.process.kill()
        self.process.join()
