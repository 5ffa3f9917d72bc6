"""What Text Embeddings Inference's `/info` says, of the first model that is served."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import inlay
from inlay.config import Settings
from inlay.types import ModelSpec, Pooling, Task, Worker

POOLINGS = {Pooling.MEAN: "mean", Pooling.CLS: "cls", Pooling.LAST: "last_token"}


def tei_info(workers: Mapping[str, Worker], settings: Settings) -> dict[str, Any]:
    """Its fifteen keys."""
    spec = next(iter(workers.values())).spec
    return {
        "model_id": str(spec.path),
        "model_sha": spec.fingerprint or None,
        "model_dtype": spec.dtype or None,
        "served_model_name": spec.name,
        "model_type": _model_type(spec),
        "max_concurrent_requests": settings.max_concurrent_requests,
        "max_input_length": spec.max_tokens,
        "max_batch_tokens": settings.max_batch_tokens,
        "max_batch_requests": settings.max_batch_sequences,
        "max_client_batch_size": settings.max_inputs_per_request,
        "auto_truncate": True,
        "tokenization_workers": settings.tokenizer_threads,
        "version": inlay.__version__,
        "sha": None,
        "docker_label": None,
    }


def _model_type(spec: ModelSpec) -> dict[str, Any]:
    if spec.task is Task.RANK:
        return {"reranker": {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}}
    return {"embedding": {"pooling": POOLINGS[spec.pooling]}}
