"""The self-checks of the exercises: one sentence that says whether an answer is right, or why not.

    @check
    def check_sides(answer):                      # answer: what the student wrote
        sides = answer(64)
        expect(sides is not None, "The function returns nothing: end it with return.")
        expect(len(sides) == 6, f"There are {len(sides)} scales, but there must be 6.")
        return "the sides are those of the paper"

In the notebook ``check_sides(my_sides)`` prints "Right: ...", or "Not done yet" while the exercise
is still empty, or fails with the sentence of the first expectation that does not hold.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

#: The line in an exercise that nobody has done yet.
STUB = 'raise NotImplementedError("your code here")'
#: What an answer that has no ``return`` is told.
NOTHING = "The function returns nothing: end it with return."


class NotRight(AssertionError):
    """An answer that is not right; the message says in one sentence what is wrong with it."""

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows of it: the sentence, without the traceback."""
        return [f"Not right yet: {self}"]


def expect(holds: object, message: str) -> None:
    """Raise NotRight with the sentence ``message`` unless ``holds``."""
    if not holds:
        raise NotRight(message)


def kind_of(value: object) -> str:
    """The type of an answer with its article: ``a list``, ``an ndarray``."""
    name = type(value).__name__
    vowel = name[0].lower() in "aeiou" or name == "ndarray"  # one says "en-d-array"
    return f"{'an' if vowel else 'a'} {name}"


def like(result: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """A tensor with the dtype and device of another: double precision is no mistake."""
    return result.detach().to(other)


def names_in(answer: Callable[..., Any]) -> set[str]:
    """The global names and attributes in the code of an answer, if it has any code."""
    names: set[str] = set()
    waiting = [getattr(answer, "__code__", None)]
    while waiting:
        code = waiting.pop()
        names |= set(getattr(code, "co_names", ()))
        # Functions, and comprehensions up to Python 3.11, have code of their own inside.
        waiting += [part for part in getattr(code, "co_consts", ()) if hasattr(part, "co_names")]
    return names


def expect_own(answer: Callable[..., Any], names: set[str], instead: str) -> None:
    """Raise NotRight if the answer calls what it is to write itself; ``instead`` says how."""
    used = names_in(answer) & names
    expect(not used, f"{', '.join(sorted(used))} is what you are to write yourself: {instead}")


def check(examine: Callable[..., str]) -> Callable[..., None]:
    """Turn a function that examines an answer into a self-check.

    ``examine`` takes the answer (usually a function), calls ``expect``, and returns a few words of
    praise. If the answer itself raises an exception, the student sees which.
    """

    @functools.wraps(examine)
    def checked(*answers: object) -> None:
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
