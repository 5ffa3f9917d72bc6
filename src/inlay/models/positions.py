"""Where the positions of a checkpoint's sequences begin."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

OFFSET_BY_PADDING = frozenset({"roberta", "xlm-roberta"})  # model types whose positions begin after the padding id


FIRST_OF_MPNET = 2  # whatever its padding id is, by transformers' code


def first_position_of(config: Mapping[str, Any]) -> int:
    """0, or for RoBERTa and its kind one more than the padding id."""
    if config["model_type"] == "mpnet":
        return FIRST_OF_MPNET
    return int(config.get("pad_token_id", 1)) + 1 if config["model_type"] in OFFSET_BY_PADDING else 0
