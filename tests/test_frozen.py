"""`freeze()`: prepacked weights on a CPU; of CUDA graphs everything but the capture itself.

That is buckets, filling, the static forward pass, what comes out. In place of `cuda_graph` stands one that runs
the same computation, into the same memory each time, as a graph's replay does; the forward pass is shown to be free of
anything that depends on data by running it where data cannot be read.
"""

import copy
import inspect
import json
import pickle

import peft
import pytest
import torch
import transformers
from checkpoints import CLASSES, batch, pair, relative
from families import PUBLISHED, captured, flat, inputs_of, make, published_pair
from sentence_transformers import SentenceTransformer
from torch.testing import assert_close

import minitrans
from minitrans import cpu
from minitrans.audio_layers import Convolution
from minitrans.cli import main
from minitrans.cuda_graphs import FrozenModel, TextBucket, right_padded
from minitrans.frozen import PrepackedModel
from minitrans.layers import QueryKeyValue
from minitrans.sequences import Sequences

SWIN = {"image_size": 32, "embed_dim": 12, "depths": [2, 2], "num_heads": [2, 4], "window_size": 3}
WAV2VEC2 = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 20, "conv_dim": (8, 8),
    "conv_kernel": (10, 3), "conv_stride": (5, 2), "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2,
    "tdnn_dim": (8, 8), "tdnn_kernel": (3, 2), "tdnn_dilation": (1, 2), "xvector_output_dim": 6, "vocab_size": 12,
    "mask_time_prob": 0.0,
}  # fmt: skip
OTHERS = [("SwinForImageClassification", SWIN), ("SwinForMaskedImageModeling", {**SWIN, "encoder_stride": 8}),
          ("Wav2Vec2Model", WAV2VEC2), ("Wav2Vec2ForCTC", WAV2VEC2), ("Wav2Vec2ForXVector", WAV2VEC2)]  # fmt: skip
NAMES = ["BertModel", "DistilBertModel"]
SHAPES = [(1, 4), (1, 24), (4, 8), (4, 24)]


@pytest.fixture(params=[True, False], ids=["packed", "own order"])
def order(request, monkeypatch):
    """Both orders in which a frozen model may hold its weights, whatever this CPU is."""
    monkeypatch.setattr(cpu, "gains_packed", lambda dtype, inputs: request.param)


@pytest.mark.usefixtures("order")
@pytest.mark.parametrize("name", CLASSES)
def test_prepacked_text_models_give_the_numbers_of_transformers(name, tmp_path):
    theirs, ours = pair(name, tmp_path)
    given = batch(theirs, (3, 4, 9) if name.endswith("MultipleChoice") else (3, 9), padded=False)
    subject = ours.freeze()
    assert isinstance(subject, PrepackedModel)
    expected, found = theirs(**given.inputs), subject(**given.inputs)
    assert type(found) is type(ours(**given.inputs))
    for key, value in found.items():
        assert relative(value, expected[key]) < 1e-5
        assert not value.requires_grad


@pytest.mark.usefixtures("order")
@pytest.mark.parametrize(("name", "values"), OTHERS, ids=[name for name, _ in OTHERS])
def test_prepacked_models_of_images_and_sound(name, values, tmp_path):
    torch.manual_seed(0)
    family = name.split("For")[0].removesuffix("Model")
    theirs = getattr(transformers, name)(getattr(transformers, f"{family}Config")(**values)).eval()
    theirs.save_pretrained(tmp_path)
    x = torch.randn(2, 3, 32, 32) if family == "Swin" else torch.randn(2, 400)
    with torch.no_grad():
        expected = theirs(x)
    found = getattr(minitrans, name).from_pretrained(tmp_path).freeze()(x)
    for key in found:
        assert relative(found[key], expected[key]) < 2e-5


def test_a_prepacked_backbone(tmp_path):
    torch.manual_seed(0)
    transformers.SwinModel(transformers.SwinConfig(**SWIN)).save_pretrained(tmp_path)
    ours = minitrans.AutoBackbone.from_pretrained(tmp_path, out_indices=(0, 2))
    x = torch.randn(1, 3, 30, 41)
    assert_close(ours.freeze()(x).feature_maps, ours(x).feature_maps)


