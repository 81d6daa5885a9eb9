"""Text to token ids and back: the tokenizers of BERT and DistilBERT, on the `tokenizers` library.

The library keeps truncation and padding as state of one shared object, so that two threads with different settings
get each other's results. Here an object of the library never changes once it is made: each way of truncating has its
own, which shares the vocabulary and costs 10 µs, and new tokens mean a new one. Padding is done to a call's results.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors
from typing_extensions import override

from minitrans import hub
from minitrans.processing import encoding as shared
from minitrans.processing import training
from minitrans.processing.encoding import BatchEncoding, TokenizerBase
from minitrans.processing.features import open_with
from minitrans.processing.kinds import plain, shown, whole
from minitrans.utils.logging import warn_once

if TYPE_CHECKING:
    from tokenizers import Encoding
    from typing_extensions import Self

COLUMNS = {
    "input_ids": "ids", "token_type_ids": "type_ids", "attention_mask": "attention_mask",
    "special_tokens_mask": "special_tokens_mask", "offset_mapping": "offsets",
}  # fmt: skip
BERT = {
    "unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]", "mask_token": "[MASK]",
    "do_lower_case": True, "strip_accents": None, "tokenize_chinese_chars": True, "never_split": None,
}  # fmt: skip
WITHOUT_TOKEN_TYPES = ("distilbert",)  # the model types whose models take no token_type_ids
COPIES = 64
ENDING = 2**32  # where the library's ids end
_ADDING = threading.Lock()

T = TypeVar("T", bound="Tokenizer")


class Tokenizer(TokenizerBase):
    """A tokenizer that does what its tokenizer.json says. Safe to call from many threads at once.

    `tokenizer_object` is a `tokenizers.Tokenizer`, whose model is shared, and `tokenizer_file` the path of its
    tokenizer.json; `settings` are keys of tokenizer_config.json, and `options` the same keys from the caller, which
    win. Raises ValueError where a special token has no id or an added token another id than its file says, TypeError
    for unknown options.
    """

    files: ClassVar[tuple[str, ...]] = ("tokenizer.json",)
    defaults: ClassVar[Mapping[str, Any]] = {}
    is_fast = True

    model_kind: ClassVar[type] = models.Model  # the library's models that the class can stand on

    def __init__(
        self, tokenizer_object: tokenizers.Tokenizer | None = None,
        settings: Mapping[str, Any] | None = None, name_or_path: str = "", *,
        tokenizer_file: str | os.PathLike[str] | None = None, **options: Any,
    ) -> None:  # fmt: skip
        self._refuse_unknown(options)
        if tokenizer_object is None and tokenizer_file is None:
            raise ValueError(f"A {type(self).__name__} is made of a tokenizer_object or of a tokenizer_file.")
        backend = tokenizer_object or _read_backend(tokenizer_file)
        settings = {**_baked_in(backend), **self.defaults, **(settings or {}), **options}
        super().__init__(settings, name_or_path)
        self._replace_backend(backend, _tokens_to_add(settings, backend, options))
        self._check_special_tokens()
        for index, token in (settings.get("added_tokens_decoder") or {}).items():
            text = shared.token_text(token)
            if self._token_to_id(text) != int(index):
                raise ValueError(
                    f"added_tokens_decoder of {name_or_path} gives {text!r} the id {index}, but beside its vocabulary "
                    f"of {self.vocab_size} tokens it gets {self._token_to_id(text)}; they do not belong together."
                )

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: hub.Source, **options: Any) -> Self:
        """Load from a folder, a hub id, or the path of one of `files` itself.

        `options` are those of `hub.open_repository` and keys of tokenizer_config.json (`model_max_length`,
        `pad_token`, ...), which win over the file; TypeError for any other. For a model without token types
        `model_input_names` leaves them out. Raises FileNotFoundError where there is none of `files` and ValueError
        for a broken one.
        """
        repository, options = open_with(pretrained_model_name_or_path, options, *cls.files)
        return cls._load(repository, options, cls)

    @classmethod
    def from_repository(cls, repository: hub.Repository, options: dict[str, Any]) -> Tokenizer:
        """Load as `cls`, or as a tokenizer.json says that is not a `cls`: it holds another kind of model or, where no
        tokenizer_config.json says more, splits texts in another way.
        """
        return cls._load(repository, options, Tokenizer)

    @classmethod
    def _load(cls, repository: hub.Repository, options: dict[str, Any], otherwise: type[T]) -> T:
        """Load as `cls`, which is a kind of `otherwise`, or as that where `cls` is not for the file's model."""
        cls._refuse_unknown(options)
        with repository.unchanged():
            settings = shared.read_settings(repository)
            path = repository.file(*cls.files)
            backend = _read_backend(path)
        kind: Any = cls if isinstance(backend.model, cls.model_kind) else otherwise
        if path.suffix == ".json" and kind is not otherwise and not repository.find("tokenizer_config.json"):
            described = cls._described(backend)
            kind = otherwise if described is None else kind
            settings = {**(described or {}), **settings}
        names = settings.get("model_input_names") or kind.inputs
        if "token_type_ids" in names and shared.model_type(repository) in WITHOUT_TOKEN_TYPES:
            settings["model_input_names"] = [name for name in names if name != "token_type_ids"]
        return kind(backend, settings=settings, name_or_path=repository.name, **options)

    def __call__(
        self, text: Any = None, text_pair: Any = None, text_target: Any = None, text_pair_target: Any = None, *,
        add_special_tokens: bool = True, padding: bool | str = False, truncation: bool | str | None = None,
        max_length: int | None = None, stride: int = 0, is_split_into_words: bool = False,
        pad_to_multiple_of: int | None = None, padding_side: str | None = None, return_tensors: str | None = None,
        return_token_type_ids: bool | None = None,
        return_attention_mask: bool | None = None, return_overflowing_tokens: bool = False,
        return_special_tokens_mask: bool = False, return_offsets_mapping: bool = False, return_length: bool = False,
        max_target_length: int | None = None, pad_to_max_length: bool | None = None, verbose: bool = True,
    ) -> BatchEncoding:  # fmt: skip
        """Encode a text, a pair of texts, or a batch of either, with the options and results of transformers.

        `text` is a string, a list of strings, or a list of (text, pair); with `is_split_into_words` each string is
        a list of words instead. `padding` is True or "longest", "max_length", or False; `truncation` True or
        "longest_first", "only_first", "only_second", or False; `max_length` (tokens, special ones counted) is the
        model's maximum where left out, and alone it truncates. `return_overflowing_tokens` gives the rest of a
        truncated text as further sequences that overlap by `stride` tokens, with their text's number in
        `overflow_to_sample_mapping`. A `text_target` (and `text_pair_target`) is encoded too, truncated to
        `max_target_length`, and its ids are the `labels`; alone, it is the text. `pad_to_max_length` has no effect
        since transformers 5, and says so. Values are lists of int, one a sequence (for a single text the sequence
        itself), or with `return_tensors` "pt" or "np" int64 of (sequences, tokens).

        Raises TypeError for what is not text, ValueError for texts that cannot be truncated as asked and for sequences
        of different length in a tensor.

        >>> from minitrans import AutoTokenizer
        >>> tokenizer = AutoTokenizer.from_pretrained("google-bert/bert-base-uncased")
        >>> tokenizer("A text.", "Another one.")
        {'input_ids': [101, 1037, 3793, 1012, 102, 2178, 2028, 1012, 102],
         'token_type_ids': [0, 0, 0, 0, 0, 1, 1, 1, 1], 'attention_mask': [1, 1, 1, 1, 1, 1, 1, 1, 1]}
        """
        if text_target is not None:
            return self._with_target(locals())
        if pad_to_max_length:
            said = "pad_to_max_length=True has no effect since transformers 5; pass padding='max_length'."
            warn_once(said, said=self._warned)
        shared.choose("return_tensors", return_tensors, shared.TENSORS)
        side = shared.choose("padding_side", padding_side or self.padding_side, shared.SIDES)
        pad, cut, max_length = self._limits(padding, truncation, max_length, pad_to_multiple_of)
        stride = whole("stride", stride, 0) or 0
        texts, batched = _texts(text, text_pair, is_split_into_words)
        encodings = self._encode(texts, is_split_into_words, add_special_tokens, cut, max_length, stride)
        if pad:
            length = shared.padded_length(pad, encodings, max_length, pad_to_multiple_of, shared.MOST_TOKENS)
            for encoding in encodings:
                encoding.pad(length, direction=side, pad_id=self.pad_token_id, pad_type_id=0, pad_token=self.pad_token)

        parts = [[first, *first.overflowing] if return_overflowing_tokens else [first] for first in encodings]
        encodings = [part for several in parts for part in several]
        longest = max(map(len, encodings))
        if verbose and max_length is None and longest > self.model_max_length:
            said = "A text has %d tokens, but the model takes %d; truncation=True cuts it."
            warn_once(said, longest, self.model_max_length, said=self._warned)

        asked = (
            True, return_token_type_ids, return_attention_mask, return_special_tokens_mask, return_offsets_mapping
        )  # fmt: skip
        columns = {
            name: [getattr(encoding, field) for encoding in encodings]
            for (name, field), ask in zip(COLUMNS.items(), asked, strict=True)
            if (name in self.model_input_names if ask is None else ask)
        }
        if not batched and return_tensors is None and not return_overflowing_tokens:
            columns = {name: column[0] for name, column in columns.items()}
        if return_length:
            columns["length"] = [len(encoding) for encoding in encodings]
        if return_overflowing_tokens:
            columns["overflow_to_sample_mapping"] = [number for number, several in enumerate(parts) for _ in several]
        return BatchEncoding(columns, encodings).convert_to_tensors(return_tensors)

    def encode(self, text: Any, text_pair: Any = None, **options: Any) -> Any:
        """Return the `input_ids` of a call."""
        return self(text, text_pair, **options)["input_ids"]

    def tokenize(self, text: Any, pair: Any = None, add_special_tokens: bool = False, **options: Any) -> list[str]:
        """Return the tokens of a text (of the first, where it is a batch) as strings."""
        return self(text, pair, add_special_tokens=add_special_tokens, **options).tokens()

    def decode(
        self, token_ids: Any, skip_special_tokens: bool = False, clean_up_tokenization_spaces: bool | None = None
    ) -> Any:
        """Return the text of a sequence of ids (or one id), or the list of texts of a batch; arrays and tensors too.

        Ids above the vocabulary give no text; TypeError for what are not ids, ValueError for negative ones and for
        those from 2³² on.
        """
        ids = plain(token_ids)
        if isinstance(ids, list) and ids and isinstance(ids[0], list):
            return [self.decode(sequence, skip_special_tokens, clean_up_tokenization_spaces) for sequence in ids]
        ids = shared.as_ids(ids)
        if wrong := [index for index in ids if not 0 <= index < ENDING]:
            advice = "put the padding token where labels are -100" if min(wrong) < 0 else f"ids go up to {ENDING - 1}"
            raise ValueError(f"There is no token with the id {shown(min(wrong))}; {advice}.")
        text = self._state[0].decode(ids, skip_special_tokens=skip_special_tokens)
        if clean_up_tokenization_spaces is None:
            clean_up_tokenization_spaces = self.clean_up_tokenization_spaces
        return shared.clean_up(text) if clean_up_tokenization_spaces else text

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """Join tokens to text."""
        decoder = self._state[0].decoder
        return decoder.decode(tokens) if decoder is not None else " ".join(tokens)

    @property
    def backend_tokenizer(self) -> tokenizers.Tokenizer:
        """The library's object. Others may be encoding with it: change a copy."""
        return self._state[0]

    @property
    def vocab_size(self) -> int:
        """The number of tokens without the added ones; `len(tokenizer)` counts all."""
        return self._state[0].get_vocab_size(with_added_tokens=False)

    @property
    def vocab(self) -> dict[str, int]:
        """Every token with its id."""
        return self.get_vocab()

    @override
    def get_vocab(self) -> dict[str, int]:
        return self._state[0].get_vocab(with_added_tokens=True)

    @property
    @override
    def added_tokens_decoder(self) -> dict[int, AddedToken]:
        return dict(sorted(self._state[0].get_added_tokens_decoder().items()))

    def __len__(self) -> int:
        return self._state[0].get_vocab_size(with_added_tokens=True)

    @override
    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        return self._state[0].num_special_tokens_to_add(pair)

    def add_tokens(
        self, new_tokens: str | AddedToken | Iterable[str | AddedToken], special_tokens: bool = False
    ) -> int:
        """Add tokens and return how many; calls under way keep the old vocabulary.

        Tokens of the vocabulary keep their id and are no longer split; others come after it, and the model needs as
        many embeddings: `model.resize_token_embeddings(len(tokenizer))`.
        """
        tokens = [_as_added(token, special_tokens) for token in shared.listed(new_tokens)]
        with _ADDING:
            return self._replace_backend(self._state[0], tokens)

    @classmethod
    def _described(cls, backend: tokenizers.Tokenizer) -> dict[str, Any] | None:
        """Return the settings that a tokenizer.json of this class holds; None where it is of no such tokenizer."""
        return {}

    @classmethod
    def _refuse_unknown(cls, options: Mapping[str, Any]) -> None:
        known = dict.fromkeys((*shared.SETTINGS, *cls.defaults))
        for option in options.keys() - known.keys():
            raise TypeError(f"{cls.__name__} has no option {option!r}; it has {', '.join(known)}.")

    def _replace_backend(self, backend: tokenizers.Tokenizer, tokens: list[AddedToken]) -> int:
        """Take a copy of `backend` with more tokens, in one step for readers; return how many the library counted."""
        copy = self._copy(backend)
        added = copy.add_tokens(tokens)
        self._state: tuple[tokenizers.Tokenizer, dict[Any, tokenizers.Tokenizer]] = (copy, {})
        return added

    def _copy(self, backend: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
        """Return a tokenizer that shares the model of `backend`, without its padding and truncation."""
        copy = tokenizers.Tokenizer(backend.model)
        copy.normalizer, copy.pre_tokenizer = backend.normalizer, backend.pre_tokenizer
        copy.decoder, copy.post_processor = backend.decoder, backend.post_processor
        copy.add_tokens([token for _, token in sorted(backend.get_added_tokens_decoder().items())])
        copy.encode_special_tokens = bool(self._settings.get("split_special_tokens", False))
        return copy

    def _truncating(self, max_length: int, **settings: Any) -> tokenizers.Tokenizer:
        """Return the copy of the backend that truncates so."""
        backend, copies = self._state
        key = (max_length, *settings.values())
        copy = copies.get(key)
        if copy is None:
            copy = self._copy(backend)
            copy.enable_truncation(max_length, **settings)
            if len(copies) >= COPIES:
                copies.clear()
            copies[key] = copy
        return copy

    def _encode(
        self, texts: list[Any], words: bool, special: bool, cut: str | None, max_length: int | None, stride: int
    ) -> list[Encoding]:
        """Return the encodings of texts and pairs, truncated where `cut` says how, each with its overflow."""
        backend = self._state[0]
        if cut and max_length is not None:
            pair = any(isinstance(text, tuple) for text in texts)
            room = max_length - (backend.num_special_tokens_to_add(pair) if special else 0)
            if room < 0:
                raise ValueError(f"max_length={max_length} is less than the {max_length - room} special tokens.")
            if stride:
                _check_stride(backend, texts, words, cut, room, stride)
            backend = self._truncating(max_length, stride=stride, strategy=cut, direction=self.truncation_side)
        try:
            return backend.encode_batch(texts, is_pretokenized=words, add_special_tokens=special)
        except TypeError:
            raise _explained(texts) from None
        except Exception as error:  # the library raises nothing narrower
            raise ValueError(
                f"Not every text works with truncation={cut!r}, max_length={max_length}: {error}."
            ) from None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_state": self._state[0]}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._replace_backend(state["_state"], [])

    def _token_to_id(self, token: str) -> int | None:
        return self._state[0].token_to_id(shared.token_text(token))

    def _id_to_token(self, index: int) -> str | None:
        return self._state[0].id_to_token(index) if 0 <= index < ENDING else None

    def train_new_from_iterator(
        self, text_iterator: Iterable[Any], vocab_size: int, length: int | None = None,
        new_special_tokens: Iterable[str | AddedToken] | None = None,
        special_tokens_map: Mapping[str, str] | None = None, **trainer_options: Any,
    ) -> Self:  # fmt: skip
        """Return a tokenizer of the same kind with a vocabulary of `vocab_size` learnt from batches of texts.

        `special_tokens_map` gives special tokens another text, `new_special_tokens` adds some; `trainer_options` are
        those of the trainer in the `tokenizers` library.
        """
        renamed, new = special_tokens_map or {}, list(new_special_tokens or ())
        backend = training.trained(self._state[0], text_iterator, vocab_size, length, new, renamed, **trainer_options)
        special = {role: renamed.get(token, token) for role, token in self.special_tokens_map.items()}
        extra = [*self.extra_special_tokens, *map(shared.token_text, new)]
        dropped = ("added_tokens_decoder", "additional_special_tokens", "extra_special_tokens", *special)
        settings = {key: value for key, value in self._settings.items() if key not in dropped}
        settings = {**settings, **special, **({"extra_special_tokens": extra} if extra else {})}
        return type(self)(backend, settings=settings)

    def _write(self, folder: Path, legacy_format: bool | None) -> None:
        wordpiece = isinstance(self._state[0].model, models.WordPiece)
        if not legacy_format:
            self._state[0].save(str(folder / "tokenizer.json"))
        if wordpiece and legacy_format is not False:
            self._write_vocabulary(folder)
        elif legacy_format:
            raise ValueError(f"legacy_format=True: a {self._state[0].model} has no vocab.txt to be written into.")

    def _write_vocabulary(self, folder: Path) -> None:
        if isinstance(self._state[0].model, models.WordPiece):
            tokens = {index: token for token, index in self._state[0].get_vocab(with_added_tokens=False).items()}
            shared.check_ids(tokens, self.name_or_path or "the tokenizer")
            lines = "".join(tokens.get(index, "") + "\n" for index in range(max(tokens) + 1))
            (folder / "vocab.txt").write_bytes(lines.encode("utf-8"))
        else:
            self._state[0].model.save(str(folder))

    def _current_settings(self) -> dict[str, Any]:
        name = "PreTrainedTokenizerFast" if type(self) is Tokenizer else type(self).__name__
        return {**super()._current_settings(), "tokenizer_class": name}


class BertTokenizer(Tokenizer):
    """WordPiece as BERT has it: `[CLS] text [SEP]` and `[CLS] text [SEP] pair [SEP]`, type ids 0 and 1.

    `vocab` is {token: id}, the path of a vocab.txt, or a `tokenizers.Tokenizer` with a WordPiece model to take over;
    each can be given by its own name too, `vocab_file`, `tokenizer_file` or `tokenizer_object`.
    `do_lower_case` (True), `strip_accents` (None: where lower case), `tokenize_chinese_chars` (True: each is a word)
    say how text is normalised; they win over the normalizer in tokenizer.json, as in transformers. Words in
    `never_split` are tokens of the vocabulary to keep whole and as they are written.
    """

    inputs: ClassVar[tuple[str, ...]] = ("input_ids", "token_type_ids", "attention_mask")
    files = ("tokenizer.json", "vocab.txt")
    model_kind = models.WordPiece
    defaults = BERT

    def __init__(
        self, vocab: Mapping[str, int] | str | os.PathLike[str] | tokenizers.Tokenizer | None = None,
        do_lower_case: bool | None = None, *, vocab_file: str | os.PathLike[str] | None = None,
        tokenizer_file: str | os.PathLike[str] | None = None, tokenizer_object: tokenizers.Tokenizer | None = None,
        settings: Mapping[str, Any] | None = None, name_or_path: str = "", **options: Any,
    ) -> None:  # fmt: skip
        self._refuse_unknown(options)
        options.update({} if do_lower_case is None else {"do_lower_case": do_lower_case})
        given = [source for source in (vocab, tokenizer_object, tokenizer_file, vocab_file) if source is not None]
        if not given:
            raise ValueError(f"A {type(self).__name__} is made of a vocab, a vocab_file or a tokenizer_file.")
        vocab = plain(given[0]) if isinstance(given[0], Mapping) else given[0]
        chosen = {**self.defaults, **(settings or {}), **options}
        chosen = shared.check_settings(chosen, name_or_path or f"the {type(self).__name__}")
        for role in ("unk_token", "cls_token", "sep_token"):
            if chosen[role] is None:
                raise ValueError(f"A {type(self).__name__} cannot do without {role}; it is None.")
        if isinstance(vocab, tokenizers.Tokenizer):
            backend = vocab
        else:
            backend = _wordpiece(vocab) if isinstance(vocab, Mapping) else _read_backend(vocab)
        if not isinstance(backend.model, models.WordPiece):
            raise ValueError(
                f"A {type(self).__name__} needs a WordPiece model; {name_or_path} has {type(backend.model).__name__}."
            )
        ids = backend.get_vocab(with_added_tokens=False)
        shared.check_ids(ids.values(), name_or_path or f"the {type(self).__name__}")
        if len(set(ids.values())) < len(ids):
            raise ValueError(f"The vocabulary of {name_or_path or type(self).__name__} gives an id to two tokens.")
        backend.model.unk_token = shared.token_text(chosen["unk_token"])
        backend.normalizer = normalizers.BertNormalizer(
            clean_text=True,
            handle_chinese_chars=chosen["tokenize_chinese_chars"],
            strip_accents=chosen["strip_accents"],
            lowercase=chosen["do_lower_case"],
        )
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        backend.decoder = decoders.WordPiece(prefix="##")
        super().__init__(backend, settings, name_or_path, **options)
        self._state[0].post_processor = processors.TemplateProcessing(
            single=f"{self.cls_token}:0 $A:0 {self.sep_token}:0",
            pair=f"{self.cls_token}:0 $A:0 {self.sep_token}:0 $B:1 {self.sep_token}:1",
            special_tokens=[(self.cls_token, self.cls_token_id), (self.sep_token, self.sep_token_id)],
        )
        self.do_lower_case: bool = chosen["do_lower_case"]

    @classmethod
    def _described(cls, backend: tokenizers.Tokenizer) -> dict[str, Any] | None:
        """Return how a tokenizer.json normalises; None where it normalises or splits otherwise than BERT does."""
        how, split = backend.normalizer, backend.pre_tokenizer
        bert = isinstance(how, normalizers.BertNormalizer) and isinstance(split, pre_tokenizers.BertPreTokenizer)
        if not bert or backend.post_processor is None:
            return None
        return {
            "do_lower_case": how.lowercase,
            "strip_accents": how.strip_accents,
            "tokenize_chinese_chars": how.handle_chinese_chars,
        }

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """Return `[CLS] ids [SEP]`, or `[CLS] ids [SEP] ids [SEP]` of a pair."""
        second = [] if token_ids_1 is None else [*token_ids_1, self.sep_token_id]
        return [self.cls_token_id, *token_ids_0, self.sep_token_id, *second]

    def create_token_type_ids_from_sequences(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """Return 0 for the tokens of a text and the special ones around it, and 1 for those of its pair."""
        return [0] * (len(token_ids_0) + 2) + ([] if token_ids_1 is None else [1] * (len(token_ids_1) + 1))


class DistilBertTokenizer(BertTokenizer):
    """BERT's tokenizer for a model without type ids."""

    inputs = ("input_ids", "attention_mask")


BertTokenizerFast = BertTokenizer
DistilBertTokenizerFast = DistilBertTokenizer
PreTrainedTokenizerFast = Tokenizer


def _texts(text: Any, text_pair: Any, words: bool) -> tuple[list[Any], bool]:
    """A text or a tuple of two for each sequence, and whether it was a batch; TypeError for what is not text."""
    batched = isinstance(text, list | tuple) and not (words and all(isinstance(word, str) for word in text))
    # As in transformers, an empty second text beside a single one is not a pair.
    items, pairs = (text, text_pair) if batched else ([text], [text_pair] if text_pair else None)
    if not items:
        raise ValueError("There is no text to encode: the list is empty.")
    if pairs is not None and not isinstance(pairs, list | tuple):
        raise TypeError(f"text is a list of {len(items)}, so text_pair must be one as well, not {shown(pairs, 60)}.")
    if pairs is not None and len(pairs) != len(items):
        raise ValueError(f"text has {len(items)} items and text_pair {len(pairs)}; each text needs its pair.")
    texts = list(zip(items, pairs, strict=True)) if pairs is not None else list(items)
    for number, item in enumerate(texts):
        if not _is_text(item, words):
            pair = isinstance(item, list | tuple) and len(item) == 2 and not (words and isinstance(item[0], str))
            parts = item if pair else [item]
            wrong = [part for part in parts if not _is_text(part, words)]
            if wrong:
                raise TypeError(
                    f"{f'Item {number} of the batch' if batched else 'The text'} must be "
                    f"{'a list of words' if words else 'a string'}, but it is {shown(wrong[0], 60)} "
                    f"({type(wrong[0]).__name__})."
                )
            texts[number] = tuple(parts)
    return texts, batched


def _is_text(item: Any, words: bool) -> bool:
    if words:
        return isinstance(item, list | tuple) and all(isinstance(word, str) for word in item)
    return isinstance(item, str)


def _check_stride(
    backend: tokenizers.Tokenizer, texts: list[Any], words: bool, cut: str, room: int, stride: int
) -> None:
    """Raise ValueError where a text would keep no more tokens than `stride`; the library panics there."""
    pairs = [(number, item) for number, item in enumerate(texts) if isinstance(item, tuple)]
    least = room // 2 if pairs and cut == "longest_first" else room
    if stride >= least:
        raise ValueError(f"stride={stride} must be less than the {least} tokens that a text may keep.")
    if cut == "longest_first":
        return
    target = 0 if cut == "only_first" else 1

    def lengths(several: list[Any]) -> list[int]:
        return [len(item) for item in backend.encode_batch(several, is_pretokenized=words, add_special_tokens=False)]

    for (number, item), other in zip(pairs, lengths([item[1 - target] for _, item in pairs]), strict=True):
        if 0 < room - other <= stride and room - other < lengths([item[target]])[0]:
            raise ValueError(
                f"Text {number} of a pair may keep {room - other} tokens beside the {other} of the other one, and "
                f"stride={stride} is not less."
            )


def _explained(texts: Iterable[Any]) -> ValueError:
    """Say what the library would not read: strings with half of a surrogate pair."""
    for number, item in enumerate(texts):
        for text in _strings(item):
            wrong = next((character for character in text if "\ud800" <= character <= "\udfff"), None)
            if wrong:
                return ValueError(f"Text {number} is not Unicode: it has half a surrogate pair, {wrong!r}.")
    return ValueError(f"The library cannot read one of the {len(list(texts))} texts.")


def _strings(item: Any) -> Iterable[str]:
    return [item] if isinstance(item, str) else [text for part in item for text in _strings(part)]


def _baked_in(backend: tokenizers.Tokenizer) -> dict[str, Any]:
    """Return the settings that a tokenizer.json holds itself."""
    padding, truncation = backend.padding, backend.truncation
    return {
        **({"padding_side": padding["direction"], "pad_token": padding["pad_token"]} if padding else {}),
        **({"truncation_side": truncation["direction"]} if truncation else {}),
    }


def _tokens_to_add(
    settings: Mapping[str, Any], backend: tokenizers.Tokenizer, options: Mapping[str, Any]
) -> list[AddedToken]:
    """Return the added tokens of the settings in the order of their ids, then special tokens, then never_split.

    A token of `ROLES` that a file names but no vocabulary has is left out, for `_check_special_tokens` to find; one
    that the caller names is added, and so is one that the checkpoint alone has a name for, as in transformers.
    """
    saved = sorted((settings.get("added_tokens_decoder") or {}).items(), key=lambda item: int(item[0]))
    tokens = {shared.token_text(token): _as_added(token, False) for _, token in saved}
    present = {token.content for token in backend.get_added_tokens_decoder().values()}
    for name, token in shared.named_tokens(settings).items():
        text = shared.token_text(token)
        known = name not in shared.ROLES or name in options or backend.token_to_id(text) is not None
        if text in tokens:
            tokens[text].special = True
        elif text not in present and known:
            tokens[text] = _as_added(token, True)
    for token in shared.extra_tokens(settings):
        text = shared.token_text(token)
        if text not in tokens and text not in present:
            tokens[text] = _as_added(token, True)
    for text in settings.get("never_split") or ():
        if text not in tokens and text not in present:
            if backend.token_to_id(text) is None:
                raise ValueError(f"never_split names {text!r}, which is not in the vocabulary.")
            tokens[text] = AddedToken(text, single_word=True, normalized=False)
    return list(tokens.values())


def _as_added(token: Any, special: bool) -> AddedToken:
    text = shared.token_text(token)
    if isinstance(token, str):
        return AddedToken(text, special=special, normalized=not special)
    flags = token if isinstance(token, Mapping) else token.__getstate__()
    known = ("single_word", "lstrip", "rstrip", "normalized", "special")
    flags = {flag: bool(flags[flag]) for flag in known if flag in flags}
    return AddedToken(text, **{**flags, "special": special or flags.get("special", False)})


def _read_backend(file: Any) -> tokenizers.Tokenizer:
    path = shared.existing(file, "tokenizer.json or vocab.txt")
    if path.suffix != ".json":
        return _wordpiece(_read_vocabulary(path))
    try:
        return tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise ValueError(f"{path} is not a tokenizer.json that can be read: {error}.") from None


def _wordpiece(vocab: Mapping[str, int]) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer(models.WordPiece(dict(vocab), unk_token=BERT["unk_token"]))
    except (TypeError, OverflowError):
        wrong = shown(shared.misfits(vocab))
        raise ValueError(f"A vocabulary gives each token a whole number from 0; this one has {wrong}.") from None


def _read_vocabulary(path: Path) -> dict[str, int]:
    """Read vocab.txt: a token a line, whose number from 0 is its id. White space ends a line and counts for nothing.

    Raises ValueError for what is not UTF-8 and for a token that stands twice; empty lines are ids without a token.
    """
    try:
        lines = path.read_bytes().decode("utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: byte {error.start} is {error.object[error.start]:#04x}.") from None
    vocab: dict[str, int] = {}
    for index, line in enumerate(lines):
        token = line.rstrip()
        if token in vocab and token:
            raise ValueError(f"{path} has {token!r} twice, on lines {vocab[token] + 1} and {index + 1}.")
        vocab[token] = index
    return vocab
