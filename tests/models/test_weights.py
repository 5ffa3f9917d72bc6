from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import make_checkpoint
from running import make_runner, run_packed
from safetensors.torch import load_file, save_file

from inlay.errors import ModelError

IDS = [[3, 4, 5, 6], [7, 8]]
FAMILY = "bert"


def rewrite(path: Path, change: dict[str, torch.Tensor | None]) -> None:
    """Change tensors of a checkpoint; None takes one out."""
    tensors = load_file(path / "model.safetensors")
    for name, tensor in change.items():
        if tensor is None:
            del tensors[name]
        else:
            tensors[name] = tensor
    save_file(tensors, path / "model.safetensors", {"format": "pt"})


def test_shards_give_the_same_vectors(tmp_path: Path) -> None:
    whole = make_checkpoint(tmp_path / "whole", FAMILY)
    parts = make_checkpoint(tmp_path / "parts", FAMILY, shard="60KB")
    assert (parts / "model.safetensors.index.json").exists()
    assert np.array_equal(run_packed(make_runner(whole), IDS), run_packed(make_runner(parts), IDS))


def test_plain_pickled_tensors_give_the_same_vectors(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path, "xlm-roberta")
    expected = run_packed(make_runner(path), IDS)
    torch.save(load_file(path / "model.safetensors"), path / "pytorch_model.bin")
    (path / "model.safetensors").unlink()
    assert np.array_equal(run_packed(make_runner(path), IDS), expected)


def test_pickled_code_is_not_run(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path / "model", FAMILY)
    (path / "model.safetensors").unlink()
    trace = tmp_path / "trace"

    class Malice:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (str(trace),)

    torch.save({"x": Malice()}, path / "pytorch_model.bin")
    with pytest.raises(ModelError, match="plain tensors"):
        make_runner(path)
    assert not trace.exists()


@pytest.mark.parametrize("prefix", ["bert.", "model."])
def test_wrappers_names_are_cut_off(tmp_path: Path, prefix: str) -> None:
    path = make_checkpoint(tmp_path, FAMILY if prefix == "bert." else "qwen3")
    expected = run_packed(make_runner(path), IDS)
    tensors = {prefix + name: tensor for name, tensor in load_file(path / "model.safetensors").items()}
    tensors["lm_head.weight"] = torch.zeros(2, 2)
    save_file(tensors, path / "model.safetensors", {"format": "pt"})
    assert np.array_equal(run_packed(make_runner(path), IDS), expected)


def test_missing_and_leftover_tensors_are_named(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path, FAMILY)
    rewrite(path, {"encoder.layer.0.output.dense.bias": None, "encoder.layer.0.adapter.weight": torch.zeros(2)})
    with pytest.raises(ModelError, match=r"missing: layers\.0\.down_dense\.bias; leftover: layers\.0\.adapter\.weight"):
        make_runner(path)


def test_a_tensor_of_the_wrong_shape_is_named(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path, FAMILY)
    rewrite(path, {"encoder.layer.1.output.dense.bias": torch.zeros(7)})
    with pytest.raises(ModelError, match=r"layers\.1\.down_dense\.bias.*\[7\] in the file, \[48\]"):
        make_runner(path)


def test_weights_that_overflow_in_half_precision_are_refused(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path, FAMILY)
    rewrite(path, {"encoder.layer.1.output.dense.bias": torch.full((48,), 1e6)})
    with pytest.raises(ModelError, match="overflows in float16"):
        make_runner(path, "float16")


def test_broken_files_are_named(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path, FAMILY)
    (path / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    with pytest.raises(ModelError, match="cannot be read"):
        make_runner(path)
    (path / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="has no weights"):
        make_runner(path)


def test_an_index_that_points_outside_or_to_nothing_is_refused(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path / "model", FAMILY)
    (path / "model.safetensors").rename(tmp_path / "other.safetensors")
    for name in ("../other.safetensors", "gone.safetensors"):
        (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
        with pytest.raises(ModelError, match="fetch it again"):
            make_runner(path)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_loading_needs_little_more_memory_than_the_weights(tmp_path: Path, dtype: str) -> None:
    """Peak resident memory, in a process of its own, over what torch and Inlay take without weights."""
    path = make_checkpoint(tmp_path, FAMILY, vocab_size=30_000, hidden_size=1024, intermediate_size=4096)
    size = (path / "model.safetensors").stat().st_size // (1 if dtype == "float32" else 2)
    program = f"""
import re
from pathlib import Path
from running import make_runner
import torch
torch.ops.mkldnn._reorder_linear_weight(torch.zeros(8, 8), None)  # oneDNN itself comes in here
status = Path("/proc/self/status")
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", status.read_text())[1]) * 1024
before = peak()
runner = make_runner(Path({str(path)!r}), {dtype!r})
touched = sum(float(p.sum(dtype=torch.float32)) for p in runner._model.parameters())
print(peak() - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=Path(__file__).parents[1], check=True, capture_output=True, text=True
    )
    largest = 30_000 * 1024 * 4  # one tensor at a time is held twice, in the file's dtype
    assert int(done.stdout) <= size * 1.15 + largest


@pytest.mark.parametrize(
    ("family", "change", "told"),
    [
        ("bert", {"num_attention_heads": 7}, "does not divide"),
        ("qwen3", {"num_key_value_heads": 3}, "does not divide"),
        ("qwen3", {"hidden_act": "tanh"}, "hidden_act"),
        ("qwen3", {"use_sliding_window": True}, "use_sliding_window"),
        ("qwen3", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6}}, "rope_type"),
        ("qwen3", {"rope_parameters": {"rope_type": "default", "rope_theta": -1}}, "rope_theta"),
        ("bert", {"intermediate_size": -4}, "intermediate_size"),
    ],
)
def test_a_config_that_the_forward_pass_cannot_do_is_refused(
    tmp_path: Path, family: str, change: dict[str, object], told: str
) -> None:
    path = make_checkpoint(tmp_path, family)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(ModelError, match=told):
        make_runner(path)


def test_weights_stored_as_integers_are_refused(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path, FAMILY)
    rewrite(path, {"encoder.layer.1.output.dense.bias": torch.zeros(48, dtype=torch.int8)})
    with pytest.raises(ModelError, match="quantised"):
        make_runner(path)
