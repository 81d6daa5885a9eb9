"""Checkpoint folders against processes that die, save and load at random, and against random tensors and indices.

Every folder and model that is accepted is compared with what the generator wrote, read by the safetensors library.
"""

import errno
import json
import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from checkpoints import reference
from safetensors import safe_open
from safetensors.torch import load_file, save, save_file
from test_saving import at_call, edit, files, model_of, numbers, values_in

import minitrans

SIZES = ["50GB", "20KB"]
# What saving does to a folder, in which it can be stopped; each is called several times in a save.
STEPS = ["os.fsync", "os.link", "os.replace", "Path.rename", "Path.mkdir", "Path.unlink", "shutil.rmtree"]


def one_sentence(error: BaseException) -> None:
    assert "\n" not in str(error)
    assert str(error).endswith(".")


def started(job: Callable[[], Any]) -> int:
    """The id of a process of its own that does it until it is killed."""
    child = os.fork()
    if child == 0:
        try:
            while True:
                job()
        finally:
            os._exit(1)
    return child


def killed(child: int) -> int:
    os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def two_models() -> list[Any]:
    """Of other numbers and another configuration."""
    return [model_of("Bert", float(value), layer_norm_eps=value * 1e-6) for value in (1, 2)]


def alternating(models: list[Any], folder: Path, *sizes: str) -> Callable[[], Any]:
    """Save one model, then another, in layouts by turns."""
    turns = 0

    def save() -> None:
        nonlocal turns
        models[turns % 2].save_pretrained(folder, max_shard_size=sizes[turns % len(sizes)])
        turns += 1

    return save


def test_kills_at_random_moments(cases, tmp_path):
    """A save runs into `kill -9` after a random time; what opens then is one save, whole, by us and by safetensors."""
    found: Counter[float] = Counter()
    models = two_models()
    for seed in range(cases):
        draw, folder = random.Random(seed), tmp_path / str(seed % 7)
        if not folder.exists():
            models[1].save_pretrained(folder)
        child = started(alternating(models, folder, *(draw.choice(SIZES) for _ in range(3))))
        while not list(folder.glob(".saving-*")):
            time.sleep(0.001)
        time.sleep(draw.uniform(0, 0.1))
        assert killed(child) == -signal.SIGKILL
        model = minitrans.AutoModel.from_pretrained(folder)
        assert not model.load_report.needs_attention
        assert numbers(model) == values_in(folder), seed
        found[model.config.made_with] += 1
    for folder in tmp_path.iterdir():
        model_of("Bert", 3.0).save_pretrained(folder)
        assert not list(folder.glob(".sav*"))
    print(f"{cases} kills: {dict(found)}")


def test_kills_and_errors_at_random_steps(cases, tmp_path, monkeypatch):
    """The same at a random call of a random function; a death leaves one save, and an error changes nothing."""
    done: Counter[str] = Counter()
    model, other = two_models()
    for seed in range(cases):
        draw, folder = random.Random(seed), tmp_path / str(seed)
        model.save_pretrained(folder, max_shard_size=draw.choice(SIZES))
        before = files(folder)
        size, step, number, after = draw.choice(SIZES), draw.choice(STEPS), draw.randint(1, 9), draw.random() < 0.5
        dies = draw.random() < 0.5

        def act(dies: bool = dies) -> None:
            if dies:
                os.kill(os.getpid(), signal.SIGKILL)
            raise OSError(errno.EIO, "Input/output error")

        with monkeypatch.context() as patch:
            at_call(patch, step, number, act, after)
            child = started(lambda folder=folder, size=size: save_and_leave(other, folder, size))
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status in ((-signal.SIGKILL, 0) if dies else (0, 1)), (seed, status)
        if status == 1 and values_in(folder) == {1.0}:  # it failed, and not after the last step
            assert files(folder) == before, seed
        again = minitrans.AutoModel.from_pretrained(folder)
        assert numbers(again) == values_in(folder), seed
        assert status != 0 or values_in(folder) == {2.0}, seed
        done[f"{'died' if status < 0 else 'failed' if status else 'went through'}, {again.config.made_with}"] += 1
        shutil.rmtree(folder)
    print(f"{cases} steps: {dict(done)}")


def save_and_leave(model: Any, folder: Path, size: str) -> None:
    model.save_pretrained(folder, max_shard_size=size)
    os._exit(0)


def test_loads_under_a_saver(cases, tmp_path):
    """Every load beside a process that saves all the time is of one save, and none fails."""
    found: Counter[float] = Counter()
    models = two_models()
    models[0].save_pretrained(tmp_path)
    child = started(alternating(models, tmp_path, SIZES[0], SIZES[1], SIZES[0]))
    try:
        for seed in range(cases):
            kind = random.Random(seed).choice([minitrans.AutoModel, minitrans.BertModel])
            model = kind.from_pretrained(tmp_path)
            assert not model.load_report.needs_attention, seed
            assert len(numbers(model)) == 1, seed
            assert model.config.layer_norm_eps == model.config.made_with * 1e-6, seed
            found[model.config.made_with] += 1
    finally:
        killed(child)
    print(f"{cases} loads: {dict(found)}")


