"""What a model of a MuData is asked for and cannot give; data and model stay as they were."""

import json
import warnings

import mudata
import numpy as np
import pandas as pd
import pytest

from more_scvi import MoRE
from more_scvi._compat import no_pull
from more_scvi.data import simulate_multiomics

from .conftest import QUIET, weights
from .test_setup_mudata import state_of

pytestmark = pytest.mark.filterwarnings("ignore:From 0.4:FutureWarning")
THREE = {"rna": "rna", "atac": "peaks", "protein": "adt"}
SETUP = {"batch_key": "batch", "labels_key": "cell_type"}


def make_mudata(n_cells: int = 100, seed: int = 0) -> mudata.MuData:
    """Three modalities under names of their own; the second batch has no proteins."""
    simulated = simulate_multiomics(
        n_cells, n_types=3, n_genes=30, n_peaks=60, n_proteins=8, markers=0.3, pattern={"batch1": ["rna", "atac"]},
        protein_names=[f"prot_{i}" for i in range(8)], seed=seed,
    )  # fmt: skip
    with no_pull():
        mdata = mudata.MuData({name: simulated[role] for role, name in THREE.items()})
    mdata.obs[["batch", "cell_type"]] = simulated.obs.loc[mdata.obs_names, ["batch", "cell_type"]].astype(str)
    mdata.obs["score"] = np.linspace(0, 1, n_cells)
    for adata in mdata.mod.values():
        adata.obs = pd.DataFrame(index=adata.obs_names)
    return mdata


def build(mdata, init=None, **setup):
    MoRE.setup_mudata(mdata, **{"modalities": THREE, **SETUP, **setup})
    return MoRE(mdata, **{"backbone": None, "n_views": 1, **(init or {})})


@pytest.fixture(scope="module")
def model():
    out = build(make_mudata())
    out.train(max_epochs=1, **QUIET)
    return out


