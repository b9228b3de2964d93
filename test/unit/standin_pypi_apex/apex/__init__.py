"""A stand-in for the package of this name on PyPI, a web toolkit without `amp`."""

__version__ = "0.9.10.dev0"
