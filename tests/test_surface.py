"""Every published class beside transformers': what it takes, what it returns, and what public code asks of it."""

import importlib
import inspect
from dataclasses import fields
from functools import cache
from typing import Any

import programs
import pytest
import torch
import transformers
from transformers import Trainer

import minitrans
from minitrans.auto import FAMILIES


def _words(text: str) -> list[str]:
    return text.split()


# Methods and attributes that published training and research code uses; those that a class of transformers has.
MODEL = _words("""
    config config_class base_model base_model_prefix main_input_name name_or_path dtype device num_labels training
    supports_gradient_checkpointing is_gradient_checkpointing from_pretrained save_pretrained push_to_hub
    can_generate get_input_embeddings set_input_embeddings get_output_embeddings set_output_embeddings
    resize_token_embeddings resize_position_embeddings get_position_embeddings tie_weights init_weights post_init
    _init_weights num_parameters get_memory_footprint gradient_checkpointing_enable gradient_checkpointing_disable
    enable_input_require_grads disable_input_require_grads freeze_feature_encoder freeze_feature_extractor
    freeze_base_model load_adapter set_gumbel_temperature invert_attention_mask get_extended_attention_mask
    num_features channels _get_feat_extract_output_lengths _get_feature_vector_attention_mask init_adapter_layers
    _get_adapters set_attn_implementation warnings_issued add_model_tags get_encoder forward_with_filtered_kwargs
    out_features out_indices stage_names out_feature_channels get_parameter_or_buffer estimate_tokens
    floating_point_ops register_for_auto_class is_parallelizable model_tags parameters named_parameters buffers
    named_buffers modules named_modules children named_children state_dict load_state_dict get_submodule
    get_parameter register_forward_hook register_forward_pre_hook register_buffer register_parameter requires_grad_
    train eval to half float bfloat16 double cpu cuda zero_grad apply add_module bert distilbert swin wav2vec2
    embeddings encoder pooler transformer classifier pre_classifier dropout qa_outputs cls vocab_transform
    vocab_layer_norm vocab_projector lm_head projector decoder layernorm feature_extractor feature_projection
    masked_spec_embed adapter quantizer project_hid project_q tdnn objective layer_weights seq_classif_dropout
    num_layers
""")
PATHS = {
    "bert": """embeddings.word_embeddings.weight embeddings.position_embeddings embeddings.token_type_embeddings
        embeddings.LayerNorm embeddings.dropout encoder.layer encoder.layer.0.attention.self.query
        encoder.layer.0.attention.self.key encoder.layer.0.attention.self.value encoder.layer.0.attention.output.dense
        encoder.layer.0.attention.output.LayerNorm encoder.layer.0.intermediate.dense encoder.layer.0.output.dense
        encoder.layer.1.output.LayerNorm pooler.dense""",
    "distilbert": """embeddings.word_embeddings embeddings.position_embeddings embeddings.LayerNorm transformer.layer
        transformer.layer.0.attention.q_lin transformer.layer.0.attention.k_lin transformer.layer.0.attention.v_lin
        transformer.layer.0.attention.out_lin transformer.layer.0.sa_layer_norm transformer.layer.0.ffn.lin1
        transformer.layer.0.ffn.lin2 transformer.layer.1.output_layer_norm""",
    "swin": """embeddings.patch_embeddings.projection embeddings.norm encoder.layers encoder.layers.0.blocks
        encoder.layers.0.blocks.0.layernorm_before encoder.layers.0.blocks.1.layernorm_after
        encoder.layers.0.downsample.reduction encoder.layers.0.downsample.norm layernorm""",
    "wav2vec2": """feature_extractor.conv_layers.0.conv feature_extractor.conv_layers.1.layer_norm
        feature_projection.projection feature_projection.layer_norm encoder.layers encoder.layer_norm
        encoder.pos_conv_embed.conv encoder.layers.0.attention.q_proj encoder.layers.0.attention.k_proj
        encoder.layers.0.attention.v_proj encoder.layers.0.attention.out_proj encoder.layers.0.layer_norm
        encoder.layers.0.feed_forward.intermediate_dense encoder.layers.1.feed_forward.output_dense
        encoder.layers.1.final_layer_norm""",
}
CONFIG = _words("""
    model_type to_dict to_diff_dict to_json_string to_json_file save_pretrained from_pretrained from_dict
    from_json_file push_to_hub update get_config_dict get_text_config num_labels id2label label2id problem_type
    architectures dtype torch_dtype use_return_dict return_dict output_attentions output_hidden_states name_or_path
    _name_or_path transformers_version is_encoder_decoder chunk_size_feed_forward tie_word_embeddings attribute_map
    keys_to_ignore_at_inference _attn_implementation is_composition has_no_defaults_at_init hidden_size
    num_hidden_layers num_attention_heads intermediate_size hidden_act hidden_dropout_prob
    attention_probs_dropout_prob max_position_embeddings type_vocab_size initializer_range layer_norm_eps
    pad_token_id bos_token_id eos_token_id vocab_size classifier_dropout use_cache is_decoder add_cross_attention
    dim n_layers n_heads hidden_dim dropout attention_dropout activation sinusoidal_pos_embds qa_dropout
    seq_classif_dropout image_size patch_size num_channels embed_dim depths num_layers num_heads window_size
    mlp_ratio qkv_bias drop_path_rate use_absolute_embeddings encoder_stride out_features out_indices stage_names
    conv_dim conv_stride conv_kernel conv_bias feat_extract_norm feat_extract_activation do_stable_layer_norm
    apply_spec_augment mask_time_prob mask_time_length mask_feature_prob ctc_loss_reduction ctc_zero_infinity
    use_weighted_layer_sum classifier_proj_size tdnn_dim xvector_output_dim add_adapter adapter_attn_dim
    inputs_to_logits_ratio num_feat_extract_layers layerdrop final_dropout hidden_dropout activation_dropout
    num_conv_pos_embeddings output_hidden_size
""")
# What a class of transformers has and ours has not, and the ends of the names of those that have it here: hub cards;
# what raises NotImplementedError there too; Swin's pooling is no module here, its backbone is not one inside another.
LEFT_OUT: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("add_model_tags", "model_tags", "register_for_auto_class", "get_encoder"), ()),
    **dict.fromkeys(
        ("resize_position_embeddings", "get_position_embeddings"), ("DistilBertModel", "DistilBertForMaskedLM")
    ),
    **dict.fromkeys(("init_adapter_layers", "_get_adapters"), ("ForCTC",)),
    "pooler": ("BertModel", "Wav2Vec2Model"),
    "swin": ("ForImageClassification", "ForMaskedImageModeling"),
}
LEFT_OUT_OF_CONFIGURATIONS = {"get_config_dict"}  # the step before from_pretrained


