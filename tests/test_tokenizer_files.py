"""Which tokenizer a folder has, how one is made and saved, and the names that scripts of all years call it by."""

import json
import shutil

import pytest
import tokenizers
import transformers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors

import minitrans
import minitrans.auto
from minitrans.processing.text import BertTokenizer, DistilBertTokenizer, Tokenizer

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "Paris",
    "paris",
    "the",
    "sun",
    "is",
    "hot",
    "##s",
    "##ed",
    "in",
]
VOCAB = {word: index for index, word in enumerate(WORDS)}
TEXTS = ["Paris", "the suns in paris", "hot hot sun"]
ROLES = {
    "unk_token": "[UNK]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
CORPUS = ["the sun is hot in paris", "paris is the sun of the suns", "hot, hotter, hottest"] * 4


def wordpiece():
    own = tokenizers.Tokenizer(models.WordPiece(VOCAB, unk_token="[UNK]"))
    own.normalizer = normalizers.BertNormalizer(lowercase=False)
    own.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    own.decoder = decoders.WordPiece()
    return own


def trained(model, trainer, pre_tokenizer, decoder=None):
    own = tokenizers.Tokenizer(model)
    own.pre_tokenizer, own.decoder = pre_tokenizer, decoder
    own.train_from_iterator(CORPUS, trainer)
    own.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", own.token_to_id("[CLS]")), ("[SEP]", own.token_to_id("[SEP]"))],
    )  # fmt: skip
    return own


def bpe():
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=300, special_tokens=WORDS[:5], show_progress=False,
                                             initial_alphabet=pre_tokenizers.ByteLevel.alphabet())  # fmt: skip
    return trained(models.BPE(unk_token="[UNK]"), trainer, pre_tokenizers.ByteLevel(), decoders.ByteLevel())


def unigram():
    trainer = tokenizers.trainers.UnigramTrainer(
        vocab_size=40, special_tokens=WORDS[:5], unk_token="[UNK]", show_progress=False
    )
    return trained(models.Unigram(), trainer, pre_tokenizers.Metaspace(), decoders.Metaspace())


def wordlevel():
    trainer = tokenizers.trainers.WordLevelTrainer(vocab_size=40, special_tokens=WORDS[:5], show_progress=False)
    return trained(models.WordLevel(unk_token="[UNK]"), trainer, pre_tokenizers.Whitespace())


KINDS = {"wordpiece": wordpiece, "bpe": bpe, "unigram": unigram, "wordlevel": wordlevel}


def folder(path, own, model_type=None, **settings):
    """A folder of tokenizer.json, with a tokenizer_config.json where there are settings."""
    path.mkdir(parents=True, exist_ok=True)
    own.save(str(path / "tokenizer.json"))
    if settings:
        (path / "tokenizer_config.json").write_text(json.dumps({**ROLES, **settings}))
    if model_type:
        (path / "config.json").write_text(json.dumps({"model_type": model_type}))
    return path


# -- which tokenizer


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("named", ["PreTrainedTokenizerFast", "TokenizersBackend", None])
@pytest.mark.parametrize("model_type", ["bert", "distilbert", None])
def test_a_tokenizer_of_the_users_own_is_kept(tmp_path, kind, named, model_type):
    own = KINDS[kind]()
    settings = {"tokenizer_class": named} if named else {}
    path = folder(tmp_path, own, model_type, **settings)
    for auto in (minitrans.AutoTokenizer, minitrans.AutoProcessor):
        ours = auto.from_pretrained(path)
        assert [ours(text)["input_ids"] for text in TEXTS] == [own.encode(text).ids for text in TEXTS]
        assert ours.decode(ours(TEXTS[1])["input_ids"]) == own.decode(
            own.encode(TEXTS[1]).ids, skip_special_tokens=False
        )
    if named and model_type:
        theirs = transformers.AutoTokenizer.from_pretrained(path)
        found, expected = (dict(t(TEXTS, TEXTS[::-1], padding=True)) for t in (ours, theirs))
        assert found == expected
    ours.save_pretrained(tmp_path / "again")
    again = minitrans.AutoTokenizer.from_pretrained(tmp_path / "again")
    assert [again(text)["input_ids"] for text in TEXTS] == [own.encode(text).ids for text in TEXTS]


