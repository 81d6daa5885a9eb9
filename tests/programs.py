"""Training programs as users of transformers write them; each takes the library whose import line it has.

Models, configurations, tokenizers and processors come from that library; Trainer, collators and data sets from their
own packages. `starts` writes the tiny checkpoints that they start from, without dropout, so that two runs see the same
numbers.
"""

import json
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
import transformers
from datasets import Dataset
from transformers import (
    DataCollatorForLanguageModeling,
    DataCollatorForMultipleChoice,
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    DefaultDataCollator,
    Trainer,
    TrainingArguments,
)

LETTERS = "abcdefghijklmnopqrstuvwxyz"
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{letter}" for letter in LETTERS), ".", "?",
              "the", "a", "film", "was", "good", "bad", "paris", "berlin", "is", "in", "who", "where"]  # fmt: skip
SENTENCES = ["the film was good", "the film was bad .", "a bad film", "was the film good ?", "paris is in a film",
             "where is berlin ?", "good", "the the a film was in berlin . was it good ?"]  # fmt: skip
BERT = {"vocab_size": len(VOCABULARY), "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 48, "max_position_embeddings": 40, "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0, "initializer_range": 0.1}  # fmt: skip
DISTILBERT = {"vocab_size": len(VOCABULARY), "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48,
              "max_position_embeddings": 40, "dropout": 0.0, "attention_dropout": 0.0, "seq_classif_dropout": 0.0,
              "qa_dropout": 0.0, "initializer_range": 0.1}  # fmt: skip
SWIN = {"image_size": 32, "patch_size": 4, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4,
        "drop_path_rate": 0.0, "encoder_stride": 8, "initializer_range": 0.1}  # fmt: skip
WAV2VEC2 = {"vocab_size": 32, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
            "intermediate_size": 48, "conv_dim": (16, 16), "conv_stride": (5, 4), "conv_kernel": (10, 8),
            "num_feat_extract_layers": 2, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4,
            "classifier_proj_size": 16, "hidden_dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0,
            "feat_proj_dropout": 0.0, "final_dropout": 0.0, "layerdrop": 0.0, "feat_quantizer_dropout": 0.0,
            "feat_extract_norm": "layer", "mask_time_prob": 0.3, "mask_time_length": 3, "initializer_range": 0.1,
            "pad_token_id": 0,
            "codevector_dim": 16, "proj_codevector_dim": 16, "num_codevectors_per_group": 8, "tdnn_dim": (16, 16, 24),
            "tdnn_kernel": (3, 3, 1), "tdnn_dilation": (1, 2, 1), "xvector_output_dim": 16}  # fmt: skip
FAMILIES = {"Bert": BERT, "DistilBert": DISTILBERT, "Swin": SWIN, "Wav2Vec2": WAV2VEC2}


def starts(folder: Path, kind: str, **values: Any) -> Path:
    """A checkpoint of the transformers class `kind` with random weights, and the files of its processor."""
    family = next(name for name in reversed(FAMILIES) if kind.startswith(name))
    config = getattr(transformers, f"{family}Config")(**{**FAMILIES[family], **values})
    torch.manual_seed(0)
    getattr(transformers, kind)(config).save_pretrained(folder)
    if family == "Swin":
        transformers.ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    elif family == "Wav2Vec2":
        letters = ["<pad>", "<s>", "</s>", "<unk>", "|", *LETTERS.upper(), "'"]
        (folder / "vocab.json").write_text(json.dumps({letter: index for index, letter in enumerate(letters)}))
        tokenizer = transformers.Wav2Vec2CTCTokenizer(str(folder / "vocab.json"))
        extractor = transformers.Wav2Vec2FeatureExtractor(return_attention_mask=True)
        transformers.Wav2Vec2Processor(feature_extractor=extractor, tokenizer=tokenizer).save_pretrained(folder)
    else:
        kind = transformers.BertTokenizer if family == "Bert" else transformers.DistilBertTokenizer
        tokenizer = kind(vocab={word: index for index, word in enumerate(VOCABULARY)})
        tokenizer.save_pretrained(folder)
    return folder


def arguments(out: Path, **options: Any) -> TrainingArguments:
    """What every program's Trainer is told, but for `options`."""
    quiet = {"report_to": "none", "logging_steps": 1, "disable_tqdm": True, "use_cpu": True, "save_strategy": "no"}
    steps = {"per_device_train_batch_size": 2, "num_train_epochs": 2, "learning_rate": 1e-3, "seed": 7}
    return TrainingArguments(str(out), **{**quiet, **steps, **options})


