"""What a MuData and its arguments are refused for; the MuData stays as it was."""

from functools import partial
from pathlib import Path

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import pytest

from more_scvi import MoRE
from more_scvi.data import check_mudata
from more_scvi.modalities import get_modality, list_modalities

from .conftest import digest, make_data, state

pytestmark = pytest.mark.filterwarnings("ignore:From 0.4:FutureWarning")
check_mudata = partial(check_mudata, rules={name: get_modality(name).values for name in list_modalities()})
TWO = {"rna": "rna", "protein": "prot"}


def make_mudata(n_cells: int = 60) -> mudata.MuData:
    """RNA of all cells, a protein modality of the last 40 in reverse order."""
    rna = make_data(n_cells)
    prot = rna[::-1, :8][: n_cells - 20].copy()
    prot.var_names = [f"p{i}" for i in range(8)]
    prot.X = prot.X.toarray() + 1
    del prot.layers["counts"], prot.obs["score"]
    prot.obs["site"] = "here"
    return mudata.MuData({"rna": rna, "prot": prot})


def state_of(data) -> dict[str, str]:
    """Digest of every part of a MuData, its modalities included."""
    if not isinstance(data, mudata.MuData):
        return state(data)
    parts = {"obs": digest(data.obs), "var": digest(data.var), "names": digest(data.obs_names.to_numpy())}
    parts["order"] = repr([(name, id(adata)) for name, adata in data.mod.items()]) if not data.is_view else ""
    for name in ("obsm", "obsmap", "uns"):
        parts |= {f"{name}[{key}]": digest(value) for key, value in getattr(data, name).items()}
    for name, adata in data.mod.items():
        parts |= {f"{name}.{key}": value for key, value in state(adata).items()}
    return parts


def through_model(data, modalities, data_types=None, **kwargs):
    """The same arguments as ``MoRE.setup_mudata`` takes them."""
    MoRE.setup_mudata(data, modalities, **kwargs)


CALLS = [pytest.param(check_mudata, id="check_mudata"), pytest.param(through_model, id="MoRE")]


def refused(data, kwargs, error, words, call=check_mudata):
    before = state_of(data)
    if call is through_model and "data_types" in kwargs:
        kwargs = {"data_type": kwargs["data_types"]["rna"]}
    with pytest.raises(error) as caught:
        call(data, **{"modalities": TWO, **kwargs})
    missing = [word for word in words if word not in str(caught.value)]
    assert not missing, f"{missing} not in: {caught.value}"
    assert state_of(data) == before


def prot_with(change):
    def make(m):
        x = np.asarray(m["prot"].X, dtype=np.float64)
        change(x)
        m["prot"].X = x
        return m

    return make


def rename_cell(m, name, i, new):
    names = list(m[name].obs_names)
    names[i] = new
    m[name].obs_names = names
    return m


def replaced(m, name, adata):
    m.mod[name] = adata
    return m


def clr(x):
    x -= x.mean(0)


def log(x):
    np.log1p(x, out=x)


def infinite(x):
    x[2, 3] = np.inf


def zero(x):
    x *= 0


