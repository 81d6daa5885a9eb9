"""Configurations: published defaults, transformers' reading of the same files, and values that cannot be."""

import copy
import json
import pickle
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from checkpoints import TINY

import minitrans

FAMILIES = {
    "bert": ("BertConfig", transformers.BertConfig),
    "distilbert": ("DistilBertConfig", transformers.DistilBertConfig),
    "swin": ("SwinConfig", transformers.SwinConfig),
    "wav2vec2": ("Wav2Vec2Config", transformers.Wav2Vec2Config),
}


def one_sentence(error: BaseException, *words: str) -> None:
    assert "\n" not in str(error)
    for word in words:
        assert word in str(error)


@pytest.mark.parametrize("family", FAMILIES)
def test_defaults_are_the_published_ones(family):
    name, published = FAMILIES[family]
    ours, theirs = getattr(minitrans, name)(), published()
    for key, value in ours.to_dict().items():
        if hasattr(theirs, key):
            assert as_json(getattr(theirs, key)) == as_json(value), key


# What belongs to parts of transformers that are not here: rotary positions, layers that differ from each other, plans
# for several devices, code and files from checkpoints.
ELSEWHERE = re.compile(
    "rope|default_theta|per_layer|heterogen|_plan$|sub_configs|base_config_key|auto_class|auto_map|experts|extra_|"
    "remote_code|custom_code|push_to_hub|mtp|generation|default_config_fields|validate_|get_config_dict|"
    "update_from_string|dict_dtype_to_str|^_(?!name_or_path|attn_implementation$)"
)


def as_json(value):
    return json.loads(json.dumps(value))


@pytest.mark.parametrize("family", FAMILIES)
def test_attributes_and_methods_are_the_published_ones(family):
    name, published = FAMILIES[family]
    ours, theirs = getattr(minitrans, name)(), published()
    for attribute in dir(theirs):
        if ELSEWHERE.search(attribute):
            continue
        value = getattr(theirs, attribute)
        assert hasattr(ours, attribute), attribute
        if callable(value) or attribute == "attribute_map":
            continue
        assert as_json(getattr(ours, attribute)) == as_json(value), attribute
    assert ours.attribute_map.items() >= theirs.attribute_map.items()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("values", [{}, {"num_labels": 3}, {"output_attentions": True, "dtype": "bfloat16"}])
def test_dicts_and_files_are_the_published_ones(family, values, tmp_path):
    name, published = FAMILIES[family]
    ours, theirs = getattr(minitrans, name)(**values), published(**values)
    for mine, other in ((ours.to_dict(), theirs.to_dict()), (ours.to_diff_dict(), theirs.to_diff_dict())):
        mine.pop("output_attentions", None)
        for only_there in ("transformers_version", "_name_or_path", "output_attentions"):
            other.pop(only_there, None)
        only_here = (
            {"architectures", "tie_word_embeddings", "problem_type"} if family in ("swin", "wav2vec2") else set()
        )
        assert mine.keys() - other.keys() <= only_here
        assert {key: as_json(value) for key, value in other.items() if value is not None}.items() <= as_json(
            mine
        ).items()
    for use_diff in (True, False):
        ours.to_json_file(tmp_path / "own.json", use_diff=use_diff)
        again, read = type(ours).from_json_file(tmp_path / "own.json"), published.from_json_file(tmp_path / "own.json")
        assert again == ours
        assert as_json(read.to_dict()["id2label"]) == as_json(ours.to_dict()["id2label"])
    ours.save_pretrained(tmp_path)
    again = type(ours).from_pretrained(tmp_path)
    assert again == ours
    assert again.to_dict() == ours.to_dict()
    assert all(type(value) is type(again.to_dict()[key]) for key, value in ours.to_dict().items())


def test_json_files_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file .*gone.json"):
        minitrans.BertConfig.from_json_file(tmp_path / "gone.json")
    for text, words in (("{", "cannot be read as JSON"), ("[1]", "should hold a JSON object, not a list")):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(ValueError, match=words):
            minitrans.BertConfig.from_json_file(tmp_path / "bad.json")


