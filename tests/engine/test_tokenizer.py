from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from inlay.engine.tokenizer import Tokenizer
from inlay.errors import ModelError
from inlay.models.prompts import prefix_of
from inlay.models.registry import QWEN3_TASK, QWEN3_TEMPLATE
from inlay.types import EmbedOptions, ModelSpec, Pooling, Truncate

PROMPT_IDS = [641, 1235, 25, 16246, 264, 3482, 2711, 3239, 11, 17179, 9760, 46769, 429, 4226, 279, 3239, 198, 2859, 25]
END = 151643


def qwen3_spec(path: Path) -> ModelSpec:
    query = QWEN3_TEMPLATE.format(instruction=QWEN3_TASK)
    return ModelSpec(
        name="qwen3",
        path=path,
        family="qwen3",
        width=1024,
        num_layers=28,
        vocab_rows=151669,
        max_tokens=32768,
        pooling=Pooling.LAST,
        normalize=True,
        prompts={"query": query, "document": ""},
        default_prompt=None,
        instruction_template=QWEN3_TEMPLATE,
        matryoshka=(32, 1024),
        config={},
    )


def test_qwen3_gives_the_golden_ids_with_its_end_token(qwen3_tokenizer: Path) -> None:
    tokenizer = Tokenizer(qwen3_tokenizer)
    texts = ["hello world", "The capital of China is Beijing."]
    hello, capital = (ids.tolist() for ids in tokenizer.encode_many(texts))
    assert hello == [14990, 1879, END]
    assert capital == [785, 6722, 315, 5616, 374, 26549, 13, END]


def test_the_query_prompt_of_qwen3_is_exact_to_the_token(qwen3_tokenizer: Path) -> None:
    prefix = prefix_of(qwen3_spec(qwen3_tokenizer), EmbedOptions(prompt_name="query"))
    (ids,) = Tokenizer(qwen3_tokenizer).encode_many([prefix])
    assert ids.tolist() == [*PROMPT_IDS, END]


def test_an_instruction_takes_the_place_of_the_task(qwen3_tokenizer: Path) -> None:
    spec = qwen3_spec(qwen3_tokenizer)
    assert prefix_of(spec, EmbedOptions(instruction="Find {x}")) == "Instruct: Find {x}\nQuery:"
    assert prefix_of(spec, EmbedOptions(instruction=QWEN3_TASK)) == spec.prompts["query"]


def test_cutting_qwen3_keeps_the_end_token(qwen3_tokenizer: Path) -> None:
    tokenizer = Tokenizer(qwen3_tokenizer)
    (ids,) = tokenizer.encode_many(["one two three four five six"])
    assert tokenizer.cut(ids, 4, Truncate.END).tolist() == [*ids[:3].tolist(), END]
    assert tokenizer.cut(ids, 4, Truncate.START).tolist() == ids[-4:].tolist()


def test_the_tokenizers_own_truncation_and_padding_are_dropped(demo_path: Path) -> None:
    short, long = Tokenizer(demo_path).encode_many(["hi", "word " * 300])
    assert len(short) == 3
    assert len(long) == 302


def test_cutting_keeps_the_special_tokens_on_both_sides(checkpoint: Callable[[str], Path]) -> None:
    tokenizer = Tokenizer(checkpoint("bert"))
    (ids,) = tokenizer.encode_many(["the of and to in"])
    first, *content, last = ids.tolist()
    assert tokenizer.cut(ids, 4, Truncate.END).tolist() == [first, *content[:2], last]
    assert tokenizer.cut(ids, 4, Truncate.START).tolist() == [first, *content[-2:], last]
    assert tokenizer.num_special_tokens == 2


def test_a_missing_or_broken_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no tokenizer\.json"):
        Tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match="cannot be read"):
        Tokenizer(tmp_path)
