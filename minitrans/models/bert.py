"""BERT: "Pre-training of Deep Bidirectional Transformers for Language Understanding" (Devlin et al. 2019).

Read from top to bottom: the configuration, the modules, the name table, the heads. Text comes in as (B, N), becomes
packed rows (T, C) on entry (`minitrans.text_inputs.pack_text`), and leaves as (B, N, C).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from minitrans import heads, ops
from minitrans.config import Count, Positive, PreTrainedConfig, Rate, Size, Words
from minitrans.layers import (
    Embedding,
    FeedForward,
    Intermediates,
    LayerNorm,
    Linear,
    QueryKeyValue,
    add_norm,
    attend,
    check_heads,
    embed,
    lookup,
    run_layers,
)
from minitrans.names import Module
from minitrans.outputs import BaseModelOutputWithPooling, Encoded
from minitrans.pretrained import PreTrainedModel
from minitrans.sequences import Sequences
from minitrans.text_inputs import check_undecoded, encoded_text, pack_indices, pack_text


@dataclass(init=False, eq=False)
class BertConfig(PreTrainedConfig):
    """The fields of BERT's config.json and their published defaults (bert-base-uncased)."""

    model_type: ClassVar[str] = "bert"
    honoured: ClassVar[dict[str, tuple]] = {
        "hidden_act": tuple(ops.ACTIVATIONS),
        "is_decoder": (False,),
        "add_cross_attention": (False,),
        "position_embedding_type": ("absolute",),
        "pruned_heads": ({},),
    }

    vocab_size: Words = 30522
    hidden_size: Size = 768
    num_hidden_layers: Count = 12
    num_attention_heads: Size = 12
    intermediate_size: Size = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: Rate = 0.1
    attention_probs_dropout_prob: Rate = 0.1
    max_position_embeddings: Words = 512
    type_vocab_size: Size = 2
    initializer_range: Positive = 0.02
    layer_norm_eps: Positive = 1e-12
    pad_token_id: int | None = 0
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    use_cache: bool = True
    classifier_dropout: Rate | None = None
    is_decoder: bool = False
    add_cross_attention: bool = False


class BertEmbeddings(Module):
    """Word, token-type and position vectors, summed and normalised."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.word: nn.Embedding = Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.position = Embedding(config.max_position_embeddings, config.hidden_size)
        self.token_type = Embedding(config.type_vocab_size, config.hidden_size)
        self.norm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, words: Tensor, table: Tensor | None, positions: Tensor, types: Tensor) -> Tensor:
        """Indices (T,) -> rows (T, C); words are looked up in `table` where it is given."""
        word, words, padding = lookup(self.word, words) if table is None else (table, words, None)
        position, positions, _ = lookup(self.position, positions)
        token_type, types, _ = lookup(self.token_type, types)
        rows = embed(self.norm, words, positions, types, word, position, token_type, padding)
        return self.dropout(rows)


class BertSelfAttention(QueryKeyValue):
    """Multi-head self-attention within each sequence."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config.hidden_size)
        check_heads(config.hidden_size, config.num_attention_heads)
        self.num_heads = config.num_attention_heads
        self.dropout = nn.Dropout(config.attention_probs_dropout_prob)

    def forward(self, rows: Tensor, sequences: Sequences, intermediates: Intermediates) -> Tensor:  # type: ignore[override]
        """Rows (T, C) -> (T, C)."""
        dropout = self.dropout.p if self.training else 0.0
        return attend(super().forward(rows), self.num_heads, sequences, intermediates, dropout)


class BertAttention(Module):
    """Self-attention and a linear map, added to the input and normalised after."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.heads = BertSelfAttention(config)
        self.out = Linear(config.hidden_size, config.hidden_size)
        self.norm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, rows: Tensor, sequences: Sequences, intermediates: Intermediates) -> Tensor:
        """Rows (T, C) -> (T, C)."""
        return add_norm(self.norm, self.dropout(self.out(self.heads(rows, sequences, intermediates))), rows)


class BertLayer(Module):
    """Attention, then a feed-forward block, added to its input and normalised after."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.attention = BertAttention(config)
        self.feed_forward = FeedForward(config.hidden_size, config.intermediate_size, config.hidden_act)
        self.norm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, rows: Tensor, sequences: Sequences, intermediates: Intermediates) -> Tensor:
        """Rows (T, C) -> (T, C)."""
        rows = self.attention(rows, sequences, intermediates)
        return add_norm(self.norm, self.dropout(self.feed_forward(rows)), rows)


