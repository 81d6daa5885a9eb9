"""What every model can do besides compute: load, save, initialise, report, resize."""

from __future__ import annotations

import inspect
import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from functools import cache, partial
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeVar, overload

import torch
from torch import Tensor, nn
from typing_extensions import override

from minitrans import cpu, hub, ops, weights
from minitrans.config import PreTrainedConfig, Words, checked
from minitrans.layers import has_hooks
from minitrans.names import Published, Table, raw_tensors
from minitrans.sequences import grid_layout, is_tracing
from minitrans.weights import LoadReport

if TYPE_CHECKING:
    from minitrans.cuda_graphs import FrozenModel
    from minitrans.frozen import PrepackedModel

    O_co = TypeVar("O_co", covariant=True)

    class Forward(Protocol[O_co]):
        """What has a `forward`: to type checkers, a call of a model gives what that does."""

        @property
        def forward(self) -> Callable[..., O_co]:
            """The method."""
            ...


logger = logging.getLogger("minitrans")

M = TypeVar("M", bound="PreTrainedModel")

# What transformers calls its attention implementations -> the engine that does the same here.
ATTENTION_ENGINES = {
    "eager": "plain",
    "sdpa": "auto",
    "flash_attention_2": "triton",
    "flash_attention_3": "triton",
    **{name: name for name in ops.ENGINES},
}
# What belongs to a decoder, or is not done here: None changes nothing.
MUST_BE_NONE = ("head_mask", "past_key_values", "encoder_hidden_states", "encoder_attention_mask",
                "cross_attn_head_mask")  # fmt: skip
# Arguments of published models that change nothing here.
NO_EFFECT = ("use_cache", "special_tokens_mask", "num_items_in_batch", "return_loss", *MUST_BE_NONE)


