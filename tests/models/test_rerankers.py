"""Rerankers give the scores that their publishers' own code gives, for every layout, length, mix and order."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from checkpoints import text_of, write_json
from rerankers import BETWEEN_BRACKETS, CLASSIFIERS, LAYOUTS, make_reranker, reference_of
from safetensors.torch import load_file, save_file
from sentence_transformers import CrossEncoder
from tokenizers import Tokenizer

import inlay
from inlay import Embedder, InvalidInput, ModelError, Reranker
from inlay.engine.pair_tokenizer import make_pair_tokenizer
from inlay.library.rank_verification import verify_reranker
from inlay.models.ranking import first_part
from inlay.models.spec import read_spec
from inlay.ops.int8 import can_multiply_bytes
from inlay.types import SCORES, Pair, Task, Truncate

QUERY = text_of(4, seed=9)
DOCUMENTS = [text_of(length, seed=length) for length in (1, 2, 7, 20, 61, 150, 3, 300)]


@pytest.fixture(scope="module", params=LAYOUTS)
def layout(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def path(layout: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_reranker(tmp_path_factory.mktemp("rerankers") / layout, layout)


@pytest.fixture(scope="module")
def reranker(path: Path) -> Iterator[Reranker]:
    with Reranker(str(path), dtype="float32", cache="none") as made:
        yield made


def logits_of(reranker: Reranker, query: str, documents: list[str], **arguments: object) -> list[float]:
    """In the order of the documents."""
    ranked = reranker.rank(query, documents, raw_scores=True, **arguments)  # type: ignore[arg-type]
    return [one.score for one in sorted(ranked, key=lambda one: one.index)]


def test_it_is_known_for_what_it_is(path: Path) -> None:
    spec = read_spec(path, "some-model")
    assert (spec.task, spec.outputs) == (Task.RANK, (SCORES,))
    with pytest.raises(ModelError, match="is a reranker: use Reranker"):
        Embedder(str(path))


def test_scores_are_the_references(reranker: Reranker, path: Path, layout: str) -> None:
    expected = reference_of(path, layout)(QUERY, DOCUMENTS)
    assert np.ptp(expected) > 0.1, "the documents can be told apart"
    np.testing.assert_allclose(logits_of(reranker, QUERY, DOCUMENTS), expected, atol=1e-4)
    ranked = reranker.rank(QUERY, DOCUMENTS)
    assert [one.index for one in ranked] == sorted(range(len(DOCUMENTS)), key=lambda index: -expected[index])
    for one in ranked:
        assert one.score == pytest.approx(1 / (1 + math.exp(-expected[one.index])), abs=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "near"), [("float32", 1e-3), ("bfloat16", 0.1)])
def test_a_gpu_gives_the_references_scores(path: Path, layout: str, dtype: str, near: float) -> None:
    expected = reference_of(path, layout)(QUERY, DOCUMENTS)
    with Reranker(str(path), dtype=dtype, device="cuda", cache="none") as on_gpu:
        for _ in range(3):  # a beginning that all share is seen, kept and used
            np.testing.assert_allclose(logits_of(on_gpu, QUERY, DOCUMENTS), expected, atol=near)


def test_scores_do_not_depend_on_the_other_documents(reranker: Reranker) -> None:
    together = logits_of(reranker, QUERY, DOCUMENTS)
    turned = logits_of(reranker, QUERY, DOCUMENTS[::-1])[::-1]
    alone = [logits_of(reranker, QUERY, [document])[0] for document in DOCUMENTS]
    np.testing.assert_allclose(turned, together, atol=1e-5)
    np.testing.assert_allclose(alone, together, atol=1e-5)


def test_special_tokens_in_a_text_are_plain_text(reranker: Reranker, layout: str) -> None:
    """No document can end its turn, or its segment."""
    token = "[SEP]" if layout in BETWEEN_BRACKETS else "</s>" if layout in CLASSIFIERS else "<|im_end|>"
    special = _id_of(reranker, token)
    number = _ids_of(reranker, "hello world").count(special)
    assert _ids_of(reranker, f"hello {token} world").count(special) == number
    assert _ids_of(reranker, "hello world", query=f"a {token} b").count(special) == number


def _ids_of(reranker: Reranker, document: str, query: str = QUERY) -> list[int]:
    spec = reranker.spec
    assert spec.ranking is not None
    pair = Pair(first_part(spec, query, None), document)
    return make_pair_tokenizer(spec.path, spec.ranking).encode(pair, 500, Truncate.NONE).ids.tolist()


def _id_of(reranker: Reranker, token: str) -> int:
    return int(Tokenizer.from_file(str(reranker.spec.path / "tokenizer.json")).token_to_id(token))


def test_too_long_documents_are_refused_cut_or_scored_by_their_best_part(
    reranker: Reranker, path: Path, layout: str
) -> None:
    long = text_of(1200, seed=5)
    documents = [text_of(5), long]
    with pytest.raises(inlay.ContextLengthExceeded, match=r"documents\[1\] has .*long_documents"):
        reranker.rank(QUERY, documents)
    cut = logits_of(reranker, QUERY, documents, long_documents="truncate")
    words = long.split()
    room = reranker.spec.max_tokens - len(_ids_of(reranker, "x")) + 1
    expected = reference_of(path, layout)(QUERY, [documents[0], " ".join(words[:room])])
    np.testing.assert_allclose(cut, expected, atol=1e-4)
    best = logits_of(reranker, QUERY, documents, long_documents="best_chunk")
    quarters = [" ".join(words[start : start + 300]) for start in range(0, 1200, 300)]
    assert best[0] == pytest.approx(cut[0], abs=1e-5)
    assert best[1] >= min(logits_of(reranker, QUERY, quarters)) - 1e-4


@pytest.mark.parametrize("long_documents", ["refuse", "truncate", "best_chunk"])
def test_a_query_that_leaves_no_room_is_told_of(reranker: Reranker, layout: str, long_documents: str) -> None:
    """Two segments share the room where they are cut; a body whose document is gone would score nothing."""
    if long_documents == "truncate" and layout in CLASSIFIERS:
        assert len(reranker.rank(text_of(600), DOCUMENTS, long_documents=long_documents)) == len(DOCUMENTS)
        return
    with pytest.raises(inlay.QueryTooLong, match="the query leaves no room") as raised:
        reranker.rank(text_of(600), [text_of(3000), "a"], long_documents=long_documents)
    assert raised.value.param == "query"


@pytest.mark.parametrize("context_length", [4, 5, 6, 8, 12])
def test_parts_that_never_fit_end_too(tmp_path: Path, context_length: int) -> None:
    path = make_reranker(tmp_path / "m", "bert")
    with Reranker(str(path), context_length=context_length, cache="none") as reranker:
        try:
            ranked = reranker.rank("hello", ["world people water oil"], long_documents="best_chunk")
        except (inlay.QueryTooLong, inlay.ContextLengthExceeded):
            ranked = []
    assert len(ranked) == (context_length > 4)


@pytest.mark.parametrize("dtype", ["bfloat16", *(["int8"] if can_multiply_bytes() else [])])
def test_other_dtypes_stay_near(path: Path, layout: str, dtype: str) -> None:
    expected = np.array(reference_of(path, layout)(QUERY, DOCUMENTS))
    with Reranker(str(path), dtype=dtype, cache="none", int8_cosine=0.99) as rounded:
        found = np.array(logits_of(rounded, QUERY, DOCUMENTS))
    assert np.abs(found - expected).max() < 0.1 * np.ptp(expected) + 0.05


def test_instructions_are_for_models_that_take_them(reranker: Reranker, layout: str) -> None:
    if layout in CLASSIFIERS:
        with pytest.raises(InvalidInput, match="takes no instructions"):
            reranker.rank(QUERY, DOCUMENTS, instruction="find the word")
    else:
        other = logits_of(reranker, QUERY, DOCUMENTS, instruction="find the word")
        assert np.abs(np.array(other) - logits_of(reranker, QUERY, DOCUMENTS)).max() > 1e-3


@pytest.mark.parametrize("family", CLASSIFIERS)
def test_a_classifier_of_several_labels_is_refused(tmp_path: Path, family: str) -> None:
    path = make_reranker(tmp_path / "m", family, num_labels=3)
    with pytest.raises(ModelError, match="3 labels"):
        read_spec(path, "m")


def test_segment_types_are_left_out_where_the_tokenizer_gives_none(tmp_path: Path) -> None:
    path = make_reranker(tmp_path / "m", "bert")
    with Reranker(str(path), dtype="float32", cache="none") as reranker:
        with_types = logits_of(reranker, QUERY, DOCUMENTS)
    about = msgspec.json.decode((path / "tokenizer_config.json").read_bytes())
    write_json(path / "tokenizer_config.json", {**about, "model_input_names": ["input_ids", "attention_mask"]})
    expected = CrossEncoder(str(path), device="cpu").predict(
        [(QUERY, document) for document in DOCUMENTS], activation_fn=lambda logits: logits
    )
    with Reranker(str(path), dtype="float32", cache="none") as reranker:
        found = logits_of(reranker, QUERY, DOCUMENTS)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert np.abs(np.array(found) - with_types).max() > 0.1


def test_segment_types_are_left_out_where_the_model_has_one(tmp_path: Path) -> None:
    """Whatever the tokenizer's template says."""
    path = make_reranker(tmp_path / "m", "roberta")
    about = msgspec.json.decode((path / "tokenizer_config.json").read_bytes())
    write_json(path / "tokenizer_config.json", {key: about[key] for key in about.keys() - {"model_input_names"}})
    tokenizer = msgspec.json.decode((path / "tokenizer.json").read_bytes())
    parts = [part.get("Sequence", {}) for part in tokenizer["post_processor"]["pair"]]
    (second,) = [part for part in parts if part.get("id") == "B"]
    second["type_id"] = 1
    with Reranker(str(path), dtype="float32", cache="none") as reranker:
        expected = logits_of(reranker, QUERY, DOCUMENTS)
    write_json(path / "tokenizer.json", tokenizer)
    with Reranker(str(path), dtype="float32", cache="none") as reranker:
        assert logits_of(reranker, QUERY, DOCUMENTS) == expected


