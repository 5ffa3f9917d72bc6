from __future__ import annotations

from pathlib import Path

import pytest

from inlay.cli.serve import _models_of
from inlay.config import OPTIONS, Settings, meta_of
from inlay.config_sources import load_settings
from inlay.config_values import make_settings
from inlay.errors import ConfigError
from inlay.quantities import parse_size


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_flag_beats_a_variable_beats_the_file_beats_the_default() -> None:
    Path("inlay.toml").write_text("port = 1\nhost = 'file'\ndtype = 'float32'\n")
    settings = load_settings({"port": 3, "host": None}, {"INLAY_PORT": "2", "INLAY_HOST": "variable"})
    assert (settings.port, settings.host, settings.dtype, settings.device) == (3, "variable", "float32", "auto")


def test_another_file_can_be_named(tmp_path: Path) -> None:
    (tmp_path / "other.toml").write_text("port = 5\n")
    assert load_settings({}, {"INLAY_CONFIG": str(tmp_path / "other.toml")}).port == 5
    with pytest.raises(ConfigError, match="cannot be read"):
        load_settings({}, {"INLAY_CONFIG": "nowhere.toml"})


def test_values_from_text_are_read_by_their_type() -> None:
    settings = load_settings(
        {},
        {
            "INLAY_MAX_BODY_BYTES": "2MiB",
            "INLAY_ALLOW_TOKEN_IDS": "true",
            "INLAY_API_KEY": "a, b",
            "INLAY_REQUEST_TIMEOUT": "1.5",
            "INLAY_CONTEXT_LENGTH": "100",
            "INLAY_TRUNCATE": "end",
        },
    )
    assert settings.max_body_bytes == 2 << 20
    assert settings.allow_token_ids
    assert settings.api_key == ["a", "b"]
    assert (settings.request_timeout, settings.context_length, settings.truncate) == (1.5, 100, "end")


@pytest.mark.parametrize(
    ("flags", "environ", "file", "told"),
    [
        ({}, {"INLAY_HSOT": "1"}, "", "INLAY_HSOT.*did you mean INLAY_HOST"),
        ({}, {}, "hsot = 1", r"inlay\.toml: hsot.*did you mean host"),
        ({}, {"INLAY_PORT": "many"}, "", "INLAY_PORT: Expected `int`"),
        ({"port": 70000}, {}, "", "--port: Expected `int` <= 65535"),
        ({"max_batch_tokens": 0}, {}, "", "--max-batch-tokens"),
        ({}, {}, "max_body_bytes = 'lots'", "inlay.toml: max_body_bytes.*512MiB"),
        ({}, {}, "port = ", "inlay.toml cannot be read"),
        ({}, {}, "models = []", "inlay.toml: models: is empty"),
        ({}, {"INLAY_API_KEY": ""}, "", "INLAY_API_KEY: is empty"),
        ({}, {"INLAY_MAX_BODY_BYTES": "9" * 400 + "GB"}, "", "more than any machine has"),
    ],
)
def test_a_mistake_is_named_where_it_was_made(
    flags: dict[str, object], environ: dict[str, str], file: str, told: str
) -> None:
    if file:
        Path("inlay.toml").write_text(file)
    with pytest.raises(ConfigError, match=told):
        load_settings(flags, environ)


def test_what_kubernetes_sets_for_a_service_named_inlay_is_not_ours() -> None:
    environ = {
        "INLAY_PORT": "tcp://10.0.0.7:80",
        "INLAY_SERVICE_HOST": "10.0.0.7",
        "INLAY_SERVICE_PORT_HTTP": "80",
        "INLAY_PORT_80_TCP_ADDR": "10.0.0.7",
    }
    assert load_settings({}, environ) == Settings()


def test_sizes_are_read_in_both_kinds_of_units() -> None:
    sizes = [parse_size(text) for text in ("10", "1KB", "1KiB", "1.5 GiB", "2mb")]
    assert sizes == [10, 1000, 1024, 3 << 29, 2_000_000]
    for text in ("", "-1", "1XB", "MiB"):
        with pytest.raises(ValueError, match="not a size"):
            parse_size(text)


def test_settings_are_frozen_and_defaults_are_valid() -> None:
    with pytest.raises(AttributeError):
        Settings().port = 3  # type: ignore[misc]
    given = {name: getattr(Settings(), name) for name in OPTIONS}
    assert make_settings({name: value for name, value in given.items() if value != []}) == Settings()


def test_every_option_says_what_it_is_for() -> None:
    for name in OPTIONS:
        assert (meta_of(name).description or "").endswith(".")


def test_what_kubernetes_sets_for_services_beside_inlay_is_not_ours() -> None:
    environ = {
        "INLAY_REDIS_SERVICE_HOST": "10.0.0.8",
        "INLAY_REDIS_SERVICE_PORT": "6379",
        "INLAY_REDIS_SERVICE_PORT_REDIS": "6379",
        "INLAY_REDIS_PORT": "tcp://10.0.0.8:6379",
        "INLAY_REDIS_PORT_6379_TCP": "tcp://10.0.0.8:6379",
        "INLAY_REDIS_PORT_6379_TCP_PROTO": "tcp",
        "INLAY_REDIS_PORT_6379_TCP_PORT": "6379",
        "INLAY_REDIS_PORT_6379_TCP_ADDR": "10.0.0.8",
    }
    assert load_settings({}, environ) == Settings()
    assert load_settings({}, {"INLAY_PORT": "81"}).port == 81
    with pytest.raises(ConfigError, match="INLAY_HOST_NAME"):
        load_settings({}, {"INLAY_HOST_NAME": "x"})


def test_serve_takes_the_variable_of_one_model_too() -> None:
    assert _models_of(load_settings({}, {"INLAY_MODEL": "one"})) == ["one"]
    assert _models_of(load_settings({}, {"INLAY_MODELS": "two,three", "INLAY_MODEL": "one"})) == ["two", "three"]
    assert _models_of(load_settings({}, {})) == ["demo"]
