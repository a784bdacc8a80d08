"""Attacks: programs killed anywhere, hostile files. ``make test`` runs a few minutes of them."""
