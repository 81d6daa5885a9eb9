"""Text in, answers out: vectors, classes, entities, masked words, spans."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from minitrans import hub
from minitrans.auto import (
    AutoClass,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)
from minitrans.outputs import Encoded
from minitrans.tasks.batches import answer_in_order, progress, windows

logger = logging.getLogger("minitrans")

BATCH_TOKENS = 4096
WINDOW = 2048  # texts read, tokenized and sorted at a time


def _pool_mean(encoded: Encoded) -> Tensor:
    return encoded.sequences.mean(encoded.rows)


def _pool_first(encoded: Encoded) -> Tensor:
    return encoded.sequences.first(encoded.rows)


def _pool_max(encoded: Encoded) -> Tensor:
    spans = encoded.sequences.spans or ()
    return torch.stack([encoded.rows[start : start + length].amax(0) for start, length in spans])


def _pool_root_mean(encoded: Encoded) -> Tensor:
    return _pool_mean(encoded) * encoded.sequences.lengths[:, None].to(encoded.rows.dtype).sqrt()


POOLINGS: dict[str, Callable[[Encoded], Tensor]] = {
    "mean": _pool_mean,
    "cls": _pool_first,
    "max": _pool_max,
    "mean_sqrt_len_tokens": _pool_root_mean,
}
# Older sentence-transformers folders hold one switch a pooling.
_SWITCHES = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


class Embedder:
    """Texts -> vectors, as a sentence-transformers folder describes, or by the mean over a BERT-like model's tokens.

    `dim` is the vectors' length, `max_tokens` where texts are cut, `pooling` the names of what is concatenated,
    `normalize` whether vectors have length 1 by default, `prompt` what is put before every text.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        pooling: Sequence[str] = ("mean",),
        normalize: bool = False,
        max_tokens: int | None = None,
        prompt: str = "",
    ) -> None:
        unknown = [name for name in pooling if name not in POOLINGS]
        if unknown or not pooling:
            raise ValueError(f"The pooling is {list(pooling)}; known are {', '.join(POOLINGS)}.")
        self.model, self.tokenizer = model, tokenizer
        self.pooling, self.normalize, self.prompt = tuple(pooling), normalize, prompt
        limit = model.config.max_position_embeddings
        self.max_tokens = min(limit, tokenizer.model_max_length, max_tokens or limit)
        self.dim = model.config.hidden_size * len(self.pooling)

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, **options: Any) -> Embedder:
        """Read a folder or hub id; options as in `AutoModel.from_pretrained`.

        Raises ValueError for a sentence-transformers module that is not computed here.
        """
        repository, options = hub.open_with(name_or_path, options)
        settings, transformer = _sentence_transformers_settings(repository)
        if settings is None:
            logger.warning("%s has no modules.json: its vectors are the mean over the tokens.", repository.name)
        tokenizer = AutoTokenizer.from_pretrained(transformer)
        return cls(AutoModel.from_pretrained(transformer, **options), tokenizer, **(settings or {}))

    @torch.inference_mode()
    def encode(
        self,
        texts: str | Iterable[str],
        *,
        batch_tokens: int = BATCH_TOKENS,
        normalize: bool | None = None,
        prompt: str | None = None,
        show_progress: bool | None = None,
    ) -> np.ndarray:
        """Vectors (n, dim) float32 of n texts in their order; (dim,) for a single string.

        A batch holds as many texts as fit into `batch_tokens` tokens; longer texts than `max_tokens` are cut, which
        is said in the log. The progress bar shows on a terminal when the work is long, or as `show_progress` says.
        """
        if isinstance(texts, str):
            return self.encode([texts], batch_tokens=batch_tokens, normalize=normalize, prompt=prompt)[0]
        prompt = self.prompt if prompt is None else prompt
        total = len(texts) if isinstance(texts, Sequence) else None
        vectors = [np.empty((0, self.dim), np.float32)]
        with progress(total, "text", show_progress) as bar:
            for window in windows(texts, WINDOW):
                rows = self._tokenize(window, prompt)
                pooled = answer_in_order(
                    rows, [len(row["input_ids"]) for row in rows], batch_tokens, self._pooled, bar
                )
                vectors.append(np.stack(pooled))
        result = np.concatenate(vectors)
        if self.normalize if normalize is None else normalize:
            result /= np.maximum(np.linalg.norm(result, axis=1, keepdims=True), 1e-12)
        return result

    def _tokenize(self, texts: list[str], prompt: str) -> list[dict[str, list[int]]]:
        encoding = self.tokenizer([prompt + text if isinstance(text, str) else text for text in texts], verbose=False)
        rows = [{name: values[index] for name, values in encoding.items()} for index in range(len(texts))]
        long = [index for index, row in enumerate(rows) if len(row["input_ids"]) > self.max_tokens]
        if long:
            logger.warning(
                "%d of %d texts are longer than %d tokens and were cut.", len(long), len(rows), self.max_tokens
            )
            cut = self.tokenizer(
                [prompt + texts[index] for index in long], truncation=True, max_length=self.max_tokens
            )
            for position, index in enumerate(long):
                rows[index] = {name: values[position] for name, values in cut.items()}
        return rows

    def _pooled(self, rows: list[dict[str, list[int]]]) -> list[np.ndarray]:
        batch = self.tokenizer.pad(rows, return_tensors="pt").to(self.model.device)
        encoded = self.model.encode(**batch)
        return list(torch.cat([POOLINGS[name](encoded) for name in self.pooling], dim=1).float().cpu().numpy())


