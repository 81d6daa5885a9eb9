"""Programs of `programs` with either library: the same losses step by step, and what they save opens in both."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import programs
import pytest
import torch
import transformers
from programs import starts
from safetensors.torch import load_file
from transformers import EarlyStoppingCallback, Trainer

import minitrans

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
LIBRARIES = {"transformers": transformers, "minitrans": minitrans}


@dataclass(frozen=True)
class Case:
    """A program, the class of the checkpoint that it starts from, its configuration, and what its Trainer is told."""

    program: Callable[..., Trainer]
    kind: str
    values: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.program.__name__}-{self.kind}"


THREE = {"num_labels": 3}
# Batches of one: in a padded batch the scores of padding are part of transformers' loss (see the test of that below).
ALONE = {"per_device_train_batch_size": 1, "per_device_eval_batch_size": 1, "num_train_epochs": 1}
CASES = [
    Case(programs.glue, "BertForSequenceClassification", THREE),
    Case(programs.regression, "BertForSequenceClassification", {"num_labels": 1}),
    Case(programs.ner, "BertForTokenClassification", THREE),
    Case(programs.squad, "BertForQuestionAnswering", options=ALONE),
    Case(programs.mlm, "BertForMaskedLM"),
    Case(programs.swag, "BertForMultipleChoice"),
    Case(programs.images, "SwinForImageClassification", THREE),
    Case(programs.masked_images, "SwinForMaskedImageModeling"),
    Case(programs.ctc, "Wav2Vec2ForCTC"),
    Case(programs.audio, "Wav2Vec2ForSequenceClassification", THREE),
    Case(programs.own_head, "BertModel"),
]
DISTILBERT = [
    Case(case.program, case.kind.replace("Bert", "DistilBert"), case.values, case.options)
    for case in CASES
    if case.kind.startswith("BertFor")
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: Any) -> Callable[..., Path]:
    """The folder of a case's checkpoint, written once."""
    folders: dict[str, Path] = {}

    def start(kind: str, **values: Any) -> Path:
        key = json.dumps([kind, values], sort_keys=True)
        if key not in folders:
            folders[key] = starts(tmp_path_factory.mktemp(kind), kind, **values)
        return folders[key]

    return start


def losses(trainer: Trainer) -> np.ndarray:
    """Train, and give the loss of every step and then that of the evaluation."""
    trainer.train()
    steps = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return np.array([*steps, trainer.evaluate().get("eval_loss", 0.0)])


@pytest.mark.parametrize("case", [*CASES, *DISTILBERT], ids=str)
def test_the_same_losses_step_by_step(case, checkpoint, tmp_path):
    start = checkpoint(case.kind, **case.values)
    theirs, ours = (
        losses(case.program(library, start, tmp_path / name, **case.options)) for name, library in LIBRARIES.items()
    )
    assert len(ours) > 5
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_same_losses_in_bfloat16(case, checkpoint, tmp_path):
    """As near as transformers' two implementations of attention are to each other, and one rounding of a bfloat16.

    transformers computes without oneDNN, which with AMX is wrong for its convolutions of few channels.
    """
    start, found = checkpoint(case.kind, **case.values), {}
    for name in ("transformers", "eager", "minitrans"):
        trainer = case.program(LIBRARIES.get(name, transformers), start, tmp_path / name, bf16=True, **case.options)
        if name == "eager":
            trainer.model.set_attn_implementation("eager")
        with torch.backends.mkldnn.flags(enabled=name == "minitrans"):
            found[name] = losses(trainer)
    theirs = found["transformers"]
    tolerance = 3 * np.abs(found["eager"] - theirs).max() + 2**-8 * np.abs(theirs)
    assert (np.abs(found["minitrans"] - theirs) <= tolerance).all()


