"""The CTC beam search against an exhaustive search, and the folders of processors with a language model."""

import gzip
import json
import logging
import math
import sys
import types
from itertools import groupby, product

import numpy as np
import pytest
import torch
from standin_hub import StandInHub

import minitrans
from minitrans.processing import beam
from minitrans.processing.beam import ArpaModel, LanguageModel, aligned, search
from minitrans.processing.speech import Wav2Vec2ProcessorWithLM

SYMBOLS = [None, " ", "A", "B"]
ARPA = """\\data\\
ngram 1=5
ngram 2=4
ngram 3=1

\\1-grams:
-99\t<s>\t-0.30
-0.7\t</s>
-1.2\tA\t-0.25
-0.4\tB\t-0.10
-0.9\tAB\t-0.60

\\2-grams:
-0.2\t<s> AB\t-0.15
-0.5\tAB A\t-0.35
-0.1\tA B
-0.3\tB </s>

\\3-grams:
-0.05\t<s> AB A

\\end\\
"""
GRAMS = {1: {"<s>": (-99, -0.3), "</s>": (-0.7, 0), "A": (-1.2, -0.25), "B": (-0.4, -0.1), "AB": (-0.9, -0.6)},
         2: {"<s> AB": (-0.2, -0.15), "AB A": (-0.5, -0.35), "A B": (-0.1, 0), "B </s>": (-0.3, 0)},
         3: {"<s> AB A": (-0.05, 0)}}  # fmt: skip


@pytest.fixture(scope="module")
def arpa(tmp_path_factory):
    path = tmp_path_factory.mktemp("arpa") / "3gram.arpa"
    path.write_text(ARPA)
    return path


def katz(history, word):
    """log10 p(word | history) by the definition of back-off models; -100 for a word that is not there."""
    history = history[-2:]
    key = " ".join((*history, word))
    if key in GRAMS[len(history) + 1]:
        return GRAMS[len(history) + 1][key][0]
    if not history:
        return -100.0  # what kenlm gives an unknown word
    return GRAMS[len(history)].get(" ".join(history), (0, 0))[1] + katz(history[1:], word)


@pytest.mark.parametrize("history", [(), ("<s>",), ("AB",), ("<s>", "AB"), ("AB", "A"), ("A", "B"), ("B", "zzz")])
@pytest.mark.parametrize("word", ["A", "B", "AB", "</s>", "zzz"])
@pytest.mark.parametrize("form", ["tabs", "spaces", "gz"])
def test_probabilities_of_an_arpa_file(tmp_path, arpa, form, history, word):
    path = {"tabs": arpa, "spaces": tmp_path / "a.arpa", "gz": tmp_path / "a.arpa.gz"}[form]
    if form == "spaces":
        path.write_text(ARPA.replace("\t", "  "))
    if form == "gz":
        path.write_bytes(gzip.compress(ARPA.encode()))
    model = ArpaModel(path)
    state = ()
    for known in history:
        _, state = model.score(state, known) if known != "<s>" else (0, model.start(True))
    if "zzz" in history:  # what is unknown is a history of no n-gram
        history = ()
    assert model.score(state, word)[0] == pytest.approx(katz(history, word))
    assert (word in model) == (word != "zzz")


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("boundary", [True, False])
def test_models_of_every_order(tmp_path, order, boundary):
    """Random models, of which each word follows no more than order - 1 others."""
    chance = np.random.default_rng(order)
    grams = {}
    for words in (words for n in range(1, order + 1) for words in product(["<s>", "A", "B", "<unk>"], repeat=n)):
        if len(words) == 1 or chance.random() < 0.6:
            grams[words] = -chance.random(), -chance.random() if chance.random() < 0.7 else 0.0
    counts = [f"ngram {n}={sum(len(words) == n for words in grams)}" for n in range(1, order + 1)]
    lines = ["made by hand", "", "\\data\\", *counts]
    for n in range(1, order + 1):
        lines += ["", f"\\{n}-grams:"]
        for words, (value, backoff) in grams.items():
            if len(words) == n:
                lines.append(f"{value} {' '.join(words)}" + (f" {backoff} of no meaning" if backoff else ""))
    (tmp_path / "a.arpa").write_text("\n".join([*lines, "", "\\end\\", "the end"]))
    model = ArpaModel(tmp_path / "a.arpa")

    def expected(history, word):
        history = history[max(0, len(history) - order + 1) :]
        if (*history, word) in grams:
            return grams[(*history, word)][0]
        return grams.get(history, (0, 0))[1] + expected(history[1:], word)

    for words in product(["A", "B", "zzz"], repeat=4):
        state, history = model.start(boundary), ("<s>",) if boundary else ()
        for word in words:
            known = word if word in "AB" else "<unk>"
            score, state = model.score(state, word)
            assert score == pytest.approx(expected(history, known))
            history = (*history, known)
    assert "<unk>" not in model  # it stands for words that are not there


