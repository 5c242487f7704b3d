"""Training in two processes, as on a machine with two devices."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import importlib.util, json, os, sys
import numpy as np
import torch
torch.set_num_threads(1)
spec = importlib.util.spec_from_file_location("cases", {conftest!r})
cases = importlib.util.module_from_spec(spec); sys.modules["cases"] = cases; spec.loader.exec_module(cases)
import scvi
scvi.settings.seed = 0
case = next(c for c in cases.CASES if c.name == {name!r})
adata = cases.make_data()
case.setup(adata, **{setup!r})
model = case.build(adata)
case.fit(model, max_epochs=2, devices=2, strategy=case.strategy, train_size=0.8, check_val_every_n_epoch=1)
if int(os.environ.get("LOCAL_RANK", 0)) == 0:
    z = case.latent(model)
    losses = {{k: np.ravel(v.to_numpy(dtype=float)).tolist() for k, v in model.history.items()}}
    json.dump({{"finite": bool(np.isfinite(z).all()), "history": losses}}, open({out!r}, "w"))
"""


def run(case, tmp_path, **setup) -> dict:
    folder = Path(__file__).parent
    out = tmp_path / "out.json"
    script = tmp_path / "train.py"
    script.write_text(SCRIPT.format(conftest=str(folder / "conftest.py"), name=case.name, setup=setup, out=str(out)))
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(out.read_text())


@pytest.mark.slow
def test_t14_two_processes_log_every_term(case, tmp_path):
    """Named loss terms and validation do not crash training on several devices."""
    result = run(case, tmp_path)
    assert result["finite"]
    assert len(result["history"]["train_loss"]) == 2
    assert "validation_loss" in result["history"]


@pytest.mark.slow
@pytest.mark.needs("labels")
def test_t15_two_processes_without_labels(case, tmp_path):
    """Without labels no part of the model is left without a gradient."""
    assert run(case, tmp_path, labels_key=None)["finite"]
