"""A part of a model for each of several devices: tensor parallelism as Megatron-LM has it (Shoeybi et al. 2019).

In: a config, and the tensors of a whole model. Out: the config of a part, the tensors of it, and products whose results
are summed over all parts. Attention's heads and the inner width are divided; tables and norms are whole everywhere, and
so is the residual stream: two sums a layer. Could be deleted, and then every device would need room for a whole model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from inlay.errors import ConfigError
from inlay.models.forward import ForwardPass
from inlay.models.rotation import heads_of
from inlay.ops.linear import Product
from inlay.ops.rows import Rows
from inlay.types import ModelSpec

FAMILIES = ("qwen3", "qwen2")  # whose linears have the names below
BY_OUTPUT = ("q_proj.", "k_proj.", "v_proj.", "gate_proj.", "up_proj.")  # each part gives some of the columns
BY_INPUT = ("o_proj.", "down_proj.")  # each part takes what its own columns gave, and the results are summed
SUMMED = (".o", ".down")  # the projections of these

Sum = Callable[[Tensor], None]  # in place, over all parts


@dataclass(frozen=True, slots=True)
class Shard:
    """Which part, of how many."""

    rank: int
    size: int

    def config_of(self, spec: ModelSpec) -> Mapping[str, Any]:
        """config.json of one part; `ConfigError` where a model cannot be divided so."""
        config, size = spec.config, self.size
        if spec.family not in FAMILIES:
            raise ConfigError(
                f"--tensor-parallel-size {size}: models of type {spec.family!r} are not divided, "
                f"only {' and '.join(FAMILIES)}: leave it out"
            )
        heads, kv_heads, head_dim = heads_of(config)
        counts = {
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "intermediate_size": config["intermediate_size"],
        }
        for name, count in counts.items():
            if count % size:
                raise ConfigError(f"--tensor-parallel-size {size} does not divide {name}={count} of {spec.name!r}")
        return {**config, **{name: count // size for name, count in counts.items()}, "head_dim": head_dim}

    def cut(self, name: str, tensor: Tensor) -> Tensor:
        """The part of a tensor of the whole model, by the name of its attribute."""
        if any(f".{one}" in name for one in BY_OUTPUT):
            return self._part(tensor, 0)
        if any(f".{one}" in name for one in BY_INPUT) and tensor.ndim > 1:
            return self._part(tensor, 1)
        return tensor

    def _part(self, tensor: Tensor, dimension: int) -> Tensor:
        width = tensor.shape[dimension] // self.size
        return tensor.narrow(dimension, self.rank * width, width).contiguous()


class SummedProduct:
    """A product of one part, summed over all."""

    def __init__(self, base: Product, total: Sum) -> None:
        self.takes = base.takes
        self._base = base
        self._sum = total

    def __call__(self, x: Rows) -> Rows:
        y = self._base(x).computed()
        self._sum(y.values)
        return y


def sum_products(model: ForwardPass, total: Sum) -> None:
    """Of a prepared part: have the products summed that give only a part of the sum."""
    for name, _, projection in model.projections():
        if name.endswith(SUMMED) and projection.product is not None:
            projection.product = SummedProduct(projection.product, total)
