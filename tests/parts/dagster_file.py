"""The file of Dagster definitions that the documents name, loaded as Dagster loads it: by its path."""

import importlib.util
from types import ModuleType

import pytest
from places import ROOT

FILE = ROOT / "docs" / "dagster_nights.py"


def definitions(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Load the file; the test is skipped where Dagster is not installed."""
    pytest.importorskip("dagster", reason="dagster is not installed; pip install 'tilth[dagster]'")
    monkeypatch.setenv("DAGSTER_DISABLE_TELEMETRY", "1")
    spec = importlib.util.spec_from_file_location(FILE.stem, FILE)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
