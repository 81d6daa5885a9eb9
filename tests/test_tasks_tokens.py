"""Entities by every scheme of labels and strategy, words that are not cut, and answers that there are none."""

import json
import logging
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import transformers
from test_tasks_text import TEXTS, checkpoint
from transformers import pipeline

import minitrans
from minitrans import EntityRecognizer
from minitrans.tasks.tokens import Spans

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [
    *SPECIAL,
    "new",
    "york",
    "city",
    "bob",
    "anna",
    "went",
    "to",
    "and",
    ",",
    ".",
    "u",
    "s",
    "##s",
    "##burg",
    "ham",
]
SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


def tagger(folder: Path, labels: list[str], tags: dict[str, str], **settings: Any) -> EntityRecognizer:
    """A recognizer that gives each word its tag, for certain, and O to the others."""
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    config = minitrans.BertConfig(vocab_size=len(WORDS), id2label=dict(enumerate(labels)), **SIZES)
    minitrans.BertForTokenClassification(config).save_pretrained(folder)
    task = EntityRecognizer.from_pretrained(folder).with_options(**settings)
    table = torch.full((len(WORDS), len(labels)), -20.0)
    for index, word in enumerate(WORDS):
        table[index, labels.index(tags.get(word, "O"))] = 20.0
    task.model.forward = lambda input_ids, **_: SimpleNamespace(logits=table[input_ids])
    return task


def found(task: EntityRecognizer, text: Any, **options: Any) -> list[tuple[str, str]]:
    return [(entity["label"], entity["text"]) for entity in task(text, **options)]


CITY = [("LOC", "new york city"), ("PER", "bob")]
# labels, the tag of each word, and the entities of "new york city and bob"
SCHEMES: dict[str, tuple[list[str], list[str], list[tuple[str, str]]]] = {
    "BIO": (["O", "B-LOC", "I-LOC", "B-PER", "I-PER"], ["B-LOC", "I-LOC", "I-LOC", "B-PER"], CITY),
    "IO": (["O", "I-LOC", "I-PER"], ["I-LOC", "I-LOC", "I-LOC", "I-PER"], CITY),
    "no places": (["O", "LOC", "PER"], ["LOC", "LOC", "LOC", "PER"], CITY),
    "BIOES": (["O", "B-LOC", "I-LOC", "E-LOC", "S-PER"], ["B-LOC", "I-LOC", "E-LOC", "S-PER"], CITY),
    "BILOU": (["O", "B-LOC", "I-LOC", "L-LOC", "U-PER"], ["B-LOC", "I-LOC", "L-LOC", "U-PER"], CITY),
    "BMES": (["O", "B-LOC", "M-LOC", "E-LOC", "S-PER"], ["B-LOC", "M-LOC", "E-LOC", "S-PER"], CITY),
    "lower case": (["O", "b-loc", "i-loc", "e-loc", "s-per"], ["b-loc", "i-loc", "e-loc", "s-per"],
                   [("loc", "new york city"), ("per", "bob")]),
    "an end ends": (["O", "B-LOC", "I-LOC", "E-LOC", "S-LOC"], ["B-LOC", "E-LOC", "I-LOC", "S-LOC"],
                    [("LOC", "new york"), ("LOC", "city"), ("LOC", "bob")]),
    "each alone": (["O", "U-LOC", "B-LOC"], ["U-LOC", "U-LOC", "U-LOC", "U-LOC"],
                   [("LOC", "new"), ("LOC", "york"), ("LOC", "city"), ("LOC", "bob")]),
    "lower case, an end ends": (["O", "b-loc", "i-loc", "e-loc", "s-loc"], ["b-loc", "e-loc", "i-loc", "s-loc"],
                                [("loc", "new york"), ("loc", "city"), ("loc", "bob")]),
    "lower case, each begins": (["O", "b-loc", "i-loc"], ["b-loc", "b-loc", "i-loc", "b-loc"],
                                [("loc", "new"), ("loc", "york city"), ("loc", "bob")]),
    "no beginning": (["O", "B-LOC", "E-LOC", "S-PER"], ["O", "E-LOC", "E-LOC", "S-PER"],
                     [("LOC", "york"), ("LOC", "city"), ("PER", "bob")]),
    "types that look like places": (["O", "E-MAIL", "S-BAHN", "PHONE"], ["E-MAIL", "E-MAIL", "S-BAHN", "PHONE"],
                                    [("E-MAIL", "new york"), ("S-BAHN", "city"), ("PHONE", "bob")]),
    "a type with a hyphen": (["O", "B-work-title", "I-work-title"], ["B-work-title", "I-work-title", "O", "O"],
                             [("work-title", "new york")]),
}  # fmt: skip


