"""Where the real inputs lie (they are no part of the project), and the mark for their tests."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"

needs_shared = pytest.mark.skipif(
    not SHARED.is_dir(), reason=f"the real inputs are not there: {SHARED}"
)