@pytest.mark.parametrize("family", CLASSIFIERS)
def test_cross_encoders_give_what_sentence_transformers_does_also_where_both_are_cut(
    tmp_path: Path, family: str
) -> None:
    path = make_reranker(tmp_path / "m", family)
    texts = [(text_of(a, seed=a), text_of(b, seed=b)) for a, b in ((3, 700), (400, 600), (600, 100), (255, 254))]
    reference = CrossEncoder(str(path), device="cpu", max_length=512)
    expected = reference.predict(texts, activation_fn=lambda logits: logits)
    with Reranker(str(path), dtype="float32", cache="none") as reranker:
        found = [logits_of(reranker, query, [text], long_documents="truncate")[0] for query, text in texts]
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_verify_compares_cross_encoders_with_sentence_transformers(reranker: Reranker, layout: str) -> None:
    findings = {finding.check: finding.has_passed for finding in verify_reranker(reranker)}
    assert findings.pop("scores of sentence-transformers in float32") is (True if layout in CLASSIFIERS else None)
    assert all(findings.values())


@pytest.mark.parametrize("layout", ["bert", "gte"])
def test_pooling_of_the_classifier_is_a_word_of_modernbert_alone(tmp_path: Path, layout: str) -> None:
    path = make_reranker(tmp_path / "m", layout)
    config = msgspec.json.decode((path / "config.json").read_bytes())
    write_json(path / "config.json", {**config, "classifier_pooling": "mean"})
    with Reranker(str(path), dtype="float32", cache="none") as reranker:
        np.testing.assert_allclose(
            logits_of(reranker, QUERY, DOCUMENTS), reference_of(path, layout)(QUERY, DOCUMENTS), atol=1e-4
        )


