"""Processors of speech: whose setting counts, phonemes, pairs and what was cut off, against transformers'."""

import inspect
import itertools
import json
import random
import sys
import types

import numpy as np
import pytest
import torch
import transformers

import minitrans

CHARACTERS = ["<pad>", "<s>", "</s>", "<unk>", "|", *"ABCDEFGH"]
PHONEMES = ["<pad>", "<s>", "</s>", "<unk>", "h", "ə", "l", "oʊ", "|", "tʃ", "a", "aː"]


def vocab_file(path, tokens):
    path.mkdir(parents=True, exist_ok=True)
    (path / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    return str(path / "vocab.json")


@pytest.fixture
def characters(tmp_path):
    path = vocab_file(tmp_path, CHARACTERS)
    return minitrans.Wav2Vec2CTCTokenizer(path), transformers.Wav2Vec2CTCTokenizer(path)


def phonemes(path, **options):
    path = vocab_file(path, PHONEMES)
    return minitrans.Wav2Vec2PhonemeCTCTokenizer(path, **options), transformers.Wav2Vec2PhonemeCTCTokenizer(
        path, **options
    )


# -- whose setting counts


FOUND = [None, True, False]


@pytest.mark.parametrize("layout", ["preprocessor_config", "processor_config"])
@pytest.mark.parametrize(("option", "tokenizer", "extractor"), list(itertools.product(FOUND, FOUND, FOUND)))
def test_a_mask_by_option_tokenizers_file_and_extractors_file(tmp_path, layout, option, tokenizer, extractor):
    vocab_file(tmp_path, CHARACTERS)
    settings = {} if tokenizer is None else {"return_attention_mask": tokenizer}
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "Wav2Vec2CTCTokenizer", **settings})
    )
    heard = {} if extractor is None else {"return_attention_mask": extractor}
    heard = {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "sampling_rate": 16000, **heard}
    nested = {"feature_extractor": heard, "processor_class": "Wav2Vec2Processor"}
    (tmp_path / f"{layout}.json").write_text(json.dumps(heard if layout == "preprocessor_config" else nested))
    (tmp_path / "config.json").write_text('{"model_type": "wav2vec2"}')
    options = {} if option is None else {"return_attention_mask": option}
    expected = next((value for value in (option, tokenizer, extractor) if value is not None), False)
    clips = [np.random.default_rng(0).normal(size=count).astype(np.float32) for count in (900, 400)]
    theirs = transformers.Wav2Vec2Processor.from_pretrained(tmp_path, **options)
    for auto in (minitrans.Wav2Vec2Processor, minitrans.AutoProcessor):
        ours = auto.from_pretrained(tmp_path, **options)
        found = ours(clips, sampling_rate=16000, padding=True, return_tensors="pt")
        assert ("attention_mask" in found) is expected
        assert ("attention_mask" in theirs(clips, sampling_rate=16000, padding=True)) is expected
        for asked in (True, False):
            assert ("attention_mask" in ours(clips, sampling_rate=16000, return_attention_mask=asked)) is asked
        ours.save_pretrained(tmp_path / "again")
        again = auto.from_pretrained(tmp_path / "again")
        assert ("attention_mask" in again(clips, sampling_rate=16000, padding=True)) is expected


@pytest.mark.parametrize("settings", [{"padding_side": "left"}, {"do_normalize": False}, {"padding_value": 0.5},
                                      {"do_lower_case": True}, {"unk_token": "A"}])  # fmt: skip
def test_other_settings_reach_the_parts_that_have_them(tmp_path, settings):
    path = vocab_file(tmp_path, CHARACTERS)
    minitrans.Wav2Vec2Processor(
        minitrans.Wav2Vec2FeatureExtractor(), minitrans.Wav2Vec2CTCTokenizer(path)
    ).save_pretrained(tmp_path)
    processor = minitrans.Wav2Vec2Processor.from_pretrained(tmp_path, **settings)
    for name, value in settings.items():
        parts = [part for part in (processor.feature_extractor, processor.tokenizer) if hasattr(part, name)]
        assert parts
        assert all(getattr(part, name) == value for part in parts)


