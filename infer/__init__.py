"""Offline inference of an exported network on an Ascend inference card."""
