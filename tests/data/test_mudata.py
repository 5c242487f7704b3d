"""Cells are found by name in every modality, columns wherever they are, and nothing of the MuData changes."""

import warnings
from functools import partial

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from more_scvi._compat import no_pull
from more_scvi.data import check_mudata
from more_scvi.data._cells import read_cells
from more_scvi.modalities import get_modality, list_modalities

pytestmark = pytest.mark.filterwarnings("ignore:From 0.4:FutureWarning")
ALL = {"rna": "rna", "atac": "peaks", "protein": "prot"}
check_mudata = partial(check_mudata, rules={name: get_modality(name).values for name in list_modalities()})
WIDTH = {"rna": 6, "peaks": 9, "prot": 4}


def modality(name: str, cells, **obs) -> ad.AnnData:
    """Counts whose first column is the number in the name of the cell, plus one."""
    number = np.array([int(cell[1:]) for cell in cells], dtype=np.float32)
    x = np.ones((len(cells), WIDTH[name]), dtype=np.float32)
    x[:, 0] += number
    out = ad.AnnData(sp.csr_matrix(x), obs=pd.DataFrame(obs, index=list(cells)))
    out.var_names = [f"{name}{i}" for i in range(WIDTH[name])]
    return out


def names(*numbers) -> list[str]:
    return [f"c{i}" for i in numbers]


def mosaic() -> mudata.MuData:
    """Cells 0-5 have RNA, 2-7 proteins (in reverse order), 1, 3, 5, 7 peaks."""
    return mudata.MuData(
        {
            "rna": modality("rna", names(*range(6))),
            "prot": modality("prot", names(*range(7, 1, -1))),
            "peaks": modality("peaks", names(1, 3, 5, 7)),
        }
    )


def paired(**obs) -> mudata.MuData:
    """The cells 0-3 in both modalities, the second in reverse; `obs`: columns of mdata.obs."""
    out = mudata.MuData({"rna": modality("rna", names(0, 1, 2, 3)), "prot": modality("prot", names(3, 2, 1, 0))})
    for key, values in obs.items():
        out.obs[key] = values
    return out


def assert_rows_hold_their_cells(cells):
    """The rows lead to the measurements of the cell of that name, and every measured cell has one."""
    for role, adata in cells.adatas.items():
        rows = cells.rows[role]
        assert rows.dtype == np.int64
        has = rows >= 0
        np.testing.assert_array_equal(has, cells.names.isin(adata.obs_names))
        number = adata.X[rows[has]].toarray()[:, 0] - 1
        np.testing.assert_array_equal(number, [int(name[1:]) for name in cells.names[has]])


def snapshot(mdata) -> list:
    parts = [mdata.obs.copy(), mdata.var.copy(), list(mdata.mod), [id(a) for a in mdata.mod.values()], dict(mdata.uns)]
    parts += [{k: np.array(v) for k, v in getattr(mdata, name).items()} for name in ("obsm", "obsmap", "varmap")]
    for adata in mdata.mod.values():
        parts += [adata.obs.copy(), adata.var.copy(), adata.X.toarray(), list(adata.layers), list(adata.obsm)]
    return parts


def assert_same(before, after):
    for a, b in zip(before, after, strict=True):
        if isinstance(a, pd.DataFrame):
            pd.testing.assert_frame_equal(a, b)
        elif isinstance(a, dict):
            assert list(a) == list(b)
            for key in a:
                np.testing.assert_array_equal(a[key], b[key])
        else:
            np.testing.assert_array_equal(a, b)


def test_rows_are_matched_by_name():
    mdata = paired()
    np.testing.assert_array_equal(mdata.obsmap["prot"], [4, 3, 2, 1])  # mudata itself is right here
    cells = read_cells(mdata, {"rna": "rna", "protein": "prot"})
    np.testing.assert_array_equal(cells.rows["protein"], [3, 2, 1, 0])
    assert cells.adatas["protein"] is mdata["prot"]
    assert_rows_hold_their_cells(cells)


def test_cells_of_a_mosaic_are_missing_where_they_were_not_measured():
    mdata = mosaic()
    cells = read_cells(mdata, ALL)
    assert_rows_hold_their_cells(cells)
    assert list(cells.names) == list(mdata.obs_names)
    assert len(cells) == 8
    present = pd.DataFrame(cells.present, cells.names, list(cells.adatas))
    assert present.sum().to_dict() == {"rna": 6, "atac": 4, "protein": 6}
    assert present.loc["c0"].tolist() == [True, False, False]
    assert present.loc["c7"].tolist() == [False, True, True]
    assert present.loc["c3"].tolist() == [True, True, True]