def refused(call, error, words, data=(), model=None):
    """Assert that a call is refused in these words and changes neither data nor model."""
    data = data if isinstance(data, tuple) else (data,)
    before = [state_of(d) for d in data], None if model is None else weights(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(error) as caught:
            call()
    said = str(caught.value)
    missing = [word for word in words if word not in said]
    assert not missing, f"{missing} not in: {said}"
    assert ([state_of(d) for d in data], None if model is None else weights(model)) == before


# ---- setup: what only the model reads

SETUP_ARGUMENTS = [
    pytest.param({"peak_genes": "genes"}, KeyError, ["peak_genes='genes'", "'gene'", "file"], id="peaks-column"),
    pytest.param({"peak_genes": "genes.tsv"}, KeyError, ["'genes.tsv'", "'gene'", "file"], id="peaks-file"),
    pytest.param(
        {"peak_genes": pd.DataFrame({"symbol": ["A"], "chrom": ["chr1"]})},
        (KeyError, ValueError),
        ["start"],
        id="peaks-annotation",
    ),
    pytest.param({"peak_genes": 3}, TypeError, ["peak_genes", "3", "int"], id="peaks-type"),
    pytest.param(
        {"peak_genes": (np.ones((5, 2)), ["A", "B"])}, ValueError, ["(5, 2)", "60"], id="peaks-matrix-of-other-size"
    ),
    pytest.param({"peak_genes": (np.ones((60, 2)), ["A"])}, ValueError, ["(60, 2)"], id="peaks-genes-of-other-size"),
    pytest.param({"peak_genes": (np.ones((60, 2)),)}, (TypeError, ValueError), ["peak_genes"], id="peaks-half-a-pair"),
    pytest.param(
        {"antibody_genes": {"CD3": "CD3E"}}, KeyError, ["antibody_genes", "'CD3'", "'prot_", "more"], id="antibody"
    ),
    pytest.param({"antibody_genes": "CD3E"}, TypeError, ["antibody_genes", "'CD3E'", "dict"], id="antibodies-text"),
    pytest.param({"antibody_genes": ["CD3E"]}, TypeError, ["antibody_genes", "dict"], id="antibodies-list"),
    pytest.param({"gene_key": "symbol"}, KeyError, ["gene_key='symbol'", "RNA"], id="gene-key"),
    pytest.param(
        {"modalities": {"rna": "rna"}, "layers": {"protein": "raw"}},
        ValueError,
        ["layers", "'protein'", "keys are the roles given in modalities: 'rna'"],
        id="layer-of-no-role",
    ),
    pytest.param({"layers": {"adt": "raw"}}, ValueError, ["'adt'", "Did you mean 'protein'?"], id="layer-of-a-name"),
    pytest.param({"data_type": "log"}, ValueError, ["'log'", "'lognorm'"], id="data-type"),
    pytest.param({"modalities": None}, TypeError, ["modalities=None", "dict", "'rna'"], id="no-modalities"),
    pytest.param({"spatial_key": "spatial"}, KeyError, ["spatial_key='spatial'", "mdata['rna'].obsm"], id="spatial"),
    pytest.param({"batch_keys": "batch"}, TypeError, ["batch_keys"], id="misspelt-argument"),
]


@pytest.mark.parametrize(("kwargs", "error", "words"), SETUP_ARGUMENTS)
def test_setup(kwargs, error, words):
    mdata = make_mudata()
    refused(lambda: MoRE.setup_mudata(mdata, **{"modalities": THREE, **SETUP, **kwargs}), error, words, mdata)


CONSTRUCTOR = [
    pytest.param({"fusion": "abc"}, ValueError, ["fusion='abc'", "'attention', 'concatenation', 'mean'"], id="fusion"),
    pytest.param({"fusion": None}, ValueError, ["fusion=None", "'attention'"], id="fusion-none"),
    pytest.param({"fusion": "atention"}, ValueError, ["Did you mean 'attention'?"], id="fusion-misspelt"),
    pytest.param(
        {"backbone": "precomputed", "backbone_kwargs": {"obsm_key": "X_own"}}, KeyError, ["'X_own'"], id="precomputed"
    ),
    pytest.param({"backbone": "more-mini"}, ValueError, ["0 of 30 genes", "gene_key="], id="genes-nobody-knows"),
]


@pytest.mark.parametrize(("kwargs", "error", "words"), CONSTRUCTOR)
def test_constructor(kwargs, error, words):
    mdata = make_mudata()
    MoRE.setup_mudata(mdata, THREE, **SETUP)
    refused(lambda: MoRE(mdata, **{"backbone": None, **kwargs}), error, words, mdata)


def test_a_mudata_that_was_never_set_up():
    mdata = make_mudata()
    refused(lambda: MoRE(mdata, backbone=None), ValueError, ["MoRE.setup_mudata", "copy"], mdata)


# ---- questions

LEGAL = "'rna', 'atac', 'protein'"
QUESTIONS = [
    pytest.param("get_latent_representation", {"modality": "xyz"}, ValueError, ["modality='xyz'", LEGAL], id="latent"),
    pytest.param("get_latent_representation", {"modality": "adt"}, ValueError, ["'adt'", LEGAL], id="latent-name"),
    pytest.param("get_latent_representation", {"modality": 1}, ValueError, ["modality=1", LEGAL], id="latent-number"),
    pytest.param("get_latent_representation", {"modality": ["rna"]}, ValueError, ["['rna']", LEGAL], id="latent-list"),
    pytest.param("get_latent_representation", {"obsm_key": 3}, TypeError, ["obsm_key is 3"], id="latent-key"),
    pytest.param("impute", {"modality": "proteins"}, ValueError, ["Did you mean 'protein'?", LEGAL], id="impute"),
    pytest.param("impute", {"modality": None}, ValueError, ["modality=None", LEGAL], id="impute-none"),
    pytest.param("impute", {}, TypeError, ["modality"], id="impute-nothing"),
    pytest.param(
        "impute",
        {"modality": "protein", "features": ["CD3"]},
        ValueError,
        ["['CD3']", "8 of 'protein'", "'prot_"],
        id="impute-feature",
    ),
    pytest.param(
        "impute", {"modality": "protein", "features": ["gene0"]}, ValueError, ["['gene0']"], id="impute-other-feature"
    ),
    pytest.param(
        "impute", {"modality": "rna", "features": "gene0"}, TypeError, ["features='gene0'", "list"], id="impute-text"
    ),
    pytest.param("impute", {"modality": "rna", "features": 3}, TypeError, ["features=3"], id="impute-number"),
    pytest.param("impute", {"modality": "rna", "indices": [100]}, ValueError, ["only 100 cells"], id="impute-index"),
    pytest.param("impute", {"modality": "rna", "indices": ["c"]}, TypeError, ["get_indexer"], id="impute-name"),
    pytest.param("get_modality_weights", {"indices": [100]}, ValueError, ["only 100 cells"], id="weights-index"),
    pytest.param("get_modality_weights", {"batch_size": 0}, ValueError, ["batch_size=0"], id="weights-batch-size"),
    pytest.param("predict", {"indices": [True, False]}, ValueError, ["length 2", "100 cells"], id="predict-mask"),
]


@pytest.mark.parametrize(("method", "kwargs", "error", "words"), QUESTIONS)
def test_questions(model, method, kwargs, error, words):
    refused(lambda: getattr(model, method)(**kwargs), error, words, model.adata, model)


# ---- other data


def named(mdata, **names):
    with no_pull():
        out = mudata.MuData({names.get(name, name): adata for name, adata in mdata.mod.items()})
    out.obs = mdata.obs.loc[out.obs_names]
    return out


def only(mdata, *names):
    with no_pull():
        out = mudata.MuData({name: mdata[name].copy() for name in names})
    out.obs = mdata.obs.loc[out.obs_names]
    return out


def with_modality(mdata, name, adata):
    mdata.mod[name] = adata
    return mdata


def renamed(mdata, name):
    mdata[name].var_names = [f"other{i}" for i in range(mdata[name].n_vars)]
    return mdata


def poisoned(mdata, name, value):
    x = mdata[name].X.toarray()
    x[2, 1] = value
    mdata[name].X = x
    return mdata


def logged(mdata, name):
    mdata[name].X = mdata[name].X.log1p()
    return mdata


def with_stranger(mdata):
    """A cell that only an unknown modality has."""
    other = mdata["adt"].copy()
    other.obs_names = [f"new{i}" for i in range(other.n_obs)]
    with no_pull():
        return mudata.MuData({"rna": mdata["rna"], "other": other})


def gap(mdata):
    mdata.obs["batch"] = mdata.obs["batch"].astype(object).where(np.arange(mdata.n_obs) != 4)
    return mdata


NEW_DATA = [
    pytest.param(lambda m: m["rna"].X, TypeError, ["csr_matrix", "AnnData"], id="matrix"),
    pytest.param(lambda m: "m.h5mu", TypeError, ["str"], id="path"),
    pytest.param(lambda m: dict(m.mod), TypeError, ["dict"], id="dict"),
    pytest.param(
        lambda m: named(only(m, "rna", "adt"), rna="gex", adt="prot"),
        ValueError,
        ["['gex', 'prot']", "['rna', 'peaks', 'adt']", "name it had at setup"],
        id="names-of-modalities",
    ),
    pytest.param(with_stranger, ValueError, ["50 of 150 cells", "none of the modalities", "'new0'"], id="strangers"),
    pytest.param(
        lambda m: renamed(m, "adt"),
        ValueError,
        ["mdata['adt']", "lacks 8 of the 8", "'prot_0'"],
        id="renamed-antibodies",
    ),
    pytest.param(
        lambda m: with_modality(only(m, "rna"), "rna", m["rna"][:, :0].copy()),
        ValueError,
        ["mdata['rna']"],
        id="missing-genes",
    ),
    pytest.param(lambda m: poisoned(m, "adt", np.nan), ValueError, ["mdata['adt']", "NaN", "'cell2'"], id="nan"),
    pytest.param(
        lambda m: poisoned(m, "peaks", -1), ValueError, ["mdata['peaks']", "negative", "'cell2'"], id="negative"
    ),
    pytest.param(lambda m: logged(m, "adt"), ValueError, ["mdata['adt']", "fractional", "raw antibody"], id="log"),
    pytest.param(gap, ValueError, ["'batch'", "1 of 100"], id="batch-gap"),
    pytest.param(
        lambda m: with_modality(m, "adt", m["adt"][::-1].copy()),
        ValueError,
        ["contradicts", "mdata.update()"],
        id="order",
    ),
]  # fmt: skip


@pytest.mark.parametrize("method", ["get_latent_representation", "get_modality_weights", "impute"])
@pytest.mark.parametrize(("make", "error", "words"), NEW_DATA)
def test_new_data(model, make, error, words, method):
    data = make(make_mudata(seed=1))
    call = (lambda: model.impute("rna", data)) if method == "impute" else (lambda: getattr(model, method)(data))
    refused(call, error, words, data, model)


def test_an_anndata_for_a_model_without_rna():
    model = build(make_mudata(), modalities={"atac": "peaks"})
    model.train(max_epochs=1, **QUIET)
    query = make_mudata(seed=1)["rna"]
    refused(
        lambda: model.get_latent_representation(query), TypeError, ["no RNA", "MuData", "peaks"], query, model
    )  # fmt: skip


def test_missing_covariates_of_new_data():
    model = build(make_mudata(), continuous_covariate_keys=["score"])
    model.train(max_epochs=1, **QUIET)
    query = make_mudata(seed=1)
    del query.obs["score"]
    refused(lambda: model.get_latent_representation(query), KeyError, ["'score'", "covariate"], query, model)


# ---- before training, without data


@pytest.mark.parametrize("method", ["get_latent_representation", "get_modality_weights", "predict"])
def test_before_training_there_is_nothing_to_ask(method):
    model = build(make_mudata())
    with pytest.raises(RuntimeError, match=r"not trained; call model\.train"):
        getattr(model, method)()


def test_new_data_before_training():
    model, query = build(make_mudata()), make_mudata(seed=1)
    for call in (model.get_latent_representation, model.get_modality_weights, lambda q: model.impute("rna", q)):
        refused(lambda call=call: call(query), (ValueError, RuntimeError), ["train"], query)


def test_a_model_without_data(model, tmp_path):
    model.save(tmp_path / "m")
    loaded = MoRE.load(tmp_path / "m", adata=False, accelerator="cpu")
    for call in (
        loaded.get_latent_representation,
        loaded.predict,
        loaded.get_modality_weights,
        lambda: loaded.impute("rna"),
        lambda: loaded.train(max_epochs=1, **QUIET),
    ):
        refused(call, ValueError, ["without data", "adata="], model=loaded)
    refused(lambda: loaded.save(tmp_path / "n", save_anndata=True), ValueError, ["without data"])


def test_what_to_attach_to_a_saved_model(model, tmp_path):
    model.save(tmp_path / "m")
    cases = [
        (lambda m: m["rna"].copy(), TypeError, ["trained on a MuData", "AnnData"]),
        (lambda m: only(m, "rna", "peaks"), ValueError, ["lacks the modality 'adt'", "adata=False"]),
        (lambda m: renamed(m, "adt"), ValueError, ["lacks 8 of the 8"]),
        (lambda m: m.obs.__setitem__("batch", "b9") or m, ValueError, ["'b9'", "not trained on", "adata=False"]),
    ]
    for make, error, words in cases:
        data = make(make_mudata())
        refused(lambda data=data: MoRE.load(tmp_path / "m", adata=data, accelerator="cpu"), error, words, data)
        refused(lambda data=data: setattr(model, "adata", data), error, words, data, model)
    refused(
        lambda: MoRE.load(tmp_path / "m", accelerator="cpu"), ValueError, ["no saved data (mdata.h5mu)", "adata=False"]
    )


def test_a_model_of_an_anndata_takes_no_mudata_as_its_own(tmp_path):
    mdata = make_mudata()
    adata = mdata["rna"].copy()
    adata.obs["batch"] = mdata.obs["batch"]
    MoRE.setup_anndata(adata, batch_key="batch")
    model = MoRE(adata, backbone=None, n_views=1)
    model.save(tmp_path / "m")
    refused(lambda: MoRE.load(tmp_path / "m", adata=mdata), TypeError, ["trained on a AnnData", "MuData"], mdata)


def test_a_card_that_was_edited(model, tmp_path):
    model.save(tmp_path / "m")
    card = json.loads((tmp_path / "m" / "model.json").read_text())
    card["arguments"]["fusion"] = "abc"
    (tmp_path / "m" / "model.json").write_text(json.dumps(card))
    refused(lambda: MoRE.load(tmp_path / "m", adata=False), ValueError, ["fusion='abc'"])
