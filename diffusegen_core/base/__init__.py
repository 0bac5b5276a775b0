"""What everything stands on: errors, seeds, parameters, devices, artifacts on disk, progress, weights."""