@pytest.mark.usefixtures("order")
def test_a_prepacked_model_is_a_copy_that_any_caller_can_use(tmp_path):
    _, ours = pair("BertForMaskedLM", tmp_path)
    given = batch(ours, (2, 7))
    state = {path: x.clone() for path, x in ours.state_dict().items()}
    subject = ours.freeze()
    before = subject(**given.inputs).logits
    assert_close(ours.state_dict(), state)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(1.0)
    assert torch.equal(subject(**given.inputs).logits, before)
    with minitrans.engine("triton"):  # there is no kernel for prepacked weights
        assert torch.equal(subject(**given.inputs).logits, before)
    ours.engine = "triton"
    with pytest.raises(RuntimeError, match="The triton engine was asked for"):
        ours(**given.inputs)
    assert torch.isfinite(ours.freeze()(**given.inputs).logits).all()
    with torch.autocast("cpu", torch.bfloat16):  # no prepacked product either
        assert relative(subject(**given.inputs).logits, before) < 3e-2
    vectors = torch.randn(2, 7, 32, requires_grad=True)
    assert not subject(inputs_embeds=vectors).logits.requires_grad
    with pytest.raises(ValueError, match="input_ids holds 97"):
        subject(torch.tensor([[5, 97]]))


def frozen(model, shapes=SHAPES):
    return FrozenModel(model, shapes, captured)


def buckets_used(subject):
    """The shapes of the buckets that answer from here on."""
    used = []

    def watched(shape, run):
        def again():
            used.append(shape)
            return run()

        return again

    for bucket in subject.buckets:
        bucket.run = watched(bucket.shape, bucket.run)
    return used


@pytest.mark.parametrize("name", NAMES)
def test_the_numbers_of_transformers_in_the_smallest_bucket(name, tmp_path):
    theirs, ours = pair(name, tmp_path)
    subject = frozen(ours)
    used = buckets_used(subject)
    for shape in [(1, 3), (1, 4), (1, 5), (2, 8), (4, 24), (3, 9), (1, 24)]:
        given = batch(theirs, shape, seed=sum(shape))
        with torch.no_grad():
            expected = theirs(**given.inputs)
        found = subject(**given.inputs)
        hidden = expected.last_hidden_state * given.mask[..., None]
        assert relative(found.last_hidden_state, hidden) < 1e-5
        assert (found.last_hidden_state[given.mask == 0] == 0).all()
        if "pooler_output" in found:
            assert relative(found.pooler_output, expected.pooler_output) < 1e-5
        assert type(found) is type(ours(**given.inputs))
    assert used == [(1, 4), (1, 4), (1, 24), (4, 8), (4, 24), (4, 24), (1, 24)]


@pytest.mark.parametrize("name", NAMES)
def test_an_answer_does_not_depend_on_what_was_asked_before_and_is_the_callers(name, tmp_path):
    _, ours = pair(name, tmp_path)
    subject = frozen(ours, [(4, 24)])
    short, long = batch(ours, (1, 3), seed=1), batch(ours, (4, 24), seed=2)
    first = subject(**short.inputs)
    kept = first.last_hidden_state.clone()
    subject(**long.inputs)
    assert torch.equal(first.last_hidden_state, kept)
    assert torch.equal(subject(**short.inputs).last_hidden_state, kept)
    types = {"input_ids": short.inputs["input_ids"]}
    assert_close(subject(**types).last_hidden_state, ours(**types).last_hidden_state)


@pytest.mark.parametrize("change", ["longer", "more", "left", "hole", "vectors", "attentions", "positions"])
def test_other_inputs_are_the_models(change, tmp_path):
    _, ours = pair("BertModel", tmp_path)
    subject = frozen(ours, [(2, 8)])
    used = buckets_used(subject)
    shape = {"longer": (2, 9), "more": (3, 8)}.get(change, (2, 8))
    inputs = batch(ours, shape, padded=False).inputs
    if change == "left":
        inputs["attention_mask"][0, :2] = 0
    if change == "hole":
        inputs["attention_mask"][0, 3] = 0
    if change == "vectors":
        inputs = {"input_ids": None, "inputs_embeds": torch.randn(2, 8, 32)}
    if change == "attentions":
        inputs["output_attentions"] = True
    if change == "positions":
        inputs["position_ids"] = torch.arange(8).flip(0)[None]
    found, expected = subject(**inputs), ours(**inputs)
    assert used == []
    assert found.keys() == expected.keys()
    assert torch.equal(found.last_hidden_state, expected.last_hidden_state)