class PreTrainedModel(Published):
    """A model with a configuration and a name table.

    `load_report` says what the last loading did, `engine` ("auto", "plain", "triton") who computes.
    """

    config_class: ClassVar[type[PreTrainedConfig]]
    head_weights: ClassVar[Table] = {}  # the names of the heads' modules on this backbone
    ties: ClassVar[dict[str, str]] = {}  # a head's parameter -> the one that it shares, unless the config unties them
    main_input_name: ClassVar[str] = "input_ids"
    supports_gradient_checkpointing: ClassVar[bool] = True

    def __init__(self, config: PreTrainedConfig, *_: Any, **__: Any) -> None:
        super().__init__()
        if not isinstance(config, self.config_class):
            raise TypeError(
                f"{type(self).__name__} takes a {self.config_class.__name__}, not {type(config).__name__}."
            )
        self.config = config
        self.load_report: LoadReport | None = None
        self.gradient_checkpointing = False
        self.engine = "auto"
        self._inputs = _inputs(type(self))  # type: ignore[arg-type]  # mypy takes Module.__hash__ for None

    def post_init(self) -> None:
        """Initialise what nobody has set, and tie what is tied; ends every `__init__`.

        On the meta device, and while a checkpoint is loaded, nothing is initialised. Tensors of modules of the user's
        own classes stay as these set them.
        """
        if self.device.type != "meta" and not _loading.is_on:
            self.start(weights.tensors_of(self))
        self.tie_weights()
        self.link()
        if getattr(self.config, "gradient_checkpointing", False):  # as configurations of older programs ask for it
            self.gradient_checkpointing_enable()

    def _on_its_engine(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model on its engine; where a hook is to see its modules, these get the batch with its padding."""
        if self._inputs is not None and not kwargs.keys() <= self._inputs:
            kwargs = self.without_effect(kwargs, self._inputs)
        if is_tracing():  # a compiler need not follow what only saves time
            with ops.engine_of(self):
                return super().__call__(*args, **kwargs)
        with ops.engine(ops.chosen_engine() if self.engine == "auto" else self.engine):
            if not has_hooks(self):
                return super().__call__(*args, **kwargs)
            with grid_layout():
                return super().__call__(*args, **kwargs)

    if TYPE_CHECKING:

        def __call__(self: Forward[O_co], *args: Any, **kwargs: Any) -> O_co:
            """What `forward` gives."""
            ...
    else:
        __call__ = _on_its_engine

    def without_effect(self, given: dict[str, Any], accepted: Set[str]) -> dict[str, Any]:
        """The arguments that are accepted; any other must change nothing: TypeError or ValueError where it would."""
        for name in given.keys() - accepted:
            if name not in NO_EFFECT:
                names = ", ".join(sorted(accepted - {*NO_EFFECT}))
                raise TypeError(f"{type(self).__name__} has no input {name!r}; it has {names}.")
            if name in MUST_BE_NONE and given[name] is not None:
                raise ValueError(f"{type(self).__name__} does not compute {name}; it must be None.")
        return {name: value for name, value in given.items() if name in accepted}

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
        return next(raw_tensors(self))[1].device

    @property
    def dtype(self) -> torch.dtype:
        """The parameters' floating dtype."""
        return next(tensor.dtype for _, tensor in raw_tensors(self) if tensor.is_floating_point())

    @override
    def tied(self) -> dict[str, str]:
        return {path: source for path, source in self._ties().items() if _tensor(self, path) is _tensor(self, source)}

    def _ties(self) -> dict[str, str]:
        """What the configuration ties, as far as the model has it."""
        both = self.ties.items() if self.config.tie_word_embeddings else ()
        return {path: source for path, source in both if not {None} & {_tensor(self, path), _tensor(self, source)}}

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
    def from_config(cls: type[M], config: PreTrainedConfig, *, dtype: torch.dtype | str | None = None) -> M:
        """A model with random weights."""
        model = cls(config)
        return model if dtype is None else model.to(_dtype(dtype))

    @overload
    @classmethod
    def from_pretrained(
        cls: type[M],
        pretrained_model_name_or_path: str | Path | None,
        *model_args: Any,
        config: PreTrainedConfig | str | Path | None = None,
        output_loading_info: Literal[True],
        **options: Any,
    ) -> tuple[M, LoadReport]: ...
    @overload
    @classmethod
    def from_pretrained(
        cls: type[M],
        pretrained_model_name_or_path: str | Path | None,
        *model_args: Any,
        config: PreTrainedConfig | str | Path | None = None,
        output_loading_info: bool = False,
        **options: Any,
    ) -> M: ...
    @classmethod
    def from_pretrained(
        cls: type[M],
        pretrained_model_name_or_path: str | Path | None,
        *model_args: Any,
        config: PreTrainedConfig | str | Path | None = None,
        **options: Any,
    ) -> Any:
        """Load the checkpoint in a folder or in a hub repository; the model comes in evaluation mode.

        `dtype` (a torch dtype, its name, or "auto" for the checkpoint's; `torch_dtype` is the older name) defaults to
        the checkpoint's, or float32 where that is a half precision that the CPU does not multiply in itself. `device`
        (or `device_map`) is where the weights are read to. Hub: `revision`, `token`, `cache_dir`, `local_files_only`,
        `force_download`, `subfolder`, `variant`. `strict=True` makes missing, unused, mismatched or non-finite tensors
        an error; `ignore_mismatched_sizes` initialises mismatched ones anew. `output_loading_info=True` returns
        (model, report).
        `state_dict` takes tensors by published names in place of the checkpoint's; the name may then be None, beside a
        `config`.
        `attn_implementation` chooses the engine. What the class's constructor takes, such as
        `add_pooling_layer=False`, goes to it; anything else overrides a field of the configuration.

        Raises FileNotFoundError, OSError or ValueError with one sentence for what cannot be found or read, for a
        checkpoint that holds nothing of the backbone or is quantised, and for a config.json of another save than the
        weights: one that differs in a field which decides tensors or numbers. Names of labels may be edited by hand,
        and a `config` given may differ; a warning says so.

        >>> from minitrans import AutoTokenizer, BertModel
        >>> model = BertModel.from_pretrained("google-bert/bert-base-uncased")
        >>> tokenizer = AutoTokenizer.from_pretrained("google-bert/bert-base-uncased")
        >>> model(**tokenizer("A text.", return_tensors="pt")).last_hidden_state.shape
        torch.Size([1, 5, 768])
        """
        name = "." if pretrained_model_name_or_path is None else pretrained_model_name_or_path
        repository, options = hub.open_with(name, options)
        if isinstance(config, (str, os.PathLike)):
            config = cls.config_class.from_pretrained(config)
        if pretrained_model_name_or_path is None and (config is None or options.get("state_dict") is None):
            raise ValueError("Without the name of a checkpoint, from_pretrained needs config= and state_dict=.")
        return cls.load(repository, config, *model_args, **options)

    @classmethod
    def load(
        cls: type[M],
        repository: hub.Repository,
        config: PreTrainedConfig | None = None,
        *model_args: Any,
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
        state_dict: Mapping[str, Tensor] | None = None,
        **overrides: Any,
    ) -> Any:
        """`from_pretrained` on an open repository."""
        overrides = _without_needless(overrides)
        constructor = {name: overrides.pop(name) for name in _constructor_options(cls) if name in overrides}
        is_given = config is not None
        with repository.unchanged():
            config = _config(cls.config_class, repository, config, overrides)
            if state_dict is not None:
                checkpoint: weights.Checkpoint = weights.StateDict(state_dict)
            else:
                checkpoint = weights.open_checkpoint(repository, variant)
        with checkpoint:
            if use_safetensors and not isinstance(checkpoint, weights.SafetensorsCheckpoint):
                raise ValueError(f"{repository.name} has no safetensors file, and use_safetensors=True asks for one.")
            other = config.differing(checkpoint.config, overrides)
            if other:
                _say_of_two_saves(repository.name, other, checkpoint.config, is_given)
            place = _device(device if device is not None else device_map)
            wanted = _loading_dtype(torch_dtype if dtype is None else dtype, config, checkpoint, place)
            model = _unfilled(cls, config, model_args, constructor)
            report = model.load_report = weights.compare(model, checkpoint, ignore_mismatched_sizes)
            if model.device.type == "meta":
                _allocate(model, place, wanted)
                model.tie_weights()
            else:
                model.to(place, wanted)
            weights.load(model, checkpoint, report)
        config.tie_word_embeddings = config.tie_word_embeddings and not report.untied
        if strict and report.needs_attention:
            raise ValueError(f"strict=True, and the checkpoint is not exactly this model. {report}")
        if report.needs_attention:
            logger.warning("%s", report)
        if attn_implementation is not None:
            model.set_attn_implementation(attn_implementation)
        model.name_or_path = repository.name
        model.eval()
        return (model, report) if output_loading_info else model

    def provenance(self) -> dict[str, str]:
        """Our tensors' paths and the published name of each: the name table as it applies here."""
        outside = self.translation("outside")
        return {path: outside(path) for path in weights.tensors_of(self)}

    def published_state_dict(self) -> dict[str, Tensor]:
        """The tensors under the names of the published checkpoints, each once, as `save_pretrained` writes them."""
        return weights.published_state(self)

    def save_pretrained(
        self,
        save_directory: str | Path,
        is_main_process: bool = True,
        state_dict: Mapping[str, Tensor] | None = None,
        save_function: Any = None,
        push_to_hub: bool = False,
        max_shard_size: int | str = "50GB",
        safe_serialization: bool = True,
        variant: str | None = None,
        **push: Any,
    ) -> None:
        """Write config.json and model.safetensors, as transformers reads them; an interrupted save changes nothing.

        `state_dict` (by published names) is written in place of the model's own tensors; what is larger than
        `max_shard_size` becomes several files and their index; only the process with `is_main_process` writes.
        `variant` "fp16" names the file model.fp16.safetensors. `push_to_hub=True` uploads it too, to `repo_id` (the
        folder's name by default). `save_function` and `safe_serialization` have no effect, as in transformers 5:
        safetensors are written.
        """
        del save_function, safe_serialization
        if push and not push_to_hub and push.keys() - _NEEDLESS_WHEN_SAVING:
            raise TypeError(f"save_pretrained has no option {min(push.keys() - _NEEDLESS_WHEN_SAVING)!r}.")
        if not is_main_process:
            return
        given = self.published_state_dict() if state_dict is None else state_dict
        weights.check_savable(self, given)
        self.config.architectures = [type(self).__name__]
        self.config.dtype = str(self.dtype).removeprefix("torch.")
        seconds = {self.outside(path) for path in self.tied()}
        state = {name: tensor.detach().contiguous() for name, tensor in given.items() if name not in seconds}
        with hub.atomic_folder(save_directory, partial(weights.is_weights, variant=variant)) as files:
            self.config.write_files(files)
            weights.write(state, files, max_shard_size, variant, self.config.decisive())
        if push_to_hub:
            self.push_to_hub(push.pop("repo_id", Path(save_directory).name), **push)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload what `save_pretrained` writes; options as in `minitrans.hub.push_folder`. Returns the address."""
        return hub.push_folder(repo_id, self.save_pretrained, **options)

    def load_adapter(self, peft_model_id: str | Path, **options: Any) -> None:
        """Add the products of a published LoRA, in a folder or a hub repository, to the weights: W + s · B A.

        "LoRA: Low-Rank Adaptation of Large Language Models" (Hu et al. 2021), as peft writes it: adapter_config.json
        beside adapter_model.safetensors. Layers that were trained whole beside it are taken as they are. Raises
        FileNotFoundError or ValueError for what cannot be found, read, or added to this model.
        """
        from minitrans import adapters

        adapters.merge(self, *hub.open_with(peft_model_id, options))

    def freeze(
        self,
        dtype: torch.dtype | str | None = None,
        batch_sizes: Iterable[int] = (1,),
        lengths: Iterable[int] | None = None,
    ) -> FrozenModel | PrepackedModel:
        """An inference-only callable with the same outputs, faster especially for small batches.

        On a CPU any model, as a copy with prepacked weights that computes in `dtype`: float32, bfloat16, the model's
        own (None), or "fastest", with the error that this costs: `minitrans.frozen.PrepackedModel`. On a GPU as CUDA
        graphs for each of `batch_sizes` inputs of up to each of `lengths`, for texts tokens (by default the powers of
        two from 16 to what the model takes), for sound samples: `minitrans.cuda_graphs.FrozenModel`. Raises
        ValueError or RuntimeError for models and sizes that it is not for.

        >>> import torch
        >>> from minitrans import BertModel
        >>> frozen = BertModel.from_pretrained("google-bert/bert-base-uncased").freeze()
        >>> frozen(torch.tensor([[101, 3793, 102]])).pooler_output.shape
        torch.Size([1, 768])
        """
        if self.device.type == "cpu":
            from minitrans.frozen import PrepackedModel

            return PrepackedModel(self, dtype if dtype in (None, "fastest") else _dtype(dtype))
        if dtype is not None:
            raise ValueError(f"dtype is {dtype!r}; off a CPU a model is frozen in its own: use .to(dtype) before.")
        if self.device.type != "cuda":
            raise ValueError(f"A model on {str(self.device)!r} cannot be frozen; move it to a CPU or a CUDA GPU.")
        from minitrans.cuda_graphs import BUCKETS, FrozenModel, cuda_graph

        sizes = {"batch_sizes": list(batch_sizes), **({} if lengths is None else {"lengths": list(lengths)})}
        for name, values in sizes.items():
            if not values or not all(isinstance(value, Integral) and value > 0 for value in values):
                raise ValueError(f"{name} is {values}; it must hold whole numbers from 1.")
        shapes = BUCKETS[self.main_input_name].shapes(self, set(sizes["batch_sizes"]), sizes.get("lengths"))
        return FrozenModel(self, shapes, cuda_graph(self.device))

    # Tensors

    @torch.no_grad()
    def initialise(self, path: str) -> None:
        """Give one tensor its random start: N(0, initializer_range²), biases 0, norms 1 (Devlin et al. 2019, A.2).

        A model inside this one knows how its own tensors start; tensors of other classes stay as they were made.
        """
        for place, model in self.inner_models().items():
            if path.startswith(f"{place}."):
                model.initialise(path[len(place) + 1 :])
                return
        owner, _, leaf = path.rpartition(".")
        module = self.get_submodule(owner)
        tensor = getattr(module, leaf)
        if not (isinstance(module, _STARTED) or type(module).__module__.startswith("minitrans.")):
            return
        if isinstance(module, (nn.LayerNorm, nn.GroupNorm)) and leaf == "weight":
            tensor.fill_(1.0)
        elif leaf == "bias":
            tensor.zero_()
        else:
            tensor.normal_(0.0, getattr(self.config, "initializer_range", 0.02))
            if isinstance(module, nn.Embedding) and module.padding_idx is not None:
                tensor[module.padding_idx].zero_()

    def start(self, tensors: Mapping[str, Tensor]) -> None:
        """Give those of these tensors, by our paths, that nobody has set their random start."""
        unset = [path for path, tensor in tensors.items() if not _is_set(tensor)]
        if type(self)._init_weights is PreTrainedModel._init_weights:
            for path in unset:
                self.initialise(path)
        else:  # a subclass knows more
            for owner in dict.fromkeys(path.rpartition(".")[0] for path in unset):
                self._init_weights(self.get_submodule(owner))
        for tensor in tensors.values():
            tensor._is_hf_initialized = True  # type: ignore[attr-defined]  # transformers knows the mark too

    def _init_weights(self, module: nn.Module) -> None:
        """Give those of a module's own tensors that nobody has set their start.

        A subclass says here how its own modules start, in the words of published code:
        `if isinstance(module, nn.Linear): module.weight.data.normal_()`.
        """
        own = {id(tensor) for tensor in (*module._parameters.values(), *module._buffers.values())}
        for path, tensor in weights.tensors_of(self).items():
            if id(tensor) in own and not _is_set(tensor):
                self.initialise(path)

    def init_weights(self) -> None:
        """The older name of `post_init`."""
        self.post_init()

    def tie_weights(self, **options: Any) -> None:
        """Let tied parameters share one tensor, where the configuration ties them; `options` change nothing."""
        del options
        for path, source in self._ties().items():
            owner, _, leaf = path.rpartition(".")
            setattr(self.get_submodule(owner), leaf, self.get_parameter(source))

    def untie(self) -> None:
        """Give each parameter that shares another's tensor one of its own, and note so in the configuration."""
        for path in self.tied():
            owner, _, leaf = path.rpartition(".")
            old = self.get_parameter(path)
            setattr(self.get_submodule(owner), leaf, nn.Parameter(old.clone(), old.requires_grad))
        self.config.tie_word_embeddings = False

    def get_input_embeddings(self) -> nn.Module:
        """The table of word vectors; NotImplementedError, as in transformers, for a model without one."""
        backbone = self.base_model
        if backbone is not self and isinstance(backbone, PreTrainedModel):
            return backbone.get_input_embeddings()
        return self._text_embeddings().word  # type: ignore[return-value]

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Put another table of word vectors in; NotImplementedError for a model without one."""
        self._text_embeddings().word = value
        self.tie_weights()

    def _text_embeddings(self) -> nn.Module:
        embeddings = getattr(self.base_model, "embeddings", None)
        if getattr(embeddings, "word", None) is None:
            raise NotImplementedError(f"{type(self).__name__} has no table of word vectors.")
        return embeddings  # type: ignore[return-value]

    def get_output_embeddings(self) -> nn.Linear | None:
        """The layer that scores the vocabulary, None where there is none."""
        return None

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Put another layer that scores the vocabulary in; NotImplementedError for a model without one."""
        raise NotImplementedError(f"{type(self).__name__} has no layer that scores the vocabulary.")

    def get_memory_footprint(self, return_buffers: bool = True) -> int:
        """The bytes of the parameters and, unless `return_buffers=False`, the buffers; shared ones count once."""
        buffers = {id(buffer) for buffer in self.buffers()}
        tensors = weights.tensors_of(self).values()
        return sum(tensor.nbytes for tensor in tensors if return_buffers or id(tensor) not in buffers)

    def can_generate(self) -> bool:
        """Whether the model writes text token by token: none here does."""
        return False

    @property
    def name_or_path(self) -> str:
        """What the checkpoint was called when it was loaded."""
        return self.config.name_or_path

    @name_or_path.setter
    def name_or_path(self, value: str) -> None:
        self.config.name_or_path = value

    @property
    def is_gradient_checkpointing(self) -> bool:
        """Whether layers are recomputed in the backward pass."""
        return any(module.gradient_checkpointing for module in self._checkpointed())

    @torch.no_grad()
    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> nn.Module:
        """Make the vocabulary `new_num_tokens` long, rounded up to a multiple of `pad_to_multiple_of`.

        The first rows stay. New ones are drawn around the mean of the old ones, with a billionth of their covariance
        (Hewitt 2021, "Initializing new word embeddings for pretrained language models"), so that no new word is likely
        at once; with `mean_resizing=False` they start as in a new model. Without a number nothing changes.
        """
        old = self.get_input_embeddings()
        if new_num_tokens is None and pad_to_multiple_of is None:
            return old
        weight: Tensor = old.weight  # type: ignore[assignment]
        count = checked("new_num_tokens", len(weight) if new_num_tokens is None else new_num_tokens, Words)
        multiple = checked("pad_to_multiple_of", 1 if pad_to_multiple_of is None else pad_to_multiple_of, Words)
        count = checked("new_num_tokens, rounded up,", count + -count % multiple, Words)
        was = getattr(old, "padding_idx", None)
        padding = was if was is not None and was < count else None
        table = nn.Embedding(count, weight.shape[1], padding, device=weight.device, dtype=weight.dtype)
        table.weight = with_first_rows(weight, self.new_rows(weight, count, mean_resizing))
        self.set_input_embeddings(table)
        self.config.vocab_size = count
        if was is not None:
            self.config.pad_token_id = padding
        return table

    def new_rows(self, old: Tensor, count: int, around_mean: bool) -> Tensor:
        """`count` rows to start a table from, distributed as `resize_token_embeddings` says."""
        rows, wide = old.new_zeros(count, *old.shape[1:]), old.float()
        if old.dim() == 1:  # biases
            return rows
        if not around_mean:
            return rows.normal_(0.0, getattr(self.config, "initializer_range", 0.02))
        # Σ = Xᵀ X / n = Rᵀ R / n with X = Q R, so that R, mixed with independent numbers, has this covariance.
        root = torch.linalg.qr(wide - wide.mean(0), mode="r").R
        noise = torch.randn(count, len(root), device=old.device) @ root * (1e-9 / len(old)) ** 0.5
        return rows.copy_(wide.mean(0) + noise)

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

    def disable_input_require_grads(self) -> None:
        """Nothing, as `enable_input_require_grads`."""

    def set_attn_implementation(self, attn_implementation: str) -> None:
        """Choose who computes, by the names of `from_pretrained(attn_implementation=)`."""
        self.engine = _engine(attn_implementation)
        self.config._attn_implementation = attn_implementation  # type: ignore[misc]

    def get_parameter_or_buffer(self, target: str) -> Tensor:
        """The parameter or buffer of that name; AttributeError where there is none."""
        try:
            return self.get_parameter(target)
        except AttributeError:
            return self.get_buffer(target)

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: dict | None = None, **options: Any) -> None:
        """The older name of `activation_checkpointing_enable`."""
        self.activation_checkpointing_enable(gradient_checkpointing_kwargs, **options)

    def gradient_checkpointing_disable(self) -> None:
        """The older name of `activation_checkpointing_disable`."""
        self.activation_checkpointing_disable()

    def _checkpointed(self) -> Iterator[PreTrainedModel]:
        return (module for module in self.modules() if isinstance(module, PreTrainedModel))


