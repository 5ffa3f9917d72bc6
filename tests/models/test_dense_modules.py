"""Dense modules behind pooling, as sentence-transformers runs them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import make_checkpoint, text_of, write_json
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import modules

from inlay import Embedder
from inlay.errors import ModelError
from inlay.models.spec import read_spec

TEXTS = [text_of(length, length) for length in (1, 5, 60)]


def with_dense(path: Path, family: str, *layers: modules.Dense) -> Path:
    """A checkpoint with dense modules, saved by sentence-transformers itself."""
    whole = SentenceTransformer(str(make_checkpoint(path / "plain", family)), device="cpu")
    parts = [whole[0], whole[1], *layers]
    SentenceTransformer(modules=parts, device="cpu").save(str(path / "dense"))
    return path / "dense"


def embeddinggemma(path: Path) -> Path:
    torch.manual_seed(1)
    none = torch.nn.Identity()
    return with_dense(
        path, "gemma3_text", modules.Dense(64, 96, False, none), modules.Dense(96, 64, False, none), modules.Normalize()
    )


def distiluse(path: Path) -> Path:
    torch.manual_seed(1)
    return with_dense(path, "distilbert", modules.Dense(48, 32, True, torch.nn.Tanh()))


@pytest.mark.parametrize("make", [embeddinggemma, distiluse])
def test_dense_modules_give_what_sentence_transformers_gives(tmp_path: Path, make: object) -> None:
    path = make(tmp_path)  # type: ignore[operator]
    expected = SentenceTransformer(str(path), device="cpu").encode(TEXTS)
    with Embedder(str(path), dtype="float32") as embedder:
        assert embedder.spec.width == expected.shape[1]
        np.testing.assert_allclose(embedder.embed(TEXTS), expected, rtol=0, atol=2e-6)


def test_other_weights_of_a_dense_module_are_another_fingerprint(tmp_path: Path) -> None:
    path = distiluse(tmp_path)
    with Embedder(str(path), dtype="float32") as embedder:
        first = embedder.spec.fingerprint
    from safetensors.torch import load_file, save_file

    file = path / "2_Dense" / "model.safetensors"
    save_file({name: 2 * tensor for name, tensor in load_file(file).items()}, file)
    with Embedder(str(path), dtype="float32") as embedder:
        assert embedder.spec.fingerprint != first


def test_an_int8_checkpoint_keeps_its_dense_modules(tmp_path: Path) -> None:
    from command import run_inlay

    path = distiluse(tmp_path)
    done = run_inlay("quantize", str(path), "-o", str(tmp_path / "int8"), "--int8-cosine", "0.9")
    assert done.returncode == 0, done.stderr
    with Embedder(str(path), dtype="float32") as whole, Embedder(str(tmp_path / "int8")) as quantised:
        vectors, near = whole.embed(TEXTS), quantised.embed(TEXTS)
    assert near.shape == vectors.shape
    assert (np.vecdot(vectors, near) / np.linalg.norm(vectors, axis=1) / np.linalg.norm(near, axis=1)).min() > 0.98


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"activation_function": "torch.nn.modules.activation.ReLU"}, "ReLU"),
        ({"in_features": 47}, "in_features=47"),
        ({"use_residual": True}, "sentence embedding"),
        ({"module_input_name": "token_embeddings"}, "sentence embedding"),
    ],
)
def test_other_dense_modules_are_refused(tmp_path: Path, said: dict[str, object], message: str) -> None:
    path = distiluse(tmp_path)
    file = path / "2_Dense" / "config.json"
    write_json(file, {**json.loads(file.read_text()), **said})
    with pytest.raises(ModelError, match=message):
        read_spec(path, "x")


def test_a_dense_module_of_another_shape_is_refused(tmp_path: Path) -> None:
    path = distiluse(tmp_path)
    file = path / "2_Dense" / "config.json"
    write_json(file, {**json.loads(file.read_text()), "out_features": 16})
    with pytest.raises(ModelError, match=r"2_Dense.*does not hold floats of the shapes"):
        Embedder(str(path), dtype="float32")
