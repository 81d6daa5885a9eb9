"""Characters and ids of speech checkpoints, and the text of the frames of a CTC model.

A CTC model gives one id for each frame of sound. Repeated ids are one character, `pad_token` is the blank between
characters, and `word_delimiter_token` the space. The numbers are those of transformers' `Wav2Vec2CTCTokenizer`.
"""

from __future__ import annotations

import json
import operator
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, count, groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from tokenizers import AddedToken
from typing_extensions import override

from minitrans import hub
from minitrans.processing.encoding import (
    NO_SEQUENCE,
    SETTINGS,
    BatchEncoding,
    TokenizerBase,
    as_ids,
    check_settings,
    clean_up,
    existing,
    listed,
    misfits,
    read_settings,
    special_id,
    special_token,
    token_text,
)
from minitrans.processing.features import BatchFeature, open_with
from minitrans.processing.kinds import plain, shown, whole

if TYPE_CHECKING:
    from typing_extensions import Self

DEFAULTS = {
    "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>", "word_delimiter_token": "|",
    "replace_word_delimiter_char": " ", "do_lower_case": False, "target_lang": None, "return_attention_mask": None,
}  # fmt: skip


class Wav2Vec2CTCTokenizerOutput(BatchFeature):
    """The `text` of frames, and `char_offsets` and `word_offsets` where they were asked for.

    What was not asked for is not a key, and reads as None.

    An offset is a dict of "char" or "word" with "start_offset" and "end_offset" in frames, the end exclusive, and
    with "start_time" and "end_time" in seconds where `time_per_frame` was given. A batch has lists of all these.
    """

    def __missing__(self, key: str) -> None:
        if key not in ("char_offsets", "word_offsets"):
            raise KeyError(key)


