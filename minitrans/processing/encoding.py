"""What every tokenizer shares: the dict it returns, special tokens by their role, padding, loading and saving."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import tokenizers
from tokenizers import AddedToken

from minitrans import hub
from minitrans.processing.features import BatchFeature, Likeness, gathered
from minitrans.processing.kinds import (
    Kind,
    check_kinds,
    each,
    is_bool,
    is_text,
    is_whole,
    or_none,
    plain,
    shown,
    whole,
)
from minitrans.utils.logging import warn_once

if TYPE_CHECKING:
    from tokenizers import Encoding
    from typing_extensions import Self

logger = logging.getLogger(__name__)

ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
SETTINGS = (
    *ROLES, "additional_special_tokens", "extra_special_tokens", "model_max_length", "padding_side", "truncation_side",
    "model_input_names", "clean_up_tokenization_spaces", "split_special_tokens",
)  # fmt: skip
MOST_IDS = 10**7  # of a vocabulary: a file has a line for each
MOST_TOKENS = 10**6  # that padding adds to the longest text
PADDING = {True: "longest", "longest": "longest", "max_length": "max_length", False: None, "do_not_pad": None}
TRUNCATION = {
    True: "longest_first", "longest_first": "longest_first", "only_first": "only_first", "only_second": "only_second",
    False: None, None: None, "do_not_truncate": None,
}  # fmt: skip
SIDES = {"left": "left", "right": "right"}
SIDED = ("padding_side", "truncation_side")
NO_SEQUENCE = str | bytes | Mapping | Set  # which can be gone through, and is no sequence of ids
TENSORS = {None: None, "np": "np", "pt": "pt"}
TARGETED = ("text", "text_pair", "text_target", "text_pair_target", "max_target_length")
NO_LIMIT = int(1e30)  # the published spelling of "no maximum length"
UNLIMITED = 2**63  # from here on a number is not a limit, as 1e20 and infinity
CLEAN_UP = (
    (" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"),
    (" n't", "n't"), (" 'm", "'m"), (" 's", "'s"), (" 've", "'ve"), (" 're", "'re"),
)  # fmt: skip


class CharSpan(NamedTuple):
    """Characters `start` to `end` (exclusive) of the text."""

    start: int
    end: int


class TokenSpan(NamedTuple):
    """Tokens `start` to `end` (exclusive) of the encoded sequence."""

    start: int
    end: int


class BatchEncoding(BatchFeature):
    """A dict of token ids, masks and so on, whose values can also be read as attributes: `model(**encoding)`.

    It keeps the `encodings` of the `tokenizers` library, which know the characters and words of each token.
    """

    def __init__(
        self, data: Mapping[str, Any] | None = None, encoding: Encoding | Sequence[Encoding] | None = None,
        tensor_type: str | None = None, prepend_batch_axis: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(data)
        self.encodings = [encoding] if isinstance(encoding, tokenizers.Encoding) else encoding
        self.convert_to_tensors(tensor_type, prepend_batch_axis)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (dict(self), self.encodings)

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            return super().__getitem__(key)
        if self.encodings is not None:
            return self.encodings[key]
        if isinstance(key, slice):
            return {name: value[key] for name, value in self.items()}
        raise KeyError(f"{key!r}: this encoding has the keys {', '.join(self)} and no sequences to count.")

    @property
    def is_fast(self) -> bool:
        """Whether the words and characters of the tokens are known."""
        return self.encodings is not None

    @property
    def n_sequences(self) -> int | None:
        """The number of texts in a sequence: 2 for pairs; None where it is not known."""
        return self.encodings[0].n_sequences if self.encodings else None

    def convert_to_tensors(
        self, tensor_type: str | None = None, prepend_batch_axis: bool = False, *, advice: str = ""
    ) -> Self:
        """Make a tensor ("pt") or array ("np") of each value, in place, `prepend_batch_axis` with one more axis.

        Sequences of unequal length become a numpy array of objects; for tensors they raise ValueError.
        """
        for name, value in self.items() if tensor_type else ():
            if isinstance(value, list) and (not value or isinstance(value[0], int | list)):
                with suppress(ValueError):  # sequences of unequal length, for which the base class has the sentence
                    array = np.array(value)
                    if array.dtype.kind == "i" or array.size == 0:
                        self[name] = array.astype(np.int64, copy=False)
        advice = advice or "Pass padding=True, and truncation=True for the long ones."
        return super().convert_to_tensors(tensor_type, prepend_batch_axis, advice=advice)

    def tokens(self, batch_index: int = 0) -> list[str]:
        """Return the tokens of a sequence as text."""
        return self._sequences()[batch_index].tokens

    def word_ids(self, batch_index: int = 0) -> list[int | None]:
        """Return the word of each token of a sequence."""
        return self._sequences()[batch_index].word_ids

    def sequence_ids(self, batch_index: int = 0) -> list[int | None]:
        """Return the text that each token of a sequence comes from: 0, or 1 for the second of a pair."""
        return self._sequences()[batch_index].sequence_ids

    # One index is that of a token, word or character in the first sequence; with two, the first is the sequence's. A
    # word or character index counts from 0 in its text, which is the second of a pair with `sequence_index=1`; a
    # negative token index counts from the end. None stands for special tokens and padding.

    def token_to_sequence(self, batch_or_token_index: int, token_index: int | None = None) -> int | None:
        """Return the text that a token comes from: 0, or 1 for the second of a pair."""
        return self._found("token_to_sequence", batch_or_token_index, token_index)

    def token_to_word(self, batch_or_token_index: int, token_index: int | None = None) -> int | None:
        """Return the word that a token belongs to."""
        return self._found("token_to_word", batch_or_token_index, token_index)

    def token_to_chars(self, batch_or_token_index: int, token_index: int | None = None) -> CharSpan | None:
        """Return the characters that a token was made of."""
        return self._found("token_to_chars", batch_or_token_index, token_index, kind=CharSpan)

    def word_to_tokens(
        self, batch_or_word_index: int, word_index: int | None = None, sequence_index: int = 0
    ) -> TokenSpan | None:
        """Return the tokens that a word became."""
        return self._found("word_to_tokens", batch_or_word_index, word_index, sequence_index, kind=TokenSpan)

    def word_to_chars(
        self, batch_or_word_index: int, word_index: int | None = None, sequence_index: int = 0
    ) -> CharSpan | None:
        """Return the characters of a word."""
        return self._found("word_to_chars", batch_or_word_index, word_index, sequence_index, kind=CharSpan)

    def char_to_token(
        self, batch_or_char_index: int, char_index: int | None = None, sequence_index: int = 0
    ) -> int | None:
        """Return the token that a character went into; None for white space."""
        return self._found("char_to_token", batch_or_char_index, char_index, sequence_index)

    def char_to_word(
        self, batch_or_char_index: int, char_index: int | None = None, sequence_index: int = 0
    ) -> int | None:
        """Return the word that a character belongs to; None for white space."""
        return self._found("char_to_word", batch_or_char_index, char_index, sequence_index)

    def _found(self, method: str, first: int, second: int | None, *sequence_index: int, kind: Any = None) -> Any:
        number, index = (0, first) if second is None else (first, second)
        encoding = self._sequences()[number]
        if not sequence_index and index < 0:
            index += len(encoding)
        found = getattr(encoding, method)(index, *sequence_index)
        return kind(*found) if kind and found is not None else found

    def _sequences(self) -> Sequence[Encoding]:
        if self.encodings is None:
            raise ValueError("This encoding holds ids only; words and characters are known where text was tokenized.")
        return self.encodings


def special_token(role: str) -> property:
    """Return the attribute `cls_token` of a tokenizer: its text, or None; set it to a token of the vocabulary."""
    return property(lambda self: self._special.get(role), lambda self, token: self._assign({role: token}))


def special_id(role: str) -> property:
    """Return the attribute `cls_token_id` of a tokenizer: its id, or None; set it to an id of the vocabulary."""

    def read(self: TokenizerBase) -> int | None:
        return self._token_to_id(self._special[role]) if role in self._special else None

    def write(self: TokenizerBase, index: int | None) -> None:
        index = plain(index)
        token = self._id_to_token(index) if is_whole(index) else None
        if index is not None and token is None:
            raise ValueError(f"{role}_id={shown(index)} is not an id of the vocabulary of {len(self)} tokens.")
        self._assign({role: token})

    return property(read, write)


class TokenizerBase(Likeness, hub.Saved):
    """Special tokens, ids, padding and files of a tokenizer; subclasses add the way from text to ids and back.

    `settings` are the keys of tokenizer_config.json. A subclass gives `_token_to_id`, `_id_to_token`, `get_vocab`,
    `added_tokens_decoder`, `add_tokens`, `decode`, `_write` (its files beside the settings) and `_write_vocabulary`,
    and calls `_check_special_tokens` when its vocabulary stands.
    """

    inputs: ClassVar[tuple[str, ...]] = ("input_ids", "attention_mask")
    shown_as = ("transformers.tokenization_utils_base", "PreTrainedTokenizerBase")
    pad_token_type_id = 0

    bos_token, bos_token_id = special_token("bos_token"), special_id("bos_token")
    eos_token, eos_token_id = special_token("eos_token"), special_id("eos_token")
    unk_token, unk_token_id = special_token("unk_token"), special_id("unk_token")
    sep_token, sep_token_id = special_token("sep_token"), special_id("sep_token")
    pad_token, pad_token_id = special_token("pad_token"), special_id("pad_token")
    cls_token, cls_token_id = special_token("cls_token"), special_id("cls_token")
    mask_token, mask_token_id = special_token("mask_token"), special_id("mask_token")

    def __init__(self, settings: Mapping[str, Any], name_or_path: str = "") -> None:
        settings = check_settings(settings, name_or_path or "the tokenizer")
        self.name_or_path = name_or_path
        self._settings = settings
        self._special = {name: token_text(token) for name, token in named_tokens(settings).items()}
        self._extra = [token_text(token) for token in extra_tokens(settings)]
        self._warned: set[str] = set()
        self.deprecation_warnings: dict[str, bool] = {}  # scripts silence transformers' warnings here
        limit: Any = settings.get("model_max_length", settings.get("max_len"))
        self.model_max_length: int = limit
        self.padding_side = settings.get("padding_side") or "right"
        self.truncation_side = settings.get("truncation_side") or "right"
        self.model_input_names: list[str] = settings.get("model_input_names") or []
        self.clean_up_tokenization_spaces = bool(settings.get("clean_up_tokenization_spaces", False))

    def __setattr__(self, name: str, value: Any) -> None:
        """Take a setting that a file may have; TypeError or ValueError, as for a file's, where its value is wrong."""
        if name in KINDS and not isinstance(getattr(type(self), name, None), property):
            value = check_settings({name: value}, f"the {type(self).__name__}")[name]
        if name == "model_input_names":
            value = list(value or self.inputs)
        if name == "model_max_length":
            value = NO_LIMIT if value is None or value >= UNLIMITED else int(value)
        super().__setattr__(name, choose(name, value, SIDES) if name in SIDED else value)

    __call__: Callable[..., BatchEncoding]  # encodes a text, a pair of texts, or a batch of either

    def encode_plus(self, text: Any, text_pair: Any = None, **options: Any) -> BatchEncoding:
        """A call, by its name for one text before transformers 5."""
        return self(text, text_pair, **options)

    def batch_encode_plus(self, batch_text_or_text_pairs: Any, **options: Any) -> BatchEncoding:
        """A call, by its name for a batch before transformers 5."""
        return self(batch_text_or_text_pairs, **options)

    @contextmanager
    def as_target_tokenizer(self) -> Iterator[None]:
        """Hold nothing: BERT's and Wav2Vec2's tokenizers encode targets as they encode any text."""
        yield

    @staticmethod
    def clean_up_tokenization(out_string: str) -> str:
        """Take out the spaces before punctuation and English contractions."""
        return clean_up(out_string)

    def _with_target(self, arguments: dict[str, Any]) -> BatchEncoding:
        """Encode for a call that has a `text_target`: its `input_ids` are the `labels` of `text`, or come alone."""
        options = {name: value for name, value in arguments.items() if name != "self"}
        text, pair, target, target_pair, target_length = (options.pop(name) for name in TARGETED)
        limit = options["max_length"] if target_length is None else target_length
        labels = self(target, target_pair, **{**options, "max_length": limit})
        if text is None:
            return labels
        encoded = self(text, pair, **options)
        encoded["labels"] = labels["input_ids"]
        return encoded

    def _token_to_id(self, token: str) -> int | None:
        raise NotImplementedError

    def _id_to_token(self, index: int) -> str | None:
        raise NotImplementedError

    def _write(self, folder: Path, legacy_format: bool | None) -> None:
        raise NotImplementedError

    def _write_vocabulary(self, folder: Path) -> None:
        raise NotImplementedError

    def __getattr__(self, name: str) -> Any:
        """Return a special token, or its id, that only this checkpoint names: `image_token`, `image_token_id`."""
        special = self.__dict__.get("_special", {})  # there is none while a copy is being made
        if name in special:
            return special[name]
        if name.removesuffix("_id") in special:
            return self._token_to_id(special[name.removesuffix("_id")])
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}.")

    def get_vocab(self) -> dict[str, int]:
        """Return every token, added ones included, with its id."""
        raise NotImplementedError

    def decode(
        self, token_ids: Any, skip_special_tokens: bool = False, clean_up_tokenization_spaces: bool | None = None
    ) -> Any:
        """Return the text of one sequence of ids, or the list of texts of a batch."""
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self.get_vocab())

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.name_or_path!r}, {len(self)} tokens, "
            f"model_max_length={self.model_max_length}, padding_side={self.padding_side!r}, "
            f"truncation_side={self.truncation_side!r}, {self.special_tokens_map})"
        )

    @property
    def added_tokens_decoder(self) -> dict[int, AddedToken]:
        """The added tokens and special tokens by id."""
        raise NotImplementedError

    def get_added_vocab(self) -> dict[str, int]:
        """Return the added tokens and special tokens with their ids."""
        return {token.content: index for index, token in self.added_tokens_decoder.items()}

    @property
    def added_tokens_encoder(self) -> dict[str, int]:
        """The added tokens and special tokens with their ids."""
        return self.get_added_vocab()

    @property
    def init_kwargs(self) -> dict[str, Any]:
        """The settings that the tokenizer was made with: the keys of tokenizer_config.json."""
        return dict(self._settings)

    @property
    def max_len_single_sentence(self) -> int:
        """How many tokens of one text the model takes beside the special ones."""
        return self.model_max_length - self.num_special_tokens_to_add(pair=False)

    @property
    def max_len_sentences_pair(self) -> int:
        """How many tokens of a pair of texts the model takes beside the special ones."""
        return self.model_max_length - self.num_special_tokens_to_add(pair=True)

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """Return how many special tokens a call puts around a text, or around a pair of texts."""
        raise NotImplementedError

    def add_tokens(self, new_tokens: Any, special_tokens: bool = False) -> int:
        """Add tokens (text or AddedToken) and return how many."""
        raise NotImplementedError

    def add_special_tokens(
        self, special_tokens_dict: Mapping[str, Any], replace_extra_special_tokens: bool = True
    ) -> int:
        """Add special tokens, by name or as a list under `extra_special_tokens`; return how many."""
        named = dict(special_tokens_dict)
        lists = [named.pop(name, ()) for name in ("extra_special_tokens", "additional_special_tokens")]
        if wrong := [tokens for tokens in lists if not isinstance(tokens, list | tuple)]:
            raise TypeError(f"Special tokens without a name are given as a list, not as {wrong[0]!r:.80}.")
        extra = [token for tokens in lists for token in tokens]
        known = dict.fromkeys((*ROLES, *self._special))
        if unknown := named.keys() - known.keys():
            raise ValueError(f"{min(unknown)!r} is not a role of a special token; there are {', '.join(known)}.")
        kept = [] if extra and replace_extra_special_tokens else self.extra_special_tokens
        added = self.add_tokens([*named.values(), *extra], special_tokens=True)
        self._assign(named)
        self._extra = list(dict.fromkeys([*kept, *map(token_text, extra)]))
        return added

    @property
    def special_tokens_map(self) -> dict[str, str]:
        """The special tokens by name: `{"cls_token": "[CLS]", ...}`, and a checkpoint's own, as "image_token"."""
        names = dict.fromkeys((*ROLES, *self._special))
        return {name: self._special[name] for name in names if name in self._special}

    @property
    def extra_special_tokens(self) -> list[str]:
        """Special tokens without a name; set them to tokens of the vocabulary."""
        return list(self._extra)

    @extra_special_tokens.setter
    def extra_special_tokens(self, tokens: Iterable[Any] | None) -> None:
        texts = list(map(token_text, tokens or ()))
        for text in texts:
            if self._token_to_id(text) is None:
                raise ValueError(
                    f"{text!r} cannot be a special token: it is not in the vocabulary of {len(self)} tokens; "
                    f"add_special_tokens({{'extra_special_tokens': [{text!r}]}}) adds it."
                )
        self._extra = list(dict.fromkeys(texts))

    additional_special_tokens = extra_special_tokens  # as it was called before transformers 5

    @property
    def extra_special_tokens_ids(self) -> list[int]:
        """The ids of `extra_special_tokens`."""
        return self.convert_tokens_to_ids(self.extra_special_tokens)

    additional_special_tokens_ids = extra_special_tokens_ids

    @property
    def all_special_tokens(self) -> list[str]:
        """Every special token once: those with a name, then the others."""
        return list(dict.fromkeys([*self.special_tokens_map.values(), *self._extra]))

    @property
    def all_special_ids(self) -> list[int]:
        """The ids of `all_special_tokens`."""
        return self.convert_tokens_to_ids(self.all_special_tokens)

    def get_special_tokens_mask(
        self, token_ids_0: Sequence[int], token_ids_1: Sequence[int] | None = None,
        already_has_special_tokens: bool = True,
    ) -> list[int]:  # fmt: skip
        """Return 1 for each id of an encoded sequence that is a special token and 0 for the others."""
        if not already_has_special_tokens or token_ids_1 is not None:
            raise ValueError(
                "The mask is made of one sequence that is encoded already: pass its ids alone, with "
                "already_has_special_tokens=True."
            )
        special = set(self.all_special_ids)
        return [int(index in special) for index in as_ids(token_ids_0)]

    def convert_tokens_to_ids(self, tokens: str | Sequence[str]) -> Any:
        """Return the id of a token, or a list of ids; tokens outside the vocabulary get `unk_token_id`."""
        if isinstance(tokens, Iterable) and not isinstance(tokens, str | Mapping):
            return [self.convert_tokens_to_ids(token) for token in tokens]
        index = self._token_to_id(tokens if isinstance(tokens, str) else token_text(tokens))
        return self.unk_token_id if index is None else index

    def convert_ids_to_tokens(self, ids: int | Iterable[int], skip_special_tokens: bool = False) -> Any:
        """Return the token of an id, or a list of tokens; None for ids outside the vocabulary."""
        ids = plain(ids)
        if is_whole(ids):
            return self._id_to_token(ids)  # type: ignore[arg-type]
        skipped = set(self.all_special_ids) if skip_special_tokens else set()
        return [self._id_to_token(index) for index in as_ids(ids) if index not in skipped]

    def batch_decode(
        self, sequences: Any, skip_special_tokens: bool = False, clean_up_tokenization_spaces: bool | None = None
    ) -> list[str]:
        """Return the texts of a batch of sequences of ids (lists, an array or a tensor)."""
        texts = self.decode(sequences, skip_special_tokens, clean_up_tokenization_spaces)
        return [texts] if isinstance(texts, str) else texts

    def pad(
        self, encoded_inputs: Any, padding: bool | str = True, max_length: int | None = None,
        pad_to_multiple_of: int | None = None, padding_side: str | None = None,
        return_attention_mask: bool | None = None, return_tensors: str | None = None, verbose: bool = True,
    ) -> BatchEncoding:  # fmt: skip
        """Pad what was encoded before: a dict of one sequence or of many, or a list of dicts as a data loader has it.

        Values are lists, arrays or tensors; arrays and tensors come back as such. What the tokenizer makes itself is
        padded (ids, masks, type ids), nothing else. Raises ValueError where there are no ids, different numbers of
        sequences, no padding token, or sequences of different length in what becomes a tensor.
        """
        choose("return_tensors", return_tensors, TENSORS)
        if isinstance(encoded_inputs, Sequence) and not isinstance(encoded_inputs, NO_SEQUENCE):
            encoded_inputs = gathered(encoded_inputs)
        main, fill = self.model_input_names[0], self._padding_values()
        if not isinstance(encoded_inputs, Mapping) or main not in encoded_inputs:
            raise ValueError(f"pad() takes a dict with {main!r} or a list of such dicts, not {shown(encoded_inputs)}.")
        return_tensors = return_tensors or _tensor_type(encoded_inputs[main])
        columns = {name: plain(value) for name, value in encoded_inputs.items()}
        if not isinstance(columns[main], list):
            raise ValueError(f"{main!r} is {shown(columns[main])}; it must be a list of ids, or of such lists.")
        single = not any(isinstance(ids, list) for ids in columns[main])
        if single:
            columns = {name: [values] for name, values in columns.items()}
        sequences = columns[main]
        for name, column in columns.items():
            if not isinstance(column, list) or len(column) != len(sequences):
                raise ValueError(
                    f"{main!r} has {len(sequences)} sequences, but the number of sequences is another in {name!r}: "
                    f"{shown(column)}."
                )
        check_values(columns, main, [name for name in columns if name in fill])
        if return_attention_mask is None:
            return_attention_mask = "attention_mask" in self.model_input_names
        if return_attention_mask and "attention_mask" not in columns:
            columns["attention_mask"] = [[1] * len(ids) for ids in sequences]

        how, _, max_length = self._limits(padding, False, max_length, pad_to_multiple_of)
        if how:
            side = choose("padding_side", padding_side or self.padding_side, SIDES)
            length = padded_length(how, sequences, max_length, pad_to_multiple_of, MOST_TOKENS)
            for name in columns.keys() & fill.keys():
                columns[name] = [_filled(values, length, fill[name], side) for values in columns[name]]
        if single:
            columns = {name: values[0] for name, values in columns.items()}
        advice = f"Padding fills only {', '.join(fill)}; labels of tokens take a collator that fills these too."
        return BatchEncoding(columns).convert_to_tensors(return_tensors, advice=advice if how else "")

    def _padding_values(self) -> dict[str, Any]:
        """Return what `pad` fills with, by the name of the value."""
        return {
            self.model_input_names[0]: self.pad_token_id, "attention_mask": 0,
            "token_type_ids": self.pad_token_type_id, "special_tokens_mask": 1,
        }  # fmt: skip

    def save_pretrained(  # type: ignore[override]
        self, save_directory: str | os.PathLike[str], legacy_format: bool | None = None,
        filename_prefix: str | None = None, push_to_hub: bool = False, repo_id: str | None = None, **push: Any,
    ) -> tuple[str, ...]:  # fmt: skip
        """Write the tokenizer's files to a folder, from which this library and transformers load it again.

        Returns their paths. Files of the same name are replaced together at the end, or not at all. `legacy_format`
        True leaves out tokenizer.json and False the vocabulary beside it; `filename_prefix` stands, with a hyphen,
        before the names of the files, which are then read under that name by nobody. `push_to_hub=True` uploads them
        too, to `repo_id` (by default the folder's name), with the options of `push_to_hub`.
        """
        hub.refuse_without_push(push_to_hub, push)
        write = partial(self.write_files, legacy_format=legacy_format)
        paths = hub.save_files(save_directory, _prefixed(write, filename_prefix))
        if push_to_hub:
            self.push_to_hub(repo_id or Path(save_directory).name, **push)
        return tuple(paths)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload the tokenizer's files to the hub as one commit; `options` are those of `hub.push_folder`."""
        return super().push_to_hub(repo_id, **{"commit_message": "Upload tokenizer", **options})

    def save_vocabulary(
        self, save_directory: str | os.PathLike[str], filename_prefix: str | None = None
    ) -> tuple[str, ...]:
        """Write the vocabulary alone, without settings, into a folder; return the paths of its files."""
        return tuple(hub.save_files(save_directory, _prefixed(self._write_vocabulary, filename_prefix)))

    def write_files(self, folder: Path, legacy_format: bool | None = None) -> None:
        """Write all files into an existing folder; `legacy_format` as in `save_pretrained`."""
        settings = self._current_settings()
        if legacy_format:  # tokens' flags are in tokenizer.json
            settings["added_tokens_decoder"] = {
                str(index): token.__getstate__() for index, token in self.added_tokens_decoder.items()
            }
        _write_json(folder / "tokenizer_config.json", settings)
        _write_json(folder / "special_tokens_map.json", self.special_tokens_map)
        self._write(folder, legacy_format)

    def _current_settings(self) -> dict[str, Any]:
        """Return the keys of tokenizer_config.json as they stand now; tokens' flags are in tokenizer.json."""
        extra = ("added_tokens_decoder", "additional_special_tokens", "extra_special_tokens")
        replaced = (*extra, "name_or_path", "max_len", *ROLES)
        return {
            **{key: value for key, value in self._settings.items() if key not in replaced},
            **{name: self.special_tokens_map.get(name) for name in ROLES if name in self._settings},
            **self.special_tokens_map,
            **({"extra_special_tokens": self._extra} if self._extra else {}),
            "model_max_length": self.model_max_length,
            "model_input_names": self.model_input_names,
            "padding_side": self.padding_side,
            "truncation_side": self.truncation_side,
            "clean_up_tokenization_spaces": self.clean_up_tokenization_spaces,
            "tokenizer_class": type(self).__name__,
        }

    def _assign(self, tokens: Mapping[str, Any]) -> None:
        """Give special tokens their roles, all at once for readers in other threads; ValueError for unknown tokens."""
        texts = {role: None if token is None else token_text(token) for role, token in tokens.items()}
        for role, token in texts.items():
            if token is not None and self._token_to_id(token) is None:
                raise ValueError(
                    f"{token!r} cannot be the {role}: it is not in the vocabulary of {len(self)} tokens; "
                    f"add_special_tokens({{{role!r}: {token!r}}}) adds it."
                )
        special = {**self._special, **texts}
        self._special = {role: token for role, token in special.items() if token is not None}

    def _check_special_tokens(self) -> None:
        """Raise ValueError where a special token has no id, which the settings or the vocabulary file got wrong."""
        missing = {role: token for role, token in self._special.items() if self._token_to_id(token) is None}
        if missing:
            raise ValueError(
                f"The vocabulary ({len(self)} tokens) of {self.name_or_path or type(self).__name__} lacks its special "
                f"tokens {', '.join(f'{role}={token!r}' for role, token in missing.items())}; name the right ones, "
                f"or None for one that is not used: from_pretrained(..., {next(iter(missing))}=None)."
            )

    def _limits(
        self, padding: Any, truncation: Any, max_length: int | None, pad_to_multiple_of: int | None
    ) -> tuple[str | None, str | None, int | None]:
        """Return how to pad, how to truncate and the length for both, after the model's maximum and the checks."""
        max_length = whole("max_length", max_length, 0)
        pad_to_multiple_of = whole("pad_to_multiple_of", pad_to_multiple_of, 1)
        padding, truncation = plain(padding), plain(truncation)
        pad, cut = choose("padding", padding, PADDING), choose("truncation", truncation, TRUNCATION)
        if max_length is not None and padding is False and truncation is None:
            cut = "longest_first"
        if max_length is not None and padding is True and cut is None:
            warn_once("max_length=%d has no effect on padding=True without truncation.", max_length, said=self._warned)
        if max_length is None and (pad == "max_length" or cut):
            if self.model_max_length >= UNLIMITED:
                pad, cut = (None if pad == "max_length" else pad), None
            else:
                max_length = self.model_max_length
        if max_length is not None and max_length >= UNLIMITED:
            cut = None
        if pad and self.pad_token is None:
            raise ValueError("This tokenizer has no padding token; name one: tokenizer.pad_token = '[PAD]'.")
        if pad and cut and max_length is not None and pad_to_multiple_of and max_length % pad_to_multiple_of:
            raise ValueError(f"max_length={max_length} is not a multiple of pad_to_multiple_of={pad_to_multiple_of}.")
        return pad, cut, max_length


