"""Inlay's engine: python run_inlay.py CHECKPOINT DTYPE."""

from __future__ import annotations

import sys
from pathlib import Path

from answering import answer

from inlay.bench.ask import Asker
from inlay.config_values import make_settings
from inlay.engine.loading import load_engine
from inlay.engine.worker import DeviceWorker
from inlay.models.spec import read_spec
from inlay.telemetry.logs import configure_logs

configure_logs("error", "console")
settings = make_settings({"device": "cpu", "dtype": sys.argv[2]})
spec = read_spec(Path(sys.argv[1]), "peer")
worker = DeviceWorker(spec, lambda spec, stats: load_engine(spec, settings, stats), 1000)
worker.wait_loaded()


answer(Asker(worker).ask, spec.vocab_rows)