OBJECTS = [
    pytest.param(lambda m: None, TypeError, ["NoneType", "mudata.MuData"], id="none"),
    pytest.param(lambda m: m["rna"], TypeError, ["AnnData", "setup_anndata"], id="anndata"),
    pytest.param(lambda m: dict(m.mod), TypeError, ["dict", "mudata.MuData({"], id="dict"),
    pytest.param(lambda m: Path("a.h5mu"), TypeError, ["PosixPath", "read_h5mu"], id="path"),
    pytest.param(lambda m: "a.h5mu", TypeError, ["str", "read_h5mu"], id="text"),
    pytest.param(
        lambda m: mudata.MuData(dict(m.mod), axis=1), ValueError, ["axis=1", "features", "share cells"], id="axis-1"
    ),
    pytest.param(
        lambda m: mudata.MuData({"rna": m["rna"]}, axis=-1), ValueError, ["axis=-1", "axis=0"], id="axis-both"
    ),
    pytest.param(lambda m: m[:30], ValueError, ["mdata is a view", "mdata.copy()"], id="view"),
    pytest.param(
        lambda m: replaced(m, "prot", m["prot"][:, :5]), ValueError, ["mdata['prot'] is a view"], id="view-of-modality"
    ),
    pytest.param(
        lambda m: replaced(m, "prot", m["prot"][:0].copy()), ValueError, ["mdata['prot'] has 0 cells"], id="no-cells"
    ),
    pytest.param(
        lambda m: replaced(m, "prot", m["prot"][:, :0].copy()), ValueError, ["and 0 features"], id="no-features"
    ),
    pytest.param(lambda m: m[59:].copy(), ValueError, ["1 cell;", "at least 2"], id="one-cell"),
    pytest.param(
        lambda m: rename_cell(m, "prot", 3, m["prot"].obs_names[4]),
        ValueError,
        ["mdata['prot'].obs_names", "1 names more than once", "obs_names_make_unique", "mdata.update()"],
        id="same-cells",
    ),
    pytest.param(
        lambda m: setattr(m["prot"], "var_names", ["p", "p", *"qrstuv"]) or m,
        ValueError,
        ["mdata['prot'].var_names", "'p'", "var_names_make_unique"],
        id="same-features",
    ),
    pytest.param(
        lambda m: rename_cell(m, "prot", 3, "x"), ValueError, ["1 cells", "lacks: 'x'", "mdata.update()"], id="renamed"
    ),
    pytest.param(
        lambda m: replaced(m, "prot", m["prot"][::-1].copy()),
        ValueError,
        ["mdata.obsmap['prot'] contradicts", "row 39", "in row 0", "mdata.update()"],
        id="reordered",
    ),
    pytest.param(
        lambda m: replaced(m, "prot", m["prot"][:30].copy()),
        ValueError,
        ["contradicts", "10 of 60", "nowhere", "mdata.update()"],
        id="subset",
    ),
    pytest.param(
        prot_with(log), ValueError, ["mdata['prot'].X", "fractional", "raw antibody", "layers={'protein'"], id="log"
    ),
    pytest.param(
        prot_with(clr), ValueError, ["mdata['prot'].X", "negative", "raw antibody", "layers={'protein'"], id="clr"
    ),
    pytest.param(
        prot_with(infinite), ValueError, ["mdata['prot'].X holds 1 NaN", "first inf in cell 's0_cell57'"], id="infinite"
    ),
    pytest.param(prot_with(zero), ValueError, ["mdata['prot'].X holds zeros only"], id="zeros"),
]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(("make", "error", "words"), OBJECTS)
@pytest.mark.filterwarnings("ignore")
def test_objects(make, error, words, call):
    refused(make(make_mudata()), {}, error, words, call)