@pytest.mark.parametrize("case", [case for case in CASES if case.program is not programs.own_head], ids=str)
def test_accumulated_gradients_are_those_of_one_large_batch(case, checkpoint, tmp_path):
    """Tokens weigh the same wherever they stand. (transformers' own sums differ: its Trainer logs twice the loss.)"""
    values = {**case.values, "mask_time_prob": 0.0} if case.kind.startswith("Wav2Vec2") else case.values
    start, found = checkpoint(case.kind, **values), {}
    for name, library in LIBRARIES.items():
        many = {"per_device_train_batch_size": 4}
        few = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
        trainer = case.program(library, start, tmp_path / name, **(many if name == "transformers" else few))
        if case.program is programs.mlm:  # else every batch draws its own words
            mask_once(trainer)
        if name == "transformers" and case.program is programs.squad:
            leave_out_padding(trainer.model)
        found[name] = losses(trainer)
    assert len(found["minitrans"]) > 4
    np.testing.assert_allclose(found["minitrans"], found["transformers"], rtol=1e-4)


def mask_once(trainer: Trainer) -> None:
    """Mask the words of a Trainer's data before it starts."""
    torch.manual_seed(1)
    rows = [trainer.data_collator([row]) for row in trainer.train_dataset]
    trainer.train_dataset = trainer.eval_dataset = [{key: x[0] for key, x in row.items()} for row in rows]
    trainer.data_collator = transformers.default_data_collator


def leave_out_padding(model: torch.nn.Module) -> None:
    """Let a question-answering model of transformers score padding lowest, as ours do: no answer lies there."""
    mask = {}

    def remember(module: Any, inputs: Any, named: dict[str, Any]) -> None:
        mask["now"] = named["attention_mask"]

    def score(module: Any, inputs: Any, logits: torch.Tensor) -> torch.Tensor:
        return logits.masked_fill(mask["now"][..., None] == 0, torch.finfo(logits.dtype).min)

    model.register_forward_pre_hook(remember, with_kwargs=True)
    model.qa_outputs.register_forward_hook(score)


@pytest.mark.parametrize("kind", ["BertForQuestionAnswering", "DistilBertForQuestionAnswering"])
def test_no_answer_lies_in_padding(kind, checkpoint, tmp_path):
    """A padded batch gives the losses that transformers gives once padding is left out of its softmax."""
    theirs = programs.squad(transformers, checkpoint(kind), tmp_path / "theirs")
    leave_out_padding(theirs.model)
    ours = programs.squad(minitrans, checkpoint(kind), tmp_path / "ours")
    np.testing.assert_allclose(losses(ours), losses(theirs), rtol=1e-4)


# Saving, and opening again in both libraries


def inputs_of(kind: str) -> dict[str, torch.Tensor]:
    """What a model of that class is asked, to be compared with another one."""
    generator = torch.Generator().manual_seed(5)
    if kind.startswith("Swin"):
        return {"pixel_values": torch.randn(2, 3, 32, 32, generator=generator)}
    if kind.startswith("Wav2Vec2"):
        return {"input_values": torch.randn(2, 700, generator=generator)}
    return {"input_ids": torch.randint(5, len(programs.VOCABULARY), (2, 9), generator=generator)}


@torch.no_grad()
def answer(model: Any, kind: str) -> torch.Tensor:
    """The first field of a model's output."""
    given = {name: x.to(model.device) for name, x in inputs_of(kind).items()}
    return model.eval()(**given, return_dict=False)[0]


def save_model(trainer: Trainer, folder: Path) -> None:
    trainer.save_model(str(folder))


def accelerate_save(trainer: Trainer, folder: Path) -> None:
    trainer.accelerator.save_model(trainer.model, str(folder))


