"""The loss curve of a training: losses and gradient norm of every step."""

import torch
from torch import Tensor

COLUMNS = ["loss", "mse", "vb", "grad_norm"]  # of a step; the losses are means over its images


class History:
    """One row of COLUMNS for every step so far.

    Appending costs next to nothing: rows stay on the device until they are read, and are copied only once.
    """

    def __init__(self, rows: Tensor | None = None):
        self._copied = torch.empty(0, len(COLUMNS)) if rows is None else rows.cpu()
        self._fresh: list[Tensor] = []

    def __len__(self) -> int:
        return len(self._copied) + len(self._fresh)

    def append(self, row: Tensor) -> None:
        self._fresh.append(row)

    def rows(self) -> Tensor:
        """All rows, (steps, 4), float32, on the CPU; waits for the device."""
        if self._fresh:
            self._copied = torch.cat([self._copied, torch.stack(self._fresh).cpu()])
            self._fresh = []
        return self._copied

    def final_loss(self) -> float:
        """The mean loss over the last tenth of the steps."""
        return float(self.rows()[-max(1, len(self) // 10):, 0].mean())
