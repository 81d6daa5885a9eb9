"""BERT and DistilBERT against transformers: numbers, losses, gradients, and what packing promises."""

import copy
import inspect
import pickle
import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from checkpoints import CLASSES, HEADS, SHAPES, batch, pair, reference, relative
from safetensors.torch import load_file
from torch import Tensor
from torch._dynamo.testing import CompileCounter

import minitrans
from minitrans.heads import IGNORED

MASKED = torch.finfo(torch.float32).min
NO_DROPOUT = {
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "classifier_dropout": 0.0,
}
LANGUAGE_MODELS = [name for name in HEADS if name.endswith(("MaskedLM", "PreTraining"))]


def shape_for(name: str) -> tuple[int, ...]:
    return (2, 3, 9) if "MultipleChoice" in name else (4, 11)


def without_dropout(name: str) -> dict[str, Any]:
    return {**NO_DROPOUT, **({"qa_dropout": 0.0} if name.startswith("Distil") else {})}


def assert_same(ours: Any, theirs: Any, mask: Tensor) -> None:
    """Equal names, order and shapes, and numbers within 1e-5 where there are tokens."""
    expected_fields = {
        name: value for name, value in theirs.items() if name != "cross_attentions"
    }  # empty: no decoder
    assert list(ours.keys()) == list(expected_fields)
    rows = mask.flatten(0, -2).bool()
    for name, expected in expected_fields.items():
        for index, (a, b) in enumerate(
            zip(*((x if isinstance(x, tuple) else (x,)) for x in (ours[name], expected)), strict=True)
        ):
            assert a.shape == b.shape, name
            if name == "attentions":
                # Ours is zero in rows and columns of padding; the reference's rows of padding attend to tokens.
                a, b = (x.transpose(1, 2)[rows] for x in (a, b))
            elif b.shape[:2] == rows.shape:
                a, b = a[rows], b[rows]
            assert relative(a, b) <= 1e-5, f"{name}[{index}]"


def with_traces(model: Any, inputs: dict[str, Tensor], **options: Any) -> Any:
    with torch.no_grad():
        return model(**inputs, output_hidden_states=True, output_attentions=True, **options)


# The numbers


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", CLASSES)
def test_padded_batches_equal_transformers(name, shape, tmp_path):
    theirs, ours = pair(name, tmp_path, **SHAPES[shape])
    given = batch(theirs, shape_for(name))
    assert_same(with_traces(ours, given.inputs), with_traces(theirs, given.inputs), given.mask)


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_untied_decoders(name, tmp_path):
    theirs, ours = pair(name, tmp_path, tie_word_embeddings=False)
    given = batch(theirs)
    assert not torch.equal(ours.get_output_embeddings().weight, ours.get_input_embeddings().weight)
    assert_same(with_traces(ours, given.inputs), with_traces(theirs, given.inputs), given.mask)


@pytest.mark.parametrize("name", ["BertModel", "DistilBertModel"])
def test_embeddings_and_positions_given(name, tmp_path):
    theirs, ours = pair(name, tmp_path)
    given = batch(theirs, (3, 8))
    vectors = torch.randn(3, 8, 32)
    mask = given.inputs["attention_mask"]
    for positions in (torch.randint(0, 24, (3, 8)), torch.arange(8).flip(0)[None]):
        inputs = {"inputs_embeds": vectors, "attention_mask": mask, "position_ids": positions}
        assert_same(with_traces(ours, inputs), with_traces(theirs, inputs), mask)
        inputs = {**given.inputs, "position_ids": positions}
        assert_same(with_traces(ours, inputs), with_traces(theirs, inputs), mask)
    inputs = {"inputs_embeds": vectors}
    assert_same(with_traces(ours, inputs), with_traces(theirs, inputs), torch.ones_like(mask))


@pytest.mark.parametrize("name", CLASSES)
def test_arguments_have_the_same_places(name, tmp_path):
    theirs, ours = pair(name, tmp_path)
    given = batch(theirs, shape_for(name))
    assert_same(ours(*given.inputs.values()), theirs(*given.inputs.values()), given.mask)
    published, own = (inspect.signature(model.forward).parameters.values() for model in (theirs, ours))
    names = {parameter.name for parameter in published if parameter.kind is parameter.POSITIONAL_OR_KEYWORD}
    decoding = {"past_key_values", "encoder_hidden_states", "encoder_attention_mask", "use_cache"}
    assert names - {parameter.name for parameter in own} <= decoding


@pytest.mark.parametrize("name", HEADS)
def test_trainers_find_the_labels_in_the_signature(name, tmp_path):
    ours = minitrans.AutoConfig.for_model("distilbert" if name.startswith("Distil") else "bert", num_hidden_layers=0)
    parameters = inspect.signature(getattr(minitrans, name)(ours).forward).parameters
    wanted = ("start_positions", "end_positions") if "Question" in name else ("labels",)
    assert set(wanted) <= set(parameters)
    assert "self" not in parameters
    assert "attention_mask" in parameters


