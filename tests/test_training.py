"""What training scripts use beside models: transformers' Trainer with our tokenizers, collators, logging, seeds."""

import copy
import dataclasses
import io
import logging
import pickle
import random
import re
import subprocess
import sys
import types

import numpy as np
import pytest
import torch
import transformers
from fuzz.outcomes import is_sentence

import minitrans
import minitrans.auto
from minitrans.activations import ACT2FN, get_activation
from minitrans.processing.document import LayoutLMv2Tokenizer
from minitrans.utils import logging as verbosity

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    *["the", "a", "sun", "bob", "paris", "is", "hot", "red", "##", "##s", "##ed"],
]
VOCAB = {word: index for index, word in enumerate(WORDS)}
CHARACTERS = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "|": 4, "A": 5, "B": 6}
TINY = {"vocab_size": 20, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
SOUND = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
         "conv_dim": (16,) * 7, "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2,
         "mask_time_prob": 0.0, "classifier_proj_size": 8}  # fmt: skip


def tokenizers():
    bert = minitrans.BertTokenizer(VOCAB)
    return {
        "BertTokenizer": bert,
        "DistilBertTokenizer": minitrans.DistilBertTokenizer(VOCAB),
        "Tokenizer": minitrans.PreTrainedTokenizerFast(bert.backend_tokenizer, pad_token="[PAD]"),
        "LayoutLMv2Tokenizer": LayoutLMv2Tokenizer(VOCAB),
        "Wav2Vec2CTCTokenizer": minitrans.Wav2Vec2CTCTokenizer(CHARACTERS),
        "Wav2Vec2PhonemeCTCTokenizer": minitrans.Wav2Vec2PhonemeCTCTokenizer(CHARACTERS, do_phonemize=False),
    }


def arguments(folder, **options):
    return transformers.TrainingArguments(
        str(folder),
        max_steps=2,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        per_device_train_batch_size=4,
        **options,
    )


# -- Trainer


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", ["BertTokenizer", "DistilBertTokenizer", "Tokenizer"])
def test_trainer_pads_texts(tmp_path, name, side):
    tokenizer = tokenizers()[name]
    tokenizer.padding_side = side
    rows = [{"input_ids": list(range(5, 5 + count)), "labels": count % 2} for count in (1, 3, 2, 5)]
    trainer = transformers.Trainer(
        minitrans.BertForSequenceClassification(minitrans.BertConfig(**TINY)), arguments(tmp_path),
        train_dataset=rows, eval_dataset=rows, processing_class=tokenizer,
    )  # fmt: skip
    assert isinstance(trainer.data_collator, transformers.DataCollatorWithPadding)
    trainer.train()
    assert trainer.predict(rows).predictions.shape == (4, 2)
    trainer.save_model(tmp_path / "saved")
    text = "the sun is hot"
    assert (
        minitrans.AutoTokenizer.from_pretrained(tmp_path / "saved")(text)["input_ids"] == tokenizer(text)["input_ids"]
    )


def test_trainer_pads_sounds(tmp_path):
    extractor = minitrans.Wav2Vec2FeatureExtractor(return_attention_mask=True)
    rows = [{"input_values": np.ones(count, np.float32), "labels": count % 2} for count in (800, 901, 1200, 1000)]
    trainer = transformers.Trainer(
        minitrans.Wav2Vec2ForSequenceClassification(minitrans.Wav2Vec2Config(**SOUND)), arguments(tmp_path),
        train_dataset=rows, processing_class=extractor,
    )  # fmt: skip
    batch = trainer.data_collator([dict(row) for row in rows])
    assert batch["attention_mask"].sum(1).tolist() == [800, 901, 1200, 1000]
    trainer.train()
    trainer.save_model(tmp_path / "saved")
    assert minitrans.AutoFeatureExtractor.from_pretrained(tmp_path / "saved") == extractor


