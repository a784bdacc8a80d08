"""The accelerated backend: the same numbers as the plain one but for rounding, sooner."""