def words_of(path):
    text = "".join(SYMBOLS[token] for token, _ in groupby(path) if token)
    return " ".join(text.split())


def score_of(words, model, ended=True):
    """The language model's part by its definition, of a whole text or of finished words that others follow."""
    if model is None:
        return 0.0
    history, total = (("<s>",) if model.score_boundary else ()), 0.0
    for word in words.split():
        known = word in GRAMS[1]
        unknown = not known or bool(model.unigrams and word not in model.unigrams)
        total += model.alpha * math.log(10) * (katz(history, word) + model.unk_score_offset * unknown) + model.beta
        history = (*history, word if known else "<unk>")
    if model.score_boundary and ended:
        total += model.alpha * math.log(10) * katz(history, "</s>")
    return total


def exhaustive(logp, model):
    """Every text of any alignment with ln p of the frames and the whole score, best first."""
    sums = {}
    for path in product(range(len(SYMBOLS)), repeat=len(logp)):
        value = sum(logp[time, token] for time, token in enumerate(path))
        text = words_of(path)
        sums[text] = np.logaddexp(sums.get(text, -np.inf), value)
    rows = [(text, value, value + score_of(text, model)) for text, value in sums.items()]
    return sorted(rows, key=lambda row: row[2], reverse=True)


def frames(seed, count, sharpness):
    logits = np.random.default_rng(seed).normal(size=(count, len(SYMBOLS))) * sharpness
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


SETTINGS = [
    None,
    {},
    {"alpha": 1.3, "beta": -0.4, "unk_score_offset": -2.0},
    {"score_boundary": False, "unigrams": frozenset({"A", "AB"})},
    {"alpha": 0.2, "beta": 3.0, "unigrams": frozenset({"B", "AB", "BA"})},
]


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("count", [1, 2, 4, 6])
@pytest.mark.parametrize("sharpness", [0.5, 3.0])
def test_the_search_is_exact(arpa, settings, count, sharpness):
    model = None if settings is None else LanguageModel(ArpaModel(arpa), **settings)
    for seed in range(3):
        logp = frames(seed, count, sharpness)
        expected = exhaustive(logp, model)
        found = search(logp, SYMBOLS, model, width=10**6)
        assert len(found) == len(expected)
        for item, (_, _, score) in zip(found, expected, strict=True):
            assert item.lm_score == pytest.approx(score)
        by_text = {text: value for text, value, _ in expected}
        for item in found:
            assert item.logit_score == pytest.approx(by_text[item.text])
            assert words_of([t for token in item.tokens for t in (token, 0)]) == item.text
        assert search(logp, SYMBOLS, model)[0].text == expected[0][0]  # a hundred texts are enough here


@pytest.mark.parametrize("options", [{"token_min_logp": -4.0}, {"beam_prune_logp": -8.0}, {"width": 8}])
def test_pruning_leaves_the_best_of_clear_frames(arpa, options):
    model = LanguageModel(ArpaModel(arpa))
    for seed in range(5):
        logp = frames(seed, 6, 4.0)
        assert search(logp, SYMBOLS, model, **options)[0].text == search(logp, SYMBOLS, model, width=10**6)[0].text


