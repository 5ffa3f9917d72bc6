"""BGE-M3's three outputs, beside FlagEmbedding's formulas on transformers' hidden states."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import make_bge_m3, text_of
from references import load_reference
from tokenizers import Tokenizer

from inlay import AsyncEmbedder, Embedder, InvalidInput, ModelError
from inlay.library.runtime import RowResults
from inlay.models.spec import read_spec
from inlay.requests import EmbedOptions
from inlay.types import COLBERT, DENSE, SPARSE, TOKEN_EMBEDDINGS, FloatArray

# The special token inside a text counts no more than around it, and "zebra" is not in the vocabulary.
TEXTS = [text_of(length, length) for length in (1, 2, 9, 60, 200)] + ["the way the water", "hello zebra </s> world"]
UNUSED = {0, 1, 2, 3}  # <s>, <pad>, </s>, <unk>


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bge_m3(tmp_path_factory.mktemp("bge") / "tiny-m3")


@pytest.fixture(scope="module")
def embedder(path: Path) -> Iterator[Embedder]:
    with Embedder(str(path), dtype="float32") as made:
        yield made


def reference(path: Path, text: str) -> tuple[FloatArray, dict[int, float], FloatArray]:
    """FlagEmbedding 1.4.2: `_dense_embedding`, `_sparse_embedding`, `_process_token_weights`, `_colbert_embedding`."""
    ids = Tokenizer.from_file(str(path / "tokenizer.json")).encode(text).ids
    heads = [torch.load(path / f"{kind}_linear.pt", weights_only=True) for kind in ("sparse", "colbert")]
    (sparse, colbert) = ({name: tensor.float() for name, tensor in head.items()} for head in heads)
    with torch.inference_mode():
        hidden = load_reference(path)(ids)
        weights = torch.relu(torch.nn.functional.linear(hidden, **sparse))[:, 0].tolist()
        rows = torch.nn.functional.linear(hidden[1:], **colbert)
    lexical: dict[int, float] = {}
    for number, weight in zip(ids, weights, strict=True):
        if number not in UNUSED and weight > lexical.get(number, 0.0):
            lexical[number] = weight
    normalised = torch.nn.functional.normalize(rows, dim=1).numpy()
    return torch.nn.functional.normalize(hidden[0], dim=0).numpy(), lexical, normalised


def test_all_three_are_flagembeddings(embedder: Embedder, path: Path) -> None:
    found = embedder.embed_outputs(TEXTS)
    assert embedder.spec.outputs == (DENSE, SPARSE, COLBERT, TOKEN_EMBEDDINGS)
    for index, text in enumerate(TEXTS):
        dense, lexical, rows = reference(path, text)
        assert found.dense[index] @ dense >= 0.99999
        assert found.sparse[index].indices.tolist() == sorted(lexical)
        np.testing.assert_allclose(found.sparse[index].values, [lexical[i] for i in sorted(lexical)], atol=1e-3)
        assert found.colbert[index].shape == rows.shape
        assert (found.colbert[index] * rows).sum(axis=1).min() >= 0.9999
    assert any(len(one.indices) for one in found.sparse), "some weights are above 0"


def test_what_is_given_does_not_depend_on_the_other_texts(embedder: Embedder) -> None:
    together = embedder.embed_outputs(TEXTS)
    for index, text in enumerate(TEXTS):
        alone = embedder.embed_outputs([text], (SPARSE, COLBERT))
        assert alone.dense.shape == (1, 0)
        assert np.array_equal(alone.sparse[0].indices, together.sparse[index].indices)
        np.testing.assert_allclose(alone.sparse[0].values, together.sparse[index].values, atol=1e-5)
        np.testing.assert_allclose(alone.colbert[0], together.colbert[index], atol=1e-5)


def test_after_all_three_any_of_them_is_a_hit(path: Path) -> None:
    with Embedder(str(path), dtype="float32", cache="memory://64MiB") as embedder:
        whole = embedder.embed_outputs(TEXTS)
        results = embedder.embed_rows(TEXTS)
        assert results.num_cached == len(TEXTS)
        assert np.array_equal(results.vectors, whole.dense)
        assert np.array_equal(embedder.embed_outputs(TEXTS, [COLBERT]).colbert[3], whole.colbert[3])


@pytest.mark.parametrize("url", ["memory://64MiB", "disk"])
def test_a_text_without_a_weight_is_a_hit_too(path: Path, tmp_path: Path, url: str) -> None:
    """Its output has no bytes."""
    cache = url if url != "disk" else f"disk://{tmp_path}/cache?size=4MiB"
    with Embedder(str(path), dtype="float32", cache=cache) as embedder:
        first = embedder.embed_outputs(["zebra"], [SPARSE])
        assert len(first.sparse[0].indices) == 0
        embedder.embed_outputs(["hello"], [SPARSE])  # behind which the first is written
        results = embedder._runtime.wait_for(embedder._runtime.embed_rows(["zebra"], EmbedOptions(outputs=(SPARSE,))))
    assert results.num_cached == 1


def test_token_vectors_are_cut_and_normalised_like_the_dense(embedder: Embedder) -> None:
    raw = embedder.embed_outputs(TEXTS[:3], (COLBERT,), normalize=False).colbert[2]
    with pytest.warns(UserWarning, match="not trained to be cut"):
        cut = embedder.embed_outputs(TEXTS[:3], (COLBERT,), dimensions=16).colbert[2]
    expected = raw[:, :16] / np.linalg.norm(raw[:, :16], axis=1, keepdims=True)
    np.testing.assert_allclose(cut, expected, atol=1e-6)


@pytest.mark.parametrize("dtype", ["bfloat16"])
def test_other_dtypes_stay_near(embedder: Embedder, path: Path, dtype: str) -> None:
    expected = embedder.embed_outputs(TEXTS)
    with Embedder(str(path), dtype=dtype) as rounded:
        found = rounded.embed_outputs(TEXTS)
    for one, other in zip(found.colbert, expected.colbert, strict=True):
        assert (one * other).sum(axis=1).min() > 0.995


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "least"), [("float32", 0.9999), ("bfloat16", 0.995), ("float16", 0.999)])
def test_a_gpu_gives_all_three(embedder: Embedder, path: Path, dtype: str, least: float) -> None:
    expected = embedder.embed_outputs(TEXTS)
    with Embedder(str(path), dtype=dtype, device="cuda") as on_gpu:
        found = on_gpu.embed_outputs(TEXTS)
    assert (found.dense * expected.dense).sum(axis=1).min() > least
    for one, other in zip(found.colbert, expected.colbert, strict=True):
        assert (one * other).sum(axis=1).min() > least
    for one, other in zip(found.sparse, expected.sparse, strict=True):
        held = dict(zip(one.indices.tolist(), one.values.tolist(), strict=True))
        for token, weight in zip(other.indices.tolist(), other.values.tolist(), strict=True):
            assert held.get(token, 0.0) == pytest.approx(weight, abs=0.02)


def test_kinds_that_a_model_does_not_give_are_refused(embedder: Embedder) -> None:
    with pytest.raises(InvalidInput, match="gives no 'tokens' output: it gives dense, sparse, colbert"):
        embedder.embed_outputs(["a"], ["tokens"])


@pytest.mark.parametrize("outputs", ["sparse", 3, [["sparse"]], []])
def test_outputs_that_are_no_list_of_names_are_refused(embedder: Embedder, outputs: object) -> None:
    with pytest.raises(InvalidInput, match="is not a list of names"):
        embedder.embed_outputs(["a"], outputs)  # type: ignore[arg-type]


def test_a_head_file_is_read_as_plain_tensors_of_its_shape_and_is_in_the_fingerprint(
    embedder: Embedder, path: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(path, tmp_path / "other")
    file = other / "sparse_linear.pt"
    torch.save({name: 2 * tensor for name, tensor in torch.load(file, weights_only=True).items()}, file)
    with Embedder(str(other), dtype="float32") as changed:
        assert changed.spec.fingerprint != embedder.spec.fingerprint
    torch.save({"weight": torch.zeros(2, 48), "bias": torch.zeros(2)}, file)
    for bad in ({"weight": 1, "bias": 2}, {"weight": torch.zeros(1, 48).long(), "bias": torch.zeros(1)}):
        with pytest.raises(ModelError, match=r"sparse_linear\.pt does not hold floats"):
            Embedder(str(other), dtype="float32")
        torch.save(bad, file)
    torch.save(Path("/"), file)
    for _ in range(2):
        with pytest.raises(ModelError, match=r"sparse_linear\.pt cannot be read as plain tensors \(\w+\): fetch"):
            Embedder(str(other), dtype="float32")
        file.write_bytes(b"")
    file.unlink()
    file.symlink_to(tmp_path / "gone")
    with pytest.raises(ModelError, match="a link to none"):
        read_spec(other, "m")
    file.unlink()
    assert read_spec(other, "m").outputs == (DENSE, COLBERT, TOKEN_EMBEDDINGS)


def test_an_int8_checkpoint_keeps_its_heads(path: Path, tmp_path: Path) -> None:
    from command import run_inlay

    done = run_inlay("quantize", str(path), "-o", str(tmp_path / "int8"), "--int8-cosine", "0.9")
    assert done.returncode == 0, done.stderr
    assert read_spec(tmp_path / "int8", "m").outputs == (DENSE, SPARSE, COLBERT, TOKEN_EMBEDDINGS)


def test_rows_have_their_other_outputs_and_a_bad_text_costs_only_itself(embedder: Embedder, path: Path) -> None:
    async def story() -> RowResults:
        async with AsyncEmbedder(str(path), dtype="float32") as made:
            return await made.embed_rows(["hello", "", "world way"], (DENSE, SPARSE))

    given, whole = asyncio.run(story()), embedder.embed_outputs(["hello", "world way"])
    assert (given.rows, list(given.errors)) == ([0, 2], [1])
    for place, vector in enumerate(whole.sparse):
        assert given.others[SPARSE][place]["id"].tolist() == vector.indices.tolist()
    with pytest.raises(InvalidInput, match="output_dtype is for vectors alone"):
        embedder.embed_rows(["a"], (DENSE, SPARSE), output_dtype="int8")
    assert embedder.embed_rows(["a"], output_dtype="int8").vectors.dtype == np.int8
