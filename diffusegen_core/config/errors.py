"""The one exception that a user is meant to read, and how it shows long lists and strangers' text."""

import unicodedata
from collections.abc import Sequence


class UserError(Exception):
    """Something the user can mend. Its whole sentences name the file or key, and need no traceback."""

    @property
    def in_a_shell(self) -> str:
        """The text as the command shows it, if it differs from the one for Python."""
        return str(self)


def some(names: Sequence[str], few: int = 5) -> str:
    """The first few names, and how many more there are."""
    rest = len(names) - few
    return ", ".join(names[:few]) + (f" and {rest} more" if rest > 0 else "")


def printable(text: str) -> str:
    """The text with control characters, line breaks, undecodable bytes and changes of direction escaped."""
    return "".join(c.encode("unicode_escape").decode() if _moves(c) else c for c in text)


def _moves(c: str) -> bool:
    turns = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    return unicodedata.category(c) in {"Cc", "Cs", "Zl", "Zp"} or unicodedata.bidirectional(c) in turns


def printable_lines(text: str) -> str:
    """Each line as `printable`: strangers' names may hold characters that control the terminal."""
    return "\n".join(map(printable, text.split("\n")))
