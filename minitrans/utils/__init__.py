"""Helpers of training scripts, by the names that transformers has for them."""

from __future__ import annotations

import random

import numpy as np

from minitrans.utils import logging as logging


def set_seed(seed: int, deterministic: bool = False) -> None:
    """Seed `random`, numpy's global generator and torch on every device; `deterministic` also forbids what is not."""
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    if deterministic:
        torch.use_deterministic_algorithms(True)