@torch.no_grad()
def with_first_rows(old: Tensor, new: Tensor) -> nn.Parameter:
    """`new` as a parameter, its first rows those of `old`."""
    count = min(old.shape[0], new.shape[0])
    new[:count] = old[:count]
    return nn.Parameter(new, old.requires_grad)


def _is_set(tensor: Tensor) -> bool:
    """Whether a checkpoint, the user or a random start has given a tensor its numbers."""
    return getattr(tensor, "_is_hf_initialized", False)


def _tensor(model: nn.Module, path: str) -> Tensor | None:
    """The parameter at one of our paths, None where the model has none."""
    *owners, leaf = path.split(".")
    module: nn.Module | None = model
    for name in owners:
        module = None if module is None else module._modules.get(name)
    return None if module is None else module._parameters.get(leaf)


@cache
def _inputs(kind: type[PreTrainedModel]) -> frozenset[str] | None:
    """The names of what a class's `forward` takes; None where it takes any."""
    _, *parameters = inspect.signature(kind.forward).parameters.values()  # self is none
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return frozenset(parameter.name for parameter in parameters)


def _constructor_options(kind: type[PreTrainedModel]) -> list[str]:
    """What a class's constructor takes besides the configuration."""
    parameters = list(inspect.signature(kind.__init__).parameters.values())[2:]
    return [parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD]


