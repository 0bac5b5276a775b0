"""Artifacts on disk: written whole, stamped with what made them; locks and seeds."""
