"""Give the tests of the engine a folder with a record, as a run has it."""

from pathlib import Path

import pytest

from ssl_transfer.engine.io.ownership import own_folder


@pytest.fixture
def tmp_path(tmp_path: Path) -> Path:
    own_folder(tmp_path)
    return tmp_path
