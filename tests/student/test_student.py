"""Students: what they keep of their teacher, what they do with genes that are missing or named otherwise, files."""

import copy
import json
import subprocess
import sys

import anndata
import numpy as np
import pytest
import scipy.sparse as sp

import more_scvi as more
from more_scvi.data import batch_offsets
from more_scvi.metrics import fidelity, knn_overlap
from more_scvi.model._distill import say

QUIET = {"accelerator": "cpu", "enable_progress_bar": False}


@pytest.fixture(scope="module")
def cells():
    adata = more.data.simulate_batches(700, 300, n_types=4, n_batches=3, batch_sd=0.5)
    adata.obs["label"] = np.where(adata.obs["batch"] == "batch2", "Unknown", adata.obs["cell_type"].astype(str))
    adata.var["symbol"] = [f"Sym{i}" for i in range(adata.n_vars)]
    return adata


@pytest.fixture(scope="module")
def teacher(cells):
    adata = cells.copy()
    more.MoRE.setup_anndata(adata, batch_key="batch", labels_key="label", gene_key="symbol")
    model = more.MoRE(adata, backbone=None, n_latent=20, n_views=0, seed=0)
    model.train(max_epochs=15, **QUIET)
    return model


@pytest.fixture(scope="module")
def student(teacher):
    return teacher.distill(max_steps=300, n_hidden=64, holdout=0.2, progress=False)


def embed(student, adata):
    return student.get_latent_representation(adata, obsm_key=None)


