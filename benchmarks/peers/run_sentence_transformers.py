"""sentence-transformers: python run_sentence_transformers.py CHECKPOINT DTYPE."""

from __future__ import annotations

import sys

import torch
from answering import answer
from sentence_transformers import SentenceTransformer
from sentence_transformers.models import Pooling, Transformer
from transformers import AutoConfig

dtype = getattr(torch, sys.argv[2])
config = AutoConfig.from_pretrained(sys.argv[1])
body = Transformer(sys.argv[1], model_args={"dtype": dtype})
mode = "lasttoken" if config.model_type == "qwen3" else "mean"
model = SentenceTransformer(modules=[body, Pooling(config.hidden_size, pooling_mode=mode)], device="cpu").eval()


@torch.inference_mode()
def run(lists: list[list[int]]) -> object:
    ids = torch.tensor(lists)
    return model({"input_ids": ids, "attention_mask": torch.ones_like(ids)})["sentence_embedding"]


answer(run, config.vocab_size)
