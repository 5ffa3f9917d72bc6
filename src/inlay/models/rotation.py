"""What config.json says of heads and of their rotation, in the words of every family that rotates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from inlay.errors import ModelError
from inlay.models.forward import require

UNSAID_THETA = 10_000.0


def heads_of(config: Mapping[str, Any]) -> tuple[int, int, int]:
    """Heads, kv_heads, and the width of a head, which is hidden_size / heads unless the config says another."""
    heads = config["num_attention_heads"]
    kv_heads = config.get("num_key_value_heads") or heads
    return heads, kv_heads, int(config.get("head_dim") or config["hidden_size"] // heads)


def theta_of(config: Mapping[str, Any], *stretched: str) -> float:
    """The base of the rotation, which configs have in two places; `stretched` are the kinds that a family knows."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    require(rope, "rope_type", "default", *stretched)
    require(rope, "type", "default", *stretched)
    return positive_theta(rope.get("rope_theta") or config.get("rope_theta") or UNSAID_THETA)


def thetas_by_layer(config: Mapping[str, Any], full: str, local: str) -> tuple[float, float]:
    """θ of layers that see all, and of those that see a window; `full` and `local` are the words of older configs."""
    rope = config.get("rope_parameters") or {}
    require(config, "rope_scaling", None)
    thetas = []
    for kind, word in (("full_attention", full), ("sliding_attention", local)):
        said = rope.get(kind) or {}
        require(said, "rope_type", "default")
        thetas.append(positive_theta(said.get("rope_theta") or config[word]))
    return thetas[0], thetas[1]


def layers_with_window(config: Mapping[str, Any], is_full: Callable[[int], bool]) -> list[bool]:
    """Of each layer, does it see a window only? `is_full` says it by number for configs that do not list them."""
    count = config["num_hidden_layers"]
    kinds = config.get("layer_types")
    if kinds is None:
        return [not is_full(number) for number in range(count)]
    if len(kinds) != count or not set(kinds) <= {"full_attention", "sliding_attention"}:
        raise ModelError(f"config.json: layer_types={kinds!r} does not say full or sliding attention of {count} layers")
    return [kind == "sliding_attention" for kind in kinds]


def positive_theta(said: float) -> float:
    theta = float(said)
    if theta <= 0:
        raise ModelError(f"config.json: rope_theta must be positive, not {theta}")
    return theta