ARGUMENTS = [
    pytest.param({"modalities": None}, TypeError, ["modalities=None", "dict", "'rna', 'prot'"], id="none"),
    pytest.param({"modalities": ["rna"]}, TypeError, ["modalities=['rna']", "list"], id="list"),
    pytest.param({"modalities": {}}, ValueError, ["empty", "mdata.mod holds: 'rna', 'prot'"], id="empty"),
    pytest.param(
        {"modalities": {"rna": "rna", "prot": "prot"}}, ValueError, ["'prot'", "Did you mean 'protein'?"], id="role"
    ),
    pytest.param({"modalities": {"RNA": "rna"}}, ValueError, ["Did you mean 'rna'?"], id="role-in-capitals"),
    pytest.param(
        {"modalities": {"rna": "rna", "protein": "port"}},
        ValueError,
        ["'port'", "Did you mean 'prot'?", "'rna', 'prot'"],
        id="modality",
    ),
    pytest.param({"modalities": {"rna": "rna", "atac": None}}, ValueError, ["None", "Leave a role out"], id="no-name"),
    pytest.param({"modalities": {"rna": 0}}, ValueError, ["modalities['rna'] is 0"], id="position"),
    pytest.param(
        {"modalities": {"rna": "rna", "atac": "rna"}}, ValueError, ["'rna' two roles", "'atac'"], id="two-roles"
    ),
    pytest.param(
        {"modalities": {"protein": "prot"}},
        ValueError,
        ["20 of 60 cells", "none of the modalities 'prot'", "'s0_cell0'", "isin(mdata['prot'].obs_names)].copy()"],
        id="cells-without-modality",
    ),
    pytest.param({"layers": "counts"}, TypeError, ["layers={'rna': 'counts'}"], id="layers-text"),
    pytest.param({"layers": {"prot": "raw"}}, ValueError, ["'prot'", "Did you mean 'protein'?"], id="layers-name"),
    pytest.param({"layers": {"atac": "counts"}}, ValueError, ["'atac'", "'rna', 'protein'"], id="layers-no-such-role"),
    pytest.param(
        {"layers": {"rna": "count"}},
        KeyError,
        ["layer='count' is not in mdata['rna'].layers", "Did you mean 'counts'?", "uses mdata['rna'].X"],
        id="layer-unknown",
    ),
    pytest.param({"layers": {"rna": 3}}, TypeError, ["layer is 3 (int)"], id="layer-type"),
    pytest.param({"data_types": {"rna": "count"}}, ValueError, ["'count'", "'lognorm'"], id="data-type-unknown"),
    pytest.param({"data_types": {"rna": "lognorm"}}, ValueError, ["mdata['rna'].X", "too large"], id="data-type-wrong"),
    pytest.param(
        {"batch_key": "bacth"},
        KeyError,
        ["batch_key='bacth'", "Did you mean 'batch'?", "mdata.obs: ", "mdata['prot'].obs: 'cell_type', 'batch'"],
        id="batch-unknown",
    ),
    pytest.param({"batch_key": ["batch", 3]}, TypeError, ["batch_key is 3 (int)", "mdata.obs"], id="batch-type"),
    pytest.param({"batch_key": "score"}, ValueError, ["mdata.obs['score'] is continuous"], id="batch-continuous"),
    pytest.param({"batch_key": "site"}, ValueError, ["mdata.obs['site']", "20 of 60", "'s0_cell0'"], id="batch-gaps"),
    pytest.param(
        {"batch_key": "differs"},
        ValueError,
        ["'s0_cell20'", "'a' in mdata.obs", "'b' in mdata['prot'].obs", "40 cells differ"],
        id="places-differ",
    ),
    pytest.param({"labels_key": "celltype"}, KeyError, ["Did you mean 'cell_type'?"], id="labels-unknown"),
    pytest.param({"labels_key": 7}, TypeError, ["labels_key is 7 (int)"], id="labels-type"),
    pytest.param(
        {"labels_key": "batch", "batch_key": "batch"}, ValueError, ["both 'batch'", "two columns"], id="labels-batch"
    ),
    pytest.param(
        {"labels_key": "cell_type", "unlabeled_category": None},
        TypeError,
        ["unlabeled_category=None"],
        id="unlabeled-none",
    ),
    pytest.param({"categorical_covariate_keys": "batch"}, TypeError, ["Did you mean ['batch']"], id="covariates-text"),
    pytest.param({"categorical_covariate_keys": [None]}, TypeError, ["_keys is None"], id="covariate-none"),
    pytest.param({"categorical_covariate_keys": ["donor"]}, KeyError, ["'donor'", "Available"], id="covariate-unknown"),
    pytest.param({"categorical_covariate_keys": ["site"]}, ValueError, ["mdata.obs['site']"], id="covariate-gaps"),
    pytest.param({"continuous_covariate_keys": ["batch"]}, TypeError, ["must be numeric"], id="covariate-not-numeric"),
    pytest.param(
        {"continuous_covariate_keys": ["holes"]}, ValueError, ["mdata.obs['holes']", "20 of 60"], id="covariate-holes"
    ),
]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(("kwargs", "error", "words"), ARGUMENTS)
def test_arguments(kwargs, error, words, call):
    mdata = make_mudata()
    mdata["prot"].obs["holes"] = 1.5
    mdata.obs["differs"] = pd.Categorical(["a"] * 60)
    mdata["prot"].obs["differs"] = "b"
    refused(mdata, kwargs, error, words, call)


CHECK_ONLY = [  # MoRE.setup_mudata has one data_type, for the RNA
    pytest.param({"data_types": "counts"}, TypeError, ["data_types={'rna': 'counts'}"], id="data-types-text"),
    pytest.param(
        {"data_types": {"protein": "lognorm"}}, ValueError, ["'lognorm'", "raw antibody"], id="data-type-protein"
    ),
    pytest.param({"data_types": {"protein": 1}}, ValueError, ["data_types['protein']=1"], id="data-type-number"),
]


@pytest.mark.parametrize(("kwargs", "error", "words"), CHECK_ONLY)
def test_arguments_of_the_check(kwargs, error, words):
    refused(make_mudata(), kwargs, error, words)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("name", ["rna", "prot"])
def test_a_modality_that_is_no_matrix_of_cells(name, call):
    mdata = make_mudata()
    mdata.mod[name] = ad.AnnData(obs=mdata[name].obs, var=mdata[name].var)
    refused(mdata, {}, ValueError, [f"mdata['{name}'].X is empty (None)"], call)


def test_checking_again_after_an_error_works():
    mdata = make_mudata()
    refused(mdata, {"batch_key": "nope"}, KeyError, ["nope"])
    refused(mdata, {"batch_key": "nope"}, KeyError, ["nope"], through_model)
    MoRE.setup_mudata(mdata, TWO, batch_key="batch", labels_key="cell_type")
    cells, summaries = check_mudata(mdata, modalities=TWO, batch_key="batch", labels_key="cell_type")
    assert len(cells) == 60
    assert list(summaries) == ["rna", "protein"]
