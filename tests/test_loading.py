"""Loading and saving against transformers: every file layout and spelling, options, the report, and broken files."""

import json
import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import families
import huggingface_hub
import pytest
import torch
import transformers
from checkpoints import CLASSES, HEADS, batch, pair, reference, relative
from safetensors.torch import load_file, save_file
from standin_hub import StandInHub
from torch import Tensor

import minitrans
import minitrans.auto
from minitrans import cpu, weights

MODEL = "model.safetensors"


@pytest.fixture
def folder(tmp_path) -> Path:
    """A tiny BertForMaskedLM."""
    reference("BertForMaskedLM").save_pretrained(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def rewrite(folder: Path, change: Any, file: str = MODEL) -> dict[str, Tensor]:
    """Replace the tensors of a checkpoint by what `change` makes of them."""
    state = {name: tensor.clone() for name, tensor in change(load_file(folder / file)).items()}
    save_file(state, folder / file, metadata={"format": "pt"})
    return state


def edit_config(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def one_sentence(error: BaseException, *words: str) -> None:
    message = str(error)
    assert "\n" not in message
    for word in words:
        assert word in message


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "minitrans"]


def same_numbers(ours: Any, theirs: Any) -> None:
    given = batch(theirs, (2, 3, 7) if "MultipleChoice" in type(theirs).__name__ else (2, 7), padded=False)
    with torch.no_grad():
        assert relative(ours(**given.inputs)[0], theirs(**given.inputs)[0]) <= 1e-5


# There and back


@pytest.mark.parametrize("name", CLASSES)
def test_what_is_saved_opens_in_transformers(name, tmp_path):
    config = minitrans.AutoConfig.for_model(
        "distilbert" if name.startswith("Distil") else "bert",
        vocab_size=50, hidden_size=24, num_attention_heads=3, num_hidden_layers=2, intermediate_size=20,
    )  # fmt: skip
    ours = getattr(minitrans, name).from_config(config).eval()
    ours.save_pretrained(tmp_path)
    theirs, info = getattr(transformers, name).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert type(theirs.config).__name__ == type(ours.config).__name__
    same_numbers(ours, theirs)
    assert type(transformers.AutoConfig.from_pretrained(tmp_path)).__name__ == type(config).__name__


@pytest.mark.parametrize(
    ("name", "options"),
    [(name, {}) for name in CLASSES]
    + [(name, {"tie_word_embeddings": False}) for name in HEADS if name.endswith(("MaskedLM", "PreTraining"))]
    + [("BertForTokenClassification", {"num_labels": 5}), ("BertModel", {"type_vocab_size": 1})],
)
def test_load_and_save_keep_every_bit(name, options, tmp_path):
    _, ours = pair(name, tmp_path / "theirs", **options)
    report = ours.load_report
    assert not report.needs_attention
    _, info = getattr(transformers, name).from_pretrained(tmp_path / "theirs", output_loading_info=True)
    assert {key: [*value] for key, value in report.items()} == {key: [*value] for key, value in info.items()}
    assert "no_such_key" not in report
    assert report.files == [tmp_path / "theirs" / MODEL]
    assert not report.renamed
    assert not report.cast
    ours.save_pretrained(tmp_path / "ours")
    before, after = load_file(tmp_path / "theirs" / MODEL), load_file(tmp_path / "ours" / MODEL)
    assert set(before) == set(after) == set(ours.published_state_dict())
    for key, tensor in before.items():
        assert after[key].dtype == tensor.dtype
        assert torch.equal(after[key], tensor), key
    again = type(ours).from_pretrained(tmp_path / "ours")
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), again.parameters(), strict=True))
    values = json.loads((tmp_path / "theirs" / "config.json").read_text())
    written = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert {key: written[key] for key in values if key not in ("num_labels", "torch_dtype")} == values


def test_a_real_checkpoint_keeps_every_bit(minilm, tmp_path):
    minitrans.AutoModel.from_pretrained(minilm).save_pretrained(tmp_path)
    before, after = load_file(minilm / MODEL), load_file(tmp_path / MODEL)
    before.pop("embeddings.position_ids", None)
    assert set(before) == set(after)
    assert all(torch.equal(after[key], tensor) for key, tensor in before.items())


def test_half_precision_is_saved_as_it_is(tmp_path):
    theirs = reference("BertForMaskedLM").bfloat16()
    theirs.save_pretrained(tmp_path / "theirs")
    minitrans.BertForMaskedLM.from_pretrained(tmp_path / "theirs", dtype="auto").save_pretrained(tmp_path / "ours")
    before, after = load_file(tmp_path / "theirs" / MODEL), load_file(tmp_path / "ours" / MODEL)
    assert all(torch.equal(after[key], tensor) and tensor.dtype == torch.bfloat16 for key, tensor in before.items())
    assert json.loads((tmp_path / "ours" / "config.json").read_text())["dtype"] == "bfloat16"


# Spellings


def gamma_beta(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        key.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for key, tensor in state.items()
    }


def without_prefix(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix("bert.").removeprefix("distilbert."): tensor for key, tensor in state.items()}


def with_buffers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    prefix = "bert." if any(key.startswith("bert.") for key in state) else ""
    return {**state, f"{prefix}embeddings.position_ids": torch.arange(24)[None]}


def decoder_bias_twice(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**state, "cls.predictions.decoder.bias": state["cls.predictions.bias"]}


def decoder_bias_only(state: dict[str, Tensor]) -> dict[str, Tensor]:
    state = decoder_bias_twice(state)
    del state["cls.predictions.bias"]
    return state


def decoder_twice(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**state, "cls.predictions.decoder.weight": state["bert.embeddings.word_embeddings.weight"]}


def decoder_only(state: dict[str, Tensor]) -> dict[str, Tensor]:
    state = decoder_twice(state)
    del state["bert.embeddings.word_embeddings.weight"]
    return state


@pytest.mark.parametrize("name", ["BertForMaskedLM", "BertModel", "DistilBertForMaskedLM", "DistilBertModel"])
@pytest.mark.parametrize("spelling", [gamma_beta, without_prefix, with_buffers])
def test_old_spellings(name, spelling, tmp_path):
    theirs = reference(name)
    theirs.save_pretrained(tmp_path)
    before = load_file(tmp_path / MODEL)
    rewrite(tmp_path, spelling)
    ours = getattr(minitrans, name).from_pretrained(tmp_path, strict=True)
    same_numbers(ours, theirs)
    assert bool(ours.load_report.renamed) == (spelling is gamma_beta)
    ours.save_pretrained(tmp_path / "again")
    after = load_file(tmp_path / "again" / MODEL)
    assert set(after) == set(before)
    assert all(torch.equal(after[key], before[key]) for key in before)


@pytest.mark.parametrize("spelling", [decoder_bias_twice, decoder_bias_only, decoder_twice, decoder_only])
def test_tied_tensors_under_either_name(spelling, folder):
    theirs = reference("BertForMaskedLM")
    before = load_file(folder / MODEL)
    rewrite(folder, spelling)
    ours = minitrans.BertForMaskedLM.from_pretrained(folder, strict=True)
    same_numbers(ours, theirs)
    assert ours.get_output_embeddings().weight is ours.get_input_embeddings().weight
    state = ours.published_state_dict()
    assert set(state) == set(before)
    assert all(torch.equal(state[key], before[key]) for key in before)