def test_any_padding_on_the_right_is_seen():
    def lengths(rows):
        mask = torch.tensor(rows)
        return right_padded(mask.shape, mask)

    assert lengths([[1, 1, 0], [1, 0, 0], [1, 1, 1]]) == [2, 1, 3]
    assert lengths([[True, False]]) == [1]
    for wrong in ([[0, 1]], [[1, 0, 1]], [[1, 1], [0, 0]], [[2, 1]], [[0.0, -1e4]]):
        assert lengths(wrong) is None
    assert right_padded(torch.Size((2, 3)), None) == [3, 3]
    assert right_padded(torch.Size((2, 3)), torch.ones(2, 4)) is None


@pytest.mark.parametrize("name", NAMES)
def test_weights_that_change_in_place_are_seen(name, tmp_path):
    _, ours = pair(name, tmp_path)
    subject, given = frozen(ours), batch(ours, (2, 7))
    before = subject(**given.inputs).last_hidden_state
    ours.load_state_dict({path: x + 0.1 for path, x in ours.state_dict().items()})
    after = subject(**given.inputs).last_hidden_state
    assert relative(after, before) > 1e-3
    assert_close(after, ours(**given.inputs).last_hidden_state)


def test_what_is_refused(tmp_path):
    _, ours = pair("BertModel", tmp_path)
    subject = frozen(ours)
    with pytest.raises(ValueError, match=r"on 'meta' cannot be frozen"):
        minitrans.BertModel(ours.config).to("meta").freeze()
    for dtype in (torch.float16, torch.float64):
        with pytest.raises(ValueError, match=rf"its oneDNN has.*these are {str(dtype)[6:]} on 'cpu'"):
            minitrans.BertModel(ours.config).to(dtype).eval().freeze()
        with pytest.raises(ValueError, match="its oneDNN has"):
            ours.freeze(dtype)
    with pytest.raises(ValueError, match="dtype is 'quickest'"):
        ours.freeze("quickest")
    with pytest.raises(RuntimeError, match="training mode"):
        minitrans.BertModel(ours.config).train().freeze()
    with pytest.raises(ValueError, match="input_ids holds 97"):
        subject(torch.tensor([[5, 97]]))
    with pytest.raises(ValueError, match="token_type_ids holds 2"):
        subject(torch.tensor([[5, 6]]), token_type_ids=torch.tensor([[0, 2]]))
    with pytest.raises(ValueError, match="keeps no token"):
        subject(torch.tensor([[5, 6]]), torch.tensor([[0, 0]]))
    with pytest.raises(ValueError, match="attention_mask has the shape"):
        subject(torch.tensor([[5, 6]]), torch.ones(1, 3))
    with pytest.raises(ValueError, match="whole numbers"):
        subject(torch.tensor([[5.0, 6.0]]))
    with pytest.raises(TypeError, match="surprise"):
        subject(torch.tensor([[5, 6]]), surprise=torch.tensor([[5, 6]]))
    ours.train()
    with pytest.raises(RuntimeError, match="training mode"):
        subject(torch.tensor([[5, 6]]))
    with pytest.raises(RuntimeError, match="training mode"):
        frozen(ours)
    ours.eval().double()
    with pytest.raises(RuntimeError, match="moved since it was frozen"):
        subject(torch.tensor([[5, 6]]))


@pytest.mark.parametrize("name", NAMES)
def test_the_static_forward_reads_nothing_back(name, tmp_path):
    """On the meta device nothing can be read: a forward pass that runs there waits for nothing."""
    _, ours = pair(name, tmp_path)
    ours.to("meta")
    bucket = TextBucket(ours, 3, 8)
    assert bucket.compute().last_hidden_state.shape == (3, 8, 32)
    with pytest.raises((NotImplementedError, RuntimeError), match="meta"):  # with a mask, its values count
        ours(bucket.inputs["input_ids"], torch.ones(3, 8, device="meta"))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("side", ["right", "left"])
def test_a_mask_on_the_cpu_costs_no_synchronisation(name, side, tmp_path):
    _, ours = pair(name, tmp_path)
    given = batch(ours, (3, 9))
    mask = given.mask if side == "right" else given.mask.flip(1)
    expected = ours(**given.inputs).last_hidden_state
    inputs = {key: x.to("meta") for key, x in given.inputs.items()}
    found = ours.to("meta")(**{**inputs, "attention_mask": mask})
    assert found.last_hidden_state.shape == expected.shape
    with pytest.raises((NotImplementedError, RuntimeError), match="meta"):
        ours(**inputs)


