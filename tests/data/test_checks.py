"""Checks of user input: what is refused, in which words, and what is let through unchanged."""

import logging
import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from more_scvi.data import _arguments, _columns, _matrix, check_anndata, check_matrix, check_mudata, check_setup
from more_scvi.data._checks import check_vocabulary

CONTAINERS = {
    "dense": np.asarray,
    "fortran": np.asfortranarray,
    "csr_matrix": sp.csr_matrix,
    "csc_matrix": sp.csc_matrix,
    "coo_matrix": sp.coo_matrix,
    "csr_array": sp.csr_array,
    "csc_array": sp.csc_array,
}
BAD = {"nonfinite": np.nan, "negative": -1.0, "fractional": 0.5}


def counts(n_cells=40, n_genes=15):
    x = np.random.default_rng(0).poisson(2.0, (n_cells, n_genes)).astype(np.float32)
    x[0, 0] = 30
    return x


@pytest.fixture
def adata():
    adata = ad.AnnData(sp.csr_matrix(counts()))
    adata.var_names = [f"g{i}" for i in range(adata.n_vars)]
    adata.obs_names = [f"c{i}" for i in range(adata.n_obs)]
    adata.obs["batch"] = ["b1", "b2"] * 20
    adata.obs["ct"] = pd.Categorical(["t0", "t1", "Unknown", None] * 10, categories=["t0", "t1", "ghost", "Unknown"])
    adata.obs["score"] = np.linspace(0, 1, 40)
    return adata


# ---- values


@pytest.mark.parametrize("block", [7, _matrix.BLOCK_VALUES])
@pytest.mark.parametrize("kind", [*BAD, None])
@pytest.mark.parametrize("container", CONTAINERS)
def test_scan_finds_the_bad_value_in_any_container(container, kind, block, monkeypatch):
    monkeypatch.setattr(_matrix, "BLOCK_VALUES", block)
    x = counts()
    x[4] = 0
    if kind:
        x[33, 7] = BAD[kind]
    scan = _matrix.scan_values(CONTAINERS[container](x))
    assert set(scan.first) == ({kind} if kind else set())
    if kind:
        cell, gene, value = scan.first[kind]
        assert (cell, gene) == (33, 7)
        assert value == BAD[kind] or np.isnan(BAD[kind])
    assert scan.n_nonfinite + scan.n_negative + scan.n_fractional == (kind is not None)
    assert scan.empty_cells.tolist() == [4]
    assert scan.maximum == 30
    assert scan.n_nonzero == np.count_nonzero(x)


@pytest.mark.parametrize("dtype", [bool, np.uint16, np.int64, np.float64])
def test_scan_reads_every_dtype(dtype):
    scan = _matrix.scan_values(sp.csr_matrix(counts().astype(dtype)))
    assert scan.is_integer
    assert scan.maximum == (1 if dtype is bool else 30)


@pytest.mark.parametrize("container", ["dense", "csr_matrix", "csc_matrix"])
def test_scan_reads_backed_matrices_in_pieces(tmp_path, monkeypatch, container):
    monkeypatch.setattr(_matrix, "BLOCK_VALUES", 64)
    x = counts()
    x[33, 7] = np.nan
    ad.AnnData(CONTAINERS[container](x)).write_h5ad(tmp_path / "a.h5ad")
    backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    assert _matrix.scan_values(backed.X).first["nonfinite"][:2] == (33, 7)
    backed.file.close()


def test_scan_never_densifies():
    x = sp.random(20_000, 20_000, density=1e-5, format="csc", random_state=0)  # 3 GB if dense
    assert _matrix.scan_values(x).n_fractional == x.nnz


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (np.array([["a", "b"]], dtype=object), "object values"),
        (pd.DataFrame({"a": [1.0]}), "no values|DataFrame"),
        (np.ones((2, 2), dtype=complex), "complex128 values"),
    ],
    ids=["objects", "frame", "complex"],
)
def test_scan_refuses_what_is_not_a_matrix_of_numbers(x, words):
    with pytest.raises(TypeError, match=words):
        _matrix.scan_values(x)


