"""`inlay eval` from the command line: the scores of sentence-transformers, in one table, one file and one drawing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr
from sentence_transformers import SentenceTransformer

PAIRS = [
    ("A man is playing a guitar.", "A man plays the guitar.", 4.9),
    ("A woman slices an onion.", "A woman is cutting an onion.", 4.5),
    ("A dog runs on grass.", "A cat sleeps on a sofa.", 0.8),
    ("The train is blue.", "A blue train stands in a museum.", 3.0),
    ("Prices fell on Monday.", "The weather was fine.", 0.1),
    ("A boy eats bread.", "A child is eating.", 3.4),
]


def evaluate(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "inlay", "eval", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)


def test_it_gives_the_scores_of_sentence_transformers(tmp_path: Path, demo_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text("".join(f"{first},{second},{score}\n" for first, second, score in PAIRS))
    told = ("--dtypes", "float32,int8", "--dimensions", "384,64", "--json", "rows.json", "--plot", "rows.png")
    done = evaluate("demo", "--on", "pairs.csv", *told, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "rows.json").read_bytes())
    assert [(row["dtype"], row["dimensions"]) for row in rows] == [
        *(("float32", 384), ("float32", 64)),
        *(("int8", 384), ("int8", 64)),
    ]
    reference = SentenceTransformer(str(demo_path), device="cpu")
    first, second, scores = zip(*PAIRS, strict=True)
    for row in rows[:2]:
        vectors = [reference.encode(list(texts))[:, : row["dimensions"]] for texts in (first, second)]
        cosines = [np.dot(a, b) / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(*vectors, strict=True)]
        assert row["scores"]["pairs Spearman"] == pytest.approx(spearmanr(cosines, scores).statistic)
    assert all(row["tokens_per_s"] > 0 and row["peak_bytes"] > 0 for row in rows)
    assert "float32" in done.stdout
    assert (tmp_path / "rows.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["demo", "--on", "nothing.csv"], "there is no such file"),
        (["demo", "--on", "pairs.csv", "--dimensions", "many"], "whole numbers"),
        (["demo", "--on", "pairs.csv", "--dimensions", "5000"], "5000"),
        (["/nowhere", "--on", "pairs.csv"], "not a directory"),
    ],
)
def test_mistakes_are_told(tmp_path: Path, arguments: list[str], told: str) -> None:
    (tmp_path / "pairs.csv").write_text("a,b,1\nc,d,2\n")
    done = evaluate(*arguments, folder=tmp_path)
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr
