"""The processor of speech checkpoints: the feature extractor for sound and the tokenizer for text, in one object."""

from __future__ import annotations

import inspect
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, fields, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from minitrans import hub
from minitrans.processing.audio import Wav2Vec2FeatureExtractor
from minitrans.processing.beam import NEVER, WIDTH, Found, LanguageModel, aligned, read_folder, search
from minitrans.processing.ctc import TOKENIZERS, Wav2Vec2CTCTokenizer
from minitrans.processing.encoding import SETTINGS, read_settings
from minitrans.processing.features import BatchFeature, open_with
from minitrans.utils.logging import warn_once

if TYPE_CHECKING:
    from typing_extensions import Self

SPELLINGS = {"Wav2Vec2Tokenizer": "Wav2Vec2CTCTokenizer"}  # a class of older years
WEIGHTS = ("alpha", "beta", "unk_score_offset", "score_boundary")  # of a language model
_TARGETS: ContextVar[bool] = ContextVar("targets", default=False)  # whether a call takes text first


@dataclass
class Wav2Vec2Processor(hub.Saved):
    """Sound to `input_values`, text to `labels`, and the ids of a CTC model back to text."""

    feature_extractor: Wav2Vec2FeatureExtractor
    tokenizer: Wav2Vec2CTCTokenizer

    @property
    def model_input_names(self) -> list[str]:
        """The keys that a call with sound and text may give."""
        return [*self.feature_extractor.model_input_names, "labels"]

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: hub.Source, **options: Any) -> Self:
        """Read both parts from a folder or hub id, in the files of today or of older years.

        `options` are those of `minitrans.hub.open_repository`, and settings of either part, or of both where both
        have them, that win over every file. Raises ValueError for a tokenizer that this package does not have.
        """
        repository, settings = open_with(pretrained_model_name_or_path, options)
        return cls(*cls.parts(repository, settings))

    @staticmethod
    def parts(
        repository: hub.Repository, settings: Mapping[str, Any]
    ) -> tuple[Wav2Vec2FeatureExtractor, Wav2Vec2CTCTokenizer]:
        """Read the feature extractor and the tokenizer, each with the settings that it has."""
        named = read_settings(repository).get("tokenizer_class") or "Wav2Vec2CTCTokenizer"
        kind = TOKENIZERS.get(SPELLINGS.get(named, named))
        if kind is None:
            known = ", ".join(TOKENIZERS)
            raise ValueError(f"{repository.name} has a {named}, which cannot be decoded with here; there are {known}.")
        heard = {spec.name for spec in fields(Wav2Vec2FeatureExtractor)}
        read = settings.keys() - (heard - {*SETTINGS, *kind.defaults})
        return (
            Wav2Vec2FeatureExtractor.from_pretrained(repository, **{k: settings[k] for k in settings if k in heard}),
            kind.from_pretrained(repository, **{key: settings[key] for key in settings if key in read}),
        )

    def write_files(self, folder: Path) -> None:
        """Write processor_config.json, which holds the feature extractor's settings, and the tokenizer's files."""
        config = {"feature_extractor": self.feature_extractor.to_dict(), "processor_class": type(self).__name__}
        text = json.dumps(config, indent=2, sort_keys=True) + "\n"
        (folder / "processor_config.json").write_text(text, encoding="utf-8")
        self.tokenizer.write_files(folder)

    @contextmanager
    def as_target_processor(self) -> Iterator[None]:
        """Within it a call takes text, as scripts of older years wrote `processor(text)` for labels."""
        token = _TARGETS.set(True)
        try:
            yield
        finally:
            _TARGETS.reset(token)

    def __call__(
        self,
        audio: Any = None,
        text: Any = None,
        audio_kwargs: Mapping[str, Any] | None = None,
        text_kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """Give `input_values` (and a mask) of sound, what the tokenizer gives for text, and for both also `labels`.

        Each option goes to the part that has it, or to both, such as `padding` and `return_tensors`; `audio_kwargs`
        and `text_kwargs` reach one part alone. Raises TypeError for an option that neither has.
        """
        if _TARGETS.get() and text is None:
            audio, text = None, audio
        if audio is None and text is None:
            raise ValueError("The processor needs audio or text, and got neither.")
        # transformers lets this setting of tokenizer_config.json rule over sound too.
        if self.tokenizer.init_kwargs.get("return_attention_mask") is not None:
            options = {"return_attention_mask": self.tokenizer.init_kwargs["return_attention_mask"], **options}
        heard, read = _accepted(self.feature_extractor), _accepted(self.tokenizer)
        if unknown := options.keys() - (heard | read):
            raise TypeError(f"{type(self).__name__} has no option {min(unknown)!r}.")
        if text is not None:
            chosen = {key: value for key, value in options.items() if key in read}
            encoded = self.tokenizer(text, **{**chosen, **(text_kwargs or {})})
        if audio is None:
            return encoded
        chosen = {key: value for key, value in options.items() if key in heard}
        inputs = self.feature_extractor(audio, **{**chosen, **(audio_kwargs or {})})
        if text is not None:
            inputs["labels"] = encoded["input_ids"]
        return inputs

    def pad(self, input_features: Any = None, labels: Any = None, **options: Any) -> Any:
        """Collate what was prepared before: `input_features` with `input_values`, `labels` with `input_ids`, or both.

        Options are those that both parts' `pad` have. Labels of both come back under `labels`.
        """
        if _TARGETS.get() and labels is None:
            input_features, labels = None, input_features
        if input_features is None and labels is None:
            raise ValueError("pad needs input_features or labels, and got neither.")
        if input_features is None:
            return self.tokenizer.pad(labels, **options)
        inputs = self.feature_extractor.pad(input_features, **options)
        if labels is not None:
            inputs["labels"] = self.tokenizer.pad(labels, **options)["input_ids"]
        return inputs

    def decode(self, *args: Any, **options: Any) -> Any:
        """`Wav2Vec2CTCTokenizer.decode`."""
        return self.tokenizer.decode(*args, **options)

    def batch_decode(self, *args: Any, **options: Any) -> Any:
        """`Wav2Vec2CTCTokenizer.batch_decode`."""
        return self.tokenizer.batch_decode(*args, **options)


class Wav2Vec2DecoderWithLMOutput(BatchFeature):
    """The `text` of frames, its `logit_score` (ln p of the frames) and `lm_score` (with the language model's part).

    `word_offsets` and `char_offsets` are there where they were asked for. A batch, or `n_best` above 1, has lists of
    all these.
    """

    def __missing__(self, key: str) -> None:
        if key not in ("word_offsets", "char_offsets"):
            raise KeyError(key)


@dataclass
class Wav2Vec2ProcessorWithLM(Wav2Vec2Processor):
    """A `Wav2Vec2Processor` whose `decode` and `batch_decode` take logits, and weigh their texts by a language model.

    `decoder` is the folder's n-gram model: an ARPA file is read here, a binary one by kenlm where that is installed.
    Where it is None, as after a warning for one that cannot be read, each frame's likeliest token is taken.
    """

    decoder: LanguageModel | None = None
    files: dict[str, Path] = field(default_factory=dict, repr=False)  # of the decoder, by their paths in a folder

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: hub.Source, **options: Any) -> Self:
        """Read both parts, with alphabet.json and language_model/ beside the other files.

        `alpha`, `beta`, `unk_score_offset` and `score_boundary` win over the folder's; see `LanguageModel`.
        """
        repository, settings = open_with(pretrained_model_name_or_path, options)
        weights = {name: settings.pop(name) for name in WEIGHTS if name in settings}
        paths = ["alphabet.json", *(f"language_model/{name}" for name in repository.names("language_model"))]
        files = {path: found for path in paths if (found := repository.find(path)) is not None}
        parts = cls.parts(repository, settings)
        try:
            model = read_folder(
                files.get("alphabet.json"), {Path(path).name: files[path] for path in files if "/" in path}
            )
        except (ValueError, ImportError) as error:
            warn_once(f"The language model of {repository.name} is not used, texts are decoded greedily: {error}.")
            return cls(*parts, None, files)
        return cls(*parts, replace(model, **weights), files)

    def write_files(self, folder: Path) -> None:
        """Write the files of both parts, and copy the decoder's."""
        super().write_files(folder)
        for path, source in self.files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, folder / path)
        attributes = folder / "language_model" / "attrs.json"
        if self.decoder is not None and attributes.parent.is_dir():
            text = json.dumps({name: getattr(self.decoder, name) for name in WEIGHTS})
            attributes.write_text(text, encoding="utf-8")

    def decode(
        self, logits: Any, beam_width: int | None = None, beam_prune_logp: float | None = None,
        token_min_logp: float | None = None, hotwords: Any = None, hotword_weight: float | None = None,
        alpha: float | None = None, beta: float | None = None, unk_score_offset: float | None = None,
        lm_score_boundary: bool | None = None, output_word_offsets: bool = False, n_best: int = 1,
        output_char_offsets: bool = False,
    ) -> Wav2Vec2DecoderWithLMOutput:  # fmt: skip
        """Return the best text of a clip's logits (T, V), or lists of the `n_best` best.

        `beam_width` texts are kept from frame to frame (100). Texts worse than the best by `beam_prune_logp` and
        tokens below `token_min_logp` are left out where these are given. `alpha`, `beta`, `unk_score_offset` and
        `lm_score_boundary` replace the model's weights for this call. Offsets are those of the likeliest way to spread
        the text over the frames. Raises ValueError for other shapes, for logits that are not numbers, for a vocabulary
        of another size, and for hot words, which are not weighed here.
        """
        if hotwords:
            raise ValueError("hotwords are not weighed here; give them to pyctcdecode with processor.decoder's files.")
        logp = self._log_probabilities(logits)
        symbols, blank = self._symbols(logp.shape[1])
        given = {
            "alpha": alpha,
            "beta": beta,
            "unk_score_offset": unk_score_offset,
            "score_boundary": lm_score_boundary,
        }
        chosen: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        if self.decoder is None:
            found = [self._greedy(logp, blank)]
        else:
            pruning = [NEVER if value is None else value for value in (beam_prune_logp, token_min_logp)]
            found = search(logp, symbols, replace(self.decoder, **chosen), beam_width or WIDTH, *pruning)[:n_best]
        entries = []
        for item in found:
            text = item.text.lower() if self.tokenizer.do_lower_case else item.text
            entry: dict[str, Any] = {"text": text, "logit_score": item.logit_score, "lm_score": item.lm_score}
            if output_word_offsets or output_char_offsets:
                spans = zip(item.tokens, aligned(logp, item.tokens, blank), strict=True)
                characters = [
                    {"char": symbols[token], "start_offset": start, "end_offset": end} for token, (start, end) in spans
                ]
                entry |= {"char_offsets": characters} if output_char_offsets else {}
                entry |= {"word_offsets": _words(characters)} if output_word_offsets else {}
            entries.append(entry)
        if n_best == 1:
            return Wav2Vec2DecoderWithLMOutput(entries[0])
        return Wav2Vec2DecoderWithLMOutput({name: [entry[name] for entry in entries] for name in entries[0]})

    def batch_decode(
        self, logits: Any, pool: Any = None, num_processes: int | None = None, **options: Any
    ) -> Wav2Vec2DecoderWithLMOutput:
        """Return lists of the best texts of logits (B, T, V), options as in `decode`; frames of -100 are padding.

        `pool` and `num_processes` are accepted for scripts' sake: one process decodes.
        """
        found = []
        for clip in _numpy(logits):
            frames = np.asarray(clip)
            found.append(self.decode(frames[(frames != -100.0).all(axis=-1)], **options))
        return Wav2Vec2DecoderWithLMOutput(
            {name: [entry[name] for entry in found] for name in found[0]} if found else {}
        )

    def _log_probabilities(self, logits: Any) -> np.ndarray:
        logits = np.asarray(_numpy(logits), dtype=np.float64)
        if logits.ndim != 2 or not logits.size:
            raise ValueError(f"decode takes the logits (T, V) of one clip, not an array {logits.shape}.")
        best = logits.max(axis=1, keepdims=True)
        if not (finite := np.isfinite(best)).all():
            frame = int(finite.argmin())
            raise ValueError(f"The largest of the logits of frame {frame} is {best[frame, 0]}; it must be finite.")
        logits = logits - best
        return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))

    def _symbols(self, count: int) -> tuple[list[str | None], int]:
        """Return what each token writes, and which is the blank."""
        tokenizer = self.tokenizer
        blank = tokenizer.pad_token_id
        if blank is None or not blank < count or count < tokenizer.vocab_size:
            raise ValueError(f"The logits are of {count} tokens, and the tokenizer has {len(tokenizer)}.")
        symbols: list[str | None] = [tokenizer.convert_ids_to_tokens(index) for index in range(count)]
        symbols = [" " if token == tokenizer.word_delimiter_token else token for token in symbols]
        symbols[blank] = None
        return symbols, blank

    def _greedy(self, logp: np.ndarray, blank: int) -> Found:
        best = logp.argmax(axis=1).tolist()
        tokens = tuple(token for token, _ in groupby(best) if token != blank)
        text, score = self.tokenizer.decode(best), float(logp.max(axis=1).sum())
        return Found(text, score, score, tokens)


def _words(characters: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The words that characters with their frames make."""
    words: list[dict[str, Any]] = []
    for is_space, group in groupby(characters, lambda item: item["char"] == " "):
        own = list(group)
        if not is_space:
            word = "".join(item["char"] for item in own)
            words.append({"word": word, "start_offset": own[0]["start_offset"], "end_offset": own[-1]["end_offset"]})
    return words


def _numpy(value: Any) -> Any:
    return value.detach().float().cpu().numpy() if hasattr(value, "detach") else value


def _accepted(part: Any) -> set[str]:
    return set(inspect.signature(part.__call__).parameters)
