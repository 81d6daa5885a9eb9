"""Tasks on the tokens of texts of any length: entities, masked words, spans that answer a question."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, pairwise
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from minitrans.auto import AutoModelForMaskedLM, AutoModelForQuestionAnswering, AutoModelForTokenClassification
from minitrans.processing.kinds import shown
from minitrans.sequences import Sequences
from minitrans.tasks.base import Piece, check_labels, label_of
from minitrans.tasks.options import COUNT, NUMBER, SWITCH, TEXT, TEXTS, Option, named, or_none, whole
from minitrans.tasks.text import TextTask, is_pair, is_several

logger = logging.getLogger("minitrans")


@dataclass
class Chunk:
    """The tokens of a text that are judged in one piece.

    `tokens` are their places in the piece, `first` is the first one's place in the whole text's tokens, and for each:
    `offsets`, its characters in the text, `words`, the number of its word, `ids`.
    """

    tokens: slice
    first: int
    offsets: list[tuple[int, int]]
    words: list[int | None]
    ids: list[int]


class ChunkedTask(TextTask):
    """A task on the tokens of texts of any length: the model reads a long one in chunks that overlap.

    They overlap by `overlap` tokens, by default a quarter of a chunk. Of a pair, the second text is the one in
    question, and every chunk holds the first.
    """

    options: ClassVar = {**TextTask.options, "overlap": or_none(whole(0))}
    asked = 0  # which text of an input is in question
    overlap: int | None = None
    is_split_into_words = False

    @override
    def check(self) -> None:
        super().check()
        room = self.max_tokens - self.tokenizer.num_special_tokens_to_add(pair=self.pairs)
        if self.overlap and self.overlap >= room:
            raise ValueError(f"overlap is {self.overlap}; it must be less than a chunk, which is {room} tokens here.")

    @override
    def prepare(self, found: list[Any]) -> Iterator[Piece]:
        options = {"is_split_into_words": True} if self.is_split_into_words else {}
        encoding = self.tokenizer(found, return_offsets_mapping=True, verbose=False, **options)
        for index, text in enumerate(found):
            columns = {name: values[index] for name, values in encoding.items() if name in self.taken}
            offsets = self.placed(text, encoding["offset_mapping"][index], encoding.word_ids(index))
            yield from self._chunks(text, columns, offsets, encoding, index)

    def placed(self, text: Any, offsets: list[tuple[int, int]], words: list[int | None]) -> list[tuple[int, int]]:
        """Where in the text each token stands."""
        return offsets

    def _chunks(
        self, text: Any, columns: dict[str, list], offsets: list, encoding: Any, index: int
    ) -> Iterator[Piece]:
        owners, words = encoding.sequence_ids(index), encoding.word_ids(index)
        length = owners.count(self.asked)
        first = owners.index(self.asked) if length else len(owners)
        room = self.max_tokens - (len(owners) - length)
        if room < 1:
            raise ValueError(
                f"{text[0][:80]!r} leaves no room for its text: the model reads {self.max_tokens} tokens."
            )
        overlap = min(room // 4 if self.overlap is None else self.overlap, room - 1)
        spans = [
            range(start, min(start + room, length)) for start in range(0, max(length - overlap, 1), room - overlap)
        ]
        for span, judged in zip(spans, self.judged(spans), strict=True):
            begin, end = first + span.start, first + span.stop
            inputs = {
                name: values[:first] + values[begin:end] + values[first + length :] for name, values in columns.items()
            }
            tokens = slice(first + judged.start - span.start, first + judged.stop - span.start)
            own = slice(first + judged.start, first + judged.stop)
            part = Chunk(tokens, own.start, offsets[own], words[own], columns["input_ids"][own])
            last = span.stop == length
            yield Piece(text, inputs, len(inputs["input_ids"]), part, last, done=int(last))

    def judged(self, spans: list[range]) -> list[range]:
        """Which tokens are judged in each chunk: every token where it is farther from an edge."""
        cuts = [(before.stop + after.start) // 2 for before, after in pairwise(spans)]
        return [range(low, high) for low, high in pairwise([0, *cuts, spans[-1].stop])]


# The first letters of labels that say where in an entity a token stands: BIO, BIOES, BILOU, BMES and their kin.
INSIDE, LAST, ALONE = "IM", "EL", "SUW"
_strategy, STRATEGIES = named("none", "simple", "first", "average", "max")
STRATEGY: Option = (lambda value: _strategy("none" if value is None else value)), STRATEGIES


class EntityRecognizer(ChunkedTask):
    """Texts -> entities [{"label", "score", "text", "word", "start", "end"}] with character offsets.

    Labels say where in an entity a token stands (B- begins one, I- goes on; E- or L- ends it, S- or U- is one alone)
    or name a type only: neighbours of one type are one entity, whose score is their mean. `aggregation_strategy` is
    "simple", which goes by tokens, or "first", "average" or "max", by which all tokens of a word get the label of its
    first one, of their mean scores or of the surest one. "none" gives each token by itself, with its full label and
    its "index" among the tokens. `ignore_labels` are left out. "word" is what the tokens say, "text" what the source
    has there.

    With `is_split_into_words` an input is a list of words; offsets are those in the words joined by `delimiter`.

    >>> from minitrans import EntityRecognizer
    >>> from minitrans.demo import CHECKPOINTS
    >>> recognizer = EntityRecognizer.from_pretrained(CHECKPOINTS / "distilbert")
    >>> [(entity["label"], entity["text"]) for entity in recognizer("Greta lives in Lisbon.")]
    [('PER', 'Greta'), ('LOC', 'Lisbon')]
    """

    auto = AutoModelForTokenClassification
    options: ClassVar = {
        **ChunkedTask.options, "aggregation_strategy": STRATEGY, "ignore_labels": TEXTS,
        "is_split_into_words": SWITCH, "delimiter": TEXT,
    }  # fmt: skip
    aggregation_strategy = "simple"
    ignore_labels: Sequence[str] = ("O",)
    delimiter = " "

    def __init__(self, model: Any, tokenizer: Any, max_tokens: int | None = None) -> None:
        super().__init__(model, tokenizer, max_tokens)
        check_labels(model.config)
        labels = [label.upper() for label in model.config.id2label.values()]
        # E-MAIL among types without places is a type: the rarer letters count where every label has a place.
        placed = all(re.match(f"[B{INSIDE}{LAST}{ALONE}]-.", label) for label in labels if label != "O")
        self.places = f"[B{INSIDE}{LAST}{ALONE}]" if placed else "[BI]"

    @override
    def is_one(self, inputs: Any) -> bool:
        if self.is_split_into_words and isinstance(inputs, (list, tuple)):
            return bool(inputs) and all(isinstance(word, str) for word in inputs)
        return super().is_one(inputs)

    @override
    def __call__(self, inputs: Any, **options: Any) -> Any:
        if "is_split_into_words" in options:
            split = {"is_split_into_words": options.pop("is_split_into_words")}
            return self.with_options(**split)(inputs, **options)
        return super().__call__(inputs, **options)

    def read(self, source: Any) -> Any:
        """A list of words where inputs are split."""
        if not self.is_split_into_words:
            return super().read(source)
        for name in ("tokens", "words"):
            if isinstance(source, Mapping) and name in source:
                source = source[name]
        if not is_several(source):
            raise self.refusal(source, f"here split into a list of words, not a {type(source).__name__}")
        words = list(source)
        if wrong := [word for word in words if not isinstance(word, str)]:
            raise self.refusal(source, f"and a word of the list is a {type(wrong[0]).__name__}")
        return words

    @override
    def placed(self, text: Any, offsets: list[tuple[int, int]], words: list[int | None]) -> list[tuple[int, int]]:
        if not self.is_split_into_words:
            return offsets
        starts = np.cumsum([0, *(len(word) + len(self.delimiter) for word in text)]).tolist()
        moved = zip(offsets, words, strict=True)
        return [(a, b) if word is None else (a + starts[word], b + starts[word]) for (a, b), word in moved]

    @override
    def outputs(self, batch: Any, pieces: list[Piece]) -> Sequence[tuple[np.ndarray, Chunk]]:
        scores = self.model(**batch).logits.float().softmax(-1).cpu().numpy()
        return [(each[piece.part.tokens], piece.part) for each, piece in zip(scores, pieces, strict=True)]

    @override
    def assemble(self, found: Any, outputs: list[tuple[np.ndarray, Chunk]]) -> list[dict[str, Any]]:
        text = self.delimiter.join(found) if self.is_split_into_words else found
        tokens = [token for scores, chunk in outputs for token in self._tokens(text, scores, chunk)]
        if self.aggregation_strategy in ("first", "average", "max"):
            tokens = [self._word(word) for word in _words(tokens)]
        for token in tokens:
            best = int(token["scores"].argmax())
            token |= {"label": label_of(self.model.config.id2label, best), "score": float(token["scores"][best])}
        if self.aggregation_strategy == "none":
            entities = [{**token, "words": [token["token"]], "all": [token["score"]]} for token in tokens]
        else:
            entities = self._entities(tokens)
        kept = (entity for entity in entities if entity["label"] not in self.ignore_labels)
        return [self._shown(entity, text) for entity in kept]

    def _tokens(self, text: str, scores: np.ndarray, chunk: Chunk) -> Iterator[dict[str, Any]]:
        """What is known of each token."""
        names = self.tokenizer.convert_ids_to_tokens(chunk.ids)
        for place, (start, end) in enumerate(chunk.offsets):
            unknown = chunk.ids[place] == self.tokenizer.unk_token_id
            yield {
                "token": text[start:end] if unknown else names[place], "scores": scores[place],
                "start": start, "end": end, "word": chunk.words[place], "index": chunk.first + place,
            }  # fmt: skip

    def _word(self, tokens: list[dict[str, Any]]) -> dict[str, Any]:
        """The tokens of a word as one, with the scores that its label is found by."""
        if self.aggregation_strategy == "first":
            scores = tokens[0]["scores"]
        elif self.aggregation_strategy == "max":
            scores = max((token["scores"] for token in tokens), key=np.max)
        else:
            scores = np.mean([token["scores"] for token in tokens], axis=0)
        word = self.tokenizer.convert_tokens_to_string([token["token"] for token in tokens])
        return {"token": word, "scores": scores, "start": tokens[0]["start"], "end": tokens[-1]["end"]}

    def _entities(self, tokens: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Neighbours of one type as one entity."""
        entities: list[dict[str, Any]] = []
        ended = True
        for token in tokens:
            place, label = self._place(token["label"])
            if ended or place in f"B{ALONE}" or label != entities[-1]["label"]:
                entities.append({**token, "label": label, "words": [], "all": []})
            entities[-1]["words"].append(token["token"])
            entities[-1]["all"].append(token["score"])
            entities[-1]["end"] = token["end"]
            ended = place in LAST + ALONE
        return entities

    def _place(self, label: str) -> tuple[str, str]:
        """Where in an entity a label stands, by the letter of `INSIDE`, `LAST`, ... and the entity's type."""
        found = re.fullmatch(f"({self.places})-(.+)", label, re.IGNORECASE | re.DOTALL)
        return (found[1].upper(), found[2]) if found else ("I", label)

    def _shown(self, entity: dict[str, Any], text: str) -> dict[str, Any]:
        alone = self.aggregation_strategy == "none"
        word = entity["token"] if alone else self.tokenizer.convert_tokens_to_string(entity["words"])
        start, end = entity["start"], entity["end"]
        return {
            "label": entity["label"], "score": sum(entity["all"]) / len(entity["all"]), "text": text[start:end],
            "word": word, "start": start, "end": end, **({"index": entity["index"]} if alone else {}),
        }  # fmt: skip


