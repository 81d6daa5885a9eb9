"""LoRA: peft trains our models as it trains transformers', and `load_adapter` adds what it saved to the weights."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import peft
import programs
import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from test_programs import LIBRARIES, answer, losses

import minitrans

BERT, DISTILBERT = "BertForSequenceClassification", "DistilBertForSequenceClassification"
SWIN, WAV2VEC2 = "SwinForImageClassification", "Wav2Vec2ForSequenceClassification"
PROGRAMS = {BERT: programs.glue, DISTILBERT: programs.glue, SWIN: programs.images, WAV2VEC2: programs.audio}
CTC = "Wav2Vec2ForCTC"
# A class, and what peft is told. peft has default targets for BERT alone of the four families.
CONFIGURATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "default targets of BERT": (BERT, {"task_type": "SEQ_CLS"}),
    "query and value of DistilBERT": (DISTILBERT, {"target_modules": ["q_lin", "v_lin"], "task_type": "SEQ_CLS"}),
    "query and value": (BERT, {"target_modules": ["query", "value"], "task_type": "SEQ_CLS"}),
    "query and value of Wav2Vec2": (WAV2VEC2, {"target_modules": ["q_proj", "v_proj"]}),
    "a pattern": (DISTILBERT, {"target_modules": r".*layer\.1\.attention\.(q|v)_lin"}),
    "all linear layers": (BERT, {"target_modules": "all-linear"}),
    "some layers": (BERT, {"target_modules": ["query"], "layers_to_transform": [1], "layers_pattern": "layer"}),
    "word vectors": (BERT, {"target_modules": ["word_embeddings", "key"]}),
    "ranks and alphas": (
        DISTILBERT,
        {"target_modules": ["q_lin", "k_lin", "lin1"], "rank_pattern": {"q_lin": 3}, "alpha_pattern": {"lin1": 5.0}},
    ),
    "rank-stabilised": (BERT, {"target_modules": ["query", "dense"], "use_rslora": True}),
    "trained whole": (WAV2VEC2, {"target_modules": ["k_proj"], "modules_to_save": ["classifier", "projector"]}),
    "CTC": (CTC, {"target_modules": ["q_proj", "intermediate_dense"], "modules_to_save": ["lm_head"]}),
    "biases": (BERT, {"target_modules": ["query"], "bias": "lora_only"}),
    "all biases": (DISTILBERT, {"target_modules": ["out_lin"], "bias": "all"}),
    "query and value of Swin": (SWIN, {"target_modules": ["query", "value"], "modules_to_save": ["classifier"]}),
    "a convolution": (SWIN, {"target_modules": ["projection"]}),
}


def config(**options: Any) -> LoraConfig:
    return LoraConfig(**{"r": 4, "lora_alpha": 8, "lora_dropout": 0.0, "init_lora_weights": False, **options})


@pytest.fixture(scope="module")
def start(tmp_path_factory: Any) -> Any:
    """The folder of a class's checkpoint."""
    folders: dict[str, Path] = {}

    def find(kind: str) -> Path:
        if kind not in folders:
            folders[kind] = programs.starts(tmp_path_factory.mktemp(kind), kind, num_labels=3)
        return folders[kind]

    return find


