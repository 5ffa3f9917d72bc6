"""What a text's tokens are, and what text tokens are: for clients that count before they send.

In: texts, or ids, and a model's name. Out: tokens with their places, or texts. Reads a served model's `tokenizer.json`
when it is asked for first, on a thread; it is the same that the engine tokenises with.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from tokenizers import Encoding, Tokenizer

from inlay.errors import EmptyInput, InvalidInput
from inlay.models.prompts import prompt_of
from inlay.requests import DecodeRequest, EmbedOptions, Token, TokenizeRequest, TokensResult
from inlay.serving.router import Router
from inlay.types import ModelSpec


class TokenTexts:
    """Of the models of a router."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self._tokenizers: dict[Path, Tokenizer] = {}

    async def tokenize(self, request: TokenizeRequest) -> TokensResult:
        """The tokens of each text, with the prompt that is asked for in front of it."""
        spec = self._router.tokenizing(request).spec
        prompt = prompt_of(spec, EmbedOptions(prompt_name=request.prompt_name)) if request.prompt_name else ""
        for index, text in enumerate(request.texts):
            if not text:
                raise EmptyInput("is empty: send a text, or leave it out").for_input(index)
            try:
                text.encode()
            except UnicodeEncodeError:
                raise InvalidInput("is not valid Unicode (a lone surrogate)").for_input(index) from None
        texts = [prompt + text for text in request.texts]
        tokens = await asyncio.to_thread(self._tokens_of, spec, texts, request.adds_special_tokens)
        return TokensResult(spec.name, spec.max_tokens, tokens, texts)

    async def decode(self, request: DecodeRequest) -> TokensResult:
        """The text of each list of ids."""
        spec = self._router.tokenizing(request).spec
        for ids in request.lists:
            if not ids:
                raise EmptyInput("ids is an empty list: send at least one", param="ids")
            if not all(0 <= one < spec.vocab_rows for one in ids):
                raise InvalidInput(f"ids has one out of range (0 to {spec.vocab_rows - 1})", param="ids")
        texts = await asyncio.to_thread(self._texts_of, spec, request)
        return TokensResult(spec.name, spec.max_tokens, [], texts)

    def _tokens_of(self, spec: ModelSpec, texts: list[str], adds_special_tokens: bool) -> list[list[Token]]:
        tokenizer = self._tokenizer_of(spec)
        encodings = tokenizer.encode_batch(texts, add_special_tokens=adds_special_tokens and spec.adds_special_tokens)
        return [_tokens(encoding, text) for encoding, text in zip(encodings, texts, strict=True)]

    def _texts_of(self, spec: ModelSpec, request: DecodeRequest) -> list[str]:
        tokenizer = self._tokenizer_of(spec)
        return [tokenizer.decode(ids, skip_special_tokens=request.skips_special_tokens) for ids in request.lists]

    def _tokenizer_of(self, spec: ModelSpec) -> Tokenizer:
        found = self._tokenizers.get(spec.path)
        if found is None:
            found = Tokenizer.from_file(str(spec.path / "tokenizer.json"))
            found.no_truncation()
            found.no_padding()
            self._tokenizers[spec.path] = found
        return found


def _tokens(encoding: Encoding, text: str) -> list[Token]:
    """With the places in bytes of the text; the characters before each are counted once."""
    starts = [0]
    for character in text:
        starts.append(starts[-1] + len(character.encode()))
    tokens = []
    given = zip(encoding.ids, encoding.tokens, encoding.offsets, encoding.special_tokens_mask, strict=True)
    for number, token, (start, stop), is_special in given:
        if is_special:
            tokens.append(Token(number, token, True, None, None))
        else:
            tokens.append(Token(number, text[start:stop], False, starts[start], starts[stop]))
    return tokens
