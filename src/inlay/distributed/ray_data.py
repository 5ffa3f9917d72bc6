"""Embeds a dataset of Ray Data, in actors that hold a model each.

In: a dataset with a column of texts. Out: the same dataset with a column of vectors, computed when it is consumed. With
a checkpoint, a run that was killed goes on where it was: rows that were written are not computed again.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inlay.errors import ConfigError, InvalidInput
from inlay.thread_count import variables_for

if TYPE_CHECKING:
    from ray.data import Dataset

BLOCK_BYTES = 1 << 20  # of written blocks, which are what a checkpoint knows: small ones lose little


class Embed:
    """In an actor: adds a column of vectors to batches."""

    def __init__(
        self, model: str, arguments: Mapping[str, Any], options: Mapping[str, Any], columns: tuple[str, str]
    ) -> None:
        from inlay.library.embedder import Embedder

        self._embedder = Embedder(model, **arguments)
        self._options = options
        self._text, self._vector = columns

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        texts = list(batch[self._text])
        if not all(isinstance(text, str) for text in texts):
            raise InvalidInput(f"column {self._text!r} has values that are no texts: filter these rows out first")
        return {**batch, self._vector: self._embedder.embed(texts, **self._options)}


def embed(
    dataset: Dataset,
    model: str = "demo",
    *,
    text: str = "text",
    vector: str = "embedding",
    options: Mapping[str, Any] | None = None,
    num_actors: int = 1,
    num_cpus: float = 1,
    num_gpus: float = 0,
    batch_size: int = 512,
    checkpoint: str | Path | None = None,
    id: str | None = None,
    **arguments: Any,  # noqa: ANN401
) -> Dataset:
    """The dataset with a column `vector` of the vectors [width] of its column `text`.

    `options` are those of `Embedder.embed` (prompt, instruction, dimensions, truncate …), `arguments` of `Embedder`
    (dtype, device …). `checkpoint` is a directory that all nodes see, `id` the column that tells its rows apart; write
    the result to files, and run the same again after a fault.
    """
    if (checkpoint is None) != (id is None):
        raise ConfigError("a checkpoint needs a column that tells rows apart, and the other way round: give both")
    if checkpoint is not None and id is not None:
        _keep_checkpoints(dataset, str(checkpoint), id)
    from ray.data import ActorPoolStrategy

    return dataset.map_batches(
        Embed,
        fn_constructor_args=(model, arguments, dict(options or {}), (text, vector)),
        batch_size=batch_size,
        batch_format="numpy",
        compute=ActorPoolStrategy(size=num_actors),
        num_cpus=num_cpus,
        num_gpus=num_gpus,
        runtime_env={"env_vars": variables_for(num_cpus)},
    )


def _keep_checkpoints(dataset: Dataset, directory: str, column: str) -> None:
    from ray.data.checkpoint import CheckpointConfig

    dataset.context.target_max_block_size = BLOCK_BYTES
    dataset.context.checkpoint_config = CheckpointConfig(
        id_column=column, checkpoint_path=directory, delete_checkpoint_on_success=False
    )
