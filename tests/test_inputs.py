"""Inputs of published programs: order, masks of more dimensions, what has no effect, losses over several batches."""

import inspect
from typing import Any

import pytest
import torch
from checkpoints import relative
from families import HEADED, inputs_of, labels_of, make, published_pair

import minitrans

ONLY_TEXT = ["BertModel", "DistilBertModel", "BertForTokenClassification", "BertForMaskedLM",
             "BertForSequenceClassification", "DistilBertForQuestionAnswering"]  # fmt: skip


@pytest.mark.parametrize("name", HEADED)
def test_labels_stand_where_they_do_in_transformers(name, tmp_path):
    """All inputs by position, as transformers' own signature orders them."""
    theirs, ours = published_pair(name, tmp_path)
    given = {**inputs_of(name), **labels_of(name)}
    if name.endswith("QuestionAnswering"):
        del given["attention_mask"]  # padding scores nothing here, by design
    order = [key for key, x in inspect.signature(theirs.forward).parameters.items() if x.kind is not x.VAR_KEYWORD]
    positional = [given.get(key) for key in order]
    if "interpolate_pos_encoding" in order:
        positional[order.index("interpolate_pos_encoding")] = False
    with torch.no_grad():
        there, here = theirs(*positional), ours(*positional)
    assert set(here) == set(there)
    if "loss" in there:
        assert relative(here.loss, there.loss) <= 1e-3
    by_name = ours(**given)
    assert relative(next(iter(by_name.values())), next(iter(here.values()))) <= 1e-5


@pytest.mark.parametrize("name", ["BertModel", "BertForMaskedLM", "DistilBertForSequenceClassification"])
def test_what_changes_nothing_is_accepted(name):
    ours, x = make(minitrans, name), inputs_of(name)
    expected = ours(**x)
    quiet = {"head_mask": None, "encoder_hidden_states": None, "encoder_attention_mask": None, "past_key_values": None,
             "use_cache": True, "special_tokens_mask": torch.ones(2, 7), "num_items_in_batch": 3}  # fmt: skip
    found = ours(**x, **quiet)
    assert torch.equal(found[0], expected[0])
    for key in ("head_mask", "encoder_hidden_states", "past_key_values"):
        with pytest.raises(ValueError, match=key if name != "BertModel" else "encoder_hidden_states|head_mask"):
            ours(**x, **{key: torch.ones(2, 7, 32)})
    with pytest.raises(TypeError, match="has no input 'labelz'; it has attention_mask"):
        ours(**x, labelz=1)


MASKS: dict[str, Any] = {
    "outer product": lambda real: real[:, None] * real[:, :, None],
    "keys alone": lambda real: real[:, None].expand(-1, 7, -1),
    "causal": lambda real: real[:, None] * torch.tril(torch.ones(7, 7, dtype=torch.long)),
    "two texts in a row": lambda real: torch.block_diag(torch.ones(3, 3), torch.ones(4, 4)).long().expand(2, 7, 7),
    "a window": lambda real: (torch.arange(7)[:, None] - torch.arange(7)).abs().le(2).long().expand(2, 7, 7),
}


@pytest.mark.parametrize("form", ["(B, N, N)", "(B, 1, N, N) bool", "(B, 1, N, N) additive", "(B, H, N, N) bool"])
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("name", ONLY_TEXT)
def test_masks_of_more_dimensions(name, mask, form, tmp_path):
    theirs, ours = published_pair(name, tmp_path)
    x = inputs_of(name)
    visible = MASKS[mask](x["attention_mask"]).bool()
    additive = torch.zeros(2, 1, 7, 7).masked_fill(~visible[:, None], torch.finfo(torch.float32).min)
    given = {
        "(B, N, N)": visible.long(),
        "(B, 1, N, N) bool": visible[:, None],
        "(B, 1, N, N) additive": additive,
        "(B, H, N, N) bool": visible[:, None].expand(2, 2, 7, 7),
    }[form]
    with torch.no_grad():
        there = theirs(input_ids=x["input_ids"], attention_mask=additive)
        here = ours(input_ids=x["input_ids"], attention_mask=given)
    key = next(key for key in ("last_hidden_state", "start_logits", "logits") if key in here)
    seen = visible.any(1)
    kept = seen if here[key].shape[:2] == (2, 7) else slice(None)
    assert relative(here[key][kept], there[key][kept]) <= 1e-5


@pytest.mark.parametrize("name", ["BertModel", "DistilBertModel"])
def test_masks_of_each_head(name, tmp_path):
    theirs, ours = published_pair(name, tmp_path)
    ids = inputs_of(name)["input_ids"]
    masks = [MASKS[mask](torch.ones(2, 7, dtype=torch.long)).bool() for mask in ("causal", "a window")]
    visible = torch.stack(masks, 1)
    for seen in (visible, visible[:1]):
        additive = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)
        with torch.no_grad():
            expected = theirs(input_ids=ids, attention_mask=additive)[0]
            for given in (seen, additive, additive.clamp(min=torch.finfo(torch.float16).min), additive * 2):
                assert relative(ours(ids, given)[0], expected) <= 1e-5


