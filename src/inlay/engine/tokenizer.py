"""From texts to token ids, on threads: the Rust tokenizer lets go of the interpreter while it works.

In: texts with their prompt already in front. Out: ids with the model's special tokens. The tokenizer's own
truncation and padding are dropped: nothing is cut unless a request asks for it. Knows nothing of models.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
from tokenizers import Tokenizer as RustTokenizer

from inlay.errors import ModelError
from inlay.types import IntArray, ModelSpec, Truncate

_PROBE, _UNKNOWN = "a", "\U000f0000"  # the latter is in no vocabulary
PIECE = 1 << 16  # characters tokenised at a time: what the tokenizer needs beside a text is over 200 times its size
MOST_PIECES = 4  # that a text is searched for a place to part it, before it is parted anywhere
# Places where a tokenizer may part texts anyway, so that pieces have the tokens of the whole: behind a word that blanks
# follow, which all do, and others that some do. Each with texts that show it, parted where the pattern says.
_PLACES = (
    (r"\S(?=[^\S\r\n]+\S)|[^\W_](?=\s+\S)", ()),
    (r"[^\W_](?=[^\w\s][^\W_])", ("some words", ",and more", "1", ".5 and", "x", "-ray", "好天气", "，我们去")),
    (r"[\u4e00-\u9fff](?=[\u4e00-\u9fff])", ("今天天", "气很好", "公", "园散步吧", "中", "国人民")),
)


class Tokenizer:
    """A checkpoint's `tokenizer.json`. Safe to call from many threads.

    Special tokens that stand in a text are those tokens, as in transformers; or, if they are not taken, plain text, and
    where the tokenizer knows no other reading of it (as SentencePiece's may not), nothing.
    """

    def __init__(
        self,
        path: Path,
        *,
        takes_special_tokens: bool = True,
        adds_special_tokens: bool = True,
        leaves_out_unknown: bool = False,
    ) -> None:
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
        self._tokenizer.encode_special_tokens = not takes_special_tokens
        self._adds_special_tokens = adds_special_tokens
        self._unknown = _unknown_id(self._tokenizer) if leaves_out_unknown else None
        self._before, self._after = self._find_specials()
        self._num_before, self._num_after = len(self._before), len(self._after)
        self._left_out = np.array([] if takes_special_tokens else self._special_ids(), dtype=np.int64)
        places = [pattern for pattern, shown in _PLACES if self._parts_at(shown)]
        self._between = re.compile("|".join(places))

    @property
    def num_ids(self) -> int:
        """One more than the largest id it can give."""
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    @property
    def vocabulary(self) -> dict[str, int]:
        """Every token and its id."""
        return self._tokenizer.get_vocab(with_added_tokens=True)

    @property
    def num_special_tokens(self) -> int:
        """How many tokens every text gets besides its own."""
        return self._num_before + self._num_after

    def encode_many(self, texts: list[str]) -> list[IntArray]:
        """Ids of each text, special tokens included."""
        lists = (
            np.array(encoding.ids, dtype=np.int64)
            for part in _parts_of(texts)
            for encoding in self._tokenizer.encode_batch_fast(part, add_special_tokens=self._adds_special_tokens)
        )
        return list(lists) if self._unknown is None else [ids[ids != self._unknown] for ids in lists]

    def encode_long(self, text: str, most: int, side: Truncate) -> tuple[IntArray, bool]:
        """Ids of a text of any length, special tokens included, and whether they are all that it has.

        In pieces, and no more of them than show that it has over `most` tokens and than a cut at `side` needs.
        """
        spans = list(self._spans_of(text))
        order = list(range(len(spans)))
        if side is Truncate.START:
            order[1:] = reversed(order[1:])  # the first piece has the prompt, the others are read from the end
        pieces: dict[int, IntArray] = {}
        num_tokens = 0
        for number in order:
            start, end = spans[number]
            encoding = self._tokenizer.encode(text[start:end], add_special_tokens=False)
            pieces[number] = np.array(encoding.ids, dtype=np.int64)
            num_tokens += 0 if side is Truncate.START and number == 0 else len(encoding.ids)
            if num_tokens > most:
                break
        ids = np.concatenate([self._before, *(pieces[number] for number in sorted(pieces)), self._after])
        if self._unknown is not None:
            ids = ids[ids != self._unknown]
        return ids, len(pieces) == len(spans)

    def content_ids(self, text: str) -> IntArray:
        """Ids of a text without special tokens around it."""
        return self._plain(np.array(self._tokenizer.encode(text, add_special_tokens=False).ids, dtype=np.int64))

    def content_ids_up_to(self, text: str, most: int) -> tuple[IntArray, bool]:
        """The same of a text of any length, and whether they are all: there are over `most` otherwise."""
        if len(text) <= PIECE:
            return self.content_ids(text), True
        ids, is_whole = self.encode_long(text, most, Truncate.END)
        return self._plain(ids[self._num_before : len(ids) - self._num_after]), is_whole

    def _plain(self, ids: IntArray) -> IntArray:
        return ids[~np.isin(ids, self._left_out)] if len(self._left_out) else ids

    def _special_ids(self) -> list[int]:
        """Ids of special tokens, but for the one that stands for what is not in the vocabulary."""
        unknown = set(self._tokenizer.encode(_UNKNOWN, add_special_tokens=False).ids)
        added = self._tokenizer.get_added_tokens_decoder()
        return [number for number, token in added.items() if token.special and number not in unknown]

    def pair_ids(self, first: str, second: str) -> tuple[IntArray, IntArray]:
        """Ids and segment types of a pair, as the template of the tokenizer puts it."""
        encoding = self._tokenizer.encode(first, second)
        return np.array(encoding.ids, dtype=np.int64), np.array(encoding.type_ids, dtype=np.int64)

    def token_of(self, token_id: int) -> str | None:
        return self._tokenizer.id_to_token(token_id)

    def cut(self, ids: IntArray, max_tokens: int, side: Truncate, num_prompt: int = 0) -> IntArray:
        """At most `max_tokens` ids: tokens go from the given end of the text.

        Special tokens stay, and so do the first `num_prompt` tokens of the content, which are its prompt.
        """
        before, after = ids[: self._num_before], ids[len(ids) - self._num_after :]
        content = ids[self._num_before : len(ids) - self._num_after]
        room = max(max_tokens - self.num_special_tokens, 0)
        if side is Truncate.END:
            return np.concatenate([before, content[:room], after])
        num_prompt = min(num_prompt, room)
        tail = content[len(content) - (room - num_prompt) :]
        return np.concatenate([before, content[:num_prompt], tail, after])

    def _parts_at(self, shown: tuple[str, ...]) -> bool:
        """Does it give pairs of texts the same tokens together and apart?"""
        ids = [self._tokenizer.encode(text, add_special_tokens=False).ids for text in shown]
        return all(
            self._tokenizer.encode(shown[i] + shown[i + 1], add_special_tokens=False).ids == ids[i] + ids[i + 1]
            for i in range(0, len(shown), 2)
        )

    def _spans_of(self, text: str) -> Iterator[tuple[int, int]]:
        """Where the pieces of a long text lie."""
        start = 0
        while start < len(text):
            last = start + MOST_PIECES * PIECE
            found = self._between.search(text, start + PIECE, last)
            end = min(last if found is None else found.end(), len(text))
            yield start, end
            start = end

    def _find_specials(self) -> tuple[IntArray, IntArray]:
        """The special tokens before a text and after it."""
        bare = self._tokenizer.encode(_PROBE, add_special_tokens=False).ids
        full = self._tokenizer.encode(_PROBE, add_special_tokens=self._adds_special_tokens).ids
        for before in range(len(full) - len(bare) + 1):
            if full[before : before + len(bare)] == bare:
                ids = np.array(full, dtype=np.int64)
                return ids[:before], ids[before + len(bare) :]
        raise ModelError("the tokenizer's special tokens do not stand around the text; it is not supported")


def _unknown_id(tokenizer: RustTokenizer) -> int | None:
    """The token for what is not in the vocabulary, which models name by its text or by its id."""
    model = msgspec.json.decode(tokenizer.to_str())["model"]
    token = model.get("unk_token")
    found: int | None = tokenizer.token_to_id(token) if token is not None else model.get("unk_id")
    return found


def make_tokenizer(spec: ModelSpec) -> Tokenizer:
    """That of a model, for texts."""
    return Tokenizer(
        spec.path, adds_special_tokens=spec.adds_special_tokens, leaves_out_unknown=spec.leaves_out_unknown
    )


def _parts_of(texts: list[str]) -> Iterator[list[str]]:
    """Texts that are tokenised together: as many as a piece has characters, at least one."""
    part: list[str] = []
    size = 0
    for text in texts:
        if part and size + len(text) > PIECE:
            yield part
            part, size = [], 0
        part.append(text)
        size += len(text)
    if part:
        yield part