def _sentence_transformers_settings(
    repository: hub.Repository,
) -> tuple[dict[str, Any] | None, hub.Repository]:
    """What modules.json and its companions say, as options of `Embedder`, and where the transformer lies."""
    path = repository.find("modules.json")
    if path is None:
        return None, repository
    modules = repository.json("modules.json", list)
    kinds = {str(module.get("type")).rpartition(".")[2]: module.get("path", "") for module in modules}
    unknown = set(kinds) - {"Transformer", "Pooling", "Normalize"}
    if unknown or "Transformer" not in kinds:
        raise ValueError(
            f"modules.json of {repository.name} lists {', '.join(sorted(kinds))}; computed here are Transformer, "
            "Pooling and Normalize."
        )
    settings: dict[str, Any] = {"normalize": "Normalize" in kinds}
    if "Pooling" in kinds:
        pooling = repository.json(f"{kinds['Pooling']}/config.json")
        modes = pooling.get("pooling_mode") or [name for key, name in _SWITCHES.items() if pooling.get(key)]
        settings["pooling"] = [modes] if isinstance(modes, str) else modes
    if repository.find("sentence_bert_config.json"):
        settings["max_tokens"] = repository.json("sentence_bert_config.json").get("max_seq_length")
    if repository.find("config_sentence_transformers.json"):
        extra = repository.json("config_sentence_transformers.json")
        settings["prompt"] = (extra.get("prompts") or {}).get(extra.get("default_prompt_name")) or ""
    transformer = kinds["Transformer"]
    return settings, repository.inside(transformer) if transformer else repository


