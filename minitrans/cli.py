"""The command line: `minitrans demo`, `minitrans info MODEL`, `minitrans run MODEL INPUT…`."""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from minitrans.tasks import subtitles


@dataclass(frozen=True)
class Job:
    """What a checkpoint does: the class that does it, how inputs are read, how an answer is printed in each form."""

    task: str  # module:class
    read: Callable[[argparse.Namespace], Iterable[Any]]
    lines: Mapping[str, Callable[[Any, Any], Iterable[str]]]

    def load(self, arguments: argparse.Namespace, **options: Any) -> Any:
        """The loaded task."""
        module, _, name = self.task.partition(":")
        task = getattr(importlib.import_module(module), name)
        return task.from_pretrained(arguments.model, device=arguments.device, dtype=arguments.dtype, **options)


def _files(arguments: argparse.Namespace) -> list[str]:
    if not arguments.input or "-" in arguments.input:
        raise ValueError("This checkpoint takes files, not standard input: name at least one.")
    return arguments.input


def _texts(arguments: argparse.Namespace) -> Iterator[str]:
    """Every line of standard input (-) and of files, and every other argument as it is."""
    for item in arguments.input or ["-"]:
        if item == "-":
            yield from _lines(sys.stdin, "Standard input")
        elif Path(item).is_file():
            with Path(item).open(encoding="utf-8") as stream:
                yield from _lines(stream, item)
        elif re.fullmatch(r"\S*(/\S*|\.\w{2,5})", item):
            raise FileNotFoundError(f"There is no file {item}. (A text of one such word can be piped in.)")
        else:
            yield item


def _lines(stream: TextIO, name: str) -> Iterator[str]:
    try:
        yield from (line.rstrip("\n") for line in stream)
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} is not UTF-8 text: {error}.") from error


def _questions(arguments: argparse.Namespace) -> Iterator[tuple[str, str]]:
    if not arguments.question:
        raise ValueError("This checkpoint answers questions about texts: pass --question TEXT.")
    return ((arguments.question, text) for text in _texts(arguments))


def _vector_lines(text: str, vector: Any) -> Iterator[str]:
    yield " ".join(f"{value:.6g}" for value in vector)


def _class_lines(source: Any, classes: Sequence[dict[str, Any]]) -> Iterator[str]:
    best = "  ".join(f"{item['label']} {item['score']:.4f}" for item in classes[:5])
    yield f"{best}\t{source}"


def _entity_lines(text: str, entities: Sequence[dict[str, Any]]) -> Iterator[str]:
    for item in entities:
        yield f"{item['start']}\t{item['end']}\t{item['label']}\t{item['score']:.4f}\t{item['text']}"
    yield ""


def _mask_lines(text: str, masks: Sequence[Sequence[dict[str, Any]]]) -> Iterator[str]:
    words = (", ".join(f"{item['token']} {item['score']:.4f}" for item in best) for best in masks)
    yield f"{'  |  '.join(words)}\t{text}"


def _answer_lines(pair: tuple[str, str], answer: dict[str, Any]) -> Iterator[str]:
    yield f"{answer['answer']}\t{answer['score']:.4f}\t{answer['start']}\t{answer['end']}"


def _transcript_lines(file: str, transcript: dict[str, Any]) -> Iterator[str]:
    yield transcript["text"]


CLASSES = {"text": _class_lines}
TRANSCRIPTS = {
    "text": _transcript_lines,
    "srt": lambda file, transcript: subtitles.srt(transcript["words"]),
    "vtt": lambda file, transcript: subtitles.vtt(transcript["words"]),
}
TEXT_JOBS = {
    "Model": Job("minitrans.tasks.text:Embedder", _texts, {"text": _vector_lines}),
    "ForSequenceClassification": Job("minitrans.tasks.text:TextClassifier", _texts, CLASSES),
    "ForTokenClassification": Job("minitrans.tasks.text:EntityRecognizer", _texts, {"text": _entity_lines}),
    "ForMaskedLM": Job("minitrans.tasks.text:MaskFiller", _texts, {"text": _mask_lines}),
    "ForPreTraining": Job("minitrans.tasks.text:MaskFiller", _texts, {"text": _mask_lines}),
    "ForQuestionAnswering": Job("minitrans.tasks.text:QuestionAnswerer", _questions, {"text": _answer_lines}),
}
# model_type -> the end of the architecture's name -> job
JOBS: dict[str, dict[str, Job]] = {
    "bert": TEXT_JOBS,
    "distilbert": TEXT_JOBS,
    "swin": {"ForImageClassification": Job("minitrans.tasks.image:ImageClassifier", _files, CLASSES)},
    "wav2vec2": {
        "ForCTC": Job("minitrans.tasks.audio:Transcriber", _files, TRANSCRIPTS),
        "ForSequenceClassification": Job("minitrans.tasks.audio:AudioClassifier", _files, CLASSES),
    },
}
FEATURES = Job("minitrans.tasks.image:FeatureMaps", _files, {})


def _job(model: str) -> Job:
    """The job of a checkpoint, by what its config.json calls its architecture."""
    from minitrans import hub

    repository = hub.open_repository(model)
    config = repository.json("config.json")
    family = config.get("model_type")
    architecture = str((config.get("architectures") or ["Model"])[0])
    if repository.find("modules.json"):
        architecture = "Model"
    jobs = JOBS.get(family, {})
    for end, job in jobs.items():
        if architecture.endswith(end):
            return job
    known = ", ".join(jobs) or "none of its kind"
    advice = " For the maps of its stages pass --features." if family == "swin" else ""
    raise ValueError(f"{model} is a {family} checkpoint of {architecture}, and run does {known}.{advice}")


