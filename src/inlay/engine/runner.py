"""Runs packed batches on one device: the only place where a model, a device and a dtype meet.

In: a spec and a `Batch`. Out: the canonical payloads of each place of the batch, by kind of output. `launch` may
return before the device is done (CUDA); `collect` waits. Knows nothing of queues, caches or HTTP.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from inlay.config import FP8_COSINE, INT8_COSINE
from inlay.engine.adapter_pass import AdapterPass
from inlay.engine.batch import Batch, Sequence, pack
from inlay.engine.cuda_errors import is_fatal, is_out_of_memory
from inlay.engine.device import Choice
from inlay.engine.drivers import give_back_memory, make_driver
from inlay.engine.graphs import GraphPass
from inlay.engine.planning import Planner
from inlay.engine.ranges import RangeDriver
from inlay.engine.shards import ShardGroup
from inlay.engine.short_pass import ShortPass
from inlay.engine.transfer import Launched, arrived, has_arrived, send_back, to_device
from inlay.errors import DeviceLost, ModelChanged, ModelError, OutOfMemory
from inlay.file_guard import FileGuard
from inlay.models.adapted import AdapterSet
from inlay.models.adapter_rows import all_rows
from inlay.models.building import build_model
from inlay.models.fingerprint import fingerprint, with_fingerprints
from inlay.models.lora import read_lora
from inlay.models.plan import Plan
from inlay.models.quantise import FP8, INT8, QuantisationReport, Scheme, quantise
from inlay.models.registry import make_head
from inlay.models.sharding import sum_products
from inlay.models.stored import make_stored, read_report, write_quantised
from inlay.models.weights import adapter_files, files_beside, weight_files
from inlay.ops.dispatch import has_gpu_attention
from inlay.ops.layout import Layout
from inlay.ops.native import kernels_name, load_kernels, takes_float_rows, torch_beside_kernels
from inlay.types import DENSE, IntArray, ModelSpec

# What torch's allocators say on devices where running out is a plain RuntimeError.
_ALLOCATION = ("can't allocate memory", "not enough memory", "out of memory")


@dataclass(frozen=True, slots=True)
class Launch:
    """A batch on its way: what each head gave for it."""

    layout: Layout
    ids: IntArray  # [T]
    given: dict[str, Launched]  # by kind of output


class Runner:
    """A model on its device. For int8 and fp8 it needs `sample`: the texts to measure them on."""

    def __init__(
        self,
        spec: ModelSpec,
        choice: Choice,
        sample: Callable[[], list[Sequence]] = list,
        least_cosine: float = INT8_COSINE,
        *,
        is_deterministic: bool = False,
        group: ShardGroup | None = None,
    ) -> None:
        self.device = choice.device
        self.is_asynchronous = choice.device.type == "cuda"
        self.report: QuantisationReport | None = None
        self.spec = replace(spec, dtype=choice.dtype_name)
        self._stored = read_report(spec.path)
        if self._stored is not None and choice.dtype_name != (scheme := self._stored.scheme):
            raise ModelError(f"{spec.path} is an {scheme} checkpoint: serve it with --dtype {scheme}, or the original")
        files = weight_files(spec.path)
        all_files = [*files, *files_beside(spec), *adapter_files(spec)]
        self._guard = FileGuard(all_files if self.device.type == "cpu" else [])  # elsewhere nothing stays mapped
        self._heads = {kind: make_head(kind, spec) for kind in {*spec.outputs, DENSE}}  # int8 is measured on vectors
        heads = self._heads.values()
        self._group = group
        shard = None if group is None else group.shard
        self._model = build_model(spec, files, choice.dtype, choice.device, self._stored, heads, shard)
        self._adapters = self._read_adapters()
        for head in heads:
            head.load(files, choice.device)
        self._planner = Planner(spec, self._model, choice.dtype, choice.device)
        # In pieces, or behind what is kept, sums have another order than in the whole.
        is_whole = not is_deterministic and group is None
        self._pieces = None if not is_whole else make_driver(spec, self._model, choice)  # from the weights
        self._pass: Callable[[Plan], Tensor] = self._model
        made_of = [*self._prepare(choice, sample, least_cosine), *(["deterministic"] if is_deterministic else [])]
        if self._adapters is not None:
            self._adapters.install(choice.dtype)
        if group is not None:
            sum_products(self._model, group.sum)
            made_of.append(f"{group.shard.size} parts")
        if is_whole:
            self._planner.share_prefixes()  # not before the products are what they will be
        if self.device.type == "cuda":
            torch.cuda.empty_cache()  # the weights that were joined left holes that nothing else fits
        if group is not None:
            pass  # sums over all parts are in no recording, and in no graph
        elif self.device.type == "cpu" and (kernels := load_kernels()) is not None:
            self._pass = ShortPass(self._model, kernels)  # the products stay what they are from here on
        elif has_gpu_attention(choice.device, choice.dtype):  # so launches are the same for any batch of a shape
            self._pass = self._captured()
        if self._adapters is not None:
            self._pass = AdapterPass(self._model, self._pass, self._adapters)
        self.spec = with_fingerprints(self.spec, fingerprint(spec, all_files, choice.dtype_name, made_of))
        self._check_files()

    def _read_adapters(self) -> AdapterSet | None:
        """Those that share the model's weights."""
        found = {
            name: read_lora(own.adapter, self._model, self._heads.values())
            for name, own in self.spec.adapters.items()
            if own.adapter is not None
        }
        return AdapterSet(self._model, found) if found else None

    def _prepare(self, choice: Choice, sample: Callable[[], list[Sequence]], least_cosine: float) -> list[str]:
        """Make the products; what decides the vectors beside the name of the dtype."""
        arithmetic = f"{choice.dtype} {kernels_name()}"  # roundings to bytes fall otherwise with other kernels
        if self._stored is not None:
            self._model.prepare(partial(make_stored, dtype=choice.dtype, zero_points=self._stored.zero_points))
            return [arithmetic, *self._stored.kept, str(sorted(self._stored.zero_points.items()))]
        if choice.is_int8 or choice.is_fp8:
            sequences = sample()
            scheme, least = (INT8, least_cosine) if choice.is_int8 else (FP8, FP8_COSINE)
            self.report = self._quantise(sequences, choice.dtype, least, scheme)
            return [arithmetic, *(sequence.ids.tobytes().hex() for sequence in sequences), *self.report.kept]
        self._model.prepare()
        is_rounded_less = self.device.type == "cpu" and takes_float_rows(choice.dtype)
        return ["rows of float32"] if is_rounded_less else []

    @torch.inference_mode()
    def _captured(self) -> GraphPass:
        """The model's pass, with the launches of small batches captured."""
        graphs = GraphPass(self._model)
        needs_all_rows = self._heads[self.spec.outputs[0]].needs_all_rows  # what is asked for most
        has_types = self.spec.ranking is not None and self.spec.ranking.has_types
        graphs.capture_many(self._planner.plans_to_capture(needs_all_rows=needs_all_rows, has_types=has_types))
        return graphs

    @torch.inference_mode()
    def _quantise(
        self, sample: list[Sequence], dtype: torch.dtype, least_cosine: float, scheme: Scheme
    ) -> QuantisationReport:
        def run(texts: Iterable[int]) -> Tensor:
            batch = pack([sample[text] for text in texts])
            payloads = self.collect(self.launch(batch))[DENSE]
            found = {id(sequence): payloads[row] for sequence, row in zip(batch.sequences, batch.rows, strict=True)}
            return torch.stack([_vector(found[id(sample[text])], self.spec.width) for text in texts])

        return quantise(self._model, run, len(sample), dtype, least_cosine, scheme)

    def write_quantised(self, target: Path, choice: Choice) -> int:
        """Write a model that was quantised when it was loaded as a checkpoint; the bytes of its weights."""
        if self.report is None:
            raise ModelError(f"{self.spec.path} is an {choice.dtype_name} checkpoint already")
        scheme: Literal["int8", "fp8"] = "fp8" if choice.is_fp8 else "int8"
        return write_quantised(self._model, self._heads.values(), self.spec, target, self.report, choice.dtype, scheme)

    @property
    def device_bytes(self) -> int:
        """Memory of the GPU that torch holds for this process; 0 on a processor."""
        return torch.cuda.memory_reserved(self.device) if self.device.type == "cuda" else 0

    def cost(self, sequence: Sequence) -> int:
        """Tokens of a sequence that would run: less what a kept prefix has."""
        return self._planner.cost(sequence)

    @torch.inference_mode()
    def launch(self, batch: Batch) -> Launch:
        """Start a batch; on a CPU it is also done when this returns."""
        self._check_files()
        heads = {kind: self._heads[kind] for kind in batch.kinds}
        needs_all_rows = any(head.needs_all_rows for head in heads.values())
        leading = nullcontext() if self._group is None else self._group.leading(batch, needs_all_rows=needs_all_rows)
        with leading, self._naming_out_of_memory(), self._beside_kernels():
            planned = self._planner.plan(batch, needs_all_rows=needs_all_rows)
            hidden = planned.own_rows(self._pass(planned.plan))
            self._planner.keep(planned)
            given = {
                kind: send_back(head(hidden if head.needs_all_rows else planned.pooled_rows(hidden), planned.layout))
                for kind, head in heads.items()
            }
            return Launch(planned.layout, batch.ids, given)

    @torch.inference_mode()
    def follow(self, batch: Batch, *, needs_all_rows: bool) -> None:
        """Run a batch of which another rank gives the answers."""
        with self._beside_kernels():
            self._pass(self._planner.plan(batch, needs_all_rows=needs_all_rows).plan)

    def is_done(self, launched: Launch) -> bool:
        """Would `collect` return at once?"""
        return all(has_arrived(given) for given in launched.given.values())

    def is_divisible(self, batch: Batch) -> bool:
        """Is it one long input that can run in pieces?"""
        if self._pieces is None or len(batch.offsets) > 2 or batch.num_tokens <= self._pieces.longest_whole:
            return False
        return not any(self._heads[kind].needs_all_rows for kind in batch.kinds)

    def size_pieces(self, num_tokens: int) -> None:
        """On a GPU: inputs of more tokens run in pieces of about so many."""
        if isinstance(self._pieces, RangeDriver):
            self._pieces.longest_whole = num_tokens

    @torch.inference_mode()
    def launch_in_pieces(self, batch: Batch) -> Generator[None, None, Launch]:
        """Run a divisible batch; between pieces others may run. Gives what `launch` would."""
        if self._pieces is None:
            raise RuntimeError("this model runs no input in pieces")
        try:
            with self._naming_out_of_memory():
                pieces = self._pieces.run(to_device(batch.ids, self.device), to_device(batch.positions, self.device))
                while True:
                    self._check_files()
                    try:
                        with self._beside_kernels(), self._with_adapter_of(batch):
                            next(pieces)
                    except StopIteration as finished:
                        layout = Layout.of(batch.offsets, self.device)
                        hidden: Tensor = finished.value
                        given = {kind: send_back(self._heads[kind](hidden, layout)) for kind in batch.kinds}
                        return Launch(layout, batch.ids, given)
                    yield
        finally:
            give_back_memory()

    def collect(self, launched: Launch) -> dict[str, list[bytes | None]]:
        """Wait for a batch: by kind, the payload of each of its places; None for one that is not finite."""
        with self._naming_out_of_memory():
            arrays = {kind: arrived(given) for kind, given in launched.given.items()}
        if self._group is not None:
            self._group.check()
        self._check_files()  # what was read in the meantime was what was loaded
        return {
            kind: self._heads[kind].payloads(array, launched.layout, launched.ids) for kind, array in arrays.items()
        }

    def _beside_kernels(self) -> AbstractContextManager[None]:
        return torch_beside_kernels() if self.device.type == "cpu" else nullcontext()

    def _with_adapter_of(self, batch: Batch) -> AbstractContextManager[None]:
        """Of a batch of one input."""
        if self._adapters is None or batch.adapters is None:
            return nullcontext()
        return self._adapters.on(all_rows(batch.adapters[0]))

    def _check_files(self) -> None:
        if (file := self._guard.changed()) is not None:
            raise ModelChanged(
                f"{file} was changed while the model is served, and its vectors with it: restart the server"
            )

    @contextmanager
    def _naming_out_of_memory(self) -> Iterator[None]:
        try:
            yield
        except (MemoryError, RuntimeError) as error:
            if is_fatal(error):
                raise DeviceLost(
                    f"the device ({self.device}) reports an error after which it runs nothing more: restart the server"
                ) from error
            is_named = isinstance(error, MemoryError | torch.OutOfMemoryError) or is_out_of_memory(error)
            if not is_named and not any(sign in str(error) for sign in _ALLOCATION):
                raise
            traceback.clear_frames(error.__traceback__)  # they hold what the batch had in the device's memory
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            raise OutOfMemory(
                f"needs more memory than the device ({self.device}) has left: shorten the input",
                retry_after=1.0,
            ) from None


def _vector(payload: bytes | None, width: int) -> Tensor:
    """What int8 is measured on."""
    if payload is None:
        return torch.full((width,), torch.nan)
    return torch.from_numpy(np.frombuffer(payload, dtype=np.float32).copy())
