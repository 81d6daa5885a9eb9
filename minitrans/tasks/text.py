"""Text in, results out: vectors, classes, entities, masked words, spans, choices."""

from __future__ import annotations

import inspect
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from itertools import chain
from typing import Any, ClassVar

import numpy as np
import torch
from typing_extensions import override

from minitrans import ops
from minitrans.auto import (
    AutoModel,
    AutoModelForMultipleChoice,
    AutoModelForNextSentencePrediction,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)
from minitrans.processing import kinds
from minitrans.processing.kinds import shown
from minitrans.tasks.base import Classifier, Piece, Task
from minitrans.tasks.options import COUNT, LABELS, SWITCH, TEMPLATE, or_none, read

logger = logging.getLogger("minitrans")

PAIR = ("text", "text_pair")
OBJECT = kinds.or_none(kinds.mapping(lambda value: True)), "an object, or null"
# How sentence-transformers names the activation of its Dense module -> our name.
ACTIVATIONS = {
    "torch.nn.modules.activation.GELU": "gelu",
    "torch.nn.modules.activation.ReLU": "relu",
    "torch.nn.modules.activation.SiLU": "silu",
    "torch.nn.modules.activation.Sigmoid": "sigmoid",
    "torch.nn.modules.activation.Tanh": "tanh",
    "torch.nn.modules.linear.Identity": "linear",
}


class TextTask(Task):
    """A task on texts; sizes and the budget are in tokens. A text over `max_tokens` is cut, and the log says so.

    A text is a string or a mapping with "text", as an example of a dataset; its other columns are left out.
    """

    processing = AutoTokenizer
    unit = "text"
    takes = 'a text (a string, or a mapping with "text")'
    budget = 4096
    options: ClassVar = {"max_tokens": COUNT}
    pairs: ClassVar[bool] = False  # whether an input may be two texts
    cut: ClassVar[bool | str] = True  # which text of a pair is cut, as a tokenizer's `truncation`

    def __init__(self, model: Any, tokenizer: Any, max_tokens: int | None = None) -> None:
        super().__init__(model, tokenizer)
        self.tokenizer = tokenizer
        self.most_tokens: int = model.config.max_position_embeddings
        wanted = self.most_tokens if max_tokens is None else read("max_tokens", max_tokens, COUNT)
        self.max_tokens: int = min(self.most_tokens, tokenizer.model_max_length, wanted)
        self.taken = {*inspect.signature(model.base_model.encode).parameters}

    @override
    def check(self) -> None:
        super().check()
        if self.max_tokens > self.most_tokens:
            raise ValueError(f"max_tokens is {self.max_tokens}; the model reads {self.most_tokens} tokens at most.")

    @property
    def group(self) -> int:  # type: ignore[override]
        """Texts are tokenized together."""
        return self.read_ahead

    def is_one(self, inputs: Any) -> bool:
        """A tuple of two strings is one input where a pair is."""
        return super().is_one(inputs) or (self.pairs and is_pair(inputs))

    def read(self, source: Any) -> Any:
        """An input as a string or a tuple of two; raises TypeError for anything else."""
        found = self.of_mapping(source) if isinstance(source, Mapping) else source
        if isinstance(found, str) or (self.pairs and is_pair(found)):
            return found
        raise self.refusal(source)

    def of_mapping(self, mapping: Mapping[str, Any]) -> Any:
        """The text, or the two, of a mapping."""
        odd = [key for key in mapping if key not in PAIR and re.search("text|pair", str(key))]
        if "text" not in mapping or odd:
            raise self.refusal(mapping, f"not a mapping with {', '.join(map(repr, mapping)) or 'nothing in it'}")
        if mapping.get("text_pair") is None:
            return mapping["text"]
        if not self.pairs:
            raise self.refusal(mapping, "not a pair of texts")
        return mapping["text"], mapping["text_pair"]

    def parts(self, text: Any) -> list[Any]:
        """What the model reads for one input: texts or pairs, each a sequence."""
        return [text]

    @override
    def prepare(self, found: list[Any]) -> Iterator[Piece]:
        parts = [self.parts(text) for text in found]
        texts = [self._beginning(text) for text in chain.from_iterable(parts)]
        examples = self._encoded(texts)
        long = [index for index, example in enumerate(examples) if len(example["input_ids"]) > self.max_tokens]
        if long:
            message = "%d of %d texts are longer than %d tokens and were cut."
            logger.warning(message, len(long), len(examples), self.max_tokens)
            shorter = self._encoded([texts[index] for index in long], truncation=self.cut, max_length=self.max_tokens)
            for index, example in zip(long, shorter, strict=True):
                examples[index] = example
        remaining = iter(examples)
        for text, own in zip(found, parts, strict=True):
            for number, example in enumerate(next(remaining) for _ in own):
                last = number + 1 == len(own)
                yield Piece(text, example, len(example["input_ids"]), last=last, done=int(last))

    def _beginning(self, text: Any) -> Any:
        """What is read of a text, or of each of a pair: of a very long one, words of more than `max_tokens` tokens.

        A token takes 500 bytes while a text is encoded. Where the last word is cut, those before it stay as they are.
        """
        if isinstance(text, tuple):
            return tuple(map(self._beginning, text))
        length = 32 * self.max_tokens
        while self.tokenizer.truncation_side == "right" and length < len(text):
            words = self.tokenizer(text[:length], add_special_tokens=False, verbose=False).word_ids()
            if words and words.index(words[-1]) > self.max_tokens:
                return text[:length]
            length *= 4
        return text

    def _encoded(self, texts: list[Any], **options: Any) -> list[dict[str, list[int]]]:
        encoding = self.tokenizer(texts, verbose=False, **options)
        columns = {name: values for name, values in encoding.items() if name in self.taken}
        return [{name: values[index] for name, values in columns.items()} for index in range(len(texts))]

    @override
    def run(self, pieces: list[Piece]) -> Sequence[Any]:
        # On the right, whatever the tokenizer's settings say: positions count from a text's first token.
        batch = self.tokenizer.pad([piece.inputs for piece in pieces], padding_side="right", return_tensors="pt")
        return self.outputs(batch.to(self.model.device), pieces)

    def outputs(self, batch: Any, pieces: list[Piece]) -> Sequence[Any]:
        """What `run` gives, from the batch of its tensors (B, N)."""
        raise NotImplementedError


