"""Measurements of speed and accuracy: run.py and scaling.py time, accuracy.sh trains and evaluates."""
