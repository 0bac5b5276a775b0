"""Preloaded by Dask into the schedulers and workers that a run starts: it closes their HTTP servers.

These listen even without a dashboard, expose the work, and require no certificate.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distributed import Scheduler, Worker


def dask_setup(server: "Scheduler | Worker") -> None:
    """Called by Dask while the server starts."""
    server.http_server.stop()
    server.services.pop("dashboard", None)  # else its port would be announced
