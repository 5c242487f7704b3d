"""Shared set-up: one thread, so that results and timing do not depend on the machine."""

import os

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

from collections.abc import Callable
from pathlib import Path

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def real_data() -> Callable[[str], Path]:
    """Path of a file of real data; a test that asks for one that is absent is skipped."""

    def find(name: str) -> Path:
        file = Path(os.environ.get("MORE_DATA", "no folder")) / name
        if not file.is_file():
            pytest.skip(f"needs {name} below the folder named by MORE_DATA")
        return file

    return find
