"""A cached client in three lines: the second call computes nothing, also in another process."""

import tempfile

from inlay import Embedder

folder = tempfile.mkdtemp()  # yours would be a lasting one
for attempt in ("first", "second"):
    with Embedder("demo", cache=["memory://64MiB", f"disk://{folder}"]) as embedder:
        results = embedder.embed_rows(["kept on disk", "and never computed twice"])
        print(f"{attempt} time: {results.vectors.shape}, {results.num_cached} from the cache")