def test_disjoint_cells():
    mdata = mudata.MuData({"rna": modality("rna", names(0, 1)), "prot": modality("prot", names(3, 2))})
    cells, _ = check_mudata(mdata, modalities={"rna": "rna", "protein": "prot"})
    np.testing.assert_array_equal(cells.present, [[True, False]] * 2 + [[False, True]] * 2)
    assert_rows_hold_their_cells(cells)


@pytest.mark.parametrize("order", [["protein", "atac", "rna"], ["atac", "rna", "protein"]], ids="-".join)
def test_the_order_of_the_argument_does_not_matter(order):
    cells, _ = check_mudata(mosaic(), modalities={role: ALL[role] for role in order})
    assert list(cells.adatas) == list(cells.rows) == ["rna", "atac", "protein"]
    np.testing.assert_array_equal(cells.present, read_cells(mosaic(), ALL).present)


@pytest.mark.parametrize("roles", [["rna"], ["protein"], ["rna", "protein"]], ids="-".join)
def test_modalities_can_be_left_out(roles):
    cells, summaries = check_mudata(paired(), modalities={role: ALL[role] for role in roles})
    assert list(cells.adatas) == list(summaries) == roles
    assert cells.present.all()
    assert_rows_hold_their_cells(cells)


def test_a_role_is_not_bound_to_a_name():
    mdata = mudata.MuData({"atac": modality("rna", names(0, 1)), "x": modality("peaks", names(1, 0))})
    cells = read_cells(mdata, {"rna": "atac", "atac": "x"})
    assert cells.adatas["rna"].n_vars == WIDTH["rna"]
    assert_rows_hold_their_cells(cells)


@pytest.mark.parametrize(
    "select",
    [[5, 0, 3], slice(2, 6), slice(None, None, -1), np.arange(8) % 2 == 0, names(7, 1)],
    ids=["list", "slice", "reversed", "mask", "names"],
)
@pytest.mark.parametrize("copied", [False, True], ids=["view", "copy"])
def test_views_and_their_copies_are_read_by_name(select, copied):
    whole = mosaic()
    whole.obs["own"] = [int(name[1:]) for name in whole.obs_names]
    part = whole[select]
    expected = set(part.obs_names)
    part = part.copy() if copied else part  # mudata may put the cells of a copy in another order
    cells = read_cells(part, ALL, ["own"])
    assert list(cells.names) == list(part.obs_names)
    assert set(cells.names) == expected
    assert cells.obs["own"].astype(int).tolist() == [int(name[1:]) for name in cells.names]
    assert_rows_hold_their_cells(cells)


def test_an_anndata_is_one_rna_modality():
    adata = modality("rna", names(3, 1, 2), batch=["a", "b", "a"])
    for data in (adata, adata[[2, 0]]):
        cells = read_cells(data, None, ["batch", "label"], optional=["label"])
        assert cells.adatas["rna"] is data
        assert cells.rows["rna"].tolist() == list(range(data.n_obs))
        assert cells.present.all() and cells.present.shape == (data.n_obs, 1)
        assert cells.obs["batch"].tolist() == data.obs["batch"].tolist()
        assert cells.found == {"batch": "adata.obs"}
        assert_rows_hold_their_cells(cells)
    with pytest.raises(KeyError, match="Did you mean 'batch'"):
        read_cells(adata, None, ["bach"])


@pytest.mark.parametrize("change", ["replaced", "renamed", "added", "removed"])
def test_a_mudata_that_is_out_of_date_is_refused_and_works_after_update(change):
    mdata = paired()
    if change == "replaced":
        mdata.mod["prot"] = modality("prot", names(0, 1, 2, 3))
    elif change == "renamed":
        mdata["prot"].obs_names = names(3, 2, 0, 1)
    elif change == "added":
        mdata.mod["prot"] = modality("prot", names(3, 2, 1, 0, 4))
    else:
        mdata.mod["prot"] = modality("prot", names(3, 2, 1))
    before = snapshot(mdata)
    with pytest.raises(ValueError, match=r"mdata\.update\(\)"):
        read_cells(mdata, {"rna": "rna", "protein": "prot"})
    assert_same(before, snapshot(mdata))
    mdata.update()
    cells = read_cells(mdata, {"rna": "rna", "protein": "prot"})
    if change == "renamed":
        np.testing.assert_array_equal(cells.rows["protein"], [2, 3, 1, 0])
    else:
        assert_rows_hold_their_cells(cells)


def test_nothing_of_the_mudata_changes():
    mdata = mosaic()
    mdata.obs["batch"] = pd.Categorical(["a", "b"] * 4)
    mdata["prot"].obs["cell_type"] = "T"
    mdata.obsm["own"] = np.ones((8, 2))
    mdata.uns["note"] = "keep"
    before = snapshot(mdata)
    keys = {"batch_key": "batch", "labels_key": "cell_type"}
    cells, _ = check_mudata(mdata, modalities=ALL, **keys)
    assert_same(before, snapshot(mdata))
    cells.obs["batch"] = "changed"
    cells.rows["rna"][:] = 0
    assert_same(before, snapshot(mdata))
    mdata["prot"].X[0, 0] = -1
    before = snapshot(mdata)
    with pytest.raises(ValueError, match="negative"):
        check_mudata(mdata, modalities=ALL, **keys)
    assert_same(before, snapshot(mdata))


