"""Scores as tables, JSON and CSV."""
