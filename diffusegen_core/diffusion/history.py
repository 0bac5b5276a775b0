"""The loss curve of a training: what each of its steps came to."""

import torch
from torch import Tensor

COLUMNS = ["loss", "mse", "vb", "grad_norm"]  # of a step; the losses are means over its images


class History:
    """The row of COLUMNS of every step so far.

    To add one costs next to nothing: rows stay on the device until they are asked for, and are copied once.
    """

    def __init__(self, rows: Tensor | None = None):
        self._copied = torch.empty(0, len(COLUMNS)) if rows is None else rows.cpu()
        self._fresh: list[Tensor] = []

    def __len__(self) -> int:
        return len(self._copied) + len(self._fresh)

    def append(self, row: Tensor) -> None:
        self._fresh.append(row)

    def rows(self) -> Tensor:
        """All of them, (steps, 4), float32, on the CPU; waits for the device."""
        if self._fresh:
            self._copied = torch.cat([self._copied, torch.stack(self._fresh).cpu()])
            self._fresh = []
        return self._copied

    def final_loss(self) -> float:
        """The mean loss over the last tenth of the steps."""
        return float(self.rows()[-max(1, len(self) // 10):, 0].mean())
