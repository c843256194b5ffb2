"""Where the tests find what comes with the project."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"
PARTS = TESTS / "parts"
POLICY = ROOT / "configs" / "policies" / "starter.yaml"
RECIPE = ROOT / "configs" / "recipes" / "starter.yaml"
