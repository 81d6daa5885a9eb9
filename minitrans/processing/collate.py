"""Data collators: encoded examples to a padded batch of tensors, as transformers' of the same names make it.

transformers' own collators take this library's tokenizers too; what is not here is used from there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np

from minitrans.processing.encoding import TokenizerBase, check_values, choose
from minitrans.processing.features import gathered, stacked
from minitrans.processing.kinds import Kind, check_kinds, is_whole, or_none, plain, shown

if TYPE_CHECKING:
    from torch import Generator, Tensor

IGNORED = -100  # the label that no loss counts
SEED: dict[str, Kind] = {
    "seed": (or_none(lambda seed: is_whole(seed) and abs(seed) < 2**63), "a whole number or None")
}
TENSORS = {"pt": "pt", "np": "np"}
PAD = "The collators with padding, such as DataCollatorWithPadding, make them equally long."


def default_data_collator(features: list[Any], return_tensors: str = "pt") -> dict[str, Any]:
    """Stack the values of examples, mappings or objects, as tensors ("pt") or arrays ("np"), without padding.

    `label` or `label_ids` become `labels`, of int64 or float32; texts and None are left out. Raises ValueError for
    examples of different keys, and for values of different shapes or that are no numbers.
    """
    choose("return_tensors", return_tensors, TENSORS)
    examples = [_as_mapping(example) for example in features] if isinstance(features, Iterable) else features
    batch: dict[str, Any] = {}
    for name, column in gathered(examples).items():
        if isinstance(column[0], str) or all(value is None for value in column):
            continue
        if name in ("label", "label_ids"):
            batch["labels"] = stacked(name, _labels(name, column), return_tensors, PAD)
        else:
            batch[name] = stacked(name, column, return_tensors, PAD)
    return batch


def _as_mapping(example: Any) -> Any:
    return example if isinstance(example, Mapping) else getattr(example, "__dict__", example)


def _labels(name: str, column: list[Any], kinds: str = "iubf") -> np.ndarray:
    """Labels of examples as int64 or float32; ValueError for what are no numbers of `kinds`."""
    values = stacked(name, plain(column), "np", PAD)
    numbers = np.asarray(plain(column), object).ravel()
    if values.dtype.kind not in kinds or any(isinstance(number, int) and abs(number) >= 2**63 for number in numbers):
        wanted = "numbers" if "f" in kinds else "whole numbers"
        raise ValueError(f"{name} of the examples must be {wanted}, not {shown(column)}.")
    return values.astype(np.float32 if values.dtype.kind == "f" else np.int64)


@dataclass
class DefaultDataCollator:
    """`default_data_collator` as an object."""

    return_tensors: str = "pt"

    def __call__(self, features: list[Any], return_tensors: str | None = None) -> dict[str, Any]:
        """Make a batch of examples."""
        return default_data_collator(features, return_tensors or self.return_tensors)


@dataclass
class DataCollatorWithPadding:
    """Pad examples with the tokenizer (or a feature extractor), whose options the others are; see its `pad`.

    `label` or `label_ids` become `labels`.
    """

    tokenizer: Any
    padding: bool | str = True
    max_length: int | None = None
    pad_to_multiple_of: int | None = None
    return_tensors: str = "pt"

    def __call__(self, features: Sequence[Mapping[str, Any]]) -> Any:
        """Make a batch of examples."""
        batch = self._padded(features)
        for name in ("label", "label_ids"):
            if name in batch:
                batch["labels"] = batch.pop(name)
        return batch

    def _padded(self, features: Any) -> Any:
        options = {"max_length": self.max_length, "pad_to_multiple_of": self.pad_to_multiple_of}
        return self.tokenizer.pad(features, padding=self.padding, return_tensors=self.return_tensors, **options)

    def _split(self, features: Any) -> tuple[dict[str, Any], str, list[Any] | None]:
        """Return the columns of the examples, the name that the labels had among them, and the labels."""
        choose("return_tensors", self.return_tensors, TENSORS)
        columns = {name: plain(column) for name, column in gathered(features).items()}
        if "input_ids" not in columns:
            raise ValueError(f"The examples have no input_ids, only {', '.join(columns)}.")
        name = "label" if "label" in columns else "labels"
        return columns, name, columns.pop(name, None)


@dataclass
class DataCollatorForTokenClassification(DataCollatorWithPadding):
    """Pad examples, and their lists of labels with `label_pad_token_id`, on the tokenizer's side."""

    label_pad_token_id: int = IGNORED
    return_tensors: str = field(default="pt", kw_only=True)

    def __call__(self, features: Sequence[Mapping[str, Any]]) -> Any:
        """Make a batch of examples."""
        columns, name, labels = self._split(features)
        batch = self._padded(columns)
        if labels is not None:
            check_values({**columns, name: labels}, "input_ids", [name])
            length = batch["input_ids"].shape[1]
            right = self.tokenizer.padding_side == "right"
            filled = [[self.label_pad_token_id] * (length - len(ids)) for ids in labels]
            pairs = zip(labels, filled, strict=True)
            rows = [ids + filling if right else filling + ids for ids, filling in pairs]
            batch[name] = stacked(name, _labels(name, rows, "iub"), self.return_tensors, PAD)
        return batch


