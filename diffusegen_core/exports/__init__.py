"""A run's pairs in the formats that others train with."""