def _run(arguments: argparse.Namespace) -> None:
    if bool(arguments.features) != bool(arguments.output):
        raise ValueError("--features and --output belong together: which stages' maps to write, and to which file.")
    if arguments.features:
        _write_features(arguments)
        return
    job = _job(arguments.model)
    if arguments.form not in {"json", *job.lines}:
        raise ValueError(f"--{arguments.form} is for checkpoints that turn speech into text.")
    if arguments.form in ("srt", "vtt") and len(arguments.input) > 1:
        raise ValueError(f"--{arguments.form} makes one file of subtitles; name one sound at a time.")
    inputs = job.read(arguments)
    task = job.load(arguments)
    typed = sys.stdin.isatty() and "-" in (arguments.input or ["-"])
    task.window = min(task.window, 1 if typed else 256)  # answers come soon after their inputs
    for source, answer in task.stream(inputs, budget=arguments.batch):
        if arguments.form == "json":
            answer = answer.tolist() if hasattr(answer, "tolist") else answer
            print(json.dumps({"input": source, "output": answer}, ensure_ascii=False), flush=True)
        else:
            print(*job.lines[arguments.form](source, answer), sep="\n", flush=True)


def _write_features(arguments: argparse.Namespace) -> None:
    from minitrans.tasks.image import save_maps

    files = _files(arguments)
    task = FEATURES.load(arguments, out_features=arguments.features.split(","))
    shapes = save_maps(task.stream(files, budget=arguments.batch), arguments.output)
    if arguments.form == "json":
        print(json.dumps(dict(shapes), ensure_ascii=False))
    else:
        print(*(f"{name}\t{' '.join(map(str, shape))}" for name, shape in shapes), sep="\n")


@contextmanager
def _no_warnings() -> Iterator[None]:
    logger = logging.getLogger("minitrans")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _info(arguments: argparse.Namespace) -> None:
    from minitrans import AutoConfig, hub
    from minitrans.auto import architecture_class

    repository = hub.open_repository(arguments.model)
    config = AutoConfig.from_pretrained(repository)
    with _no_warnings():  # the report is printed below
        model = architecture_class(config).from_pretrained(repository, dtype="auto")
    report = model.load_report
    shapes = {name: list(tensor.shape) for name, tensor in model.published_state_dict().items()}
    tensors = {path: {"shape": shapes[name], "name": name} for path, name in model.provenance().items()}
    summary = {
        "model": arguments.model,
        "class": type(model).__name__,
        "parameters": model.num_parameters(),
        "dtype": str(model.dtype).removeprefix("torch."),
        "files": [str(path) for path in report.files],
        "config": config.to_dict(),
        "tensors": tensors,
        "missing": report.missing,
        "unexpected": report.unexpected,
        "renamed": report.renamed,
    }
    if arguments.json:
        print(json.dumps(summary, indent=2, ensure_ascii=False))
        return
    print(f"{summary['class']}, {summary['parameters']:,} parameters, {summary['dtype']}")
    for key, value in config.to_dict().items():
        print(f"  {key}: {value}")
    print("\nOur tensor <- the checkpoint's")
    for ours, item in tensors.items():
        print(f"  {ours} {tuple(item['shape'])} <- {item['name']}")
    print(f"\n{report}")


def _demo(arguments: argparse.Namespace) -> None:
    from minitrans import demo

    demo.main()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="minitrans", description="BERT, DistilBERT, Swin and Wav2Vec2 checkpoints.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    demo = commands.add_parser("demo", help="embed real sentences with a real checkpoint, beside transformers")
    demo.set_defaults(run=_demo)
    info = commands.add_parser("info", help="what a checkpoint is, and how its tensors were read")
    info.add_argument("model", metavar="MODEL", help="a folder or a hub id")
    info.add_argument("--json", action="store_true", help="print one JSON object")
    info.set_defaults(run=_info)
    run = commands.add_parser("run", help="do what a checkpoint does: vectors, classes, entities, words, answers")
    run.add_argument("model", metavar="MODEL", help="a folder or a hub id")
    run.add_argument(
        "input",
        metavar="INPUT",
        nargs="*",
        help="images or sounds; for text: files (a text a line), texts, or - for standard input (the default)",
    )
    form = run.add_mutually_exclusive_group()
    for name, what in (("json", "one JSON object an input"), ("srt", "SubRip subtitles"), ("vtt", "WebVTT subtitles")):
        form.add_argument(
            f"--{name}", dest="form", action="store_const", const=name, default="text", help=f"print {what}"
        )
    run.add_argument("--question", help="what a question-answering checkpoint is asked about each text")
    run.add_argument("--features", metavar="STAGES", help='maps of an image model to write, such as "stage1,stage3"')
    run.add_argument("--output", metavar="FILE", help="the new safetensors file that --features writes")
    run.add_argument("--device", help='where to compute, such as "cuda"')
    run.add_argument("--dtype", help='in which type, such as "bfloat16"')
    run.add_argument("--batch", type=int, help="what a batch may hold: tokens of text, images, or samples of sound")
    run.set_defaults(run=_run)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0, or 1 with one sentence on stderr where the input is at fault."""
    parsed = _parser().parse_args(arguments)
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    try:
        parsed.run(parsed)
    except BrokenPipeError:  # the reader of our output has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python writes when it ends
        return 0
    except (ValueError, OSError, TypeError, ImportError) as error:
        print(f"minitrans: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0