# What programs pass to `from_pretrained` that changes nothing here -> the values for which that is so; None for any.
_NEEDLESS: dict[str, tuple[Any, ...] | None] = {
    "low_cpu_mem_usage": None,
    "weights_only": None,
    "from_tf": (False,),
    "from_flax": (False,),
    "quantization_config": (None,),
    "use_kernels": (False,),
    "tp_plan": (None,),
    "max_memory": None,
    "offload_folder": None,
    "offload_state_dict": None,
    "_fast_init": None,
    "_from_auto": None,
    "_commit_hash": None,
    "adapter_kwargs": (None,),
    "key_mapping": (None,),
}
_NEEDLESS_WHEN_SAVING = {"token", "save_peft_format", "save_original_format"}


def _without_needless(options: dict[str, Any]) -> dict[str, Any]:
    for name, values in _NEEDLESS.items():
        if name in options and values is not None and options[name] not in values:
            raise ValueError(f"{name}={options[name]!r} is not done here; leave it out.")
    return {name: value for name, value in options.items() if name not in _NEEDLESS}


class _Loading(threading.local):
    def __init__(self) -> None:
        self.is_on = False


_loading = _Loading()
_STARTED = (nn.Linear, nn.Embedding, nn.LayerNorm, nn.GroupNorm, nn.modules.conv._ConvNd)


