"""Makes an engine ready to serve: device and dtype, weights, tokenizer, budgets, and a first batch.

In: a spec and the engine's settings. Out: an `Engine`, or an error that says why this model cannot be
served as asked. Every automatic choice is logged here with its reason.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from inlay.config import AUTO, Settings
from inlay.engine.adapter_tokenizers import check_tokenizers
from inlay.engine.allocator import give_back_freed_memory, keep_freed_memory
from inlay.engine.batch import Batch, Sequence, pack
from inlay.engine.budgets import choose_budgets
from inlay.engine.device import Choice, choose
from inlay.engine.intake import Intake
from inlay.engine.invariance import forbid_split_sums, sizes_that_differ
from inlay.engine.loop import BatchRunner, DeviceLoop
from inlay.engine.pair_tokenizer import make_pair_tokenizer
from inlay.engine.queue import SequenceQueue
from inlay.engine.runner import Runner
from inlay.engine.sample import PROBE, SAMPLE
from inlay.engine.scheduler import Scheduler
from inlay.engine.shard_process import OtherRanks
from inlay.engine.shards import ShardGroup
from inlay.engine.stats import EngineStats
from inlay.engine.tokenizer import Tokenizer, make_tokenizer
from inlay.engine.unanswered import Unanswered
from inlay.errors import ConfigError, ModelError
from inlay.models.registry import OUTPUTS
from inlay.models.source import stored_scheme
from inlay.ops.dispatch import why_no_gpu_kernels
from inlay.ops.native import kernels_name
from inlay.telemetry.logs import get_logger
from inlay.thread_count import choose_threads
from inlay.types import DENSE, IntArray, ModelSpec, Priority, Truncate, Work

log = get_logger("engine")

_SOME_ID: IntArray = np.zeros(1, dtype=np.int64)  # that every model has a row for


@dataclass(frozen=True, slots=True)
class Engine:
    """All that a worker serves with."""

    runner: BatchRunner
    unanswered: Unanswered
    intake: Intake
    queue: SequenceQueue
    loop: DeviceLoop
    close: Callable[[], None]  # once nothing runs any more
    why_lost: Callable[[], str | None] = lambda: None  # what ended beside it, without which nothing runs


def choose_for(spec: ModelSpec, settings: Settings) -> Choice:
    """Device and dtype for a checkpoint; auto is what one is stored in that was quantised."""
    stored = stored_scheme(spec.path) if settings.dtype == AUTO else None
    return choose(settings.device, stored or settings.dtype)


def make_runner(
    spec: ModelSpec,
    choice: Choice,
    least_cosine: float,
    tokenizer: Callable[[], Tokenizer],
    *,
    is_deterministic: bool = False,
    group: ShardGroup | None = None,
) -> Runner:
    """A model on its device; `tokenizer` is asked for only if int8 or fp8 has to be measured."""
    sample = partial(_sample, spec, tokenizer)
    return Runner(spec, choice, sample, least_cosine, is_deterministic=is_deterministic, group=group)


def load_engine(spec: ModelSpec, settings: Settings, stats: EngineStats) -> Engine:
    """Load a checkpoint. Blocks for seconds; call it on the thread that is to own the device."""
    choice = choose_for(spec, settings)
    _check_together(spec, choice, settings)
    _prepare_thread(spec, choice, settings)
    with ExitStack() as unless_loaded:
        group = None
        if settings.tensor_parallel_size > 1:
            others = OtherRanks(spec, choice, settings.tensor_parallel_size)
            unless_loaded.callback(others.close)
            group = others.group
        engine = _load(spec, choice, settings, stats, group)
        why_lost = engine.why_lost if group is None else group.why_lost
        return replace(engine, close=unless_loaded.pop_all().close, why_lost=why_lost)


def _check_together(spec: ModelSpec, choice: Choice, settings: Settings) -> None:
    """Refuse what does not go together."""
    if settings.deterministic and spec.adapters and choice.device.type == "cuda":
        raise ConfigError("--deterministic does not hold beside adapters on a GPU: leave it out, or serve each alone")
    if settings.tensor_parallel_size == 1:
        return
    if choice.is_int8 or choice.is_fp8:
        raise ConfigError(f"--tensor-parallel-size is not for {choice.dtype_name}: use --dtype bfloat16")
    if spec.adapters or spec.adapter is not None:
        raise ConfigError("--tensor-parallel-size is not for adapters: leave one of them out")
    if settings.deterministic:
        raise ConfigError("--deterministic does not hold with --tensor-parallel-size: leave one of them out")


def _prepare_thread(spec: ModelSpec, choice: Choice, settings: Settings) -> None:
    """This thread owns the device from now on."""
    if choice.device.type == "cpu":
        keep_freed_memory()
        threads = choose_threads()
        log.info("threads chosen", model=spec.name, threads=threads.count, because=threads.reason)
    elif choice.device.type == "cuda":
        torch.cuda.set_device(choice.device)
        if settings.deterministic:
            if (why := why_no_gpu_kernels(choice.device)) is not None:
                raise ConfigError(f"--deterministic needs Inlay's kernels for GPUs, and {why}: leave it out")
            forbid_split_sums()


def _load(spec: ModelSpec, choice: Choice, settings: Settings, stats: EngineStats, group: ShardGroup | None) -> Engine:
    began = time.monotonic()
    is_deterministic = settings.deterministic and choice.device.type == "cuda"  # processors are, whatever is asked
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(make_tokenizer, spec)  # beside the weights: it takes as long
        least = settings.int8_cosine
        runner = make_runner(spec, choice, least, reading.result, is_deterministic=is_deterministic, group=group)
        tokenizer = reading.result()
    _warn_of_ids(tokenizer, spec)
    check_tokenizers(spec, tokenizer)
    probe = _probe(runner, tokenizer, choice)
    for name in spec.adapters:
        _probe(runner, tokenizer, choice, name)
    if choice.device.type == "cpu":
        give_back_freed_memory()
    budgets = choose_budgets(runner, settings, lambda number, ids: _sequence(number, "", ids, runner.spec))
    _log_quantised(runner)
    if is_deterministic:
        _check_invariance(runner, budgets["max_batch_tokens"])
    log.info(
        "model loaded",
        model=spec.name,
        device=str(choice.device),
        devices=settings.tensor_parallel_size,
        dtype=choice.dtype_name,
        because=choice.reason,
        kernels=_kernels(choice),
        **budgets,
        max_tokens=spec.max_tokens,
        fingerprint=runner.spec.fingerprint,
        seconds=round(time.monotonic() - began, 2),
    )
    return _assemble(runner, tokenizer, probe, settings, stats, **budgets)


def _assemble(
    runner: Runner,
    tokenizer: Tokenizer,
    probe: Batch,
    settings: Settings,
    stats: EngineStats,
    *,
    max_batch_tokens: int,
    tokenizer_threads: int,
) -> Engine:
    unanswered = Unanswered()
    scheduler = Scheduler(max_batch_tokens, settings.max_batch_sequences, settings.max_queue_tokens)
    queue = SequenceQueue(scheduler, unanswered, stats)
    ranking = runner.spec.ranking
    pairs = None if ranking is None else make_pair_tokenizer(runner.spec.path, ranking)
    intake = Intake(tokenizer, runner.spec.vocab_rows, tokenizer_threads, settings.max_queue_tokens, pairs)
    loop = DeviceLoop(runner, queue, unanswered, probe, stats, lambda: _tidy_memory(intake))
    return Engine(runner, unanswered, intake, queue, loop, lambda: None)


def _check_invariance(runner: Runner, max_batch_tokens: int) -> None:
    def run(texts: list[IntArray]) -> list[bytes | None]:
        main = runner.spec.outputs[:1]
        sequences = [_sequence(number, "", ids, runner.spec, main) for number, ids in enumerate(texts)]
        batch = pack(sequences)
        payloads = runner.collect(runner.launch(batch))[main[0]]
        place = {id(sequence): row for sequence, row in zip(batch.sequences, batch.rows, strict=True)}
        return [payloads[place[id(sequence)]] for sequence in sequences]

    differing = sizes_that_differ(run, runner.spec.vocab_rows, max_batch_tokens)
    if differing:
        log.warning(
            "a text has other bits in batches of some sizes, though --deterministic was asked for",
            model=runner.spec.name,
            batch_tokens=differing,
        )
    else:
        log.info("a text has the same bits in batches of every size", model=runner.spec.name)


def _warn_of_ids(tokenizer: Tokenizer, spec: ModelSpec) -> None:
    if tokenizer.num_ids > spec.vocab_rows:
        log.warning(
            "the tokenizer has ids without a row in the model; texts with them are refused",
            model=spec.name,
            ids=tokenizer.num_ids,
            rows=spec.vocab_rows,
        )


def _log_quantised(runner: Runner) -> None:
    if runner.report is not None:
        log.info(
            "model quantised",
            model=runner.spec.name,
            mean_cosine=round(runner.report.mean_cosine, 5),
            worst_cosine=round(runner.report.worst_cosine, 5),
            products=len(runner.report.errors),
            kept=list(runner.report.kept),
        )


def _tidy_memory(intake: Intake) -> None:
    """While nothing runs: what a large request has left over goes back to the kernel."""
    if intake.take_had_large():
        give_back_freed_memory()


def _kernels(choice: Choice) -> str:
    """What runs on the device; on a CPU without compiled kernels also a warning."""
    if choice.device.type != "cpu":
        why = why_no_gpu_kernels(choice.device)
        if why is not None:
            log.warning("torch's operators compute, which is slower than Inlay's kernels", because=why)
        return "torch" if why is not None else "triton"
    name = kernels_name()
    if name == "torch":
        log.warning(
            "there are no compiled kernels for this processor: embedding is slower than it could be; "
            "install Inlay where there is a C++ compiler"
        )
    if choice.dtype == torch.float16:
        log.warning("float16 is emulated on processors and very slow: use --dtype auto")
    return name


def _probe(runner: Runner, tokenizer: Tokenizer, choice: Choice, adapter: str = "") -> Batch:
    """Run first batches: they warm the kernels up, and show a dtype that overflows before a client does.

    What is asked for most runs by itself, as most batches do; that batch is given back.
    """
    main, others = runner.spec.outputs[:1], runner.spec.outputs[1:]
    batch = pack(_sequences(PROBE, tokenizer, runner.spec, main, adapter))
    name = adapter or runner.spec.name
    payloads = runner.collect(runner.launch(batch))
    if others:
        payloads |= runner.collect(runner.launch(pack(_sequences(PROBE, tokenizer, runner.spec, others, adapter))))
    for kind, given in payloads.items():
        if not all(payload is None or OUTPUTS[kind].is_payload(payload, runner.spec) for payload in given):
            raise ModelError(f"the head of {kind!r} gives what models.registry.OUTPUTS does not say: mend one of them")
    if any(None in given for given in payloads.values()):
        if choice.dtype_name == "float32":
            raise ModelError(f"what {name!r} gives is not finite: its weights are damaged; fetch it again")
        raise ModelError(
            f"{name!r} overflows in {choice.dtype_name}, or its weights are damaged: what it gives is not "
            f"finite. Use --dtype {'bfloat16 or float32' if choice.dtype_name == 'float16' else 'float32'} to see"
        )
    return batch


def _sample(spec: ModelSpec, tokenizer: Callable[[], Tokenizer]) -> list[Sequence]:
    return _sequences(SAMPLE, tokenizer(), spec)


def _sequences(
    texts: list[str],
    tokenizer: Tokenizer,
    spec: ModelSpec,
    outputs: tuple[str, ...] = (DENSE,),
    adapter: str = "",
) -> list[Sequence]:
    """Texts with ids that the model has rows for."""
    lists = (np.minimum(ids, spec.vocab_rows - 1) for ids in tokenizer.encode_many(texts))
    lists = (ids if len(ids) else _SOME_ID for ids in lists)  # of a word that a small vocabulary does not have
    cut = (tokenizer.cut(ids, spec.max_tokens, Truncate.END) for ids in lists)
    numbered = zip(range(len(texts)), texts, cut, strict=True)
    return [_sequence(number, text, ids, spec, outputs, adapter) for number, text, ids in numbered]


def _sequence(
    number: int, text: str, ids: IntArray, spec: ModelSpec, outputs: tuple[str, ...] = (DENSE,), adapter: str = ""
) -> Sequence:
    work = Work(number, text, Truncate.END, spec.max_tokens, outputs=outputs, adapter=adapter)
    return Sequence(work, lambda answers: None, time.monotonic(), Priority.NORMAL, ids)