@pytest.mark.parametrize("name", [*tokenizers(), "Wav2Vec2FeatureExtractor"])
def test_what_is_taken_for_transformers_own_is_ours(name):
    made = minitrans.Wav2Vec2FeatureExtractor() if name.endswith("Extractor") else tokenizers()[name]
    base = (
        transformers.SequenceFeatureExtractor if name.endswith("Extractor") else transformers.PreTrainedTokenizerBase
    )
    kind = minitrans.PreTrainedTokenizerFast if name == "Tokenizer" else getattr(minitrans, name)
    assert isinstance(made, base)
    assert isinstance(made, kind)
    assert type(made) is kind
    assert made.__class__.__name__ == kind.__name__
    assert made.__class__ is copy.copy(made).__class__
    for twin in (copy.copy(made), copy.deepcopy(made), *(pickle.loads(pickle.dumps(made, p)) for p in range(2, 6))):
        assert type(twin) is kind
        assert repr(twin) == repr(made)
    if name.endswith("Extractor"):
        assert type(dataclasses.replace(made, sampling_rate=8000)) is kind
        assert made == minitrans.Wav2Vec2FeatureExtractor()


def test_a_tokenizer_made_before_transformers_is_imported():
    code = """
import sys, minitrans
tokenizer = minitrans.BertTokenizer({w: i for i, w in enumerate("[PAD] [UNK] [CLS] [SEP] [MASK] a".split())})
extractor = minitrans.Wav2Vec2FeatureExtractor()
assert "transformers" not in sys.modules and tokenizer.__class__ is type(tokenizer)
import transformers
from transformers import PreTrainedTokenizerBase, SequenceFeatureExtractor
print(isinstance(tokenizer, PreTrainedTokenizerBase), isinstance(extractor, SequenceFeatureExtractor))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True"]


# -- collators


def rows(kind):
    one = [{"input_ids": [2, *range(5, 5 + n), 3], "token_type_ids": [0] * (n + 2)} for n in (1, 4, 2)]
    extra = {
        "labels": [{"labels": n} for n in (0, 1, 1)], "label": [{"label": n} for n in (0.5, 1.0, 0.0)],
        "label_ids": [{"label_ids": [n, n]} for n in (0, 1, 1)], "none": [{}] * 3,
        "tokens": [{"labels": [7] * (n + 2)} for n in (1, 4, 2)],
        "special": [{"special_tokens_mask": [1] + [0] * n + [1]} for n in (1, 4, 2)],
    }[kind]  # fmt: skip
    return [{**row, **more} for row, more in zip(one, extra, strict=True)]


def both(name, **options):
    reference = transformers.BertTokenizer(vocab=VOCAB)
    ours = getattr(minitrans, name)(minitrans.BertTokenizer(VOCAB), **options)
    return ours, getattr(transformers, name)(reference, **options)


def assert_same(found, expected):
    assert set(found) == set(expected)
    for name in expected:
        assert type(found[name]) is type(expected[name])
        assert found[name].dtype == expected[name].dtype, name
        np.testing.assert_array_equal(found[name], expected[name])


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("DataCollatorWithPadding", "labels"),
        ("DataCollatorWithPadding", "label"),
        ("DataCollatorWithPadding", "label_ids"),
        ("DataCollatorWithPadding", "none"),
        ("DataCollatorForTokenClassification", "tokens"),
        ("DataCollatorForTokenClassification", "none"),
    ],
)
@pytest.mark.parametrize("tensors", ["pt", "np"])
@pytest.mark.parametrize("options", [{}, {"pad_to_multiple_of": 8}, {"padding": "max_length", "max_length": 9}])
def test_collators_equal_transformers(name, kind, tensors, options):
    ours, theirs = both(name, return_tensors=tensors, **options)
    for side in ("right", "left"):
        ours.tokenizer.padding_side = theirs.tokenizer.padding_side = side
        assert_same(ours(rows(kind)), theirs(rows(kind)))


@pytest.mark.parametrize("labelled", ["label", "labels"])
def test_choices_equal_transformers(labelled):
    ours, theirs = both("DataCollatorForMultipleChoice")
    plain = rows("none")
    examples = [{name: [a[name], b[name]] for name in a} for a, b in zip(plain, plain[::-1], strict=True)]
    examples = [{**example, labelled: 1} for example in examples]
    assert_same(ours(copy.deepcopy(examples)), theirs(copy.deepcopy(examples)))


@pytest.mark.parametrize(
    "options",
    [{}, {"mlm_probability": 0.6}, {"mlm": False}, {"mask_replace_prob": 1.0, "random_replace_prob": 0.0},
     {"mask_replace_prob": 0.0, "random_replace_prob": 1.0, "mlm_probability": 0.9},
     {"seed": 3, "mlm_probability": 0.5}, {"mlm_probability": 1},
     {"pad_to_multiple_of": 8, "mlm_probability": 0.5}],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["none", "special", "ids"])
def test_hidden_tokens_equal_transformers(options, kind):
    ours, theirs = both("DataCollatorForLanguageModeling", **options)
    given = [row["input_ids"] for row in rows("none")] if kind == "ids" else rows(kind)
    for _ in range(3):
        batches = []
        for collator in (ours, theirs):
            torch.manual_seed(7)
            batches.append(collator(copy.deepcopy(given)))
        assert_same(*batches)


@pytest.mark.parametrize("worker", [0, 3])
def test_each_worker_of_a_data_loader_hides_other_tokens(monkeypatch, worker):
    """By its number, as in transformers."""
    monkeypatch.setattr(torch.utils.data, "get_worker_info", lambda: types.SimpleNamespace(id=worker))
    monkeypatch.setattr(
        transformers.data.data_collator.mp, "current_process", lambda: types.SimpleNamespace(name="Worker")
    )
    ours, theirs = both("DataCollatorForLanguageModeling", seed=5, mlm_probability=0.5)
    alone = minitrans.DataCollatorForLanguageModeling(minitrans.BertTokenizer(VOCAB), seed=5, mlm_probability=0.5)
    alone.generator = torch.Generator().manual_seed(5)
    given = [{"input_ids": [2, *[5, 6, 7] * 9, 3]}] * 4
    for _ in range(2):
        found, expected, first = (collator(copy.deepcopy(given)) for collator in (ours, theirs, alone))
        assert_same(found, expected)
        assert torch.equal(found["labels"], first["labels"]) is (worker == 0)


@pytest.mark.parametrize(
    "name",
    [
        "DefaultDataCollator",
        "DataCollatorWithPadding",
        "DataCollatorForTokenClassification",
        "DataCollatorForMultipleChoice",
        "DataCollatorForLanguageModeling",
    ],
)
def test_defaults_of_collators_are_the_published_ones(name):
    ours, theirs = (
        {field.name: field.default for field in dataclasses.fields(getattr(library, name))}
        for library in (minitrans, transformers)
    )
    shared = ours.keys() & theirs.keys()
    assert shared == ours.keys()
    assert {name: ours[name] for name in shared} == {name: theirs[name] for name in shared}


@pytest.mark.parametrize("labels", ["label", "labels"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_labels_of_tokens_are_padded_on_the_tokenizers_side(labels, side):
    ours, theirs = both("DataCollatorForTokenClassification", label_pad_token_id=-5)
    ours.tokenizer.padding_side = theirs.tokenizer.padding_side = side
    given = [{labels if name == "labels" else name: row[name] for name in row} for row in rows("tokens")]
    found, expected = (collator(copy.deepcopy(given)) for collator in (ours, theirs))
    assert_same(found, expected)
    assert (found[labels] == -5).sum() == 5


def test_no_mask_token_is_needed_where_nothing_is_hidden():
    tokenizer = minitrans.BertTokenizer(VOCAB, mask_token=None)
    collator = minitrans.DataCollatorForLanguageModeling(tokenizer, mlm=False, mlm_probability=None)
    found = collator([{"input_ids": [2, 5, 3]}, {"input_ids": [2, 3]}])
    assert found["labels"].tolist() == [[2, 5, 3], [2, 3, -100]]
    assert found["input_ids"].tolist() == [[2, 5, 3], [2, 3, tokenizer.pad_token_id]]
    assert minitrans.DataCollatorForLanguageModeling(minitrans.BertTokenizer(VOCAB), mlm_probability=None)(
        [{"input_ids": [2, 5, 3]}]
    )["labels"].tolist() == [[-100] * 3]


def test_collators_that_are_not_here_say_whose_to_take():
    for name in ("DataCollatorForSeq2Seq", "DataCollatorForWholeWordMask", "Trainer", "TrainingArguments",
                 "get_linear_schedule_with_warmup", "EarlyStoppingCallback"):  # fmt: skip
        with pytest.raises(AttributeError, match=f"from transformers import {name}"):
            minitrans.auto.published_class(name)
    tokenizer = minitrans.BertTokenizer(VOCAB)
    with pytest.raises(ValueError, match="transformers' DataCollatorForLanguageModeling"):
        minitrans.DataCollatorForLanguageModeling(tokenizer, whole_word_mask=True)
    with pytest.raises(ValueError, match="no more than 1 together"):
        minitrans.DataCollatorForLanguageModeling(tokenizer, mask_replace_prob=0.8, random_replace_prob=0.3)
    with pytest.raises(ValueError, match="no mask token"):
        minitrans.DataCollatorForLanguageModeling(minitrans.BertTokenizer(VOCAB, mask_token=None))


@pytest.mark.parametrize("name", ["DataCollatorWithPadding", "DataCollatorForTokenClassification",
                                  "DataCollatorForLanguageModeling", "DataCollatorForSeq2Seq"])  # fmt: skip
def test_transformers_collators_take_our_tokenizers(name):
    kind = "tokens" if name in ("DataCollatorForTokenClassification", "DataCollatorForSeq2Seq") else "none"
    batches = []
    for tokenizer in (minitrans.BertTokenizer(VOCAB), transformers.BertTokenizer(vocab=VOCAB)):
        torch.manual_seed(0)
        batches.append(getattr(transformers, name)(tokenizer)(rows(kind)))
    assert_same(*batches)


@pytest.mark.parametrize("tensors", ["pt", "np"])
@pytest.mark.parametrize(
    "label", [{"label": 3}, {"label": 0.5}, {"label_ids": [1, 2]}, {"label_ids": [0.5, 1.0]}, {"label": None}, {}]
)
@pytest.mark.parametrize("form", ["lists", "arrays", "tensors"])
def test_the_default_collator_equals_transformers(tensors, label, form):
    make = {"lists": list, "arrays": np.array, "tensors": torch.tensor}[form]
    if tensors == "np" and form == "tensors":
        make = np.array
    examples = [{"input_ids": make([1, 2]), "note": "text", "mask": make([[1], [0]]), **label} for _ in range(3)]
    expected = transformers.default_data_collator(copy.deepcopy(examples), tensors)
    assert_same(minitrans.default_data_collator(copy.deepcopy(examples), tensors), expected)
    assert_same(minitrans.DefaultDataCollator(tensors)(copy.deepcopy(examples)), expected)


def test_examples_that_are_objects():
    made = [types.SimpleNamespace(input_ids=[1, 2], label=number, note=None) for number in (0, 1)]
    for tensors in ("pt", "np"):
        found = minitrans.default_data_collator(copy.deepcopy(made), tensors)
        assert_same(found, transformers.default_data_collator(copy.deepcopy(made), tensors))
        assert found["labels"].tolist() == [0, 1]


def test_the_largest_labels():
    for number in (2**63 - 1, -(2**63) + 1):
        assert minitrans.default_data_collator([{"label": number}])["labels"].tolist() == [number]
    for number in (2**63, -(2**63) - 1):
        refuses(lambda: minitrans.default_data_collator([{"label": number}]), "label of the examples must be numbers")  # noqa: B023


COLLATORS = {
    "default_data_collator": minitrans.default_data_collator,
    "DefaultDataCollator": minitrans.DefaultDataCollator(),
    **{
        name: getattr(minitrans, name)(minitrans.BertTokenizer(VOCAB))
        for name in ("DataCollatorWithPadding", "DataCollatorForTokenClassification",
                     "DataCollatorForMultipleChoice", "DataCollatorForLanguageModeling")
    },
}  # fmt: skip
CHOICES = [[5, 6], [5]]


def refuses(call, sentence, error=ValueError):
    """In one sentence of the package's own."""
    with pytest.raises(error, match=sentence) as caught:
        call()
    assert is_sentence(caught.value), caught.value