def _unfilled(kind: type[M], config: PreTrainedConfig, arguments: tuple, options: dict[str, Any]) -> M:
    """A model whose tensors a checkpoint is to fill, none of them initialised.

    A class of this package is built on the meta device, which costs nothing; one of the user's own may set tensors to
    what no checkpoint holds, and is built as it is.
    """
    outer, _loading.is_on = _loading.is_on, True
    try:
        is_ours = kind.__module__.partition(".")[0] == "minitrans"
        with torch.device("meta" if is_ours else "cpu"):
            return kind(config, *arguments, **options)
    finally:
        _loading.is_on = outer


def _config(
    kind: type[PreTrainedConfig],
    repository: hub.Repository,
    config: PreTrainedConfig | None,
    overrides: dict[str, Any],
) -> PreTrainedConfig:
    if config is not None and not isinstance(config, PreTrainedConfig):
        raise TypeError(f"config is {config!r:.80}; it must be a configuration, or the folder or hub id of one.")
    if config is not None:
        return type(config).from_dict(config.to_dict(), **overrides)
    values = repository.json("config.json")
    if values.get("model_type", kind.model_type) != kind.model_type:
        raise ValueError(f"{repository.name} is a {values['model_type']!r} checkpoint, not {kind.model_type!r}.")
    return kind.from_dict(values, **overrides)


