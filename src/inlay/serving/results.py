"""From inputs that have what they waited for to the result of their request: the end of the service's story.

In: inputs with all their outputs, and those at fault. Out: results, shaped as the options ask. Pure functions, no
torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from inlay.errors import EngineError, InlayError, RequestError
from inlay.models.registry import OUTPUTS
from inlay.requests import EmbedOptions, EmbedResult, PairsResult, RankResult
from inlay.serving.items import Input
from inlay.serving.shaping import shape_token_vectors, shape_vectors
from inlay.types import COLBERT, DENSE, SCORES, TOKEN_EMBEDDINGS, FloatArray, ModelSpec

EMPTY: Mapping[int, InlayError] = {}


def errors_of(inputs: list[Input]) -> dict[int, InlayError]:
    """Of the inputs that are at fault themselves, by index; whatever else went wrong is raised."""
    found = {given.index: given.error.for_input(given.index) for given in inputs if given.error is not None}
    for error in found.values():
        if not isinstance(error, RequestError | EngineError) or not error.is_of_input:
            raise error
    return found


def make_result(
    spec: ModelSpec, options: EmbedOptions, inputs: list[Input], failed: Mapping[int, InlayError] = EMPTY
) -> EmbedResult:
    """The outputs of inputs that all have them, shaped as the options ask, with usage and times."""
    others = [kind for kind in options.outputs if kind != DENSE]
    return EmbedResult(
        **_told_of(spec, inputs, options.outputs, _warnings_of(spec, options), failed),
        vectors=_vectors_of(spec, options, inputs),
        others={kind: [_shaped(kind, given.payloads[kind], spec, options) for given in inputs] for kind in others},
    )


def _shaped(kind: str, payload: bytes, spec: ModelSpec, options: EmbedOptions) -> npt.NDArray[Any]:
    """One output of a kind other than dense: as it is, or of a row a token in the form that was asked for."""
    array = OUTPUTS[kind].decode(payload)
    if kind == TOKEN_EMBEDDINGS:
        return shape_token_vectors(array, spec.hidden_width, options.dimensions, normalize=options.normalize is True)
    if kind != COLBERT:
        return array
    return shape_token_vectors(array, spec.width, options.dimensions, normalize=options.normalize is not False)


def _warnings_of(spec: ModelSpec, options: EmbedOptions) -> list[str]:
    if options.dimensions is None or options.dimensions == spec.width:
        return []
    smallest, largest = spec.matryoshka or (spec.width, spec.width)
    if smallest <= options.dimensions <= largest:
        return []
    trained = "to be cut" if spec.matryoshka is None else f"to be cut to fewer than {smallest} dimensions"
    return [f"model {spec.name!r} was not trained {trained}: its vectors lose more than those of one that was"]


def make_rank_result(spec: ModelSpec, inputs: list[Input], failed: Mapping[int, InlayError] = EMPTY) -> RankResult:
    """The scores of inputs that all have them, with usage and times."""
    payloads = b"".join([given.payloads[SCORES] for given in inputs])
    in_parts = [given.index for given in inputs if given.is_in_parts]
    return RankResult(
        **_told_of(spec, inputs, (SCORES,), failed=failed),
        logits=np.frombuffer(payloads, dtype="<f4"),
        in_parts=in_parts,
    )


def make_pairs_result(spec: ModelSpec, inputs: list[Input]) -> PairsResult:
    """The same of pairs."""
    payloads = b"".join([given.payloads[SCORES] for given in inputs])
    scores = np.frombuffer(payloads, dtype="<f4")
    return PairsResult(**_told_of(spec, inputs, (SCORES,)), scores=scores, are_logits=True)


def _told_of(
    spec: ModelSpec,
    inputs: list[Input],
    kinds: tuple[str, ...],
    warnings: Sequence[str] = (),
    failed: Mapping[int, InlayError] = EMPTY,
) -> dict[str, Any]:
    """What every result tells."""
    return {
        "model": spec.name,
        "fingerprint": spec.fingerprint,
        "answered": [given.index for given in inputs],
        "item_tokens": [given.num_tokens for given in inputs],
        "cached_tokens": sum(given.num_tokens for given in inputs if given.is_cached),
        "num_hits": sum(given.is_cached for given in inputs),
        "truncated": [given.index for given in inputs if given.is_truncated],
        "queue_seconds": max((given.queue_seconds for given in inputs), default=0.0),
        "model_seconds": max((given.model_seconds for given in inputs), default=0.0),
        "kinds": kinds,
        "warnings": list(warnings),
        "failed": failed,
        "fallback": None,
    }


def _vectors_of(spec: ModelSpec, options: EmbedOptions, inputs: list[Input]) -> FloatArray:
    if DENSE not in options.outputs:
        return np.empty((len(inputs), 0), dtype=np.float32)
    normalize = spec.normalize if options.normalize is None else options.normalize
    is_cut = options.dimensions is not None and options.dimensions < spec.width
    canonical = np.frombuffer(b"".join([given.payloads[DENSE] for given in inputs]), dtype="<f4")
    canonical = canonical.reshape(len(inputs), spec.width)
    unit = normalize or is_cut
    return shape_vectors(canonical, options.dimensions, normalize=unit, has_norm_before_cut=spec.has_norm_before_cut)
