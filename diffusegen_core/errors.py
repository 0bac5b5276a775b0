"""The one exception that a user is meant to read."""


class UserError(Exception):
    """Something the user can mend. The text is whole sentences, names the file or key, and needs no traceback."""
