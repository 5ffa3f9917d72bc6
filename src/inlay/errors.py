"""Every error that a user can meet, with its HTTP status, its code and a message that names the remedy.

    InlayError
    ├── ConfigError             a flag, variable, toml key or library argument
    ├── ModelError              a checkpoint that cannot be served
    ├── RequestError            the caller's mistake; repeating it will not help
    │   ├── InvalidInput                400
    │   │   ├── EmptyInput              400
    │   │   └── WrongTask               400
    │   ├── ContextLengthExceeded       400
    │   ├── QueryTooLong                400
    │   ├── Unauthorized                401
    │   ├── Forbidden                   403
    │   ├── UnknownModel                404
    │   ├── UnknownCorpus               404
    │   ├── NotFound                    404
    │   │   ├── UnknownFile             404
    │   │   └── UnknownBatch            404
    │   ├── MethodNotAllowed            405
    │   ├── HeadTimeout                 408
    │   ├── BodyTimeout                 408
    │   ├── CorpusMismatch              409
    │   ├── FingerprintMismatch         409
    │   ├── Conflict                    409
    │   ├── TooLarge                    413
    │   │   └── StorageFull             413
    │   └── HeadTooLarge                431
    ├── Refused                 not now; try again
    │   ├── Overloaded                  429
    │   ├── QuotaExceeded               429
    │   ├── NotReady                    503
    │   └── ShuttingDown                503
    ├── CorpusDamaged                   503
    ├── DatabaseError           a vector database that does not answer, or refuses
    ├── DeadlineExceeded                504
    ├── Cancelled                       499
    └── EngineError                     500
        ├── NonFiniteVector             500
        ├── OutOfMemory                 503
        ├── DeviceLost                  503
        │   └── ModelChanged            503
        └── WorkerDead                  503

Knows nothing of dialects: how an error looks on the wire is theirs to say.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

# fmt: off
__all__ = [
    "BodyTimeout", "Cancelled", "ConfigError", "Conflict", "ContextLengthExceeded", "CorpusDamaged",
    "CorpusMismatch", "DatabaseError", "DeadlineExceeded", "DeviceLost", "EmptyInput", "EngineError",
    "FingerprintMismatch", "Forbidden", "HeadTimeout", "HeadTooLarge", "InlayError", "InvalidInput",
    "MethodNotAllowed", "ModelChanged", "ModelError", "NonFiniteVector", "NotFound", "NotReady", "OutOfMemory",
    "Overloaded", "QueryTooLong", "QuotaExceeded", "Refused", "RequestError", "ShuttingDown", "StorageFull",
    "TooLarge", "Unauthorized", "UnknownBatch", "UnknownCorpus", "UnknownFile", "UnknownModel", "WorkerDead",
    "WrongTask",
]
# fmt: on

LONGEST_NAME = 200


class InlayError(Exception):
    """The root. `param` names the field at fault, such as `input[3]`; `retry_after` is in seconds."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    is_of_input: ClassVar[bool] = False  # does the message tell of one input ("has 600 tokens, …")
    is_of_request: ClassVar[bool] = False  # a verdict on one request, which another that shares a text need not share

    def __init__(self, message: str, *, param: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after = retry_after

    def renamed(self, names: Mapping[str, str]) -> InlayError:
        """The error with another name for the field at fault, where that has one."""
        field, bracket, place = (self.param or "").partition("[")
        if field not in names:
            return self
        param = names[field] + bracket + place
        message = self.message
        if self.param and message.startswith(self.param):
            message = param + message.removeprefix(self.param)
        return type(self)(message, param=param, retry_after=self.retry_after)

    def for_input(self, index: int) -> InlayError:
        """The error as the request whose input it is should read it."""
        if not self.is_of_input:
            return self
        param = f"input[{index}]"
        return type(self)(f"{param} {self.message}", param=param, retry_after=self.retry_after)


def shorten(name: str) -> str:
    """A name from a client, as long as it belongs into a message."""
    return name if len(name) <= LONGEST_NAME else name[:LONGEST_NAME] + "…"


class ConfigError(InlayError):
    code = "invalid_configuration"


class ModelError(InlayError):
    code = "unusable_model"


class RequestError(InlayError):
    status = 400
    code = "invalid_request"


class InvalidInput(RequestError):
    code = "invalid_input"
    is_of_input = True


class EmptyInput(InvalidInput):
    code = "empty_input"


class WrongTask(InvalidInput):
    code = "wrong_task"
    is_of_input = False


class ContextLengthExceeded(RequestError):
    code = "context_length_exceeded"
    is_of_input = True


class QueryTooLong(RequestError):
    code = "query_too_long"


class Unauthorized(RequestError):
    status = 401
    code = "invalid_api_key"


class Forbidden(RequestError):
    status = 403
    code = "forbidden"


class UnknownModel(RequestError):
    status = 404
    code = "model_not_found"


class UnknownCorpus(RequestError):
    status = 404
    code = "corpus_not_found"


class NotFound(RequestError):
    status = 404
    code = "not_found"


class UnknownFile(NotFound):
    code = "file_not_found"


class UnknownBatch(NotFound):
    code = "batch_not_found"


class MethodNotAllowed(RequestError):
    status = 405
    code = "method_not_allowed"


class HeadTimeout(RequestError):
    status = 408
    code = "head_timeout"


class BodyTimeout(RequestError):
    status = 408
    code = "body_timeout"


class CorpusMismatch(RequestError):
    status = 409
    code = "corpus_model_mismatch"


class FingerprintMismatch(RequestError):
    status = 409
    code = "fingerprint_mismatch"


class Conflict(RequestError):
    """What is asked for is not possible as long as something else is."""

    status = 409
    code = "conflict"


class TooLarge(RequestError):
    status = 413
    code = "request_too_large"
    is_of_request = True


class StorageFull(TooLarge):
    code = "storage_full"


class HeadTooLarge(RequestError):
    status = 431
    code = "request_head_too_large"


class Refused(InlayError):
    status = 503
    code = "refused"
    is_of_request = True


class Overloaded(Refused):
    status = 429
    code = "overloaded"


class QuotaExceeded(Refused):
    status = 429
    code = "quota_exceeded"


class NotReady(Refused):
    code = "model_loading"


class ShuttingDown(Refused):
    code = "shutting_down"


class CorpusDamaged(InlayError):
    status = 503
    code = "corpus_damaged"


class DatabaseError(InlayError):
    status = 502
    code = "database_error"


class DeadlineExceeded(InlayError):
    status = 504
    code = "deadline_exceeded"


class Cancelled(InlayError):
    status = 499
    code = "client_closed_request"


class EngineError(InlayError):
    code = "engine_error"
    is_of_input = True


class NonFiniteVector(EngineError):
    code = "non_finite_vector"


class OutOfMemory(EngineError):
    status = 503
    code = "out_of_memory"


class DeviceLost(EngineError):
    """After it nothing more can run on the device in this process."""

    status = 503
    code = "device_lost"
    is_of_input = False


class ModelChanged(DeviceLost):
    """The files of the model were changed while it is served."""

    code = "model_changed"


class WorkerDead(EngineError):
    status = 503
    code = "worker_dead"
    is_of_input = False
