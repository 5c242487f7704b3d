"""Checks of user input: what is refused, in which words, and what is let through unchanged."""

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from more_scvi.data import _arguments, _columns, _values, check_anndata, check_matrix, check_setup, check_vocabulary

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


@pytest.mark.parametrize("block", [7, _values.BLOCK_VALUES])
@pytest.mark.parametrize("kind", [*BAD, None])
@pytest.mark.parametrize("container", CONTAINERS)
def test_scan_finds_the_bad_value_in_any_container(container, kind, block, monkeypatch):
    monkeypatch.setattr(_values, "BLOCK_VALUES", block)
    x = counts()
    x[4] = 0
    if kind:
        x[33, 7] = BAD[kind]
    scan = _values.scan_values(CONTAINERS[container](x))
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
    scan = _values.scan_values(sp.csr_matrix(counts().astype(dtype)))
    assert scan.is_integer
    assert scan.maximum == (1 if dtype is bool else 30)


@pytest.mark.parametrize("container", ["dense", "csr_matrix", "csc_matrix"])
def test_scan_reads_backed_matrices_in_pieces(tmp_path, monkeypatch, container):
    monkeypatch.setattr(_values, "BLOCK_VALUES", 64)
    x = counts()
    x[33, 7] = np.nan
    ad.AnnData(CONTAINERS[container](x)).write_h5ad(tmp_path / "a.h5ad")
    backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    assert _values.scan_values(backed.X).first["nonfinite"][:2] == (33, 7)
    backed.file.close()


def test_scan_never_densifies():
    x = sp.random(20_000, 20_000, density=1e-5, format="csc", random_state=0)  # 3 GB if dense
    assert _values.scan_values(x).n_fractional == x.nnz


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
        _values.scan_values(x)


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
        assert check_setup(adata).n_empty_cells == 2


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
    assert (summary.n_cells, summary.n_genes, summary.is_counts) == (40, 15, True)
    assert summary.batches == ("b1", "b2")
    assert summary.labels == ("t0", "t1"), "neither the unused level nor the unlabelled category is a label"
    assert summary.n_labeled == 20


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
        ({"batch_key": ["batch"]}, TypeError, ["batch_key is ['batch'] (list)"]),
        ({"batch_key": "score"}, ValueError, ["continuous", "astype(str)"]),
        ({"batch_key": "gaps"}, ValueError, ["adata.obs['gaps']", "1 of 40 cells", "'c2'", "fillna"]),
        ({"batch_key": "batch", "labels_key": "batch"}, ValueError, ["both 'batch'"]),
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


def test_genes_are_reordered_or_refused():
    registered = ["CD3D", "CD8A", "MS4A1"]
    assert _columns.check_genes(registered, registered) is None
    assert _columns.check_genes(["MS4A1", "extra", "CD3D", "CD8A"], registered).tolist() == [2, 3, 0]
    with pytest.raises(ValueError, match=r"lacks 1 of the 3 genes.*'MS4A1'.*Did you mean 'MS4A1-1'"):
        _columns.check_genes(["CD3D", "CD8A", "MS4A1-1"], registered)
    with pytest.raises(ValueError, match="more than once: 'CD3D'"):
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