def test_masks_for_all_texts_or_all_queries_at_once():
    ours, x = make(minitrans, "BertModel"), inputs_of("BertModel")
    mask = x["attention_mask"]
    with torch.no_grad():
        expected = ours(x["input_ids"], mask)[0]
        for given in (mask[:, None, None], mask[:, None, None].bool(), (1.0 - mask[:, None, None]) * -1e9):
            assert torch.equal(ours(x["input_ids"], given)[0], expected)
        both = ours(x["input_ids"], mask[:1].expand(2, -1))[0]
        for given in (mask[:1, None, None].bool(), mask[:1, None].expand(1, 7, 7)):
            assert torch.equal(ours(x["input_ids"], given)[0], both)


def test_masks_that_say_no_more_than_which_tokens_are_real_are_packed(monkeypatch):
    ours, x = make(minitrans, "BertModel"), inputs_of("BertModel")
    rows = []
    forward = type(ours.layers[0]).forward
    monkeypatch.setattr(
        type(ours.layers[0]), "forward", lambda self, x, *rest: rows.append(x.shape) or forward(self, x, *rest)
    )
    with torch.no_grad():
        for mask in ("outer product", "keys alone", "causal"):
            ours(x["input_ids"], MASKS[mask](x["attention_mask"]))
    assert rows == [(12, 32)] * 4 + [(2, 7, 32)] * 2


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (torch.ones(2, 7, 6), r"\(2, 7, 6\)"),
        (torch.ones(3, 7, 7), r"\(3, 7, 7\)"),
        (torch.ones(2, 6, 7), r"\(2, 6, 7\)"),
        (torch.ones(2, 1, 6, 7), r"\(2, 1, 6, 7\)"),
        (torch.ones(2, 1, 1, 7, 7), r"\(2, 1, 1, 7, 7\)"),
        (torch.full((2, 7, 7), 2), "other values than 0 and 1"),
        (torch.full((2, 1, 7, 7), 2), "other values than 0 and 1"),
        (torch.eye(7)[None, None] * -65503.0, r"\(1, 1, 7, 7\) adds other values"),
        (torch.full((2, 1, 7, 7), 0.5), r"\(2, 1, 7, 7\) adds other values"),
        (torch.eye(7).roll(1, 0).tril().expand(2, 7, 7), "no token at all"),
        (torch.stack([torch.ones(7, 7), torch.eye(7).roll(1, 0).tril()]).bool().expand(2, 2, 7, 7), "no token at all"),
    ],
)
def test_masks_that_cannot_be(mask, words):
    ours, x = make(minitrans, "BertModel"), inputs_of("BertModel")
    with pytest.raises(ValueError, match=words):
        ours(x["input_ids"], mask)


COUNTED = [name for name in HEADED if getattr(minitrans, name).accepts_loss_kwargs is True]


@pytest.mark.parametrize("name", COUNTED)
def test_losses_of_several_batches_add_up_to_that_of_one(name):
    """With `num_items_in_batch`, as Trainer passes it while it accumulates gradients."""
    model = make(minitrans, name).double()
    x = {key: t.double() if t.is_floating_point() else t for key, t in {**inputs_of(name), **labels_of(name)}.items()}
    whole = model(**x).loss
    count = (x["labels"] != -100).sum()
    parts = [model(**{key: t[row : row + 1] for key, t in x.items()}, num_items_in_batch=count).loss for row in (0, 1)]
    assert relative(sum(parts), whole) <= 1e-9


