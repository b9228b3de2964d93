"""The fault harness: killed processes, damaged checkpoints, full disks, damaged and hostile files. See run.py."""
