"""Methods that published programs call now and then, beside transformers' own."""

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
import transformers
from checkpoints import relative
from families import HEADED, PUBLISHED, inputs_of, make, published_pair
from tokenizers import models, pre_tokenizers, processors, trainers

import minitrans
from minitrans import corpora
from minitrans.cuda_graphs import ImageBucket, TextBucket
from minitrans.processing.beam import aligned

DISTILBERT = ["DistilBertModel", *(name for name in HEADED if name.startswith("DistilBert"))]
MASKED = [name for name in HEADED if name.endswith(("ForMaskedLM", "BertForPreTraining"))]


@pytest.mark.parametrize("sinusoidal", [False, True])
@pytest.mark.parametrize("size", [12, 700])
@pytest.mark.parametrize("name", DISTILBERT)
def test_positions_of_distilbert_are_resized(name: str, size: int, sinusoidal: bool, tmp_path: Path) -> None:
    theirs, ours = published_pair(name, tmp_path / "before", sinusoidal_pos_embds=sinusoidal)
    assert len(ours.get_position_embeddings().weight) == 512
    ours.resize_position_embeddings(size)
    if sinusoidal:  # where transformers' method has an AttributeError
        config = transformers.DistilBertConfig(**{**theirs.config.to_dict(), "max_position_embeddings": size})
        theirs = getattr(transformers, name)(config)
    else:
        theirs.resize_position_embeddings(size)
    assert ours.config.max_position_embeddings == theirs.config.max_position_embeddings == size
    expected, found = theirs.get_position_embeddings().weight, ours.get_position_embeddings().weight
    same = size if sinusoidal else min(size, 512)  # the others are random
    assert found.shape == expected.shape
    assert torch.equal(found[:same], expected[:same])
    ours.save_pretrained(tmp_path / "after")
    again = getattr(transformers, name).from_pretrained(tmp_path / "after").eval()
    x = inputs_of(name)
    if not name.endswith("MultipleChoice"):
        x = {"input_ids": torch.randint(60, (2, size), generator=torch.Generator().manual_seed(0))}
    assert relative(ours(**x)[0], again(**x)[0]) < 1e-4


@pytest.mark.parametrize("name", MASKED)
def test_another_layer_that_scores_the_vocabulary(name: str, tmp_path: Path) -> None:
    _, ours = published_pair(name, tmp_path / "before")
    assert ours.get_output_embeddings().weight is ours.get_input_embeddings().weight
    torch.manual_seed(0)
    layer = torch.nn.Linear(32, 60)
    ours.set_output_embeddings(layer)
    assert ours.get_output_embeddings() is layer
    assert not ours.config.tie_word_embeddings
    ours.tie_weights()
    assert ours.get_output_embeddings().weight is not ours.get_input_embeddings().weight
    x = inputs_of(name)
    real = x["attention_mask"] == 1
    ours.save_pretrained(tmp_path / "after")
    for library in (minitrans, transformers):
        again = getattr(library, name).from_pretrained(tmp_path / "after").eval()
        assert torch.equal(again.get_output_embeddings().weight, layer.weight)
        assert relative(ours(**x)[0][real], again(**x)[0][real]) < 1e-4