def _words(tokens: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Tokens by their words; one that belongs to no word is its own."""
    group: list[dict[str, Any]] = []
    for token in tokens:
        if group and (token["word"] is None or token["word"] != group[-1]["word"]):
            yield group
            group = []
        group.append(token)
    if group:
        yield group


class MaskFiller(ChunkedTask):
    """Texts with mask tokens -> for each mask [{"token", "score", "id"}], the `top_k` best words first.

    With `targets`, a word or several, only those are given, with the same scores; a target that the vocabulary does
    not hold stands for its first token, and the log says so.
    """

    auto = AutoModelForMaskedLM
    options: ClassVar = {**ChunkedTask.options, "top_k": COUNT, "targets": or_none(TEXTS)}
    top_k = 5
    targets: Sequence[str] | None = None

    @override
    def check(self) -> None:
        super().check()
        if self.tokenizer.mask_token_id is None:
            raise ValueError("The tokenizer has no mask_token, and so no text a gap to fill.")
        self.target_ids = None if self.targets is None else self._target_ids()

    target_ids: list[int] | None = None

    def _target_ids(self) -> list[int]:
        vocabulary = self.tokenizer.get_vocab()
        found: dict[int, None] = {}
        for target in self.targets or ():
            index = vocabulary.get(target)
            if index is None:
                ids = self.tokenizer(target, add_special_tokens=False)["input_ids"][:1]
                said = f"{self.tokenizer.convert_ids_to_tokens(ids[0])!r} stands for it" if ids else "it is left out"
                logger.warning("The target %r is not a word of the vocabulary: %s.", target, said)
                index = ids[0] if ids else None
            if index is not None:
                found[index] = None
        if not found:
            raise ValueError(f"targets is {self.targets!r}; it must hold a word of the vocabulary at least.")
        return list(found)

    @override
    def outputs(self, batch: Any, pieces: list[Piece]) -> Sequence[list[list[dict[str, Any]]]]:
        asked = torch.zeros(batch["input_ids"].shape, dtype=torch.bool)
        for number, piece in enumerate(pieces):
            asked[number, piece.part.tokens] = True
        asked = asked.to(self.model.device) & (batch["input_ids"] == self.tokenizer.mask_token_id)
        counts = asked.sum(1).tolist()
        if not any(counts):
            return [[] for _ in pieces]
        # Words are scored for the masks alone: for all tokens it would take more time than the model.
        encoded = self.model.encode(**batch)
        rows = encoded.rows[encoded.sequences.pack(asked)]
        masks = replace(encoded, rows=rows, sequences=Sequences.full(1, len(rows), rows.device))
        scores = self.model.compute(masks).logits[0].float().softmax(-1)
        ids = torch.arange(scores.shape[1]) if self.target_ids is None else torch.tensor(self.target_ids)
        values, places = scores[:, ids.to(scores.device)].topk(min(self.top_k, len(ids)))
        words = iter(zip(ids[places.cpu()].tolist(), values.tolist(), strict=True))
        return [[self._words(*next(words)) for _ in range(count)] for count in counts]

    def _words(self, tokens: list[int], scores: list[float]) -> list[dict[str, Any]]:
        return [
            {"token": self.tokenizer.decode([token]), "score": score, "id": token}
            for token, score in zip(tokens, scores, strict=True)
        ]

    def assemble(self, found: str, outputs: list[list[list[dict[str, Any]]]]) -> list[list[dict[str, Any]]]:
        """ValueError for a text without a mask."""
        words = list(chain.from_iterable(outputs))
        if not words:
            raise ValueError(f"There is no {self.tokenizer.mask_token} in {found[:80]!r}.")
        return words


@dataclass
class Spans:
    """What a chunk says: its best spans, each (score, first character, end, sum of logits), and "no answer"."""

    best: list[tuple[float, int, int, float]]
    null_score: float
    null_logits: float


class QuestionAnswerer(ChunkedTask):
    """Questions about texts -> {"answer", "score", "start", "end"} with character offsets in the text.

    An input is a tuple (question, text) or a mapping with "question" and "context"; a call with `question=` and
    `context=` answers one or, of lists, several. The score is the product of the probabilities of the answer's first
    and last token (Devlin et al. 2019, 4.2) among the text's tokens and [CLS], which stands for "no answer"; of
    several chunks the most certain one answers. Answers are whole words (`align_to_words`) of `longest_answer`
    tokens at most; with a `top_k` above 1 they are a list, best first.

    With `handle_impossible_answer` an empty answer is given where the sum of [CLS]'s logits exceeds that of the best
    span's by more than `null_threshold` (4.3; of several chunks the least sum counts).
    """

    auto = AutoModelForQuestionAnswering
    takes = 'a tuple (question, text), or a mapping with "question" and "context"'
    options: ClassVar = {
        **ChunkedTask.options, "top_k": COUNT, "longest_answer": COUNT, "handle_impossible_answer": SWITCH,
        "null_threshold": NUMBER, "align_to_words": SWITCH,
    }  # fmt: skip
    pairs = True
    asked = 1
    top_k = 1
    longest_answer = 30  # tokens
    handle_impossible_answer = False
    null_threshold = 0.0
    align_to_words = True

    def __call__(self, inputs: Any = None, *, question: Any = None, context: Any = None, **options: Any) -> Any:
        """`question` and `context` are a string each, or lists; one string goes with each of a list."""
        if inputs is None and question is not None and context is not None:
            inputs = questions(question, context)
        elif inputs is None or question is not None or context is not None:
            raise TypeError(f"QuestionAnswerer takes {self.takes}, or both question= and context=.")
        return super().__call__(inputs, **options)

    @override
    def of_mapping(self, mapping: Mapping[str, Any]) -> Any:
        if "question" not in mapping or "context" not in mapping:
            raise self.refusal(mapping, f"not a mapping with {', '.join(map(repr, mapping)) or 'nothing in it'}")
        return mapping["question"], mapping["context"]

    @override
    def read(self, source: Any) -> tuple[str, str]:
        found = self.of_mapping(source) if isinstance(source, Mapping) else source
        if not is_pair(found):
            raise self.refusal(source)
        return found

    def judged(self, spans: list[range]) -> list[range]:
        """An answer may lie anywhere in a chunk."""
        return spans

    @override
    def outputs(self, batch: Any, pieces: list[Piece]) -> Sequence[Spans]:
        output = self.model(**batch)
        logits = torch.stack([output.start_logits, output.end_logits], dim=-1).float().cpu()
        return [self._best(scores, piece.part) for scores, piece in zip(logits, pieces, strict=True)]

    def _best(self, logits: Tensor, chunk: Chunk) -> Spans:
        """The best answers by logits (N, 2)."""
        logits = torch.cat([logits[:1], logits[chunk.tokens]])
        start, end = logits.softmax(0).unbind(-1)
        null = (start[0] * end[0]).item(), logits[0].sum().item()
        if not chunk.offsets:
            return Spans([], *null)
        start, end, logits = start[1:], end[1:], logits[1:]
        scores = (start[:, None] * end).triu().tril(self.longest_answer - 1).flatten()
        characters = self._characters(chunk)
        found: dict[tuple[int, int], tuple[float, int, int, float]] = {}
        # Spans of one word's tokens are one answer: more are looked at than are given.
        for score, place in zip(*(x.tolist() for x in scores.topk(min(len(scores), 20 * self.top_k))), strict=True):
            first, last = divmod(place, len(end))
            key = characters[first][0], characters[last][1]
            if last >= first and key not in found:
                found[key] = (score, *key, (logits[first, 0] + logits[last, 1]).item())
        return Spans([*found.values()][: self.top_k], *null)

    def _characters(self, chunk: Chunk) -> list[tuple[int, int]]:
        """The characters of each token, or of its word."""
        if not self.align_to_words:
            return chunk.offsets
        words: dict[Any, tuple[int, int]] = {}
        keys = [("token", place) if word is None else word for place, word in enumerate(chunk.words)]
        for key, (start, end) in zip(keys, chunk.offsets, strict=True):
            low, high = words.get(key, (start, end))
            words[key] = min(low, start), max(high, end)
        return [words[key] for key in keys]

    @override
    def assemble(self, found: tuple[str, str], outputs: list[Spans]) -> Any:
        _, text = found
        candidates: dict[tuple[int, int], tuple[float, int, int, float]] = {}
        for span in sorted(chain.from_iterable(output.best for output in outputs), reverse=True):
            candidates.setdefault(span[1:3], span)
        ranked = [*candidates.values()][: self.top_k]
        if not ranked:
            ranked = [(0.0, 0, 0, float("-inf"))]
        if self.handle_impossible_answer:
            score, logits = min(output.null_score for output in outputs), min(output.null_logits for output in outputs)
            beaten = sum(span[0] > score for span in ranked)
            place = 0 if logits - ranked[0][3] > self.null_threshold else max(beaten, 1)
            ranked = [*ranked[:place], (score, 0, 0, logits), *ranked[place:]][: self.top_k]
        answers = [
            {"answer": text[start:end], "score": score, "start": start, "end": end} for score, start, end, _ in ranked
        ]
        return answers[0] if self.top_k == 1 else answers


def questions(question: Any, context: Any) -> Any:
    """Pairs of questions and contexts; of one string and a list, the string with each of the list."""
    if isinstance(question, str) and isinstance(context, str):
        return question, context
    for name, value in (("question", question), ("context", context)):
        if not isinstance(value, str) and not is_several(value):
            raise TypeError(f"{name} is {shown(value)}; it must be a text or several.")
    asked = [question] if isinstance(question, str) else list(question)
    texts = [context] if isinstance(context, str) else list(context)
    count = max(len(asked), len(texts))
    asked = asked * count if isinstance(question, str) else asked
    texts = texts * count if isinstance(context, str) else texts
    if len(asked) != len(texts):
        raise ValueError(f"There are {len(asked)} questions and {len(texts)} contexts; each question has its own.")
    return list(zip(asked, texts, strict=True))
