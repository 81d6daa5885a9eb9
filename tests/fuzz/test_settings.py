"""Values of settings in config.json, tokenizer files, processors' files and sentence-transformers folders.

A value is refused by a sentence that names the field and the file, or the answer is transformers' for the same file.
"""

import json
import random
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from families import SIZES as SIZES_OF_FAMILIES
from outcomes import Outcomes
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

import minitrans

VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2, 7, 512, 1.5, -0.5, 1e-9, 1e30, 1e308, float("nan"), float("inf"), -float("inf"),
    10**20, 10**400, -(10**400), "", " ", "x", "[PAD]", "right", "left", "nan", "\ud800", "é", "a\nb", "x" * 300, [],
    [None], [1, 2],
    ["[PAD]"], [[1], [2, 3]], [float("nan")], [10**400], {}, {"a": 1}, {"content": "[PAD]"}, {"content": None},
    {"content": 5}, {"1": "[PAD]"}, {"0": {"content": "[PAD]"}}, {"x": {"content": "y"}}, {"-1": {"content": "y"}},
    {"height": 8, "width": 8}, {"shortest_edge": 8}, [8, 8], [0.5, 0.5, 0.5], [0, 0, 0], {"0": {}}, {"0": None},
    {"99": {"content": "\ud800"}}, [{"content": "[PAD]"}], [["[PAD]"]], {"0": "a", "1": "b"}, {"a": 0, "b": 1},
]  # fmt: skip
TEXT = "Hello wörld, this is A test."
LETTERS = [*"abcdefghijklmnopqrstuvwxyz"]
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{letter}" for letter in LETTERS),
              "hello", "world", "this", "is", "test", ",", "."]  # fmt: skip


def write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


TOKENIZER_KEYS = [
    "do_lower_case", "strip_accents", "tokenize_chinese_chars", "never_split", "model_max_length", "max_len",
    "padding_side", "truncation_side", "model_input_names", "clean_up_tokenization_spaces", "split_special_tokens",
    "added_tokens_decoder", "additional_special_tokens", "extra_special_tokens", "pad_token", "unk_token", "cls_token",
    "sep_token", "mask_token", "bos_token", "image_token", "tokenizer_class", "name_or_path", "auto_map",
    "return_attention_mask", "special_tokens_map_file", "chat_template", "added_tokens.json",
    "special_tokens_map.json",
]  # fmt: skip


def named(key: str, value: Any) -> set[str]:
    """What a refusal must name: the key, where it is of this file and the file can be read."""
    return {key} - {"tokenizer_class", "added_tokens.json"} if "\\ud800" not in ascii(value) else set()


def same_tokens(folder: Path, ours: Any) -> bool:
    """Whether transformers, where it can read the folder, gives the same ids."""
    mine = ours(TEXT)["input_ids"]
    try:
        theirs = transformers.AutoTokenizer.from_pretrained(folder)(TEXT)["input_ids"]
    except Exception:
        return bool(mine)
    return mine == theirs


@pytest.mark.parametrize("form", ["vocab.txt", "tokenizer.json"])
def test_tokenizers(tmp_path: Path, cases: int, form: str) -> None:
    rng, outcomes = random.Random(form), Outcomes(f"tokenizer settings beside {form}")
    for number in range(cases):
        folder = tmp_path / str(number)
        folder.mkdir()
        write(folder / "config.json", {"model_type": "bert"})
        (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
        if form == "tokenizer.json":
            minitrans.BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder, legacy_format=False)
        key, value = rng.choice(TOKENIZER_KEYS), rng.choice(VALUES)
        if key.endswith(".json"):
            write(folder / key, value)
        else:
            write(folder / "tokenizer_config.json", {"tokenizer_class": "BertTokenizer", key: value})

        def load(folder: Path = folder) -> Any:
            tokenizer = minitrans.AutoTokenizer.from_pretrained(folder)
            tokenizer([TEXT, TEXT * 3], padding=True, truncation=True, return_tensors="np")
            tokenizer.save_pretrained(folder / "saved")
            return tokenizer

        outcomes.judge((key, value), load, partial(same_tokens, folder), *named(key, value))
    outcomes.check()


@pytest.mark.parametrize("family", SIZES_OF_FAMILIES)
def test_configurations(tmp_path: Path, cases: int, family: str) -> None:
    """What is accepted makes the tensors that transformers makes of it, where that takes the file."""
    rng, outcomes = random.Random(family), Outcomes(f"values in config.json of {family}")
    config = getattr(minitrans, f"{family}Config")(**SIZES_OF_FAMILIES[family])
    values = json.loads(config.to_json_string(use_diff=False))
    for _ in range(cases):
        changed = {key: rng.choice(VALUES) for key in rng.sample(sorted(values), rng.choice([1, 1, 1, 2]))}
        write(tmp_path / "config.json", {**values, **changed})

        def load() -> Any:
            with torch.device("meta"):
                return minitrans.AutoModel.from_config(minitrans.AutoConfig.from_pretrained(tmp_path))

        outcomes.judge(changed, load, partial(same_shapes, tmp_path))
    outcomes.check()


