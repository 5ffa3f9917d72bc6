"""What is put before a text: a model's prompts, and instructions.

In: a spec and the options of a request. Out: what is put before a text. Byte for byte: one extra space after `Query:`
and the vectors are others. Knows nothing of tokens.
"""

from __future__ import annotations

import re

from inlay.errors import InvalidInput, shorten
from inlay.requests import EmbedOptions
from inlay.types import ModelSpec

QUERY, DOCUMENT = "query", "document"
ROLES = (QUERY, DOCUMENT)  # every model has them; one that treats both alike has no prompt for either

_INSTRUCTED = re.compile(r"^(Instruct: ).+(\nQuery: ?)$", re.DOTALL)


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
        raise InvalidInput(
            f"model {spec.name!r} has no prompt {shorten(name)!r}; it has: {known}.", param="prompt_name"
        )
    return spec.prompts.get(name, "")
