"""What everything stands on: errors, seeds, parameters, artifacts on disk, progress, pretrained weights."""
