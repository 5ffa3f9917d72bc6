"""What a corpus was made with: all that decides its vectors, the same for every part."""

from __future__ import annotations

from msgspec import Struct

from inlay.requests import EmbedOptions
from inlay.types import DENSE, Truncate

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
    outputs: tuple[str, ...] = (DENSE,)  # the kinds that are kept
    adapter: str | None = None  # the directory of the adapter that is put into the model

    @property
    def others(self) -> tuple[str, ...]:
        """The kinds beside dense."""
        return tuple(kind for kind in self.outputs if kind != DENSE)

    @property
    def options(self) -> EmbedOptions:
        return EmbedOptions(
            prompt_name=self.prompt,
            instruction=self.instruction,
            truncate=self.truncate,
            normalize=False,
            outputs=self.outputs,
        )