@dataclass
class DataCollatorForMultipleChoice(DataCollatorWithPadding):
    """Pad the choices of examples, each value a list of choices, to (examples, choices, tokens)."""

    def __call__(self, features: Sequence[Mapping[str, Any]]) -> Any:
        """Make a batch of examples."""
        columns, name, labels = self._split(features)
        count, ids = len(columns["input_ids"]), columns["input_ids"]
        choices = len(ids[0]) if isinstance(ids[0], list) and all(isinstance(choice, list) for choice in ids[0]) else 0
        for key, column in columns.items():
            for number, value in enumerate(column):
                if not isinstance(value, list) or not 0 < len(value) == choices:
                    wanted = (
                        f"{choices} choices, as in input_ids of the first"
                        if choices
                        else "choices, each a list of ids"
                    )
                    raise ValueError(f"{key} of example {number} is {shown(value)}; it must be a list of {wanted}.")
        padded = self._padded(
            {key: [choice for value in column for choice in value] for key, column in columns.items()}
        )
        batch = {key: value.reshape(count, choices, -1) for key, value in padded.items()}
        if labels is not None:
            batch["labels"] = stacked(name, _labels(name, labels, "iub"), self.return_tensors, PAD)
        return batch


@dataclass
class DataCollatorForLanguageModeling:
    """Pad examples and hide tokens: labels are the hidden ones' ids, and -100 elsewhere.

    `mlm_probability` of the tokens that are not special are hidden: `mask_replace_prob` of these become the mask
    token, `random_replace_prob` a random one, the rest stay. `mlm=False` makes labels of all tokens but the padding.
    Random numbers are torch's, or of a generator of its own with `seed` (plus the number of a data loader's worker),
    and the same as transformers draws. Raises ValueError where the tokenizer has no mask token, for numbers that
    are not probabilities, and for whole words and arrays, which transformers' collator gives.
    """

    tokenizer: TokenizerBase
    mlm: bool = True
    whole_word_mask: bool = False
    mlm_probability: float | None = 0.15
    mask_replace_prob: float = 0.8
    random_replace_prob: float = 0.1
    pad_to_multiple_of: int | None = None
    return_tensors: str = "pt"
    seed: int | None = None

    def __post_init__(self) -> None:
        self.generator: Generator | None = None
        if self.whole_word_mask or self.return_tensors != "pt":
            raise ValueError(
                "whole_word_mask=True and arrays are not made here; transformers' DataCollatorForLanguageModeling "
                "takes this tokenizer and makes them."
            )
        if self.mlm and self.tokenizer.mask_token is None:
            raise ValueError("The tokenizer has no mask token, which masked language modelling needs; pass mlm=False.")
        self.seed = plain(self.seed)
        check_kinds({"seed": self.seed}, SEED, "the collator")
        chances = (self.mlm_probability or 0.0, self.mask_replace_prob, self.random_replace_prob)
        if not all(isinstance(chance, Real) and 0 <= chance <= 1 for chance in chances) or chances[1] + chances[2] > 1:
            raise ValueError(
                f"mlm_probability, mask_replace_prob and random_replace_prob are {chances}; each lies between 0 and "
                "1, and the last two are no more than 1 together."
            )

    def __call__(self, features: list[Any]) -> dict[str, Any]:
        """Make a batch of examples, mappings or lists of ids."""
        import torch

        if self.seed is not None and self.generator is None:
            worker = torch.utils.data.get_worker_info()
            self.generator = torch.Generator().manual_seed(self.seed + (worker.id if worker else 0))
        if not isinstance(features, Sequence) or not features:
            raise ValueError(f"The features of a batch are a list of one dict or more, not {shown(features)}.")
        examples = [example if isinstance(example, Mapping) else {"input_ids": example} for example in features]
        batch = dict(self.tokenizer.pad(examples, return_tensors="pt", pad_to_multiple_of=self.pad_to_multiple_of))
        if not isinstance(features[0], Mapping):
            batch.pop("attention_mask", None)
        special = batch.pop("special_tokens_mask", None)
        if self.mlm:
            batch["input_ids"], batch["labels"] = self.torch_mask_tokens(batch["input_ids"], special)
        else:
            batch["labels"] = batch["input_ids"].clone()
            batch["labels"][batch["input_ids"] == self.tokenizer.pad_token_id] = IGNORED
        return batch

    def torch_mask_tokens(self, inputs: Tensor, special_tokens_mask: Any = None) -> tuple[Tensor, Tensor]:
        """Return the ids (B, N) with some hidden, and the labels (B, N); `special_tokens_mask` is 1 where none is."""
        import torch

        labels = inputs.clone()
        if special_tokens_mask is None:
            special_tokens_mask = [self.tokenizer.get_special_tokens_mask(ids) for ids in labels.tolist()]
        chances = torch.full(labels.shape, float(self.mlm_probability or 0.0))
        chances.masked_fill_(torch.as_tensor(special_tokens_mask, dtype=torch.bool), 0.0)
        hidden = torch.bernoulli(chances, generator=self.generator).bool()
        labels[~hidden] = IGNORED
        masked = self._drawn(labels, self.mask_replace_prob) & hidden
        inputs[masked] = self.tokenizer.mask_token_id
        if self.mask_replace_prob < 1 and self.random_replace_prob > 0:
            share = self.random_replace_prob / (1 - self.mask_replace_prob)
            random = self._drawn(labels, share) & hidden & ~masked
            words = torch.randint(len(self.tokenizer), labels.shape, dtype=torch.long, generator=self.generator)
            inputs[random] = words[random]
        return inputs, labels

    def _drawn(self, labels: Tensor, chance: float) -> Tensor:
        import torch

        return torch.bernoulli(torch.full(labels.shape, float(chance)), generator=self.generator).bool()
