"""Tells rerankers from embedding models, and says how each reads a pair: both may have the same config.json.

In: a checkpoint's files. Out: a `Ranking`, or None for an embedding model. Signs, in this order: a `LogitScore` module;
a sequence classifier of one label; a generative model that neither pools nor ends its texts. Knows no torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from inlay.errors import InvalidInput, ModelError
from inlay.models.modules import LOGIT_SCORE, POOLING
from inlay.models.objects import read_object
from inlay.models.registry import family_name
from inlay.types import ModelSpec, Ranking

CLASSIFIER = "ForSequenceClassification"
MODERNBERT = "modernbert"  # layout of a head
ONE_ROW, YES_NO = "score", "yes_no"  # layouts of a head behind a generative model
# Families with a classifier of one label: the layout of its head.
CLASSIFIERS = {
    "bert": "bert",
    "roberta": "roberta",
    "xlm-roberta": "roberta",
    "modernbert": MODERNBERT,
    "new": "new",
    "gte": "gte",
    "qwen3": ONE_ROW,
}
RERANKERS = {  # by family, for example
    "qwen3": "Qwen/Qwen3-Reranker-0.6B, -4B, -8B",
    "bert": "cross-encoder/ms-marco-MiniLM-*",
    "roberta": "cross-encoder/stsb-roberta-*",
    "xlm-roberta": "BAAI/bge-reranker-base, -large, -v2-m3",
    "modernbert": "Alibaba-NLP/gte-reranker-modernbert-base",
    "new": "Alibaba-NLP/gte-multilingual-reranker-base",
}
UNSAID_LABELS = 2  # as transformers has it
_NAME = re.compile("rerank", re.IGNORECASE)
# As the vendor's code writes them (huggingface.co/Qwen/Qwen3-Reranker-0.6B, README).
_PREFIX = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
    'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
)
_SUFFIX = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
_BODY = "<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {document}"
_INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"


def read_ranking(
    path: Path, name: str, config: Mapping[str, Any], modules: Mapping[str, Path], tokenizer: Mapping[str, Any]
) -> Ranking | None:
    """How a reranker ranks. `tokenizer` is the content of tokenizer.json, empty where there is none."""
    family = family_name(config)
    if LOGIT_SCORE in modules:
        return _by_yes_and_no(family, name, _read_ids(modules[LOGIT_SCORE] / "config.json"))
    architectures = config.get("architectures") or []
    if not isinstance(architectures, list) or not all(isinstance(name, str) for name in architectures):
        raise ModelError(f"config.json: architectures={architectures!r} is not a list of names")
    if POOLING not in modules and any(architecture.endswith(CLASSIFIER) for architecture in architectures):
        return _by_classifier(path, name, family, config)
    is_causal = any(architecture.endswith("ForCausalLM") for architecture in architectures)
    if not is_causal or modules or (path / "1_Pooling").exists():
        return None
    is_named = any(_NAME.search(one) for one in (name, path.name, str(config.get("_name_or_path", ""))))
    if not is_named and _ends_texts(tokenizer):
        return None
    words = (tokenizer.get("model") or {}).get("vocab") or {}
    if "yes" not in words or "no" not in words:
        raise ModelError(
            f"{name} generates text, or is a reranker whose tokenizer has no 'yes' and 'no'. If it is an embedding "
            "model, put the modules.json of sentence-transformers beside it"
        )
    return _by_yes_and_no(family, name, (int(words["yes"]), int(words["no"])))


def first_part(spec: ModelSpec, query: str, instruction: str | None) -> str:
    """What a reranker reads before each document; `InvalidInput` for an instruction that it does not take."""
    ranking = spec.ranking
    if ranking is None:
        raise InvalidInput(f"model {spec.name!r} is no reranker: it gives vectors; name one that is", param="model")
    if ranking.template is None:
        if instruction is not None:
            raise InvalidInput(f"model {spec.name!r} takes no instructions; leave out the field", param="instruction")
        return query
    before, _, after = ranking.template.partition("{query}")
    before = before.replace("{instruction}", ranking.instruction or "" if instruction is None else instruction)
    return before + query + after.removesuffix("{document}")


def takes_instructions(spec: ModelSpec) -> bool:
    """Does a request's task become part of what the model reads?"""
    return spec.instruction_template is not None if spec.ranking is None else spec.ranking.template is not None


def _by_yes_and_no(family: str, name: str, ids: tuple[int, int]) -> Ranking:
    if family != "qwen3":
        raise ModelError(f"{name} scores by a next token, which Inlay does for Qwen3-Reranker, not for {family!r}")
    return Ranking(YES_NO, _BODY, _PREFIX, _SUFFIX, _INSTRUCTION, yes_no=ids)


def _by_classifier(path: Path, name: str, family: str, config: Mapping[str, Any]) -> Ranking:
    labels = len(config.get("id2label") or {}) or int(config.get("num_labels") or UNSAID_LABELS)
    if labels != 1:
        raise ModelError(f"{name} is a classifier with {labels} labels; Inlay serves rerankers, which have one")
    if family not in CLASSIFIERS:
        raise ModelError(f"{name} is a reranker of type {family!r}; Inlay serves those of {', '.join(CLASSIFIERS)}")
    layout = CLASSIFIERS[family]
    if layout == ONE_ROW:
        return Ranking(layout, _BODY, _PREFIX, _SUFFIX, _INSTRUCTION)
    return Ranking(layout, has_types=config.get("type_vocab_size", 0) > 1 and _has_types(path))


def _has_types(path: Path) -> bool:
    """Does the tokenizer give segment types to the model? It does unless it says otherwise."""
    names = read_object(path / "tokenizer_config.json").get("model_input_names")
    return names is None or "token_type_ids" in names


def _read_ids(file: Path) -> tuple[int, int]:
    ids = read_object(file)
    if not {"true_token_id", "false_token_id"} <= ids.keys():
        raise ModelError(f"{file} does not say the ids of yes and no: fetch it again")
    yes, no = int(ids["true_token_id"]), int(ids["false_token_id"])
    if min(yes, no) < 0 or yes == no:
        raise ModelError(f"{file}: {yes} and {no} are not the ids of two tokens: fetch it again")
    return yes, no


def _ends_texts(tokenizer: Mapping[str, Any]) -> bool:
    """Does a tokenizer put a special token behind each text? True where there is none to ask."""
    if not tokenizer:
        return True
    processor = tokenizer.get("post_processor") or {}
    templates = [processor, *(processor.get("processors") or [])]
    singles = [template["single"] for template in templates if template and template.get("single")]
    return any("SpecialToken" in single[-1] for single in singles)
