"""The command line: `minitrans demo [FAMILY]`, `info MODEL`, `bench MODEL` and `run MODEL INPUT…`."""

from __future__ import annotations

import argparse
import importlib
import io
import json
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO

from minitrans.tasks import subtitles
from minitrans.tasks.names import ALIASES, made_for


@dataclass(frozen=True)
class Job:
    """A task on the command line: the class that does it, how inputs are read, how a result is printed in each form.

    `options` are the flags that it takes beside those of every task -> the task's settings; `settings` always hold.
    """

    task: str  # module:class
    read: Callable[[argparse.Namespace], Iterable[Any]]
    lines: Mapping[str, Callable[[Any, Any], Iterable[str]]]
    options: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    def loader(self, arguments: argparse.Namespace, **options: Any) -> partial[Any]:
        """What loads the task."""
        module, _, name = self.task.partition(":")
        kind = getattr(importlib.import_module(module), name)
        return partial(
            kind.from_pretrained,
            arguments.model,
            device=arguments.device,
            dtype=arguments.dtype,
            frozen=arguments.frozen,
            **options,
        )

    def load(self, arguments: argparse.Namespace, **options: Any) -> Any:
        """The loaded task."""
        task = self.loader(arguments, **options)()
        task.report = lambda name, error: _say(error if name in str(error) else f"{name}: {error}")
        return task


def _files(arguments: argparse.Namespace) -> list[str]:
    if not arguments.input or "-" in arguments.input:
        raise ValueError("This checkpoint takes files, not standard input: name at least one.")
    return arguments.input


def _texts(arguments: argparse.Namespace) -> Iterator[str]:
    """Every line of standard input (-) and of files, and every other argument as it is.

    What cannot be read is named on stderr and costs its own texts.
    """
    for item in arguments.input or ["-"]:
        try:
            if item == "-" and sys.stdin is None:
                raise ValueError("Standard input is closed; name files, or give texts.")
            if item == "-":
                yield from _lines(arguments, _standard_input(), "Standard input")
            elif os.path.isdir(item):
                raise IsADirectoryError(
                    f"{item} is a folder; name its files. (A text of one such word can be piped in.)"
                )
            elif os.path.exists(item):
                with Path(item).open("rb") as stream:
                    yield from _lines(arguments, stream, item)
            elif re.fullmatch(r"\S*(/\S*|\.\w{2,5})", item):
                raise FileNotFoundError(f"There is no file {item}. (A text of one such word can be piped in.)")
            else:
                yield item
        except (OSError, ValueError) as error:
            _fail(arguments, error)


def _standard_input() -> BinaryIO:
    """Standard input in bytes, of which what stands in for it may have none."""
    return getattr(sys.stdin, "buffer", None) or io.BytesIO(sys.stdin.read().encode())


def _lines(arguments: argparse.Namespace, stream: BinaryIO, name: str) -> Iterator[str]:
    """The lines of a text as a corpus has them; one that cannot be read is named on stderr."""
    from minitrans.corpora.tables import Lines

    rows = Lines(name)
    for number in count():
        row = rows.record(stream, number, ["text"])
        if row is None:
            return
        if isinstance(row[0], str):
            yield row[0]
        else:
            _fail(arguments, f"{name}, line {number + 1}: {row[0]}")


def _fail(arguments: argparse.Namespace, error: object) -> None:
    arguments.failed = True
    _say(error)


def _say(error: object) -> None:
    print(f"minitrans: {error}", file=sys.stderr, flush=True)


