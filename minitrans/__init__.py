"""BERT, DistilBERT, Swin and Wav2Vec2, hand-written, behind the Auto classes everybody knows.

Every public name is loaded on first use, so that `from minitrans import AutoTokenizer` imports no torch.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_NAMES = {
    "minitrans.auto": (
        "AutoBackbone",
        "AutoConfig",
        "AutoFeatureExtractor",
        "AutoImageProcessor",
        "AutoModel",
        "AutoModelForImageClassification",
        "AutoModelForMaskedImageModeling",
        "AutoModelForAudioClassification",
        "AutoModelForAudioFrameClassification",
        "AutoModelForAudioXVector",
        "AutoModelForCTC",
        "AutoModelForMaskedLM",
        "AutoModelForMultipleChoice",
        "AutoModelForNextSentencePrediction",
        "AutoModelForPreTraining",
        "AutoModelForQuestionAnswering",
        "AutoModelForSequenceClassification",
        "AutoModelForTokenClassification",
        "AutoProcessor",
        "AutoTokenizer",
    ),
    "minitrans.config": ("PretrainedConfig", "PreTrainedConfig"),
    "minitrans.ops": ("engine",),
    "minitrans.pretrained": ("PreTrainedModel",),
    "minitrans.processing.collate": (
        "DataCollatorForLanguageModeling",
        "DataCollatorForMultipleChoice",
        "DataCollatorForTokenClassification",
        "DataCollatorWithPadding",
        "DefaultDataCollator",
        "default_data_collator",
    ),
    "minitrans.processing.encoding": ("AddedToken", "BatchEncoding", "PreTrainedTokenizerBase"),
    "minitrans.processing.features": ("BatchFeature",),
    "minitrans.tasks.audio": ("AudioClassifier", "FrameClassifier", "SpeakerEncoder", "Transcriber"),
    "minitrans.tasks.image": ("FeatureMaps", "ImageClassifier", "ImageVectors"),
    "minitrans.tasks.pipeline": ("pipeline",),
    "minitrans.tasks.text": (
        "ChoiceTask",
        "CrossEncoder",
        "NextSentenceClassifier",
        "Reranker",
        "TextClassifier",
        "TokenVectors",
        "ZeroShotClassifier",
    ),
    "minitrans.tasks.tokens": ("EntityRecognizer", "MaskFiller", "QuestionAnswerer"),
    "minitrans.tasks.vectors": ("Embedder", "SentenceTransformer"),
    "minitrans.utils": ("logging", "set_seed"),
}
_HOME = {name: module for module, names in _NAMES.items() for name in names}

__all__ = [*_HOME]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    if not name[0].isupper():  # the published classes are capitalised; a module of the package is none of them
        raise AttributeError(f"module 'minitrans' has no attribute {name!r}")
    return importlib.import_module("minitrans.auto").published_class(name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