class Wav2Vec2CTCTokenizer(TokenizerBase):
    """Text to character ids for training, and frame ids to text with the times of characters and words.

    `vocab_file` is a vocab.json or the dict in it: token → id, or language → token → id, where `target_lang` chooses.
    `settings` are keys of tokenizer_config.json. `do_lower_case` is for vocabularies of capitals: text is raised to
    them and what is decoded is lowered. Tokens of several characters, written out in a text, are found as one. Safe to
    call from many threads at once; `add_tokens` and `set_target_lang` change the tokenizer for all of them. Raises
    ValueError for what is not a vocabulary, and for one that lacks the language.

    >>> from minitrans import Wav2Vec2CTCTokenizer
    >>> tokenizer = Wav2Vec2CTCTokenizer({"<pad>": 0, "<unk>": 1, "|": 2, "A": 3, "L": 4})
    >>> tokenizer("ALL LA")["input_ids"]
    [3, 4, 4, 2, 4, 3]
    >>> tokenizer.decode([3, 3, 4, 0, 4, 4])  # repeats are one token, and the blank, 0, stands between doubled ones
    'ALL'
    """

    inputs: ClassVar[tuple[str, ...]] = ("input_ids", "attention_mask")
    defaults: ClassVar[Mapping[str, Any]] = DEFAULTS
    is_fast = False  # its text has no offsets
    word_delimiter_token = special_token("word_delimiter_token")  # stands for the space
    word_delimiter_token_id = special_id("word_delimiter_token")

    def __init__(
        self, vocab_file: str | os.PathLike[str] | Mapping[str, Any], settings: Mapping[str, Any] | None = None,
        name_or_path: str = "", **options: Any,
    ) -> None:  # fmt: skip
        known = {*SETTINGS, *self.defaults}
        if unknown := [key for key in options if key not in known and not key.endswith("_token")]:
            raise TypeError(f"{type(self).__name__} has no option {unknown[0]!r}.")
        settings = {**self.defaults, **(settings or {}), **options}
        super().__init__(settings, name_or_path)
        self.do_lower_case = bool(settings.get("do_lower_case"))
        self._take_settings(settings)
        self._named = name_or_path or "this tokenizer"  # in messages
        if not isinstance(vocab_file, Mapping):
            path = existing(vocab_file, "vocab.json")
            self._named = name_or_path or str(path)
            vocab_file = hub.SingleFile(path, "vocab.json").json("vocab.json")
        self.vocab: Any = plain(vocab_file)
        added = settings.get("added_tokens_decoder") or {}
        self._take_vocabulary(settings.get("target_lang"), {int(key): _added(token) for key, token in added.items()})

    def _take_settings(self, settings: Mapping[str, Any]) -> None:
        """Take the settings that only this class has."""
        self.replace_word_delimiter_char: str = settings["replace_word_delimiter_char"]

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: hub.Source, **options: Any) -> Self:
        """Load vocab.json, tokenizer_config.json and older files of a folder or hub id, or a vocab.json by its path.

        `options` are those of `hub.open_repository` and settings that win over the file's, such as `target_lang`.
        Raises FileNotFoundError without a vocab.json, TypeError for an unknown option, ValueError where the files
        name a tokenizer that decodes otherwise.
        """
        repository, options = open_with(pretrained_model_name_or_path, options, "vocab.json")
        with repository.unchanged():
            settings, vocabulary = read_settings(repository), repository.json("vocab.json")
        named = settings.get("tokenizer_class")
        if named in TOKENIZERS and named != cls.__name__:
            raise ValueError(f"{repository.name} has a {named}, which decodes otherwise than {cls.__name__}.")
        return cls(vocabulary, settings, repository.name, **options)

    def set_target_lang(self, target_lang: str) -> None:
        """Take the vocabulary of another language of a nested vocab.json; ValueError where it has no such language."""
        check_settings({"target_lang": target_lang}, self._named)
        self._take_vocabulary(target_lang, self._added)

    def _take_vocabulary(self, target_lang: str | None, added: Mapping[int, AddedToken]) -> None:
        """Use the vocabulary of `target_lang`, and of the added tokens those that do not contradict it."""
        nested = any(isinstance(value, Mapping) for value in self.vocab.values())
        if nested and target_lang not in self.vocab:
            listed = ", ".join(list(self.vocab)[:12]) + (", ..." if len(self.vocab) > 12 else "")
            raise ValueError(
                f"target_lang={target_lang!r} is not in the vocabulary of {self._named}; it has {listed}."
            )
        if target_lang is not None and not nested:
            raise ValueError(
                f"target_lang={target_lang!r}, but {self._named} has one vocabulary for all; leave it out."
            )
        encoder = self.vocab[target_lang] if nested else self.vocab
        wrong = misfits(encoder) if isinstance(encoder, Mapping) else encoder
        if wrong or not encoder:
            said = f"The vocabulary of {self._named} must hold a whole number from 0 for each token"
            raise ValueError(f"{said}, not {shown(wrong)}.")
        self.target_lang = target_lang
        self.encoder: dict[str, int] = dict(encoder)
        self.decoder = {index: token for token, index in self.encoder.items()}
        self._added = {
            index: token
            for index, token in added.items()
            if index == self.encoder.get(token.content, index)
            and token.content == self.decoder.get(index, token.content)
        }
        known = {token.content for token in self._added.values()}
        self.add_tokens([token for token in self.all_special_tokens if token not in known], special_tokens=True)
        self._find_whole()

    def _find_whole(self) -> None:
        # As in transformers: all tokens of several characters are found whole, with the white space around them.
        self.add_tokens([_added(token, strip=True) for token in self.encoder if len(token) > 1])

    @property
    def vocab_size(self) -> int:
        """The number of ids without those of added tokens."""
        return len(self.decoder)

    @override
    def get_vocab(self) -> dict[str, int]:
        return {**self.encoder, **self._added_ids}

    @property
    def added_tokens_decoder(self) -> dict[int, AddedToken]:
        """The tokens that are found whole in a text, special ones among them, by id."""
        return dict(sorted(self._added.items()))

    def add_tokens(self, new_tokens: Any, special_tokens: bool = False) -> int:
        """Let tokens (text or AddedToken) be found whole in a text; return how many got a new id, after the others."""
        tokens = [_added(token, special=special_tokens) for token in listed(new_tokens)]
        for token in tokens if self.do_lower_case else ():  # as in transformers
            token.content = token.content.lower() if token.normalized and not token.special else token.content
        added = dict(self._added)
        vocab = {**self.encoder, **{token.content: index for index, token in added.items()}}
        before, taken = len(vocab), set(vocab.values())
        for token in tokens:
            if token.special and token.content not in self.all_special_tokens:
                self._extra.append(token.content)
            if token.content not in vocab:
                vocab[token.content] = next(index for index in count(len(vocab)) if index not in taken)
                taken.add(vocab[token.content])
            added[vocab[token.content]] = token
        self._added_ids = {token.content: index for index, token in added.items()}
        self._added = added
        whole = sorted(filter(str.strip, {*self._added_ids, *self.all_special_tokens}), key=len, reverse=True)
        self._pattern = re.compile(f"({'|'.join(map(re.escape, whole)) or '(?!)'})")
        return len(vocab) - before

    def __call__(
        self, text: Any = None, text_pair: Any = None, text_target: Any = None, text_pair_target: Any = None,
        add_special_tokens: bool = True, padding: bool | str = False, truncation: bool | str | None = None,
        max_length: int | None = None, stride: int = 0, is_split_into_words: bool = False,
        pad_to_multiple_of: int | None = None, padding_side: str | None = None, return_tensors: str | None = None,
        return_token_type_ids: bool | None = None, return_attention_mask: bool | None = None,
        return_overflowing_tokens: bool = False, return_special_tokens_mask: bool = False,
        return_length: bool = False, max_target_length: int | None = None, verbose: bool = True,
    ) -> BatchEncoding:  # fmt: skip
        """Give the `input_ids` (the labels of a model in training) and `attention_mask` of a text or a list of texts.

        CTC puts no tokens around a text, whatever `add_special_tokens` says, and none between it and its pair, which
        is a `text_pair` or the second of a tuple; words (`is_split_into_words`) are written without a space too.
        Options as for every tokenizer, but that a truncated text has no further sequences: with
        `return_overflowing_tokens` what was cut off is in `overflowing_tokens`, after `stride` tokens that were not,
        and counted in `num_truncated_tokens`. Raises TypeError for what is not text, ValueError for a character not in
        the vocabulary where `unk_token` is None, for unequal numbers of texts and pairs, and for what cannot be
        truncated as asked.
        """
        if text_target is not None:
            return self._with_target(locals())
        pairs, batched = self._pairs(text, text_pair, is_split_into_words)
        _, cut, limit = self._limits(padding, truncation, max_length, pad_to_multiple_of)
        stride = whole("stride", stride, 0) or 0
        cuts = [self._cut(first, second, cut, limit, stride) for first, second in pairs]
        columns: dict[str, list[Any]] = {"input_ids": [first + second for first, second, _, _ in cuts]}
        if return_token_type_ids:
            columns["token_type_ids"] = [[0] * len(first) + [1] * len(second) for first, second, _, _ in cuts]
        if return_special_tokens_mask:
            columns["special_tokens_mask"] = [[0] * len(ids) for ids in columns["input_ids"]]
        lengths = {"length": list(map(len, columns["input_ids"]))} if return_length else {}
        options = (padding, limit, pad_to_multiple_of, padding_side, return_attention_mask)
        batch = BatchEncoding({**self.pad(columns, *options), **lengths})
        if return_overflowing_tokens:
            batch["overflowing_tokens"] = [rest for _, _, rest, _ in cuts]
            batch["num_truncated_tokens"] = [count for _, _, _, count in cuts]
        if not batched and return_tensors is None:
            return BatchEncoding({name: value[0] for name, value in batch.items()})
        return batch.convert_to_tensors(return_tensors)

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """Return 0: CTC puts no tokens around a text."""
        return 0

    def encode(self, text: Any, text_pair: Any = None, **options: Any) -> Any:
        """Return the ids of a text; options as in a call."""
        return self(text, text_pair, **options)["input_ids"]

    def _pairs(self, text: Any, text_pair: Any, words: bool) -> tuple[list[tuple[list[int], list[int]]], bool]:
        """Return the ids of each text and of its pair (none where there is none), and whether it was a batch."""
        batched = isinstance(text, (list, tuple)) and not (words and all(isinstance(word, str) for word in text))
        items = list(text) if batched else [text]
        pairs: Any = text_pair if batched or text_pair is None else [text_pair]
        if text_pair is not None and (isinstance(text, str) != isinstance(text_pair, str) or len(items) != len(pairs)):
            raise ValueError(f"There are {len(items)} texts and {len(pairs)} pairs; each text has one, in one form.")
        if batched and pairs is None:
            together = [isinstance(item, tuple) and len(item) == 2 and not words for item in items]
            pairs = [item[1] if two else None for item, two in zip(items, together, strict=True)]
            items = [item[0] if two else item for item, two in zip(items, together, strict=True)]
        pairs = pairs or [None] * len(items)
        encoded = [
            (self._encode(item, words), [] if pair is None else self._encode(pair, words))
            for item, pair in zip(items, pairs, strict=True)
        ]
        return encoded, batched

    def _cut(
        self, first: list[int], second: list[int], cut: str | None, limit: int | None, stride: int
    ) -> tuple[list[int], list[int], list[int], int]:
        """Return a text and its pair truncated, what was cut off after `stride` tokens more, and how many were."""
        count = len(first) + len(second) - (limit or 0)
        if cut is None or limit is None or count <= 0:
            return first, second, [], 0
        if cut == "longest_first" and second:
            kept = len(first), len(second)
            for _ in range(count):
                kept = (kept[0] - 1, kept[1]) if kept[0] > kept[1] else (kept[0], kept[1] - 1)
            return self._side(first, kept[0]), self._side(second, kept[1]), [], count
        target = second if cut == "only_second" else first
        if len(target) < count:
            raise ValueError(f"truncation={cut!r}: {count} tokens are too many, but that text has {len(target)}.")
        count_kept = min(len(target), count + stride)
        rest = target[-count_kept:] if self.truncation_side == "right" else target[:count_kept]
        shorter = self._side(target, len(target) - count)
        return (first, shorter, rest, count) if cut == "only_second" else (shorter, second, rest, count)

    def _side(self, ids: list[int], length: int) -> list[int]:
        return ids[:length] if self.truncation_side == "right" else ids[len(ids) - length :]

    def _encode(self, text: Any, words: bool = False) -> list[int]:
        if words and isinstance(text, (list, tuple)):
            return list(chain.from_iterable(map(self._encode, text)))
        if not isinstance(text, str):
            raise TypeError(
                f"The tokenizer takes a text or a list of them, not a {type(text).__name__}: {shown(text)}."
            )
        tokens = self.tokenize(text)
        ids = self.convert_tokens_to_ids(tokens)
        if None in ids:
            raise ValueError(f"{tokens[ids.index(None)]!r} is not in the vocabulary, which has no unk_token for it.")
        return ids

    def tokenize(self, text: str) -> list[str]:
        """Split a text into characters, tokens of several characters, and `word_delimiter_token` for each space."""
        pieces = self._pattern.split(text)
        for i in range(1, len(pieces), 2):
            token = self._added.get(self._added_ids.get(pieces[i], -1))
            if token is not None and token.lstrip:
                pieces[i - 1] = pieces[i - 1].rstrip()
            if token is not None and token.rstrip:
                pieces[i + 1] = pieces[i + 1].lstrip()
        if self.do_lower_case:
            pieces[::2] = [piece.upper() for piece in pieces[::2]]
        tokens = [[piece] if i % 2 else list(piece) for i, piece in enumerate(pieces)]
        return [self.word_delimiter_token or " " if token == " " else token for token in chain.from_iterable(tokens)]

    def _token_to_id(self, token: str) -> int | None:
        return self._added_ids.get(token, self.encoder.get(token))

    def _id_to_token(self, index: int) -> str | None:
        added = self._added.get(index)
        return self.decoder.get(index, None if added is None else added.content)

    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> Any:
        """Return the token of an id, or a list of tokens; `unk_token` for ids outside the vocabulary."""
        tokens = super().convert_ids_to_tokens(ids, skip_special_tokens)
        if isinstance(tokens, list):
            return [self.unk_token if token is None else token for token in tokens]
        return self.unk_token if tokens is None else tokens

    def convert_tokens_to_string(
        self, tokens: Sequence[str], group_tokens: bool = True, spaces_between_special_tokens: bool = False,
        output_char_offsets: bool = False, output_word_offsets: bool = False, time_per_frame: float | None = None,
    ) -> Wav2Vec2CTCTokenizerOutput:  # fmt: skip
        """Collapse the tokens of frames to text, with the offsets of characters and of words where they are asked for.

        `group_tokens=False` reads labels, where a repeated token is a doubled letter. `time_per_frame` in seconds, the
        model's stride in samples / sampling rate (320 / 16000), adds times to the offsets.
        """
        characters = [item for item in runs(tokens, group_tokens, time_per_frame) if item["char"] != self.pad_token]
        for item in characters:
            if item["char"] == self.word_delimiter_token:
                item["char"] = self.replace_word_delimiter_char
        text = (" " if spaces_between_special_tokens else "").join(item["char"] for item in characters).strip()
        words: list[dict[str, Any]] = []
        for is_space, group in groupby(characters, lambda item: item["char"] == self.replace_word_delimiter_char):
            word = list(group)
            span = {"start_offset": word[0]["start_offset"], "end_offset": word[-1]["end_offset"]}
            words += [] if is_space else [{"word": "".join(item["char"] for item in word), **span}]
        _timed(words, time_per_frame)
        return _output(
            text=text.lower() if self.do_lower_case else text,
            chars=characters if output_char_offsets else None,
            words=words if output_word_offsets else None,
        )

    def decode(
        self, token_ids: Any, skip_special_tokens: bool = False, clean_up_tokenization_spaces: bool | None = None,
        **options: Any,
    ) -> Any:  # fmt: skip
        """Return the text of one sequence of ids (a list, array or tensor (N,)), such as `logits.argmax(-1)[0]`.

        The other options are those of `convert_tokens_to_string`; with offsets asked for, its output is returned.
        `skip_special_tokens=True` takes out the blank as well, before repeats are collapsed, as in transformers: for
        labels it is right, for frames it loses doubled letters and the offsets count what is left. Raises TypeError
        for what are not ids, such as logits.
        """
        ids = as_ids(token_ids)
        tokens = self.convert_ids_to_tokens(ids)
        if None in tokens:
            raise ValueError(
                f"{ids[tokens.index(None)]} is not an id of the vocabulary, which has no unk_token for it."
            )
        if skip_special_tokens:
            skipped = set(self.all_special_tokens) - {self.word_delimiter_token}
            tokens = [token for token in tokens if token not in skipped]
        output = self.convert_tokens_to_string(tokens, **options)
        if self.clean_up_tokenization_spaces if clean_up_tokenization_spaces is None else clean_up_tokenization_spaces:
            output["text"] = clean_up(output["text"])
        return output if len(output) > 1 else output["text"]

    def batch_decode(self, sequences: Any, *args: Any, **options: Any) -> Any:
        """Return a list of texts, or one `Wav2Vec2CTCTokenizerOutput` of lists; options as in `decode`."""
        listed = plain(sequences)
        listed = listed if isinstance(listed, Iterable) and not isinstance(listed, NO_SEQUENCE) else [listed]
        decoded = [self.decode(sequence, *args, **options) for sequence in listed]
        if not decoded or isinstance(decoded[0], str):
            return decoded
        return Wav2Vec2CTCTokenizerOutput({key: [item[key] for item in decoded] for key in decoded[0]})

    def _current_settings(self) -> dict[str, Any]:
        added = {str(index): token.__getstate__() for index, token in self.added_tokens_decoder.items()}
        now = {name: getattr(self, name) for name in self.defaults if name in self.__dict__}
        return {**super()._current_settings(), "added_tokens_decoder": added, **now}

    def _write(self, folder: Path, legacy_format: bool | None) -> None:
        if legacy_format is False:
            raise ValueError(f"legacy_format=False: a {type(self).__name__} has no tokenizer.json.")
        self._write_vocabulary(folder)

    def _write_vocabulary(self, folder: Path) -> None:
        new = {token: index for token, index in self._added_ids.items() if index >= self.vocab_size}
        for name, content in (("vocab.json", self.vocab), ("added_tokens.json", new)):
            if content:
                text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
                (folder / name).write_text(text, encoding="utf-8")