def test_the_padded_layout_unpacks_to_zeros():
    lengths = torch.tensor([2, 3], dtype=torch.int32)
    sequences = Sequences.padded(lengths, 3)
    rows = torch.full((6, 2), torch.inf)
    rows[[0, 1, 3, 4, 5]] = 1
    assert sequences.unpack(rows).tolist() == [[[1, 1], [1, 1], [0, 0]], [[1, 1]] * 3]
    rows[2] = 0
    assert_close(sequences.mean(rows), torch.ones(2, 2))
    assert sequences.starts.tolist() == [0, 3]


# A module like any other


# What this CPU's oneDNN computes in.
DTYPES = [dtype for dtype in (torch.float32, torch.bfloat16) if cpu.packs(dtype)]
# The largest relative difference from the model's own outputs in float32, ‖difference‖ / ‖output‖.
BUDGET = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


def distance(found, expected):
    """‖found − expected‖ / ‖expected‖ of the numbers of an output, without those that stand for padding."""
    real = expected > -1e30
    assert ((found > -1e30) == real).all()
    return float((found[real] - expected[real]).norm() / expected[real].norm())


@pytest.mark.usefixtures("order")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_frozen_model_is_asked_as_the_model_itself(name, dtype):
    model, x = make(minitrans, name), inputs_of(name)
    frozen = model.freeze(dtype)
    state = model.to(dtype).state_dict()  # the copy was made before
    model = make(minitrans, name)
    with torch.no_grad():
        expected = flat(model(**x))
        found = flat(frozen(**x))
        assert distance(found, expected) <= BUDGET[dtype]
        assert found.dtype == torch.float32
        for copied in (pickle.loads(pickle.dumps(frozen)), copy.deepcopy(frozen), frozen.to("cpu"), frozen.eval()):
            assert torch.equal(flat(copied(**x)), found)
        assert torch.equal(flat(frozen(*x.values(), return_dict=False)), found)
        exact = {key: value.to(dtype) if value.is_floating_point() else value for key, value in x.items()}
        assert distance(flat(frozen(**exact)), expected) <= BUDGET[dtype]
    assert isinstance(frozen, torch.nn.Module)
    assert (frozen.config.to_dict(), frozen.device, frozen.dtype) == (model.config.to_dict(), model.device, dtype)
    assert inspect.signature(frozen.forward) == inspect.signature(model.forward)
    assert list(frozen.state_dict()) == list(model.state_dict())
    for key, tensor in frozen.state_dict().items():
        assert torch.equal(tensor, state[key]), key
        assert tensor.is_contiguous(), key
    thawed = frozen.thawed()
    assert [key for key, _ in thawed.named_parameters()] == [key for key, _ in model.named_parameters()]
    assert {parameter.dtype for parameter in thawed.parameters()} == {dtype}
    for key, parameter in thawed.named_parameters():  # which a file, or an optimiser, takes by itself
        assert parameter.untyped_storage().nbytes() == parameter.numel() * parameter.itemsize, key
    assert not any(tensor.requires_grad for tensor in torch.utils._pytree.tree_leaves(frozen(**x)))
    assert frozen.freeze() is frozen.freeze(dtype) is frozen.freeze(str(dtype)[6:]) is frozen


@pytest.mark.usefixtures("order")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", PUBLISHED)
def test_hooks_on_a_frozen_model_count_or_are_refused(name, dtype):
    frozen, x = make(minitrans, name).freeze(dtype), inputs_of(name)
    expected = flat(frozen(**x))
    joined = [path for path, module in frozen.named_modules() if isinstance(module, QueryKeyValue)]
    seen = []
    hook = frozen.register_forward_hook(lambda _, inputs, output: seen.append(output))
    inner = frozen.get_submodule(joined[0]).register_forward_hook(lambda _, inputs, output: seen.append(output))
    assert distance(flat(frozen(**x)), expected) <= BUDGET[dtype]
    assert {x.dtype for x in torch.utils._pytree.tree_leaves(seen[0])} == {dtype}
    assert len(seen) == 2
    hook.remove()
    inner.remove()
    part = frozen.get_submodule(joined[0]).layers()[1].register_forward_hook(lambda *_: None)
    with pytest.raises(RuntimeError, match=r"queries, keys or values.*one product"):
        frozen(**x)
    with pytest.raises(RuntimeError, match="one product"):
        frozen.encode(**x)
    part.remove()
    assert torch.equal(flat(frozen(**x)), expected)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*deprecated:DeprecationWarning")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", PUBLISHED)
