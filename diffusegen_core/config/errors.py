"""The one exception that a user is meant to read; how long lists and strangers' text are shown in it."""

import unicodedata
from collections.abc import Sequence


class UserError(Exception):
    """Something the user can mend. Its text is whole sentences, names the file or key, needs no traceback."""

    @property
    def in_a_shell(self) -> str:
        """The text as the command tells it, where this differs from what Python does."""
        return str(self)


def some(names: Sequence[str], few: int = 5) -> str:
    """The first few names, and how many more there are."""
    rest = len(names) - few
    return ", ".join(names[:few]) + (f" and {rest} more" if rest > 0 else "")


def printable(text: str) -> str:
    """The text with control characters, line breaks, undecodable bytes and turns of direction escaped."""
    return "".join(c.encode("unicode_escape").decode() if _moves(c) else c for c in text)


def _moves(c: str) -> bool:
    turns = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    return unicodedata.category(c) in {"Cc", "Cs", "Zl", "Zp"} or unicodedata.bidirectional(c) in turns


def printable_lines(text: str) -> str:
    """Each line as `printable`: names from strangers may hold what moves a terminal."""
    return "\n".join(map(printable, text.split("\n")))
