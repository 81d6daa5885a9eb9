"""Random checkpoints made by transformers, and what two models are compared with."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

import minitrans

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

BERT = ("ForPreTraining", "ForMaskedLM", "ForNextSentencePrediction", "ForSequenceClassification",
        "ForMultipleChoice", "ForTokenClassification", "ForQuestionAnswering")  # fmt: skip
DISTILBERT = tuple(head for head in BERT if head not in ("ForPreTraining", "ForNextSentencePrediction"))
HEADS = [f"Bert{head}" for head in BERT] + [f"DistilBert{head}" for head in DISTILBERT]
CLASSES = ["BertModel", "DistilBertModel", *HEADS]

# Names that all sizes below share; `SHAPES` says them in BERT's fields, `_distilbert` in the other family's.
TINY: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 24,
    "attn_implementation": "eager",
}
SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {},
    "odd head size": {"hidden_size": 45, "num_attention_heads": 3, "intermediate_size": 7},
    "one head, one layer": {"num_attention_heads": 1, "num_hidden_layers": 1, "hidden_size": 33},
    "relu, large eps, no padding index": {"hidden_act": "relu", "layer_norm_eps": 1e-3, "pad_token_id": None},
    "gelu_new, one token type": {"hidden_act": "gelu_new", "type_vocab_size": 1, "pad_token_id": 5},
    "silu, three token types": {"hidden_act": "silu", "type_vocab_size": 3, "initializer_range": 0.5},
    "head size 1": {"hidden_size": 6, "num_attention_heads": 6, "vocab_size": 11, "max_position_embeddings": 21},
}
_DISTILBERT_NAMES = {
    "hidden_size": "dim",
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
    "intermediate_size": "hidden_dim",
    "hidden_act": "activation",
    "type_vocab_size": None,
    "layer_norm_eps": None,
    "hidden_dropout_prob": "dropout",
    "attention_probs_dropout_prob": "attention_dropout",
    "classifier_dropout": "seq_classif_dropout",
}


def reference(name: str, seed: int = 0, **values: Any) -> Any:
    """A transformers model of that class in evaluation mode, every number random, biases and norms included."""
    family = name.split("For")[0].removesuffix("Model")
    values = {**TINY, **values}
    if family == "DistilBert":
        values = {_DISTILBERT_NAMES.get(key, key): value for key, value in values.items()}
        values.pop(None, None)
    torch.manual_seed(seed)
    model = getattr(transformers, name)(getattr(transformers, f"{family}Config")(**values))
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            parameter.normal_(1.0 if path.lower().endswith(("layernorm.weight", "layer_norm.weight")) else 0.0, 0.2)
    return model.eval()


def pair(name: str, folder: Path, seed: int = 0, **values: Any) -> tuple[Any, Any]:
    """The transformers model and ours, loaded from what it saved in `folder`."""
    theirs = reference(name, seed, **values)
    theirs.save_pretrained(folder)
    return theirs, getattr(minitrans, name).from_pretrained(folder)


@dataclass
class Batch:
    """Inputs for both models, and where real tokens are."""

    inputs: dict[str, Tensor]
    mask: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.mask.shape)


def batch(model: Any, shape: tuple[int, ...] = (4, 11), *, padded: bool = True, seed: int = 0) -> Batch:
    """Random ids for a model; right-padded sequences of several lengths unless told otherwise."""
    generator = torch.Generator().manual_seed(seed)
    config = model.config
    ids = torch.randint(0, config.vocab_size, shape, generator=generator)
    lengths = torch.randint(1, shape[-1] + 1, shape[:-1], generator=generator)
    lengths.view(-1)[0] = shape[-1]
    mask = (torch.arange(shape[-1]) < lengths[..., None]).long() if padded else torch.ones_like(ids)
    inputs = {"input_ids": ids, "attention_mask": mask}
    if getattr(config, "type_vocab_size", None):
        inputs["token_type_ids"] = torch.randint(0, config.type_vocab_size, shape, generator=generator)
    return Batch(inputs, mask)


def relative(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference over the largest value."""
    assert ours.shape == theirs.shape
    return float((ours - theirs).detach().abs().max() / theirs.detach().abs().max().clamp_min(1e-30))
