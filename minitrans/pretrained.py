"""What every model can do besides compute: load, save, initialise, report, resize."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from minitrans import hub, ops, weights
from minitrans.config import Config
from minitrans.weights import LoadReport, Naming, Table

if TYPE_CHECKING:
    from minitrans.frozen import FrozenModel, PrepackedModel

logger = logging.getLogger("minitrans")

M = TypeVar("M", bound="PretrainedModel")

# What transformers calls its attention implementations -> the engine that does the same here.
ATTENTION_ENGINES = {
    "eager": "plain",
    "sdpa": "auto",
    "flash_attention_2": "triton",
    "flash_attention_3": "triton",
    **{name: name for name in ops.ENGINES},
}
SLOW_ON = {"cpu": (torch.float16, torch.bfloat16)}  # dtypes that a device computes much slower than float32


class PretrainedModel(nn.Module):
    """A model with a configuration and a name table.

    `load_report` says what the last loading did, `engine` ("auto", "plain", "triton") who computes.
    """

    config_class: ClassVar[type[Config]]
    base_model_prefix: ClassVar[str]
    weights: ClassVar[Table]  # of the backbone
    head_weights: ClassVar[Table] = {}
    ties: ClassVar[dict[str, str]] = {}  # a head's parameter -> the one that it shares, unless the config unties them
    main_input_name: ClassVar[str] = "input_ids"

    def __init__(self, config: Config) -> None:
        super().__init__()
        if not isinstance(config, self.config_class):
            raise TypeError(
                f"{type(self).__name__} takes a {self.config_class.__name__}, not {type(config).__name__}."
            )
        self.config = config
        self.load_report: LoadReport | None = None
        self.gradient_checkpointing = False
        self.engine = "auto"

    def post_init(self) -> None:
        """Initialise every tensor (nothing on the meta device) and tie what is tied; ends every `__init__`."""
        if self.device.type != "meta":
            for path in weights.tensors_of(self):
                self.initialise(path)
        self.tie_weights()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model on its engine."""
        with nullcontext() if self.engine == "auto" else ops.engine(self.engine):
            return super().__call__(*args, **kwargs)

    def returned(self, output: Any, return_dict: bool | None) -> Any:
        """The output, or its fields as a tuple where the caller or else the configuration wants that."""
        return output if (self.config.return_dict if return_dict is None else return_dict) else output.to_tuple()

    @property
    def base_model(self) -> nn.Module:
        """The backbone; the model itself where it has no head."""
        return getattr(self, self.base_model_prefix, self)

    @property
    def device(self) -> torch.device:
        """Where the parameters lie."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The parameters' floating dtype."""
        return next(self.parameters()).dtype

    @property
    def naming(self) -> Naming:
        """The name tables as they apply to this model."""
        has_head = self.base_model is not self
        tied = self.config.tie_word_embeddings
        ties = {path: self.ties[path] for path in self.ties if tied and hasattr(self, path.partition(".")[0])}
        return Naming(self.base_model.weights, self.head_weights, self.base_model_prefix, has_head, ties)  # type: ignore[arg-type]

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """How many numbers the model holds; shared ones count once."""
        skipped = {id(module.weight) for module in self.modules() if isinstance(module, nn.Embedding)}
        return sum(
            parameter.numel()
            for parameter in self.parameters()
            if (parameter.requires_grad or not only_trainable)
            and not (exclude_embeddings and id(parameter) in skipped)
        )

    # Loading and saving

    @classmethod
    def from_config(cls: type[M], config: Config, *, dtype: torch.dtype | str | None = None) -> M:
        """A model with random weights."""
        model = cls(config)
        return model if dtype is None else model.to(_dtype(dtype))

    @classmethod
    def from_pretrained(
        cls: type[M], name_or_path: str | Path, *, config: Config | None = None, **options: Any
    ) -> Any:
        """Load the checkpoint in a folder or in a hub repository; the model comes in evaluation mode.

        `dtype` (a torch dtype, its name, or "auto" for the checkpoint's; `torch_dtype` is the older name) defaults to
        the checkpoint's, or float32 where the device is much slower in it. `device` (or `device_map`) is where the
        weights are read to. Hub: `revision`, `token`, `cache_dir`, `local_files_only`, `force_download`, `subfolder`,
        `variant`. `strict=True` makes missing, unused or mismatched tensors an error; `ignore_mismatched_sizes`
        initialises the last anew. `output_loading_info=True` returns (model, report). `attn_implementation` chooses
        the engine. Anything else overrides a field of the configuration.

        Raises FileNotFoundError, OSError or ValueError with one sentence for what cannot be found or read.
        """
        repository, options = hub.open_with(name_or_path, options)
        return cls.load(repository, config, **options)

    @classmethod
    def load(
        cls: type[M],
        repository: hub.Repository,
        config: Config | None = None,
        *,
        dtype: torch.dtype | str | None = None,
        torch_dtype: torch.dtype | str | None = None,
        device: torch.device | str | int | None = None,
        device_map: Any = None,
        variant: str | None = None,
        strict: bool = False,
        ignore_mismatched_sizes: bool = False,
        output_loading_info: bool = False,
        attn_implementation: str | None = None,
        use_safetensors: bool | None = None,
        low_cpu_mem_usage: bool = True,
        **overrides: Any,
    ) -> Any:
        """`from_pretrained` on an open repository."""
        del low_cpu_mem_usage  # always
        config = _config(cls.config_class, repository, config, overrides)
        checkpoint = weights.open_checkpoint(repository, variant)
        if use_safetensors and not isinstance(checkpoint, weights.SafetensorsCheckpoint):
            raise ValueError(f"{repository.name} has no safetensors file, and use_safetensors=True asks for one.")
        place = _device(device if device is not None else device_map)
        with torch.device("meta"):
            model = cls(config)
        report = model.load_report = weights.compare(model, checkpoint, model.naming, ignore_mismatched_sizes)
        wanted = torch_dtype if dtype is None else dtype
        _allocate(model, place, _loading_dtype(wanted, config, checkpoint, place))
        model.tie_weights()
        weights.load(model, checkpoint, model.naming, report)
        config.tie_word_embeddings = config.tie_word_embeddings and not report.untied
        if strict and report.needs_attention:
            raise ValueError(f"strict=True, and the checkpoint is not exactly this model. {report}")
        if report.needs_attention:
            logger.warning("%s", report)
        if attn_implementation is not None:
            model.engine = _engine(attn_implementation)
        model.eval()
        return (model, report) if output_loading_info else model

    def provenance(self) -> dict[str, tuple[str, ...]]:
        """Our tensors' paths and the published names that each is made of: the name table as it applies here."""
        naming = self.naming
        return {
            path: tuple(naming.published(path, name) for name in naming.fold(path).names)
            for path in weights.tensors_of(self)
        }

    def published_state_dict(self) -> dict[str, Tensor]:
        """The tensors under the names of the published checkpoints, as `save_pretrained` writes them."""
        return weights.published_state(self, self.naming)

    def save_pretrained(self, folder: str | Path, *, safe_serialization: bool = True) -> None:
        """Write config.json and model.safetensors, as transformers reads them; an interrupted save changes nothing."""
        from safetensors.torch import save_file

        if not safe_serialization:
            raise ValueError("safe_serialization=False: minitrans writes safetensors only, and reads both.")
        self.config.architectures = [type(self).__name__]
        self.config.dtype = str(self.dtype).removeprefix("torch.")
        state = {name: tensor.contiguous() for name, tensor in self.published_state_dict().items()}
        with hub.atomic_folder(folder) as files:
            self.config.save_pretrained(files)
            save_file(state, files / "model.safetensors", metadata={"format": "pt"})

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload what `save_pretrained` writes; options as in `minitrans.hub.push_folder`. Returns the address."""
        return hub.push_folder(repo_id, self.save_pretrained, **options)

    def freeze(
        self, batch_sizes: Iterable[int] = (1,), lengths: Iterable[int] | None = None
    ) -> FrozenModel | PrepackedModel:
        """A callable that computes what the model does in evaluation mode, sooner, above all for small batches.

        On a CPU any float32 model, as a copy with prepacked weights: `minitrans.frozen.PrepackedModel`. On a GPU a
        text model without a head, as CUDA graphs for each of `batch_sizes` texts of up to each of `lengths` tokens
        (the powers of two from 16 to what the model takes, by default): `minitrans.frozen.FrozenModel`. Raises
        ValueError or RuntimeError for models that it is not for.
        """
        from minitrans import frozen

        if self.device.type == "cpu":
            return frozen.PrepackedModel(self)
        limit = getattr(self.config, "max_position_embeddings", 0)
        if self.device.type != "cuda":
            raise ValueError(f"A model on {str(self.device)!r} cannot be frozen; move it to a CPU or a CUDA GPU.")
        if self.main_input_name != "input_ids" or self.base_model is not self:
            raise ValueError(f"{type(self).__name__} is no text model without a head; freeze one, or its .base_model.")
        if lengths is None:
            lengths = {min(2**power, limit) for power in range(4, limit.bit_length() + 1)}
        shapes = set(product(batch_sizes, lengths))
        if not shapes or not all(batch > 0 and 0 < length <= limit for batch, length in shapes):
            raise ValueError(f"{sorted(shapes)} are no sizes (batch, length) of texts of 1 to {limit} tokens.")
        return frozen.FrozenModel(self, shapes, frozen.recorder(self.device))

    # Tensors

    @torch.no_grad()
    def initialise(self, path: str) -> None:
        """Give one tensor its random start: N(0, initializer_range²), biases 0, norms 1 (Devlin et al. 2019, A.2)."""
        owner, _, leaf = path.rpartition(".")
        module = self.get_submodule(owner)
        tensor = getattr(module, leaf)
        if isinstance(module, (nn.LayerNorm, nn.GroupNorm)) and leaf == "weight":
            tensor.fill_(1.0)
        elif leaf == "bias":
            tensor.zero_()
        else:
            tensor.normal_(0.0, getattr(self.config, "initializer_range", 0.02))
            if isinstance(module, nn.Embedding) and module.padding_idx is not None:
                tensor[module.padding_idx].zero_()

    def tie_weights(self) -> None:
        """Let tied parameters share one tensor, where the configuration ties them."""
        for path, source in self.naming.ties.items():
            owner, _, leaf = path.rpartition(".")
            setattr(self.get_submodule(owner), leaf, self.get_parameter(source))

    def get_input_embeddings(self) -> nn.Embedding:
        """The table of word vectors; NotImplementedError, as in transformers, for a model without one."""
        return self._text_embeddings().word  # type: ignore[return-value]

    def set_input_embeddings(self, embeddings: nn.Embedding) -> None:
        """Put another table of word vectors in; NotImplementedError for a model without one."""
        self._text_embeddings().word = embeddings
        self.tie_weights()

    def _text_embeddings(self) -> nn.Module:
        embeddings = getattr(self.base_model, "embeddings", None)
        if not isinstance(getattr(embeddings, "word", None), nn.Embedding):
            raise NotImplementedError(f"{type(self).__name__} has no table of word vectors.")
        return embeddings  # type: ignore[return-value]

    def get_output_embeddings(self) -> nn.Linear | None:
        """The layer that scores the vocabulary, None where there is none."""
        return None

    @torch.no_grad()
    def resize_token_embeddings(
        self, new_num_tokens: int, pad_to_multiple_of: int | None = None, mean_resizing: bool = False
    ) -> nn.Embedding:
        """Make the vocabulary `new_num_tokens` long, rounded up to a multiple of `pad_to_multiple_of`.

        The first rows stay, new ones are initialised as in a new model, which is what `mean_resizing=False` asks for.
        """
        if mean_resizing:
            raise ValueError("mean_resizing=True is not computed here: new rows are initialised as in a new model.")
        new_num_tokens += -new_num_tokens % (pad_to_multiple_of or 1)
        old = self.get_input_embeddings()
        if new_num_tokens < 1:
            raise ValueError(f"A vocabulary of {new_num_tokens} tokens was asked for; it needs at least 1.")
        padding = old.padding_idx if old.padding_idx is not None and old.padding_idx < new_num_tokens else None
        table = nn.Embedding(
            new_num_tokens, old.embedding_dim, padding, device=old.weight.device, dtype=old.weight.dtype
        )
        start = torch.empty_like(table.weight).normal_(0.0, getattr(self.config, "initializer_range", 0.02))
        table.weight = with_first_rows(old.weight, start)
        self.set_input_embeddings(table)
        self.config.vocab_size = new_num_tokens
        if old.padding_idx is not None:
            self.config.pad_token_id = padding
        return table

    def activation_checkpointing_enable(
        self, activation_checkpointing_kwargs: dict | None = None, every_n_layers: int = 1, offload: bool = False
    ) -> None:
        """Recompute each layer in the backward pass instead of keeping what it computed.

        Raises ValueError for `every_n_layers` and `offload`, which transformers has: here it is each layer, and on
        its own device.
        """
        del activation_checkpointing_kwargs  # always without re-entrance
        if every_n_layers != 1 or offload:
            raise ValueError(
                f"every_n_layers is {every_n_layers} and offload {offload}; every layer is recomputed, and nothing "
                "offloaded: leave them at 1 and False."
            )
        for module in self._checkpointed():
            module.gradient_checkpointing = True

    def activation_checkpointing_disable(self) -> None:
        """Keep what each layer computed, the default."""
        for module in self._checkpointed():
            module.gradient_checkpointing = False

    def enable_input_require_grads(self) -> None:
        """Nothing: with frozen inputs too, checkpointing finds the gradients, as it is without re-entrance."""

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: dict | None = None, **options: Any) -> None:
        """The older name of `activation_checkpointing_enable`."""
        self.activation_checkpointing_enable(gradient_checkpointing_kwargs, **options)

    def gradient_checkpointing_disable(self) -> None:
        """The older name of `activation_checkpointing_disable`."""
        self.activation_checkpointing_disable()

    def _checkpointed(self) -> Iterator[PretrainedModel]:
        return (module for module in self.modules() if isinstance(module, PretrainedModel))


@torch.no_grad()
def with_first_rows(old: Tensor, new: Tensor) -> nn.Parameter:
    """`new` as a parameter, its first rows those of `old`."""
    count = min(old.shape[0], new.shape[0])
    new[:count] = old[:count]
    return nn.Parameter(new, old.requires_grad)


def _config(
    kind: type[Config], repository: hub.Repository, config: Config | None, overrides: dict[str, Any]
) -> Config:
    if config is not None:
        return type(config).from_dict(config.to_dict(), **overrides)
    values = repository.json("config.json")
    if values.get("model_type", kind.model_type) != kind.model_type:
        raise ValueError(f"{repository.name} is a {values['model_type']!r} checkpoint, not {kind.model_type!r}.")
    return kind.from_dict(values, **overrides)


def _engine(name: str) -> str:
    if name not in ATTENTION_ENGINES:
        raise ValueError(f"attn_implementation is {name!r}; it must be one of {', '.join(ATTENTION_ENGINES)}.")
    return ATTENTION_ENGINES[name]


def _dtype(name: torch.dtype | str) -> torch.dtype:
    dtype = name if isinstance(name, torch.dtype) else getattr(torch, str(name).removeprefix("torch."), None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ValueError(
            f'dtype is {name!r}; it must be a floating torch dtype, its name such as "bfloat16", or "auto".'
        )
    return dtype


def _allocate(model: nn.Module, place: torch.device, dtype: torch.dtype) -> None:
    """Give a model on the meta device its memory, unfilled; `Module.to_empty` would import torch's compiler first."""
    model._apply(
        lambda tensor: torch.empty(
            tensor.shape, dtype=dtype if tensor.is_floating_point() else tensor.dtype, device=place
        )
    )


def _device(place: Any) -> torch.device:
    if isinstance(place, dict) and set(place) == {""}:
        place = place[""]
    if place is None:
        return torch.get_default_device()
    if place == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=torch.device(place)).device
    except (RuntimeError, TypeError, AssertionError) as error:
        reason = str(error).split("\n")[0]
        raise ValueError(f'device is {place!r}; it must be one that torch has here ("cpu"): {reason}') from None


def _loading_dtype(
    wanted: torch.dtype | str | None, config: Config, checkpoint: weights.Checkpoint, place: torch.device
) -> torch.dtype:
    if wanted is not None and wanted != "auto":
        return _dtype(wanted)
    dtype = _dtype(config.dtype) if config.dtype else checkpoint.dtype
    if wanted is None and dtype in SLOW_ON.get(place.type, ()):
        logger.warning(
            "The checkpoint is in %s, which a %s computes slowly; it was loaded in float32 (dtype='auto' keeps it).",
            str(dtype).removeprefix("torch."), place.type,
        )  # fmt: skip
        return torch.float32
    return dtype


PreTrainedModel = PretrainedModel  # the published name
