"""Train the demo's Wav2Vec2: synthetic speech made by numpy, at 8 kHz, to letters by CTC.

    python examples/train/wav2vec2.py [--output FOLDER] [--steps N]

2,500 clips of words of random syllables, each in another voice. It gets 79 % of unseen words right, letter by letter
and without a dictionary, after 155 seconds on one core.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from minitrans import (
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2Processor,
    set_seed,
)
from minitrans.demo import CHECKPOINTS, speech

CLIPS, STEPS, BATCH, RATE = 2500, 1300, 8, 3e-3
TOKENS = ["<pad>", "<s>", "</s>", "<unk>", "|", *sorted(speech.VOWELS + speech.CONSONANTS)]
CONFIG = Wav2Vec2Config(
    vocab_size=len(TOKENS), hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128,
    conv_dim=(32, 64, 64, 64), conv_kernel=(10, 4, 4, 4), conv_stride=(5, 4, 4, 2), conv_bias=True,
    feat_extract_norm="layer", do_stable_layer_norm=True, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4,
    hidden_dropout=0.0, attention_dropout=0.0, activation_dropout=0.0, final_dropout=0.0, layerdrop=0.0,
    initializer_range=0.1, apply_spec_augment=False, ctc_loss_reduction="mean", ctc_zero_infinity=True,
)  # fmt: skip
PROCESSOR = Wav2Vec2Processor(
    Wav2Vec2FeatureExtractor(sampling_rate=speech.RATE, return_attention_mask=True),
    Wav2Vec2CTCTokenizer({token: index for index, token in enumerate(TOKENS)}),
)


def batch(clips: list[speech.Clip]) -> dict[str, torch.Tensor]:
    """Samples, mask and letters (−100 where there is none) of some clips."""
    samples = [clip.samples for clip in clips]
    inputs = PROCESSOR(samples, sampling_rate=speech.RATE, padding=True, return_tensors="pt")
    texts = PROCESSOR(text=[clip.text for clip in clips], padding=True, return_tensors="pt")
    return {**inputs, "labels": texts["input_ids"].masked_fill(texts["attention_mask"] == 0, -100)}


def main(arguments: list[str] | None = None) -> None:
    """Train, print the word error rate on held-out clips, and save model and processor."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=CHECKPOINTS / "wav2vec2")
    parser.add_argument("--steps", type=int, default=STEPS)
    options = parser.parse_args(arguments)
    set_seed(0)
    random = np.random.default_rng(0)
    clips = [speech.say(speech.random_words(random), random) for _ in range(min(CLIPS, options.steps * BATCH))]
    model = Wav2Vec2ForCTC(CONFIG).train()
    optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=options.steps + 1, pct_start=0.15)
    for step in range(options.steps):
        loss = model(**batch([clips[row] for row in random.integers(len(clips), size=BATCH)])).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 50 == 0:
            print(f"step {step}, loss {loss:.3f}", flush=True)

    clips = speech.held_out(50)
    with torch.inference_mode():
        heard = PROCESSOR.batch_decode(model.eval()(**batch(clips)).logits.argmax(-1))
    errors = sum(speech.word_errors(clip.text, text) for clip, text in zip(clips, heard, strict=True))
    print(f"held-out words heard wrong: {errors / sum(len(clip.words) for clip in clips):.1%}")
    model.save_pretrained(options.output)
    PROCESSOR.save_pretrained(options.output)


if __name__ == "__main__":
    main()
