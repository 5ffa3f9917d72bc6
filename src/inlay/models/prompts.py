"""What is put before a text: the checkpoint's prompts, those its publisher left out of the files, instructions.

In: a spec and the options of a request. Out: what is put before a text. Byte for byte: one extra space after `Query:`
and the vectors are others. Knows nothing of tokens.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from inlay.errors import InvalidInput
from inlay.requests import EmbedOptions
from inlay.types import ModelSpec

QUERY, DOCUMENT = "query", "document"
ROLES = (QUERY, DOCUMENT)  # every model has them; one that treats both alike has no prompt for either

# Prompts that model cards ask for and that no file of the checkpoint holds.
_UNWRITTEN: tuple[tuple[re.Pattern[str], Mapping[str, str]], ...] = (
    (
        re.compile(r"(^|[/_])(multilingual-)?e5-(small|base|large)(-v2)?$", re.IGNORECASE),
        MappingProxyType({QUERY: "query: ", DOCUMENT: "passage: ", "passage": "passage: "}),
    ),
    (
        re.compile(r"(^|[/_])bge-(small|base|large)-en(-v1\.5)?$", re.IGNORECASE),
        MappingProxyType({QUERY: "Represent this sentence for searching relevant passages: "}),
    ),
    (
        re.compile(r"(^|[/_])bge-(small|base|large)-zh(-v1\.5)?$", re.IGNORECASE),
        MappingProxyType({QUERY: "为这个句子生成表示以用于检索相关文章："}),
    ),
)
_INSTRUCTED = re.compile(r"^(Instruct: ).+(\nQuery: ?)$", re.DOTALL)


def unwritten_prompts(name: str) -> Mapping[str, str]:
    """Prompts known by the model's name alone (E5, BGE v1.5)."""
    return next((prompts for pattern, prompts in _UNWRITTEN if pattern.search(name)), {})


def template_of(query_prompt: str | None) -> str | None:
    """The instruction template that a query prompt of the form `Instruct: …\\nQuery:` is made from."""
    found = _INSTRUCTED.match(query_prompt or "")
    return None if found is None else f"{found[1]}{{instruction}}{found[2]}"


def prompt_of(spec: ModelSpec, options: EmbedOptions) -> str:
    """The text that goes before every input of a request; `InvalidInput` names what the model does not have."""
    if options.instruction is not None:
        if options.prompt_name not in (None, QUERY):
            raise InvalidInput(
                "instruction is for queries and cannot be combined with "
                f"prompt {options.prompt_name!r}: send one of the two.",
                param="instruction",
            )
        if spec.instruction_template is None:
            raise InvalidInput(
                f"model {spec.name!r} takes no instructions; leave out the field"
                + (f", or use one of its prompts: {', '.join(sorted(spec.prompts))}." if spec.prompts else "."),
                param="instruction",
            )
        return spec.instruction_template.replace("{instruction}", options.instruction)
    name = spec.default_prompt if options.prompt_name is None else options.prompt_name
    if name is None:
        return ""
    if name not in spec.prompts and name not in ROLES:
        known = ", ".join(sorted({*spec.prompts, *ROLES}))
        raise InvalidInput(f"model {spec.name!r} has no prompt {name!r}; it has: {known}.", param="prompt_name")
    return spec.prompts.get(name, "")
