from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from inlay.engine.tokenizer import PIECE, Tokenizer
from inlay.errors import ModelError
from inlay.models.prompts import prompt_of
from inlay.models.registry import QWEN3_TASK, QWEN3_TEMPLATE
from inlay.requests import EmbedOptions
from inlay.types import ModelSpec, Pooling, Truncate

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
    prefix = prompt_of(qwen3_spec(qwen3_tokenizer), EmbedOptions(prompt_name="query"))
    (ids,) = Tokenizer(qwen3_tokenizer).encode_many([prefix])
    assert ids.tolist() == [*PROMPT_IDS, END]


def test_an_instruction_takes_the_place_of_the_task(qwen3_tokenizer: Path) -> None:
    spec = qwen3_spec(qwen3_tokenizer)
    assert prompt_of(spec, EmbedOptions(instruction="Find {x}")) == "Instruct: Find {x}\nQuery:"
    assert prompt_of(spec, EmbedOptions(instruction=QWEN3_TASK)) == spec.prompts["query"]


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


WORDS = "The quick brown fox, 42 jumps; über den 7.5 lazy-dog!\n\tNaïve façade 今天天气很好 don't _x_ é ".split(" ")


def long_text(num_words: int, seed: int) -> str:
    chance = random.Random(seed)
    return "".join(chance.choice(WORDS) + chance.choice([" ", " ", " ", "  ", "\n", ""]) for _ in range(num_words))


@pytest.fixture(params=["demo", "qwen3", "tiny-bert", "tiny-xlm-roberta"])
def tokenizer(request: pytest.FixtureRequest, demo_path: Path, checkpoint: Callable[[str], Path]) -> Tokenizer:
    if request.param == "qwen3":
        return Tokenizer(request.getfixturevalue("qwen3_tokenizer"))
    return Tokenizer(demo_path if request.param == "demo" else checkpoint(request.param.removeprefix("tiny-")))


@pytest.mark.parametrize("seed", range(3))
def test_a_long_text_in_pieces_has_the_tokens_of_the_whole(tokenizer: Tokenizer, seed: int) -> None:
    text = long_text(60_000, seed)
    assert len(text) > 3 * PIECE
    (whole,) = tokenizer.encode_many([text])
    found, is_whole = tokenizer.encode_long(text, 1 << 30, Truncate.NONE)
    assert is_whole
    assert np.array_equal(found, whole)


@pytest.mark.parametrize("side", [Truncate.START, Truncate.END])
@pytest.mark.parametrize("most", [50, 20_000, 40_000])
def test_a_cut_of_a_long_text_is_the_cut_of_the_whole(tokenizer: Tokenizer, side: Truncate, most: int) -> None:
    text = long_text(60_000, 7)
    (whole,) = tokenizer.encode_many([text])
    found, is_whole = tokenizer.encode_long(text, most, side)
    assert len(found) > most
    assert not is_whole
    assert np.array_equal(tokenizer.cut(found, most, side, 9), tokenizer.cut(whole, most, side, 9))


@pytest.mark.parametrize("between", ["\n", "\t", "\u00a0", "  ", "\r\n\r\n", " , ", ". "])
@pytest.mark.parametrize("side", [Truncate.START, Truncate.END, Truncate.NONE])
def test_whatever_parts_the_words_pieces_have_the_tokens_of_the_whole(
    tokenizer: Tokenizer, between: str, side: Truncate
) -> None:
    chance = random.Random(3)
    text = between.join("".join(chance.choice("abcdeé") for _ in range(chance.randrange(1, 9))) for _ in range(60_000))
    (whole,) = tokenizer.encode_many([text])
    most = 256 if side is not Truncate.NONE else 1 << 30
    found, _ = tokenizer.encode_long(text, most, side)
    if side is Truncate.NONE:
        assert np.array_equal(found, whole)
    else:
        assert np.array_equal(tokenizer.cut(found, most, side), tokenizer.cut(whole, most, side))


@pytest.mark.parametrize(
    ("name", "between", "alphabet"),
    [("demo", "", "今天气很好我们去公园"), ("demo", ",", "abcde"), ("qwen3", ",", "abcde")],
)
def test_texts_without_blanks_are_parted_where_their_tokenizer_parts_them(
    request: pytest.FixtureRequest, demo_path: Path, name: str, between: str, alphabet: str
) -> None:
    tokenizer = Tokenizer(demo_path if name == "demo" else request.getfixturevalue("qwen3_tokenizer"))
    chance = random.Random(4)
    text = between.join("".join(chance.choice(alphabet) for _ in range(5)) for _ in range(60_000))
    (whole,) = tokenizer.encode_many([text])
    found, _ = tokenizer.encode_long(text, 256, Truncate.START)
    cut = (tokenizer.cut(ids, 256, Truncate.START) for ids in (found, whole))
    assert np.array_equal(*cut)


def test_one_word_of_any_sensible_length_is_one_word(demo_path: Path) -> None:
    tokenizer = Tokenizer(demo_path)
    found, is_whole = tokenizer.encode_long("a" * (3 * PIECE), 256, Truncate.NONE)
    assert is_whole
    assert np.array_equal(found, tokenizer.encode_many(["a" * (3 * PIECE)])[0])


def test_a_text_without_words_is_tokenised_in_pieces_too(tokenizer: Tokenizer) -> None:
    found, is_whole = tokenizer.encode_long("x" * (5 * PIECE), 1 << 30, Truncate.NONE)
    assert is_whole
    assert len(found) > 0


def test_tokenising_a_large_text_takes_little_memory_and_gives_it_back() -> None:
    """In a process of its own: 8 MB of short words, which took 1.9 GiB and kept 1.3."""
    program = """
import re, sys
from pathlib import Path
from inlay.engine.allocator import give_back_freed_memory
from inlay.engine.tokenizer import Tokenizer
from inlay.models.source import locate
from inlay.types import Truncate
read = lambda name: int(re.search(name + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024
tokenizer = Tokenizer(locate("demo"))
text = "a b " * 2_000_000
before = read("VmRSS")
for side in (Truncate.NONE, Truncate.START, Truncate.END):
    tokenizer.encode_long(text, 256, side)
tokenizer.encode_many(["a b " * 8000] * 64)
give_back_freed_memory()
print(read("VmHWM") - before, read("VmRSS") - before)
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    peak, kept = map(int, done.stdout.split())
    assert peak < 60
    assert kept < 30
