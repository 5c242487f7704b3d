import json

import anndata
import mudata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from scipy.spatial.distance import cdist

from more_scvi.data import simulate_batches
from more_scvi.evaluation import _multi_peers as peers
from more_scvi.evaluation import load_results
from more_scvi.evaluation._multi_data import hide_modalities, load_multi, modalities, padded, pattern, present
from more_scvi.evaluation._multi_links import cca, transfer_by_anchors
from more_scvi.evaluation._multi_methods import METHODS_OF, MULTI_METHODS, MultiMethod
from more_scvi.evaluation._multi_metrics import balanced_accuracy, foscttm, imputation, recall_at
from more_scvi.evaluation._multi_runner import report_multi, run_multi, run_task
from more_scvi.evaluation._multi_tasks import TASKS, TENX_BATCHES

BATCHES = [*TENX_BATCHES, "bremsc_inhouse"]
LINEAR = [
    "random",
    "blocks",
    "lr_features",
    "lr_shared",
    "knn_shared",
    "ceiling",
    "linked",
    "cca",
    "ridge_impute",
    "niche",
]


def simulate(seed=0):
    """RNA, proteins and chromatin that follow three types in three batches; labels wherever a file may hold them."""
    rna = simulate_batches(n_cells=240, n_genes=120, n_types=3, n_batches=3, seed=seed)
    batch = np.array(BATCHES)[pd.Categorical(rna.obs["batch"]).codes]
    kind = rna.obs["cell_type"].astype(str).to_numpy()
    rng, code = np.random.default_rng(seed), pd.Categorical(kind).codes
    obs = pd.DataFrame({"batch": batch, "cell_type": kind, "label_original": kind}, index=rna.obs_names)
    genes = rna.var_names[: 3 * 4].to_numpy()

    def view(n, low, high):
        level = np.where(np.arange(n)[None, :] % 3 == code[:, None], high, low)
        names = [f"{'p' if n < 50 else 'chr1:'}{i}" for i in range(n)]
        var = pd.DataFrame({"gene": np.resize(genes, n)}, index=names)
        return anndata.AnnData(sparse.csr_matrix(rng.poisson(level).astype(np.float32)), obs=obs.copy(), var=var)

    return {"rna": anndata.AnnData(sparse.csr_matrix(rna.X), obs=obs.copy(), var=rna.var[[]])}, view, obs


def write(path, mods, obs):
    mdata = mudata.MuData(mods)
    mdata = mdata[obs.index].copy()
    mdata.obs = obs.copy()
    mdata.mod["rna"].obsm["labels"] = mdata.mod["rna"].obs[["cell_type"]]
    path.parent.mkdir(exist_ok=True)
    mdata.write_h5mu(path)


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("multi")
    rna, view, obs = simulate()
    prot = view(6, 2, 30)
    write(folder / "bench/pbmc_cite.h5mu", {**rna, "prot": prot}, obs)
    write(folder / "bench/snareseq.h5mu", {**rna, "atac": view(90, 0.2, 2)}, obs)
    third = np.arange(len(obs)) % 3
    partial = {"rna": rna["rna"][third != 0].copy(), "prot": prot[third != 1].copy()}
    write(folder / "bench/pbmc_mosaic.h5mu", partial, obs.assign(batch=obs["batch"] + np.array(["p", "r", "b"])[third]))
    diagonal = {"rna": rna["rna"][third != 0].copy(), "prot": prot[third == 0].copy()}
    write(folder / "bench/sln_diagonal.h5mu", diagonal, obs)
    spots = rna["rna"].copy()
    spots.obsm["spatial"] = np.random.default_rng(0).uniform(size=(len(obs), 2))
    spots.obs["label_known"] = np.arange(len(obs)) % 10 != 0
    spots.write_h5ad(folder / "bench/her2_breast_st.h5ad")
    return folder


NAMES = [
    n for n in TASKS if n.split("/")[0] in ("pbmc_cite", "snareseq", "pbmc_mosaic", "sln_diagonal", "her2_breast_st")
]


def frames(data):
    """Every table of annotations in an object handed to a method."""
    yield data.obs
    yield from (value for value in data.obsm.values() if isinstance(value, pd.DataFrame))
    for adata in modalities(data).values():
        yield adata.obs
        yield from (value for value in adata.obsm.values() if isinstance(value, pd.DataFrame))


