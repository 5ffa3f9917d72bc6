"""Tiny adapters that peft itself makes, and what peft gives with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from references import Hidden
from torch import Tensor

ALL = "all-linear"


def make_adapter(
    path: Path, base: Path, *, seed: int = 1, as_causal_lm: bool = False, strength: float = 0.15, **config: Any
) -> Path:
    """An adapter with random weights, far from its base."""
    torch.manual_seed(seed)
    loader = transformers.AutoModelForCausalLM if as_causal_lm else transformers.AutoModel
    model = loader.from_pretrained(base, dtype=torch.float32)
    adapted = get_peft_model(model, LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": ALL, **config}))
    for name, parameter in adapted.named_parameters():
        if "lora_A" in name or "lora_B" in name:
            torch.nn.init.normal_(parameter, std=strength)
        elif "magnitude" in name:
            parameter.data *= 1 + 0.3 * torch.rand_like(parameter)
    adapted.save_pretrained(path, save_embedding_layers=False)
    return path


def load_adapted(base: Path, adapter: Path, *, as_causal_lm: bool = False) -> Hidden:
    """peft's, in float32, one sequence at a time."""
    loader = transformers.AutoModelForCausalLM if as_causal_lm else transformers.AutoModel
    model = PeftModel.from_pretrained(loader.from_pretrained(base, dtype=torch.float32), str(adapter)).eval()

    def hidden(ids: list[int]) -> Tensor:
        if as_causal_lm:
            states: Tensor = model(torch.tensor([ids]), output_hidden_states=True).hidden_states[-1][0]
        else:
            states = model(torch.tensor([ids])).last_hidden_state[0]
        return states

    return hidden