class Wav2Vec2PhonemeCTCTokenizer(Wav2Vec2CTCTokenizer):
    """Phonemes of several characters to ids, and frame ids to phonemes with spaces between them.

    With `do_phonemize` a text is first turned to the phonemes of `phonemizer_lang` by the `phonemizer_backend` of the
    package `phonemizer`, which is imported at the first text; without it, a text is phonemes with spaces between.
    `word_delimiter_token` stands between words and is not part of the text unless it is asked for. The numbers are
    those of transformers' `Wav2Vec2PhonemeCTCTokenizer`.
    """

    defaults: ClassVar[Mapping[str, Any]] = {
        "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>",
        "word_delimiter_token": None, "phone_delimiter_token": " ", "do_phonemize": True, "phonemizer_lang": "en-us",
        "phonemizer_backend": "espeak", "return_attention_mask": None,
    }  # fmt: skip
    word_delimiter_token: str | None = None
    phone_delimiter_token: str | None = " "

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._backends: dict[tuple[str, str], Any] = {}
        super().__init__(*arguments, **options)

    def _take_settings(self, settings: Mapping[str, Any]) -> None:
        for name in ("word_delimiter_token", "phone_delimiter_token"):  # which are not tokens of the vocabulary
            self._special.pop(name, None)
            setattr(self, name, None if settings[name] is None else token_text(settings[name]))
        self.do_phonemize = bool(settings["do_phonemize"])
        self.phonemizer_lang: str = settings["phonemizer_lang"]
        self.phonemizer_backend: str = settings["phonemizer_backend"]

    def _find_whole(self) -> None:
        pass  # a phoneme ends at a space

    @property
    def word_delimiter_token_id(self) -> int | None:
        """The id of `word_delimiter_token`, None where there is none."""
        return None if self.word_delimiter_token is None else self.convert_tokens_to_ids(self.word_delimiter_token)

    def tokenize(self, text: str) -> list[str]:
        """Turn a text to phonemes where `do_phonemize` says so, and split it at its spaces."""
        pieces = self._pattern.split(text)
        tokens: list[str] = []
        for index, piece in enumerate(pieces):
            piece = piece if index % 2 else piece.strip()
            if self.do_phonemize and piece and not index % 2:
                piece = self.phonemize(piece.lower())
            tokens += [piece] if index % 2 else filter(str.strip, piece.split(" "))
        return tokens

    def phonemize(self, text: str, phonemizer_lang: str | None = None) -> str:
        """Return the phonemes of a text, with `phone_delimiter_token` and `word_delimiter_token` where they belong.

        Raises ImportError where the package `phonemizer` is missing.
        """
        try:
            from phonemizer.backend import BACKENDS
            from phonemizer.separator import Separator
        except ImportError as error:
            raise ImportError(
                'Texts are turned to phonemes with phonemizer: pip install "minitrans[phonemes]"; with '
                "do_phonemize=False the text is phonemes already."
            ) from error
        key = (self.phonemizer_backend, phonemizer_lang or self.phonemizer_lang)
        if key not in self._backends:
            self._backends[key] = BACKENDS[key[0]](key[1], language_switch="remove-flags")
        word = "" if self.word_delimiter_token is None else f"{self.word_delimiter_token} "
        separator = Separator(phone=self.phone_delimiter_token, word=word, syllable="")
        return self._backends[key].phonemize([text], separator=separator)[0].strip()

    def convert_tokens_to_string(  # type: ignore[override]
        self, tokens: Sequence[str], group_tokens: bool = True, spaces_between_special_tokens: bool = False,
        filter_word_delimiter_token: bool = True, output_char_offsets: bool = False,
        output_word_offsets: bool = False, time_per_frame: float | None = None,
    ) -> Wav2Vec2CTCTokenizerOutput:  # fmt: skip
        """Collapse the tokens of frames to phonemes with a space between them, with their offsets if asked for.

        Options as in `Wav2Vec2CTCTokenizer`; a phoneme counts as a character and as a word. Words' delimiters are left
        out unless `filter_word_delimiter_token` is False.
        """
        left_out = {self.pad_token, self.word_delimiter_token if filter_word_delimiter_token else None}
        characters = [item for item in runs(tokens, group_tokens, time_per_frame) if item["char"] not in left_out]
        words = [{"word" if key == "char" else key: value for key, value in item.items()} for item in characters]
        return _output(
            text=" ".join(item["char"] for item in characters).strip(),
            chars=characters if output_char_offsets else None,
            words=words if output_word_offsets else None,
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_backends": {}}


TOKENIZERS = {kind.__name__: kind for kind in (Wav2Vec2CTCTokenizer, Wav2Vec2PhonemeCTCTokenizer)}


def _output(text: str, chars: Any, words: Any) -> Wav2Vec2CTCTokenizerOutput:
    offsets = {"char_offsets": chars, "word_offsets": words}
    asked = {name: value for name, value in offsets.items() if value is not None}
    return Wav2Vec2CTCTokenizerOutput({"text": text, **asked})


def runs(tokens: Sequence[str], group_tokens: bool, time_per_frame: float | None) -> list[dict[str, Any]]:
    """Return the offsets of each run of equal tokens, or of each token where they are not grouped."""
    found = []
    for _, run in groupby(enumerate(tokens), operator.itemgetter(1 if group_tokens else 0)):
        frames = list(run)
        found.append({"char": frames[0][1], "start_offset": frames[0][0], "end_offset": frames[-1][0] + 1})
    return _timed(found, time_per_frame)


def _timed(items: list[dict[str, Any]], time_per_frame: float | None) -> list[dict[str, Any]]:
    """Add the times in seconds to offsets in frames, where the time of a frame is known."""
    for item in items if time_per_frame is not None else ():
        item["start_time"] = item["start_offset"] * time_per_frame
        item["end_time"] = item["end_offset"] * time_per_frame
    return items


def _added(token: Any, special: bool = False, strip: bool = False) -> AddedToken:
    """A new AddedToken of a text, of the dict that stands for one in JSON, or of another."""
    text = token_text(token)
    if isinstance(token, str):
        return AddedToken(text, lstrip=strip, rstrip=strip, normalized=False, special=special)
    flags = {**(token if isinstance(token, Mapping) else token.__getstate__())}
    flags.pop("__type", None)
    return AddedToken(**{**flags, "special": special or flags.get("special", False)})
