"""Runs packed batches on one device: the only place where a model, a device and a dtype meet.

In: a spec and a `Batch`. Out: canonical vectors [B, width] in float32, in the batch's order. `launch` may
return before the device is done (CUDA); `collect` waits. Knows nothing of queues, caches or HTTP.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from inlay.config import INT8_COSINE
from inlay.engine.allocator import give_back_freed_memory
from inlay.engine.batch import pack
from inlay.engine.device import Choice
from inlay.engine.pooling import mean_of_rows, pooled_rows
from inlay.engine.prefix import PrefixStore, SharedBatch
from inlay.engine.transfer import Launched, arrived, send_back, to_device
from inlay.errors import DeviceLost, ModelChanged, ModelError, OutOfMemory
from inlay.file_guard import FileGuard
from inlay.models.fingerprint import fingerprint
from inlay.models.forward import ForwardPass, Packed
from inlay.models.quantise import QuantisationReport, quantise
from inlay.models.registry import forward_class
from inlay.models.stored_int8 import StoredReport, expect_int8, make_stored, read_report, write_int8
from inlay.models.weights import load_weights, weight_files
from inlay.ops.layout import Layout
from inlay.ops.native import kernels_name, load_kernels
from inlay.types import Batch, FloatArray, IntArray, ModelSpec, Pooling, Sequence

LONGEST_WHOLE = 2048  # tokens; longer inputs run in pieces
# What torch's allocators say on devices where running out is a plain RuntimeError.
_ALLOCATION = ("can't allocate memory", "not enough memory", "out of memory")


class Runner:
    """A model on its device. For int8 it needs `sample`: the texts to measure it on."""

    def __init__(
        self,
        spec: ModelSpec,
        choice: Choice,
        sample: Callable[[], list[Sequence]] = list,
        least_cosine: float = INT8_COSINE,
    ) -> None:
        self.device = choice.device
        self.is_asynchronous = choice.device.type == "cuda"
        self.report: QuantisationReport | None = None
        self.spec = replace(spec, dtype=choice.dtype_name)
        self._prefixes: PrefixStore | None = None
        self._stored = read_report(spec.path)
        files = weight_files(spec.path)
        self._guard = FileGuard(files if self.device.type == "cpu" else [])  # elsewhere nothing stays mapped
        self._model = _build(spec, choice, files, self._stored)
        made_of: list[str] = []
        arithmetic = f"{choice.dtype} {kernels_name()}"  # roundings to bytes fall otherwise with other kernels
        if self._stored is not None:
            self._model.prepare(partial(make_stored, dtype=choice.dtype, zero_points=self._stored.zero_points))
            made_of = [arithmetic, *self._stored.kept, str(sorted(self._stored.zero_points.items()))]
        elif choice.is_int8:
            sequences = sample()
            self.report = self._quantise(sequences, choice.dtype, least_cosine)
            made_of = [arithmetic, *(sequence.ids.tobytes().hex() for sequence in sequences), *self.report.kept]
        else:
            self._model.prepare()
        if self._can_look_back:
            self._prefixes = PrefixStore(self._model.key_value_bytes(choice.dtype), self.device)
        self.spec = replace(self.spec, fingerprint=fingerprint(spec, files, choice.dtype_name, made_of))
        self._check_files()

    @property
    def _can_look_back(self) -> bool:
        """Can rows run apart from those before them? Not where those make the vector too, and not yet on a GPU."""
        return self.device.type == "cpu" and self._model.IS_CAUSAL and self.spec.pooling is Pooling.LAST

    @torch.inference_mode()
    def _quantise(self, sample: list[Sequence], dtype: torch.dtype, least_cosine: float) -> QuantisationReport:
        def run(texts: Iterable[int]) -> Tensor:
            batch = pack([sample[text] for text in texts])
            vectors = torch.from_numpy(self.collect(self.launch(batch))[batch.rows])
            places = {id(sequence): place for place, sequence in enumerate(batch.sequences)}
            return vectors[[places[id(sample[text])] for text in texts]]

        return quantise(self._model, run, len(sample), dtype, least_cosine)

    def write_int8(self, target: Path, dtype: torch.dtype) -> int:
        """Write a model that was quantised when it was loaded as a checkpoint; the bytes of its weights."""
        if self.report is None:
            raise ModelError(f"{self.spec.path} is an int8 checkpoint already")
        return write_int8(self._model, self.spec.path, target, self.report, dtype)

    def cost(self, sequence: Sequence) -> int:
        """Tokens of a sequence that would run: less what a kept prefix has."""
        kept = 0 if self._prefixes is None else self._prefixes.kept_length(sequence.ids)
        return sequence.num_tokens - kept

    @torch.inference_mode()
    def launch(self, batch: Batch) -> Launched:
        """Start a batch; on a CPU it is also done when this returns. [B, width]."""
        self._check_files()
        with self._naming_out_of_memory():
            if self._prefixes is not None and (shared := self._prefixes.share(batch)) is not None:
                return send_back(self._run_shared(shared, self._prefixes))
            layout = Layout.of(batch.offsets, self.device)
            pooled = pooled_rows(layout, self.spec.pooling)
            sees_all = self.spec.pooling is Pooling.LAST or not self._model.IS_CAUSAL
            packed = Packed(self._to_device(batch.positions), layout, pooled if sees_all else None)
            hidden: Tensor = self._model(self._to_device(batch.ids), packed)
            if pooled is None:
                return send_back(mean_of_rows(hidden, layout))
            return send_back(hidden if sees_all else hidden[pooled])

    def is_divisible(self, batch: Batch) -> bool:
        """Is it one long input that can run in pieces?"""
        return self._can_look_back and len(batch.offsets) == 2 and batch.num_tokens > LONGEST_WHOLE

    @torch.inference_mode()
    def launch_in_pieces(self, batch: Batch) -> Generator[None, None, Tensor]:
        """Run a divisible batch; between pieces others may run. Gives what `launch` would."""
        try:
            with self._naming_out_of_memory():
                ids, positions = self._to_device(batch.ids), self._to_device(batch.positions)
                pieces = self._model.forward_in_pieces(ids, positions)
                while True:
                    self._check_files()
                    try:
                        next(pieces)
                    except StopIteration as finished:
                        hidden: Tensor = finished.value
                        return hidden
                    yield
        finally:
            self._give_back_memory()

    def _give_back_memory(self) -> None:
        """What only a long input needs: its length is in what the threads keep."""
        if (kernels := load_kernels()) is not None:
            kernels.release_memory()
        give_back_freed_memory()

    def _run_shared(self, shared: SharedBatch, prefixes: PrefixStore) -> Tensor:
        layout, pooled = Layout.of(shared.offsets, self.device), self._to_device(shared.pooled)
        packed = Packed(self._to_device(shared.positions), layout, pooled, shared.lookback)
        hidden: Tensor = self._model(self._to_device(shared.ids), packed)
        prefixes.keep(shared.new)
        return hidden

    def collect(self, launched: Launched) -> FloatArray:
        """Wait for a batch. [B, width]; a row with infinities or NaN is the caller's to refuse."""
        with self._naming_out_of_memory():
            vectors = arrived(launched)
        self._check_files()  # what was read in the meantime was what was loaded
        return vectors

    def _check_files(self) -> None:
        if (file := self._guard.changed()) is not None:
            raise ModelChanged(
                f"{file} was changed while the model is served, and its vectors with it: restart the server"
            )

    @contextmanager
    def _naming_out_of_memory(self) -> Iterator[None]:
        try:
            yield
        except torch.AcceleratorError as error:
            raise DeviceLost(
                f"the device ({self.device}) reports an error after which it runs nothing more: restart the server"
            ) from error
        except (MemoryError, RuntimeError) as error:
            is_named = isinstance(error, MemoryError | torch.OutOfMemoryError)
            if not is_named and not any(sign in str(error) for sign in _ALLOCATION):
                raise
            traceback.clear_frames(error.__traceback__)  # they hold what the batch had in the device's memory
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            raise OutOfMemory(
                f"needs more memory than the device ({self.device}) has left: shorten the input",
                retry_after=1.0,
            ) from None

    def _to_device(self, array: IntArray) -> Tensor:
        return to_device(array, self.device)


def _build(spec: ModelSpec, choice: Choice, files: list[Path], stored: StoredReport | None = None) -> ForwardPass:
    if stored is not None and not choice.is_int8:
        raise ModelError(f"{spec.path} is an int8 checkpoint: serve it with --dtype int8, or serve the original")
    with torch.device("meta"):
        try:
            model = forward_class(spec.family)(spec.config, choice.dtype)
            if stored is not None:
                expect_int8(model, stored)
        except KeyError as error:
            raise ModelError(f"{spec.path / 'config.json'} has no {error.args[0]!r}") from error
        except (TypeError, ValueError, RuntimeError) as error:
            raise ModelError(f"{spec.path / 'config.json'} does not describe a model: {error}") from error
    load_weights(model, files, choice.device)
    return model.eval()