@pytest.mark.parametrize("name", PUBLISHED)
class TestEveryModel:
    def test_memory_footprint(self, name: str) -> None:
        """Of parameters and of buffers, of which transformers has some that need not be kept."""
        theirs, ours = make(transformers, name), make(minitrans, name)
        if name == "SwinBackbone":  # transformers' has weights that it does not use
            del theirs.swin.layernorm
        assert ours.get_memory_footprint(return_buffers=False) == theirs.get_memory_footprint(return_buffers=False)
        buffers = ours.get_memory_footprint() - ours.get_memory_footprint(return_buffers=False)
        assert buffers == sum(buffer.nbytes for buffer in ours.buffers())
        assert ours.half().get_memory_footprint(False) * 2 == theirs.get_memory_footprint(False)

    def test_small_questions(self, name: str, tmp_path: Path) -> None:
        theirs, ours = published_pair(name, tmp_path)
        assert ours.can_generate() is theirs.can_generate() is False
        assert [*ours.parameters(recurse=False)] == [*theirs.parameters(recurse=False)]
        for key, tensor in theirs.state_dict().items():
            if name.startswith("Swin"):  # which has other names in the memory of transformers 5
                break
            assert torch.equal(ours.get_parameter_or_buffer(key), tensor)
        with pytest.raises(AttributeError):
            ours.get_parameter_or_buffer("nobody.weight")

    def test_initialised_anew_without_a_change(self, name: str, tmp_path: Path) -> None:
        """`init_weights` leaves alone what is set; `is_main_process=False` writes nothing."""
        ours = make(minitrans, name)
        before = {key: tensor.clone() for key, tensor in ours.state_dict().items()}
        ours.save_pretrained(tmp_path / "nothing", is_main_process=False)
        assert not (tmp_path / "nothing").exists()
        ours.save_pretrained(tmp_path / "model")
        loaded = type(ours).from_pretrained(tmp_path / "model")
        loaded.init_weights()
        assert all(torch.equal(tensor, before[key]) for key, tensor in loaded.state_dict().items())

    def test_configuration_by_its_path(self, name: str, tmp_path: Path) -> None:
        theirs, _ = published_pair(name, tmp_path / "model")
        theirs.config.save_pretrained(tmp_path / "config")
        for path in (tmp_path / "config", str(tmp_path / "config")):
            ours = getattr(minitrans, name).from_pretrained(tmp_path / "model", config=path)
            x = inputs_of(name)
            with torch.no_grad():
                found, expected = ours(**x)[0], theirs(**x)[0]
            if isinstance(found, tuple):
                found, expected = found[-1], expected[-1]
            mask = x.get("attention_mask")
            real = mask == 1 if mask is not None and found.shape[:2] == mask.shape else ...
            assert relative(found[real], expected[real]) < 1e-4

    def test_checkpointing_that_a_configuration_asks_for(self, name: str) -> None:
        assert not make(minitrans, name).is_gradient_checkpointing
        assert make(minitrans, name, gradient_checkpointing=True).is_gradient_checkpointing

    def test_saving_to_the_hub_as_well(self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        ours, pushed = make(minitrans, name), []
        monkeypatch.setattr(type(ours), "push_to_hub", lambda self, *place, **options: pushed.append((place, options)))
        ours.save_pretrained(tmp_path / "mine", push_to_hub=True, private=True)
        ours.save_pretrained(tmp_path / "mine", push_to_hub=True, repo_id="me/other")
        assert pushed == [(("mine",), {"private": True}), (("me/other",), {})]
        assert (tmp_path / "mine" / "model.safetensors").exists()


@pytest.mark.parametrize("name", [name for name in PUBLISHED if name.startswith("Wav2Vec2")])
@pytest.mark.parametrize("adapts", [False, True])
def test_frames_of_samples(name: str, adapts: bool) -> None:
    values = {"add_adapter": adapts and name.endswith(("Model", "ForCTC")), "num_adapter_layers": 2}
    theirs, ours = (make(library, name, **values) for library in (transformers, minitrans))
    for samples in (400, 1200, torch.tensor([400, 401, 7777])):
        for chosen in (None, False, True):
            expected = theirs._get_feat_extract_output_lengths(samples, add_adapter=chosen)
            assert torch.equal(
                torch.as_tensor(ours._get_feat_extract_output_lengths(samples, add_adapter=chosen)),
                torch.as_tensor(expected),
            )


@pytest.mark.parametrize("adapts", [False, True])
def test_masks_of_frames(adapts: bool) -> None:
    theirs, ours = (make(library, "Wav2Vec2Model", add_adapter=adapts) for library in (transformers, minitrans))
    mask = (torch.arange(4000) < torch.tensor([4000, 1777, 600])[:, None]).long()
    for chosen in (None, False, True):
        frames = int(theirs._get_feat_extract_output_lengths(4000, add_adapter=chosen))
        found, expected = (model._get_feature_vector_attention_mask(frames, mask, chosen) for model in (ours, theirs))
        assert torch.equal(found, expected)


@pytest.mark.parametrize("name", [name for name in HEADED if name.startswith("Wav2Vec2")])
def test_the_older_name_of_freezing_the_encoder_of_sound(name: str) -> None:
    for model in (make(transformers, name), make(minitrans, name)):
        getattr(model, "freeze_feature_extractor", model.freeze_feature_encoder)()
        frozen = {key for key, tensor in model.named_parameters() if not tensor.requires_grad}
        assert frozen
        assert all("feature_extractor." in key for key in frozen)


def test_languages_start_anew() -> None:
    ours = make(minitrans, "Wav2Vec2ForCTC", adapter_attn_dim=4, do_stable_layer_norm=True)
    before = {key: tensor.clone() for key, tensor in ours.state_dict().items()}
    ours.init_adapter_layers()
    changed = {key for key, tensor in ours.state_dict().items() if not torch.equal(tensor, before[key])}
    assert changed == ours._get_adapters().keys()
    assert any("adapter" in key for key in changed)
    assert {"lm_head.weight", "lm_head.bias"} <= changed


@pytest.mark.parametrize("name", ["Wav2Vec2ForSequenceClassification", "Wav2Vec2ForAudioFrameClassification",
                                  "Wav2Vec2ForXVector"])  # fmt: skip
def test_layers_have_equal_weights_at_first(name: str) -> None:
    config = make(transformers, name, use_weighted_layer_sum=True).config
    theirs = getattr(transformers, name)(config)
    ours = getattr(minitrans, name)(minitrans.Wav2Vec2Config(**config.to_dict()))
    assert torch.equal(ours.state_dict()["layer_weights"], theirs.state_dict()["layer_weights"])


def test_a_hook_sees_the_frames_of_adapters() -> None:
    ours = make(minitrans, "Wav2Vec2ForCTC", add_adapter=True, num_adapter_layers=2)
    sounds = torch.randn(2, 4000)
    mask = torch.ones(2, 4000, dtype=torch.long)
    mask[1, 3000:] = 0
    expected, seen = ours(sounds, attention_mask=mask).logits, []
    ours.wav2vec2.register_forward_hook(lambda module, inputs, output: seen.append(output[0].shape))
    found = ours(sounds, attention_mask=mask).logits
    frames = int(ours._get_feat_extract_output_lengths(4000))
    assert seen == [(2, frames, 32)]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_groups_of_a_model_take_attributes() -> None:
    ours = make(minitrans, "BertModel")
    ours.encoder.note = ours.encoder.layer[0].attention.note = "kept"
    for model in (ours, copy.deepcopy(ours)):
        assert model.encoder.note == model.encoder.layer[0].attention.note == "kept"
        assert not hasattr(model.encoder.layer[1].attention, "note")
        assert {model.encoder.training, model.encoder.layer[0].attention.training} == {False}
        assert model.train().encoder.layer[0].attention.training
    ours.encoder.eval()
    assert not ours.encoder.training
    assert ours.training
    assert ours.state_dict().keys() == make(transformers, "BertModel").state_dict().keys()


def test_sizes_of_graphs_by_default() -> None:
    model = make(minitrans, "BertModel", max_position_embeddings=100)
    assert TextBucket.shapes(model, {1, 3}, None) == {(b, n) for b in (1, 3) for n in (16, 32, 64, 100)}
    assert ImageBucket.shapes(make(minitrans, "SwinModel"), {1, 4}, None) == {(1, 1), (4, 1)}


@pytest.mark.parametrize("name", ["BertForMaskedLM", "SwinForImageClassification", "Wav2Vec2ForCTC"])
def test_a_state_of_an_optimiser_with_names_is_plain_data(name: str, tmp_path: Path) -> None:
    """`torch.load` takes it as weights only, as Trainer does where it goes on."""
    model = make(minitrans, name)
    optimiser = torch.optim.AdamW([*model.named_parameters()])
    torch.save(optimiser.state_dict(), tmp_path / "optimizer.pt")
    again = torch.load(tmp_path / "optimizer.pt", weights_only=True)
    assert again["param_groups"][0]["param_names"] == [key for key, _ in model.named_parameters()]
    optimiser.load_state_dict(again)


# Encodings


@pytest.fixture(scope="module")
def both_tokenizers(minilm: Path) -> tuple[Any, Any]:
    return minitrans.AutoTokenizer.from_pretrained(minilm), transformers.AutoTokenizer.from_pretrained(minilm)


def test_an_encoding_by_number(both_tokenizers: tuple[Any, Any]) -> None:
    ours, theirs = (tokenizer(["One text.", "Another, longer one."]) for tokenizer in both_tokenizers)
    for number in (0, 1, -1):
        assert ours[number].tokens == theirs[number].tokens
        assert ours[number].offsets == theirs[number].offsets
    assert [encoding.ids for encoding in ours.encodings] == [encoding.ids for encoding in theirs.encodings]
    plain = [type(encoding)(dict(encoding)) for encoding in (ours, theirs)]
    assert plain[0][:1] == plain[1][:1] == {key: value[:1] for key, value in ours.items()}
    assert both_tokenizers[0].vocab == both_tokenizers[1].vocab


def trained(model: Any, trainer: Any, processor: Any) -> tokenizers.Tokenizer:
    own = tokenizers.Tokenizer(model)
    own.pre_tokenizer = pre_tokenizers.Whitespace()
    own.train_from_iterator(["one text of words", "another one"] * 5, trainer)
    own.post_processor = processor(("[SEP]", own.token_to_id("[SEP]")), ("[CLS]", own.token_to_id("[CLS]")))
    return own


SPECIAL = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
BPE = {"vocab_size": 60, "special_tokens": SPECIAL, "show_progress": False}
OWN = {
    "BPE with a prefix": lambda: trained(models.BPE(unk_token="[UNK]", continuing_subword_prefix="##"),
                                         trainers.BpeTrainer(**BPE, continuing_subword_prefix="##"),
                                         processors.BertProcessing),
    "BPE with a suffix": lambda: trained(models.BPE(unk_token="[UNK]", end_of_word_suffix="</w>"),
                                         trainers.BpeTrainer(**BPE, end_of_word_suffix="</w>"),
                                         processors.RobertaProcessing),
    "Unigram": lambda: trained(models.Unigram(), trainers.UnigramTrainer(**BPE, unk_token="[UNK]"),
                               processors.BertProcessing),
}  # fmt: skip


@pytest.mark.parametrize("kind", OWN)
def test_training_anew_keeps_the_form_of_words_and_texts(kind: str) -> None:
    roles = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}
    corpus = ["entirely other words are here", "and here are others"] * 5
    found = []
    for library in (minitrans, transformers):
        tokenizer = library.PreTrainedTokenizerFast(tokenizer_object=OWN[kind](), **roles)
        new = tokenizer.train_new_from_iterator(corpus, 50)
        special = {token: new.convert_tokens_to_ids(token) for token in SPECIAL}
        form = {token for token in new.get_vocab() if token in ("##e", "e</w>")}  # others are chosen among equals
        found.append((special, form, new.tokenize("e é"), new.convert_ids_to_tokens(new("e", "s")["input_ids"])))
    assert found[0] == found[1]


# Tasks


def test_a_mapper_travels_as_bytes(minilm: Path) -> None:
    embed = corpora.Mapper(minitrans.Embedder.from_pretrained(minilm))
    again = pickle.loads(pickle.dumps(embed))
    columns = {"text": np.array(["one", "two"], object)}
    assert np.array_equal(np.stack(again(columns)["vector"]), np.stack(embed(columns)["vector"]))


def test_an_alignment_that_leaves_its_band_is_made_in_a_wider_one() -> None:
    generator = np.random.default_rng(0)
    tokens = generator.integers(1, 5, 60).tolist()
    logp = np.full((400, 5), -20.0)
    logp[:, 0] = -0.01
    for place, token in enumerate(tokens):  # all of them in the last frames, where no steady pace would be
        logp[260 + 2 * place, token], logp[260 + 2 * place, 0] = -0.01, -20.0
    wide = aligned(logp, tokens, 0, 1000)
    assert aligned(logp, tokens, 0, 4) == wide
