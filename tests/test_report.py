"""Timing in turns on made-up clocks; the report's pages and pictures from a file of results; `minitrans bench`."""

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from families import SIZES

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import measure, report, startup, tables, worker
from benchmarks.arms import ARMS, AbsentError
from benchmarks.rows import (
    CHECKPOINTS,
    DEFAULT,
    EAGER,
    FROZEN,
    LOADED,
    NARROW,
    ONNX,
    OURS,
    ROWS,
    SDPA,
    Checkpoint,
    Row,
    docstrings,
)
from minitrans import AutoTokenizer, BertConfig, SwinConfig, bench, cpu
from minitrans.cli import main


class Clock:
    """Time that passes only by `pass_`, which a made-up program calls."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def program(self, seconds: Iterator[float]) -> Any:
        def run() -> float:
            took = next(seconds)
            self.now += took
            return took

        return run


def of(*values: float) -> Iterator[float]:
    return iter(values)


class TestTurns:
    def test_medians_and_quartiles(self) -> None:
        assert bench.spread([4, 1, 3, 2, 5]) == bench.Spread(3, 2, 4)
        assert bench.spread([7]) == bench.Spread(7, 7, 7)
        assert bench.spread([1, 2]) == bench.Spread(1.5, 1.25, 1.75)
        with pytest.raises(ValueError, match="nothing"):
            bench.spread([])

    def test_ratios_are_of_one_round(self) -> None:
        """A machine that is half as fast in its second round changes no ratio."""
        times = {"ours": [1.0, 2.0, 1.0], "a": [3.0, 6.0, 3.0], "b": [2.0, 4.0, 8.0]}
        assert bench.ratios(times, "ours", "a") == bench.Spread(3, 3, 3)
        assert bench.best(times, "ours", ["a", "b", "absent"]) == ("b", bench.Spread(2, 2, 5))
        with pytest.raises(ValueError, match="ours"):
            bench.best(times, "ours", ["absent"])

    def test_turns_alternate_and_the_first_round_is_thrown_away(self) -> None:
        clock, order = Clock(), []

        def turn(name: str, seconds: Iterator[float]) -> Any:
            run = clock.program(seconds)
            return lambda: (order.append(name), run())[1]

        arms = {"a": turn("a", of(9, 1, 2, 3)), "b": turn("b", of(9, 4, 5, 6))}
        assert bench.in_turns(arms, 0, least=3, clock=clock) == {"a": [1, 2, 3], "b": [4, 5, 6]}
        assert "".join(order) == "ab" + "ba" + "ab" + "ba"

    @pytest.mark.parametrize(("seconds", "rounds"), [(0, 3), (8, 4), (1000, 31), (float("inf"), 31)])
    def test_the_first_round_says_how_many_fit(self, seconds: float, rounds: int) -> None:
        clock = Clock()
        arms = {name: clock.program(iter([1.0] * 50)) for name in "ab"}
        assert len(bench.in_turns(arms, seconds, clock=clock)["a"]) == rounds

    @pytest.mark.parametrize(
        ("cost", "seconds", "rounds"),
        [(0.125, 1, 4), (0.125, 1.2, 4), (1, 62, 31), (1, 61.9, 30), (1, 64, 31), (0, 1, 31)],
    )
    def test_rounds_are_whole_ones_of_what_the_first_took(self, cost: float, seconds: float, rounds: int) -> None:
        """Of two programs: a clock that is too coarse for them says nothing, and as many are made as may be."""
        clock = Clock()
        arms = {name: clock.program(iter([cost] * 50)) for name in "ab"}
        assert len(bench.in_turns(arms, seconds, clock=clock)["b"]) == rounds

    @pytest.mark.parametrize(
        ("first", "at_least", "calls"), [(1.0, 0.05, 5), (1.001, 0.05, 1), (None, 0.05, 5), (0.0, 0.0, 1)]
    )
    def test_how_often_a_turn_calls_its_program(self, first: float | None, at_least: float, calls: int) -> None:
        """Twenty times as long as a turn has to last, a first call is enough to know; else one more tells."""
        clock = Clock()
        taken: list[float] = []
        run = clock.program(iter([0.011] * 50))
        turn = bench.per_call(lambda: taken.append(run()), first, at_least, clock)
        assert len(taken) == {None: 2, 1.001: 0}.get(first, 1)
        taken.clear()
        assert turn() == pytest.approx(0.011)
        assert len(taken) == calls

    def test_a_program_that_lasts_long_enough_is_called_once(self) -> None:
        clock = Clock()
        taken: list[float] = []
        run = clock.program(iter([0.06] * 50))
        turn = bench.per_call(lambda: taken.append(run()), clock=clock)
        taken.clear()
        assert turn() == pytest.approx(0.06)
        assert len(taken) == 1

    def test_a_short_program_is_repeated_in_its_turn(self) -> None:
        clock = Clock()
        calls = []
        run = clock.program(iter([0.02] * 50))
        turn = bench.per_call(lambda: calls.append(run()), at_least=0.05, clock=clock)
        calls.clear()
        assert turn() == pytest.approx(0.02)
        assert len(calls) == 3

    @pytest.mark.parametrize(("first", "calls"), [(None, 1), (1.5, 1), (0.01, 2)])
    def test_a_long_program_is_called_no_more_than_needed(self, first: float | None, calls: int) -> None:
        clock = Clock()
        taken: list[float] = []
        run = clock.program(iter([1.5, 0.03, 0.03, 0.03] if first is None else [0.03] * 4))
        turn = bench.per_call(lambda: taken.append(run()), first, clock=clock)
        taken.clear()
        turn()
        assert len(taken) == calls


def row(name: str, ratio: float = 1.5, absent: dict[str, str] | None = None) -> dict[str, Any]:
    """A row as it is measured, from made-up turns: ours take 1 s, frozen 0.5 s, transformers `ratio` or more."""
    times = {LOADED: [1.0, 1.0, 1.0], FROZEN: [0.5] * 3, NARROW: [0.25] * 3, EAGER: [9.0] * 3,
             SDPA: [ratio, ratio * 1.2, ratio * 0.8], ONNX: [0.75] * 3, "peak float32": [2.0] * 3}  # fmt: skip
    known = next(row for row in ROWS if row.name == name)
    about = {"amx": False, "avx512_bf16": True}
    return {
        "name": name, "measure": known.measure, "absent": absent or {}, "date": "2026-01-02T03:04:05+00:00",
        "flops": 10**12, "weight_bytes": 10**9, **measure.compared(known, times, about),
        "share": measure.shares(known, 10**12, times, {"peak float32": 4e12}),
    }  # fmt: skip


BERT, SWIN = "BERT-base, 8 × 128 tokens", "Swin-T, 8 images of 224 × 224"


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A folder with the results of a machine, of the same held to AVX2, of a quick run, and of something else."""
    about = {**measure.machine(2), "peaks": {"peak float32": 3e11}, "bandwidth": 1e10}
    for capability, rows in {
        "AVX2": [row(BERT, 1.0)],
        "AVX512": [row(BERT), row(SWIN, 1.25, {DEFAULT: "why not"})],
    }.items():
        own = {**about, "brand": "Some CPU", "capability": capability, "amx": capability == "AVX512"}
        report.keep(tmp_path / f"{measure.name_of(own)}.json", own, rows, False)
    report.keep(tmp_path / "some-quick.json", about, [row(SWIN, 77.0)], True)
    (tmp_path / "other.json").write_text("{}")
    for page in ("README.md", "complete.md"):
        (tmp_path / page).write_text("# before\n<!-- measured -->\nold\n<!-- /measured -->\nafter\n")
    return tmp_path