def plain_search(logp, symbols, model, width, beam_prune_logp=-np.inf, token_min_logp=-np.inf):
    """The rows of `exhaustive` for the texts that are left where each frame keeps the best: every token is tried."""
    blank, beams = symbols.index(None), {("", symbols.index(None)): 0.0}
    for frame in logp:
        likely = [token for token in range(len(symbols)) if frame[token] >= token_min_logp] or [int(frame.argmax())]
        grown, totals, scores = {}, {}, {}
        for (text, last), value in beams.items():
            for token in {*likely, last, blank}:
                if token in (last, blank) or (symbols[token] == " " and text[-1:] in ("", " ")):
                    longer = text
                else:
                    longer = text + symbols[token]
                grown[longer, token] = np.logaddexp(grown.get((longer, token), -np.inf), value + frame[token])
        for (text, _), value in grown.items():
            totals[text] = np.logaddexp(totals.get(text, -np.inf), value)
        for text, value in totals.items():
            words, _, part = text.rpartition(" ")
            scores[text] = value + score_of(words, model, ended=False)
            if model and model.unigrams and not any(word.startswith(part) for word in model.unigrams):
                scores[text] += model.alpha * math.log(10) * model.unk_score_offset
        best = sorted(scores, key=scores.get, reverse=True)[:width]
        kept = {text for text in best if scores[text] >= scores[best[0]] + beam_prune_logp}
        beams = {(text, last): value for (text, last), value in grown.items() if text in kept}
    sums = {}
    for (text, _), value in beams.items():
        sums[text.strip()] = np.logaddexp(sums.get(text.strip(), -np.inf), value)
    rows = [(text, value, value + score_of(text, model)) for text, value in sums.items()]
    return sorted(rows, key=lambda row: row[2], reverse=True)


def test_a_hundred_texts_are_kept_where_nothing_is_said():
    """The published default of pyctcdecode, with which transformers decodes."""
    symbols = [*"ABCDEFGH", None]
    logp = np.log(np.random.default_rng(0).dirichlet(np.ones(len(symbols)), 6))
    assert len(search(logp, symbols, None)) == 100


PRUNING = [{}, {"beam_prune_logp": -3.0}, {"token_min_logp": -1.5}, {"beam_prune_logp": -2.0, "token_min_logp": -2.0}]


@pytest.mark.parametrize("settings", [None, {}, SETTINGS[3], SETTINGS[4]])
@pytest.mark.parametrize("options", PRUNING)
@pytest.mark.parametrize("width", [1, 3, 8])
def test_a_narrow_search_finds_what_a_plain_one_does(arpa, settings, options, width):
    """The same best text, and about its probability, where the ways that are left out early matter little."""
    model = None if settings is None else LanguageModel(ArpaModel(arpa), **settings)
    for seed in (0, 1, 2, 4, 5):  # they matter in those of seed 3
        chance = np.random.default_rng(seed)
        order = chance.permutation(len(SYMBOLS))  # the blank stands anywhere
        logp, symbols = frames(seed, 8, 1.5)[:, order], [SYMBOLS[place] for place in order]
        never = chance.random(logp.shape) < 0.15
        never[np.arange(len(logp)), logp.argmax(1)] = False
        logp[never] = -np.inf
        found = search(logp, symbols, model, width, **options)
        text, logit_score, lm_score = plain_search(logp, symbols, model, width, **options)[0]
        assert found[0].text == text
        assert found[0].logit_score == pytest.approx(logit_score, abs=math.log(2))
        assert found[0].lm_score - found[0].logit_score == pytest.approx(lm_score - logit_score)
        assert len(found) <= width
        assert all(math.isfinite(item.logit_score) for item in found)


@pytest.mark.parametrize("words", [["AB"], ["BAB", "A"], ["AAA", "AAB", "C"]])
def test_the_beginning_of_a_word_that_is_unknown_costs_at_once(arpa, words):
    model = LanguageModel(ArpaModel(arpa), frozenset(words), alpha=0.7, unk_score_offset=-3.0)
    for part in ("".join(letters) for count in range(1, 5) for letters in product("ABC", repeat=count)):
        known = any(word.startswith(part) for word in words)
        assert model.part(part) == pytest.approx(0 if known else -3.0 * 0.7 * math.log(10))
        assert LanguageModel(ArpaModel(arpa)).part(part) == 0  # where no words are listed, any may be known