def classes() -> list[str]:
    found = []
    for module, family in FAMILIES.values():
        names = vars(importlib.import_module(module))
        found += [name for name in names if name.startswith((f"{family}For", f"{family}Model", f"{family}Backbone"))]
    return [name for name in found if hasattr(transformers, name)]  # there are some that only research code has


CLASSES = classes()


def family_of(name: str) -> str:
    return next(family for family in reversed(programs.FAMILIES) if name.startswith(family))


@cache
def both(name: str) -> tuple[Any, Any]:
    """transformers' model of a class and ours, of the same sizes."""
    family = family_of(name)
    values = {**programs.FAMILIES[family], "num_labels": 2}
    return tuple(
        getattr(library, name)(getattr(library, f"{family}Config")(**values)).eval()
        for library in (transformers, minitrans)
    )  # type: ignore[return-value]


def asked(name: str) -> dict[str, torch.Tensor]:
    """An input of the class."""
    generator = torch.Generator().manual_seed(0)
    if family_of(name) == "Swin":
        given = {"pixel_values": torch.randn(2, 3, 32, 32, generator=generator)}
        return {**given, "bool_masked_pos": torch.arange(128).view(2, 64) % 2 == 0} if "Masked" in name else given
    if family_of(name) == "Wav2Vec2":
        return {"input_values": torch.randn(2, 900, generator=generator)}
    shape = (2, 3, 7) if "Choice" in name else (2, 7)
    return {"input_ids": torch.randint(5, 60, shape, generator=generator)}


def targets(name: str) -> dict[str, torch.Tensor]:
    """Labels of the class's task."""
    one = torch.zeros(2, dtype=torch.long)
    if "QuestionAnswering" in name:
        return {"start_positions": one, "end_positions": one + 2}
    if name == "BertForPreTraining":
        return {"labels": torch.full((2, 7), 9), "next_sentence_label": one}
    if "TokenClassification" in name or "MaskedLM" in name:
        return {"labels": torch.ones(2, 7, dtype=torch.long)}
    if "AudioFrame" in name:
        frames = both(name)[0]._get_feat_extract_output_lengths(900)
        return {"labels": torch.nn.functional.one_hot(torch.zeros(2, int(frames), dtype=torch.long), 2)}
    if name.endswith("CTC"):
        return {"labels": torch.full((2, 4), 9)}
    if name.endswith(("Model", "Backbone", "MaskedImageModeling", "Wav2Vec2ForPreTraining")):
        return {}
    return {"labels": one}


