"""The process that runs: device, processes of one job, seeds, progress, signals."""
