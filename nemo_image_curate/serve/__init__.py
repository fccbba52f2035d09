"""Search over HTTP: a service, and a page that is a client of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nemo_image_curate.serve.settings import Settings

if TYPE_CHECKING:
    from nemo_image_curate.serve.server import run_service
    from nemo_image_curate.serve.service import create_app

__all__ = ["Settings", "create_app", "run_service"]


def __getattr__(name: str) -> Any:
    # Only when asked for: the page needs no part of the service.
    if name == "create_app":
        from nemo_image_curate.serve.service import create_app

        return create_app
    if name == "run_service":
        from nemo_image_curate.serve.server import run_service

        return run_service
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
