"""What pydantic finds wrong, in words that say what to send."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from service.api.wording import sentence


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid")

    count: Annotated[int, Field(ge=1, le=9)] = 1
    share: float = 0.5
    ready: bool = True
    name: str = ""
    kind: Literal["a", "b"] = "a"
    items: list[int] = Field([], min_length=1, max_length=2)
    parameters: dict[str, int] = {}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"count": "many"}, "count: it must be a whole number."),
        ({"count": 1.5}, "count: it must be a whole number."),
        ({"count": []}, "count: it must be a whole number."),
        ({"count": "9" * 5000}, "count: it must be a whole number, and smaller."),
        ({"count": 0}, "count: it must be 1 or more."),
        ({"count": 10}, "count: it must be 9 or less."),
        ({"share": "half"}, "share: it must be a number."),
        ({"ready": "perhaps"}, "ready: it must be true or false."),
        ({"ready": []}, "ready: it must be true or false."),
        ({"name": 1}, "name: it must be text."),
        ({"kind": "c"}, "kind: it must be 'a' or 'b'."),
        ({"items": []}, "items: it must have 1 at least."),
        ({"items": [1, 2, 3]}, "items: it must have 2 at most."),
        ({"items": [1, "x"]}, "items.1: it must be a whole number."),
        ({"items": 1}, "items: it must be a list."),
        ({"parameters": 1}, "parameters: it must be an object."),
        ({"other": 1}, "other: it must be left out: it is not known here."),
        ({"share": None}, "share: it must be as the documentation at /docs says."),
        (3, "the request: it must be an object."),
    ],
)
def test_it_says_what_must_be_there(given: Any, told: str) -> None:  # noqa: ANN401 - whatever JSON may be
    with pytest.raises(ValidationError) as found:
        TypeAdapter(Body).validate_python(given)
    assert sentence(found.value.errors()) == told
