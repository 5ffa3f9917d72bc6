"""Checks of a loaded reranker, each with the figure it measured and the bound it must keep.

In: a `Reranker`. Out: findings, one after the other. The reference is sentence-transformers' `CrossEncoder`, where it
is installed and reads the checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
import numpy.typing as npt

from inlay.engine.pair_tokenizer import make_pair_tokenizer
from inlay.library.reranker import Reranker
from inlay.library.verification import DOCUMENTS, QWEN3_VOCABULARY, TEXTS, WITHOUT_PORT, Finding
from inlay.models.ranking import first_part
from inlay.models.source import stored_scheme
from inlay.types import ModelSpec, Pair, Truncate

QUERY = "What is the capital of China?"
# Of logits, by dtype; int8 rounds much, and is measured when a model is loaded.
BETWEEN_BATCHES = {"float32": 1e-4, "bfloat16": 0.1, "float16": 0.1, "int8": 0.1}
TO_REFERENCE = {"float32": 1e-3, "bfloat16": 0.3, "float16": 0.3, "int8": 1.0}
Logits = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class GoldenScores:
    """Logits that a vendor's README gives, computed in float16."""

    names: tuple[str, ...]  # ends of the names that the model goes by; a fine-tune has others
    query: str
    documents: list[str]
    logits: list[float]


GOLDEN = [
    GoldenScores(("bge-reranker-v2-m3",), "query", ["passage"], [-5.6524]),
    GoldenScores(
        ("bge-reranker-v2-m3",),
        "what is panda?",
        [
            "hi",
            "The giant panda (Ailuropoda melanoleuca), sometimes called a panda bear or simply panda, is a bear "
            "species endemic to China.",
        ],
        [-8.1875, 5.2617],
    ),
    GoldenScores(
        ("ms-marco-MiniLM-L6-v2", "ms-marco-MiniLM-L-6-v2"),
        "How many people live in Berlin?",
        [
            "Berlin had a population of 3,520,031 registered inhabitants in an area of 891.82 square kilometers.",
            "Berlin is well known for its museums.",
        ],
        [8.60714, -4.32008],
    ),
]


# Of QUERY with the first of DOCUMENTS, by the code of Qwen3-Reranker's README and its published tokenizer.
QWEN3_IDS = """
151644 8948 198 60256 3425 279 11789 20027 279 8502 3118 389 279 11361 323 279 758 1235 3897 13 7036 429 279 4226 646
1172 387 330 9693 1 476 330 2152 3263 151645 198 151644 872 198
27 641 1235 26818 16246 264 3482 2711 3239 11 17179 9760 46769 429 4226 279 3239 198 27 2859 26818 3555 374 279 6722 315
5616 5267 75692 26818 576 6722 315 5616 374 26549 13
151645 198 151644 77091 198 151667 271 151668 271
"""


def verify_reranker(reranker: Reranker) -> Iterator[Finding]:
    """All checks, the cheap ones first."""
    documents = [*DOCUMENTS, *TEXTS]
    logits = _logits_of(reranker, QUERY, documents)
    number = int(np.isfinite(logits).sum())
    yield Finding("scores are finite", number == len(logits), f"{number} of {len(logits)}", "all")
    alone = np.concatenate([_logits_of(reranker, QUERY, [document]) for document in documents])
    turned = _logits_of(reranker, QUERY, documents[::-1])[::-1]
    bound = BETWEEN_BATCHES[reranker.spec.dtype]
    for check, others in (("same score alone and in a batch", alone), ("same score in any order", turned)):
        difference = float(np.abs(logits - others).max())
        yield Finding(check, difference <= bound, f"{difference:.1e}", f"≤ {bound:.0e}")
    if reranker.spec.family == "qwen3" and reranker.spec.vocab_rows in QWEN3_VOCABULARY:
        yield check_qwen3_ids(reranker.spec)
    for golden in GOLDEN:
        if reranker.spec.name.endswith(golden.names):
            yield _check_golden(reranker, golden)
    yield _check_reference(reranker, documents, logits)


def check_qwen3_ids(spec: ModelSpec) -> Finding:
    """A template that is read otherwise than the vendor's gives other scores, and no error."""
    check = "golden token ids"
    if spec.ranking is None or spec.ranking.template is None:
        return Finding(check, None, "the checkpoint reads pairs by another template")
    pair = Pair(first_part(spec, QUERY, None), DOCUMENTS[0])
    found = make_pair_tokenizer(spec.path, spec.ranking).encode(pair, spec.max_tokens, Truncate.NONE).ids.tolist()
    golden = [int(number) for number in QWEN3_IDS.split()]
    right = sum(one == other for one, other in zip(found, golden, strict=False))
    return Finding(check, found == golden, f"{right} of {len(golden)}", "all")


def _check_golden(reranker: Reranker, golden: GoldenScores) -> Finding:
    found = _logits_of(reranker, golden.query, golden.documents)
    worst = float(np.abs(found - np.array(golden.logits)).max())
    bound = max(TO_REFERENCE[reranker.spec.dtype], 0.05)  # theirs are of float16
    return Finding("scores in the vendor's README", worst <= bound, f"off by {worst:.4f}", f"≤ {bound}")


def _check_reference(reranker: Reranker, documents: list[str], logits: Logits) -> Finding:
    check = "scores of sentence-transformers in float32"
    ranking = reranker.spec.ranking
    if find_spec("sentence_transformers") is None:
        return Finding(check, None, "pip install sentence-transformers to compare")
    if stored_scheme(reranker.spec.path) is not None:
        return Finding(check, None, "an int8 checkpoint, which it cannot read: verify the model that it was made of")
    if reranker.spec.family in WITHOUT_PORT:
        return Finding(check, None, "it runs this family by code of the checkpoint's own, which is not done here")
    if ranking is None or ranking.template is not None:
        return Finding(check, None, "it has no template for this model: transformers with the code of its README has")
    from sentence_transformers import CrossEncoder

    reference = CrossEncoder(str(reranker.spec.path), device="cpu", model_kwargs={"dtype": "float32"})
    expected = reference.predict([(QUERY, document) for document in documents], activation_fn=lambda logits: logits)
    worst = float(np.abs(logits - np.asarray(expected, dtype=np.float64)).max())
    bound = TO_REFERENCE[reranker.spec.dtype]
    return Finding(check, worst <= bound, f"off by {worst:.1e}", f"≤ {bound:.0e}")


def _logits_of(reranker: Reranker, query: str, documents: list[str]) -> Logits:
    """In the order of the documents."""
    ranked = reranker.rank(query, documents, raw_scores=True, long_documents="truncate")
    return np.array([one.score for one in sorted(ranked, key=lambda one: one.index)])
