"""The processor of speech checkpoints: the feature extractor for sound and the tokenizer for text, in one object."""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from minitrans import hub
from minitrans.processing.audio import Wav2Vec2FeatureExtractor
from minitrans.processing.ctc import Wav2Vec2CTCTokenizer


@dataclass
class Wav2Vec2Processor:
    """Sound to `input_values`, text to `labels`, and the ids of a CTC model back to text."""

    feature_extractor: Wav2Vec2FeatureExtractor
    tokenizer: Wav2Vec2CTCTokenizer

    @property
    def model_input_names(self) -> list[str]:
        """The keys that a call with sound and text may give."""
        return [*self.feature_extractor.model_input_names, "labels"]

    @classmethod
    def from_pretrained(cls, name_or_path: str | os.PathLike[str], **options: Any) -> Wav2Vec2Processor:
        """Read both parts from a folder or hub id, in the files of today or of older years.

        `options` are those of `minitrans.hub.open_repository`, and settings of either part that override the files'.
        """
        heard = {spec.name for spec in fields(Wav2Vec2FeatureExtractor)}
        _, settings = hub.open_with(name_or_path, options)
        return cls(
            Wav2Vec2FeatureExtractor.from_pretrained(
                name_or_path, **{key: value for key, value in options.items() if key in heard or key not in settings}
            ),
            Wav2Vec2CTCTokenizer.from_pretrained(
                name_or_path, **{key: value for key, value in options.items() if key not in heard}
            ),
        )

    def write_files(self, folder: Path) -> None:
        """Write processor_config.json, which holds the feature extractor's settings, and the tokenizer's files."""
        config = {"feature_extractor": self.feature_extractor.to_dict(), "processor_class": type(self).__name__}
        text = json.dumps(config, indent=2, sort_keys=True) + "\n"
        (folder / "processor_config.json").write_text(text, encoding="utf-8")
        self.tokenizer.save_pretrained(folder)

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write all files into `folder`, readable by transformers too."""
        with hub.atomic_folder(folder) as files:
            self.write_files(files)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload as one commit and return its address; `options` as in `minitrans.hub.push_folder`."""
        return hub.push_folder(repo_id, self.write_files, **options)

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
        if audio is None and text is None:
            raise ValueError("The processor needs audio or text, and got neither.")
        # transformers lets this setting of tokenizer_config.json rule over sound too.
        if "return_attention_mask" in self.tokenizer._settings:
            options = {"return_attention_mask": self.tokenizer._settings["return_attention_mask"], **options}
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