def clips(count: int = 6) -> list[np.ndarray]:
    """Noise of several lengths."""
    random = np.random.default_rng(0)
    return [random.standard_normal(600 + 150 * index).astype("float32") for index in range(count)]


def glue(library: ModuleType, start: Path, out: Path, **options: Any) -> Trainer:
    """run_glue: a class for each sentence."""
    tokenizer = library.AutoTokenizer.from_pretrained(start)
    config = library.AutoConfig.from_pretrained(start, num_labels=3)
    model = library.AutoModelForSequenceClassification.from_pretrained(start, config=config)

    def preprocess(examples: Any) -> Any:
        return tokenizer(examples["sentence"], padding=False, max_length=12, truncation=True)

    data = Dataset.from_dict({"sentence": SENTENCES, "label": [index % 3 for index in range(len(SENTENCES))]})
    data = data.map(preprocess, batched=True)

    def compute_metrics(prediction: Any) -> dict[str, float]:
        logits = prediction.predictions[0] if isinstance(prediction.predictions, tuple) else prediction.predictions
        return {"accuracy": float((logits.argmax(-1) == prediction.label_ids).mean()), "sum": float(logits.sum())}

    return Trainer(
        model=model,
        args=arguments(out, **options),
        train_dataset=data,
        eval_dataset=data.select(range(5)),
        data_collator=DataCollatorWithPadding(tokenizer, pad_to_multiple_of=4),
        compute_metrics=compute_metrics,
    )


def regression(library: ModuleType, start: Path, out: Path, **options: Any) -> Trainer:
    """run_glue on STS-B: a number for each pair of sentences."""
    tokenizer = library.AutoTokenizer.from_pretrained(start)
    model = library.AutoModelForSequenceClassification.from_pretrained(start, num_labels=1)
    data = Dataset.from_dict({"first": SENTENCES, "second": SENTENCES[::-1], "label": np.linspace(0, 5, 8)})
    data = data.map(lambda row: tokenizer(row["first"], row["second"]), remove_columns=["first", "second"])
    return Trainer(model, arguments(out, **options), DataCollatorWithPadding(tokenizer), data, data)


def ner(library: ModuleType, start: Path, out: Path, **options: Any) -> Trainer:
    """run_ner: labels of words for the first piece of each, the others −100."""
    tokenizer = library.AutoTokenizer.from_pretrained(start)
    labels = ["O", "B-LOC", "I-LOC"]
    model = library.AutoModelForTokenClassification.from_pretrained(
        start,
        num_labels=len(labels),
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
    )

    def align(examples: Any) -> Any:
        inputs = tokenizer(examples["tokens"], truncation=True, is_split_into_words=True)
        inputs["labels"] = []
        for index, tags in enumerate(examples["ner_tags"]):
            before, ids = None, []
            for word in inputs.word_ids(batch_index=index):
                ids.append(-100 if word is None or word == before else tags[word])
                before = word
            inputs["labels"].append(ids)
        return inputs

    words = [sentence.replace("berlin", "berlinxy").split() for sentence in SENTENCES]
    tags = [[(3 * len(word) + place) % 3 for place, word in enumerate(sentence)] for sentence in words]
    data = Dataset.from_dict({"tokens": words, "ner_tags": tags})
    data = data.map(align, batched=True, remove_columns=data.column_names)
    collator = DataCollatorForTokenClassification(tokenizer)
    return Trainer(
        model=model, args=arguments(out, **options), train_dataset=data, eval_dataset=data, data_collator=collator
    )