@pytest.mark.filterwarnings("ignore")
class TestEmbedding:
    """Fidelity, and data that are not quite those of the teacher."""

    def test_student_is_far_closer_to_its_teacher_than_one_taught_at_random(self, teacher, student, monkeypatch):
        said = say(teacher, teacher.adata)
        order = np.random.default_rng(0).permutation(len(said[0]))
        monkeypatch.setattr("more_scvi.model._distill.say", lambda model, data: tuple(part[order] for part in said))
        control = teacher.distill(max_steps=100, n_hidden=64, holdout=0.0, progress=False)
        monkeypatch.undo()
        scores = student.fidelity
        control_scores = teacher.student_fidelity(control)
        assert scores["variance_kept"] > 0.7 and scores["agreement"] > 0.85
        assert control_scores["variance_kept"] < 0.2 and control_scores["agreement"] < 0.6
        assert scores["knn_overlap"] > scores["knn_overlap_chance"] + 0.15
        assert control.fidelity is None

    def test_the_trained_part_learns_what_is_not_linear(self, teacher, monkeypatch):
        z, probs = say(teacher, teacher.adata)
        bent = np.zeros_like(z)
        bent[:, :3] = np.abs(z[:, np.argsort(-z.var(0))[:3]])
        monkeypatch.setattr("more_scvi.model._distill.say", lambda model, data: (bent, probs))
        kept = []
        for steps in (1, 300):
            student = teacher.distill(max_steps=steps, n_hidden=64, holdout=0.0, progress=False)
            kept.append(((embed(student, teacher.adata) - bent) ** 2).sum())
        assert kept[1] < 0.95 * kept[0]

    def test_types_scatter_as_far_as_the_teacher_lets_them(self, cells, teacher, monkeypatch):
        z, log_probs = say(teacher, teacher.adata)
        noisy = z + np.random.default_rng(0).normal(size=z.shape).astype(np.float32) * z.std(0)  # nobody can learn it
        monkeypatch.setattr("more_scvi.model._distill.say", lambda model, data: (noisy, log_probs))
        student = teacher.distill(max_steps=100, n_hidden=64, holdout=0.0, progress=False)
        groups = [g for g in cells.obs.groupby(["batch", "cell_type"], observed=True).indices.values() if len(g) > 30]

        def spread():
            there = embed(student, cells)
            return np.median([np.sqrt(there[g].var(0).sum() / noisy[g].var(0).sum()) for g in groups])

        assert 0.85 < spread() < 1.15
        student.network.spread.scale.fill_(1.0)
        assert spread() < 0.75

    def test_the_order_of_genes_and_unknown_genes_do_not_matter(self, cells, student):
        order = np.random.default_rng(0).permutation(cells.n_vars)
        further = anndata.AnnData(np.full((cells.n_obs, 2), 50.0, np.float32), obs=cells.obs)
        further.var_names = ["unknown1", "unknown2"]
        further.var["symbol"] = ["unknown1", "unknown2"]
        both = anndata.concat([cells[:, order].copy(), further], axis=1, merge="first")
        np.testing.assert_allclose(embed(student, both), embed(student, cells), atol=1e-3)

    @pytest.mark.parametrize("names", ["lower", "var_names", "upper var_names"])
    def test_genes_are_found_by_either_name_in_any_case(self, cells, student, names):
        other = cells.copy()
        if names == "lower":
            other.var["symbol"] = other.var["symbol"].str.lower()
        else:
            del other.var["symbol"]
        if names == "upper var_names":
            other.var_names = other.var_names.str.upper()
        np.testing.assert_array_equal(embed(student, other), embed(student, cells))

    def test_missing_genes_are_not_zeros(self, cells, teacher, student):
        """A third of the genes gone costs little; zeros in their place are taken for what they are."""
        rng = np.random.default_rng(1)
        there = np.sort(rng.permutation(cells.n_vars)[: 2 * cells.n_vars // 3])
        fewer, zeros = cells[:, there].copy(), cells.copy()
        zeros.X = sp.csr_matrix(zeros.X @ sp.diags(np.isin(np.arange(cells.n_vars), there).astype(np.float32)))
        z = teacher.get_latent_representation(obsm_key=None)
        errors = [((embed(student, part) - z) ** 2).sum() for part in (cells, fewer, zeros)]
        student.network.front.detected.fill_(0.0)  # nothing looks silent
        as_zeros = ((embed(student, zeros) - z) ** 2).sum()
        student.network.front.detected.fill_(1.0)
        assert errors[0] < errors[1] < 0.8 * as_zeros
        np.testing.assert_allclose(errors[2], errors[1], rtol=1e-3)

    def test_sparse_dense_and_chunks_agree(self, cells, student):
        z = embed(student, cells)
        dense, csc = cells.copy(), cells.copy()
        dense.X, csc.X = cells.X.toarray(), cells.X.tocsc()
        for other in (dense, csc):
            np.testing.assert_allclose(embed(student, other), z, atol=1e-5)
        np.testing.assert_allclose(student.get_latent_representation(cells, batch_size=37), z, atol=1e-5)

    def test_a_new_batch_is_centred_and_keeps_its_neighbours(self, teacher, student):
        """Both follow one rule, so that a shift of the new batch in the data does not shift it in the embedding."""
        query = more.data.simulate_batches(700, 300, n_types=4, n_batches=3, batch_sd=0.5)
        query = query[query.obs["batch"] == "batch1"].copy()
        query.var["symbol"] = [f"Sym{i}" for i in range(query.n_vars)]
        query.obs["batch"] = "elsewhere"
        query.X = sp.csr_matrix(query.X @ sp.diags(np.random.default_rng(0).uniform(0.5, 2, query.n_vars)))
        query.X.data = np.rint(query.X.data).astype(np.float32)
        scores = teacher.student_fidelity(student, query, labels=query.obs["cell_type"])
        assert scores["knn_overlap"] > scores["knn_overlap_chance"] + 0.15 and scores["macro_f1_lost"] < 0.1
        some = student.get_latent_representation(query, indices=[3, 5], obsm_key=None)
        np.testing.assert_allclose(some, embed(student, query)[[3, 5]], atol=1e-5)

    def test_cells_without_counts_are_finite(self, cells, student):
        empty = cells[:5].copy()
        empty.X = sp.csr_matrix(np.vstack([np.zeros((2, cells.n_vars)), empty.X.toarray()[2:]]).astype(np.float32))
        assert np.isfinite(embed(student, empty)).all()
        assert np.isfinite(student.predict(empty, soft=True)).all().all()

    def test_what_is_written_and_returned(self, cells, student):
        adata = cells.copy()
        z = student.get_latent_representation(adata)
        assert z.shape == (700, 20) and z.dtype == np.float32
        np.testing.assert_array_equal(adata.obsm["X_student"], z)
        p = student.predict(adata, indices=[-1, 4], soft=True)
        assert list(p.index) == [adata.obs_names[-1], adata.obs_names[4]]
        assert list(p.columns) == sorted(cells.obs["cell_type"].unique())
        np.testing.assert_allclose(p.sum(1), 1, atol=1e-5)
        np.testing.assert_array_equal(student.predict(adata)[[-1, 4]], p.columns[p.to_numpy().argmax(1)])


class TestFiles:
    """Saving and loading."""

    @pytest.fixture
    def folder(self, student, tmp_path):
        student.save(tmp_path / "s")
        return tmp_path / "s"

    def test_round_trip_is_bit_equal(self, cells, student, folder):
        loaded = more.Student.load(folder)
        np.testing.assert_array_equal(embed(loaded, cells), embed(student, cells))
        np.testing.assert_array_equal(loaded.predict(cells, soft=True), student.predict(cells, soft=True))
        assert loaded.fidelity == student.fidelity
        assert sorted(p.name for p in folder.iterdir()) == ["genes.tsv.gz", "student.json", "student.safetensors"]

    def test_loads_and_embeds_without_any_backbone(self, cells, student, folder, tmp_path):
        cells.write_h5ad(tmp_path / "cells.h5ad")
        np.save(tmp_path / "z.npy", embed(student, cells))
        code = f"""
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name in ("more_scvi.backbones", "more_scvi.model"):
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
import anndata, numpy as np, torch, more_scvi
torch.set_num_threads(1)
student = more_scvi.Student.load({str(folder)!r})
adata = anndata.read_h5ad({str(tmp_path / "cells.h5ad")!r})
z = student.get_latent_representation(adata)
np.testing.assert_allclose(z, np.load({str(tmp_path / "z.npy")!r}), atol=1e-5)
"""
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    def test_an_earlier_save_is_kept_unless_asked(self, student, folder):
        before = {p.name: p.read_bytes() for p in folder.iterdir()}
        with pytest.raises(ValueError, match="overwrite=True"):
            student.save(folder)
        assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
        student.save(folder, overwrite=True)
        with pytest.raises(ValueError, match="is a file"):
            student.save(folder / "student.json")

    @pytest.mark.parametrize(
        ("name", "change", "error", "match"),
        [
            ("student.json", None, FileNotFoundError, "student.json not found"),
            ("student.safetensors", None, FileNotFoundError, "student.safetensors not found"),
            ("student.json", lambda b: b[:100], ValueError, "not readable JSON"),
            ("student.json", lambda b: b"[]", ValueError, "not the card of a student"),
            ("student.json", lambda b: _edit(b, version=99), ValueError, "version 99"),
            ("student.json", lambda b: _edit(b, n_latent=7), ValueError, "implies"),
            pytest.param("student.json", lambda b: _edit(b, n_hidden=10**12), ValueError, "implies", id="huge"),
            pytest.param("student.json", lambda b: b"[" * 200_000, ValueError, "not readable JSON", id="deep"),
            ("student.safetensors", lambda b: b[:-5] + bytes([b[-5] ^ 1]) + b[-4:], ValueError, "changed"),
            ("student.json", lambda b: _edit(b, n_hidden="wide"), ValueError, "make no student"),
            ("student.json", lambda b: _edit(b, labels=["a"]), ValueError, "1 labels, but n_labels is 4"),
            ("student.json", lambda b: _edit(b, batches=None), ValueError, "must be lists"),
            ("student.safetensors", lambda b: b[:500], ValueError, "safetensors: truncated or changed"),
            ("genes.tsv.gz", lambda b: b[:50], ValueError, "gz: truncated or changed"),
        ],
    )
    def test_damaged_folders_are_refused(self, folder, name, change, error, match):
        path = folder / name
        content = path.read_bytes()
        path.unlink()
        if change is not None:
            path.write_bytes(change(content))
        with pytest.raises(error, match=match):
            more.Student.load(folder)

    def test_files_of_another_student_are_refused(self, student, folder, tmp_path):
        other = copy.deepcopy(student)
        other.network.start.zero_()
        other.save(tmp_path / "other")
        (folder / "student.safetensors").write_bytes((tmp_path / "other" / "student.safetensors").read_bytes())
        with pytest.raises(ValueError, match="changed"):
            more.Student.load(folder)
        other.save(folder, overwrite=True)
        assert more.Student.load(folder).network.start.abs().sum() == 0


def _edit(content: bytes, **entries) -> bytes:
    return json.dumps(json.loads(content) | entries).encode()


@pytest.mark.filterwarnings("ignore")
class TestBadInput:
    """Every refusal says what is wrong and what to do."""

    @pytest.mark.parametrize(
        ("make", "error", "match"),
        [
            (lambda a: a.X, TypeError, "anndata.AnnData"),
            (lambda a: _with(a, -1.0), ValueError, "negative"),
            (lambda a: _with(a, np.nan), ValueError, "NaN"),
            (lambda a: anndata.AnnData(a.X.log1p(), a.obs, a.var), ValueError, "looks log-normalised"),
            (lambda a: _renamed(a, "peak"), ValueError, "needed: 5%"),
            (lambda a: a[:0].copy(), ValueError, "0 cells"),
        ],
    )
    def test_data(self, cells, student, make, error, match):
        with pytest.raises(error, match=match):
            student.get_latent_representation(make(cells))

    @pytest.mark.parametrize(
        ("arguments", "error", "match"),
        [
            ({"batch_size": 0}, ValueError, "batch_size"),
            ({"obsm_key": 3}, TypeError, "obsm_key"),
            ({"indices": [10_000]}, IndexError, "10000"),
        ],
    )
    def test_arguments(self, cells, student, arguments, error, match):
        with pytest.raises((error, ValueError), match=match):
            student.get_latent_representation(cells, **arguments)

    def test_a_batch_column_that_is_not_there_is_said(self, cells, student):
        with pytest.warns(UserWarning, match="no batch column 'batch'"):
            student.get_latent_representation(anndata.AnnData(cells.X, var=cells.var))

    def test_few_genes_are_said(self, cells, student):
        with pytest.warns(UserWarning, match="count as missing"):
            student.get_latent_representation(cells[:, :90].copy())

    def test_a_mudata_is_refused(self, cells, student):
        import mudata

        with pytest.raises(TypeError, match=r"mdata.mod\['rna'\]"):
            student.get_latent_representation(mudata.MuData({"rna": cells.copy()}))


def _with(adata, value):
    out = adata.copy()
    out.X = out.X.toarray()
    out.X[3, 4] = value
    if value == 0.5:
        out.X = np.minimum(out.X, 9)
    return out


def _renamed(adata, prefix):
    out = adata.copy()
    out.var_names = [f"{prefix}{i}" for i in range(out.n_vars)]
    out.var["symbol"] = out.var_names
    return out


def test_new_batches_are_centred_on_the_mean_of_the_known_ones():
    known, batch = np.random.default_rng(0).normal(size=(3, 4)), np.array([0, -2, 2, -1, 1])
    np.testing.assert_array_equal(batch_offsets(batch, known)[batch >= 0], known[[0, 2, 1]])
    np.testing.assert_allclose(batch_offsets(batch, known)[batch < 0], np.tile(known.mean(0), (2, 1)))


def test_knn_overlap_and_fidelity():
    rng = np.random.default_rng(0)
    z, other = rng.normal(size=(2, 200, 5))
    assert knn_overlap(z, z @ np.linalg.qr(rng.normal(size=(5, 5)))[0]) == 1.0
    assert knn_overlap(z, other) == pytest.approx(15 / 199, abs=0.03)
    types = np.repeat(["a", "b"], 100)
    wrong = types.copy()
    wrong[:20] = "b"
    scores = fidelity(z, z, labels=types, reference_labels=types, z_labels=wrong)
    assert scores["macro_f1_lost"] > 0 and scores["agreement"] == 0.9 and np.isnan(scores["mixing_lost"])
    with pytest.raises(ValueError, match="neighbors=15"):
        knn_overlap(z[:10], z[:10])
    with pytest.raises(ValueError, match="200 cells"):
        knn_overlap(z, z[:50])
