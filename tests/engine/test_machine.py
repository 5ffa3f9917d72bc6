"""What `inlay doctor` says: how it is, and what to do where it could be better."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from inlay.config import Settings
from inlay.engine import machine
from inlay.engine.machine import GIB, Finding, look_at_machine
from inlay.models.spec import read_spec


def found(thing: str, settings: Settings | None = None) -> Finding:
    return next(one for one in look_at_machine(settings or Settings()) if one.thing == thing)


def test_every_look_says_how_it_is() -> None:
    findings = list(look_at_machine(Settings(device="cpu")))
    assert len({finding.thing for finding in findings}) == len(machine.LOOKS)
    assert all(finding.is_now for finding in findings)
    assert not any(finding.is_fault for finding in findings)


def test_a_device_that_is_not_there_is_a_fault_with_its_remedy() -> None:
    finding = found("device and dtype", Settings(device="cuda:99"))
    assert finding.is_fault
    assert "--device cuda:99" in (finding.advice or "")


def test_without_compiled_kernels_it_says_how_to_have_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "kernels_name", lambda: "torch")
    monkeypatch.setattr(machine.shutil, "which", lambda name: None)
    assert "C++ compiler" in (found("kernels").advice or "")


def test_an_older_build_than_the_processor_runs_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "kernels_name", lambda: "avx2")
    monkeypatch.setattr(machine, "runnable_builds", lambda: ["avx512", "avx2"])
    assert "avx512 is missing" in (found("kernels").advice or "")


def test_a_quota_with_a_part_of_a_processor_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cpu_quota", lambda: 1.5)
    monkeypatch.setattr(machine.os, "cpu_count", lambda: 8)
    assert "whole number" in (found("threads").advice or "")
    monkeypatch.setattr(machine, "cpu_quota", lambda: 2.0)
    assert found("threads").advice is None


def test_a_driver_that_torch_cannot_use_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(machine, "GPU_DRIVERS", (tmp_path,))
    assert "pip install torch" in (found("GPU").advice or "")


def test_few_descriptors_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.resource, "getrlimit", lambda what: (256, 1024))
    assert "ulimit -n" in (found("open files").advice or "")
    monkeypatch.setattr(machine.resource, "getrlimit", lambda what: (256, resource.RLIM_INFINITY))
    assert found("open files").advice is None


def test_a_model_that_does_not_fit_is_a_fault(
    checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = read_spec(checkpoint("bert"), "tiny")
    settings = Settings(device="cpu", dtype="float32")
    monkeypatch.setattr(machine, "memory_bytes", lambda: (GIB, GIB))
    (*_, fits) = look_at_machine(settings, [spec])
    assert (fits.is_fault, fits.advice) == (False, None)
    monkeypatch.setattr(machine, "memory_bytes", lambda: (1000, GIB))
    (*_, too_large) = look_at_machine(settings, [replace(spec, name="huge")])
    assert too_large.thing == "model huge"
    assert too_large.is_fault
    assert "smaller" in (too_large.advice or "")


def test_the_command_prints_them_and_its_status_tells_of_faults() -> None:
    command = [sys.executable, "-m", "inlay", "doctor", "demo"]
    done = subprocess.run([*command, "--json", "--device", "cpu"], capture_output=True, text=True, check=True)
    things = [finding["thing"] for finding in json.loads(done.stdout)]
    assert things[-2:] == ["model demo", "engines of a server"]
    fault = subprocess.run([*command, "--device", "cuda:99"], capture_output=True, text=True, check=False)
    assert fault.returncode == 1
    assert "fault: --device cuda:99" in " ".join(fault.stdout.split())