@pytest.mark.parametrize("key", ["cls.predictions.decoder.weight", "cls.predictions.decoder.bias"])
def test_tied_tensors_that_differ_in_the_file(key, folder, tmp_path, caplog):
    """Computed as transformers does, said, and saved so that both read it again."""
    other = torch.randn(97, 32) if key.endswith("weight") else torch.randn(97)
    written = rewrite(folder, lambda state: {**state, key: other})
    theirs = transformers.BertForMaskedLM.from_pretrained(folder).eval()
    ours, report = minitrans.BertForMaskedLM.from_pretrained(folder, output_loading_info=True)
    same_numbers(ours, theirs)
    assert report.untied == [key]
    assert key in warnings_of(caplog)[0]
    assert not ours.config.tie_word_embeddings
    ours.save_pretrained(tmp_path / "again")
    after = load_file(tmp_path / "again" / MODEL)
    assert all(torch.equal(after[name], tensor) for name, tensor in written.items())
    for package in (transformers, minitrans):
        same_numbers(package.BertForMaskedLM.from_pretrained(tmp_path / "again").eval(), theirs)
    caplog.clear()
    minitrans.BertForMaskedLM.from_pretrained(tmp_path / "again", strict=True)
    ours.resize_token_embeddings(120)
    assert torch.equal(ours.get_output_embeddings().weight[:97], after["cls.predictions.decoder.weight"])


def test_a_decoder_of_another_shape_is_no_decoder(folder):
    rewrite(folder, lambda state: {**state, "cls.predictions.decoder.weight": torch.randn(90, 32)})
    with pytest.raises(ValueError, match=r"decoder\.weight: \(90, 32\)") as caught:
        minitrans.BertForMaskedLM.from_pretrained(folder)
    one_sentence(caught.value)


@pytest.mark.parametrize("name", ["BertForTokenClassification", "DistilBertForTokenClassification"])
def test_backbone_and_head_read_each_other(name, tmp_path, caplog):
    """A head's checkpoint gives the backbone and the other way round; what is left over is said once."""
    theirs = reference(name)
    theirs.save_pretrained(tmp_path / "head")
    backbone, report = minitrans.AutoModel.from_pretrained(tmp_path / "head", output_loading_info=True)
    assert report.unexpected == ["classifier.bias", "classifier.weight"]
    assert set(report.missing) <= {"pooler.dense.weight", "pooler.dense.bias"}
    assert len(warnings_of(caplog)) == 1
    assert "classifier.{bias,weight}" in warnings_of(caplog)[0]
    same_numbers(backbone, theirs.base_model)
    backbone.save_pretrained(tmp_path / "backbone")
    caplog.clear()
    torch.manual_seed(0)
    head, report = getattr(minitrans, name).from_pretrained(tmp_path / "backbone", output_loading_info=True)
    assert report.missing == ["classifier.weight", "classifier.bias"]
    assert head.load_report is report
    assert len(warnings_of(caplog)) == 1
    same_numbers(head.base_model, theirs.base_model)
    assert head.classifier.weight.std() > 0
    assert (head.classifier.bias == 0).all()


# Layouts


def test_shards(tmp_path):
    theirs = reference("BertForPreTraining")
    theirs.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    ours = minitrans.BertForPreTraining.from_pretrained(tmp_path, strict=True)
    assert len(ours.load_report.files) > 2
    same_numbers(ours, theirs)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("shards", [1, 2])
def test_pickled_weights(legacy, shards, tmp_path):
    theirs = reference("DistilBertForSequenceClassification")
    theirs.config.save_pretrained(tmp_path)
    names = list(theirs.state_dict())
    files = ["pytorch_model.bin"] if shards == 1 else ["pytorch_model-1.bin", "pytorch_model-2.bin"]
    place = {name: files[index % shards] for index, name in enumerate(names)}
    for file in files:
        part = {name: tensor for name, tensor in theirs.state_dict().items() if place[name] == file}
        torch.save(part, tmp_path / file, _use_new_zipfile_serialization=not legacy)
    if shards > 1:
        (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": place}))
    ours = minitrans.AutoModelForSequenceClassification.from_pretrained(tmp_path, strict=True)
    same_numbers(ours, theirs)
    with pytest.raises(ValueError, match="use_safetensors"):
        minitrans.AutoModel.from_pretrained(tmp_path, use_safetensors=True)
    for file in files:  # a model keeps nothing of its file
        os.truncate(tmp_path / file, 0)
    same_numbers(ours, theirs)


def test_safetensors_win_over_pickles(folder):
    (folder / "pytorch_model.bin").write_bytes(b"not to be opened")
    minitrans.AutoModel.from_pretrained(folder)


def test_variant_and_subfolder(tmp_path):
    plain, other = reference("BertModel", seed=1), reference("BertModel", seed=2)
    plain.save_pretrained(tmp_path / "deep" / "down")
    other.save_pretrained(tmp_path / "deep" / "down", variant="fp16")
    same_numbers(minitrans.AutoModel.from_pretrained(tmp_path, subfolder="deep/down"), plain)
    same_numbers(minitrans.AutoModel.from_pretrained(tmp_path / "deep", subfolder="down", variant="fp16"), other)
    other.save_pretrained(tmp_path / "shards", variant="fp16", max_shard_size="20KB")
    same_numbers(minitrans.AutoModel.from_pretrained(tmp_path / "shards", variant="fp16"), other)
    with pytest.raises(FileNotFoundError, match=r"model\.bf16\.safetensors") as caught:
        minitrans.AutoModel.from_pretrained(tmp_path / "deep" / "down", variant="bf16")
    one_sentence(caught.value)
    with pytest.raises(FileNotFoundError, match="elsewhere"):
        minitrans.AutoModel.from_pretrained(tmp_path, subfolder="elsewhere")


def test_by_id_from_the_hub(folder, tmp_path):
    """Only the configuration and the weights are fetched, once; then it works without the hub."""
    theirs = reference("BertForMaskedLM")
    with StandInHub({"org/tiny": folder}) as hub:
        old = hub.repositories["org/tiny"].refs["main"]
        hub.commit("org/tiny", {"README.md": b"new", "vocab.txt": b"[PAD]\n"})
        with hub.connected(tmp_path / "cache"):
            same_numbers(minitrans.AutoModelForMaskedLM.from_pretrained("org/tiny", strict=True), theirs)
            assert {request.path.rsplit("/")[-1] for request in hub.asked(method="GET")} == {"config.json", MODEL}
            fetched = len(hub.asked(MODEL, method="GET"))
            model = minitrans.AutoModelForMaskedLM.from_pretrained("org/tiny", revision=old, local_files_only=False)
            same_numbers(model, theirs)
            assert len(hub.asked(MODEL, method="GET")) == fetched
        asked = len(hub.requests)
        with hub.connected(tmp_path / "cache", offline=True):
            same_numbers(minitrans.AutoModelForMaskedLM.from_pretrained("org/tiny"), theirs)
        assert len(hub.requests) == asked


@pytest.mark.parametrize("patterns", [["*.safetensors", "*.json", "vocab.txt"], ["*.safetensors", "*.json"]])
def test_by_id_from_a_cache_that_lacks_optional_files(patterns, folder, tmp_path):
    """What `snapshot_download(allow_patterns=…)` left in a container image is enough, as it is for transformers."""
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "one", "two"]))
    with StandInHub({"org/tiny": folder}) as hub, hub.connected(tmp_path / "cache"):
        huggingface_hub.snapshot_download("org/tiny", allow_patterns=patterns)
        with hub.connected(tmp_path / "cache", offline=True):
            same_numbers(minitrans.AutoModelForMaskedLM.from_pretrained("org/tiny"), reference("BertForMaskedLM"))
            if "vocab.txt" in patterns:
                theirs = transformers.AutoTokenizer.from_pretrained("org/tiny")
                assert minitrans.AutoTokenizer.from_pretrained("org/tiny")("one two three") == theirs("one two three")
            else:
                with pytest.raises(FileNotFoundError, match=r"vocab.*is not in the cache") as caught:
                    minitrans.AutoTokenizer.from_pretrained("org/tiny")
                one_sentence(caught.value)
            for options in ({"variant": "fp16"}, {"subfolder": "deep"}):
                with pytest.raises(
                    FileNotFoundError, match=r"(model\.fp16|deep/config).*is not in the cache"
                ) as caught:
                    minitrans.AutoModel.from_pretrained("org/tiny", **options)
                one_sentence(caught.value)


