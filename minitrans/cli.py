"""The command line: `minitrans demo`, `minitrans info MODEL`, `minitrans run MODEL INPUT…`."""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Job:
    """What a checkpoint does: the class that does it, how inputs are read, how an answer is printed."""

    task: str  # module:class
    read: Callable[[argparse.Namespace], Iterable[Any]]
    lines: Callable[[Any, Any], Iterator[str]]

    def load(self, model: str, **options: Any) -> Any:
        """The loaded task."""
        module, _, name = self.task.partition(":")
        return getattr(importlib.import_module(module), name).from_pretrained(model, **options)


def _texts(arguments: argparse.Namespace) -> Iterator[str]:
    """Every line of standard input (-) and of files, and every other argument as it is."""
    for item in arguments.input or ["-"]:
        if item == "-":
            yield from (line.rstrip("\n") for line in sys.stdin)
        elif Path(item).is_file():
            with Path(item).open(encoding="utf-8") as stream:
                yield from (line.rstrip("\n") for line in stream)
        else:
            yield item


def _questions(arguments: argparse.Namespace) -> Iterator[tuple[str, str]]:
    if not arguments.question:
        raise ValueError("This checkpoint answers questions about texts: pass --question TEXT.")
    return ((arguments.question, text) for text in _texts(arguments))


def _vector_lines(text: Any, vector: Any) -> Iterator[str]:
    yield " ".join(f"{value:.6g}" for value in vector)


def _class_lines(text: Any, classes: Sequence[dict[str, Any]]) -> Iterator[str]:
    best = "  ".join(f"{item['label']} {item['score']:.4f}" for item in classes[:5])
    yield f"{best}\t{text}"


def _entity_lines(text: Any, entities: Sequence[dict[str, Any]]) -> Iterator[str]:
    for item in entities:
        yield f"{item['start']}\t{item['end']}\t{item['label']}\t{item['score']:.4f}\t{item['text']}"
    yield ""


def _mask_lines(text: Any, masks: Sequence[Sequence[dict[str, Any]]]) -> Iterator[str]:
    words = (", ".join(f"{item['token']} {item['score']:.4f}" for item in best) for best in masks)
    yield f"{'  |  '.join(words)}\t{text}"


def _answer_lines(pair: Any, answer: dict[str, Any]) -> Iterator[str]:
    yield f"{answer['answer']}\t{answer['score']:.4f}\t{answer['start']}\t{answer['end']}"


TEXT = {"bert", "distilbert"}
# (model types, end of the architecture's name) -> job
JOBS: dict[tuple[str, str], Job] = {
    **{(family, "Model"): Job("minitrans.tasks.text:Embedder", _texts, _vector_lines) for family in TEXT},
    **{
        (family, f"For{task}"): Job(f"minitrans.tasks.text:{name}", read, lines)
        for family in TEXT
        for task, name, read, lines in (
            ("SequenceClassification", "TextClassifier", _texts, _class_lines),
            ("TokenClassification", "EntityRecognizer", _texts, _entity_lines),
            ("MaskedLM", "MaskFiller", _texts, _mask_lines),
            ("PreTraining", "MaskFiller", _texts, _mask_lines),
            ("QuestionAnswering", "QuestionAnswerer", _questions, _answer_lines),
        )
    },
}


def _job(model: str) -> Job:
    """The job of a checkpoint, by what its config.json calls its architecture."""
    from minitrans import hub

    repository = hub.open_repository(model)
    config = repository.json("config.json")
    family = config.get("model_type")
    architecture = str((config.get("architectures") or ["Model"])[0])
    if repository.find("modules.json"):
        architecture = "Model"
    for (model_type, end), job in JOBS.items():
        if model_type == family and architecture.endswith(end):
            return job
    known = ", ".join(sorted({end for model_type, end in JOBS if model_type == family})) or "none of its kind"
    raise ValueError(f"{model} is a {family} checkpoint of {architecture}, and run does {known}.")


def _run(arguments: argparse.Namespace) -> None:
    job = _job(arguments.model)
    task = job.load(arguments.model, device=arguments.device, dtype=arguments.dtype)
    for source, answer in _answers(task, job.read(arguments), arguments):
        if arguments.json:
            print(json.dumps({"input": source, "output": _plain(answer)}, ensure_ascii=False), flush=True)
        else:
            for line in job.lines(source, answer):
                print(line, flush=True)


def _answers(task: Any, inputs: Iterable[Any], arguments: argparse.Namespace) -> Iterator[tuple[Any, Any]]:
    """Inputs and answers, window by window, so that a stream is answered while it is read."""
    from minitrans.tasks.batches import windows

    size = 1 if sys.stdin.isatty() and "-" in (arguments.input or ["-"]) else 256
    answer = getattr(task, "encode", task)
    for window in windows(inputs, size):
        yield from zip(window, answer(window, batch_tokens=arguments.batch_tokens), strict=True)


def _plain(answer: Any) -> Any:
    return answer.tolist() if hasattr(answer, "tolist") else answer


def _info(arguments: argparse.Namespace) -> None:
    from minitrans import AutoConfig, hub
    from minitrans.auto import architecture_class

    repository = hub.open_repository(arguments.model)
    config = AutoConfig.from_pretrained(repository)
    logging.getLogger("minitrans").setLevel(logging.ERROR)  # the report is printed below
    model = architecture_class(config).from_pretrained(repository, dtype="auto")
    report = model.load_report
    shapes = {path: list(tensor.shape) for path, tensor in model.state_dict().items()}
    tensors = {path: {"shape": shapes[path], "names": names} for path, names in model.provenance().items()}
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
        print(f"  {ours} {tuple(item['shape'])} <- {' + '.join(item['names'])}")
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
        "input", metavar="INPUT", nargs="*", help="files (a text a line), texts, or - for standard input (the default)"
    )
    run.add_argument("--json", action="store_true", help="print one JSON object an input")
    run.add_argument("--question", help="what a question-answering checkpoint is asked about each text")
    run.add_argument("--device", help='where to compute, such as "cuda"')
    run.add_argument("--dtype", help='in which type, such as "bfloat16"')
    run.add_argument("--batch-tokens", type=int, default=4096, help="tokens in a batch (default: 4096)")
    run.set_defaults(run=_run)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0, or 1 with one sentence on stderr where the input is at fault."""
    parsed = _parser().parse_args(arguments)
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    try:
        parsed.run(parsed)
    except BrokenPipeError:  # the reader of our output has had enough
        sys.stderr.close()
        return 0
    except (ValueError, OSError, TypeError, ImportError) as error:
        print(f"minitrans: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0
