"""No log format shows an input, and none lets a client write to the operator's terminal."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from inlay.errors import ModelError
from inlay.telemetry.logs import configure_logs, get_logger

SECRET = "xylophone-secret"


@pytest.fixture(params=["console", "json"])
def log_format(request: pytest.FixtureRequest) -> Iterator[str]:
    root, names = logging.getLogger(), ("", "inlay", "uvicorn.error")
    before = list(root.handlers), {name: logging.getLogger(name).level for name in names}
    yield request.param
    root.handlers[:] = before[0]
    for name, level in before[1].items():
        logging.getLogger(name).setLevel(level)


def fail_with(text: str) -> None:
    raise ValueError(text)


def test_tracebacks_have_no_values_and_no_messages_that_may_quote_an_input(
    log_format: str, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logs("info", log_format)
    log = get_logger("api")
    try:
        fail_with(SECRET)
    except ValueError as error:
        log.exception("request failed", path="/x")
        logging.getLogger("uvicorn.error").error("Exception in ASGI application\n", exc_info=error)
    shown = capsys.readouterr().err
    assert SECRET not in shown
    assert shown.count("fail_with") >= 2, "where it was raised must be told"
    assert shown.count("ValueError") >= 2


def test_messages_that_never_quote_an_input_are_told(log_format: str, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs("info", log_format)
    for error in (ModelError("no weights"), RuntimeError("CUDA error"), OSError(28, "No space left")):
        try:
            raise error
        except Exception:  # noqa: BLE001 - of three kinds
            get_logger("engine").exception("failed")
    shown = capsys.readouterr().err
    assert "no weights" in shown
    assert "CUDA error" in shown
    assert "No space left" in shown


def test_control_and_bidi_characters_do_not_reach_the_log(log_format: str, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs("info", log_format)
    evil = "/\x1b[2J\x07\x9b31m\u202e\u2066\u200f\x7f\r\nfake line"
    get_logger("api").info("request", path=evil)
    shown = capsys.readouterr().err
    assert not set(evil) & set(shown) & set("\x1b\x07\x9b\u202e\u2066\u200f\x7f\r")
    assert shown.count("\n") == 1
    assert "u001b" in shown
