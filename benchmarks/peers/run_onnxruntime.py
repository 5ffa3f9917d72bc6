"""ONNX Runtime: python run_onnxruntime.py CHECKPOINT float32|int8 (int8: its dynamic quantisation). Encoders only."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from answering import answer
from transformers import AutoModel

model = AutoModel.from_pretrained(sys.argv[1], dtype=torch.float32).eval()
folder = tempfile.TemporaryDirectory()
file = Path(folder.name) / "model.onnx"
ids = torch.ones(2, 8, dtype=torch.long)
axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length")}
torch.onnx.export(
    model,
    (),
    file,
    kwargs={"input_ids": ids, "attention_mask": torch.ones_like(ids)},
    dynamic_shapes={"input_ids": axes, "attention_mask": axes},
    output_names=["hidden"],
    dynamo=True,
)
if sys.argv[2] == "int8":
    from onnxruntime.quantization import QuantType, quantize_dynamic

    small = file.with_name("int8.onnx")
    quantize_dynamic(file, small, weight_type=QuantType.QInt8)
    file = small
session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])


def run(lists: list[list[int]]) -> object:
    given = np.array(lists, dtype=np.int64)
    return session.run(None, {"input_ids": given, "attention_mask": np.ones_like(given)})[0].mean(axis=1)


answer(run, model.config.vocab_size)
