from __future__ import annotations

import json
from pathlib import Path

import pytest
from checkpoints import make_checkpoint, write_json
from running import make_runner

from inlay.errors import ModelError
from inlay.models.registry import QWEN3_TASK
from inlay.models.spec import read_spec
from inlay.types import Pooling, Task


def make_layout(path: Path, config: dict[str, object], **files: object) -> Path:
    """Config files alone: enough for a spec."""
    base = {
        "model_type": "bert",
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "vocab_size": 99,
        "max_position_embeddings": 512,
    }
    write_json(path / "config.json", {**base, **config})
    for name, content in files.items():
        write_json(path / f"{name}.json", content)
    return path


def test_a_sentence_transformers_checkpoint_is_read_whole(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path, "bert", pooling="cls", prompts={"query": "Q: "}, max_seq_length=128)
    spec = read_spec(path, "tiny")
    assert (spec.pooling, spec.max_tokens, spec.prompts["query"]) == (Pooling.CLS, 128, "Q: ")
    assert spec.normalize
    assert spec.matryoshka is None
    assert spec.instruction_template is None


def test_a_plain_checkpoint_takes_what_is_usual_in_its_family(tmp_path: Path) -> None:
    spec = read_spec(make_layout(tmp_path, {}), "plain")
    assert (spec.pooling, spec.max_tokens, spec.normalize) == (Pooling.MEAN, 512, True)


def test_qwen3_has_its_prompt_instructions_and_matryoshka_whatever_its_files_say(tmp_path: Path) -> None:
    spec = read_spec(make_layout(tmp_path, {"model_type": "qwen3"}), "Qwen3-Embedding-0.6B")
    assert spec.prompts == {"query": f"Instruct: {QWEN3_TASK}\nQuery:", "document": ""}
    assert spec.instruction_template == "Instruct: {instruction}\nQuery:"
    assert spec.matryoshka == (32, 64)
    assert spec.pooling is Pooling.LAST


@pytest.mark.parametrize(
    ("name", "query"),
    [
        ("intfloat/e5-small-v2", "query: "),
        ("intfloat/multilingual-e5-large", "query: "),
        ("BAAI/bge-small-en-v1.5", "Represent this sentence for searching relevant passages: "),
        ("nomic-ai/nomic-embed-text-v1.5", "search_query: "),
        (
            "intfloat/multilingual-e5-large-instruct",
            "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery: ",
        ),
        ("BAAI/bge-base-zh-v1.5", "为这个句子生成表示以用于检索相关文章："),
    ],
)
def test_prompts_that_only_model_cards_have_are_known_by_name(tmp_path: Path, name: str, query: str) -> None:
    assert read_spec(make_layout(tmp_path, {}), name).prompts["query"] == query


@pytest.mark.parametrize("name", ["e5-mistral-7b-instruct", "e5-large-instruct", "BAAI/bge-m3", "demo"])
def test_other_names_get_no_prompt_of_their_neighbours(tmp_path: Path, name: str) -> None:
    assert not read_spec(make_layout(tmp_path, {}), name).prompts


def test_an_instructed_query_prompt_makes_a_template_with_its_own_spaces(tmp_path: Path) -> None:
    prompts = {"query": "Instruct: Find passages\nQuery: "}
    path = make_layout(tmp_path, {}, config_sentence_transformers={"prompts": prompts})
    assert read_spec(path, "x").instruction_template == "Instruct: {instruction}\nQuery: "


def test_the_longest_input_is_the_smallest_of_the_limits(tmp_path: Path) -> None:
    path = make_layout(tmp_path, {}, sentence_bert_config={"max_seq_length": 9999})
    assert read_spec(path, "x").max_tokens == 512
    (path / "sentence_bert_config.json").unlink()
    write_json(path / "tokenizer_config.json", {"model_max_length": 100})
    assert read_spec(path, "x").max_tokens == 100
    write_json(path / "tokenizer_config.json", {"model_max_length": 10**30})
    assert read_spec(path, "x").max_tokens == 512
    assert read_spec(path, "x", context_length=300).max_tokens == 300
    with pytest.raises(ModelError, match="512 positions"):
        read_spec(path, "x", context_length=600)


