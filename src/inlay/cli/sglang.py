"""Lets a command line written for SGLang start Inlay: its flags are translated, or noted as meaningless here.

In: the arguments after `serve`. Out: Inlay's arguments, and a note for each flag that was left out. What
would change the results and is not supported is an error.
"""

from __future__ import annotations

from inlay.errors import ConfigError

RENAMED = {
    "--model": None,  # the value becomes the positional model
    "--model-path": None,
    "--max-running-requests": "--max-batch-sequences",
    "--max-total-tokens": "--max-queue-tokens",
    "--chunked-prefill-size": "--max-batch-tokens",
    "--max-prefill-tokens": "--max-batch-tokens",
    "--tp-size": "--tensor-parallel-size",
    "--tp": "--tensor-parallel-size",
    "--dp-size": "--data-parallel-size",
    "--dp": "--data-parallel-size",
}
WITHOUT_VALUE = {
    "--is-embedding": "every model here is an embedding model",
    "--enable-chunked-prefill": "batches are packed by tokens anyway",
    "--disable-radix-cache": "there is no radix cache",
    "--trust-remote-code": "code from a checkpoint is never run",
    "--disable-cuda-graph": "what they replay has the bits of a launch",
    "--enable-torch-compile": "nothing is compiled",
    "--enable-metrics": "metrics are always at /metrics",
    "--skip-server-warmup": "the warm-up also checks the model",
}
WITH_VALUE = {
    "--mem-fraction-static": "memory is not set aside",
    "--attention-backend": "the kernel follows from device and dtype",
    "--schedule-policy": "scheduling is fair between requests",
    "--tokenizer-path": "the tokenizer is the checkpoint's own",
    "--load-format": "the format is seen from the files",
}


def translate(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Inlay's arguments and the notes for the log."""
    kept: list[str] = []
    notes: list[str] = []
    waiting = [part for argument in arguments for part in _split(argument)]
    while waiting:
        flag = waiting.pop(0)
        if flag in WITHOUT_VALUE:
            notes.append(f"{flag} has no meaning here: {WITHOUT_VALUE[flag]}")
        elif flag in WITH_VALUE:
            notes.append(f"{flag} {_value(flag, waiting)} has no meaning here: {WITH_VALUE[flag]}")
        elif flag in RENAMED:
            value, name = _value(flag, waiting), RENAMED[flag]
            if value == "-1":
                notes.append(f"{flag} -1 has no meaning here: the default is kept")
                continue
            kept += [value] if name is None else [name, value]
        else:
            kept.append(flag)
    return kept, notes


def _split(argument: str) -> list[str]:
    """`--flag=value` as two parts, for the flags that are translated."""
    flag, equals, value = argument.partition("=")
    known = flag in RENAMED or flag in WITH_VALUE
    return [flag, value] if equals and known else [argument]


def _value(flag: str, waiting: list[str]) -> str:
    if not waiting:
        raise ConfigError(f"{flag} needs a value")
    return waiting.pop(0)