@pytest.mark.parametrize("name", COLLATORS)
@pytest.mark.parametrize("features", [[], None, 5, "ab", {"input_ids": [[5], [6]]}, [{"input_ids": [5]}, 5]], ids=repr)
def test_what_is_no_batch(name, features):
    if name == "DataCollatorWithPadding" and isinstance(features, dict):
        assert COLLATORS[name](features)["input_ids"].shape == (2, 1)  # a batch in columns
    else:
        refuses(lambda: COLLATORS[name](features), "features|input_ids")


@pytest.mark.parametrize("name", COLLATORS)
@pytest.mark.parametrize("key", ["label", "labels", "label_ids", "attention_mask"])
def test_what_only_some_examples_have(name, key):
    ids = CHOICES if "Choice" in name else [5]
    for examples in (
        [{"input_ids": ids, key: 1}, {"input_ids": ids}],
        [{"input_ids": ids}, {"input_ids": ids, key: 1}],
    ):
        refuses(lambda: COLLATORS[name](examples), f"Of 2 examples only some have '{key}'")  # noqa: B023


@pytest.mark.parametrize("labels", [(1, None), (None, 1), (1, "a"), ([1], [1, 2]), (10**20, 1), (2**63, 1)], ids=repr)
@pytest.mark.parametrize("name", ["default_data_collator", "DataCollatorWithPadding", "DataCollatorForMultipleChoice"])
def test_labels_that_make_no_tensor(name, labels):
    ids = CHOICES if "Choice" in name else [5, 6]
    ids = [[5, 6], [5, 6]] if name == "default_data_collator" else ids
    examples = [{"input_ids": ids, "label": label} for label in labels]
    refuses(lambda: COLLATORS[name](examples), "label ")


