"""OpenVINO through optimum-intel: python run_openvino.py CHECKPOINT bfloat16|int8 (dynamic activations)."""

from __future__ import annotations

import sys

import torch
from answering import answer
from optimum.intel import OVModelForFeatureExtraction, OVWeightQuantizationConfig

arguments = {
    "bfloat16": {"ov_config": {"INFERENCE_PRECISION_HINT": "bf16"}, "load_in_8bit": False},
    "int8": {
        "quantization_config": OVWeightQuantizationConfig(bits=8),
        "ov_config": {"DYNAMIC_QUANTIZATION_GROUP_SIZE": "128"},
    },
}[sys.argv[2]]
model = OVModelForFeatureExtraction.from_pretrained(sys.argv[1], export=True, **arguments)


def run(lists: list[list[int]]) -> object:
    ids = torch.tensor(lists)
    return model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[:, -1]


answer(run, model.config.vocab_size)
