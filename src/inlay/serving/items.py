"""Inputs of a request: the beginning of the service's story.

In: a request and the spec of its model. Out: inputs with their final text and keys, or their error; later they take
what caches and workers have for them. Pure functions, no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from msgspec import Struct

from inlay.cache.key import CacheKeys, KeyMaker
from inlay.errors import (
    EmptyInput,
    FingerprintMismatch,
    InlayError,
    InvalidInput,
    WrongTask,
    shorten,
)
from inlay.models.prompts import prompt_of
from inlay.models.ranking import first_part
from inlay.models.registry import OUTPUTS
from inlay.requests import (
    EmbedOptions,
    EmbedRequest,
    PairsRequest,
    RankRequest,
)
from inlay.types import SCORES, Answer, Content, Entry, ModelSpec, Pair


class Input(Struct, eq=False):
    """One text, or list of ids, of a request."""

    index: int  # place in the request; results are written here and nowhere else
    content: Content  # prompt included
    prompt: str = ""  # with which the content begins
    keys: dict[str, CacheKeys] = {}  # by kind of output
    payloads: dict[str, bytes] = {}  # by kind, the canonical outputs that are there
    num_tokens: int = 0  # filled with a payload
    is_truncated: bool = False  # filled with a payload
    is_cached: bool = False  # did all payloads come from a cache
    is_in_parts: bool = False  # of a document that counts as the best of its parts
    queue_seconds: float = 0.0
    model_seconds: float = 0.0
    error: InlayError | None = None  # filled by whoever failed

    @property
    def is_answered(self) -> bool:
        """Has it all that was asked for?"""
        return len(self.payloads) == len(self.keys) and self.error is None

    def missing(self) -> list[str]:
        """The kinds of output that it waits for."""
        return [kind for kind in self.keys if kind not in self.payloads]


def check_fingerprint(spec: ModelSpec, expected: str | None) -> None:
    """Refuse to answer with other vectors or scores than those that the caller has already."""
    if expected is not None and expected != spec.fingerprint:
        raise FingerprintMismatch(
            f"model {spec.name!r} has the fingerprint {spec.fingerprint}, and {shorten(expected)} is expected: what it "
            "gives cannot be compared with what that model gave; have that one served, or compute all again",
            param="expect_fingerprint",
        )


def check_options(spec: ModelSpec, options: EmbedOptions) -> None:
    """Refuse outputs that the model does not give, and a cut that its vectors were not made for."""
    for kind in options.outputs:
        if kind not in spec.outputs:
            raise WrongTask(
                f"model {spec.name!r} gives no {kind!r} output: it gives {', '.join(spec.outputs)}", param="outputs"
            )
    dimensions = options.dimensions
    if dimensions is None or dimensions == spec.width:
        return
    if options.allow_untrained_cut:
        if 0 < dimensions < spec.width:
            return
        raise InvalidInput(
            f"dimensions must be from 1 to {spec.width} for model {spec.name!r}, not {dimensions}", param="dimensions"
        )
    if spec.matryoshka is None:
        raise InvalidInput(
            f"model {spec.name!r} was not trained to be cut (no Matryoshka): "
            f"leave out dimensions, or send {spec.width}",
            param="dimensions",
        )
    smallest, largest = spec.matryoshka
    if not smallest <= dimensions <= largest:
        raise InvalidInput(
            f"dimensions must be from {smallest} to {largest} for model {spec.name!r}, not {dimensions}",
            param="dimensions",
        )


def check_query(request: RankRequest) -> None:
    """Refuse a query, or a task, that no document can be scored against."""
    if not request.query:
        raise EmptyInput("query is empty: send a text", param="query")
    for field, text in (("query", request.query), ("instruction", request.options.instruction or "")):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InvalidInput(
                f"{field} is not valid Unicode (a lone surrogate): send well-formed text", param=field
            ) from error


def make_pairs(spec: ModelSpec, request: RankRequest) -> list[Input]:
    """An `Input` for each document with the query; one that cannot have a key carries its error."""
    first = first_part(spec, request.query, request.options.instruction)
    maker = pair_key_maker(spec, request)
    inputs = []
    for index, document in enumerate(request.documents, request.first_index):
        given = make_pair(index, Pair(first, document), maker)
        if not document:
            given.error = EmptyInput("is empty: send a text, or leave it out")
        inputs.append(given)
    return inputs


def make_many_pairs(spec: ModelSpec, request: PairsRequest) -> list[Input]:
    """The same of pairs that each have a query of their own."""
    maker = pair_key_maker(spec, request)
    inputs = []
    for index, (query, text) in enumerate(request.pairs):
        first = first_part(spec, query, request.options.instruction)
        given = make_pair(index, Pair(first, text), maker)
        if not query or not text:
            given.error = EmptyInput("has an empty text: send two texts, or leave the pair out")
        inputs.append(given)
    return inputs


def pair_key_maker(spec: ModelSpec, request: RankRequest | PairsRequest) -> KeyMaker:
    """Of the scores that a request asks for."""
    return KeyMaker(spec.fingerprint, f"{SCORES}.{OUTPUTS[SCORES].version}", request.options.truncate, spec.max_tokens)


def make_pair(index: int, pair: Pair, maker: KeyMaker) -> Input:
    """The `Input` of a pair."""
    given = Input(index, pair)
    try:
        given.keys[SCORES] = maker.keys_of(pair)
    except UnicodeEncodeError:
        given.error = InvalidInput("is not valid Unicode (a lone surrogate): send well-formed text")
    return given


def make_inputs(spec: ModelSpec, request: EmbedRequest) -> list[Input]:
    """An `Input` for each input, prompt in front; one that cannot have a key carries its error."""
    options = request.options
    prompt = prompt_of(spec, options)
    makers = {
        kind: KeyMaker(spec.fingerprint, f"{kind}.{OUTPUTS[kind].version}", options.truncate, spec.max_tokens)
        for kind in options.outputs
    }
    inputs = []
    for index, content in enumerate(request.inputs, request.first_index):
        given = Input(index, content, prompt)
        try:
            if not content:
                raise EmptyInput("is empty: send a text (or token ids), or leave it out")
            if prompt and not isinstance(content, str):
                raise InvalidInput("has token ids, before which no prompt can be put: send texts, or no prompt")
            final = given.content = prompt + content if isinstance(content, str) else content
            for kind, maker in makers.items():
                given.keys[kind] = maker.keys_of(final)
        except InvalidInput as error:
            given.error = error
        except UnicodeEncodeError:
            given.error = InvalidInput("is not valid Unicode (a lone surrogate): send well-formed text")
        except OverflowError:
            given.error = InvalidInput(f"has a token id out of range (0 to {spec.vocab_rows - 1})")
        inputs.append(given)
    return inputs


def keys_of(inputs: list[Input]) -> list[bytes]:
    """All keys under which a cache may have what the inputs wait for, each once."""
    keys = [pair.whole for given in inputs for pair in given.keys.values()]
    keys += [pair.cut for given in inputs for pair in given.keys.values() if pair.cut is not None]
    return list(dict.fromkeys(keys))


def is_entry_of(spec: ModelSpec) -> Callable[[Entry], bool]:
    """Can an entry be one of this model's outputs? A shared store is not ours alone."""
    known: dict[tuple[str, int], bool] = {}  # by kind and length: most entries of a request are alike

    def is_good(entry: Entry) -> bool:
        alike = (entry.kind, len(entry.payload))
        if alike not in known:
            known[alike] = entry.kind in spec.outputs and OUTPUTS[entry.kind].is_payload(entry.payload, spec)
        return known[alike]

    return is_good


def take_entries(given: Input, found: Mapping[bytes, Entry], max_tokens: int) -> bool:
    """Give an input the entries that answer it, of those that were found; true when it waits for nothing more."""
    for kind, keys in given.keys.items():
        entry = found.get(keys.whole)
        if entry is None or entry.num_tokens > max_tokens:  # a server with a higher limit may have kept it
            entry = None if keys.cut is None else found.get(keys.cut)
        if entry is None or entry.kind != kind:
            continue
        given.payloads[kind] = entry.payload
        given.num_tokens, given.is_truncated = entry.num_tokens, entry.is_truncated
    given.is_cached = len(given.payloads) == len(given.keys)
    return given.is_cached


def take_answer(given: Input, answer: Answer, error: InlayError | None) -> None:
    """Give an input what came back for a computation that it shares."""
    if error is not None:
        given.error = error
        return
    given.payloads |= {kind: payload for kind, payload in answer.outputs.items() if kind in given.keys}
    given.num_tokens, given.is_truncated = answer.num_tokens, answer.is_truncated
    given.queue_seconds, given.model_seconds = answer.queue_seconds, answer.model_seconds