def test_weights_are_saved_as_safetensors_only(folder, tmp_path):
    model = minitrans.BertForMaskedLM.from_pretrained(folder)
    for safe in (False, True):
        model.save_pretrained(tmp_path / str(safe), safe_serialization=safe)
        assert sorted(path.name for path in (tmp_path / str(safe)).iterdir()) == ["config.json", MODEL]


def test_pushing_and_reading_back(folder, tmp_path):
    model = minitrans.BertForMaskedLM.from_pretrained(folder)
    with StandInHub() as hub, hub.connected(tmp_path / "cache"):
        model.push_to_hub("me/tiny", token="hf_abc")
        assert {MODEL, "config.json"} <= set(hub.files("me/tiny"))
        again = minitrans.AutoModelForMaskedLM.from_pretrained("me/tiny")
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


# Dtypes and devices


@pytest.mark.parametrize(
    ("stored", "native"),
    [(torch.float16, True), (torch.bfloat16, True), (torch.bfloat16, False), (torch.float64, False)],
)
def test_dtypes(stored, native, tmp_path, caplog, monkeypatch):
    """On a CPU that multiplies in bfloat16, and on one that does not."""
    monkeypatch.setattr(cpu, "this_cpu", lambda: cpu.Cpu("", native, native, False))
    theirs = reference("BertForSequenceClassification").to(stored)
    theirs.save_pretrained(tmp_path)
    kind = minitrans.BertForSequenceClassification
    left_out = kind.from_pretrained(tmp_path)
    slow = stored == torch.float16 or (stored == torch.bfloat16 and not native)
    assert left_out.dtype == (torch.float32 if slow else stored)
    assert len(warnings_of(caplog)) == int(slow)
    assert bool(left_out.load_report.cast) == slow
    for wanted in ("auto", stored, str(stored), str(stored).removeprefix("torch.")):
        model = kind.from_pretrained(tmp_path, dtype=wanted)
        assert model.dtype == stored
        assert {p.dtype for p in model.parameters()} == {stored}
        assert not model.load_report.cast
    for name in ("dtype", "torch_dtype"):
        model = kind.from_pretrained(tmp_path, **{name: torch.float32})
        assert model.dtype == torch.float32
        assert len(model.load_report.cast) == len(load_file(tmp_path / MODEL))
        same_numbers(model, theirs.float())
    assert len(warnings_of(caplog)) == int(slow)


def test_the_checkpoints_dtype_is_that_of_its_tensors_where_the_config_is_silent(tmp_path):
    reference("BertModel").bfloat16().save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    for key in ("dtype", "torch_dtype"):
        values.pop(key, None)
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert minitrans.BertModel.from_pretrained(tmp_path, dtype="auto").dtype == torch.bfloat16
    edit_config(tmp_path, torch_dtype="float16")
    assert minitrans.BertModel.from_pretrained(tmp_path, dtype="auto").dtype == torch.float16


@pytest.mark.parametrize("most", [torch.float16, torch.bfloat16, torch.float64])
def test_of_several_dtypes_the_one_of_most_numbers_is_the_checkpoints(most, folder, monkeypatch):
    """Most tensors of a BERT are small: of those in the other dtype there are more, with fewer numbers."""
    monkeypatch.setattr(cpu, "this_cpu", lambda: cpu.Cpu("", True, True, False))
    values = json.loads((folder / "config.json").read_text())
    for key in ("dtype", "torch_dtype"):
        values.pop(key, None)
    (folder / "config.json").write_text(json.dumps(values))
    large = ("weight", "dense.weight")
    state = rewrite(folder, lambda state: {
        name: tensor.to(most if name.endswith(large) and tensor.dim() == 2 else torch.float32)
        for name, tensor in state.items()} | {"steps": torch.ones(10**5, dtype=torch.int64)})  # fmt: skip
    assert sum(tensor.dtype == torch.float32 for tensor in state.values()) > len(state) / 2
    for options in ({"dtype": "auto"}, {"dtype": "auto", "device": "meta"}):
        assert minitrans.BertForMaskedLM.from_pretrained(folder, **options).dtype == most


def test_half_precision_is_kept_where_no_cpu_computes(tmp_path, caplog):
    reference("BertModel").half().save_pretrained(tmp_path)
    assert minitrans.BertModel.from_pretrained(tmp_path, device="meta").dtype == torch.float16
    assert warnings_of(caplog) == []


@pytest.mark.parametrize("dtype", ["int8", torch.int64, "float33", "", 3])
def test_dtypes_that_cannot_be(dtype, folder):
    with pytest.raises(ValueError, match="dtype") as caught:
        minitrans.AutoModel.from_pretrained(folder, dtype=dtype)
    one_sentence(caught.value, repr(dtype))


def test_devices(folder):
    for options in (
        {"device": "cpu"},
        {"device_map": "auto"},
        {"device_map": {"": "cpu"}},
        {"device": torch.device("cpu")},
    ):
        assert minitrans.AutoModel.from_pretrained(folder, **options).device.type in ("cpu", "cuda")
    model = minitrans.AutoModelForMaskedLM.from_pretrained(folder, device="meta")
    assert {p.device.type for p in model.parameters()} == {"meta"}
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    with torch.device("meta"), pytest.raises(ValueError, match=r"torch\.device"):
        minitrans.AutoModel.from_pretrained(folder)


@pytest.mark.parametrize("device", ["cuda:99", "nowhere", "cpu:x", {"bert": 0}, "mps", [0], ""])
def test_devices_that_cannot_be(device, folder):
    with pytest.raises(ValueError, match="device") as caught:
        minitrans.AutoModel.from_pretrained(folder, device=device)
    one_sentence(caught.value, str(device))


# Options


def test_a_model_comes_in_evaluation_mode_and_trainable(folder):
    model = minitrans.AutoModelForMaskedLM.from_pretrained(folder)
    assert not model.training
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_overrides(folder, tmp_path):
    model = minitrans.AutoModelForSequenceClassification.from_pretrained(folder, num_labels=7)
    assert model.classifier.out_features == model.num_labels == 7
    names = {0: "no", 1: "yes", 2: "perhaps"}
    model = minitrans.AutoModelForSequenceClassification.from_pretrained(folder, id2label=names)
    assert model.config.id2label == names
    assert model.config.label2id == {"no": 0, "yes": 1, "perhaps": 2}
    assert model.classifier.out_features == 3
    model.save_pretrained(tmp_path / "named")
    assert minitrans.AutoConfig.from_pretrained(tmp_path / "named").id2label == names
    assert transformers.AutoConfig.from_pretrained(tmp_path / "named").id2label == names
    model = minitrans.AutoModel.from_pretrained(folder, output_hidden_states=True, hidden_dropout_prob=0.5)
    assert model(torch.tensor([[1, 2]])).hidden_states is not None
    assert model.embeddings.dropout.p == 0.5


