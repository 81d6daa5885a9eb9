"""What researchers put into a model and around it: adapters, pruning, quantised weights, hooks, a trainer."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from checkpoints import batch, pair, reference, relative
from torch import Tensor, nn
from torch.nn.utils import prune

import minitrans

# The published names of every layer that an adapter may go into.
LAYERS = ["query", "key", "value", "attention.output.dense", "intermediate.dense", r"(?<!attention\.)output.dense",
          "word_embeddings", "position_embeddings", "token_type_embeddings"]  # fmt: skip


def adapted(model: nn.Module, places: list[str]) -> tuple[Any, list[Tensor]]:
    """The model with low-rank adapters (Hu et al. 2021) in all layers, and their matrices, which are random."""
    matrices, config = [], peft.LoraConfig(r=3, target_modules=rf"(.*\.)?({'|'.join(places)})")
    model = peft.get_peft_model(model, config)
    torch.manual_seed(1)
    for place in places:
        for path, x in model.named_parameters():
            if re.search(rf"{place}\.lora_", path):
                matrices.append(nn.init.normal_(x, 0.0, 0.2))
    return model.eval(), matrices


@pytest.mark.parametrize("places", [*([place] for place in LAYERS), LAYERS])
def test_adapters_give_what_they_give_in_transformers(places, tmp_path):
    theirs, ours = pair("BertModel", tmp_path)
    given = batch(theirs)
    with torch.no_grad():
        before = ours(**given.inputs).last_hidden_state
        ours, here = adapted(ours, places)
        theirs, there = adapted(theirs, places)
        assert len(here) == len(there) >= 2 * len(places)
        assert all(torch.equal(a, b) for a, b in zip(here, there, strict=True))
        found = ours(**given.inputs).last_hidden_state
        assert relative(found, theirs(**given.inputs).last_hidden_state * given.mask[..., None]) <= 1e-5
        assert relative(found, before) > 0.01
        ours.save_pretrained(tmp_path / "adapter")
        again = peft.PeftModel.from_pretrained(minitrans.BertModel.from_pretrained(tmp_path), tmp_path / "adapter")
        assert torch.equal(again(**given.inputs).last_hidden_state, found)
        assert relative(ours.merge_and_unload()(**given.inputs).last_hidden_state, found) <= 1e-5


@pytest.mark.parametrize("name", ["Swin", "Wav2Vec2"])
def test_adapters_in_every_linear_layer(name):
    """What is merged into the weights is what was computed beside them."""
    torch.manual_seed(0)
    model = getattr(minitrans, f"{name}Model")(getattr(minitrans, f"{name}Config")()).double().eval()
    inputs = torch.randn(2, 3, 32, 64).double() if name == "Swin" else torch.randn(2, 800).double()
    with torch.no_grad():
        before = model(inputs).last_hidden_state
        ours = ["query", "key", "value", "output.dense", "intermediate.dense", "patch_embeddings.projection"]
        sound = ["q_proj", "k_proj", "v_proj", "out_proj", "intermediate_dense", "output_dense"]
        places = ours if name == "Swin" else sound
        ours, _ = adapted(model, places)
        found = ours(inputs).last_hidden_state
        assert relative(found, before) > 0.01
        assert relative(ours.merge_and_unload()(inputs).last_hidden_state, found) <= 1e-11


def test_adapters_are_trained_and_nothing_else(tmp_path):
    _, ours = pair("BertModel", tmp_path)
    ours.activation_checkpointing_enable()
    ours, matrices = adapted(ours, ["intermediate.dense", "output.dense"])
    ours.train()(**batch(ours).inputs).last_hidden_state.square().sum().backward()
    assert all(x.grad is not None and x.grad.any() for x in matrices)
    assert sum(x.grad is not None for x in ours.parameters()) == len(matrices)


def test_pruned_weights_are_taken_at_every_call(tmp_path):
    _, ours = pair("BertModel", tmp_path)
    given, up = batch(ours).inputs, ours.layers[0].feed_forward.up
    with torch.no_grad():
        whole = ours(**given).last_hidden_state
        prune.l1_unstructured(up, "weight", 0.5)
        pruned = ours(**given).last_hidden_state
        assert relative(pruned, whole) > 0.01
        up.weight_orig.zero_()
        zeroed = ours(**given).last_hidden_state
        prune.remove(up, "weight")
        assert relative(zeroed, pruned) > 0.01
        assert relative(ours(**given).last_hidden_state, zeroed) <= 1e-5


def test_hooks_inside_the_feed_forward_block(tmp_path):
    theirs, ours = pair("BertModel", tmp_path)
    given, seen = batch(theirs, padded=False), []
    for up, down in (
        (ours.layers[0].feed_forward.up, ours.layers[0].feed_forward.down),
        (theirs.encoder.layer[0].intermediate.dense, theirs.encoder.layer[0].output.dense),
    ):
        up.register_forward_hook(lambda _, inputs, output: seen.append(output))
        down.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        up.register_full_backward_hook(lambda _, inputs, outputs: seen.append(outputs[0]))
    for model in (ours, theirs):
        model(**given.inputs).last_hidden_state.square().sum().backward()
    assert len(seen) == 6
    for here, there in zip(seen[:3], seen[3:], strict=True):
        assert relative(here, there) <= 1e-4


class Doubled(Tensor):
    """A weight that is not its numbers, as libraries for quantisation make them: F.linear knows what it stands for."""

    @classmethod
    def __torch_function__(cls, function: Callable, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is not nn.functional.linear:
            return super().__torch_function__(function, types, args, kwargs)
        rows, weight, *bias = args
        return function(rows, 2 * weight.as_subclass(Tensor), *bias)


def test_a_weight_of_another_class_is_asked_what_a_linear_layer_gives(tmp_path):
    _, ours = pair("BertModel", tmp_path)
    given = batch(ours).inputs
    with torch.no_grad():
        for layer in ours.layers:
            layer.feed_forward.up.weight.mul_(2)
        doubled = ours(**given).last_hidden_state
        for layer in ours.layers:
            weight = (layer.feed_forward.up.weight.detach() / 2).as_subclass(Doubled)
            layer.feed_forward.up.weight = nn.Parameter(weight, requires_grad=False)
            assert type(layer.feed_forward.up.weight) is Doubled
        assert relative(ours(**given).last_hidden_state, doubled) <= 1e-6
    with pytest.raises(ValueError, match="A weight is a Doubled"):
        ours.freeze()


class Examples(torch.utils.data.Dataset):
    """Texts of several lengths, of two classes."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> dict[str, Any]:
        numbers = torch.Generator().manual_seed(index)
        return {"ids": torch.randint(1, 97, (5 + index % 4,), generator=numbers), "label": index % 2}


