"""``MoRE.distill``: what is learned from, and what is refused."""

import numpy as np
import pytest

import more_scvi as more

QUIET = {"accelerator": "cpu", "enable_progress_bar": False}
SHORT = {"max_steps": 30, "n_hidden": 16, "progress": False}


def build(adata, train=True, **setup):
    more.MoRE.setup_anndata(adata, **setup)
    model = more.MoRE(adata, backbone=None, n_latent=10, n_views=0, seed=0)
    if train:
        model.train(max_epochs=1, **QUIET)
    return model


@pytest.fixture(scope="module")
def teacher():
    return build(more.data.simulate_batches(400, 150, n_batches=2), batch_key="batch", labels_key="cell_type")


def test_students_of_one_seed_are_equal_and_of_others_not(teacher):
    adata = teacher.adata
    students = [teacher.distill(seed=seed, **SHORT) for seed in (0, 0, 1)]
    z = [s.get_latent_representation(adata, obsm_key=None) for s in students]
    np.testing.assert_array_equal(z[0], z[1])
    assert np.abs(z[0] - z[2]).max() > 0


def test_nothing_is_written_and_the_teacher_stays_as_it_was(teacher):
    adata = teacher.adata
    before, keys = teacher.get_latent_representation(obsm_key=None), (list(adata.obs), list(adata.obsm))
    teacher.distill(**SHORT)
    np.testing.assert_array_equal(teacher.get_latent_representation(obsm_key=None), before)
    assert (list(adata.obs), list(adata.obsm)) == keys


@pytest.mark.filterwarnings("ignore")
def test_extra_cells_of_a_new_batch_are_learned_from(teacher):
    """A student that saw another platform's cells follows the teacher there more closely."""
    new = more.data.simulate_batches(400, 150, n_batches=2, seed=3)  # other types than the teacher's
    new.obs["batch"] = new.obs["batch"].astype(str) + "-new"
    seen, unseen = new[::2].copy(), new[1::2].copy()
    longer = SHORT | {"max_steps": 300}
    plain, taught = teacher.distill(**longer), teacher.distill(extra=seen, **longer)
    scores = [teacher.student_fidelity(s, unseen)["variance_kept"] for s in (plain, taught)]
    assert scores[1] > scores[0]
    assert list(taught.batches) == list(teacher.batches)


def test_a_student_without_labels_has_nothing_to_predict():
    model = build(more.data.simulate_batches(400, 100), batch_key="batch")
    student = model.distill(**SHORT)
    assert np.isnan(student.fidelity["agreement"]) and len(student.labels) == 0
    with pytest.raises(ValueError, match="labels_key"):
        student.predict(model.adata)


def test_log_normalised_values(tmp_path):
    adata = more.data.simulate_batches(400, 100)
    adata.X = adata.X.multiply(1e4 / adata.X.sum(1)).tocsr().log1p()
    model = build(adata, labels_key="cell_type")
    student = model.distill(**SHORT)
    student.save(tmp_path / "s")
    z = more.Student.load(tmp_path / "s").get_latent_representation(adata)
    assert np.isfinite(z).all() and student.fidelity["variance_kept"] > 0.5


@pytest.mark.filterwarnings("ignore")
def test_several_modalities_by_rna_alone():
    mdata = more.data.simulate_multiomics(400, modalities=("rna", "protein"), seed=0)
    more.MoRE.setup_mudata(
        mdata, modalities={"rna": "rna", "protein": "protein"}, batch_key="batch", labels_key="cell_type"
    )
    model = more.MoRE(mdata, backbone=None, n_latent=10, n_views=0, seed=0)
    model.train(max_epochs=1, **QUIET)
    student = model.distill(holdout=0.2, **SHORT)
    assert student.fidelity["agreement"] > 0.4 and student.fidelity["variance_kept"] > 0.1


def test_refusals(teacher):
    with pytest.raises(ValueError, match=r"call model.train\(\)"):
        build(more.data.simulate_batches(100, 50), train=False).distill()
    with pytest.raises(ValueError, match="at least 50"):
        teacher.distill(indices=np.arange(20))
    adata = more.data.simulate_batches(100, 50)
    adata.obs["age"] = np.linspace(0, 1, 100)
    with pytest.raises(ValueError, match="covariates"):
        build(adata, continuous_covariate_keys=["age"]).distill()
    spatial = more.data.simulate_batches(100, 50)
    spatial.obsm["spatial"] = np.random.default_rng(0).uniform(size=(100, 2))
    with pytest.raises(ValueError, match="spatial_key"):
        build(spatial, spatial_key="spatial").distill()
    with pytest.raises(ValueError, match="give one for each"):
        teacher.student_fidelity(teacher.distill(**SHORT), labels=["a"])


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"holdout": 0.9}, ValueError, "holdout"),
        ({"n_hidden": 0}, ValueError, "n_hidden"),
        ({"n_panels": -1}, ValueError, "n_panels"),
        ({"max_steps": 1.5}, TypeError, "max_steps"),
        ({"seed": -1}, ValueError, "seed"),
        ({"extra": 3}, TypeError, "extra"),
    ],
)
def test_bad_arguments(teacher, arguments, error, match):
    with pytest.raises(error, match=match):
        teacher.distill(**arguments)
