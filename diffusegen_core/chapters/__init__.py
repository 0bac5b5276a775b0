"""The chapters of the book, each a function of its inputs."""
