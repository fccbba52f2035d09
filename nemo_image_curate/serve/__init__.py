"""Search over HTTP: a service, and a page that is a client of it."""

from nemo_image_curate.catalog import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    Settings="serve.settings",
    create_app="serve.app",
    run_service="serve.server",
)