@pytest.mark.parametrize("tensors", ["pt", "np"])
@pytest.mark.parametrize("values", [([1, 2, 3], [1]), ([[1], [1, 2]], [[1], [1, 2]]), (np.ones(2), np.ones(3)),
                                    (torch.ones(2), torch.ones(3)), (1, [1])])  # fmt: skip
def test_values_of_unequal_shapes_name_the_collators_that_pad(tensors, values):
    examples = [{"input_ids": value} for value in values]
    sentence = "input_ids .*DataCollatorWithPadding, make them equally long"
    refuses(lambda: minitrans.default_data_collator(examples, tensors), sentence)


@pytest.mark.parametrize(
    "labels", [1, [1], [1, 2, 3], [1.5, 2], [None, 1], ["a", "b"], "ab", None, [[1], [2]]], ids=repr
)
def test_labels_of_tokens_are_as_many_as_these(labels):
    collator = COLLATORS["DataCollatorForTokenClassification"]
    for name in ("label", "labels"):
        examples = [{"input_ids": [5, 6, 7], name: [1, 2, 3]}, {"input_ids": [5, 6], name: labels}]
        refuses(lambda: collator(examples), f"{name} of sequence 1 is .* a whole number for each of its 2")  # noqa: B023


@pytest.mark.parametrize(
    "second",
    [{"input_ids": [[5]]}, {"input_ids": [[5], [6], [7]]}, {"input_ids": [5, 6]}, {"input_ids": []},
     {"input_ids": [[5], 6]}, {"input_ids": None}, {"input_ids": [[5], [6]], "token_type_ids": [[0]]},
     {"input_ids": [[5], [6]], "token_type_ids": [0, 0]}],
    ids=repr,
)  # fmt: skip
def test_choices_are_as_many_in_every_example(second):
    collator, first = (
        COLLATORS["DataCollatorForMultipleChoice"],
        {"input_ids": CHOICES, "token_type_ids": [[0, 0], [0]]},
    )
    first = {name: first[name] for name in second}
    for examples in ([first, second], [second, first]):
        labelled = [{**example, "label": number} for number, example in enumerate(examples)]
        refuses(lambda: collator(labelled), "(input_ids|token_type_ids) of (example|sequence) ")  # noqa: B023
    refuses(lambda: collator([{"input_ids": CHOICES, "label": 0.5}]), "label of the examples must be whole numbers")