@pytest.mark.parametrize("kind", ["BertTokenizer", "Wav2Vec2CTCTokenizer"])
def test_tokenizers_under_a_saver(kind, cases, tmp_path):
    """A vocabulary is never read with the settings of another."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "<pad>", "<s>", "</s>", "<unk>", "|", "a", "b", "c"]
    tokenizers = []
    for size in (len(words) - 2, len(words)):
        folder = tmp_path / str(size)
        folder.mkdir()
        (folder / "vocab.txt").write_text("\n".join(words[:size]))
        (folder / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words[:size])}))
        tokenizers.append(getattr(minitrans, kind).from_pretrained(folder, model_max_length=size))
    tokenizers[0].save_pretrained(tmp_path)
    turns = iter(range(10**9))
    child = started(lambda: tokenizers[next(turns) % 2].save_pretrained(tmp_path))
    found: Counter[int] = Counter()
    try:
        for seed in range(cases):
            source = random.Random(seed).choice([minitrans.AutoTokenizer, getattr(minitrans, kind)])
            tokenizer = source.from_pretrained(tmp_path)
            assert tokenizer.model_max_length == len(tokenizer), seed
            found[len(tokenizer)] += 1
    finally:
        killed(child)
    print(f"{cases} loads: {dict(found)}")


def test_loads_under_a_saver_of_another_library(cases, tmp_path):
    """transformers writes into the files that are there: one save, or an error, in one sentence, that it changed."""
    models = [transformers.BertModel(transformers.BertConfig(**model_of("Bert", 0.0).config.to_dict())) for _ in "ab"]
    for value, model in enumerate(models):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(float(value))
    models[0].save_pretrained(tmp_path)
    turns = iter(range(10**9))
    child = started(lambda: models[next(turns) % 2].save_pretrained(tmp_path))
    done: Counter[str] = Counter()
    try:
        for seed in range(cases):
            try:
                model = minitrans.AutoModel.from_pretrained(tmp_path)
            except (ValueError, OSError) as error:
                one_sentence(error)
                done["refused"] += 1
                continue
            assert len({x for parameter in model.parameters() for x in parameter.detach().unique().tolist()}) == 1, (
                seed
            )
            done["accepted"] += 1
    finally:
        killed(child)
    print(f"{cases} loads: {dict(done)}")


def test_loads_of_a_file_that_is_written_over_all_the_time(cases, tmp_path):
    """In place, as fast as can be, with the same size: never two writings mixed."""
    model_of("Bert", 1.0).save_pretrained(tmp_path)
    path, contents = tmp_path / "model.safetensors", []
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    for value in (1.0, 2.0):
        state = {name: torch.full_like(tensor, value) for name, tensor in load_file(path).items()}
        contents.append(save(state, metadata))
    turns, pause = iter(range(10**9)), random.Random(0)

    def write() -> None:
        with path.open("r+b") as stream:
            stream.write(contents[next(turns) % 2])
        time.sleep(0.2 if pause.random() < 0.03 else 0)

    child, done = started(write), Counter()
    try:
        for seed in range(cases):
            try:
                model = minitrans.AutoModel.from_pretrained(tmp_path)
            except ValueError as error:
                one_sentence(error)
                done["refused"] += 1
                continue
            assert len({x for tensor in model.state_dict().values() for x in tensor.unique().tolist()}) == 1, seed
            done["accepted"] += 1
    finally:
        killed(child)
    assert done["accepted"]
    print(f"{cases} loads: {dict(done)}")


# Random tensors and indices

FLOATS = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
OTHERS = [torch.int8, torch.uint8, torch.int32, torch.int64, torch.bool, torch.uint16, torch.float8_e4m3fn,
          torch.float8_e5m2, torch.complex64]  # fmt: skip


def test_random_tensors_in_random_shards(cases, tmp_path):
    """Any dtypes in any shards, tensors twice, missing and unknown, numbers that are none.

    What the index names counts, all else is reported, and what is no float is refused where it is used.
    """
    theirs, done = reference("BertModel"), Counter()
    for seed in range(cases):
        draw, folder = random.Random(seed), tmp_path / str(seed)
        theirs.config.save_pretrained(folder)
        state = {name: tensor.clone().to(draw.choice(FLOATS)) for name, tensor in theirs.state_dict().items()}
        names, shards = sorted(state), [f"model-{number}.safetensors" for number in range(draw.randint(1, 4))]
        spoilt = set(draw.sample(names, draw.choice([0, 0, 1, 3])))
        for name in spoilt:
            state[name].view(-1)[draw.randrange(state[name].numel())] = draw.choice([float("nan"), float("inf")])
        quantised = set(draw.sample(names, draw.choice([0, 0, 0, 1, 2])))
        for name in quantised:
            state[name] = state[name].nan_to_num().to(draw.choice(OTHERS))
        missing = set(draw.sample(names, draw.choice([0, 0, 1])))
        place = {name: draw.choice(shards) for name in names}
        parts: dict[str, dict[str, Any]] = {shard: {} for shard in shards}
        strange = {f"unused.{number}": torch.ones(3).to(draw.choice(OTHERS)) for number in range(draw.randint(0, 2))}
        for name in set(names) - missing:
            parts[place[name]][name] = state[name]
        twice = {(name, draw.choice(shards)) for name in draw.sample(names, draw.choice([0, 0, 2]))}
        twice = {(name, shard) for name, shard in twice if shard != place[name] and name not in missing}
        for name, shard in twice:
            parts[shard][name] = torch.full_like(theirs.state_dict()[name], 9.0)
        for name, tensor in strange.items():
            parts[draw.choice(shards)][name] = tensor
        for shard, part in parts.items():
            save_file(part, folder / shard, metadata={"format": "pt"})
        index = {"weight_map": {name: shard for name, shard in place.items() if name not in missing}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        case = (seed, quantised - missing, spoilt, missing, twice, sorted(strange))
        if quantised - missing:
            with pytest.raises(ValueError, match="quantised") as caught:
                minitrans.BertModel.from_pretrained(folder)
            one_sentence(caught.value)
            done["refused"] += 1
            continue
        model, report = minitrans.BertModel.from_pretrained(folder, dtype=torch.float64, output_loading_info=True)
        assert set(report.missing) == missing, case
        assert set(report.not_finite) == spoilt - missing, case
        held = {name: shard for shard, part in parts.items() for name in part if name in strange}
        expected = {f"{name} in {shard}" for name, shard in [*twice, *held.items()]}
        assert set(report.misplaced) == expected, case
        ours = model.published_state_dict()
        for name in set(names) - missing:
            read = load_file(folder / place[name])[name]
            torch.testing.assert_close(ours[name], read.double(), rtol=0, atol=0, equal_nan=True)
        done["accepted"] += 1
        shutil.rmtree(folder)
    print(f"{cases} checkpoints: {dict(done)}")


# Random edits of config.json

HARMLESS: dict[str, list[Any]] = {
    "hidden_dropout_prob": [0.0, 0.5], "attention_probs_dropout_prob": [0.3], "initializer_range": [0.1],
    "classifier_dropout": [0.2, None], "problem_type": ["regression"], "architectures": [["X"], None],
    "bos_token_id": [1, None], "eos_token_id": [3], "use_cache": [False], "note": ["mine", {"a": [1]}],
    "output_attentions": [True], "return_dict": [True], "transformers_version": ["4.1.0"], "dtype": ["float32"],
}  # fmt: skip
DECISIVE: dict[str, list[Any]] = {
    "hidden_act": ["relu", "silu", "gelu_new"], "num_attention_heads": [1, 4, 8], "layer_norm_eps": [1e-5, 1e-3],
    "hidden_size": [64], "num_hidden_layers": [1, 3], "intermediate_size": [32], "vocab_size": [61],
    "type_vocab_size": [1], "max_position_embeddings": [24],
}  # fmt: skip


def test_random_edits_of_a_configuration(cases, tmp_path):
    """One that would change tensors or numbers is refused, and named; any other changes nothing that is computed."""
    model = model_of("Bert", 1.0, hidden_act="gelu").eval()
    model.save_pretrained(tmp_path)
    whole, done = (tmp_path / "config.json").read_bytes(), Counter()
    given = {"input_ids": torch.tensor([[1, 2, 3]])}
    for seed in range(cases):
        draw = random.Random(seed)
        pick = {name: draw.choice(HARMLESS[name]) for name in draw.sample(sorted(HARMLESS), draw.randint(0, 4))}
        wrong = draw.sample(sorted(DECISIVE), draw.choice([0, 0, 1, 2]))
        pick |= {name: draw.choice(DECISIVE[name]) for name in wrong}
        (tmp_path / "config.json").write_bytes(whole)
        edit(tmp_path, **pick)
        if wrong:
            with pytest.raises(ValueError, match="of two saves, or the file was edited") as caught:
                minitrans.AutoModel.from_pretrained(tmp_path)
            one_sentence(caught.value)
            assert any(f" {name} = {pick[name]!r}" in str(caught.value) for name in wrong), (seed, pick)
            done["refused"] += 1
        else:
            again = minitrans.AutoModel.from_pretrained(tmp_path)
            assert torch.equal(again(**given)[0], model(**given)[0]), (seed, pick)
            done["accepted"] += 1
    print(f"{cases} edits: {dict(done)}")
