"""Keys of one job, so that nobody else has its Dask cluster work for them."""

from __future__ import annotations

import os
from pathlib import Path

import dask


def use_tls(folder: str) -> None:
    """Make keys of one job, and have Dask here and in all that is started refuse others.

    Only those can connect who may read `folder`; without this all can who reach the scheduler's
    port, and have it run what they like.
    """
    from distributed.security import Security

    security = Security.temporary()
    texts = {"CA_FILE": security.tls_ca_file}
    for role in ("scheduler", "worker", "client"):
        for part in ("cert", "key"):
            texts[f"{role}__{part}".upper()] = getattr(security, f"tls_{role}_{part}")
    for name, text in texts.items():
        path = Path(folder, f"{name}.pem")
        path.touch(mode=0o600)
        path.write_text(text)
        os.environ[f"DASK_DISTRIBUTED__COMM__TLS__{name}"] = str(path)
    os.environ["DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION"] = "true"
    os.environ["DASK_DISTRIBUTED__COMM__DEFAULT_SCHEME"] = "tls"
    dask.config.refresh()
