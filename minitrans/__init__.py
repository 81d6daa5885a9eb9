"""BERT, DistilBERT, Swin and Wav2Vec2, hand-written, behind the Auto classes everybody knows.

Every public name is loaded on first use, so that `from minitrans import AutoTokenizer` imports no torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_NAMES = {
    "minitrans.auto": """
        AutoBackbone AutoConfig AutoFeatureExtractor AutoImageProcessor AutoModel
        AutoModelForAudioClassification AutoModelForAudioFrameClassification AutoModelForAudioXVector
        AutoModelForCTC AutoModelForImageClassification AutoModelForMaskedImageModeling AutoModelForMaskedLM
        AutoModelForMultipleChoice AutoModelForNextSentencePrediction AutoModelForPreTraining
        AutoModelForQuestionAnswering AutoModelForSequenceClassification AutoModelForTokenClassification
        AutoProcessor AutoTokenizer
    """,
    "minitrans.config": "PreTrainedConfig PretrainedConfig",
    "minitrans.models.bert": """
        BertConfig BertForMaskedLM BertForMultipleChoice BertForNextSentencePrediction BertForPreTraining
        BertForQuestionAnswering BertForSequenceClassification BertForTokenClassification BertModel
        BertPreTrainedModel
    """,
    "minitrans.models.distilbert": """
        DistilBertConfig DistilBertForMaskedLM DistilBertForMultipleChoice DistilBertForQuestionAnswering
        DistilBertForSequenceClassification DistilBertForTokenClassification DistilBertModel
        DistilBertPreTrainedModel
    """,
    "minitrans.models.swin": """
        SwinBackbone SwinConfig SwinForImageClassification SwinForMaskedImageModeling SwinModel
        SwinPreTrainedModel
    """,
    "minitrans.models.wav2vec2": """
        Wav2Vec2Config Wav2Vec2ForAudioFrameClassification Wav2Vec2ForCTC Wav2Vec2ForPreTraining
        Wav2Vec2ForSequenceClassification Wav2Vec2ForSpeechClassification Wav2Vec2ForXVector Wav2Vec2Model
        Wav2Vec2PreTrainedModel
    """,
    "minitrans.ops": "engine",
    "minitrans.pretrained": "PreTrainedModel",
    "minitrans.processing.audio": "Wav2Vec2FeatureExtractor",
    "minitrans.processing.collate": """
        DataCollatorForLanguageModeling DataCollatorForMultipleChoice DataCollatorForTokenClassification
        DataCollatorWithPadding DefaultDataCollator default_data_collator
    """,
    "minitrans.processing.ctc": "Wav2Vec2CTCTokenizer Wav2Vec2PhonemeCTCTokenizer",
    "minitrans.processing.document": """
        LayoutLMv2ImageProcessor LayoutLMv2Processor LayoutLMv2Tokenizer LayoutLMv2TokenizerFast
    """,
    "minitrans.processing.encoding": "AddedToken BatchEncoding PreTrainedTokenizerBase",
    "minitrans.processing.features": "BatchFeature",
    "minitrans.processing.image": "ViTImageProcessor",
    "minitrans.processing.speech": "Wav2Vec2Processor Wav2Vec2ProcessorWithLM",
    "minitrans.processing.text": """
        BertTokenizer BertTokenizerFast DistilBertTokenizer DistilBertTokenizerFast PreTrainedTokenizerFast
    """,
    "minitrans.tasks.audio": "AudioClassifier FrameClassifier SpeakerEncoder Transcriber",
    "minitrans.tasks.image": "FeatureMaps ImageClassifier ImageVectors",
    "minitrans.tasks.pipeline": "pipeline",
    "minitrans.tasks.text": """
        ChoiceTask CrossEncoder NextSentenceClassifier Reranker TextClassifier TokenVectors ZeroShotClassifier
    """,
    "minitrans.tasks.tokens": "EntityRecognizer MaskFiller QuestionAnswerer",
    "minitrans.tasks.vectors": "Embedder SentenceTransformer",
    "minitrans.utils": "logging set_seed",
}
_HOME = {name: module for module, names in _NAMES.items() for name in names.split()}

__all__ = [*_HOME]


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])


if TYPE_CHECKING:  # the names above, for those who read no tables
    # isort: off
    from minitrans.auto import (
        AutoBackbone as AutoBackbone,
        AutoConfig as AutoConfig,
        AutoFeatureExtractor as AutoFeatureExtractor,
        AutoImageProcessor as AutoImageProcessor,
        AutoModel as AutoModel,
        AutoModelForAudioClassification as AutoModelForAudioClassification,
        AutoModelForAudioFrameClassification as AutoModelForAudioFrameClassification,
        AutoModelForAudioXVector as AutoModelForAudioXVector,
        AutoModelForCTC as AutoModelForCTC,
        AutoModelForImageClassification as AutoModelForImageClassification,
        AutoModelForMaskedImageModeling as AutoModelForMaskedImageModeling,
        AutoModelForMaskedLM as AutoModelForMaskedLM,
        AutoModelForMultipleChoice as AutoModelForMultipleChoice,
        AutoModelForNextSentencePrediction as AutoModelForNextSentencePrediction,
        AutoModelForPreTraining as AutoModelForPreTraining,
        AutoModelForQuestionAnswering as AutoModelForQuestionAnswering,
        AutoModelForSequenceClassification as AutoModelForSequenceClassification,
        AutoModelForTokenClassification as AutoModelForTokenClassification,
        AutoProcessor as AutoProcessor,
        AutoTokenizer as AutoTokenizer,
    )
    from minitrans.config import (
        PreTrainedConfig as PreTrainedConfig,
        PretrainedConfig as PretrainedConfig,
    )
    from minitrans.models.bert import (
        BertConfig as BertConfig,
        BertForMaskedLM as BertForMaskedLM,
        BertForMultipleChoice as BertForMultipleChoice,
        BertForNextSentencePrediction as BertForNextSentencePrediction,
        BertForPreTraining as BertForPreTraining,
        BertForQuestionAnswering as BertForQuestionAnswering,
        BertForSequenceClassification as BertForSequenceClassification,
        BertForTokenClassification as BertForTokenClassification,
        BertModel as BertModel,
        BertPreTrainedModel as BertPreTrainedModel,
    )
    from minitrans.models.distilbert import (
        DistilBertConfig as DistilBertConfig,
        DistilBertForMaskedLM as DistilBertForMaskedLM,
        DistilBertForMultipleChoice as DistilBertForMultipleChoice,
        DistilBertForQuestionAnswering as DistilBertForQuestionAnswering,
        DistilBertForSequenceClassification as DistilBertForSequenceClassification,
        DistilBertForTokenClassification as DistilBertForTokenClassification,
        DistilBertModel as DistilBertModel,
        DistilBertPreTrainedModel as DistilBertPreTrainedModel,
    )
    from minitrans.models.swin import (
        SwinBackbone as SwinBackbone,
        SwinConfig as SwinConfig,
        SwinForImageClassification as SwinForImageClassification,
        SwinForMaskedImageModeling as SwinForMaskedImageModeling,
        SwinModel as SwinModel,
        SwinPreTrainedModel as SwinPreTrainedModel,
    )
    from minitrans.models.wav2vec2 import (
        Wav2Vec2Config as Wav2Vec2Config,
        Wav2Vec2ForAudioFrameClassification as Wav2Vec2ForAudioFrameClassification,
        Wav2Vec2ForCTC as Wav2Vec2ForCTC,
        Wav2Vec2ForPreTraining as Wav2Vec2ForPreTraining,
        Wav2Vec2ForSequenceClassification as Wav2Vec2ForSequenceClassification,
        Wav2Vec2ForSpeechClassification as Wav2Vec2ForSpeechClassification,
        Wav2Vec2ForXVector as Wav2Vec2ForXVector,
        Wav2Vec2Model as Wav2Vec2Model,
        Wav2Vec2PreTrainedModel as Wav2Vec2PreTrainedModel,
    )
    from minitrans.ops import engine as engine
    from minitrans.pretrained import PreTrainedModel as PreTrainedModel
    from minitrans.processing.audio import Wav2Vec2FeatureExtractor as Wav2Vec2FeatureExtractor
    from minitrans.processing.collate import (
        DataCollatorForLanguageModeling as DataCollatorForLanguageModeling,
        DataCollatorForMultipleChoice as DataCollatorForMultipleChoice,
        DataCollatorForTokenClassification as DataCollatorForTokenClassification,
        DataCollatorWithPadding as DataCollatorWithPadding,
        DefaultDataCollator as DefaultDataCollator,
        default_data_collator as default_data_collator,
    )
    from minitrans.processing.ctc import (
        Wav2Vec2CTCTokenizer as Wav2Vec2CTCTokenizer,
        Wav2Vec2PhonemeCTCTokenizer as Wav2Vec2PhonemeCTCTokenizer,
    )
    from minitrans.processing.document import (
        LayoutLMv2ImageProcessor as LayoutLMv2ImageProcessor,
        LayoutLMv2Processor as LayoutLMv2Processor,
        LayoutLMv2Tokenizer as LayoutLMv2Tokenizer,
        LayoutLMv2TokenizerFast as LayoutLMv2TokenizerFast,
    )
    from minitrans.processing.encoding import (
        AddedToken as AddedToken,
        BatchEncoding as BatchEncoding,
        PreTrainedTokenizerBase as PreTrainedTokenizerBase,
    )
    from minitrans.processing.features import BatchFeature as BatchFeature
    from minitrans.processing.image import ViTImageProcessor as ViTImageProcessor
    from minitrans.processing.speech import (
        Wav2Vec2Processor as Wav2Vec2Processor,
        Wav2Vec2ProcessorWithLM as Wav2Vec2ProcessorWithLM,
    )
    from minitrans.processing.text import (
        BertTokenizer as BertTokenizer,
        BertTokenizerFast as BertTokenizerFast,
        DistilBertTokenizer as DistilBertTokenizer,
        DistilBertTokenizerFast as DistilBertTokenizerFast,
        PreTrainedTokenizerFast as PreTrainedTokenizerFast,
    )
    from minitrans.tasks.audio import (
        AudioClassifier as AudioClassifier,
        FrameClassifier as FrameClassifier,
        SpeakerEncoder as SpeakerEncoder,
        Transcriber as Transcriber,
    )
    from minitrans.tasks.image import (
        FeatureMaps as FeatureMaps,
        ImageClassifier as ImageClassifier,
        ImageVectors as ImageVectors,
    )
    from minitrans.tasks.pipeline import pipeline as pipeline
    from minitrans.tasks.text import (
        ChoiceTask as ChoiceTask,
        CrossEncoder as CrossEncoder,
        NextSentenceClassifier as NextSentenceClassifier,
        Reranker as Reranker,
        TextClassifier as TextClassifier,
        TokenVectors as TokenVectors,
        ZeroShotClassifier as ZeroShotClassifier,
    )
    from minitrans.tasks.tokens import (
        EntityRecognizer as EntityRecognizer,
        MaskFiller as MaskFiller,
        QuestionAnswerer as QuestionAnswerer,
    )
    from minitrans.tasks.vectors import (
        Embedder as Embedder,
        SentenceTransformer as SentenceTransformer,
    )
    from minitrans.utils import (
        logging as logging,
        set_seed as set_seed,
    )
    # isort: on
else:

    def __getattr__(name: str) -> Any:
        if name in _HOME:
            return getattr(importlib.import_module(_HOME[name]), name)
        if not name[0].isupper():  # the published classes are capitalised; a module of the package is not
            raise AttributeError(f"module 'minitrans' has no attribute {name!r}")
        return importlib.import_module("minitrans.auto").published_class(name)