@pytest.mark.parametrize("name", CLASSES)
def test_tuples(name, tmp_path):
    theirs, ours = pair(name, tmp_path)
    given = batch(theirs, shape_for(name))
    expected = with_traces(theirs, given.inputs, return_dict=False)
    found = with_traces(ours, given.inputs, return_dict=False)
    assert type(found) is tuple
    whole = with_traces(ours, given.inputs)
    assert len(found) == len(whole)
    assert len(found) == len([value for value in expected if value != ()])
    for a, b in zip(found, whole.to_tuple(), strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    ours.config.return_dict = False
    assert type(ours(**given.inputs)) is tuple


def test_a_masked_first_column():
    """Transformers pools the cell in column 0, padding or not; here the first token is pooled."""
    torch.manual_seed(0)
    theirs = reference("BertModel")
    config = minitrans.BertConfig.from_dict(theirs.config.to_dict())
    ours = minitrans.BertModel(config).eval()
    _copy_weights(theirs, ours)
    ids = torch.randint(0, 97, (1, 6))
    mask = torch.tensor([[0, 0, 1, 1, 0, 1]])
    a, b = ours(ids, mask), theirs(ids, mask)
    assert relative(a.last_hidden_state[mask.bool()], b.last_hidden_state[mask.bool()]) <= 1e-5
    assert torch.equal(a.last_hidden_state[0, 0], torch.zeros(32))
    assert relative(a.pooler_output, theirs.pooler(b.last_hidden_state[:, 2:])) <= 1e-5
    assert relative(b.pooler_output, theirs.pooler(b.last_hidden_state)) <= 1e-5


def _copy_weights(theirs: Any, ours: Any) -> None:
    """Fill our model through a file, without the loader's configuration."""
    ours.load_state_dict(theirs.state_dict())


def test_question_answering_scores_padding_lowest(tmp_path):
    theirs, ours = pair("BertForQuestionAnswering", tmp_path)
    given = batch(theirs)
    output = ours(**given.inputs)
    for scores in (output.start_logits, output.end_logits):
        assert (scores[given.mask == 0] == MASKED).all()
        assert (scores.softmax(-1)[given.mask == 0] == 0).all()


def test_the_minilm_checkpoint(minilm):
    theirs = transformers.AutoModel.from_pretrained(minilm).eval()
    ours = minitrans.AutoModel.from_pretrained(minilm)
    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm)
    texts = ["In a hole in the ground there lived a hobbit.", "Hm.", "No padding is computed. " * 15]
    inputs = dict(tokenizer(texts, padding=True, return_tensors="pt"))
    with torch.no_grad():
        a = ours(**inputs, output_hidden_states=True)
        b = theirs(**inputs, output_hidden_states=True)
    real = inputs["attention_mask"].bool()
    for found, expected in zip(a.hidden_states, b.hidden_states, strict=True):
        assert relative(found[real], expected[real]) <= 1e-5
    assert relative(a.pooler_output, b.pooler_output) <= 1e-5


def test_half_precision_is_as_near_as_transformers(tmp_path):
    """The error against float64 in bfloat16 is that of transformers, and so it is under autocast."""
    theirs, ours = pair("BertModel", tmp_path)
    given = batch(theirs)
    real = given.mask.bool()
    exact = copy.deepcopy(theirs).double()(**given.inputs).last_hidden_state[real]
    with torch.no_grad():
        half = [copy.deepcopy(model).bfloat16()(**given.inputs).last_hidden_state[real] for model in (ours, theirs)]
        with torch.autocast("cpu", torch.bfloat16):
            mixed = [model(**given.inputs).last_hidden_state[real] for model in (ours, theirs)]
    for a, b in (half, mixed):
        assert relative(a.double(), exact) <= 2 * relative(b.double(), exact)


def test_float64(tmp_path):
    theirs, ours = pair("BertForMaskedLM", tmp_path)
    given = batch(theirs)
    real = given.mask.bool()
    a, b = ours.double()(**given.inputs).logits[real], theirs.double()(**given.inputs).logits[real]
    assert relative(a, b) <= 1e-13


# A sentence alone and in company


def test_a_sentence_alone_and_in_any_batch(minilm):
    model = minitrans.AutoModel.from_pretrained(minilm)
    ids = torch.randint(1000, 30000, (20, 96), generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([5, 96, 1, 33, 64, 96, 2, 17, 96, 96, 50, 96, 96, 96, 31, 96, 96, 8, 96, 96])
    mask = (torch.arange(96) < lengths[:, None]).long()
    with torch.no_grad():
        together = model(ids, mask)
        for row in (0, 1, 2, 7, 14, 19):
            length = int(lengths[row])
            alone = model(ids[row : row + 1, :length])
            assert relative(together.last_hidden_state[row : row + 1, :length], alone.last_hidden_state) <= 5e-6
            assert relative(together.pooler_output[row : row + 1], alone.pooler_output) <= 5e-6
            for place, width in ((0, length + 3), (2, 96), (3, length)):
                company = torch.randint(1000, 30000, (4, width))
                company[place, :length] = ids[row, :length]
                here = torch.ones_like(company)
                here[place, length:] = 0
                there = model(company, here).last_hidden_state[place : place + 1, :length]
                assert relative(there, alone.last_hidden_state) <= 5e-6


@pytest.mark.parametrize("name", ["BertForTokenClassification", "DistilBertForTokenClassification"])
def test_left_padding_and_holes_are_the_same_tokens_at_other_positions(name, tmp_path):
    theirs, ours = pair(name, tmp_path)
    ids = torch.randint(0, 97, (2, 9))
    mask = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1, 1], [1, 0, 1, 0, 0, 1, 1, 0, 1]])
    found, expected = ours(ids, mask).logits, theirs(ids, mask).logits
    assert relative(found[mask == 1], expected[mask == 1]) <= 5e-6
    assert (found[mask == 0] == 0).all()


