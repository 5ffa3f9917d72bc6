"""A running Inlay server as the source of a corpus's vectors.

In: texts. Out: canonical vectors over HTTP, asked for at low priority so that queries go first. A refusal
("not now") is waited out; an input that has no vector costs only itself. The server must tell its model's
fingerprint, which is how later readers know that the vectors are their model's.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pybase64

from inlay.corpus.files.part import Array, TextVector
from inlay.corpus.recipe import Recipe
from inlay.errors import ConfigError, FingerprintMismatch, InvalidInput
from inlay.precompute.ingestion import Embedded
from inlay.precompute.remote_server import RemoteServer, error_of_reply, first_of
from inlay.types import COLBERT, DENSE, SPARSE, SPARSE_ROW, ModelSpec, Pooling

MOST_TEXTS = 512
_PLACE = re.compile(r"input\[(\d+)\]")


class RemoteSource:
    """Canonical vectors from a server; `model` is a name it serves, None for its first.

    None with the `fingerprint` of a corpus is the model that made it, where that is served.
    """

    num_parallel = 1

    def __init__(self, url: str, model: str | None, key: str | None, fingerprint: str | None = None) -> None:
        self._server = RemoteServer(url, key)
        self._url = self._server.url
        self._most_texts = MOST_TEXTS  # of one request; fewer when the server takes fewer
        self.spec = self._read_spec(model, fingerprint)

    def embed_texts(self, texts: list[str], recipe: Recipe) -> list[Embedded]:
        """For each text its canonical vector with its tokens, or the reason why there is none."""
        answers: list[Embedded] = []
        while len(answers) < len(texts):
            answers += self._embed_some(first_of(texts[len(answers) : len(answers) + self._most_texts]), recipe)
        return answers

    def close(self) -> None:
        self._server.close()

    def _embed_some(self, texts: list[str], recipe: Recipe) -> list[Embedded]:
        answers: dict[int, Embedded] = {}
        while places := [place for place in range(len(texts)) if place not in answers]:
            reply = self._ask([texts[place] for place in places], recipe)
            if reply.status_code == 200:
                body = reply.json()
                if body.get("fingerprint") != recipe.fingerprint:  # of a server that knows no expectations
                    raise self._another_model(f"fingerprint {body.get('fingerprint')}, not {recipe.fingerprint}")
                answers |= dict(zip(places, map(_entry_of, body["data"]), strict=True))
                continue
            message, param = error_of_reply(reply)
            if reply.status_code == FingerprintMismatch.status:
                raise self._another_model(message)
            found = _PLACE.fullmatch(param or "")
            if found is None and reply.status_code in (400, 413) and len(places) > 1:
                half = (len(places) + 1) // 2  # it may be too much at a time
                self._most_texts = min(self._most_texts, half)
                for some in (places[:half], places[half:]):
                    answers |= dict(zip(some, self._embed_some([texts[place] for place in some], recipe), strict=True))
                continue
            if found is None:
                raise ConfigError(f"{self._url} refused: {message}")
            answers[places[int(found[1])]] = InvalidInput(message.removeprefix(found[0]).strip())
        return [answers[place] for place in range(len(texts))]

    def _another_model(self, why: str) -> ConfigError:
        return ConfigError(
            f"{self._url} now serves another model ({why}): have it serve the old one, and the same command goes on"
        )

    def _ask(self, texts: list[str], recipe: Recipe) -> httpx.Response:
        body = {
            "model": self.spec.name,
            "input": texts,
            "encoding_format": "base64",
            "normalize": False,
            "include_tokens": True,
            "priority": "low",
            "prompt_name": recipe.prompt,
            "instruction": recipe.instruction,
            "truncate": recipe.truncate,
            "outputs": list(recipe.outputs),
            "expect_fingerprint": recipe.fingerprint,
        }
        return self._server.request("POST", "/v1/embeddings", body)

    def _read_spec(self, model: str | None, fingerprint: str | None) -> ModelSpec:
        reply = self._server.request("GET", "/v1/models")
        try:
            rows = reply.json()["data"] if reply.status_code == 200 else []
        except (ValueError, KeyError, TypeError):
            rows = []
        if not rows:
            raise ConfigError(f"--server {self._url}: {error_of_reply(reply)[0]}")
        made = [row for row in rows if fingerprint is not None and row.get("fingerprint") == fingerprint]
        named = made if made and model is None else [row for row in rows if model in (None, row["id"])]
        if not named:
            served = ", ".join(row["id"] for row in rows)
            raise ConfigError(f"{self._url} does not serve {model!r}; it serves: {served}")
        row = named[0]
        if not row.get("fingerprint"):
            raise ConfigError(
                f"{self._url} tells no fingerprint of {row['id']!r}: is it an Inlay server that is ready?"
            )
        return ModelSpec(
            name=row["id"],
            path=Path(),
            family=row["family"],
            width=row["width"],
            num_layers=0,
            vocab_rows=0,
            max_tokens=row["max_tokens"],
            pooling=Pooling(row["pooling"]),
            normalize=False,
            prompts=row["prompts"],
            default_prompt=row["default_prompt"],
            instruction_template=row["instruction_template"],
            matryoshka=None,
            config={},
            outputs=tuple(row.get("outputs") or (DENSE,)),
            dtype=row["dtype"],
            fingerprint=row["fingerprint"],
        )


def _entry_of(row: dict[str, Any]) -> TextVector:
    vector = np.frombuffer(pybase64.b64decode(row["embedding"]), dtype="<f4")
    others: dict[str, Array] = {}
    if SPARSE in row:
        pairs = list(zip(row[SPARSE]["indices"], row[SPARSE]["values"], strict=True))
        others[SPARSE] = np.array(pairs, dtype=SPARSE_ROW)
    if COLBERT in row:
        rows = np.frombuffer(pybase64.b64decode(row[COLBERT]), dtype="<f4")
        others[COLBERT] = rows.reshape(-1, len(vector))
    return TextVector(vector, row["num_tokens"], row["is_truncated"], others)
