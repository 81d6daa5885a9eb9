"""Text in, answers out: vectors, classes, entities, masked words, spans."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minitrans import hub, ops
from minitrans.auto import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)
from minitrans.outputs import Encoded
from minitrans.sequences import Sequences
from minitrans.tasks.base import Piece, Task, ranked, windows
from minitrans.weights import open_checkpoint

logger = logging.getLogger("minitrans")


class TextTask(Task):
    """A task on texts; sizes and the budget are in tokens. A text over `max_tokens` is cut, and the log says so."""

    processing = AutoTokenizer
    unit = "text"
    budget = 4096

    def __init__(self, model: Any, tokenizer: Any, max_tokens: int | None = None) -> None:
        super().__init__(model, tokenizer)
        limit = model.config.max_position_embeddings
        self.tokenizer = tokenizer
        self.max_tokens = min(limit, tokenizer.model_max_length, max_tokens or limit)

    def pieces(self, texts: Iterable[Any]) -> Iterator[Piece]:
        """See `Task`."""
        for window in windows(texts, self.window):
            rows = self._rows(window)
            long = [index for index, row in enumerate(rows) if len(row["input_ids"]) > self.max_tokens]
            if long:
                message = "%d of %d texts are longer than %d tokens and were cut."
                logger.warning(message, len(long), len(rows), self.max_tokens)
                cut = self._rows([window[index] for index in long], truncation=True, max_length=self.max_tokens)
                for index, row in zip(long, cut, strict=True):
                    rows[index] = row
            for text, row in zip(window, rows, strict=True):
                yield Piece(text, row, len(row["input_ids"]))

    def _rows(self, texts: list[Any], **options: Any) -> list[dict[str, list[int]]]:
        encoding = self.tokenizer(texts, verbose=False, **options)
        return [{name: values[index] for name, values in encoding.items()} for index in range(len(texts))]

    def run(self, pieces: list[Piece]) -> Sequence[Any]:
        """See `Task`."""
        batch = self.tokenizer.pad([piece.inputs for piece in pieces], return_tensors="pt")
        return self.results(batch.to(self.model.device), pieces)

    def results(self, batch: Any, pieces: list[Piece]) -> Sequence[Any]:
        """As `run`, from the batch of its tensors (B, N)."""
        raise NotImplementedError


def _pool_mean(encoded: Encoded) -> Tensor:
    return encoded.sequences.mean(encoded.rows)


def _pool_first(encoded: Encoded) -> Tensor:
    return encoded.sequences.first(encoded.rows)


def _pool_max(encoded: Encoded) -> Tensor:
    spans = encoded.sequences.spans or ()
    return torch.stack([encoded.rows[start : start + length].amax(0) for start, length in spans])


def _pool_root_mean(encoded: Encoded) -> Tensor:
    return _pool_mean(encoded) * encoded.sequences.lengths[:, None].to(encoded.rows.dtype).sqrt()


def _pool_weighted_mean(encoded: Encoded) -> Tensor:
    """The n-th token of a text weighs n (Muennighoff 2022, "SGPT")."""
    weights = [torch.arange(1, length + 1).to(encoded.rows) for _, length in encoded.sequences.spans or ()]
    parts = encoded.rows.split([len(weight) for weight in weights])
    return torch.stack([weight @ part / weight.sum() for weight, part in zip(weights, parts, strict=True)])


def _pool_last(encoded: Encoded) -> Tensor:
    return encoded.rows[encoded.sequences.starts + encoded.sequences.lengths - 1]


POOLINGS: dict[str, Callable[[Encoded], Tensor]] = {
    "cls": _pool_first,
    "max": _pool_max,
    "mean": _pool_mean,
    "mean_sqrt_len_tokens": _pool_root_mean,
    "weightedmean": _pool_weighted_mean,
    "lasttoken": _pool_last,
}
# Older sentence-transformers folders hold one switch a pooling; vectors of several are concatenated in this order.
SWITCHES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
# How sentence-transformers names the activation of its Dense module -> our name.
DENSE_ACTIVATIONS = {
    "torch.nn.modules.activation.GELU": "gelu",
    "torch.nn.modules.activation.ReLU": "relu",
    "torch.nn.modules.activation.SiLU": "silu",
    "torch.nn.modules.activation.Sigmoid": "sigmoid",
    "torch.nn.modules.activation.Tanh": "tanh",
    "torch.nn.modules.linear.Identity": "linear",
}


@dataclass(frozen=True)
class Dense:
    """activation(W x + b) of pooled vectors (B, C_in) -> (B, C_out); W (C_out, C_in), b (C_out,) or None, float32."""

    weight: Tensor
    bias: Tensor | None
    activation: str

    def __call__(self, vectors: Tensor) -> Tensor:
        """(B, C_in) -> (B, C_out)."""
        bias = None if self.bias is None else self.bias.to(vectors.device)
        return ops.ACTIVATIONS[self.activation](ops.linear(vectors, self.weight.to(vectors.device), bias))


class Embedder(TextTask):
    """Texts -> vectors, as a sentence-transformers folder describes, or by the mean over a BERT-like model's tokens.

    `dim` is the vectors' length, `max_tokens` where texts are cut, `pooling` the names of what is concatenated,
    `dense` the layers that follow, `normalize` whether vectors have length 1, `prompt` what is put before every text,
    `lower` whether texts are brought to lower case first.
    """

    auto = AutoModel

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        pooling: Sequence[str] = ("mean",),
        dense: Sequence[Dense] = (),
        normalize: bool = False,
        max_tokens: int | None = None,
        prompt: str = "",
        lower: bool = False,
    ) -> None:
        super().__init__(model, tokenizer, max_tokens)
        unknown = [name for name in pooling if name not in POOLINGS]
        if unknown or not pooling:
            raise ValueError(f"The pooling is {list(pooling)}; known are {', '.join(POOLINGS)}.")
        self.pooling, self.normalize, self.prompt, self.lower = tuple(pooling), normalize, prompt, lower
        self.dense, self.dim = tuple(dense), model.config.hidden_size * len(self.pooling)
        for layer in self.dense:
            if layer.weight.shape[1] != self.dim:
                raise ValueError(
                    f"A dense layer takes vectors of {layer.weight.shape[1]}, and these are of {self.dim}."
                )
            self.dim = layer.weight.shape[0]

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, **options: Any) -> Embedder:
        """Read a folder or hub id; options as in `AutoModel.from_pretrained`.

        Raises ValueError for a sentence-transformers module or setting that is not computed here.
        """
        repository, options = hub.open_with(name_or_path, options)
        settings, transformer = _sentence_transformers_settings(repository)
        if settings is None:
            logger.warning("%s has no modules.json: its vectors are the mean over the tokens.", repository.name)
        tokenizer = AutoTokenizer.from_pretrained(transformer)
        return cls(AutoModel.from_pretrained(transformer, **options), tokenizer, **(settings or {}))

    def encode(
        self,
        texts: str | Iterable[str],
        *,
        batch_tokens: int | None = None,
        normalize: bool | None = None,
        prompt: str | None = None,
        show_progress: bool | None = None,
    ) -> np.ndarray:
        """Vectors (n, dim) float32 of n texts in their order; (dim,) for a single string.

        A batch holds as many texts as fit into `batch_tokens` tokens, 4096 unless said otherwise.
        """
        job = copy(self)
        job.normalize = self.normalize if normalize is None else normalize
        job.prompt = self.prompt if prompt is None else prompt
        vectors = job(texts, budget=batch_tokens, show_progress=show_progress)
        return np.stack(vectors) if len(vectors) else np.empty((0, self.dim), np.float32)

    def _rows(self, texts: list[Any], **options: Any) -> list[dict[str, list[int]]]:
        if self.prompt:
            texts = [self.prompt + text if isinstance(text, str) else text for text in texts]
        if self.lower:
            texts = [text.lower() if isinstance(text, str) else text for text in texts]
        return super()._rows(texts, **options)

    def results(self, batch: Any, pieces: list[Piece]) -> Sequence[np.ndarray]:
        """See `TextTask`."""
        encoded = self.model.encode(**batch)
        vectors = torch.cat([POOLINGS[name](encoded) for name in self.pooling], dim=1).float()
        for layer in self.dense:
            vectors = layer(vectors)
        return list((torch.nn.functional.normalize(vectors) if self.normalize else vectors).cpu().numpy())


def _sentence_transformers_settings(
    repository: hub.Repository,
) -> tuple[dict[str, Any] | None, hub.Repository]:
    """What modules.json and its companions say, as options of `Embedder`, and where the transformer lies."""
    if repository.find("modules.json") is None:
        return None, repository
    modules = repository.json("modules.json", list)
    order = [str(module.get("type")).rpartition(".")[2] for module in modules]
    if not re.fullmatch("Transformer( Pooling)?( Dense)*( Normalize)?", " ".join(order)):
        raise ValueError(
            f"modules.json of {repository.name} lists {', '.join(order)}; computed here are Transformer, Pooling, any "
            "number of Dense and Normalize, in this order."
        )
    paths = [module.get("path", "") for module in modules]
    kinds = dict(zip(order, paths, strict=True))
    settings: dict[str, Any] = {
        "normalize": "Normalize" in kinds,
        "dense": [_dense(repository.inside(path)) for kind, path in zip(order, paths, strict=True) if kind == "Dense"],
    }
    if "Pooling" in kinds:
        pooling = repository.json(f"{kinds['Pooling']}/config.json")
        if not pooling.get("include_prompt", True):
            raise ValueError(f"{repository.name} has include_prompt false in its pooling; only true is computed here.")
        modes = pooling.get("pooling_mode") or [name for key, name in SWITCHES.items() if pooling.get(key)] or ["mean"]
        settings["pooling"] = [modes] if isinstance(modes, str) else modes
    transformer = repository.inside(kinds["Transformer"]) if kinds["Transformer"] else repository
    if transformer.find("sentence_bert_config.json"):
        own = transformer.json("sentence_bert_config.json")
        settings |= {"max_tokens": own.get("max_seq_length"), "lower": bool(own.get("do_lower_case"))}
    if repository.find("config_sentence_transformers.json"):
        extra = repository.json("config_sentence_transformers.json")
        settings["prompt"] = (extra.get("prompts") or {}).get(extra.get("default_prompt_name")) or ""
    return settings, transformer


def _dense(repository: hub.Repository) -> Dense:
    """The layer in the folder of a Dense module."""
    config, checkpoint = repository.json("config.json"), open_checkpoint(repository)
    activation = DENSE_ACTIVATIONS.get(config.get("activation_function", "torch.nn.modules.activation.Tanh"))
    names = ["linear.weight", "linear.bias"] if config.get("bias", True) else ["linear.weight"]
    source = config.get("module_input_name", "sentence_embedding")
    if activation is None or source != "sentence_embedding" or {*checkpoint.shapes} != {*names}:
        raise ValueError(
            f"The Dense module of {repository.name} holds {', '.join(checkpoint.shapes)} and has the settings "
            f"{config}; computed here are {' and '.join(names)} of pooled vectors, then one of "
            f"{', '.join(name.rpartition('.')[2] for name in DENSE_ACTIVATIONS)}."
        )
    tensors = [checkpoint.read(name).float() for name in names]
    return Dense(tensors[0], tensors[1] if len(tensors) > 1 else None, activation)


class TextClassifier(TextTask):
    """Texts, or tuples of two, -> [{"label", "score"}], best first; see `ranked`."""

    auto = AutoModelForSequenceClassification
    single = (str, tuple)

    def results(self, batch: Any, pieces: list[Piece]) -> Sequence[list[dict[str, Any]]]:
        """See `TextTask`."""
        return ranked(self.model.config, self.model(**batch).logits)


@dataclass
class Window:
    """The tokens of a text that one piece answers for: their places in the piece and their characters in the text."""

    tokens: slice
    offsets: list[tuple[int, int]]


class WindowedTask(TextTask):
    """A task on the tokens of texts of any length: the model reads a long one in windows that overlap by a quarter.

    Of a pair, the second text is the one in question, and every window holds the first.
    """

    asked = 0  # which text of an input is in question

    def pieces(self, texts: Iterable[Any]) -> Iterator[Piece]:
        """See `Task`."""
        for window in windows(texts, self.window):
            for text in window:
                if not isinstance(text, self.single):
                    kind = self.single[0].__name__
                    raise TypeError(
                        f"{type(self).__name__} takes a {kind}, not a {type(text).__name__}: {text!r:.80}."
                    )
            encoding = self.tokenizer(window, return_offsets_mapping=True, verbose=False)
            for index, text in enumerate(window):
                row = {name: values[index] for name, values in encoding.items()}
                yield from self._windows(text, row, encoding.sequence_ids(index))

    def _windows(self, text: Any, row: dict[str, list], owners: list[int | None]) -> Iterator[Piece]:
        offsets, length = row.pop("offset_mapping"), owners.count(self.asked)
        first = owners.index(self.asked) if length else len(owners) - 1
        room = self.max_tokens - (len(owners) - length)
        if room < 1:
            raise ValueError(
                f"{text[0][:80]!r} leaves no room for its text: the model reads {self.max_tokens} tokens."
            )
        overlap = room // 4
        spans = [
            range(start, min(start + room, length)) for start in range(0, max(length - overlap, 1), room - overlap)
        ]
        for span, answered in zip(spans, self.answered(spans), strict=True):
            begin, end = first + span.start, first + span.stop
            inputs = {
                name: values[:first] + values[begin:end] + values[first + length :] for name, values in row.items()
            }
            tokens = slice(first + answered.start - span.start, first + answered.stop - span.start)
            part = Window(tokens, offsets[first + answered.start : first + answered.stop])
            last = span.stop == length
            yield Piece(text, inputs, len(inputs["input_ids"]), part, last, done=int(last))

    def answered(self, spans: list[range]) -> list[range]:
        """Which tokens each window answers for: every token is judged where it stands farther from an edge."""
        cuts = [(before.stop + after.start) // 2 for before, after in pairwise(spans)]
        return [range(low, high) for low, high in pairwise([0, *cuts, spans[-1].stop])]


class EntityRecognizer(WindowedTask):
    """Texts -> entities [{"label", "score", "text", "start", "end"}] with character offsets.

    Neighbouring tokens of one type are one entity, whose score is their mean; B- starts a new one.
    """

    auto = AutoModelForTokenClassification

    def results(self, batch: Any, pieces: list[Piece]) -> Sequence[list[tuple]]:
        """See `TextTask`."""
        scores, labels = (x.tolist() for x in self.model(**batch).logits.float().softmax(-1).max(-1))
        return [
            list(zip(labels[row][piece.part.tokens], scores[row][piece.part.tokens], piece.part.offsets, strict=True))
            for row, piece in enumerate(pieces)
        ]

    def answer(self, source: str, results: list[list[tuple]]) -> list[dict[str, Any]]:
        """See `Task`."""
        entities: list[dict[str, Any]] = []
        before = "O"
        for index, score, (start, end) in chain.from_iterable(results):
            label = self.model.config.id2label[index]
            name = re.sub(r"^[BI]-", "", label)
            if name != "O" and (name != before or label.startswith("B-")):
                entities.append({"label": name, "score": [], "text": "", "start": start, "end": end})
            if name != "O":
                entities[-1]["score"].append(score)
                entities[-1]["end"] = end
            before = name
        for entity in entities:
            entity["score"] = sum(entity["score"]) / len(entity["score"])
            entity["text"] = source[entity["start"] : entity["end"]]
        return entities


class MaskFiller(WindowedTask):
    """Texts with mask tokens -> for each mask [{"token", "score"}], the five best first."""

    auto = AutoModelForMaskedLM
    best = 5

    def results(self, batch: Any, pieces: list[Piece]) -> Sequence[list[list[dict[str, Any]]]]:
        """See `TextTask`."""
        asked = torch.zeros(batch["input_ids"].shape, dtype=torch.bool)
        for row, piece in enumerate(pieces):
            asked[row, piece.part.tokens] = True
        asked = asked.to(self.model.device) & (batch["input_ids"] == self.tokenizer.mask_token_id)
        # Words are scored for the masks alone: for all tokens it would take more time than the model.
        encoded = self.model.encode(**batch)
        rows = encoded.rows[encoded.sequences.pack(asked)]
        masks = replace(encoded, rows=rows, sequences=Sequences.full(1, len(rows), rows.device))
        scores, tokens = self.model.answer(masks).logits[0].float().softmax(-1).topk(
            min(self.best, self.model.config.vocab_size)
        )  # fmt: skip
        words = iter(zip(tokens.tolist(), scores.tolist(), strict=True))
        return [[self._words(*next(words)) for _ in range(count)] for count in asked.sum(1).tolist()]

    def _words(self, tokens: list[int], scores: list[float]) -> list[dict[str, Any]]:
        return [
            {"token": self.tokenizer.decode([token]), "score": score}
            for token, score in zip(tokens, scores, strict=True)
        ]

    def answer(self, source: str, results: list[list[list[dict[str, Any]]]]) -> list[list[dict[str, Any]]]:
        """See `Task`; ValueError for a text without a mask."""
        words = list(chain.from_iterable(results))
        if not words:
            raise ValueError(f"There is no {self.tokenizer.mask_token} in {source[:80]!r}.")
        return words


class QuestionAnswerer(WindowedTask):
    """(question, text) pairs -> {"answer", "score", "start", "end"} with character offsets in the text.

    The score is the product of the probabilities of the answer's first and last token (Devlin et al. 2019, 4.2) among
    the text's tokens and [CLS], which stands for "no answer"; of several windows the most certain one answers.
    """

    auto = AutoModelForQuestionAnswering
    single = (tuple,)
    asked = 1
    longest_answer = 30  # tokens

    def answered(self, spans: list[range]) -> list[range]:
        """See `WindowedTask`; an answer may lie anywhere in a window."""
        return spans

    def results(self, batch: Any, pieces: list[Piece]) -> Sequence[tuple[float, int, int]]:
        """See `TextTask`."""
        output = self.model(**batch)
        logits = torch.stack([output.start_logits, output.end_logits], dim=-1).float().cpu()
        return [self._best(row, piece.part) for row, piece in zip(logits, pieces, strict=True)]

    def _best(self, logits: Tensor, window: Window) -> tuple[float, int, int]:
        """Score, first and last character of the best answer by logits (N, 2)."""
        if not window.offsets:
            return 0.0, 0, 0
        start, end = torch.cat([logits[:1], logits[window.tokens]]).softmax(0)[1:].unbind(-1)
        spans = (start[:, None] * end).triu().tril(self.longest_answer - 1)
        first, last = divmod(int(spans.argmax()), len(end))
        return float(spans[first, last]), window.offsets[first][0], window.offsets[last][1]

    def answer(self, source: tuple[str, str], results: list[tuple[float, int, int]]) -> dict[str, Any]:
        """See `Task`."""
        score, start, end = max(results)
        return {"answer": source[1][start:end], "score": score, "start": start, "end": end}
