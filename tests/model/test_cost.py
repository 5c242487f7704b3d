"""What training asks of the machine: passes of the backbone and bytes of a cell."""

import numpy as np
import pytest

import more_scvi as more
from more_scvi.model._fit import make_training_set

SHORT = {"max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": False}


@pytest.fixture
def adata():
    adata = more.data.load_demo()
    more.MoRE.setup_anndata(adata, batch_key="platform", labels_key="cell_type")
    return adata


@pytest.mark.parametrize(
    ("objective", "most"),
    [(None, 2), ("fast", 1), ({"masked": 0.0}, 1), ("paper", 2)],
    ids=["full", "fast", "0", "paper"],
)
def test_every_cell_passes_the_backbone_once_and_once_more_for_a_masked_view(adata, monkeypatch, objective, most):
    model, passed = more.MoRE(adata), []
    encode = model.backbone.encode
    monkeypatch.setattr(model.backbone, "encode", lambda x, *a, **k: passed.append(x.shape[0]) or encode(x, *a, **k))
    model.train(loss_weights=objective, **SHORT)
    for question in (model.predict, model.get_novelty, model.get_path_weights):
        question()
    assert sum(passed) == most * adata.n_obs


def test_training_holds_two_kilobytes_of_a_cell_at_most(adata):
    model = more.MoRE(adata)
    cells = make_training_set(model.reader, adata, np.arange(adata.n_obs), 1, 0, "cpu")
    parts = [*vars(cells.arrays).values(), *vars(cells.lessons).values(), cells.masked.base]
    for target in cells.masked.targets.values():
        parts += [target.target.data, target.target.indices, target.target.indptr, target.totals]
    assert cells.inside is None
    assert sum(part.nbytes for part in parts if isinstance(part, np.ndarray)) <= 2000 * adata.n_obs
    assert {part.dtype for part in (cells.arrays.wide, cells.masked.base)} == {np.dtype("float16")}