def same_shapes(folder: Path, ours: Any) -> bool:
    """Whether transformers, where it makes a model of the file, makes one with the same tensors."""
    try:
        with torch.device("meta"):
            theirs = transformers.AutoModel.from_config(transformers.AutoConfig.from_pretrained(folder))
    except Exception:
        return True
    there = {name: tuple(tensor.shape) for name, tensor in theirs.state_dict().items()}
    here = {name: tuple(tensor.shape) for name, tensor in ours.published_state_dict().items()}
    return all(there.get(name, shape) == shape for name, shape in here.items())


IMAGE_KEYS = ["do_resize", "size", "resample", "do_center_crop", "crop_size", "do_rescale", "rescale_factor",
              "do_normalize", "image_mean", "image_std", "do_convert_rgb", "default_to_square", "data_format",
              "input_data_format", "image_processor_type", "do_pad"]  # fmt: skip
SOUND_KEYS = [
    "sampling_rate",
    "feature_size",
    "padding_value",
    "return_attention_mask",
    "do_normalize",
    "padding_side",
]
PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
SAMPLES = np.random.default_rng(0).normal(size=(2, 4000)).astype(np.float32)


def processed(kind: Any, folder: Path) -> np.ndarray:
    """What a processor makes of one input."""
    processor = kind.from_pretrained(folder)
    if "image" in kind.__name__.lower():
        return np.asarray(processor(PIXELS, return_tensors="np")["pixel_values"][0])
    rate = processor.sampling_rate
    return np.asarray(processor(list(SAMPLES), sampling_rate=rate, return_tensors="np", padding=True)["input_values"])


def same_values(kind: Any, folder: Path, ours: np.ndarray) -> bool:
    """Whether transformers, where it can read the file, gives the same values."""
    try:
        theirs = processed(kind, folder)
    except Exception:
        return bool(np.isfinite(ours).all())
    return ours.shape == theirs.shape and np.allclose(ours, theirs, rtol=1e-4, atol=2e-3, equal_nan=True)


@pytest.mark.parametrize("kind", ["ViTImageProcessor", "Wav2Vec2FeatureExtractor"])
def test_processors(tmp_path: Path, cases: int, kind: str) -> None:
    rng, outcomes = random.Random(kind), Outcomes(f"values in preprocessor_config.json of a {kind}")
    keys, theirs = (
        (IMAGE_KEYS, ViTImageProcessorPil)
        if kind.startswith("ViT")
        else (SOUND_KEYS, transformers.Wav2Vec2FeatureExtractor)
    )
    for _ in range(cases):
        key, value = rng.choice(keys), rng.choice(VALUES)
        write(tmp_path / "preprocessor_config.json", {key: value})
        ours = partial(processed, getattr(minitrans, kind), tmp_path)
        outcomes.judge((key, value), ours, partial(same_values, theirs, tmp_path))
    outcomes.check()


FOLDER = {
    "modules.json": (None,),
    "1_Pooling/config.json": ("pooling_mode", "pooling_mode_mean_tokens", "include_prompt"),
    "config_sentence_transformers.json": ("prompts", "default_prompt_name", "similarity_fn_name"),
    "sentence_bert_config.json": ("max_seq_length", "do_lower_case"),
}


def test_sentence_transformers_folders(minilm: Path, tmp_path: Path, cases: int, monkeypatch: Any) -> None:
    """What is accepted gives finite vectors of length 1, as the folder's own."""
    rng, outcomes = random.Random(0), Outcomes("values in a sentence-transformers folder")
    loaded = minitrans.Embedder.from_pretrained(minilm).model
    monkeypatch.setattr(minitrans.Embedder, "load_model", classmethod(lambda *_, **__: loaded))
    folder = tmp_path / "model"
    shutil.copytree(minilm, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    for _ in range(cases):
        file = rng.choice(sorted(FOLDER))
        key, value = rng.choice(FOLDER[file]), rng.choice(VALUES)
        before = (folder / file).read_text() if (folder / file).exists() else "{}"
        (folder / file).parent.mkdir(exist_ok=True)
        write(folder / file, value if key is None else {**json.loads(before), key: value})
        try:
            outcomes.judge(
                (file, key, value),
                lambda: minitrans.Embedder.from_pretrained(folder).encode([TEXT, "other"]),
                lambda found: bool(np.isfinite(found).all()),
            )
        finally:
            (folder / file).write_text(before) if before != "{}" else (folder / file).unlink()
    outcomes.check()
