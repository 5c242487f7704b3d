"""``diagnose`` fires on data and training made to fail, each in its own way, and is silent on healthy ones."""

import json

import matplotlib.pyplot as plt
import mudata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from matplotlib.collections import PathCollection

import more_scvi as more
from more_scvi.backbones import get_backbone
from more_scvi.data import simulate_batches, simulate_multiomics
from more_scvi.diagnosis import representative
from more_scvi.module import LOSS_WEIGHTS
from more_scvi.pl._model import diagnosis as draw

QUIET = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}
SYMBOLS = get_backbone("more-mini").vocabulary.human_symbol
CHECKS = [
    "batches_separate",
    "groups_dissolve",
    "types_collapse",
    "rare_types_lost",
    "labels_not_learned",
    "overfitting",
    "modality_ignored",
    "modality_uninformative",
    "low_vocabulary_overlap",
    "batch_and_type_confounded",
]
pytestmark = pytest.mark.filterwarnings("ignore:From 0.4:FutureWarning")


def fit(data, *, labels="cell_type", batch="batch", epochs=20, model=None, **train):
    if isinstance(data, mudata.MuData):
        genes = "gene" if "atac" in data.mod else None
        more.MoRE.setup_mudata(data, {m: m for m in data.mod}, batch_key=batch, labels_key=labels, peak_genes=genes)
    else:
        more.MoRE.setup_anndata(data, batch_key=batch, labels_key=labels)
    built = more.MoRE(data, seed=0, **{"backbone": None, "n_views": 1, **(model or {})})
    built.train(max_epochs=epochs, batch_size=64, **QUIET, **train)
    return built


def cells(seed=0, n_cells=300, n_genes=200, **kwargs):
    return simulate_batches(n_cells, n_genes, seed=seed, **kwargs)


def both(seed=0, modalities=("rna", "protein"), **kwargs):
    sizes = {"n_cells": 300, "n_genes": 120, "n_peaks": 300, "n_proteins": 25, "markers": 0.2}
    return simulate_multiomics(modalities=modalities, seed=seed, gene_names=SYMBOLS[:120], **sizes, **kwargs)


def hide(adata, hidden):
    adata.obs["cell_type"] = np.where(hidden, "Unknown", adata.obs["cell_type"].astype(str))
    return adata


def wrong(adata, share, seed=0):
    """Permute the labels of a share of the cells."""
    rng = np.random.default_rng(seed)
    labels = adata.obs["cell_type"].astype(str).to_numpy()
    chosen = rng.random(len(labels)) < share
    labels[chosen] = rng.permutation(labels[chosen])
    adata.obs["cell_type"] = labels
    return adata


def typed_batches(seed=7):
    """A batch effect that differs from type to type, which batch means cannot take away."""
    adata, rng = cells(seed), np.random.default_rng(seed)
    x = adata.X.toarray()
    for name in adata.obs["cell_type"].cat.categories:
        rows = ((adata.obs["batch"] == "batch1") & (adata.obs["cell_type"] == name)).to_numpy()
        x[rows] = rng.poisson(x[rows] * rng.lognormal(0, 1, x.shape[1]))
    adata.X = sp.csr_matrix(x.astype(np.float32))
    return adata


def replaced(mdata, name, make):
    """A modality with other values."""
    x = np.asarray(make(mdata[name].X.toarray(), np.random.default_rng(0)), np.float32)
    mdata[name].X = sp.csr_matrix(x)
    return mdata


def noise(x, rng):
    return rng.poisson(np.maximum(x.mean(0), 0.05), x.shape)


def random_cells_as_a_type(n=12):
    adata = cells(20, 600)
    labels = adata.obs["cell_type"].astype(str).to_numpy()
    labels[np.random.default_rng(0).choice(adata.n_obs, n, replace=False)] = "rare"
    adata.obs["cell_type"] = labels
    return adata


def fired(result):
    return list(result.warnings["check"])


def value(result, check):
    return result.table.set_index("check").loc[check, "value"]


HEALTHY = {
    "two batches": lambda: fit(cells(0), train_size=0.8),
    "two batches, other seed": lambda: fit(cells(1), train_size=0.8),
    "three batches, strong effects, six types": lambda: fit(
        cells(2, 360, n_batches=3, n_types=6, batch_sd=0.8), train_size=0.8
    ),
    "no labels": lambda: fit(cells(3), labels=None, train_size=0.8),
    "no labels, other proportions": lambda: fit(
        cells(4, proportions=[[0.5, 0.3, 0.2, 0.0], [0.0, 0.2, 0.3, 0.5]]), labels=None
    ),
    "no batch": lambda: fit(cells(5, n_batches=1), batch=None, train_size=0.8),
    "half of the labels": lambda: fit(hide(a := cells(6), np.arange(a.n_obs) % 2 == 0), train_size=0.8),
    "a batch without labels": lambda: fit(hide(a := cells(7), a.obs["batch"] == "batch1")),
    "a rare type": lambda: fit(cells(8, 400, proportions=[[0.32, 0.32, 0.32, 0.04]] * 2)),
    "strong batch effects by type, aligned": lambda: fit(typed_batches(), epochs=40),
    "with the backbone": lambda: fit(cells(9, gene_names=SYMBOLS[:200]), model={"backbone": "more-mini"}),
    "RNA and protein": lambda: fit(both(0)),
    "RNA and ATAC, no labels": lambda: fit(both(1, ("rna", "atac")), labels=None),
    "three modalities": lambda: fit(both(2, ("rna", "atac", "protein"))),
    "a mosaic": lambda: fit(both(3, n_batches=3, pattern={"batch1": ("rna",), "batch2": ("protein",)})),
}