def test_what_a_frozen_model_of_any_class_refuses(name, dtype, tmp_path):
    frozen, x = make(minitrans, name).freeze(dtype), inputs_of(name)
    expected = flat(frozen(**x))
    other = DTYPES[0] if dtype == DTYPES[-1] else DTYPES[-1]
    attempts = [
        (frozen.train, "only evaluates"),
        (frozen.double, "freeze it again"),
        (lambda: frozen.load_state_dict({}), "stay as they are"),
        (lambda: frozen.load_adapter(tmp_path), r"call load_adapter of the model.*thawed"),
        (lambda: frozen.gradient_checkpointing_enable(), "freeze it again"),
        (lambda: torch.export.export(frozen, (), x), r"neither compiled nor exported.*thawed"),
        (lambda: torch.jit.trace(frozen, example_kwarg_inputs=x, strict=False), "neither compiled nor exported"),
        (lambda: torch.compile(frozen, backend="eager")(**x), "neither compiled nor exported"),
    ]
    if other != dtype:
        attempts += [(lambda: frozen.freeze(other), "freeze the model itself"), (lambda: frozen.to(other), "again")]
    for attempt, words in attempts:
        with pytest.raises(RuntimeError, match=words):
            attempt()
    assert torch.equal(flat(frozen(**x)), expected)
    # What it refuses, the thawed one does.
    thawed = frozen.thawed().train()
    loss = flat(thawed(**{key: value.to(dtype) if value.is_floating_point() else value for key, value in x.items()}))
    loss[loss > -1e30].float().square().mean().backward()
    assert any(parameter.grad is not None for parameter in thawed.parameters())


@pytest.mark.parametrize("name", ["BertModel", "DistilBertModel", "SwinModel", "SwinBackbone", "Wav2Vec2Model",
                                  "BertForMultipleChoice", "Wav2Vec2ForCTC"])  # fmt: skip
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_fastest_dtype_is_the_cpus_and_says_what_it_costs(name, dtype, monkeypatch, caplog):
    monkeypatch.setattr(cpu, "this_cpu", lambda: cpu.Cpu("", True, dtype == torch.bfloat16, False))
    model = make(minitrans, name)
    frozen = model.freeze("fastest")
    assert frozen.dtype == dtype
    assert frozen.error <= BUDGET[dtype]
    assert (frozen.error > 1e-4) == (dtype == torch.bfloat16)
    assert [record.getMessage() for record in caplog.records] == [
        f"Frozen in {str(dtype)[6:]}: on a random sample {frozen.error:.1e} from float32."
    ]
    assert model.freeze("fastest").error == frozen.error
    assert model.freeze().error is None
    # Of a model that is not in float32, the error is from what it would be there.
    assert model.to(DTYPES[-1]).freeze("fastest").error <= BUDGET[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["BertModel", "DistilBertModel"])
def test_what_the_fastest_dtype_costs_is_measured_within_few_positions(name, dtype, monkeypatch):
    monkeypatch.setattr(cpu, "this_cpu", lambda: cpu.Cpu("", True, dtype == torch.bfloat16, False))
    error = make(minitrans, name, max_position_embeddings=5).freeze("fastest").error
    assert error <= BUDGET[dtype]
    assert (error > 1e-4) == (dtype == torch.bfloat16)


# What the error is measured on: two texts, an image as the configuration has it, a second of sound.
SAMPLES = [("BertModel", {"max_position_embeddings": 33}, (2, 32)), ("DistilBertModel", {}, (2, 32)),
           ("BertForMaskedLM", {"max_position_embeddings": 5}, (2, 5)),
           ("SwinModel", {"image_size": [24, 32], "num_channels": 2}, (1, 2, 24, 32)),
           ("Wav2Vec2ForCTC", {}, (1, 16_000))]  # fmt: skip


