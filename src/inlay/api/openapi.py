"""The description of the API, generated from the table of routes, and a page that shows it.

The page needs nothing from the network: a server behind a firewall has its docs too.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

import inlay
from inlay.api.common_shapes import ErrorResponse
from inlay.api.exchange import Exchange
from inlay.api.json_route import LINES
from inlay.api.replies import Reply
from inlay.api.routes import PLACEHOLDER, Route

JSON = "application/json"
FORM = "multipart/form-data"
HTML = b"text/html; charset=utf-8"
ERRORS = {
    400: "A wrong field or input; the message names it",
    401: "Missing or unknown key",
    403: "The key may not do this",
    404: "Unknown model, corpus or path",
    405: "Another method than the path has; see Allow",
    408: "The head or the body did not come in time",
    409: "The corpus was made with another model, or the fingerprint is not the one expected",
    413: "Body over the limit",
    431: "Head over the limit",
    429: "Overloaded; see Retry-After",
    500: "The model failed on an input",
    503: "Loading, shutting down or out of memory; see Retry-After",
    504: "The request ran out of time",
}


class Description:
    """Tells of the routes of a table, which may hold its own two."""

    def __init__(self) -> None:
        self.routes: Sequence[Route] = ()

    async def openapi(self, exchange: Exchange) -> Reply:
        return Reply.of_json(describe_api(self.routes))

    async def docs(self, exchange: Exchange) -> Reply:
        return Reply(render_docs(describe_api(self.routes)).encode(), content_type=HTML)


def describe_api(routes: Sequence[Route]) -> dict[str, Any]:
    """The OpenAPI 3.1 document."""
    forms = [bodies for route in routes for bodies in route.bodies]
    of_forms = (struct for form in forms for struct in (form.request, form.response, form.error, *form.lines))
    structs = list(dict.fromkeys((ErrorResponse, *of_forms)))
    schemas, components = msgspec.json.schema_components(structs, ref_template="#/components/schemas/{name}")
    schema_of = dict(zip(structs, schemas, strict=True))
    paths: dict[str, Any] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schema_of)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Inlay", "version": inlay.__version__},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(route: Route, schema_of: Mapping[Any, Any]) -> dict[str, Any]:
    success = str(route.success)
    operation: dict[str, Any] = {"summary": route.summary, "responses": {success: {"description": route.summary}}}
    if not route.is_open:
        operation["security"] = [{}, {"key": []}]
    if PLACEHOLDER in route.path:
        operation["responses"]["404"] = {"description": ERRORS[404]}
        operation["parameters"] = [{"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}]
    if not route.bodies and not route.is_probe:
        content = {JSON: {"schema": schema_of[ErrorResponse]}}
        operation["responses"] |= {
            str(status): {"description": text, "content": content} for status, text in ERRORS.items()
        }
    if route.form is not None:
        operation["requestBody"] = {"required": True, "content": {FORM: {"schema": route.form}}}
    if route.bodies:
        requests, responses, errors = (
            {JSON: {"schema": _any_of([schema_of[getattr(form, what)] for form in route.bodies])}}
            for what in ("request", "response", "error")
        )
        operation["requestBody"] = {"required": True, "content": requests}
        operation["responses"] |= {
            str(status): {"description": text, "content": errors}
            for statuses in (ERRORS, *(form.statuses for form in route.bodies))
            for status, text in statuses.items()
        }
        if lines := [schema_of[line] for form in route.bodies for line in form.lines]:
            responses[LINES.decode()] = {"schema": _any_of(lines)}
        operation["responses"][success]["content"] = responses
    return operation


def _any_of(schemas: list[Any]) -> Any:  # noqa: ANN401 - a schema is any JSON
    different = [schema for place, schema in enumerate(schemas) if schema not in schemas[:place]]
    return different[0] if len(different) == 1 else {"anyOf": different}


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
