"""CTC in plain torch, from random weights: `python examples/whistles.py [FOLDER]` learns to transcribe whistles.

Each of five letters is a tone, words have a pause between them, and a Wav2Vec2 of 0.2 million parameters learns to
transcribe them in seconds. It is saved in FOLDER, and transformers can load it too.
"""

import sys

import numpy as np
import torch

from minitrans import Wav2Vec2Config, Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor, Wav2Vec2ForCTC, Wav2Vec2Processor

RATE, LETTERS = 16000, "AEIOU"
SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128,
         "conv_dim": (64,) * 3, "conv_kernel": (40, 8, 8), "conv_stride": (20, 8, 4), "num_conv_pos_embeddings": 16,
         "num_conv_pos_embedding_groups": 4, "feat_extract_norm": "layer", "do_stable_layer_norm": True}  # fmt: skip
RATES = {"mask_time_prob": 0.0, "layerdrop": 0.0, "hidden_dropout": 0.0, "attention_dropout": 0.0,
         "activation_dropout": 0.0, "feat_proj_dropout": 0.0, "final_dropout": 0.0}  # fmt: skip


def whistle(text: str) -> np.ndarray:
    """Samples (n,) float32 of a text of the five letters and spaces; two spaces and more are a longer silence."""
    time = np.arange(int(0.16 * RATE)) / RATE
    tones = [np.sin(2 * np.pi * (400 + 250 * i) * time) * np.hanning(len(time)) for i in range(len(LETTERS))]
    parts = [tones[LETTERS.index(letter)] if letter != " " else np.zeros(int(0.3 * RATE)) for letter in text]
    samples = np.concatenate([np.pad(part, (0, int(0.06 * RATE))) for part in parts])
    return (samples + np.random.default_rng(0).normal(0, 0.01, len(samples))).astype(np.float32)


def train(folder: str | None = None, steps: int = 160) -> tuple:
    """The model and its processor."""
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    vocabulary = {token: index for index, token in enumerate(["<pad>", "|", "<unk>", *LETTERS])}
    extractor, tokenizer = Wav2Vec2FeatureExtractor(return_attention_mask=True), Wav2Vec2CTCTokenizer(vocabulary)
    processor = Wav2Vec2Processor(extractor, tokenizer)
    config = Wav2Vec2Config(vocab_size=len(vocabulary), ctc_loss_reduction="mean", **SIZES, **RATES)
    model = Wav2Vec2ForCTC(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(steps):
        texts = [" ".join("".join(random.choice([*LETTERS], n)) for n in random.integers(1, 5, 2)) for _ in range(8)]
        gaps = random.choice([1, 1, 1, 4], 8)
        sounds = [whistle(text.replace(" ", " " * gap)) for text, gap in zip(texts, gaps, strict=True)]
        batch = processor(sounds, sampling_rate=RATE, text=texts, padding=True, return_tensors="pt")
        batch["labels"].masked_fill_(batch["labels"] == 0, -100)  # padding is not to be predicted
        loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 40 == 39:
            print(f"step {step + 1}: loss {loss.item():.3f}")
    if folder:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
    return model.eval(), processor


if __name__ == "__main__":
    train(*sys.argv[1:])
