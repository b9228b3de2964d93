"""Stands in for the package that PyPI calls apex: a web toolkit, with no `amp` in it."""

__version__ = "0.9.10.dev0"