def collate(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    ids = nn.utils.rnn.pad_sequence([row["ids"] for row in rows], batch_first=True)
    labels = torch.tensor([row["label"] for row in rows])
    return {"input_ids": ids, "attention_mask": (ids != 0).long(), "labels": labels}


def trainer(model: Any, folder: Path, **options: Any) -> Any:
    arguments = transformers.TrainingArguments(
        str(folder), num_train_epochs=2, per_device_train_batch_size=4, learning_rate=1e-3, logging_steps=1, seed=1,
        use_cpu=True, remove_unused_columns=False, report_to=[], disable_tqdm=True, save_strategy="epoch", **options,
    )  # fmt: skip
    examples = Examples()
    return transformers.Trainer(model, arguments, collate, train_dataset=examples, eval_dataset=examples)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_trainer_of_transformers_trains_alike(checkpointing, tmp_path):
    theirs = reference("BertForSequenceClassification", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    theirs.save_pretrained(tmp_path / "start")
    ours = minitrans.AutoModelForSequenceClassification.from_pretrained(tmp_path / "start")
    losses, scores = [], []
    for name, model in (("theirs", theirs), ("ours", ours)):
        training = trainer(model.train(), tmp_path / name, activation_checkpointing=checkpointing)
        training.train()
        losses.append([entry["loss"] for entry in training.state.log_history if "loss" in entry])
        scores.append(torch.from_numpy(training.predict(Examples()).predictions))
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert len(losses[0]) == 6
    assert relative(scores[1], scores[0]) <= 1e-3  # six steps of Adam, which divides small gradients by smaller ones
    resumed = trainer(ours, tmp_path / "ours")
    resumed.train(resume_from_checkpoint=str(tmp_path / "ours" / "checkpoint-3"))
    assert resumed.state.log_history[-2]["loss"] == pytest.approx(losses[0][-1], rel=1e-4)


def test_checkpointing_of_some_layers_is_refused(tmp_path):
    _, ours = pair("BertModel", tmp_path)
    for options, words in (({"every_n_layers": 2}, "every_n_layers is 2"), ({"offload": True}, "offload True")):
        with pytest.raises(ValueError, match=words):
            ours.activation_checkpointing_enable(**options)
    ours.gradient_checkpointing_enable({"use_reentrant": False}, every_n_layers=1)
    assert ours.gradient_checkpointing
    ours.activation_checkpointing_disable()
    assert not ours.gradient_checkpointing