# ---- the matrix


def test_kind_of_data_is_recognised(adata):
    assert check_matrix(adata)[1] == "counts"
    adata.X = adata.X.log1p()
    assert check_matrix(adata)[1] == "lognorm"


@pytest.mark.parametrize(
    ("change", "data_type", "words"),
    [
        (lambda x: x * 1.5, "auto", ["neither counts nor log-normalised", "data_type='counts'", "log1p"]),
        (np.log1p, "counts", ["not whole", "data_type='lognorm'"]),
        (lambda x: x, "lognorm", ["30", "too large", "data_type='counts'"]),
        (lambda x: x - x.mean(0), "auto", ["negative values", "cell 'c0'", "scaled", "layer="]),
        (lambda x: np.where(x == 30, np.inf, x), "auto", ["1 NaN or infinite", "cell 'c0', gene 'g0'"]),
        (lambda x: x * 0, "auto", ["zeros only"]),
    ],
    ids=["normalised", "log-as-counts", "counts-as-log", "scaled", "infinite", "zeros"],
)
def test_matrix_errors_say_what_and_where(adata, change, data_type, words):
    adata.X = change(adata.X.toarray())
    with pytest.raises(ValueError, match=".*") as error:
        check_matrix(adata, data_type=data_type)
    assert all(word in str(error.value) for word in words), error.value


def test_estimated_counts_pass_with_a_warning(adata):
    adata.X = adata.X * 1.5
    with pytest.warns(UserWarning, match="RSEM"):
        assert check_matrix(adata, data_type="counts")[1] == "counts"


def test_empty_cells_are_counted_and_named(adata):
    x = adata.X.toarray()
    x[[3, 5]] = 0
    adata.X = x
    with pytest.warns(UserWarning, match=r"2 of 40 cells.*'c3'.*filter_cells"):
        check_setup(adata)


def test_one_fraction_among_many_counts_is_always_found(adata):
    x = adata.X.toarray()
    x[39, 14] = 2.5
    adata.X = x
    state = np.random.get_state()[1].copy()  # noqa: NPY002 the global generator is what must not move
    for _ in range(5):
        with pytest.raises(ValueError, match="'c39', gene 'g14'"):
            check_matrix(adata)
    assert (np.random.get_state()[1] == state).all()  # noqa: NPY002


# ---- the whole set-up


def test_summary(adata):
    summary = check_setup(adata, batch_key="batch", labels_key="ct", continuous_covariate_keys=["score"])
    assert summary.data_type == "counts"
    assert summary.labels == ("t0", "t1"), "neither the unused level nor the unlabelled category is a label"


def test_setup_changes_nothing(adata):
    before = adata.copy()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_setup(adata, batch_key="batch", labels_key="ct")
    pd.testing.assert_frame_equal(adata.obs, before.obs)
    assert (adata.X != before.X).nnz == 0
    assert not adata.uns


