import anndata
import mudata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from more_scvi.data import simulate_batches
from more_scvi.evaluation import get_method, load_dataset, load_results, make_tasks, run_benchmark, run_task
from more_scvi.evaluation._data import hide_modalities, modalities, padded, pattern, present
from more_scvi.evaluation._tasks import BENCH_PROTOCOLS, TENX_BATCHES
from more_scvi.evaluation.methods._multi_linear import cca, transfer_by_anchors
from more_scvi.evaluation.methods._scvi import TotalVI

BATCHES = [*TENX_BATCHES, "bremsc_inhouse"]
LINEAR = {
    "pbmc_cite_multi": ("random", "blocks", "lr_features", "lr_shared", "knn_shared", "linked", "cca", "ridge_impute"),
    "snareseq_multi": ("random", "blocks", "lr_features", "lr_shared"),
    "pbmc_mosaic": ("random", "lr_shared", "lr_bridge", "ceiling"),
    "sln_diagonal": ("linked", "cca", "ceiling"),
    "her2_breast_st": ("niche", "niche_raw", "blocks", "lr_features"),
}
TASKS = [
    *(("pbmc_cite_multi", p) for p in ("S1", "S2a", "S3", "S4-3", "S5-3", "S6", "S6-prot")),
    *(("snareseq_multi", p) for p in ("S1", "S6-half", "S6-third")),
    *(("pbmc_mosaic", p) for p in ("S1", "hide-rna", "hide-prot", "rna-to-prot")),
    *(("sln_diagonal", p) for p in ("rna-to-prot", "prot-to-rna")),
    *(("her2_breast_st", p) for p in ("S1", "S2a")),
]
BENCH_ONLY = ("S6", "S6-half", "S6-third", "hide-rna", "hide-prot", "rna-to-prot", "prot-to-rna")


def tasks_of(data_dir, name, protocol, seed=0):
    data, known = load_dataset(name, data_dir)
    if protocol in BENCH_ONLY:
        yield from BENCH_PROTOCOLS[protocol](data, protocol, seed, name)
    else:
        yield from make_tasks(data, protocol, seed, known, name)


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


def frames(data):
    """Every table of annotations in an object handed to a method."""
    yield data.obs
    yield from (value for value in data.obsm.values() if isinstance(value, pd.DataFrame))
    for adata in modalities(data).values():
        yield adata.obs
        yield from (value for value in adata.obsm.values() if isinstance(value, pd.DataFrame))


@pytest.mark.parametrize(("name", "protocol"), TASKS)
def test_no_hidden_label_is_left_anywhere_in_what_a_method_receives(data_dir, name, protocol):
    for task in tasks_of(data_dir, name, protocol):
        given, types = task.given(), set(task.labels)
        assert task.hidden.any()
        assert not (task.scored & ~task.hidden).any()
        hidden = set(given.obs_names[task.hidden])
        for frame in frames(given):
            for column in frame:
                seen = frame[column].astype(str)
                assert not types & set(seen[frame.index.isin(hidden)]), column
        assert set(given.obs["cell_type"].astype(str)[task.hidden]) == {"Unknown"}
        assert (given.obs["cell_type"].astype(str).to_numpy() == task.labels)[~task.hidden].all()
        counterparts = task.counterparts()
        if counterparts is not None:
            assert all(not types & set(frame.astype(str).to_numpy().ravel()) for frame in frames(counterparts))


def test_hidden_proteins_are_really_gone(data_dir):
    for task in tasks_of(data_dir, "pbmc_cite_multi", "S6"):
        given = task.given()
        batch = given.obs_names[given.obs["batch"] == task.split.held_out]
        assert not given.mod["prot"].obs_names.isin(batch).any()
        assert given.mod["prot"].n_obs == given.n_obs - batch.size
        assert padded(given, "prot")[given.obs_names.isin(batch)].nnz == 0
        assert set(task.groups) == {"rna", "rna+prot"}
        assert present(task.counterparts(), "prot").all()