@pytest.mark.parametrize("tensors", [None, "tf", 5, ["pt"]], ids=repr)
def test_what_collators_cannot_make(tensors):
    tokenizer = minitrans.BertTokenizer(VOCAB)
    for name in ("DataCollatorForTokenClassification", "DataCollatorForMultipleChoice"):
        collator = getattr(minitrans, name)(tokenizer, return_tensors=tensors)
        refuses(lambda: collator([{"input_ids": CHOICES}]), "return_tensors=.* is not one of 'pt', 'np'")  # noqa: B023
    refuses(lambda: minitrans.default_data_collator([{"a": 1}], tensors), "return_tensors=.* is not one of 'pt', 'np'")
    plain = minitrans.DataCollatorWithPadding(tokenizer, return_tensors=tensors)
    if tensors is None:
        assert plain([{"input_ids": [5]}]) == {"input_ids": [[5]], "attention_mask": [[1]]}
    else:
        refuses(lambda: plain([{"input_ids": [5]}]), "return_tensors=.* is not one of None")


@pytest.mark.parametrize(
    ("options", "error"),
    [({"mlm_probability": "x"}, ValueError), ({"mlm_probability": float("nan")}, ValueError),
     ({"mask_replace_prob": None}, ValueError), ({"seed": "a"}, TypeError), ({"seed": 1.5}, TypeError),
     ({"seed": 10**30}, TypeError), ({"seed": 2**63}, TypeError), ({"seed": -(2**63)}, TypeError)],
    ids=repr,
)  # fmt: skip
def test_settings_of_hidden_tokens(options, error):
    collator = minitrans.DataCollatorForLanguageModeling
    refuses(lambda: collator(minitrans.BertTokenizer(VOCAB), **options), next(iter(options)), error)
    for seed in (2**63 - 1, -(2**63) + 1, 0, np.int64(3)):
        assert collator(minitrans.BertTokenizer(VOCAB), seed=seed)([{"input_ids": [5]}]).keys() >= {"labels"}


