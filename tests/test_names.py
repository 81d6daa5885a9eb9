"""Everything outside speaks the published names: state dicts, parameters, modules, attribute paths, own layers."""

import copy
import inspect
import pickle
from typing import Any

import pytest
import torch
import transformers
from checkpoints import relative
from families import HEADED, HEADS, PUBLISHED, SIZES, family_of, flat, inputs_of, make, published_pair
from safetensors.torch import load_file, save_file
from torch import nn

import minitrans
from minitrans import weights
from minitrans.names import raw_tensors

IN_MEMORY = [name for name in PUBLISHED if not name.startswith("Swin")]  # transformers 5 has other names in memory


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_state_dict_has_the_names_of_the_file(name, tmp_path):
    _, ours = published_pair(name, tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    stored = {key: x for key, x in stored.items() if name != "SwinBackbone" or not key.startswith("swin.layernorm")}
    state = ours.state_dict()
    assert set(stored) <= set(state)
    assert set(ours.published_state_dict()) == set(stored)
    for key, tensor in stored.items():
        assert torch.equal(state[key], tensor), key
    assert set(state) == {key for key, _ in ours.named_parameters(remove_duplicate=False)}


@pytest.mark.parametrize("name", IN_MEMORY)
def test_parameters_are_those_of_transformers_in_their_order(name):
    theirs, ours = make(transformers, name), make(minitrans, name)
    assert [key for key, _ in ours.named_parameters()] == [key for key, _ in theirs.named_parameters()]
    assert set(ours.state_dict()) == set(theirs.state_dict())
    for (_, a), (_, b) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        assert a.shape == b.shape


@pytest.mark.parametrize("name", PUBLISHED)
def test_state_dicts_load_both_ways(name):
    """transformers' from memory into ours; ours, written by torch or by safetensors, into either library's folder."""
    theirs, ours, x = make(transformers, name, 0), make(minitrans, name, 1), inputs_of(name)
    x.pop("attention_mask", None)
    ours.load_state_dict(theirs.state_dict(), strict=name != "SwinBackbone")
    with torch.no_grad():
        expected, found = theirs(**x), ours(**x)
    for key in found:
        for a, b in zip(*(x if isinstance(x, tuple) else (x,) for x in (found[key], expected[key])), strict=True):
            assert relative(a, b) <= 1e-4, key
    if name in IN_MEMORY:
        theirs.load_state_dict(ours.state_dict())


@pytest.mark.parametrize("writer", ["torch", "safetensors"])
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_written_state_dict_opens_in_both(name, writer, tmp_path):
    ours, x = make(minitrans, name), inputs_of(name)
    ours.config.save_pretrained(tmp_path)
    if writer == "torch":
        torch.save(ours.state_dict(), tmp_path / "pytorch_model.bin")
    else:
        save_file(ours.state_dict(), tmp_path / "model.safetensors", metadata={"format": "pt"})
    with torch.no_grad():
        again = getattr(minitrans, name).from_pretrained(tmp_path)
        assert again.load_report.missing == again.load_report.unexpected == []
        assert torch.equal(flat(again(**x)), flat(ours(**x)))
        if name != "SwinBackbone":  # transformers 5 looks for a prefix that its own older files lack
            theirs, info = getattr(transformers, name).from_pretrained(tmp_path, output_loading_info=True)
            assert not info["missing_keys"]
            assert not info["unexpected_keys"]
            for key, tensor in theirs.state_dict().items():
                if name in IN_MEMORY:
                    assert torch.equal(tensor, ours.state_dict()[key]), key


def test_names_and_tensors_are_matched_however_they_are_given():
    model = make(minitrans, "BertForMaskedLM")
    paths, names = list(weights.tensors_of(model)), list(model.state_dict())
    expected = model.match(paths, names)
    assert len(expected) == len(paths)
    assert model.match(iter(paths), iter(names)) == model.match(dict.fromkeys(paths), dict.fromkeys(names)) == expected


@pytest.mark.parametrize("name", HEADED)
def test_a_checkpoint_that_gives_the_backbone_nothing_is_an_error(name, tmp_path):
    ours = make(minitrans, name)
    ours.save_pretrained(tmp_path)
    prefix = f"{ours.base_model_prefix}."
    state = load_file(tmp_path / "model.safetensors")
    head = {key: x for key, x in state.items() if not key.startswith(prefix)}
    save_file(head or {"other": torch.ones(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=f"no tensor of a {name}'s backbone"):
        getattr(minitrans, name).from_pretrained(tmp_path)
    save_file({f"renamed_{key}": x for key, x in state.items()}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="holds no tensor"):
        getattr(minitrans, name).from_pretrained(tmp_path)


def test_load_state_dict_says_what_is_missing_in_published_names():
    ours = make(minitrans, "BertForSequenceClassification")
    state = ours.state_dict()
    del state["bert.encoder.layer.1.attention.self.key.weight"]
    state["bert.encoder.layer.7.output.dense.weight"] = torch.ones(1)
    with pytest.raises(RuntimeError, match=r"lacks bert\.encoder\.layer\.1\.attention\.self\.key\.weight;"):
        ours.load_state_dict(state)
    found = ours.load_state_dict(state, strict=False)
    assert found.missing_keys == ["bert.encoder.layer.1.attention.self.key.weight"]
    assert found.unexpected_keys == ["bert.encoder.layer.7.output.dense.weight"]


@pytest.mark.parametrize("change", ["prefix off", "prefix on", "gamma", "ours", "tied only"])
def test_other_spellings_of_a_state_dict_load(change):
    kind = "BertModel" if change == "prefix on" else "BertForMaskedLM"
    theirs, ours = make(minitrans, kind, 0), make(minitrans, kind, 1)
    state = theirs.state_dict()
    if change == "prefix off":
        state = {key.removeprefix("bert."): x for key, x in state.items()}
    elif change == "prefix on":
        state = {f"bert.{key}": x for key, x in state.items()}
    elif change == "gamma":
        state = {
            key.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"): x for key, x in state.items()
        }
        state["bert.embeddings.position_ids"] = torch.arange(512)[None]
    elif change == "ours":
        other = make(minitrans, kind, 2)
        other.load_state_dict(state)
        state = dict(raw_tensors(other))
        assert "bert.layers.0.attention.heads.query.weight" in state
    else:
        del state["bert.embeddings.word_embeddings.weight"], state["cls.predictions.bias"]
    ours.load_state_dict(state)
    for key, tensor in ours.state_dict().items():
        assert torch.equal(tensor, theirs.state_dict()[key]), key


# Idioms by parameter name


def count(model: Any, condition: Any) -> int:
    return sum(tensor.numel() for name, tensor in model.named_parameters() if condition(name))


CONDITIONS = {
    "decay": lambda name: (
        not any(word in name for word in ("bias", "LayerNorm.weight", "layer_norm.weight", "layernorm"))
    ),
    "layer 0": lambda name: any(word in name for word in ("layer.0.", "layers.0.")),
    "word vectors": lambda name: "word_embeddings" in name,
    "query": lambda name: any(word in name for word in ("query", "q_lin", "q_proj")),
    "head": lambda name: not name.startswith(("bert.", "distilbert.", "swin.", "wav2vec2.")),
}


@pytest.mark.parametrize("condition", CONDITIONS)
@pytest.mark.parametrize("name", IN_MEMORY)
def test_idioms_by_name_choose_as_many_numbers_as_in_transformers(name, condition):
    theirs, ours = make(transformers, name), make(minitrans, name)
    assert count(ours, CONDITIONS[condition]) == count(theirs, CONDITIONS[condition])


def test_names_in_a_module_of_the_users_own():
    net = nn.Module()
    net.encoder, net.head = make(minitrans, "BertModel"), nn.Linear(32, 2)
    names = [name for name, _ in net.named_parameters()]
    assert names[:1] == ["encoder.embeddings.word_embeddings.weight"]
    assert set(names) == set(net.state_dict())
    other = nn.Module()
    other.encoder, other.head = make(transformers, "BertModel", 5), nn.Linear(32, 2)
    net.load_state_dict(other.state_dict())
    assert [name for name, _ in other.named_parameters()] == names
    assert torch.equal(net.encoder.layers[1].norm.weight, other.encoder.encoder.layer[1].output.LayerNorm.weight)


# Attribute paths


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_published_path_leads_to_its_module(name, tmp_path):
    _, ours = published_pair(name, tmp_path)
    seen = {}
    for path, module in ours.named_modules():
        assert ours.get_submodule(path) is module, path
        assert path not in seen
        seen[path] = module
    for path, tensor in ours.named_parameters():
        assert ours.get_parameter(path) is tensor
    assert len(seen) == len(list(ours.modules()))


@pytest.mark.parametrize(
    "name", ["BertModel", "BertForMaskedLM", "DistilBertForSequenceClassification", "Wav2Vec2ForCTC"]
)
def test_published_paths_of_containers_hold_the_same_parameters(name):
    theirs, ours = make(transformers, name), make(minitrans, name)
    compared = 0
    for path, module in theirs.named_modules():
        expected = [key for key, _ in module.named_parameters()]
        if not expected:
            continue
        found = ours.get_submodule(path)
        assert sum(x.numel() for x in found.parameters()) == sum(x.numel() for x in module.parameters()), path
        for key in expected:
            assert ours.get_parameter(f"{path}.{key}".lstrip(".")).shape == module.get_parameter(key).shape
        compared += 1
    assert compared > 15


def test_paths_as_programs_write_them():
    bert = make(minitrans, "BertForSequenceClassification")
    assert len(bert.bert.encoder.layer) == 2
    assert [layer is own for layer, own in zip(bert.bert.encoder.layer[:6], bert.bert.layers, strict=True)] == [
        True,
        True,
    ]
    first = bert.bert.encoder.layer[0]
    assert first.attention.self.query is bert.bert.layers[0].attention.heads.query
    assert first.attention.output.LayerNorm is bert.bert.layers[0].attention.norm
    assert first.intermediate.dense is bert.bert.layers[0].feed_forward.up
    assert bert.bert.pooler.dense.weight.shape == (32, 32)
    assert bert.bert.embeddings.word_embeddings is bert.get_input_embeddings()
    for parameter in [*bert.bert.embeddings.parameters(), *bert.bert.encoder.layer[0].output.parameters()]:
        parameter.requires_grad = False
    assert sum(not x.requires_grad for x in bert.parameters()) == 5 + 4
    swin = make(minitrans, "SwinForImageClassification")
    assert swin.swin.encoder.layers[0].blocks[0] is swin.swin.stages[0].layers[0]
    assert swin.swin.encoder.layers[0].downsample.reduction is swin.swin.mergings[0].reduction
    assert swin.swin.encoder.layers[1].blocks[0].layernorm_before is swin.swin.stages[1].layers[0].attention_norm
    assert swin.swin.embeddings.patch_embeddings.projection is swin.swin.embeddings.projection
    assert swin.swin.layernorm is swin.swin.norm
    sound = make(minitrans, "Wav2Vec2ForCTC")
    assert sound.wav2vec2.feature_extractor.conv_layers[0].conv.weight.shape == (32, 1, 10)
    assert sound.wav2vec2.feature_projection.projection is sound.wav2vec2.projection
    assert sound.wav2vec2.encoder.layers[1].final_layer_norm is sound.wav2vec2.layers[1].norm
    words = make(minitrans, "BertForMaskedLM")
    assert words.cls.predictions.decoder is words.get_output_embeddings()
    assert words.cls.predictions.transform.dense is words.predictions.dense
    for owner, name, groups in ((words.bert, "encoder", "layer"), (words, "cls", "predictions"),
                                (words.bert.encoder.layer[0], "output", "dense, LayerNorm, dropout")):  # fmt: skip
        kind = "BertForMaskedLM" if owner is words else "BertModel"
        with pytest.raises(AttributeError, match=rf"{kind} has no module '.*{name}' to replace: it groups {groups};"):
            setattr(owner, name, torch.nn.Identity())
    for path in ("bert.encoder.layers", "bert.encoder.layer.0.nothing", "cls.predictions.transform.nothing"):
        with pytest.raises(AttributeError, match=r"nothing|layers"):
            words.get_submodule(path)


def test_layers_are_dropped_and_replaced_by_published_paths(tmp_path):
    theirs, ours = published_pair("BertModel", tmp_path)
    x = inputs_of("BertModel")
    with torch.no_grad():
        for model in (theirs, ours):
            torch.manual_seed(3)
            model.encoder.layer[0].intermediate.dense = nn.Linear(32, 48)
            model.encoder.layer[0].attention.self.query = nn.Linear(32, 32)
            model.encoder.layer = nn.ModuleList(list(model.encoder.layer)[:1])
            model.config.num_hidden_layers = 1
        assert len(ours.layers) == 1
        found, expected = ours(**x).last_hidden_state, theirs(**x).last_hidden_state
        kept = x["attention_mask"].bool()
        assert relative(found[kept], expected[kept]) <= 1e-5
    ours.save_pretrained(tmp_path / "again")
    again = minitrans.BertModel.from_pretrained(tmp_path / "again")
    assert torch.equal(again(**x).last_hidden_state, ours(**x).last_hidden_state)


@pytest.mark.parametrize(
    ("name", "attempt", "sentence"),
    [
        ("BertModel", lambda model: model.encoder.layer[0].output(torch.ones(1)), "output': it groups dense, Layer"),
        ("BertModel", lambda model: model.encoder.register_forward_hook(print), "'encoder': it groups layer"),
        ("BertModel", lambda model: model.encoder.register_forward_pre_hook(print), "'encoder': it groups layer"),
        ("Wav2Vec2Model", lambda model: model.feature_projection.register_forward_hook(print), "groups layer_norm"),
        (
            "BertModel",
            lambda model: model.encoder.layer[1].intermediate.register_full_backward_hook(print),
            r"'encoder\.layer\.1\.intermediate': it groups dense",
        ),
    ],
)  # fmt: skip
def test_a_group_of_modules_is_not_called_and_only_hooked_where_one_gives_its_output(name, attempt, sentence):
    with pytest.raises(RuntimeError, match=sentence):
        attempt(make(minitrans, name))


@pytest.mark.parametrize("name", [name for name in PUBLISHED if name != "SwinBackbone"])  # it is its own `swin` here
def test_paths_in_the_memory_of_transformers_lead_to_the_same_parameters(name, tmp_path):
    theirs, ours = published_pair(name, tmp_path)
    for path, module in theirs.named_modules():
        if [*module.children()] or "parametrizations" in path:
            continue
        for key, tensor in module.named_parameters(recurse=False):
            assert torch.equal(getattr(ours.get_submodule(path), key), tensor), f"{path}.{key}"


def test_parts_that_take_what_they_take_in_transformers(tmp_path):
    theirs, ours = published_pair("BertForPreTraining", tmp_path)
    states = torch.randn(2, 5, ours.config.hidden_size)
    for path in ("bert.pooler", "cls.predictions", "cls.seq_relationship", "bert.embeddings.LayerNorm"):
        found, expected = (model.get_submodule(path)(states) for model in (ours, theirs))
        assert relative(found.detach(), expected.detach()) <= 1e-5, path


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_answer_for_themselves(copied):
    model = make(minitrans, "BertForMaskedLM")
    other = copied(model)
    assert other.bert.encoder.layer[0].output.dense is other.bert.layers[0].feed_forward.down
    assert other.bert.encoder.layer[0].output.dense is not model.bert.encoder.layer[0].output.dense
    assert other.get_output_embeddings().weight is other.get_input_embeddings().weight
    assert other.bert.layers[0].attention.heads.joined() is not None
    x = inputs_of("BertForMaskedLM")
    with torch.no_grad():
        assert torch.equal(other(**x).logits, model(**x).logits)


# Queries, keys and values


def test_whatever_becomes_of_their_memory_the_numbers_stay():
    model, x = make(minitrans, "BertModel"), inputs_of("BertModel")
    projections = model.layers[0].attention.heads
    with torch.no_grad():
        expected = model(**x).last_hidden_state
        assert projections.joined() is not None
        for change in (
            lambda: setattr(projections.key.weight, "data", projections.key.weight.data.clone()),
            lambda: setattr(projections.value.bias, "data", projections.value.bias.data.clone()),
            lambda: setattr(projections, "query", copy.deepcopy(projections.query)),
        ):
            change()
            assert projections.joined() is None
            assert relative(model(**x).last_hidden_state, expected) <= 1e-6
            model.to(torch.float64)
            model.to(torch.float32)
            assert projections.joined() is not None
        for parameter in (projections.query.weight, projections.value.bias):
            before = model(**x).last_hidden_state
            parameter.mul_(1.5)
            assert relative(model(**x).last_hidden_state, before) > 1e-4


# Own models


PRETRAINED = {
    "Bert": ("last_hidden_state", "input_ids"),
    "DistilBert": ("last_hidden_state", "input_ids"),
    "Swin": ("last_hidden_state", "pixel_values"),
    "Wav2Vec2": ("last_hidden_state", "input_values"),
}


def own_class(library: Any, family: str) -> Any:
    """A head as research code writes it, with layers, a parameter and a buffer of its own."""
    base, backbone = getattr(library, f"{family}PreTrainedModel"), getattr(library, f"{family}Model")

    class Own(base):
        def __init__(self, config: Any, classes: int = 3) -> None:
            super().__init__(config)
            setattr(self, self.base_model_prefix, backbone(config))
            self.score = nn.Sequential(nn.Linear(32, 8), nn.GELU(), nn.Linear(8, classes))
            self.temperature = nn.Parameter(torch.tensor(2.5))
            self.register_buffer("offset", torch.full((classes,), 0.25))
            self.post_init()

        def forward(self, **inputs: Any) -> Any:
            states = getattr(self, self.base_model_prefix)(**inputs).last_hidden_state
            return self.score(states[:, 0]) / self.temperature + self.offset

    return Own


@pytest.mark.parametrize("family", PRETRAINED)
def test_own_models_are_saved_and_loaded_in_both_directions(family, tmp_path):
    name = f"{family}Model"
    x = inputs_of(name)
    sizes = SIZES[family]
    torch.manual_seed(0)
    theirs = own_class(transformers, family)(getattr(transformers, f"{family}Config")(**sizes), classes=4).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    ours = own_class(minitrans, family).from_pretrained(tmp_path / "theirs", classes=4)
    assert ours.load_report.missing == ours.load_report.unexpected == []
    with torch.no_grad():
        assert relative(ours(**x), theirs(**x)) <= 1e-4
        ours.temperature.fill_(3.0)
        ours.offset.fill_(1.0)
        ours.save_pretrained(tmp_path / "ours")
        for library in (minitrans, transformers):
            again = own_class(library, family).from_pretrained(tmp_path / "ours", classes=4).eval()
            assert relative(again(**x), ours(**x)) <= 1e-4, library.__name__


@pytest.mark.parametrize("family", PRETRAINED)
def test_own_models_start_from_a_backbone_and_keep_what_they_set(family, tmp_path):
    backbone = make(minitrans, f"{family}Model")
    backbone.save_pretrained(tmp_path)
    own = own_class(minitrans, family).from_pretrained(tmp_path)
    assert {name.partition(".")[0] for name in own.load_report.missing} == {"score", "temperature", "offset"}
    assert float(own.temperature) == 2.5
    assert own.offset.tolist() == [0.25] * 3
    assert torch.equal(own.score[0].bias, torch.zeros(8))
    assert 0.005 < float(own.score[0].weight.std()) < 0.05  # as transformers starts a linear layer
    kept = getattr(own, own.base_model_prefix)
    for key, tensor in backbone.state_dict().items():
        assert torch.equal(kept.state_dict()[key], tensor), key


def test_post_init_leaves_what_was_loaded(tmp_path):
    make(minitrans, "BertModel").save_pretrained(tmp_path)

    class Own(minitrans.BertPreTrainedModel):
        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.bert = minitrans.BertModel.from_pretrained(tmp_path)
            self.post_init()

    loaded = minitrans.BertModel.from_pretrained(tmp_path)
    own = Own(loaded.config)
    assert all(torch.equal(a, b) for a, b in zip(own.bert.parameters(), loaded.parameters(), strict=True))
    with torch.no_grad():
        own.bert.layers[0].norm.weight.fill_(7.0)
    own.post_init()
    assert own.bert.layers[0].norm.weight[0] == 7.0


def test_a_replaced_head_is_saved_under_its_own_names(tmp_path):
    model = make(minitrans, "BertForSequenceClassification")
    model.classifier = nn.Sequential(nn.Linear(32, 16), nn.Tanh(), nn.Linear(16, 2))
    model.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    assert {"classifier.0.weight", "classifier.2.bias"} <= set(stored)
    with pytest.raises(ValueError, match="strict=True"):
        minitrans.BertForSequenceClassification.from_pretrained(tmp_path, strict=True)


@pytest.mark.parametrize("family", HEADS)
def test_every_head_is_a_class_in_plain_sight(family):
    for head in HEADS[family]:
        kind = getattr(minitrans, f"{family}{head}")
        assert f"class {family}{head}(" in inspect.getsource(kind)
        assert issubclass(kind, getattr(minitrans, f"{family}PreTrainedModel"))
        assert kind.__doc__
        assert kind.__module__ == f"minitrans.models.{family.lower()}"
        assert pickle.loads(pickle.dumps(kind)) is kind
    assert family_of(f"{family}Model") == family
