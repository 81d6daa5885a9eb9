"""What tasks are called, and which one a checkpoint was made for, by its configuration alone: no torch is imported."""

from __future__ import annotations

from typing import Any

ALIASES = {"sentiment-analysis": "text-classification", "ner": "token-classification"}
TEXT = {
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForMaskedLM": "fill-mask",
    "ForPreTraining": "fill-mask",
    "ForQuestionAnswering": "question-answering",
    "ForMultipleChoice": "multiple-choice",
    "ForNextSentencePrediction": "next-sentence-prediction",
    "Model": "feature-extraction",
}
# model_type -> the end of the architecture's name -> the task
MADE_FOR: dict[str, dict[str, str]] = {
    "bert": TEXT,
    "distilbert": TEXT,
    "swin": {"ForImageClassification": "image-classification", "Model": "image-feature-extraction"},
    "wav2vec2": {
        "ForCTC": "automatic-speech-recognition",
        "ForSequenceClassification": "audio-classification",
        "ForSpeechClassification": "audio-classification",
        "ForAudioFrameClassification": "audio-frame-classification",
        "ForXVector": "audio-xvector",
    },
}


def made_for(model_type: Any, architectures: Any, name: str) -> str:
    """The task that a checkpoint was made for; ValueError, with those of its kind, for one that none fits."""
    architecture = str((architectures or ["Model"])[0])
    known = MADE_FOR.get(model_type, {})
    for end, task in known.items():
        if architecture.endswith(end):
            return task
    does = ", ".join(f"{end} ({task})" for end, task in known.items()) or "none of its kind"
    raise ValueError(f"{name} is a {model_type} checkpoint of {architecture}; the tasks here are for {does}.")
