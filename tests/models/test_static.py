"""Static models: StaticEmbedding by sentence-transformers, Model2Vec by its own library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import STATIC, WORDS, make_checkpoint, make_tokenizer, text_of, write_json
from model2vec import StaticModel
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer

from inlay import Embedder, InvalidInput
from inlay.errors import ContextLengthExceeded, ModelError
from inlay.models.spec import read_spec

TEXTS = [text_of(length, length) for length in (1, 2, 9, 60)]


def make_model2vec(path: Path, dtype: torch.dtype, *, shared: bool, **config: object) -> Path:
    """Rows that tokens share and weigh, or one row for each token."""
    torch.manual_seed(0)
    tokenizer = make_tokenizer("bert")
    ids = tokenizer.get_vocab_size()
    rows = 40 if shared else ids
    table = torch.randint(-127, 128, (rows, 32)).to(dtype) if dtype == torch.int8 else torch.randn(rows, 32).to(dtype)
    tensors = {"embeddings": table}
    if shared:
        tensors |= {"mapping": torch.randint(0, rows, (ids,)), "weights": torch.rand(ids) + 0.1}
    path.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path / "model.safetensors")
    tokenizer.save(str(path / "tokenizer.json"))
    write_json(path / "config.json", config)
    return path


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int8])
@pytest.mark.parametrize("config", [{"normalize": True}, {"model_type": "model2vec", "normalize": False}, {}])
def test_model2vec_gives_what_its_library_gives(
    tmp_path: Path, dtype: torch.dtype, shared: bool, config: dict[str, Any]
) -> None:
    path = make_model2vec(tmp_path, dtype, shared=shared, **config)
    texts = [*TEXTS, "hello unheardof world", "unheardof way"]  # tokens that are not in the vocabulary go
    expected = StaticModel.from_pretrained(path).encode(texts).astype(np.float32)
    with Embedder(str(path)) as embedder:
        found = embedder.embed(texts)
    near = 2e-3 if dtype == torch.float16 else 1e-5
    np.testing.assert_allclose(found, expected, rtol=near, atol=near)


def test_a_text_without_a_known_token_is_refused_and_the_others_are_not(tmp_path: Path) -> None:
    """Its own library gives a zero vector, which is near to nothing and to everything."""
    path = make_model2vec(tmp_path, torch.float32, shared=False, normalize=True)
    with Embedder(str(path)) as embedder:
        with pytest.raises(InvalidInput, match=r"has no tokens"):
            embedder.embed(["hello", "unheardof"])
        assert embedder.embed("hello").any()


def test_model2vec_reads_512_tokens_unless_its_config_says_otherwise(tmp_path: Path) -> None:
    long = text_of(600)
    path = make_model2vec(tmp_path / "a", torch.float32, shared=False)
    with Embedder(str(path)) as embedder:
        with pytest.raises(ContextLengthExceeded, match="600 tokens"):
            embedder.embed(long)
        expected = StaticModel.from_pretrained(path, max_length=None).encode([text_of(512)])
        np.testing.assert_allclose(embedder.embed([long], truncate="end"), expected, rtol=1e-5, atol=1e-6)
    assert read_spec(make_model2vec(tmp_path / "b", torch.float32, shared=False, max_length=None), "b").max_tokens > 1e5


def test_prompts_beside_modules_json_go_before_the_texts_of_a_static_module(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path / "m", STATIC)
    said = {"prompts": {"query": "query passage "}, "default_prompt_name": "query"}
    write_json(path / "config_sentence_transformers.json", said)
    expected = SentenceTransformer(str(path), device="cpu").encode(TEXTS)
    with Embedder(str(path)) as embedder:
        np.testing.assert_allclose(embedder.embed(TEXTS), expected, rtol=1e-5, atol=1e-6)


def test_other_rows_are_another_model_and_a_missing_table_is_named(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path / "m", STATIC)
    assert read_spec(path, "m").max_tokens > len(WORDS)
    file = path / "0_StaticEmbedding" / "model.safetensors"
    save_file({"other": torch.zeros(3)}, file)
    with pytest.raises(ModelError, match=r"no tensor 'embedding\.weight'"):
        read_spec(path, "m")
    file.write_bytes(b"{")
    with pytest.raises(ModelError, match=r"model\.safetensors cannot be read"):
        read_spec(path, "m")
    file.unlink()
    with pytest.raises(ModelError, match=r"has no model\.safetensors"):
        read_spec(path, "m")


def test_a_tokenizers_own_truncation_is_the_limit_of_a_static_module(tmp_path: Path) -> None:
    """sentence-transformers cuts by it; here longer texts are refused, or cut as asked."""
    path = make_checkpoint(tmp_path / "m", STATIC)
    file = path / "0_StaticEmbedding" / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.enable_truncation(64)
    tokenizer.save(str(file))
    with Embedder(str(path)) as embedder:
        with pytest.raises(ContextLengthExceeded, match="64"):
            embedder.embed(text_of(100))
        expected = SentenceTransformer(str(path), device="cpu").encode([text_of(100)])
        np.testing.assert_allclose(embedder.embed([text_of(100)], truncate="end"), expected, rtol=1e-5, atol=1e-6)


def test_int8_has_nothing_to_gain_and_says_so(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no products"):
        Embedder(str(make_checkpoint(tmp_path / "m", STATIC)), dtype="int8")