def test_a_jina_reranker_is_refused(tmp_path: Path) -> None:
    path = make_reranker(tmp_path / "m", "bert")
    config = msgspec.json.decode((path / "config.json").read_bytes())
    write_json(path / "config.json", {**config, "position_embedding_type": "alibi"})
    with pytest.raises(ModelError, match="'jina_bert'"):
        read_spec(path, "m")


def test_gte_in_its_vendors_layout_scores_the_same(tmp_path: Path) -> None:
    """gte-multilingual-reranker-base is of the type `new`, with the rotation in the vendor's words."""
    path = make_reranker(tmp_path / "m", "gte")
    with Reranker(str(path), dtype="float32", cache="none") as reranker:
        expected = logits_of(reranker, QUERY, DOCUMENTS)
    config = msgspec.json.decode((path / "config.json").read_bytes())
    rope = config.pop("rope_parameters")
    head_dim = config["hidden_size"] // config["num_attention_heads"]
    factor = rope["factor"] ** (head_dim / 2)
    said = {"rope_theta": rope["rope_theta"] / factor, "rope_scaling": {"type": "ntk", "factor": factor}}
    said |= {"model_type": "new", "architectures": ["NewForSequenceClassification"]}
    write_json(path / "config.json", {**config, **said})
    tensors = load_file(path / "model.safetensors")
    save_file({name.replace("gte.", "new.", 1): one for name, one in tensors.items()}, path / "model.safetensors")
    with Reranker(str(path), dtype="float32", cache="none") as reranker:
        np.testing.assert_allclose(logits_of(reranker, QUERY, DOCUMENTS), expected, atol=1e-5)


