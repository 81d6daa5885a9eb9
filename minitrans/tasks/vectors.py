"""Texts become vectors: what a sentence-transformers folder describes, and its methods."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, TypedDict, TypeVar, cast, overload

import numpy as np
import torch
from torch import Tensor
from typing_extensions import Unpack, override

from minitrans import hub, ops
from minitrans.auto import AutoModel, AutoTokenizer
from minitrans.outputs import Encoded
from minitrans.processing.kinds import Kind, check_kinds, each, is_bool, is_count, is_text, mapping, shown
from minitrans.processing.kinds import or_none as nullable
from minitrans.sequences import Sequences
from minitrans.tasks.base import Piece, place
from minitrans.tasks.options import COUNT, SWITCH, TEXTS, Option, one_of, or_none, read, read_all
from minitrans.tasks.text import ACTIVATIONS, TextTask
from minitrans.weights import open_checkpoint

logger = logging.getLogger("minitrans")
X = TypeVar("X")


def _pool_mean(encoded: Encoded, skipped: int) -> Tensor:
    return encoded.sequences.mean(encoded.rows)


def _pool_first(encoded: Encoded, skipped: int) -> Tensor:
    return encoded.sequences.first(encoded.rows)


def _pool_max(encoded: Encoded, skipped: int) -> Tensor:
    spans = encoded.sequences.spans or ()
    return torch.stack([encoded.rows[start : start + length].amax(0) for start, length in spans])


def _pool_root_mean(encoded: Encoded, skipped: int) -> Tensor:
    return _pool_mean(encoded, skipped) * encoded.sequences.lengths[:, None].to(encoded.rows.dtype).sqrt()


def _pool_weighted_mean(encoded: Encoded, skipped: int) -> Tensor:
    """The n-th token of a text weighs n (Muennighoff 2022, "SGPT")."""
    weights = [
        torch.arange(skipped + 1, skipped + length + 1).to(encoded.rows) for _, length in encoded.sequences.spans or ()
    ]
    parts = encoded.rows.split([len(weight) for weight in weights])
    return torch.stack([weight @ part / weight.sum() for weight, part in zip(weights, parts, strict=True)])


def _pool_last(encoded: Encoded, skipped: int) -> Tensor:
    return encoded.rows[encoded.sequences.starts + encoded.sequences.lengths - 1]


# From what is pooled and the number of tokens before it that are not.
POOLINGS: dict[str, Callable[[Encoded, int], Tensor]] = {
    "cls": _pool_first,
    "max": _pool_max,
    "mean": _pool_mean,
    "mean_sqrt_len_tokens": _pool_root_mean,
    "weightedmean": _pool_weighted_mean,
    "lasttoken": _pool_last,
}
# Older sentence-transformers folders hold one switch a pooling; vectors of several are concatenated in this order.
SWITCHES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


@dataclass(frozen=True)
class Dense:
    """activation(W x + b) of pooled vectors (B, C_in) -> (B, C_out); W (C_out, C_in), b (C_out,) or None, float32."""

    weight: Tensor
    bias: Tensor | None
    activation: str

    def __call__(self, vectors: Tensor) -> Tensor:
        """(B, C_in) -> (B, C_out)."""
        bias = None if self.bias is None else self.bias.to(vectors.device)
        return ops.ACTIVATIONS[self.activation](ops.linear(vectors, self.weight.to(vectors.device), bias))


class Options(TypedDict, total=False):
    """What decides nothing about the type of what `Embedder.encode` gives."""

    prompt: str | None
    batch_size: int | None
    show_progress_bar: bool | None
    precision: str
    device: Any
    normalize_embeddings: bool
    truncate_dim: int | None
    sentences: str | Iterable[str] | None
    batch_tokens: int | None
    normalize: bool | None
    show_progress: bool | None


def _typed_as(like: X) -> Callable[[Callable[..., Any]], X]:
    """For type checkers the function has the signatures of `like`."""
    return lambda function: cast(X, function)


def _cosine(one: Tensor, two: Tensor) -> Tensor:
    return torch.nn.functional.normalize(one) @ torch.nn.functional.normalize(two).T


SIMILARITIES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cosine": _cosine,
    "dot": lambda one, two: one @ two.T,
    "euclidean": lambda one, two: -torch.cdist(one, two, p=2.0),
    "manhattan": lambda one, two: -torch.cdist(one, two, p=1.0),
}
LAYERS: Option = (
    lambda value: tuple([{True: layer}[isinstance(layer, Dense)] for layer in value]), "a list of Dense layers",
)  # fmt: skip
# What may be said of an Embedder, and of its vectors when it encodes.
SETTINGS: dict[str, Option] = {
    **dict.fromkeys(("normalize", "lower", "include_prompt"), SWITCH),
    "truncate_dim": or_none(COUNT),
    "similarity_fn_name": one_of(*SIMILARITIES),
    "dense": LAYERS,
}
ENCODING: dict[str, Option] = {
    **dict.fromkeys(("batch_size", "batch_tokens"), or_none(COUNT)),
    **dict.fromkeys(("normalize_embeddings", "convert_to_numpy", "convert_to_tensor"), SWITCH),
    "output_value": one_of("sentence_embedding", "token_embeddings", None),
    "precision": one_of("float32", "int8", "uint8", "binary", "ubinary"),
}


class Embedder(TextTask):
    """Texts -> vectors, as a sentence-transformers folder describes, or by the mean over a BERT-like model's tokens.

    `Embedder("a folder or hub id")` reads one as `from_pretrained` does. The methods and their options are those of
    sentence-transformers, whose programs run with `from minitrans import SentenceTransformer`.

    `dim` is the vectors' length, `max_seq_length` where texts are cut, in tokens, `pooling` the names of what is
    concatenated, `dense` the layers that follow, `normalize` whether vectors have length 1, `prompt` what is put
    before every text, `prompts` what can be put there by name, `include_prompt` whether its tokens are pooled, `lower`
    whether texts are brought to lower case first, `truncate_dim` how many of a vector's numbers are kept.
    """

    auto = AutoModel
    unneeded = r"(^|\.)pooler\."  # the head that BERT was trained with
    checked: ClassVar = {**TextTask.checked, **SETTINGS}
    prompts: dict[str, str]
    similarity_fn_name: str

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        *,
        pooling: Sequence[str] = ("mean",),
        dense: Sequence[Dense] = (),
        normalize: bool = False,
        max_tokens: int | None = None,
        prompt: str = "",
        prompts: Mapping[str, str] | None = None,
        include_prompt: bool = True,
        lower: bool = False,
        similarity_fn_name: str | None = None,
        truncate_dim: int | None = None,
        default_prompt_name: str | None = None,
        **loading: Any,
    ) -> None:
        if isinstance(model, (str, os.PathLike)):
            loading = {{"cache_folder": "cache_dir"}.get(key, key): value for key, value in loading.items()}
            loading |= loading.pop("model_kwargs", None) or {}
            self.__dict__ = type(self).from_pretrained(_with_owner(model), **loading).__dict__
            self.truncate_dim = truncate_dim
            check_kinds({"prompts": prompts, "default_prompt_name": default_prompt_name}, KINDS, "the Embedder")
            self.prompts |= prompts or {}
            self.similarity_fn_name = similarity_fn_name or self.similarity_fn_name
            if default_prompt_name is not None:
                self.prompt = self._named_prompt(default_prompt_name)
            return
        if loading:
            raise TypeError(f"Embedder has no option {next(iter(loading))!r}.")
        super().__init__(model, tokenizer, max_tokens)
        pooling = read("pooling", pooling, TEXTS)
        unknown = [name for name in pooling if name not in POOLINGS]
        if unknown or not pooling:
            raise ValueError(f"The pooling is {pooling}; known are {', '.join(POOLINGS)}.")
        self.pooling, self.normalize, self.prompt, self.lower = tuple(pooling), normalize, prompt, lower
        check_kinds({"prompts": prompts, "prompt": prompt}, KINDS, "the Embedder")
        self.prompts = {"query": "", "document": "", **(prompts or {})}
        self.include_prompt, self.similarity_fn_name = include_prompt, similarity_fn_name or "cosine"
        self.truncate_dim = truncate_dim
        self.dense, self.dim = dense, model.config.hidden_size * len(self.pooling)
        for layer in self.dense:
            if layer.weight.shape[1] != self.dim:
                raise ValueError(
                    f"A dense layer takes vectors of {layer.weight.shape[1]}, and these are of {self.dim}."
                )
            self.dim = layer.weight.shape[0]

    @classmethod
    def from_pretrained(cls, name_or_path: str | os.PathLike[str], **options: Any) -> Embedder:
        """Read a folder or hub id; options as in `AutoModel.from_pretrained`.

        Raises ValueError for a sentence-transformers module or setting that is not computed here.
        """
        repository, options = hub.open_with(name_or_path, options)
        settings, transformer = _sentence_transformers_settings(repository)
        if settings is None:
            logger.warning("%s has no modules.json: its vectors are the mean over the tokens.", repository.name)
        tokenizer = AutoTokenizer.from_pretrained(transformer)
        return cls(cls.load_model(transformer, **options), tokenizer, **(settings or {}))

    @property
    def max_seq_length(self) -> int:
        """How many tokens of a text are read; it can be set."""
        return self.max_tokens

    @max_seq_length.setter
    def max_seq_length(self, tokens: int) -> None:
        job = self.with_options(max_tokens=tokens)
        self.max_tokens = job.max_tokens

    def get_embedding_dimension(self) -> int:
        """How many numbers a vector has."""
        return min(self.dim, self.truncate_dim or self.dim)

    get_sentence_embedding_dimension = get_embedding_dimension  # the older name

    @property
    @override
    def shape(self) -> tuple[int]:
        return (self.get_embedding_dimension(),)

    def to(self, device: Any) -> Embedder:
        """Move the model, in place."""
        self.model.to(place(device))
        return self

    @overload
    def encode(
        self, inputs: str | Iterable[str] | None = None, prompt_name: str | None = None, *,
        output_value: Literal["sentence_embedding"] = ..., convert_to_numpy: Literal[True] = ...,
        convert_to_tensor: Literal[False] = ..., **options: Unpack[Options],
    ) -> np.ndarray: ...  # fmt: skip
    @overload
    def encode(
        self, inputs: str | Iterable[str] | None = None, prompt_name: str | None = None, *,
        output_value: Literal["sentence_embedding"] = ..., convert_to_numpy: bool = ...,
        convert_to_tensor: Literal[True], **options: Unpack[Options],
    ) -> Tensor: ...  # fmt: skip
    @overload
    def encode(
        self, inputs: str | Iterable[str] | None = None, prompt_name: str | None = None, prompt: str | None = None,
        batch_size: int | None = None, show_progress_bar: bool | None = None, output_value: str | None = ...,
        precision: str = ..., convert_to_numpy: bool = ..., convert_to_tensor: bool = ..., device: Any = None,
        normalize_embeddings: bool = ..., truncate_dim: int | None = None, *,
        sentences: str | Iterable[str] | None = None, batch_tokens: int | None = None,
        normalize: bool | None = None, show_progress: bool | None = None,
    ) -> Any: ...  # fmt: skip

    def encode(
        self,
        inputs: str | Iterable[str] | None = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        output_value: str | None = "sentence_embedding",
        precision: str = "float32",
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: Any = None,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        *,
        sentences: str | Iterable[str] | None = None,
        batch_tokens: int | None = None,
        normalize: bool | None = None,
        show_progress: bool | None = None,
    ) -> Any:
        """Vectors (n, dim) float32 of n texts in their order; (dim,) for a single string.

        The options are those of sentence-transformers: `output_value` "token_embeddings" gives the tokens' vectors
        (N, C) of each text, None a dict of all; `precision` is "float32", "int8" or "uint8", of which the vectors' own
        ranges make 256 steps a number, or "binary" or "ubinary", a bit a number. `truncate_dim` keeps a vector's first
        numbers, and `normalize_embeddings` makes its length 1 then. A batch holds as many texts as fit into
        `batch_tokens` tokens, 4096 unless said otherwise; a `batch_size` is room for that many of the longest.
        `normalize` overrides what the folder says of the length of whole vectors.

        >>> from minitrans import Embedder
        >>> embedder = Embedder.from_pretrained("sentence-transformers/all-MiniLM-L6-v2")
        >>> embedder.encode(["A text.", "Another one."]).shape
        (2, 384)
        """
        texts = sentences if inputs is None else inputs
        if texts is None:
            raise TypeError(f"encode takes {self.takes} or several.")
        check_kinds({"prompt": prompt, "prompt_name": prompt_name}, KINDS, "encode")
        given = read_all(
            {
                "batch_size": batch_size, "batch_tokens": batch_tokens, "output_value": output_value,
                "precision": precision, "convert_to_numpy": convert_to_numpy, "convert_to_tensor": convert_to_tensor,
                "normalize_embeddings": normalize_embeddings,
            },
            ENCODING,
        )  # fmt: skip
        if device is not None:
            self.to(device)
        job = self.with_options()
        job.normalize = self.normalize if normalize is None else normalize
        job.prompt = self._named_prompt(prompt_name) if prompt is None and prompt_name is not None else self.prompt
        job.prompt = job.prompt if prompt is None else prompt
        job.truncate_dim = self.truncate_dim if truncate_dim is None else truncate_dim
        job.renormalize, job.output_value = given["normalize_embeddings"], given["output_value"]
        budget = given["batch_tokens"] or (given["batch_size"] and given["batch_size"] * self.max_tokens)
        show = show_progress_bar if show_progress is None else show_progress
        one = self.is_one(texts)
        found = job([texts] if one else texts, budget=budget, show_progress=False if one else show)
        if job.output_value != "sentence_embedding":
            return found[0] if one else found
        vectors = np.stack(found) if found else np.empty((0, job.get_embedding_dimension()), np.float32)
        vectors = quantized(vectors, given["precision"])
        if given["convert_to_tensor"] or not given["convert_to_numpy"]:
            tensor = torch.from_numpy(vectors).to(self.device)
            return tensor[0] if one else tensor if given["convert_to_tensor"] else list(tensor)
        return vectors[0] if one else vectors

    renormalize = False
    output_value: str | None = "sentence_embedding"

    @_typed_as(encode)
    def encode_query(self, inputs: Any = None, prompt_name: str | None = None, **options: Any) -> Any:
        """`encode` with the prompt called "query"."""
        return self._encode_as(("query",), inputs, prompt_name, options)

    @_typed_as(encode)
    def encode_document(self, inputs: Any = None, prompt_name: str | None = None, **options: Any) -> Any:
        """`encode` with the first of the prompts "document", "passage" and "corpus" that there is."""
        return self._encode_as(("document", "passage", "corpus"), inputs, prompt_name, options)

    def _encode_as(self, names: tuple[str, ...], inputs: Any, prompt_name: str | None, options: dict[str, Any]) -> Any:
        if prompt_name is None and options.get("prompt") is None:
            prompt_name = next((name for name in names if name in self.prompts), None)
        return self.encode(inputs, prompt_name, **options)

    def _named_prompt(self, name: str) -> str:
        if name not in self.prompts:
            raise ValueError(f"There is no prompt {name!r}; there are {', '.join(self.prompts)}.")
        return self.prompts[name]

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """How alike each of n vectors is to each of m, (n, m) float32, by what the folder calls its similarity."""
        one, two = _alike(embeddings1, embeddings2)
        return SIMILARITIES[self.similarity_fn_name](one, two)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """How alike each of n vectors is to the other in its place, (n,) float32."""
        one, two = _alike(embeddings1, embeddings2)
        if len(one) != len(two):
            raise ValueError(f"embeddings1 holds {len(one)} vectors and embeddings2 {len(two)}; each has its partner.")
        found = [self.similarity(*pair)[0] for pair in zip(one, two, strict=True)]
        return torch.cat(found) if found else one.new_empty(0)

    @override
    def parts(self, text: str) -> list[Any]:
        text = f"{self.prompt}{text}"
        return [text.lower() if self.lower else text]

    @override
    def outputs(self, batch: Any, pieces: list[Piece]) -> Sequence[Any]:
        encoded = self.model.encode(**batch)
        pooled, skipped = self._without_prompt(replace(encoded, rows=encoded.rows.float()))
        vectors = torch.cat([POOLINGS[name](pooled, skipped) for name in self.pooling], dim=1)
        for layer in self.dense:
            vectors = layer(vectors)
        vectors = torch.nn.functional.normalize(vectors) if self.normalize else vectors
        vectors = vectors[:, : self.truncate_dim]
        vectors = torch.nn.functional.normalize(vectors) if self.renormalize else vectors
        if self.output_value == "sentence_embedding":
            return list(vectors.cpu().numpy())
        tokens = encoded.rows.float().split(encoded.sequences.lengths.tolist())
        if self.output_value == "token_embeddings":
            return list(tokens)
        return [
            {"token_embeddings": own, "sentence_embedding": vector,
             **{name: values[index, : len(own)] for name, values in batch.items()}}
            for index, (own, vector) in enumerate(zip(tokens, vectors, strict=True))
        ]  # fmt: skip

    def _without_prompt(self, encoded: Encoded) -> tuple[Encoded, int]:
        """What is pooled, and how many tokens before it are not."""
        if self.include_prompt or not self.prompt:
            return encoded, 0
        (ids,) = (example["input_ids"] for example in self._encoded(self.parts("")))
        count = len(ids) - (ids[-1] in self.tokenizer.all_special_ids)
        spans = encoded.sequences.spans or ()
        if min(length for _, length in spans) <= count:
            raise ValueError(f"The prompt has {count} tokens and leaves none of {self.max_tokens} to pool.")
        rows = torch.cat([encoded.rows[start + count : start + length] for start, length in spans])
        lengths = [length - count for _, length in spans]
        return replace(encoded, rows=rows, sequences=Sequences.from_lengths(lengths, max(lengths), rows.device)), count


SentenceTransformer = Embedder  # the name by which sentence-transformers' programs know it


def _with_owner(name: Any) -> Any:
    """A bare name of a model as sentence-transformers takes it: one of its own on the hub, where no folder has it."""
    bare = isinstance(name, str) and not re.search(r"[\\/]", name) and not os.path.exists(name)
    return f"sentence-transformers/{name}" if bare else name


def quantized(vectors: np.ndarray, precision: str) -> np.ndarray:
    """Vectors (n, C) float32 as fewer bytes; see `Embedder.encode`. ValueError for the ranges of a single one."""
    if precision == "float32" or not len(vectors):
        return vectors
    if "binary" in precision:
        bits = np.packbits(vectors > 0, axis=-1)
        return bits if precision == "ubinary" else (bits.astype(np.int16) - 128).astype(np.int8)
    if len(vectors) == 1:
        raise ValueError(f"precision={precision!r} goes by the ranges of several vectors; one vector has none.")
    low, high = vectors.min(0), vectors.max(0)
    steps = (high - low) / 255
    levels = np.clip(np.floor((vectors - low) / np.where(steps == 0, 1, steps)), 0, 255)
    return levels.astype(np.uint8) if precision == "uint8" else (levels - 128).astype(np.int8)


def _alike(*embeddings: Any) -> list[Tensor]:
    """Vectors (n, C) of each of the two, float32, on one device; TypeError or ValueError where they are none."""
    found = [_matrix(f"embeddings{number}", vectors) for number, vectors in enumerate(embeddings, 1)]
    widths = [tensor.shape[1] for tensor in found]
    if len({*widths}) > 1:
        raise ValueError(f"The vectors of embeddings1 have {widths[0]} numbers and those of embeddings2 {widths[1]}.")
    return [tensor.to(found[0].device) for tensor in found]


def _matrix(name: str, vectors: Any) -> Tensor:
    try:
        if isinstance(vectors, (list, tuple)):
            vectors = torch.stack([torch.as_tensor(vector) for vector in vectors])
        tensor = torch.as_tensor(vectors).to_dense()
    except (TypeError, ValueError, RuntimeError):
        tensor = torch.empty(0)
    tensor = tensor[None] if tensor.dim() == 1 else tensor
    if tensor.dim() != 2 or not tensor.shape[1] or tensor.is_complex() or tensor.is_meta:
        raise TypeError(f"{name} is {shown(vectors)}; it must be a vector of numbers, or several of one length.")
    return tensor.float()


# What a setting of a sentence-transformers folder may be, and how that is said.
KINDS: dict[str, Kind] = {
    **dict.fromkeys(("type", "path", "activation_function", "module_input_name"), (is_text, "text")),
    **dict.fromkeys(
        ("default_prompt_name", "similarity_fn_name", "prompt", "prompt_name"),
        (nullable(is_text), "text or null"),
    ),
    **dict.fromkeys(("include_prompt", "bias", "do_lower_case", *SWITCHES), (nullable(is_bool), "true or false")),
    "prompts": (nullable(mapping(is_text)), "an object from names to texts"),
    "pooling_mode": (nullable(lambda value: is_text(value) or each(is_text)(value)), "a name or several"),
    "max_seq_length": (nullable(is_count), "a whole number from 1, or null"),
}
# The file of a sentence-transformers folder that says where texts are cut; the first that there is counts.
LENGTH_FILES = [
    f"sentence_{family}_config.json"
    for family in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
]


def _sentence_transformers_settings(
    repository: hub.Repository,
) -> tuple[dict[str, Any] | None, hub.Repository]:
    """What modules.json and its companions say, as options of `Embedder`, and where the transformer lies."""
    if repository.find("modules.json") is None:
        return None, repository
    modules = repository.json("modules.json", list)
    for module in modules:
        if not isinstance(module, dict):
            raise ValueError(f"modules.json of {repository.name} lists {module!r:.80}, which is not a module.")
        check_kinds(module, KINDS, f"modules.json of {repository.name}")
    order = [str(module.get("type")).rpartition(".")[2] for module in modules]
    if not re.fullmatch("Transformer( Pooling)?( Dense)*( Normalize)?", " ".join(order)):
        raise ValueError(
            f"modules.json of {repository.name} lists {', '.join(order)}; computed here are Transformer, Pooling, any "
            "number of Dense and Normalize, in this order."
        )
    paths = [module.get("path", "") for module in modules]
    kinds = dict(zip(order, paths, strict=True))
    settings: dict[str, Any] = {
        "normalize": "Normalize" in kinds,
        "dense": [_dense(repository.inside(path)) for kind, path in zip(order, paths, strict=True) if kind == "Dense"],
    }
    if "Pooling" in kinds:
        pooling = _read(repository, f"{kinds['Pooling']}/config.json")
        settings["include_prompt"] = bool(pooling.get("include_prompt", True))
        modes = pooling.get("pooling_mode") or [name for key, name in SWITCHES.items() if pooling.get(key)] or ["mean"]
        settings["pooling"] = [modes] if isinstance(modes, str) else modes
    transformer = repository.inside(kinds["Transformer"]) if kinds["Transformer"] else repository
    length_file = next((name for name in LENGTH_FILES if transformer.find(name)), None)
    if length_file is not None:
        own = _read(transformer, length_file)
        settings |= {"max_tokens": own.get("max_seq_length"), "lower": bool(own.get("do_lower_case"))}
    if repository.find("config_sentence_transformers.json"):
        extra = _read(repository, "config_sentence_transformers.json")
        settings["prompts"] = extra.get("prompts") or {}
        default = extra.get("default_prompt_name")
        if default is not None and default not in settings["prompts"]:
            raise ValueError(
                f"default_prompt_name of {repository.name} is {default!r:.80}, and no prompt has that name."
            )
        settings["prompt"] = settings["prompts"].get(default, "")
        settings["similarity_fn_name"] = extra.get("similarity_fn_name") or "cosine"
    return settings, transformer


def _read(repository: hub.Repository, filename: str) -> dict[str, Any]:
    """The settings in a file; TypeError for one that is not of its kind."""
    settings = repository.json(filename)
    check_kinds(settings, KINDS, f"{repository.name} ({filename})")
    return settings


def _dense(repository: hub.Repository) -> Dense:
    """The layer in the folder of a Dense module."""
    config = _read(repository, "config.json")
    activation = ACTIVATIONS.get(config.get("activation_function", "torch.nn.modules.activation.Tanh"))
    names = ["linear.weight", "linear.bias"] if config.get("bias", True) else ["linear.weight"]
    source = config.get("module_input_name", "sentence_embedding")
    with open_checkpoint(repository) as checkpoint:
        found = {*checkpoint.shapes}
        tensors = [checkpoint.floats(name) for name in names if found == {*names}]
    if activation is None or source != "sentence_embedding" or not tensors:
        raise ValueError(
            f"The Dense module of {repository.name} holds {', '.join(sorted(found))} and has the settings "
            f"{config}; computed here are {' and '.join(names)} of pooled vectors, then one of "
            f"{', '.join(name.rpartition('.')[2] for name in ACTIVATIONS)}."
        )
    if not all(tensor.isfinite().all() for tensor in tensors):
        raise ValueError(f"The Dense module of {repository.name} holds NaN or infinite numbers.")
    return Dense(tensors[0], tensors[1] if len(tensors) > 1 else None, activation)
