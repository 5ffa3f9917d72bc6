"""The model families and the kinds of output, one row each: the code as an import string, and what files leave unsaid.

The key of a family is the `model_type` of config.json. Variants that differ only in facts share a forward pass.
Knows no torch until `forward_class` or `make_head` is called.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from inlay.errors import ModelError
from inlay.types import COLBERT, DENSE, SCORES, SPARSE, SPARSE_ROW, TOKEN_EMBEDDINGS, ModelSpec, Pooling

if TYPE_CHECKING:
    from inlay.models.forward import ForwardPass
    from inlay.models.heads.head import Head

JINA_BERT = "jina_bert"  # to its own config.json a `bert`
QWEN3_TASK = "Given a web search query, retrieve relevant passages that answer the query"
QWEN3_TEMPLATE = "Instruct: {instruction}\nQuery:"


@dataclass(frozen=True, slots=True)
class Family:
    """What is true of every checkpoint of a family unless its own files say otherwise."""

    forward: str  # "module:class"
    forward_version: int  # from 1; raise when a change to the code changes the vectors
    pooling: Pooling
    example: str = "checkpoints of this type in the sentence-transformers layout"
    query_prompt: str | None = None
    instruction_template: str | None = None
    smallest_dimension: int | None = None  # trained with Matryoshka down to here
    outputs: tuple[str, ...] = (DENSE,)  # the kinds that its heads give, see `OUTPUTS`
    head_files: Mapping[str, str] = field(default_factory=dict)  # kinds that it gives besides where there is a file
    words: Mapping[str, str] = field(default_factory=dict)  # of config.json: the usual word → the family's own
    unsaid: Mapping[str, Any] = field(default_factory=dict)  # what its config.json may leave out
    limits: tuple[str, ...] = ()  # words of config.json that bound the length besides `max_position_embeddings`
    has_norm_before_cut: bool = False  # a vector is layer-normalised before it is cut
    has_layers: bool = True  # else it is a table of rows, and texts have their own tokens alone

    def standard(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """config.json in the usual words; `KeyError` for one of the family's own that is missing."""
        wanted = {usual: word for usual, word in self.words.items() if usual not in config}
        own = {usual: config[word] for usual, word in wanted.items() if word in config or usual not in self.unsaid}
        return {**self.unsaid, **own, **config}


@dataclass(frozen=True, slots=True)
class OutputKind:
    """One kind of output. Its canonical payload is the bytes of an array [n] of `dtype`."""

    head: str  # "module:class"
    dtype: np.dtype[Any]  # little-endian
    may_have: Callable[[int, ModelSpec], bool]  # may a model give so many numbers
    version: int = 1  # raise when a change to the head changes what it gives: it is in the cache key

    def decode(self, payload: bytes) -> npt.NDArray[Any]:
        """The array that a payload holds, read-only."""
        return np.frombuffer(payload, dtype=self.dtype)

    def is_payload(self, payload: bytes, spec: ModelSpec) -> bool:
        """Can these bytes be what a model gives?"""
        number, rest = divmod(len(payload), self.dtype.itemsize)
        return rest == 0 and self.may_have(number, spec)


OUTPUTS = {
    DENSE: OutputKind("inlay.models.heads.dense:DenseHead", np.dtype("<f4"), lambda number, spec: number == spec.width),
    SCORES: OutputKind("inlay.models.heads.scores:ScoreHead", np.dtype("<f4"), lambda number, spec: number == 1),
    SPARSE: OutputKind(
        "inlay.models.heads.lexical:LexicalHead",
        SPARSE_ROW,
        lambda number, spec: number < spec.max_tokens,
    ),
    COLBERT: OutputKind(
        "inlay.models.heads.colbert:ColbertHead",
        np.dtype("<f4"),
        lambda number, spec: number % spec.width == 0 and number // spec.width < spec.max_tokens,
    ),
    TOKEN_EMBEDDINGS: OutputKind(
        "inlay.models.heads.token_embeddings:TokenEmbeddingsHead",
        np.dtype("<f4"),
        lambda number, spec: number % spec.hidden_width == 0 and 0 < number // spec.hidden_width <= spec.max_tokens,
    ),
}


_BERT = Family("inlay.models.bert:Bert", 4, Pooling.MEAN)
_GTE = Family("inlay.models.gte:Gte", 1, Pooling.CLS, unsaid={"type_vocab_size": 0})