class TextTask:
    """A model with a head, its tokenizer, and the job of turning texts into plain Python answers.

    Call it with any iterable of texts; it yields one answer a text, in order, while it reads.
    """

    auto: ClassVar[type[AutoClass]]

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.max_tokens = min(model.config.max_position_embeddings, tokenizer.model_max_length)

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, **options: Any) -> Any:
        """Read a folder or hub id; options as in `AutoModel.from_pretrained`."""
        repository, options = hub.open_with(name_or_path, options)
        return cls(cls.auto.from_pretrained(repository, **options), AutoTokenizer.from_pretrained(repository))

    def __call__(
        self, texts: Iterable[Any], *, batch_tokens: int = BATCH_TOKENS, show_progress: bool | None = None
    ) -> Iterator[Any]:
        """One answer for each text, in order."""
        total = len(texts) if isinstance(texts, Sequence) else None
        with progress(total, "text", show_progress) as bar:
            for window in windows(texts, WINDOW):
                pieces = [piece for number, text in enumerate(window) for piece in self.pieces(number, text)]
                lengths = [len(piece["input_ids"]) for _, piece in pieces]
                results = answer_in_order([piece for _, piece in pieces], lengths, batch_tokens, self._run)
                of_text: list[list[Any]] = [[] for _ in window]
                for (number, piece), result in zip(pieces, results, strict=True):
                    of_text[number].append((piece, result))
                for text, parts in zip(window, of_text, strict=True):
                    yield self.answer(text, parts)
                    bar.update(1)

    def pieces(self, number: int, text: Any) -> Iterator[tuple[int, Mapping[str, list]]]:
        """The text as model inputs, each with the text's number: one, cut at the model's maximum."""
        yield number, self.tokenizer(text, truncation=True, max_length=self.max_tokens)

    def overlapping(self, number: int, stride: int, *texts: str, **options: Any) -> Iterator[tuple[int, Mapping]]:
        """The text as windows that overlap by `stride` tokens, with character offsets."""
        windowed = self.tokenizer(
            *texts,
            max_length=self.max_tokens,
            stride=stride,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            return_special_tokens_mask=True,
            **{"truncation": True, **options},
        )
        for index in range(len(windowed["input_ids"])):
            piece = {name: windowed[name][index] for name in windowed}
            piece["sequence_ids"] = windowed.sequence_ids(index)
            yield number, piece

    @torch.inference_mode()
    def _run(self, pieces: list[Mapping[str, list]]) -> list[Any]:
        inputs = [
            {name: piece[name] for name in self.tokenizer.model_input_names if name in piece} for piece in pieces
        ]
        batch = self.tokenizer.pad(inputs, return_tensors="pt").to(self.model.device)
        return self.scores(self.model(**batch), [len(piece["input_ids"]) for piece in pieces])

    def scores(self, output: Any, lengths: list[int]) -> list[Any]:
        """The model's output as one item a piece, on the CPU."""
        return [logits[:length].float().cpu() for logits, length in zip(output.logits, lengths, strict=True)]

    def answer(self, text: Any, parts: list[tuple[Mapping[str, list], Any]]) -> Any:
        """The answer for one text from its pieces and their scores."""
        raise NotImplementedError


class TextClassifier(TextTask):
    """Texts -> [{"label", "score"}], best first: softmax, sigmoid (multi-label) or the bare number (regression)."""

    auto = AutoModelForSequenceClassification

    def scores(self, output: Any, lengths: list[int]) -> list[Any]:
        """See `TextTask`."""
        return list(output.logits.float().cpu())

    def answer(self, text: Any, parts: list[tuple[Mapping[str, list], Any]]) -> list[dict[str, Any]]:
        """See `TextTask`."""
        return ranked(self.model.config, parts[0][1])


def ranked(config: Any, logits: Tensor) -> list[dict[str, Any]]:
    """Scores (K,) of a classification head as [{"label", "score"}], best first."""
    kind = config.problem_type or ("regression" if config.num_labels == 1 else "single_label_classification")
    activation = {"regression": lambda x: x, "multi_label_classification": torch.sigmoid}
    values = activation.get(kind, lambda x: x.softmax(-1))(logits).tolist()
    order = sorted(range(len(values)), key=lambda index: -values[index])
    return [{"label": config.id2label[index], "score": values[index]} for index in order]


