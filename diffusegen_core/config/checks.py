"""Trying what may be refused, so that everything that is wrong is told at once, before anything runs."""

from collections.abc import Callable, Iterable, Iterator

from diffusegen_core.config.errors import UserError


def refusals(attempts: Iterable[Callable[[], object]], where: str = "") -> Iterator[str]:
    """The words of every attempt that raises UserError; `where` names the parameter if they do not."""
    for attempt in attempts:
        try:
            attempt()
        except UserError as error:
            yield f"Parameters: {where}: {error}" if where else str(error)