@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize("model_type", ["bert", "distilbert"])
def test_a_tokenizer_json_of_berts_is_read_as_it_normalises(tmp_path, lower, model_type):
    made = BertTokenizer(VOCAB, do_lower_case=lower)
    ours = minitrans.AutoTokenizer.from_pretrained(folder(tmp_path, made.backend_tokenizer, model_type))
    assert type(ours) is (BertTokenizer if model_type == "bert" else DistilBertTokenizer)
    assert ours.do_lower_case is lower
    assert ours("Paris", "the")["input_ids"] == made("Paris", "the")["input_ids"]
    assert ("token_type_ids" in ours("Paris")) is (model_type == "bert")
    if lower:
        theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
        assert dict(ours(TEXTS, padding=True)).items() <= dict(theirs(TEXTS, padding=True)).items()


@pytest.mark.parametrize("settings", [{"model_max_length": 99}, {"do_lower_case": False}])
@pytest.mark.parametrize("model_type", ["bert", "distilbert"])
def test_where_a_configuration_stands_beside_it_only_the_vocabulary_is_read(tmp_path, model_type, settings):
    """However the tokenizer.json splits texts: the class is BERT's and so is the rest, as in transformers."""
    path = folder(tmp_path, wordpiece(), model_type, **settings)
    theirs = transformers.AutoTokenizer.from_pretrained(path)
    ours = minitrans.AutoTokenizer.from_pretrained(path)
    assert isinstance(ours, BertTokenizer)
    assert [ours(text)["input_ids"] for text in TEXTS] == [theirs(text)["input_ids"] for text in TEXTS]
    assert ours.do_lower_case is theirs.do_lower_case is settings.get("do_lower_case", True)


@pytest.mark.parametrize("lower", [True, False])
def test_the_class_itself_reads_only_the_vocabulary_too(tmp_path, lower):
    path = folder(tmp_path, BertTokenizer(VOCAB, do_lower_case=lower).backend_tokenizer, "bert")
    ours, theirs = (library.BertTokenizer.from_pretrained(path) for library in (minitrans, transformers))
    assert ours.do_lower_case is theirs.do_lower_case
    assert [ours(text)["input_ids"] for text in TEXTS] == [theirs(text)["input_ids"] for text in TEXTS]


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
@pytest.mark.parametrize("named", ["RobertaTokenizer", "XLMRobertaTokenizerFast", "BertTokenizer", "MyOwnTokenizer"])
def test_a_class_that_is_not_here_needs_its_tokenizer_json_only(tmp_path, kind, named):
    own = KINDS[kind]()
    ours = minitrans.AutoTokenizer.from_pretrained(folder(tmp_path, own, "bert", tokenizer_class=named))
    assert type(ours) is Tokenizer
    assert [ours(text)["input_ids"] for text in TEXTS] == [own.encode(text).ids for text in TEXTS]
    assert ours(TEXTS, padding=True)["attention_mask"]


def test_what_cannot_be_read_is_refused(tmp_path):
    path = folder(tmp_path, bpe(), "wav2vec2", tokenizer_class="LlamaTokenizer")
    with pytest.raises(
        ValueError, match=r"LlamaTokenizer.*code in a checkpoint is never run.*Wav2Vec2PhonemeCTCTokenizer"
    ):
        minitrans.AutoTokenizer.from_pretrained(path)
    with pytest.raises(ValueError, match="needs a WordPiece model"):
        BertTokenizer.from_pretrained(path)
    (tmp_path / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "X", "auto_map": {"AutoTokenizer": ["a.B", null]}}'
    )
    with pytest.raises(ValueError, match=r"trust_remote_code=True.*tokenizer_config.json"):
        minitrans.AutoTokenizer.from_pretrained(tmp_path, trust_remote_code=True)