@pytest.mark.parametrize("scheme", SCHEMES)
def test_schemes(tmp_path: Path, scheme: str) -> None:
    labels, tags, expected = SCHEMES[scheme]
    task = tagger(tmp_path, labels, dict(zip(("new", "york", "city", "bob"), tags, strict=True)))
    assert found(task, "new york city and bob") == expected
    assert found(task, "and") == []
    assert found(task, "New York City, and Bob.") == [(label, text.title()) for label, text in expected]


class TestWords:
    """A word has one label, by whichever strategy; transformers#11887."""

    tags: ClassVar = {"ham": "B-LOC", "##burg": "I-PER", "##s": "O", "u": "B-LOC", ".": "I-LOC", "s": "I-LOC"}
    labels: ClassVar = ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]

    @pytest.mark.parametrize("strategy", ["first", "average", "max"])
    def test_is_not_cut(self, tmp_path: Path, strategy: str) -> None:
        task = tagger(tmp_path, self.labels, self.tags, aggregation_strategy=strategy)
        entities = found(task, "went to hamburgs")
        assert all(text == "hamburgs" for _, text in entities)
        assert strategy != "first" or entities == [("LOC", "hamburgs")]

    def test_simple_goes_by_tokens(self, tmp_path: Path) -> None:
        task = tagger(tmp_path, self.labels, self.tags)
        assert found(task, "hamburg") == [("LOC", "ham"), ("PER", "burg")]

    @pytest.mark.parametrize("strategy", ["first", "average", "max"])
    def test_that_the_caller_split(self, tmp_path: Path, strategy: str) -> None:
        """What is given as a word is one, with its punctuation."""
        task = tagger(tmp_path, self.labels, self.tags, aggregation_strategy=strategy)
        words = ["went", "to", "hamburg", "u.s.", "and", "bob"]
        for given in (words, {"tokens": words, "ner_tags": [0] * 6}, tuple(words)):
            entities = task(given, is_split_into_words=True)
            text = " ".join(words)
            assert [text[entity["start"] : entity["end"]] for entity in entities] == [
                entity["text"] for entity in entities
            ]
            pieces = " ".join(entity["text"] for entity in entities).split()
            assert set(pieces) <= set(words)
            assert "u.s." in pieces
        both = task([words, ["u.s."]], is_split_into_words=True)
        assert [entity["text"] for entity in both[1]] == ["u.s."]
        (joined,) = task([["u.s.", "u.s."]], is_split_into_words=True, delimiter="", aggregation_strategy="first")
        assert [(entity["start"], entity["end"]) for entity in joined] == [(0, 4), (4, 8)]

    def test_refused(self, tmp_path: Path) -> None:
        task = tagger(tmp_path, self.labels, self.tags)
        with pytest.raises(TypeError, match="a list of words, not a str"):
            task("a text", is_split_into_words=True)
        with pytest.raises(TypeError, match="a word of the list is a int"):
            task([["a", 5]], is_split_into_words=True)
        with pytest.raises(ValueError, match="aggregation_strategy is 'last'; it must be one of none, simple"):
            task("a text", aggregation_strategy="last")
        with pytest.raises(TypeError, match="EntityRecognizer has no option 'strategy'; it has max_tokens, overlap"):
            task("a text", strategy="last")


@pytest.mark.parametrize("overlap", [0, 5, 30])
def test_windows_overlap_as_asked(minilm: Path, tmp_path: Path, overlap: int) -> None:
    folder = checkpoint(minilm, tmp_path, "BertForTokenClassification", num_labels=3)
    task = EntityRecognizer.from_pretrained(folder).with_options(overlap=overlap, aggregation_strategy="none")
    pieces = list(task.pieces([" ".join(TEXTS) * 6]))
    assert len(pieces) > 2
    for one, other in pairwise(pieces):
        width = len(one.inputs["input_ids"]) - 2
        shared = one.inputs["input_ids"][1 + width - overlap : 1 + width]
        assert shared == other.inputs["input_ids"][1 : 1 + overlap]
    tokens = task(" ".join(TEXTS) * 6, ignore_labels=[])
    assert [token["index"] for token in tokens] == list(range(1, len(tokens) + 1))


