"""The one exception that a user is meant to read."""


class UserError(Exception):
    """Something the user can mend. Its text is whole sentences, names the file or key, needs no traceback."""
