"""Loops and wrappers around models: accelerate, Lightning, sentence-transformers, and what torch does with weights."""

import copy
import pickle
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import programs
import pytest
import torch
import torch.distributed as dist
import transformers
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from captum.attr import LayerIntegratedGradients
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
    losses,
    models,
)
from test_programs import LIBRARIES, answer
from torch.distributed.checkpoint.state_dict import get_model_state_dict, set_model_state_dict
from torch.distributed.fsdp import fully_shard
from torch.func import functional_call
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

import minitrans
from minitrans.layers import QueryKeyValue

KINDS = ["BertForSequenceClassification", "BertForMaskedLM", "DistilBertForTokenClassification",
         "SwinForImageClassification", "Wav2Vec2ForCTC", "Wav2Vec2ForSequenceClassification"]  # fmt: skip


@pytest.fixture(scope="module")
def start(tmp_path_factory: Any) -> Any:
    """The folder of a class's checkpoint."""
    folders: dict[str, Path] = {}

    def find(kind: str) -> Path:
        if kind not in folders:
            folders[kind] = programs.starts(tmp_path_factory.mktemp(kind), kind)
        return folders[kind]

    return find


# Loops without Trainer


def no_trainer(library: Any, start: Path, out: Path, **options: Any) -> tuple[list[float], Any]:
    """run_glue_no_trainer: accelerate, an optimiser with two groups, a schedule, gathered predictions, saving."""
    AcceleratorState._reset_state(reset_partial_state=True)  # of an earlier program in this process
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2, **options)
    tokenizer = library.AutoTokenizer.from_pretrained(start)
    model = library.AutoModelForSequenceClassification.from_pretrained(start)
    data = [{**tokenizer(text), "labels": index % 2} for index, text in enumerate(programs.SENTENCES)]
    collator = transformers.DataCollatorWithPadding(tokenizer)
    loader = DataLoader(
        data, shuffle=True, collate_fn=collator, batch_size=2, generator=torch.Generator().manual_seed(0)
    )
    no_decay = ["bias", "LayerNorm.weight"]
    named = list(model.named_parameters())
    groups = [
        {"params": [p for n, p in named if not any(end in n for end in no_decay)], "weight_decay": 30.0},
        {"params": [p for n, p in named if any(end in n for end in no_decay)], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-3)
    schedule = transformers.get_scheduler("linear", optimizer, num_warmup_steps=1, num_training_steps=8)
    model, optimizer, loader, schedule = accelerator.prepare(model, optimizer, loader, schedule)
    found = []
    for _ in range(2):
        model.train()
        for batch in loader:
            with accelerator.accumulate(model):
                loss = model(**batch).loss
                accelerator.backward(loss)
                accelerator.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
            found.append(float(loss))
        model.eval()
        with torch.no_grad():
            outputs = model(**batch)
        predictions, _ = accelerator.gather_for_metrics((outputs.logits.argmax(dim=-1), batch["labels"]))
        assert predictions.shape == (2,)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(out / "state"))
    unwrapped = accelerator.unwrap_model(model)
    unwrapped.save_pretrained(
        out, is_main_process=accelerator.is_main_process, save_function=accelerator.save,
        state_dict=accelerator.get_state_dict(model),
    )  # fmt: skip
    expected = answer(unwrapped, "Bert")
    torch.nn.init.zeros_(unwrapped.classifier.weight)
    accelerator.load_state(str(out / "state"))
    torch.testing.assert_close(answer(unwrapped, "Bert"), expected)
    return found, expected


@pytest.mark.parametrize("kind", ["BertForSequenceClassification", "DistilBertForSequenceClassification"])
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_a_loop_with_accelerate(kind, precision, start, tmp_path):
    found = {name: no_trainer(library, start(kind), tmp_path / name, mixed_precision=precision)
             for name, library in LIBRARIES.items()}  # fmt: skip
    tolerance = 1e-4 if precision == "no" else 2e-2
    np.testing.assert_allclose(found["minitrans"][0], found["transformers"][0], rtol=tolerance)
    for library in LIBRARIES.values():
        for name in LIBRARIES:
            again = getattr(library, kind).from_pretrained(tmp_path / name)
            if precision == "no":
                torch.testing.assert_close(answer(again, kind), found[name][1], rtol=1e-4, atol=1e-5)