def test_a_long_text_is_read_without_a_warning(minilm: Path, tmp_path: Path, caplog: Any) -> None:
    """Nothing of it is cut."""
    for head, task, text in (
        ("BertForTokenClassification", "EntityRecognizer", " ".join(TEXTS) * 6),
        ("BertForMaskedLM", "MaskFiller", " ".join(TEXTS) * 6 + "[MASK]"),
        ("BertForQuestionAnswering", "QuestionAnswerer", ("Why?", " ".join(TEXTS) * 6)),
    ):
        run = getattr(minitrans, task).from_pretrained(checkpoint(minilm, tmp_path / head, head))
        with caplog.at_level(logging.WARNING, "minitrans"):
            run([text, text])
        assert not caplog.records


def test_a_chunk_holds_one_token_of_the_text_at_least(minilm: Path, tmp_path: Path) -> None:
    answer = minitrans.QuestionAnswerer.from_pretrained(checkpoint(minilm, tmp_path, "BertForQuestionAnswering"))
    # Beside [CLS], two [SEP] and the question, 64 tokens have room for two of the text, one, none.
    for words, lengths in ((59, [64, 63]), (60, [64, 64, 64])):
        pairs = [("a " * words, "one two three")]
        assert [piece.size for piece in answer.pieces(pairs)] == lengths
        assert answer(pairs)[0]["answer"]
    with pytest.raises(ValueError, match=r"^'(a ){40}' leaves no room for its text: the model reads 64 tokens"):
        answer(("a " * 61, "one two three"))


@pytest.mark.parametrize("names", [{1: "a", 2: "b", 3: "c"}, {0: "a", 2: "b", 5: "c"}])
def test_labels_that_do_not_count_from_0(minilm: Path, tmp_path: Path, names: dict[int, str], caplog: Any) -> None:
    """Classes without a name are numbered, and the log says so."""
    folder = checkpoint(minilm, tmp_path, "BertForSequenceClassification", num_labels=3)
    config = folder / "config.json"
    values = minitrans.AutoConfig.from_pretrained(folder).to_dict()
    values |= {"id2label": {str(key): name for key, name in names.items()}, "label2id": {}}
    config.write_text(json.dumps(values))
    with caplog.at_level(logging.WARNING, "minitrans"):
        answer = minitrans.TextClassifier.from_pretrained(folder)(TEXTS[0])
    assert "id2label names the classes" in caplog.text
    scores = transformers.BertForSequenceClassification.from_pretrained(folder)
    row = transformers.AutoTokenizer.from_pretrained(folder)(TEXTS[0], return_tensors="pt")
    with torch.inference_mode():
        shares = scores(**row).logits[0].softmax(-1).tolist()
    expected = {names.get(index, f"LABEL_{index}"): share for index, share in enumerate(shares)}
    assert {item["label"]: item["score"] for item in answer} == pytest.approx(expected, rel=1e-5)