def test_labels_of_numpy_and_torch():
    for label in (np.int64(1), torch.tensor(1), np.array(1)):
        examples = [{"input_ids": np.array([5, 6]), "label": label}] * 2
        assert minitrans.default_data_collator(examples)["labels"].tolist() == [1, 1]
        choices = [{"input_ids": [torch.tensor([5, 6]), np.array([5])], "label": label}]
        assert COLLATORS["DataCollatorForMultipleChoice"](choices)["labels"].tolist() == [1]
    tokens = [
        {"input_ids": torch.tensor([5, 6]), "labels": np.array([1, 2])},
        {"input_ids": [5], "labels": (np.int8(3),)},
    ]
    assert COLLATORS["DataCollatorForTokenClassification"](tokens)["labels"].tolist() == [[1, 2], [3, -100]]


# -- seeds, logging, activations


def test_seeds():
    drawn = []
    for seed in (3, 3, 4):
        minitrans.set_seed(seed)
        drawn.append((random.random(), np.random.rand(), float(torch.rand(()))))
    assert drawn[0] == drawn[1] != drawn[2]
    transformers.set_seed(4)
    assert (random.random(), np.random.rand(), float(torch.rand(()))) == drawn[2]


def test_a_seed_makes_a_run_deterministic_where_it_is_asked_to():
    before = torch.are_deterministic_algorithms_enabled()
    try:
        for options, expected in (({}, False), ({"deterministic": False}, False), ({"deterministic": True}, True)):
            torch.use_deterministic_algorithms(False)
            minitrans.set_seed(3, **options)
            assert torch.are_deterministic_algorithms_enabled() is expected
    finally:
        torch.use_deterministic_algorithms(before)