def test_a_head_that_is_not_there_is_named(tmp_path: Path) -> None:
    """An untied model whose table of outputs was lost has no scores; the table of inputs is none."""
    path = make_reranker(tmp_path / "m", "causal")
    config = msgspec.json.decode((path / "config.json").read_bytes())
    write_json(path / "config.json", {**config, "tie_word_embeddings": False})
    with pytest.raises(ModelError, match="no rows for yes and no"):
        Reranker(str(path))


@pytest.mark.parametrize("ids", [(-3, 1), (3, 3), (10**6, 1)])
def test_ids_that_are_no_two_tokens_are_refused(tmp_path: Path, ids: tuple[int, int]) -> None:
    path = make_reranker(tmp_path / "m", "logit_score")
    write_json(path / "1_LogitScore" / "config.json", {"true_token_id": ids[0], "false_token_id": ids[1]})
    with pytest.raises(ModelError, match=r"ids of two tokens|no rows for yes and no"):
        Reranker(str(path))


@pytest.mark.parametrize("architectures", [None, ["BertModel"], "BertForSequenceClassification"])
def test_a_reranker_whose_architecture_is_lost_is_no_embedding_model(tmp_path: Path, architectures: object) -> None:
    path = make_reranker(tmp_path / "m", "bert")
    config = msgspec.json.decode((path / "config.json").read_bytes())
    write_json(path / "config.json", {**config, "architectures": architectures})
    with pytest.raises(ModelError, match=r"leftover: classifier|is not a list of names"):
        Embedder(str(path))


def test_a_tokenizer_that_lost_its_template_is_refused(tmp_path: Path) -> None:
    path = make_reranker(tmp_path / "m", "bert")
    tokenizer = msgspec.json.decode((path / "tokenizer.json").read_bytes())
    write_json(path / "tokenizer.json", {**tokenizer, "post_processor": None})
    with pytest.raises(ModelError, match="no template for pairs"):
        Reranker(str(path))
