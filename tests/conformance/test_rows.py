"""Which row belongs to which cell and gene: wrong answers here are silent."""

import warnings

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp

CONTAINERS = {
    "csc": sp.csc_matrix,
    "dense": lambda x: x.toarray(),
    "fortran": lambda x: np.asfortranarray(x.toarray()),
    "float64": lambda x: x.astype(np.float64),
    "int64": lambda x: x.astype(np.int64),
    "uint16": lambda x: x.toarray().astype(np.uint16),
}


def close(a, b):
    np.testing.assert_allclose(a, b, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("kind", ["csr", "dense"])
def test_t01_backed_rows_keep_the_order_of_indices(case, data, tmp_path, kind):
    """Asking for cells [9, 2, 2, 40] of a file on disk gives the rows of exactly these cells."""
    adata = data()
    if kind == "dense":
        adata.X = adata.X.toarray()
    adata.write_h5ad(tmp_path / "a.h5ad")
    backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    model = case.fitted(backed)
    everything = case.latent(model)
    indices = np.random.default_rng(0).permutation(150)[:40].tolist() + [9, 2, 2]
    close(case.latent(model, indices=indices), everything[indices])
    backed.file.close()


def test_t05_genes_in_another_order_give_the_same_embedding(case, data, trained, z):
    """A colleague's file has the same genes in another order: same embedding, not a silently wrong one."""
    close(case.latent(trained, data()[:, ::-1].copy()), z)


def test_t05_data_can_be_replaced_but_not_by_other_genes(case, data):
    """Setting `model.adata` embeds the new data from then on; permuted genes are put in order or refused."""
    model = case.fitted(data())
    new = data(60, seed=5)
    expected = case.latent(model, new.copy())
    model.adata = new
    close(case.latent(model), expected)
    said = ""
    try:
        model.adata = data(60, seed=5)[:, ::-1].copy()
    except ValueError as error:
        said = str(error)
    assert not said or "genes" in said
    close(case.latent(model), expected)


def test_t05_renamed_genes_are_refused(case, data, trained):
    """Genes the model has never seen, in the same number, raise an error that names some of them."""
    renamed = data()
    renamed.var_names = [f"other{i}" for i in range(renamed.n_vars)]
    with pytest.raises(ValueError, match="(?s)genes.*ACTB|other0"):
        case.latent(trained, renamed)


@pytest.mark.parametrize("value", [0, "", False], ids=["zero", "empty-text", "false"])
def test_t06_a_new_batch_may_be_falsy(case, data, value):
    """Trained on batches 1 and 2, asked about batch 0: an error or a warning about the column, never silence."""
    adata, new = data(), data(60, seed=5)
    adata.obs["batch"] = adata.obs["batch"].map({"b0": "1", "b1": "2"} if value == "" else {"b0": 1, "b1": 2})
    new.obs["batch"] = value
    model = case.fitted(adata)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            assert np.isfinite(case.latent(model, new)).all()
            said = [str(w.message) for w in caught]
        except ValueError as error:
            said = [str(error)]
    assert any("batch" in line for line in said)


@pytest.mark.parametrize("container", ["csr_array", "csc_array"])
def test_t18_scipy_sparse_arrays_work(case, data, trained, z, container):
    """scipy's sparse arrays, the successors of its matrices, can be set up, trained on and embedded."""
    adata = data()
    adata.X = getattr(sp, container)(adata.X)
    close(case.latent(trained, adata), z)
    assert np.isfinite(case.latent(case.fitted(adata))).all()


@pytest.mark.parametrize("container", CONTAINERS)
def test_t19_the_type_of_the_matrix_changes_nothing(case, data, trained, z, container):
    """Dense or sparse, integers or float64: same embedding, and the user's matrix stays the object it was."""
    adata = data()
    adata.X = x = CONTAINERS[container](adata.X)
    close(case.latent(trained, adata), z)
    assert type(adata.X) is type(x)
    assert adata.X.dtype == x.dtype
    if container == "fortran":
        assert adata.X.flags.f_contiguous


def test_t32_inference_on_new_data_changes_nothing_in_it(case, data, trained):
    """New data that a user only wants embedded keep their columns and their uns."""
    new = data(60, seed=5)
    columns, uns = list(new.obs.columns), dict(new.uns)
    assert np.isfinite(case.latent(trained, new)).all()
    assert list(new.obs.columns) == columns
    assert dict(new.uns) == uns


def test_t32_a_view_stays_a_view(case, data, trained):
    """Embedding `adata[mask]` neither copies the view in place nor touches its parent."""
    new = data(60, seed=5)
    view = new[10:30]
    latent = case.latent(trained, view)
    assert view.is_view
    assert list(new.obs.columns) == ["batch", "ct"]
    assert latent.shape[0] == 20


@pytest.mark.parametrize(
    ("indices", "expected"),
    [
        ([i % 3 == 0 for i in range(150)], list(range(0, 150, 3))),
        (np.arange(150) % 3 == 0, list(range(0, 150, 3))),
        (slice(5, 50, 5), list(range(5, 50, 5))),
        ([-1, -150, 3, 3], [149, 0, 3, 3]),
        ([], []),
    ],
    ids=["list-mask", "array-mask", "slice", "negative", "empty"],
)
def test_t33_indices_in_every_form(case, trained, z, indices, expected):
    """Masks, slices, negative and empty selections mean what they mean in NumPy."""
    close(case.latent(trained, indices=indices), z[expected])


def test_t33_indices_out_of_range_are_an_error(case, trained):
    """A cell that does not exist raises an error."""
    with pytest.raises((ValueError, IndexError), match="150"):
        case.latent(trained, indices=[0, 150])


@pytest.mark.parametrize("batch_size", [1, 7, 128, 1000])
def test_t43_the_minibatch_size_of_inference_changes_nothing(case, trained, z, batch_size):
    """Memory is the only thing `batch_size` decides."""
    close(case.latent(trained, batch_size=batch_size), z)


def test_t46_two_models_share_one_object(case, data):
    """Setting up the same object again, with another batch column, does not disturb the first model."""
    adata = data()
    adata.obs["half"] = np.where(np.arange(adata.n_obs) < 75, "x", "y")
    first = case.fitted(adata)
    before = case.latent(first)
    case.setup(adata, batch_key="half")
    second = case.fit(case.build(adata))
    close(case.latent(first), before)
    assert np.isfinite(case.latent(second)).all()
    close(case.latent(first), before)


def test_t47_a_copy_and_a_file_are_the_same_data(case, data, trained, z, tmp_path):
    """The training data copied, or written and read back, give the same embedding."""
    close(case.latent(trained, trained.adata.copy()), z)
    trained.adata.copy().write_h5ad(tmp_path / "a.h5ad")
    close(case.latent(trained, ad.read_h5ad(tmp_path / "a.h5ad")), z)