def test_there_are_all_classes():
    published = {
        name
        for family in programs.FAMILIES
        for name in dir(transformers)
        if name.startswith((f"{family}For", f"{family}Model", f"{family}Backbone")) and family_of(name) == family
    }
    assert set(CLASSES) >= published
    assert len(CLASSES) == len({*CLASSES}) > 20


@pytest.mark.parametrize("name", CLASSES)
def test_parameters_of_forward(name):
    """The published ones, in their order and with their defaults; an image, None by default there, is asked for."""
    theirs, ours = ([*inspect.signature(model.forward).parameters.values()] for model in both(name))
    published = [parameter for parameter in theirs if parameter.kind is parameter.POSITIONAL_OR_KEYWORD]
    own = ours[: len(published)]
    assert [parameter.name for parameter in own] == [parameter.name for parameter in published]
    for parameter, other in zip(own, published, strict=True):
        if parameter.name != "pixel_values":
            assert parameter.default == other.default, parameter.name
    assert not any(parameter.kind is parameter.VAR_KEYWORD for parameter in ours)
    further = {parameter.name for parameter in ours}
    assert {"return_dict", "output_hidden_states", "output_attentions"} <= further
    ours_only = {"position_ids", "num_items_in_batch", "mask_time_indices", "interpolate_pos_encoding"}
    returned = {"return_dict", "output_hidden_states", "output_attentions"}
    assert further - {parameter.name for parameter in published} <= ours_only | returned


@pytest.mark.parametrize("name", [name for name in CLASSES if "For" in name])
def test_a_head_that_takes_the_number_of_items_in_a_batch_shows_it(name):
    """Trainer asks for the attribute, other programs look at the signature."""
    model = both(name)[1]
    shown = "num_items_in_batch" in inspect.signature(model.forward).parameters
    assert shown == bool(model.accepts_loss_kwargs) or name == "Wav2Vec2ForCTC"  # which takes it for one reduction


@pytest.mark.parametrize("name", CLASSES)
def test_parameters_of_constructors(name):
    theirs, ours = (inspect.signature(type(model).__init__).parameters for model in both(name))
    published = [key for key, parameter in theirs.items() if parameter.kind is parameter.POSITIONAL_OR_KEYWORD]
    if type(both(name)[1]).__name__ != "Wav2Vec2ForCTC":  # whose target_lang from_pretrained takes
        assert [*ours][: len(published)] == published
        assert [ours[key].default for key in published] == [theirs[key].default for key in published]


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("states", [False, True])
def test_fields_of_outputs(name, states):
    """Those that are there, in their order, and all that the output's class has."""
    options = {"output_hidden_states": states, "output_attentions": states}
    said = inspect.signature(getattr(minitrans, name).forward).return_annotation
    for given in ({}, targets(name)):
        theirs, ours = (model(**asked(name), **given, **options) for model in both(name))
        assert type(ours).__name__ == said
        assert list(ours.keys()) == [key for key in theirs if key != "cross_attentions"]  # which are empty
        missing = {field.name for field in fields(theirs)} - {field.name for field in fields(ours)}
        assert missing <= {"past_key_values", "cross_attentions"}


@pytest.mark.parametrize("name", CLASSES)
def test_the_forward_pass_says_what_it_takes_and_gives(name):
    assert len(inspect.getdoc(getattr(minitrans, name).forward) or "") > 40


@pytest.mark.parametrize("name", CLASSES)
def test_outputs_can_be_viewed_where_those_of_transformers_can(name):
    theirs, ours = (model(**asked(name), **targets(name), output_hidden_states=True) for model in both(name))
    for key in ours:
        found, published = (x[key] if isinstance(x[key], tuple) else (x[key],) for x in (ours, theirs))
        for x, y in zip(found, published, strict=True):
            assert x.is_contiguous() or not y.is_contiguous(), key


@pytest.mark.parametrize("name", CLASSES)
def test_attributes_of_models(name):
    theirs, ours = both(name)
    lacking = {attribute for attribute in MODEL if hasattr(theirs, attribute) and not hasattr(ours, attribute)}
    assert {attribute for attribute in lacking if name.endswith(LEFT_OUT.get(attribute, name))} == set()