def _print(line: str) -> None:
    """Write a line to standard output; OSError or ValueError, which name it, where it does not take it."""
    try:
        print(line, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        _leave_output()
        raise OSError(error.errno, error.strerror, "standard output") from error
    except UnicodeEncodeError as error:
        wrong, encoding = error.object[error.start], error.encoding
        raise ValueError(f"Standard output takes {encoding}, which has no {wrong!r}: set PYTHONUTF8=1.") from error


def _leave_output() -> None:
    """Let nothing more be written to standard output, which Python would try when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _open_streams(needs_output: bool) -> None:
    """Put /dev/null in place of standard streams that are closed, since the next files to be opened would take theirs.

    Raises ValueError where results are to be printed and standard output is closed.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    if sys.stdout is None and needs_output:
        raise ValueError("Standard output is closed, and results would be lost; open it, or write them by --output.")
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115


def _texts_or_pairs(arguments: argparse.Namespace) -> Iterator[Any]:
    return _pairs(arguments) if arguments.pairs else _texts(arguments)


def _pairs(arguments: argparse.Namespace) -> Iterator[Any]:
    return map(_pair, _texts(arguments))


def _pair(text: str) -> Any:
    """Two texts with a tab between; what has no tab stays one, and the task says what is wrong."""
    first, tab, second = text.partition("\t")
    return (first, second) if tab else text


def _choices(arguments: argparse.Namespace) -> Iterator[Any]:
    return map(_choice, _texts(arguments))


def _choice(text: str) -> Any:
    """A text and its choices, with tabs between."""
    first, *choices = text.split("\t")
    return (first, choices) if choices else text


def _questions(arguments: argparse.Namespace) -> Iterator[tuple[str, str]]:
    return map(_asked(arguments), _texts(arguments))


def _asked(arguments: argparse.Namespace) -> partial[tuple[str, str]]:
    if not arguments.question:
        raise ValueError("This checkpoint answers questions about texts: pass --question TEXT.")
    return partial(_both, arguments.question)


def _both(question: str, text: str) -> tuple[str, str]:
    return question, text


def _documents(arguments: argparse.Namespace) -> Iterator[tuple[str, list[str]]]:
    return iter([(_query(arguments), list(_texts(arguments)))])


def _query(arguments: argparse.Namespace) -> str:
    if not arguments.query:
        raise ValueError("This task ranks texts by how well they answer a query: pass --query TEXT.")
    return arguments.query


def _ranked(query: str, text: str) -> tuple[str, list[str]]:
    return query, [text]


def _numbers(vector: Any) -> str:
    return " ".join(f"{value:.6g}" for value in vector)


def _vector_lines(source: Any, vector: Any) -> Iterator[str]:
    yield _numbers(vector)


def _matrix_lines(source: Any, vectors: Any) -> Iterator[str]:
    yield from map(_numbers, vectors)
    yield ""


def _class_lines(source: Any, classes: Sequence[dict[str, Any]]) -> Iterator[str]:
    best = "  ".join(f"{item['label']} {item['score']:.4f}" for item in classes[:5])
    name = "\t".join(source) if isinstance(source, tuple) else source
    yield f"{best}\t{name}"


def _entity_lines(text: str, entities: Sequence[dict[str, Any]]) -> Iterator[str]:
    for item in entities:
        yield f"{item['start']}\t{item['end']}\t{item['label']}\t{item['score']:.4f}\t{item['text']}"
    yield ""


def _mask_lines(text: str, masks: Sequence[Sequence[dict[str, Any]]]) -> Iterator[str]:
    words = (", ".join(f"{item['token']} {item['score']:.4f}" for item in best) for best in masks)
    yield f"{'  |  '.join(words)}\t{text}"


def _answer_lines(pair: tuple[str, str], answers: Any) -> Iterator[str]:
    for item in answers if isinstance(answers, list) else [answers]:
        yield f"{item['answer']}\t{item['score']:.4f}\t{item['start']}\t{item['end']}"


def _ranking_lines(source: tuple[str, list[str]], ranked: Sequence[dict[str, Any]]) -> Iterator[str]:
    for item in ranked:
        yield f"{item['score']:.4f}\t{item['index']}\t{item['text']}"


def _choice_lines(source: Any, ranked: Sequence[dict[str, Any]]) -> Iterator[str]:
    yield from _ranking_lines(source, ranked)
    yield ""


def _stretch_lines(file: str, stretches: Sequence[dict[str, Any]]) -> Iterator[str]:
    for item in stretches:
        yield f"{item['start']:.2f}\t{item['end']:.2f}\t{item['label']}\t{item['score']:.4f}\t{file}"


def _transcript_lines(file: str, transcript: dict[str, Any]) -> Iterator[str]:
    yield transcript["text"]


CLASSES = {"text": _class_lines}
VECTORS = {"text": _vector_lines}
TRANSCRIPTS = {
    "text": _transcript_lines,
    "srt": lambda file, transcript: subtitles.srt(transcript["words"], transcript["characters"]),
    "vtt": lambda file, transcript: subtitles.vtt(transcript["words"], transcript["characters"]),
}
TOP = {"top_k": "top_k"}
# How a job reads -> for a corpus, what makes an input of one text.
SHAPES: dict[Any, Callable[[argparse.Namespace], Callable[[str], Any] | None]] = {
    _texts_or_pairs: lambda arguments: _pair if arguments.pairs else None,
    _pairs: lambda arguments: _pair,
    _choices: lambda arguments: _choice,
    _questions: _asked,
    _documents: lambda arguments: partial(_ranked, _query(arguments)),
}
# By the name of the task; those of `minitrans.pipeline`, and vectors of sentences.
JOBS: dict[str, Job] = {
    "sentence-embedding": Job("minitrans.tasks.vectors:Embedder", _texts, VECTORS),
    "feature-extraction": Job("minitrans.tasks.text:TokenVectors", _texts, {"text": _matrix_lines}),
    "text-classification": Job(
        "minitrans.tasks.text:TextClassifier", _texts_or_pairs, CLASSES, {**TOP, "pairs": ""}
    ),
    "token-classification": Job(
        "minitrans.tasks.tokens:EntityRecognizer", _texts, {"text": _entity_lines},
        {"aggregation": "aggregation_strategy"},
    ),
    "fill-mask": Job(
        "minitrans.tasks.tokens:MaskFiller", _texts, {"text": _mask_lines}, {**TOP, "targets": "targets"}
    ),
    "question-answering": Job(
        "minitrans.tasks.tokens:QuestionAnswerer", _questions, {"text": _answer_lines},
        {**TOP, "question": "", "no_answer": "handle_impossible_answer", "threshold": "null_threshold"},
    ),
    "zero-shot-classification": Job(
        "minitrans.tasks.text:ZeroShotClassifier", _texts, CLASSES,
        {"labels": "candidate_labels", "multi_label": "multi_label"},
    ),
    "text-ranking": Job(
        "minitrans.tasks.text:Reranker", _documents, {"text": _ranking_lines}, {**TOP, "query": ""}
    ),
    "multiple-choice": Job("minitrans.tasks.text:ChoiceTask", _choices, {"text": _choice_lines}),
    "next-sentence-prediction": Job("minitrans.tasks.text:NextSentenceClassifier", _pairs, CLASSES),
    "image-classification": Job("minitrans.tasks.image:ImageClassifier", _files, CLASSES, TOP),
    "image-feature-extraction": Job("minitrans.tasks.image:ImageVectors", _files, VECTORS, settings={"pool": True}),
    "automatic-speech-recognition": Job(
        "minitrans.tasks.audio:Transcriber", _files, TRANSCRIPTS, {"chunk": "chunk_seconds"}
    ),
    "audio-classification": Job("minitrans.tasks.audio:AudioClassifier", _files, CLASSES, TOP),
    "audio-xvector": Job("minitrans.tasks.audio:SpeakerEncoder", _files, VECTORS),
    "audio-frame-classification": Job(
        "minitrans.tasks.audio:FrameClassifier", _files, {"text": _stretch_lines}, {"threshold": "threshold"}
    ),
}  # fmt: skip
MAPS = Job("minitrans.tasks.image:FeatureMaps", _files, {})
FLAGS = sorted({flag for job in JOBS.values() for flag in job.options})
CORPUS = ["workers", "ray", "format", "float16", "column", "keep", "rows"]
UNEXPECTED = (
    "This should not have happened ({kind}: {error}). Please report it in the issue tracker of minitrans, with the "
    "command and what it prints with --debug."
)


def _task(arguments: argparse.Namespace) -> str:
    """The name of the task that is asked for, or else that the checkpoint was made for."""
    from minitrans import hub

    if arguments.task:
        return ALIASES.get(arguments.task, arguments.task)
    repository = hub.open_repository(arguments.model)
    config = repository.json("config.json")
    if repository.find("modules.json"):
        return "sentence-embedding"
    name = made_for(config.get("model_type"), config.get("architectures"), arguments.model)
    chosen = {"feature-extraction": "sentence-embedding"}
    if name == "text-classification":
        chosen[name] = "text-ranking" if arguments.query else "zero-shot-classification" if arguments.labels else name
    return chosen.get(name, name)


def _given(arguments: argparse.Namespace, flags: Iterable[str]) -> dict[str, Any]:
    """Those of the flags that were given, and their values."""
    values = {flag: getattr(arguments, flag) for flag in flags}
    return {flag: value for flag, value in values.items() if value is not None and value is not False}


def _run(arguments: argparse.Namespace) -> int:
    arguments.failed = False
    if empty := [name for name, value in vars(arguments).items() if value == "" and name != "model"]:
        raise ValueError(f"--{empty[0].replace('_', '-')} is empty; give it a value, or leave it out.")
    if arguments.features:
        if not arguments.output:
            raise ValueError(
                "--features and --output belong together: which stages' maps to write, and to which file."
            )
        if needless := _given(arguments, FLAGS + CORPUS):
            raise ValueError(f"--{min(needless).replace('_', '-')} means nothing to --features.")
        _write_maps(arguments)
        return int(arguments.failed)
    name = _task(arguments)
    job = JOBS[name]
    if arguments.form not in {"json", *job.lines}:
        raise ValueError(f"--{arguments.form} is for checkpoints that turn speech into text.")
    given = _given(arguments, FLAGS)
    if unknown := given.keys() - job.options.keys():
        flags = ", ".join(f"--{flag.replace('_', '-')}" for flag in job.options) or "none"
        raise ValueError(f"--{min(unknown).replace('_', '-')} means nothing to {name}; its own options are {flags}.")
    options = {**job.settings, **{job.options[flag]: value for flag, value in given.items() if job.options[flag]}}
    if arguments.output:
        return _run_corpus(arguments, job, options)
    if alone := _given(arguments, CORPUS):
        raise ValueError(f"--{min(alone)} is for whole corpora: name a folder for the results, --output DIR.")
    if arguments.form in ("srt", "vtt"):
        options["characters"] = True
        if len(arguments.input) > 1:
            raise ValueError(
                f"--{arguments.form} makes a file of subtitles of each sound: name a folder for them, --output DIR."
            )
    inputs = job.read(arguments)
    task = job.load(arguments)
    typed = sys.stdin is not None and sys.stdin.isatty() and "-" in (arguments.input or ["-"])
    task.read_ahead = min(task.read_ahead, 1 if typed else 256)  # results come soon after their inputs
    stream = task.stream(inputs, budget=arguments.batch, on_error="skip", **options)
    for source, result in stream:
        if result is None:
            arguments.failed = True
            continue
        if arguments.form == "json":
            result = result.tolist() if hasattr(result, "tolist") else result
            lines: Iterable[str] = [json.dumps({"input": source, "output": result}, ensure_ascii=False)]
        else:
            lines = job.lines[arguments.form](source, result)
        for line in lines:
            _print(line)
    return int(arguments.failed)


def _run_corpus(arguments: argparse.Namespace, job: Job, options: dict[str, Any]) -> int:
    from minitrans import corpora

    if not arguments.input or "-" in arguments.input:
        raise ValueError("A corpus lies in files, not in standard input: name files, folders or patterns of them.")
    named = {"text": None, "json": "jsonl"}.get(arguments.form, arguments.form)
    if named and arguments.format and named != arguments.format:
        raise ValueError(f"--{arguments.form} and --format {arguments.format} contradict each other; choose one.")
    is_whole = len(arguments.column or ()) > 1  # an input is made of several columns, and of nothing besides
    if is_whole and (besides := _given(arguments, ("query", "question"))):
        raise ValueError(f"--{min(besides)} and several of --column contradict each other; choose one.")
    shape = SHAPES[job.read](arguments) if job.read in SHAPES and not is_whole else None
    done = corpora.run(
        job.loader(arguments),
        arguments.input,
        arguments.output,
        workers=arguments.workers,
        ray=arguments.ray or False,
        column=arguments.column,
        keep=arguments.keep or (),
        form=arguments.format or named,
        float16=arguments.float16,
        rows=arguments.rows,
        budget=arguments.batch,
        as_input=shape,
        **options,
    )
    for part, why in done.missing.items():
        _say(f"{part} is missing, and tried again by the same command: {why}")
    if done.failed:
        such = f", such as {done.first}" if done.first else ""
        _say(f"{done.failed} of {done.rows} rows have an error in {arguments.output} and no result{such}")
    return int(bool(done.failed or done.missing))


def _write_maps(arguments: argparse.Namespace) -> None:
    from minitrans.tasks.image import save_maps

    files = _files(arguments)
    task = MAPS.load(arguments, out_features=arguments.features.split(","))

    def results() -> Iterator[tuple[Any, Any]]:
        for source, result in task.stream(files, budget=arguments.batch, on_error="skip"):
            arguments.failed = arguments.failed or result is None
            yield source, result

    shapes = save_maps(results(), arguments.output)
    if arguments.form == "json":
        _print(json.dumps(dict(shapes), ensure_ascii=False))
    else:
        for name, shape in shapes:
            _print(f"{name}\t{' '.join(map(str, shape))}")


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
        _print(json.dumps(summary, indent=2, ensure_ascii=False))
        return
    lines = [f"{summary['class']}, {summary['parameters']:,} parameters, {summary['dtype']}"]
    lines += [f"  {key}: {value}" for key, value in config.to_dict().items()]
    lines += ["\nOur tensor <- the checkpoint's"]
    lines += [f"  {ours} {tuple(item['shape'])} <- {item['name']}" for ours, item in tensors.items()]
    _print("\n".join([*lines, "", str(report)]))


def _demo(arguments: argparse.Namespace) -> None:
    from minitrans import demo

    demo.main(arguments.family)


def _bench(arguments: argparse.Namespace) -> None:
    from minitrans import bench

    with _no_warnings():  # of heads that a checkpoint lacks, which take the same time
        result = bench.checkpoint(arguments.model, arguments.threads, arguments.seconds)
    for line in [json.dumps(result, ensure_ascii=False)] if arguments.json else bench.lines(result):
        _print(line)


def _parsers() -> tuple[argparse.ArgumentParser, argparse.ArgumentParser]:
    """The parser of the command line, and that of `run`."""
    from minitrans import __version__

    parser = argparse.ArgumentParser(prog="minitrans", description="BERT, DistilBERT, Swin and Wav2Vec2 checkpoints.")
    parser.add_argument("--version", action="version", version=f"minitrans {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    demo = commands.add_parser("demo", help="a checkpoint of each family at work, beside transformers")
    demo.add_argument("family", metavar="FAMILY", nargs="?", help="only this one: bert, distilbert, swin or wav2vec2")
    demo.set_defaults(run=_demo)
    info = commands.add_parser("info", help="what a checkpoint is, and how its tensors were read")
    info.add_argument("model", metavar="MODEL", help="a folder or a hub id")
    info.add_argument("--json", action="store_true", help="print one JSON object")
    info.set_defaults(run=_info)
    bench = commands.add_parser(
        "bench", help="how fast a checkpoint is on this CPU, as loaded and frozen, beside transformers"
    )
    bench.add_argument("model", metavar="MODEL", help="a folder or a hub id")
    bench.add_argument("--threads", type=int, default=2, help="how many threads each side computes in (2)")
    bench.add_argument("--seconds", type=float, default=10, help="about how long a row may take (10)")
    bench.add_argument("--json", action="store_true", help="print one JSON object")
    bench.set_defaults(run=_bench)
    run = commands.add_parser("run", help="do what a checkpoint does: vectors, classes, entities, words, answers")
    run.add_argument("model", metavar="MODEL", help="a folder or a hub id")
    run.add_argument(
        "input",
        metavar="INPUT",
        nargs="*",
        help="images or sounds; for text: files (a text a line), texts, or - for standard input (the default)",
    )
    names = [*JOBS, *ALIASES]
    run.add_argument("--task", choices=names, metavar="TASK", help=f"another than the checkpoint's: {', '.join(JOBS)}")
    form = run.add_mutually_exclusive_group()
    for name, what in (("json", "one JSON object an input"), ("srt", "SubRip subtitles"), ("vtt", "WebVTT subtitles")):
        form.add_argument(
            f"--{name}", dest="form", action="store_const", const=name, default="text", help=f"print {what}"
        )
    run.add_argument(
        "--output",
        metavar="DIR",
        help="do whole corpora, with the results in this folder, going on where a run was ended: INPUT are Parquet, "
        "JSON Lines, CSV, TSV or lines of text, images or sounds, and folders and patterns of these",
    )
    run.add_argument("--workers", type=int, metavar="N", help="the number of processes; with --ray, of actors")
    run.add_argument("--ray", nargs="?", const=True, metavar="ADDRESS", help="by a Ray cluster, this or a new one")
    run.add_argument("--format", choices=["parquet", "jsonl", "srt", "vtt"], help="of the results in --output")
    run.add_argument("--float16", action="store_true", help="write vectors in half the bytes")
    run.add_argument("--column", action="append", metavar="NAME", help="what holds the input in a table; or several")
    run.add_argument("--keep", action="append", metavar="NAME", help="a column of a table that the results get too")
    run.add_argument("--rows", type=int, metavar="N", help="how many rows, or files, each file of results holds")
    run.add_argument("--top-k", type=int, metavar="N", help="how many classes, words, answers or documents to give")
    run.add_argument("--pairs", action="store_true", help="classify pairs of texts, with a tab between the two")
    run.add_argument(
        "--question", metavar="TEXT", help="what a question-answering checkpoint is asked about each text"
    )
    run.add_argument("--no-answer", action="store_true", help="let it say, by an empty answer, that there is none")
    run.add_argument("--threshold", type=float, metavar="X", help="of no answer, in logits; of frames, a probability")
    run.add_argument("--query", metavar="TEXT", help="rank the texts by how well they answer this (a cross-encoder)")
    run.add_argument("--labels", metavar="A,B", help="classes for texts without training (an entailment checkpoint)")
    run.add_argument("--multi-label", action="store_true", help="of --labels any number may hold")
    run.add_argument("--targets", nargs=1, action="extend", metavar="WORD", help="only this word for masks, or these")
    run.add_argument("--aggregation", metavar="HOW", help="entities by none, simple, first, average or max")
    run.add_argument("--chunk", type=float, metavar="SECONDS", help="how much of a recording is heard at a time")
    run.add_argument(
        "--features", metavar="STAGES",
        help='maps of an image model to write, such as "stage1,stage3", into the new safetensors file --output',
    )  # fmt: skip
    run.add_argument("--device", help='where to compute, such as "cuda"')
    run.add_argument("--dtype", help='in which type, such as "bfloat16"; with --frozen also "fastest"')
    run.add_argument("--frozen", action="store_true", help="prepare the weights first: faster where batches are small")
    run.add_argument("--batch", type=int, help="what a batch may hold: tokens of text, images, or samples of sound")
    run.set_defaults(run=_run)
    for command in (demo, info, bench, run):
        command.add_argument("--debug", action="store_true", help="show where in the program an error was raised")
        command.set_defaults(output=None)
    return parser, run


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0, or 1 with a sentence on stderr for each input that is at fault.

    With --debug the traceback of what ended the work comes before its sentence.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    parser, run = _parsers()
    # Options may stand anywhere, between MODEL and INPUT too.
    parsed = run.parse_intermixed_args(words[1:]) if words[:1] == ["run"] else parser.parse_args(words)
    try:
        _open_streams(needs_output=not parsed.output)
        logging.basicConfig(format="minitrans: %(message)s", stream=sys.stderr)
        return parsed.run(parsed) or 0
    except BrokenPipeError:  # the reader of our output has had enough
        _leave_output()
        return 0
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if parsed.debug:
            traceback.print_exc()
        expected = isinstance(error, (ValueError, OSError, TypeError, ImportError))
        _say(error if expected else UNEXPECTED.format(kind=type(error).__name__, error=str(error).split("\n")[0]))
        return 1
