"""Values of settings in config.json, tokenizer files, processors' files and sentence-transformers folders.

A value is refused by a sentence that names the field and the file, or the answer is transformers' for the same file.
"""

import json
import random
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import transformers
from outcomes import Outcomes

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
