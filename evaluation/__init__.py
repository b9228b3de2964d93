"""Scores of a model, as tables and files."""