@pytest.mark.parametrize("family", FAMILIES)
def test_where_a_configuration_came_from(family, tmp_path):
    kind = getattr(minitrans, FAMILIES[family][0])
    assert kind().name_or_path == kind()._name_or_path == ""
    kind(_name_or_path="elsewhere", attn_implementation="eager").save_pretrained(tmp_path)
    assert not {"_name_or_path", "attn_implementation"} & json.loads((tmp_path / "config.json").read_text()).keys()
    for reader in (kind, minitrans.AutoConfig):
        config = reader.from_pretrained(str(tmp_path), finetuning_task="mrpc")
        assert config.name_or_path == config._name_or_path == str(tmp_path)
        assert config.finetuning_task == "mrpc"
    config.name_or_path = tmp_path / "x"
    assert config._name_or_path == str(tmp_path / "x")
    assert config.get_text_config(decoder=True) is config
    assert kind(attn_implementation="eager")._attn_implementation == "eager"
    assert config == kind(finetuning_task="mrpc")
    assert config != kind()
    assert kind() != getattr(minitrans, FAMILIES["bert" if family != "bert" else "swin"][0])()
    with pytest.raises(ValueError, match="is_encoder_decoder"):
        kind(is_encoder_decoder=True)


# Each a list of what is set, one after the other.
STAGES = [
    [("out_features", ["stem", "stage2"])],
    [("out_indices", (1, 3))],
    [("out_indices", [-2, -1])],
    [("out_features", ["stage1"]), ("out_indices", [0, 4])],
    [("out_indices", [0]), ("out_features", ["stage3"])],
    [("out_features", ["stage1"]), ("out_features", None)],
    [("out_indices", [1]), ("out_indices", None)],
]


@pytest.mark.parametrize("steps", STAGES, ids=str)
@pytest.mark.parametrize("start", [{}, {"out_features": ["stage2", "stage4"]}, {"out_indices": [2]}], ids=str)
def test_one_of_names_and_indices_of_stages_follows_from_the_other(start, steps, tmp_path):
    ours, theirs = minitrans.SwinConfig(**start), transformers.SwinConfig(**start)
    for name, value in steps:
        for config in (ours, theirs):
            setattr(config, name, value)
        assert (ours.out_features, ours.out_indices) == (theirs.out_features, theirs.out_indices)
    ours.save_pretrained(tmp_path)
    for library in (minitrans, transformers):
        again = library.SwinConfig.from_pretrained(tmp_path)
        assert (again.out_features, again.out_indices) == (theirs.out_features, theirs.out_indices)


@pytest.mark.parametrize(
    ("name", "value"),
    [("out_features", ["stage9"]), ("out_features", ["stage2", "stage1"]), ("out_features", ["stage1", "stage1"]),
     ("out_indices", [7]), ("out_indices", [2, 1]), ("out_indices", [4, -1])],
)  # fmt: skip
def test_stages_that_cannot_be_change_nothing(name, value):
    config = minitrans.SwinConfig(out_features=["stage2"])
    with pytest.raises(ValueError, match=r"out_|stages"):
        setattr(config, name, value)
    assert (config.out_features, config.out_indices) == (["stage2"], [2])
    with pytest.raises(ValueError, match=r"out_|stages"):
        config.set_output_features_output_indices(["stage1"], [2])
    assert (config.out_features, config.out_indices) == (["stage2"], [2])
    config.set_output_features_output_indices(None, (0, 1))
    assert config.out_features == ["stem", "stage1"]