@pytest.mark.parametrize(
    "named", ["BertTokenizer", "BertTokenizerFast", "PreTrainedTokenizerFast", "DistilBertTokenizer", None]
)
@pytest.mark.parametrize("files", ["vocab.txt", "tokenizer.json"])
def test_no_token_types_beside_a_model_that_takes_none(tmp_path, named, files):
    made = transformers.BertTokenizer(vocab=VOCAB)
    for model_type, expected in (
        ("distilbert", False),
        ("bert", named not in ("DistilBertTokenizer", "PreTrainedTokenizerFast")),
    ):
        path = tmp_path / model_type
        made.save_pretrained(path)
        settings = json.loads((path / "tokenizer_config.json").read_text())
        settings = {**settings, "tokenizer_class": named} if named else {}
        (path / "tokenizer_config.json").write_text(json.dumps(settings))
        (path / "config.json").write_text(json.dumps({"model_type": model_type}))
        if files == "vocab.txt":
            if named == "PreTrainedTokenizerFast":
                return
            (path / "vocab.txt").write_text("\n".join(WORDS) + "\n")
            (path / "tokenizer.json").unlink()
        ours = minitrans.AutoTokenizer.from_pretrained(path)
        assert ("token_type_ids" in ours("the sun")) is expected
        assert "token_type_ids" in ours("the sun", return_token_type_ids=True)
        ours.save_pretrained(tmp_path / "moved")
        assert ("token_type_ids" in minitrans.AutoTokenizer.from_pretrained(tmp_path / "moved")("the")) is expected
        shutil.rmtree(tmp_path / "moved")
        named_class = BertTokenizer.from_pretrained(path)
        assert ("token_type_ids" in named_class("the sun")) is (model_type == "bert")
        chosen = ["input_ids", "token_type_ids"]
        assert list(BertTokenizer.from_pretrained(path, model_input_names=chosen)("the")) == chosen


# -- making one


def test_every_way_to_make_one(tmp_path):
    vocab = tmp_path / "vocab.txt"
    vocab.write_text("\n".join(WORDS) + "\n")
    expected = transformers.BertTokenizer(vocab=str(vocab))
    made = [
        BertTokenizer(vocab), BertTokenizer(str(vocab)), BertTokenizer(VOCAB), BertTokenizer(vocab=VOCAB),
        BertTokenizer(vocab_file=str(vocab)), BertTokenizer(vocab_file=vocab, do_lower_case=True),
        BertTokenizer(vocab, True), BertTokenizer.from_pretrained(vocab), BertTokenizer(tokenizer_object=wordpiece()),
        minitrans.AutoTokenizer.from_pretrained(vocab, tokenizer_type="bert"),
        minitrans.BertTokenizerFast(vocab_file=vocab),
    ]  # fmt: skip
    for tokenizer in made:
        assert type(tokenizer) is BertTokenizer
        assert dict(tokenizer(TEXTS, padding=True)) == dict(expected(TEXTS, padding=True))
    for tokenizer in (BertTokenizer(vocab, False), BertTokenizer(vocab_file=vocab, do_lower_case=False)):
        assert (
            tokenizer("Paris")["input_ids"]
            == transformers.BertTokenizer(str(vocab), do_lower_case=False)("Paris")["input_ids"]
        )
    assert type(minitrans.AutoTokenizer.from_pretrained(vocab, tokenizer_type="distilbert")) is DistilBertTokenizer
    with pytest.raises(ValueError, match="is made of a vocab, a vocab_file or"):
        BertTokenizer()
    with pytest.raises(ValueError, match="tokenizer_type is 'gpt2'; minitrans has tokenizers of bert"):
        minitrans.AutoTokenizer.from_pretrained(vocab, tokenizer_type="gpt2")
    with pytest.raises(ValueError, match="names no class"):
        minitrans.AutoTokenizer.from_pretrained(vocab)


@pytest.mark.parametrize("kind", KINDS)
def test_a_tokenizer_of_the_library_is_wrapped(tmp_path, kind):
    own = KINDS[kind]()
    own.save(str(tmp_path / "mine.json"))
    expected = transformers.PreTrainedTokenizerFast(tokenizer_object=own, **ROLES)
    for tokenizer in (
        minitrans.PreTrainedTokenizerFast(tokenizer_object=own, **ROLES),
        minitrans.PreTrainedTokenizerFast(own, **ROLES),
        minitrans.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "mine.json"), **ROLES),
        minitrans.AutoTokenizer.from_pretrained(tmp_path / "mine.json", config=minitrans.BertConfig(), **ROLES)
        if kind != "wordpiece"
        else minitrans.PreTrainedTokenizerFast.from_pretrained(tmp_path / "mine.json", **ROLES),
    ):
        assert dict(tokenizer(TEXTS, padding=True)) == dict(expected(TEXTS, padding=True))
        assert tokenizer.special_tokens_map == expected.special_tokens_map
    with pytest.raises(ValueError, match="is made of a tokenizer_object or of a tokenizer_file"):
        minitrans.PreTrainedTokenizerFast()


