"""Reads what a checkpoint says of itself, in the sentence-transformers layout, into a `ModelSpec`.

In: a directory. Out: the spec, without dtype and fingerprint. What a file leaves open is filled in from
the family's row; what Inlay does not do is refused by name. Knows no torch.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from inlay.errors import ModelError
from inlay.models.adapter_config import is_adapter, read_adapter_config
from inlay.models.cards import card_of
from inlay.models.modules import NORMALIZE, POOLING, TRANSFORMER, read_dense_layers, read_modules
from inlay.models.objects import read_object
from inlay.models.positions import first_position_of
from inlay.models.prompts import DOCUMENT, QUERY, ROLES, template_of
from inlay.models.ranking import MODERNBERT, read_ranking
from inlay.models.registry import Family, family_name, family_of
from inlay.models.source import locate_base
from inlay.models.static_config import read_static
from inlay.types import SCORES, TOKEN_EMBEDDINGS, ModelSpec, Pooling, Ranking

SHORTEST_CONTEXT = 3  # tokens
SENTENCE = "config_sentence_transformers.json"
UNSAID_MAX_LENGTH = 10**6  # tokenizers write 10^30 when they know no limit
_LARGEST = {  # of each size
    "hidden_size": 1 << 16,
    "intermediate_size": 1 << 20,
    "num_hidden_layers": 1000,
    "num_attention_heads": 1 << 12,
    "num_key_value_heads": 1 << 12,
    "head_dim": 1 << 12,
    "vocab_size": 1 << 24,
    "max_position_embeddings": 1 << 24,
    "type_vocab_size": 1 << 12,
}
_MAY_BE_NONE = {"type_vocab_size"}  # families without token types
_POOLING_FLAGS = {
    "pooling_mode_lasttoken": Pooling.LAST,
    "pooling_mode_mean_tokens": Pooling.MEAN,
    "pooling_mode_cls_token": Pooling.CLS,
}


def read_spec(path: Path, name: str, context_length: int | None = None, adapter: Path | None = None) -> ModelSpec:
    """The spec of the checkpoint in `path`; `context_length` (tokens) replaces its own limit.

    An adapter changes its weights, and what sentence-transformers' files beside it say. An adapter's own directory
    for `path` stands for its base with it.
    """
    if adapter is not None and is_adapter(path):
        raise ModelError(f"{path} is an adapter itself: name its base as the model")
    if adapter is None and is_adapter(path):
        path, adapter = locate_base(path), path
    if adapter is not None:
        read_adapter_config(adapter)  # what is wrong with it shows before anything is loaded
    try:
        return _read_spec(path, name, context_length, adapter)
    except KeyError as error:
        raise ModelError(f"{path / 'config.json'} has no {error.args[0]!r}") from error
    except (TypeError, ValueError, AttributeError, RecursionError, OSError) as error:
        raise ModelError(f"the configuration files in {path} cannot be understood: {error}") from error


def _read_spec(path: Path, name: str, context_length: int | None, adapter: Path | None) -> ModelSpec:
    root = path if adapter is None or not (adapter / "modules.json").exists() else adapter
    config, listed = read_object(path / "config.json"), read_modules(root)
    sentence = ({} if adapter is None else read_object(adapter / SENTENCE)) or read_object(path / SENTENCE)
    if (static := read_static(path, config, listed)) is not None:
        path, config = static
    if not config:
        raise ModelError(f"{path} has no config.json: it is not the directory of a checkpoint")
    name_of_family = family_name(config)
    family = family_of(name_of_family)
    config = family.standard(config)
    _refuse_sizes(config)
    modules = dict(listed)
    _refuse_taggers(config, modules)
    ranking = read_ranking(path, name, config, modules, read_object(path / "tokenizer.json"))
    own_prompts = {str(key): str(text) for key, text in (sentence.get("prompts") or {}).items()}
    prompts = _complete_prompts(own_prompts, name, family) if ranking is None else {}
    dense_layers = read_dense_layers(listed, int(config["hidden_size"]))
    width = dense_layers[-1].width_out if dense_layers else int(config["hidden_size"])
    beside = {kind: path / file for kind, file in family.head_files.items()}
    head_files = {kind: file for kind, file in beside.items() if os.path.lexists(file) and ranking is None}
    for file in head_files.values():
        if not file.is_file():
            raise ModelError(f"{file} is not a file, or a link to none: fetch it again")
    default_prompt = sentence.get("default_prompt_name")
    if ranking is not None:
        default_prompt = None
    if default_prompt is not None and default_prompt not in {*prompts, *ROLES}:
        raise ModelError(f"config_sentence_transformers.json: there is no prompt {default_prompt!r} to take by default")
    max_tokens = _max_tokens(path, modules, config, family, context_length)
    if max_tokens < SHORTEST_CONTEXT:
        raise ModelError(f"the checkpoint's longest input is {max_tokens} tokens: give one with --context-length")
    return ModelSpec(
        name=name,
        path=path,
        family=name_of_family,
        width=width,
        num_layers=int(config["num_hidden_layers"]) if family.has_layers else 0,
        vocab_rows=int(config["vocab_size"]),
        max_tokens=max_tokens,
        pooling=_read_pooling(path, modules, family) if ranking is None else _pooling_of(ranking, config),
        outputs=(*family.outputs, *head_files, TOKEN_EMBEDDINGS) if ranking is None else (SCORES,),
        ranking=ranking,
        head_files=head_files,
        normalize=NORMALIZE in modules or not modules if family.has_layers else bool(config["normalize"]),
        prompts=prompts,
        default_prompt=default_prompt,
        instruction_template=template_of(prompts.get(QUERY)),
        matryoshka=_matryoshka(config, sentence, family, name, width) if ranking is None else None,
        config=config,
        dense_layers=dense_layers,
        has_norm_before_cut=family.has_norm_before_cut,
        adds_special_tokens=family.has_layers,
        leaves_out_unknown=bool(config.get("leaves_out_unknown")),
        adapter=adapter,
    )


def _refuse_sizes(config: Mapping[str, Any]) -> None:
    """Refuse what no checkpoint has, before anything is built of it."""
    for name, most in _LARGEST.items():
        value = config.get(name)
        least = 0 if name in _MAY_BE_NONE else 1
        if value is not None and not (isinstance(value, int) and least <= value <= most):
            raise ModelError(f"config.json: {name}={value!r} is not a number from {least} to {most}")


def _refuse_taggers(config: Mapping[str, Any], modules: Mapping[str, Path]) -> None:
    for architecture in config.get("architectures") or []:
        if not modules and str(architecture).endswith("ForTokenClassification"):
            raise ModelError(f"{architecture} classifies tokens; Inlay serves embedding models and rerankers")


def _pooling_of(ranking: Ranking, config: Mapping[str, Any]) -> Pooling:
    """The row that a reranker's head takes: the last of a generative model, else the first, or by config their mean."""
    if ranking.template is not None:
        return Pooling.LAST
    if ranking.layout != MODERNBERT:
        return Pooling.CLS
    pooling = Pooling(config.get("classifier_pooling", Pooling.CLS))
    if pooling is Pooling.LAST:
        raise ModelError("config.json: classifier_pooling='last' is not supported (cls or mean is)")
    return pooling


