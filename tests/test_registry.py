"""A registry: names of ours, of a family, and of objects outside the package."""

import math
import os.path

import pytest

from rsdnet.errors import DataError
from rsdnet.registry import Registry


@pytest.fixture
def numbers() -> Registry:
    return Registry("number", {"two": 2, "pi": "math:pi", "power:": lambda exponent, base: base ** int(exponent)})


def test_names_are_found_imported_or_completed(numbers):
    numbers["three"] = 3
    assert (numbers.find("two"), numbers.find("three"), numbers.find("pi")) == (2, 3, math.pi)
    assert numbers.find("power:3")(2) == 8
    assert numbers.find("os:path.join") is os.path.join


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("tow", r"unknown number 'tow' \(did you mean two\?\): use two, pi, power:NAME or your own as package"),
        ("nine", "unknown number 'nine': use two"),
        ("power:", "unknown number 'power:'"),
        ("no_such_module:x", "number 'no_such_module:x' cannot be imported: No module named 'no_such_module'"),
        ("math:no_such_name", "number 'math:no_such_name' cannot be imported: .*no_such_name"),
    ],
)
def test_what_cannot_be_found_is_said_in_one_line(numbers, name, says):
    with pytest.raises(DataError, match=says) as caught:
        numbers.find(name)
    assert "\n" not in str(caught.value)