@pytest.mark.parametrize(("name", "values", "shape"), SAMPLES, ids=[name for name, *_ in SAMPLES])
def test_the_sample_on_which_the_error_is_measured(name, values, shape, monkeypatch):
    monkeypatch.setattr(cpu, "this_cpu", lambda: cpu.Cpu("", True, False, False))
    model, seen = make(minitrans, name, **values), []
    model.base_model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model.freeze("fastest")
    assert {tuple(x.shape) for x in seen} == {shape}
    assert all(torch.equal(x, seen[0]) for x in seen)
    assert len(seen[0].unique()) > 5


@pytest.mark.usefixtures("order")
def test_modes_and_engines_of_a_frozen_model_and_of_a_thawed_one():
    model = make(minitrans, "BertForMaskedLM")
    frozen = model.freeze()
    assert frozen.train(False) is frozen.eval() is frozen
    assert not any(module.training for module in frozen.modules())
    assert (frozen.engine, frozen.thawed().engine, model.engine) == ("plain", "auto", "auto")


@pytest.mark.usefixtures("order")
def test_the_model_that_is_frozen_in_another_dtype_stays_as_it_was(tmp_path):
    _, ours = pair("BertForMaskedLM", tmp_path)
    given = batch(ours, (2, 7))
    state = {path: x.clone() for path, x in ours.state_dict().items()}
    for dtype in DTYPES:
        frozen = ours.freeze(dtype)
        assert frozen.predictions.decoder.weight is frozen.bert.embeddings.word.weight  # still tied
        frozen(**given.inputs)
        frozen.save_pretrained(tmp_path / "frozen")
        again = minitrans.BertForMaskedLM.from_pretrained(tmp_path / "frozen", dtype="auto")
        assert again.dtype == dtype
        assert_close(again.state_dict(), {path: x.to(dtype) for path, x in state.items()}, rtol=0, atol=0)
        assert torch.equal(again.freeze()(**given.inputs).logits, frozen(**given.inputs).logits)
    assert all(torch.equal(x, state[path]) for path, x in ours.state_dict().items())


@pytest.mark.usefixtures("order")
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_frozen_model_of_sound_relies_on_its_weights_and_a_thawed_one_does_not(dtype, tmp_path):
    theirs, model = published_pair("Wav2Vec2Model", tmp_path)
    model, x = model.to(dtype), inputs_of("Wav2Vec2Model")
    given = {key: value.to(dtype) for key, value in x.items()}
    with torch.no_grad():
        model(**given)  # it keeps filters of weights that are not these any more when it is frozen
        model.positions.weight.original0.mul_(-20)
        theirs.load_state_dict(model.state_dict())
        expected = model(**given).last_hidden_state
        assert distance(expected.float(), theirs(**x).last_hidden_state) <= BUDGET[dtype]
        frozen = model.freeze()
        assert distance(frozen(**x).last_hidden_state, expected.float()) <= BUDGET[dtype] / 2
        thawed = frozen.thawed()
        # Frozen, a filter lies tap after tap, as it is read.
        for subject, lies in ((frozen.model, True), (thawed, False), (model, False)):
            filters = [module.weight for module in subject.modules() if isinstance(module, Convolution)]
            assert [filter.mT.is_contiguous() for filter in filters] == [True, lies, lies]  # the first has one channel
        assert torch.equal(thawed(**given).last_hidden_state, expected)
        thawed.positions.weight.original0.mul_(-1)
        assert distance(thawed(**given).last_hidden_state, expected) > 2 * BUDGET[dtype]


@pytest.mark.usefixtures("order")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("name", "targets"),
    [
        ("BertForSequenceClassification", ["query", "dense"]),
        ("DistilBertModel", ["q_lin", "lin2"]),
        ("SwinModel", ["value", "dense"]),
        ("Wav2Vec2ForCTC", ["q_proj", "out_proj", "lm_head"]),
    ],
)
def test_adapters_before_it_is_frozen_and_not_after(name, targets, dtype):
    config = peft.LoraConfig(target_modules=targets, init_lora_weights=False)
    model, x = make(minitrans, name), inputs_of(name)
    with torch.no_grad():
        without = flat(model(**x))
        peft.get_peft_model(model, config)  # into the model itself
        expected = flat(model.eval()(**x))
        assert distance(flat(model.freeze(dtype)(**x)), expected) <= BUDGET[dtype] < distance(without, expected)
    with pytest.raises(AttributeError, match="weight"):
        peft.get_peft_model(make(minitrans, name).freeze(dtype), config)


