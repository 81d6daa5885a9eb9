"""Every class as CUDA graphs but for the capture: in place of the GPU stands what runs the same computation."""

import re

import pytest
import torch
from families import PUBLISHED, captured, family_of, flat, inputs_of, make
from torch.testing import assert_close

import minitrans
from minitrans.audio_layers import FeatureEncoder
from minitrans.cuda_graphs import BUCKETS, FrozenModel
from minitrans.sequences import static_shapes, wants_static_shapes

MAIN = {"Swin": "pixel_values", "Wav2Vec2": "input_values"}
SHAPES = {"Swin": [(1, 1), (4, 1)], "Wav2Vec2": [(1, 1500), (4, 1500), (4, 3000)]}


def frozen(model, name):
    shapes = SHAPES.get(family_of(name), [(1, 7), (4, 7), (4, 20)])
    return FrozenModel(model, shapes, captured)


def used(subject):
    """The shapes of the buckets that answer from here on."""
    found = []
    for bucket in subject.buckets:
        bucket.run = lambda shape=bucket.shape, run=bucket.run: found.append(shape) or run()
    return found


def shorter(name, inputs, batch):
    """One, two or three of what a class takes, of another length each."""
    cut = {"Swin": slice(None)}.get(family_of(name), slice(-1))
    return {key: torch.cat([x] * 2)[:batch, ..., cut] for key, x in inputs.items()}


def kept(subject, inputs):
    """An answer, and a copy of what it was before others were asked for."""
    answer = subject(**inputs)
    was = flat(answer).clone()
    subject(**{key: x.flip(0) for key, x in inputs.items()})
    return answer, was


REFUSED = {"BertForMultipleChoice", "DistilBertForMultipleChoice", "Wav2Vec2ForPreTraining"}
CAPTURED = [name for name in PUBLISHED if name not in REFUSED]


@pytest.mark.parametrize("name", CAPTURED)
def test_every_class_gives_from_its_buckets_what_it_gives_itself(name):
    model, given = make(minitrans, name), inputs_of(name)
    subject = frozen(model, name)
    found = used(subject)
    for batch in (2, 1, 3):
        inputs = shorter(name, given, batch)
        with torch.no_grad():
            expected = model(**inputs)
        answer = subject(**inputs, return_dict=True)
        assert type(answer) is type(expected)
        assert answer.keys() == expected.keys()
        for key, tensor in expected.items():
            assert_close(answer[key], tensor, rtol=1e-4, atol=1e-5, msg=lambda text, key=key: f"{key}: {text}")
    assert len(found) == 3


@pytest.mark.parametrize("name", CAPTURED)
def test_an_answer_is_the_callers_and_no_later_call_changes_it(name):
    """Every output of every class, also where it fills its bucket, so that nothing is cut off it."""
    model, given = make(minitrans, name), inputs_of(name)
    shape = {"Swin": (2, 1)}.get(family_of(name), tuple(given[model.main_input_name].shape))
    answer, was = kept(FrozenModel(model, [shape], captured), given)
    assert torch.equal(flat(answer), was)
    answer, was = kept(frozen(model, name), given)
    assert torch.equal(flat(answer), was)


@pytest.mark.parametrize(("name", "words"), [(name, "choices|whole batch") for name in sorted(REFUSED)])
def test_what_has_no_place_in_a_bucket_is_refused(name, words):
    with pytest.raises(ValueError, match=words):
        frozen(make(minitrans, name), name)


@pytest.mark.parametrize("name", [name for name in CAPTURED if not name.startswith("Swin")])
def test_a_clip_or_text_in_a_larger_bucket(name):
    model, given = make(minitrans, name), inputs_of(name)
    main = MAIN.get(family_of(name), "input_ids")
    inputs = {main: given[main].repeat(1, 2)[:1, : (2000 if main == "input_values" else 9)]}
    if main == "input_values":
        inputs["attention_mask"] = torch.ones(1, 2000, dtype=torch.long)
        inputs["attention_mask"][0, 1700:] = 0
    subject = frozen(model, name)
    found = used(subject)
    with torch.no_grad():
        expected = model(**inputs)
    answer = subject(**inputs)
    for key, tensor in expected.items():
        assert_close(answer[key], tensor, rtol=1e-4, atol=1e-5, msg=lambda text, key=key: f"{key}: {text}")
    assert len(found) == 1