def test_the_likeliest_alignment():
    for seed in range(6):
        logp = frames(seed, 6, 2.0)
        for tokens in ((2,), (2, 2), (2, 3, 2), (2, 1, 3), (3, 3, 3)):
            best = max(
                (path for path in product(range(4), repeat=6) if tuple(t for t, _ in groupby(path) if t) == tokens),
                key=lambda path: sum(logp[time, token] for time, token in enumerate(path)),
            )
            spans, time = [], 0
            for token, run in groupby(best):
                length = len(list(run))
                spans += [(time, time + length)] if token else []
                time += length
            assert aligned(logp, tokens, 0) == spans
    assert aligned(logp, (), 0) == []
    with pytest.raises(ValueError, match="2 frames are too few"):
        aligned(frames(0, 2, 1.0), (2, 2), 0)


@pytest.mark.parametrize("seed", range(3))
def test_a_long_recording(arpa, seed):
    """A text of 400 words comes back, each token in its own frames, doubled letters among them."""
    generator = np.random.default_rng(seed)
    words = generator.choice(["A", "B", "AB", "AAB", "BBA"], 400)
    letters = {"A": 2, "B": 3, "|": 1}
    tokens = [letters[letter] for letter in "|".join(words)]
    path, spans = [], []
    for token, last in zip(tokens, [0, *tokens], strict=False):
        path += [0] * int(generator.integers(token == last, 4))
        length = int(generator.integers(1, 4))
        spans.append((len(path), len(path) + length))
        path += [token] * length
    scores = generator.normal(size=(len(path), 4))
    scores[np.arange(len(path)), path] += 12.0
    logp = scores - np.log(np.exp(scores).sum(1, keepdims=True))
    for model in (None, LanguageModel(ArpaModel(arpa), alpha=0.02)):
        found = search(logp, SYMBOLS, model)
        assert found[0].text.split() == words.tolist()
        assert list(found[0].tokens) == tokens
        assert found[0].logit_score == pytest.approx(logp[np.arange(len(path)), path].sum(), abs=0.1)
        assert len({item.text for item in found}) == len(found)
    assert aligned(logp, tokens, 0) == spans


@pytest.mark.parametrize("kept", [3, 4])
def test_what_is_settled_changes_nothing_to_come(arpa, monkeypatch, kept):
    for seed in range(5):
        logp = frames(seed, 80, 3.0)
        model = LanguageModel(ArpaModel(arpa), alpha=0.05)
        monkeypatch.setattr(beam, "KEPT", 10**6)
        whole = search(logp, SYMBOLS, model, 1000)[0]
        monkeypatch.setattr(beam, "KEPT", kept)
        best = search(logp, SYMBOLS, model, 1000)[0]
        assert whole.text.count(" ") >= 2 * kept
        assert (best.text, best.tokens) == (whole.text, whole.tokens)
        assert best.lm_score >= whole.lm_score - 0.01  # fewer ways to spell it are lost among other texts


# -- processors


def folder(path, files=None, **settings):
    """A processor's folder as transformers writes it with pyctcdecode's files beside."""
    vocab = {"<pad>": 0, "|": 1, "A": 2, "B": 3}
    roles = {"bos_token": None, "eos_token": None, "unk_token": None}
    tokenizer = minitrans.Wav2Vec2CTCTokenizer(vocab, **roles, **settings)
    minitrans.Wav2Vec2Processor(minitrans.Wav2Vec2FeatureExtractor(), tokenizer).save_pretrained(path)
    config = json.loads((path / "processor_config.json").read_text())
    (path / "processor_config.json").write_text(json.dumps({**config, "processor_class": "Wav2Vec2ProcessorWithLM"}))
    (path / "language_model").mkdir()
    defaults = {"3gram.arpa": ARPA, "unigrams.txt": "A\nB\nAB\n", "attrs.json": '{"alpha": 0.7, "beta": 0.2}'}
    for name, content in {**defaults, **(files or {})}.items():
        if content is not None:
            (path / "language_model" / name).write_text(content)
    (path / "alphabet.json").write_text(json.dumps({"labels": ["", " ", "A", "B"], "is_bpe": False}))
    return path


