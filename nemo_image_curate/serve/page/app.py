"""The page as `streamlit run` starts it: under the same rule for hosts as the service."""

from __future__ import annotations

import os
from pathlib import Path

import streamlit as st
from starlette.middleware import Middleware

from nemo_image_curate.serve.hosts import TrustedHosts
from nemo_image_curate.serve.settings import HOSTS_VARIABLE

# A page that was rebound to a name of another site could ask the service in its place.
_HOSTS = Middleware(
    TrustedHosts,
    host=st.get_option("server.address") or "",
    allowed=os.environ.get(HOSTS_VARIABLE, "").split(),
)
# `streamlit run` looks for an assignment of this form.
app = st.App(Path(__file__).with_name("script.py"), middleware=[_HOSTS])