def test_a_configuration_given(folder):
    config = minitrans.AutoConfig.from_pretrained(folder, num_labels=4)
    model = minitrans.AutoModelForTokenClassification.from_pretrained(folder, config=config, problem_type="regression")
    assert model.classifier.out_features == 4
    assert model.config.problem_type == "regression"
    assert config.problem_type is None
    with pytest.raises(TypeError, match="nonsense"):
        minitrans.AutoModel.from_pretrained(folder, config=config, nonsense=1)
    with pytest.raises(TypeError, match="DistilBertConfig"):
        minitrans.BertModel.from_pretrained(folder, config=minitrans.DistilBertConfig())
    with pytest.raises(TypeError, match="dict"):
        minitrans.AutoModel.from_pretrained(folder, config=config.to_dict())
    with pytest.raises(TypeError, match="dict"):
        minitrans.AutoModel.from_config(config.to_dict())


@pytest.mark.parametrize("name", ["AutoModel", "AutoConfig", "BertForMaskedLM", "BertConfig", "AutoModelForMaskedLM"])
@pytest.mark.parametrize("option", ["nonsense", "num_lables", "load_in_8bit", "honoured", "extra", "model_type"])
def test_unknown_options(name, option, folder):
    with pytest.raises(TypeError, match=option) as caught:
        getattr(minitrans, name).from_pretrained(folder, **{option: 1})
    one_sentence(caught.value)


@pytest.mark.parametrize("name", ["AutoModel", "AutoConfig", "BertForMaskedLM", "BertConfig"])
def test_code_from_a_checkpoint_is_refused(name, folder):
    for asked in (False, True):  # nothing needs it yet
        getattr(minitrans, name).from_pretrained(folder, trust_remote_code=asked)
    edit_config(folder, auto_map={"AutoModel": "modeling.Own"})
    getattr(minitrans, name).from_pretrained(folder, trust_remote_code=False)
    with pytest.raises(ValueError, match="trust_remote_code") as caught:
        getattr(minitrans, name).from_pretrained(folder, trust_remote_code=True)
    one_sentence(caught.value)


def test_options_that_change_nothing(folder):
    """As published programs pass them."""
    options = {
        "low_cpu_mem_usage": True, "weights_only": False, "from_tf": False, "from_flax": False, "key_mapping": None,
        "quantization_config": None, "use_kernels": False, "tp_plan": None, "max_memory": {0: "1GB"},
        "offload_folder": "x", "offload_state_dict": True, "adapter_kwargs": None,
    }  # fmt: skip
    model = minitrans.BertForMaskedLM.from_pretrained(folder, strict=True, output_attentions=True, **options)
    assert model.config.output_attentions is True
    assert not options.keys() & model.config.to_dict().keys()


def test_strict(folder, caplog):
    minitrans.BertForMaskedLM.from_pretrained(folder, strict=True)
    with pytest.raises(ValueError, match=r"strict=True.*(?s:.*)classifier"):
        minitrans.BertForTokenClassification.from_pretrained(folder, strict=True)
    assert warnings_of(caplog) == []


@pytest.mark.parametrize("older", [False, True])
def test_ignore_mismatched_sizes(older, tmp_path, caplog):
    theirs = reference("BertForTokenClassification", num_labels=5)
    theirs.save_pretrained(tmp_path)
    if older:
        (tmp_path / "model.safetensors").unlink()
        torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="ignore_mismatched_sizes") as caught:
        minitrans.BertForTokenClassification.from_pretrained(tmp_path, num_labels=2)
    one_sentence(caught.value, "(5, 32)", "(2, 32)", "classifier.weight")
    assert "classifier.weight: (5, 32) in the file, (2, 32) in the model" in str(caught.value)
    ours, report = minitrans.BertForTokenClassification.from_pretrained(
        tmp_path, num_labels=2, ignore_mismatched_sizes=True, output_loading_info=True
    )
    assert sorted(report.mismatched) == [("classifier.bias", (5,), (2,)), ("classifier.weight", (5, 32), (2, 32))]
    assert report.missing == report.unexpected == []
    assert "classifier.weight" in warnings_of(caplog)[-1]
    assert (ours.classifier.bias == 0).all()
    same_numbers(ours.base_model, theirs.base_model)
    with pytest.raises(ValueError, match="strict"):
        minitrans.BertForTokenClassification.from_pretrained(
            tmp_path, num_labels=2, ignore_mismatched_sizes=True, strict=True
        )


def test_one_missing_part_of_a_stack_leaves_the_others(tmp_path):
    reference("BertModel").save_pretrained(tmp_path)
    key = "encoder.layer.1.attention.self.key.weight"
    before = rewrite(tmp_path, lambda state: {name: tensor for name, tensor in state.items() if name != key})
    ours, report = minitrans.BertModel.from_pretrained(tmp_path, output_loading_info=True)
    assert report.missing == [key]
    after = ours.published_state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert float(after[key].detach().std()) == pytest.approx(0.02, rel=0.2)


def test_a_name_twice_in_the_file_is_said(tmp_path):
    theirs = reference("BertModel")
    theirs.save_pretrained(tmp_path)
    rewrite(tmp_path, lambda state: {**state, "bert.pooler.dense.bias": torch.randn(32)})
    _, report = minitrans.BertModel.from_pretrained(tmp_path, output_loading_info=True)
    assert len(report.unexpected) == 1
    assert report.unexpected[0].endswith("pooler.dense.bias")


def test_the_report_tells_what_was_done(tmp_path):
    theirs = reference("BertForSequenceClassification").half()
    theirs.save_pretrained(tmp_path)
    rewrite(tmp_path, gamma_beta)
    report = minitrans.BertForSequenceClassification.from_pretrained(tmp_path).load_report
    assert report.renamed["bert.embeddings.LayerNorm.gamma"] == "bert.embeddings.LayerNorm.weight"
    assert report.cast["classifier.weight"] == (torch.float16, torch.float32)
    for word in (str(tmp_path / MODEL), "renamed: 10", "cast: 41"):
        assert word in str(report)


# Engines


def test_engines(folder, monkeypatch):
    ids = torch.tensor([[1, 2, 3]])
    model = minitrans.AutoModel.from_pretrained(folder)
    expected = model(ids)[0]
    for name in ("eager", "sdpa", "plain", "auto"):
        assert torch.equal(minitrans.AutoModel.from_pretrained(folder, attn_implementation=name)(ids)[0], expected)
    with minitrans.engine("plain"):
        assert torch.equal(model(ids)[0], expected)
    for forced in ("triton", "flash_attention_2"):
        with pytest.raises(RuntimeError, match="triton engine was asked for"):
            minitrans.AutoModel.from_pretrained(folder, attn_implementation=forced)(ids)
    with minitrans.engine("triton"), pytest.raises(RuntimeError, match="CPU"):
        model(ids)
    monkeypatch.setenv("MINITRANS_ENGINE", "triton")
    with pytest.raises(RuntimeError, match="CPU"):
        model(ids)
    with minitrans.engine("plain"):
        assert torch.equal(model(ids)[0], expected)
    monkeypatch.setenv("MINITRANS_ENGINE", "cuda")
    with pytest.raises(ValueError, match=r"'cuda'.*plain"):
        model(ids)
    monkeypatch.delenv("MINITRANS_ENGINE")
    assert torch.equal(model(ids)[0], expected)
    with pytest.raises(ValueError, match="'fast'"), minitrans.engine("fast"):
        pass
    with pytest.raises(ValueError, match=r"'flex'.*sdpa") as caught:
        minitrans.AutoModel.from_pretrained(folder, attn_implementation="flex")
    one_sentence(caught.value)


# Families


def test_auto_classes_choose_the_published_class(tmp_path):
    for name in CLASSES:
        family, task = ("distilbert", name[10:]) if name.startswith("Distil") else ("bert", name[4:])
        auto = "AutoModel" if task == "Model" else f"AutoModel{task}"
        config = minitrans.AutoConfig.for_model(family, num_hidden_layers=0, vocab_size=9, hidden_size=12)
        model = getattr(minitrans, auto).from_config(config, dtype="bfloat16")
        assert type(model) is getattr(minitrans, name)
        assert model.dtype == torch.bfloat16
        assert getattr(transformers, auto, None) is not None
    assert type(minitrans.AutoModelForPreTraining.from_config(config)) is minitrans.DistilBertForMaskedLM


