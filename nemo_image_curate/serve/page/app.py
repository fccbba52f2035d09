"""The page as `streamlit run` starts it: under the same rule for hosts as the service."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import streamlit as st
from starlette.middleware import Middleware

from nemo_image_curate.serve.hosts import TrustedHosts
from nemo_image_curate.serve.page import cards, client, drawing, theme  # noqa: F401
from nemo_image_curate.serve.settings import HOSTS_VARIABLE

# A page that was rebound to a name of another site could ask the service in its place.
_HOSTS = Middleware(
    TrustedHosts,
    host=st.get_option("server.address") or "",
    allowed=os.environ.get(HOSTS_VARIABLE, "").split(),
)
# What is imported stays. Looking through it for garbage stopped the page for half a second now and
# then, between an answer and its first picture.
gc.collect()
gc.freeze()
# `streamlit run` looks for an assignment of this form.
app = st.App(Path(__file__).with_name("script.py"), middleware=[_HOSTS])