@pytest.fixture
def library():
    logger = logging.getLogger("minitrans")
    before = logger.level, list(logger.handlers), logger.propagate
    yield logger
    logger.setLevel(before[0])
    logger.handlers[:], logger.propagate = before[1:]


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_verbosity(library, level):
    assert minitrans.logging is verbosity
    getattr(minitrans.logging, f"set_verbosity_{level}")()
    assert minitrans.logging.get_verbosity() == getattr(logging, level.upper()) == getattr(verbosity, level.upper())
    assert minitrans.logging.get_logger("minitrans.hub").isEnabledFor(logging.INFO) == (level in ("debug", "info"))


def test_messages_reach_a_program_that_has_no_logging():
    code = """
import minitrans
import minitrans.auto
minitrans.logging.set_verbosity_info()
minitrans.logging.set_verbosity_info()
minitrans.logging.enable_explicit_format()
minitrans.logging.get_logger("minitrans.anything").info("done this")
minitrans.logging.set_verbosity_error()
minitrans.logging.get_logger("minitrans.anything").warning("not heard")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.count("done this") == 1
    assert "[INFO|" in done.stderr
    assert "not heard" not in done.stderr


def test_handlers_and_bars(library):
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    verbosity.add_handler(handler)
    verbosity.set_verbosity(verbosity.INFO)
    verbosity.get_logger().info("heard")
    verbosity.remove_handler(handler)
    verbosity.get_logger().info("unheard")
    assert stream.getvalue() == "heard\n"
    verbosity.disable_propagation()
    assert not library.propagate
    verbosity.enable_propagation()
    assert library.propagate
    for switch, expected in ((verbosity.disable_progress_bar, False), (verbosity.enable_progress_bar, True)):
        switch()
        assert verbosity.is_progress_bar_enabled() is expected
    shared = {
        name
        for name in dir(transformers.utils.logging)
        if name.startswith(("set_verbosity", "get_verb", "enable_", "disable_"))
    }
    assert shared <= set(dir(verbosity))


def test_messages_have_their_place_before_them_or_stand_alone(library):
    stream = io.StringIO()
    verbosity.add_handler(logging.StreamHandler(stream))
    for switch, form in (
        (verbosity.enable_explicit_format, r"\[WARNING\|test_training\.py:\d+\] \d{4}-\d\d-\d\d .* >> said\n"),
        (verbosity.reset_format, "said\n"),
    ):
        switch()
        stream.seek(stream.truncate(0))
        verbosity.get_logger().warning("said")
        assert re.fullmatch(form, stream.getvalue())


def test_the_handler_on_stderr_is_for_programs_that_have_none(library):
    library.handlers.clear()
    verbosity.set_verbosity_info()  # pytest listens
    assert library.handlers == []
    verbosity.enable_default_handler()
    [handler] = library.handlers
    assert type(handler) is logging.StreamHandler
    verbosity.disable_default_handler()
    assert library.handlers == []
    verbosity.disable_propagation()
    verbosity.set_verbosity_info()
    assert library.handlers == [handler]


def test_names_of_loggers():
    assert verbosity.get_logger() is verbosity.get_logger("minitrans") is logging.getLogger("minitrans")
    assert verbosity.get_logger("mine") is logging.getLogger("mine")


@pytest.mark.parametrize("name", sorted(ACT2FN))
def test_activations_are_transformers(name):
    x = torch.linspace(-4, 4, 41)
    theirs = transformers.activations.ACT2FN[name]
    torch.testing.assert_close(ACT2FN[name](x), theirs(x), rtol=1e-5, atol=1e-6)
    assert str(get_activation(name)) == str(theirs)
    assert isinstance(ACT2FN[name], torch.nn.Module)
    pickle.loads(pickle.dumps(ACT2FN[name]))


def test_unknown_activations():
    assert "nonsense" not in ACT2FN
    with pytest.raises(KeyError, match="gelu_new"):
        ACT2FN["nonsense"]
