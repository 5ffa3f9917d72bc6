"""Mistakes that a forward pass could make are seen by the comparison with the reference: none is lost in its bounds."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import make_checkpoint, write_json
from references import load_reference
from running import make_runner, run_packed
from safetensors.torch import load_file, save_file
from torch import Tensor

LISTS = [[(7 * place + length) % 150 + 4 for place in range(length)] for length in (3, 40, 40, 90, 200)]
NEAR = 0.999999  # of the test of families
Change = Callable[[dict[str, Any], dict[str, Tensor]], None]  # of config.json and the tensors


def cosine_of(path: Path, changed: Path, pooling: str) -> float:
    """Of what we give for a changed checkpoint to what the publisher's code gives for the right one, at worst."""
    hidden_of = load_reference(path)
    with torch.inference_mode():
        states = [hidden_of(ids) for ids in LISTS]
    rows = {"mean": lambda hidden: hidden.mean(0), "last": lambda hidden: hidden[-1], "cls": lambda hidden: hidden[0]}
    expected = torch.stack([rows[pooling](hidden) for hidden in states])
    found = torch.from_numpy(run_packed(make_runner(changed), LISTS))
    return float(torch.cosine_similarity(found, expected, dim=1).min())


def config(**said: object) -> Change:
    return lambda config, tensors: config.update(said)


def swapped(end: str) -> Change:
    """The halves of a product that gives a gate and what goes through it."""

    def change(config: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        for name in [name for name in tensors if name.endswith(end)]:
            tensors[name] = torch.cat(tensors[name].chunk(2)[::-1])

    return change


def exchanged(one: str, other: str) -> Change:
    def change(config: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        for name in [name for name in tensors if one in name]:
            second = name.replace(one, other)
            tensors[name], tensors[second] = tensors[second], tensors[name]

    return change


def zeroed(end: str) -> Change:
    def change(config: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        for name in [name for name in tensors if name.endswith(end)]:
            tensors[name] = torch.zeros_like(tensors[name])

    return change


def thetas(full: float, local: float) -> Change:
    kinds = {"full_attention": full, "sliding_attention": local}
    return config(
        rope_parameters={kind: {"rope_type": "default", "rope_theta": theta} for kind, theta in kinds.items()}
    )


MISTAKES: list[tuple[str, str, Change]] = [
    ("modernbert", "a window one wider", config(local_attention=26)),
    ("modernbert", "a window one narrower", config(local_attention=22)),
    ("modernbert", "one rotation for all layers", thetas(160_000.0, 160_000.0)),
    ("modernbert", "every layer sees all", config(layer_types=["full_attention"] * 4)),
    ("modernbert", "gate and up exchanged", swapped("mlp.Wi.weight")),
    ("gemma3_text", "a window one wider", config(sliding_window=26)),
    ("gemma3_text", "a window that is counted on one side", config(sliding_window=48)),
    ("gemma3_text", "one rotation for all layers", thetas(1e6, 1e6)),
    ("gemma3_text", "gate and up exchanged", exchanged("gate_proj", "up_proj")),
    ("gemma3_text", "another activation", config(hidden_activation="relu")),
    ("nomic_bert", "gate and up exchanged", exchanged("fc11", "fc12")),
    ("nomic_bert", "no token type", zeroed("token_type_embeddings.weight")),
    ("nomic_bert", "another rotation", config(rope_parameters={"rope_type": "default", "rope_theta": 10_000.0})),
    ("gte", "gate and up exchanged", swapped("up_gate_proj.weight")),
    ("gte", "no stretched rotation", config(rope_parameters={"rope_type": "default", "rope_theta": 40_000.0})),
    ("new", "half of the stretching", config(rope_scaling={"type": "ntk", "factor": 1.0}, rope_theta=160_000.0)),
    ("new", "no stretching", config(rope_scaling=None)),
    ("new", "no token type", zeroed("token_type_embeddings.weight")),
    ("mpnet", "no distances", zeroed("relative_attention_bias.weight")),
    ("jina_bert", "gate and up exchanged", swapped("mlp.gated_layers.weight")),
    ("qwen2", "no biases", zeroed("proj.bias")),
]


@pytest.mark.parametrize(("family", "mistake", "change"), MISTAKES, ids=[f"{row[0]}: {row[1]}" for row in MISTAKES])
def test_a_mistake_is_seen(
    checkpoint: Callable[[str], Path], tmp_path: Path, family: str, mistake: str, change: Change
) -> None:
    path, changed = checkpoint(family), tmp_path / "changed"
    shutil.copytree(path, changed)
    said, tensors = json.loads((path / "config.json").read_text()), load_file(path / "model.safetensors")
    change(said, tensors)
    write_json(changed / "config.json", said)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, changed / "model.safetensors")
    flags = json.loads((path / "1_Pooling" / "config.json").read_text())
    pooling = next(
        short
        for short, flag in (("mean", "mean_tokens"), ("last", "lasttoken"), ("cls", "cls_token"))
        if flags[f"pooling_mode_{flag}"]
    )
    assert cosine_of(path, path, pooling) >= NEAR
    assert cosine_of(path, changed, pooling) < NEAR - 1e-5


ROTATED = {"rope_theta": 40_000.0}
VARIANTS: list[tuple[str, str, dict[str, object]]] = [
    ("gte", "a linear factor in rope_scaling", {**ROTATED, "rope_scaling": {"type": "linear", "factor": 2.0}}),
    ("gte", "a factor that does not count", {"rope_parameters": {"rope_type": "default", **ROTATED, "factor": 2.0}}),
    ("gte", "no rotation said", {}),
    ("gemma3_text", "layers by a pattern", {"sliding_window_pattern": 2, "layer_types": None}),
    ("gemma3_text", "layers by the usual pattern", {"_sliding_window_pattern": 2, "layer_types": None}),
    ("modernbert", "layers by their distance", {"global_attn_every_n_layers": 2, "layer_types": None}),
    ("modernbert", "rotations in older words", {"rope_parameters": None, "local_rope_theta": 5_000.0}),
    ("modernbert", "an odd window", {"local_attention": 25}),
]


@pytest.mark.parametrize(("family", "variant", "said"), VARIANTS, ids=[f"{row[0]}: {row[1]}" for row in VARIANTS])
def test_configs_in_other_words_are_read_as_transformers_reads_them(
    checkpoint: Callable[[str], Path], tmp_path: Path, family: str, variant: str, said: dict[str, object]
) -> None:
    path = tmp_path / "other"
    shutil.copytree(checkpoint(family), path)
    own = json.loads((path / "config.json").read_text())
    if family == "gte":
        del own["rope_parameters"]
    whole = {**own, **said}
    write_json(path / "config.json", {word: value for word, value in whole.items() if value is not None})
    assert cosine_of(path, path, "cls" if family == "gte" else "mean") >= NEAR


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_a_bidirectional_checkpoint_sees_both_ways(tmp_path: Path, family: str) -> None:
    path = make_checkpoint(tmp_path, family, is_causal=False)
    assert json.loads((path / "config.json").read_text())["is_causal"] is False
    assert cosine_of(path, path, "last") >= NEAR
    causal = tmp_path / "causal"
    shutil.copytree(path, causal)
    write_json(causal / "config.json", {**json.loads((path / "config.json").read_text()), "is_causal": True})
    assert cosine_of(path, causal, "last") < 0.99