def wav2vec2_pretraining(library: Any, names: Any, start: Path) -> list[float]:
    """run_wav2vec2_pretraining_no_trainer, with its collator: masked frames and drawn negatives."""
    model = library.Wav2Vec2ForPreTraining.from_pretrained(start)
    extractor = library.Wav2Vec2FeatureExtractor.from_pretrained(start)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    transformers.set_seed(3)
    model.train()
    found = []
    for step in range(4):
        clips = [clip[:600] for clip in programs.clips()[step : step + 2]]  # alike, as codes are drawn for padding too
        batch = extractor.pad([{"input_values": clip} for clip in clips], padding=True, return_tensors="pt")
        mask_indices_seq_length = int(model._get_feat_extract_output_lengths(batch["input_values"].shape[-1]))
        batch["sub_attention_mask"] = model._get_feature_vector_attention_mask(
            mask_indices_seq_length, batch["attention_mask"]
        )
        shape = (2, mask_indices_seq_length)
        masked = names._compute_mask_indices(shape, 0.4, 3, attention_mask=batch["sub_attention_mask"])
        negatives = names._sample_negative_indices(shape, 5, mask_time_indices=masked)
        del batch["sub_attention_mask"]
        outputs = model(
            **batch, mask_time_indices=torch.tensor(masked), sampled_negative_indices=torch.tensor(negatives)
        )
        (outputs.loss / masked.sum()).backward()
        optimizer.step()
        optimizer.zero_grad()
        model.set_gumbel_temperature(max(2.0 * 0.99**step, 0.5))
        found.extend([outputs.loss.item(), outputs.contrastive_loss.item(), outputs.diversity_loss.item()])
    return found


def test_pre_training_of_sound(start):
    import transformers.models.wav2vec2.modeling_wav2vec2 as published

    import minitrans.models.wav2vec2 as ours

    kind = start("Wav2Vec2ForPreTraining")
    found = [wav2vec2_pretraining(transformers, published, kind), wav2vec2_pretraining(minitrans, ours, kind)]
    np.testing.assert_allclose(found[1], found[0], rtol=1e-4)


def module(library: Any, start: Path) -> lightning.LightningModule:
    """A LightningModule as tutorials write it."""

    class Classifier(lightning.LightningModule):
        def __init__(self, name: str, learning_rate: float = 1e-3) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.model = library.AutoModelForSequenceClassification.from_pretrained(name)
            self.found: list[float] = []

        def forward(self, **inputs: Any) -> Any:
            return self.model(**inputs)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            outputs = self(**batch)
            self.log("train_loss", outputs.loss)
            self.found.append(float(outputs.loss))
            return outputs.loss

        def validation_step(self, batch: Any, batch_idx: int) -> Any:
            loss, logits = self(**batch)[:2]
            self.log("val_loss", loss, batch_size=len(logits))
            return {"loss": loss, "preds": logits.argmax(-1)}

        def predict_step(self, batch: Any, batch_idx: int) -> Any:
            return self(**batch)

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.AdamW(self.parameters(), lr=self.hparams.learning_rate)
            schedule = transformers.get_linear_schedule_with_warmup(optimizer, 0, 8)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    return Classifier(str(start))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_lightning_module(precision, start, tmp_path):
    found = {}
    for name, library in LIBRARIES.items():
        lightning.seed_everything(1, verbose=False)
        folder = start("BertForSequenceClassification")
        tokenizer = library.AutoTokenizer.from_pretrained(folder)
        data = [{**tokenizer(text), "labels": index % 2} for index, text in enumerate(programs.SENTENCES)]
        loader = DataLoader(data, collate_fn=transformers.DataCollatorWithPadding(tokenizer), batch_size=2)
        own = module(library, folder)
        trainer = lightning.Trainer(
            max_epochs=2, accelerator="cpu", precision=precision, default_root_dir=tmp_path / name, logger=False,
            enable_progress_bar=False, enable_model_summary=False, accumulate_grad_batches=2, gradient_clip_val=1.0,
        )  # fmt: skip
        trainer.fit(own, loader, loader)
        outputs = trainer.predict(own, loader)
        assert type(outputs[0]).__module__.partition(".")[0] == name
        trainer.save_checkpoint(tmp_path / f"{name}.ckpt")
        again = type(own).load_from_checkpoint(tmp_path / f"{name}.ckpt", weights_only=False)
        torch.testing.assert_close(answer(again.model, "Bert"), answer(own.model.float(), "Bert"))
        found[name] = own.found, torch.load(tmp_path / f"{name}.ckpt", weights_only=False)["state_dict"]
    np.testing.assert_allclose(
        found["minitrans"][0], found["transformers"][0], rtol=1e-4 if precision == "32-true" else 2e-2
    )
    assert found["minitrans"][1].keys() == found["transformers"][1].keys()


