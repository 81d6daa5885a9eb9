"""Real pictures: the handwritten digits that come with scikit-learn, every fifth of them held out from training.

1,797 grey pictures of 8 × 8 pixels, written by 13 people: the test set of "Optical Recognition of Handwritten Digits"
(Alpaydin and Kaynak 1998), UCI Machine Learning Repository, CC BY 4.0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

INK = " .:+#"


def load(held_out: bool) -> tuple[list[Image], np.ndarray]:
    """The pictures of either part, 0 where the paper is and 255 where the ink is, and their digits (n,) int64."""
    from PIL import Image
    from sklearn.datasets import load_digits

    found = load_digits()
    chosen = (np.arange(len(found.target)) % 5 == 4) == held_out
    pixels = (found.images[chosen] * (255 / 16)).astype(np.uint8)
    return [Image.fromarray(picture) for picture in pixels], found.target[chosen]


def drawn(pictures: Sequence[Image], captions: Sequence[str]) -> str:
    """Pictures of one size side by side in letters, two for a pixel, each above its caption."""
    rows = [[[INK[pixel // 52] * 2 for pixel in row] for row in np.asarray(picture)] for picture in pictures]
    lines = ["  ".join("".join(row) for row in across) for across in zip(*rows, strict=True)]
    width = 2 * pictures[0].width + 2
    return "\n".join(line.rstrip() for line in [*lines, "".join(caption.ljust(width) for caption in captions)])