@pytest.mark.parametrize("lower", [False, True])
def test_a_folder_with_a_language_model(tmp_path, arpa, lower):
    processor = minitrans.AutoProcessor.from_pretrained(folder(tmp_path / "a", do_lower_case=lower))
    assert type(processor) is Wav2Vec2ProcessorWithLM
    assert (processor.decoder.alpha, processor.decoder.beta) == (0.7, 0.2)
    processor.save_pretrained(tmp_path / "b")
    again = Wav2Vec2ProcessorWithLM.from_pretrained(tmp_path / "b", beta=1.0)
    assert (again.decoder.alpha, again.decoder.beta) == (0.7, 1.0)
    words = frozenset({"A", "B", "AB"})
    for seed in range(4):
        logp = frames(seed, 5, 2.0)
        expected = exhaustive(logp, LanguageModel(ArpaModel(arpa), words, alpha=0.7, beta=0.2))
        logits = torch.from_numpy(logp * 1.0 + 3.0)
        found = processor.decode(logits, output_word_offsets=True)
        assert found.text == (expected[0][0].lower() if lower else expected[0][0])
        assert found.logit_score == pytest.approx(expected[0][1])
        assert found.lm_score == pytest.approx(expected[0][2])
        assert [item["word"] for item in found.word_offsets] == expected[0][0].split()
        ends = [edge for item in found.word_offsets for edge in (item["start_offset"], item["end_offset"])]
        assert ends == sorted(ends)
        best = processor.decode(logits, n_best=3)
        assert best.lm_score == pytest.approx([row[2] for row in expected[:3]])
        other = processor.decode(logits, alpha=2.0, beta=-1.0, unk_score_offset=-1.0, lm_score_boundary=False)
        model = LanguageModel(ArpaModel(arpa), words, 2.0, -1.0, -1.0, False)
        assert other.lm_score == pytest.approx(exhaustive(logp, model)[0][2])
        padded = np.concatenate([logp, np.full((2, 4), -100.0)])
        batch = processor.batch_decode(np.stack([padded, padded]), num_processes=2)
        assert batch.text == [found.text] * 2
        assert batch.word_offsets is None


def test_options_of_decoding_reach_the_search(tmp_path, arpa):
    """Each by its own name: where it changes the texts at all, the processor gives those of the search."""
    processor = minitrans.AutoProcessor.from_pretrained(folder(tmp_path))
    model = LanguageModel(ArpaModel(arpa), frozenset({"A", "B", "AB"}), alpha=0.7, beta=0.2)
    changed = set()
    for seed in range(6):
        logp = frames(seed, 6, 1.0)
        usual = [item.lm_score for item in search(logp, SYMBOLS, model)]
        for name, value in (("beam_width", 2), ("beam_prune_logp", -1.0), ("token_min_logp", -1.0)):
            expected = search(logp, SYMBOLS, model, **{{"beam_width": "width"}.get(name, name): value})
            found = processor.decode(logp, n_best=10**6, **{name: value})
            assert found.text == [item.text for item in expected]
            assert found.lm_score == pytest.approx([item.lm_score for item in expected])
            assert found.logit_score == pytest.approx([item.logit_score for item in expected])
            changed |= {name} if found.lm_score != pytest.approx(usual) else set()
    assert changed == {"beam_width", "beam_prune_logp", "token_min_logp"}