def test_scripts_that_switch_to_targets(tmp_path):
    tokenizer = minitrans.Wav2Vec2CTCTokenizer(vocab_file(tmp_path, CHARACTERS))
    processor = minitrans.Wav2Vec2Processor(minitrans.Wav2Vec2FeatureExtractor(), tokenizer)
    clip = np.zeros(400, np.float32)
    with processor.as_target_processor():
        assert processor("ABC").input_ids == tokenizer("ABC").input_ids
        assert processor.pad([{"input_ids": [5, 6]}, {"input_ids": [5]}])["input_ids"] == [[5, 6], [5, 0]]
        assert "input_values" in processor(clip, text=["A"], sampling_rate=16000)
        assert set(processor.pad([{"input_values": clip}], labels=[{"input_ids": [5]}])) == {"input_values", "labels"}
    assert "input_values" in processor(clip, sampling_rate=16000)
    with pytest.raises(ValueError, match="pad needs input_features or labels, and got neither"):
        processor.pad()
    with pytest.raises(TypeError, match="Wav2Vec2Processor has no option 'foo'"):
        processor(clip, zoo=1, foo=2)
    assert processor(text="ABC", padding=True, text_kwargs={"padding": False}) == tokenizer("ABC")
    with pytest.raises(ZeroDivisionError), processor.as_target_processor():
        1 / 0  # noqa: B018
    assert "input_values" in processor(clip, sampling_rate=16000)


# -- pairs, and what was cut off


def test_pairs_and_overflow_equal_transformers(characters):
    ours, theirs = characters
    source = random.Random(0)
    seen, refused = 0, []
    for _ in range(400):
        texts = ["".join(source.choices("ABCD EFGH", k=source.randrange(1, 9))).strip() or "A" for _ in range(2)]
        options = {
            "truncation": source.choice([False, True, "only_first", "only_second", "longest_first"]),
            "max_length": source.randrange(2, 12), "stride": source.randrange(3),
            "return_overflowing_tokens": source.random() < 0.5, "return_token_type_ids": source.random() < 0.5,
            "return_special_tokens_mask": source.random() < 0.5, "return_length": source.random() < 0.3,
        }  # fmt: skip
        for tokenizer in (ours, theirs):
            tokenizer.truncation_side = source.choice(["left", "right"]) if tokenizer is ours else ours.truncation_side
        pair = texts[1] if source.random() < 0.7 else None
        try:
            found = dict(ours(texts[0], pair, **options))
        except ValueError as error:
            refused.append(str(error))  # transformers logs that, and cuts nothing
            continue
        if (
            not found.get("overflowing_tokens", True)
            and pair is not None
            and options["truncation"] in (True, "longest_first")
        ):
            continue  # which transformers refuses
        expected = dict(theirs(texts[0], pair, **options))
        if found.get("num_truncated_tokens") == 0:
            expected = {"overflowing_tokens": [], **expected, "num_truncated_tokens": 0}
        assert found == expected
        seen += 1
    assert seen > 200
    assert all("tokens are too many" in sentence for sentence in refused)


def test_batches_of_pairs(characters):
    ours, theirs = characters
    options = {"padding": True, "return_token_type_ids": True, "return_special_tokens_mask": True}
    for arguments in (([("AB", "C"), ("A", "DEF")],), (["AB", "A"], ["C", "DEF"])):
        for tensors in (None, "np", "pt"):
            found, expected = (t(*arguments, **options, return_tensors=tensors) for t in (ours, theirs))
            assert set(found) == set(expected)
            for name in expected:
                assert np.array_equal(np.asarray(found[name]), np.asarray(expected[name])), name
    batch = ours(["ABCD", "AB"], truncation=True, max_length=3, stride=1, return_overflowing_tokens=True)
    assert batch["overflowing_tokens"] == [[7, 8], []]
    assert batch["num_truncated_tokens"] == [1, 0]
    for name, expected in (("text_target", theirs("AB", text_target="C")), ("text", theirs("AB"))):
        found = ours("AB", text_target="C") if name == "text_target" else ours("AB")
        assert dict(found) == dict(expected)
    assert ours.encode("AB", "C") == theirs.encode("AB", "C")
    words = [["AB", "C"], ["DE"]]
    assert ours(words, is_split_into_words=True)["input_ids"] == theirs(words, is_split_into_words=True)["input_ids"]
    assert ours(["A", "BC"], return_tensors="np")["input_ids"].dtype == object
    with pytest.raises(ValueError, match="truncation='only_second': 3 tokens are too many, but that text has 1"):
        ours("ABCD", "E", truncation="only_second", max_length=2)


