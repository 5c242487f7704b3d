"""more-mini: frozen, exact on sparse counts, missing genes are not zeros, weights are checked."""

import hashlib
import json
import pickle

import numpy as np
import pytest
import scanpy as sc
import torch
from safetensors.torch import load_file, save_file
from scipy.sparse import csr_matrix

from more_scvi.backbones import MoreMini, MoreMiniSizes, get_backbone
from more_scvi.backbones._more_mini import BUNDLED
from more_scvi.data import GeneVocabulary, match_genes


def encode(backbone, x, genes, **kwargs):
    return backbone.encode(x, match_genes(genes, backbone.vocabulary), **kwargs)


def test_features_are_float32_rows_of_cells(tiny, counts, genes):
    z = encode(tiny, counts, genes)
    assert z.shape == (30, 8)
    assert z.dtype == np.float32
    assert np.isfinite(z).all()


def test_sparse_dense_integer_and_double_agree(tiny, counts, genes):
    z = encode(tiny, counts, genes)
    for x in (counts.toarray(), counts.toarray().astype(int), counts.tocsc(), counts.astype(np.float64)):
        np.testing.assert_array_equal(encode(tiny, x, genes), z)


def test_linear_front_is_the_formula(tiny, counts, genes):
    """With all genes visible the features are W' z, written out densely."""
    front = tiny.front
    t = {k: v.double().numpy() for k, v in front.state_dict().items()}
    x = counts.toarray().astype(float)
    y = np.log1p(x * front.target_sum / x.sum(1, keepdims=True))
    z = (y - t["gene_mean"]) / t["gene_scale"]
    sets = np.zeros((60, 6))
    sets[t["member_gene"].astype(int), t["member_set"].astype(int)] = 1 / 5
    programs = np.hstack([z @ t["components"], z @ sets])
    expected = programs / t["program_scale"] @ t["whitening"]
    features, _ = front.encode(csr_matrix(x), np.arange(60))
    np.testing.assert_allclose(features, expected, atol=1e-4)


def test_order_and_unknown_genes_do_not_matter(tiny, counts, genes):
    z = encode(tiny, counts, genes)
    order = np.random.default_rng(0).permutation(60)
    shuffled = csr_matrix(np.hstack([counts.toarray()[:, order], np.full((30, 2), 50)]))
    names = [genes[i] for i in order] + ["unknown1", "unknown2"]
    np.testing.assert_allclose(encode(tiny, shuffled, names), z, atol=1e-5)


def test_ensembl_and_mouse_names_give_the_same_features(tiny, counts, genes):
    z = encode(tiny, counts, genes)
    np.testing.assert_array_equal(encode(tiny, counts, tiny.vocabulary.human_ensembl), z)
    np.testing.assert_array_equal(encode(tiny, counts, tiny.vocabulary.mouse_symbol), z)


def test_invisible_is_the_same_as_absent_and_not_the_same_as_zero(tiny, counts, genes):
    visible = np.arange(60) % 2 == 0
    hidden = encode(tiny, counts, genes, visible=visible)
    absent = encode(tiny, counts[:, visible], [g for g, v in zip(genes, visible, strict=True) if v])
    np.testing.assert_allclose(hidden, absent, atol=1e-5)
    zero = encode(tiny, csr_matrix(counts.multiply(visible)), genes)
    assert np.abs(hidden - zero).max() > 0.1


def test_log_normalised_input_gives_the_same_features(tiny, counts, genes):
    x = counts.toarray()
    normalised = np.log1p(x * 1e4 / x.sum(1, keepdims=True))
    z = encode(tiny, csr_matrix(normalised), genes, normalised=True)
    np.testing.assert_allclose(z, encode(tiny, counts, genes), atol=1e-3)


def test_a_cell_without_counts_gets_finite_features(tiny, genes):
    z = encode(tiny, csr_matrix((2, 60)), genes)
    assert np.isfinite(z).all()


@pytest.mark.parametrize("chunk", [1, 7])
def test_a_cell_does_not_depend_on_its_neighbours(tiny, counts, genes, chunk):
    z = encode(tiny, counts, genes)
    parts = [encode(tiny, counts[i : i + chunk], genes) for i in range(0, 30, chunk)]
    np.testing.assert_array_equal(np.vstack(parts), z)


