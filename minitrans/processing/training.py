"""New vocabularies for a tokenizer, learnt from texts by the trainers of the `tokenizers` library."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import tokenizers
from tokenizers import AddedToken, pre_tokenizers, trainers

TRAINERS = {
    "BPE": trainers.BpeTrainer,
    "Unigram": trainers.UnigramTrainer,
    "WordLevel": trainers.WordLevelTrainer,
    "WordPiece": trainers.WordPieceTrainer,
}


def trained(
    backend: tokenizers.Tokenizer, texts: Iterable[Any], vocab_size: int, length: int | None,
    new_special_tokens: list[str | AddedToken], renamed: Mapping[str, str], **options: Any,
) -> tokenizers.Tokenizer:  # fmt: skip
    """Return a tokenizer that works as `backend` does, with a vocabulary of its own.

    Its special tokens come first, in their order, under the names that `renamed` gives them, then
    `new_special_tokens`. The other added tokens are left out, but for a Unigram model. `options` are the trainer's.
    """
    plan = json.loads(backend.to_str())
    added, processor, model = plan.pop("added_tokens"), plan.pop("post_processor"), plan["model"]
    kind = model.get("type", "WordPiece")  # files of older years do not say so
    _emptied(model, kind, renamed, options)
    empty = tokenizers.Tokenizer.from_str(json.dumps({**plan, "added_tokens": [], "post_processor": None}))
    special: list[str | AddedToken] = []
    for token in added:
        if token["special"] or kind == "Unigram":
            flags = {flag: token[flag] for flag in ("single_word", "lstrip", "rstrip", "normalized")}
            special.append(AddedToken(renamed.get(token["content"], token["content"]), **flags))
    if '"ByteLevel"' in json.dumps(plan["pre_tokenizer"]):
        options.setdefault("initial_alphabet", pre_tokenizers.ByteLevel.alphabet())
    trainer = TRAINERS[kind](vocab_size=vocab_size, special_tokens=[*special, *new_special_tokens], **options)
    empty.train_from_iterator(texts, trainer=trainer, length=length)
    plan = {**json.loads(empty.to_str()), "post_processor": _renumbered(processor, empty, renamed)}
    return tokenizers.Tokenizer.from_str(json.dumps(plan))


def _emptied(model: dict[str, Any], kind: str, renamed: Mapping[str, str], options: dict[str, Any]) -> None:
    """Take the vocabulary out of a model's description, and give its trainer what it must know of it."""
    if kind == "Unigram":
        unknown = None if model["unk_id"] is None else model["vocab"][model["unk_id"]][0]
        if unknown is not None:
            unknown = renamed.get(unknown, unknown)
            options["unk_token"] = unknown
            model.update(unk_id=0, vocab=[[unknown, 0.0]])
        return
    model.update(vocab={}, **({"merges": []} if kind == "BPE" else {}))
    if model.get("unk_token") is not None:
        model["unk_token"] = renamed.get(model["unk_token"], model["unk_token"])
    for part in ("continuing_subword_prefix", "end_of_word_suffix") if kind == "BPE" else ():
        if model.get(part) is not None:
            options.setdefault(part, model[part])


def _renumbered(processor: Any, trained: tokenizers.Tokenizer, renamed: Mapping[str, str]) -> Any:
    """Return a post-processor's description with the ids that its special tokens have now."""
    if isinstance(processor, list):
        return [_renumbered(part, trained, renamed) for part in processor]
    if not isinstance(processor, dict):
        return processor
    changed = {key: _renumbered(value, trained, renamed) for key, value in processor.items()}
    for name in ("cls", "sep"):
        if isinstance(processor.get(name), list):
            token = renamed.get(processor[name][0], processor[name][0])
            changed[name] = [token, trained.token_to_id(token)]
    for name, special in (processor.get("special_tokens") or {}).items():
        tokens = [renamed.get(token, token) for token in special["tokens"]]
        changed["special_tokens"][name] = {**special, "tokens": tokens, "ids": list(map(trained.token_to_id, tokens))}
    return changed