@pytest.mark.parametrize("family", FAMILIES)
def test_there_and_back_through_transformers(family, tmp_path):
    name, published = FAMILIES[family]
    sizes = {
        "swin": {"embed_dim": 12, "depths": [1, 2], "num_heads": [3, 6], "out_indices": [0, 1]},
        "wav2vec2": {"conv_dim": [8, 9], "conv_kernel": [3, 2], "conv_stride": [2, 2], "hidden_size": 32},
    }.get(family, {"vocab_size": 17, "hidden_size": 12, "num_attention_heads": 3})
    values = {**sizes, "id2label": {0: "a", 1: "b", 2: "ç"}}
    ours = getattr(minitrans, name)(
        **values, problem_type="multi_label_classification", something_new=[1, {"a": None}]
    )
    ours.save_pretrained(tmp_path / "ours")
    theirs = transformers.AutoConfig.from_pretrained(tmp_path / "ours")
    assert type(theirs) is published
    for key, value in values.items():
        assert getattr(theirs, key) == value
    assert theirs.something_new == [1, {"a": None}]
    theirs.save_pretrained(tmp_path / "theirs")
    again = minitrans.AutoConfig.from_pretrained(tmp_path / "theirs")
    assert type(again) is type(ours)
    assert again.to_dict().items() >= ours.to_dict().items()
    assert minitrans.AutoConfig.from_pretrained(tmp_path / "ours") == ours


def test_unknown_keys_are_kept_readable_and_changeable(tmp_path):
    config = minitrans.BertConfig(gradient_checkpointing=False, extra={"a": 1}, _name_or_path="x")
    assert config.gradient_checkpointing is False
    config.gradient_checkpointing = True
    config.brand_new = 3
    config.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["gradient_checkpointing"] is True
    assert written["brand_new"] == 3
    assert written["extra"] == {"a": 1}
    assert minitrans.BertConfig.from_pretrained(tmp_path) == config
    with pytest.raises(AttributeError, match="no_such"):
        _ = config.no_such


def test_other_names_of_fields(tmp_path):
    config = minitrans.DistilBertConfig(hidden_size=24, n_heads=3, num_hidden_layers=1)
    assert (config.dim, config.num_attention_heads, config.n_layers) == (24, 3, 1)
    config.hidden_size = 48
    assert config.dim == 48
    assert "hidden_size" not in config.to_dict()
    config.save_pretrained(tmp_path)
    assert minitrans.AutoConfig.from_pretrained(tmp_path, hidden_size=36).dim == 36


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "values",
    [
        {},
        {"num_labels": 5},
        {"num_labels": 1},
        {"id2label": {"0": "no", "1": "yes", "2": "?"}},
        {"id2label": {0: "no", 1: "yes"}, "label2id": {"no": 0, "yes": 1}},
        {"id2label": {0: "no", 1: "yes", 2: "?"}, "num_labels": 3},
        {"id2label": {0: "no", 1: "yes", 2: "?"}, "num_labels": 2},
    ],
)
def test_labels_as_transformers_reads_them(family, values, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family, **values}))
    ours, theirs = (package.AutoConfig.from_pretrained(tmp_path) for package in (minitrans, transformers))
    assert ours.num_labels == theirs.num_labels
    assert ours.id2label == theirs.id2label


def test_label_overrides(tmp_path):
    minitrans.BertConfig(id2label={0: "a", 1: "b"}).save_pretrained(tmp_path)

    def read(**options):
        return minitrans.AutoConfig.from_pretrained(tmp_path, **options)

    assert read(num_labels=2).id2label == {0: "a", 1: "b"}
    assert read(num_labels=3).id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}
    assert read(id2label={0: "x"}).label2id == {"x": 0}
    assert read(label2id={"x": 0, "y": 1}).label2id == {"x": 0, "y": 1}
    config = read()
    config.num_labels = 2
    assert config.id2label == {0: "a", 1: "b"}
    config.num_labels = 4
    assert config.label2id["LABEL_3"] == 3


