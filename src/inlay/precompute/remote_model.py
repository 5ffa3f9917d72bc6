"""A model of any running server that speaks OpenAI's API, or Text Embeddings Inference's, for texts and for documents.

In: texts, or a query and documents. Out: vectors, with the reason for each text that has none; or scores. What is asked
for beyond texts is sent under Inlay's names, which other servers may not know.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
import pybase64

from inlay.errors import ConfigError, InlayError, InvalidInput
from inlay.precompute.remote_server import RemoteServer, error_of_reply, first_of
from inlay.types import FloatArray, Truncate

MOST_TEXTS = 256  # of one request
BAD_INPUT = (400, 413, 422)


@dataclass(frozen=True, slots=True)
class RemoteRows:
    """What `embed_rows` gives."""

    vectors: FloatArray  # [len(rows), dimensions]
    rows: list[int]  # the text that each vector belongs to, ascending
    errors: dict[int, InlayError]


class RemoteModel:
    """A model by the name that the server has for it; None for its first."""

    def __init__(self, url: str, model: str | None, key: str | None) -> None:
        self._server = RemoteServer(url, key)
        self._model = model if model is not None else self._first_model()
        self._speaks_tei: bool | None = None  # None: nothing has been asked yet

    def embed_rows(
        self,
        texts: list[str],
        *,
        prompt: str | None = None,
        instruction: str | None = None,
        dimensions: int | None = None,
        truncate: Truncate = Truncate.NONE,
    ) -> RemoteRows:
        """The vectors of the good texts, and why the others have none."""
        more = {"prompt_name": prompt, "instruction": instruction, "dimensions": dimensions}
        asked: dict[str, Any] = {name: value for name, value in more.items() if value is not None}
        if truncate is not Truncate.NONE:
            asked["truncate"] = truncate
        found: dict[int, FloatArray | InlayError] = {}
        while len(found) < len(texts):
            start = len(found)
            some = first_of(texts[start : start + MOST_TEXTS])
            found |= {start + place: one for place, one in enumerate(self._embed_some(some, asked))}
        rows = [place for place, one in found.items() if not isinstance(one, InlayError)]
        vectors = [one for one in found.values() if not isinstance(one, InlayError)]
        whole = np.stack(vectors) if vectors else np.empty((0, 0), dtype=np.float32)
        return RemoteRows(whole, rows, {place: one for place, one in found.items() if isinstance(one, InlayError)})

    def score(self, query: str, documents: list[str], instruction: str | None = None) -> list[float]:
        """A score for each document, in their order."""
        more = {} if instruction is None else {"instruction": instruction}
        body = {"model": self._model, "query": query, "documents": documents, "return_documents": False, **more}
        reply = self._server.request("POST", "/v1/rerank", body)
        if reply.status_code == 404 and not _names_a_model(reply):
            texts = {"model": self._model, "query": query, "texts": documents, "truncate": False, **more}
            reply = self._server.request("POST", "/rerank", texts)
        rows = self._read(reply)
        listed = rows if isinstance(rows, list) else rows["results"]
        scores = {row["index"]: float(row.get("relevance_score", row.get("score"))) for row in listed}
        return [scores[place] for place in range(len(documents))]

    def close(self) -> None:
        self._server.close()

    def __enter__(self) -> RemoteModel:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _embed_some(self, texts: list[str], asked: Mapping[str, Any]) -> list[FloatArray | InlayError]:
        reply = self._ask(texts, asked)
        if reply.status_code == 200:
            return _vectors_of(reply.json())
        if reply.status_code not in BAD_INPUT:
            raise ConfigError(f"{self._server.url} refused: {error_of_reply(reply)[0]}")
        if len(texts) > 1:  # which of them it is: servers name it each in their way
            half = (len(texts) + 1) // 2
            return [*self._embed_some(texts[:half], asked), *self._embed_some(texts[half:], asked)]
        message = error_of_reply(reply)[0]
        for prefix in ("input[0] ", "inputs[0] "):
            message = message.removeprefix(prefix)
        return [InvalidInput(message)]

    def _ask(self, texts: list[str], asked: Mapping[str, Any]) -> httpx.Response:
        if not self._speaks_tei:
            body = {"input": texts, "encoding_format": "base64", **asked}
            reply = self._server.request("POST", "/v1/embeddings", {"model": self._model, **body})
            self._speaks_tei = reply.status_code == 404 and not _names_a_model(reply)
            if not self._speaks_tei:
                return reply
        is_cut = "truncate" in asked
        direction = "Left" if asked.get("truncate") is Truncate.START else "Right"
        body = {"inputs": texts, **asked, "truncate": is_cut, "truncation_direction": direction}
        return self._server.request("POST", "/embed", {"model": self._model, **body})

    def _first_model(self) -> str | None:
        """Of those that the server lists; servers of one model may list none."""
        reply = self._server.request("GET", "/v1/models")
        try:
            return str(reply.json()["data"][0]["id"])
        except (ValueError, KeyError, TypeError, IndexError):
            return None

    def _read(self, reply: httpx.Response) -> Any:  # noqa: ANN401 - JSON
        if reply.status_code != 200:
            raise ConfigError(f"{self._server.url} refused: {error_of_reply(reply)[0]}")
        return reply.json()


def _names_a_model(reply: httpx.Response) -> bool:
    """Is it a model that is not there, and not the path?"""
    return "model" in error_of_reply(reply)[0].lower()


def _vectors_of(body: Any) -> list[FloatArray | InlayError]:  # noqa: ANN401 - JSON
    if isinstance(body, list):
        return [np.array(row, dtype=np.float32) for row in body]
    rows = sorted(body["data"], key=lambda row: row["index"])
    return [_vector_of(row["embedding"]) for row in rows]


def _vector_of(embedding: str | list[float]) -> FloatArray:
    if isinstance(embedding, str):
        return np.frombuffer(pybase64.b64decode(embedding), dtype="<f4")
    return np.array(embedding, dtype=np.float32)  # of servers that know no base64