def test_a_cpu_without_bfloat16_refuses_it(monkeypatch):
    monkeypatch.setattr(cpu, "packs", lambda dtype: dtype == torch.float32)
    with pytest.raises(ValueError, match="its oneDNN has, here float32; these are bfloat16"):
        make(minitrans, "BertModel").freeze("bfloat16")


@pytest.mark.usefixtures("order")
def test_a_frozen_model_is_saved_as_the_model(tmp_path):
    theirs, ours = pair("BertForSequenceClassification", tmp_path / "model")
    given = batch(ours, (2, 7))
    ours.freeze().save_pretrained(tmp_path / "frozen")
    for library in (minitrans, transformers):
        again = library.BertForSequenceClassification.from_pretrained(tmp_path / "frozen").eval()
        with torch.no_grad():
            assert relative(again(**given.inputs).logits, theirs(**given.inputs).logits) <= 1e-5


def test_what_a_frozen_model_refuses(tmp_path):
    _, ours = pair("BertModel", tmp_path)
    frozen = ours.freeze()
    for attempt, words in (
        (frozen.train, "only evaluates"),
        (frozen.half, r"frozen in torch\.float32 on 'cpu' stays there"),
        (lambda: frozen.to(torch.bfloat16), "freeze it again"),
        (lambda: frozen.to("meta"), "freeze it again"),
        (lambda: frozen.load_state_dict(ours.state_dict()), "stay as they are"),
        (ours.train().freeze, "in training mode"),
    ):
        with pytest.raises(RuntimeError, match=words):
            attempt()


def test_frozen_models_in_tasks_and_sentence_transformers(minilm):
    texts = ["A short text.", "Another one, which is a little longer than the first."]
    expected = minitrans.Embedder.from_pretrained(minilm).encode(texts)
    task = minitrans.Embedder.from_pretrained(minilm, frozen=True)
    tokenizer = minitrans.AutoTokenizer.from_pretrained(minilm)
    model = minitrans.AutoModel.from_pretrained(minilm)
    own = minitrans.Embedder(model.freeze(), tokenizer, normalize=True)
    for embedder in (task, own, pickle.loads(pickle.dumps(task))):
        assert abs(embedder.encode(texts) - expected).max() <= 1e-5
    theirs = SentenceTransformer(str(minilm), device="cpu")
    theirs[0].auto_model = model.freeze()
    assert abs(theirs.encode(texts) - expected).max() <= 1e-5


def test_frozen_dtypes_in_tasks_and_on_the_command_line(minilm, tmp_path, capsys):
    texts = ["A short text.", "Another one, which is a little longer than the first.", "bread " * 90]
    expected = torch.tensor(minitrans.Embedder.from_pretrained(minilm).encode(texts))
    for dtype in (*DTYPES, "fastest"):
        embedder = minitrans.Embedder.from_pretrained(minilm, frozen=True, dtype=dtype)
        assert embedder.model.dtype in (DTYPES if dtype == "fastest" else [dtype])
        cosines = torch.cosine_similarity(torch.tensor(embedder.encode(texts)), expected)
        assert cosines.min() >= 0.9999
        name = str(dtype).removeprefix("torch.")
        assert main(["run", str(minilm), texts[1], "--json", "--frozen", "--dtype", name]) == 0
        vector = torch.tensor(json.loads(capsys.readouterr().out)["output"])
        assert torch.cosine_similarity(vector, expected[1], dim=0) >= 0.9999
    assert main(["run", str(minilm), texts[1], "--dtype", "fastest"]) == 1
    assert "dtype is 'fastest'" in capsys.readouterr().err


def test_the_command_line_freezes(tmp_path, capsys):
    make(minitrans, "BertForSequenceClassification", vocab_size=9).save_pretrained(tmp_path)
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nthe\nsun\nis\nhot\n")
    answers = []
    for options in ([], ["--frozen"]):
        assert main(["run", str(tmp_path), "the sun is hot", "--json", *options]) == 0
        answers.append(json.loads(capsys.readouterr().out))
    plain, frozen = (answer["output"] for answer in answers)
    assert [entry["label"] for entry in frozen] == [entry["label"] for entry in plain]
    assert [entry["score"] for entry in frozen] == pytest.approx([entry["score"] for entry in plain], abs=1e-5)