@pytest.mark.parametrize("kind", HEALTHY)
def test_healthy_models_are_silent(kind):
    result = HEALTHY[kind]().diagnose()
    assert result.ok and not fired(result), result
    assert "ok" in set(result.table["status"])


NO_LOSS = dict.fromkeys(LOSS_WEIGHTS, 0.0)
FAILURES = {
    "nothing aligns the batches": (
        "batches_separate",
        "align_batch",
        lambda: fit(typed_batches(), loss_weights=NO_LOSS, model={"n_refinement_steps": 0}, epochs=2),
    ),
    "no labels to align by": ("batches_separate", "labels_key", lambda: fit(typed_batches(), labels=None)),
    "types pulled to points": (
        "types_collapse",
        "keep",
        lambda: fit(
            cells(8),
            loss_weights={"variance": 100.0, "contrast": 100.0, "keep": 0.0},
            plan_kwargs={"variance_floor": 0.0, "lr": 2e-2},
        ),
    ),
    "a type of scattered cells": ("rare_types_lost", "n_variable", lambda: fit(random_cells_as_a_type(), epochs=8)),
    "a single epoch": ("labels_not_learned", "max_epochs", lambda: fit(cells(0), epochs=1)),
    "too long on few, wrong labels": (
        "overfitting",
        "early_stopping",
        lambda: fit(wrong(cells(9, 150), 0.5), train_size=0.7, plan_kwargs={"lr": 1e-2}),
    ),
    "the same antibody counts everywhere": (
        "modality_ignored",
        "protein",
        lambda: fit(replaced(both(5), "protein", lambda x, rng: np.full(x.shape, 3.0))),
    ),
    "antibodies of noise": ("modality_uninformative", "protein", lambda: fit(replaced(both(5), "protein", noise))),
    "rows of ATAC out of order": (
        "modality_uninformative",
        "atac",
        lambda: fit(replaced(both(6, ("rna", "atac")), "atac", lambda x, rng: rng.permutation(x)), labels=None),
    ),
    "renamed genes": (
        "low_vocabulary_overlap",
        "gene_key",
        lambda: fit(
            cells(1, gene_names=[*SYMBOLS[:20], *(f"XLOC_{i}" for i in range(180))]),
            model={"backbone": "more-mini"},
        ),
    ),
    "each type in a batch of its own": (
        "batch_and_type_confounded",
        "batch_key",
        lambda: fit(cells(6, proportions=[[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]])),
    ),
}


ALONG = {"the same antibody counts everywhere": ["modality_uninformative", "labels_not_learned"]}
"""What may fire beside it: modality dropout shows the classifier cells by antibodies alone."""


@pytest.mark.parametrize("kind", FAILURES)
def test_each_failure_is_found_and_its_remedy_names_an_argument(kind):
    check, word, make = FAILURES[kind]
    result = make().diagnose()
    assert check in fired(result), result
    assert set(fired(result)) <= {check, *ALONG.get(kind, ())}, result
    row = result.warnings.set_index("check").loc[check]
    assert word in row["remedy"] and not result.ok


@pytest.fixture(scope="module")
def trained():
    return fit(hide(a := cells(0), np.arange(a.n_obs) % 3 == 0))


def test_the_result_is_a_table_that_reads_and_serialises(trained):
    result = trained.diagnose()
    assert list(result.table.columns) == ["check", "status", "value", "limit", "message", "remedy"]
    assert list(result.table["check"]) == CHECKS
    assert set(result.table["status"]) <= {"ok", "warning", "not checked"}
    assert (result.table["value"].isna() == (result.table["status"] == "not checked")).all()
    back = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert back["ok"] == result.ok and [c["check"] for c in back["checks"]] == CHECKS
    for text in (repr(result), result._repr_html_()):
        assert all(check in text for check in CHECKS) and "300 cells" in text
    assert "np." not in repr(result)


def test_what_was_not_checked_says_what_it_needs(trained):
    table = trained.diagnose().table.set_index("check")
    assert table.loc["overfitting", "status"] == "not checked"
    assert "train_size" in table.loc["overfitting", "remedy"]
    assert table.loc["modality_ignored", "status"] == "not checked"
    assert "33% of the cells by prediction" in table.loc["batches_separate", "message"]


def test_the_answer_repeats_and_nothing_is_written(trained):
    adata = trained.adata
    before, state = adata.copy(), {k: v.clone() for k, v in trained.module.state_dict().items()}
    first, second = trained.diagnose(), trained.diagnose()
    pd.testing.assert_frame_equal(first.table, second.table)
    pd.testing.assert_frame_equal(adata.obs, before.obs)
    assert set(adata.obsm) == set(before.obsm) and set(adata.uns) == set(before.uns)
    assert all((state[k] == v).all() for k, v in trained.module.state_dict().items())


