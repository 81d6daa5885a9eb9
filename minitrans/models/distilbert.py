"""DistilBERT: "a distilled version of BERT: smaller, faster, cheaper and lighter" (Sanh et al. 2019).

BERT with half the layers, without token types and pooler, and with names of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from minitrans import heads, ops
from minitrans.config import Count, Positive, PreTrainedConfig, Rate, Size, Words
from minitrans.layers import (
    Embedding,
    FeedForward,
    Intermediates,
    LayerNorm,
    Linear,
    SelfAttention,
    add_norm,
    embed,
    lookup,
    run_layers,
)
from minitrans.names import Module
from minitrans.outputs import BaseModelOutput, Encoded
from minitrans.pretrained import PreTrainedModel, with_first_rows
from minitrans.sequences import Sequences
from minitrans.text_inputs import encoded_text, pack_text


@dataclass(init=False, eq=False)
class DistilBertConfig(PreTrainedConfig):
    """The fields of DistilBERT's config.json and their published defaults (distilbert-base-uncased)."""

    model_type: ClassVar[str] = "distilbert"
    attribute_map: ClassVar[dict[str, str]] = {
        "hidden_size": "dim",
        "num_attention_heads": "n_heads",
        "num_hidden_layers": "n_layers",
        "intermediate_size": "hidden_dim",
        "hidden_act": "activation",
    }
    layer_norm_eps: ClassVar[float] = 1e-12  # no published configuration says otherwise
    honoured: ClassVar[dict[str, tuple]] = {"activation": tuple(ops.ACTIVATIONS), "pruned_heads": ({},)}

    vocab_size: Words = 30522
    max_position_embeddings: Words = 512
    sinusoidal_pos_embds: bool = False
    n_layers: Count = 6
    n_heads: Size = 12
    dim: Size = 768
    hidden_dim: Size = 3072
    dropout: Rate = 0.1
    attention_dropout: Rate = 0.1
    activation: str = "gelu"
    initializer_range: Positive = 0.02
    qa_dropout: Rate = 0.1
    seq_classif_dropout: Rate = 0.2
    pad_token_id: int | None = 0
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None


class DistilBertEmbeddings(Module):
    """Word and position vectors, summed and normalised."""

    def __init__(self, config: DistilBertConfig) -> None:
        super().__init__()
        self.word: nn.Embedding = Embedding(config.vocab_size, config.dim, padding_idx=config.pad_token_id)
        self.position = Embedding(config.max_position_embeddings, config.dim)
        self.norm = LayerNorm(config.dim, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, words: Tensor, table: Tensor | None, positions: Tensor) -> Tensor:
        """Indices (T,) -> rows (T, C); words are looked up in `table` where it is given."""
        word, words, padding = lookup(self.word, words) if table is None else (table, words, None)
        position, positions, _ = lookup(self.position, positions)
        return self.dropout(embed(self.norm, words, positions, None, word, position, None, padding))


class DistilBertLayer(Module):
    """Self-attention, then a feed-forward block, each added to its input and normalised after."""

    def __init__(self, config: DistilBertConfig) -> None:
        super().__init__()
        self.attention = SelfAttention(config.dim, config.n_heads, config.attention_dropout)
        self.attention_norm = LayerNorm(config.dim, eps=config.layer_norm_eps)
        self.feed_forward = FeedForward(config.dim, config.hidden_dim, config.activation)
        self.norm = LayerNorm(config.dim, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, rows: Tensor, sequences: Sequences, intermediates: Intermediates) -> Tensor:
        """Rows (T, C) -> (T, C)."""
        rows = add_norm(self.attention_norm, self.attention(rows, sequences, intermediates), rows)
        return add_norm(self.norm, self.dropout(self.feed_forward(rows)), rows)


class DistilBertPreTrainedModel(PreTrainedModel):
    """What every DistilBERT model is, and what an own head on DistilBERT starts from."""

    config: DistilBertConfig
    config_class = DistilBertConfig
    base_model_prefix = "distilbert"

    def get_position_embeddings(self) -> nn.Module:
        """The table of position vectors."""
        return self.base_model.embeddings.position  # type: ignore[union-attr, return-value]

    @torch.no_grad()
    def resize_position_embeddings(self, new_num_position_embeddings: int) -> None:
        """Make room for texts of another length; the first positions stay, new ones start as in a new model."""
        backbone: DistilBertModel = self.base_model  # type: ignore[assignment]
        old = backbone.embeddings.position.weight
        self.config.update({"max_position_embeddings": new_num_position_embeddings})
        new = Embedding(new_num_position_embeddings, self.config.dim).to(old.device, old.dtype)
        backbone.embeddings.position = new
        backbone.initialise("embeddings.position.weight")
        if not self.config.sinusoidal_pos_embds:
            new.weight = with_first_rows(old, new.weight.detach())


