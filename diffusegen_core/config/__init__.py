"""Configuration of a run: parameters and their sections, devices, and errors meant for the user to read."""
