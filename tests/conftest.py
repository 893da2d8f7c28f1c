"""Fixtures shared by all tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

# The same examples in every run: a failure is found again by whoever looks for it.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with reference data beside the checkout; tests that need it are skipped where it is absent."""
    path = ROOT.parent / "shared"
    if not (path / "reference").is_dir():
        pytest.skip("reference data (../shared) is not beside this checkout")
    return path
