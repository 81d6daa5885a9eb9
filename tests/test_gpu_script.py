"""The GPU run's dry run: every case answers, its checks hold, and both files tell the same."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

import minitrans  # noqa: E402
from benchmarks.gpu import __main__ as command_line  # noqa: E402
from benchmarks.gpu.measure import Setup, peaks  # noqa: E402
from benchmarks.gpu.models import FAMILIES, WORKS  # noqa: E402
from benchmarks.gpu.operations import TUNING  # noqa: E402
from benchmarks.gpu.report import lines  # noqa: E402
from benchmarks.gpu.worker import Worker  # noqa: E402

PARTS = {"device", "checks", "models", "operations", "timed", "profile", "registers", "tuning", "compiled"}


def test_the_script_runs_from_end_to_end_on_the_cpu(tmp_path):
    command = [sys.executable, "-m", "benchmarks.gpu", "--dry-run", "--output", str(tmp_path)]
    result = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "0 cases failed" in result.stdout
    report = json.loads((tmp_path / "results.json").read_text("utf-8"))
    parts, page = report["sections"], (tmp_path / "results.md").read_text("utf-8")
    assert set(parts) == PARTS
    for name, cases in parts.items():
        assert cases
        for label, case in cases.items():
            assert "error" not in case, (label, case)
            assert label in page or name == "device"
    for label, case in (*parts["checks"].items(), *parts["models"].items()):
        assert case["passed"]
        wide = label.endswith(("heads of 80", "heads of 128"))  # in float32 they are torch's
        assert set(case["dtypes"]) == ({"float16"} if wide else {"float16", "float32"})
        assert all(0 < found["error"] <= found["allowed"] < 0.01 for found in case["dtypes"].values())
    for case in (*parts["operations"].values(), *parts["timed"].values(), *parts["compiled"].values()):
        assert case["times"]["ours"]["ms"] > 0
        assert len(case["times"]) > 1
        assert case["floor_ms"] is None
    for case in parts["tuning"].values():
        assert case["best"] in case["times"]
        assert len(case["times"]) == 2
        assert all("ms" in time for time in case["times"].values())
    assert parts["timed"]["BERT-base 1 × 128"]["times"]["ours, frozen"]["ms"] > 0
    assert "no time means anything" in page


def test_without_a_gpu_it_says_so(tmp_path):
    command = [sys.executable, "-m", "benchmarks.gpu", "--output", str(tmp_path)]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "torch sees no GPU here; --dry-run" in result.stderr


class Everything(Setup):
    """The full sizes, on a device without memory."""

    def __init__(self):
        super().__init__(False, Path())

    device = torch.device("meta")


def test_a_worker_that_hangs_or_dies_is_a_result():
    worker = Worker([], True, "", target=print)  # it takes any arguments, and sends nothing
    assert worker.next(0) == {"error": "stopped after 0 s", "lost": True}  # a process takes longer to start
    assert worker.next(60) == {"error": "its process ended with code 0", "lost": True}
    worker.end()
    assert not worker.process.is_alive()


def test_a_lost_case_costs_no_other(tmp_path, monkeypatch):
    class Scripted:
        started: list[list[str]] = []  # noqa: RUF012

        def __init__(self, todo, dry, folder):
            self.todo = iter([None, *todo])
            self.started.append([name for _, name in todo])

        def next(self, seconds):
            case = next(self.todo)
            if case is None:  # it has started
                return None
            lost = {"error": "gone", "lost": True}
            return lost if case[1] in ("layer_norm", "Swin-T") else {"seconds": seconds}

        def end(self):
            pass

    monkeypatch.setattr(command_line, "Worker", Scripted)
    monkeypatch.setattr("benchmarks.gpu.report.TABLES", {})
    results = command_line.run(True, 9.0, tmp_path)
    assert json.loads((tmp_path / "results.json").read_text("utf-8")) == results
    cases = {name: case for part in results["sections"].values() for name, case in part.items()}
    assert [name for name, case in cases.items() if "error" in case] == ["layer_norm", "Swin-T"]
    assert [names[0] for names in Scripted.started] == ["device", "add_layer_norm", "Wav2Vec2-base"]
    late = command_line.run(True, 0.2, tmp_path)["sections"]  # minutes: less than is kept back for the end
    assert all(case["skipped"] for part in late.values() for case in part.values())


def test_a_worker_that_does_not_start_in_time_is_a_result_and_waiting_for_it_is_counted(tmp_path, monkeypatch):
    now, waited = [0.0], []

    class Slow:
        """Takes ten seconds to start, or what it is given if that is less; each case takes all it may."""

        def __init__(self, todo, dry, folder):
            self.started = False

        def next(self, seconds):
            first, self.started = not self.started, True
            waited.append(seconds)
            now[0] += min(seconds, 10) if first else seconds
            lost = {"error": f"stopped after {seconds:.0f} s", "lost": True}
            return None if first and seconds >= 10 else lost

        def end(self):
            pass

    monkeypatch.setattr(command_line, "Worker", Slow)
    monkeypatch.setattr(command_line.time, "monotonic", lambda: now[0])
    monkeypatch.setattr("benchmarks.gpu.report.TABLES", {})
    results = command_line.run(True, 0.9, tmp_path)  # 54 s, of which 15 are kept back
    assert now[0] == 54 - command_line.RESERVE
    assert waited == [39, 29]
    slow = command_line.run(True, 0.4, tmp_path)
    assert slow["sections"]["device"]["device"]["error"] == "stopped after 9 s"
    assert results["sections"]["device"]["device"]["error"] == "stopped after 29 s"


def test_every_setting_to_try_replaces_one_that_the_kernels_have():
    for label, candidates in TUNING.items():
        for changes in candidates:
            different = False
            for module, name, key, value in changes if isinstance(changes[0], tuple) else [changes]:
                shipped = getattr(importlib.import_module(f"minitrans.kernels.{module}"), name)
                shipped = shipped if key is None else shipped[key]
                assert callable(shipped) if callable(value) else type(shipped) is type(value), (label, changes)
                different = different or shipped != value
            assert different, (label, changes)


def test_a_page_of_a_gpu():
    times = {"ours": {"ms": 2.0, "low": 1.9, "high": 2.1}, "ours, frozen": {"ms": 1.0, "low": 0.9, "high": 1.1}}
    case = {"times": {**times, "theirs": {"error": "gone"}}, "floor_ms": 0.25, "goal_ms": 0.5}
    report = {"dry_run": False, "sections": {"device": {"device": {"name": "A GPU"}}, "timed": {"work": case}}}
    page = "\n".join(lines(report))
    assert page.startswith("# A GPU")
    ours = "ours: 2 (1.9 to 2.1)<br>ours, frozen: 1 (0.9 to 1.1)"
    assert f"| work | 0.25 | 0.5 | {ours} | 25% | theirs: gone |" in page


def test_rooflines_are_those_of_the_plan():
    """In milliseconds on an H100, as the issue that asked for the kernels has them."""
    bandwidth, rate = peaks("NVIDIA H100 80GB HBM3")
    plan = {"BERT-base 32 × 128": 0.72, "BERT-base 1 × 128": 0.051, "BERT-base 64 × 512, 256 on average": 3.0,
            "Swin-T 64": 1.4, "Wav2Vec2-base 16 × 10 s": 2.4}  # fmt: skip
    for label, milliseconds in plan.items():
        work = WORKS[label]
        config = minitrans.AutoConfig.for_model(FAMILIES[work.model].prefix.lower())
        moved, flops = work.cost(config, work.inputs(Everything()))
        assert abs(max(moved / bandwidth, flops / rate) * 1e3 / milliseconds - 1) < 0.05
