"""What config.json says of heads and of their rotation, in the words of every family that rotates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from inlay.errors import ModelError
from inlay.models.forward import require

UNSAID_THETA = 10_000.0


def heads_of(config: Mapping[str, Any]) -> tuple[int, int, int]:
    """Heads, kv_heads, and the width of a head, which is hidden_size / heads unless the config says another."""
    heads = config["num_attention_heads"]
    kv_heads = config.get("num_key_value_heads") or heads
    return heads, kv_heads, int(config.get("head_dim") or config["hidden_size"] // heads)


def encoder_heads_of(config: Mapping[str, Any]) -> tuple[int, int, int]:
    """The same of encoders, whose queries, keys and values have one width, which is the model's."""
    heads, kv_heads, head_dim = heads_of(config)
    if kv_heads != heads or heads * head_dim != config["hidden_size"]:
        raise ModelError(
            f"config.json: {heads} heads, {kv_heads} of them for keys, of width {head_dim} are not supported "
            f"(only as many of both as make hidden_size={config['hidden_size']})"
        )
    return heads, kv_heads, head_dim


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
        require(said, "type", "default")
        thetas.append(positive_theta(said.get("rope_theta") or config[word]))
    return thetas[0], thetas[1]


def layers_with_window(config: Mapping[str, Any], every: object, first: int) -> list[bool]:
    """Of each layer, does it see a window only? Configs that do not list them have a full one `every` so many.

    `first` is the number of the first full one, or −1 for the last of each group.
    """
    count = config["num_hidden_layers"]
    kinds = config.get("layer_types")
    if kinds is None:
        if not isinstance(every, int) or every < 1:
            raise ModelError(f"config.json: every {every!r} layers is not how often one may see all")
        return [bool((number - first) % every) for number in range(count)]
    if len(kinds) != count or not set(kinds) <= {"full_attention", "sliding_attention"}:
        raise ModelError(f"config.json: layer_types={kinds!r} does not say full or sliding attention of {count} layers")
    return [kind == "sliding_attention" for kind in kinds]


def positive_theta(said: float) -> float:
    theta = float(said)
    if theta <= 0:
        raise ModelError(f"config.json: rope_theta must be positive, not {theta}")
    return theta