def names_in_memory(kind: str, options: dict[str, Any], library: Any) -> dict[str, Any]:
    """transformers' Swin has other names in memory than in files: what a user of it writes there."""
    if kind == SWIN and library is transformers:
        renamed = {"query": "q_proj", "value": "v_proj"}
        return {**options, "target_modules": [renamed.get(name, name) for name in options["target_modules"]]}
    return options


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_an_adapter_of_peft_is_added_to_the_weights(name, start, tmp_path):
    """What peft saved of an adapter on transformers' model gives here what it gives there."""
    kind, options = CONFIGURATIONS[name]
    theirs = getattr(transformers, kind).from_pretrained(start(kind))
    before = answer(theirs, kind)
    torch.manual_seed(1)
    adapted = get_peft_model(theirs, config(**names_in_memory(kind, options, transformers)))
    for path, parameter in adapted.named_parameters():
        if parameter.requires_grad and "lora_" not in path:
            parameter.data += 0.1 * torch.randn_like(parameter)
    expected = answer(adapted, kind)
    assert (before - expected).abs().max() > 1e-3
    adapted.save_pretrained(tmp_path)
    ours = getattr(minitrans, kind).from_pretrained(start(kind))
    ours.load_adapter(tmp_path)
    torch.testing.assert_close(answer(ours, kind), expected, rtol=1e-4, atol=1e-5)
    ours.save_pretrained(tmp_path / "merged")
    again = getattr(transformers, kind).from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(answer(again, kind), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_peft_adapts_the_same_layers(name, start, tmp_path):
    """Under the same names, with the same numbers; its folder opens on either library's model."""
    kind, options = CONFIGURATIONS[name]
    states, answers = {}, {}
    for library_name, library in LIBRARIES.items():
        model = getattr(library, kind).from_pretrained(start(kind))
        torch.manual_seed(1)
        model = get_peft_model(model, config(**names_in_memory(kind, options, library)))
        answers[library_name] = answer(model, kind)
        model.save_pretrained(tmp_path / library_name)
        states[library_name] = load_file(tmp_path / library_name / "adapter_model.safetensors")
    if kind != SWIN:
        assert states["minitrans"].keys() == states["transformers"].keys()
        model = getattr(minitrans, kind).from_pretrained(start(kind))
        model = peft.PeftModel.from_pretrained(model, tmp_path / "transformers")
        torch.testing.assert_close(answer(model, kind), answers["transformers"], rtol=1e-4, atol=1e-5)
        merged = answer(model.merge_and_unload(), kind)
        torch.testing.assert_close(merged, answers["transformers"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(answers["minitrans"], answers["transformers"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", list(CONFIGURATIONS)[:4])
def test_adapters_are_trained_with_the_same_losses(name, start, tmp_path):
    kind, options = CONFIGURATIONS[name]
    found = {}
    for library_name, library in LIBRARIES.items():
        trainer = PROGRAMS[kind](library, start(kind), tmp_path / library_name)
        torch.manual_seed(1)
        adapted = get_peft_model(trainer.model, config(**options))
        data = {"train_dataset": trainer.train_dataset, "eval_dataset": trainer.eval_dataset}
        again = transformers.Trainer(adapted, trainer.args, data_collator=trainer.data_collator, **data)
        found[library_name] = losses(again)
        again.save_model(str(tmp_path / f"{library_name}-saved"))
    np.testing.assert_allclose(found["minitrans"], found["transformers"], rtol=1e-4)
    states = [load_file(tmp_path / f"{library}-saved" / "adapter_model.safetensors") for library in LIBRARIES]
    assert states[0].keys() == states[1].keys()


REFUSED = {
    "use_dora": (BERT, {"use_dora": True}),
    "lora_bias": (BERT, {"lora_bias": True}),
    "trainable_token_indices": (BERT, {"trainable_token_indices": [1, 2]}),
    "IA3": (BERT, peft.IA3Config(target_modules=["key"], feedforward_modules=[])),
    "LOHA": (BERT, peft.LoHaConfig(target_modules=["key"])),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_adapters_are_refused_in_one_sentence(name, start, tmp_path):
    kind, options = REFUSED[name]
    theirs = getattr(transformers, kind).from_pretrained(start(kind))
    settings = config(target_modules=["query"], **options) if isinstance(options, dict) else options
    get_peft_model(theirs, settings).save_pretrained(tmp_path)
    ours = getattr(minitrans, kind).from_pretrained(start(kind))
    before = {path: tensor.clone() for path, tensor in ours.state_dict().items()}
    with pytest.raises(ValueError, match=name) as caught:
        ours.load_adapter(tmp_path)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(tensor, before[path]) for path, tensor in ours.state_dict().items())


def test_an_adapter_of_another_model_changes_nothing(start, tmp_path):
    theirs = get_peft_model(transformers.BertForSequenceClassification.from_pretrained(start(BERT)), config())
    theirs.save_pretrained(tmp_path)
    ours = minitrans.DistilBertForSequenceClassification.from_pretrained(start(DISTILBERT))
    before = {path: tensor.clone() for path, tensor in ours.state_dict().items()}
    with pytest.raises(ValueError, match=r"not a tensor of this DistilBertForSequenceClassification"):
        ours.load_adapter(tmp_path)
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="no adapter_model"):
        ours.load_adapter(tmp_path)
    (tmp_path / "adapter_config.json").write_text(json.dumps({**settings, "megatron_config": {"a": 1}}))
    with pytest.raises(ValueError, match="megatron_config"):
        ours.load_adapter(tmp_path)
    assert all(torch.equal(tensor, before[path]) for path, tensor in ours.state_dict().items())


def cut(part: str, rows: slice) -> Any:
    return lambda state: {name: x[rows].clone() if part in name else x for name, x in state.items()}


def without(part: str) -> Any:
    return lambda state: {name: x for name, x in state.items() if part not in name}


# What is wrong -> what becomes of the tensors, of the settings, and the sentence.
BROKEN: dict[str, tuple[Any, dict[str, Any], str]] = {
    "no A": (without("lora_A"), {}, "only one of the two matrices for .*query"),
    "no B": (without("lora_B"), {}, "only one of the two matrices for .*query"),
    "ranks of A and B": (cut("lora_A", slice(3)), {}, r"matrices for .*query.* \(3, 32\) and \(32, 4\): of two ranks"),
    "a row short": (cut("lora_B", slice(31)), {}, r"query.weight \(32, 32\) by a tensor \(31, 32\)"),
    "a class short": (cut("classifier.weight", slice(2)), {}, r"classifier.weight \(3, 32\) by a tensor \(2, 32\)"),
    "rank 0": (dict, {"r": 0}, "rank for .* is 0"),
    "a rank of text": (dict, {"rank_pattern": {"query": "4"}}, "rank for .* is '4'"),
    "an alpha of text": (dict, {"lora_alpha": "8"}, "its alpha '8'"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_an_adapter_that_does_not_fit_changes_nothing(name, start, tmp_path):
    changed, settings, words = BROKEN[name]
    theirs = transformers.BertForSequenceClassification.from_pretrained(start(BERT))
    options = config(target_modules=["query"], modules_to_save=["classifier"])
    get_peft_model(theirs, options).save_pretrained(tmp_path)
    save_file(changed(load_file(tmp_path / "adapter_model.safetensors")), tmp_path / "adapter_model.safetensors")
    saved = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**saved, **settings}))
    ours = minitrans.BertForSequenceClassification.from_pretrained(start(BERT))
    before = {path: tensor.clone() for path, tensor in ours.state_dict().items()}
    with pytest.raises(ValueError, match=words):
        ours.load_adapter(tmp_path)
    with pytest.raises(TypeError, match="load_adapter has no option 'weight'"):
        ours.load_adapter(tmp_path, weight=0.5)
    assert all(torch.equal(tensor, before[path]) for path, tensor in ours.state_dict().items())


@pytest.mark.parametrize("part", ["lora_A", "lora_B", "classifier"])
@pytest.mark.parametrize("spoilt", [torch.int8, torch.float8_e4m3fn, torch.bool, float("nan"), float("inf")], ids=str)
def test_an_adapter_of_integers_or_of_no_numbers_changes_nothing(part, spoilt, start, tmp_path):
    theirs = transformers.BertForSequenceClassification.from_pretrained(start(BERT))
    settings = config(target_modules=["query"], modules_to_save=["classifier"])
    get_peft_model(theirs, settings).save_pretrained(tmp_path)
    ours = minitrans.BertForSequenceClassification.from_pretrained(start(BERT))
    before = {path: tensor.clone() for path, tensor in ours.state_dict().items()}
    path = tmp_path / "adapter_model.safetensors"
    state = load_file(path)
    key = next(name for name in state if part in name)
    state[key] = state[key].to(spoilt) if isinstance(spoilt, torch.dtype) else state[key].fill_(spoilt)
    save_file(state, path)
    words = "quantised" if isinstance(spoilt, torch.dtype) else "NaN or infinite"
    with pytest.raises(ValueError, match=words) as caught:
        ours.load_adapter(tmp_path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert all(torch.equal(tensor, before[path]) for path, tensor in ours.state_dict().items())