def test_dtypes(tmp_path):
    assert "dtype" not in minitrans.BertConfig().to_dict()
    for value in (torch.bfloat16, "bfloat16", "torch.bfloat16"):
        for key in ("dtype", "torch_dtype"):
            config = minitrans.BertConfig(**{key: value})
            assert config.dtype is config.torch_dtype is torch.bfloat16
            config.save_pretrained(tmp_path)
            assert str(transformers.AutoConfig.from_pretrained(tmp_path).dtype) == "torch.bfloat16"
    (tmp_path / "config.json").write_text('{"model_type": "bert", "torch_dtype": "float16"}')
    assert minitrans.AutoConfig.from_pretrained(tmp_path, dtype="float32").dtype == torch.float32


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"hidden_size": 0}, "whole number"),
        ({"hidden_size": -768}, "-768"),
        ({"hidden_size": 768.0}, "768.0 whole"),
        ({"hidden_size": "768"}, "'768' whole"),
        ({"hidden_size": True}, "True whole"),
        ({"hidden_size": None}, "None whole"),
        ({"hidden_size": [768]}, "[768]"),
        ({"hidden_size": 10**40}, "hidden_size"),
        ({"num_hidden_layers": -1}, "-1"),
        ({"num_hidden_layers": 10**9}, "1000000000"),
        ({"layer_norm_eps": float("nan")}, "nan number"),
        ({"layer_norm_eps": float("inf")}, "inf"),
        ({"layer_norm_eps": -1e-12}, "-1e-12"),
        ({"layer_norm_eps": "1e-12"}, "'1e-12' number"),
        ({"hidden_dropout_prob": 1.5}, "1.5 0 to 1"),
        ({"hidden_dropout_prob": float("nan")}, "nan"),
        ({"initializer_range": float("nan")}, "nan"),
        ({"hidden_act": "gelu_11"}, "'gelu_11' 'relu'"),
        ({"hidden_act": 3}, "3 text"),
        ({"hidden_act": ["gelu"]}, "['gelu'] text"),
        ({"position_embedding_type": "relative_key"}, "'relative_key' 'absolute'"),
        ({"is_decoder": True}, "is_decoder True"),
        ({"add_cross_attention": True}, "add_cross_attention"),
        ({"is_encoder_decoder": True}, "is_encoder_decoder"),
        ({"pruned_heads": {"1": [0]}}, "pruned_heads"),
        ({"num_labels": 0}, "num_labels 0"),
        ({"num_labels": -3}, "-3"),
        ({"num_labels": 2.5}, "2.5"),
        ({"num_labels": 10**12}, "num_labels"),
        ({"id2label": ["a", "b"]}, "id2label"),
        ({"id2label": {"a": "b"}}, "id2label"),
        ({"id2label": {"0": ["a"]}}, "id2label"),
        ({"id2label": 3}, "id2label"),
        ({"label2id": ["a"]}, "label2id"),
        ({"pad_token_id": "0"}, "pad_token_id '0'"),
        ({"tie_word_embeddings": "yes"}, "'yes' true or false"),
        ({"architectures": "BertModel"}, "architectures 'BertModel' list"),
        ({"output_attentions": 1}, "output_attentions"),
    ],
)
def test_values_that_cannot_be(values, words, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", **values}))
    for make in (lambda: minitrans.BertConfig(**values), lambda: minitrans.AutoConfig.from_pretrained(tmp_path)):
        with pytest.raises(ValueError, match=next(iter(values))) as caught:
            make()
        one_sentence(caught.value, *(word for word in words.split(" ") if word not in ("0", "to", "1", "at")))


# A field with each kind of limit -> what holds the value, its least and largest value, and what is beyond either.
BOUNDS = {
    "a width": ("BertConfig", "hidden_size", (1, 10**6), (0, 10**6 + 1)),
    "words": ("BertConfig", "vocab_size", (1, 10**7), (0, 10**7 + 1)),
    "positions": ("DistilBertConfig", "max_position_embeddings", (1, 10**7), (0, 10**7 + 1)),
    "layers": ("BertConfig", "num_hidden_layers", (0, 10_000), (-1, 10_001)),
    "an edge": ("SwinConfig", "image_size", (1, 10_000), (0, 10_001)),
    "chance": ("BertConfig", "hidden_dropout_prob", (0.0, 0, 1, 1.0), (-5e-324, 1.0000001)),
    "a positive number": ("BertConfig", "initializer_range", (0.0, 0, sys.float_info.max), (-5e-324, float("inf"))),
    "a ratio": ("SwinConfig", "mlp_ratio", (0.0, 0.25, 1000), (-0.25, 1000.5)),
    "negatives": ("Wav2Vec2Config", "num_negatives", (1, 10**6), (0, 10**6 + 1)),
}


@pytest.mark.parametrize("name", BOUNDS)
def test_values_at_both_ends_of_a_range(name):
    kind, field, within, beyond = BOUNDS[name]
    config = getattr(minitrans, kind)()
    for value in within:
        config.update({field: value})
        assert getattr(config, field) == value
        assert getattr(getattr(minitrans, kind)(**{field: value}), field) == value
    for value in beyond:
        with pytest.raises(ValueError, match=rf"{kind}\.{field} is {value}; it must be .*") as caught:
            config.update({field: value})
        one_sentence(caught.value)
        assert getattr(config, field) == within[-1]


def test_the_depths_of_stages_at_both_ends_of_their_range():
    assert minitrans.SwinConfig(depths=[1, 10_000, 1, 1]).depths == [1, 10_000, 1, 1]
    for depth in (0, 10_001):
        with pytest.raises(ValueError, match=rf"SwinConfig\.depths is \[1, {depth}\]; .* from 1 to 10000"):
            minitrans.SwinConfig(depths=[1, depth])


def test_what_cannot_be_honoured_in_the_other_family():
    for values in ({"activation": "elu"}, {"pruned_heads": {"0": [1]}}, {"dropout": 2}, {"n_layers": "six"}):
        with pytest.raises(ValueError, match=next(iter(values))):
            minitrans.DistilBertConfig(**values)


@pytest.mark.parametrize(
    "act", sorted(set(transformers.activations.ACT2FN) & set(minitrans.BertConfig.honoured["hidden_act"]))
)
def test_activations_are_those_of_the_same_name(act):
    from minitrans.ops import ACTIVATIONS

    x = torch.linspace(-12, 12, 4001, dtype=torch.float64)
    torch.testing.assert_close(ACTIVATIONS[act](x), transformers.activations.ACT2FN[act](x), rtol=1e-12, atol=1e-12)


def test_heads_that_do_not_divide_the_width():
    for name in ("bert", "distilbert"):
        config = minitrans.AutoConfig.for_model(name, hidden_size=30, num_attention_heads=4)
        with pytest.raises(ValueError, match=r"30.*4"):
            minitrans.AutoModel.from_config(config)


def test_copies():
    config = minitrans.BertConfig(num_labels=3, novelty={"a": [1]})
    for twin in (copy.deepcopy(config), pickle.loads(pickle.dumps(config)), minitrans.BertConfig(**config.to_dict())):
        assert twin == config
        twin.novelty["a"].append(2)
        twin.num_labels = 7
    assert config.novelty == {"a": [1]}
    assert config.num_labels == 3
    assert '"hidden_size": 768' in repr(config)


def test_update():
    ours, theirs = minitrans.DistilBertConfig(), transformers.DistilBertConfig()
    for config in (ours, theirs):
        config.update({"hidden_size": 48, "num_labels": 3, "vocab_size": 7, "of_mine": 1})
        assert (config.dim, config.vocab_size, config.of_mine) == (48, 7, 1)
    assert ours.id2label == theirs.id2label
    before = ours.to_dict()
    with pytest.raises(ValueError, match="vocab_size"):
        ours.update({"dim": 36, "vocab_size": -1})
    assert ours.to_dict() == before


def test_saving_keeps_the_old_file_when_it_fails(tmp_path):
    minitrans.BertConfig(hidden_size=24).save_pretrained(tmp_path)
    before = (tmp_path / "config.json").read_bytes()
    with pytest.raises(TypeError):
        minitrans.BertConfig(hidden_size=36, novelty=object()).save_pretrained(tmp_path)
    assert (tmp_path / "config.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


# A value that is no JSON's own -> what is in the file.
WRITTEN = {
    "a whole number": (np.int64(3), 3),
    "a number": (np.float32(0.5), 0.5),
    "a truth": (np.bool_(True), True),
    "numbers": ([np.int8(1), (np.float64(2.5),)], [1, [2.5]]),
    "an array": (np.arange(3), [0, 1, 2]),
    "a tensor": (torch.ones(2), [1.0, 1.0]),
    "one of a tensor": (torch.tensor(4), 4),
    "a path": (Path("a") / "b", "a/b"),
    "a dtype": (torch.bfloat16, "bfloat16"),
    "a device": ({"on": torch.device("cpu")}, {"on": "cpu"}),
    "keys of numbers": ({1: "a", 10: "b"}, {"1": "a", "10": "b"}),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_values_of_other_libraries_are_written_as_what_they_are(name, tmp_path):
    value, expected = WRITTEN[name]
    config = minitrans.BertConfig(mine=value)
    assert config.mine is value
    assert config == minitrans.BertConfig(mine=value)
    config.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["mine"] == expected
    assert "mine" in repr(config)
    assert minitrans.BertConfig.from_pretrained(tmp_path).mine == expected
    assert transformers.BertConfig.from_pretrained(tmp_path).mine == expected


def nested(depth):
    value = 1
    for _ in range(depth):
        value = [value]
    return value


UNWRITTEN = {
    "a set": ({1}, TypeError, r"BertConfig\.mine is \{1\}, which JSON cannot hold .*set"),
    "bytes": (b"x", TypeError, r"mine is b'x', which JSON cannot hold"),
    "an object": ([object()], TypeError, "mine is .*object.*, which JSON cannot hold"),
    "keys of two kinds": ({1: 2, "a": 3}, TypeError, "mine is .*, which JSON cannot hold"),
    "keys that are none": ({(1, 2): 3}, TypeError, "mine is .*, which JSON cannot hold .*keys must be"),
    "half a character": ("a\ud83d", ValueError, "mine is 'a.*d83d', which JSON cannot hold"),
    "half a character within": ({"a": ["\udc00"]}, ValueError, "mine is .*, which JSON cannot hold"),
    "many levels": (nested(100), ValueError, "holds values of more than 100 levels"),
    "very many levels": (nested(2000), ValueError, "holds values of more than 100 levels"),
}


@pytest.mark.parametrize("name", UNWRITTEN)
def test_what_no_file_can_hold_is_refused_when_it_is_saved(name, tmp_path):
    value, error, words = UNWRITTEN[name]
    config = minitrans.BertConfig()
    config.save_pretrained(tmp_path)
    before = (tmp_path / "config.json").read_bytes()
    config.mine = value
    model = minitrans.BertModel(minitrans.BertConfig(**TINY))
    model.config.mine = value
    for save in (config.save_pretrained, lambda folder: config.to_json_file(folder / "config.json"),
                 model.save_pretrained):  # fmt: skip
        with pytest.raises(error, match=words) as caught:
            save(tmp_path)
        one_sentence(caught.value)
        assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
        assert (tmp_path / "config.json").read_bytes() == before
    assert "BertConfig" in repr(config)


@pytest.mark.parametrize("family", FAMILIES)
def test_keys_that_are_names_in_python_too(family, tmp_path):
    keys = {"self": 1, "cls": 2, "values": 3, "overrides": 4, "config": 5, "to_json": 6, "__doc__": "x"}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family, **keys}))
    kind = getattr(minitrans, FAMILIES[family][0])
    found = [kind.from_pretrained(tmp_path), minitrans.AutoConfig.from_pretrained(tmp_path, values=3), kind(**keys)]
    for config in found:
        config.save_pretrained(tmp_path / "again")
        assert keys.items() <= json.loads((tmp_path / "again" / "config.json").read_text()).items()