def _read_pooling(path: Path, modules: Mapping[str, Path], family: Family) -> Pooling:
    config = read_object(modules.get(POOLING, path / "1_Pooling") / "config.json")
    if not config:
        return family.pooling
    if config.get("include_prompt") is False:
        raise ModelError("pooling that leaves out the prompt (include_prompt: false) is not supported")
    named = config.get("pooling_mode")
    if named is not None:
        asked = [named] if isinstance(named, str) else list(named)
        aliases = {"lasttoken": Pooling.LAST, **{pooling.value: pooling for pooling in Pooling}}
    else:
        asked = [key for key, value in config.items() if key.startswith("pooling_mode_") and value]
        aliases = _POOLING_FLAGS
    if len(asked) != 1 or asked[0] not in aliases:
        raise ModelError(f"pooling {' + '.join(asked) or 'none'} is not supported (last, mean or cls is)")
    return aliases[asked[0]]


def _max_tokens(
    path: Path,
    modules: Mapping[str, Path],
    config: Mapping[str, Any],
    family: Family,
    context_length: int | None,
) -> int:
    bounds = (config[word] for word in ("max_position_embeddings", *family.limits) if config.get(word) is not None)
    positions = min(map(int, bounds)) - first_position_of(config)
    if context_length is not None:
        if context_length > positions:
            raise ModelError(f"--context-length {context_length} is more than the model's {positions} positions")
        return context_length
    if not family.has_layers:
        return positions  # nothing but the table bounds it
    sentence = read_object(modules.get(TRANSFORMER, path) / "sentence_bert_config.json")
    if sentence.get("do_lower_case"):
        raise ModelError("sentence_bert_config.json: do_lower_case is not supported")
    asked = sentence.get("max_seq_length")
    if asked is None:
        asked = read_object(path / "tokenizer_config.json").get("model_max_length", UNSAID_MAX_LENGTH)
    return positions if asked >= UNSAID_MAX_LENGTH else min(int(asked), positions)


def _complete_prompts(own: dict[str, str], name: str, family: Family) -> dict[str, str]:
    if any(own.values()):
        return own
    card = card_of(name)
    prompts = {**own, **({} if card is None else card.prompts)}
    if family.query_prompt is not None:
        prompts |= {QUERY: family.query_prompt, DOCUMENT: ""}
    return prompts


def _matryoshka(
    config: Mapping[str, Any], sentence: Mapping[str, Any], family: Family, name: str, width: int
) -> tuple[int, int] | None:
    listed = config.get("matryoshka_dimensions") or sentence.get("matryoshka_dimensions")
    if listed:
        if not 0 < min(listed) <= max(listed) <= width:
            raise ModelError(f"matryoshka_dimensions {listed} do not fit the width {width}")
        return min(listed), width
    card = card_of(name)
    smallest = family.smallest_dimension if card is None else card.smallest_dimension
    return None if smallest is None else (smallest, width)
