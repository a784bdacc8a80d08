"""What a user can cause: one sentence that names the input, what is wrong and what to do."""


class UserError(ValueError):
    """The base of the errors that the command line shows as one sentence."""