def test_frozen_for_good(tiny, counts, genes):
    before = {k: v.clone() for k, v in tiny.state_dict().items()}
    first = encode(tiny, counts, genes)
    tiny.train()
    assert not any(m.training for m in tiny.modules())
    assert not any(p.requires_grad or p.grad is not None for p in tiny.parameters())
    with pytest.raises(ValueError, match="frozen"):
        tiny.requires_grad_(True)
    holder = torch.nn.Sequential(tiny, torch.nn.Linear(8, 2)).train()
    assert not tiny.training
    torch.optim.SGD([p for p in holder.parameters() if p.requires_grad], lr=1.0).step()
    assert all(torch.equal(v, before[k]) for k, v in tiny.state_dict().items())
    np.testing.assert_array_equal(encode(tiny, counts, genes), first)


def test_fingerprint_follows_weights_and_vocabulary(tiny, make_tiny):
    assert make_tiny().fingerprint() == tiny.fingerprint() != make_tiny(1).fingerprint()
    assert pickle.loads(pickle.dumps(tiny)).fingerprint() == tiny.fingerprint()
    assert tiny.n_parameters() == sum(v.numel() for v in tiny.state_dict().values())


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf])
def test_values_that_are_no_counts_are_refused(tiny, counts, genes, bad):
    x = counts.toarray()
    x[3, 4] = bad
    with pytest.raises(ValueError, match="raw counts"):
        encode(tiny, x, genes)


def test_wrong_genes_are_refused(tiny, counts, genes):
    with pytest.raises(ValueError, match="60 genes, match was made for 59"):
        encode(tiny, counts, genes[:-1])
    with pytest.raises(ValueError, match="gene_key"):
        encode(tiny, counts, [f"peak{i}" for i in range(60)])
    with pytest.raises(ValueError, match="match_genes"):
        tiny.encode(counts, None)