@pytest.mark.parametrize("hooked", [False, True])
def test_padding_is_neither_read_nor_computed(hooked, tmp_path, monkeypatch):
    """Absurd ids and vectors under the mask change nothing; the layers see real tokens only, but for a hook's sake."""
    _, ours = pair("BertModel", tmp_path)
    given = batch(ours)
    seen = []
    forward = type(ours.layers[0]).forward
    monkeypatch.setattr(
        type(ours.layers[0]),
        "forward",
        lambda self, rows, *rest: seen.append(rows.shape) or forward(self, rows, *rest),
    )
    if hooked:
        ours.layers[0].register_forward_hook(lambda module, inputs, output: None)
    clean = ours(**given.inputs).last_hidden_state
    dirty = given.inputs["input_ids"].masked_fill(given.mask == 0, -12345)
    assert torch.equal(ours(**{**given.inputs, "input_ids": dirty}).last_hidden_state, clean)
    vectors = torch.randn(*given.shape, 32)
    hidden = [
        ours(inputs_embeds=vectors.masked_fill(given.mask[..., None] == 0, fill), attention_mask=given.mask)
        for fill in (0.0, float("nan"))
    ]
    assert torch.equal(hidden[0].last_hidden_state, hidden[1].last_hidden_state)
    assert set(seen) == {(*given.shape, 32) if hooked else (int(given.mask.sum()), 32)}


# Losses and gradients


