"""The description of the API, generated from the structs that parse it, and a page that shows it.

The page needs nothing from the network: a server behind a firewall has its docs too.
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

import msgspec

import inlay
from inlay.api.dialects.openai_schema import EmbeddingRequest, EmbeddingResponse, ErrorResponse
from inlay.api.search_schema import SearchRequest, SearchResponse

JSON = "application/json"
ERRORS = {
    400: "A wrong field or input; `param` names it",
    401: "Missing or unknown key",
    404: "Unknown model, corpus or path",
    408: "The head or the body did not come in time",
    409: "The corpus was made with another model",
    413: "Body over the limit",
    431: "Head over the limit",
    429: "Overloaded; see Retry-After",
    500: "The model failed on an input",
    503: "Loading, shutting down or out of memory; see Retry-After",
    504: "The request ran out of time",
}
GETS = {
    "/v1/models": "The models served: width, max tokens, prompts, Matryoshka range, fingerprint",
    "/v1/models/{name}": "One model",
    "/health": "200 while the device loops answer, else 503 with the reason",
    "/ready": "200 when requests can be sent, else 503 with the reason",
    "/metrics": "Prometheus metrics",
    "/info": "Version, models, limits, cache",
}


def describe_api() -> dict[str, Any]:
    """The OpenAPI 3.1 document."""
    roots = (EmbeddingRequest, EmbeddingResponse, SearchRequest, SearchResponse, ErrorResponse)
    schemas, components = msgspec.json.schema_components(roots, ref_template="#/components/schemas/{name}")
    embed, vectors, search, hits, error = schemas
    errors = {
        str(status): {"description": text, "content": {JSON: {"schema": error}}} for status, text in ERRORS.items()
    }
    paths: dict[str, Any] = {
        "/v1/embeddings": {"post": _post("Embed texts", "createEmbedding", embed, vectors, errors)},
        "/v1/search": {"post": _post("Search a precomputed corpus", "search", search, hits, errors)},
    }
    for path, summary in GETS.items():
        operation: dict[str, Any] = {"summary": summary, "responses": {"200": {"description": summary}}}
        if "{name}" in path:
            operation["responses"]["404"] = errors["404"]
            operation["parameters"] = [{"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}]
        paths[path] = {"get": operation}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Inlay", "version": inlay.__version__},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _post(summary: str, operation: str, request: Any, response: Any, errors: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ANN401
    good = {"description": "OK", "content": {JSON: {"schema": response}}}
    return {
        "summary": summary,
        "operationId": operation,
        "security": [{}, {"key": []}],
        "requestBody": {"required": True, "content": {JSON: {"schema": request}}},
        "responses": {"200": good, **errors},
    }


def render_docs(api: Mapping[str, Any]) -> str:
    """The same as one page of HTML."""
    routes = "".join(
        f"<tr><td><code>{method.upper()} {html.escape(path)}</code></td>"
        f"<td>{html.escape(operation['summary'])}</td></tr>"
        for path, operations in api["paths"].items()
        for method, operation in operations.items()
    )
    schemas = "".join(_render_schema(name, schema) for name, schema in api["components"]["schemas"].items())
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><title>Inlay API</title>"
        "<style>body{font:16px/1.5 system-ui;max-width:60rem;margin:2rem auto;padding:0 1rem}"
        "td{padding:.2rem 1rem .2rem 0;vertical-align:top}code{background:#f3f3f3;padding:0 .2rem}</style>"
        f"<h1>Inlay {html.escape(api['info']['version'])}</h1>"
        "<p>The same, for programs: <a href=/openapi.json>openapi.json</a></p>"
        f"<h2>Routes</h2><table>{routes}</table>{schemas}</html>"
    )


def _render_schema(name: str, schema: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><td><code>{html.escape(field)}</code></td><td>{html.escape(_type_of(about))}</td>"
        f"<td>{html.escape(str(about.get('description', '')))}</td></tr>"
        for field, about in schema.get("properties", {}).items()
    )
    about = html.escape(str(schema.get("description", "")))
    return f"<h2>{html.escape(name)}</h2><p>{about}</p><table>{rows}</table>"


def _type_of(about: Mapping[str, Any]) -> str:
    if "anyOf" in about:
        return " | ".join(_type_of(option) for option in about["anyOf"])
    if "enum" in about:
        return " | ".join(repr(value) for value in about["enum"])
    if "$ref" in about:
        return str(about["$ref"]).rsplit("/", 1)[-1]
    kind = str(about.get("type", "any"))
    return f"list of {_type_of(about['items'])}" if kind == "array" and about.get("items") else kind