def embedder(library: Any, start: Path) -> SentenceTransformer:
    """sentence-transformers' model around a model of one of the libraries."""
    transformer = models.Transformer(str(start))
    transformer.auto_model = library.AutoModel.from_pretrained(start)
    return SentenceTransformer(modules=[transformer, models.Pooling(32)], device="cpu")


def test_sentence_transformers_trainer(start, tmp_path):
    from datasets import Dataset

    found = {}
    data = Dataset.from_dict({"anchor": programs.SENTENCES, "positive": programs.SENTENCES[::-1]})
    for name, library in LIBRARIES.items():
        model = embedder(library, start("BertModel"))
        arguments = SentenceTransformerTrainingArguments(
            str(tmp_path / name), report_to="none", logging_steps=1, num_train_epochs=2, use_cpu=True, seed=2,
            per_device_train_batch_size=4, weight_decay=30.0, learning_rate=1e-3, disable_tqdm=True,
        )  # fmt: skip
        trainer = SentenceTransformerTrainer(
            model=model, args=arguments, train_dataset=data, loss=losses.MultipleNegativesRankingLoss(model)
        )
        trainer.train()
        steps = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        found[name] = np.array(steps), model.encode(programs.SENTENCES)
    assert len(found["minitrans"][0]) == 4
    for ours, theirs in zip(found["minitrans"], found["transformers"], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5)


# What torch does with a model's tensors