@pytest.mark.parametrize("name", CAPTURED)
def test_what_is_captured_reads_nothing_back(name):
    """On the meta device nothing can be read: a forward pass that runs there waits for nothing."""
    model = make(minitrans, name).to("meta")
    shape = SHAPES.get(family_of(name), [(3, 8)])[-1]
    bucket = BUCKETS[model.main_input_name](model, *shape)
    tensors = torch.utils._pytree.tree_leaves(tuple(bucket.compute().values()))
    assert all(tensor.device.type == "meta" for tensor in tensors)


@pytest.mark.parametrize("change", ["config", "hook", "asked", "size", "unknown", "mostly padding"])
def test_what_was_not_captured_is_the_models(change):
    name = "SwinModel" if change == "size" else "BertModel"
    model = make(minitrans, name)
    subject, given = frozen(model, name), inputs_of(name)
    found, seen = used(subject), []
    if change == "config":
        model.config.output_hidden_states = True
    if change == "hook":
        model.layers[0].register_forward_hook(lambda *arguments: seen.append(arguments))
    if change == "asked":
        given["output_attentions"] = True
    if change == "size":
        given["pixel_values"] = torch.randn(2, 3, 40, 32)
    if change == "unknown":
        with pytest.raises(TypeError, match="surprise"):
            subject(**given, surprise=torch.ones(1))
        return
    if change == "mostly padding":
        subject.buckets[0].pays = subject.buckets[1].pays = subject.buckets[2].pays = lambda lengths: False
    answer, expected = subject(**given), model(**given)
    assert found == []
    assert answer.keys() == expected.keys()
    assert_close(answer[0], expected[0].detach())
    assert bool(seen) == (change == "hook")


@pytest.mark.parametrize(
    ("name", "length"),
    [("Wav2Vec2Model", 40), ("Wav2Vec2Model", 59), ("Wav2Vec2ForCTC", 40), ("Wav2Vec2ForCTC", 80), ("BertModel", 1),
     ("BertForMaskedLM", 2)],
)  # fmt: skip
def test_a_bucket_of_one_frame_or_token(name, length):
    """40 samples make one frame; there is no shorter input to compare its outputs with."""
    model = make(minitrans, name)
    subject = FrozenModel(model, [(2, length)], captured)
    found = used(subject)
    shape = (1, min(length, 40) if "Wav2Vec2" in name else 1)
    x = torch.randn(shape) if "Wav2Vec2" in name else torch.full(shape, 7)
    assert_close(flat(subject(x)), flat(model(x)).detach(), rtol=1e-4, atol=1e-5)
    assert len(found) == 1


def test_a_mask_stays_where_it_is_when_the_model_answers():
    """On the CPU it can be read without a synchronisation; indices move to the model."""
    model = make(minitrans, "BertModel").to("meta")
    subject = FrozenModel(model, [(1, 4)], lambda compute: compute)
    mask = torch.tensor([[1, 1, 1, 0, 0, 0]])
    found = subject(torch.ones(1, 6, dtype=torch.long), attention_mask=mask)
    assert (found.last_hidden_state.shape, found.last_hidden_state.device.type) == ((1, 6, 32), "meta")


def test_large_batches_of_mostly_padding_are_packed():
    model = make(minitrans, "BertModel", max_position_embeddings=512)
    (bucket,) = FrozenModel(model, [(64, 256)], lambda compute: compute).buckets
    assert bucket.pays([256] * 64)
    assert not bucket.pays([100] * 64)
    assert FrozenModel(model, [(4, 256)], lambda compute: compute).buckets[0].pays([1] * 4)


@pytest.mark.parametrize(("name", "key"), [("BertModel", "input_ids"), ("DistilBertModel", "input_ids"),
                                           ("BertModel", "token_type_ids")])  # fmt: skip
def test_ids_without_a_row_and_training_are_refused(name, key):
    model = make(minitrans, name)
    subject, given = frozen(model, name), inputs_of(name)
    rows = {"input_ids": 60, "token_type_ids": 2}[key]
    for index in (rows - 1, 0):
        subject(**{**given, key: torch.full_like(given["input_ids"], index)})
    for index in (rows, -1):
        with pytest.raises(ValueError, match=rf"{key} holds {index}, outside the .* of {rows} rows"):
            subject(**{**given, key: torch.full_like(given["input_ids"], index)})
    model.train()
    with pytest.raises(RuntimeError, match=r"in training mode.*call \.eval\(\) first"):
        subject(**given)