def test_at_most_5000_cells_are_looked_at_and_rare_types_stay_among_them():

    labels = np.full(60_000, "common", dtype=object)
    labels[:20_000], labels[20_000:20_040] = "", "rare"
    rows = representative(labels.astype(str))
    assert len(rows) == len(set(rows)) == 5000 and (labels[rows] == "rare").sum() == 40
    assert 0.25 < np.mean(labels[rows] == "") < 0.4


def test_other_cells_are_checked_with_their_own_labels(trained):
    other = cells(0)
    result = trained.diagnose(other)
    assert result.ok and "by visible labels)" in result.table.loc[0, "message"]
    del other.obs["cell_type"], other.obs["batch"]
    with pytest.warns(UserWarning, match="batch"):
        bare = trained.diagnose(other).table.set_index("check")["status"]
    assert bare["batches_separate"] == bare["rare_types_lost"] == "not checked" and bare["types_collapse"] == "ok"


def test_labels_can_be_given(trained):
    truth = cells(0).obs["cell_type"].astype(str)
    by_list, by_name = trained.diagnose(labels=list(truth)), trained.diagnose(labels=truth[::-1])
    pd.testing.assert_frame_equal(by_list.table, by_name.table)
    assert "by visible labels)" in by_list.table.loc[0, "message"]
    with pytest.raises(ValueError, match="300 cells"):
        trained.diagnose(labels=["a", "b"])
    with pytest.raises(ValueError, match="cell_type"):
        trained.diagnose(labels="celltype")
    for wrong in (3, np.ones((300, 2)), [["a"]] * 300):
        with pytest.raises(ValueError, match=r"labels has shape .* for 300 cells; give one per cell"):
            trained.diagnose(labels=wrong)
    with pytest.raises(ValueError, match="cell names"):
        trained.diagnose(labels=truth.set_axis(range(300)))


def test_given_labels_serve_a_model_without_any():
    model = fit(a := cells(3), labels=None, epochs=5)
    assert np.isnan(value(model.diagnose(), "batch_and_type_confounded"))
    some = np.where(np.arange(a.n_obs) % 3 > 0, a.obs["cell_type"].astype(str), "Unknown")
    result = model.diagnose(labels=some)
    assert result.n_sampled == 200 and value(result, "batch_and_type_confounded") < 0.5


def test_a_saved_model_gives_the_same_diagnosis(trained, tmp_path):
    trained.save(tmp_path / "model")
    loaded = more.MoRE.load(tmp_path / "model", adata=cells_of(trained))
    a, b = trained.diagnose().table, loaded.diagnose().table
    assert list(a["status"]) == list(b["status"])
    np.testing.assert_allclose(a["value"], b["value"], atol=1e-3)


def cells_of(model):
    adata = model.adata.copy()
    adata.obsm.clear()
    return adata


def test_before_training_and_for_foreign_data_it_says_what_the_embedding_says(trained):
    more.MoRE.setup_anndata(a := cells(0), batch_key="batch", labels_key="cell_type")
    with pytest.raises(RuntimeError, match="not trained"):
        more.MoRE(a, backbone=None).diagnose()
    foreign = cells(0)
    foreign.var_names = [f"other{i}" for i in range(foreign.n_vars)]
    messages = []
    for method in (trained.diagnose, trained.get_latent_representation):
        with pytest.raises(ValueError, match="genes") as caught:
            method(foreign)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


def positions(ax):
    """Check -> where its marker stands on the x axis."""
    markers = [c.get_offsets()[0] for c in ax.collections if isinstance(c, PathCollection)]
    return {CHECKS[int(y)]: float(x) for x, y in markers}


def test_the_picture_sets_warnings_apart(trained):
    result = trained.diagnose()
    ax = draw(result)
    assert [t.get_text().replace(" ", "_") for t in ax.get_yticklabels()] == CHECKS
    assert all(x > 0 for x in positions(ax).values()) and result.ok
    assert sum(t.get_text() == "not checked" for t in ax.texts) == (result.table["status"] == "not checked").sum()
    bad = fit(cells(6, proportions=[[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]]), epochs=2)
    _, mine = plt.subplots()
    assert draw(bad, ax=mine) is mine
    assert positions(mine)["batch_and_type_confounded"] < 0
    with pytest.raises(TypeError, match="diagnose"):
        draw(result.table)
    plt.close("all")


def test_cells_to_look_at_are_chosen_of_one_label_each():
    assert list(representative(["a", "b", "a"], 2)) in ([0, 1], [0, 2], [1, 2])
    for wrong, words in (({"max_cells": 0}, "max_cells=0"), ({"max_cells": 2.5}, "max_cells=2.5")):
        with pytest.raises((TypeError, ValueError), match=words):
            representative(["a"], **wrong)
    with pytest.raises(ValueError, match=r"labels \(1, 2\) must hold one label per cell"):
        representative([["a", "b"]])