@pytest.mark.parametrize(
    ("kwargs", "error", "words"),
    [
        ({"layer": "count"}, KeyError, ["layer='count'", "adata.layers holds: 'counts'", "Did you mean 'counts'"]),
        ({"layer": 3}, TypeError, ["layer is 3 (int)"]),
        ({"batch_key": "bacth"}, KeyError, ["batch_key='bacth'", "Did you mean 'batch'", "Available"]),
        ({"batch_key": ["batch", 3]}, TypeError, ["batch_key is 3 (int)"]),
        ({"batch_key": "score"}, ValueError, ["continuous", "astype(str)"]),
        ({"batch_key": "gaps"}, ValueError, ["adata.obs['gaps']", "1 of 40 cells", "'c2'", "fillna"]),
        ({"batch_key": "batch", "labels_key": "batch"}, ValueError, ["both 'batch'"]),
        ({"batch_key": "lists"}, TypeError, ["adata.obs['lists']", "list", "map(str)"]),
        ({"labels_key": "cell_type"}, KeyError, ["labels_key='cell_type'", "'ct'"]),
        ({"labels_key": "ct", "unlabeled_category": None}, TypeError, ["unlabeled_category=None"]),
        ({"categorical_covariate_keys": "batch"}, TypeError, ["Did you mean ['batch']"]),
        ({"categorical_covariate_keys": ["gaps"]}, ValueError, ["adata.obs['gaps']"]),
        ({"continuous_covariate_keys": ["ct"]}, TypeError, ["must be numeric"]),
        ({"continuous_covariate_keys": ["holes"]}, ValueError, ["missing or infinite in 1 of 40"]),
        ({"gene_key": "symbol"}, KeyError, ["gene_key='symbol'", "adata.var", "'symbols'"]),
        ({"data_type": "count"}, ValueError, ["data_type='count'", "Did you mean 'counts'"]),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_setup_errors_name_object_value_and_way_out(adata, kwargs, error, words):
    adata.layers["counts"] = adata.X
    adata.var["symbols"] = adata.var_names
    adata.obs["lists"] = [[i] for i in range(40)]
    adata.obs["gaps"] = pd.Categorical(["x", "y", None, "x"] + ["y"] * 36)
    adata.obs["holes"] = adata.obs["score"].mask(adata.obs_names == "c4")
    with pytest.raises(error) as caught:
        check_setup(adata, **kwargs)
    assert all(word in str(caught.value) for word in words), caught.value


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda a: None, TypeError, "NoneType.*AnnData"),
        (lambda a: a.X, TypeError, "wrap the matrix"),
        (lambda a: "a.h5ad", TypeError, "read_h5ad"),
        (lambda a: a[:0].copy(), ValueError, "0 cells"),
        (lambda a: a[:1].copy(), ValueError, "1 cell and"),
        (lambda a: a[:, :0].copy(), ValueError, "0 genes"),
        (lambda a: a[:10], ValueError, r"view.*\.copy\(\)"),
        (lambda a: ad.AnnData(obs=a.obs, var=a.var), ValueError, r"empty \(None\)"),
    ],
    ids=["none", "matrix", "path", "no-cells", "one-cell", "no-genes", "view", "no-matrix"],
)
def test_objects_that_cannot_be_set_up(adata, make, error, words):
    with pytest.raises(error, match=words):
        check_setup(make(adata))


def test_mudata_is_told_to_give_one_modality(adata):
    mudata = pytest.importorskip("mudata")
    with pytest.raises(TypeError, match=r"MuData.*mdata\.mod"):
        check_anndata(mudata.MuData({"rna": adata}))


@pytest.mark.parametrize("axis", ["obs", "var"])
def test_duplicate_names(adata, axis):
    names = getattr(adata, f"{axis}_names").to_numpy(dtype=object)
    setattr(adata, f"{axis}_names", [names[1], *names[1:]])
    with pytest.raises(ValueError, match=rf"adata\.{axis}_names holds 1 names.*{axis}_names_make_unique"):
        check_setup(adata)


def test_no_known_gene():
    with pytest.raises(ValueError, match=r"0 of 2 genes.*'x1'.*'CD3D'.*gene_key="):
        check_vocabulary(0, ["x1", "x2"], ["CD3D"], "more-mini")
    check_vocabulary(2, ["CD3D", "CD8A"], ["CD3D"], "more-mini")


# ---- what looks like one thing and is another


