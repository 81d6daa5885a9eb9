"""Whole text jobs against sentence-transformers and transformers' pipelines."""

import json
import logging
import math
import re
import shutil
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import save_file
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.sentence_transformer import modules
from sentence_transformers.util import quantize_embeddings
from transformers import AutoTokenizer, pipeline

import minitrans
from minitrans import Embedder, EntityRecognizer, MaskFiller, QuestionAnswerer, TextClassifier
from minitrans.tasks.base import batched, by_budget
from minitrans.tasks.vectors import Dense, quantized

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

TEXTS = [
    "In a hole in the ground there lived a hobbit.",
    "Rubber boots.",
    "",
    "The ferry from Dún Laoghaire leaves at ten past seven, and 한국어 is spoken aboard.",
    "Ink dries faster on uncoated paper than it does on coated paper, unless the air is damp.",
    "He paid the fine.",
]
LONG = " ".join(f"Sentence number {number} is about the {word}." for number, word in
                product(range(12), ("ferry", "museum", "comet", "chisel")))  # fmt: skip
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")


@pytest.fixture(scope="module")
def reference(minilm: Path) -> Any:
    return SentenceTransformer(str(minilm), device="cpu")


@pytest.fixture(scope="module")
def embedder(minilm: Path) -> Embedder:
    return Embedder.from_pretrained(minilm)


def changed(minilm: Path, folder: Path, name: str, **values: Any) -> Path:
    """A copy of the MiniLM folder with other values in one of its JSON files."""
    shutil.copytree(minilm, folder)
    path = folder / name
    path.write_text(json.dumps({**(json.loads(path.read_text()) if path.exists() else {}), **values}))
    return folder