def test_paths_of_configurations(tmp_path):
    config = minitrans.BertConfig(hidden_size=24, num_attention_heads=2)
    config.save_pretrained(tmp_path)
    config.to_json_file(tmp_path / "mine.json", use_diff=False)
    for path in (tmp_path, tmp_path / "config.json", str(tmp_path / "mine.json")):
        for kind in (minitrans.AutoConfig, minitrans.BertConfig):
            assert kind.from_pretrained(pretrained_model_name_or_path=path) == config
    assert minitrans.BertConfig.from_json_file(tmp_path / "mine.json") == config
    minitrans.ViTImageProcessor(size=30).save_pretrained(tmp_path)
    assert minitrans.ViTImageProcessor.from_pretrained(tmp_path / "preprocessor_config.json").size["height"] == 30
    minitrans.Wav2Vec2FeatureExtractor(sampling_rate=8000).save_pretrained(tmp_path)
    path = tmp_path / "preprocessor_config.json"
    for auto in (minitrans.AutoFeatureExtractor, minitrans.AutoProcessor):
        assert auto.from_pretrained(path).sampling_rate == 8000
    with pytest.raises(NotADirectoryError):
        minitrans.AutoConfig.from_pretrained(shutil.copy(path, tmp_path / "mine.txt"))


@pytest.mark.parametrize("name", ["AutoTokenizer", "AutoProcessor", "AutoImageProcessor", "AutoFeatureExtractor",
                                  "AutoConfig", "BertTokenizer", "BertConfig", "ViTImageProcessor",
                                  "Wav2Vec2FeatureExtractor",
                                  "Wav2Vec2CTCTokenizer", "Wav2Vec2Processor", "LayoutLMv2Processor"])  # fmt: skip
def test_the_first_argument_has_its_published_name(tmp_path, name):
    with pytest.raises((FileNotFoundError, ValueError)):
        getattr(minitrans, name).from_pretrained(pretrained_model_name_or_path=tmp_path)


# -- saving


@pytest.mark.parametrize("legacy", [None, True, False])
@pytest.mark.parametrize("prefix", [None, "mine"])
def test_saving_returns_the_paths(tmp_path, legacy, prefix):
    tokenizer = BertTokenizer(VOCAB)
    tokenizer.add_tokens([AddedToken("Paris-Nord", lstrip=True), "xyz"])
    tokenizer.add_special_tokens({"extra_special_tokens": ["<e>"]})
    paths = tokenizer.save_pretrained(str(tmp_path), legacy_format=legacy, filename_prefix=prefix)
    assert isinstance(paths, tuple)
    assert sorted(paths) == sorted(str(path) for path in tmp_path.iterdir())
    names = {path.rpartition("/")[2] for path in paths}
    before = f"{prefix}-" if prefix else ""
    assert (f"{before}tokenizer.json" in names) is not bool(legacy)
    assert (f"{before}vocab.txt" in names) is (legacy is not False)
    theirs = transformers.BertTokenizer(vocab=VOCAB).save_pretrained(tmp_path / "theirs", filename_prefix=prefix)
    if not legacy:
        assert {path.rpartition("/")[2] for path in theirs} <= names
    if prefix is None:
        again = BertTokenizer.from_pretrained(tmp_path)
        text = "the Paris-Nord xyz <e> sun"
        assert again(text)["input_ids"] == tokenizer(text)["input_ids"]
        assert again.extra_special_tokens == ["<e>"]
    saved = tokenizer.save_vocabulary(tmp_path / "vocabulary", filename_prefix=prefix)
    assert [path.rpartition("/")[2] for path in saved] == [f"{before}vocab.txt"]


@pytest.mark.parametrize("made", [lambda **options: minitrans.PreTrainedTokenizerFast(bpe(), **options),
                                  lambda **options: BertTokenizer(VOCAB, **options),
                                  lambda **options: DistilBertTokenizer(VOCAB, **options)])  # fmt: skip
def test_options_that_a_tokenizer_does_not_have(made):
    with pytest.raises(TypeError, match="nonsense"):
        made(nonsense=1)


