"""Exports of a run's pairs in the formats of other training programs."""
