"""Hooks, replaced modules and gradients of what is returned, in every class: as in transformers."""

from typing import Any

import pytest
import torch
import transformers
from captum.attr import LayerGradientXActivation, LayerIntegratedGradients
from checkpoints import relative
from families import HEADED, PUBLISHED, family_of, flat, inputs_of, labels_of, make, published_pair
from torch import nn

import minitrans


def double(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: x.double() if x.is_floating_point() else x for key, x in inputs.items()}


class Halved(nn.Module):
    """What somebody puts in a module's place."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *inputs: Any) -> Any:
        return self.inner(*inputs) * 0.5


# Half of what it gives chooses the same code; the loss alone asks it.
UNCHANGED = {("Wav2Vec2ForPreTraining", "quantizer.weight_proj"), ("Wav2Vec2ForXVector", "objective")}


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_layer_can_be_hooked_and_replaced(name):
    model, x = make(minitrans, name).double(), double(inputs_of(name))
    with torch.no_grad():
        before = flat(model(**x))
        leaves = [
            (path, module)
            for path, module in model.named_modules()
            if not [*module.children()] and [*module.parameters()]
        ]
        for path, module in leaves:
            if (name, path) in UNCHANGED:
                continue
            fired: list[int] = []
            with module.register_forward_hook(lambda *_, fired=fired: fired.append(1)):
                assert (flat(model(**x)) - before).abs().max() <= 1e-9, path
            assert fired, path
            with module.register_forward_hook(lambda _, inputs, output: output * 0.5):
                assert not torch.equal(flat(model(**x)), before), path
            given: list[Any] = []
            with module.register_forward_pre_hook(lambda _, inputs, given=given: given.append(inputs)):
                model(**x)
            assert given, path
            parent = model.get_submodule(path.rpartition(".")[0])
            setattr(parent, path.rpartition(".")[2], Halved(module))
            assert not torch.equal(flat(model(**x)), before), path
            setattr(parent, path.rpartition(".")[2], module)
            assert torch.equal(flat(model(**x)), before), path


def own_forward(module, seen):
    inner = module.forward
    module.forward = lambda *inputs: seen.append(1) or inner(*inputs)


WATCHED = {
    "a forward hook": lambda module, seen: module.register_forward_hook(lambda *_: seen.append(1)),
    "a hook before": lambda module, seen: module.register_forward_pre_hook(lambda *_: seen.append(1)),
    "a backward hook": lambda module, seen: module.register_full_backward_hook(lambda *_: seen.append(1)),
    "a hook before backward": lambda module, seen: module.register_full_backward_pre_hook(lambda *_: seen.append(1)),
    "a forward of one's own": own_forward,
}


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
@pytest.mark.parametrize("kind", WATCHED)
@pytest.mark.parametrize("name", ["BertForTokenClassification", "DistilBertForMaskedLM", "SwinForImageClassification",
                                  "Wav2Vec2ForCTC"])  # fmt: skip
def test_each_way_of_watching_a_layer_counts_alone(name, kind):
    """As often as in transformers, where nothing is fused."""
    calls = []
    for library in (transformers, minitrans):
        model, x = make(library, name), inputs_of(name)
        seen: dict[str, list[int]] = {}
        for path, module in model.named_modules():
            if isinstance(module, (nn.Linear, nn.LayerNorm, nn.Embedding, nn.Conv2d)):
                WATCHED[kind](module, seen.setdefault(path.rpartition(".")[2], []))
        model(**x).logits.sum().backward()
        calls.append(sum(len(found) for found in seen.values()))
        assert all(seen.values())
    assert calls[0] == calls[1]


@pytest.mark.parametrize("name", HEADED)
def test_a_hook_on_the_backbone_counts(name):
    model, x = make(minitrans, name).double(), double(inputs_of(name))
    backbone = model.base_model
    with torch.no_grad():
        before = flat(model(**x))
        seen: list[Any] = []
        with backbone.register_forward_hook(lambda _, inputs, output: seen.append(output)):
            assert (flat(model(**x)) - before).abs().max() <= 1e-9
        assert isinstance(seen[0], dict)
        assert seen[0].last_hidden_state.dim() == 3

        def halve(_: Any, inputs: Any, output: Any) -> Any:
            return type(output)(
                {
                    **output,
                    **{key: output[key] * 0.5 for key in ("last_hidden_state", "pooler_output") if key in output},
                }
            )

        with backbone.register_forward_hook(halve):
            assert not torch.equal(flat(model(**x)), before)
        with backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs)):
            model(**x)
        assert len(seen) == 2


@pytest.mark.parametrize("name", ["BertForTokenClassification", "BertForSequenceClassification", "Wav2Vec2ForCTC",
                                  "SwinForImageClassification", "SwinForMaskedImageModeling"])  # fmt: skip
def test_a_backbone_of_another_library_fits(name):
    """model.bert = transformers' BertModel: called as a module, with the same numbers."""
    theirs, ours = make(transformers, name), make(minitrans, name, 1)
    ours.load_state_dict(theirs.state_dict())
    x = inputs_of(name)
    with torch.no_grad():
        before = ours(**x)
        setattr(ours, ours.base_model_prefix, theirs.base_model)
        after = ours(**x)
    for key in before:
        assert relative(after[key], before[key]) <= 1e-4


