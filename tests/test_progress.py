"""Bars are shown unless the caller, or the environment, wants none."""

import os
import subprocess
import sys

import more_scvi as more
from more_scvi.backbones import get_backbone

COUNT = "from more_scvi._progress import progress_bar; list(progress_bar(range(3), desc='counting'))"


def test_training_without_bars_shows_none_of_feature_extraction_either(capfd):
    adata = more.data.simulate_batches(n_cells=120, n_genes=200, n_types=2, n_batches=2, seed=0)
    adata.var_names = list(get_backbone("more-mini").vocabulary.human_symbol[:200])
    shown = {}
    for wanted in (True, False):
        more.MoRE.setup_anndata(adata, batch_key="batch", labels_key="cell_type")
        model = more.MoRE(adata, seed=0)
        capfd.readouterr()
        model.train(max_epochs=1, accelerator="cpu", enable_progress_bar=wanted)
        shown[wanted] = "cell/s" in capfd.readouterr().err
    assert shown == {True: True, False: False}


def test_the_environment_hides_bars():
    for value, shown in (("", True), ("1", False)):
        env = {**os.environ, "TQDM_DISABLE": value}
        done = subprocess.run([sys.executable, "-c", COUNT], env=env, capture_output=True, text=True, check=True)
        assert ("counting" in done.stderr) is shown


def test_an_evaluation_shows_one_bar(capfd):
    adata = more.data.simulate_batches(n_cells=120, n_genes=200, n_types=2, n_batches=2, seed=0)
    adata.var_names = list(get_backbone("more-mini").vocabulary.human_symbol[:200])
    asked = {"batch_key": "batch", "labels_key": "cell_type", "methods": ["more"], "protocols": ["S1"], "seeds": [0]}
    more.evaluation.run(adata, **asked)
    shown = capfd.readouterr().err
    assert "result/s" in shown or "s/result" in shown
    assert "features" not in shown