@pytest.mark.parametrize("name", CLASSES)
def test_attributes_of_configurations(name):
    theirs, ours = (model.config for model in both(name))
    lacking = {attribute for attribute in CONFIG if hasattr(theirs, attribute) and not hasattr(ours, attribute)}
    assert lacking - LEFT_OUT_OF_CONFIGURATIONS == set()


@pytest.mark.parametrize("name", CLASSES)
def test_paths_of_modules(name):
    """Modules that research code reaches for by name, with and without the backbone's prefix."""
    theirs, ours = (model.base_model for model in both(name))
    compared = 0
    for path in PATHS[family_of(name).lower()].split():
        found, expected = at(ours, path), at(theirs, path)
        if expected is None or (name, path) == ("SwinBackbone", "layernorm"):  # no pooler; a norm that nothing uses
            continue
        assert found is not None, path
        shapes = [getattr(getattr(part, "weight", part), "shape", None) for part in (found, expected)]
        if None not in shapes:
            assert shapes[0] == shapes[1], path
            compared += 1
    assert compared > 4


def at(model: Any, path: str) -> Any:
    """What stands at an attribute path, None where nothing does."""
    for step in path.split("."):
        model = model[int(step)] if step.isdigit() else getattr(model, step, None)
        if model is None:
            return None
    return model


@pytest.mark.parametrize("name", [name for name in CLASSES if not name.startswith("Swin")])
def test_named_parameters_are_the_published_ones_in_their_order(name):
    """So that an optimiser's state goes from one library to the other. (transformers' Swin has names of its own.)"""
    theirs, ours = both(name)
    assert [key for key, _ in ours.named_parameters()] == [key for key, _ in theirs.named_parameters()]
    assert [str(key) for key, _ in ours.named_modules() if str(key).endswith(("query", "q_lin", "q_proj"))] == [
        key for key, _ in theirs.named_modules() if key.endswith(("query", "q_lin", "q_proj"))
    ]


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("name", CLASSES)
def test_what_trainer_decays(name, wrapped):
    """Every weight but those of norms, as in transformers: Trainer joins the names of `named_children`."""
    found = []
    for model in both(name):
        outer = torch.nn.ModuleDict({"model": model}) if wrapped else model
        decayed = Trainer.get_decay_parameter_names(None, outer)
        found.append([tuple(parameter.shape) for key, parameter in outer.named_parameters() if key in decayed])
    assert sorted(found[0]) == sorted(found[1])
    assert len(found[1]) > 10


# Where a parameter's default is another than transformers': method -> parameter -> why.
OTHER_DEFAULTS = {
    "": {"dtype": "None: what `from_pretrained` does by itself, which is 'auto'"},
    "__init__": {
        "do_lower_case": "None: what the files say, which transformers' constructor does not read",
        "decoder": "None: without a language model, what the model says is most likely",
        "vocab": "there is no tokenizer without one",
        "tokenizer": "there is no processor without one",
        "image_processor": "there is no processor without one",
    },
    "forward": {"pixel_values": "which transformers refuses in the body"},
    "get_special_tokens_mask": {"already_has_special_tokens": "True, which is all that its fast tokenizers take"},
    "load_adapter": {"peft_model_id": "which adapter; there is no other way to give it"},
    "to": {"device": "None: a dtype alone may be given"},
}
SHARED = sorted(name for name in minitrans.__all__ if hasattr(transformers, name))


def functions(thing):
    """The public methods of a class and its constructor, or a function by no name."""
    if not inspect.isclass(thing):
        return {"": thing} if inspect.isfunction(thing) else {}
    names = [name for name in dir(thing) if not name.startswith("_") or name in ("__init__", "__call__")]
    found = {name: inspect.getattr_static(thing, name) for name in names}
    found = {name: getattr(each, "__func__", each) for name, each in found.items()}
    return {name: each for name, each in found.items() if inspect.isfunction(each)}


@pytest.mark.parametrize("name", SHARED)
def test_defaults_of_parameters_are_the_published_ones(name):
    """Of every method and function that both libraries have."""
    theirs = functions(getattr(transformers, name))
    for method, function in functions(getattr(minitrans, name)).items():
        if method in theirs and function.__module__.startswith("minitrans"):
            own, published = (inspect.signature(each).parameters for each in (function, theirs[method]))
            for key in own.keys() & published.keys() - {"self", "cls"}:
                is_same = own[key].default is published[key].default or own[key].default == published[key].default
                assert is_same or key in OTHER_DEFAULTS.get(method, ()), (method, key)
