"""Whole tiny models on the kernels, chosen by the environment alone, and under torch.compile.

Triton decides to interpret when it is imported, so the kernels run in a process of their own: this file as a script.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from torch._dynamo.testing import CompileCounterWithBackend

import minitrans
from minitrans.cuda_graphs import FrozenModel

TEXT = {"vocab_size": 60, "max_position_embeddings": 24}
SIZES = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
SOUND = {**SIZES, "conv_dim": [16, 24], "conv_kernel": [10, 3], "conv_stride": [5, 2], "num_conv_pos_embeddings": 9,
         "num_conv_pos_embedding_groups": 2}  # fmt: skip
FAMILIES = {
    "Bert": {**SIZES, **TEXT},
    "DistilBert": {"dim": 48, "n_layers": 2, "n_heads": 2, "hidden_dim": 64, **TEXT},
    "Swin": {"image_size": 20, "embed_dim": 16, "depths": [2, 1], "num_heads": [1, 2], "window_size": 3},
    "Wav2Vec2": SOUND,
    "Wav2Vec2 by layer": {**SOUND, "feat_extract_norm": "layer", "do_stable_layer_norm": True},
}


def models(name, folder):
    """A random model of transformers and ours with its weights."""
    family = name.split()[0]
    config = getattr(transformers, f"{family}Config")(**FAMILIES[name], attn_implementation="eager")
    torch.manual_seed(0)
    theirs = getattr(transformers, f"{family}Model")(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    theirs.save_pretrained(folder)
    return theirs, minitrans.AutoModel.from_pretrained(folder)


def inputs_of(name, lengths):
    if name == "Swin":
        return {"pixel_values": torch.randn(len(lengths), 3, 20, 24)}
    sound = name.startswith("Wav2Vec2")
    width = 400 if sound else 12
    mask = torch.arange(width) < torch.tensor(lengths)[:, None] * (25 if sound else 1)
    if sound:
        return {"input_values": torch.randn(mask.shape), "attention_mask": mask.long()}
    return {"input_ids": torch.randint(1, 60, mask.shape), "attention_mask": mask.long()}


def expected_of(theirs, inputs):
    """Transformers' last hidden states, each sequence computed alone, zeros where there is padding."""
    if "pixel_values" in inputs:
        return theirs(**inputs).last_hidden_state
    name = next(iter(inputs))
    lengths = inputs["attention_mask"].sum(1).tolist()
    rows = [theirs(row[None, :n]).last_hidden_state[0] for row, n in zip(inputs[name], lengths, strict=True)]
    longest = theirs(inputs[name][:1]).last_hidden_state.shape[1]
    return torch.stack([torch.nn.functional.pad(row, (0, 0, 0, longest - len(row))) for row in rows])


def compare(found, expected):
    assert found.shape == expected.shape
    assert float((found - expected).norm() / expected.norm()) < 1e-5


@torch.no_grad()
def check_kernels(folder):
    for name in FAMILIES:
        theirs, ours = models(name, folder / name)
        inputs = inputs_of(name, [12, 5])
        expected = expected_of(theirs, inputs)
        compare(ours(**inputs).last_hidden_state, expected)
        if "input_ids" in inputs:  # what a graph would capture, on the kernels
            frozen = FrozenModel(ours, [(3, 20)], lambda compute: compute)
            compare(frozen(**inputs).last_hidden_state, expected)


def test_every_family_on_the_kernels(tmp_path):
    environment = {**os.environ, "TRITON_INTERPRET": "1", "MINITRANS_ENGINE": "triton"}
    command = [sys.executable, __file__, str(tmp_path)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_the_engine_cannot_be_had_without_a_gpu(tmp_path, monkeypatch):
    """So the test above would fail if the environment were not read."""
    _, ours = models("Bert", tmp_path)
    monkeypatch.setenv("MINITRANS_ENGINE", "triton")
    with pytest.raises(RuntimeError, match="triton engine was asked for"):
        ours(**inputs_of("Bert", [12, 5]))


@torch.no_grad()
@pytest.mark.parametrize("name", FAMILIES)
def test_compiled_once_for_all_lengths(name, tmp_path):
    torch._dynamo.reset()
    theirs, ours = models(name, tmp_path)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(ours, backend=counter, fullgraph=True)
    for lengths in ([12, 5], [3, 12], [12, 12]):
        inputs = inputs_of(name, lengths)
        compare(compiled(**inputs).last_hidden_state, expected_of(theirs, inputs))
    assert counter.frame_count == 1


if __name__ == "__main__":
    check_kernels(Path(sys.argv[1]))
