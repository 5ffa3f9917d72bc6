"""Checks of a loaded model, each with the figure it measured and the bound it must keep.

In: an `Embedder`. Out: findings, one after the other. The reference, sentence-transformers, is used where it
is installed and otherwise left out, with the reason.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from inlay.engine.tokenizer import Tokenizer, make_tokenizer
from inlay.library.embedder import Embedder
from inlay.models.adapter_config import adapter_file
from inlay.models.registry import JINA_BERT
from inlay.models.source import stored_scheme
from inlay.types import FloatArray

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

TEXTS = [
    "The capital of China is Beijing.",
    "Gravity is a force that attracts two bodies towards each other.",
    "def fibonacci(n): return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)",
    "今天天气很好，我们去公园散步吧。",
    "a",
    "Ein kurzer Satz, und noch einer. " * 12,
    "What is the capital of China?",
    "What is the capital of Chile?",
]
# By dtype; int8 is held to what it is measured at when a model is loaded.
COSINE = {"float32": 0.999999, "bfloat16": 0.9999, "float16": 0.9999, "int8": 0.99}
# What an adapter adds may be large, and is rounded with the rest; peft's own half precision is as far away.
ADAPTER_COSINE = {"float32": 0.99999, "bfloat16": 0.9995, "float16": 0.9995, "int8": 0.99}
COMPONENT = {"float32": 1e-6, "bfloat16": 4e-3, "float16": 4e-3, "int8": 4e-3}

QUERIES = ["What is the capital of China?", "Explain gravity"]
DOCUMENTS = [
    "The capital of China is Beijing.",
    "Gravity is a force that attracts two bodies towards each other. It gives weight to physical objects "
    "and is responsible for the movement of planets around the sun.",
]
QWEN3_IDS = {
    "hello world": [14990, 1879, 151643],
    "The capital of China is Beijing.": [785, 6722, 315, 5616, 374, 26549, 13, 151643],
}
QWEN3_VOCABULARY = range(151_665, 151_670)
GOLDEN_TOLERANCE = {"float32": 0.002, "bfloat16": 0.01, "float16": 0.01, "int8": 0.03}


@dataclass(frozen=True, slots=True)
class Golden:
    """Cosines of `QUERIES` (with the model's prompt) × `DOCUMENTS` that a trusted source gives in float32."""

    names: tuple[str, ...]  # ends of the names that the model goes by; a fine-tune has others
    source: str
    similarities: list[list[float]]


GOLDEN = [
    Golden(("Qwen3-Embedding-0.6B",), "the vendor", [[0.7646, 0.1414], [0.1355, 0.6000]]),
    Golden(
        ("demo", "all-MiniLM-L6-v2"),
        "sentence-transformers 6.2",
        [[0.8655, 0.0578], [0.0773, 0.7332]],
    ),
]


WITHOUT_PORT = ("new", JINA_BERT)  # families


@dataclass(frozen=True, slots=True)
class Finding:
    """`has_passed` is None where a check could not be made; `measured` then says why."""

    check: str
    has_passed: bool | None
    measured: str
    bound: str = ""


def verify_model(embedder: Embedder) -> Iterator[Finding]:
    """All checks, the cheap ones first."""
    tokenizer = make_tokenizer(embedder.spec)
    yield _check_rows(embedder, tokenizer)
    vectors = embedder.embed(TEXTS, truncate="end")
    yield _check_finite(vectors)
    yield from _check_batches(embedder, vectors)
    if embedder.spec.family == "qwen3" and embedder.spec.vocab_rows in QWEN3_VOCABULARY:
        yield _check_qwen3_ids(tokenizer)
    for golden in GOLDEN:
        if embedder.spec.name.endswith(golden.names):
            yield _check_golden(embedder, golden)
    yield _check_reference(embedder, vectors)


def _check_rows(embedder: Embedder, tokenizer: Tokenizer) -> Finding:
    rows, ids = embedder.spec.vocab_rows, tokenizer.num_ids
    missing = [token for token in (tokenizer.token_of(i) for i in range(rows, ids)) if token is not None]
    measured = f"{ids} ids, {rows} rows"
    if missing:
        measured += f"; texts with {' '.join(missing[:4])} are refused"
    return Finding("every token has a row in the embedding table", not missing or None, measured, "ids ≤ rows")


def _check_finite(vectors: FloatArray) -> Finding:
    number = int(np.isfinite(vectors).all(axis=1).sum())
    return Finding("vectors are finite", number == len(vectors), f"{number} of {len(vectors)}", "all")


def _check_batches(embedder: Embedder, vectors: FloatArray) -> Iterator[Finding]:
    alone = np.stack([embedder.embed(text, truncate="end") for text in TEXTS])
    turned = embedder.embed(TEXTS[::-1], truncate="end")[::-1]
    bound = COMPONENT[embedder.spec.dtype]
    for check, others in (("same vector alone and in a batch", alone), ("same vector in any order", turned)):
        difference = float(np.abs(vectors - others).max())
        measured = "bitwise" if difference == 0 else f"{difference:.1e}"
        yield Finding(check, difference <= bound, measured, f"≤ {bound:.0e}")


def _check_qwen3_ids(tokenizer: Tokenizer) -> Finding:
    found = [ids.tolist() for ids in tokenizer.encode_many(list(QWEN3_IDS))]
    right = sum(ids == golden for ids, golden in zip(found, QWEN3_IDS.values(), strict=True))
    return Finding("golden token ids", right == len(QWEN3_IDS), f"{right} of {len(QWEN3_IDS)}", "all")


def _check_golden(embedder: Embedder, golden: Golden) -> Finding:
    queries = embedder.embed(QUERIES, prompt="query")
    documents = embedder.embed(DOCUMENTS, prompt="document")
    worst = float(np.abs(queries @ documents.T - np.array(golden.similarities)).max())
    bound = GOLDEN_TOLERANCE[embedder.spec.dtype]
    return Finding(f"similarities by {golden.source}", worst <= bound, f"off by {worst:.4f}", f"≤ {bound}")


def _check_reference(embedder: Embedder, vectors: FloatArray) -> Finding:
    check = "cosine to sentence-transformers in float32"
    if find_spec("sentence_transformers") is None:
        return Finding(check, None, "pip install sentence-transformers to compare")
    if stored_scheme(embedder.spec.path) is not None:
        return Finding(check, None, "an int8 checkpoint, which it cannot read: verify the model that it was made of")
    from sentence_transformers import SentenceTransformer

    path = embedder.spec.path
    if embedder.spec.family in WITHOUT_PORT:
        return Finding(check, None, "it runs this family by code of the checkpoint's own, which is not done here")
    if embedder.spec.family == "static" and not (path / "modules.json").exists():
        path = path.parent  # its module has a directory of its own
        if not (path / "modules.json").exists():
            return Finding(check, None, "it has no modules.json: compare with model2vec")
    adapter = embedder.spec.adapter
    if adapter is not None and find_spec("peft") is None:
        return Finding(check, None, "pip install peft to compare an adapter")
    is_own_layout = adapter is not None and (adapter / "modules.json").exists()
    files = adapter if is_own_layout else path
    reference = SentenceTransformer(str(files), device="cpu", model_kwargs={"dtype": "float32"})
    if adapter is not None and not is_own_layout and not _adapts(reference, adapter):
        return Finding(check, None, "the adapter was trained on another class of its base: compare with peft")
    reference.float()  # also modules that keep the dtype of their file
    expected = reference.encode(TEXTS, normalize_embeddings=True)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    worst = float((unit * expected).sum(axis=1).min())
    bound = COSINE[embedder.spec.dtype]
    if adapter is not None:
        bound = min(bound, ADAPTER_COSINE[embedder.spec.dtype])
    return Finding(check, worst >= bound, f"{worst:.7f} at worst", f"≥ {bound}")


def _adapts(reference: SentenceTransformer, adapter: Path) -> bool:
    """Put an adapter on the reference; False where its file names other modules, which peft only warns of."""
    from peft import PeftModel
    from peft.utils import get_peft_model_state_dict
    from safetensors import safe_open

    transformer: Any = reference[0]
    model = transformer.auto_model = PeftModel.from_pretrained(transformer.auto_model, str(adapter))
    file = adapter_file(adapter)
    if file.suffix != ".safetensors":
        return False
    with safe_open(file, "np") as opened:
        return set(opened.keys()) == set(get_peft_model_state_dict(model))
