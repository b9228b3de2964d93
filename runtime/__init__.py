"""How a run runs, whatever it trains: devices, processes, precision, checkpoints, signals, files."""