def checkpoint(minilm: Path, folder: Path, head: str, **values: Any) -> Path:
    """A random tiny checkpoint of transformers' with MiniLM's vocabulary."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    config = transformers.BertConfig(**{**sizes, "max_position_embeddings": 64, "initializer_range": 0.4, **values})
    getattr(transformers, head)(config).save_pretrained(folder)
    for name in TOKENIZER_FILES:
        shutil.copy(minilm / name, folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "model_max_length": 64}))
    return folder


def same(ours: list[dict[str, Any]], theirs: list[dict[str, Any]], **names: str) -> None:
    """Equal in all of `names` (ours=theirs), and scores to 1e-5."""
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert {name: one[name] for name in names} == {name: other[their] for name, their in names.items()}
        assert one["score"] == pytest.approx(other["score"], rel=1e-4, abs=1e-6)


class TestEmbedder:
    def test_as_sentence_transformers(self, embedder: Embedder, reference: Any) -> None:
        vectors = embedder.encode(TEXTS)
        assert vectors.dtype == np.float32
        assert vectors.shape == (len(TEXTS), embedder.dim)
        assert np.abs(vectors - reference.encode(TEXTS)).max() <= 1e-5

    def test_one_text_is_one_vector(self, embedder: Embedder) -> None:
        one = embedder.encode(TEXTS[0])
        assert one.shape == (384,)
        assert embedder.encode((TEXTS[0], TEXTS[1])).shape == (2, 384)
        assert np.abs(one - embedder.encode(TEXTS)[0]).max() <= 5e-6

    def test_no_texts(self, embedder: Embedder) -> None:
        assert embedder.encode([]).shape == (0, 384)

    def test_generator_in_many_batches_keeps_the_order(self, minilm: Path, embedder: Embedder) -> None:
        small = Embedder(embedder.model, embedder.tokenizer, normalize=True)
        small.read_ahead = 3
        texts = [text for text in TEXTS * 3 if text]
        seen = list(small.stream(text for text in texts))
        assert [text for text, _ in seen] == texts
        assert np.abs(np.stack([vector for _, vector in seen]) - embedder.encode(texts)).max() <= 5e-6

    @pytest.mark.parametrize("budget", [1, 30, 10**6])
    def test_budget_changes_nothing(self, embedder: Embedder, budget: int) -> None:
        assert np.abs(embedder.encode(TEXTS, batch_tokens=budget) - embedder.encode(TEXTS)).max() <= 5e-6

    def test_a_prompt_that_leaves_nothing_to_pool(self, embedder: Embedder) -> None:
        """[CLS] and the words of the prompt are left out, [SEP] never."""
        model, tokenizer = embedder.model, embedder.tokenizer
        for words in (5, 6, 7):
            task = Embedder(model, tokenizer, max_tokens=8, include_prompt=False, prompt="a " * words)
            for text in ("", "a text that is cut"):
                if words < 7:
                    assert task.encode(text).shape == (384,)
                else:
                    with pytest.raises(ValueError, match="The prompt has 8 tokens and leaves none of 8 to pool"):
                        task.encode(text)
        with pytest.raises(TypeError, match="Embedder has no option 'cache_folder'"):
            Embedder(model, tokenizer, cache_folder="x")
        spoilt: list[dict[str, Any]] = [{"prompt": 5}, {"prompts": ["query"]}, {"prompts": {"query": None}}]
        for options in spoilt:
            with pytest.raises(TypeError, match=rf"{next(iter(options))} of the Embedder is .*; it must be"):
                Embedder(model, tokenizer, **options)

    def test_a_prompt_is_pooled_unless_it_is_said(self, embedder: Embedder) -> None:
        parts = embedder.model, embedder.tokenizer
        by_default = Embedder(*parts, prompt="query: ").encode(TEXTS)
        assert np.array_equal(by_default, Embedder(*parts, prompt="query: ", include_prompt=True).encode(TEXTS))
        without = Embedder(*parts, prompt="query: ", include_prompt=False).encode(TEXTS)
        assert np.abs(by_default - without).max() > 0.01

    def test_budget_of_nothing(self, embedder: Embedder) -> None:
        with pytest.raises(ValueError, match="batch_tokens is 0; it must be a whole number of at least 1"):
            embedder.encode(TEXTS, batch_tokens=0)

    def test_unnormalized(self, minilm: Path, embedder: Embedder, reference: Any) -> None:
        vectors = embedder.encode(TEXTS, normalize=False)
        theirs = reference[1](reference[0](reference.preprocess(TEXTS)))["sentence_embedding"].detach().numpy()
        assert np.abs(vectors - theirs).max() <= 1e-5
        assert not np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=0.05)
        assert embedder.normalize  # the call has not changed the embedder

    def test_long_texts_are_cut_and_said(self, embedder: Embedder, reference: Any, caplog: Any) -> None:
        with caplog.at_level(logging.WARNING, "minitrans"):
            vectors = embedder.encode([TEXTS[0], LONG])
        assert "1 of 2 texts are longer than 256 tokens" in caplog.text
        assert np.abs(vectors - reference.encode([TEXTS[0], LONG])).max() <= 1e-5

    def test_prompts(self, minilm: Path, tmp_path: Path) -> None:
        prompts = {"prompts": {"query": "query: ", "other": "Other: "}, "default_prompt_name": "query"}
        folder = changed(minilm, tmp_path / "m", "config_sentence_transformers.json", **prompts)
        ours, theirs = Embedder.from_pretrained(folder), SentenceTransformer(str(folder), device="cpu")
        assert ours.prompt == "query: "
        assert np.abs(ours.encode(TEXTS) - theirs.encode(TEXTS)).max() <= 1e-5
        other = theirs.encode(TEXTS, prompt_name="other")
        assert np.abs(ours.encode(TEXTS, prompt="Other: ") - other).max() <= 1e-5
        assert np.abs(ours.encode(TEXTS, prompt="") - theirs.encode(TEXTS, prompt="")).max() <= 1e-5

    @pytest.mark.parametrize(
        "settings",
        [
            {"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True},
            {"pooling_mode_mean_tokens": False, "pooling_mode_max_tokens": True},
            {"pooling_mode_mean_tokens": False, "pooling_mode_mean_sqrt_len_tokens": True},
            {"pooling_mode_mean_tokens": False},
            {"pooling_mode_cls_token": True, "pooling_mode_max_tokens": True},
            {"pooling_mode": ["mean", "max"]},
            {"pooling_mode": "cls"},
            {"pooling_mode": "lasttoken"},
            {"pooling_mode_mean_tokens": False, "pooling_mode_weightedmean_tokens": True},
            {"pooling_mode": ["weightedmean", "lasttoken", "max"]},
        ],
    )
    def test_poolings(self, minilm: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
        folder = changed(minilm, tmp_path / "m", "1_Pooling/config.json", **settings)
        listed = [module for module in json.loads((minilm / "modules.json").read_text()) if module["idx"] < 2]
        (folder / "modules.json").write_text(json.dumps(listed))
        ours, theirs = Embedder.from_pretrained(folder), SentenceTransformer(str(folder), device="cpu")
        assert not ours.normalize
        vectors = theirs.encode(TEXTS)
        assert ours.dim == vectors.shape[1]
        assert np.abs(ours.encode(TEXTS) - vectors).max() <= 1e-5 * np.abs(vectors).max()

    @pytest.mark.parametrize("safe", [True, False])
    def test_dense_layers(self, reference: Any, tmp_path: Path, safe: bool) -> None:
        torch.manual_seed(0)
        layers = [modules.Dense(384, 20), modules.Dense(20, 7, bias=False, activation_function=torch.nn.ReLU())]
        theirs = SentenceTransformer(modules=[reference[0], reference[1], *layers, modules.Normalize()], device="cpu")
        theirs.save(str(tmp_path), safe_serialization=safe)
        ours = Embedder.from_pretrained(tmp_path)
        assert ours.dim == 7
        assert np.abs(ours.encode(TEXTS) - theirs.encode(TEXTS)).max() <= 1e-5
        for path in (tmp_path / "2_Dense").glob("*model*"):
            path.unlink()
        for spoilt in (torch.full((20,), float("nan")), torch.ones(20, dtype=torch.int8)):
            state = {"linear.weight": torch.ones(20, 384), "linear.bias": spoilt}
            save_file(state, tmp_path / "2_Dense" / "model.safetensors")
            with pytest.raises(ValueError, match=r"NaN or infinite|linear\.bias as int8"):
                Embedder.from_pretrained(tmp_path)
        for shape in ((20, 383), (20, 385), (20, 768)):
            state = {"linear.weight": torch.ones(shape), "linear.bias": torch.ones(20)}
            save_file(state, tmp_path / "2_Dense" / "model.safetensors")
            with pytest.raises(ValueError, match=f"takes vectors of {shape[1]}, and these are of 384"):
                Embedder.from_pretrained(tmp_path)
        settings = json.loads((tmp_path / "2_Dense" / "config.json").read_text())
        for setting, spoilt in (
            ({"activation_function": "torch.nn.modules.activation.Softplus"}, {}),
            ({"module_input_name": "token_embeddings"}, {}),
            ({"bias": False}, {}),
            ({}, {"linear.scale": torch.ones(20)}),
        ):
            save_file({**state, **spoilt}, tmp_path / "2_Dense" / "model.safetensors")
            (tmp_path / "2_Dense" / "config.json").write_text(json.dumps({**settings, **setting}))
            words = (
                r"The Dense module of .* holds linear.bias, .*linear.weight and has the settings .*computed here are"
            )
            with pytest.raises(ValueError, match=words):
                Embedder.from_pretrained(tmp_path)

    def test_lower_case_and_length_from_the_folder(self, minilm: Path, tmp_path: Path) -> None:
        folder = changed(minilm, tmp_path / "m", "sentence_bert_config.json", do_lower_case=True, max_seq_length=9)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            text = (folder / name).read_text()
            cased = text.replace('"lowercase": true', '"lowercase": false').replace(
                '"lowercase":true', '"lowercase":false'
            )
            (folder / name).write_text(cased.replace('"do_lower_case": true', '"do_lower_case": false'))
        ours, theirs = Embedder.from_pretrained(folder), SentenceTransformer(str(folder), device="cpu")
        assert ours.max_tokens == 9
        assert np.abs(ours.encode(TEXTS) - theirs.encode(TEXTS)).max() <= 1e-5

    def test_plain_bert_means_and_says_so(self, minilm: Path, tmp_path: Path, caplog: Any, reference: Any) -> None:
        for name in ("config.json", "model.safetensors", *TOKENIZER_FILES):
            shutil.copy(minilm / name, tmp_path)
        with caplog.at_level(logging.WARNING, "minitrans"):
            embedder = Embedder.from_pretrained(tmp_path)
        assert "mean over the tokens" in caplog.text
        theirs = reference.encode(TEXTS)
        assert np.abs(embedder.encode(TEXTS, normalize=True) - theirs).max() <= 1e-5

    def test_refused(self, minilm: Path, tmp_path: Path, embedder: Embedder) -> None:
        listed = [*json.loads((minilm / "modules.json").read_text()), {"type": "sentence_transformers.models.Dense"}]
        folder = changed(minilm, tmp_path / "dense", "config.json")
        (folder / "modules.json").write_text(json.dumps(listed))
        with pytest.raises(ValueError, match=r"lists Transformer, Pooling, Normalize, Dense; .* in this order"):
            Embedder.from_pretrained(folder)
        folder = changed(minilm, tmp_path / "last", "1_Pooling/config.json", pooling_mode="middle")
        with pytest.raises(ValueError, match=r"pooling is \['middle'\]; known are cls, max, mean"):
            Embedder.from_pretrained(folder)
        for texts, message in ((["a text", 5], "not a int: 5"), (5, "5 of type int is not several")):
            with pytest.raises(TypeError, match=message):
                embedder.encode(texts)
        for options, message in (
            ({"output_value": "tokens"}, "output_value is 'tokens'; it must be one of sentence_embedding"),
            ({"precision": "int4"}, "precision is 'int4'; it must be one of float32, int8"),
            ({"prompt_name": "tale"}, "There is no prompt 'tale'; there are query, document"),
            ({"batch_size": 0}, "batch_size is 0"),
            ({"truncate_dim": -1}, "truncate_dim is -1"),
            ({"precision": "uint8"}, "goes by the ranges of several vectors"),
        ):
            with pytest.raises(ValueError, match=message):
                embedder.encode(["a text"], **options)
        with pytest.raises(ValueError, match=r"max_tokens is 9999; the model reads 512 tokens at most"):
            embedder.max_seq_length = 9999


PROMPTS = {"prompts": {"query": "Ask: ", "passage": "Read this: "}, "similarity_fn_name": "dot"}


class TestAsSentenceTransformers:
    """Their methods and options, with one import changed."""

    @pytest.fixture
    def both(self, minilm: Path, tmp_path: Path) -> tuple[Any, Any]:
        folder = changed(minilm, tmp_path / "m", "config_sentence_transformers.json", **PROMPTS)
        return minitrans.SentenceTransformer(str(folder)), SentenceTransformer(str(folder), device="cpu")

    def test_similarity_is_the_checkpoints(self, both: tuple[Any, Any], minilm: Path) -> None:
        ours, theirs = both
        assert ours.similarity_fn_name == theirs.similarity_fn_name == "dot"
        assert minitrans.SentenceTransformer(str(minilm)).similarity_fn_name == "cosine"

    @pytest.mark.parametrize(
        "options",
        [
            {"batch_size": 2, "show_progress_bar": False},
            {"normalize_embeddings": True, "truncate_dim": 20},
            {"truncate_dim": 7},
            {"convert_to_tensor": True},
            {"convert_to_numpy": False},
            {"prompt_name": "passage"},
            {"prompt": "Any: ", "prompt_name": "query"},
            {"output_value": "token_embeddings"},
            {"output_value": "token_embeddings", "prompt_name": "query"},
            {"precision": "int8"},
            {"precision": "uint8"},
            {"precision": "binary"},
            {"precision": "ubinary"},
        ],
    )
    def test_encode(self, both: tuple[Any, Any], options: dict[str, Any]) -> None:
        ours, theirs = (model.encode(TEXTS, **options) for model in both)
        assert type(ours) is type(theirs)
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            assert (type(one), one.dtype, one.shape) == (type(other), other.dtype, other.shape)
            if one.dtype in (
                np.int8,
                np.uint8,
            ):  # a number at the edge of a step, or of a bit, may fall to either side
                exact = "binary" in options["precision"]
                differ = np.asarray(one) != np.asarray(other)
                assert differ.mean() < 0.02 if exact else np.abs(one.astype(int) - other.astype(int)).max() <= 1
            else:
                assert np.abs(np.asarray(one) - np.asarray(other)).max() <= 1e-5 * max(1, np.abs(other).max())

    @pytest.mark.parametrize("precision", ["int8", "uint8", "binary", "ubinary"])
    def test_quantized(self, precision: str) -> None:
        vectors = np.random.default_rng(0).normal(size=(9, 16)).astype(np.float32)
        vectors[:, 3] = 0.5
        found, expected = quantized(vectors, precision), quantize_embeddings(vectors, precision)
        assert found.dtype == expected.dtype
        assert (found == expected).all()

    @pytest.mark.parametrize("options", [{}, {"convert_to_tensor": True}, {"output_value": "token_embeddings"}])
    def test_one_text(self, both: tuple[Any, Any], options: dict[str, Any]) -> None:
        ours, theirs = (model.encode(TEXTS[0], **options) for model in both)
        assert (type(ours), ours.shape) == (type(theirs), theirs.shape)
        assert np.abs(np.asarray(ours) - np.asarray(theirs)).max() <= 1e-5 * max(1, np.abs(theirs).max())

    def test_all_outputs(self, both: tuple[Any, Any]) -> None:
        ours, theirs = (model.encode(TEXTS[:2], output_value=None) for model in both)
        for one, other in zip(ours, theirs, strict=True):
            count = len(one["input_ids"])
            for name in ("input_ids", "attention_mask", "token_embeddings", "sentence_embedding"):
                their = other[name] if name == "sentence_embedding" else other[name][:count]
                assert torch.allclose(one[name].float(), their.float(), atol=1e-5)

    @pytest.mark.parametrize("method", ["encode_query", "encode_document"])
    @pytest.mark.parametrize(
        "prompts", [{"query": "Ask: "}, {"passage": "P: "}, {"document": "D: "}, {"corpus": "C: "}]
    )
    def test_queries_and_documents(self, minilm: Path, tmp_path: Path, method: str, prompts: dict[str, str]) -> None:
        values = {"prompts": prompts, "default_prompt_name": next(iter(prompts))}
        folder = changed(minilm, tmp_path / "m", "config_sentence_transformers.json", **values)
        ours = getattr(Embedder(folder), method)(TEXTS)
        theirs = getattr(SentenceTransformer(str(folder), device="cpu"), method)(TEXTS)
        assert np.abs(ours - theirs).max() <= 1e-5

    def test_settings_of_the_constructor(self, both: tuple[Any, Any], tmp_path: Path) -> None:
        folder, dtype = str(tmp_path / "m"), {"model_kwargs": {"dtype": torch.float64}}
        settings = {"prompts": {"query": "Q: ", "own": "Own: "}, "default_prompt_name": "own", "truncate_dim": 9}
        ours = Embedder(folder, **settings, **dtype, cache_folder=str(tmp_path))
        theirs = SentenceTransformer(folder, **settings, device="cpu")
        assert ours.model.dtype == torch.float64
        assert ours.get_embedding_dimension() == theirs.get_embedding_dimension() == 9
        assert ours.shape == (9,)
        assert ours.encode([]).shape == (0, 9)
        assert np.abs(ours.encode(TEXTS) - theirs.encode(TEXTS)).max() <= 1e-5
        assert np.abs(ours.encode_query(TEXTS) - theirs.encode_query(TEXTS)).max() <= 1e-5
        assert {**both[0].prompts, "query": "Q: ", "own": "Own: "} == ours.prompts
        wide = Embedder(folder, truncate_dim=999)
        assert wide.get_embedding_dimension() == wide.encode(TEXTS[0]).shape[0] == 384
        for name in ("Own", ""):
            with pytest.raises(ValueError, match=rf"^There is no prompt '{name}'; there are query, document, passage"):
                Embedder(folder, default_prompt_name=name)
        for wrong in ({"default_prompt_name": 5}, {"prompts": ["query"]}):
            with pytest.raises(TypeError, match=rf"^{next(iter(wrong))} of the Embedder is "):
                Embedder(folder, **wrong)

    def test_moved(self, both: tuple[Any, Any]) -> None:
        ours, _ = both
        assert ours.to("cpu") is ours
        moved: list[Any] = []
        ours.model.to = moved.append
        ours.to("cpu")
        ours.encode("a", device=torch.device("cpu"))
        ours.encode("a")
        assert moved == [torch.device("cpu")] * 2

    def test_what_is_given_twice(self, both: tuple[Any, Any]) -> None:
        """The texts by either name, a bar by either name; sentence-transformers' come second."""
        ours, _ = both
        assert (ours.encode(sentences=TEXTS[:2]) == ours.encode(TEXTS[:2])).all()
        assert (ours.encode(TEXTS[0], sentences=TEXTS[1]) == ours.encode(TEXTS[0])).all()
        with pytest.raises(TypeError, match=r"^encode takes a text .* or several\.$"):
            ours.encode()

    @pytest.mark.parametrize(
        ("options", "shown"),
        [({}, False), ({"show_progress_bar": True}, True), ({"show_progress": True}, True),
         ({"show_progress": False, "show_progress_bar": True}, False),
         ({"show_progress": True, "show_progress_bar": False}, True)],
    )  # fmt: skip
    def test_a_bar_is_shown_for_several_texts(
        self, embedder: Embedder, options: dict[str, Any], shown: bool, capsys: Any
    ) -> None:
        embedder.encode(TEXTS, **options)
        assert ("text/s" in capsys.readouterr().err) is shown
        embedder.encode(TEXTS[0], **options)
        assert not capsys.readouterr().err

    @pytest.mark.parametrize(
        ("options", "batches"),
        [({}, 1), ({"batch_size": 1}, 3), ({"batch_size": 2}, 2), ({"batch_tokens": 31}, 3),
         ({"batch_tokens": 32}, 2), ({"batch_size": 1, "batch_tokens": 48}, 1)],
    )  # fmt: skip
    def test_a_batch_holds_that_many_of_the_longest(
        self, embedder: Embedder, options: dict[str, Any], batches: int
    ) -> None:
        """`batch_tokens`, of which sentence-transformers knows nothing, goes before."""
        sizes: list[int] = []
        hook = embedder.model.embeddings.norm.register_forward_hook(lambda _, args, __: sizes.append(len(args[0])))
        Embedder(embedder.model, embedder.tokenizer, max_tokens=16).encode(["word " * 14] * 3, **options)
        hook.remove()
        assert len(sizes) == batches

    def test_layers_cannot_be_changed(self) -> None:
        """Their widths were compared when the embedder was made."""
        layer = Dense(torch.ones(2, 3), None, "linear")
        with pytest.raises(AttributeError):
            layer.weight = torch.ones(2, 4)  # type: ignore[misc]
        assert (layer(torch.eye(3)) == 1).all()

    @pytest.mark.parametrize("pooling", ["mean", "cls", "max", "weightedmean", "lasttoken", "mean_sqrt_len_tokens"])
    def test_prompts_that_are_not_pooled(self, minilm: Path, tmp_path: Path, pooling: str) -> None:
        values = {"include_prompt": False, "pooling_mode": pooling}
        folder = changed(minilm, tmp_path / "m", "1_Pooling/config.json", **values)
        ours, theirs = Embedder(folder), SentenceTransformer(str(folder), device="cpu")
        for prompt in ("Represent the sentence: ", ""):
            found, expected = ours.encode(TEXTS, prompt=prompt), theirs.encode(TEXTS, prompt=prompt)
            assert np.abs(found - expected).max() <= 1e-5
        assert np.abs(ours.encode(TEXTS, prompt="Say: ") - ours.encode(TEXTS)).max() > 1e-3

    @pytest.mark.parametrize("name", ["cosine", "dot", "euclidean", "manhattan"])
    def test_similarity(self, minilm: Path, name: str) -> None:
        ours = Embedder(minilm, similarity_fn_name=name)
        theirs = SentenceTransformer(str(minilm), device="cpu", similarity_fn_name=name)
        vectors = np.random.default_rng(0).normal(size=(5, 384)).astype(np.float32)
        for one, two in ((vectors, vectors[:3]), (vectors[0], vectors), (torch.from_numpy(vectors), [*vectors])):
            assert torch.allclose(ours.similarity(one, two), theirs.similarity(one, two), atol=1e-4)
        pairwise = ours.similarity_pairwise(vectors, vectors[::-1].copy())
        assert torch.allclose(pairwise, theirs.similarity_pairwise(vectors, vectors[::-1].copy()), atol=1e-4)

    @pytest.mark.parametrize(
        "wrong",
        [[], [[]], "a", ["a"], None, 3, [[1.0, 2.0], [3.0]], np.ones((2, 3, 4)), np.array(3.0), np.array(["a"]), {},
         np.ones((2, 3)) + 1j, torch.ones(2, 3, device="meta"), [None], np.array([1, None])], ids=repr,
    )  # fmt: skip
    def test_what_are_no_vectors(self, embedder: Embedder, wrong: Any) -> None:
        for method in (embedder.similarity, embedder.similarity_pairwise):
            for place, pair in (("1", (wrong, np.ones((2, 3)))), ("2", (np.ones((2, 3)), wrong))):
                with pytest.raises(TypeError, match=rf"^embeddings{place} is [^\n]*; it must be a vector of numbers"):
                    method(*pair)

    def test_vectors_of_every_form(self, minilm: Path) -> None:
        one, two = np.random.default_rng(0).normal(size=(2, 4, 3)).astype(np.float32)
        for name in ("cosine", "dot", "euclidean", "manhattan"):
            embedder = Embedder(minilm, similarity_fn_name=name)
            expected = embedder.similarity(one, two)
            for form in (torch.from_numpy, np.ndarray.tolist, list, lambda x: torch.from_numpy(x).to_sparse(), tuple,
                         lambda x: [torch.from_numpy(row) for row in x], lambda x: x.astype(np.float64)):  # fmt: skip
                assert torch.allclose(embedder.similarity(form(one), two), expected, atol=1e-5)
                assert torch.allclose(embedder.similarity_pairwise(one, form(two)), expected.diag(), atol=1e-5)
            assert embedder.similarity(one[:0], two).shape == (0, 4)
            assert embedder.similarity_pairwise(one[:0], two[:0]).shape == (0,)
            for method in (embedder.similarity, embedder.similarity_pairwise):
                with pytest.raises(
                    ValueError, match="vectors of embeddings1 have 3 numbers and those of embeddings2 2"
                ):
                    method(one, two[:, :2])
            for count in (0, 1, 3):
                with pytest.raises(ValueError, match=f"embeddings1 holds 4 vectors and embeddings2 {count}"):
                    embedder.similarity_pairwise(one, two[:count])

    @pytest.mark.parametrize(
        ("option", "values"),
        [
            *((name, [0, -1, 1.5, "4", True, [3]]) for name in ("batch_size", "batch_tokens", "truncate_dim")),
            *((name, ["no", 3, [True]]) for name in
              ("normalize", "normalize_embeddings", "convert_to_numpy", "convert_to_tensor", "show_progress")),
            *((name, ["x", 3, ["int8"], {}]) for name in ("precision", "output_value")),
        ],
    )  # fmt: skip
    def test_options_that_cannot_be(self, embedder: Embedder, option: str, values: list[Any]) -> None:
        for wrong in values:
            with pytest.raises(ValueError, match=rf"^{option} is {re.escape(repr(wrong))}; it must be "):
                embedder.encode(TEXTS[:2], **{option: wrong})

    @pytest.mark.parametrize(
        ("option", "values"),
        [
            *((name, ["no", 3, [True], None]) for name in ("normalize", "lower", "include_prompt")),
            *((name, [0, -1, 1.5, "4", True]) for name in ("max_tokens", "truncate_dim")),
            ("similarity_fn_name", ["x", 3, ["cosine"]]), ("dense", [3, [3], [None], None]),
            ("pooling", [3, None, [3]]),
        ],
    )  # fmt: skip
    def test_settings_that_cannot_be(self, embedder: Embedder, option: str, values: list[Any]) -> None:
        for wrong in values:
            with pytest.raises(ValueError, match=rf"^{option} is {re.escape(repr(wrong))}; it must be "):
                Embedder(embedder.model, embedder.tokenizer, **{option: wrong})
        for wrong in (0, None, "5", 2.0):
            with pytest.raises(ValueError, match=rf"^max_tokens is {re.escape(repr(wrong))}; it must be "):
                embedder.max_seq_length = wrong
        assert Embedder(embedder.model, embedder.tokenizer, pooling="cls", max_tokens=np.int64(9)).max_tokens == 9

    @pytest.mark.parametrize(
        "family", ["bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet"]
    )
    def test_every_name_of_the_length_file(self, minilm: Path, tmp_path: Path, family: str) -> None:
        folder = changed(minilm, tmp_path / "m", f"sentence_{family}_config.json", max_seq_length=11)
        if family != "bert":
            (folder / "sentence_bert_config.json").unlink()
        ours, theirs = Embedder(folder), SentenceTransformer(str(folder), device="cpu")
        assert ours.max_seq_length == theirs.max_seq_length == 11
        ours.max_seq_length = theirs.max_seq_length = 7
        assert np.abs(ours.encode(TEXTS) - theirs.encode(TEXTS)).max() <= 1e-5

    def test_quickstart(self, minilm: Path) -> None:
        model = minitrans.SentenceTransformer(str(minilm))
        embeddings = model.encode(["It is sunny outside!", "The weather is lovely today.", "He drove to the stadium."])
        assert embeddings.shape == (3, 384)
        similarities = model.similarity(embeddings, embeddings)
        assert similarities.shape == (3, 3)
        assert similarities[0, 1] > similarities[0, 2]
        assert model.device.type == "cpu"
        assert model.get_sentence_embedding_dimension() == 384

    @pytest.mark.parametrize(
        "values", [{}, {"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}}]
    )
    def test_cross_encoder(self, minilm: Path, tmp_path: Path, values: dict[str, Any]) -> None:
        folder = checkpoint(minilm, tmp_path, "BertForSequenceClassification", num_labels=1, **values)
        ours, theirs = minitrans.CrossEncoder(str(folder)), CrossEncoder(str(folder), device="cpu")
        pairs = [(TEXTS[0], text) for text in TEXTS]
        assert ours.predict(pairs) == pytest.approx(theirs.predict(pairs), rel=1e-4, abs=1e-6)
        assert ours.predict(pairs[0]) == pytest.approx(theirs.predict(pairs[0]), rel=1e-4)
        for form in (
            iter,
            lambda pairs: [list(pair) for pair in pairs],
            np.array,
            lambda pairs: dict.fromkeys(pairs).keys(),
        ):
            assert ours.predict(form(pairs)) == pytest.approx(ours.predict(pairs))
        assert ours.predict(list(pairs[0])) == pytest.approx(ours.predict(pairs[0]))
        for wrong in (None, 3, "ab", b"ab", {"a": "b"}, [("a",)], [("a", None)], [("a", "b", "c")], ["ab", "cd", "ef"],
                      [{"a", "b"}],
                      [None], [{"query": "a", "document": "b"}], [["a", ["b"]]]):  # fmt: skip
            with pytest.raises(TypeError, match=r"^predict takes pairs of texts \(query, document\), not "):
                ours.predict(wrong)
        for query, documents in ((None, ["a"]), ("q", "abc"), ("q", None), ("q", {"a": 1}), ("q", [3])):
            with pytest.raises(TypeError, match=r"takes a tuple \(query, \[documents\]\)"):
                ours.rank(query, documents)
        with pytest.raises(ValueError, match="return_documents is 'no'; it must be True or False"):
            ours.rank(TEXTS[0], TEXTS, return_documents="no")
        assert ours.rank(TEXTS[0], iter(TEXTS)) == ours.rank(TEXTS[0], TEXTS)
        for options in ({}, {"top_k": 2}, {"return_documents": True}):
            same(ours.rank(TEXTS[0], TEXTS, **options), theirs.rank(TEXTS[0], TEXTS, **options), corpus_id="corpus_id")
        with pytest.raises(ValueError, match="one number, this checkpoint 3 classes"):
            minitrans.Reranker(checkpoint(minilm, tmp_path / "3", "BertForSequenceClassification", num_labels=3))

    def test_what_is_no_ranking_is_refused(self, minilm: Path, tmp_path: Path) -> None:
        folder = checkpoint(minilm, tmp_path, "BertForSequenceClassification", num_labels=1)
        for nothing in ([], (), iter([])):
            with pytest.raises(ValueError, match="There are no documents for 'query'"):
                minitrans.Reranker(folder)(("query", nothing))
        for count in (0, -1, 1.0, "3", True):
            with pytest.raises(ValueError, match=f"top_k is {count!r}; it must be a whole number of at least 1"):
                minitrans.Reranker(folder)(("query", TEXTS), top_k=count)
        config = json.loads((folder / "config.json").read_text())
        old, new = "sbert_ce_default_activation_function", "sentence_transformers"
        for named in ("torch.nn.modules.activation.Softplus", "Sigmoid", 5, ["torch.nn.modules.activation.Tanh"]):
            for setting in ({old: named}, {new: {"activation_fn": named}}):
                (folder / "config.json").write_text(json.dumps({**config, **setting}))
                words = f"activation is {named!r}; computed here are GELU, ReLU, SiLU, Sigmoid, Tanh, Identity"
                with pytest.raises(ValueError, match=re.escape(words)):
                    minitrans.Reranker(folder)
        (folder / "config.json").write_text(json.dumps({**config, new: "Sigmoid"}))
        with pytest.raises(TypeError, match=r"sentence_transformers of the configuration .* it must be an object"):
            minitrans.Reranker(folder)


HEADS = [
    {"num_labels": 3, "id2label": {0: "bad", 1: "so-so", 2: "good"}},
    {"num_labels": 4, "problem_type": "multi_label_classification"},
    {"num_labels": 2, "problem_type": "regression"},
    {"num_labels": 1},
    {"num_labels": 1, "problem_type": "regression"},
]


@pytest.mark.parametrize("values", HEADS)
def test_text_classification(minilm: Path, tmp_path: Path, values: dict[str, Any]) -> None:
    folder = checkpoint(minilm, tmp_path, "BertForSequenceClassification", **values)
    theirs = pipeline("text-classification", str(folder), device="cpu", top_k=None, truncation=True)
    ours = TextClassifier.from_pretrained(folder)
    texts = [*TEXTS, LONG]
    for one, other in zip(ours(texts), theirs(texts), strict=True):
        same(one, other, label="label")
    same(ours(TEXTS[0]), theirs([TEXTS[0]])[0], label="label")


def test_pairs_are_classified(minilm: Path, tmp_path: Path) -> None:
    folder = checkpoint(minilm, tmp_path, "BertForSequenceClassification", num_labels=3)
    theirs = pipeline("text-classification", str(folder), device="cpu", top_k=None)
    same(
        TextClassifier.from_pretrained(folder)((TEXTS[0], TEXTS[1])),
        theirs({"text": TEXTS[0], "text_pair": TEXTS[1]}),
        label="label",
    )


LABELS = ["O", "B-PER", "I-PER", "I-LOC", "B-LOC", "MISC"]


@pytest.fixture(scope="module")
def tagger(minilm: Path, tmp_path_factory: Any) -> Path:
    folder = tmp_path_factory.mktemp("tagger")
    return checkpoint(minilm, folder, "BertForTokenClassification", id2label=dict(enumerate(LABELS)))


def test_entities(tagger: Path) -> None:
    theirs = pipeline("token-classification", str(tagger), device="cpu", aggregation_strategy="simple")
    ours = EntityRecognizer.from_pretrained(tagger)
    names = {"label": "entity_group", "start": "start", "end": "end"}
    texts = [text for text in TEXTS if text]
    assert any(theirs(texts))
    for text, one in zip(texts, ours(texts), strict=True):
        same(one, theirs(text), **names)
        assert [text[item["start"] : item["end"]] for item in one] == [item["text"] for item in one]
    assert ours("") == []
    with pytest.raises(TypeError, match=r"EntityRecognizer takes a text .*, not a tuple: \('one'"):
        ours([("one", "two")])


def token_logits(folder: Path, head: str, spans: list[tuple[list[int], int, int, int]]) -> torch.Tensor:
    """transformers' logits of the tokens [low, high) of each window of ids, whose text starts at `first`."""
    model = getattr(transformers, head).from_pretrained(folder).eval()
    with torch.inference_mode():
        rows = [model(torch.tensor([ids])).logits[0, first + low : first + high] for ids, first, low, high in spans]
    return torch.cat(rows)


def read_in_windows(folder: Path, text: str, most: int = 64) -> tuple[list[int], list, list]:
    """The text's ids, their offsets, and the windows that the documentation promises, made independently."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    encoded = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
    ids, room = encoded["input_ids"], most - 2
    overlap = room // 4
    starts = [0]
    while starts[-1] + room < len(ids):
        starts.append(starts[-1] + room - overlap)
    windows = []
    for index, start in enumerate(starts):
        end = min(start + room, len(ids))
        low = 0 if index == 0 else (starts[index - 1] + room + start) // 2 - start
        high = end - start if index + 1 == len(starts) else (end + starts[index + 1]) // 2 - start
        windows.append(([tokenizer.cls_token_id, *ids[start:end], tokenizer.sep_token_id], 1, low, high))
    return ids, encoded["offset_mapping"], windows


def test_entities_of_a_long_text(tagger: Path) -> None:
    ids, offsets, spans = read_in_windows(tagger, LONG)
    assert len(spans) > 8
    scores, labels = token_logits(tagger, "BertForTokenClassification", spans).softmax(-1).max(-1)
    assert len(scores) == len(ids)
    by_hand, before = [], "O"
    for (start, end), score, label in zip(offsets, scores.tolist(), labels.tolist(), strict=True):
        prefix, _, name = LABELS[label].rpartition("-")
        if name != "O" and (prefix == "B" or name != before):
            by_hand.append({"label": name, "start": start, "end": end, "scores": [score]})
        elif name != "O":
            by_hand[-1] |= {"end": end, "scores": [*by_hand[-1]["scores"], score]}
        before = name
    for item in by_hand:
        item["score"] = sum(item["scores"]) / len(item["scores"])
    same(EntityRecognizer.from_pretrained(tagger)(LONG), by_hand, label="label", start="start", end="end")


@pytest.mark.parametrize("head", ["BertForMaskedLM", "BertForPreTraining"])
def test_masks(minilm: Path, tmp_path: Path, head: str) -> None:
    folder = checkpoint(minilm, tmp_path, head)
    theirs = pipeline("fill-mask", str(folder), device="cpu", top_k=5)
    ours = MaskFiller.from_pretrained(folder)
    one, two = "The ferry leaves at [MASK] past seven.", "He [MASK] the fine, and [MASK] left."
    first, second = ours([one, two])
    same(first[0], theirs(one), token="token_str")
    for mask, their in zip(second, theirs(two), strict=True):
        same(mask, their, token="token_str")
    with pytest.raises(ValueError, match=r"There is no \[MASK\] in 'He paid the fine.'"):
        ours("He paid the fine.")


def test_only_pieces_with_a_mask_are_computed(minilm: Path, tmp_path: Path, monkeypatch: Any) -> None:
    task = MaskFiller.from_pretrained(checkpoint(minilm, tmp_path, "BertForMaskedLM"))
    calls, encode = [], task.model.encode
    monkeypatch.setattr(task.model, "encode", lambda **given: calls.append(1) or encode(**given))
    for text in ("[MASK] " + "word " * 1500, "word " * 1500 + "[MASK]"):
        (found,) = task(text, budget=1)
        assert len(found) == 5
        assert len(calls) == 1
        calls.clear()


def test_masks_of_a_long_text(minilm: Path, tmp_path: Path) -> None:
    folder = checkpoint(minilm, tmp_path, "BertForMaskedLM")
    text = LONG.replace("museum", "[MASK]")
    ids, _, spans = read_in_windows(folder, text)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    logits = token_logits(folder, "BertForMaskedLM", spans)
    scores, tokens = logits[torch.tensor(ids) == tokenizer.mask_token_id].softmax(-1).topk(5)
    ours = MaskFiller.from_pretrained(folder)(text)
    assert len(ours) == 12
    for mask, words, values in zip(ours, tokens.tolist(), scores.tolist(), strict=True):
        assert [word["token"] for word in mask] == [tokenizer.decode([token]) for token in words]
        assert [word["score"] for word in mask] == pytest.approx(values, rel=1e-4)


def brute_force(folder: Path, question: str, text: str, longest: int) -> tuple[float, int, int]:
    """The best span by trying them all on transformers' logits, window by window of transformers' tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = transformers.BertForQuestionAnswering.from_pretrained(folder).eval()
    room = 64 - len(tokenizer(question, "")["input_ids"])
    windows = tokenizer(
        question, text, truncation="only_second", max_length=64, stride=room // 4, return_overflowing_tokens=True,
        return_offsets_mapping=True, padding=True, return_tensors="pt",
    )  # fmt: skip
    with torch.inference_mode():
        names = ("input_ids", "token_type_ids", "attention_mask")
        output = model(**{name: windows[name] for name in names})
    best = (0.0, 0, 0)
    for row, offsets in enumerate(windows["offset_mapping"].tolist()):
        allowed = [index for index, owner in enumerate(windows.sequence_ids(row)) if owner == 1]
        start, end = ([math.exp(logits[row, i]) for i in [0, *allowed]] for logits in output[:2])
        for i, j in product(range(len(allowed)), repeat=2):
            score = start[i + 1] * end[j + 1] / sum(start) / sum(end)
            if i <= j < i + longest and score > best[0]:
                best = score, offsets[allowed[i]][0], offsets[allowed[j]][1]
    return best


def test_answers(minilm: Path, tmp_path: Path) -> None:
    folder = checkpoint(minilm, tmp_path, "BertForQuestionAnswering")
    ours = QuestionAnswerer.from_pretrained(folder)
    ours.align_to_words = False
    pairs = [("Who lives in the hole?", TEXTS[0]), ("When does it leave?", TEXTS[3]), ("About what?", LONG)]
    for (question, text), answer in zip(pairs, ours(pairs), strict=True):
        score, start, end = brute_force(folder, question, text, ours.longest_answer)
        assert (answer["start"], answer["end"], answer["answer"]) == (start, end, text[start:end])
        assert answer["score"] == pytest.approx(score, rel=1e-4)
    for ours.longest_answer in (1, 2, 3):
        scores = [brute_force(folder, *pair, ours.longest_answer)[0] for pair in pairs]
        assert [answer["score"] for answer in ours(pairs)] == pytest.approx(scores, rel=1e-4)
    with pytest.raises(TypeError, match=r"takes a tuple \(question, text\), .*, not a str: 'Who lives in the hole\?'"):
        ours(list(pairs[0]))
    assert ours(("Why?", "")) == {"answer": "", "score": 0.0, "start": 0, "end": 0}
    with pytest.raises(ValueError, match="leaves no room for its text: the model reads 64 tokens"):
        ours((LONG, TEXTS[0]))


def test_batches_hold_their_budget() -> None:
    sizes = [3, 9, 1, 4, 20, 4]
    batches = list(by_budget(sizes, 10))
    assert [sizes[index] for batch in batches for index in batch] == [20, 9, 4, 4, 3, 1]  # the largest first
    assert all(sum(sizes[index] for index in batch) <= 10 or len(batch) == 1 for batch in batches)
    assert len(batches) == 4
    assert list(batched(iter(range(5)), 2)) == [[0, 1], [2, 3], [4]]


@pytest.mark.parametrize("labels", [
    ["contradiction", "neutral", "entailment"], ["Entailment", "not_entailment"], ["no", "entails", "maybe"],
    ["NEUTRAL", "ENTAILED"], ["a", "b", "c"],
])  # fmt: skip
@pytest.mark.parametrize("options", [{}, {"multi_label": True}])
def test_the_class_of_entailment_is_known_by_its_name(
    minilm: Path, tmp_path: Path, labels: list[str], options: dict[str, Any], caplog: Any
) -> None:
    """As in transformers; or else it is the last, and the log says so. In bfloat16 it is as good as that."""
    names = {"id2label": dict(enumerate(labels)), "label2id": {label: index for index, label in enumerate(labels)}}
    folder = checkpoint(minilm, tmp_path, "BertForSequenceClassification", **names)
    theirs = pipeline("zero-shot-classification", str(folder), device="cpu")
    with caplog.at_level(logging.WARNING, "minitrans"):
        ours = minitrans.ZeroShotClassifier.from_pretrained(folder)
    said = "No class of a, b, c is called entailment: the last one is taken for it."
    assert caplog.messages == ([said] if labels == ["a", "b", "c"] else [])
    rough = minitrans.ZeroShotClassifier.from_pretrained(folder, dtype=torch.bfloat16)
    for candidates in (["law"], ["fiction", "law", "travel"]):
        expected = theirs(TEXTS[0], candidates, **options)
        found = ours(TEXTS[0], candidate_labels=candidates, **options)
        assert [item["label"] for item in found] == expected["labels"]
        assert [item["score"] for item in found] == pytest.approx(expected["scores"], rel=1e-4)
        scores = {item["label"]: item["score"] for item in rough(TEXTS[0], candidate_labels=candidates, **options)}
        assert scores == pytest.approx({item["label"]: item["score"] for item in found}, abs=0.1)


@pytest.mark.parametrize("count", [2, 3])
def test_what_is_asked_together_is_encoded_together(minilm: Path, count: int, monkeypatch: Any) -> None:
    task = minitrans.Embedder.from_pretrained(minilm)
    seen, prepare = [], task.prepare
    monkeypatch.setattr(task, "prepare", lambda found: (seen.append(len(found)), prepare(found))[1])
    assert len(task(TEXTS[:count])) == count
    assert seen == [count]


def test_columns_of_a_row_may_have_any_keys(minilm: Path, tmp_path: Path) -> None:
    classify = TextClassifier.from_pretrained(checkpoint(minilm, tmp_path, "BertForSequenceClassification"))
    assert classify({"text": TEXTS[0], 3: 4, None: "b"}) == classify(TEXTS[0])
    with pytest.raises(TypeError, match="not a mapping with 'text', 'context'"):
        classify({"text": TEXTS[0], "context": TEXTS[1]})


@pytest.mark.parametrize("text", [
    "hello world, this is it. " * 40_000, "猫" * 200_000, "a" * 300_000, "a." * 200_000,
    f"{'x' * 150} " * 280, f"{' ' * 20_000}hello world",
], ids=["sentences", "no spaces", "one word", "stops", "words of many letters", "spaces first"])  # fmt: skip
def test_of_a_long_text_no_more_is_encoded_than_is_read(minilm: Path, text: str, monkeypatch: Any) -> None:
    task = minitrans.Embedder.from_pretrained(minilm)
    whole = task.tokenizer(text, truncation=True, max_length=task.max_tokens)["input_ids"]
    (piece,) = task.prepare([text])
    assert piece.inputs["input_ids"] == whole
    encoded: list[int] = []
    kind = type(task.tokenizer)
    encode = kind._encode

    def counting(self: Any, rows: list[Any], *rest: Any) -> Any:
        encoded.extend(map(len, rows))
        return encode(self, rows, *rest)

    monkeypatch.setattr(kind, "_encode", counting)
    list(task.prepare([text]))
    if text[0] != "a" or text[1] == ".":  # one word is encoded as one
        assert sum(encoded) < 150_000


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("modules.json", [None], "modules.json"),
        ("modules.json", [{"type": "sentence_transformers.models.Transformer", "path": 5}], "path of modules.json"),
        ("modules.json", {}, "modules.json"),
        ("config_sentence_transformers.json", {"prompts": ["query"]}, "prompts of"),
        ("config_sentence_transformers.json", {"prompts": {"query": 5}}, "prompts of"),
        ("config_sentence_transformers.json", {"default_prompt_name": "query"}, "default_prompt_name of"),
        ("config_sentence_transformers.json", {"similarity_fn_name": 3}, "similarity_fn_name of"),
        ("1_Pooling/config.json", {"pooling_mode": {"mean": True}}, "pooling_mode of"),
        ("sentence_bert_config.json", {"max_seq_length": 0}, "max_seq_length of"),
        ("sentence_bert_config.json", {"do_lower_case": "no"}, "do_lower_case of"),
    ],
)
def test_folders_that_cannot_be(minilm: Path, tmp_path: Path, file: str, content: Any, words: str) -> None:
    folder = shutil.copytree(minilm, tmp_path / "m")
    (folder / file).parent.mkdir(exist_ok=True)
    (folder / file).write_text(json.dumps(content))
    with pytest.raises((TypeError, ValueError), match=words):
        minitrans.Embedder.from_pretrained(folder)


@pytest.mark.parametrize("options", [{"prompt": 5}, {"prompt_name": ["query"]}, {"prompt_name": 3}])
def test_prompts_that_are_no_texts(minilm: Path, options: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=f"{next(iter(options))} of encode"):
        minitrans.Embedder.from_pretrained(minilm).encode("a text", **options)
