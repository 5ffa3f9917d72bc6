"""Every option of every verb, said once: its default, bounds, help, and the verbs that take it.

The command line is generated from the fields of `Settings`, so a flag, a variable and a key of `inlay.toml` never
differ; `config_sources` reads them, and `config_values` checks and converts them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from inlay.types import Truncate

ENV_PREFIX = "INLAY_"
CPU_ISA_VARIABLE = "INLAY_MAX_CPU_ISA"  # read by `ops.processor`, and no option
THREADS_VARIABLE = "INLAY_THREADS"  # read by `thread_count`, and no option: threads belong to the process
MOST_SECONDS = 30 * 86_400

SERVE, EMBED, VERIFY, PRECOMPUTE, SEARCH = "serve", "embed", "verify", "precompute", "search"
BENCH, QUANTIZE, RERANK, HEALTH = "bench", "quantize", "rerank", "health"
DOCTOR, EVAL = "doctor", "eval"
AUTO = "auto"  # of dtype, device and isolation: chosen for the machine
THREAD, PROCESS = "thread", "process"  # where engines run
GPU_DRIVERS = (Path("/dev/nvidiactl"), Path("/dev/dxg"))  # there is one of these where there is a GPU of NVIDIA's
INT8_COSINE = 0.999  # what int8 is held to unless asked otherwise
FP8_COSINE = 0.997  # what fp8 is held to
ENGINE = (SERVE, EMBED, RERANK, VERIFY, PRECOMPUTE, SEARCH, BENCH)
BULK, CACHED = (EMBED, PRECOMPUTE), (SERVE, EMBED, RERANK)
UNTIMED = ENGINE[:-1]  # bench times one engine with models as they are


def _option(description: str, *verbs: str, unit: str = "", **bounds: float) -> Meta:
    about = {"verbs": verbs, "unit": unit}
    meta: Meta = Meta(description=description, extra=about, **bounds)  # type: ignore[call-overload]
    return meta


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All options. Times are in seconds, sizes in bytes, lengths in tokens."""

    models: Annotated[list[str], _option("Models to serve: demo, hub ids or directories.")] = msgspec.field(
        default_factory=lambda: ["demo"]
    )
    served_model_name: Annotated[
        list[str], _option("Name to serve each model by, in their order (repeat the flag).", SERVE)
    ] = []
    host: Annotated[str, _option("Address to listen on.", SERVE, HEALTH)] = "127.0.0.1"
    port: Annotated[int, _option("Port to listen on; 0 takes a free one.", SERVE, HEALTH, ge=0, le=65535)] = 8000
    api_key: Annotated[
        list[str],
        _option(
            "Key that clients must send (repeat for several), or to send to --server; better a variable.",
            *(SERVE, EMBED, RERANK, PRECOMPUTE, SEARCH),
        ),
    ] = []
    api_key_file: Annotated[str | None, _option("File with one key a line, or .toml with more of each.", SERVE)] = None
    admin_key: Annotated[
        str | None, _option("Key for /admin, which replaces models; without it nobody may. Better a variable.", SERVE)
    ] = None
    device: Annotated[str, _option("auto, cpu, cuda, cuda:N or mps.", *ENGINE, QUANTIZE, DOCTOR, EVAL)] = "auto"
    dtype: Annotated[
        str,
        _option(
            "auto, float32, bfloat16, float16, int8 or fp8; auto takes what the device is fast in, quantize int8.",
            *ENGINE,
            *(QUANTIZE, DOCTOR, EVAL),
        ),
    ] = "auto"
    int8_cosine: Annotated[
        float,
        _option(
            "With --dtype int8: least mean cosine to the model without it; products stay out of int8 until it holds.",
            *ENGINE,
            *(QUANTIZE, EVAL),
            ge=0,
            le=1,
        ),
    ] = INT8_COSINE
    deterministic: Annotated[bool, _option("On a GPU: a text has the same bits in any batch.", *ENGINE)] = False
    adapter: Annotated[
        list[str], _option("LoRA in peft's format, DIR; to serve beside the model, NAME=DIR, or several.", *UNTIMED)
    ] = []
    context_length: Annotated[
        Annotated[int, Meta(ge=3)] | None,
        _option("Longest input; default: the model's own.", *ENGINE, unit="tokens"),
    ] = None
    max_batch_tokens: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        _option("Most tokens in one batch; default: by device.", *ENGINE, unit="tokens"),
    ] = None
    max_batch_sequences: Annotated[int, _option("Most inputs in one batch.", *ENGINE, ge=1)] = 512
    tensor_parallel_size: Annotated[
        int,
        _option("GPUs that share the weights of each model (Qwen3 and Qwen2, without int8 and fp8).", *ENGINE, ge=1),
    ] = 1
    data_parallel_size: Annotated[
        int, _option("Engines with all models, each on a GPU, or (serve) on a share of the processors.", *UNTIMED, ge=1)
    ] = 1
    isolation: Annotated[
        Literal["auto", "thread", "process"],
        _option("Where engines run: auto takes processes for GPUs and several devices, else threads.", SERVE),
    ] = "auto"
    front_ends: Annotated[
        int, _option("Processes that answer HTTP on one port, for the same engines.", SERVE, ge=1, le=64)
    ] = 1
    admin_port: Annotated[
        Annotated[int, Meta(ge=0, le=65535)] | None,
        _option("With several front ends: port of /metrics, /health and /ready for all; default: --port + 1.", SERVE),
    ] = None
    tokenizer_threads: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        _option("Threads that tokenise; default: half the cores, at most 4; for a GPU 8.", *ENGINE),
    ] = None
    max_queue_tokens: Annotated[
        int,
        _option("Most tokens that may wait for a model; beyond, requests get 429.", SERVE, unit="tokens", ge=1),
    ] = 1 << 20
    max_concurrent_requests: Annotated[int, _option("Most requests in flight; beyond, they get 429.", SERVE, ge=1)] = (
        1024
    )
    max_inputs_per_request: Annotated[int, _option("Most inputs in one request.", SERVE, ge=1)] = 2048
    max_body_bytes: Annotated[int, _option("Largest request body.", SERVE, unit="bytes", ge=1)] = 32 << 20
    request_timeout: Annotated[
        float, _option("Longest time for one request.", SERVE, unit="seconds", gt=0, le=MOST_SECONDS)
    ] = 300.0
    max_connections: Annotated[
        Annotated[int, Meta(ge=16)] | None,
        _option("Most open connections; default: 4096, or as many as there are descriptors for.", SERVE),
    ] = None
    max_inflight_bytes: Annotated[
        int, _option("Most bytes of request bodies in flight; beyond, requests get 429.", SERVE, unit="bytes", ge=1)
    ] = 256 << 20
    head_timeout: Annotated[
        float,
        _option(
            "Longest wait for a request's head, and for a first byte.", SERVE, unit="seconds", gt=0, le=MOST_SECONDS
        ),
    ] = 10.0
    body_timeout: Annotated[
        float,
        _option(
            "Longest time for a body, and a second more for each 64 KiB of it.",
            SERVE,
            unit="seconds",
            gt=0,
            le=MOST_SECONDS,
        ),
    ] = 30.0
    stall_timeout: Annotated[
        float,
        _option("A batch that runs longer is a fault.", SERVE, unit="seconds", gt=0, le=MOST_SECONDS),
    ] = 300.0
    shutdown_delay: Annotated[
        float,
        _option(
            "After SIGTERM, how long to serve on while /ready says no.", SERVE, unit="seconds", ge=0, le=MOST_SECONDS
        ),
    ] = 1.0
    shutdown_timeout: Annotated[
        float, _option("Longest wait for work in flight at shutdown.", SERVE, unit="seconds", gt=0, le=MOST_SECONDS)
    ] = 30.0
    allow_token_ids: Annotated[
        bool, _option("Take token ids as input (they must be of this model's tokenizer).", SERVE)
    ] = False
    dialects: Annotated[
        list[str],
        _option("APIs to speak: openai, tei, cohere, jina, voyage, ollama, vllm (repeat for several).", SERVE),
    ] = msgspec.field(default_factory=lambda: ["openai", "tei", "cohere", "jina", "voyage", "ollama", "vllm"])
    alias: Annotated[
        list[str], _option("NAME=MODEL: another name for a served model (repeat for several).", SERVE)
    ] = []
    fallback: Annotated[
        list[str], _option("MODEL=OTHER: OTHER answers for MODEL where that cannot (repeat for several).", SERVE)
    ] = []
    fallback_wait: Annotated[
        float,
        _option(
            "Queued work of a model from which on its fallback is asked.", SERVE, unit="seconds", gt=0, le=MOST_SECONDS
        ),
    ] = 1.0
    fallback_always: Annotated[bool, _option("Fall back also for requests that do not say fallback: true.", SERVE)] = (
        False
    )
    cache: Annotated[
        list[str],
        _option(
            "Cache tiers, in order: memory://SIZE, disk:///DIR?size=SIZE&ttl=TIME, redis://HOST/0?ttl=TIME; or none.",
            *CACHED,
        ),
    ] = msgspec.field(default_factory=lambda: ["memory://512MiB"])
    cache_secret: Annotated[
        str | None,
        _option("Signs what is kept in Redis, so that others' entries are misses; better a variable.", *CACHED),
    ] = None
    cache_secret_file: Annotated[str | None, _option("File with that secret.", *CACHED)] = None
    corpus: Annotated[
        list[str], _option("NAME=DIR of a precomputed corpus to search and to serve from (repeat for several).", SERVE)
    ] = []
    jobs: Annotated[
        str | None, _option("Directory of batch jobs (/v1/files, /v1/batches); without it there are none.", SERVE)
    ] = None
    max_jobs_bytes: Annotated[
        int, _option("Most bytes of the files of all jobs together.", SERVE, unit="bytes", ge=1)
    ] = 16 << 30
    otlp_endpoint: Annotated[
        str | None,
        _option("Collector to send traces to, such as http://localhost:4318 (OTEL_* variables say the rest).", SERVE),
    ] = None
    log_level: Annotated[str, _option("debug, info, warning or error.", SERVE)] = "info"
    log_format: Annotated[str, _option("auto, console or json; auto: json unless a terminal.", SERVE)] = "auto"
    model: Annotated[
        str | None, _option("Model: demo (the default), a hub id, a directory, or a name that --server serves.", *BULK)
    ] = None
    prompt: Annotated[str | None, _option("Prompt put before each text: query, document, ….", *BULK)] = None
    instruction: Annotated[
        str | None, _option("Task put before each text, for models that take one.", *BULK, RERANK)
    ] = None
    dimensions: Annotated[
        Annotated[int, Meta(ge=1)] | None, _option("Components to keep (Matryoshka models).", *BULK)
    ] = None
    truncate: Annotated[
        Truncate, _option("What to do with too long inputs: none (refuse), start or end (cut).", *BULK)
    ] = Truncate.NONE
    column: Annotated[str, _option("Column or key of the text, in csv and jsonl.", EMBED, RERANK)] = "text"
    input_format: Annotated[
        str, _option("auto (by the file's name; txt from a pipe), txt, jsonl, csv or parquet.", *BULK, RERANK)
    ] = "auto"
    text: Annotated[str, _option("Column or key of the text.", PRECOMPUTE)] = "text"
    id: Annotated[
        str | None, _option("Column or key of the row's id; without, its place in the input.", PRECOMPUTE)
    ] = None
    keep: Annotated[
        list[str], _option("Column to keep beside the text, for filters (repeat for several).", PRECOMPUTE)
    ] = []
    outputs: Annotated[
        str, _option("Kinds of output to keep, of models with several: dense,sparse,colbert.", PRECOMPUTE)
    ] = "dense"
    store_dtype: Annotated[
        Literal["f32", "f16"],
        _option(
            "Of the vectors kept: f32 (exact, also a cache tier) or f16 (half the size, for search alone).",
            PRECOMPUTE,
        ),
    ] = "f32"
    server: Annotated[
        str | None,
        _option("URL of a running server to ask, instead of loading the model.", EMBED, RERANK, PRECOMPUTE, SEARCH),
    ] = None
    on: Annotated[
        str | None, _option("ray, or ray://HOST:PORT: compute on a Ray cluster (inlay[ray]).", PRECOMPUTE)
    ] = None
    ray_actors: Annotated[
        int, _option("With --on: engines there; 0 is one for each GPU, or for each node.", PRECOMPUTE, ge=0)
    ] = 0
    output: Annotated[str, _option("File to write, .npy or .jsonl; - is jsonl to standard output.", EMBED)] = "-"


OPTIONS = {field.name: field for field in msgspec.structs.fields(Settings)}


def meta_of(name: str) -> Meta:
    """Description, bounds, verbs and unit of an option."""
    meta: Meta = OPTIONS[name].type.__metadata__[0]
    return meta


def flag_of(name: str) -> str:
    """The flag of an option."""
    return "--" + name.replace("_", "-")


def is_list(name: str) -> bool:
    """Does the option take several values?"""
    return isinstance(getattr(Settings(), name), list)