@pytest.mark.parametrize("name", ["SwinForImageClassification", "SwinForMaskedImageModeling"])
@pytest.mark.parametrize("size", [(16, 32), (21, 26), (4, 6), (33, 7)])
def test_a_watched_backbone_takes_images_of_any_size(name, size):
    model, pixels = (
        make(minitrans, name, depths=[1, 1, 1], num_heads=[2, 2, 2], patch_size=[2, 3]),
        torch.randn(2, 3, *size),
    )
    with torch.no_grad():
        expected = model(pixels)
        with model.base_model.register_forward_hook(lambda *_: None):
            found = model(pixels)
    for key, value in expected.items():
        assert relative(found[key], value) <= 1e-5


SEEN = {
    "Bert": ["embeddings", "embeddings.word_embeddings", "embeddings.LayerNorm", "encoder.layer.0",
             "encoder.layer.0.attention", "encoder.layer.0.attention.self.query",
             "encoder.layer.1.attention.output.dense",
             "encoder.layer.1.intermediate.dense", "encoder.layer.1.output.dense", "encoder.layer.1.output.LayerNorm"],
    "DistilBert": ["embeddings", "transformer.layer.0", "transformer.layer.1.ffn", "transformer.layer.1.ffn.lin2",
                   "transformer.layer.0.attention.v_lin", "transformer.layer.1.output_layer_norm"],
    "Wav2Vec2": ["feature_projection.layer_norm", "feature_projection.projection", "encoder.layers.0",
                 "encoder.layers.0.attention.out_proj", "encoder.layers.1.feed_forward",
                 "encoder.layers.1.final_layer_norm"],
}  # fmt: skip


@pytest.mark.parametrize(
    "name",
    ["BertModel", "BertForTokenClassification", "BertForMaskedLM", "BertForQuestionAnswering", "DistilBertModel",
     "DistilBertForMaskedLM", "Wav2Vec2Model"],
)  # fmt: skip
def test_hooks_see_what_they_see_in_transformers(name, tmp_path):
    """(B, N, C), with the padding, from modules of a padded batch; the output is the same as without hooks."""
    theirs, ours = published_pair(name, tmp_path)
    x = inputs_of(name)
    with torch.no_grad():
        before = flat(ours(**x))
    prefix = "" if name.endswith("Model") else f"{ours.base_model_prefix}."
    paths = [prefix + path for path in SEEN[family_of(name)]]
    found: list[dict[str, torch.Tensor]] = [{}, {}]
    for model, seen in zip((theirs, ours), found, strict=True):
        for path in paths:

            def keep(_: Any, inputs: Any, output: Any, path: str = path, seen: Any = seen) -> None:
                seen[path] = output[0] if isinstance(output, tuple) else output

            model.get_submodule(path).register_forward_hook(keep)
        with torch.no_grad():
            output = model(**x)
    assert (flat(output) - before).abs().max() <= 1e-5 * before[before > -1e30].abs().max()
    mask = x["attention_mask"].bool() if "attention_mask" in x else torch.ones(2, 1, dtype=torch.bool)
    for path in paths:
        there, here = found[0][path], found[1][path]
        assert here.shape == there.shape, path
        kept = mask if mask.shape[1] > 1 else slice(None)
        assert relative(here[kept], there[kept]) <= 1e-4, path