@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint8, torch.tensor])
def test_whole_numbers_of_other_libraries(kind, tmp_path):
    values = {"embed_dim": 8, "window_size": 4, "num_labels": 5}
    lists = {"depths": [1, 1, 2], "num_heads": [1, 2, 4], "out_indices": [1, 3], "image_size": [64, 32]}
    expected = minitrans.SwinConfig(**values, **lists)
    given = {name: kind(value) for name, value in values.items()}
    given |= {name: [kind(item) for item in items] for name, items in lists.items()}
    config = minitrans.SwinConfig(**given)
    assert config == expected
    assert type(config.embed_dim) is type(config.depths[0]) is type(config.out_indices[0]) is int
    config.num_labels, expected.num_labels = kind(7), 7
    config.out_indices, expected.out_indices = [kind(2)], [2]
    assert config.to_json_string() == expected.to_json_string()
    with pytest.raises(ValueError, match=r"embed_dim is 8\.5; it must be a whole number"):
        minitrans.SwinConfig(embed_dim=np.float64(8.5))


@pytest.mark.parametrize(
    "values",
    [
        {"id2label": {"0": None, "1": "a"}},
        {"id2label": {"0": ["a"], "1": "b"}},
        {"id2label": {"0": True, "1": "b"}},
        {"id2label": {"0": 0.5, "1": "b"}},
        {"id2label": {0.5: "a"}},
        {"id2label": {None: "a"}},
        {"id2label": {0: {"name": "a"}}},
        {"id2label": ["a", "b"]},
        {"label2id": {"a": None}},
        {"label2id": {"a": "b"}},
        {"label2id": {"a": 0.5}},
        {"label2id": {None: 0}},
        {"label2id": {"a": 0, "b": float("inf")}},
        {"id2label": {"0": "a"}, "label2id": {"a": [0]}},
    ],
    ids=str,
)
def test_labels_that_are_none(values, tmp_path):
    config = minitrans.BertConfig()
    with pytest.raises(ValueError, match="id2label and label2id must map whole numbers to names") as caught:
        minitrans.BertConfig(**values)
    one_sentence(caught.value)
    with pytest.raises(ValueError, match="id2label and label2id must map whole numbers to names"):
        setattr(config, *list(values.items())[-1])
    with pytest.raises(ValueError, match="id2label and label2id must map whole numbers to names"):
        config.update(values)


