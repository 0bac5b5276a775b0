"""Numbers in words, for messages and pages."""


def duration(seconds: float) -> str:
    """Seconds in words: "41 s", "3 min 20 s", "2 h 5 min", "3 d 7 h"."""
    if round(seconds) < 60:
        return f"{seconds:.0f} s" if round(seconds, 1) >= 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours = minutes // 60
    if hours >= 48:
        return f"{hours // 24} d {hours % 24} h"
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min {rest} s"


def about(seconds: float) -> str:
    """An estimate in words, rounded to what it is worth: "about 40 s", "about 3 min", "about 2 h 5 min"."""
    if seconds < 95:
        return f"about {max(10, round(seconds, -1)):.0f} s"
    if seconds < 3600 - 30:
        return f"about {seconds / 60:.0f} min"
    return f"about {duration(seconds)}"


def counted(count: int, noun: str) -> str:
    """A number of things: "1 pair", "3 pairs"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def size(count: float) -> str:
    """Bytes in words: "4.21 GB", "812 kB"; "-" for none."""
    return scaled(count, ["B", "kB", "MB", "GB", "TB", "PB"])


def scaled(value: float, units: list[str]) -> str:
    """A number to three figures with the unit that suits it, in steps of a thousand; "-" for 0 or NaN."""
    if not value or value != value:  # NaN
        return "-"
    power = 0
    while value >= 999.5 and power < len(units) - 1:
        value, power = value / 1000, power + 1
    digits = f"{value:#.3g}".rstrip(".")
    return f"{digits} {units[power]}"