KINDS = {
    "regression": torch.linspace(-1, 1, 12).view(4, 3),
    "multi_label_classification": torch.ones(4, 3),
    "single_label_classification": torch.tensor([0, 2, 1, 1]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_classification_loss_adds_up(kind):
    labels = KINDS[kind]
    model = make(minitrans, "BertForSequenceClassification", num_labels=3, problem_type=kind)
    ids = torch.randint(0, 60, (4, 5))
    whole = model(ids, labels=labels).loss
    parts = [
        model(ids[r], labels=labels[r], num_items_in_batch=labels.numel()).loss for r in (slice(0, 1), slice(1, 4))
    ]
    assert relative(sum(parts), whole) <= 1e-5


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_a_ctc_loss_is_scaled_by_nobody_where_it_is_a_sum(reduction):
    model = make(minitrans, "Wav2Vec2ForCTC", ctc_loss_reduction=reduction)
    assert model.accepts_loss_kwargs is (reduction == "sum")
    x = {**inputs_of("Wav2Vec2ForCTC"), **labels_of("Wav2Vec2ForCTC")}
    whole = model(**x).loss
    parts = [model(**{key: t[row : row + 1] for key, t in x.items()}, num_items_in_batch=6).loss for row in (0, 1)]
    assert relative(sum(parts), whole * (1 if reduction == "sum" else 2)) <= 1e-5


ODD: dict[str, Any] = {
    "None in a list": lambda x: [None],
    "a list": lambda x: x.tolist(),
    "text": lambda x: "text",
    "an array": lambda x: x.numpy(),
    "sparse": lambda x: x.to_sparse(),
    "nested": lambda x: torch.nested.nested_tensor(list(x)),
    "meta": lambda x: x.to("meta"),
    "complex": lambda x: x.to(torch.complex64),
    "float8": lambda x: x.float().to(torch.float8_e4m3fn),
    "uint16": lambda x: x.to(torch.uint16),
    "uint32": lambda x: x.to(torch.uint32),
    "uint64": lambda x: x.to(torch.uint64),
}


# A class -> what else it takes.
BESIDES = {
    "BertForTokenClassification": {"token_type_ids": torch.zeros(2, 7).long(), "position_ids": torch.arange(7)},
    "Wav2Vec2ForCTC": {"attention_mask": torch.ones(2, 1200)},
    "Wav2Vec2Model": {"mask_time_indices": torch.ones(2, 59)},
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("name", ["BertForTokenClassification", "DistilBertForQuestionAnswering", "Wav2Vec2ForCTC",
                                  "BertForMultipleChoice", "SwinForImageClassification", "Wav2Vec2Model",
                                  "SwinForMaskedImageModeling"])  # fmt: skip
def test_what_is_no_dense_tensor_of_usual_numbers(name, odd):
    model = make(minitrans, name, **({"mask_feature_prob": 0.1} if name == "Wav2Vec2Model" else {}))
    labels = labels_of(name) if name in HEADED else {}
    given = {**inputs_of(name), **labels, **BESIDES.get(name, {})}
    model(**given)
    for key, x in given.items():
        with pytest.raises((TypeError, ValueError), match=rf"^({key}|A multiple-choice)"):
            model(**{**given, key: ODD[odd](x)})


@pytest.mark.parametrize("name", ["BertModel", "DistilBertForMaskedLM"])
@pytest.mark.parametrize("value", [torch.float64, torch.float16, float("nan"), float("inf")])
def test_vectors_of_another_dtype_or_without_numbers(name, value):
    model, vectors = make(minitrans, name), torch.randn(2, 5, 32)
    if isinstance(value, float):
        vectors[1, 3, 7] = value
    with pytest.raises(ValueError, match=r"^inputs_embeds"):
        model(inputs_embeds=vectors if isinstance(value, float) else vectors.to(value))
    mask = torch.ones(2, 5, dtype=torch.long)
    mask[1, 3] = 0
    if isinstance(value, float):  # what is left out may be anything
        assert model(inputs_embeds=vectors, attention_mask=mask)[0].isfinite().all()


@pytest.mark.parametrize("name", [name for name in HEADED if labels_of(name) and name != "SwinForMaskedImageModeling"])
def test_labels_of_another_number_than_the_batch(name):
    model, given = make(minitrans, name), {**inputs_of(name), **labels_of(name)}
    for key, labels in labels_of(name).items():
        for other in (labels[:1], torch.cat([labels, labels]), labels[:0]):
            with pytest.raises(ValueError, match=r"shape|labels for 2 clips"):
                model(**{**given, key: other})


@pytest.mark.parametrize("kind", ["regression", "multi_label_classification"])
def test_labels_of_many_classes_have_the_shape_of_the_scores(kind):
    model = make(minitrans, "BertForSequenceClassification", num_labels=3, problem_type=kind)
    with pytest.raises(ValueError, match=r"labels has the shape \(3, 2\) for scores \(2, 3\)"):
        model(**inputs_of("BertModel"), labels=torch.ones(3, 2))


@pytest.mark.parametrize("name", ["Wav2Vec2ForCTC", "Wav2Vec2ForXVector"])
def test_labels_that_are_no_classes(name):
    model, given = make(minitrans, name), {**inputs_of(name), **labels_of(name)}
    with pytest.raises(ValueError, match="classes are whole numbers"):
        model(**{**given, "labels": given["labels"] + 0.5})


def test_speakers_in_a_column(tmp_path):
    """As a table's rows have them, (B, 1)."""
    theirs, ours = published_pair("Wav2Vec2ForXVector", tmp_path)
    given, labels = inputs_of("Wav2Vec2ForXVector"), torch.tensor([[1], [0]])
    expected = theirs(**given, labels=labels[:, 0]).loss
    assert relative(ours(**given, labels=labels).loss, expected) < 1e-5
    assert torch.equal(ours(**given, labels=labels).loss, ours(**given, labels=labels[:, 0]).loss)
