"""How much the fuzzers try, and what a refusal is.

A plain run tries a few hundred inputs, the same ones every time. With ``HTDG_ATTACK=long`` it tries
a hundred times as many, other ones every time, and with ``HTDG_ATTACK=<number>`` so many times as
many:

    HTDG_ATTACK=long python -m pytest tests/attack/test_fuzz_models.py
"""

import gc
import json
import os
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from htdg.errors import UserError

_ASKED = os.environ.get("HTDG_ATTACK", "")
LONG = bool(_ASKED)
FACTOR = 100 if _ASKED == "long" else int(_ASKED or 1)
#: Characters of a refusal at most: a sentence or two, with two paths in them.
LONGEST = 700


def tries(count: int) -> settings:
    """The settings of a property that a plain run tries so many times."""
    return settings(
        max_examples=count * FACTOR,
        deadline=None,
        derandomize=not LONG,
        database=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )


@contextmanager
def accepted_or_refused(
    seconds: float = 5.0, megabytes: int = 500, repeats: bool = False
) -> Iterator[list[UserError]]:
    """Fail unless what is done inside ends well or in a UserError of a sentence or two.

    It must not compute longer than ``seconds`` nor need more than ``megabytes`` either. With
    ``repeats`` the refusal may repeat what the user wrote, however long it is. Yields a list that
    gets the refusal.
    """
    refusals: list[UserError] = []
    # A collection goes through all that other tests have left: 0.7 s, seen where 1 s is the limit.
    gc.disable()
    before, started = _peak(), time.process_time()
    try:
        yield refusals
    except UserError as error:
        refusals.append(error)
        check_refusal(str(error), repeats)
    finally:
        gc.enable()
    assert time.process_time() - started < seconds
    assert _peak() - before < megabytes * 2**20


def check_refusal(text: str, repeats: bool = False) -> None:
    """Fail unless this is a sentence or two, apart from what it repeats."""
    assert repeats or len(text) <= LONGEST, f"{len(text)} characters: {text[:LONGEST]}"
    assert repeats or "\n" not in text, repr(text)
    assert text.endswith((".", ")")), repr(text)
    assert "Traceback" not in text


def _peak() -> int:
    """The most memory that this process ever had, bytes."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


# --- What to try --------------------------------------------------------------------------------

#: A change of some bytes: (kind, where as a share of all, bytes to put there, how many to take).
Edit = tuple[str, float, bytes, int]
EDITS = st.lists(
    st.tuples(
        st.sampled_from(["flip", "put", "insert", "delete", "cut", "repeat"]),
        st.floats(0, 1),
        st.binary(min_size=1, max_size=8)
        | st.sampled_from([b"\0" * 4, b"\xff" * 4, b"\x7f\xff\xff\xff", b"\0" * 64, b"\xff" * 64]),
        st.integers(1, 64),
    ),
    min_size=1,
    max_size=4,
)


def edited(content: bytes, edits: list[Edit], first: int | None = None) -> bytes:
    """``content`` after these changes, all within its first so many bytes, where the headers are.

    >>> edited(b"abcd", [("cut", 0.5, b"", 1)])
    b'ab'
    """
    data = bytearray(content)
    for kind, share, new, count in edits:
        reach = len(data) if first is None else min(first, len(data))
        at = min(int(share * reach), max(0, len(data) - 1))
        if kind == "flip" and data:
            data[at] ^= 1 << count % 8
        elif kind == "put":
            data[at : at + len(new)] = new
        elif kind == "insert":
            data[at:at] = new
        elif kind == "delete":
            del data[at : at + count]
        elif kind == "cut":
            del data[at:]
        elif kind == "repeat":
            data[at:at] = data[at : at + count] * 3
    return bytes(data)


def _nested(depth: int) -> object:
    value: object = 0
    for _ in range(depth):
        value = [value]
    return value


#: Which of many, as a share of them, with no preference for the first or the last.
SHARES = st.integers(0, 999).map(lambda number: number / 1000)
#: Values that nobody expects where JSON has another.
HOSTILE = (
    st.sampled_from(
        [
            None,
            True,
            False,
            0,
            1,
            -1,
            2,
            255,
            2**16,
            2**31,
            2**32 - 1,
            2**63,
            10**30,
            10**400,
            -(10**400),
            0.0,
            -0.0,
            0.5,
            1.0,
            1e-320,
            1e308,
            float("nan"),
            float("inf"),
            float("-inf"),
            "",
            "nan",
            "0",
            "\ud800",
            "\0",
            "a\nb\x1b[31m",
            "x" * 5000,
            [],
            {},
            [[]],
            [None],
            {"": None},
            {"\ud800": 1},
            [0] * 3000,
            _nested(50),
            _nested(900),
        ]
    )
    | st.integers(-100, 100)
    | st.floats()
    | st.text(max_size=8)
    | st.lists(st.integers(-2, 30), max_size=6)
)


def places(document: object, at: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The path of every value inside a JSON document, as far as lists are short and nothing deep.

    >>> list(places({"a": [1]}))
    [('a',), ('a', 0)]
    """
    inside: list[tuple[str | int, object]] = []
    if isinstance(document, dict):
        inside = list(document.items())
    elif isinstance(document, list):
        inside = list(enumerate(document[:20]))
    for key, value in inside:
        yield (*at, key)
        if len(at) < 6:
            yield from places(value, (*at, key))


def replace_at(document: object, path: tuple[str | int, ...], value: object) -> None:
    """Put a copy of a value where ``path`` leads, if that is still there; ``...`` deletes it."""
    value = value if value is ... else json.loads(json.dumps(value))
    for key in path[:-1]:
        try:
            document = document[key]  # type: ignore[index]
        except (LookupError, TypeError):
            return
    if isinstance(document, dict):
        if value is ...:
            document.pop(path[-1], None)
        else:
            document[path[-1]] = value
    elif isinstance(document, list) and isinstance(path[-1], int) and path[-1] < len(document):
        if value is ...:
            del document[path[-1]]
        else:
            document[path[-1]] = value