def targets(name: str, config: Any, given: Any) -> dict[str, Tensor]:
    """Labels of every kind that a head takes: some tokens without one, padding without one."""
    generator = torch.Generator().manual_seed(1)

    def pick(high: int, *size: int) -> Tensor:
        return torch.randint(0, high, size, generator=generator)

    if name.endswith("QuestionAnswering"):
        lengths = given.mask.sum(-1)
        return {"start_positions": lengths // 3, "end_positions": lengths - 1}
    if name.endswith("MultipleChoice"):
        return {"labels": pick(given.shape[1], given.shape[0])}
    if name.endswith(("NextSentencePrediction", "SequenceClassification")):
        return {"labels": pick(2, given.shape[0])}
    labels = pick(2 if name.endswith("TokenClassification") else config.vocab_size, *given.shape)
    labels[0, 1] = IGNORED
    labels = labels.masked_fill(given.mask == 0, IGNORED)
    return {"labels": labels, **({"next_sentence_label": pick(2, given.shape[0])} if "PreTraining" in name else {})}


def reference_loss(name: str, model: Any, given: Any, labels: dict[str, Tensor]) -> Tensor:
    """The loss of transformers; for answers with padding left out of the softmax, which it leaves in."""
    if not name.endswith("QuestionAnswering"):
        return model(**given.inputs, **labels).loss
    output = model(**given.inputs)
    pairs = ((output.start_logits, "start_positions"), (output.end_logits, "end_positions"))
    losses = [F.cross_entropy(x.masked_fill(given.mask == 0, MASKED), labels[key]) for x, key in pairs]
    return sum(losses) / 2


@pytest.mark.parametrize(
    ("name", "options"),
    [(name, {}) for name in HEADS] + [(name, {"tie_word_embeddings": False}) for name in LANGUAGE_MODELS],
)
def test_one_step_of_training_saves_the_same_checkpoint(name, options, tmp_path):
    theirs, ours = pair(name, tmp_path / "before", **without_dropout(name), **options)
    given = batch(theirs, shape_for(name))
    labels = targets(name, theirs.config, given)
    expected = reference_loss(name, theirs.train(), given, labels)
    found = ours.train()(**given.inputs, **labels).loss
    assert relative(found, expected) <= 1e-5
    for model, loss, folder in ((theirs, expected, "theirs"), (ours, found, "ours")):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        loss.backward()
        optimizer.step()
        model.save_pretrained(tmp_path / folder)
    before, after, saved = (load_file(tmp_path / x / "model.safetensors") for x in ("before", "theirs", "ours"))
    assert set(saved) == set(after)
    for key, tensor in after.items():
        assert relative(saved[key], tensor) <= 1e-5, key
    assert sum(not torch.equal(after[key], before[key]) for key in after) > len(after) // 2


@pytest.mark.parametrize("name", [name for name in HEADS if "SequenceClassification" in name])
@pytest.mark.parametrize("kind", ["regression", "regression of one", "single", "multi", "said", "said regression"])
def test_classification_losses(name, kind, tmp_path):
    options: dict[str, Any] = {"num_labels": 1 if kind == "regression of one" else 3}
    if kind == "said":
        options["problem_type"] = "multi_label_classification"
    if kind in ("regression", "said regression"):
        options["problem_type"] = "regression"
    theirs, ours = pair(name, tmp_path, **options)
    given = batch(theirs)
    labels = {
        "regression": torch.randn(4, 3),
        "regression of one": torch.randn(4),
        "single": torch.tensor([2, 0, IGNORED, 1]),
        "multi": torch.randint(0, 2, (4, 3)).float(),
        "said": torch.rand(4, 3),
        "said regression": torch.randn(4, 3),
    }[kind]
    found, expected = ours(**given.inputs, labels=labels), theirs(**given.inputs, labels=labels)
    assert relative(found.loss, expected.loss) <= 1e-5
    assert list(found.keys()) == list(expected.keys())
    assert found[0] is found.loss


@pytest.mark.parametrize("name", [name for name in HEADS if "QuestionAnswering" in name])
def test_answers_out_of_the_text_do_not_count(name, tmp_path):
    theirs, ours = pair(name, tmp_path)
    given = batch(theirs, padded=False)
    labels = {"start_positions": torch.tensor([0, 11, 40, 3]), "end_positions": torch.tensor([[10], [2], [99], [3]])}
    assert relative(ours(**given.inputs, **labels).loss, theirs(**given.inputs, **labels).loss) <= 1e-5
    assert "loss" not in ours(**given.inputs, start_positions=labels["start_positions"])


def test_answers_in_the_padding_do_not_count(tmp_path):
    theirs, ours = pair("BertForQuestionAnswering", tmp_path)
    ids = torch.randint(0, 97, (2, 6))
    mask = torch.tensor([[1, 1, 1, 1, 0, 0], [0, 1, 1, 1, 1, 1]])
    one = ours(ids, mask, start_positions=torch.tensor([4, 2]), end_positions=torch.tensor([3, 0])).loss
    output = theirs(ids, mask)
    logits = (x.masked_fill(mask == 0, MASKED) for x in (output.start_logits, output.end_logits))
    start, end = (-x.log_softmax(-1) for x in logits)
    assert relative(one, (start[1, 2] + end[0, 3]) / 2) <= 1e-5
    with pytest.raises(ValueError, match="float32"):
        ours(ids, mask, start_positions=torch.ones(2), end_positions=torch.ones(2))


@pytest.mark.parametrize("size", [8, 9])
def test_sinusoidal_positions(size):
    """As transformers makes them, and trained as there."""
    values = {"vocab_size": 9, "dim": size, "n_heads": 1, "n_layers": 0, "sinusoidal_pos_embds": True}
    theirs = transformers.DistilBertModel(transformers.DistilBertConfig(**values)).embeddings.position_embeddings
    ours = minitrans.DistilBertModel(minitrans.DistilBertConfig(**values)).embeddings.position
    torch.testing.assert_close(ours.weight, theirs.weight, rtol=0, atol=1e-6)
    assert ours.weight.requires_grad == theirs.weight.requires_grad


def test_pretraining_needs_both_labels(tmp_path):
    theirs, ours = pair("BertForPreTraining", tmp_path)
    given = batch(theirs)
    labels = targets("BertForPreTraining", ours.config, given)
    for chosen in ({}, *({key: value} for key, value in labels.items()), labels):
        a, b = ours(**given.inputs, **chosen), theirs(**given.inputs, **chosen)
        assert list(a.keys()) == list(b.keys())


@pytest.mark.parametrize(
    ("name", "labels", "words"),
    [
        ("BertForSequenceClassification", torch.tensor([0, 1, 2, 0]), "2"),
        ("BertForSequenceClassification", torch.tensor([0, -1, 1, 0]), "-1"),
        ("BertForTokenClassification", torch.full((4, 11), 7), "7"),
        ("BertForTokenClassification", torch.zeros(4, 10, dtype=torch.long), "(4, 10)"),
        ("BertForTokenClassification", torch.zeros(4, 11), "float32"),
        ("BertForMaskedLM", torch.full((4, 11), 97), "97"),
        ("BertForMaskedLM", torch.zeros(44, dtype=torch.long), "(44,)"),
        ("BertForNextSentencePrediction", torch.tensor([0, 1, 5, 0]), "5"),
        ("BertForNextSentencePrediction", torch.tensor([0.0, 1.0, 1.0, 0.0]), "float32"),
        ("BertForMultipleChoice", torch.tensor([3, 0]), "3"),
        ("BertForSequenceClassification", torch.tensor([[0.0, 1.0]]), "(1, 2)"),
        ("BertForSequenceClassification", torch.tensor([0, 1]), "2"),
    ],
)
def test_labels_that_cannot_be(name, labels, words, tmp_path):
    _, ours = pair(name, tmp_path)
    given = batch(ours, shape_for(name))
    with pytest.raises(ValueError, match=re.escape(words)):
        ours(**given.inputs, labels=labels)


def test_an_unknown_problem_type(tmp_path):
    _, ours = pair("BertForSequenceClassification", tmp_path)
    ours.config.problem_type = "ranking"
    with pytest.raises(ValueError, match=r"'ranking'.*'regression'"):
        ours(torch.ones(2, 3, dtype=torch.long), labels=torch.randn(2, 2))


# Training


@pytest.mark.parametrize("name", ["BertForSequenceClassification", "DistilBertForSequenceClassification"])
def test_dropout_works_in_training_only(name, tmp_path):
    _, ours = pair(name, tmp_path)
    given = batch(ours)
    assert torch.equal(ours(**given.inputs).logits, ours(**given.inputs).logits)
    ours.train()
    assert not torch.equal(ours(**given.inputs).logits, ours(**given.inputs).logits)
    torch.manual_seed(3)
    first = ours(**given.inputs).logits
    torch.manual_seed(3)
    assert torch.equal(ours(**given.inputs).logits, first)


@pytest.mark.parametrize(
    ("name", "rate"),
    [
        ("BertForSequenceClassification", "hidden_dropout_prob"),
        ("BertForSequenceClassification", "attention_probs_dropout_prob"),
        ("BertForSequenceClassification", "classifier_dropout"),
        ("BertForTokenClassification", "classifier_dropout"),
        ("BertForMultipleChoice", "classifier_dropout"),
        ("DistilBertForSequenceClassification", "dropout"),
        ("DistilBertForSequenceClassification", "attention_dropout"),
        ("DistilBertForSequenceClassification", "seq_classif_dropout"),
        ("DistilBertForMultipleChoice", "seq_classif_dropout"),
        ("DistilBertForQuestionAnswering", "qa_dropout"),
        ("DistilBertForTokenClassification", "dropout"),
    ],
)
def test_each_dropout_rate_is_used_where_transformers_uses_it(name, rate, tmp_path):
    """With one rate at 0.99 alone, training changes the output; with all at 0, it does not."""
    rates = dict.fromkeys(NO_DROPOUT, 0.0)
    if name.startswith("Distil"):
        rates = dict.fromkeys(("dropout", "attention_dropout", "seq_classif_dropout", "qa_dropout"), 0.0)
    pair(name, tmp_path)
    ids = torch.randint(0, 97, shape_for(name))
    kind = getattr(minitrans, name)
    quiet = kind.from_pretrained(tmp_path, **rates)
    loud = kind.from_pretrained(tmp_path, **{**rates, rate: 0.99})
    exact = quiet(ids)[0]
    assert torch.equal(quiet.train()(ids)[0], exact)
    assert torch.equal(loud(ids)[0], exact)
    assert not torch.allclose(loud.train()(ids)[0], exact, atol=1e-3)


@pytest.mark.parametrize("name", ["BertForMaskedLM", "DistilBertForMaskedLM"])
def test_gradient_checkpointing_gives_equal_gradients(name, tmp_path):
    _, ours = pair(name, tmp_path)
    given = batch(ours)
    labels = targets(name, ours.config, given)
    runs = []
    for change in (ours.gradient_checkpointing_enable, ours.gradient_checkpointing_disable):
        change()
        calls = []
        hook = ours.base_model.layers[0].register_forward_pre_hook(lambda *_: calls.append(1))  # noqa: B023
        torch.manual_seed(0)
        output = ours.train()(**given.inputs, **labels, output_attentions=True, output_hidden_states=True)
        ours.zero_grad()
        output.loss.backward()
        hook.remove()
        assert len(output.attentions) == 2
        runs.append((len(calls), {path: p.grad.clone() for path, p in ours.named_parameters()}))
    assert [count for count, _ in runs] == [2, 1]
    for path, gradient in runs[0][1].items():
        assert torch.equal(gradient, runs[1][1][path]), path


@pytest.mark.parametrize(("name", "layers"), [("BertModel", "encoder"), ("DistilBertModel", "transformer")])
def test_gradient_checkpointing_recomputes_nothing_in_evaluation(name, layers, tmp_path):
    theirs, ours = pair(name, tmp_path)
    ids = batch(ours).inputs["input_ids"]
    counts = []
    for model, first in ((theirs, theirs.get_submodule(layers).layer[0]), (ours, ours.layers[0])):
        calls = []
        model.gradient_checkpointing_enable()
        first.register_forward_pre_hook(lambda *_: calls.append(1))  # noqa: B023
        model.eval()(ids).last_hidden_state.sum().backward()
        counts.append(len(calls))
    assert counts == [1, 1]


@pytest.mark.parametrize("name", ["BertModel", "DistilBertModel"])
@pytest.mark.parametrize("without", [(0,), (1,), (2,), (0, 1), (1, 2), (0, 1, 2)])
@torch.no_grad()
def test_projections_without_a_bias_are_those_with_zeros(name, without, tmp_path):
    """Queries, keys and values in one product: where one has no bias, the others keep theirs."""
    _, ours = pair(name, tmp_path)
    ids = batch(ours).inputs["input_ids"]
    before = ours(ids).last_hidden_state
    projections = [module for path, module in ours.named_modules() if re.search(r"(query|key|value|[qkv]_lin)$", path)]
    for index in without:
        projections[index].bias.zero_()
    zeros = ours(ids).last_hidden_state
    assert relative(before, zeros) > 1e-4 or without == (1,)  # what all keys add, softmax takes away
    for index in without:
        projections[index].bias = None
    for model in (ours, copy.deepcopy(ours), ours.double().float()):
        assert relative(model(ids).last_hidden_state, zeros) < 1e-5


def test_frozen_weights_stay(tmp_path):
    _, ours = pair("BertForSequenceClassification", tmp_path)
    for parameter in ours.base_model.parameters():
        parameter.requires_grad_(False)
    given = batch(ours)
    ours(**given.inputs, labels=torch.zeros(4, dtype=torch.long)).loss.backward()
    assert [path for path, p in ours.named_parameters() if p.grad is not None] == [
        "classifier.weight",
        "classifier.bias",
    ]
    assert ours.num_parameters(only_trainable=True) == 66


# Tables


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("count", [60, 97, 130])
def test_resizing_the_vocabulary(name, tied, count, tmp_path):
    _, ours = pair(name, tmp_path / "old", tie_word_embeddings=tied)
    same = min(97, count)
    given = batch(ours)
    given.inputs["input_ids"] %= same
    before = ours(**given.inputs)
    table = ours.resize_token_embeddings(count)
    assert table is ours.get_input_embeddings()
    assert table.weight.shape == (count, 32)
    assert ours.config.vocab_size == count
    decoder = ours.get_output_embeddings()
    assert (decoder.weight is table.weight) is tied
    assert decoder.out_features == count
    after = ours(**given.inputs)
    scores = "prediction_logits" if "PreTraining" in name else "logits"
    assert after[scores].shape[-1] == count
    assert relative(after[scores][..., :same], before[scores][..., :same]) <= 1e-6
    after[scores].sum().backward()
    ours.save_pretrained(tmp_path / "new")
    again, info = getattr(transformers, name).from_pretrained(tmp_path / "new", output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    real = given.mask.bool()
    with torch.no_grad():
        assert relative(after[scores][real], again.eval()(**given.inputs)[scores][real]) <= 1e-5


@pytest.mark.parametrize("name", ["BertModel", "BertForMaskedLM"])
@pytest.mark.parametrize("count", [60, 96, 97])
def test_resizing_to_a_multiple(name, count, tmp_path):
    for model in pair(name, tmp_path):
        table = model.resize_token_embeddings(count, pad_to_multiple_of=32, mean_resizing=False)
        assert table.num_embeddings == model.config.vocab_size == -(-count // 32) * 32
        if name == "BertForMaskedLM":
            assert model.get_output_embeddings().weight is table.weight
            assert model(torch.tensor([[1, 2]])).logits.shape[-1] == table.num_embeddings


@pytest.mark.parametrize("name", ["BertModel", "BertForMaskedLM", "DistilBertForMaskedLM"])
def test_new_rows_are_drawn_around_the_mean_as_in_transformers(name, tmp_path):
    """By default; both the tied table and the scores' biases."""
    tables, biases = [], []
    for model in pair(name, tmp_path):
        model.get_input_embeddings().weight.data.add_(0.1)  # a mean that is not 0 is not part of the covariance
        old = model.get_input_embeddings().weight.detach().clone()
        table = model.resize_token_embeddings(4000).weight.detach()
        assert torch.equal(table[:97], old)
        tables.append(table[97:])
        if name.endswith("LM"):
            biases.append(model.get_output_embeddings().bias.detach())
    assert (tables[0].mean(0) - tables[1].mean(0)).abs().max() < 1e-5
    covariances = [(table - table.mean(0)).T @ (table - table.mean(0)) / len(table) for table in tables]
    assert relative(*covariances) < 0.3 or max(float(c.abs().max()) for c in covariances) < 1e-9
    new, whole = tables[1].double(), old.double()
    assert relative(new.T.cov(), 1e-9 * whole.T.cov(correction=0)) < 0.2  # of 3903 rows: 2 % of a variance
    for theirs, ours in [biases] if biases else []:
        assert relative(ours, theirs) < 1e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("name", ["BertForMaskedLM", "DistilBertForMaskedLM"])
def test_resizing_in_other_dtypes(name, dtype, tmp_path):
    """The mean is taken in float32 and only then rounded: new rows are within a rounding of it."""
    _, ours = pair(name, tmp_path, vocab_size=3000)
    ours.to(dtype)
    old = ours.get_input_embeddings().weight.detach().clone()
    old_bias = ours.get_output_embeddings().bias.detach().clone()
    table = ours.resize_token_embeddings(3100)
    assert {x.dtype for x in ours.parameters()} == {dtype}
    assert torch.equal(table.weight[:3000], old)
    mean = old.double().mean(0)
    assert (
        (table.weight[3000:].double() - mean).abs() <= torch.finfo(dtype).eps * mean.abs() + 5e-5
    ).all()  # noise: 6e-6
    assert torch.equal(ours.get_output_embeddings().bias[:3000], old_bias)
    assert not ours.get_output_embeddings().bias[3000:].any()
    ours.save_pretrained(tmp_path / "new")
    theirs = getattr(transformers, name).from_pretrained(tmp_path / "new", dtype=dtype).eval()
    found, expected = (model(torch.tensor([[3, 3099]])).logits for model in (ours, theirs))
    assert found.dtype == dtype
    assert relative(found, expected) <= 8 * torch.finfo(dtype).eps


def test_resizing_keeps_frozen_tables_frozen_and_refuses_none(tmp_path):
    _, ours = pair("BertForMaskedLM", tmp_path)
    with pytest.raises(ValueError, match="new_num_tokens is 0"):
        ours.resize_token_embeddings(0)
    ours.get_input_embeddings().weight.requires_grad_(False)
    assert not ours.resize_token_embeddings(120).weight.requires_grad
    assert ours.num_parameters(only_trainable=True) < ours.num_parameters()


def test_new_rows_are_usable_and_the_padding_row_gets_no_gradient(tmp_path):
    _, ours = pair("BertModel", tmp_path, pad_token_id=4)
    ours.resize_token_embeddings(99)
    assert ours.get_input_embeddings().padding_idx == 4
    ours(torch.tensor([[98, 4, 7]])).last_hidden_state.sum().backward()
    gradient = ours.get_input_embeddings().weight.grad
    assert gradient[98].abs().sum() > 0
    assert gradient[4].abs().sum() == 0
    for count, padding in ((5, 4), (4, None), (3, None)):
        assert ours.resize_token_embeddings(count).padding_idx == ours.config.pad_token_id == padding


def test_a_table_without_a_padding_row_says_nothing_of_one(tmp_path):
    _, ours = pair("BertModel", tmp_path, pad_token_id=4)
    ours.set_input_embeddings(torch.nn.Embedding(97, 32))
    assert ours.resize_token_embeddings(99).padding_idx is None
    assert ours.config.pad_token_id == 4


@pytest.mark.parametrize("name", ["BertModel", "DistilBertForMaskedLM"])
@pytest.mark.parametrize("deviation", [0.02, 0.5])
def test_new_rows_start_as_in_a_new_model_where_they_are_asked_to(name, deviation, tmp_path):
    """N(0, initializer_range²): of 96,000 numbers the mean and the deviation are within 1 %."""
    _, ours = pair(name, tmp_path, initializer_range=deviation)
    rows = ours.resize_token_embeddings(3097, mean_resizing=False).weight[97:].detach()
    assert abs(float(rows.mean())) < 0.01 * deviation * 2
    assert float(rows.std()) == pytest.approx(deviation, rel=0.01)
    if name.endswith("LM"):
        assert not ours.get_output_embeddings().bias[97:].any()


def test_without_a_number_the_vocabulary_stays(tmp_path):
    for model in pair("BertForMaskedLM", tmp_path):
        table = model.get_input_embeddings()
        assert model.resize_token_embeddings() is table
        assert model.resize_token_embeddings(pad_to_multiple_of=64).num_embeddings == 128


def test_input_embeddings_can_be_replaced(tmp_path):
    _, ours = pair("BertForMaskedLM", tmp_path)
    table = torch.nn.Embedding(97, 32)
    ours.set_input_embeddings(table)
    assert ours.get_input_embeddings() is table
    assert ours.get_output_embeddings().weight is table.weight


def test_checkpointing_of_a_part(tmp_path):
    for model in pair("BertForMaskedLM", tmp_path):
        assert model.is_gradient_checkpointing is model.bert.is_gradient_checkpointing is False
        model.bert.gradient_checkpointing_enable()
        assert model.is_gradient_checkpointing is model.bert.is_gradient_checkpointing is True
        model.gradient_checkpointing_disable()
        assert model.is_gradient_checkpointing is model.bert.is_gradient_checkpointing is False


@pytest.mark.parametrize("name", CLASSES)
def test_the_parameters_are_counted_as_transformers_does(name, tmp_path):
    theirs, ours = pair(name, tmp_path)
    for options in ({}, {"exclude_embeddings": True}, {"only_trainable": True}):
        assert ours.num_parameters(**options) == theirs.num_parameters(**options)


def test_what_a_model_says_of_itself(tmp_path):
    _, ours = pair("BertForMaskedLM", tmp_path)
    assert type(ours).__name__ == "BertForMaskedLM"
    assert type(ours) is minitrans.BertForMaskedLM
    assert repr(ours).startswith("BertForMaskedLM(")
    assert ours.device == torch.device("cpu")
    assert ours.dtype == torch.float32
    assert ours.half().dtype == torch.float16
    assert ours.base_model is ours.bert
    assert ours.bert.base_model is ours.bert
    assert ours.main_input_name == "input_ids"
    assert not ours.training
    assert minitrans.BertModel(ours.config).get_output_embeddings() is None


# Inputs that cannot be


@pytest.mark.parametrize(
    ("inputs", "kind", "words"),
    [
        ({}, ValueError, "input_ids"),
        ({"input_ids": torch.ones(1, 2, dtype=torch.long), "inputs_embeds": torch.ones(1, 2, 32)}, ValueError, "both"),
        ({"input_ids": torch.tensor([[3, 97]])}, ValueError, "97"),
        ({"input_ids": torch.tensor([[-1, 9]])}, ValueError, "-1"),
        ({"input_ids": torch.ones(2, 25, dtype=torch.long)}, ValueError, "25 24"),
        ({"input_ids": torch.ones(0, 4, dtype=torch.long)}, ValueError, "(0, 4)"),
        ({"input_ids": torch.ones(2, 0, dtype=torch.long)}, ValueError, "(2, 0)"),
        ({"input_ids": torch.ones(4, dtype=torch.long)}, ValueError, "(4,)"),
        ({"input_ids": torch.ones(1, 2, 3, dtype=torch.long)}, ValueError, "(1, 2, 3)"),
        ({"input_ids": torch.ones(2, 4)}, ValueError, "float32"),
        ({"input_ids": torch.ones(2, 4, dtype=torch.bool)}, ValueError, "bool"),
        ({"input_ids": torch.ones(2, 4, dtype=torch.long, device="meta")}, ValueError, "meta cpu"),
        ({"input_ids": [[1, 2]]}, TypeError, "list"),
        ({"input_ids": torch.ones(1, 2, dtype=torch.long).numpy()}, TypeError, "ndarray"),
        ({"inputs_embeds": torch.ones(1, 2, 31)}, ValueError, "31 32"),
        ({"inputs_embeds": torch.ones(1, 2)}, ValueError, "(1, 2)"),
        ({"inputs_embeds": torch.ones(1, 2, 32, dtype=torch.long)}, ValueError, "int64"),
        ({"attention_mask": torch.ones(2, 3)}, ValueError, "(2, 3) (2, 4)"),
        ({"attention_mask": torch.ones(4)}, ValueError, "(4,)"),
        ({"attention_mask": torch.ones(2, 1, 1, 4)}, ValueError, "(2, 1, 1, 4)"),
        ({"attention_mask": torch.tensor([[1, 1, 1, 1], [0, 0, 0, 0]])}, ValueError, "sequence 1"),
        ({"attention_mask": torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.0, 0.0, -1e4, -1e4]])}, ValueError, "additive"),
        ({"attention_mask": torch.tensor([[0, 0, 0, 0], [0, 0, -10000, -10000]])}, ValueError, "additive"),
        ({"attention_mask": torch.full((2, 4), float("nan"))}, ValueError, "0 and 1"),
        ({"attention_mask": [[1, 1, 1, 1]] * 2}, TypeError, "list"),
        ({"token_type_ids": torch.full((2, 4), 2)}, ValueError, "token_type_ids 2"),
        ({"token_type_ids": torch.ones(2, 3, dtype=torch.long)}, ValueError, "token_type_ids (2, 3)"),
        ({"token_type_ids": torch.ones(2, 4)}, ValueError, "token_type_ids float32"),
        ({"position_ids": torch.full((2, 4), 24)}, ValueError, "position_ids 24"),
        ({"position_ids": torch.full((2, 4), -1)}, ValueError, "position_ids -1"),
        ({"position_ids": torch.ones(2, 4)}, ValueError, "position_ids float32"),
        ({"position_ids": torch.ones(3, 4, dtype=torch.long)}, ValueError, "position_ids (3, 4)"),
        ({"position_ids": torch.ones(2, 4, dtype=torch.long, device="meta")}, ValueError, "position_ids meta"),
        ({"nonsense": 1}, TypeError, "nonsense"),
    ],
)
@pytest.mark.parametrize("name", ["BertModel", "BertForTokenClassification", "DistilBertModel"])
def test_inputs_that_cannot_be(name, inputs, kind, words, tmp_path):
    if name.startswith("Distil") and "token_type_ids" in inputs:
        inputs, kind, words = inputs, TypeError, "token_type_ids"
    _, ours = pair(name, tmp_path)
    if inputs and not set(inputs) & {"input_ids", "inputs_embeds"}:
        inputs = {"input_ids": torch.ones(2, 4, dtype=torch.long), **inputs}
    with pytest.raises(kind) as caught:
        ours(**inputs)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 250
    for word in words.split() if "(" not in words else [words.split(" (")[0]]:
        assert word in message


