"""A parameter file for the user's own data: what the data and the device suggest, with reasons."""
