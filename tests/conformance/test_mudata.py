"""Several modalities in one MuData: rows, pairing, columns and files. For models with ``setup_mudata``."""

import gc
import hashlib
import warnings
import weakref
from pathlib import Path

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import scvi

pytestmark = [pytest.mark.needs("mudata"), pytest.mark.filterwarnings("ignore:From 0.4:FutureWarning")]

BACKWARDS = slice(None, None, -1)


def close(a, b):
    np.testing.assert_allclose(a, b, atol=2e-4, rtol=1e-3)


def by_name(mdata, values) -> pd.DataFrame:
    return pd.DataFrame(values, index=mdata.obs_names)


def digest(value) -> str:
    """Text that differs where values, dtypes, names or containers differ."""
    if sp.issparse(value):
        return type(value).__name__ + "".join(digest(part) for part in (value.data, value.indices, value.indptr))
    if isinstance(value, pd.DataFrame):
        return str(value.dtypes.to_dict()) + hashlib.sha256(value.to_csv().encode()).hexdigest()
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{value.shape}{hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()}"
    return repr(value)


def snapshot(mdata: mudata.MuData) -> dict[str, str]:
    """Every part of a MuData and of its modalities, without embeddings in its ``obsm``."""
    parts = {"modalities": [(name, id(adata)) for name, adata in mdata.mod.items()]}
    for name, data in {"": mdata, **mdata.mod}.items():
        parts |= {f"{name}.obs": data.obs, f"{name}.var": data.var}
        for slot in ("obsm", "varm", "uns", "obsp", "varp", "obsmap", "varmap", "layers"):
            held = dict(getattr(data, slot, None) or {})
            parts[f"{name}.{slot}"] = [key for key in held if not key.startswith("X_more")]
            parts |= {f"{name}.{slot}[{k}]": v for k, v in held.items() if not k.startswith("X_more")}
    parts |= {f"{name}.X": adata.X for name, adata in mdata.mod.items()}
    return {name: digest(value) for name, value in parts.items()}


# ---- rows


def test_t07_modalities_in_another_order_of_cells(case, multi, z_multi):
    """The same cells in reverse order in one modality: the same embedding, cell by cell."""
    mdata = multi(adt=BACKWARDS)
    assert list(mdata["adt"].obs_names) == list(mdata["rna"].obs_names)[::-1]
    close(case.latent(case.fitted_multi(mdata)), z_multi)


def test_t07_the_order_of_cells_is_read_from_their_names(case, multi, trained_multi, z_multi):
    """Other data: shuffled rows change nothing; the names of other cells on the same rows do."""
    order = np.random.default_rng(0).permutation(150)
    shuffled = multi(rna=order, adt=BACKWARDS)
    z = by_name(shuffled, case.latent(trained_multi, shuffled))
    close(z.loc[trained_multi.adata.obs_names], z_multi)
    rna, adt = multi()["rna"].copy(), multi()["adt"].copy()
    adt.obs_names = adt.obs_names[::-1]
    mixed = mudata.MuData({"rna": rna, "adt": adt})
    mixed.obs["batch"] = multi().obs["batch"]
    assert np.abs(case.latent(trained_multi, mixed) - z_multi).max() > 0.1


@pytest.mark.parametrize(
    "rows",
    [{"adt": slice(100)}, {"rna": slice(100)}, {"rna": slice(100), "adt": slice(50, None)},
     {"rna": slice(75), "adt": slice(75, None)}],
    ids=["rna of all", "antibodies of all", "overlap", "no cell in both"],
)  # fmt: skip
def test_t08_modalities_of_other_cells(case, multi, rows):
    """Cells measured in one modality only lie where that modality says, not where zeros would put them."""
    mdata = multi(**rows)
    model = case.fitted_multi(mdata)
    z = case.latent(model)
    assert z.shape[0] == 150
    assert np.isfinite(z).all()
    for role, name in (("rna", "rna"), ("protein", "adt")):
        alone = ~mdata.obs_names.isin(mdata["adt" if name == "rna" else "rna"].obs_names)
        only = model.get_latent_representation(modality=role, obsm_key=None)
        close(only[alone], z[alone])
        measured = mdata.obs_names.isin(mdata[name].obs_names)
        assert np.isfinite(only[measured]).all()
        assert np.isnan(only[~measured]).all()


