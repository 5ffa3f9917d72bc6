"""Makes sure that adapters read texts as their base does: trainers save a tokenizer beside an adapter.

In: a spec, and the tokenizer of its base. Out: nothing, or an error that names the adapter whose tokenizer is another:
it would need other ids, and its vectors would be wrong.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from inlay.engine.sample import SAMPLE
from inlay.engine.tokenizer import Tokenizer
from inlay.errors import ModelError
from inlay.types import ModelSpec

FILE = "tokenizer.json"


def check_tokenizers(spec: ModelSpec, tokenizer: Tokenizer) -> None:
    """Files may differ in what no id depends on: both are asked."""
    adapters = [own.adapter for own in (spec, *spec.adapters.values()) if own.adapter is not None]
    expected = (spec.path / FILE).read_bytes()
    for adapter in adapters:
        file = adapter / FILE
        if file.exists() and file.read_bytes() != expected and not _reads_alike(adapter, tokenizer):
            raise ModelError(
                f"{file} gives other tokens than the base's: an adapter with a tokenizer of its own is not supported. "
                "Remove the file if it does not belong there, or merge the adapter with peft"
            )


def _reads_alike(adapter: Path, base: Tokenizer) -> bool:
    own = Tokenizer(adapter)
    ids = zip(own.encode_many(SAMPLE), base.encode_many(SAMPLE), strict=True)
    return own.vocabulary == base.vocabulary and all(np.array_equal(one, other) for one, other in ids)