class TestReport:
    def test_shares_and_goals(self) -> None:
        found = row(BERT)
        assert found["share"][LOADED]["median"] == 0.5  # 10¹² FLOP/s, where the product did 2 · 10¹²
        assert NARROW not in found["share"]  # no product was timed in bfloat16
        assert found["against"] == dict.fromkeys(OURS, SDPA)
        assert found["goals"] == {LOADED: 1.15, FROZEN: 1.3, NARROW: 1.8}
        known = next(one for one in ROWS if one.name == BERT)
        assert measure.goal(known, LOADED, {"amx": True, "avx512_bf16": True}) == 1.03
        assert measure.goal(known, LOADED, {"amx": False, "avx512_bf16": False}) == 1.0

    def test_pages_and_pictures(self, results: Path) -> None:
        report.publish(results, results / "README.md", results / "complete.md")
        short, complete = ((results / page).read_text("utf-8") for page in ("README.md", "complete.md"))
        for page in (short, complete):
            assert page.startswith("# before\n<!-- measured -->\n")
            assert page.endswith("\n<!-- /measured -->\nafter\n")
            assert "old" not in page
            assert "77" not in page
        lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in short.splitlines() if line[:1] == "|"]
        assert lines[0][1].endswith(", AVX512 and AMX")
        assert [lines[0][0], *lines[0][2:]] == ["work", "the same CPU, limited to AVX2"]
        assert lines[2:] == [
            [BERT, "1.50, 3.00, 6.00", "1.00, 2.00, 4.00"],
            [SWIN, "1.25, 2.50, 5.00", "–"],
        ]
        assert "▾" not in short  # goals are in the complete table
        assert "1.00 ▾ (0.90 to 1.10)" in complete
        assert "▾ is below its goal" in complete
        assert "1.50 (1.35 to 1.65)" in complete  # the quartiles of 1.2, 1.5 and 1.8
        assert f"- {DEFAULT}: why not ({SWIN})." in complete
        for name in report.read(results):
            for plot in ("short", "ratios", "scaling", "roofline"):
                assert "<svg" in (results / "plots" / f"{name}-{plot}.svg").read_text("utf-8")
        picture = short.partition("](")[2].partition(")")[0]
        assert (results / picture).exists()
        before = {file: file.read_bytes() for file in results.rglob("*.*")}
        report.publish(results, results / "README.md", results / "complete.md")
        assert before == {file: file.read_bytes() for file in results.rglob("*.*")}

    def test_a_way_that_was_not_measured_has_a_dash(self, results: Path) -> None:
        result = next(iter(report.read(results).values()))
        for missing, expected in ((FROZEN, "1.50, –, 6.00"), (NARROW, "1.50")):
            del result["rows"][0]["against"][missing]
            assert tables.short([result]).splitlines()[4].split("|")[2].strip() == expected

    def test_a_page_without_marks_stays(self, results: Path) -> None:
        (results / "README.md").write_text("no marks")
        with pytest.raises(ValueError, match="measured"):
            report.publish(results, results / "README.md", results / "complete.md")
        assert (results / "README.md").read_text() == "no marks"

    def test_rows_measured_anew_stand_beside_the_others(self, results: Path) -> None:
        name, result = next(iter(report.read(results).items()))
        found = report.keep(results / f"{name}.json", result["machine"], [row(SWIN, 3.0)], False)
        assert [one["name"] for one in found["rows"]] == [BERT, SWIN]
        assert found["rows"][1]["ratios"][LOADED][SDPA]["median"] == 3.0
        assert report.read(results)[name] == found

    def test_rows_are_chosen_by_name(self, capsys: Any) -> None:
        assert {one.name for one in report.chosen(False, "Swin-T, * image*of*memory")} == {f"{SWIN}: peak of memory"}
        assert report.main(["--only", "nonsense"]) == 1
        assert "nonsense" in capsys.readouterr().err
        assert len({one.name for one in ROWS}) == len(ROWS)
        assert 5 <= sum(one.short for one in ROWS) <= 8
        assert {one.checkpoint for one in report.chosen(True, None)} >= {"BERT-base", "DistilBERT", "Swin-T"}

    @pytest.mark.parametrize(("longest", "lengths"), [(512, "3 to 256"), (64, "3 to 64")])
    def test_what_minitrans_bench_times_of_texts(self, longest: int, lengths: str) -> None:
        config = BertConfig(max_position_embeddings=longest)
        made = dict(bench.WORK["input_ids"](config))
        assert [*made] == [*(f"{b} × {min(n, longest)} tokens" for b, n in ((1, 16), (8, 128), (1, 512))),
                           f"16 texts of {lengths} tokens"]  # fmt: skip
        masks = [inputs["attention_mask"] for inputs in made.values()]
        assert [tuple(mask.shape) for mask in masks[:3]] == [(1, 16), (8, min(128, longest)), (1, longest)]
        assert (masks[3].sum(1).min(), masks[3].sum(1).max()) == (3, min(longest, 256))
        most = min(longest, 256) - 3
        assert masks[3].sum(1).tolist() == [3 + index * index * most // 225 for index in range(16)]
        for inputs in made.values():
            ids, mask = inputs["input_ids"], inputs["attention_mask"]
            assert ids.dtype == mask.dtype == torch.int64
            assert 0 <= ids.min() <= ids.max() < config.vocab_size
            assert not ids[mask == 0].any()
            assert ids[mask != 0].float().mean() > config.vocab_size / 4

    def test_what_minitrans_bench_times_of_images_and_sounds(self) -> None:
        """What a row says of its inputs is what they are."""
        made = dict(bench.WORK["pixel_values"](SwinConfig(image_size=(6, 4), num_channels=2)))
        assert {work: tuple(inputs["pixel_values"].shape) for work, inputs in made.items()} == {
            "1 image of 6 × 4": (1, 2, 6, 4), "8 images of 6 × 4": (8, 2, 6, 4)
        }  # fmt: skip
        made = dict(bench.WORK["input_values"](None))
        assert {work: tuple(inputs["input_values"].shape) for work, inputs in made.items()} == {
            "1 × 1 s": (1, 16_000), "1 × 10 s": (1, 160_000), "4 × 5 s": (4, 80_000)
        }  # fmt: skip

    def test_texts_are_of_mixed_length(self, minilm: Path) -> None:
        lengths = [len(ids) for ids in AutoTokenizer.from_pretrained(minilm)(docstrings(200))["input_ids"]]
        assert len(lengths) == 200
        assert 3 <= min(lengths) < 10
        assert 100 < max(lengths) <= 256


TINY = {
    "BERT-base": Checkpoint("BertModel", {**SIZES["Bert"], "vocab_size": 30_522}),
    "Swin-T": Checkpoint("SwinForImageClassification", {**SIZES["Swin"], "image_size": 224, "patch_size": 4}),
}


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[measure.Session, Any]]:
    """A session with one worker, in this process, and tiny checkpoints."""
    monkeypatch.setitem(CHECKPOINTS, "BERT-base", TINY["BERT-base"])
    monkeypatch.setitem(CHECKPOINTS, "Swin-T", TINY["Swin-T"])
    monkeypatch.setattr(bench, "per_call", lambda run, first: lambda: (run(), 1.0)[1])
    one = Local()
    return measure.Session(1, True, tmp_path, one, measure.machine(1)), lambda name: one  # type: ignore[arg-type, return-value]


