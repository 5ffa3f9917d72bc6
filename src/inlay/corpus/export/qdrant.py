"""A collection in Qdrant, through Qdrant's client."""

from __future__ import annotations

from qdrant_client import QdrantClient
from qdrant_client.http.exceptions import ApiException
from qdrant_client.models import Distance, PointStruct, VectorParams

from inlay.corpus.export.point import Point
from inlay.corpus.search.searcher import Hit
from inlay.types import FloatArray

FINGERPRINT = "inlay_fingerprint"


class QdrantDatabase:
    """`address` is a URL, or a directory for the client's local mode."""

    errors: tuple[type[Exception], ...] = (ApiException, OSError, ValueError)

    def __init__(self, address: str, collection: str) -> None:
        is_remote = address.startswith("http")
        self._client = QdrantClient(url=address, check_compatibility=False) if is_remote else QdrantClient(path=address)
        self._collection = collection

    def fingerprint(self) -> str | None:
        if not self._client.collection_exists(self._collection):
            return None
        points, _ = self._client.scroll(self._collection, limit=1)
        return str((points[0].payload or {}).get(FINGERPRINT)) if points else None

    def create(self, width: int) -> None:
        if not self._client.collection_exists(self._collection):
            params = VectorParams(size=width, distance=Distance.COSINE)
            self._client.create_collection(self._collection, vectors_config=params)

    def write(self, points: list[Point], fingerprint: str) -> None:
        rows = [
            PointStruct(id=point.row, vector=point.vector, payload={**point.record, FINGERPRINT: fingerprint})
            for point in points
        ]
        self._client.upsert(self._collection, rows)

    def search(self, query: FloatArray, top_k: int) -> list[Hit]:
        found = self._client.query_points(self._collection, query=query.tolist(), limit=top_k, with_payload=True)
        hits = []
        for point in found.points:
            record = {name: value for name, value in (point.payload or {}).items() if name != FINGERPRINT}
            hits.append(Hit(int(point.id), point.score, record))
        return hits

    def close(self) -> None:
        self._client.close()