@pytest.mark.parametrize(
    ("config", "files", "named"),
    [
        ({"model_type": "mamba"}, {}, "mamba"),
        ({"architectures": ["Qwen3ForSequenceClassification"]}, {}, "2 labels"),
        ({}, {"modules": [{"type": "sentence_transformers.models.Dense", "path": "2_Dense"}]}, "Dense"),
        ({}, {"1_Pooling/config": {"pooling_mode_max_tokens": True}}, "pooling_mode_max_tokens"),
        (
            {},
            {"1_Pooling/config": {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}},
            "pooling_mode_cls_token",
        ),
        ({}, {"1_Pooling/config": {"pooling_mode_mean_tokens": True, "include_prompt": False}}, "include_prompt"),
        ({}, {"sentence_bert_config": {"do_lower_case": True}}, "do_lower_case"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(
    tmp_path: Path, config: dict[str, object], files: dict[str, object], named: str
) -> None:
    path = make_layout(tmp_path, config)
    for name, content in files.items():
        write_json(path / f"{name}.json", content)
    with pytest.raises(ModelError, match=named):
        read_spec(path, "x")


def test_newer_pooling_files_are_read_too(tmp_path: Path) -> None:
    path = make_layout(tmp_path, {})
    write_json(path / "1_Pooling" / "config.json", {"pooling_mode": "lasttoken"})
    assert read_spec(path, "x").pooling is Pooling.LAST


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no config\.json"):
        read_spec(tmp_path, "x")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"config\.json cannot be read"):
        read_spec(tmp_path, "x")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ModelError, match="has no 'hidden_size'"):
        read_spec(tmp_path, "x")


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", {"hidden_size": None}),
        ("config.json", {"hidden_size": "abc"}),
        ("config.json", {"architectures": [1]}),
        ("config.json", {"max_position_embeddings": None}),
        ("config.json", {"matryoshka_dimensions": "abc"}),
        ("config.json", {"matryoshka_dimensions": [32, 128]}),
        ("modules.json", [{"path": "x"}]),
        ("1_Pooling/config.json", {"pooling_mode": 5}),
        ("sentence_bert_config.json", {"max_seq_length": "abc"}),
        ("sentence_bert_config.json", {"max_seq_length": -5}),
        ("config_sentence_transformers.json", {"prompts": ["a"]}),
        ("config_sentence_transformers.json", {"default_prompt_name": "haiku"}),
    ],
)
def test_configuration_that_makes_no_sense_is_a_model_error(tmp_path: Path, file: str, content: object) -> None:
    path = make_layout(tmp_path, content if file == "config.json" and isinstance(content, dict) else {})
    if file != "config.json":
        write_json(path / file, content)
    with pytest.raises(ModelError):
        read_spec(path, "x")


def test_a_generative_reranker_is_known_by_what_lies_beside_it(tmp_path: Path, shared: Path) -> None:
    config = {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]}
    for kind in ("reranker", "embedding"):
        make_layout(tmp_path / kind, config)
        (tmp_path / kind / "tokenizer.json").write_bytes(
            (shared / "qwen3-tokenizer" / kind / "tokenizer.json").read_bytes()
        )
    ranking = read_spec(tmp_path / "reranker", "a-model").ranking
    assert ranking is not None
    assert ranking.yes_no == (9693, 2152)
    assert read_spec(tmp_path / "embedding", "a-model").task is Task.EMBED
    write_json(tmp_path / "reranker" / "modules.json", [{"type": "sentence_transformers.models.Transformer"}])
    assert read_spec(tmp_path / "reranker", "a-model").task is Task.EMBED


