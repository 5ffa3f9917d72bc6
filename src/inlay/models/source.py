"""Finds the directory of a checkpoint: the demo models, a local directory, or a hub snapshot.

In: what the user wrote. Out: a path and the name to serve it by. Knows nothing of what lies inside.
"""

from __future__ import annotations

from pathlib import Path

from inlay.errors import ModelError
from inlay.models.adapter_config import is_adapter, read_adapter_config
from inlay.models.demo import locate_demo
from inlay.models.packages import PACKAGED, locate_packaged

REPORTS = {"int8": "inlay_int8.json", "fp8": "inlay_fp8.json"}  # beside the weights that `inlay quantize` wrote
DEMO = "demo"
NEEDED_FILES = ["*.json", "*/config.json", "*.safetensors", "tokenizer.json", "*_linear.pt"]


def locate(model: str) -> Path:
    """The directory of a demo model, of a path, or of a hub id; `ModelError` says what to do when there is none."""
    if model == DEMO:
        return locate_demo()
    if model in PACKAGED:
        return locate_packaged(model)
    path = Path(model).expanduser()
    if path.is_dir():
        return path.resolve()
    looks_local = model.startswith((".", "/", "~")) or model.count("/") != 1 or path.exists()
    if looks_local:
        raise ModelError(
            f"{model!r} is not a directory. Give a model directory, a hub id such as "
            f"Qwen/Qwen3-Embedding-0.6B, or one of {', '.join((DEMO, *PACKAGED))}."
        )
    return _download(model)


def locate_base(adapter: Path) -> Path:
    """The directory of the model that an adapter names as its base."""
    named = read_adapter_config(adapter).base_model_name_or_path
    if not named:
        raise ModelError(f"{adapter} names no base: name it as the model, and give --adapter {adapter}")
    try:
        base = locate(named)
    except ModelError as error:
        raise ModelError(
            f"{adapter} adapts {named!r}, which cannot be found ({error.message.rstrip('.')}): name its base as the "
            f"model, and give --adapter {adapter}"
        ) from error
    if is_adapter(base):
        raise ModelError(f"{adapter} adapts {base}, which is an adapter itself: merge that with peft first")
    return base


def served_name(model: str) -> str:
    """The name a model is served by: the hub id as it is, or the last part of a path."""
    if model in (DEMO, *PACKAGED) or not Path(model).expanduser().is_dir():
        return model
    return Path(model).expanduser().resolve().name


def _download(model: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        path = Path(snapshot_download(model, allow_patterns=NEEDED_FILES))
        has_weights = any(path.glob("*.safetensors"))
        return path if has_weights else Path(snapshot_download(model, allow_patterns=["pytorch_model*.bin*"]))
    except RepositoryNotFoundError as error:
        raise ModelError(
            f"the hub has no model {model!r}, or it is private: check the name, or set HF_TOKEN."
        ) from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(
            f"{model!r} could not be fetched from the hub ({type(error).__name__}) and is not in its local "
            "cache. Check the network, or give the directory of a downloaded copy."
        ) from error
    except ValueError as error:
        raise ModelError(f"{model!r} is not a hub id: {error}") from error


def stored_scheme(path: Path) -> str | None:
    """What `inlay quantize` wrote a checkpoint in; None for any other."""
    return next((scheme for scheme, name in REPORTS.items() if (path / name).exists()), None)