FAMILIES = {
    "qwen3": Family(
        "inlay.models.qwen3:Qwen3",
        4,
        Pooling.LAST,
        "Qwen/Qwen3-Embedding-0.6B, -4B, -8B",
        query_prompt=QWEN3_TEMPLATE.format(instruction=QWEN3_TASK),
        instruction_template=QWEN3_TEMPLATE,
        smallest_dimension=32,
    ),
    "bert": replace(_BERT, example="demo (all-MiniLM-L6-v2), BAAI/bge-*-en-v1.5, intfloat/e5-*, thenlper/gte-*"),
    "distilbert": replace(
        _BERT,
        forward="inlay.models.distilbert:DistilBert",
        forward_version=1,
        example="sentence-transformers/msmarco-distilbert-*, multi-qa-distilbert-*",
        words={
            "hidden_size": "dim",
            "intermediate_size": "hidden_dim",
            "num_hidden_layers": "n_layers",
            "num_attention_heads": "n_heads",
            "hidden_act": "activation",
        },
        unsaid={"layer_norm_eps": 1e-12, "type_vocab_size": 0},
    ),
    "mpnet": replace(
        _BERT,
        forward="inlay.models.mpnet:MPNet",
        forward_version=1,
        example="sentence-transformers/all-mpnet-base-v2, multi-qa-mpnet-*",
        unsaid={"type_vocab_size": 0},
    ),
    "modernbert": Family(
        "inlay.models.modernbert:ModernBert",
        1,
        Pooling.MEAN,
        "Alibaba-NLP/gte-modernbert-base, nomic-ai/modernbert-embed-base",
        unsaid={"global_rope_theta": 160_000.0, "local_rope_theta": 10_000.0},
    ),
    "nomic_bert": Family(
        "inlay.models.nomic_bert:NomicBert",
        1,
        Pooling.MEAN,
        "nomic-ai/nomic-embed-text-v1, -v1.5",
        words={
            "hidden_size": "n_embd",
            "intermediate_size": "n_inner",
            "num_hidden_layers": "n_layer",
            "num_attention_heads": "n_head",
            "layer_norm_eps": "layer_norm_epsilon",
            "hidden_act": "activation_function",
            "max_position_embeddings": "n_positions",
            "rope_theta": "rotary_emb_base",
        },
        unsaid={"rope_theta": 1000.0, "max_trained_positions": 2048},
        limits=("max_trained_positions",),
        has_norm_before_cut=True,
    ),
    "gte": replace(
        _GTE,
        example="Snowflake/snowflake-arctic-embed-m-v2.0",
        unsaid={"type_vocab_size": 1, "rope_theta": 160_000.0},  # transformers' GteConfig
    ),
    "new": replace(_GTE, example="Alibaba-NLP/gte-multilingual-base, gte-base-en-v1.5, gte-large-en-v1.5"),
    "gemma3_text": Family(
        "inlay.models.gemma3:Gemma3",
        1,
        Pooling.MEAN,
        "google/embeddinggemma-300m",
        unsaid={"rope_theta": 1_000_000.0, "rope_local_base_freq": 10_000.0},
    ),
    "qwen2": Family(
        "inlay.models.qwen2:Qwen2",
        1,
        Pooling.LAST,
        "Alibaba-NLP/gte-Qwen2-1.5B-instruct, -7B-instruct, jinaai/jina-code-embeddings-*",
    ),
    "static": Family(
        "inlay.models.static:Static",
        1,
        Pooling.MEAN,
        "demo-static (wordllama), sentence-transformers/static-*, minishlab/potion-*",
        has_layers=False,
    ),
    JINA_BERT: Family(
        "inlay.models.jina_bert:JinaBert", 1, Pooling.MEAN, "jinaai/jina-embeddings-v2-base-*, -small-en"
    ),
    "roberta": _BERT,
    "xlm-roberta": replace(
        _BERT,
        example="BAAI/bge-m3, intfloat/multilingual-e5-*",
        head_files={SPARSE: "sparse_linear.pt", COLBERT: "colbert_linear.pt"},
    ),
}


def family_name(config: Mapping[str, Any]) -> str:
    """The key in `FAMILIES` of what a config.json says."""
    model_type = str(config.get("model_type"))
    is_jina = model_type == "bert" and config.get("position_embedding_type") == "alibi"
    return JINA_BERT if is_jina else model_type


def family_of(model_type: str) -> Family:
    """The row of a `model_type`; `ModelError` lists the known ones."""
    if model_type not in FAMILIES:
        known = ", ".join(sorted(FAMILIES))
        raise ModelError(
            f"models of type {model_type!r} are not supported; Inlay serves: {known}. "
            "docs/models.md tells how to add a family."
        )
    return FAMILIES[model_type]


def forward_class(model_type: str) -> type[ForwardPass]:
    """Import the forward pass of a family; this is where torch gets loaded."""
    loaded: type[ForwardPass] = _load(family_of(model_type).forward)
    return loaded


def make_head(kind: str, spec: ModelSpec) -> Head:
    """The head of a model that gives a kind of output."""
    head: Head = _load(OUTPUTS[kind].head)(spec)
    return head


def _load(place: str) -> Any:  # noqa: ANN401 - a class by its "module:class"
    module, name = place.split(":")
    return getattr(import_module(module), name)