@pytest.mark.parametrize("name", ["Qwen3-Reranker-0.6B", "my-reranker"])
def test_a_reranker_by_its_name_is_never_an_embedding_model(tmp_path: Path, name: str) -> None:
    path = make_layout(tmp_path, {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]})
    with pytest.raises(ModelError, match="is a reranker whose tokenizer has no"):
        read_spec(path, name)


@pytest.mark.parametrize(
    ("field", "value"),
    [("num_hidden_layers", 10**9), ("num_hidden_layers", 0), ("hidden_size", -3), ("vocab_size", "many")],
)
def test_sizes_that_no_checkpoint_has_are_refused_at_once(tmp_path: Path, field: str, value: object) -> None:
    with pytest.raises(ModelError, match=f"{field}=.* is not a number from 1 to"):
        read_spec(make_layout(tmp_path, {field: value}), "x")


NOMIC = {
    "model_type": "nomic_bert",
    "n_embd": 48,
    "n_head": 4,
    "n_inner": 96,
    "n_layer": 2,
    "n_positions": 8192,
    "max_trained_positions": 2048,
    "layer_norm_epsilon": 1e-12,
    "activation_function": "swiglu",
    "rotary_emb_base": 1000,
    "rotary_emb_fraction": 1.0,
    "rotary_scaling_factor": None,
    "type_vocab_size": 2,
    "vocab_size": 160,
}


def test_nomic_bert_is_read_in_its_own_words_and_stops_where_it_was_trained(tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", NOMIC)
    spec = read_spec(tmp_path, "nomic-ai/nomic-embed-text-v1.5")
    assert (spec.width, spec.num_layers, spec.max_tokens) == (48, 2, 2048)
    assert spec.config["rope_theta"] == 1000
    assert spec.matryoshka == (64, 48)
    assert spec.has_norm_before_cut
    assert read_spec(tmp_path, "nomic-ai/nomic-embed-text-v1").matryoshka is None


def test_a_bert_with_alibi_is_told_from_bert(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path, "jina_bert")
    assert json.loads((path / "config.json").read_text())["model_type"] == "bert"
    assert read_spec(path, "x").family == "jina_bert"


@pytest.mark.parametrize(
    ("family", "said", "message"),
    [
        ("gemma3_text", {"use_bidirectional_attention": False}, "use_bidirectional_attention"),
        ("gemma3_text", {"sliding_window": 257}, "saved again"),
        ("gemma3_text", {"query_pre_attn_scalar": 64}, "query_pre_attn_scalar"),
        ("nomic_bert", {"moe_every_n_layers": 2}, "moe_every_n_layers"),
        ("nomic_bert", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1000.0}}, "yarn"),
        ("new", {"rope_scaling": {"type": "ntk", "factor": 8.0, "mixed_b": 0.6}}, "rope_scaling"),
        ("modernbert", {"layer_types": ["full_attention"]}, "layer_types"),
        ("modernbert", {"layer_types": None, "global_attn_every_n_layers": 0}, "every 0 layers"),
        ("modernbert", {"head_dim": 32}, "of width 32"),
        ("modernbert", {"is_causal": True}, "is_causal"),
        ("modernbert", {"hidden_activation": "none"}, "hidden_activation"),
        (
            "modernbert",
            {"rope_parameters": {"full_attention": {"type": "linear", "factor": 8.0, "rope_theta": 1e4}}},
            "linear",
        ),
        ("nomic_bert", {"head_dim": 24}, "of width 24"),
        ("gte", {"num_key_value_heads": 2}, "2 of them for keys"),
        ("bert", {"is_causal": True}, "is_causal"),
        ("mpnet", {"relative_attention_num_buckets": 16}, "relative_attention_num_buckets"),
        ("jina_bert", {"feed_forward_type": "original"}, "feed_forward_type"),
    ],
)
def test_what_is_nearly_a_family_is_refused(tmp_path: Path, family: str, said: dict[str, object], message: str) -> None:
    path = make_checkpoint(tmp_path, family)
    write_json(path / "config.json", {**json.loads((path / "config.json").read_text()), **said})
    with pytest.raises(ModelError, match=message):
        make_runner(path)