def fractional(adata, kind):
    """Values that are not whole and at most 20."""
    x = adata.X.toarray().astype(float)
    x[:, 1] += 1  # no cell is empty
    share = x / x.sum(1, keepdims=True)
    return {
        "log1p of 1e4": np.log1p(share * 1e4),
        "log1p of 1e6": np.log1p(share * 1e6),
        "log1p, fewer genes": np.log1p(share * 1e4)[:, :11],
        "normalised": share * 15,
        "normalised, fewer genes": (share * 15)[:, :11],
        "estimated": np.clip(x, 0, 9) * np.random.default_rng(0).uniform(0.8, 1.2, x.shape),
    }[kind]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("log1p of 1e4", "add up to 1e+04 in every cell"),
        ("log1p of 1e6", "add up to 1e+06 in every cell"),
        ("log1p, fewer genes", "log1p of scaled counts that add up to"),
    ],
)
@pytest.mark.parametrize("container", ["dense", "csr_matrix", "csc_matrix"])
def test_log_normalised_values_are_recognised_by_their_totals(adata, kind, words, container):
    given = ad.AnnData(CONTAINERS[container](fractional(adata, kind).astype(np.float32)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        summary = check_setup(given)
    assert summary.data_type == "lognorm"
    assert words in summary.said


@pytest.mark.parametrize("kind", ["normalised", "normalised, fewer genes"])
def test_small_normalised_values_without_log_are_refused_as_large_ones_are(adata, kind):
    with pytest.raises(ValueError, match=r"neither counts nor log-normalised.*without log.*scanpy\.pp\.log1p"):
        check_setup(ad.AnnData(fractional(adata, kind)))


def test_what_may_be_estimated_counts_or_logs_is_warned_of_and_can_be_said(adata):
    given = ad.AnnData(fractional(adata, "estimated"))
    with pytest.warns(UserWarning, match=r"read as log-normalised, but may hold estimated counts.*data_type='counts'"):
        assert check_setup(given).data_type == "lognorm"
    with pytest.warns(UserWarning, match="used as counts.*RSEM"):
        assert check_setup(given, data_type="counts").data_type == "counts"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert check_setup(given, data_type="lognorm").data_type == "lognorm"


def test_whole_numbers_given_as_logs_are_warned_of(adata):
    adata.X = adata.X.minimum(5)
    with pytest.warns(UserWarning, match="all its values are whole: they look like counts"):
        check_setup(adata, data_type="lognorm")


def test_where_counts_are_is_said(adata, caplog, monkeypatch):
    adata.layers["umi"] = adata.X.copy()
    adata.raw = adata.copy()
    adata.X = adata.X.log1p()
    monkeypatch.setattr(logging.getLogger("more_scvi"), "propagate", True)
    with caplog.at_level("INFO", logger="more_scvi"):
        said = check_setup(adata).said
        mdata = pytest.importorskip("mudata").MuData({"gex": adata})
        check_mudata(mdata, modalities={"rna": "gex"})
    # a handler of the package passes every record on once more
    one, two = dict.fromkeys(r.getMessage() for r in caplog.records if r.name == "more_scvi")
    assert one == f"adata.X: {said}"
    assert "adata.layers['umi'] holds whole numbers: name it with layer=." in said
    assert "adata.layers['counts'] = adata.raw[:, adata.var_names].X" in said
    assert "mdata['gex'].layers['umi'] holds whole numbers: name it with layers={'rna': ...}." in two
    assert "mdata['gex'].layers['counts'] = mdata['gex'].raw[:, mdata['gex'].var_names].X" in two


def test_raw_is_named_where_the_matrix_cannot_be_used(adata):
    adata.raw = adata.copy()
    counts = adata.X.toarray()
    adata.X = counts - counts.mean(0)
    with pytest.raises(
        ValueError, match=r"negative.*adata.raw holds whole numbers: (adata.layers\['counts'\] = .*X), "
    ):
        check_setup(adata)
    adata.layers["counts"] = adata.raw[:, adata.var_names].X
    assert check_setup(adata, layer="counts").data_type == "counts"


def test_a_layer_named_raw_is_told_how_to_be_had(adata):
    """Of other genes than ``var_names``: a layer cannot hold them."""
    adata.raw = adata.copy()
    few = adata[:, :20].copy()
    with pytest.raises(KeyError, match=r"layer='raw' is not in adata.layers.*adata = adata.raw.to_adata\(\)"):
        check_setup(few, layer="raw")
    few.X = few.X.log1p()
    with pytest.raises(KeyError, match=r"layers\['counts'\] = .*with layer=\. .*adata = adata.raw.to_adata\(\)"):
        check_setup(few, layer="umi")
    few.raw = few.copy()
    with pytest.raises(KeyError, match=r"adata.raw is no layer: adata.raw.to_adata\(\)"):
        check_setup(few, layer="raw")


def test_a_query_is_not_told_to_name_a_layer(adata):
    """The model reads its own; counts in ``raw`` have to go there."""
    adata.raw = adata.copy()
    adata.X = adata.X.log1p()
    for layer, place in ((None, r"adata\.X"), ("umi", r"adata\.layers\['umi'\]")):
        with pytest.raises(
            (KeyError, ValueError), match=place + r" = adata\.raw\[:, adata\.var_names\]\.X\. "
        ) as caught:
            check_matrix(adata, layer=layer, data_type="counts", query=True)
        assert "layer=." not in str(caught.value)


@pytest.mark.parametrize("key", ["batch_key", "categorical_covariate_keys"])
@pytest.mark.parametrize("values", ["names", "counts"])
def test_a_value_per_cell_is_no_batch(adata, key, values):
    adata.obs["x"] = adata.obs_names if values == "names" else np.arange(40) * 7
    with pytest.raises(ValueError, match=rf"{key}='x'.*40 values for 40 cells.*sample, donor or study"):
        check_setup(adata, **{key: "x" if key == "batch_key" else ["x"]})


def test_very_small_batches_are_warned_of(adata):
    adata.obs["x"] = [str(i // 4) for i in range(40)]
    with pytest.warns(UserWarning, match=r"10 values for 40 cells, e\.g\. '0'"):
        check_setup(adata, batch_key="x")


@pytest.mark.parametrize("value", ["unknown", "nan", "", "NA", "unassigned"])
def test_labels_that_read_like_no_label_are_warned_of(adata, value):
    adata.obs["ct"] = adata.obs["ct"].astype(object).fillna(value)
    with pytest.warns(UserWarning, match=rf"obs\['ct'\] is '{value}' in 10 of 40 cells.*unlabeled_category='{value}'"):
        check_setup(adata, labels_key="ct")
    mdata = pytest.importorskip("mudata").MuData({"rna": adata})
    with pytest.warns(UserWarning, match=f"is '{value}' in 10 of 40"):
        check_mudata(mdata, modalities={"rna": "rna"}, labels_key="ct")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        adata.obs["ct"] = adata.obs["ct"].replace("Unknown", value)
        check_setup(adata, labels_key="ct", unlabeled_category=value)


def test_antibodies_among_the_genes_are_warned_of(adata):
    adata.var["feature_types"] = ["Gene Expression"] * 13 + ["Antibody Capture"] * 2
    with pytest.warns(
        UserWarning, match=r"2 of 15 features are 'Antibody Capture', e\.g\. 'g13'.*== 'Gene Expression'"
    ):
        check_setup(adata)


@pytest.mark.parametrize(
    ("data_type", "change", "words"),
    [
        ("counts", np.log1p, ["looks log-normalised", "the model was trained on counts", "The model reads adata.X"]),
        ("lognorm", lambda x: x, ["too large", "normalize_total", "scanpy.pp.log1p"]),
        ("counts", lambda x: x - x.mean(0), ["negative", "The model reads adata.X: put counts there"]),
        (
            "counts",
            None,
            ["'counts' is not in adata.layers", "The model reads adata.layers['counts']: put counts there"],
        ),
    ],
    ids=["log", "counts", "scaled", "layer"],
)
def test_errors_of_other_data_name_no_argument_of_setup(adata, data_type, change, words):
    adata.X = adata.X.toarray() if change is None else change(adata.X.toarray())
    with pytest.raises((ValueError, KeyError)) as error:
        check_matrix(adata, layer=None if change else "counts", data_type=data_type, query=True)
    said = str(error.value)
    assert all(word in said for word in words), said
    assert "give data_type=" not in said
    assert "layer=." not in said


def test_other_data_may_be_empty_cells(adata):
    adata.X = adata.X * 0
    with pytest.warns(UserWarning, match="40 of 40 cells have no counts"):
        check_matrix(adata, data_type="counts", query=True)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["HLA.DRA", "CD3E"], "changed by R"),
        (["GRCh38_HLA-DRA", "GRCh38_CD3E"], "name of the genome: adata.var_names = adata.var_names.str.replace"),
        (["ENSG00000204287", "ENSG00000198851"], "Yours are Ensembl ids, gene symbols are wanted"),
        (["Hla-dra", "Cd3e"], "upper and lower case"),
        (["HLA-DRA.1", "CD3E.1"], "carry a version"),
    ],
)
def test_the_cause_of_unknown_gene_names_is_named(given, words):
    if given[1] == "CD3E":  # a part of them is found, so that this is a warning
        with pytest.warns(UserWarning, match=words):
            assert _columns.check_genes(given, ["HLA-DRA", "CD3E"]).tolist() == [-1, 1]
        return
    with pytest.raises(ValueError, match=r"genes the model was set up with") as error:
        _columns.check_genes(given, ["HLA-DRA", "CD3E"])
    assert words in str(error.value)
    if "str.replace" in str(error.value):
        step = str(error.value).partition("adata.var_names = adata.var_names")[2].partition(": ")[0].split(". adata")[0]
        renamed = eval(f"names{step}", {"names": pd.Index(given)})
        assert renamed.tolist() == ["HLA-DRA", "CD3E"]
    with pytest.raises(ValueError, match="known to the backbone") as error:
        check_vocabulary(0, given, ["HLA-DRA", "CD3E"], "more-mini")
    assert words in str(error.value)


# ---- columns


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, 2, 1], ["1", "2", "1"]),
        ([True, False, True], ["True", "False", "True"]),
        ([1.0, np.nan, 2.0], ["1", "?", "2"]),
        (["a", None, ""], ["a", "?", ""]),
        (pd.Categorical([3, 4, 3], categories=[4, 3, 9]), ["3", "4", "3"]),
        (pd.array([1, None, 2], dtype="Int64"), ["1", "?", "2"]),
        (pd.array(["a", None, "b"], dtype="string"), ["a", "?", "b"]),
    ],
    ids=["int", "bool", "float", "text", "category", "Int64", "string"],
)
def test_labels_of_any_type_are_text(values, expected):
    assert _columns.as_label_array(pd.Series(values), "?").tolist() == expected


