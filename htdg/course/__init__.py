"""What the notebooks of the course need besides the library: exercises, self-checks, widgets."""