def is_several(item: Any) -> bool:
    """Whether one can go over this and find texts."""
    return isinstance(item, Iterable) and not isinstance(item, (str, bytes, Mapping))


def is_pair(item: Any) -> bool:
    """Whether this is a tuple of two strings."""
    return isinstance(item, tuple) and len(item) == 2 and all(isinstance(text, str) for text in item)


class TokenVectors(TextTask):
    """Texts -> the last hidden states of their tokens (N, C) float32, those of special tokens among them."""

    auto = AutoModel
    pairs = True
    unneeded = r"(^|\.)pooler\."

    @property
    @override
    def shape(self) -> tuple[None, int]:
        return None, self.model.config.hidden_size

    @override
    def outputs(self, batch: Any, pieces: list[Piece]) -> Sequence[np.ndarray]:
        states = self.model(**batch)[0].float().cpu().numpy()
        return [state[: piece.size] for state, piece in zip(states, pieces, strict=True)]


class TextClassifier(Classifier, TextTask):
    """Texts, or pairs of them, -> [{"label", "score"}], best first; see `Classifier`.

    A pair is a tuple of two strings or a mapping with "text" and "text_pair".
    """

    auto = AutoModelForSequenceClassification
    takes = 'a text, a tuple of two, or a mapping with "text" and, for a pair, "text_pair"'
    options: ClassVar = {**Classifier.options, **TextTask.options}
    pairs = True

    @override
    def outputs(self, batch: Any, pieces: list[Piece]) -> Sequence[list[dict[str, Any]]]:
        return self.ranked(self.model(**batch).logits)


