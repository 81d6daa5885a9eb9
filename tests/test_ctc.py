"""The CTC tokenizer and the speech processor, against transformers."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import soundfile
import soxr
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken
from transformers import AutoProcessor, AutoTokenizer
from transformers import Wav2Vec2CTCTokenizer as Reference
from transformers import Wav2Vec2FeatureExtractor as ReferenceExtractor
from transformers import Wav2Vec2Processor as ReferenceProcessor

from minitrans.processing.audio import Wav2Vec2FeatureExtractor
from minitrans.processing.ctc import Wav2Vec2CTCTokenizer
from minitrans.processing.speech import Wav2Vec2Processor

TOKENS = ["<pad>", "<s>", "</s>", "<unk>", "|", *"ABCDEHLORW'", "<x>", "OU"]
VOCAB = {token: index for index, token in enumerate(TOKENS)}
NESTED = {"eng": VOCAB, "fra": {token: i for i, token in enumerate(["|", "<pad>", "É", "A", "<unk>", "<s>", "</s>"])}}


def pair(folder, vocab=VOCAB, **options):
    path = folder / "vocab.json"
    path.write_text(json.dumps(vocab), encoding="utf-8")
    return Wav2Vec2CTCTokenizer(path, **options), Reference(path, **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("ctc")


def assert_same_encoding(ours, reference):
    assert set(ours) == set(reference)
    for key in reference:
        assert type(ours[key]) is type(reference[key])
        if isinstance(reference[key], list):
            assert ours[key] == reference[key]
        else:
            assert ours[key].dtype == reference[key].dtype
            np.testing.assert_array_equal(ours[key], reference[key])


def assert_same_answers(ours, reference, text="HELLO WORLD <s> OU<x>É|B"):
    assert ours(text)["input_ids"] == reference(text)["input_ids"]
    ids = [VOCAB.get(character, 0) for character in "HELL<LO  |WOORLD"]
    assert ours.decode(ids) == reference.decode(ids)
    assert (len(ours), ours.vocab_size, ours.get_vocab()) == (
        len(reference),
        reference.vocab_size,
        reference.get_vocab(),
    )
    assert ours.model_input_names == reference.model_input_names
    assert (ours.pad_token_id, ours.unk_token_id) == (reference.pad_token_id, reference.unk_token_id)
    assert set(ours.all_special_tokens) == set(reference.all_special_tokens)


@st.composite
def vocabularies(draw):
    tokens = draw(st.lists(st.sampled_from([*"ABCDEaéß'| ", "<x>", "<yy>", "[UNK]", "<pad>", "<s>", "<unk>", "$"]),
                           min_size=3, max_size=12, unique=True))  # fmt: skip
    unknown = next((token for token in tokens if len(token) > 1), "<unk>")
    tokens = list(dict.fromkeys([*tokens, unknown]))
    order = draw(st.permutations(range(len(tokens))))
    options = {
        "do_lower_case": draw(st.booleans()),
        "word_delimiter_token": draw(st.sampled_from(["|", "$"])),
        "replace_word_delimiter_char": draw(st.sampled_from([" ", "_"])),
        "unk_token": unknown,
        "pad_token": draw(st.sampled_from(["<pad>", tokens[0] if tokens[0].strip() else "<pad>"])),
    }
    return dict(zip(tokens, order, strict=True)), options


@settings(max_examples=200, deadline=None)
@given(
    made=vocabularies(),
    pieces=st.lists(
        st.sampled_from([*"ABCaéß' |$", "  ", "<x>", "<yy>", "[UNK]", "<pad>", "</s>", "NEW", "ZZ"]), max_size=12
    ),
    added=st.lists(st.sampled_from(["NEW", "ZZ", "<x>", "A"]), max_size=2, unique=True),
)
def test_any_vocabulary_tokenizes_as_in_transformers(folder, made, pieces, added):
    ours, reference = pair(folder, made[0], **made[1])
    text = "".join(pieces)
    for _ in range(2):
        assert ours.tokenize(text) == reference.tokenize(text)
        assert ours(text)["input_ids"] == reference(text)["input_ids"]
        assert ours.get_vocab() == reference.get_vocab()
        assert (len(ours), ours.vocab_size) == (len(reference), reference.vocab_size)
        every = list(range(-1, len(ours) + 2))
        assert ours.convert_ids_to_tokens(every) == reference.convert_ids_to_tokens(every)
        assert set(ours.all_special_tokens) == set(reference.all_special_tokens)
        assert ours.word_delimiter_token_id == reference.word_delimiter_token_id
        assert ours.add_tokens(added) == reference.add_tokens(added)


@settings(max_examples=300, deadline=None)
@given(
    made=vocabularies(),
    ids=st.lists(st.integers(-1, 14), min_size=1, max_size=25),
    options=st.fixed_dictionaries(
        {
            name: st.booleans()
            for name in (
                "group_tokens", "spaces_between_special_tokens", "skip_special_tokens", "clean_up_tokenization_spaces",
                "output_char_offsets", "output_word_offsets",
            )
        }
    ),
)  # fmt: skip
def test_any_frames_decode_as_in_transformers(folder, made, ids, options):
    ours, reference = pair(folder, made[0], **made[1])
    ids = [index for index in ids for _ in range(1 + index % 2)]
    got, expected = ours.decode(ids, **options), reference.decode(ids, **options)
    if isinstance(expected, str):
        assert got == expected
        assert ours.batch_decode(np.array([ids, ids]), **options) == [expected, expected]
        return
    batch, expected_batch = (
        ours.batch_decode([ids, ids[:1]], **options),
        reference.batch_decode([ids, ids[:1]], **options),
    )
    for key in ("text", "char_offsets", "word_offsets"):
        assert got[key] == getattr(got, key)
        # Where nothing is left, transformers gives [] also for what was not asked for.
        asked = key == "text" or options[f"output_{key}"]
        for found, wanted in ((got, expected), (batch, expected_batch)):
            rows, wanted_rows = found[key], getattr(wanted, key)
            assert rows == wanted_rows if asked else rows in (None, [None, None])


def test_double_letters_blanks_and_times(folder):
    tokenizer, _ = pair(folder)
    frames = ["<pad>", "H", "H", "E", "L", "<pad>", "L", "L", "O", "|", "|", "<pad>", "W", "E"]
    ids = [VOCAB[token] for token in frames]
    assert tokenizer.decode(ids) == "HELLO WE"
    for made in (np.array(ids), torch.tensor(ids), tuple(ids), [np.int64(index) for index in ids]):
        assert tokenizer.decode(made) == "HELLO WE"
        assert tokenizer.batch_decode([made, made]) == ["HELLO WE", "HELLO WE"]
    output = tokenizer.decode(ids, output_word_offsets=True, output_char_offsets=True, time_per_frame=0.02)
    assert [(word["word"], word["start_offset"], word["end_offset"]) for word in output.word_offsets] == [
        ("HELLO", 1, 9), ("WE", 12, 14),
    ]  # fmt: skip
    times = [(word["start_time"], word["end_time"]) for word in output.word_offsets]
    np.testing.assert_allclose(times, [(0.02, 0.18), (0.24, 0.28)])
    assert output.char_offsets[3] == {
        "char": "L", "start_offset": 6, "end_offset": 8,
        "start_time": pytest.approx(0.12), "end_time": pytest.approx(0.16),
    }  # fmt: skip
    with pytest.raises(KeyError, match="nothing"):
        output["nothing"]
    assert tokenizer.decode(VOCAB["H"]) == "H"
    assert tokenizer.decode([]) == tokenizer.decode([0, 0]) == ""
    assert tokenizer.batch_decode([]) == []


@settings(max_examples=120, deadline=None)
@given(
    texts=st.lists(st.text(st.sampled_from("ABC É"), max_size=9), min_size=1, max_size=3),
    options=st.fixed_dictionaries(
        {
            "padding": st.sampled_from([True, False, "longest", "max_length"]),
            "truncation": st.sampled_from([None, True, False, "only_first", "longest_first"]),
            "max_length": st.sampled_from([None, 4, 8]),
            "pad_to_multiple_of": st.sampled_from([None, 4]),
            "padding_side": st.sampled_from([None, "left", "right"]),
            "return_attention_mask": st.sampled_from([None, True, False]),
            "add_special_tokens": st.booleans(),
        }
    ),
    sides=st.tuples(st.sampled_from(["left", "right"]), st.sampled_from(["left", "right"])),
    tensors=st.sampled_from([None, "np", "pt"]),
)
def test_calls_equal_transformers(folder, texts, options, sides, tensors):
    ours, reference = pair(folder, padding_side=sides[0], truncation_side=sides[1])
    assert_same_encoding(ours(texts, **options), reference(texts, **options))
    if texts[0]:  # transformers does not pad an empty text that comes alone
        assert_same_encoding(ours(texts[0], **options), reference(texts[0], **options))
        assert ours.encode(texts[0], **options) == reference.encode(texts[0], **options)
    if options["padding"] in (True, "longest") and any(texts):
        assert_same_encoding(
            ours(texts, return_tensors=tensors, **options), reference(texts, return_tensors=tensors, **options)
        )


@pytest.mark.parametrize("options", [{}, {"padding": True}, {"padding": "max_length", "max_length": 9}])
def test_pairs_equal_transformers(folder, options):
    ours, reference = pair(folder)
    for texts, pairs in (("AB C", "BA"), (["AB C", "A"], ["C", "BBB A"])):
        assert_same_encoding(ours(texts, pairs, **options), reference(texts, pairs, **options))


def test_a_delimiter_of_several_characters_is_one_token(folder):
    tokenizer, _ = pair(folder, word_delimiter_token="<x>")
    assert tokenizer.tokenize("A B") == ["A", "<x>", "B"]
    assert tokenizer.decode(tokenizer("A B").input_ids) == "A B"


def test_a_delimiter_that_is_the_space_itself(folder):
    ours, reference = pair(folder, {"<pad>": 0, "A": 1, " ": 2, "<unk>": 3}, word_delimiter_token=" ")
    for text in ("A A", " <pad> A  A", "A <pad>"):
        assert ours(text)["input_ids"] == reference(text)["input_ids"]
    ids = [2, 1, 1, 0, 1, 2, 2, 1]
    assert ours.decode(ids) == reference.decode(ids) == "AA A"


def test_the_delimiter_has_its_id_before_special_tokens_without_a_name(folder):
    ours, reference = pair(folder, word_delimiter_token="_", additional_special_tokens=["<q>"])
    assert_same_answers(ours, reference, "A B<q>")
    assert ours.special_tokens_map == reference.special_tokens_map
    assert ours.extra_special_tokens == reference.extra_special_tokens == ["<q>"]
    assert ours.word_delimiter_token_id == reference.word_delimiter_token_id == len(VOCAB)
    for place in ("1", "2", "3"):
        ours.save_pretrained(folder / place)
        ours = Wav2Vec2CTCTokenizer.from_pretrained(folder / place)
    assert ours.extra_special_tokens == ["<q>"]
    assert_same_answers(ours, reference, "A B<q>")


def test_special_tokens_are_added_by_name(folder):
    ours, reference = pair(folder)
    for tokenizer in (ours, reference):
        assert tokenizer.add_special_tokens({"eos_token": "<E>", "cls_token": "B"}) == 1
        assert tokenizer.add_special_tokens({"additional_special_tokens": ["<y>", "<E>"]}) == 1
        assert tokenizer.add_special_tokens({"extra_special_tokens": ["<z>"]}, replace_extra_special_tokens=False) == 1
    assert_same_answers(ours, reference, "A<E>B <y><z>")
    assert ours.special_tokens_map["eos_token"] == "<E>"
    assert ours.extra_special_tokens == reference.extra_special_tokens
    assert ours.get_added_vocab() == reference.get_added_vocab()
    assert flags(ours) == flags(reference)
    assert ours.num_special_tokens_to_add() == reference.num_special_tokens_to_add() == 0
    assert ours.is_fast is reference.is_fast is False
    ours.save_pretrained(folder / "named")
    assert_same_answers(Wav2Vec2CTCTokenizer.from_pretrained(folder / "named"), reference, "A<E>B <y><z>")
    with pytest.raises(ValueError, match=r"'sound_token' is not a role.*word_delimiter_token"):
        ours.add_special_tokens({"sound_token": "A"})


def flags(tokenizer):
    """Each added token by its id, and how it is found in a text."""
    return {index: token.__getstate__() for index, token in tokenizer.added_tokens_decoder.items()}


@pytest.mark.parametrize("lower", [False, True])
@pytest.mark.parametrize(
    ("token", "special"),
    [("AB", False), ("<y>", True), (AddedToken("DE"), False), (AddedToken("DE", normalized=False), False),
     (AddedToken("E", special=True), False), (AddedToken("EE", lstrip=True), True)],
    ids=str,
)  # fmt: skip
def test_added_tokens_are_found_as_published(folder, lower, token, special):
    ours, reference = pair(folder, do_lower_case=lower)
    assert ours.add_tokens([token], special_tokens=special) == reference.add_tokens([token], special_tokens=special)
    assert flags(ours) == flags(reference)
    assert_same_answers(ours, reference, "AB DE EE ab de <y> OU d")


def test_a_setting_that_cannot_be_is_told_with_whose_it_is(folder):
    with pytest.raises(TypeError, match="do_lower_case of the tokenizer is 'no'"):
        Wav2Vec2CTCTokenizer(VOCAB, do_lower_case="no")
    pair(folder)
    with pytest.raises(TypeError, match=f"do_lower_case of {folder} is 'no'"):
        Wav2Vec2CTCTokenizer.from_pretrained(folder, do_lower_case="no")


def test_languages(folder):
    ours, reference = pair(folder, NESTED, target_lang="eng")
    assert_same_answers(ours, reference)
    for tokenizer in (ours, reference):
        tokenizer.set_target_lang("fra")
    assert_same_answers(ours, reference, "A <s> É|AB")
    assert ours.target_lang == "fra"
    with pytest.raises(ValueError, match=r"'deu'.*eng, fra"):
        ours.set_target_lang("deu")
    assert ours.target_lang == "fra"
    assert_same_answers(ours, reference, "A <s> É|AB")


@pytest.mark.parametrize(("count", "listed"), [(12, r", k, l\.$"), (13, r", k, l, \.\.\.\.$")])
def test_a_dozen_languages_are_listed(count, listed):
    with pytest.raises(ValueError, match=listed):
        Wav2Vec2CTCTokenizer(dict.fromkeys("abcdefghijklm"[:count], VOCAB), target_lang="xyz")


def test_a_token_of_two_languages_has_the_id_of_the_one_that_was_chosen(folder):
    first = {"<pad>": 0, "<unk>": 1, "|": 2, "A": 3, "AI": 4, "OU": 5, "<s>": 6, "</s>": 7}
    second = {"<pad>": 0, "<unk>": 1, "|": 2, "OU": 3, "<s>": 4, "</s>": 5}
    tokenizer, _ = pair(folder, {"one": first, "two": second}, target_lang="one")
    assert tokenizer("AIAOU").input_ids == [4, 3, 5]
    tokenizer.set_target_lang("two")
    assert tokenizer("OU <s>").input_ids == [3, 4]
    assert tokenizer.get_vocab() == second


@pytest.mark.parametrize("nested", [False, True])
def test_saved_folders_open_in_transformers_and_back(tmp_path, nested):
    options = {"target_lang": "eng"} if nested else {"do_lower_case": True, "replace_word_delimiter_char": "_"}
    ours, reference = pair(tmp_path, NESTED if nested else VOCAB, **options)
    for tokenizer in (ours, reference):
        tokenizer.add_tokens(["NEW", "NEWER"])
        tokenizer.add_tokens(["<keep>"], special_tokens=True)
    text = "HELLO WORLD <s> OU <x>É|B NEWER <keep> hello"
    assert_same_answers(ours, reference, text)
    ours.save_pretrained(tmp_path / "ours")
    reference.save_pretrained(tmp_path / "theirs")
    for opened in (Reference.from_pretrained(tmp_path / "ours"), AutoTokenizer.from_pretrained(tmp_path / "ours")):
        assert type(opened) is Reference
        assert_same_answers(opened, reference, text)
    again = Wav2Vec2CTCTokenizer.from_pretrained(tmp_path / "theirs")
    assert_same_answers(again, reference, text)
    again.save_pretrained(tmp_path / "again")
    assert_same_answers(Reference.from_pretrained(tmp_path / "again"), reference, text)
    if nested:
        other = Wav2Vec2CTCTokenizer.from_pretrained(tmp_path / "theirs", target_lang="fra")
        assert other("ÉA").input_ids == [2, 3]


def test_folders_of_older_years_open(tmp_path):
    """The files of a fine-tuned checkpoint of 2021: special tokens of its own, and two that were added."""
    roles = {"unk_token": "[UNK]", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "[PAD]"}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True}
    others = {"do_lower_case": False, "word_delimiter_token": "|", "tokenizer_class": "Wav2Vec2CTCTokenizer"}
    files = {
        "vocab.json": {"[PAD]": 3, "[UNK]": 2, "|": 0, "a": 1, "b": 4},
        "tokenizer_config.json": {**roles, **others, "special_tokens_map_file": "/x/y", "return_attention_mask": True},
        "special_tokens_map.json": {**roles, "additional_special_tokens": ["<s>", "</s>"]},
        "added_tokens.json": {"<s>": 5, "</s>": 6},
    }
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    text = "ab <s> c[PAD] b</s>|"
    ours, reference = Wav2Vec2CTCTokenizer.from_pretrained(tmp_path), Reference.from_pretrained(tmp_path)
    assert_same_answers(ours, reference, text)
    ours.save_pretrained(tmp_path / "new")
    assert_same_answers(Reference.from_pretrained(tmp_path / "new"), reference, text)
    # Another spelling of the same, of which transformers 5 makes tokens with the text "{'content': ...}".
    spelled = {**roles, "additional_special_tokens": [{"content": token, **flags} for token in ("<s>", "</s>")]}
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(spelled))
    assert_same_answers(Wav2Vec2CTCTokenizer.from_pretrained(tmp_path), reference, text)


BAD = [
    (lambda t: t(5), TypeError, "takes a text"),
    (lambda t: t(["A", None]), TypeError, "NoneType"),
    (lambda t: t([["A", "B"]]), TypeError, "list"),
    (lambda t: t("A", ["B"]), ValueError, "in one form"),
    (lambda t: t(["A", "B"], ["A"]), ValueError, "2 texts and 1 pairs"),
    (lambda t: t("A", "ABB", truncation="only_first", max_length=2), ValueError, "2 tokens are too many"),
    (lambda t: t("A", padding="longst"), ValueError, "longst"),
    (lambda t: t(["A", "AB"], return_tensors="pt"), ValueError, "padding=True"),
    (lambda t: t.decode([0.5, 1.5]), TypeError, "argmax"),
    (lambda t: t.decode(np.zeros((3, 4))), TypeError, "argmax"),
    (lambda t: t.decode([[1, 2], [3]]), TypeError, "batch_decode"),
    (lambda t: t.decode(["A"]), TypeError, "ids"),
    (lambda t: t.set_target_lang("eng"), ValueError, "one vocabulary"),
    (lambda t: Wav2Vec2CTCTokenizer(NESTED), ValueError, "eng, fra"),
    (lambda t: Wav2Vec2CTCTokenizer(VOCAB, target_lang="eng"), ValueError, "one vocabulary"),
    (lambda t: Wav2Vec2CTCTokenizer({}), ValueError, "whole number from 0 for each token"),
    (lambda t: Wav2Vec2CTCTokenizer({"A": "1"}), ValueError, "whole number from 0 for each token"),
    (lambda t: Wav2Vec2CTCTokenizer({"eng": {}}, target_lang="eng"), ValueError, "whole number from 0 for each token"),
    (lambda t: Wav2Vec2CTCTokenizer({"eng": VOCAB, "x": ["A"]}, target_lang="x"), ValueError, "from 0 for each token"),
    (lambda t: Wav2Vec2CTCTokenizer({"eng": VOCAB, "x": 3}, target_lang="x"), ValueError, "from 0 for each token"),
    (lambda t: Wav2Vec2CTCTokenizer(VOCAB, lowercase=True), TypeError, "lowercase"),
    (lambda t: Wav2Vec2CTCTokenizer(VOCAB, unk_token=None)("Q"), ValueError, "'Q'"),
    (lambda t: Wav2Vec2CTCTokenizer(VOCAB, unk_token=None).decode([99]), ValueError, "99"),
    (lambda t: Wav2Vec2CTCTokenizer.from_pretrained("/nowhere/at/all"), FileNotFoundError, "nowhere"),
]


@pytest.mark.parametrize(("call", "kind", "sentence"), BAD)
def test_bad_input_is_refused_with_a_sentence(call, kind, sentence):
    with pytest.raises(kind, match=sentence):
        call(Wav2Vec2CTCTokenizer(VOCAB))


def test_no_torch_is_imported_until_a_tensor_is_asked_for():
    code = (
        "import sys\n"
        "from minitrans.processing.speech import Wav2Vec2CTCTokenizer as T, Wav2Vec2FeatureExtractor as E\n"
        "t = T({'<pad>': 0, 'A': 1})\n"
        "t.decode(t(['A', 'AA'], padding=True, return_tensors='np').input_ids[1])\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def processors(folder, **config):
    ours, reference = pair(folder)
    return (
        Wav2Vec2Processor(Wav2Vec2FeatureExtractor(**config), ours),
        ReferenceProcessor(ReferenceExtractor(**config), reference),
    )


CALLS = [
    {"audio": True},
    {"text": True},
    {"audio": True, "text": True},
    {"audio": True, "text": True, "return_tensors": "pt"},
    {"audio": True, "text": True, "return_tensors": "np", "pad_to_multiple_of": 8, "return_attention_mask": True},
    {"text": True, "padding": "max_length", "max_length": 3, "truncation": True, "return_tensors": "pt"},
    {"audio": True, "padding": "max_length", "max_length": 30, "truncation": True, "return_tensors": "pt"},
    {"text": True, "text_kwargs": {"padding_side": "left"}, "return_tensors": "pt"},
    {"audio": True, "text": True, "audio_kwargs": {"max_length": 30, "truncation": True}},
]


@pytest.mark.parametrize("options", CALLS)
def test_processor_calls_equal_transformers(folder, options):
    ours, reference = processors(folder, return_attention_mask=True)
    random = np.random.default_rng(0)
    batch = [random.standard_normal(length).astype(np.float32) for length in (40, 25)]
    given = {
        **({"audio": batch} if "audio" in options else {}),
        **({"text": ["A BAD", "B"]} if "text" in options else {}),
    }
    if "audio" in options:
        given["sampling_rate"] = 16000
    options = {"padding": True, **options, **given}
    got, expected = ours(**options), reference(**options)
    assert set(got) == set(expected)
    for key in expected:
        for mine, theirs in zip(got[key], expected[key], strict=True):
            assert np.asarray(mine).dtype == np.asarray(theirs).dtype
            np.testing.assert_allclose(np.asarray(mine), np.asarray(theirs), atol=1e-5)
        assert type(got[key]) is type(expected[key])


def test_threads_with_different_settings_get_their_own_answers(folder):
    tokenizer, _ = pair(folder)
    texts = ["A", "ABLE HEAD", "BAD"]

    def ask(length):
        rows = tokenizer(texts, padding="max_length", max_length=length, truncation=True).input_ids
        return all(len(row) == length for row in rows) and tokenizer.decode(rows[1]) == "ABLE HEAD"[:length].strip()

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(ask, [*range(1, 20)] * 20))


def test_processor_collates_and_decodes(folder):
    ours, reference = processors(folder)
    audio = [{"input_values": [0.1, 0.2, 0.3]}, {"input_values": [0.5]}]
    labels = [{"input_ids": [5, 6]}, {"input_ids": [7]}]
    for call in (
        lambda p: p.pad(audio, padding=True, return_tensors="pt"),
        lambda p: p.pad(input_features=audio, labels=labels, padding=True, return_tensors="pt"),
        lambda p: p.pad(labels=labels, padding=True, return_tensors="pt"),
    ):
        got, expected = call(ours), call(reference)
        assert set(got) == set(expected)
        assert all(torch.equal(got[key], expected[key]) for key in expected)
    ids = torch.tensor([[5, 5, 0, 5, 4, 6], [6, 7, 8, 0, 0, 0]])
    assert ours.batch_decode(ids) == reference.batch_decode(ids)
    assert (
        ours.decode(ids[0], output_word_offsets=True).word_offsets
        == reference.decode(ids[0], output_word_offsets=True).word_offsets
    )
    assert ours.model_input_names == reference.model_input_names


@pytest.mark.parametrize("layout", ["new", "old"])
def test_processor_folders_open_in_transformers_and_back(tmp_path, layout):
    config = {"sampling_rate": 8000, "return_attention_mask": True}
    ours, reference = processors(tmp_path, **config)
    if layout == "new":
        ours.save_pretrained(tmp_path / "ours")
        reference.save_pretrained(tmp_path / "theirs")
    else:
        for processor, name in ((ours, "ours"), (reference, "theirs")):
            processor.feature_extractor.save_pretrained(tmp_path / name)
            processor.tokenizer.save_pretrained(tmp_path / name)
    sound = np.sin(np.arange(80))
    for opened in (
        Wav2Vec2Processor.from_pretrained(tmp_path / "theirs"),
        Wav2Vec2Processor.from_pretrained(tmp_path / "ours"),
        ReferenceProcessor.from_pretrained(tmp_path / "ours"),
        *([AutoProcessor.from_pretrained(tmp_path / "ours")] if layout == "new" else []),
    ):
        assert type(opened).__name__ == "Wav2Vec2Processor"
        got, expected = (p(audio=sound, text="A BAD", sampling_rate=8000) for p in (opened, reference))
        np.testing.assert_allclose(got["input_values"][0], expected["input_values"][0], atol=1e-5)
        np.testing.assert_array_equal(got["attention_mask"][0], expected["attention_mask"][0])
        assert got["labels"] == expected["labels"]
    changed = Wav2Vec2Processor.from_pretrained(tmp_path / "ours", do_normalize=False, pad_token="<x>")
    assert (changed.feature_extractor.do_normalize, changed.tokenizer.pad_token) == (False, "<x>")


@pytest.mark.parametrize("mask", [True, False])
def test_processor_masks_as_the_tokenizer_of_older_years_says(tmp_path, mask):
    ours, _ = processors(tmp_path, return_attention_mask=not mask)
    ours.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**config, "return_attention_mask": mask}))
    opened, reference = (kind.from_pretrained(tmp_path) for kind in (Wav2Vec2Processor, ReferenceProcessor))
    for options in ({"text": "A"}, {"audio": np.ones(9)}, {"audio": np.ones(9), "return_attention_mask": True}):
        assert set(opened(**options, sampling_rate=16000)) == set(reference(**options, sampling_rate=16000))


def test_processor_takes_files(folder, tmp_path):
    sound = np.random.default_rng(0).uniform(-0.5, 0.5, (800, 2)).astype(np.float32)
    soundfile.write(tmp_path / "clip.wav", sound, 8000, subtype="FLOAT")
    ours, theirs = processors(folder)
    got = ours(audio=tmp_path / "clip.wav", mono=True, resample=True, return_tensors="pt").input_values
    clip = soxr.resample(sound.mean(1), 8000, 16000)
    expected = theirs(audio=clip, sampling_rate=16000, return_tensors="pt").input_values
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "kind", "sentence"),
    [
        ({}, ValueError, "audio or text"),
        ({"text": "A", "paddding": True}, TypeError, "paddding"),
        ({"audio": [0.1], "audio_kwargs": {"max_lengthh": 3}}, TypeError, "max_lengthh"),
    ],
)
def test_processor_refuses_with_a_sentence(folder, options, kind, sentence):
    with pytest.raises(kind, match=sentence):
        processors(folder)[0](**options)


def test_added_tokens_have_a_file_from_the_first_new_id(tmp_path):
    """The vocabulary's own special tokens are not in it."""
    new = {"<one>": len(VOCAB), "<two>": len(VOCAB) + 1}
    for tokenizer, name in zip(pair(tmp_path), ("ours", "theirs"), strict=True):
        assert tokenizer.add_tokens([*new]) == 2
        tokenizer.save_pretrained(tmp_path / name)
        assert json.loads((tmp_path / name / "added_tokens.json").read_text()) == new


