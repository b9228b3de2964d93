"""Programs and functions that several tests use."""
