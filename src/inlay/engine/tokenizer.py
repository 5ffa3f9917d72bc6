"""From texts to token ids, on threads: the Rust tokenizer lets go of the interpreter while it works.

In: texts with their prompt already in front. Out: ids with the model's special tokens. The tokenizer's own
truncation and padding are dropped: nothing is cut unless a request asks for it. Knows nothing of models.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer as RustTokenizer

from inlay.errors import ModelError
from inlay.types import IntArray, Truncate

_PROBE = "a"


class Tokenizer:
    """A checkpoint's `tokenizer.json`. Safe to call from many threads."""

    def __init__(self, path: Path) -> None:
        # Worker threads are the parallelism; Rust's own pool would fight the device for the cores.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        file = path / "tokenizer.json"
        if not file.exists():
            raise ModelError(f"{path} has no tokenizer.json: save its fast tokenizer with transformers first")
        try:
            self._tokenizer = RustTokenizer.from_file(str(file))
        except Exception as error:  # the Rust side raises bare Exception
            raise ModelError(f"{file} cannot be read: {error}") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._num_before, self._num_after = self._count_specials()

    @property
    def num_ids(self) -> int:
        """One more than the largest id it can give."""
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    @property
    def num_special_tokens(self) -> int:
        """How many tokens every text gets besides its own."""
        return self._num_before + self._num_after

    def encode_many(self, texts: list[str]) -> list[IntArray]:
        """Ids of each text, special tokens included."""
        encodings = self._tokenizer.encode_batch_fast(texts)
        return [np.array(encoding.ids, dtype=np.int64) for encoding in encodings]

    def token_of(self, token_id: int) -> str | None:
        return self._tokenizer.id_to_token(token_id)

    def cut(self, ids: IntArray, max_tokens: int, side: Truncate, num_prefix: int = 0) -> IntArray:
        """At most `max_tokens` ids: tokens go from the given end of the text.

        Special tokens stay, and so do the first `num_prefix` tokens of the content, which are its prompt.
        """
        before, after = ids[: self._num_before], ids[len(ids) - self._num_after :]
        content = ids[self._num_before : len(ids) - self._num_after]
        room = max(max_tokens - self.num_special_tokens, 0)
        if side is Truncate.END:
            return np.concatenate([before, content[:room], after])
        num_prefix = min(num_prefix, room)
        tail = content[len(content) - (room - num_prefix) :]
        return np.concatenate([before, content[:num_prefix], tail, after])

    def _count_specials(self) -> tuple[int, int]:
        bare = self._tokenizer.encode(_PROBE, add_special_tokens=False).ids
        full = self._tokenizer.encode(_PROBE).ids
        for before in range(len(full) - len(bare) + 1):
            if full[before : before + len(bare)] == bare:
                return before, len(full) - len(bare) - before
        raise ModelError("the tokenizer's special tokens do not stand around the text; it is not supported")
