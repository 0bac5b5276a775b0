"""What a run is told: parameters and their sections, devices, and the errors that a user is meant to read."""