class ZeroShotClassifier(TextTask):
    """Texts -> [{"label", "score"}] of `candidate_labels`, best first, by an entailment checkpoint (Yin et al. 2019).

    Each label, put into `hypothesis_template`, is a hypothesis about the text. Scores are a softmax over the labels'
    entailment, or with `multi_label`, and for one label, of each one's entailment against its contradiction.
    """

    auto = AutoModelForSequenceClassification
    options: ClassVar = {
        **TextTask.options, "candidate_labels": LABELS, "hypothesis_template": TEMPLATE, "multi_label": SWITCH,
    }  # fmt: skip
    cut = "only_first"
    candidate_labels: Sequence[str] = ()
    hypothesis_template = "This example is {}."
    multi_label = False

    def __init__(self, model: Any, tokenizer: Any, max_tokens: int | None = None) -> None:
        super().__init__(model, tokenizer, max_tokens)
        names = {label.lower(): index for label, index in model.config.label2id.items()}
        self.entailment = next((index for name, index in names.items() if name.startswith("entail")), -1)
        if model.config.num_labels < 2:
            raise ValueError("Entailment needs a checkpoint of two classes or more; this one has one.")
        if self.entailment == -1:
            logger.warning(
                "No class of %s is called entailment: the last one is taken for it.", ", ".join(model.config.label2id)
            )

    @override
    def check(self) -> None:
        super().check()
        if not self.candidate_labels:
            raise ValueError(
                'There are no candidate_labels; name the classes, such as candidate_labels=["art", "law"].'
            )

    @override
    def parts(self, text: str) -> list[Any]:
        return [(text, self.hypothesis_template.format(label)) for label in self.candidate_labels]

    @override
    def outputs(self, batch: Any, pieces: list[Piece]) -> Sequence[torch.Tensor]:
        return list(self.model(**batch).logits.float().cpu())

    @override
    def assemble(self, found: Any, outputs: list[torch.Tensor]) -> list[dict[str, Any]]:
        logits = torch.stack(outputs)
        if self.multi_label or len(outputs) == 1:
            contradiction = -1 if self.entailment == 0 else 0
            scores = logits[:, [contradiction, self.entailment]].softmax(-1)[:, 1]
        else:
            scores = logits[:, self.entailment].softmax(0)
        named = zip(self.candidate_labels, scores.tolist(), strict=True)
        return sorted(({"label": label, "score": score} for label, score in named), key=lambda item: -item["score"])


class ListTask(TextTask):
    """A task on inputs (text, [texts]): one text and several that go with it.

    An input is a tuple, or a mapping with the two names of `columns`.
    """

    columns: ClassVar[tuple[str, str]]

    @override
    def is_one(self, inputs: Any) -> bool:
        return isinstance(inputs, (str, bytes, Mapping)) or self._is_list(inputs)

    @staticmethod
    def _is_list(item: Any) -> bool:
        return isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], str) and is_several(item[1])

    def read(self, source: Any) -> tuple[str, list[str]]:
        """ValueError for an empty list."""
        if isinstance(source, Mapping) and all(name in source for name in self.columns):
            found: Any = tuple(source[name] for name in self.columns)
        else:
            found = source
        if not self._is_list(found):
            raise self.refusal(source)
        text, others = found[0], list(found[1])
        if wrong := [other for other in others if not isinstance(other, str)]:
            raise self.refusal(source, f"and the list holds a {type(wrong[0]).__name__}")
        if not others:
            raise ValueError(f"There are no {self.columns[1]} for {text[:80]!r}.")
        return text, others

    @override
    def parts(self, text: tuple[str, list[str]]) -> list[Any]:
        return [(text[0], other) for other in text[1]]