@pytest.mark.parametrize("mark", [-1, -1.0, "-1"], ids=["int", "float", "text"])
def test_a_number_can_mark_unlabelled_cells(adata, mark):
    adata.obs["code"] = [-1, 0, 1, 0] * 10
    summary = check_setup(adata, labels_key="code", unlabeled_category=mark)
    assert summary.labels == ("0", "1")


@pytest.mark.parametrize("value", [0, "", False, 0.0])
def test_a_new_batch_is_new_even_if_falsy(value):
    with pytest.warns(UserWarning, match="adata.obs\\['batch'\\] holds values the model was not trained on"):
        codes = _columns.check_categories([1, value, 2], ["1", "2"], "batch")
    assert codes.tolist() == [0, -1, 1]


def test_known_batches_are_recognised_whatever_their_type():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _columns.check_categories(np.array([2.0, 1.0]), ["1", "2"], "batch").tolist() == [1, 0]


def test_genes_are_reordered_and_missing_ones_said():
    registered = ["CD3D", "CD8A", "MS4A1"]
    assert _columns.check_genes(registered, registered) is None
    assert _columns.check_genes(["MS4A1", "extra", "CD3D", "CD8A"], registered).tolist() == [2, 3, 0]
    with pytest.warns(UserWarning, match=r"lacks 1 of the 3 genes.*'MS4A1'.*67% are read.*Did you mean 'MS4A1-1'"):
        assert _columns.check_genes(["CD3D", "CD8A", "MS4A1-1"], registered).tolist() == [0, 1, -1]
    with pytest.raises(ValueError, match=r"lacks 3 of the 3 genes.*at least 2% are needed"):
        _columns.check_genes(["A", "B"], registered)
    with pytest.raises(ValueError, match="holds 1 names more than once: 'CD3D'"):
        _columns.check_genes(["CD3D", "CD3D", "CD8A", "MS4A1"], registered)


