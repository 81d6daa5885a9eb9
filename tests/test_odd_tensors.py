"""Tensors that are no numbers in memory, one after the other, are no weights: neither loaded nor saved."""

import families
import pytest
import torch
import torch.distributed as distributed
from safetensors.torch import load_file, save_file
from torch._subclasses import FakeTensorMode
from torch.ao.nn.quantized.dynamic import Linear as QuantisedLinear
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, distribute_tensor

import minitrans

NAMES = {
    "BertForSequenceClassification": "bert.encoder.layer.1.intermediate.dense.weight",
    "DistilBertForMaskedLM": "distilbert.transformer.layer.0.ffn.lin1.weight",
    "SwinForImageClassification": "swin.encoder.layers.1.blocks.0.intermediate.dense.weight",
    "Wav2Vec2ForCTC": "wav2vec2.encoder.layers.1.feed_forward.intermediate_dense.weight",
}


class Wrapped(torch.Tensor):
    """What torchao, FSDP and others have: a tensor class of their own."""


def per_channel(x):
    zeros = torch.zeros(len(x))
    return torch.quantize_per_channel(x, zeros + 0.1, zeros.int(), 0, torch.qint8)


@pytest.fixture(scope="module", autouse=True)
def _process_group():
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def over_processes(x):
    return distribute_tensor(x, init_device_mesh("cpu", (1,)), [Replicate()])


ODD = {
    "sparse_coo": torch.Tensor.to_sparse,
    "sparse_csr": torch.Tensor.to_sparse_csr,
    "sparse_bsc": lambda x: x.to_sparse_bsc((2, 2)),
    "qint8": per_channel,
    "quint8": lambda x: torch.quantize_per_tensor(x, 0.1, 3, torch.quint8),
    "nested": lambda x: torch.nested.nested_tensor(list(x)),
    "NestedTensor": lambda x: torch.nested.nested_tensor(list(x), layout=torch.jagged),
    "meta": lambda x: x.to("meta"),
    "_mkldnn": torch.Tensor.to_mkldnn,
    "FakeTensor": lambda x: FakeTensorMode().from_tensor(x),
    "DTensor": over_processes,
    "Wrapped": lambda x: x.as_subclass(Wrapped),
    "int8": lambda x: x.to(torch.int8),
    "bool": torch.Tensor.bool,
    "float8_e4m3fn": lambda x: x.to(torch.float8_e4m3fn),
    "complex64": lambda x: x.to(torch.complex64),
    "ndarray": torch.Tensor.numpy,
    "list": torch.Tensor.tolist,
    "NoneType": lambda x: None,
}
UNFILED = {"_mkldnn", "FakeTensor", "Wrapped", "ndarray", "list", "NoneType"}  # torch writes or reads no such file


@pytest.fixture(params=NAMES)
def case(request):
    model = families.make(minitrans, request.param)
    return model, NAMES[request.param], {name: x.clone() for name, x in model.state_dict().items()}


def raises(action, *words):
    with pytest.raises(ValueError, match=".*".join(words)) as caught:
        action()
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(".")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ODD)
def test_they_are_no_weights(kind, case, tmp_path):
    model, name, state = case
    odd = {**state, name: ODD[kind](state[name])}
    words = f"holds {name} as {kind}, and the model has float32 there", "dense floats"
    raises(lambda: type(model).from_pretrained(None, config=model.config, state_dict=odd), "state_dict", *words)
    other = families.make(minitrans, type(model).__name__, seed=1)
    before = {key: x.clone() for key, x in other.state_dict().items()}
    for options in ({}, {"assign": True}, {"strict": False}):
        raises(lambda options=options: other.load_state_dict(odd, **options), "The state dict", *words)
    assert all(torch.equal(x, before[key]) for key, x in other.state_dict().items())
    if kind not in UNFILED:
        model.save_pretrained(tmp_path)
        (tmp_path / "model.safetensors").unlink()
        torch.save(odd, tmp_path / "pytorch_model.bin")
        raises(lambda: type(model).from_pretrained(tmp_path), r"pytorch_model\.bin", *words)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ODD)
def test_they_are_not_saved_and_what_was_there_stays(kind, case, tmp_path):
    model, name, state = case
    model.save_pretrained(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    words = f"{name} is {kind}", "dense tensors of floats", "quantised or sharded"
    raises(lambda: model.save_pretrained(tmp_path, state_dict={**state, name: ODD[kind](state[name])}), *words)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["sparse_coo", "DTensor", "Wrapped", "meta", "int8", "float8_e4m3fn"])
def test_a_model_that_has_one_is_not_saved(kind, case, tmp_path):
    model, name, state = case
    owner = model.get_submodule(name.rpartition(".")[0])
    del owner.weight
    owner.weight = torch.nn.Parameter(ODD[kind](state[name]), requires_grad=False)
    raises(lambda: model.save_pretrained(tmp_path / "new"), f"{name} is {kind}")
    assert not (tmp_path / "new").exists()


@pytest.mark.filterwarnings("ignore")
def test_a_module_that_keeps_its_weights_in_a_form_of_its_own_is_not_left_out(case, tmp_path):
    """torch's quantised layers have no parameters: only their state says what they hold."""
    model, name, _ = case
    place = name.removesuffix(".weight")
    owner, _, leaf = place.rpartition(".")
    layer = model.get_submodule(place)
    setattr(model.get_submodule(owner), leaf, QuantisedLinear(layer.in_features, layer.out_features))
    raises(lambda: model.save_pretrained(tmp_path / "new"), rf"{place}\.\S+ is \w+, and a checkpoint holds")
    assert not (tmp_path / "new").exists()


def test_the_like_can_fill_the_like(case, tmp_path):
    """Any floats fill floats, also of a model on the meta device; what is not used may be anything."""
    model, name, state = case
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        model.load_state_dict({**state, name: (state[name] + 1).to(dtype), "strange": None}, strict=False)
        assert torch.equal(model.state_dict()[name], (state[name] + 1).to(dtype).float())
    empty = families.make(minitrans, type(model).__name__).to("meta")
    empty.load_state_dict(state, assign=True)
    empty.save_pretrained(tmp_path)
    assert torch.equal(load_file(tmp_path / "model.safetensors")[name], state[name])
    whole = {**load_file(tmp_path / "model.safetensors"), "scales": torch.ones(3, dtype=torch.int8)}
    save_file(whole, tmp_path / "model.safetensors")
    assert type(model).from_pretrained(tmp_path).load_report.unexpected == ["scales"]