class TestAnswers:
    def test_are_whole_words(self, minilm: Path, tmp_path: Path) -> None:
        folder = checkpoint(minilm, tmp_path, "BertForQuestionAnswering")
        answer = minitrans.QuestionAnswerer.from_pretrained(folder)
        text = "Dún Laoghaire, Llanfairpwllgwyngyll and Czechoslovakia: unaffordability in uncharted surroundings."
        cut = 0
        for place in range(30):
            question = f"What about {place}?"
            found = answer(question=question, context=text)
            tokens = answer(question=question, context=text, align_to_words=False)
            for edge in (found["start"], found["end"]):
                assert edge == 0 or not text[edge - 1 : edge + 1].isalpha()
            assert found["start"] <= tokens["start"]
            assert found["end"] >= tokens["end"]
            assert found["score"] == tokens["score"]
            cut += (found["start"], found["end"]) != (tokens["start"], tokens["end"])
        assert cut

    def test_of_no_text(self, minilm: Path, tmp_path: Path) -> None:
        answer = minitrans.QuestionAnswerer.from_pretrained(checkpoint(minilm, tmp_path, "BertForQuestionAnswering"))
        assert answer(("Why?", "")) == {"answer": "", "score": 0.0, "start": 0, "end": 0}
        # [CLS] is the only token that counts: it is certain.
        certain = {"answer": "", "score": 1.0, "start": 0, "end": 0}
        assert answer(("Why?", ""), handle_impossible_answer=True) == certain
        assert answer(("Why?", ""), handle_impossible_answer=True, top_k=2)[0] == certain
        wrong: list[dict[str, Any]] = [{}, {"question": "Why?"}, {"context": ""}]
        for given in [*wrong, {"inputs": ("Why?", ""), "question": "Why?"}]:
            with pytest.raises(
                TypeError, match=r"takes a tuple \(question, text\), .*, or both question= and context="
            ):
                answer(**given)

    def test_no_answer_in_several_windows(self, minilm: Path, tmp_path: Path) -> None:
        """The least sum of [CLS]'s logits counts, against the best span of all."""
        folder = checkpoint(minilm, tmp_path, "BertForQuestionAnswering")
        answer = minitrans.QuestionAnswerer.from_pretrained(folder).with_options(handle_impossible_answer=True)
        text = " ".join(TEXTS * 5)
        pieces = list(answer.pieces([("Why?", text)]))
        assert len(pieces) > 2
        with torch.inference_mode():
            rows = answer.run(pieces)
        margin = min(row.null_logits for row in rows) - max(span for row in rows for span in row.best)[3]
        assert answer(("Why?", text), null_threshold=margin - 0.01)["answer"] == ""
        assert answer(("Why?", text), null_threshold=margin + 0.01)["answer"] != ""
        # The margin decides, even where "no answer" is more probable than the best span.
        likely = [Spans([(0.2, 3, 7, 1.0), (0.1, 0, 2, 0.5)], 0.9, 5.0)]
        found = answer.with_options(null_threshold=4.5, top_k=3).assemble(("Why?", text), likely)
        assert [(each["score"], each["start"], each["end"]) for each in found] == [
            (0.2, 3, 7),
            (0.9, 0, 0),
            (0.1, 0, 2),
        ]
        assert answer.with_options(null_threshold=3.5).assemble(("Why?", text), likely)["answer"] == ""
        # Of two windows, the least of each counts: 0.15, by which "no answer" is second, and a margin of 2.
        likely = [Spans([(0.2, 3, 7, 1.0)], 0.15, 5.0), Spans([(0.1, 0, 2, 0.5)], 0.9, 3.0)]
        several = answer.with_options(null_threshold=2.5, top_k=3).assemble(("Why?", text), likely)
        assert [each["score"] for each in several] == [0.2, 0.15, 0.1]
        assert answer.with_options(null_threshold=2.0).assemble(("Why?", text), likely)["answer"] == text[3:7]
        assert answer.with_options(null_threshold=1.9).assemble(("Why?", text), likely)["answer"] == ""


def test_a_target_that_is_no_word_is_said(minilm: Path, tmp_path: Path, caplog: Any) -> None:
    folder = checkpoint(minilm, tmp_path, "BertForMaskedLM")
    fill, theirs = minitrans.MaskFiller.from_pretrained(folder), pipeline("fill-mask", str(folder), device="cpu")
    with caplog.at_level(logging.WARNING, "minitrans"):
        (words,) = fill("The [MASK] leaves.", targets=["ferry", "unaffordability"], top_k=9)
    assert "'unaffordability' is not a word of the vocabulary: 'una' stands for it" in caplog.text
    expected = theirs("The [MASK] leaves.", targets=["ferry", "unaffordability"])
    assert [word["token"] for word in words] == [item["token_str"] for item in expected]
    assert np.allclose([word["score"] for word in words], [item["score"] for item in expected], rtol=1e-4)
    with pytest.raises(ValueError, match=r"targets is \[''\]; it must hold a word"):
        fill("The [MASK] leaves.", targets="")
    fill.tokenizer.mask_token = None
    with pytest.raises(ValueError, match="The tokenizer has no mask_token"):
        fill("The [MASK] leaves.")