def test_one_text_is_no_list_and_more_are(tmp_path):
    processor = minitrans.AutoProcessor.from_pretrained(folder(tmp_path))
    logits = frames(0, 5, 2.0)
    options = {"output_word_offsets": True, "output_char_offsets": True}
    one, two = (processor.decode(logits, n_best=count, **options) for count in (1, 2))
    assert set(one) == set(two) == {"text", "logit_score", "lm_score", "word_offsets", "char_offsets"}
    assert {name: two[name][0] for name in two} == one
    assert {name: len(two[name]) for name in two} == dict.fromkeys(two, 2)
    assert set(processor.decode(logits)) == {"text", "logit_score", "lm_score"}
    for name in options:
        asked = processor.decode(logits, **{name: True})
        (offsets,) = set(asked) - {"text", "logit_score", "lm_score"}
        assert offsets == name.removeprefix("output_")
        assert asked[offsets] == one[offsets]
        assert getattr(processor.decode(logits), offsets, None) is None
    batch = processor.batch_decode(np.stack([logits, logits[::-1]]), n_best=2, **options)
    assert {name: batch[name][0] for name in batch} == two
    assert batch.text[1] == processor.decode(logits[::-1], n_best=2).text
    assert processor.batch_decode([]) == {}


def test_characters_and_words_have_their_frames(tmp_path):
    """Of clear frames: "A BB A", whose second B stands after a blank."""
    processor = minitrans.AutoProcessor.from_pretrained(folder(tmp_path))
    path = [0, 2, 2, 1, 3, 0, 3, 3, 1, 1, 2]
    logits = np.full((len(path), 4), -30.0)
    logits[np.arange(len(path)), path] = 30.0
    spans = [("A", 1, 3), (" ", 3, 4), ("B", 4, 5), ("B", 6, 8), (" ", 8, 10), ("A", 10, 11)]
    words = [("A", 1, 3), ("BB", 4, 8), ("A", 10, 11)]
    for decoder in (processor.decoder, None):
        processor.decoder = decoder
        found = processor.decode(logits, alpha=0.0, output_word_offsets=True, output_char_offsets=True)
        assert found.text == "A BB A"
        assert [tuple(item.values()) for item in found.char_offsets] == spans
        assert [tuple(item.values()) for item in found.word_offsets] == words
        assert [list(item) for item in (found.char_offsets[0], found.word_offsets[0])] == [
            ["char", "start_offset", "end_offset"], ["word", "start_offset", "end_offset"]
        ]  # fmt: skip


@pytest.mark.parametrize("padded", ["whole", "one value"])
def test_frames_of_padding_are_left_out(tmp_path, padded):
    """A frame that holds -100 is none, as in transformers; what lies near it is one."""
    processor = minitrans.AutoProcessor.from_pretrained(folder(tmp_path))
    logits = frames(3, 6, 2.0)
    batch = np.stack([logits, logits])
    batch[1, 4:] = -100.0 if padded == "whole" else batch[1, 4:]
    batch[1, 4:, 2] = -100.0
    found = processor.batch_decode(torch.from_numpy(batch))
    expected = [processor.decode(logits), processor.decode(logits[:4])]
    assert found.text == [item.text for item in expected]
    assert found.lm_score == pytest.approx([item.lm_score for item in expected])
    for near in (-99.0, -101.0):
        logits[2] = [near, near, near - 0.25, near]
        (score,) = processor.batch_decode(logits[None]).logit_score
        assert score == pytest.approx(processor.decode(logits).logit_score)


@pytest.mark.parametrize(
    "make", [torch.tensor, np.ndarray.tolist, np.float16, lambda x: torch.tensor(x).bfloat16().requires_grad_()]
)
def test_logits_of_every_kind_and_height(tmp_path, make):
    processor = minitrans.AutoProcessor.from_pretrained(folder(tmp_path))
    logits = np.round(frames(1, 5, 2.0) * 8) / 8  # which bfloat16 holds
    expected = processor.decode(logits)
    found = processor.decode(make(logits))
    assert (found.text, found.lm_score) == (expected.text, pytest.approx(expected.lm_score))
    for height in (1e4, -1e4):  # whose exponential no float64 holds
        found = processor.decode(logits + height)
        assert (found.text, found.logit_score) == (expected.text, pytest.approx(expected.logit_score))


