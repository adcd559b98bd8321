from pathlib import Path

import pytest
from tiny_recipe import tiny

from whorl.workflow.stages import run_recipe


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory) -> Path:
    """Return the folder of a finished tiny run; tests that change something copy it."""
    folder = tmp_path_factory.mktemp("tiny") / "run"
    run_recipe(tiny(), folder)
    return folder