def test_what_cannot_be_frozen(monkeypatch):
    model = make(minitrans, "BertModel")
    model.layers[0].register_forward_hook(lambda *arguments: None)
    with pytest.raises(RuntimeError, match="calls no hooks"):
        frozen(model, "BertModel")
    for name, lengths, words in (
        ("BertModel", [600], "texts of 1 to"),
        ("Wav2Vec2Model", [3], "clips of"),
        ("SwinModel", [2], "images have none"),
    ):
        model = make(minitrans, name)
        with pytest.raises(ValueError, match=words):
            BUCKETS[model.main_input_name].shapes(model, {1}, lengths)
    for name, size in (("BertModel", 512), ("Wav2Vec2Model", 40)):  # the last, and the first, that there is room for
        model = make(minitrans, name)
        shapes = BUCKETS[model.main_input_name].shapes
        assert shapes(model, {1}, [size]) == {(1, size)}
        with pytest.raises(ValueError, match="are not sizes"):
            shapes(model, {1}, [size, size + 1 if name == "BertModel" else size - 1])
    model = make(minitrans, "BertModel").to("meta")
    with pytest.raises(ValueError, match="A model on 'meta' cannot be frozen; move it to a CPU or a CUDA GPU"):
        model.freeze()
    with pytest.raises(ValueError, match="dtype is 'bfloat16'; off a CPU a model is frozen in its own"):
        model.freeze("bfloat16")
    monkeypatch.setattr(minitrans.BertModel, "device", torch.device("cuda"))
    for name in ("batch_sizes", "lengths"):
        for values in ([0], [1, -1], [], ["16"], [2.5], [None]):
            with pytest.raises(ValueError, match=re.escape(f"{name} is {values}; it must hold whole numbers from 1")):
                model.freeze(**{name: iter(values)})


def test_sizes_of_clips_where_none_are_asked_for():
    """What 64 to 1024 frames are made of, in powers of two."""
    clips = make(minitrans, "Wav2Vec2Model")
    shapes = BUCKETS["input_values"].shapes(clips, {2}, None)
    for shorter, frames in ((0, [64, 128, 256, 512, 1024]), (1, [63, 127, 255, 511, 1023])):
        lengths = sorted(length - shorter for _, length in shapes)
        assert [int(clips._get_feat_extract_output_lengths(length)) for length in lengths] == frames


def test_a_bucket_holds_inputs_that_all_fit():
    """One of the wrong kind, or of another shape, goes to the model itself, which says what is wrong with it."""
    model = make(minitrans, "BertModel")
    bucket = FrozenModel(model, [(4, 20)], captured).buckets[0]
    ids, kinds = torch.ones(2, 7, dtype=torch.long), torch.zeros(2, 7, dtype=torch.long)
    assert bucket.holds({"input_ids": ids})
    assert bucket.holds({"input_ids": ids, "token_type_ids": kinds.int()})
    for wrong in (kinds.float(), kinds.bool(), kinds[0], kinds[:, :5], torch.zeros(2, 21, dtype=torch.long), [[0]]):
        assert not bucket.holds({"input_ids": ids, "token_type_ids": wrong})
        assert not bucket.holds({"token_type_ids": wrong, "input_ids": ids})
    assert not bucket.holds({"input_ids": ids, "labels": kinds})


@pytest.mark.parametrize("norm", ["group", "layer"])
def test_clips_that_are_computed_together_are_what_they_are_alone(norm, monkeypatch):
    """As on a GPU; there is no other difference between the two ways than rounding."""
    model = make(minitrans, "Wav2Vec2Model", feat_extract_norm=norm)
    values, mask = torch.randn(3, 2000), torch.ones(3, 2000, dtype=torch.long)
    mask[0, 900:], mask[2, 1400:] = 0, 0
    with torch.no_grad():
        alone = model(values, mask)
        monkeypatch.setattr(FeatureEncoder, "batches_clips", True)
        together = model(values, mask)
        with static_shapes():
            assert wants_static_shapes()
            static = model(values, mask)
    for found in (together, static):
        assert_close(found.last_hidden_state, alone.last_hidden_state, rtol=1e-4, atol=1e-5)
    loss = together.last_hidden_state.square().sum()
    assert loss.isfinite()
    values.requires_grad_()
    gradients = []
    for batched in (True, False):
        monkeypatch.setattr(FeatureEncoder, "batches_clips", batched)
        gradients.append(torch.autograd.grad(model(values, mask).last_hidden_state.square().sum(), values)[0])
    assert_close(*gradients, rtol=1e-3, atol=1e-4)
