"""A parameter file for data of one's own: what the data and the device suggest, with reasons."""