def test_what_cannot_be_saved_so_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="legacy_format=True"):
        minitrans.PreTrainedTokenizerFast(bpe()).save_pretrained(tmp_path / "a", legacy_format=True)
    with pytest.raises(ValueError, match="legacy_format=False"):
        minitrans.Wav2Vec2CTCTokenizer({"<pad>": 0}, unk_token=None).save_pretrained(
            tmp_path / "a", legacy_format=False
        )
    with pytest.raises(TypeError, match="nonsense"):
        BertTokenizer(VOCAB).save_pretrained(tmp_path / "a", nonsense=1)
    assert not (tmp_path / "a").exists()
    assert len(minitrans.PreTrainedTokenizerFast(bpe()).save_vocabulary(tmp_path / "b")) == 2


def processing(name):
    return {
        "bert": BertTokenizer(VOCAB),
        "distilbert": DistilBertTokenizer(VOCAB),
        "own": minitrans.PreTrainedTokenizerFast(bpe(), **ROLES),
        "ctc": minitrans.Wav2Vec2CTCTokenizer({"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "|": 4, "A": 5}),
        "phonemes": minitrans.Wav2Vec2PhonemeCTCTokenizer({"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "oʊ": 4}),
        "image": minitrans.ViTImageProcessor(size=30),
        "sound": minitrans.Wav2Vec2FeatureExtractor(),
        "pages": minitrans.LayoutLMv2ImageProcessor(apply_ocr=False),
        "words": minitrans.LayoutLMv2Tokenizer(VOCAB),
        "documents": minitrans.LayoutLMv2Processor(
            minitrans.LayoutLMv2ImageProcessor(apply_ocr=False), minitrans.LayoutLMv2Tokenizer(VOCAB)
        ),
        "speech": minitrans.Wav2Vec2Processor(
            minitrans.Wav2Vec2FeatureExtractor(),
            minitrans.Wav2Vec2CTCTokenizer({"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "|": 4, "A": 5}),
        ),
        "phoneme speech": minitrans.Wav2Vec2Processor(
            minitrans.Wav2Vec2FeatureExtractor(),
            minitrans.Wav2Vec2PhonemeCTCTokenizer({"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "oʊ": 4}),
        ),
    }[name]  # fmt: skip


THEIRS = {"documents": "LayoutLMv2Processor", "speech": "Wav2Vec2Processor", "phoneme speech": "Wav2Vec2Processor"}


@pytest.mark.parametrize("name", ["bert", "distilbert", "own", "ctc", "phonemes", "image", "sound", "pages", "words",
                                  "documents", "speech", "phoneme speech"])  # fmt: skip
def test_what_was_saved_alone_opens_as_what_it_was(tmp_path, name, monkeypatch):
    made = processing(name)
    paths = made.save_pretrained(tmp_path)
    assert sorted(paths) == sorted(str(path) for path in tmp_path.iterdir())
    again = minitrans.AutoProcessor.from_pretrained(tmp_path)
    assert type(again) is type(made)
    if hasattr(made, "tokenizer"):
        assert type(again.tokenizer) is type(made.tokenizer)
    theirs = transformers.AutoProcessor.from_pretrained(tmp_path)
    if name in THEIRS:
        assert type(theirs).__name__ == THEIRS[name]
    pushed = []
    monkeypatch.setattr(
        "minitrans.hub.push_folder", lambda repo_id, write, **options: pushed.append((repo_id, options))
    )
    made.push_to_hub("me/it", private=True)
    made.save_pretrained(tmp_path / "it", push_to_hub=True, token="t")
    assert [repo_id for repo_id, _ in pushed] == ["me/it", "it"]
    assert pushed[1][1]["token"] == "t"
    with pytest.raises(TypeError, match="nonsense"):
        made.save_pretrained(tmp_path / "not", nonsense=1)
    assert not (tmp_path / "not").exists()


# -- registering


@pytest.mark.parametrize(
    ("auto", "options", "base"),
    [
        ("AutoTokenizer", "tokenizer_class", "BertTokenizer"),
        ("AutoTokenizer", "fast_tokenizer_class", "BertTokenizer"),
        ("AutoTokenizer", "slow_tokenizer_class", "BertTokenizer"),
        ("AutoImageProcessor", "slow_image_processor_class", "ViTImageProcessor"),
        ("AutoImageProcessor", "image_processor_classes", "ViTImageProcessor"),
        ("AutoFeatureExtractor", "feature_extractor_class", "Wav2Vec2FeatureExtractor"),
        ("AutoProcessor", "processor_class", "LayoutLMv2Processor"),
        ("AutoProcessor", None, "LayoutLMv2Processor"),
    ],
)  # fmt: skip
def test_classes_of_the_users_own(tmp_path, monkeypatch, auto, options, base):
    auto = getattr(minitrans, auto)
    monkeypatch.setattr(minitrans.auto, "CONFIGS", {})
    monkeypatch.setattr(auto, "registered", {})

    class MineConfig(minitrans.BertConfig):
        model_type = "mine"

    mine = type("Mine", (getattr(minitrans, base),), {"published_names": ("Mine",)})
    minitrans.AutoConfig.register("mine", MineConfig)
    given = {"pil": mine} if options == "image_processor_classes" else mine
    auto.register(MineConfig, **{options: given}) if options else auto.register(MineConfig, mine)
    made = {"LayoutLMv2Processor": processing("documents"), "BertTokenizer": processing("bert"),
            "ViTImageProcessor": processing("image"),
            "Wav2Vec2FeatureExtractor": processing("sound")}[base]  # fmt: skip
    made.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "mine"}')
    for file in tmp_path.glob("*_config.json"):  # by the model's type, where no file names a class
        kept = {k: v for k, v in json.loads(file.read_text()).items() if not k.endswith(("_class", "_type"))}
        nested = {k: v for k, v in kept.items() if k != "image_processor"} | (
            {"image_processor": {k: v for k, v in kept["image_processor"].items() if not k.endswith("_type")}}
            if "image_processor" in kept
            else {}
        )
        file.write_text(json.dumps(nested))
    assert type(auto.from_pretrained(tmp_path)) is mine
    assert type(minitrans.AutoConfig.from_pretrained(tmp_path)) is MineConfig
    with pytest.raises(ValueError, match="exist_ok=True"):
        auto.register(MineConfig, mine)
    auto.register(MineConfig, mine, exist_ok=True)
    with pytest.raises(ValueError, match="exist_ok=True"):
        auto.register(minitrans.BertConfig, mine)
    with pytest.raises(TypeError, match="nonsense"):
        auto.register(MineConfig, nonsense=mine)
    with pytest.raises(ValueError, match="needs the class"):
        auto.register(MineConfig)
    with pytest.raises(ValueError, match="exist_ok=True"):
        minitrans.AutoConfig.register("mine", MineConfig)
    with pytest.raises(ValueError, match="model_type 'mine', not 'other'"):
        minitrans.AutoConfig.register("other", MineConfig)


def test_a_registered_class_is_found_by_its_name(tmp_path, monkeypatch):
    monkeypatch.setattr(minitrans.AutoTokenizer, "registered", {})
    monkeypatch.setattr(minitrans.auto, "CONFIGS", {})

    class MineConfig(minitrans.BertConfig):
        model_type = "mine"

    class MineTokenizer(BertTokenizer):
        """Of the user's own."""

    class OtherTokenizer(BertTokenizer):
        """Another one."""

    minitrans.AutoConfig.register("mine", MineConfig)
    minitrans.AutoTokenizer.register(
        MineConfig, slow_tokenizer_class=MineTokenizer, fast_tokenizer_class=OtherTokenizer
    )
    MineTokenizer(VOCAB).save_pretrained(tmp_path)
    assert type(minitrans.AutoTokenizer.from_pretrained(tmp_path)) is MineTokenizer


# -- calls


def test_targets_equal_transformers():
    ours, theirs = BertTokenizer(VOCAB), transformers.BertTokenizer(vocab=VOCAB)
    for arguments, options in (
        (("the sun",), {"text_target": "hot"}),
        (("the sun", "hot"), {"text_target": "hot", "text_pair_target": "in paris"}),
        ((TEXTS,), {"text_target": TEXTS[::-1], "padding": True, "return_tensors": "np"}),
        ((TEXTS,), {"text_target": TEXTS[::-1], "truncation": True, "max_length": 4, "max_target_length": 3}),
        ((), {"text_target": "the sun"}),
        ((["the", "sun"],), {"text_target": ["hot", "in"], "is_split_into_words": True}),
    ):
        found, expected = ours(*arguments, **options), theirs(*arguments, **options)
        assert found.keys() == expected.keys()
        for key in expected:
            assert [list(r) if hasattr(r, "__len__") else r for r in found[key]] == [
                list(r) if hasattr(r, "__len__") else r for r in expected[key]
            ]
    with ours.as_target_tokenizer():
        assert ours("hot")["input_ids"] == theirs("hot")["input_ids"]


def test_names_of_older_scripts(caplog):
    ours = BertTokenizer(VOCAB, model_max_length=20)
    assert dict(ours.encode_plus("the sun", "hot")) == dict(ours("the sun", "hot"))
    assert dict(ours.batch_encode_plus(TEXTS, padding=True)) == dict(ours(TEXTS, padding=True))
    assert dict(ours.batch_encode_plus([("the", "sun"), ("hot", "in")])) == dict(ours(["the", "hot"], ["sun", "in"]))
    for ids in (([7, 8],), ([7, 8], [9]), ([], [9]), ([],)):
        expected = ours(*map(ours.decode, ids))
        assert ours.build_inputs_with_special_tokens(*ids) == expected["input_ids"]
        assert ours.create_token_type_ids_from_sequences(*ids) == expected["token_type_ids"]
    assert (ours.max_len_single_sentence, ours.max_len_sentences_pair) == (18, 17)
    assert ours("the sun", max_length=9, pad_to_max_length=True)["input_ids"] == ours("the sun")["input_ids"]
    assert "padding='max_length'" in caplog.text
    assert ours.get_special_tokens_mask([2, 7, 3], already_has_special_tokens=True) == [1, 0, 1]
    assert ours.added_tokens_encoder == ours.get_added_vocab()
    assert ours.init_kwargs["do_lower_case"] is True
    assert ours.clean_up_tokenization("a .") == "a."


@pytest.mark.parametrize("kind", ["bert", "own", "ctc"])
def test_extra_special_tokens_can_be_set(kind):
    tokenizer = processing(kind)
    known = tokenizer.convert_ids_to_tokens([5])
    tokenizer.extra_special_tokens = known
    assert tokenizer.extra_special_tokens == tokenizer.additional_special_tokens == known
    assert tokenizer.extra_special_tokens_ids == tokenizer.additional_special_tokens_ids == [5]
    assert 5 in tokenizer.all_special_ids
    tokenizer.additional_special_tokens = None
    assert tokenizer.extra_special_tokens == []
    with pytest.raises(ValueError, match=r"'<never>' cannot be a special token.*add_special_tokens"):
        tokenizer.extra_special_tokens = ["<never>"]


@pytest.mark.parametrize(
    "wrong", [5, None, ["<a>"], {"content": 5}, b"<a>", "<\ud800>", {"content": "<\ud800>"}], ids=ascii
)
@pytest.mark.parametrize("kind", ["bert", "own", "ctc", "words"])
def test_what_is_no_token_is_not_added(kind, wrong):
    tokenizer = processing(kind)
    before = tokenizer.get_vocab(), tokenizer.special_tokens_map, tokenizer.extra_special_tokens
    words = r"A token is a string or an AddedToken, not |is not Unicode: it has half a surrogate pair"
    calls = [
        lambda: tokenizer.add_tokens(["<new>", wrong], special_tokens=True),
        lambda: tokenizer.add_special_tokens({"pad_token": wrong}),
        lambda: tokenizer.add_special_tokens({"extra_special_tokens": ["<new>", wrong]}),
    ]
    for call in calls if isinstance(wrong, list) else [*calls, lambda: tokenizer.add_tokens(wrong)]:
        with pytest.raises((TypeError, ValueError), match=words):
            call()
    for name in ("extra_special_tokens", "additional_special_tokens"):
        if not isinstance(wrong, list):
            with pytest.raises(TypeError, match="without a name are given as a list, not as"):
                tokenizer.add_special_tokens({name: wrong})
    assert (tokenizer.get_vocab(), tokenizer.special_tokens_map, tokenizer.extra_special_tokens) == before
    assert tokenizer.add_tokens(iter([transformers.AddedToken("<one>"), {"content": "<two>"}, "<three>"])) == 3
    assert tokenizer.add_tokens({"content": "<four>"}) == tokenizer.add_tokens("<five>") == 1


@pytest.mark.parametrize("kind", ["bert", "ctc"])
@pytest.mark.parametrize("index", ["6", -1, 7.0, True, None, 10**7, 10**30])
def test_added_tokens_have_ids(kind, index, tmp_path):
    tokenizer = processing(kind)
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").unlink(missing_ok=True)
    (tmp_path / "tokenizer_config.json").write_text("{}")
    for given in (len(tokenizer), index):
        (tmp_path / "added_tokens.json").write_text(json.dumps({"<new>": given}))
        if given == len(tokenizer):
            assert type(tokenizer).from_pretrained(tmp_path).convert_tokens_to_ids("<new>") == given
        else:
            words = (
                rf"added_tokens.json of .* gives '<new>' the id {given!r}; an id is a whole number from 0 to 9999999"
            )
            with pytest.raises(TypeError, match=words):
                type(tokenizer).from_pretrained(tmp_path)


@pytest.mark.parametrize("kind", ["bert", "own", "ctc"])
def test_the_mask_of_special_tokens_is_of_one_encoded_sequence(kind):
    tokenizer = processing(kind)
    for options in ({"token_ids_1": [3]}, {"already_has_special_tokens": False}):
        with pytest.raises(ValueError, match="pass its ids alone, with already_has_special_tokens=True"):
            tokenizer.get_special_tokens_mask([1, 2], **options)


def test_an_encoding_by_its_published_names():
    ours, theirs = BertTokenizer(VOCAB), transformers.BertTokenizer(vocab=VOCAB)
    for tokenizer, kind in ((ours, minitrans.BatchEncoding), (theirs, transformers.BatchEncoding)):
        found = tokenizer("the sun")
        assert isinstance(found, kind)
        assert found.is_fast
        assert list(found.data) == ["input_ids", "token_type_ids", "attention_mask"]
        assert type(found.data) is dict
        assert str(found.keys()).startswith("KeysView(")
        assert found.convert_to_tensors("pt", prepend_batch_axis=True)["input_ids"].shape == (1, 4)
        made = kind({"input_ids": [[1, 2]]}, tensor_type="pt")
        assert made["input_ids"].shape == (1, 2)
        assert not made.is_fast
        ragged = tokenizer(TEXTS, return_tensors="np")["input_ids"]
        assert ragged.dtype == object
        assert [row.tolist() for row in ragged] == tokenizer(TEXTS)["input_ids"]
        assert kind({"a": [1]}, encoding=found.encodings[0]).tokens() == found.tokens()
    assert minitrans.AddedToken is AddedToken


# -- new vocabularies


@pytest.mark.parametrize("kind", [*KINDS, "bert"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"new_special_tokens": ["<new>"]},
        {"special_tokens_map": {"[CLS]": "<cls>", "[UNK]": "<unk>"}},
        {"length": 12},
    ],
)
def test_new_vocabularies_equal_transformers(tmp_path, kind, options):
    if kind == "bert":
        ours, theirs = BertTokenizer(VOCAB), transformers.BertTokenizer(vocab=VOCAB)
    else:
        own = KINDS[kind]()
        if kind == "wordpiece":
            own.add_special_tokens(WORDS[:5])
            own.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
        ours, theirs = (
            library.PreTrainedTokenizerFast(tokenizer_object=own, **ROLES) for library in (minitrans, transformers)
        )
    batches = [["the sun is hot in paris", "a red rose, a red house"] * 3, ["the house of the red sun"] * 2]
    new = ours.train_new_from_iterator(batches, 400, show_progress=False, **options)
    expected = theirs.train_new_from_iterator(batches, 400, show_progress=False, **options)
    assert type(new) is type(ours)
    assert new.get_vocab().keys() == expected.get_vocab().keys()  # the trainers count ties in any order
    if kind == "bert" and "special_tokens_map" in options:  # transformers makes a tokenizer of its five special tokens
        expected = transformers.PreTrainedTokenizerFast(
            tokenizer_object=expected.backend_tokenizer, **expected.special_tokens_map
        )
    assert new.special_tokens_map == expected.special_tokens_map
    assert new.all_special_ids == expected.all_special_ids
    tokens = [[t.convert_ids_to_tokens(t(text)["input_ids"]) for text in TEXTS] for t in (new, expected)]
    assert tokens[0] == tokens[1]
    new.save_pretrained(tmp_path)
    again = minitrans.AutoTokenizer.from_pretrained(tmp_path)
    assert [again(text)["input_ids"] for text in TEXTS] == [new(text)["input_ids"] for text in TEXTS]
    assert ours.get_vocab() != new.get_vocab()