def squad(library: ModuleType, start: Path, out: Path, **options: Any) -> Trainer:
    """run_qa: long contexts in overlapping windows, the answer's tokens from its characters."""
    tokenizer = library.AutoTokenizer.from_pretrained(start)
    model = library.AutoModelForQuestionAnswering.from_pretrained(start)
    context = "paris is in a film . the film was good . berlin is the bad film . who was in paris"
    answers = {"who is in berlin ?": "the bad film", "where is paris ?": "a film", "was the film good ?": "good"}

    def prepare(examples: Any) -> Any:
        inputs = tokenizer(
            examples["question"],
            examples["context"],
            truncation="only_second",
            max_length=16,
            stride=4,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        sample_mapping = inputs.pop("overflow_to_sample_mapping")
        offset_mapping = inputs.pop("offset_mapping")
        inputs["start_positions"], inputs["end_positions"] = [], []
        for i, offsets in enumerate(offset_mapping):
            cls_index = inputs["input_ids"][i].index(tokenizer.cls_token_id)
            sequence_ids = inputs.sequence_ids(i)
            answer = examples["answer"][sample_mapping[i]]
            start_char = context.index(answer)
            end_char = start_char + len(answer)
            first = sequence_ids.index(1)
            last = len(sequence_ids) - 1 - sequence_ids[::-1].index(1)
            if not (offsets[first][0] <= start_char and offsets[last][1] >= end_char):
                inputs["start_positions"].append(cls_index)
                inputs["end_positions"].append(cls_index)
                continue
            while first < len(offsets) and offsets[first][0] <= start_char:
                first += 1
            while offsets[last][1] >= end_char:
                last -= 1
            inputs["start_positions"].append(first - 1)
            inputs["end_positions"].append(last + 1)
        return inputs

    data = Dataset.from_dict(
        {"question": [*answers], "context": [context] * len(answers), "answer": [*answers.values()]}
    )
    data = data.map(prepare, batched=True, remove_columns=data.column_names)
    return Trainer(
        model=model,
        args=arguments(out, **options),
        train_dataset=data,
        eval_dataset=data,
        data_collator=DataCollatorWithPadding(tokenizer),
    )


def mlm(library: ModuleType, start: Path, out: Path, **options: Any) -> Trainer:
    """run_mlm: texts joined and cut into blocks, masked anew in every batch."""
    tokenizer = library.AutoTokenizer.from_pretrained(start)
    model = library.AutoModelForMaskedLM.from_pretrained(start)
    if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(len(tokenizer))

    def group(examples: Any) -> Any:
        inputs = tokenizer(examples["text"], return_special_tokens_mask=True)
        joined = {key: [*chain(*inputs[key])] for key in inputs}
        total = len(joined["input_ids"]) // 12 * 12
        return {key: [ids[i : i + 12] for i in range(0, total, 12)] for key, ids in joined.items()}

    data = Dataset.from_dict({"text": SENTENCES * 2}).map(group, batched=True, remove_columns=["text"])
    collator = DataCollatorForLanguageModeling(tokenizer=tokenizer, mlm_probability=0.4)
    return Trainer(
        model=model, args=arguments(out, **options), train_dataset=data, eval_dataset=data, data_collator=collator
    )


def swag(library: ModuleType, start: Path, out: Path, **options: Any) -> Trainer:
    """run_swag: which of four endings."""
    tokenizer = library.AutoTokenizer.from_pretrained(start)
    model = library.AutoModelForMultipleChoice.from_pretrained(start)

    def preprocess(examples: Any) -> Any:
        first = [*chain(*([sentence] * 4 for sentence in examples["text"]))]
        second = [SENTENCES[(3 * index) % 8] for index in range(len(first))]
        tokenized = tokenizer(first, second, truncation=True, max_length=20)
        return {key: [ids[i : i + 4] for i in range(0, len(ids), 4)] for key, ids in tokenized.items()}

    data = Dataset.from_dict({"text": SENTENCES, "label": [index % 4 for index in range(8)]})
    data = data.map(preprocess, batched=True, remove_columns=["text"])
    return Trainer(
        model=model,
        args=arguments(out, **options),
        train_dataset=data,
        eval_dataset=data,
        data_collator=DataCollatorForMultipleChoice(tokenizer=tokenizer),
    )


def images(library: ModuleType, start: Path, out: Path, **options: Any) -> Trainer:
    """run_image_classification."""
    processor = library.AutoImageProcessor.from_pretrained(start)
    model = library.AutoModelForImageClassification.from_pretrained(start, num_labels=3)
    random = np.random.default_rng(0)
    pictures = [random.integers(0, 256, (40, 36, 3), dtype=np.uint8) for _ in range(6)]
    data = [{"pixel_values": processor(picture, return_tensors="pt")["pixel_values"][0], "labels": index % 3}
            for index, picture in enumerate(pictures)]  # fmt: skip

    def collate(examples: Any) -> Any:
        pixel_values = torch.stack([example["pixel_values"] for example in examples])
        return {"pixel_values": pixel_values, "labels": torch.tensor([example["labels"] for example in examples])}

    options = {"remove_unused_columns": False, **options}
    return Trainer(
        model=model, args=arguments(out, **options), train_dataset=data, eval_dataset=data, data_collator=collate
    )


def masked_images(library: ModuleType, start: Path, out: Path, **options: Any) -> Trainer:
    """run_mim: masked patches of images restored."""
    model = library.AutoModelForMaskedImageModeling.from_pretrained(start)
    random = np.random.default_rng(1)
    data = [{"pixel_values": random.standard_normal((3, 32, 32)).astype("float32"),
             "bool_masked_pos": random.permutation(64) < 32} for _ in range(6)]  # fmt: skip
    return Trainer(
        model=model,
        args=arguments(out, **options),
        train_dataset=data,
        eval_dataset=data,
        data_collator=DefaultDataCollator(),
    )


def ctc(library: ModuleType, start: Path, out: Path, **options: Any) -> Trainer:
    """run_speech_recognition_ctc, with the collator of that example."""
    processor = library.Wav2Vec2Processor.from_pretrained(start)
    model = library.Wav2Vec2ForCTC.from_pretrained(
        start, ctc_loss_reduction="mean", pad_token_id=processor.tokenizer.pad_token_id
    )
    model.freeze_feature_encoder()

    def collate(features: Any) -> Any:
        inputs = [{"input_values": feature["input_values"]} for feature in features]
        batch = processor.pad(inputs, padding=True, return_tensors="pt")
        labels = [{"input_ids": feature["labels"]} for feature in features]
        labels_batch = processor.pad(labels=labels, padding=True, return_tensors="pt")
        batch["labels"] = labels_batch["input_ids"].masked_fill(labels_batch["attention_mask"].ne(1), -100)
        return batch

    data = [
        {
            "input_values": processor(clip, sampling_rate=16000).input_values[0],
            "labels": processor(text=sentence.upper()[: 4 + index]).input_ids,
        }
        for index, (clip, sentence) in enumerate(zip(clips(), SENTENCES, strict=False))
    ]
    return Trainer(
        model=model, args=arguments(out, **options), train_dataset=data, eval_dataset=data, data_collator=collate
    )


def audio(library: ModuleType, start: Path, out: Path, **options: Any) -> Trainer:
    """run_audio_classification: clips cut and padded to one length."""
    extractor = library.AutoFeatureExtractor.from_pretrained(start)
    model = library.AutoModelForAudioClassification.from_pretrained(
        start, num_labels=3, label2id={"no": 0, "yes": 1, "up": 2}, id2label={0: "no", 1: "yes", 2: "up"}
    )
    model.freeze_feature_encoder()
    inputs = extractor(clips(), sampling_rate=16000, max_length=1000, truncation=True, padding="max_length")
    data = [{"label": index % 3, **{key: values[index] for key, values in inputs.items()}} for index in range(6)]
    return Trainer(
        model=model,
        args=arguments(out, **options),
        train_dataset=data,
        eval_dataset=data,
        data_collator=DefaultDataCollator(),
    )


def own_head(library: ModuleType, start: Path, out: Path, **options: Any) -> Trainer:
    """A head of the user's own on the family's base class, with a loss of its own."""

    class SentencePairs(library.BertPreTrainedModel):
        def __init__(self, config: Any, margin: float = 0.5) -> None:
            super().__init__(config)
            self.bert = library.BertModel(config, add_pooling_layer=False)
            self.projection = torch.nn.Sequential(torch.nn.Linear(config.hidden_size, 8), torch.nn.Tanh())
            self.scale = torch.nn.Parameter(torch.ones(1))
            self.register_buffer("seen", torch.zeros(1))
            self.margin = margin
            self.post_init()

        def _init_weights(self, module: Any) -> None:
            super()._init_weights(module)
            if module is self:
                module.scale.data.fill_(0.5)
                module.seen.zero_()
            elif isinstance(module, torch.nn.Linear):
                module.weight.data.copy_(torch.eye(*module.weight.shape))

        def forward(self, input_ids: Any, attention_mask: Any = None, token_type_ids: Any = None, labels: Any = None):
            output = self.bert(input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)
            mean = (output.last_hidden_state * attention_mask[..., None]).sum(1) / attention_mask.sum(1, keepdim=True)
            vectors = self.projection(mean) * self.scale
            self.seen += len(vectors) if self.training else 0
            distance = (vectors[:, None] - vectors[None]).square().sum(-1)
            same = (labels[:, None] == labels[None]).float()
            loss = (same * distance + (1 - same) * (self.margin - distance).clamp_min(0)).mean()
            return {"loss": loss, "vectors": vectors}

    tokenizer = library.BertTokenizerFast.from_pretrained(start)
    model = SentencePairs.from_pretrained(start, margin=2.0)
    data = [{**tokenizer(text), "label": index % 2} for index, text in enumerate(SENTENCES)]
    return Trainer(model, arguments(out, **options), DataCollatorWithPadding(tokenizer), data, data)