def test_heads_that_a_family_does_not_have(tmp_path):
    reference("DistilBertModel").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="NextSentencePrediction") as caught:
        minitrans.AutoModelForNextSentencePrediction.from_pretrained(tmp_path)
    one_sentence(caught.value, "DistilBertForMaskedLM", "DistilBertForQuestionAnswering")
    with pytest.raises(ValueError, match="no class for AutoModelForAudioClassification"):  # texts have the same suffix
        minitrans.AutoModelForAudioClassification.from_pretrained(tmp_path)
    sound = minitrans.AutoConfig.for_model("wav2vec2")
    with pytest.raises(ValueError, match="no class for AutoModelForSequenceClassification"):
        minitrans.AutoModelForSequenceClassification.from_config(sound)
    with pytest.raises(ImportError, match="DistilBertForNextSentencePrediction"):
        from minitrans import DistilBertForNextSentencePrediction  # noqa: F401
    with pytest.raises(TypeError, match="from_pretrained"):
        minitrans.AutoModel()


@pytest.mark.parametrize("model_type", ["gpt17", None, ["bert"], {"a": 1}, 3, "Bert"])
def test_unknown_families(model_type, folder):
    edit_config(folder, model_type=model_type)
    for auto in (minitrans.AutoModel, minitrans.AutoConfig):
        with pytest.raises(ValueError, match="model_type") as caught:
            auto.from_pretrained(folder)
        one_sentence(caught.value, repr(model_type), "bert, distilbert")


def test_a_class_of_another_family(folder):
    for kind in (minitrans.DistilBertModel, minitrans.DistilBertConfig, minitrans.DistilBertForMaskedLM):
        with pytest.raises(ValueError, match=r"'bert' checkpoint.*distilbert") as caught:
            kind.from_pretrained(folder)
        one_sentence(caught.value)


def test_a_config_without_model_type_is_enough_for_a_named_class(folder):
    values = json.loads((folder / "config.json").read_text())
    del values["model_type"]
    (folder / "config.json").write_text(json.dumps(values))
    minitrans.BertForMaskedLM.from_pretrained(folder, strict=True)


# Broken files


def truncated(content: bytes) -> bytes:
    return content[:-100]


def cut_in_the_header(content: bytes) -> bytes:
    return content[:50]


def empty(content: bytes) -> bytes:
    return b""


def greedy_header(content: bytes) -> bytes:
    return struct.pack("<Q", 1 << 60) + content[8:]


def greedy_offsets(content: bytes) -> bytes:
    size = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + size])
    last = max((key for key in header if key != "__metadata__"), key=lambda key: header[key]["data_offsets"])
    header[last]["data_offsets"][1] += 4096
    header[last]["shape"] = [(header[last]["data_offsets"][1] - header[last]["data_offsets"][0]) // 4]
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content[8 + size :]


def pointer(content: bytes) -> bytes:
    return b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 12345\n"


def page(content: bytes) -> bytes:
    return b"<!doctype html><html><body>Not found</body></html>" * 20


BREAKS = [truncated, cut_in_the_header, empty, greedy_header, greedy_offsets, pointer, page]


@pytest.mark.parametrize("damage", BREAKS)
def test_broken_safetensors(damage, folder):
    path = folder / MODEL
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match="safetensors") as caught:
        minitrans.AutoModel.from_pretrained(folder)
    one_sentence(caught.value, str(path))


@pytest.mark.parametrize("damage", [truncated, empty, pointer, page])
@pytest.mark.parametrize("legacy", [False, True])
def test_broken_pickles(damage, legacy, folder):
    (folder / MODEL).unlink()
    path = folder / "pytorch_model.bin"
    torch.save(reference("BertForMaskedLM").state_dict(), path, _use_new_zipfile_serialization=not legacy)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match="not a readable") as caught:
        minitrans.AutoModel.from_pretrained(folder)
    one_sentence(caught.value, str(path))


class Harmful:
    def __reduce__(self) -> Any:
        return os.mkdir, ("harm",)