def trained(model: torch.nn.Module, kind: str, steps: int = 2) -> torch.Tensor:
    """The model's answer after some steps towards zero."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for _ in range(steps):
        model.train()
        optimizer.zero_grad()
        out = model(**programs_inputs(kind), return_dict=False)[0]
        out.float().square().mean().backward()
        optimizer.step()
    return answer(model, kind)


def programs_inputs(kind: str) -> dict[str, torch.Tensor]:
    from test_programs import inputs_of

    return inputs_of(kind)


@pytest.fixture(scope="module")
def group(tmp_path_factory: Any) -> Any:
    """One process that is a group by itself."""
    dist.init_process_group(
        "gloo", init_method=f"file://{tmp_path_factory.mktemp('group')}/store", rank=0, world_size=1
    )
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("kind", KINDS)
def test_distributed_wrappers(kind, start, group):
    ours, options = getattr(minitrans, kind), {"apply_spec_augment": False} if "Wav" in kind else {}
    published = ours.from_pretrained(start(kind), **options).state_dict()
    expected = trained(ours.from_pretrained(start(kind), **options), kind)

    wrapped = DistributedDataParallel(ours.from_pretrained(start(kind), **options), find_unused_parameters=True)
    optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.05)
    for _ in range(2):
        optimizer.zero_grad()
        wrapped.train()(**programs_inputs(kind), return_dict=False)[0].square().mean().backward()
        optimizer.step()
    torch.testing.assert_close(answer(wrapped.module, kind), expected, rtol=1e-4, atol=1e-5)
    assert {f"module.{key}" for key in published} == wrapped.state_dict().keys()

    sharded = ours.from_pretrained(start(kind), **options)
    for part in list(sharded.modules()):
        if type(part).__name__ in ("BertLayer", "DistilBertLayer", "SwinLayer", "StableEncoderLayer", "EncoderLayer"):
            fully_shard(part)
    fully_shard(sharded)
    state = get_model_state_dict(sharded)
    assert state.keys() == published.keys()
    torch.testing.assert_close(trained(sharded, kind), expected, rtol=1e-4, atol=1e-5)
    set_model_state_dict(sharded, {key: x * 0 for key, x in get_model_state_dict(sharded).items()})
    assert all((x.full_tensor() == 0).all() for x in sharded.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_distributed_checkpoints_of_whole_models(kind, start):
    first, second = (getattr(library, kind).from_pretrained(start(kind)) for library in LIBRARIES.values())
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.add_(0.01)
    if not kind.startswith("Swin"):  # whose names in transformers' memory are others
        set_model_state_dict(second, get_model_state_dict(first))
        torch.testing.assert_close(answer(second, kind), answer(first, kind), rtol=1e-4, atol=1e-5)
    third = getattr(minitrans, kind).from_pretrained(start(kind))
    second.requires_grad_(False)
    for parameter in second.parameters():
        parameter.mul_(1.1)
    set_model_state_dict(third, get_model_state_dict(second))
    torch.testing.assert_close(answer(third, kind), answer(second, kind))


@pytest.mark.parametrize("kind", KINDS)
def test_functional_calls_and_averages(kind, start):
    ours = getattr(minitrans, kind)
    model, other = ours.from_pretrained(start(kind)), ours.from_pretrained(start(kind))
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.2)
    inputs = programs_inputs(kind)
    for tensors in (dict(other.named_parameters()), other.state_dict()):
        tied = len(tensors) == len(list(model.parameters()))  # a state dict has a copy of what is tied
        found = functional_call(model, tensors, kwargs={**inputs, "return_dict": False}, tie_weights=tied)[0]
        torch.testing.assert_close(found, answer(other, kind), rtol=1e-4, atol=1e-5)

    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.75), use_buffers=True)
    averaged.update_parameters(model)
    averaged.update_parameters(other)
    shadow = copy.deepcopy(model)  # as timm's ModelEma does it
    with torch.no_grad():
        for ema, now in zip(shadow.state_dict().values(), other.state_dict().values(), strict=True):
            ema.copy_(0.75 * ema + 0.25 * now if ema.is_floating_point() else now)
    manual = ours.from_pretrained(start(kind))
    with torch.no_grad():
        for parameter in manual.parameters():
            parameter.mul_(1.05)
    torch.testing.assert_close(answer(averaged.module, kind), answer(manual, kind), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(answer(shadow, kind), answer(manual, kind), rtol=1e-3, atol=1e-4)
    assert (answer(model, kind) - answer(manual, kind)).abs().max() > 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_every_tensor_has_a_storage_of_its_own(kind, start):
    """Programs that save keep one of those that share a storage; copies and other dtypes are joined again."""
    model = getattr(minitrans, kind).from_pretrained(start(kind))
    for one in (model, copy.deepcopy(model), copy.deepcopy(model).bfloat16(), pickle.loads(pickle.dumps(model))):
        storages = [x.untyped_storage() for x in one.state_dict().values()]
        assert len({storage.data_ptr() for storage in storages}) == len(storages)
        assert all(s.nbytes() == x.nbytes for s, x in zip(storages, one.state_dict().values(), strict=True))
        joined = [module.joined() for module in one.modules() if isinstance(module, QueryKeyValue)]
        assert joined
        assert None not in joined
    torch.testing.assert_close(answer(copy.deepcopy(model), kind), answer(model, kind))


def test_a_model_in_shared_memory_stays_there(start):
    """As Hogwild training needs it: what another process changes is seen here."""
    model = minitrans.BertModel.from_pretrained(start("BertModel"))
    expected = answer(model, "BertModel")
    model.share_memory()
    again = pickle.loads(ForkingPickler.dumps(model).tobytes())
    torch.testing.assert_close(answer(again, "BertModel"), expected)
    with torch.no_grad():
        again.encoder.layer[0].attention.self.key.weight.zero_()
    assert (model.encoder.layer[0].attention.self.key.weight == 0).all()
    assert all(parameter.is_shared() for parameter in model.parameters())


@pytest.mark.parametrize("layer", ["embeddings", "embeddings.word_embeddings", "encoder.layer.0.attention.self.value"])
def test_captum_attributes_to_layers(layer, start):
    found = []
    ids = torch.arange(5, 14)[None]
    for library in LIBRARIES.values():
        model = library.BertForSequenceClassification.from_pretrained(start("BertForSequenceClassification")).eval()
        module = model.bert.get_submodule(layer)
        method = LayerIntegratedGradients(lambda ids, model=model: model(ids).logits[:, 0], module)
        found.append(method.attribute(ids, baselines=torch.zeros_like(ids), n_steps=8))
    assert found[1].shape == (1, 9, 32)
    torch.testing.assert_close(found[1], found[0], rtol=1e-3, atol=1e-5)
