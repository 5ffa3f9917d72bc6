"""Items of a request, and the result of items: the two ends of the service's story.

In: an `EmbedRequest` and the spec of its model. Out: items with their final text and key, or their error;
later, from items with vectors, an `EmbedResult`. Pure functions, no torch.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from inlay.cache.key import cache_keys
from inlay.errors import InvalidInput
from inlay.models.prompts import prefix_of
from inlay.serving.shaping import shape_vectors
from inlay.types import EmbedOptions, EmbedRequest, EmbedResult, Entry, Item, ModelSpec


def check_dimensions(spec: ModelSpec, options: EmbedOptions) -> None:
    """Refuse a cut that the model's vectors were not made for."""
    dimensions = options.dimensions
    if dimensions is None or dimensions == spec.width:
        return
    if options.allow_untrained_cut and 0 < dimensions < spec.width:
        return
    if spec.matryoshka is None:
        raise InvalidInput(
            f"model {spec.name!r} was not trained to be cut (no Matryoshka): "
            f"leave out dimensions, or send {spec.width}",
            param="dimensions",
        )
    smallest, largest = spec.matryoshka
    if not smallest <= dimensions <= largest:
        raise InvalidInput(
            f"dimensions must be from {smallest} to {largest} for model {spec.name!r}, not {dimensions}",
            param="dimensions",
        )


def make_items(spec: ModelSpec, request: EmbedRequest) -> list[Item]:
    """An item for each input, prompt in front; one that cannot have a key carries its error."""
    options = request.options
    prefix = prefix_of(spec, options)
    items = []
    for index, content in enumerate(request.inputs):
        item = Item(index, content, options.truncate, spec.max_tokens, prefix, priority=options.priority)
        try:
            if not content:
                raise InvalidInput("is empty: send a text, or leave it out")
            if prefix and not isinstance(content, str):
                raise InvalidInput("has token ids, before which no prompt can be put: send texts, or no prompt")
            if isinstance(content, str):
                item.content = prefix + content
            item.key, item.cut_key = cache_keys(spec.fingerprint, item.content, options.truncate, spec.max_tokens)
        except InvalidInput as error:
            item.error = error
        except UnicodeEncodeError:
            item.error = InvalidInput("is not valid Unicode (a lone surrogate): send well-formed text")
        except OverflowError:
            item.error = InvalidInput(f"has a token id out of range (0 to {spec.vocab_rows - 1})")
        items.append(item)
    return items


def take_entry(item: Item, found: Mapping[bytes, Entry]) -> bool:
    """Give an item the entry that answers it, if there is one among those that were found."""
    entry = found.get(item.key)
    if entry is None or entry.num_tokens > item.max_tokens:  # a server with a higher limit may have kept it
        entry = None if item.cut_key is None else found.get(item.cut_key)
    if entry is None:
        return False
    item.vector, item.num_tokens, item.is_truncated = entry.vector, entry.num_tokens, entry.is_truncated
    item.is_cached = True
    return True


def copy_answer(source: Item, target: Item) -> None:
    """What came back for a shared computation, for one of those who share it."""
    target.vector, target.error = source.vector, source.error
    target.num_tokens, target.is_truncated = source.num_tokens, source.is_truncated
    target.queue_seconds, target.model_seconds = source.queue_seconds, source.model_seconds


def make_result(spec: ModelSpec, options: EmbedOptions, items: list[Item]) -> EmbedResult:
    """The vectors of items that all have one, shaped as the options ask, with usage and times."""
    normalize = spec.normalize if options.normalize is None else options.normalize
    is_cut = options.dimensions is not None and options.dimensions < spec.width
    rows = [item.vector for item in items if item.vector is not None]
    canonical = np.array(rows, dtype=np.float32).reshape(len(rows), spec.width)
    return EmbedResult(
        model=spec.name,
        fingerprint=spec.fingerprint,
        vectors=shape_vectors(canonical, options.dimensions, normalize=normalize or is_cut),
        item_tokens=[item.num_tokens for item in items],
        cached_tokens=sum(item.num_tokens for item in items if item.is_cached),
        num_hits=sum(item.is_cached for item in items),
        truncated=[item.index for item in items if item.is_truncated],
        queue_seconds=max((item.queue_seconds for item in items), default=0.0),
        model_seconds=max((item.model_seconds for item in items), default=0.0),
    )
