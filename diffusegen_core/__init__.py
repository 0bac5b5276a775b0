"""Synthetic labelled images with diffusion models: the program behind the book.

A beginner needs `from diffusegen_core import Run`, and the page "Python" of the book. Each line below imports
only from itself and from the lines above it:

    config          configuration: parameters, devices, errors
    store           artifacts on disk, seeds, locks
    parallel        from one work item to many, and their progress
    networks        third-party networks and their weights, SinGAN
    data            images with masks: drawn, read, checked, written
    measures        distances, copies, overlap, intervals
    diffusion       process, network, samplers, RePaint, guidance, checkpoints
    segmentation    U-Net++, training sets, grids of experiments
    chapters        the chapters of the book, each a function of its inputs
    run             Run, which chains the chapters
    planning        costs and errors, reported before a run
    report          figures, tables, claims, the book
    notebooks       the chapters' notebooks, executed
    cli             the command `diffusegen`
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
