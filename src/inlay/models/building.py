"""Builds a model from its checkpoint: the forward pass of its family, and its weights on the device.

In: a spec, a device and a dtype. Out: a forward pass that still has to be prepared. A config that describes no model
is a `ModelError` that names it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

import torch

from inlay.errors import ModelError
from inlay.models.forward import ForwardPass
from inlay.models.heads.head import Head
from inlay.models.lora import LowRank, merging, read_lora
from inlay.models.registry import forward_class
from inlay.models.sharding import Shard
from inlay.models.stored import StoredReport, expect_stored
from inlay.models.weights import load_weights
from inlay.types import ModelSpec


def build_model(
    spec: ModelSpec,
    files: list[Path],
    dtype: torch.dtype,
    device: torch.device,
    stored: StoredReport | None = None,
    heads: Collection[Head] = (),
    shard: Shard | None = None,
) -> ForwardPass:
    """The model of weight files, but for what heads read; `stored` is the report of a quantised checkpoint.

    With a `shard`, that part of it.
    """
    model = _without_weights(spec if shard is None else replace(spec, config=shard.config_of(spec)), dtype, stored)
    low_ranks: Mapping[str, LowRank] = {}
    if spec.adapter is not None:
        if stored is not None:
            raise ModelError(
                f"{spec.path} is an {stored.scheme} checkpoint, into which no adapter can be put: give the original"
            )
        low_ranks = read_lora(spec.adapter, model, heads)
    adapt = merging(low_ranks) if shard is None else shard.cut
    load_weights(model, files, device, lambda name: any(head.reads(name) for head in heads), adapt)
    return model.eval()


def count_products(spec: ModelSpec) -> int:
    """How many products a model has, which int8 and fp8 may compute."""
    return sum(1 for _ in _without_weights(spec, torch.float32, None).projections())


def _without_weights(spec: ModelSpec, dtype: torch.dtype, stored: StoredReport | None) -> ForwardPass:
    config = spec.path / "config.json"
    with torch.device("meta"):
        try:
            model = forward_class(spec.family)(spec.config, dtype)
            if stored is not None:
                expect_stored(model, stored)
        except KeyError as error:
            raise ModelError(f"{config} has no {error.args[0]!r}") from error
        except (TypeError, ValueError, RuntimeError) as error:
            raise ModelError(f"{config} does not describe a model: {error}") from error
    return model
