"""One test over every family: what our packed forward pass gives is what transformers gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import CONFIGS, STATIC, make_checkpoint, text_of
from references import load_reference
from running import are_same, make_runner, run_alone, run_packed
from tokenizers import Tokenizer

from inlay import Embedder
from inlay.models.registry import FAMILIES, JINA_BERT, forward_class
from inlay.models.spec import read_spec
from inlay.ops.int8 import can_multiply_bytes
from inlay.types import FloatArray

COSINE = {"float32": 0.999999, "bfloat16": 0.9999}
# Four norms a layer make more of what bfloat16 rounds; transformers' own bfloat16 is as far from its float32.
FURTHER = {("gemma3_text", "bfloat16"): 0.9997}
COMPONENT = {"float32": 1e-6, "bfloat16": 4e-3}
LENGTHS = {
    "one": [1],
    "short": [1, 2, 3, 4, 5],
    "equal": [20, 20, 20, 20],
    "mixed": [3, 250, 17, 1, 90, 17],
    "longest": [510, 509],
}
Checkpoint = Callable[[str], Path]


def ids_of(path: Path, lengths: list[int]) -> list[list[int]]:
    tokenizer = Tokenizer.from_file(str(next(path.rglob("tokenizer.json"))))
    texts = [text_of(length, seed) for seed, length in enumerate(lengths)]
    return [encoding.ids[:512] for encoding in tokenizer.encode_batch(texts)]


def reference(path: Path, lists: list[list[int]], pooling: str) -> FloatArray:
    """The publisher's code in float32."""
    hidden_of = load_reference(path)
    rows = []
    with torch.inference_mode():
        for ids in lists:
            hidden = hidden_of(ids)
            rows.append({"last": hidden[-1], "mean": hidden.mean(0), "cls": hidden[0]}[pooling].numpy())
    vectors = np.stack(rows)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_every_family_of_the_registry_has_a_tiny_checkpoint() -> None:
    assert FAMILIES.keys() == CONFIGS.keys()


@pytest.mark.parametrize("dtype", COSINE)
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS.keys())
def test_packed_vectors_equal_the_reference(
    checkpoint: Checkpoint, family: str, lengths: list[int], dtype: str
) -> None:
    path = checkpoint(family)
    lists = ids_of(path, lengths)
    vectors = run_packed(make_runner(path, dtype), lists)
    expected = reference(path, lists, FAMILIES[family].pooling)
    assert vectors.shape == (len(lists), expected.shape[1])
    assert vectors.dtype == np.float32
    assert (vectors * expected).sum(axis=1).min() >= FURTHER.get((family, dtype), COSINE[dtype])


@pytest.mark.parametrize("dtype", COMPONENT)
def test_a_vector_does_not_depend_on_its_neighbours(checkpoint: Checkpoint, family: str, dtype: str) -> None:
    runner = make_runner(checkpoint(family), dtype)
    lists = ids_of(checkpoint(family), [1, 2, 7, 7, 7, 15, 16, 17, 33, 100, 300])
    packed = run_packed(runner, lists)
    assert np.abs(packed - run_alone(runner, lists)).max() <= COMPONENT[dtype]
    assert np.abs(packed - run_packed(runner, lists[::-1])[::-1]).max() <= COMPONENT[dtype]


def test_a_long_input_goes_through_many_query_blocks(checkpoint: Checkpoint) -> None:
    path = checkpoint("qwen3")
    tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
    lists = [tokenizer.encode(text_of(length, length)).ids for length in (2047, 700, 3)]
    for dtype, bound in COSINE.items():
        vectors = run_packed(make_runner(path, dtype), lists)
        assert (vectors * reference(path, lists, "last")).sum(axis=1).min() >= bound


@pytest.mark.parametrize("dtype", COMPONENT)
def test_on_a_cpu_a_vector_is_bitwise_the_same_alone_and_in_any_batch(
    checkpoint: Checkpoint, family: str, dtype: str
) -> None:
    """Holds for widths that are multiples of 64 and kv heads of 4, with MKL and oneDNN, as on this kind of CPU."""
    if not torch.backends.mkl.is_available():
        pytest.skip("measured with MKL")
    runner = make_runner(checkpoint(family), dtype)
    lists = ids_of(checkpoint(family), [1, 2, 7, 7, 7, 15, 16, 17, 33, 100])
    packed = run_packed(runner, lists)
    assert are_same(packed, run_alone(runner, lists))
    assert are_same(packed, run_packed(runner, lists[::-1])[::-1])


@pytest.mark.parametrize("pooling", ["last", "mean", "cls"])
def test_pooling_follows_the_checkpoint(tmp_path: Path, family: str, pooling: str) -> None:
    if family == STATIC:
        pytest.skip("it has no pooling module")
    path = make_checkpoint(tmp_path, family, pooling=pooling)
    lists = ids_of(path, [5, 5, 30])
    expected = reference(path, lists, pooling)
    assert (run_packed(make_runner(path), lists) * expected).sum(axis=1).min() >= COSINE["float32"]


def test_positions_of_roberta_begin_after_the_padding_id(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path, "xlm-roberta", max_seq_length=None)
    assert read_spec(path, "x").max_tokens == 512  # of 514 rows, two are taken by the offset


def test_sentence_transformers_gives_the_same_from_texts(checkpoint: Checkpoint, family: str) -> None:
    from sentence_transformers import SentenceTransformer

    if family in ("new", JINA_BERT):
        pytest.skip("sentence-transformers runs these by code of the checkpoint's own")
    if family == "qwen2":
        pytest.skip("transformers gives every qwen2 the published ones' tokenizer, whatever the checkpoint has")
    path = checkpoint(family)
    texts = [text_of(length, length) for length in (1, 4, 4, 60, 200)]
    expected = SentenceTransformer(str(path), device="cpu").encode(texts)
    with Embedder(str(path), dtype="float32") as embedder:
        vectors = embedder.embed(texts)
    assert (vectors * expected).sum(axis=1).min() >= COSINE["float32"]
    assert np.abs(vectors - expected).max() <= 1e-5


def test_names_of_attributes_are_not_renamed_again(checkpoint: Checkpoint, family: str) -> None:
    """An int8 checkpoint is written under them, and loaded like any other."""
    with torch.device("meta"):
        model = forward_class(family)(read_spec(checkpoint(family), family).config, torch.float32)
    for name in model.state_dict():
        assert model.attribute_name(name) == name


@pytest.mark.skipif(not can_multiply_bytes(), reason="no int8 products here")
def test_int8_reaches_every_family_that_has_products(checkpoint: Checkpoint, family: str) -> None:
    if family == STATIC:
        pytest.skip("it has none")
    texts = [text_of(length, length) for length in (1, 4, 60, 300)]
    with Embedder(str(checkpoint(family)), dtype="float32") as embedder:
        expected = embedder.embed(texts)
    with Embedder(str(checkpoint(family)), dtype="int8", int8_cosine=0.98) as embedder:
        assert (embedder.embed(texts) * expected).sum(axis=1).min() >= 0.998


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_gpu_gives_the_reference_too(checkpoint: Checkpoint, family: str, dtype: str) -> None:
    path = checkpoint(family)
    lists = ids_of(path, [1, 20, 20, 20, 300])
    vectors = run_packed(make_runner(path, dtype, "cuda"), lists)
    expected = reference(path, lists, FAMILIES[family].pooling)
    assert (vectors * expected).sum(axis=1).min() >= COSINE[dtype]