@pytest.mark.parametrize("name", ["BertForMultipleChoice", "DistilBertForMultipleChoice"])
def test_multiple_choice_wants_choices(name, tmp_path):
    _, ours = pair(name, tmp_path)
    for inputs in ({"input_ids": torch.ones(2, 4, dtype=torch.long)}, {}):
        with pytest.raises(ValueError, match=r"\(B, choices, N\)"):
            ours(**inputs)
    with pytest.raises(ValueError, match="attention_mask"):
        ours(torch.ones(2, 3, 4, dtype=torch.long), attention_mask=torch.ones(6, 4))
    vectors = torch.randn(2, 3, 4, 32)
    assert ours(inputs_embeds=vectors).logits.shape == (2, 3)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int16, torch.int32])
def test_any_whole_numbers_are_ids(dtype, tmp_path):
    _, ours = pair("BertModel", tmp_path)
    given = batch(ours)
    expected = ours(**given.inputs).last_hidden_state
    found = ours(**{key: value.to(dtype) for key, value in given.inputs.items()})
    assert torch.equal(found.last_hidden_state, expected)


def test_masks_of_any_dtype(tmp_path):
    _, ours = pair("BertModel", tmp_path)
    given = batch(ours)
    expected = ours(**given.inputs).last_hidden_state
    for dtype in (torch.bool, torch.uint8, torch.int32, torch.float32, torch.float16):
        inputs = {**given.inputs, "attention_mask": given.mask.to(dtype)}
        assert torch.equal(ours(**inputs).last_hidden_state, expected)


