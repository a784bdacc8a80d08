"""Errors caused by user input: one sentence that names the input, the problem and the remedy."""

import errno

#: How C++ and PyTorch say that there is no memory left.
_NO_MEMORY = ("bad_alloc", "out of memory", "allocate memory", "not enough memory")


class UserError(ValueError):
    """The base of the errors that the command line shows as one sentence."""


class UnreadableImages(UserError):
    """The work is done, but for images that could not be read: the exit code is 1."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, in Python, C++, PyTorch or the system."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    in_words = isinstance(error, RuntimeError) and any(why in str(error) for why in _NO_MEMORY)
    return isinstance(error, MemoryError) or in_words
