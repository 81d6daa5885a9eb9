"""The GPU run's dry run: every case answers, its checks hold, and both files tell the same."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.gpu import __main__ as command_line  # noqa: E402
from benchmarks.gpu.worker import Worker  # noqa: E402

PARTS = {"device", "checks", "models", "tuning", "operations", "timed", "compiled"}


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
    for case in (*parts["checks"].values(), *parts["models"].values()):
        assert case["passed"]
        assert set(case["dtypes"]) == {"float16", "float32"}
        assert all(0 < found["error"] <= found["allowed"] < 0.01 for found in case["dtypes"].values())
    for case in (*parts["operations"].values(), *parts["timed"].values(), *parts["compiled"].values()):
        assert case["times"]["ours"]["ms"] > 0
        assert len(case["times"]) > 1
        assert case["floor_ms"] is None
    for case in parts["tuning"].values():
        assert case["best"] in case["times"]
    assert "need a GPU" in parts["timed"]["BERT-base 1 × 128"]["times"]["ours, frozen"]["error"]
    assert "no time means anything" in page


def test_without_a_gpu_it_says_so(tmp_path):
    command = [sys.executable, "-m", "benchmarks.gpu", "--output", str(tmp_path)]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "torch sees no GPU here; --dry-run" in result.stderr


def hang(connection, *_):
    connection.send({"seconds": 0})
    time.sleep(60)


def die(connection, *_):
    os._exit(7)


def test_a_worker_that_hangs_or_dies_is_a_result():
    worker = Worker([], True, "", target=hang)
    assert worker.next(60) == {"seconds": 0}
    assert worker.next(0.1) == {"error": "stopped after 0 s", "lost": True}
    worker.end()
    assert not worker.process.is_alive()
    assert Worker([], True, "", target=die).next(60) == {"error": "its process ended with code 7", "lost": True}


def test_a_lost_case_costs_no_other(tmp_path, monkeypatch):
    class Scripted:
        started: list[list[str]] = []  # noqa: RUF012

        def __init__(self, todo, dry, folder):
            self.todo = iter([None, *todo])
            self.started.append([name for _, name in todo])

        def next(self, seconds):
            case = next(self.todo)
            lost = {"error": "gone", "lost": True}
            return lost if case and case[1] in ("layer_norm", "Swin-T") else {"seconds": seconds}

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