def test_labels_that_are_whole_numbers(tmp_path):
    """As published fine-tuning programs write them for a data set that numbers its classes; here they are text."""
    transformers.BertConfig(id2label={0: 7, 1: 9}, label2id={7: 0, 9: 1}).save_pretrained(tmp_path)
    config = minitrans.BertConfig.from_pretrained(tmp_path)
    assert (config.id2label, config.label2id) == ({0: "7", 1: "9"}, {"7": 0, "9": 1})
    assert minitrans.BertConfig(label2id={"a": np.int64(1), "b": "0"}).id2label == {1: "a", 0: "b"}


def test_a_model_keeps_the_configuration_it_was_made_of():
    config = minitrans.BertConfig(**{key: value for key, value in TINY.items() if key != "attn_implementation"})
    assert minitrans.BertModel(config).config is config
    with pytest.raises(TypeError, match="BertConfig"):
        minitrans.BertModel(minitrans.DistilBertConfig())


# -- what programs ask of every configuration


@pytest.mark.parametrize("name", ["BertConfig", "DistilBertConfig", "SwinConfig", "Wav2Vec2Config"])
def test_files_and_texts(tmp_path, name):
    kind, reference = getattr(minitrans, name), getattr(transformers, name)
    config = kind(num_labels=3, novelty=[1], initializer_range=0.5)
    config.to_json_file(tmp_path / "whole.json", use_diff=False)
    config.to_json_file(tmp_path / "difference.json")
    for file in ("whole.json", "difference.json"):
        again = kind.from_json_file(tmp_path / file)
        assert json.loads(again.to_json_string(False)) == json.loads(config.to_json_string(False))
        assert reference.from_json_file(tmp_path / file).num_labels == 3
    short = json.loads(config.to_json_string())
    assert short == json.loads(json.dumps(config.to_diff_dict()))
    assert short.items() <= json.loads(config.to_json_string(use_diff=False)).items()
    assert "output_attentions" not in short
    assert "num_labels" not in short
    assert short["novelty"] == [1]
    assert repr(config) == f"{name} {config.to_json_string()}"