def test_noise_on_the_embeddings_as_neftune_makes_it():
    """A hook that reads the batch's and the text's length from the output's shape (Jain et al. 2023)."""
    model, x = make(minitrans, "BertForMaskedLM").train(), inputs_of("BertForMaskedLM")
    shapes = []

    def noise(module: Any, inputs: Any, output: Any) -> Any:
        shapes.append(output.shape)
        return output + torch.zeros_like(output).uniform_(-1, 1) * 5.0 / (output.shape[1] * output.shape[2]) ** 0.5

    before = model(**x).logits
    model.get_input_embeddings().register_forward_hook(noise)
    assert not torch.equal(model(**x).logits, before)
    assert shapes == [(2, 7, 32)]


@pytest.mark.parametrize("method", [LayerIntegratedGradients, LayerGradientXActivation])
def test_attributions_by_captum_are_those_of_transformers(method, tmp_path):
    theirs, ours = published_pair("BertForSequenceClassification", tmp_path)
    x = inputs_of("BertForSequenceClassification")
    found = []
    for model in (theirs, ours):
        for layer in (model.bert.embeddings, model.bert.encoder.layer[0]):
            explain = method(lambda ids, mask, model=model: model(ids, attention_mask=mask).logits, layer)
            options = (
                {"baselines": torch.zeros_like(x["input_ids"]), "n_steps": 4}
                if "Integrated" in method.__name__
                else {}
            )
            found.append(
                explain.attribute(x["input_ids"], target=1, additional_forward_args=(x["attention_mask"],), **options)
            )
    kept = x["attention_mask"].bool()
    for there, here in zip(found[:2], found[2:], strict=True):
        there, here = (y[0] if isinstance(y, tuple) else y for y in (there, here))
        assert here.shape == there.shape
        assert relative(here[kept], there[kept]) <= 1e-3


# What is returned lies on the way from the inputs to the outputs

LAST = ("prediction_logits", "start_logits", "logits", "reconstruction", "projected_states", "pooler_output",
        "last_hidden_state")  # fmt: skip
RETURNED = ("hidden_states", "attentions", "last_hidden_state", "extract_features")


@pytest.mark.parametrize("name", [name for name in PUBLISHED if name != "SwinBackbone"])
def test_gradients_reach_what_is_returned(name, tmp_path):
    theirs, ours = published_pair(name, tmp_path)
    x, asked = inputs_of(name), {"output_hidden_states": True, "output_attentions": True}
    gradients: list[dict[str, Any]] = []
    for model in (theirs, ours):
        output = model(**x, **asked)
        kept: dict[str, Any] = {}
        for key in RETURNED:
            value = getattr(output, key, None)
            for index, tensor in enumerate(value if isinstance(value, tuple) else () if value is None else (value,)):
                tensor.retain_grad()
                kept[f"{key} {index}"] = tensor
        last = next(output[key] for key in LAST if key in output)
        weight = torch.linspace(-1, 1, last[0].numel()).view_as(last[0])
        (last[1] * weight).sum().backward()  # the text without padding
        gradients.append({key: tensor.grad for key, tensor in kept.items()})
    compared = 0
    for key, there in gradients[0].items():
        if there is None or not there.abs().max():
            continue
        here = gradients[1][key]
        assert here is not None, key
        if here.shape == there.shape:
            scale = float(there.abs().max())
            assert float((here - there).abs().max()) <= 1e-3 * scale + 1e-7, key
            compared += 1
    assert compared >= 4


@pytest.mark.parametrize("name", HEADED)
def test_asking_for_states_changes_no_gradient(name):
    """The parameters' gradients, with and without hidden states and attentions."""
    x = {**inputs_of(name), **labels_of(name)}
    found = []
    for asked in ({}, {"output_hidden_states": True, "output_attentions": True}):
        model = make(minitrans, name).double()
        flat(model(**double(x), **asked)).clamp(min=-1e9).square().sum().backward()
        found.append([tensor.grad for tensor in model.parameters() if tensor.grad is not None])
    assert len(found[0]) == len(found[1]) > 10


