"""The processor of speech checkpoints: the feature extractor for sound and the tokenizer for text, in one object."""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minitrans import hub
from minitrans.processing.audio import Wav2Vec2FeatureExtractor
from minitrans.processing.ctc import TOKENIZERS, Wav2Vec2CTCTokenizer
from minitrans.processing.encoding import SETTINGS, read_settings
from minitrans.processing.features import Saved, open_with

if TYPE_CHECKING:
    from typing_extensions import Self

SPELLINGS = {"Wav2Vec2Tokenizer": "Wav2Vec2CTCTokenizer"}  # a class of older years
_TARGETS: ContextVar[bool] = ContextVar("targets", default=False)  # whether a call takes text first


@dataclass
class Wav2Vec2Processor(Saved):
    """Sound to `input_values`, text to `labels`, and the ids of a CTC model back to text."""

    feature_extractor: Wav2Vec2FeatureExtractor
    tokenizer: Wav2Vec2CTCTokenizer

    @property
    def model_input_names(self) -> list[str]:
        """The keys that a call with sound and text may give."""
        return [*self.feature_extractor.model_input_names, "labels"]

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str] | hub.Repository, **options: Any
    ) -> Self:
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
        """Give `input_values` (and a mask) of sound, the tokenizer's answer for text, and for both also `labels`.

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
        """As `Wav2Vec2CTCTokenizer.decode`."""
        return self.tokenizer.decode(*args, **options)

    def batch_decode(self, *args: Any, **options: Any) -> Any:
        """As `Wav2Vec2CTCTokenizer.batch_decode`."""
        return self.tokenizer.batch_decode(*args, **options)


def _accepted(part: Any) -> set[str]:
    return set(inspect.signature(part.__call__).parameters)