@pytest.mark.parametrize("name", NAMES)
def test_no_hidden_label_is_left_anywhere_in_what_a_method_receives(data_dir, name):
    for task in TASKS[name](data_dir, [0, 1]):
        given, types = task.given(), set(task.labels)
        assert task.split.hidden.any()
        assert not (task.scored & ~task.split.hidden).any()
        hidden = set(given.obs_names[task.split.hidden])
        for frame in frames(given):
            for column in frame:
                seen = frame[column].astype(str)
                assert not types & set(seen[frame.index.isin(hidden)]), column
        assert set(given.obs["cell_type"].astype(str)[task.split.hidden]) == {"Unknown"}
        assert (given.obs["cell_type"].astype(str).to_numpy() == task.labels)[~task.split.hidden].all()
        counterparts = task.counterparts()
        if counterparts is not None:
            assert all(not types & set(frame.astype(str).to_numpy().ravel()) for frame in frames(counterparts))


def test_hidden_proteins_are_really_gone(data_dir):
    for task in TASKS["pbmc_cite/S6"](data_dir, [0]):
        given = task.given()
        batch = given.obs_names[given.obs["batch"] == task.split.held_out]
        assert not given.mod["prot"].obs_names.isin(batch).any()
        assert given.mod["prot"].n_obs == given.n_obs - batch.size
        assert padded(given, "prot")[given.obs_names.isin(batch)].nnz == 0
        assert set(task.groups) == {"rna", "rna+prot"}
        assert present(task.counterparts(), "prot").all()


def test_split_libraries_have_one_modality_each(data_dir):
    for task, paired in zip(TASKS["snareseq/S6"](data_dir, [0]), (0, 1), strict=True):
        kinds = pd.Series(pattern(task.data)).groupby(task.data.obs["batch"].to_numpy()).unique()
        assert all(len(kind) == 1 for kind in kinds)
        assert sum(kind[0] == "rna+atac" for kind in kinds) == paired
        assert set(pattern(task.data)[~task.split.hidden]) == {"rna"}


def test_order_of_cells_and_values_survive_masking(data_dir):
    full = load_multi("pbmc_cite", data_dir)
    masked = hide_modalities(full, {"rna": np.arange(full.n_obs) < 50})
    assert masked.obs_names.equals(full.obs_names)
    kept = np.arange(full.n_obs) >= 50
    assert (padded(masked, "rna")[kept] != padded(full, "rna")[kept]).nnz == 0
    for name, adata in masked.mod.items():
        rows = np.asarray(masked.obsmap[name]).ravel()
        assert masked.obs_names[rows > 0].equals(adata.obs_names[rows[rows > 0] - 1])
        assert (np.asarray(masked.obsm[name]).ravel() == (rows > 0)).all()
    with pytest.raises(ValueError, match="without a modality"):
        hide_modalities(masked, {"prot": np.arange(full.n_obs) < 10})


def test_foscttm_is_what_brute_force_finds():
    rng = np.random.default_rng(0)
    a = rng.standard_normal((60, 4))
    b = a + rng.standard_normal((60, 4))
    d = cdist(a, b)
    nearer = [np.mean(np.delete(d[i], i) < d[i, i]) for i in range(60)]
    nearer += [np.mean(np.delete(d[:, i], i) < d[i, i]) for i in range(60)]
    assert foscttm(a, b) == pytest.approx(np.mean(nearer))
    top = [np.sum(np.delete(d[i], i) < d[i, i]) < 10 for i in range(60)]
    top += [np.sum(np.delete(d[:, i], i) < d[i, i]) < 10 for i in range(60)]
    assert recall_at(a, b, 10) == pytest.approx(np.mean(top))


def test_foscttm_of_chance_collapse_and_identity():
    rng = np.random.default_rng(0)
    a = rng.standard_normal((1500, 5))
    assert foscttm(a, rng.standard_normal((1500, 5))) == pytest.approx(0.5, abs=0.02)
    assert foscttm(np.zeros((50, 2)), np.zeros((50, 2))) == 0.5
    assert foscttm(a, a) == 0


def test_imputation_is_the_mean_correlation_per_feature():
    rng = np.random.default_rng(0)
    observed = rng.standard_normal((80, 3))
    imputed = observed + rng.standard_normal((80, 3))
    expected = [np.corrcoef(imputed[:, j], observed[:, j])[0, 1] for j in range(3)]
    scores = imputation(imputed, observed)
    assert scores["pearson"] == pytest.approx(np.mean(expected))
    assert imputation(np.exp(imputed), observed)["spearman"] == pytest.approx(scores["spearman"])
    imputed[:, 0], constant = 1.0, np.column_stack([observed, np.ones(80)])
    scores = imputation(np.column_stack([imputed, rng.standard_normal(80)]), constant)
    assert scores["pearson"] == pytest.approx(sum(expected[1:]) / 3)


def test_balanced_accuracy_weighs_types_equally():
    true, predicted = ["a"] * 90 + ["b"] * 10 + ["c"] * 2, ["a"] * 100 + ["c"] * 2
    assert balanced_accuracy(true, predicted) == pytest.approx(0.5)


