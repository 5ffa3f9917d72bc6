"""What a corpus was made with: all that decides its vectors, the same for every part."""

from __future__ import annotations

from msgspec import Struct

from inlay.requests import EmbedOptions
from inlay.types import Truncate

FLOAT16 = "f16"


class Recipe(Struct, frozen=True, forbid_unknown_fields=True):
    """What decides the vectors of a corpus; the same for all its parts."""

    model: str  # as it was given: demo, a hub id or a directory
    fingerprint: str
    width: int
    max_tokens: int
    dtype: str  # that the model computed in
    store_dtype: str  # f32: canonical vectors, bit for bit; f16: unit vectors, for search alone
    prompt: str | None = None
    instruction: str | None = None
    truncate: Truncate = Truncate.NONE

    @property
    def options(self) -> EmbedOptions:
        return EmbedOptions(
            prompt_name=self.prompt, instruction=self.instruction, truncate=self.truncate, normalize=False
        )
