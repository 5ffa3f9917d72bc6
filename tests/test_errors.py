"""One error tree: drawn as it is, exported whole, and the same on the other side of a seam."""

from __future__ import annotations

import re
from collections.abc import Iterator

import inlay
from inlay import errors
from inlay.error_codes import error_of
from inlay.errors import InlayError
from inlay.types import Failure


def classes_of(root: type[InlayError]) -> Iterator[type[InlayError]]:
    yield root
    for below in root.__subclasses__():
        yield from classes_of(below)


def test_the_drawn_tree_has_every_class_with_its_status() -> None:
    drawn = dict(re.findall(r"[├└]── (\w+)\D*?(\d{3})?$", errors.__doc__ or "", re.MULTILINE))
    below = [kind for kind in classes_of(InlayError) if kind is not InlayError]
    assert drawn.keys() == {kind.__name__ for kind in below}
    for kind in below:
        assert drawn[kind.__name__] in ("", str(kind.status)), kind


def test_every_error_can_be_imported_from_the_package() -> None:
    for kind in classes_of(InlayError):
        assert getattr(inlay, kind.__name__) is kind
        assert kind.__name__ in inlay.__all__


def test_an_error_crosses_a_seam_as_what_it_is() -> None:
    kinds = list(classes_of(InlayError))
    assert len({kind.code for kind in kinds}) == len(kinds), "a code names one class"
    for kind in kinds:
        found = Failure.of(kind("it went wrong", retry_after=2.0)).error()
        assert (type(found), found.message, found.retry_after) == (kind, "it went wrong", 2.0)
    assert type(error_of("of_a_newer_version", "x")) is InlayError