@pytest.mark.parametrize("chosen", list(itertools.product([False, True], repeat=3)))
def test_only_the_offsets_that_were_asked_for(characters, chosen):
    skip, chars, words = chosen
    ids = [5, 5, 0, 6, 4, 1, 7, 0, 7, 2]
    options = {"skip_special_tokens": skip, "output_char_offsets": chars, "output_word_offsets": words}
    ours, theirs = characters
    found, expected = ours.decode(ids, **options), theirs.decode(ids, **options)
    if not (chars or words):
        assert found == expected
        return
    assert set(found) == set(expected)
    assert found == {key: expected[key] for key in expected}
    assert ours.batch_decode([ids, ids], **options) == {key: [value, value] for key, value in found.items()}
    assert (found.char_offsets is None, found.word_offsets is None) == (not chars, not words)
    json.dumps(found)


# -- phonemes


@pytest.mark.parametrize("options", [{}, {"word_delimiter_token": "|"}, {"phone_delimiter_token": "-"}])
@pytest.mark.parametrize("grouped", [True, False])
@pytest.mark.parametrize("filtered", [True, False])
@pytest.mark.parametrize("skip", [True, False])
def test_phonemes_decode_as_in_transformers(tmp_path, options, grouped, filtered, skip):
    ours, theirs = phonemes(tmp_path, do_phonemize=False, **options)
    source = random.Random(1)
    given = {"group_tokens": grouped, "filter_word_delimiter_token": filtered, "skip_special_tokens": skip}
    for _ in range(40):
        ids = [
            index for _ in range(source.randrange(1, 9)) for index in [source.randrange(12)] * source.randrange(1, 3)
        ]
        if skip and all(index < 4 for index in ids):
            continue  # where nothing is left, transformers fails
        assert ours.decode(ids, **given) == theirs.decode(ids, **given)
        found = ours.decode(ids, output_char_offsets=True, **given)
        assert found == dict(theirs.decode(ids, output_char_offsets=True, **given))
        assert ours.batch_decode(torch.tensor([ids, ids]), **given) == theirs.batch_decode([ids, ids], **given)
        timed = ours.decode(ids, output_word_offsets=True, time_per_frame=0.5, **given)
        assert [item["word"] for item in timed.word_offsets] == timed.text.split(" ") * bool(timed.text)
        assert all(item["end_time"] == 0.5 * item["end_offset"] for item in timed.word_offsets)
    assert ours.decode([], **given) == ""


def test_phonemes_encode_as_in_transformers(tmp_path):
    ours, theirs = phonemes(tmp_path, do_phonemize=False, word_delimiter_token="|")
    for text in ("h ə l oʊ", " tʃ  a | aː ", "h zz ə", "<s> h </s>", "aː", ""):
        assert ours(text)["input_ids"] == theirs(text)["input_ids"], text
    assert dict(ours(["h ə", "l"], padding=True)) == dict(theirs(["h ə", "l"], padding=True))
    assert ours.special_tokens_map == theirs.special_tokens_map
    assert (ours.word_delimiter_token, ours.word_delimiter_token_id) == ("|", 8)
    assert len(ours) == len(theirs)


def test_phonemes_are_saved_for_both(tmp_path):
    ours, _ = phonemes(tmp_path / "vocabulary", do_phonemize=False, word_delimiter_token="|", phonemizer_lang="de")
    ours.save_pretrained(tmp_path)
    for again in (
        minitrans.AutoTokenizer.from_pretrained(tmp_path),
        minitrans.Wav2Vec2PhonemeCTCTokenizer.from_pretrained(tmp_path),
        transformers.Wav2Vec2PhonemeCTCTokenizer.from_pretrained(tmp_path),
    ):
        assert again.decode([4, 0, 5, 8, 6, 7, 7]) == "h ə l oʊ"
        assert (again.do_phonemize, again.phonemizer_lang, again.word_delimiter_token) == (False, "de", "|")


