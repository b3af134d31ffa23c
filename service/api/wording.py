"""What pydantic finds wrong with a request → the same in words that say what to send."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

MUST = {  # pydantic's kinds of errors, with what it knows of each
    "bool_parsing": "be true or false",
    "bool_type": "be true or false",
    "dict_type": "be an object",
    "extra_forbidden": "be left out: it is not known here",
    "float_parsing": "be a number",
    "greater_than_equal": "be {ge} or more",
    "int_from_float": "be a whole number",
    "int_parsing": "be a whole number",
    "int_parsing_size": "be a whole number, and smaller",
    "int_type": "be a whole number",
    "less_than_equal": "be {le} or less",
    "list_type": "be a list",
    "literal_error": "be {expected}",
    "missing": "be there",
    "model_attributes_type": "be an object",
    "model_type": "be an object",
    "string_type": "be text",
    "too_long": "have {max_length} at most",
    "too_short": "have {min_length} at least",
}


def sentence(errors: Sequence[Mapping[str, Any]], between: str = ".") -> str:
    """The first of pydantic's `errors`, and where it is, with `between` the names and numbers on the way there."""
    first = errors[0]
    place = between.join(map(str, first["loc"])) or "the request"
    must = MUST.get(first["type"], "be as the documentation at /docs says").format(**first.get("ctx", {}))
    return f"{place}: it must {must}."