class EntityRecognizer(TextTask):
    """Texts -> entities [{"label", "score", "text", "start", "end"}] with character offsets.

    Neighbouring tokens of one type are one entity; B- starts a new one. A text longer than the model is read in
    overlapping windows, each token judged in the window where it stands farther from the edge.
    """

    auto = AutoModelForTokenClassification

    def pieces(self, number: int, text: str) -> Iterator[tuple[int, Mapping[str, list]]]:
        """See `TextTask`."""
        return self.overlapping(number, self.max_tokens // 4, text)

    def answer(self, text: str, parts: list[tuple[Mapping[str, list], Any]]) -> list[dict[str, Any]]:
        """See `TextTask`."""
        best: dict[tuple[int, int], tuple[int, Tensor]] = {}
        for piece, logits in parts:
            last = len(piece["input_ids"]) - 1
            for index, offsets in enumerate(piece["offset_mapping"]):
                edge = min(index, last - index)
                if not piece["special_tokens_mask"][index] and edge > best.get(tuple(offsets), (-1,))[0]:
                    best[tuple(offsets)] = edge, logits[index].softmax(-1)
        entities: list[dict[str, Any]] = []
        for (start, end), (_, scores) in sorted(best.items()):
            label = self.model.config.id2label[int(scores.argmax())]
            begins, name = label.startswith("B-"), re.sub(r"^[BI]-", "", label)
            if name == "O":
                entities.append({"label": None})
            elif begins or not entities or entities[-1]["label"] != name:
                entities.append({"label": name, "scores": [float(scores.max())], "start": start, "end": end})
            else:
                entities[-1]["scores"].append(float(scores.max()))
                entities[-1]["end"] = end
        return [
            {
                "label": entity["label"],
                "score": sum(entity["scores"]) / len(entity["scores"]),
                "text": text[entity["start"] : entity["end"]],
                "start": entity["start"],
                "end": entity["end"],
            }
            for entity in entities
            if entity["label"] is not None
        ]


class MaskFiller(TextTask):
    """Texts with mask tokens -> for each mask [{"token", "score"}], the five best first."""

    auto = AutoModelForMaskedLM
    best = 5

    def pieces(self, number: int, text: str) -> Iterator[tuple[int, Mapping[str, list]]]:
        """See `TextTask`; ValueError for a text without a mask."""
        for piece in super().pieces(number, text):
            if self.tokenizer.mask_token_id not in piece[1]["input_ids"]:
                raise ValueError(f"There is no {self.tokenizer.mask_token} among the first tokens of {text[:80]!r}.")
            yield piece

    def answer(self, text: str, parts: list[tuple[Mapping[str, list], Any]]) -> list[list[dict[str, Any]]]:
        """See `TextTask`."""
        ((piece, logits),) = parts
        masks = [i for i, token in enumerate(piece["input_ids"]) if token == self.tokenizer.mask_token_id]
        values, tokens = logits[masks].softmax(-1).topk(min(self.best, logits.shape[-1]))
        return [
            [
                {"token": self.tokenizer.decode([token]), "score": score}
                for token, score in zip(row, scores, strict=True)
            ]
            for row, scores in zip(tokens.tolist(), values.tolist(), strict=True)
        ]


class QuestionAnswerer(TextTask):
    """(question, text) pairs -> {"answer", "score", "start", "end"} with character offsets in the text.

    The score is the product of the probabilities of the answer's first and last token among the text's tokens
    (Devlin et al. 2019, 4.2); long texts are read in overlapping windows and the best window answers.
    """

    auto = AutoModelForQuestionAnswering
    longest_answer = 30  # tokens

    def pieces(self, number: int, text: tuple[str, str]) -> Iterator[tuple[int, Mapping[str, list]]]:
        """See `TextTask`."""
        return self.overlapping(number, self.max_tokens // 4, *text, truncation="only_second")

    def scores(self, output: Any, lengths: list[int]) -> list[Any]:
        """See `TextTask`."""
        both = torch.stack([output.start_logits, output.end_logits], dim=-1)
        return [logits[:length].float().cpu() for logits, length in zip(both, lengths, strict=True)]

    def answer(self, text: tuple[str, str], parts: list[tuple[Mapping[str, list], Any]]) -> dict[str, Any]:
        """See `TextTask`."""
        best: dict[str, Any] = {"answer": "", "score": 0.0, "start": 0, "end": 0}
        for piece, logits in parts:
            inside = torch.tensor([sequence == 1 for sequence in piece["sequence_ids"]])
            start, end = logits.masked_fill(~inside[:, None], float("-inf")).softmax(0).unbind(-1)
            spans = (start[:, None] * end[None]).triu().tril(self.longest_answer - 1)
            score, place = spans.flatten().max(0)
            first, last = divmod(int(place), len(end))
            if float(score) > best["score"]:
                begin, stop = piece["offset_mapping"][first][0], piece["offset_mapping"][last][1]
                best = {"answer": text[1][begin:stop], "score": float(score), "start": begin, "end": stop}
        return best