@pytest.mark.parametrize("name", ["BertConfig", "DistilBertConfig", "SwinConfig", "Wav2Vec2Config"])
def test_what_has_no_effect_has_its_default(name):
    config, reference = getattr(minitrans, name)(), getattr(transformers, name)()
    for key in ("bos_token_id", "eos_token_id", "is_encoder_decoder", "chunk_size_feed_forward", "name_or_path"):
        if hasattr(reference, key):
            assert getattr(config, key) == getattr(reference, key), key
    assert config.get_text_config() is config
    config.eos_token_id = 7
    config.name_or_path = "here"
    assert (config.eos_token_id, config.to_dict()["eos_token_id"], config.name_or_path) == (7, 7, "here")
    assert "name_or_path" not in config.to_dict()


def test_names_of_where_it_comes_from(tmp_path):
    minitrans.BertConfig().save_pretrained(tmp_path)
    for kind in (minitrans.AutoConfig, minitrans.BertConfig):
        config = kind.from_pretrained(tmp_path, finetuning_task="mnli", num_labels=3)
        assert (config.name_or_path, config._name_or_path) == (str(tmp_path), str(tmp_path))
        assert (config.finetuning_task, config.num_labels) == ("mnli", 3)
        config, unused = kind.from_pretrained(tmp_path, num_labels=4, nonsense=1, return_unused_kwargs=True)
        assert (config.num_labels, unused) == (4, {"nonsense": 1})
    assert minitrans.BertConfig().name_or_path == ""
    assert minitrans.PretrainedConfig is minitrans.PreTrainedConfig
    assert isinstance(config, minitrans.PretrainedConfig)
    assert issubclass(minitrans.BertModel, minitrans.PreTrainedModel)


