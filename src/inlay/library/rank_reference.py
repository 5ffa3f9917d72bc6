"""The scores that other code gives for a reranker's checkpoint: sentence-transformers, or transformers alone.

In: a spec, a query and documents. Out: logits in float32, or why there are none. For generative rerankers the prompt
is the one of the spec, tokenised part by part as their vendor's README does it. Only for verification: needs both
installed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from inlay.models.ranking import first_part
from inlay.models.source import INT8_REPORT
from inlay.types import ModelSpec, Ranking

WITHOUT_PORT = ("new",)  # families that they run by code of the checkpoint's own
Logits = npt.NDArray[np.float64]


def reference_logits(spec: ModelSpec, query: str, documents: Sequence[str]) -> Logits | str:
    """One logit for each document; a reason where they cannot say."""
    if (spec.path / INT8_REPORT).exists():
        return "an int8 checkpoint, which they cannot read: verify the model that it was made of"
    if spec.family in WITHOUT_PORT:
        return "they run this family by code of the checkpoint's own, which is not done here"
    if spec.ranking is not None and spec.ranking.template is not None:
        return _of_generative(spec, spec.ranking, query, documents)
    from sentence_transformers import CrossEncoder

    reference = CrossEncoder(str(spec.path), device="cpu", model_kwargs={"dtype": "float32"})
    pairs = [(query, document) for document in documents]
    return np.asarray(reference.predict(pairs, activation_fn=lambda logits: logits), dtype=np.float64)


def _of_generative(spec: ModelSpec, ranking: Ranking, query: str, documents: Sequence[str]) -> Logits:
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(spec.path)
    kind = "AutoModelForSequenceClassification" if ranking.yes_no is None else "AutoModelForCausalLM"
    model = getattr(transformers, kind).from_pretrained(spec.path, dtype=torch.float32).eval()
    first = first_part(spec, query, None)

    def logit_of(document: str) -> float:
        parts = (ranking.prefix, first + document, ranking.suffix)
        ids = [id_ for part in parts for id_ in tokenizer(part, add_special_tokens=False)["input_ids"]]
        logits: Any = model(input_ids=torch.tensor([ids])).logits[0]
        if ranking.yes_no is None:
            return float(logits[0])
        yes, no = ranking.yes_no
        return float(logits[-1, yes] - logits[-1, no])

    with torch.inference_mode():
        return np.array([logit_of(document) for document in documents])
