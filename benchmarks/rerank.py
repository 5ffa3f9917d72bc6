"""One query with many documents: the shared part of their prompts kept, run each time, and beside transformers.

Random weights of Qwen3-Reranker-0.6B's shape, a query of 10 words and 30 documents of 100, new in every round; the
contestants take turns. transformers runs the model alone, all documents in one batch, and computes no logits but those
that score. Also: the time of a request whose scores are all in memory. Prints a table and one JSON line.

    .venv/bin/python benchmarks/rerank.py --dtype int8
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from serving import print_table
from tokenizers import Tokenizer, models, pre_tokenizers

from inlay import Reranker
from inlay.bench.card import machine_card
from inlay.bench.shapes import SHAPES, make_checkpoint
from inlay.requests import RankRequest

SPECIALS = ["<|endoftext|>", "<unk>", "<|im_start|>", "<|im_end|>"]
WORDS = ["yes", "no", *(f"w{number}" for number in range(20_000))]


def make_reranker(folder: Path, shape: str) -> None:
    config = {**SHAPES[shape], "architectures": ["Qwen3ForCausalLM"], "tie_word_embeddings": True}
    make_checkpoint(folder, config)
    vocabulary = {word: place for place, word in enumerate([*SPECIALS, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(SPECIALS)
    tokenizer.save(str(folder / "tokenizer.json"))


class Reference:
    """transformers, a request as one batch of sequences of equal length."""

    def __init__(self, folder: Path, dtype: torch.dtype) -> None:
        self._model = transformers.AutoModel.from_pretrained(folder, dtype=dtype).eval()

    @torch.inference_mode()
    def rank(self, num_documents: int, num_tokens: int) -> None:
        ids = torch.randint(10, 20_000, (num_documents, num_tokens))
        hidden = self._model(input_ids=ids).last_hidden_state[:, -1].float()
        table = self._model.embed_tokens.weight[[4, 5]].float()
        (hidden @ (table[0] - table[1])).tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", default="qwen3-embedding-0.6b", choices=[name for name in SHAPES if "qwen3" in name])
    parser.add_argument("--dtype", default="int8")
    parser.add_argument("--documents", type=int, default=30)
    parser.add_argument("--words", type=int, default=100, help="of each document")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    generator = np.random.default_rng(0)

    def text(words: int) -> str:
        return " ".join(f"w{number}" for number in generator.integers(0, 20_000, words))

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_reranker(folder, options.shape)
        kept = Reranker(name, dtype=options.dtype, device="cpu", int8_cosine=0.9, cache="none")
        planner = kept._runtime.worker._engine.runner._planner  # type: ignore[union-attr]
        store = planner._prefixes
        references = {dtype: Reference(folder, getattr(torch, dtype)) for dtype in ("bfloat16", "float32")}

        def ours(prefixes: Any) -> Callable[[], None]:  # noqa: ANN401
            def run() -> None:
                planner._prefixes = prefixes
                kept.rank(text(10), [text(options.words) for _ in range(options.documents)])

            return run

        request = RankRequest(None, text(10), [text(options.words)])
        (tokens,) = kept._runtime.wait_for(kept._runtime.rank(request)).item_tokens
        contestants = {
            f"inlay {options.dtype}, shared part kept": ours(store),
            f"inlay {options.dtype}, each prompt whole": ours(None),
            **{
                f"transformers {dtype}": lambda reference=reference: reference.rank(options.documents, tokens)
                for dtype, reference in references.items()
            },
        }
        taken: dict[str, list[float]] = {name: [] for name in contestants}
        for number in range(options.rounds + 1):
            for contestant, run in contestants.items():
                began = time.perf_counter()
                run()
                if number:
                    taken[contestant].append(time.perf_counter() - began)
        kept.close()
        cached = time_cached(name, options.dtype, text, options.documents, options.words)
    rates = {name: options.documents / statistics.median(seconds) for name, seconds in taken.items()}
    first = next(iter(rates.values()))
    print_table(
        {n: {"documents/s": round(rate, 2), "first / this": round(first / rate, 2)} for n, rate in rates.items()}
    )
    print(f"all scores in memory: {cached:.2f} ms a request (P50, in the process)")
    print(f"{tokens} tokens a document")
    print(
        json.dumps(
            {"card": machine_card(), "tokens": tokens, "shape": options.shape, "rates": rates, "cached_ms": cached}
        )
    )


def time_cached(model: str, dtype: str, text: Callable[[int], str], num_documents: int, words: int) -> float:
    """P50 in ms of a request that the cache answers."""
    query, documents = text(10), [text(words) for _ in range(num_documents)]
    with Reranker(model, dtype=dtype, device="cpu", int8_cosine=0.9, cache="memory://64MiB") as reranker:
        reranker.rank(query, documents)
        taken = []
        for _ in range(300):
            began = time.perf_counter()
            reranker.rank(query, documents)
            taken.append(time.perf_counter() - began)
    return statistics.median(taken) * 1000


if __name__ == "__main__":
    main()