def accelerate_state_dict(trainer: Trainer, folder: Path) -> None:
    """As the examples without Trainer save."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    model.save_pretrained(
        str(folder),
        is_main_process=trainer.accelerator.is_main_process,
        save_function=trainer.accelerator.save,
        state_dict=trainer.accelerator.get_state_dict(trainer.model),
    )


def torch_save(trainer: Trainer, folder: Path) -> None:
    folder.mkdir()
    torch.save(trainer.model.state_dict(), folder / "pytorch_model.bin")


def save_pretrained(trainer: Trainer, folder: Path) -> None:
    trainer.model.save_pretrained(str(folder))


SAVED = [save_model, accelerate_save, accelerate_state_dict, torch_save, save_pretrained]
TRAINED = [*CASES[:1], *CASES[3:5], DISTILBERT[4], *CASES[6:10]]


@pytest.mark.parametrize("case", TRAINED, ids=str)
def test_what_a_program_saves_opens_in_both_libraries(case, checkpoint, tmp_path):
    start = checkpoint(case.kind, **case.values)
    for name, library in LIBRARIES.items():
        trainer = case.program(library, start, tmp_path / name, max_steps=2, save_strategy="steps", save_steps=2)
        before = answer(trainer.model, case.kind).clone()
        trainer.train()
        expected = answer(trainer.model, case.kind)
        assert (before - expected).abs().max() > 1e-3  # it has learnt something
        folders = [tmp_path / name / "checkpoint-2"]
        for save in SAVED:
            folders.append(tmp_path / f"{name}-{save.__name__}")
            save(trainer, folders[-1])
        for folder in folders:
            trainer.model.config.save_pretrained(folder)
            for opener in LIBRARIES.values():
                again = getattr(opener, case.kind).from_pretrained(folder)
                torch.testing.assert_close(answer(again, case.kind), expected, rtol=1e-4, atol=1e-5)
        state = torch.load(tmp_path / f"{name}-torch_save" / "pytorch_model.bin")
        for opener in LIBRARIES.values():
            if case.kind.startswith("Swin") and opener is transformers and library is minitrans:
                continue  # transformers' Swin has other names in memory than in files; it takes these from a file only
            again = getattr(opener, case.kind).from_pretrained(start)
            again.load_state_dict(state)
            torch.testing.assert_close(answer(again, case.kind), expected, rtol=1e-4, atol=1e-5)


def test_a_program_s_own_head_opens_in_both_libraries(checkpoint, tmp_path):
    """What one library's class wrote, the other's reads: own parameters, buffers and layers under their own names."""
    start, states = checkpoint("BertModel"), {}
    for name, library in LIBRARIES.items():
        trainer = programs.own_head(library, start, tmp_path / name, max_steps=2)
        trainer.train()
        trainer.model.save_pretrained(tmp_path / f"{name}-saved")
        trainer.save_model(str(tmp_path / f"{name}-trainer"))
        states[name] = load_file(tmp_path / f"{name}-saved" / "model.safetensors")
        assert states[name].keys() == load_file(tmp_path / f"{name}-trainer" / "model.safetensors").keys()
        assert float(states[name]["seen"]) == 4
    assert states["minitrans"].keys() == states["transformers"].keys()
    for key, tensor in states["transformers"].items():
        if key.endswith("key.bias"):
            continue  # its gradient is 0, so that Adam makes steps of rounding errors
        torch.testing.assert_close(states["minitrans"][key], tensor, rtol=1e-4, atol=1e-5)
    for name in LIBRARIES:
        for library in LIBRARIES.values():
            shutil.copy(start / "tokenizer.json", tmp_path / f"{name}-saved")
            trainer = programs.own_head(library, tmp_path / f"{name}-saved", tmp_path / "again")
            assert all(torch.equal(x, states[name][key]) for key, x in trainer.model.state_dict().items())


# What Trainer does besides


def resumed(case: Case, library: Any, start: Path, out: Path, first: Any) -> tuple[list[float], list[float]]:
    """The losses of six steps by `first`, and those where `library` goes on after the fourth."""
    options = {"save_strategy": "steps", "save_steps": 4, "max_steps": 6, "per_device_train_batch_size": 2}
    trainer = case.program(first, start, out, **options)
    trainer.train()
    whole = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    again = case.program(library, start, out, **options)
    again.train(resume_from_checkpoint=str(out / "checkpoint-4"))
    return whole, [entry["loss"] for entry in again.state.log_history if "loss" in entry]


# Swin's parameters stand in another order in transformers' memory, and so in its optimisers' states.
GOING_ON = [("minitrans", case) for case in (CASES[0], CASES[6], CASES[8], CASES[10])]
GOING_ON += [("transformers", case) for case in (CASES[0], DISTILBERT[0], CASES[8], CASES[10])]


@pytest.mark.parametrize(("first", "case"), GOING_ON, ids=str)
def test_a_run_goes_on_from_a_checkpoint(case, first, checkpoint, tmp_path):
    """Whichever library wrote it: model, optimiser and random numbers are those after its fourth step."""
    start = checkpoint(case.kind, **case.values)
    whole, again = resumed(case, minitrans, start, tmp_path, LIBRARIES[first])
    np.testing.assert_allclose(again, whole, rtol=1e-4)
    assert len(again) == 6


def test_predictions_with_hidden_states(checkpoint, tmp_path):
    start, found = checkpoint("BertForSequenceClassification", num_labels=3), {}
    for name, library in LIBRARIES.items():
        trainer = programs.glue(library, start, tmp_path / name)
        trainer.model.config.output_hidden_states = True
        trainer.data_collator = transformers.DataCollatorWithPadding(trainer.data_collator.tokenizer)
        rows = trainer.eval_dataset.select([0, 0, 0])  # of one length: transformers' states of padding are others
        found[name] = trainer.predict(rows), trainer.predict(rows.remove_columns("label"))
    for ours, theirs in zip(found["minitrans"], found["transformers"], strict=True):
        assert ours.metrics.keys() == theirs.metrics.keys()
        torch.testing.assert_close(ours.predictions, theirs.predictions, rtol=1e-4, atol=1e-5)
        assert len(ours.predictions) == 2
        assert [x.shape for x in ours.predictions[1]] == [(3, 6, 32)] * 3


class Weighted(Trainer):
    """A loss of the user's own, as in transformers' documentation."""

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        logits = outputs.get("logits")
        loss = torch.nn.functional.cross_entropy(logits, labels, weight=torch.tensor([1.0, 2.0, 3.0]))
        return (loss, outputs) if return_outputs else loss


def best_model(trainer: Trainer) -> None:
    trainer.add_callback(EarlyStoppingCallback(early_stopping_patience=3))


VARIANTS: dict[str, tuple[dict[str, Any], Callable[[Trainer], None]]] = {
    "label smoothing": ({"label_smoothing_factor": 0.1}, lambda trainer: None),
    "own loss": ({}, lambda trainer: setattr(trainer, "__class__", Weighted)),
    "best model": (
        {"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True, "num_train_epochs": 3,
         "metric_for_best_model": "eval_loss", "learning_rate": 3e-2},
        best_model,
    ),
    "gradient checkpointing": ({"gradient_checkpointing": True}, lambda trainer: None),
    "noise in the embeddings": ({"neftune_noise_alpha": 5.0, "per_device_train_batch_size": 1}, lambda trainer: None),
    "groups by length, cosine, clipped": (
        {"train_sampling_strategy": "group_by_length", "lr_scheduler_type": "cosine", "max_grad_norm": 0.1,
         "weight_decay": 50.0, "warmup_steps": 2},  # times the learning rate
        lambda trainer: None,
    ),
    "adafactor": ({"optim": "adafactor"}, lambda trainer: None),
    "steps of evaluation": ({"eval_strategy": "steps", "eval_steps": 2, "eval_accumulation_steps": 1}, lambda _: None),
    "in bfloat16 wholly": ({"bf16": True, "bf16_full_eval": True}, lambda trainer: None),
    "several at once": ({"auto_find_batch_size": True, "torch_empty_cache_steps": 1, "dataloader_drop_last": True},
                        lambda trainer: None),
}  # fmt: skip


@pytest.mark.parametrize("name", VARIANTS)
def test_trainer_s_options(name, checkpoint, tmp_path):
    start, found = checkpoint("BertForSequenceClassification", num_labels=3), {}
    options, change = VARIANTS[name]
    for library_name, library in LIBRARIES.items():
        trainer = programs.glue(library, start, tmp_path / library_name, **options)
        change(trainer)
        found[library_name] = losses(trainer), trainer.predict(trainer.eval_dataset), trainer.state.log_history
    (ours, predicted, log), (theirs, expected, other) = found["minitrans"], found["transformers"]
    tolerance = 2e-2 if "bfloat16" in name else 1e-4
    np.testing.assert_allclose(ours, theirs, rtol=tolerance)
    if predicted.predictions is not None:
        np.testing.assert_allclose(predicted.predictions, expected.predictions, rtol=tolerance, atol=tolerance)
    assert [entry.keys() for entry in log] == [entry.keys() for entry in other]