def _say_of_two_saves(source: str, other: dict[str, Any], saved: dict[str, Any], is_given: bool) -> None:
    """Raise ValueError, or warn where it may be meant, as a configuration is not the one that weights were saved with.

    `other` are the fields that differ, `saved` what they were then.
    """
    name = next((name for name in other if name != "id2label"), None)
    if is_given and name is not None:
        logger.warning(
            "The configuration given for %s has %s = %r, and the weights were saved with %r.",
            source, name, other[name], saved[name],
        )  # fmt: skip
    elif name is not None:
        raise ValueError(
            f"config.json of {source} has {name} = {other[name]!r}, and its weights were saved with {saved[name]!r}: "
            f"they are of two saves, or the file was edited; put the value back, or pass {name}={other[name]!r} where "
            "it is meant."
        )
    elif not is_given:
        logger.warning(
            "The labels in config.json of %s are not those that its weights were saved with; save the model anew if "
            "they are meant.", source,
        )  # fmt: skip


def _engine(name: str) -> str:
    if name not in ATTENTION_ENGINES:
        raise ValueError(f"attn_implementation is {name!r}; it must be one of {', '.join(ATTENTION_ENGINES)}.")
    return ATTENTION_ENGINES[name]


def _dtype(name: torch.dtype | str) -> torch.dtype:
    dtype = name if isinstance(name, torch.dtype) else getattr(torch, str(name).removeprefix("torch."), None)
    if dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        raise ValueError(
            f'dtype is {name!r:.80}; it must be torch.float16, bfloat16, float32 or float64, its name, or "auto".'
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
    if place == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        if place is not None:
            return torch.empty(0, device=torch.device(place)).device
    except (RuntimeError, TypeError, AssertionError) as error:
        reason = str(error).split("\n")[0]
        raise ValueError(f'device is {place!r}; it must be one that torch has here ("cpu"): {reason}') from None
    place = torch.get_default_device()
    if place.type == "meta":
        raise ValueError("Loading within torch.device('meta') would read no weights; load outside, or name a device=.")
    return place


def _loading_dtype(
    wanted: torch.dtype | str | None, config: PreTrainedConfig, checkpoint: weights.Checkpoint, place: torch.device
) -> torch.dtype:
    if wanted is not None and wanted != "auto":
        return _dtype(wanted)
    dtype = _dtype(config.dtype) if config.dtype else checkpoint.dtype
    fast = dtype.itemsize > 2 or (dtype == torch.bfloat16 and cpu.this_cpu().fast_in_bfloat16)
    if wanted is None and place.type == "cpu" and not fast:
        logger.warning(
            "The checkpoint is in %s, which a cpu computes slowly; it was loaded in float32 (dtype='auto' keeps it).",
            str(dtype).removeprefix("torch."),
        )
        return torch.float32
    return dtype