def test_a_wide_batch_of_short_texts_needs_no_more_positions(tmp_path):
    _, ours = pair("BertModel", tmp_path)
    ids = torch.randint(0, 97, (2, 40))
    mask = (torch.arange(40) < torch.tensor([[24], [3]])).long()
    assert torch.equal(ours(ids, mask).last_hidden_state[:, :24], ours(ids[:, :24], mask[:, :24]).last_hidden_state)
    mask[0, 24] = 1
    with pytest.raises(ValueError, match=r"25 tokens.* 24 positions"):
        ours(ids, mask)


# Compiling, copying


def test_compiled_once_for_all_lengths(tmp_path):
    theirs, ours = pair("BertModel", tmp_path)
    counter = CompileCounter()
    compiled = torch.compile(ours, backend=counter, fullgraph=True)
    for seed in range(3):
        given = batch(theirs, seed=seed)
        with torch.no_grad():
            assert_same(compiled(**given.inputs), theirs(**given.inputs), given.mask)
    assert counter.frame_count == 1


@pytest.mark.parametrize("name", ["BertForQuestionAnswering", "DistilBertForTokenClassification"])
def test_compiled_heads_train(name, tmp_path):
    _, ours = pair(name, tmp_path, **without_dropout(name))
    given = batch(ours)
    labels = targets(name, ours.config, given)
    compiled = torch.compile(ours.train(), backend="eager", fullgraph=True)
    gradients = []
    for model in (ours, compiled):
        ours.zero_grad()
        output = model(**given.inputs, **labels)
        output.loss.backward()
        gradients.append({path: p.grad.clone() for path, p in ours.named_parameters()})
    for path, gradient in gradients[0].items():
        assert relative(gradients[1][path], gradient) <= 1e-4 or float(gradient.abs().max()) < 1e-6, path


@pytest.mark.parametrize("name", ["BertForMaskedLM", "DistilBertForSequenceClassification"])
def test_models_can_be_copied_and_pickled(name, tmp_path):
    _, ours = pair(name, tmp_path)
    given = batch(ours)
    expected = ours(**given.inputs).logits
    for twin in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert torch.equal(twin(**given.inputs).logits, expected)
        assert twin.config == ours.config
        assert twin.num_parameters() == ours.num_parameters()
        with torch.no_grad():
            twin.get_input_embeddings().weight.zero_()
        assert torch.equal(ours(**given.inputs).logits, expected)


@pytest.mark.parametrize("name", CLASSES)
def test_the_state_dict_restores_a_model(name, tmp_path):
    _, ours = pair(name, tmp_path)
    twin = type(ours)(ours.config).eval()
    twin.load_state_dict(ours.state_dict())
    given = batch(ours, shape_for(name))
    assert torch.equal(twin(**given.inputs)[0], ours(**given.inputs)[0])
