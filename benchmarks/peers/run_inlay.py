"""Inlay's engine: python run_inlay.py CHECKPOINT DTYPE."""

from __future__ import annotations

import sys
from pathlib import Path
from threading import Event

from answering import answer

from inlay.config import make_settings
from inlay.engine.loading import load_engine
from inlay.engine.worker import DeviceWorker
from inlay.models.spec import read_spec
from inlay.telemetry.logs import configure_logs
from inlay.types import Item, Truncate

configure_logs("error", "console")
settings = make_settings({"device": "cpu", "dtype": sys.argv[2]})
spec = read_spec(Path(sys.argv[1]), "peer")
worker = DeviceWorker(spec, lambda spec, stats: load_engine(spec, settings, stats), 1000)
worker.wait_loaded()


def run(lists: list[list[int]]) -> None:
    items = [Item(index, ids, Truncate.NONE, spec.max_tokens) for index, ids in enumerate(lists)]
    missing, finished = len(items), Event()

    def done(answered: list[Item]) -> None:
        nonlocal missing
        missing -= len(answered)
        if not missing:
            finished.set()

    worker.embed(items, done)
    finished.wait()


answer(run, spec.vocab_rows)
