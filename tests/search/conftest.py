"""What several tests of the search start from."""

import pytest


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """This machine's cache, empty, for one test."""
    monkeypatch.setenv("PARETUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