def is_computed(path: str, module: nn.Module) -> bool:
    """Whether a module of transformers' is an activation, or a group of modules that ends in one or in a norm."""
    last = path.rpartition(".")[2]
    return "Activation" in type(module).__name__ or (
        last in ("intermediate", "output", "transform") and type(module).__module__.endswith("modeling_bert")
    )


@pytest.mark.parametrize(
    "name",
    [name for name in PUBLISHED if name not in ("SwinBackbone", "Wav2Vec2ForXVector", "Wav2Vec2ForPreTraining")],
)
def test_activations_and_groups_of_modules_are_hooked_as_in_transformers(name, tmp_path):
    """What hooks see and what they make of it: neurons after an activation, blocks before the next one."""
    models, x = [model.double().eval() for model in published_pair(name, tmp_path)], double(inputs_of(name))
    x.pop("attention_mask", None)
    paths = [path for path, module in models[0].named_modules() if is_computed(path, module) and "conv" not in path]
    assert len(paths) >= 2
    for path in paths:
        seen: list[list[torch.Tensor]] = []
        for model in models:
            module = model.get_submodule(path)
            noted: list[torch.Tensor] = []
            before = module.register_forward_pre_hook(lambda _, inputs, to=noted: to.append(inputs[0].flatten()))
            after = module.register_forward_hook(lambda _, inputs, output, to=noted: to.append(output.flatten()))
            told = module.register_forward_hook(
                lambda _, inputs, named, output, to=noted: to.append(inputs[0].flatten()), with_kwargs=True
            )
            expected = flat(model(**x))
            for handle in (before, after, told):
                handle.remove()
            with module.register_forward_hook(lambda _, inputs, output: output * 0.5):
                noted.append(flat(model(**x)))
            with module.register_forward_pre_hook(lambda _, inputs: (inputs[0] * 0.5, *inputs[1:])):
                noted.append(flat(model(**x)))
            assert relative(flat(model(**x)).detach(), expected.detach()) <= 1e-9  # the hooks are gone
            seen.append(noted)
        assert len(seen[0]) == 5, path
        for a, b in zip(*seen, strict=True):
            assert relative(a.detach(), b.detach()) <= 1e-6, path


@pytest.mark.parametrize(
    "name", ["BertForMaskedLM", "DistilBertModel", "SwinForImageClassification", "Wav2Vec2ForCTC"]
)
def test_an_activation_is_replaced_by_its_path(name, tmp_path):
    models, x = [model.double().eval() for model in published_pair(name, tmp_path)], double(inputs_of(name))
    x.pop("attention_mask", None)
    paths = [path for path, module in models[0].named_modules() if "Activation" in type(module).__name__]
    paths = [path for path in paths if "conv" not in path]
    assert len(paths) >= 2
    for model in models:
        for path in paths:
            owner, _, leaf = path.rpartition(".")
            setattr(model.get_submodule(owner), leaf, nn.ReLU())
    a, b = (flat(model(**x)) for model in models)
    assert relative(b.detach(), a.detach()) <= 1e-6


@pytest.mark.parametrize("name", [name for name in PUBLISHED if name != "Wav2Vec2ForPreTraining"])
def test_without_the_dropout_modules_training_is_evaluation(name):
    """A program that sets every `nn.Dropout.p` to 0 drops nothing, in attention and feed-forward blocks either."""
    model, x = make(minitrans, name), inputs_of(name)
    for key in ("layerdrop", "mask_time_prob", "drop_path_rate"):
        if hasattr(model.config, key):
            setattr(model.config, key, 0.0)
    expected = flat(model.eval()(**x))
    for module in model.train().modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for key in ("layerdrop", "drop_path_rate"):
            if key in module.__dict__:
                module.__dict__[key] = 0.0
    assert relative(flat(model(**x)).detach(), expected.detach()) <= 1e-5
