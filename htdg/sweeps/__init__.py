"""Sweeps: many evaluations from one file, on many processes; their tables beside the paper's."""