def test_cca_and_anchors_match_types_across_linked_features():
    rng = np.random.default_rng(0)
    kinds = rng.integers(0, 4, 500)
    centres = 2 * rng.standard_normal((4, 40))
    left, right = (centres[kinds[s]] + rng.standard_normal((250, 40)) for s in (slice(250), slice(250, None)))
    a, b = cca(left, right, 10)
    assert np.allclose(np.linalg.norm(a, axis=1), 1, atol=1e-5)
    standard = [(x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True) for x in (left, right)]
    u, _, v = np.linalg.svd(standard[0] @ standard[1].T, full_matrices=False)
    for mine, theirs in ((a, u[:, :10]), (b, v[:10].T)):
        theirs = theirs / np.linalg.norm(theirs, axis=1, keepdims=True)
        assert np.allclose(np.abs(mine), np.abs(theirs), atol=1e-4)
    predicted = transfer_by_anchors(a, kinds[:250], b)
    assert np.mean(predicted == kinds[250:].astype(str)) > 0.95


@pytest.mark.parametrize("name", NAMES)
def test_linear_methods_run_on_their_tasks(data_dir, name):
    task = next(iter(TASKS[name](data_dir, [0])))
    for method in (MULTI_METHODS[key] for key in METHODS_OF[name] if key in LINEAR):
        scores = run_task(task, method)["scores"]
        assert scores["n_scored"] > 0
        assert method.name == "random" or any(scores.get(key) is not None for key in ("own", "LR", "pearson"))
        if method.name in ("ceiling", "lr_features"):
            assert scores["own"] > 0.9
        if method.name == "ridge_impute":
            assert scores["pearson"] > 0.5


def test_labels_cross_paired_cells_only_by_the_bridge(data_dir):
    (task,) = (t for t in TASKS["pbmc_mosaic/transfer"](data_dir, [0]) if t.split.protocol == "rna-to-prot")
    assert run_task(task, MULTI_METHODS["lr_shared"])["scores"]["own"] == 0
    assert run_task(task, MULTI_METHODS["lr_bridge"])["scores"]["own"] > 0.9


def test_results_are_resumed_and_half_written_ones_never_read(data_dir, tmp_path):
    def run(**kwargs):
        return run_multi(data_dir, tmp_path, ["pbmc_cite/S2a"], ["random", "blocks"], seeds=[0], **kwargs)

    killed = tmp_path / "pbmc_cite" / "S2a_r0_s0"
    killed.mkdir(parents=True)
    (killed / "random.json.1.tmp").write_text('{"dataset": "pbmc_')
    assert run() == 3 * 2
    assert run() == 0
    (killed / "blocks.json").unlink()
    assert run() == 1
    records = load_results(tmp_path)
    assert len(records) == 6
    text = report_multi(records)
    assert "## pbmc_cite, S2a" in text
    assert "| blocks | 3 |" in text
    json.loads((killed / "random.json").read_text())


def test_a_failing_method_does_not_stop_the_others(data_dir, tmp_path):
    def fail(*_):
        raise RuntimeError("no convergence")

    extra = {"blocks:broken": MultiMethod("blocks:broken", fail)}
    done = run_multi(data_dir, tmp_path, ["pbmc_cite/S1"], ["blocks:broken", "random"], seeds=[0], extra=extra)
    assert done == 1
    with pytest.raises(ValueError, match=r"'nothing'\] are unknown"):
        run_multi(data_dir, tmp_path, methods=["nothing"])


def test_one_fit_of_a_peer_serves_all_label_splits(data_dir, tmp_path, monkeypatch):
    fitted = []

    def fit(rna, prot, batches, settings):
        fitted.append(prot.nnz)
        z = np.zeros((rna.shape[0], 2), dtype=np.float32)
        return peers.PeerFit({"z": z, "imputed_prot": prot.toarray()}, {"training": 2.0}, 5, 10, 12, 216, settings)

    monkeypatch.setattr(peers, "_fit_totalvi", fit)
    tasks = list(TASKS["pbmc_cite/S1"](data_dir, [0, 1]))
    records = [run_task(task, MULTI_METHODS["totalvi"], tmp_path) for task in tasks]
    assert len(fitted) == 1
    assert records[0]["notes"]["minibatches"] == 10
    (path,) = tmp_path.glob("totalvi_*.npz")
    path.rename(path.with_name(f"{path.stem}.1.tmp.npz"))  # what a killed run leaves
    run_task(tasks[0], MULTI_METHODS["totalvi"], tmp_path)
    masked = next(iter(TASKS["pbmc_cite/S6"](data_dir, [0])))
    run_task(masked, MULTI_METHODS["totalvi"], tmp_path)
    assert len(fitted) == 3
    assert fitted[2] < fitted[1] == fitted[0]
