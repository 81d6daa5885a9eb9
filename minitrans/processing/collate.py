"""Data collators: encoded examples to a padded batch of tensors, as transformers' of the same names make it.

transformers' own collators take this library's tokenizers too; what is not here is used from there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from minitrans.processing.encoding import TokenizerBase, as_lists

if TYPE_CHECKING:
    from torch import Generator, Tensor

IGNORED = -100  # the label that no loss counts


def default_data_collator(features: list[Any], return_tensors: str = "pt") -> dict[str, Any]:
    """Stack the values of examples, mappings or objects, as tensors ("pt") or arrays ("np"), without padding.

    `label` or `label_ids` become `labels`, of int64 or float32; texts and None are left out.
    """
    examples = [dict(example) if isinstance(example, Mapping) else vars(example) for example in features]
    batch: dict[str, Any] = {}
    for name in examples[0]:
        column = [example[name] for example in examples]
        if column[0] is None or isinstance(column[0], str):
            continue
        if name in ("label", "label_ids"):
            values = np.array([np.asarray(as_lists(value)) for value in column])
            values = values.astype(np.int64 if values.dtype.kind in "iub" else np.float32)
            batch["labels"] = _tensor(values) if return_tensors == "pt" else values
        else:
            batch[name] = _stacked(column, return_tensors)
    return batch


def _stacked(column: list[Any], return_tensors: str) -> Any:
    if return_tensors == "np":
        return np.array([np.asarray(value) for value in column])
    import torch

    if isinstance(column[0], torch.Tensor):
        return torch.stack(column)
    return _tensor(np.stack(column)) if isinstance(column[0], np.ndarray) else torch.tensor(column)


def _tensor(values: np.ndarray) -> Tensor:
    import torch

    return torch.from_numpy(values)


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

    def _padded(self, features: Sequence[Mapping[str, Any]]) -> Any:
        options = {"max_length": self.max_length, "pad_to_multiple_of": self.pad_to_multiple_of}
        return self.tokenizer.pad(features, padding=self.padding, return_tensors=self.return_tensors, **options)

    def _without_labels(
        self, features: Sequence[Mapping[str, Any]]
    ) -> tuple[list[dict[str, Any]], str, list[Any] | None]:
        name = "label" if "label" in features[0] else "labels"
        rest = [{key: value for key, value in example.items() if key != name} for example in features]
        return rest, name, [as_lists(example[name]) for example in features] if name in features[0] else None

    def _as_tensor(self, labels: list[Any]) -> Any:
        values = np.array(labels, dtype=np.int64)
        return _tensor(values) if self.return_tensors == "pt" else values


@dataclass
class DataCollatorForTokenClassification(DataCollatorWithPadding):
    """Pad examples, and their lists of labels with `label_pad_token_id`, on the tokenizer's side."""

    label_pad_token_id: int = IGNORED
    return_tensors: str = field(default="pt", kw_only=True)

    def __call__(self, features: Sequence[Mapping[str, Any]]) -> Any:
        """Make a batch of examples."""
        rest, name, labels = self._without_labels(features)
        batch = self._padded(rest)
        if labels is not None:
            length = batch["input_ids"].shape[1]
            right = self.tokenizer.padding_side == "right"
            filled = [[self.label_pad_token_id] * (length - len(ids)) for ids in labels]
            pairs = zip(labels, filled, strict=True)
            batch[name] = self._as_tensor([ids + filling if right else filling + ids for ids, filling in pairs])
        return batch


@dataclass
class DataCollatorForMultipleChoice(DataCollatorWithPadding):
    """Pad the choices of examples, each value a list of choices, to (examples, choices, tokens)."""

    def __call__(self, features: Sequence[Mapping[str, Any]]) -> Any:
        """Make a batch of examples."""
        rest, _, labels = self._without_labels(features)
        choices = len(rest[0]["input_ids"])
        flat = [
            {name: value[choice] for name, value in example.items()} for example in rest for choice in range(choices)
        ]
        padded = self._padded(flat)
        batch = {name: value.reshape(len(rest), choices, -1) for name, value in padded.items()}
        return {**batch, **({} if labels is None else {"labels": self._as_tensor(labels)})}


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
        chances = (self.mlm_probability or 0.0, self.mask_replace_prob, self.random_replace_prob)
        if not all(0 <= chance <= 1 for chance in chances) or chances[1] + chances[2] > 1:
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
