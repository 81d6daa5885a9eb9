"""LoRA: peft trains our models as it trains transformers', and `load_adapter` adds what it saved to the weights."""

import contextlib
import json
import random
import re
import time
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
from minitrans import patterns

BERT, DISTILBERT = "BertForSequenceClassification", "DistilBertForSequenceClassification"
SWIN, WAV2VEC2 = "SwinForImageClassification", "Wav2Vec2ForSequenceClassification"
PROGRAMS = {BERT: programs.glue, DISTILBERT: programs.glue, SWIN: programs.images, WAV2VEC2: programs.audio}
CTC, MLM = "Wav2Vec2ForCTC", "BertForMaskedLM"
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
    adapted.save_pretrained(tmp_path / "older", safe_serialization=False)
    assert {path.name for path in (tmp_path / "older").glob("adapter_model.*")} == {"adapter_model.bin"}
    older = getattr(minitrans, kind).from_pretrained(start(kind))
    older.load_adapter(tmp_path / "older")
    assert torch.equal(answer(older, kind), answer(ours, kind))
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


# How matrices are to start -> whether they are added to the model's own weights.
STARTS = {True: True, False: True, "gaussian": True, "Gaussian": True, "orthogonal": True, "eva": True, "mica": True,
          "pissa": False, "pissa_niter_4": False, "olora": False, "OLoRA": False}  # fmt: skip