def test_split_libraries_have_one_modality_each(data_dir):
    for protocol, paired in (("S6-half", 0), ("S6-third", 1)):
        (task,) = tasks_of(data_dir, "snareseq_multi", protocol)
        kinds = pd.Series(pattern(task.data)).groupby(task.data.obs["batch"].to_numpy()).unique()
        assert all(len(kind) == 1 for kind in kinds)
        assert sum(kind[0] == "rna+atac" for kind in kinds) == paired
        assert set(pattern(task.data)[~task.hidden]) == {"rna"}


def test_order_of_cells_and_values_survive_masking(data_dir):
    full, _ = load_dataset("pbmc_cite_multi", data_dir)
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


@pytest.mark.parametrize(("name", "protocol"), TASKS)
def test_linear_methods_run_on_their_tasks(data_dir, name, protocol):
    task = next(tasks_of(data_dir, name, protocol))
    for method in map(get_method, LINEAR[name]):
        if not method.suits(task.data) or (method.name == "ridge_impute" and protocol != "S6"):
            continue
        scores = run_task(task, method)[1]["scores"]
        assert scores["n_scored"] > 0
        assert method.name == "random" or any(scores.get(key) is not None for key in ("own", "LR", "pearson"))
        if method.name in ("ceiling", "lr_features") and protocol not in ("S1", "S4-3"):
            assert scores["own"] > 0.9
        if method.name == "ridge_impute":
            assert scores["pearson"] > 0.5


def test_labels_cross_paired_cells_only_by_the_bridge(data_dir):
    (task,) = tasks_of(data_dir, "pbmc_mosaic", "rna-to-prot")
    assert run_task(task, get_method("lr_shared"))[1]["scores"]["own"] == 0
    assert run_task(task, get_method("lr_bridge"))[1]["scores"]["own"] > 0.9


def test_the_benchmark_is_resumed(data_dir, tmp_path):
    def run():
        return run_benchmark(["pbmc_cite_multi"], ["random", "blocks"], data_dir, tmp_path, ["S2a", "S6"], [0])

    assert run() == (3 + 2) * 2
    assert run() == 0
    (tmp_path / "pbmc_cite_multi/S6_r1_s0/blocks.json").unlink()
    assert run() == 1
    assert len(load_results(tmp_path)) == 10


def test_a_subset_of_a_large_set_has_a_name_of_its_own(data_dir, tmp_path):
    run_benchmark(["her2_breast_st"], ["niche"], data_dir, tmp_path, ["S1"], [0], max_cells=100)
    (record,) = load_results(tmp_path)
    assert record["dataset"] == "her2_breast_st-100"
    assert record["n_cells"] == 100


def test_unknown_sets_are_refused_with_the_known_ones(data_dir):
    with pytest.raises(KeyError, match="'pbmc' is unknown; known are bm_vangalen"):
        load_dataset("pbmc", data_dir)
    with pytest.raises(FileNotFoundError, match="data_dir the folder that holds bench/"):
        load_dataset("pbmc_kang", data_dir)


def test_one_fit_of_a_peer_serves_all_label_splits(data_dir, tmp_path, monkeypatch):
    fitted = []

    def fit(self, counts, batches, *_):
        fitted.append(counts["prot"].nnz)
        arrays = {"z": np.zeros((len(batches), 2), dtype=np.float32), "imputed_prot": counts["prot"].toarray()}
        return arrays, {"seconds": {"training": 2.0}, "parameters": 5, "notes": {"minibatches": 10}}

    monkeypatch.setattr(TotalVI, "fit", fit)
    tasks = [next(tasks_of(data_dir, "pbmc_cite_multi", "S1", seed)) for seed in (0, 1)]
    records = [run_task(task, get_method("totalvi"), tmp_path)[1] for task in tasks]
    assert len(fitted) == 1
    assert records[0]["notes"]["minibatches"] == 10
    (path,) = tmp_path.glob("totalvi_*.npz")
    path.rename(path.with_name(f"{path.stem}.1.tmp.npz"))  # what a killed run leaves
    run_task(tasks[0], get_method("totalvi"), tmp_path)
    masked = next(tasks_of(data_dir, "pbmc_cite_multi", "S6"))
    run_task(masked, get_method("totalvi"), tmp_path)
    assert len(fitted) == 3
    assert fitted[2] < fitted[1] == fitted[0]
