"""Characters and ids of speech checkpoints, and the text behind the frames of a CTC model.

A CTC model gives one id for each frame of sound. Repeated ids are one character, `pad_token` is the blank between
characters, and `word_delimiter_token` the space. The numbers are those of transformers' `Wav2Vec2CTCTokenizer`.
"""

from __future__ import annotations

import json
import operator
import os
import re
from collections.abc import Mapping, Sequence
from itertools import chain, count, groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from tokenizers import AddedToken

from minitrans import hub
from minitrans.processing.encoding import (
    SETTINGS,
    BatchEncoding,
    TokenizerBase,
    clean_up,
    read_settings,
    special_id,
    special_token,
)
from minitrans.processing.features import BatchFeature

if TYPE_CHECKING:
    from typing_extensions import Self

DEFAULTS = {
    "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>", "word_delimiter_token": "|",
    "replace_word_delimiter_char": " ", "do_lower_case": False, "target_lang": None,
}  # fmt: skip


class Wav2Vec2CTCTokenizerOutput(BatchFeature):
    """The `text` of frames, and `char_offsets` and `word_offsets` where they were asked for (None otherwise).

    An offset is a dict of "char" or "word" with "start_offset" and "end_offset" in frames, the end exclusive, and
    with "start_time" and "end_time" in seconds where `time_per_frame` was given. A batch has lists of all these.
    """