@pytest.mark.parametrize("kind", STARTS, ids=str)
def test_adapters_by_how_they_started(kind, start, tmp_path):
    """Some take what they start with out of the weights; peft can save these as what is added to the whole ones."""
    torch.manual_seed(1)
    options = {"target_modules": ["query", "value"], "init_lora_weights": kind}
    adapted = get_peft_model(
        transformers.BertForSequenceClassification.from_pretrained(start(BERT)), config(**options)
    )
    adapted.peft_config["default"].init_lora_weights = True
    adapted.save_pretrained(tmp_path / "start")
    adapted.peft_config["default"].init_lora_weights = kind
    for path, parameter in adapted.named_parameters():
        if "lora_" in path:
            parameter.data += 0.1 * torch.randn_like(parameter)
    expected = answer(adapted, BERT)
    adapted.save_pretrained(tmp_path / "saved")
    ours = minitrans.BertForSequenceClassification.from_pretrained(start(BERT))
    before = {path: tensor.clone() for path, tensor in ours.state_dict().items()}
    if not STARTS[kind]:
        with pytest.raises(ValueError, match=f"init_lora_weights = {kind!r}.* let peft convert it") as caught:
            ours.load_adapter(tmp_path / "saved")
        assert "\n" not in str(caught.value)
        assert all(torch.equal(tensor, before[path]) for path, tensor in ours.state_dict().items())
        start_of_it = str(tmp_path / "start")
        adapted.save_pretrained(tmp_path / "saved", path_initial_model_for_weight_conversion=start_of_it)
    ours.load_adapter(tmp_path / "saved")
    torch.testing.assert_close(answer(ours, BERT), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("value", ["corda", "corda_x", "loftq", "lora_ga", "PiSSA", "else", 3, ["pissa"], {}])
def test_other_starts_are_refused(value, start, tmp_path):
    edited(start, tmp_path, init_lora_weights=value)
    with pytest.raises(ValueError, match="is an adapter with init_lora_weights = "):
        minitrans.BertForSequenceClassification.from_pretrained(start(BERT)).load_adapter(tmp_path)


def edited(start: Any, folder: Path, without: tuple[str, ...] = (), **settings: Any) -> None:
    """Save an adapter of queries, of rank 4 and alpha 8, with other settings than it has."""
    torch.manual_seed(1)
    theirs = transformers.BertForSequenceClassification.from_pretrained(start(BERT))
    get_peft_model(theirs, config(target_modules=["query"])).save_pretrained(folder)
    saved = json.loads((folder / "adapter_config.json").read_text()) | settings
    text = json.dumps({key: value for key, value in saved.items() if key not in without})
    (folder / "adapter_config.json").write_text(text)


# What is edited in adapter_config.json -> what our sentence says, None where both libraries add the same.
EDITED: dict[str, tuple[dict[str, Any], str | None]] = {
    "nothing": ({}, None),
    "no alpha": ({"without": ("lora_alpha",)}, None),
    "no rank": ({"without": ("r",)}, "rank 8"),
    "another rank": ({"r": 8}, r"matrices for .*query.* are \(4, 32\) and \(32, 4\), and by .* rank 8"),
    "a lower rank": ({"r": 2}, "rank 2"),
    "another rank of a layer": ({"rank_pattern": {"layer.1.attention.self.query": 8}}, "layer.1.*rank 8"),
    "a rank that is a truth": ({"r": True}, "r in adapter_config.json of .* is True"),
    "a fractional rank": ({"r": 4.0}, r"is 4\.0; it must be a whole number"),
    "no rank at all": ({"r": None}, "is None; it must be a whole number"),
    "an alpha that is a truth": ({"lora_alpha": True}, "lora_alpha in .* is True; it must be a number"),
    "an endless alpha": ({"lora_alpha": 10**400}, "lora_alpha in .* is 1000.*; it must be a number"),
    "an alpha that is none": ({"lora_alpha": float("nan")}, "lora_alpha in .* is nan"),
    "a huge alpha": ({"lora_alpha": 1e300}, "NaN or infinite numbers"),
    "an alpha of a layer that is none": ({"alpha_pattern": {"query": None}}, "alpha for .*query is None"),
    "a fractional alpha": ({"lora_alpha": 2.5}, None),
    "fan_in_fan_out": ({"fan_in_fan_out": True}, None),  # of layers of another library's
    "rank-stabilised": ({"use_rslora": True}, None),
    "rank-stabilised by a word": ({"use_rslora": "false"}, "use_rslora in .* is 'false'; it must be true or false"),
    "patterns in a list": ({"rank_pattern": [1]}, r"rank_pattern in .* is \[1\]; it must be dict or null"),
    "patterns in a word": ({"alpha_pattern": "a"}, "alpha_pattern in .* is 'a'"),
    "no patterns": ({"rank_pattern": {}, "alpha_pattern": {}}, None),
    "all queries": ({"target_modules": r".*\.(query|key)"}, None),
    "the layers that peft has for BERT": ({"target_modules": None}, None),
    "all linear layers": ({"target_modules": "all-linear"}, None),
    "all linear layers, in capitals": ({"target_modules": "All-Linear"}, None),
    "other layers": ({"target_modules": ["value"]}, "adapts .*query.*, and by adapter_config.json"),
    "a part of a name": ({"target_modules": ["uery"]}, "adapts .*query.*, and by"),
    "no layers": ({"target_modules": []}, "adapts .*query.*, and by"),
    "a pattern of others": ({"target_modules": r".*\.(value|key)"}, "adapts .*query.*, and by"),
    "layers in a number": ({"target_modules": 3}, "target_modules in .* is 3; it must be a list"),
    "the first layer": ({"layers_to_transform": [0]}, "adapts .*layer.1.attention.self.query.*, and by"),
    "the first layer alone": ({"layers_to_transform": 0}, "adapts .*layer.1.attention.self.query.*, and by"),
    "both layers": ({"layers_to_transform": [0, 1], "layers_pattern": "layer"}, None),
    "layers of another list": ({"layers_to_transform": [0, 1], "layers_pattern": ["block"]}, "adapts .*query"),
    "layers and a pattern": (
        {"target_modules": r".*\.query", "layers_to_transform": [0, 1]}, "layers_to_transform goes with a list"),
    "what is left out": ({"exclude_modules": ["query"]}, "adapts .*query.*, and by"),
    "a pattern of what is left out": ({"exclude_modules": r".*\.1\..*"}, "adapts .*layer.1.*, and by"),
    "what is trained whole": ({"modules_to_save": ["classifier"]}, "lacks classifier.bias, which by .*trained whole"),
    "QALoRA": ({"use_qalora": True}, "use_qalora = True"),
    "Arrow": ({"arrow_config": {"top_k": 1}}, "arrow_config = "),
    "KaSA": ({"kasa_config": {}}, "kasa_config = "),
    "settings to come": ({"of_another_version": 3}, None),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", EDITED)
def test_settings_are_read_as_peft_reads_them(name, start, tmp_path):
    """Where peft's reading of a folder adds another thing than all that is in the file, ours is refused."""
    settings, words = EDITED[name]
    edited(start, tmp_path, **settings)
    ours = minitrans.BertForSequenceClassification.from_pretrained(start(BERT))
    before = {path: tensor.clone() for path, tensor in ours.state_dict().items()}
    if words is not None:
        with pytest.raises(ValueError, match=words) as caught:
            ours.load_adapter(tmp_path)
        assert "\n" not in str(caught.value)
        assert all(torch.equal(tensor, before[path]) for path, tensor in ours.state_dict().items())
        return
    theirs = transformers.BertForSequenceClassification.from_pretrained(start(BERT))
    torch.manual_seed(2)
    config_of_it = LoraConfig.from_pretrained(tmp_path)
    config_of_it.init_lora_weights = True  # what the file lacks is to change nothing
    expected = answer(peft.PeftModel.from_pretrained(theirs, tmp_path, config=config_of_it), BERT)
    ours.load_adapter(tmp_path)
    torch.testing.assert_close(answer(ours, BERT), expected, rtol=1e-4, atol=1e-5)


# Patterns of adapters -> whether they name the queries of the second layer.
PATTERNS = ["query", "uery", "self.query", "1.attention.self.query", "0.attention.self.query", "layer.1.*query",
            "^bert.encoder.layer.1.attention.self.query", "^encoder.*query",
            r"layer\.\d\.attention\.self\.(query|key)",
            r".*\.[1-9]\..*", r"layer\.(1|2|3)\.attention\.\w+\.query$", "(?:.*)query", r"layer\.\d{1,2}\..*?query",
            r"(attention\.)?(self\.)?query", "key|query", r"\bquery", "[^.]+", "query.*", ""]  # fmt: skip


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns_of_layers_are_read_as_peft_reads_them(pattern, start, tmp_path):
    edited(start, tmp_path, alpha_pattern={pattern: 99, "query": 5})
    theirs = transformers.BertForSequenceClassification.from_pretrained(start(BERT))
    expected = answer(peft.PeftModel.from_pretrained(theirs, tmp_path), BERT)
    ours = minitrans.BertForSequenceClassification.from_pretrained(start(BERT))
    ours.load_adapter(tmp_path)
    torch.testing.assert_close(answer(ours, BERT), expected, rtol=1e-4, atol=1e-5)


HOSTILE = ["(([a-z.]+)+)+X", "(a|a)*b", "(.|.)" * 40 + "X", ".*" * 60 + "X", "(.?){60}.{60}", "((.*)*)*X", "(x+x+)+y",
           "(" * 300 + "a" + ")" * 300, "(.*|.*)+X"]  # fmt: skip


@pytest.mark.parametrize("pattern", HOSTILE, ids=lambda pattern: pattern[:12])
@pytest.mark.parametrize(
    "key", ["rank_pattern", "alpha_pattern", "target_modules", "exclude_modules", "layers_pattern"]
)
def test_no_pattern_takes_long(key, pattern, start, tmp_path):
    """They match nothing, some after more steps than there are atoms, were each way tried."""
    value = {pattern: 4} if key.endswith("a_pattern") or key == "rank_pattern" else pattern
    more = {"layers_to_transform": [0, 1]} if key == "layers_pattern" else {}
    edited(start, tmp_path, **{key: value}, **more)
    ours = minitrans.BertForSequenceClassification.from_pretrained(start(BERT))
    began = time.perf_counter()
    with contextlib.suppress(ValueError):
        ours.load_adapter(tmp_path)
    assert time.perf_counter() - began < 10


NO_PATTERNS = ["(", ")", "a)|(b", "[", "*", "+a", "a**", "a{2,1}", "\\", "(?=a)", "(?!a)b", "(?i)query", r"(.)\1",
               "(?P<n>a)", "a*+", "a{1001}", "((a{40}){40}){40}", "a" * 1001, "a|*"]  # fmt: skip


@pytest.mark.parametrize("pattern", NO_PATTERNS, ids=lambda pattern: pattern[:12])
@pytest.mark.parametrize("key", ["rank_pattern", "alpha_pattern", "target_modules", "exclude_modules"])
def test_what_is_no_pattern_is_refused_in_one_sentence(key, pattern, start, tmp_path):
    edited(start, tmp_path, **{key: {pattern: 4} if key in ("rank_pattern", "alpha_pattern") else pattern})
    ours = minitrans.BertForSequenceClassification.from_pretrained(start(BERT))
    with pytest.raises(ValueError, match="is no regular expression of characters") as caught:
        ours.load_adapter(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("seed", range(20))
def test_patterns_match_as_those_of_python(seed):
    chance = random.Random(seed)
    atoms = ["a", "b", ".", r"\.", "[ab]", "[^a]", r"\w", r"\d", "^", "$", r"\b", "-", ""]
    repeats = ["*", "+", "?", "*?", "+?", "??", "{2}", "{1,3}", "{2,}", "{0}"]

    def pattern(depth: int) -> str:
        if depth == 0 or chance.random() < 0.3:
            return chance.choice(atoms)
        one, other = pattern(depth - 1), pattern(depth - 1)
        forms = [one + other, f"({one}|{other})", f"(?:{one}||{other})", f"({one}){chance.choice(repeats)}"]
        return chance.choice(forms)

    for _ in range(300):
        made, text = pattern(3), "".join(chance.choices("ab.1-", k=chance.randrange(8)))
        assert patterns.matches(text, made) == bool(re.fullmatch(made, text)), (made, text)


# What shares a tensor with another, adapted in several ways.
TIED: dict[str, dict[str, Any]] = {
    "another layer": {"target_modules": ["query"]},
    "word vectors": {"target_modules": ["word_embeddings"]},
    "scores": {"target_modules": ["decoder"]},
    "both": {"target_modules": ["decoder", "word_embeddings"]},
    "both, as one": {"target_modules": ["decoder", "word_embeddings"], "ensure_weight_tying": True},
    "word vectors, whole": {"target_modules": ["query"], "modules_to_save": ["word_embeddings"]},
    "the head, whole": {"target_modules": ["query"], "modules_to_save": ["predictions"]},
    "biases": {"target_modules": ["query"], "bias": "all"},
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", TIED)
def test_word_vectors_that_are_the_scores_too(name, start, tmp_path):
    """An adapter on one of the two is not on the other, and a saved model has them apart then."""
    theirs = transformers.BertForMaskedLM.from_pretrained(start(MLM))
    torch.manual_seed(1)
    adapted = get_peft_model(theirs, config(**TIED[name]))
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn_like(parameter)
    adapted.save_pretrained(tmp_path / "adapter")
    theirs = transformers.BertForMaskedLM.from_pretrained(start(MLM))
    expected = answer(peft.PeftModel.from_pretrained(theirs, tmp_path / "adapter"), MLM)
    ours = minitrans.BertForMaskedLM.from_pretrained(start(MLM))
    ours.load_adapter(tmp_path / "adapter")
    torch.testing.assert_close(answer(ours, MLM), expected, rtol=1e-4, atol=1e-5)
    ours.save_pretrained(tmp_path / "merged")
    for library in (minitrans, transformers):
        again = library.BertForMaskedLM.from_pretrained(tmp_path / "merged")
        torch.testing.assert_close(answer(again, MLM), expected, rtol=1e-4, atol=1e-5)


def cut(part: str, rows: slice) -> Any:
    return lambda state: {name: x[rows].clone() if part in name else x for name, x in state.items()}


def without(part: str) -> Any:
    return lambda state: {name: x for name, x in state.items() if part not in name}


def empty(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: x[:, :0].clone() if "lora_B" in name else x for name, x in state.items()}


# What is wrong -> what becomes of the tensors, of the settings, and the sentence.
BROKEN: dict[str, tuple[Any, dict[str, Any], str]] = {
    "no A": (without("lora_A"), {}, "only one of the two matrices for .*query"),
    "no B": (without("lora_B"), {}, "only one of the two matrices for .*query"),
    "no rows": (lambda state: cut("lora_A", slice(0))(empty(state)), {}, r"\(0, 32\) and \(32, 0\), and by .* rank 4"),
    "no class": (without("classifier.bias"), {}, "lacks classifier.bias, which by .* was trained whole"),
    "ranks of A and B": (
        cut("lora_A", slice(3)),
        {},
        r"matrices for .*query.* \(3, 32\) and \(32, 4\), and by .* rank 4",
    ),
    "a row short": (cut("lora_B", slice(31)), {}, r"query.weight \(32, 32\) by a tensor \(31, 32\)"),
    "a class short": (cut("classifier.weight", slice(2)), {}, r"classifier.weight \(3, 32\) by a tensor \(2, 32\)"),
    "rank 0": (dict, {"r": 0}, "^r in adapter_config.json of .* is 0; it must be a whole number"),
    "a rank of text": (dict, {"rank_pattern": {"query": "4"}}, "rank for .* is '4'"),
    "an alpha of text": (dict, {"lora_alpha": "8"}, "lora_alpha in .* is '8'; it must be a number"),
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