@pytest.mark.parametrize(
    "content", [[1, 2], {"a": 1}, {"state_dict": {}}, {3: torch.ones(1)}, torch.ones(3), Harmful()]
)
def test_pickles_of_something_else(content, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (folder / MODEL).unlink()
    torch.save(content, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pytorch_model\.bin") as caught:
        minitrans.AutoModel.from_pretrained(folder)
    one_sentence(caught.value)
    assert not (tmp_path / "harm").exists()


def test_a_foreign_checkpoint_is_refused(folder):
    """Not one tensor of the model: a random model would look like a loaded one."""
    save_file({"h.0.attn.c_attn.weight": torch.ones(2, 2)}, folder / MODEL)
    with pytest.raises(ValueError, match=r"h\.0\.attn") as caught:
        minitrans.AutoModel.from_pretrained(folder)
    one_sentence(caught.value, "BertModel")
    save_file({}, folder / MODEL)
    with pytest.raises(ValueError, match="BertModel"):
        minitrans.AutoModel.from_pretrained(folder)


@pytest.mark.parametrize(
    ("index", "kind", "words"),
    [
        ({"weight_map": {"a": "model-00001-of-00002.safetensors"}}, FileNotFoundError, "model-00001-of-00002"),
        ({"weight_map": {"a": "../secret.safetensors"}}, ValueError, "../secret"),
        ({"weight_map": {"a": "/etc/passwd"}}, ValueError, "/etc/passwd"),
        ({"weight_map": {"a": "x/../../secret"}}, ValueError, "secret"),
        ({"weight_map": {"a": 3}}, ValueError, "weight_map"),
        ({"weight_map": {"a": ["b"]}}, ValueError, "weight_map"),
        ({"weight_map": {}}, ValueError, "weight_map"),
        ({"weight_map": []}, ValueError, "weight_map"),
        ({}, ValueError, "weight_map"),
        ([], ValueError, "model.safetensors.index.json"),
    ],
)
def test_broken_indices(index, kind, words, folder):
    (folder / MODEL).rename(folder.parent / "secret.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(kind) as caught:
        minitrans.AutoModel.from_pretrained(folder)
    one_sentence(caught.value, words)


def test_no_weights_and_no_config(folder, tmp_path):
    (folder / MODEL).unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors") as caught:
        minitrans.AutoModel.from_pretrained(folder)
    one_sentence(caught.value)
    (folder / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"config\.json") as caught:
        minitrans.AutoModel.from_pretrained(folder)
    one_sentence(caught.value)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        minitrans.AutoModel.from_pretrained(tmp_path / "nowhere")


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b'"bert"', b"null", b"[" * 100_000])
def test_broken_configs(content, folder):
    (folder / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"config\.json") as caught:
        minitrans.AutoModel.from_pretrained(folder)
    one_sentence(caught.value)


@pytest.mark.parametrize(
    "values",
    [
        {"hidden_size": 64},
        {"vocab_size": 98},
        {"vocab_size": 10**9},
        {"vocab_size": 10**15},
        {"hidden_size": 10**6},
        {"max_position_embeddings": 10**12},
        {"num_hidden_layers": 10**9},
        {"num_attention_heads": 5},
        {"pad_token_id": 97},
        {"pad_token_id": -200},
        {"intermediate_size": 10**40},
    ],
)
def test_a_config_that_disagrees_with_the_weights(values, folder):
    """Refused before memory of the size that it asks for is taken."""
    edit_config(folder, **values)
    with pytest.raises(ValueError, match=r"\d") as caught:
        minitrans.AutoModel.from_pretrained(folder)
    one_sentence(caught.value)
    assert len(str(caught.value)) < 600


def test_fewer_layers_than_the_file_has_are_said(folder, caplog):
    edit_config(folder, num_hidden_layers=1)
    model = minitrans.AutoModelForMaskedLM.from_pretrained(folder)
    assert len(model.bert.layers) == 1
    assert all(name.startswith("bert.encoder.layer.1.") for name in model.load_report.unexpected)
    assert "layer.1" in warnings_of(caplog)[0]


def test_a_file_that_changes_while_it_is_read(folder, monkeypatch):

    opened = weights.open_checkpoint

    def cut(*arguments: Any) -> Any:
        checkpoint = opened(*arguments)
        os.truncate(folder / MODEL, 3000)
        return checkpoint

    monkeypatch.setattr(weights, "open_checkpoint", cut)
    with pytest.raises(ValueError, match="changed while it was read") as caught:
        minitrans.AutoModel.from_pretrained(folder)
    one_sentence(caught.value, MODEL)


def overwrite(other: Path, path: Path) -> None:
    path.write_bytes(other.read_bytes())


@pytest.mark.parametrize("change", [os.replace, overwrite])
@pytest.mark.parametrize("when", [1, 10])
@pytest.mark.parametrize("kind", ["safetensors", "shards", "zip", "legacy"])
def test_a_file_that_is_replaced_or_overwritten_while_it_is_read(kind, when, change, folder, monkeypatch):
    """The old tensors or an error, never some of each."""

    theirs, model = reference("BertForMaskedLM"), minitrans.BertForMaskedLM
    if kind == "shards":
        (folder / MODEL).unlink()
        theirs.save_pretrained(folder, max_shard_size="20KB")
    elif kind != "safetensors":
        state = dict(theirs.state_dict())
        torch.save(state, folder / "pytorch_model.bin", _use_new_zipfile_serialization=kind == "zip")
        (folder / MODEL).unlink()
    files = [path for path in folder.iterdir() if path.suffix in (".safetensors", ".bin")]
    reads = 0

    def replaced() -> None:
        for path in files:
            other = path.with_name("other")
            if path.suffix == ".bin":
                content = {key: torch.zeros_like(x) for key, x in torch.load(path).items()}
                torch.save(content, other, _use_new_zipfile_serialization=kind == "zip")
            else:
                save_file({key: torch.zeros_like(x) for key, x in load_file(path).items()}, other, {"format": "pt"})
            change(other, path)

    original = weights.Checkpoint.read_into

    def read_into(self: Any, *arguments: Any) -> None:
        nonlocal reads
        reads += 1
        if reads == when:
            replaced()
        original(self, *arguments)

    monkeypatch.setattr(weights.Checkpoint, "read_into", read_into)
    if change is os.replace:
        same_numbers(model.from_pretrained(folder), theirs)
    else:
        with pytest.raises(ValueError, match="changed while it was read; load it again") as caught:
            model.from_pretrained(folder)
        one_sentence(caught.value, str(folder))


def test_a_change_within_one_tick_of_the_clock_is_seen(folder):
    """The second writing of a file may have the time of the first; opening waits that out."""

    content = (folder / MODEL).read_bytes()
    for _ in range(20):
        (folder / MODEL).write_bytes(content)
        with weights.SafetensorsCheckpoint([folder / MODEL]):
            assert time.time_ns() - (folder / MODEL).stat().st_mtime_ns >= 10**7
        checkpoint = weights.SafetensorsCheckpoint([folder / MODEL])
        (folder / MODEL).write_bytes(content)
        with pytest.raises(ValueError, match="changed while it was read"), checkpoint:
            pass


def test_shards_that_are_replaced_while_they_are_opened(tmp_path, monkeypatch):

    for value in (1, 2):
        reference("BertModel", seed=value).save_pretrained(tmp_path / str(value), max_shard_size="20KB")
    original = weights.SafetensorsCheckpoint._read_header

    def read_header(self: Any, file: Any) -> Any:
        header = original(self, file)
        for path in (tmp_path / "2").glob("*.safetensors"):
            os.replace(path, tmp_path / "1" / path.name)
        return header

    monkeypatch.setattr(weights.SafetensorsCheckpoint, "_read_header", read_header)
    with pytest.raises(ValueError, match="changed while it was read; load it again"):
        minitrans.AutoModel.from_pretrained(tmp_path / "1")


def test_a_loaded_checkpoint_leaves_no_file_open(folder):
    def opened() -> set[str]:
        return {os.readlink(path) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()}

    for action in (minitrans.AutoModel.from_pretrained, minitrans.BertForMaskedLM.from_pretrained):
        action(folder)
        assert not any(str(folder) in name for name in opened())
    (folder / MODEL).write_bytes(b"")
    with pytest.raises(ValueError, match="safetensors"):
        minitrans.AutoModel.from_pretrained(folder)
    assert not any(str(folder) in name for name in opened())


@pytest.mark.parametrize("name", ["BertForMaskedLM", "SwinModel", "Wav2Vec2ForCTC", "a model of the user's own"])
def test_loading_all_tensors_draws_no_random_numbers(name, tmp_path):
    kind = Counting if name.startswith("a ") else getattr(minitrans, name)
    made = families.make(minitrans, "BertModel").config if kind is Counting else families.make(minitrans, name).config
    kind(made).save_pretrained(tmp_path)
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    kind.from_pretrained(tmp_path, strict=True)
    assert torch.equal(torch.rand(3), expected)
    assert kind(made).state_dict().keys()  # and what is made after it starts again
    assert not torch.equal(torch.rand(3), expected)


# What is no weight

KEY = "bert.encoder.layer.1.intermediate.dense.weight"
QUANTISED = [torch.int8, torch.uint8, torch.int16, torch.int64, torch.bool, torch.uint16, torch.complex64,
             torch.float8_e4m3fn, torch.float8_e5m2]  # fmt: skip


@pytest.mark.parametrize("dtype", QUANTISED, ids=str)
@pytest.mark.parametrize("source", [MODEL, "pytorch_model.bin", "state_dict"])
def test_quantised_tensors_are_no_weights(dtype, source, folder):
    """Where they would become weights; those that nobody uses are reported and left alone."""
    state = load_file(folder / MODEL)

    def load(state: dict[str, Tensor], **options: Any) -> Any:
        if source == "state_dict":
            options["state_dict"] = state
        elif source == MODEL:
            save_file(state, folder / MODEL, metadata={"format": "pt"})
        else:
            (folder / MODEL).unlink(missing_ok=True)
            torch.save(state, folder / source)
        return minitrans.BertForMaskedLM.from_pretrained(folder, **options)

    for options in ({}, {"dtype": torch.bfloat16}, {"ignore_mismatched_sizes": True}):
        with pytest.raises(ValueError, match=f"holds {KEY} as .*quantised") as caught:
            load({**state, KEY: (state[KEY] * 50).to(dtype)}, **options)
        one_sentence(caught.value, source)
    model = load({**state, "scales": torch.ones(3).to(dtype)})
    assert model.load_report.unexpected == ["scales"]
    same_numbers(model, reference("BertForMaskedLM"))


class Counting(minitrans.BertPreTrainedModel):
    """A user's own model with a whole number among its tensors."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.bert = minitrans.BertModel(config, add_pooling_layer=False)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.post_init()


@pytest.mark.parametrize("options", [{"dtype": "bfloat16"}, {"dtype": torch.float64}, {"device": "meta"}], ids=str)
def test_dtypes_and_devices_of_the_users_own_models(options, folder):
    model = Counting.from_pretrained(folder, **options)
    assert model.dtype == {"bfloat16": torch.bfloat16}.get(options.get("dtype"), options.get("dtype", torch.float32))
    assert model.device.type == options.get("device", "cpu")
    assert {x.dtype for x in model.parameters()} == {model.dtype}
    assert model.steps.dtype == torch.int64


class Hearing(minitrans.BertPreTrainedModel):
    """A user's own model of text with one of sound in it."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.bert = minitrans.BertModel(config, add_pooling_layer=False)
        self.sound = minitrans.Wav2Vec2Model(minitrans.Wav2Vec2Config(**families.SIZES["Wav2Vec2"]))
        self.post_init()


def test_a_model_inside_another_starts_what_is_missing_of_it(tmp_path):
    """A convolution of 10 samples starts with the deviation √(2 / 10) (He et al. 2015), not the text model's 0.02."""
    Hearing(minitrans.BertConfig(**families.TEXT)).save_pretrained(tmp_path)
    key = "sound.feature_extractor.conv_layers.0.conv.weight"
    rewrite(tmp_path, lambda state: {name: tensor for name, tensor in state.items() if name != key})
    model, report = Hearing.from_pretrained(tmp_path, output_loading_info=True)
    assert report.missing == [key]
    assert float(model.state_dict()[key].std()) == pytest.approx(0.2**0.5, rel=0.2)  # of 320 numbers


def test_a_configuration_without_a_deviation_starts_with_that_of_bert():
    class PlainConfig(minitrans.PreTrainedConfig):
        model_type = "plain"

    class Plain(minitrans.PreTrainedModel):
        config_class = PlainConfig
        base_model_prefix = "plain"

        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.score, self.norm = torch.nn.Linear(100, 100), torch.nn.LayerNorm(100)
            self.post_init()

        def forward(self) -> None: ...

    model = Plain(PlainConfig())
    weight = model.score.weight.detach()
    assert float(weight.std()) == pytest.approx(0.02, rel=0.05)
    assert abs(float(weight.mean())) < 0.002
    assert (model.norm.weight == 1).all()
    assert not model.score.bias.any()
    assert not model.norm.bias.any()


@pytest.mark.parametrize("tied", [True, False])
def test_what_a_loaded_model_says_of_its_checkpoint(tied, tmp_path):
    for model in pair("BertForMaskedLM", tmp_path, tie_word_embeddings=tied):
        assert model.config.tie_word_embeddings is tied
    assert model.name_or_path == model.config.name_or_path == str(tmp_path)
    model.name_or_path = "elsewhere"
    assert model.name_or_path == model.config.name_or_path == "elsewhere"
    model.save_pretrained(tmp_path / "again", save_peft_format=False, save_original_format=True, token="t")
    assert minitrans.BertForMaskedLM.from_pretrained(tmp_path / "again").config.tie_word_embeddings is tied


@pytest.mark.parametrize(
    ("stored", "fits"),
    [(torch.int64, True), (torch.int32, True), (torch.bool, True), (torch.float32, False), (torch.complex64, False)],
)
def test_whole_numbers_of_the_users_own(stored, fits, folder):
    rewrite(folder, lambda state: {**state, "steps": torch.ones((), dtype=stored)})
    if fits:
        assert Counting.from_pretrained(folder).steps == 1
    else:
        with pytest.raises(ValueError, match="holds steps as"):
            Counting.from_pretrained(folder)


@pytest.mark.parametrize("key", ["quantization_config", "compression_config"])
@pytest.mark.parametrize("value", [{"quant_method": "bitsandbytes", "load_in_8bit": True}, {}, "fp8"])
def test_a_configuration_of_quantised_weights_is_refused(key, value, folder):
    edit_config(folder, **{key: None})
    minitrans.AutoModel.from_pretrained(folder)
    edit_config(folder, **{key: value})
    for kind in (minitrans.AutoModel, minitrans.BertForMaskedLM, minitrans.AutoConfig):
        with pytest.raises(ValueError, match=f"{key} is .*quantised") as caught:
            kind.from_pretrained(folder)
        one_sentence(caught.value)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_numbers_that_are_none_are_said(number, dtype, folder, caplog):
    def spoilt(state: dict[str, Tensor]) -> dict[str, Tensor]:
        state = {name: tensor.to(dtype) for name, tensor in state.items()}
        state[KEY][3, 5] = number
        return {**state, "unused": torch.tensor([number])}

    rewrite(folder, spoilt)
    model = minitrans.BertForMaskedLM.from_pretrained(folder)
    assert model.load_report.not_finite == [KEY]
    assert f"NaN or infinite numbers: {KEY}" in warnings_of(caplog)[-1]
    with pytest.raises(ValueError, match="NaN or infinite numbers"):
        minitrans.BertForMaskedLM.from_pretrained(folder, strict=True)
    assert minitrans.BertForMaskedLM.from_pretrained(folder, device="meta").load_report.not_finite == []


def test_numbers_that_become_infinite_and_large_ones_that_do_not(folder):
    rewrite(folder, lambda state: {**state, KEY: torch.full_like(state[KEY], 3e38)})
    assert minitrans.BertForMaskedLM.from_pretrained(folder).load_report.not_finite == []
    for dtype in (torch.float16, torch.bfloat16):
        report = minitrans.BertForMaskedLM.from_pretrained(folder, dtype=dtype).load_report
        assert report.not_finite == ([KEY] if dtype == torch.float16 else [])


@pytest.mark.parametrize("spelling", [decoder_twice, decoder_only])
def test_numbers_that_are_none_in_what_is_tied(spelling, folder):
    def spoilt(state: dict[str, Tensor]) -> dict[str, Tensor]:
        state["bert.embeddings.word_embeddings.weight"][3, 5] = float("nan")
        return spelling(state)

    rewrite(folder, spoilt)
    report = minitrans.BertForMaskedLM.from_pretrained(folder).load_report
    assert "cls.predictions.decoder.weight" in report.not_finite


# What the index of shards says


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_the_index_decides_where_a_tensor_lies(suffix, tmp_path, caplog):
    theirs = reference("BertModel")
    theirs.config.save_pretrained(tmp_path)
    state, stem = theirs.state_dict(), "model" if suffix == ".safetensors" else "pytorch_model"
    files = [f"{stem}-{number}{suffix}" for number in range(3)]
    place = {name: files[index % 3] for index, name in enumerate(state)}
    twice = [name for name in state if place[name] != files[2]][:3]
    for file in files:
        part = {name: tensor.clone() for name, tensor in state.items() if place[name] == file}
        if file == files[2]:
            part |= {name: torch.full_like(state[name], 9.0) for name in twice}
            part |= {"stranger": torch.ones(2), "embeddings.position_ids": torch.arange(24)[None]}
        save_file(part, tmp_path / file, {"format": "pt"}) if suffix == ".safetensors" else torch.save(
            part, tmp_path / file
        )
    index = tmp_path / (f"{stem}{suffix}.index.json")
    index.write_text(json.dumps({"weight_map": {**place, "absent": files[0]}}))
    model, report = minitrans.BertModel.from_pretrained(tmp_path, output_loading_info=True)
    same_numbers(model, theirs)
    expected = [*(f"{name} in {files[2]}" for name in twice), f"stranger in {files[2]}", "absent in none"]
    assert report.misplaced == sorted(expected)
    assert report.needs_attention
    assert all(line in warnings_of(caplog)[0] for line in expected)
    index.write_text(json.dumps({"weight_map": {**place, twice[0]: files[1 - files.index(place[twice[0]])]}}))
    with pytest.raises(ValueError, match=f"The index says that {twice[0]} is in") as caught:
        minitrans.BertModel.from_pretrained(tmp_path)
    one_sentence(caught.value)
    index.write_text(json.dumps({"weight_map": {name: file for name, file in place.items() if name != twice[0]}}))
    _, report = minitrans.BertModel.from_pretrained(tmp_path, output_loading_info=True)
    assert report.missing == [twice[0]]  # what the index leaves out is used by nobody
    assert f"{twice[0]} in {files[2]}" in report.misplaced


@pytest.mark.parametrize("old", ["gamma", "beta"])
def test_an_old_spelling_beside_the_new_one_is_said(old, folder):
    new = {"gamma": "weight", "beta": "bias"}[old]
    stem = "bert.encoder.layer.0.output.LayerNorm"
    rewrite(folder, lambda state: {**state, f"{stem}.{old}": torch.randn(32)})
    model, report = minitrans.BertForMaskedLM.from_pretrained(folder, output_loading_info=True)
    assert report.unexpected == [f"{stem}.{old}"]
    assert report.sources[f"bert.layers.0.norm.{new}"] == f"{stem}.{new}"
    same_numbers(model, reference("BertForMaskedLM"))


# Saving is atomic


def test_a_failing_save_leaves_the_old_files(folder, monkeypatch):
    import safetensors.torch

    model = minitrans.BertForMaskedLM.from_pretrained(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full_disk(state: Any, path: Path, **options: Any) -> None:
        path.write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", full_disk)
    with torch.no_grad():
        model.get_input_embeddings().weight.zero_()
    with pytest.raises(OSError, match="No space left"):
        model.save_pretrained(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    with pytest.raises(OSError, match="No space left"):
        model.save_pretrained(folder.parent / "new" / "folder")
    assert not (folder.parent / "new" / "folder").exists()


@pytest.mark.parametrize("moment", ["safetensors.torch.save_file", "os.fsync", "os.replace"])
def test_a_killed_save_leaves_whole_files(moment, folder):
    """Killed after it wrote a file, flushed one, or put the first of two in its place."""
    before = load_file(folder / MODEL)
    model = minitrans.BertForMaskedLM.from_pretrained(folder, hidden_dropout_prob=0.25)
    with torch.no_grad():
        model.get_input_embeddings().weight.zero_()
    module, function = moment.rsplit(".", 1)
    original = getattr(sys.modules[module], function)

    def killed(*arguments: Any, **options: Any) -> None:
        original(*arguments, **options)
        os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        setattr(sys.modules[module], function, killed)
        try:
            model.save_pretrained(folder)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    after = load_file(folder / MODEL)
    assert all(torch.equal(after[key], before[key]) for key in before)
    minitrans.BertForMaskedLM.from_pretrained(folder, strict=True)


def test_saving_over_what_was_loaded(folder):
    model = minitrans.BertForMaskedLM.from_pretrained(folder)
    with torch.no_grad():
        model.get_input_embeddings().weight.add_(1)
    model.save_pretrained(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", MODEL]
    again = minitrans.BertForMaskedLM.from_pretrained(folder, strict=True)
    assert torch.equal(again.get_input_embeddings().weight, model.get_input_embeddings().weight)
    (folder.parent / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        model.save_pretrained(folder.parent / "file")


# Memory

MEASURE = """
import sys, threading, torch, minitrans
from minitrans.models import bert
def memory(field):
    lines = open("/proc/self/status").read().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) * 1024
anonymous, done = [memory("RssAnon")], threading.Event()
def watch():
    while not done.wait(0.001):
        anonymous.append(memory("RssAnon"))
sys.setswitchinterval(1e-4)
watcher = threading.Thread(target=watch)
watcher.start()
before = memory("VmRSS")
model = minitrans.AutoModelForMaskedLM.from_pretrained(sys.argv[1], dtype=sys.argv[2])
done.set()
watcher.join()
model = sum(p.numel() * p.element_size() for p in model.parameters())
print(max(anonymous) - anonymous[0], memory("VmHWM") - before, model)
"""
WORDS = 20000


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> Path:
    """About 100 MB of weights, a third of them word vectors."""
    folder = tmp_path_factory.mktemp("large")
    config = minitrans.BertConfig(
        vocab_size=WORDS, hidden_size=384, num_hidden_layers=10, num_attention_heads=6, intermediate_size=1536
    )
    minitrans.BertForMaskedLM(config).save_pretrained(folder)
    torch.save(load_file(folder / MODEL), folder / "pytorch_model.bin")
    return folder


@pytest.mark.parametrize(
    ("file", "dtype"), [(MODEL, "float32"), (MODEL, "bfloat16"), ("pytorch_model.bin", "float32")]
)
def test_never_two_copies_of_the_weights(file, dtype, large, tmp_path):
    """The peak while loading is the model and its largest tensor; pages of a mapped pickle are the file's own."""
    for name in ("config.json", file):
        (tmp_path / name).symlink_to(large / name)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path), dtype], capture_output=True, text=True, check=True
    )
    anonymous, everything, model = (int(word) for word in done.stdout.split())
    assert model > (100e6 if dtype == "float32" else 50e6)
    peak = everything if file == MODEL else anonymous
    assert 0.9 * model < peak < model + WORDS * 384 * 4 + 30e6, f"{peak / 1e6:.0f} MB for {model / 1e6:.0f} MB"


def test_models_of_the_users_own(tmp_path, monkeypatch):
    monkeypatch.setattr(minitrans.auto, "CONFIGS", {})
    monkeypatch.setattr(minitrans.AutoModel, "registered", {})

    class MineConfig(minitrans.BertConfig):
        model_type = "mine"

    class MineModel(minitrans.BertModel):
        config_class = MineConfig

    minitrans.AutoConfig.register("mine", MineConfig)
    minitrans.AutoModel.register(MineConfig, MineModel)
    shape = {"vocab_size": 9, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = minitrans.AutoModel.from_config(MineConfig(**shape, intermediate_size=8))
    assert type(model) is MineModel
    model.save_pretrained(tmp_path)
    assert type(minitrans.AutoModel.from_pretrained(tmp_path)) is MineModel
    with pytest.raises(ValueError, match="exist_ok=True"):
        minitrans.AutoModel.register(MineConfig, MineModel)
    minitrans.AutoModel.register(MineConfig, MineModel, exist_ok=True)
    with pytest.raises(ValueError, match="has the config_class BertConfig, not MineConfig"):
        minitrans.AutoModel.register(MineConfig, minitrans.BertModel)
    with pytest.raises(ValueError, match="exist_ok=True"):
        minitrans.AutoModel.register(minitrans.BertConfig, minitrans.BertModel)


@pytest.mark.parametrize("name", ["BertForMaskedLM", "DistilBertForMaskedLM", "SwinModel", "Wav2Vec2ForCTC"])
def test_each_file_is_opened_and_each_tensor_read_once(name, tmp_path, monkeypatch):
    families.make(minitrans, name).save_pretrained(tmp_path, max_shard_size="40KB")
    opened, read = [], []
    start, fill = weights.OpenFile.__init__, weights.SafetensorsCheckpoint._fill

    def opening(file: Any, path: Path) -> None:
        opened.append(path.name)
        start(file, path)

    def filling(checkpoint: Any, tensor: str, destination: Tensor) -> None:
        read.append(tensor)
        fill(checkpoint, tensor, destination)

    monkeypatch.setattr(weights.OpenFile, "__init__", opening)
    monkeypatch.setattr(weights.SafetensorsCheckpoint, "_fill", filling)
    model = getattr(minitrans, name).from_pretrained(tmp_path)
    assert sorted(opened) == sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert len(opened) > 1
    assert sorted(read) == sorted(model.published_state_dict())
