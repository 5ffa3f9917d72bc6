"""Text Embeddings Inference's dialect, and `/`, whose bodies may be any of its kinds.

Bodies have no model, but may name one. Too long texts are cut unless `truncate` is false, as its servers do by default.
Errors have a text, never an object: its clients print it. What a model cannot do is 424.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from inlay.api.dialects.dialect import Dialect, Fields
from inlay.api.dialects.shared import inputs_of
from inlay.api.dialects.tei_schema import (
    TEIAllRequest,
    TEIDecodeRequest,
    TEIEmbedRequest,
    TEIError,
    TEIPrediction,
    TEIPredictRequest,
    TEIRanked,
    TEIRerankRequest,
    TEISimilarityRequest,
    TEISparseValue,
    TEIToken,
    TEITokenizeRequest,
)
from inlay.api.replies import Headers, Reply
from inlay.errors import EmptyInput, InlayError, InvalidInput, WrongTask
from inlay.requests import (
    DecodeRequest,
    EmbedOptions,
    EmbedRequest,
    EmbedResult,
    LongDocuments,
    PairsRequest,
    PairsResult,
    RankOptions,
    RankRequest,
    RankResult,
    Result,
    TokenizeRequest,
    TokensResult,
)
from inlay.serving.shaping import best_first, sigmoid
from inlay.types import SPARSE, TOKEN_EMBEDDINGS, Truncate

TEI = frozenset({"tei"})
KINDS = {429: "Overloaded", 503: "Unhealthy", 401: "Unauthorized"}
NAMES = {"input": "inputs"}
CUT = "truncate to true"
STATUSES = {422: "A wrong field or input", 424: "The model cannot do that"}
PHRASES = {'truncate to "end"': CUT, 'long_documents to "truncate" or "best_chunk"': CUT, " (or token ids)": ""}
LABEL = "LABEL_0"  # of the one class that a reranker has


def render_error(error: InlayError) -> Reply:
    """`{"error", "error_type"}`, with the statuses of its servers."""
    status, kind = error.status, KINDS.get(error.status, "Validation" if error.status < 500 else "Backend")
    if isinstance(error, EmptyInput):
        kind = "Empty"
    elif isinstance(error, WrongTask):
        status, kind = 424, "Backend"
    elif status == 400:
        status = 422
    return Reply.of_json({"error": error.message, "error_type": kind}, status)


def _timing_headers(result: Result, seconds: float) -> Headers:
    milliseconds = {
        b"x-compute-time": seconds,
        b"x-total-time": seconds,
        b"x-tokenization-time": 0.0,  # it is in the time of the queue
        b"x-queue-time": result.queue_seconds,
        b"x-inference-time": result.model_seconds,
    }
    times = [(name, b"%d" % round(value * 1000)) for name, value in milliseconds.items()]
    return [*times, (b"x-compute-type", b"inlay"), (b"x-compute-tokens", b"%d" % result.num_tokens)]


def _truncate_of(truncate: bool | None, direction: str | None) -> Truncate:
    if truncate is False:
        return Truncate.NONE
    return Truncate.START if (direction or "").lower() == "left" else Truncate.END


def _parse_embed(call: TEIEmbedRequest) -> EmbedRequest:
    options = EmbedOptions(
        prompt_name=call.prompt_name,
        dimensions=call.dimensions,
        normalize=call.normalize is not False,
        truncate=_truncate_of(call.truncate, call.truncation_direction),
        allow_untrained_cut=True,
    )
    return EmbedRequest(call.model, inputs_of(call.inputs, "inputs"), options)


def _render_embed(result: EmbedResult, call: TEIEmbedRequest) -> Reply:
    return Reply.of_json(np.ascontiguousarray(result.vectors))


def _parse_outputs(kind: str) -> Callable[[TEIAllRequest], EmbedRequest]:
    """Of a body that asks for one kind of output."""

    def parse(call: TEIAllRequest) -> EmbedRequest:
        truncate = _truncate_of(call.truncate, call.truncation_direction)
        options = EmbedOptions(prompt_name=call.prompt_name, truncate=truncate, outputs=(kind,))
        return EmbedRequest(call.model, inputs_of(call.inputs, "inputs"), options)

    return parse


def _render_all(result: EmbedResult, call: TEIAllRequest) -> Reply:
    return Reply.of_json(result.others[TOKEN_EMBEDDINGS])


def _render_sparse(result: EmbedResult, call: TEIAllRequest) -> Reply:
    rows = [zip(one["id"].tolist(), one["weight"].tolist(), strict=True) for one in result.others[SPARSE]]
    return Reply.of_json([[{"index": index, "value": value} for index, value in row] for row in rows])


def _parse_rerank(call: TEIRerankRequest) -> RankRequest:
    long_documents = LongDocuments.REFUSE if call.truncate is False else LongDocuments.TRUNCATE
    return RankRequest(call.model, call.query, call.texts, RankOptions(long_documents=long_documents))


def _render_rerank(result: RankResult, call: TEIRerankRequest) -> Reply:
    logits = result.logits.tolist()
    rows = []
    for index in best_first(logits)[: call.top_n]:
        row = {"index": index, "score": logits[index] if call.raw_scores else sigmoid(logits[index])}
        rows.append({**row, "text": call.texts[index]} if call.return_text else row)
    return Reply.of_json(rows)


def _parse_similarity(call: TEISimilarityRequest) -> EmbedRequest:
    asked, parameters = call.inputs, call.parameters
    truncate = (
        Truncate.END if parameters is None else _truncate_of(parameters.truncate, parameters.truncation_direction)
    )
    if not asked.sentences:
        raise EmptyInput("inputs.sentences is empty: send at least one text", param="inputs")
    name = None if parameters is None else parameters.prompt_name
    options = EmbedOptions(prompt_name=name, normalize=True, truncate=truncate)
    return EmbedRequest(call.model, [asked.source_sentence, *asked.sentences], options)


def _render_similarity(result: EmbedResult, call: TEISimilarityRequest) -> Reply:
    return Reply.of_json(np.ascontiguousarray(result.vectors[1:] @ result.vectors[0]))


def _parse_predict(call: TEIPredictRequest) -> PairsRequest:
    long_documents = LongDocuments.REFUSE if call.truncate is False else LongDocuments.TRUNCATE
    return PairsRequest(call.model, _pairs_of(call.inputs), RankOptions(long_documents=long_documents))


def _pairs_of(given: str | list[str | list[str]]) -> list[tuple[str, str]]:
    """`["a", "b"]` is one pair; lists of two are a pair each."""
    if isinstance(given, str) or not given:
        raise WrongTask("one text is no pair, and no model that classifies texts is served: send [query, text]")
    texts = [one for one in given if isinstance(one, str)]
    lists = [given] if texts else given
    found = []
    for place, one in enumerate(lists):
        if len(one) != 2 or not all(isinstance(part, str) for part in one):
            raise InvalidInput(f"inputs[{place}] is no pair of texts: send [query, text]", param=f"inputs[{place}]")
        found.append((str(one[0]), str(one[1])))
    return found


def _render_predict(result: PairsResult, call: TEIPredictRequest) -> Reply:
    scores = result.scores.tolist()
    rows = [[{"score": one if call.raw_scores else sigmoid(one), "label": LABEL}] for one in scores]
    return Reply.of_json(rows[0] if isinstance(call.inputs, list) and isinstance(call.inputs[0], str) else rows)


def _parse_tokenize(call: TEITokenizeRequest) -> TokenizeRequest:
    texts = [call.inputs] if isinstance(call.inputs, str) else call.inputs
    adds = call.add_special_tokens is not False
    return TokenizeRequest(call.model, texts, call.prompt_name, adds_special_tokens=adds)


def _render_tokens(result: TokensResult, call: TEITokenizeRequest) -> Reply:
    return Reply.of_json(
        [
            [
                {"id": one.id, "text": one.text, "special": one.is_special, "start": one.start, "stop": one.stop}
                for one in tokens
            ]
            for tokens in result.tokens
        ]
    )


def _parse_decode(call: TEIDecodeRequest) -> DecodeRequest:
    lists = [one for one in call.ids if isinstance(one, list)]
    if lists and len(lists) < len(call.ids):
        raise InvalidInput("ids has numbers among lists: send one kind", param="ids")
    ids = [one for one in call.ids if isinstance(one, int)]
    return DecodeRequest(call.model, lists or [ids], skips_special_tokens=call.skip_special_tokens is not False)


def _render_decoded(result: TokensResult, call: TEIDecodeRequest) -> Reply:
    return Reply.of_json(result.texts)


def _is_object(fields: Fields) -> bool:
    return bytes(fields["inputs"])[:1] == b"{"


ROOTS = ("/", "/invocations")
_dialect = partial(Dialect, speakers=TEI, error=TEIError, render_error=render_error, statuses=STATUSES, phrases=PHRASES)
EMBED = _dialect(
    paths=("/embed", *ROOTS),
    summary="Embed texts (TEI)",
    request=TEIEmbedRequest,
    response=list[list[float]],
    parse=_parse_embed,
    render=_render_embed,
    names=NAMES,
    timing_headers=_timing_headers,
)
EMBED_ALL = _dialect(
    paths=("/embed_all",),
    summary="A vector for each token of texts (TEI)",
    request=TEIAllRequest,
    response=list[list[list[float]]],
    parse=_parse_outputs(TOKEN_EMBEDDINGS),
    render=_render_all,
    names=NAMES,
    timing_headers=_timing_headers,
)
SPARSE_EMBED = _dialect(
    paths=("/embed_sparse",),
    summary="Sparse weights of texts (TEI)",
    request=TEIAllRequest,
    response=list[list[TEISparseValue]],
    parse=_parse_outputs(SPARSE),
    render=_render_sparse,
    names=NAMES,
    timing_headers=_timing_headers,
)
RERANK = _dialect(
    paths=("/rerank", *ROOTS),
    summary="Score texts against a query (TEI)",
    request=TEIRerankRequest,
    response=list[TEIRanked],
    parse=_parse_rerank,
    render=_render_rerank,
    names={"input": "texts", "documents": "texts"},
    told_by=frozenset({"texts"}),
    timing_headers=_timing_headers,
)
SIMILARITY = _dialect(
    paths=("/similarity", *ROOTS),
    summary="Cosines of a sentence and others (TEI)",
    request=TEISimilarityRequest,
    response=list[float],
    parse=_parse_similarity,
    render=_render_similarity,
    names=NAMES,
    told_by=frozenset({"inputs"}),
    claims=_is_object,
    timing_headers=_timing_headers,
)
PREDICT = _dialect(
    paths=("/predict",),
    summary="Scores of pairs (TEI)",
    request=TEIPredictRequest,
    response=list[TEIPrediction | list[TEIPrediction]],
    parse=_parse_predict,
    render=_render_predict,
    names=NAMES,
    timing_headers=_timing_headers,
)
TOKENIZE = _dialect(
    paths=("/tokenize",),
    summary="Tokens of texts (TEI)",
    request=TEITokenizeRequest,
    response=list[list[TEIToken]],
    parse=_parse_tokenize,
    render=_render_tokens,
    names=NAMES,
    told_by=frozenset({"inputs"}),
)
DECODE = _dialect(
    paths=("/decode",),
    summary="Texts of token ids (TEI)",
    request=TEIDecodeRequest,
    response=list[str],
    parse=_parse_decode,
    render=_render_decoded,
)
