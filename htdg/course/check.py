"""The self-checks of the exercises: one sentence that says whether an answer is right, or why not.

    @check
    def check_sides(answer):                      # answer: what the student wrote
        found = answer(64)
        expect(found is not None, "The function returns nothing: end it with return.")
        expect(len(found) == 6, f"There are {len(found)} scales, but there must be 6.")
        return "the sides are those of the paper"

In the notebook ``check_sides(my_sides)`` prints "Right: ...", or "Not done yet" while the exercise
is still empty, or fails with the sentence of the first expectation that does not hold.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

#: What stands in an exercise that nobody has done yet.
STUB = 'raise NotImplementedError("your code here")'


class NotRight(AssertionError):
    """An answer that is not right; the message says in one sentence what is wrong with it."""

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows of it: the sentence, without the lines of code that found it."""
        return [f"Not right yet: {self}"]


def expect(holds: object, said: str) -> None:
    """Fail with the sentence ``said`` unless ``holds``."""
    if not holds:
        raise NotRight(said)


def kind_of(value: object) -> str:
    """What an answer is, with its article: ``a list``, ``an ndarray``."""
    name = type(value).__name__
    vowel = name[0].lower() in "aeiou" or name == "ndarray"  # one says "en-d-array"
    return f"{'an' if vowel else 'a'} {name}"


def like(found: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """A tensor with the type of numbers of another: double precision is no mistake."""
    return found.detach().to(wanted)


def names_in(answer: Callable[..., Any]) -> set[str]:
    """The global names and attributes in the code of an answer, if it has any code."""
    return set(getattr(getattr(answer, "__code__", None), "co_names", ()))


def check(examine: Callable[..., str]) -> Callable[..., None]:
    """Turn a function that examines an answer into a self-check.

    ``examine`` takes the answer (a function, usually), calls ``expect`` and returns what to praise.
    An answer that raises something gets told what.
    """

    @functools.wraps(examine)
    def checked(*answers: Any) -> None:  # noqa: ANN401
        try:
            praise = examine(*answers)
        except NotImplementedError:
            print("Not done yet: put your code into the cell above, run it, then run this again.")
        except NotRight:
            raise
        except Exception as error:
            raise NotRight(f"It fails with {type(error).__name__}: {error}") from error
        else:
            print(f"Right: {praise}.")

    return checked