class TestWeightsFolder:
    """Saving, the controls, and files that are not what they say."""

    @pytest.fixture
    def folder(self, tiny, tmp_path):
        tiny.save(tmp_path / "w")
        return tmp_path / "w"

    def test_round_trip(self, tiny, folder, counts, genes):
        loaded = get_backbone(folder)
        assert isinstance(loaded, MoreMini)
        np.testing.assert_allclose(encode(loaded, counts, genes), encode(tiny, counts, genes), atol=0.05)
        assert get_backbone(folder).fingerprint() == loaded.fingerprint()
        assert sorted(p.name for p in folder.iterdir()) == ["config.json", "genes.tsv.gz", "model.safetensors"]

    def test_controls(self, folder, counts, genes):
        kinds = ("pretrained", "untrained", "random")
        features = {w: encode(MoreMini.load(folder, weights=w, seed=5), counts, genes) for w in kinds}
        linear, _ = MoreMini.load(folder).front.encode(counts.astype(float), np.arange(60))
        np.testing.assert_array_equal(features["untrained"], linear)
        assert np.abs(features["random"] - features["pretrained"]).max() > 0.1
        again = encode(MoreMini.load(folder, weights="random", seed=5), counts, genes)
        np.testing.assert_array_equal(again, features["random"])
        other = encode(MoreMini.load(folder, weights="random", seed=1), counts, genes)
        assert np.abs(other - features["random"]).max() > 0.1

    def test_unknown_control(self, folder):
        with pytest.raises(ValueError, match="untrained"):
            MoreMini.load(folder, weights="best")

    @pytest.mark.parametrize("name", ["model.safetensors", "genes.tsv.gz"])
    def test_truncated_or_missing_file(self, folder, name):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[:-20])
        with pytest.raises(ValueError, match=f"{name}: truncated or changed"):
            MoreMini.load(folder)
        (folder / name).unlink()
        with pytest.raises(ValueError, match=f"{name} not found"):
            MoreMini.load(folder)

    @pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "more-mini", "sizes": 3, "sha256": {}}'])
    def test_broken_config(self, folder, text):
        (folder / "config.json").write_text(text)
        with pytest.raises(ValueError, match=r"config\.json"):
            MoreMini.load(folder)

    @pytest.mark.parametrize("size", ["n_layers", "n_components", "n_members", "d_model", "n_tokens", "n_features"])
    @pytest.mark.parametrize("value", [10**12, -4, 0, "8", None])
    def test_sizes_are_those_of_the_tensors(self, folder, size, value):
        config = json.loads((folder / "config.json").read_text())
        config["sizes"][size] = value
        (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(ValueError, match=r"config\.json"):
            MoreMini.load(folder)

    def test_weights_are_replaced_at_one_moment(self, tiny, folder):
        tiny.save(folder)
        assert sorted(p.name for p in folder.iterdir()) == ["config.json", "genes-2.tsv.gz", "model-2.safetensors"]
        assert MoreMini.load(folder).fingerprint()

    def test_newer_version(self, folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"version": 9}))
        with pytest.raises(ValueError, match="version 9"):
            MoreMini.load(folder)

    def rewrite(self, folder, change):
        """Change tensors and make the checksum fit, as somebody who means harm would."""
        tensors = load_file(folder / "model.safetensors")
        save_file(change(tensors), folder / "model.safetensors")
        config = json.loads((folder / "config.json").read_text())
        config["sha256"]["model.safetensors"] = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
        (folder / "config.json").write_text(json.dumps(config))

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda t: t | {"front.components": t["front.components"][:-1].clone()}, "shape"),
            (lambda t: {k: v for k, v in t.items() if k != "front.gene_mean"}, "1 tensors are missing .*gene_mean"),
            (lambda t: t | {"extra": torch.zeros(1)}, "1 unexpected .extra"),
            (lambda t: t | {"front.gene_mean": t["front.gene_mean"] * float("nan")}, "NaN"),
        ],
    )
    def test_tensors_that_do_not_fit(self, folder, change, message):
        self.rewrite(folder, change)
        with pytest.raises(ValueError, match=message):
            MoreMini.load(folder)

    def test_a_pickle_is_never_run(self, folder, tmp_path):
        class Harm:
            def __reduce__(self):
                return open, (str(tmp_path / "harm"), "w")

        (folder / "model.safetensors").write_bytes(pickle.dumps(Harm()))
        config = json.loads((folder / "config.json").read_text())
        config["sha256"]["model.safetensors"] = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
        (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(ValueError, match="safetensors"):
            MoreMini.load(folder)
        assert not (tmp_path / "harm").exists()


def test_sizes_that_do_not_fit():
    one = GeneVocabulary(("A",), ("ENSG1",))
    with pytest.raises(ValueError, match="1 genes, the tables 2"):
        MoreMini(MoreMiniSizes(2, 1, 1, 3), one)
    with pytest.raises(ValueError, match="n_tokens=5"):
        MoreMini(MoreMiniSizes(1, 1, 1, 3, n_features=8, n_tokens=5), one)


class TestBundled:
    """The weights that ship with the package."""

    def test_loads_and_is_small(self):
        backbone = get_backbone("more-mini")
        assert backbone.n_features == 192
        assert sum(p.stat().st_size for p in BUNDLED.iterdir()) < 12e6
        assert (BUNDLED / "MODEL_CARD.md").is_file()
        assert all(
            len(getattr(backbone.vocabulary, c)) == len(backbone.vocabulary) for c in ("mouse_symbol", "human_ensembl")
        )

    def test_separates_the_types_of_a_familiar_dataset(self):
        adata = sc.datasets.pbmc68k_reduced()
        backbone = get_backbone("more-mini")
        match = match_genes(adata.var_names, backbone.vocabulary)
        assert (match.species, match.id_type) == ("human", "symbol")
        assert match.overlap > 0.8
        z = backbone.encode(adata.raw.X, match_genes(adata.raw.var_names, backbone.vocabulary), normalised=True)
        monocyte = (adata.obs["bulk_labels"] == "CD14+ Monocyte").to_numpy()
        b_cell = (adata.obs["bulk_labels"] == "CD19+ B").to_numpy()
        centre = z[monocyte].mean(0), z[b_cell].mean(0)
        nearer = ((z - centre[0]) ** 2).sum(1) < ((z - centre[1]) ** 2).sum(1)
        assert nearer[monocyte].mean() > 0.95
        assert nearer[b_cell].mean() < 0.05

    def test_the_gate_that_these_weights_passed_is_stored_with_them(self):
        gates = json.loads((BUNDLED / "gates.json").read_text())
        assert gates["weights"] == get_backbone("more-mini").fingerprint(), "run benchmarks/backbone_gates.py"
        gains = []
        for scores in gates["macro_f1 (linear, kNN)"].values():
            trained, untrained = scores["pre-trained"], scores["untrained programs"]
            assert trained.keys() == untrained.keys()
            gains.append(np.mean([np.subtract(trained[p], untrained[p]) for p in trained]))
        assert len(gains) == 5
        assert min(gains) > -0.005 and np.sum(np.array(gains) > 0) > len(gains) / 2
