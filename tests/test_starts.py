"""How the numbers of a new model are distributed: as in transformers, tensor by tensor."""

import pytest
import torch
import transformers
from families import PUBLISHED, SIZES, family_of
from safetensors.torch import load_file
from scipy.stats import ks_2samp

import minitrans

WIDER = {
    "Bert": {"vocab_size": 300, "hidden_size": 64, "initializer_range": 0.05, "pad_token_id": 3},
    "DistilBert": {"vocab_size": 300, "dim": 64, "initializer_range": 0.05, "pad_token_id": 3},
    "Swin": {"embed_dim": 48, "use_absolute_embeddings": True, "initializer_range": 0.05},
    "Wav2Vec2": {"hidden_size": 64, "conv_bias": True, "initializer_range": 0.05, "mask_time_prob": 0.1},
}


def drawn(library, name, seed, folder):
    torch.manual_seed(seed)
    family = family_of(name)
    adapter = {"add_adapter": True} if name in ("Wav2Vec2Model", "Wav2Vec2ForCTC") else {}
    config = getattr(library, f"{family}Config")(**{**SIZES[family], **WIDER[family], **adapter})
    getattr(library, name)(config).save_pretrained(folder)
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("name", PUBLISHED)
def test_each_tensor_is_of_the_distribution_of_transformers(name, tmp_path):
    """Equal where it is not random, such as 0, 1 and a padding row; else by the test of Kolmogorov and Smirnov."""
    theirs = [drawn(transformers, name, seed, tmp_path) for seed in range(4)]
    ours = [drawn(minitrans, name, seed, tmp_path) for seed in range(4, 8)]
    for key in ours[0]:
        if ".parametrizations." in key:
            continue  # transformers' start of the convolution does not reach the parts of its weight norm
        expected, found = (torch.stack([state[key].float() for state in states]) for states in (theirs, ours))
        assert torch.equal((expected == expected[0]).all(0), (found == found[0]).all(0)), key
        fixed = (expected == expected[0]).all(0)
        assert torch.equal(found[0][fixed], expected[0][fixed]), key
        if not fixed.all():
            assert ks_2samp(expected[:, ~fixed].flatten(), found[:, ~fixed].flatten()).pvalue > 1e-5, key


@pytest.mark.parametrize("library", [transformers, minitrans], ids=["transformers", "minitrans"])
def test_only_the_module_that_is_asked_for_gets_a_start(library):
    """As programs do for a layer of their own: `model._init_weights(model.layer)`; other layers stay as they are."""
    model = library.BertForSequenceClassification(library.BertConfig(**SIZES["Bert"]))
    model.classifier = torch.nn.Linear(32, 2)
    model.other = torch.nn.Linear(32, 2)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model._init_weights(model.classifier)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"classifier.weight", "classifier.bias"}
    assert not model.classifier.bias.any()
