"""Shape checking for the whole package, and the real data where it is at hand."""

import signal
from pathlib import Path

import hypothesis
import pytest
import torch
from jaxtyping import install_import_hook

# Must run before any test imports whorl: every annotated shape is then checked at each call.
install_import_hook("whorl", "beartype.beartype")

# A shell that starts the tests in the background has them ignore Ctrl-C, and so the programs they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A busy machine is no failure.
hypothesis.settings.register_profile("whorl", deadline=None)
hypothesis.settings.load_profile("whorl")

torch.set_num_threads(1)  # the tensors of tests are too small for threads to pay

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with the project's real development data."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"needs the development data, expected beside the checkout at {SHARED_DATA.name}")
    return SHARED_DATA
