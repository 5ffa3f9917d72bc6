"""A running Inlay server as the source of a corpus's vectors.

In: texts. Out: canonical vectors over HTTP, asked for at low priority so that queries go first. A refusal
("not now") is waited out; an input that has no vector costs only itself. The server must tell its model's
fingerprint, which is how later readers know that the vectors are their model's.
"""

from __future__ import annotations

import re
import time
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pybase64

from inlay.corpus.files.part import Array, TextVector
from inlay.corpus.recipe import Recipe
from inlay.errors import ConfigError, FingerprintMismatch, InvalidInput, Refused
from inlay.precompute.ingestion import Embedded
from inlay.types import COLBERT, DENSE, SPARSE, SPARSE_ROW, ModelSpec, Pooling

MAX_REQUEST_CHARACTERS = 1 << 20
TIMEOUT = 600.0  # seconds, for one request
ATTEMPTS = 10
LONGEST_PAUSE, LONGEST_ASKED = 30.0, 600.0  # seconds, of our own and of a server's choice
MOST_TEXTS = 512
_PLACE = re.compile(r"input\[(\d+)\]")


class RemoteSource:
    """Canonical vectors from a server; `model` is a name it serves, None for its first.

    None with the `fingerprint` of a corpus is the model that made it, where that is served.
    """

    def __init__(self, url: str, model: str | None, key: str | None, fingerprint: str | None = None) -> None:
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        self._url = url.rstrip("/").removesuffix("/v1")
        self._client = httpx.Client(headers=headers, timeout=TIMEOUT)
        self._most_texts = MOST_TEXTS  # of one request; fewer when the server takes fewer
        self.spec = self._read_spec(model, fingerprint)

    def embed_texts(self, texts: list[str], recipe: Recipe) -> list[Embedded]:
        """For each text its canonical vector with its tokens, or the reason why there is none."""
        answers: list[Embedded] = []
        while len(answers) < len(texts):
            answers += self._embed_some(_first_of(texts[len(answers) : len(answers) + self._most_texts]), recipe)
        return answers

    def close(self) -> None:
        self._client.close()

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
            message, param = _error_of(reply)
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
        return self._request("POST", "/v1/embeddings", body)

    def _request(self, method: str, path: str, body: dict[str, Any] | None = None) -> httpx.Response:
        """One call; "not now" and a server that is away for a moment are waited out."""
        problem = ""
        for attempt in range(ATTEMPTS):
            pause = min(0.5 * 2**attempt, LONGEST_PAUSE)
            try:
                reply = self._client.request(method, self._url + path, json=body)
            except httpx.TransportError as error:
                problem = f"cannot be reached ({error or type(error).__name__})"
                if method == "GET" or attempt == ATTEMPTS - 1:
                    break
            except httpx.InvalidURL as error:
                raise ConfigError(f"--server {self._url} is not a URL: {error}") from error
            else:
                if reply.status_code not in (429, 503):
                    return reply
                problem = _error_of(reply)[0]
                pause = max(pause, min(_seconds_of(reply.headers.get("retry-after")), LONGEST_ASKED))
            time.sleep(pause)
        raise Refused(f"{self._url} {problem}: start it or look at its load, and repeat the command")

    def _read_spec(self, model: str | None, fingerprint: str | None) -> ModelSpec:
        reply = self._request("GET", "/v1/models")
        try:
            rows = reply.json()["data"] if reply.status_code == 200 else []
        except (ValueError, KeyError, TypeError):
            rows = []
        if not rows:
            raise ConfigError(f"--server {self._url}: {_error_of(reply)[0]}")
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


def _seconds_of(retry_after: str | None) -> float:
    """Of a header that has seconds, a date, or something else, which says nothing."""
    try:
        return max(float(retry_after or 0), 0.0)
    except ValueError:
        pass
    try:
        return max(parsedate_to_datetime(retry_after or "").timestamp() - time.time(), 0.0)
    except ValueError:
        return 0.0


def _first_of(texts: list[str]) -> list[str]:
    """As many as one request should carry; at least one."""
    size = 0
    for number, text in enumerate(texts):
        size += len(text)
        if number and size > MAX_REQUEST_CHARACTERS:
            return texts[:number]
    return texts


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


def _error_of(reply: httpx.Response) -> tuple[str, str | None]:
    """Message and param of a refusal."""
    try:
        error = reply.json()["error"]
        return error["message"], error.get("param")
    except (ValueError, KeyError, TypeError):
        return f"answered {reply.status_code}: {reply.text[:200]!r}", None