class Local:
    """A worker without a process."""

    def __init__(self) -> None:
        self.state = worker.State()

    def ask(self, what: str, *arguments: Any) -> Any:
        return getattr(self.state, what)(*arguments)

    turn = worker.Worker.turn


class TestMeasuring:
    def test_a_row_of_programs(self, session: Any) -> None:
        one, own = session
        known = Row("a row", "BERT-base", (5, 3), (*OURS, EAGER, SDPA, DEFAULT))
        found = one.row(known, own)
        ours = [arm for arm in OURS if arm != NARROW or cpu.packs(torch.bfloat16)]
        assert set(found["values"]) == {*ours, EAGER, SDPA}
        assert found["absent"][DEFAULT] == "left out by --quick"
        assert found["ratios"][LOADED][SDPA]["median"] == 1.0
        assert found["flops"] == 2 * (5 + 3) * 32 * (4 * 32 + 2 * 48) * 2 + 2 * 4 * (25 + 9) * 32 + 2 * 2 * 32 * 32
        json.dumps(found)

    def test_a_training_step_and_memory(self, session: Any) -> None:
        one, own = session
        for how in ("training float32", "training bfloat16", "memory"):
            found = one.row(Row("a row", "Swin-T", ((224, 224),), (LOADED, EAGER, SDPA), measure=how), own)
            assert set(found["ratios"][LOADED]) == {EAGER, SDPA}
            assert not found["absent"]

    def test_who_is_missing_is_named(self, session: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        one, own = session
        one.quick = False
        find = importlib.util.find_spec
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "openvino" else find(name))
        monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")

        def fails(model: Any, row: Any) -> Any:
            raise AbsentError("no such thing today")

        monkeypatch.setitem(ARMS, EAGER, ARMS[EAGER].__class__("transformers", ARMS[EAGER].load, fails))
        found = one.row(Row("a row", "BERT-base", (5,), (LOADED, EAGER, SDPA, ONNX, DEFAULT)), own)
        assert found["absent"][EAGER] == "no such thing today"
        assert found["absent"][DEFAULT] == "not installed: pip install openvino"
        assert "ATEN_CPU_CAPABILITY" in found["absent"][ONNX]
        assert set(found["values"]) == {LOADED, SDPA}

    def test_other_numbers_are_not_timed(self, session: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        one, own = session
        twice = lambda model, row: lambda: 2 * ARMS[SDPA].run(model, row)()  # noqa: E731
        monkeypatch.setitem(ARMS, EAGER, ARMS[EAGER].__class__("transformers", ARMS[EAGER].load, twice))
        found = one.row(Row("a row", "BERT-base", (5,), (LOADED, EAGER, SDPA)), own)
        assert found["absent"] == {EAGER: "its output differs by 1 from the yardstick's"}

    def test_who_gets_lost_is_named_and_the_others_go_on(self, session: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        one, own = session
        turns = []

        def turn(name: str, arm: str) -> float:
            turns.append(arm)
            if arm == EAGER and len(turns) > 4:
                raise worker.LostError(arm, "its process ended with -11")
            return 1.0

        monkeypatch.setattr(Local, "turn", turn)
        found = one.row(Row("a row", "BERT-base", (5,), (LOADED, EAGER, SDPA)), own)
        assert found["absent"] == {EAGER: "its process ended with -11"}
        assert set(found["values"]) == {LOADED, SDPA}

    def test_whole_processes_are_run_once_for_all_that_they_measure(
        self, session: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        one, own = session
        runs = []

        def process(script: str, library: str, folder: Path, threads: int) -> dict[str, float]:
            runs.append(library)
            return {"cold": 1.0 if library == "minitrans" else 3.0, "load": 2.0, "peak": 4e6}

        monkeypatch.setattr(startup, "process", process)
        cold, load = (one.row(Row("a row", "BERT-base", (16,), (LOADED, "transformers"), measure=what), own)
                      for what in ("cold", "load"))  # fmt: skip
        assert cold["ratios"] == {LOADED: {"transformers": {"median": 3.0, "low": 3.0, "high": 3.0}}}
        assert load["values"]["transformers"]["median"] == 2.0
        assert len(runs) == 2 * (1 + 9)

    def test_a_whole_process(self, session: Any, tmp_path: Path) -> None:
        CHECKPOINTS["BERT-base"].save(tmp_path / "saved")
        ballast = torch.ones(2**28)  # 1 GiB of this process, which is no part of the other
        found = startup.process(startup.MODEL, "minitrans", tmp_path / "saved", 1)
        assert found["cold"] > found["load"] > 0
        assert 50 * 2**20 < found["peak"] < ballast.nbytes

    def test_a_process_that_ends_says_so(self) -> None:
        one = worker.Worker(1)
        with pytest.raises(AbsentError, match="nonsense"):
            one.ask("nonsense")
        one.process.kill()
        with pytest.raises(AbsentError, match="ended with -9"):
            one.ask("bandwidth", 10)
        one.stop()


CONVOLUTIONS = {"conv_dim": (32,) * 3, "conv_kernel": (40, 8, 8), "conv_stride": (32, 8, 8)}  # so few frames
CASES = {
    "BertForMaskedLM": {"max_position_embeddings": 24},
    "DistilBertForMultipleChoice": {"max_position_embeddings": 24},
    "SwinForImageClassification": {},
    "Wav2Vec2ForCTC": CONVOLUTIONS,
}


class TestBench:
    @pytest.mark.parametrize("name", CASES)
    def test_every_family(self, name: str, tmp_path: Path, capsys: Any) -> None:
        family = name.partition("For")[0]
        config = getattr(transformers, f"{family}Config")(**{**SIZES[family], **CASES[name]})
        torch.manual_seed(0)
        getattr(transformers, name)(config).save_pretrained(tmp_path)
        capsys.readouterr()
        command = ["bench", str(tmp_path), "--threads", "1", "--seconds", "0.01"]
        threads = torch.get_num_threads()
        assert main([*command, "--json"]) == 0
        result = json.loads(capsys.readouterr().out)
        assert torch.get_num_threads() == threads
        ours = [who for who in bench.OURS if who != bench.NARROW or cpu.packs(torch.bfloat16)]
        assert result["class"] == name
        assert result["threads"] == 1
        assert result["absent"].keys() == set(bench.OURS) - set(ours)
        for line in result["rows"]:
            assert list(line["ms"]) == [*ours, *bench.THEIRS]
            assert min(line["ms"].values()) > 0
            assert list(line["ratios"]) == ours
            for ratio in line["ratios"].values():
                assert ratio["against"] in bench.THEIRS
                assert 0 < ratio["low"] <= ratio["median"] <= ratio["high"]
        printed = [*bench.lines(result)]
        (head, _, *rows) = [line.split("|")[1:-1] for line in printed if line.startswith("|")]
        assert [cell.strip() for cell in head] == [
            "work", *ours, *bench.THEIRS, *(f"ratio, {who}" for who in ours)
        ]  # fmt: skip
        assert [cells[0].strip() for cells in rows] == [line["work"] for line in result["rows"]]
        assert all(cell.strip(" –") for cells in rows for cell in cells)

    def test_an_error_of_transformers_without_words(self, minilm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fails(*arguments: Any, **options: Any) -> None:
            raise NotImplementedError

        monkeypatch.setattr(transformers.BertModel, "from_pretrained", fails)
        monkeypatch.setattr(bench, "WORK", {"input_ids": lambda config: iter([])})
        absent = bench.checkpoint(str(minilm), 1, 0.01)["absent"]
        assert {absent[who] for who in bench.THEIRS} == {"NotImplementedError: no reason given"}

    def test_without_transformers(self, minilm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        find = importlib.util.find_spec
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "transformers" else find(name))
        monkeypatch.setitem(
            bench.WORK, "input_ids", lambda config: iter([("one", {"input_ids": torch.ones(1, 2).long()})])
        )
        result = bench.checkpoint(str(minilm), 1, 0.01)
        assert result["absent"]["transformers"] == "not installed: pip install transformers"
        assert result["rows"][0]["ratios"] == {}
        assert "Without transformers: not installed: pip install transformers." in list(bench.lines(result))

    def test_milliseconds_are_the_median_and_ratios_are_of_the_faster(
        self, minilm: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """By default in two threads, for about ten seconds a row."""
        eager, sdpa = bench.THEIRS
        times = {bench.LOADED: [0.5, 0.25, 1.0], bench.FROZEN: [0.25] * 3, eager: [2.0] * 3, sdpa: [1.0] * 3}
        asked = []

        def in_turns(arms: Any, seconds: float) -> Any:
            asked.append((torch.get_num_threads(), seconds))
            return times

        monkeypatch.setattr(bench, "in_turns", in_turns)
        monkeypatch.setattr(bench, "per_call", lambda run: run)
        monkeypatch.setitem(bench.WORK, "input_ids", lambda config: iter([("one", {}), ("two", {})]))
        monkeypatch.setattr(cpu, "packs", lambda dtype: dtype == torch.float32)
        result = bench.checkpoint(str(minilm))
        assert asked == [(2, 10)] * 2
        assert (result["model"], result["threads"]) == (str(minilm), 2)
        row = result["rows"][0]
        assert row["work"] == "one"
        assert row["ms"] == {bench.LOADED: 500, bench.FROZEN: 250, eager: 2000, sdpa: 1000}
        assert row["ratios"] == {
            bench.LOADED: {"against": sdpa, "median": 2, "low": 1.5, "high": 3},
            bench.FROZEN: {"against": sdpa, "median": 4, "low": 4, "high": 4},
        }
        assert result["absent"] == {bench.NARROW: "oneDNN has no bfloat16 on this CPU"}

    def test_a_choice_is_given_to_a_model_of_choices(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        transformers.BertForMultipleChoice(transformers.BertConfig(**SIZES["Bert"])).save_pretrained(tmp_path)
        shapes = []
        monkeypatch.setattr(bench, "_row", lambda work, models, inputs, seconds: shapes.append(inputs) or {})
        bench.checkpoint(str(tmp_path), 1)
        assert [tuple(x.shape) for x in shapes[1].values()] == [(8, 1, 128)] * 2

    def test_what_was_not_measured_in_a_row_is_a_dash(self) -> None:
        ratio = {"against": "transformers sdpa", "median": 1.5, "low": 1.234, "high": 2}
        result = {
            "model": "here", "class": "BertModel", "threads": 3, "absent": {"frozen bfloat16": "too old"},
            "rows": [
                {"work": "short", "ms": {"as loaded": 1.2345, "transformers sdpa": 123.4}, "ratios": {}},
                {"work": "a longer one", "ms": {"as loaded": 99.96, "frozen": 100.0},
                 "ratios": {"as loaded": ratio}},
            ],
        }  # fmt: skip
        assert [*bench.lines(result)] == [
            "here: BertModel, 3 threads, milliseconds",
            "",
            "| work         | as loaded | frozen | transformers sdpa |    ratio, as loaded |",
            "| ------------ | --------: | -----: | ----------------: | ------------------: |",
            "| short        |      1.23 |      – |               123 |                   – |",
            "| a longer one |       100 |    100 |                 – | 1.50 (1.23 to 2.00) |",
            "",
            "A ratio is the time of transformers' faster attention over ours, and its quartiles.",
            "Without frozen bfloat16: too old.",
        ]
        for row in result["rows"]:
            row["ratios"] = {}
        assert [*bench.lines(result)][-3:] == [
            "| a longer one |       100 |    100 |                 – |", "", "Without frozen bfloat16: too old."
        ]  # fmt: skip

    @pytest.mark.parametrize(
        ("value", "words"),
        [(None, "–"), (0.01234, "0.0123"), (1, "1"), (12.345, "12.3"), (99.4, "99.4"), (100, "100"), (1234.5, "1234")],
    )
    def test_milliseconds_have_three_digits_or_whole_ones(self, value: float | None, words: str) -> None:
        assert bench.milliseconds(value) == words

    def test_threads_are_those_of_the_block(self, monkeypatch: pytest.MonkeyPatch) -> None:
        before = torch.get_num_threads()
        for count in (3, 1, 2):
            with bench.threads(count):
                assert torch.get_num_threads() == count
            assert torch.get_num_threads() == before
        with pytest.raises(ZeroDivisionError), bench.threads(before + 1):
            _ = 1 / 0
        assert torch.get_num_threads() == before
        monkeypatch.setattr("os.cpu_count", lambda: None)  # where nobody knows how many there are
        with bench.threads(16):
            assert torch.get_num_threads() == 16
        with pytest.raises(ValueError, match="threads is 17; it must be a whole number from 1 to 16, 16 a core"):
            bench.threads(17).__enter__()

    @pytest.mark.parametrize(("flag", "value"), [("--threads", "0"), ("--seconds", "0"), ("--seconds", "nan")])
    def test_numbers_that_mean_nothing(self, flag: str, value: str, minilm: Path, capsys: Any) -> None:
        assert main(["bench", str(minilm), flag, value]) == 1
        assert f"{flag[2:]} is {value}" in capsys.readouterr().err.replace("0.0", "0")