class DistilBertModel(DistilBertPreTrainedModel):
    """The encoder."""

    weights: ClassVar[dict[str, str]] = {
        "embeddings.word": "embeddings.word_embeddings",
        "embeddings.position": "embeddings.position_embeddings",
        "embeddings.norm": "embeddings.LayerNorm",
        "layers.{}.attention.qkv.query": "transformer.layer.{}.attention.q_lin",
        "layers.{}.attention.qkv.key": "transformer.layer.{}.attention.k_lin",
        "layers.{}.attention.qkv.value": "transformer.layer.{}.attention.v_lin",
        "layers.{}.attention.out": "transformer.layer.{}.attention.out_lin",
        "layers.{}.attention_norm": "transformer.layer.{}.sa_layer_norm",
        "layers.{}.feed_forward.up": "transformer.layer.{}.ffn.lin1",
        "layers.{}.feed_forward.down": "transformer.layer.{}.ffn.lin2",
        "layers.{}.norm": "transformer.layer.{}.output_layer_norm",
    }
    head_weights: ClassVar[dict[str, str]] = {
        "predictions.dense": "vocab_transform",
        "predictions.activation": "activation",
        "predictions.norm": "vocab_layer_norm",
        "predictions.decoder": "vocab_projector",
    }
    ties: ClassVar[dict[str, str]] = {"predictions.decoder.weight": "distilbert.embeddings.word.weight"}

    def __init__(self, config: DistilBertConfig) -> None:
        super().__init__(config)
        self.embeddings = DistilBertEmbeddings(config)
        self.layers = nn.ModuleList(DistilBertLayer(config) for _ in range(config.n_layers))
        self.post_init()

    @override
    def initialise(self, path: str) -> None:
        super().initialise(path)
        if path.endswith("embeddings.position.weight") and self.config.sinusoidal_pos_embds:
            table = self.embeddings.position.weight  # the sinusoids of Vaswani et al. 2017, section 3.5
            angle = torch.arange(table.shape[0], dtype=torch.float64)[:, None] / 10000 ** (
                torch.arange(0, self.config.dim, 2, dtype=torch.float64) / self.config.dim
            )
            with torch.no_grad():
                table[:, 0::2], table[:, 1::2] = angle.sin(), angle.cos()[:, : self.config.dim // 2]

    encoded = staticmethod(encoded_text)

    def encode(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        position_ids: Tensor | None = None,
        *,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> Encoded:
        """What `forward` computes, as packed rows: the heads' input."""
        text = pack_text(self, input_ids, attention_mask, position_ids, inputs_embeds)
        intermediates = Intermediates(self.config, output_attentions, output_hidden_states)
        rows = self.embeddings(text.words, text.table, text.positions)
        checkpointing = self.gradient_checkpointing and self.training
        rows = run_layers(self.layers, rows, text.sequences, intermediates, checkpointing)
        rows, grid = intermediates.leave(rows, text.sequences)
        return Encoded(rows, text.sequences, None, intermediates.hidden_states, intermediates.attentions, grid)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        position_ids: Tensor | None = None,
        *,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> BaseModelOutput:
        """Token indices (B, N) -> hidden states (B, N, C); the inputs are those of `BertModel`, without types."""
        encoded = self.encode(
            input_ids,
            attention_mask,
            inputs_embeds,
            position_ids,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
        )
        output = BaseModelOutput(encoded.last_hidden_state, encoded.hidden_states, encoded.attentions)
        return self.returned(output, return_dict)


class FirstToken(heads.SequenceClassification):
    """One score per class for the whole sequence (B, K), from the first token through a linear map and ReLU."""

    @override
    def build(self, config: PreTrainedConfig) -> None:
        self.pre_classifier = Linear(config.dim, config.dim)
        super().build(config)

    @override
    def summary(self, encoded: Encoded) -> Tensor:
        return F.relu(self.pre_classifier(encoded.sequences.first(encoded.rows)))


class DistilBertForMaskedLM(heads.MaskedLM, DistilBertPreTrainedModel):
    """DistilBERT with scores of every word of the vocabulary for each token."""

    backbone_class = DistilBertModel


class DistilBertForSequenceClassification(FirstToken, DistilBertPreTrainedModel):
    """DistilBERT that classifies whole texts."""

    backbone_class, dropout_fields = DistilBertModel, ("seq_classif_dropout",)


class DistilBertForMultipleChoice(heads.MultipleChoice, FirstToken, DistilBertPreTrainedModel):
    """DistilBERT that chooses among texts."""

    backbone_class, dropout_fields = DistilBertModel, ("seq_classif_dropout",)


class DistilBertForTokenClassification(heads.TokenClassification, DistilBertPreTrainedModel):
    """DistilBERT that classifies tokens."""

    backbone_class, dropout_fields = DistilBertModel, ("dropout",)


class DistilBertForQuestionAnswering(heads.QuestionAnswering, DistilBertPreTrainedModel):
    """DistilBERT that finds the answer to a question in a text."""

    backbone_class, dropout_fields = DistilBertModel, ("qa_dropout",)
