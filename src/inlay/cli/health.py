"""`inlay health`: does the server that these settings start answer? For a container's health check."""

from __future__ import annotations

import http.client
import json
from typing import Annotated

import typer

from inlay.cli.options import with_settings
from inlay.config import HEALTH, Settings
from inlay.errors import ConfigError

SECONDS = 5.0  # for an answer
ANY_HOST = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 - who listens on all is asked here


@with_settings(HEALTH)
def health(
    settings: Settings,
    ready: Annotated[bool, typer.Option("--ready", help="Ask whether requests can be sent, too.")] = False,
) -> None:
    """Ask the server that these settings start: status 0 if it is well, else 1 with the reason."""
    if settings.port == 0:
        raise ConfigError("--port 0 names no port to ask: give the one that the server's log tells")
    host = ANY_HOST.get(settings.host, settings.host)
    path = "/ready" if ready else "/health"
    connection = http.client.HTTPConnection(host, settings.port, timeout=SECONDS)
    try:
        connection.request("GET", path)
        reply = connection.getresponse()
        status, body = reply.status, reply.read()
    except (OSError, http.client.HTTPException) as error:
        typer.echo(
            f"inlay: no answer from http://{host}:{settings.port}{path}: {error or type(error).__name__}", err=True
        )
        raise typer.Exit(1) from error
    finally:
        connection.close()
    if status != http.client.OK:
        typer.echo(f"inlay: {path} has status {status}: {_reason_of(body)}", err=True)
        raise typer.Exit(1)


def _reason_of(body: bytes) -> str:
    """What an answer says, in one line."""
    try:
        return json.dumps(json.loads(body))
    except ValueError:
        return body[:200].decode("utf-8", "replace")