def test_no_warning_of_our_own():
    mdata = paired(batch=list("abab"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_mudata(mdata, modalities={"rna": "rna", "protein": "prot"}, batch_key="batch")


# -- columns ----------------------------------------------------------------------------------------------------------


def with_columns(pull, rna=None, prot=None, rna_cells=(0, 1, 2, 3), prot_cells=(5, 4, 3, 2)) -> mudata.MuData:
    """RNA and proteins of overlapping cells with a column "batch" each, copied to mdata.obs by mudata if `pull`."""
    one = modality("rna", names(*rna_cells), **({} if rna is None else {"batch": rna}))
    two = modality("prot", names(*prot_cells), **({} if prot is None else {"batch": prot}))
    with no_pull():
        mdata = mudata.MuData({"rna": one, "prot": two})
    if pull:
        mdata.pull_obs()
    return mdata


def batches(mdata, **kwargs):
    cells = read_cells(mdata, {"rna": "rna", "protein": "prot"}, ["batch"], **kwargs)
    return cells.obs["batch"].to_dict(), cells.found["batch"]


def test_a_column_of_the_mudata_comes_first():
    mdata = paired(batch=list("xyxy"))
    assert batches(mdata) == ({"c0": "x", "c1": "y", "c2": "x", "c3": "y"}, "mdata.obs")


@pytest.mark.parametrize("pull", [False, True])
def test_a_column_of_the_modalities(pull):
    mdata = with_columns(pull, rna=list("aabb"), prot=pd.Categorical(list("ccbb")))
    expected = {"c0": "a", "c1": "a", "c2": "b", "c3": "b", "c4": "c", "c5": "c"}
    assert batches(mdata) == (expected, "mdata['rna'].obs, mdata['prot'].obs")


def test_a_column_of_one_modality_that_holds_all_cells():
    mdata = with_columns(False, rna=list("abab"), prot_cells=(3, 1))
    assert batches(mdata) == ({"c0": "a", "c1": "b", "c2": "a", "c3": "b"}, "mdata['rna'].obs")


def test_gaps_of_the_mudata_are_filled_by_the_modalities():
    mdata = with_columns(False, prot=list("ddcc"))
    mdata.obs["batch"] = pd.Categorical(["a", "a", "c", None, None, "d"])
    found = {"c0": "a", "c1": "a", "c2": "c", "c3": "c", "c4": "d", "c5": "d"}
    assert batches(mdata) == (found, "mdata.obs, mdata['prot'].obs")


def test_copies_with_a_prefix_serve_where_the_column_itself_is_gone():
    mdata = with_columns(True, rna=list("aabb"), prot=list("ccbb"))
    for adata in mdata.mod.values():
        del adata.obs["batch"]
    expected = {"c0": "a", "c1": "a", "c2": "b", "c3": "b", "c4": "c", "c5": "c"}
    assert batches(mdata) == (expected, "mdata.obs['rna:batch'], mdata.obs['prot:batch']")


def test_the_column_of_a_modality_that_was_not_chosen_is_not_read():
    mdata = with_columns(False, rna=list("aabb"), prot=list("zzzz"), prot_cells=(3, 2, 1, 0))
    cells = read_cells(mdata, {"rna": "rna"}, ["batch"])
    assert cells.obs["batch"].tolist() == list("aabb")


@pytest.mark.parametrize(
    ("rna", "prot"),
    [([1, 1, 2, 2], [3.0, 3.0, 2.0, 2.0]), ([1, 1, 2, 2], ["3", "3", "2", "2"]), ([True] * 4, ["True"] * 4)],
    ids=["int-float", "int-text", "bool-text"],
)
@pytest.mark.parametrize("pull", [False, True])
def test_values_are_compared_as_text(rna, prot, pull):
    values, _ = batches(with_columns(pull, rna=rna, prot=prot))
    assert not pd.isna(list(values.values())).any()


@pytest.mark.parametrize("pull", [False, True])
def test_places_that_disagree_are_refused(pull):
    mdata = with_columns(pull, rna=list("aabb"), prot=list("ccbd"))
    with pytest.raises(
        ValueError, match=r"cell 'c2' is 'b' in mdata\['rna'\].obs and 'd' in mdata\['prot'\].obs \(1 c"
    ):
        batches(mdata)


def test_a_stale_copy_is_refused_and_renewed_by_mudata():
    mdata = with_columns(True, rna=list("aabb"), prot=list("ccbb"))
    mdata["rna"].obs["batch"] = list("eebb")
    with pytest.raises(ValueError, match=r"'e' in mdata\['rna'\].obs and 'a' in mdata.obs\['rna:batch'\].*pull_obs"):
        batches(mdata)
    mdata.pull_obs()
    assert batches(mdata)[0]["c0"] == "e"


def test_labels_that_are_unknown_in_one_place_are_taken_from_another():
    mdata = with_columns(False, rna=["Unknown", "B", "T", "Unknown"], prot=["Unknown", np.nan, "T", "T"])
    cells = read_cells(mdata, {"rna": "rna", "protein": "prot"}, labels_key="batch")
    assert cells.obs["batch"].fillna("none").tolist() == ["none", "B", "T", "T", "none", "none"]
    with pytest.raises(ValueError, match="'Unknown' in mdata"):
        batches(mdata)
    cells, summaries = check_mudata(mdata, modalities={"rna": "rna", "protein": "prot"}, labels_key="batch")
    assert summaries["rna"].labels == ("B", "T")
    assert summaries["protein"].labels == ("T",)


def test_labels_nobody_knows_are_no_error():
    mdata = paired(label=["Unknown"] * 4)
    cells, summaries = check_mudata(mdata, modalities={"rna": "rna"}, labels_key="label")
    assert cells.found == {"label": "mdata.obs"}
    assert summaries["rna"].labels == ()


def test_numbers_stay_numbers_and_may_differ_by_rounding():
    mdata = with_columns(False, rna=np.float32([0.1, 0.2, 0.3, 0.4]), prot=[0.6, 0.5, 0.4, 0.3])
    cells, _ = check_mudata(mdata, modalities={"rna": "rna", "protein": "prot"}, continuous_covariate_keys=["batch"])
    expected = [(int(name[1:]) + 1) / 10 for name in cells.names]
    np.testing.assert_allclose(cells.obs["batch"].to_numpy(float), expected, rtol=1e-6)
    mdata["prot"].obs["batch"] = [0.6, 0.5, 0.4, 0.31]
    with pytest.raises(ValueError, match="cell 'c2'"):
        batches(mdata)


def test_optional_columns_may_be_missing():
    mdata = paired(batch=list("abab"))
    cells = read_cells(mdata, {"rna": "rna"}, ["batch"], labels_key="ct", optional=["ct"])
    assert list(cells.obs) == ["batch"]


# -- values -----------------------------------------------------------------------------------------------------------


def test_summaries_speak_of_their_modality():
    mdata = mosaic()
    mdata.obs["batch"] = ["b1" if name in names(6, 7) else "b0" for name in mdata.obs_names]
    mdata["rna"].layers["log"] = mdata["rna"].X.log1p()
    _, found = check_mudata(mdata, modalities=ALL, layers={"rna": "log"}, labels_key="batch")
    assert [s.data_type for s in found.values()] == ["lognorm", "counts", "counts"]
    assert found["rna"].labels == ("b0",)
    assert found["protein"].labels == ("b0", "b1")


def test_binary_peaks_are_counts():
    mdata = mosaic()
    mdata["peaks"].X = (mdata["peaks"].X > 1).astype(np.float32) + sp.eye(4, 9, format="csr", dtype=np.float32)
    mdata["peaks"].X.data[:] = 1
    _, found = check_mudata(mdata, modalities=ALL)
    assert found["atac"].data_type == "counts"


def test_a_measured_cell_of_zeros_is_measured():
    mdata = paired()
    x = mdata["prot"].X.toarray()
    x[0] = 0
    mdata["prot"].X = x
    with pytest.warns(UserWarning, match=r"mdata\['prot'\].X: 1 of 4 cells have no counts") as caught:
        cells, _ = check_mudata(mdata, modalities={"rna": "rna", "protein": "prot"})
    assert caught[0].filename == __file__
    assert cells.present.all()


def test_the_layer_of_raw_counts_replaces_normalised_proteins():
    mdata = paired()
    mdata["prot"].layers["raw"] = mdata["prot"].X.copy()
    mdata["prot"].X = mdata["prot"].X.log1p()
    with pytest.raises(ValueError, match=r"raw antibody counts.*layers={'protein': ...}.*'raw'"):
        check_mudata(mdata, modalities={"rna": "rna", "protein": "prot"})
    _, found = check_mudata(mdata, modalities={"rna": "rna", "protein": "prot"}, layers={"protein": "raw"})
    assert found["protein"].data_type == "counts"


def test_peaks_that_are_not_counts_are_refused():
    mdata = mosaic()
    mdata["peaks"].X = mdata["peaks"].X * 30.5
    with pytest.raises(ValueError, match=r"mdata\['peaks'\].X holds \d+ fractional.*fragment"):
        check_mudata(mdata, modalities=ALL)