@pytest.mark.parametrize(("name", "said"), [("", "this tokenizer"), ("org/mine", "org/mine")])
def test_messages_name_the_tokenizer(name, said, tmp_path):
    """By what the caller wrote, or by its file."""
    with pytest.raises(ValueError, match=f"^The vocabulary of {said} must hold"):
        Wav2Vec2CTCTokenizer({"a": -1}, name_or_path=name)
    with pytest.raises(ValueError, match=f"but {said} has one vocabulary for all"):
        Wav2Vec2CTCTokenizer({"<pad>": 0}, name_or_path=name).set_target_lang("de")
    (tmp_path / "vocab.json").write_text('{"a": -1}')
    with pytest.raises(ValueError, match=f"^The vocabulary of {name or tmp_path / 'vocab.json'} must hold"):
        Wav2Vec2CTCTokenizer(tmp_path / "vocab.json", name_or_path=name)


@pytest.mark.parametrize("flags", [{}, {"special": False}, {"special": True}, {"lstrip": True}])
def test_an_added_token_is_special_where_its_file_says_so(flags, tmp_path):
    new = len(VOCAB)
    added = {"added_tokens_decoder": {str(new): {"content": "<new>", **flags}}}
    for name, content in (
        ("vocab", VOCAB),
        ("tokenizer_config", {"tokenizer_class": "Wav2Vec2CTCTokenizer", **added}),
    ):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    ours, reference = (kind.from_pretrained(tmp_path) for kind in (Wav2Vec2CTCTokenizer, Reference))
    token = ours.added_tokens_decoder[new]
    assert (token.special, token.lstrip) == (flags.get("special", False), flags.get("lstrip", False))
    found, expected = (each.decode([5, new, 5], skip_special_tokens=True) for each in (ours, reference))
    assert found == expected