# ---- single arguments


@pytest.mark.parametrize(
    ("indices", "expected"),
    [
        (None, [0, 1, 2, 3]),
        (slice(1, None, 2), [1, 3]),
        ([2, 0, 2], [2, 0, 2]),
        ([-1], [3]),
        ([True, False, False, True], [0, 3]),
        (pd.Series([False, True, False, False]), [1]),
        (np.array([1], dtype=np.uint8), [1]),
        ([], []),
    ],
    ids=["all", "slice", "order", "negative", "bools", "series", "uint8", "empty"],
)
def test_indices(indices, expected):
    out = _arguments.check_indices(indices, 4)
    assert out.tolist() == expected
    assert out.dtype == np.int64


@pytest.mark.parametrize(
    ("indices", "error", "words"),
    [
        ([4], ValueError, "holds 4, but there are only 4 cells"),
        ([-5], ValueError, "-5"),
        ([True, False], ValueError, "length 2, but there are 4 cells"),
        ([[0], [1]], ValueError, "2 dimensions"),
        (3, ValueError, "0 dimensions"),
        ([0.5], TypeError, "float64"),
        (["c1"], TypeError, "get_indexer"),
    ],
    ids=["high", "low", "short-mask", "2d", "scalar", "float", "names"],
)
def test_bad_indices(indices, error, words):
    with pytest.raises(error, match=words):
        _arguments.check_indices(indices, 4)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: _arguments.check_option("a", "counst", ["counts"]), ValueError, "Did you mean 'counts'"),
        (lambda: _arguments.check_option("a", None, ["counts"]), ValueError, "a=None"),
        (lambda: _arguments.check_integer("n_latent", 2.0), TypeError, "float"),
        (lambda: _arguments.check_integer("n_latent", True), TypeError, "bool"),
        (lambda: _arguments.check_integer("n_latent", 0), ValueError, "at least 1"),
        (lambda: _arguments.check_number("dropout", "0.1", 0, 1), TypeError, "str"),
        (lambda: _arguments.check_number("dropout", 1.5, 0, 1), ValueError, "from 0 to 1"),
        (lambda: _arguments.check_number("dropout", float("nan"), 0, 1), ValueError, "finite"),
        (lambda: _arguments.check_mapping("plan_kwargs", [1]), TypeError, "plan_kwargs=\\[1\\] is a list"),
    ],
    ids=["option", "none", "float", "bool", "zero", "text", "range", "nan", "list"],
)
def test_bad_arguments(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_good_arguments_come_back_as_plain_copies():
    given = {"lr": 1}
    kept = _arguments.check_mapping("plan_kwargs", given)
    assert kept == given
    assert kept is not given
    assert _arguments.check_mapping("plan_kwargs", None) == {}
    assert type(_arguments.check_integer("n", np.int32(3))) is int
    assert type(_arguments.check_number("x", np.float32(0.5), 0, 1)) is float


@pytest.mark.parametrize("row", [0, 7, 39])
def test_a_cell_of_stored_zeros_does_not_hide_what_the_values_are(row):
    logged = sp.csr_matrix(np.log1p(counts() / counts().sum(1, keepdims=True) * 1e4))
    logged.data[logged.indptr[row] : logged.indptr[row + 1]] = 0.0
    nnz = logged.nnz
    given = ad.AnnData(logged)
    with pytest.warns(UserWarning, match="no counts at all"):
        assert check_matrix(given)[1] == "lognorm"
    assert given.X.nnz == nnz