def test_pushing(tmp_path, monkeypatch):
    pushed = []

    def push(repo_id, write, **options):
        write(tmp_path)
        pushed.append((repo_id, options))

    monkeypatch.setattr("minitrans.hub.push_folder", push)
    config = minitrans.BertConfig(num_hidden_layers=1)
    config.push_to_hub("me/it")
    config.save_pretrained(tmp_path / "mine", push_to_hub=True, token="t")
    assert pushed == [("me/it", {}), ("mine", {"token": "t"})]
    assert minitrans.AutoConfig.from_pretrained(tmp_path) == config
    with pytest.raises(TypeError, match="nonsense"):
        config.save_pretrained(tmp_path / "not", nonsense=1)
    assert not (tmp_path / "not").exists()


@pytest.mark.parametrize("wrap", [lambda x: [x], lambda x: {"a": x}], ids=["lists", "objects"])
def test_as_many_levels_as_can_be_read_are_written(wrap, tmp_path):
    """A hundred, of which the configuration is the first."""
    values = [5]
    for _ in range(120):
        values.append(wrap(values[-1]))
    for levels in (97, 98):
        minitrans.BertConfig(own=values[levels]).save_pretrained(tmp_path / str(levels))
        again = minitrans.BertConfig.from_pretrained(tmp_path / str(levels))
        assert again.own == values[levels]
    for levels in (99, 100, 101):
        with pytest.raises(ValueError, match="more than 100 levels"):
            minitrans.BertConfig(own=values[levels]).save_pretrained(tmp_path / str(levels))


def test_the_file_of_a_configuration_holds_what_differs_unless_asked_for_all(tmp_path):
    config = minitrans.BertConfig(hidden_size=96)
    theirs = transformers.BertConfig(hidden_size=96)
    for options in ({}, {"use_diff": True}, {"use_diff": False}):
        config.to_json_file(tmp_path / "ours.json", **options)
        theirs.to_json_file(tmp_path / "theirs.json", **options)
        found, expected = (json.loads((tmp_path / f"{whose}.json").read_text()) for whose in ("ours", "theirs"))
        for key in ("return_dict", "output_attentions", "problem_type"):
            assert (key in found) is (key in expected) is (options == {"use_diff": False})


@pytest.mark.parametrize("family", FAMILIES)
def test_configurations_are_equal_that_say_the_same(family):
    """Fields that no family knows count too, and a configuration of another class is another."""
    kind = getattr(minitrans, FAMILIES[family][0])
    assert kind(own=1, num_labels=3) == kind(own=1, num_labels=3)
    assert kind(own=1) != kind(own=2)
    assert kind(num_labels=3) != kind()
    assert kind() != type("Own", (kind,), {})()