@pytest.fixture
def phonemizer(monkeypatch):
    """A stand-in for the package `phonemizer`: each letter is a phoneme, after the language."""
    made = []

    class Backend:
        def __init__(self, language, language_switch):
            assert language_switch == "remove-flags"
            made.append(language)

        def phonemize(self, texts, separator):
            phone, word = separator.phone, separator.word
            return [word.join(phone.join(text) + phone for text in texts[0].split()) + word]

    package = types.ModuleType("phonemizer")
    backend, separator = types.ModuleType("phonemizer.backend"), types.ModuleType("phonemizer.separator")
    backend.BACKENDS = {"espeak": Backend}
    separator.Separator = lambda phone, word, syllable: types.SimpleNamespace(phone=phone, word=word)
    for name, module in (
        ("phonemizer", package),
        ("phonemizer.backend", backend),
        ("phonemizer.separator", separator),
    ):
        monkeypatch.setitem(sys.modules, name, module)
    return made


def test_texts_are_turned_to_phonemes(tmp_path, phonemizer):
    tokenizer = minitrans.Wav2Vec2PhonemeCTCTokenizer(vocab_file(tmp_path, PHONEMES), word_delimiter_token="|")
    assert tokenizer.tokenize(" Hal la ") == ["h", "a", "l", "|", "l", "a", "|"]
    assert tokenizer("HA")["input_ids"] == [4, 10, 8]
    assert tokenizer.phonemize("la", "de") == "l a |"
    assert phonemizer == ["en-us", "de"]


def test_phonemizing_needs_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "phonemizer", None)
    tokenizer = minitrans.Wav2Vec2PhonemeCTCTokenizer(vocab_file(tmp_path, PHONEMES))
    with pytest.raises(ImportError, match=r"minitrans\[phonemes\].*do_phonemize=False"):
        tokenizer("hello")
    assert tokenizer.decode([4, 5]) == "h ə"


@pytest.mark.parametrize(
    "named", ["Wav2Vec2PhonemeCTCTokenizer", "Wav2Vec2CTCTokenizer", "Wav2Vec2Tokenizer", None, "SpeechTokenizer"]
)
@pytest.mark.parametrize("layout", ["preprocessor_config", "processor_config"])
def test_a_checkpoint_is_decoded_by_its_own_tokenizer(tmp_path, named, layout):
    vocab_file(tmp_path, PHONEMES)
    settings = {"do_phonemize": False, "phone_delimiter_token": " ", **({"tokenizer_class": named} if named else {})}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    heard = {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "sampling_rate": 16000}
    nested = {"feature_extractor": heard, "processor_class": "Wav2Vec2Processor"}
    (tmp_path / f"{layout}.json").write_text(json.dumps(heard if layout == "preprocessor_config" else nested))
    (tmp_path / "config.json").write_text('{"model_type": "wav2vec2"}')
    autos = (minitrans.Wav2Vec2Processor, minitrans.AutoProcessor, minitrans.AutoTokenizer)
    if named == "SpeechTokenizer":
        for auto in autos:
            with pytest.raises(ValueError, match="SpeechTokenizer"):
                auto.from_pretrained(tmp_path)
        return
    phonemes = named == "Wav2Vec2PhonemeCTCTokenizer"
    for auto in autos:
        assert auto.from_pretrained(tmp_path).decode([4, 0, 5, 6, 7, 7]) == ("h ə l oʊ" if phonemes else "həloʊ")
    other = minitrans.Wav2Vec2CTCTokenizer if phonemes else minitrans.Wav2Vec2PhonemeCTCTokenizer
    if named in ("Wav2Vec2PhonemeCTCTokenizer", "Wav2Vec2CTCTokenizer"):
        with pytest.raises(ValueError, match="decodes otherwise"):
            other.from_pretrained(tmp_path)


def test_decoding_with_a_language_model_has_the_published_options():
    theirs = inspect.signature(transformers.Wav2Vec2ProcessorWithLM.decode).parameters
    ours = inspect.signature(minitrans.Wav2Vec2ProcessorWithLM.decode).parameters
    assert [*ours][: len(theirs)] == [*theirs]
    assert [ours[name].default for name in theirs] == [parameter.default for parameter in theirs.values()]
    assert {ours[name].default for name in ours.keys() - theirs.keys()} <= {False}