PreTrainedTokenizerBase = TokenizerBase  # the published name


def listed(tokens: Any) -> list[Any]:
    """Return the tokens of an iterable, or a list of the one that stands alone."""
    is_one = isinstance(tokens, str | Mapping) or not isinstance(tokens, Iterable)
    return [tokens] if is_one else list(tokens)


def token_text(token: Any) -> str:
    """Return the text of a token: a string, an AddedToken, or the dict that stands for one in JSON."""
    text = token.get("content") if isinstance(token, Mapping) else getattr(token, "content", token)
    if not isinstance(text, str):
        raise TypeError(f"A token is a string or an AddedToken, not {token!r:.80}.")
    if not is_unicode(text):
        raise ValueError(f"The token {text!r:.80} is not Unicode: it has half a surrogate pair.")
    return text


def is_unicode(text: str) -> bool:
    """Whether a text is without halves of surrogate pairs, which no file holds."""
    return not re.search("[\ud800-\udfff]", text)


def named_tokens(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the special tokens that have a name: those of `ROLES`, then a checkpoint's own, such as `image_token`."""
    extra = _unnamed(settings)
    own = {key: value for key, value in settings.items() if key.endswith("_token") and _is_token(value)}
    roles = {role: settings[role] for role in ROLES if settings.get(role) is not None}
    return {**roles, **own, **(extra if isinstance(extra, Mapping) else {})}


def extra_tokens(settings: Mapping[str, Any]) -> list[Any]:
    """Return the special tokens without a name."""
    extra = _unnamed(settings)
    return [] if isinstance(extra, Mapping) else list(filter(_is_token, extra))


def _unnamed(settings: Mapping[str, Any]) -> Any:
    """Return the list of special tokens beside the named ones, under either of its keys; some files name those too."""
    return settings.get("extra_special_tokens") or settings.get("additional_special_tokens") or []


def _is_token(value: Any) -> bool:
    return isinstance(value, str | Mapping) or hasattr(value, "content")


def _has_text(value: Any) -> bool:
    text = value.get("content") if isinstance(value, Mapping) else getattr(value, "content", value)
    return isinstance(text, str)


def _is_length(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and value >= 1 and (value >= UNLIMITED or value == int(value))


def _is_decoder(value: Any) -> bool:
    ids = [re.fullmatch("[0-9]{1,9}", str(index)) for index in value] if isinstance(value, Mapping) else [None]
    return all(ids) and all(map(_has_text, value.values()))


def _are_tokens(value: Any) -> bool:
    return each(_has_text)(value) or (isinstance(value, Mapping) and all(map(_has_text, value.values())))


def _is_box(value: Any) -> bool:
    return each(is_whole)(value) and len(value) == 4


TOKEN = or_none(_has_text), "a token: text, an object with its content, or null"
# What a setting may be, and how that is said.
KINDS: Mapping[str, Kind] = {
    **dict.fromkeys((*ROLES, "word_delimiter_token", "phone_delimiter_token"), TOKEN),
    **dict.fromkeys(("extra_special_tokens", "additional_special_tokens"),
                    (or_none(_are_tokens), "a list of tokens, or an object with tokens")),
    **dict.fromkeys(("model_max_length", "max_len"), (or_none(_is_length), "a whole number from 1, or null")),
    **dict.fromkeys(("model_input_names", "never_split"), (or_none(each(is_text)), "a list of texts, or null")),
    **dict.fromkeys(("do_lower_case", "tokenize_chinese_chars", "do_phonemize", "only_label_first_subword"),
                    (is_bool, "true or false")),
    **dict.fromkeys(("strip_accents", "clean_up_tokenization_spaces", "split_special_tokens", "return_attention_mask"),
                    (or_none(is_bool), "true, false or null")),
    **dict.fromkeys(("replace_word_delimiter_char", "phonemizer_lang", "phonemizer_backend"), (is_text, "text")),
    **dict.fromkeys(("cls_token_box", "sep_token_box", "pad_token_box"), (_is_box, "four whole numbers")),
    "added_tokens_decoder": (or_none(_is_decoder), "an object from ids to tokens, or null"),
    "target_lang": (or_none(is_text), "text or null"),
    "pad_token_label": (is_whole, "a whole number"),
}  # fmt: skip


def check_settings(settings: Mapping[str, Any], whose: str) -> dict[str, Any]:
    """Return settings as a file would hold them; TypeError, with the key, the value and whose, for a wrong one."""
    values: dict[str, Any] = plain(settings)
    own = {key: TOKEN for key, value in values.items() if key.endswith("_token") and isinstance(value, Mapping)}
    check_kinds(values, {**own, **KINDS}, whose)
    return values


def _are_whole(values: list[Any]) -> bool:
    return {int}.issuperset(map(type, values)) and all(-(2**63) <= edge < 2**63 for edge in (min(values), max(values)))


def _are_marks(values: list[Any]) -> bool:
    return {int, bool, float}.issuperset(map(type, values)) and set(values) <= {0, 1}


MARKS: Kind = _are_marks, "1 or 0"
# What the values of a sequence's tokens may be, beside whole numbers.
VALUES: Mapping[str, Kind] = {
    "attention_mask": MARKS, "special_tokens_mask": MARKS, "bbox": (each(_is_box), "four whole numbers"),
}  # fmt: skip


def check_values(columns: Mapping[str, list[Any]], main: str, names: Iterable[str]) -> None:
    """ValueError where a sequence has not one value, of the right kind, for each of its tokens in `main`."""
    for name in (main, *names):
        are_right, wanted = VALUES.get(name, (_are_whole, "a whole number"))
        for number, (values, ids) in enumerate(zip(columns[name], columns[main], strict=True)):
            if not isinstance(values, list) or len(values) != len(ids) or (values and not are_right(values)):
                count = f"each of its {len(ids)} tokens" if isinstance(ids, list) else "each of its tokens"
                raise ValueError(f"{name} of sequence {number} is {shown(values)}; it must have {wanted} for {count}.")


def is_id(value: Any) -> bool:
    """Whether a value is the id of a token."""
    return is_whole(value) and 0 <= value < MOST_IDS


def misfits(vocabulary: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return the part of a vocabulary that is not of tokens with their ids."""
    return {token: index for token, index in vocabulary.items() if not is_text(token) or not is_id(index)}


def check_ids(ids: Iterable[int], whose: str) -> None:
    """ValueError for ids that no vocabulary has."""
    if (highest := max(ids, default=0)) >= MOST_IDS:
        raise ValueError(f"The vocabulary of {whose} has the id {highest}; ids go up to {MOST_IDS - 1}.")


def read_settings(repository: hub.Repository) -> dict[str, Any]:
    """Return the keys of tokenizer_config.json, with what older files say beside it.

    special_tokens_map.json counts where there is no `added_tokens_decoder`; added_tokens.json becomes one.
    """
    settings = _settings_in(repository, "tokenizer_config.json")
    if "added_tokens_decoder" not in settings:
        settings.update(_settings_in(repository, "special_tokens_map.json"))
        if repository.find("added_tokens.json"):
            added = repository.json("added_tokens.json")
            for token, index in added.items():
                if not is_id(index):
                    raise TypeError(
                        f"added_tokens.json of {repository.name} gives {token!r:.80} the id {index!r:.80}; an id is a "
                        f"whole number from 0 to {MOST_IDS - 1}."
                    )
            special = {token_text(token) for token in (*named_tokens(settings).values(), *extra_tokens(settings))}
            settings["added_tokens_decoder"] = {
                index: {"content": token, "special": token in special, "normalized": token not in special}
                for token, index in added.items()
            }
    return settings


def _settings_in(repository: hub.Repository, filename: str) -> dict[str, Any]:
    settings = repository.json(filename) if repository.find(filename) else {}
    check_settings(settings, f"{repository.name} ({filename})")
    return settings


def model_type(repository: hub.Repository) -> str | None:
    """Return the model_type of config.json; None where there is none, or where the hub cannot be asked for it."""
    try:
        return repository.json("config.json").get("model_type") if repository.find("config.json") else None
    except OSError:
        return None


def existing(file: Any, kind: str) -> Path:
    """Return the path of a file that is there; FileNotFoundError, or TypeError for what is no path."""
    if not isinstance(file, str | os.PathLike):
        raise TypeError(f"A {kind} is given by its path, not as {shown(file)} ({type(file).__name__}).")
    if not os.path.isfile(file):
        advice = "a folder or a hub id is opened by from_pretrained"
        raise FileNotFoundError(f"There is no file {str(file)[:300]!r}, which should be a {kind}; {advice}.")
    return Path(os.fspath(file))


def choose(option: str, value: Any, table: Mapping[Any, Any]) -> Any:
    """Return what `table` says for an option's value (or for the value of an enum); ValueError names the choices."""
    value = plain(getattr(value, "value", value))
    if not isinstance(value, str | bool | None) or value not in table:
        raise ValueError(f"{option}={shown(value)} is not one of {', '.join(map(repr, table))}.")
    return table[value]


def rounded(length: int | None, multiple: int | None) -> int:
    """Return the least multiple of `multiple` that is at least `length`."""
    length = length or 0
    return -(-length // multiple) * multiple if multiple else length


def padded_length(
    how: str | None, items: Iterable[Any], max_length: int | None, multiple: int | None, most: int
) -> int:
    """Return how long padding makes the items; ValueError where it adds more than `most` to the longest."""
    longest = max(map(len, items), default=0)
    length = rounded(longest if how == "longest" else plain(max_length), plain(multiple))
    if length - longest > most:
        raise ValueError(
            f"Padding {longest} values to {shown(length)} adds more than {most}; give a smaller max_length or "
            "pad_to_multiple_of."
        )
    return length


def clean_up(text: str) -> str:
    """Take out the spaces before punctuation and English contractions, as BERT's original decoder does."""
    for spaced, joined in CLEAN_UP:
        text = text.replace(spaced, joined)
    return text


def _tensor_type(value: Any) -> str | None:
    """Return the `return_tensors` that gives back the kind of the first array or tensor in `value`."""
    while isinstance(value, list | tuple):
        if not value:
            return None
        value = value[0]
    return {"torch": "pt", "numpy": "np"}.get(type(value).__module__.partition(".")[0])


def as_ids(value: Any) -> list[int]:
    """Return the ids of a sequence, or one id in a list, as Python's numbers; TypeError for what are not ids."""
    ids = plain(value)
    if isinstance(ids, Iterable) and not isinstance(ids, list | NO_SEQUENCE):
        ids = plain(list(ids))
    ids = [ids] if is_whole(ids) else ids
    if not isinstance(ids, list) or not {int}.issuperset(map(type, ids)):
        advice = "decode takes those of one sequence, such as logits.argmax(-1)[0], and batch_decode those of several"
        raise TypeError(f"These are not ids: {shown(value)}; {advice}.")
    return ids


def _filled(values: list[Any], length: int, value: Any, side: str) -> list[Any]:
    filling = [value] * (length - len(values))
    return filling + values if side == "left" else values + filling


def _prefixed(write: Callable[[Path], None], prefix: str | None) -> Callable[[Path], None]:
    """Return what writes files and puts a prefix before their names."""

    def write_so(folder: Path) -> None:
        write(folder)
        for path in list(folder.iterdir()) if prefix else ():
            path.rename(folder / f"{prefix}-{path.name}")

    return write_so


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")
