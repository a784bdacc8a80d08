"""Errors caused by user input: one sentence that names the input, the problem and the remedy."""


class UserError(ValueError):
    """The base of the errors that the command line shows as one sentence."""


class UnreadableImages(UserError):
    """The work is done, but for images that could not be read: the exit code is 1."""
