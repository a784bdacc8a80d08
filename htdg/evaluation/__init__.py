"""Measuring a detector on a data set: runs, metrics, figures and tables."""