def test_the_vocabulary_and_its_logits(tmp_path):
    """A model may have more tokens than the tokenizer, which must know of the blank."""
    extractor = minitrans.Wav2Vec2FeatureExtractor()
    vocab = {"|": 0, "A": 1, "B": 2}
    roles = {"bos_token": None, "eos_token": None, "unk_token": None}
    added = minitrans.Wav2Vec2CTCTokenizer(vocab, **roles, pad_token="<pad>")
    processor = Wav2Vec2ProcessorWithLM(extractor, added)
    assert added.pad_token_id == 3
    with pytest.raises(ValueError, match="The logits are of 3 tokens, and the tokenizer has 4"):
        processor.decode(np.zeros((2, 3)))
    path = np.array([1, 3, 1, 0, 2])
    for more in (4, 6):
        assert processor.decode(np.eye(more)[path] * 9).text == "AA B"
    without = minitrans.Wav2Vec2CTCTokenizer(vocab, **roles, pad_token=None)
    with pytest.raises(ValueError, match="The logits are of 4 tokens, and the tokenizer has 3"):
        Wav2Vec2ProcessorWithLM(extractor, without).decode(np.zeros((2, 4)))


def test_weights_are_those_given_and_are_saved(tmp_path):
    weights = {"alpha": 0.9, "beta": -0.5, "unk_score_offset": -3.0, "score_boundary": False}
    path = folder(tmp_path / "a")
    made = Wav2Vec2ProcessorWithLM.from_pretrained(path, **weights, do_normalize=False)
    assert not made.feature_extractor.do_normalize
    made.save_pretrained(tmp_path / "b")
    again = Wav2Vec2ProcessorWithLM.from_pretrained(tmp_path / "b")
    for processor in (made, again):
        assert {name: getattr(processor.decoder, name) for name in weights} == weights
    for name in ("alphabet.json", "language_model/3gram.arpa", "language_model/unigrams.txt"):
        assert (tmp_path / "b" / name).read_bytes() == (path / name).read_bytes()
    by_hand = Wav2Vec2ProcessorWithLM(made.feature_extractor, made.tokenizer, made.decoder)
    by_hand.save_pretrained(tmp_path / "c")
    assert not (tmp_path / "c" / "language_model").exists()


def test_what_cannot_be_read_is_saved_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "kenlm", None)
    path = folder(tmp_path / "a", {"3gram.arpa": None, "5gram.bin": "kenlm's own"})
    processor = Wav2Vec2ProcessorWithLM.from_pretrained(path, alpha=0.9)
    assert processor.decoder is None
    processor.save_pretrained(tmp_path / "b")
    for name in ("alphabet.json", "language_model/5gram.bin", "language_model/attrs.json"):
        assert (tmp_path / "b" / name).read_bytes() == (path / name).read_bytes()


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"3gram.arpa": None, "5gram.bin": "mmap lm http://kheafield.com/code"}, "kenlm"),
        ({"3gram.arpa": "\\data\\\n\\1-grams:\nx y\n"}, "is not an ARPA file"),
        ({"3gram.arpa": ""}, "has no section"),
        ({"3gram.arpa": None}, "holds 0"),
        ({"other.arpa": ARPA}, "holds 2"),
    ],
)
def test_what_cannot_be_read_is_decoded_greedily_with_one_warning(tmp_path, caplog, monkeypatch, files, reason):
    monkeypatch.setitem(sys.modules, "kenlm", None)
    minitrans.logging._said.clear()
    path = folder(tmp_path, files)
    with caplog.at_level(logging.WARNING, "minitrans"):
        processor = Wav2Vec2ProcessorWithLM.from_pretrained(path)
        Wav2Vec2ProcessorWithLM.from_pretrained(path)
    assert len(caplog.records) == 1
    assert reason in caplog.text
    assert "decoded greedily" in caplog.text
    logits = np.log([[0.1, 0.1, 0.7, 0.1], [0.1, 0.1, 0.7, 0.1], [0.7, 0.1, 0.1, 0.1], [0.1, 0.1, 0.7, 0.1],
                     [0.1, 0.7, 0.1, 0.1], [0.1, 0.1, 0.1, 0.7]])  # fmt: skip
    found = processor.decode(logits, output_word_offsets=True)
    assert found.text == "AA B"
    assert found.logit_score == pytest.approx(6 * math.log(0.7))
    assert found.word_offsets == [
        {"word": "AA", "start_offset": 0, "end_offset": 4}, {"word": "B", "start_offset": 5, "end_offset": 6}
    ]  # fmt: skip