def test_t08_zeros_are_a_measurement_and_absence_is_none(case, multi, trained_multi):
    """A cell whose antibodies were all counted as zero is not a cell without antibodies."""
    zero, absent = multi(), multi(adt=slice(1, None))
    x = zero["adt"].X.tolil()
    x[0] = 0
    zero["adt"].X = x.tocsr()
    with pytest.warns(UserWarning, match="1 of 150 cells have no counts"):
        weights = trained_multi.get_modality_weights(zero)
    assert (weights.loc["s0_c0"] > 0).all()
    assert trained_multi.get_modality_weights(absent).loc["s0_c0"].tolist() == [1.0, 0.0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        z_zero = by_name(zero, case.latent(trained_multi, zero))
        z_absent = by_name(absent, case.latent(trained_multi, absent))
    assert np.isfinite(z_zero).all(axis=None)
    assert np.abs(z_zero.loc["s0_c0"] - z_absent.loc["s0_c0"]).max() > 0.1
    others = zero.obs_names[1:]
    close(z_zero.loc[others], z_absent.loc[others])


def test_t08_a_batch_with_one_modality(case, multi):
    """The second batch has RNA only: it is embedded, weighted and labelled."""
    batch = multi().obs["batch"].to_numpy()
    mdata = multi(adt=batch == "b0")
    model = case.fitted_multi(mdata)
    assert np.isfinite(case.latent(model)).all()
    weights = model.get_modality_weights()
    assert (weights.loc[(mdata.obs["batch"] == "b1").to_numpy()] == [1.0, 0.0]).all(axis=None)
    assert set(model.predict()) <= {"t0", "t1", "t2"}


def test_a_cell_without_any_modality_is_named(case, multi):
    """Leaving out the only modality of some cells is an error that names cells and how to drop them."""
    mdata = multi(adt=slice(100))
    before = snapshot(mdata)
    with pytest.raises(ValueError, match=r"(?s)50 of 150 cells.*'adt'.*'s0_c100'.*isin\(mdata\['adt'\]"):
        case.setup_multi(mdata, modalities={"protein": "adt"})
    assert snapshot(mdata) == before


def test_the_order_of_modalities_changes_nothing(case, multi, z_multi):
    """Neither the order of the dict nor that of ``mdata.mod`` does."""
    close(case.latent(case.fitted_multi(multi(), modalities={"protein": "adt", "rna": "rna"})), z_multi)
    m = multi()
    swapped = mudata.MuData({"adt": m["adt"].copy(), "rna": m["rna"].copy()})
    swapped.obs = m.obs.loc[swapped.obs_names]
    close(case.latent(case.fitted_multi(swapped)), z_multi)


def test_one_modality_is_as_one_anndata(case, data, multi):
    """RNA in a MuData gives what the same AnnData gives."""
    adata = data()
    case.setup(adata)
    alone = case.fit(case.build(adata, **case.multi_init))
    model = case.fitted_multi(multi(), modalities={"rna": "rna"})
    close(case.latent(model), case.latent(alone))
    assert (model.predict() == alone.predict()).all()
    close(case.latent(model, data()), case.latent(alone))


def test_layers_by_role(case, multi, z_multi):
    """Counts in a layer of one modality and in X of the other."""
    mdata = multi()
    mdata["adt"].layers["raw"] = mdata["adt"].X
    mdata["adt"].X = mdata["adt"].X.log1p()
    model = case.fitted_multi(mdata, layers={"protein": "raw"})
    close(case.latent(model), z_multi)
    with pytest.raises(KeyError, match="raw"):
        case.latent(model, multi())


@pytest.mark.parametrize(
    "convert",
    [sp.csc_matrix, sp.csr_array, lambda x: x.toarray(), lambda x: np.asfortranarray(x.toarray()),
     lambda x: x.astype(np.float64), lambda x: x.astype(np.int64)],
    ids=["csc", "csr-array", "dense", "fortran", "float64", "int64"],
)  # fmt: skip
def test_t19_the_type_of_the_matrices_changes_nothing(case, multi, trained_multi, z_multi, convert):
    """Each modality in another container: the same embedding, and the user's matrices stay what they were."""
    mdata = multi()
    for adata in mdata.mod.values():
        adata.X = convert(adata.X)
    before = snapshot(mdata)
    close(case.latent(trained_multi, mdata), z_multi)
    assert snapshot(mdata) == before
    close(case.latent(case.fitted_multi(mdata)), z_multi)
    assert snapshot(mdata) == before


# ---- columns


@pytest.mark.parametrize("places", [["rna"], ["adt"], ["rna", "adt"], ["", "rna", "adt"]], ids=lambda p: "+".join(p))
def test_t48_where_the_batch_column_is(case, multi, z_multi, places):
    """A column of the MuData, of one modality or of several that agree is the same column."""
    mdata = multi()
    column = mdata.obs["batch"].copy()
    if "" not in places:
        del mdata.obs["batch"]
    for name in places:
        if name:
            mdata[name].obs["batch"] = column.loc[mdata[name].obs_names].to_numpy()
    close(case.latent(case.fitted_multi(mdata)), z_multi)


def test_t48_a_column_with_prefix(case, multi, z_multi):
    """``rna:batch``, as mudata copies columns of modalities, is the column ``batch``."""
    mdata = multi()
    mdata.obs = mdata.obs.rename(columns={"batch": "rna:batch"})
    close(case.latent(case.fitted_multi(mdata)), z_multi)


def test_t48_places_that_disagree_are_an_error(case, multi):
    mdata = multi()
    mdata["adt"].obs["batch"] = "b0"
    with pytest.raises(ValueError, match=r"(?s)'batch'.*mdata.obs.*mdata\['adt'\].obs"):
        case.setup_multi(mdata)


def test_t48_labels_of_two_modalities_complement_one_another(case, multi):
    """RNA cells labelled in the RNA modality, the others in the antibody modality."""
    mdata = multi(rna=slice(100), adt=slice(50, None))
    labels = mdata.obs["ct"].copy()
    del mdata.obs["ct"]
    mdata["rna"].obs["ct"] = labels.loc[mdata["rna"].obs_names].to_numpy()
    mdata["adt"].obs["ct"] = labels.loc[mdata["adt"].obs_names].to_numpy()
    whole = multi(rna=slice(100), adt=slice(50, None))
    close(case.latent(case.fitted_multi(mdata)), case.latent(case.fitted_multi(whole)))


@pytest.mark.parametrize("kwargs", [{"labels_key": None}, {"batch_key": None}, {"labels_key": None, "batch_key": None}])
def test_without_labels_or_batches(case, multi, kwargs):
    model = case.fitted_multi(multi(), **kwargs)
    assert np.isfinite(case.latent(model)).all()
    assert np.isfinite(case.latent(model, multi(60, seed=5))).all()
    if "labels_key" in kwargs:
        with pytest.raises(ValueError, match="labels"):
            model.predict()


# ---- the user's objects


def test_nothing_of_the_mudata_changes_but_embeddings(case, multi):
    """Setup, training and every question leave all but ``obsm["X_more..."]`` as it was."""
    mdata = multi(adt=slice(20, None))
    mdata.uns["kept"], mdata["rna"].obsm["own"] = {"a": 1}, np.ones((150, 2))
    before = snapshot(mdata)
    model = case.fitted_multi(mdata)
    model.predict(soft=True)
    model.get_modality_weights()
    model.impute("protein")
    assert set(mdata.obsm) == {"rna", "adt"}, "embeddings are written when they are asked for"
    z = model.get_latent_representation()
    model.get_latent_representation(modality="rna")
    assert snapshot(mdata) == before
    assert set(mdata.obsm) == {"rna", "adt", "X_more", "X_more_rna"}
    np.testing.assert_array_equal(mdata.obsm["X_more"], z)
    assert not set(mdata["rna"].obsm) - {"own"}


def test_t32_other_data_are_only_read(case, multi, trained_multi):
    """New MuData, views of it included, stay as they are."""
    new = multi(60, seed=5)
    before = snapshot(new)
    case.latent(trained_multi, new)
    trained_multi.impute("rna", new)
    trained_multi.predict(new)
    assert snapshot(new) == before
    view = new[10:30]
    z = trained_multi.get_latent_representation(view)
    assert view.is_view
    assert z.shape[0] == 20
    assert snapshot(new) == before


def test_t46_setup_again_does_not_disturb_the_first_model(case, multi):
    mdata = multi()
    mdata.obs["half"] = np.where(np.arange(150) < 75, "x", "y")
    first = case.fitted_multi(mdata)
    before = case.latent(first)
    second = case.fitted_multi(mdata, batch_key="half")
    close(case.latent(first), before)
    assert np.isfinite(case.latent(second)).all()
    assert set(second.batches) == {"x", "y"}


def test_setup_twice_is_setup_once(case, multi, z_multi):
    mdata = multi()
    case.setup_multi(mdata, batch_key=None)
    close(case.latent(case.fitted_multi(mdata)), z_multi)


def test_a_copy_has_to_be_set_up_too(case, multi):
    mdata = multi()
    case.setup_multi(mdata)
    with pytest.raises(ValueError, match="(?s)setup_mudata.*copy"):
        case.cls(mdata.copy(), **case.multi_init)
    with pytest.raises(ValueError, match="setup_mudata"):
        case.cls(multi(), **case.multi_init)


def test_t39_training_data_go_with_the_model(case, multi):
    """Deleting model and data frees the MuData and its modalities; setup alone keeps nothing either."""
    registered, mdata = multi(), multi()
    case.setup_multi(registered)
    model = case.fitted_multi(mdata)
    alive = [weakref.ref(x) for x in (registered, mdata, mdata["rna"])]
    del registered, mdata, model
    gc.collect()
    assert [ref() for ref in alive] == [None, None, None]


def test_t39_new_data_are_released(case, multi, trained_multi):
    new = multi(60, seed=5)
    case.latent(trained_multi, new)
    alive = weakref.ref(new)
    del new
    gc.collect()
    assert alive() is None


# ---- files


def answers(model, data=None) -> list[np.ndarray]:
    """Everything a model says about cells."""
    return [
        model.get_latent_representation(data, obsm_key=None),
        model.get_latent_representation(data, obsm_key=None, modality="protein"),
        model.predict(data, soft=True).to_numpy(),
        model.impute("protein", data).to_numpy(),
        model.impute("rna", data).to_numpy(),
        model.get_modality_weights(data).to_numpy(),
    ]


@pytest.mark.parametrize("with_data", ["given", "saved", "none"])
def test_t29_a_loaded_model_gives_the_same_answers(case, multi, tmp_path, with_data):
    """Loading with the MuData, with the one saved beside the model, or without any and then saving again."""
    mdata = multi(rna=slice(110), adt=slice(40, None))
    model = case.fitted_multi(mdata)
    expected = answers(model, mdata.copy()) if with_data == "none" else answers(model)
    model.save(str(tmp_path / "m"), save_anndata=with_data == "saved")
    given = {"given": mdata.copy(), "saved": None, "none": False}[with_data]
    loaded = case.cls.load(str(tmp_path / "m"), adata=given, accelerator="cpu")
    if with_data == "none":
        loaded.save(str(tmp_path / "again"))
        loaded = case.cls.load(str(tmp_path / "again"), adata=False, accelerator="cpu")
    for a, b in zip(answers(loaded, mdata.copy() if with_data == "none" else None), expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    assert loaded.is_trained


def test_t29_names_of_features_of_a_model_without_data(case, multi, trained_multi, tmp_path):
    """What upstream raises a KeyError for."""
    trained_multi.save(str(tmp_path / "m"))
    for model in (trained_multi, case.cls.load(str(tmp_path / "m"), adata=False, accelerator="cpu")):
        names = model.get_var_names()
        assert {name: list(features) for name, features in names.items()} == {
            name: list(adata.var_names) for name, adata in multi().mod.items()
        }


def test_t30_the_registry_can_be_viewed(case, trained_multi, tmp_path, capsys):
    trained_multi.view_anndata_setup()
    trained_multi.view_registry()
    assert "batch" in capsys.readouterr().out
    trained_multi.save(str(tmp_path / "m"))
    case.cls.view_setup_args(str(tmp_path / "m"))
    printed = capsys.readouterr().out
    assert "modalities" in printed
    assert "ACTB" not in printed, "setup arguments are no place for thousands of gene names"
    loaded = case.cls.load(str(tmp_path / "m"), adata=False, accelerator="cpu")
    loaded.view_registry()
    assert "modalities" in capsys.readouterr().out


def test_t40_the_saved_model_does_not_grow_with_the_data(case, multi, tmp_path):
    for n_cells in (150, 600):
        case.fitted_multi(multi(n_cells, adt=slice(20, None))).save(str(tmp_path / str(n_cells)))
    sizes = [sum(f.stat().st_size for f in Path(tmp_path / n).rglob("*") if f.is_file()) for n in ("150", "600")]
    assert sizes[1] < 1.02 * sizes[0]


def test_t05_data_can_be_replaced(case, multi):
    """Setting ``model.adata`` answers for the new MuData from then on; one without a modality is refused."""
    model = case.fitted_multi(multi())
    new = multi(60, seed=5)
    expected = case.latent(model, new.copy())
    model.adata = new
    close(case.latent(model), expected)
    with pytest.raises(ValueError, match="lacks the modality 'adt'"):
        model.adata = mudata.MuData({"rna": new["rna"].copy()})
    with pytest.raises(TypeError, match="MuData"):
        model.adata = new["rna"].copy()
    close(case.latent(model), expected)


# ---- habits


def test_t42_the_seed_decides(case, multi, z_multi):
    """The same seed gives the same embedding, another one another."""
    scvi.settings.seed = 0
    np.testing.assert_array_equal(case.latent(case.fitted_multi(multi())), z_multi)
    scvi.settings.seed = 1
    assert np.abs(case.latent(case.fitted_multi(multi())) - z_multi).max() > 1e-3


def test_t33_indices_and_batch_size(case, trained_multi, z_multi):
    mask = np.arange(150) % 3 == 0
    for indices in ([5, 5, -1, 0], mask, slice(3, 40, 7), []):
        close(case.latent(trained_multi, indices=indices), z_multi[indices])
    for size in (1, 7, 1000):
        close(case.latent(trained_multi, batch_size=size), z_multi)
    weights, soft = trained_multi.get_modality_weights(), trained_multi.predict(soft=True)
    pd.testing.assert_frame_equal(trained_multi.get_modality_weights(indices=mask, batch_size=7), weights[mask])
    pd.testing.assert_frame_equal(trained_multi.predict(indices=mask, soft=True, batch_size=7), soft[mask], atol=1e-5)
    with pytest.raises(ValueError, match="150"):
        case.latent(trained_multi, indices=[150])


def test_t16_sets_of_cells_may_leave_cells_out(case, multi):
    mdata = multi(adt=slice(30, None))
    case.setup_multi(mdata)
    sets = [np.arange(0, 90), np.arange(90, 120)]
    model = case.fit(case.cls(mdata, **case.multi_init), datasplitter_kwargs={"external_indexing": sets})
    assert np.isfinite(case.latent(model)).all()
    np.testing.assert_array_equal(model.validation_indices, sets[1])
    assert "validation_loss" in model.history


def test_training_goes_on_after_a_first_round(case, multi):
    model = case.fit(case.fitted_multi(multi(adt=slice(30, None))))
    assert all(len(curve) == 4 for curve in model.history.values())
    assert np.isfinite(case.latent(model)).all()


def test_a_mudata_with_the_backbone(case, multi):
    """Frozen features of both modalities: antibodies by the genes of their antigens."""
    mdata = multi()
    mdata["adt"].var_names = ["CD3", "CD4", "CD8", "CD14", "CD19", "CD20", "CD16", "CD56", "CD27", "CD69", "CD45", "X"]
    case.setup_multi(mdata)
    model = case.fit(case.cls(mdata, **case.init))
    assert np.isfinite(case.latent(model)).all()
    assert "frozen" in model.module.base("rna").path_names


def test_an_anndata_is_no_mudata(case, data, multi):
    with pytest.raises(TypeError, match="(?s)AnnData.*setup_anndata"):
        case.setup_multi(data())
    with pytest.raises((TypeError, ValueError), match="(?s)MuData.*setup_mudata|AnnData"):
        case.setup(multi())
    assert isinstance(multi()["rna"], ad.AnnData)
