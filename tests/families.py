"""Every published class of the four families, tiny and random, beside transformers'."""

from pathlib import Path
from typing import Any

import torch
import transformers
from checkpoints import BERT, DISTILBERT
from torch import Tensor

import minitrans

TEXT: dict[str, Any] = {
    "vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48,
    "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
}  # fmt: skip
SIZES: dict[str, dict[str, Any]] = {
    "Bert": TEXT,
    "DistilBert": {
        "vocab_size": 60, "dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 48, "dropout": 0.0,
        "attention_dropout": 0.0, "seq_classif_dropout": 0.0, "qa_dropout": 0.0,
    },
    "Swin": {
        "image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [2, 1], "num_heads": [2, 4], "window_size": 4,
        "encoder_stride": 4, "drop_path_rate": 0.0,
    },
    "Wav2Vec2": {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48,
        "conv_dim": (32,) * 3, "conv_kernel": (10, 3, 3), "conv_stride": (5, 2, 2), "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 4, "classifier_proj_size": 24, "tdnn_dim": (20,) * 5,
        "xvector_output_dim": 12, "num_codevectors_per_group": 8, "codevector_dim": 16, "proj_codevector_dim": 16,
        "hidden_dropout": 0.0,
        "activation_dropout": 0.0, "attention_dropout": 0.0, "feat_proj_dropout": 0.0, "final_dropout": 0.0,
        "layerdrop": 0.0, "mask_time_prob": 0.0, "feat_quantizer_dropout": 0.0,
    },
}  # fmt: skip
HEADS = {
    "Bert": BERT,
    "DistilBert": DISTILBERT,
    "Swin": ("ForImageClassification", "ForMaskedImageModeling"),
    "Wav2Vec2": ("ForPreTraining", "ForCTC", "ForSequenceClassification", "ForAudioFrameClassification", "ForXVector"),
}
HEADED = [f"{family}{head}" for family, heads in HEADS.items() for head in heads]
PUBLISHED = [*(f"{family}Model" for family in HEADS), "SwinBackbone", *HEADED]


def family_of(name: str) -> str:
    return next(family for family in SIZES if name.startswith(family))


def make(library: Any, name: str, seed: int = 0, **values: Any) -> Any:
    """A random model of that class, every number random, in evaluation mode."""
    family = family_of(name)
    torch.manual_seed(seed)
    model = getattr(library, name)(getattr(library, f"{family}Config")(**{**SIZES[family], **values})).eval()
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.add_(torch.randn_like(tensor) * 0.1)
    return model


def published_pair(name: str, folder: Path, seed: int = 0, **values: Any) -> tuple[Any, Any]:
    """transformers' model, with eager attention, and ours, loaded from what it saved in `folder`."""
    theirs = make(transformers, name, seed, attn_implementation="eager", **values)
    theirs.save_pretrained(folder)
    return theirs, getattr(minitrans, name).from_pretrained(folder)


def inputs_of(name: str, seed: int = 1) -> dict[str, Tensor]:
    """What the class takes, two of it, the first text shorter than the second."""
    torch.manual_seed(seed)
    family = family_of(name)
    if family == "Swin":
        return {"pixel_values": torch.randn(2, 3, 32, 32)}
    if family == "Wav2Vec2":
        return {"input_values": torch.randn(2, 1200)}
    shape = (2, 3, 7) if name.endswith("MultipleChoice") else (2, 7)
    mask = torch.ones(shape, dtype=torch.long)
    mask[0, ..., 5:] = 0
    return {"input_ids": torch.randint(0, 60, shape), "attention_mask": mask}


def labels_of(name: str, seed: int = 2) -> dict[str, Tensor]:
    """Labels of `inputs_of` for a class with a head."""
    torch.manual_seed(seed)
    family, head = family_of(name), name.removeprefix(family_of(name))
    words, classes = torch.randint(0, 60, (2, 7)), torch.randint(0, 2, (2,))
    words[0, 5:] = -100
    return {
        "ForPreTraining": {"labels": words, "next_sentence_label": classes},
        "ForMaskedLM": {"labels": words},
        "ForTokenClassification": {"labels": words.clamp(max=1)},
        "ForQuestionAnswering": {"start_positions": classes, "end_positions": classes + 2},
        "ForMaskedImageModeling": {"bool_masked_pos": torch.arange(256).remainder(3).eq(0).expand(2, 256)},
        "ForCTC": {"labels": torch.randint(1, 30, (2, 3))},
        "ForAudioFrameClassification": {"labels": torch.nn.functional.one_hot(torch.randint(0, 2, (2, 59)), 2)},
    }.get(head, {"labels": classes}) if (family, head) != ("Wav2Vec2", "ForPreTraining") else {}  # fmt: skip


def flat(output: Any) -> Tensor:
    """Every number of an output."""
    leaves = torch.utils._pytree.tree_leaves(output)
    return torch.cat([leaf.flatten() for leaf in leaves if isinstance(leaf, Tensor)])


def captured(compute: Any) -> Any:
    """In place of `cuda_graph` what has its pitfall: every replay writes its answer into the same memory."""
    output = compute()
    kept = torch.utils._pytree.tree_leaves(output)

    def replay() -> Any:
        for memory, new in zip(kept, torch.utils._pytree.tree_leaves(compute()), strict=True):
            memory.copy_(new)
        return output

    return replay