class BertPooler(Module):
    """tanh of a linear map of the first token."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.dense = Linear(config.hidden_size, config.hidden_size)

    def forward(self, states: Tensor) -> Tensor:
        """States (B, N, C), or those of the first tokens alone, (B, C) -> (B, C)."""
        return torch.tanh(self.dense(states[:, 0] if states.dim() == 3 else states))


class BertPreTrainedModel(PreTrainedModel):
    """What every BERT model is, and what an own head on BERT starts from."""

    config: BertConfig
    config_class = BertConfig
    base_model_prefix = "bert"


class BertModel(BertPreTrainedModel):
    """The encoder and, unless `add_pooling_layer=False`, the pooler: tanh of a linear map of the first token."""

    weights: ClassVar[dict[str, str]] = {
        "embeddings.word": "embeddings.word_embeddings",
        "embeddings.position": "embeddings.position_embeddings",
        "embeddings.token_type": "embeddings.token_type_embeddings",
        "embeddings.norm": "embeddings.LayerNorm",
        "layers.{}.attention.heads.query": "encoder.layer.{}.attention.self.query",
        "layers.{}.attention.heads.key": "encoder.layer.{}.attention.self.key",
        "layers.{}.attention.heads.value": "encoder.layer.{}.attention.self.value",
        "layers.{}.attention.out": "encoder.layer.{}.attention.output.dense",
        "layers.{}.attention.norm": "encoder.layer.{}.attention.output.LayerNorm",
        "layers.{}.attention.dropout": "encoder.layer.{}.attention.output.dropout",
        "layers.{}.feed_forward.up": "encoder.layer.{}.intermediate.dense",
        "layers.{}.feed_forward.activation": "encoder.layer.{}.intermediate.intermediate_act_fn",
        "layers.{}.feed_forward.down": "encoder.layer.{}.output.dense",
        "layers.{}.norm": "encoder.layer.{}.output.LayerNorm",
        "layers.{}.dropout": "encoder.layer.{}.output.dropout",
    }
    head_weights: ClassVar[dict[str, str]] = {
        "predictions.dense": "cls.predictions.transform.dense",
        "predictions.activation": "cls.predictions.transform.transform_act_fn",
        "predictions.norm": "cls.predictions.transform.LayerNorm",
        "predictions.decoder": "cls.predictions.decoder",
        "seq_relationship": "cls.seq_relationship",
    }
    ties: ClassVar[dict[str, str]] = {
        "predictions.decoder.weight": "bert.embeddings.word.weight",
        "predictions.decoder.bias": "predictions.bias",
    }

    def __init__(self, config: BertConfig, add_pooling_layer: bool = True) -> None:
        super().__init__(config)
        self.embeddings = BertEmbeddings(config)
        self.layers = nn.ModuleList(BertLayer(config) for _ in range(config.num_hidden_layers))
        self.pooler = BertPooler(config) if add_pooling_layer else None
        self.post_init()

    encoded = staticmethod(encoded_text)

    def encode(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        *,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> Encoded:
        """What `forward` computes, as packed rows: the heads' input."""
        text = pack_text(self, input_ids, attention_mask, position_ids, inputs_embeds)
        sequences = text.sequences
        if token_type_ids is None:
            types = torch.zeros_like(text.positions)
        else:
            types = pack_indices(
                "token_type_ids", token_type_ids, sequences, self.config.type_vocab_size, "token-type table"
            )
        intermediates = Intermediates(self.config, output_attentions, output_hidden_states)
        rows = self.embeddings(text.words, text.table, text.positions, types)
        rows = run_layers(self.layers, rows, sequences, intermediates, self.gradient_checkpointing and self.training)
        rows, grid = intermediates.leave(rows, sequences)
        pooled = None if self.pooler is None else self.pooler(sequences.first(rows))
        return Encoded(rows, sequences, pooled, intermediates.hidden_states, intermediates.attentions, grid)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        encoder_hidden_states: None = None,
        encoder_attention_mask: None = None,
        past_key_values: None = None,
        use_cache: bool | None = None,
        *,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> BaseModelOutputWithPooling:
        """Token indices (B, N) -> hidden states (B, N, C) and the pooled first token (B, C).

        `attention_mask` (B, N) is 1 for tokens and 0 for padding, wherever it stands; (B, N, N) says it for each
        token. `token_type_ids` and `position_ids` (B, N) default to 0 and to the column; `inputs_embeds` (B, N, C)
        replaces the word vectors. What a decoder takes must be None, and `use_cache` has no effect. Raises ValueError
        for shapes, indices and lengths that the model cannot take.
        """
        check_undecoded(self, encoder_hidden_states, encoder_attention_mask, past_key_values)
        encoded = self.encode(
            input_ids,
            attention_mask,
            token_type_ids,
            position_ids,
            inputs_embeds,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
        )
        output = BaseModelOutputWithPooling(
            encoded.last_hidden_state, encoded.pooled, encoded.hidden_states, encoded.attentions
        )
        return self.returned(output, return_dict)


NO_POOLER = {"add_pooling_layer": False}
DROPOUT = ("classifier_dropout", "hidden_dropout_prob")


class BertForPreTraining(heads.PreTraining, BertPreTrainedModel):
    """BERT with both heads that it was pre-trained with: masked words and next sentence."""

    backbone_class = BertModel


class BertForMaskedLM(heads.MaskedLM, BertPreTrainedModel):
    """BERT with scores of every word of the vocabulary for each token."""

    backbone_class, backbone_options = BertModel, NO_POOLER
    labels_after = "encoder_attention_mask"


class BertForNextSentencePrediction(heads.NextSentencePrediction, BertPreTrainedModel):
    """BERT that says whether one segment follows the other."""

    backbone_class = BertModel


class BertForSequenceClassification(heads.SequenceClassification, BertPreTrainedModel):
    """BERT that classifies whole texts."""

    backbone_class, dropout_fields = BertModel, DROPOUT


class BertForMultipleChoice(heads.MultipleChoice, BertPreTrainedModel):
    """BERT that chooses among texts."""

    backbone_class, dropout_fields = BertModel, DROPOUT


class BertForTokenClassification(heads.TokenClassification, BertPreTrainedModel):
    """BERT that classifies tokens."""

    backbone_class, dropout_fields, backbone_options = BertModel, DROPOUT, NO_POOLER


class BertForQuestionAnswering(heads.QuestionAnswering, BertPreTrainedModel):
    """BERT that finds the answer to a question in a text."""

    backbone_class, backbone_options = BertModel, NO_POOLER