class Reranker(ListTask):
    """(query, [documents]) -> [{"index", "score", "text"}] of the `top_k` best documents, by a cross-encoder.

    The score is a sigmoid, or what a sentence-transformers folder says in its configuration.
    """

    auto = AutoModelForSequenceClassification
    takes = 'a tuple (query, [documents]), or a mapping with "query" and "documents"'
    columns = ("query", "documents")
    options: ClassVar = {**TextTask.options, "top_k": or_none(COUNT)}
    top_k: int | None = None

    def __init__(self, model: Any, tokenizer: Any = None, max_tokens: int | None = None, **options: Any) -> None:
        if isinstance(model, (str, os.PathLike)):
            loaded = type(self).from_pretrained(model, **options)
            model, tokenizer = loaded.model, loaded.tokenizer
        super().__init__(model, tokenizer, max_tokens)
        if model.config.num_labels != 1:
            raise ValueError(
                f"A cross-encoder that ranks gives one number, this checkpoint {model.config.num_labels} classes: "
                "TextClassifier classifies pairs."
            )
        kinds.check_kinds(
            model.config.extra, {"sentence_transformers": OBJECT}, f"the configuration of {type(model).__name__}"
        )
        named = model.config.extra.get("sentence_transformers") or {}
        old = model.config.extra.get("sbert_ce_default_activation_function")
        activation = named.get("activation_fn") or old or "torch.nn.modules.activation.Sigmoid"
        if not isinstance(activation, str) or activation not in ACTIVATIONS:
            known = ", ".join(name.rpartition(".")[2] for name in ACTIVATIONS)
            raise ValueError(f"The configuration's activation is {activation!r}; computed here are {known}.")
        self.activation = ACTIVATIONS[activation]

    @override
    def outputs(self, batch: Any, pieces: list[Piece]) -> Sequence[float]:
        return ops.ACTIVATIONS[self.activation](self.model(**batch).logits[:, 0].float()).tolist()

    @override
    def assemble(self, found: tuple[str, list[str]], outputs: list[float]) -> list[dict[str, Any]]:
        _, documents = found
        ranked = sorted(range(len(documents)), key=lambda index: -outputs[index])[: self.top_k]
        return [{"index": index, "score": outputs[index], "text": documents[index]} for index in ranked]

    def predict(self, pairs: Any, **options: Any) -> Any:
        """The scores (n,) float32 of n pairs (query, document) in their order, a number for a single pair."""
        one = isinstance(pairs, (tuple, list)) and is_pair(tuple(pairs))
        if not one and not is_several(pairs):
            raise TypeError(f"predict takes pairs of texts (query, document), not {shown(pairs)}.")
        results = self(map(_query_and_document, [pairs] if one else pairs), **options)
        scores = np.array([result[0]["score"] for result in results], np.float32)
        return scores[0] if one else scores

    def rank(
        self, query: str, documents: Iterable[str], top_k: int | None = None, return_documents: bool = False
    ) -> list[dict[str, Any]]:
        """The documents' numbers ("corpus_id") and scores, best first, with their "text" where it is asked for."""
        (ranking,) = self([(query, documents)], top_k=top_k)
        text = ("text",) if read("return_documents", return_documents, SWITCH) else ()
        return [{"corpus_id": item["index"], **{key: item[key] for key in ("score", *text)}} for item in ranking]


def _query_and_document(pair: Any) -> tuple[str, list[str]]:
    """A pair as the reranker takes it."""
    found = tuple(pair) if is_several(pair) and not isinstance(pair, Set) else ()
    if not is_pair(found):
        raise TypeError(f"predict takes pairs of texts (query, document), not {shown(pair)}.")
    return found[0], [found[1]]


class ChoiceTask(ListTask):
    """(text, [choices]) -> [{"index", "score", "text"}] of the choices, the most likely continuation first.

    Scores are a softmax over the choices of one text, of which there may be any number.
    """

    auto = AutoModelForMultipleChoice
    takes = 'a tuple (text, [choices]), or a mapping with "text" and "choices"'
    columns = ("text", "choices")

    def outputs(self, batch: Any, pieces: list[Piece]) -> Sequence[float]:
        """A choice's score does not depend on the others."""
        return self.model(**{name: values[:, None] for name, values in batch.items()}).logits[:, 0].float().tolist()

    @override
    def assemble(self, found: tuple[str, list[str]], outputs: list[float]) -> list[dict[str, Any]]:
        _, choices = found
        scores = torch.tensor(outputs).softmax(0).tolist()
        ranked = sorted(range(len(choices)), key=lambda index: -scores[index])
        return [{"index": index, "score": scores[index], "text": choices[index]} for index in ranked]


class NextSentenceClassifier(TextTask):
    """Pairs of texts -> [{"label", "score"}]: whether the second follows the first ("next") or not ("random")."""

    auto = AutoModelForNextSentencePrediction
    takes = 'a tuple of two texts, or a mapping with "text" and "text_pair"'
    pairs = True

    def read(self, source: Any) -> tuple[str, str]:
        """A pair; raises TypeError for a single text."""
        found = super().read(source)
        if isinstance(found, str):
            raise self.refusal(source, f"not a single text: {found[:80]!r}")
        return found

    @override
    def outputs(self, batch: Any, pieces: list[Piece]) -> Sequence[list[dict[str, Any]]]:
        scores = self.model(**batch).logits.float().softmax(-1).tolist()
        named = ([{"label": label, "score": score} for label, score in zip(("next", "random"), pair, strict=True)]
                 for pair in scores)  # fmt: skip
        return [sorted(items, key=lambda item: -item["score"]) for items in named]


CrossEncoder = Reranker  # the name by which sentence-transformers' programs know it
