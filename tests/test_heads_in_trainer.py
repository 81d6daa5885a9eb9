"""Every head of the four families in transformers' Trainer, with either library."""

from typing import Any

import numpy as np
import programs
import pytest
import torch
import transformers
from test_programs import LIBRARIES
from test_surface import CLASSES, asked, targets
from transformers import Trainer

HEADS = [name for name in CLASSES if targets(name) or "Masked" in name]


def rows(name: str) -> list[dict[str, torch.Tensor]]:
    """A small data set: inputs and labels of the class, one by one."""
    batch = {**asked(name), **targets(name)}
    return [{key: x[index] for key, x in batch.items()} for index in (0, 1, 1, 0)]


@pytest.mark.parametrize("name", HEADS)
def test_a_head_in_trainer(name, tmp_path):
    """The same losses; predictions with hidden states; what is saved opens in both."""
    start = programs.starts(tmp_path / "start", name, num_labels=2)
    found: dict[str, Any] = {}
    for library_name, library in LIBRARIES.items():
        model = getattr(library, name).from_pretrained(start, output_hidden_states=True)
        arguments = programs.arguments(tmp_path / library_name, remove_unused_columns=False, weight_decay=10.0)
        data = {"train_dataset": rows(name), "eval_dataset": rows(name)}
        trainer = Trainer(model, arguments, data_collator=transformers.default_data_collator, **data)
        trainer.train()
        steps = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        predicted = trainer.predict(rows(name)).predictions
        trainer.save_model(str(tmp_path / f"{library_name}-saved"))
        trainer.model.config.save_pretrained(tmp_path / f"{library_name}-saved")
        found[library_name] = steps, predicted
        with torch.no_grad():
            expected = trainer.model(**asked(name))
            for opener in LIBRARIES.values():
                again = getattr(opener, name).from_pretrained(tmp_path / f"{library_name}-saved")(**asked(name))
                key = next(
                    key for key in ("logits", "prediction_logits", "start_logits", "reconstruction") if key in again
                )
                torch.testing.assert_close(again[key], expected[key], rtol=1e-4, atol=1e-5)
    (ours, own), (theirs, published) = found["minitrans"], found["transformers"]
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)
    assert len(own) == len(published)
    for one, other in zip(own, published, strict=True):
        assert type(one) is type(other)
        for x, y in zip(*((part,) if isinstance(part, np.ndarray) else part for part in (one, other)), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-3)
