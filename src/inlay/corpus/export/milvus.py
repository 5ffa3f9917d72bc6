"""A collection in Milvus, through Milvus' client."""

from __future__ import annotations

import logging
from typing import Any

from pymilvus import MilvusClient, MilvusException

from inlay.corpus.export.point import Point
from inlay.corpus.search.searcher import Hit
from inlay.errors import DatabaseError
from inlay.types import FloatArray

RECORD, FINGERPRINT = "record", "inlay_fingerprint"


class MilvusDatabase:
    """`address` is a URL, or a file for milvus-lite."""

    errors: tuple[type[Exception], ...] = (MilvusException, OSError)

    def __init__(self, address: str, collection: str) -> None:
        logging.getLogger("pymilvus").setLevel(logging.CRITICAL)  # it logs what it raises, with its stack
        try:
            self._client: Any = MilvusClient(uri=address)
        except MilvusException as error:
            raise DatabaseError(f"milvus at {address}: {error.message}") from error
        self._collection = collection

    def fingerprint(self) -> str | None:
        if not self._client.has_collection(self._collection):
            return None
        self._client.load_collection(self._collection)
        rows = self._client.query(self._collection, filter="id >= 0", output_fields=[FINGERPRINT], limit=1)
        return str(rows[0][FINGERPRINT]) if rows else None

    def create(self, width: int) -> None:
        if not self._client.has_collection(self._collection):
            self._client.create_collection(
                self._collection, dimension=width, metric_type="COSINE", consistency_level="Strong"
            )

    def write(self, points: list[Point], fingerprint: str) -> None:
        rows = [
            {"id": point.row, "vector": point.vector, RECORD: point.record, FINGERPRINT: fingerprint}
            for point in points
        ]
        self._client.upsert(self._collection, rows)

    def search(self, query: FloatArray, top_k: int) -> list[Hit]:
        (found,) = self._client.search(self._collection, data=[query.tolist()], limit=top_k, output_fields=[RECORD])
        return [Hit(int(hit["id"]), float(hit["distance"]), hit["entity"][RECORD]) for hit in found]

    def close(self) -> None:
        self._client.close()