@pytest.mark.parametrize("broken", [False, True])
def test_a_binary_model_is_read_by_kenlm(tmp_path, arpa, monkeypatch, broken):
    """A stand-in for the package, whose states are filled in place."""

    class State:
        words: tuple[str, ...] = ()

    class Model:
        def __init__(self, path):
            assert path.endswith("5gram.bin")
            if broken:
                raise OSError(f"Cannot read model '{path}'")
            self.model = ArpaModel(arpa)

        def BeginSentenceWrite(self, state):  # noqa: N802
            state.words = ("<s>",)

        def NullContextWrite(self, state):  # noqa: N802
            state.words = ()

        def BaseScore(self, state, word, after):  # noqa: N802
            score, after.words = self.model.score(state.words, word)
            return score

        def __contains__(self, word):
            return word in self.model

    monkeypatch.setitem(sys.modules, "kenlm", types.SimpleNamespace(State=State, Model=Model))
    path = folder(tmp_path / "a", {"3gram.arpa": None, "5gram.bin": "kenlm's own"})
    processor = Wav2Vec2ProcessorWithLM.from_pretrained(path)
    assert (processor.decoder is None) is broken
    expected = Wav2Vec2ProcessorWithLM.from_pretrained(folder(tmp_path / "b"))
    for boundary in (True, False) if not broken else ():
        logits = frames(1, 5, 2.0)
        found, by_arpa = (p.decode(logits, lm_score_boundary=boundary) for p in (processor, expected))
        assert found == by_arpa


def test_a_folder_on_the_hub(tmp_path):
    path = folder(tmp_path / "made")
    files = {file.relative_to(path).as_posix(): file.read_bytes() for file in path.rglob("*") if file.is_file()}
    logits = frames(0, 5, 2.0)
    expected = Wav2Vec2ProcessorWithLM.from_pretrained(path).decode(logits)
    with StandInHub({"org/lm": files}) as hub, hub.connected(tmp_path / "cache"):
        for options in ({}, {"local_files_only": True}):
            processor = minitrans.AutoProcessor.from_pretrained("org/lm", **options)
            assert processor.decode(logits) == expected


def test_bad_logits_get_a_sentence(tmp_path):
    processor = Wav2Vec2ProcessorWithLM.from_pretrained(folder(tmp_path))
    for logits, words in (
        (np.zeros(4), r"\(4,\)"),
        (np.full((2, 4), np.nan), "logits of frame 0 is nan"),
        ([[0, 0, 0, 0], [0, np.inf, 0, 0]], "logits of frame 1 is inf; it must be finite"),
        ([[0, 0, 0, 0], [0, 0, 0, 0], [-np.inf] * 4], "logits of frame 2 is -inf; it must be finite"),
        (np.zeros((2, 3)), "3 tokens"),
        (np.zeros((0, 4)), "logits"),
    ):
        with pytest.raises(ValueError, match=words):
            processor.decode(logits)
    found = processor.decode([[-np.inf, -np.inf, 5, -np.inf]] * 2)  # one finite logit is enough
    assert (found.text, found.logit_score, found["word_offsets"]) == ("A", 0.0, None)
    with pytest.raises(KeyError, match="nothing"):
        found["nothing"]
    with pytest.raises(ValueError, match="hotwords"):
        processor.decode(np.zeros((2, 4)), hotwords=["A"])
    (tmp_path / "alphabet.json").write_text('{"labels": [], "is_bpe": true}')
    assert Wav2Vec2ProcessorWithLM.from_pretrained(tmp_path).decoder is None


def test_weights_of_a_language_model_that_says_nothing_are_pyctcdecode_s(arpa):
    """0.5 and 1.5, log10 of -10 for an unknown word, and sentences that begin and end."""
    model = LanguageModel(ArpaModel(arpa))
    assert (model.alpha, model.beta, model.unk_score_offset, model.score_boundary) == (0.5, 1.5, -10.0, True)
