"""Where options come from: flags, `INLAY_*` variables and `inlay.toml`, in that order of precedence.

In: flags and an environment. Out: one frozen `Settings`. An unknown variable or key is an error that names the nearest
known one. The library fills `Settings` itself and reads neither variables nor files.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from inlay.config import (
    CPU_ISA_VARIABLE,
    ENV_PREFIX,
    OPTIONS,
    THREADS_VARIABLE,
    Settings,
    flag_of,
)
from inlay.config_values import make_settings, nearest_option
from inlay.errors import ConfigError

CONFIG_FILE = "inlay.toml"
CONFIG_VARIABLE = "INLAY_CONFIG"
# Kubernetes sets these for each Service whose name begins with "inlay", such as inlay-redis; they are not ours.
_KUBERNETES = re.compile(r"INLAY_(\w+_)?(SERVICE_(HOST|PORT)(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)$")


def load_settings(flags: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> Settings:
    """Settings from flags (None: not given), variables and the toml file; `ConfigError` names the culprit."""
    environ = os.environ if environ is None else environ
    given = {name: value for name, value in flags.items() if value is not None and value != []}
    variables = _read_variables(environ)
    file = _read_file(environ)
    merged = {**file, **variables, **given}
    sources = {
        **{name: f"{CONFIG_FILE}: {name}" for name in file},
        **{name: ENV_PREFIX + name.upper() for name in variables},
        **{name: flag_of(name) for name in given},
    }
    return make_settings(merged, sources)


def _read_variables(environ: Mapping[str, str]) -> dict[str, str]:
    found = {}
    for variable, value in environ.items():
        if not variable.startswith(ENV_PREFIX) or variable in (CONFIG_VARIABLE, CPU_ISA_VARIABLE, THREADS_VARIABLE):
            continue
        name = variable.removeprefix(ENV_PREFIX).lower()
        if _KUBERNETES.match(variable) and (name not in OPTIONS or "://" in value):
            continue
        if name not in OPTIONS:
            raise ConfigError(f"{variable}: there is no such option{nearest_option(name, ENV_PREFIX)}")
        found[name] = value
    return found


def _read_file(environ: Mapping[str, str]) -> dict[str, Any]:
    named = environ.get(CONFIG_VARIABLE)
    path = Path(named or CONFIG_FILE)
    if named is None and not path.exists():
        return {}
    try:
        return tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
