"""Synthetic labelled images with diffusion models: the program behind the book.

A beginner needs `from diffusegen_core import Run`, and the page "Python" of the book. CONTRIBUTING.md
describes the modules and their order.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffusegen_core.run import Run

__version__ = "0.2.0"
__all__ = ["Run", "__version__"]


def __getattr__(name: str) -> Any:
    # Run brings torch and pandas, which take seconds: whoever asks only for the version need not wait.
    if name == "Run":
        from diffusegen_core.run import Run
        return Run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
