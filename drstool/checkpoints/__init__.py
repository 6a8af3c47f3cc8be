"""Trained networks and unfinished trainings as files."""
