"""Python's collector of reference cycles, told to look less often."""

import gc


def seldom() -> None:
    """Look for cycles after every 50,000 new objects instead of 700.

    Importing PyTorch and scikit-learn makes half a million objects that stay, and each look at all
    of them takes as long as some imports: 0.4 of 2.4 seconds. For processes of our own only, a
    library must not decide that.
    """
    gc.set_threshold(50_000, 20, 20)