class Wav2Vec2CTCTokenizer(TokenizerBase):
    """Text to character ids for training, and frame ids to text with the times of characters and words.

    `vocab_file` is a vocab.json or the dict in it: token → id, or language → token → id, where `target_lang` chooses.
    `settings` are keys of tokenizer_config.json. `do_lower_case` is for vocabularies of capitals: text is raised to
    them and answers are lowered. Tokens of several characters, written out in a text, are found as one. Safe to call
    from many threads at once; `add_tokens` and `set_target_lang` change the tokenizer for all of them. Raises
    ValueError for a vocabulary that is none, or that lacks the language.
    """

    inputs: ClassVar[tuple[str, ...]] = ("input_ids", "attention_mask")
    is_fast = False  # its text has no offsets
    word_delimiter_token = special_token("word_delimiter_token")  # stands for the space
    word_delimiter_token_id = special_id("word_delimiter_token")

    def __init__(
        self, vocab_file: str | os.PathLike[str] | Mapping[str, Any], settings: Mapping[str, Any] | None = None,
        name_or_path: str = "", **options: Any,
    ) -> None:  # fmt: skip
        if unknown := [key for key in options if key not in {*SETTINGS, *DEFAULTS} and not key.endswith("_token")]:
            raise TypeError(f"{type(self).__name__} has no option {unknown[0]!r}.")
        settings = {**DEFAULTS, **(settings or {}), **options}
        super().__init__(settings, name_or_path)
        self.replace_word_delimiter_char: str = settings["replace_word_delimiter_char"]
        self.do_lower_case = bool(settings["do_lower_case"])
        if not isinstance(vocab_file, Mapping):
            vocab_file = json.loads(Path(vocab_file).read_text(encoding="utf-8"))
        self.vocab: Any = vocab_file
        added = settings.get("added_tokens_decoder") or {}
        self._take_vocabulary(settings["target_lang"], {int(key): _added(token) for key, token in added.items()})

    @classmethod
    def from_pretrained(cls, name_or_path: str | os.PathLike[str], **options: Any) -> Self:
        """Load vocab.json, tokenizer_config.json and older files of a folder or hub id.

        `options` are those of `hub.open_repository` and settings that win over the file's, such as `target_lang`.
        Raises FileNotFoundError without a vocab.json, TypeError for an unknown option.
        """
        repository, options = hub.open_with(name_or_path, options)
        return cls(repository.json("vocab.json"), read_settings(repository), repository.name, **options)

    def set_target_lang(self, target_lang: str) -> None:
        """Take the vocabulary of another language of a nested vocab.json; ValueError where it has no such language."""
        self._take_vocabulary(target_lang, self._added)

    def _take_vocabulary(self, target_lang: str | None, added: Mapping[int, AddedToken]) -> None:
        """Use the vocabulary of `target_lang`, and of the added tokens those that do not contradict it."""
        name = self.name_or_path or "This tokenizer"
        nested = any(isinstance(value, Mapping) for value in self.vocab.values())
        if nested and target_lang not in self.vocab:
            listed = ", ".join(list(self.vocab)[:12]) + (", ..." if len(self.vocab) > 12 else "")
            raise ValueError(f"{name} has no vocabulary for target_lang={target_lang!r}; it has {listed}.")
        if target_lang is not None and not nested:
            raise ValueError(f"{name} has one vocabulary, not one for target_lang={target_lang!r}.")
        encoder = self.vocab[target_lang] if nested else self.vocab
        if not encoder or not all(isinstance(index, int) for index in encoder.values()):
            raise ValueError(f"vocab.json of {name} must hold a whole number for each token.")
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
        # As in transformers: all tokens of several characters are found whole, with the white space around them.
        self.add_tokens([_added(token, strip=True) for token in self.encoder if len(token) > 1])

    @property
    def vocab_size(self) -> int:
        """The number of ids without those of added tokens."""
        return len(self.decoder)

    def get_vocab(self) -> dict[str, int]:
        """Return every token, added ones included, with its id."""
        return {**self.encoder, **self._added_ids}

    @property
    def added_tokens_decoder(self) -> dict[int, AddedToken]:
        """The tokens that are found whole in a text, special ones among them, by id."""
        return dict(sorted(self._added.items()))

    def add_tokens(self, new_tokens: Any, special_tokens: bool = False) -> int:
        """Let tokens (text or AddedToken) be found whole in a text; return how many got a new id, after the others."""
        tokens = [new_tokens] if isinstance(new_tokens, (str, AddedToken)) else new_tokens
        added = dict(self._added)
        vocab = {**self.encoder, **{token.content: index for index, token in added.items()}}
        before, taken = len(vocab), set(vocab.values())
        for token in (_added(token, special=special_tokens) for token in tokens):
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
        self, text: str | Sequence[str], text_pair: str | Sequence[str] | None = None, add_special_tokens: bool = True,
        padding: bool | str = False, truncation: bool | str | None = None, max_length: int | None = None,
        pad_to_multiple_of: int | None = None, padding_side: str | None = None,
        return_attention_mask: bool | None = None, return_tensors: str | None = None,
    ) -> BatchEncoding:  # fmt: skip
        """Give the `input_ids` (the labels of a model in training) and `attention_mask` of a text or a list of texts.

        CTC puts no tokens around a text, whatever `add_special_tokens` says, and none between it and its `text_pair`.
        Options as for every tokenizer. Raises TypeError for what is no text, ValueError for a character outside the
        vocabulary where `unk_token` is None, for unequal numbers of texts and pairs, and for pairs to truncate.
        """
        rows = self._rows(text)
        _, cut, limit = self._limits(padding, truncation, max_length, pad_to_multiple_of)
        if text_pair is not None:
            pairs = self._rows(text_pair)
            if len(pairs) != len(rows) or isinstance(text, str) != isinstance(text_pair, str):
                raise ValueError(
                    f"There are {len(rows)} texts and {len(pairs)} pairs; each text has one, in one form."
                )
            rows = [row + pair for row, pair in zip(rows, pairs, strict=True)]
            if cut and limit is not None and max(map(len, rows)) > limit:
                raise ValueError(f"A text and its pair have more than {limit} tokens; pairs are not truncated here.")
        if cut in ("longest_first", "only_first") and limit:
            rows = [row[:limit] if self.truncation_side == "right" else row[-limit:] for row in rows]
        options = (padding, limit, pad_to_multiple_of, padding_side, return_attention_mask, return_tensors)
        batch = self.pad({"input_ids": rows}, *options)
        if isinstance(text, str) and return_tensors is None:
            return BatchEncoding({name: value[0] for name, value in batch.items()})
        return batch

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """Return 0: CTC puts no tokens around a text."""
        return 0

    def encode(self, text: str, **options: Any) -> Any:
        """Return the ids of one text; options as in a call."""
        return self(text, **options)["input_ids"]

    def _rows(self, texts: Any) -> list[list[int]]:
        return [self._encode(text) for text in (texts if isinstance(texts, (list, tuple)) else [texts])]

    def _encode(self, text: Any) -> list[int]:
        if not isinstance(text, str):
            raise TypeError(
                f"The tokenizer takes a text or a list of them, not a {type(text).__name__}: {text!r:.80}."
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
        characters: list[dict[str, Any]] = []
        for _, run in groupby(enumerate(tokens), operator.itemgetter(1 if group_tokens else 0)):
            frames = list(run)
            start, token = frames[0]
            if token != self.pad_token:
                char = self.replace_word_delimiter_char if token == self.word_delimiter_token else token
                characters.append({"char": char, "start_offset": start, "end_offset": frames[-1][0] + 1})
        text = (" " if spaces_between_special_tokens else "").join(item["char"] for item in characters).strip()
        words: list[dict[str, Any]] = []
        for is_space, group in groupby(characters, lambda item: item["char"] == self.replace_word_delimiter_char):
            word = list(group)
            span = {"start_offset": word[0]["start_offset"], "end_offset": word[-1]["end_offset"]}
            words += [] if is_space else [{"word": "".join(item["char"] for item in word), **span}]
        if time_per_frame is not None:
            for item in (*characters, *words):
                item["start_time"] = item["start_offset"] * time_per_frame
                item["end_time"] = item["end_offset"] * time_per_frame
        return Wav2Vec2CTCTokenizerOutput(
            text=text.lower() if self.do_lower_case else text,
            char_offsets=characters if output_char_offsets else None,
            word_offsets=words if output_word_offsets else None,
        )

    def decode(
        self, token_ids: Any, skip_special_tokens: bool = False, clean_up_tokenization_spaces: bool | None = None,
        **options: Any,
    ) -> Any:  # fmt: skip
        """Return the text of one sequence of ids (a list, array or tensor (N,)), such as `logits.argmax(-1)[0]`.

        The other options are those of `convert_tokens_to_string`; with offsets asked for, its output is returned.
        `skip_special_tokens=True` takes out the blank as well, before repeats are collapsed, as in transformers: for
        labels it is right, for frames it loses doubled letters. Raises TypeError for what are no ids, such as logits.
        """
        ids = _ids(token_ids)
        tokens = self.convert_ids_to_tokens(ids)
        if None in tokens:
            raise ValueError(f"{ids[tokens.index(None)]} is no id of the vocabulary, which has no unk_token for it.")
        if skip_special_tokens:
            skipped = set(self.all_special_tokens) - {self.word_delimiter_token}
            tokens = [token for token in tokens if token not in skipped]
        output = self.convert_tokens_to_string(tokens, **options)
        if self.clean_up_tokenization_spaces if clean_up_tokenization_spaces is None else clean_up_tokenization_spaces:
            output["text"] = clean_up(output["text"])
        return output["text"] if output.char_offsets is output.word_offsets is None else output

    def batch_decode(self, sequences: Any, *args: Any, **options: Any) -> Any:
        """Return a list of texts, or one `Wav2Vec2CTCTokenizerOutput` of lists; options as in `decode`."""
        decoded = [self.decode(sequence, *args, **options) for sequence in sequences]
        if not decoded or isinstance(decoded[0], str):
            return decoded
        return Wav2Vec2CTCTokenizerOutput(
            {key: None if decoded[0][key] is None else [item[key] for item in decoded] for key in decoded[0]}
        )

    def _current_settings(self) -> dict[str, Any]:
        now = ("replace_word_delimiter_char", "do_lower_case", "target_lang")
        added = {str(index): token.__getstate__() for index, token in self.added_tokens_decoder.items()}
        settings = {**super()._current_settings(), "added_tokens_decoder": added}
        return {**settings, **{name: getattr(self, name) for name in now}}

    def _write(self, folder: Path) -> None:
        new = {token: index for token, index in self._added_ids.items() if index >= self.vocab_size}
        for name, content in (("vocab.json", self.vocab), ("added_tokens.json", new)):
            if content:
                text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
                (folder / name).write_text(text, encoding="utf-8")


def _added(token: Any, special: bool = False, strip: bool = False) -> AddedToken:
    """A new AddedToken of a text, of the dict that stands for one in JSON, or of another."""
    if isinstance(token, str):
        return AddedToken(token, lstrip=strip, rstrip=strip, normalized=False, special=special)
    flags = {**(token if isinstance(token, Mapping) else token.__getstate__())}
    flags.pop("__type", None)
    return AddedToken(**{**flags, "special": special or flags.get("special", False)})


def _ids(value: Any) -> list[int]:
    value = value.tolist() if hasattr(value, "tolist") else value
    try:
        return [operator.index(index) for index in ([value] if isinstance(value, int) else value)]
    except TypeError:
        advice = "decode takes those of one sequence, such as logits.argmax(-1)[0], and batch_decode those of several"
        raise TypeError(f"These are no ids: {value!r:.80}; {advice}.") from None
