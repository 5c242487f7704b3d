"""What both foundation models share: rows that depend on their cell alone, and MoRE on top of a folder."""

import ast
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from more_scvi import MoRE
from more_scvi.backbones import _checkpoints, _tokens, compute_features, get_backbone, make_panels
from more_scvi.data import match_genes, simulate_batches
from more_scvi.evaluation import compare_backbones

from .tiny_checkpoints import ENSEMBL, LAYERS, SYMBOLS, D, toy_counts, write_geneformer, write_scgpt

X = toy_counts(n_cells=20)
KINDS = ("geneformer_v1", "geneformer_v2", "scgpt")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("foundation")
    for version in ("v1", "v2"):
        write_geneformer(root / f"geneformer_{version}", version)
    write_scgpt(root / "scgpt")
    return {kind: root / kind for kind in KINDS}


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    """Several blocks even for a few short cells."""
    monkeypatch.setattr(_tokens, "_BLOCK_TOKENS", 256)


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def backbone(folders, kind):
    return get_backbone(folders[kind])


def encode(backbone, x=X, **kwargs):
    return backbone.encode(x, match_genes(SYMBOLS, backbone.vocabulary), **kwargs)


class TestRows:
    """A cell's features are the same bits whatever is encoded with it."""

    def test_alone_in_any_order_and_in_any_chunk(self, backbone):
        features = encode(backbone)
        alone = np.concatenate([encode(backbone, cell[None]) for cell in X])
        np.testing.assert_array_equal(alone, features)
        np.testing.assert_array_equal(encode(backbone, X[::-1])[::-1], features)
        np.testing.assert_array_equal(np.concatenate([encode(backbone, X[:7]), encode(backbone, X[7:])]), features)

    def test_among_cells_of_other_lengths(self, backbone, monkeypatch):
        features = encode(backbone)
        with monkeypatch.context() as patch:
            patch.setattr(_tokens, "_WIDTH_STEP", 8)
            patch.setattr(_tokens, "_BLOCK_TOKENS", 64)
            np.testing.assert_allclose(encode(backbone), features, atol=5e-6)

    def test_cached_in_any_chunk_with_hidden_genes(self, backbone):
        panels = make_panels(len(SYMBOLS), n_panels=2)
        whole = compute_features(backbone, X, SYMBOLS, panels=panels, progress=False)
        parts = compute_features(backbone, X, ENSEMBL if backbone.name == "geneformer" else SYMBOLS, panels=panels,
                                 chunk_size=3, progress=False)  # fmt: skip
        np.testing.assert_array_equal(parts.full, whole.full)
        np.testing.assert_array_equal(parts.views, whole.views)
        np.testing.assert_array_equal(whole.full, encode(backbone).astype(np.float16))

    def test_cells_without_genes_are_zero(self, backbone):
        x = X.copy()
        x[3] = 0
        features = encode(backbone, x)
        assert not features[3].any()
        np.testing.assert_array_equal(np.delete(features, 3, 0), np.delete(encode(backbone), 3, 0))
        values, keep = backbone.tokens(x, match_genes(SYMBOLS, backbone.vocabulary), depth=1)
        assert not keep[3].any() and not values[3].any()
        h = torch.from_numpy(values).float().requires_grad_()
        out = backbone.top_layers(1)(h, torch.from_numpy(keep))
        assert not out[3].any()
        out.sum().backward()
        assert torch.isfinite(h.grad).all()

    def test_no_cells(self, backbone):
        assert encode(backbone, X[:0]).shape == (0, backbone.n_features)
        values, keep = backbone.tokens(X[:0], match_genes(SYMBOLS, backbone.vocabulary), depth=1)
        assert values.shape == (0, 0, D) and keep.shape == (0, 0)


def test_bfloat16_is_close(backbone):
    cache = compute_features(backbone, X, SYMBOLS, precision="bfloat16", progress=False)
    error = np.abs(cache.full.astype(float) - encode(backbone))
    assert 0 < error.max() < 0.3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.gpu
def test_cuda_agrees_with_the_cpu(backbone):
    cache = compute_features(backbone, X, SYMBOLS, device="cuda", precision="float32", progress=False)
    np.testing.assert_allclose(cache.full.astype(float), encode(backbone), atol=1e-2)
    assert backbone.device.type == "cpu"


def test_fingerprint_follows_options(folders, kind):
    options = [{}, {"max_length": 20}, {"pool": "mean" if kind == "scgpt" else "cls"}, {"cls_value": 0.0}]
    options = options[: {"geneformer_v1": 2, "geneformer_v2": 3, "scgpt": 4}[kind]]
    prints = [get_backbone(folders[kind], **kwargs).fingerprint() for kwargs in options]
    assert len(set(prints)) == len(options)
    assert prints[0] == get_backbone(folders[kind]).fingerprint()


def test_frozen(backbone):
    assert not any(p.requires_grad for p in backbone.parameters())
    assert not any(m.training for m in backbone.train().modules())
    before = backbone.fingerprint()
    top = backbone.top_layers(1)
    for parameter in top.parameters():
        parameter.data.zero_()
    assert backbone.fingerprint() == before


@pytest.mark.parametrize("depth", [0, LAYERS + 1])
def test_depth_out_of_range(backbone, depth):
    match = match_genes(SYMBOLS, backbone.vocabulary)
    for call in (lambda: backbone.top_layers(depth), lambda: backbone.tokens(X, match, depth=depth)):
        with pytest.raises(ValueError, match=f"depth={depth}.*1 to {LAYERS}"):
            call()


class TestGenes:
    """Data that the vocabulary does not fit."""

    def test_few_known_genes_are_refused_unless_allowed(self, backbone, folders, kind):
        names = [*SYMBOLS[:15], *(f"peak{i}" for i in range(45))]
        match = match_genes(names, backbone.vocabulary)
        with pytest.raises(ValueError, match=r"15 of 60 genes \(25%\).*at least 30%.*orthologues.*min_overlap"):
            backbone.encode(X, match)
        annotation = [*SYMBOLS, *(f"LINC{i}" for i in range(240))]  # all genes there are, few of which it knows
        backbone.encode(np.hstack([X, *[X] * 4]), match_genes(annotation, backbone.vocabulary))
        get_backbone(folders[kind], min_overlap=0.2).encode(X, match)

    def test_too_few_known_genes_are_refused_when_the_model_is_made(self, folders, kind):
        names = [*SYMBOLS[:15], *(f"other{i}" for i in range(45))]
        adata = simulate_batches(n_cells=40, n_genes=60, gene_names=names)
        MoRE.setup_anndata(adata, batch_key="batch")
        with pytest.raises(ValueError, match="15 of 60 genes"):
            MoRE(adata, backbone=folders[kind])

    def test_mouse_genes_are_refused(self, backbone):
        for names in ([name.title() for name in SYMBOLS], [f"ENSMUSG{i:011d}" for i in range(60)]):
            with pytest.raises(ValueError, match=r"None of the 60 genes .*It knows names such as GENE0.*gene_key"):
                compute_features(backbone, X, names, progress=False)

    @pytest.mark.parametrize(
        ("x", "match", "message"),
        [
            (-X, SYMBOLS, "negative or non-finite"),
            (X * np.nan, SYMBOLS, "negative or non-finite"),
            (X[:, 1:], SYMBOLS, "x has 59 genes, match was made for 60"),
            (X, None, "pass match="),
        ],
    )
    def test_bad_input(self, backbone, x, match, message):
        with pytest.raises(ValueError, match=message):
            backbone.encode(x, match if match is None else match_genes(match, backbone.vocabulary))


def test_long_cells_on_a_cpu_are_announced_once(backbone, monkeypatch):
    said = []
    monkeypatch.setattr(_tokens.logger, "warning", lambda message, *values: said.append(message % values))
    encode(backbone)
    assert not said
    monkeypatch.setattr(_tokens, "_SLOW_TOKENS", 10)
    encode(backbone)
    encode(backbone)
    assert len(said) == 1 and "max_length=512" in said[0]


class TestMoRE:
    """The model on a folder of weights."""

    @pytest.fixture
    def adata(self):
        adata = simulate_batches(150, n_genes=60, n_types=3, depth=300.0, gene_names=SYMBOLS, seed=1)
        adata.obs["cell_type"] = adata.obs["cell_type"].astype(object).where(np.arange(150) % 5 > 0, "Unknown")
        return adata

    def test_trains_saves_loads_and_embeds(self, folders, kind, adata, tmp_path):
        MoRE.setup_anndata(adata, batch_key="batch", labels_key="cell_type", unlabeled_category="Unknown")
        model = MoRE(adata, backbone=str(folders[kind]), backbone_kwargs={"max_length": 24}, n_latent=10)
        before = model.backbone.fingerprint()
        model.train(max_epochs=2, accelerator="cpu", enable_progress_bar=False)
        assert model.backbone.fingerprint() == before
        assert model.backbone.max_length == 24
        z = model.get_latent_representation()
        assert z.shape == (150, 10) and np.isfinite(z).all()
        model.save(tmp_path / "model")
        assert sum(p.stat().st_size for p in (tmp_path / "model").iterdir()) < 20e6
        loaded = MoRE.load(tmp_path / "model", adata, accelerator="cpu")
        np.testing.assert_allclose(loaded.get_latent_representation(), z, atol=1e-5)
        query = simulate_batches(30, n_genes=60, n_types=3, depth=300.0, gene_names=SYMBOLS, seed=2)
        assert loaded.get_latent_representation(query).shape == (30, 10)

    def test_other_weights_are_not_mistaken_for_the_original(self, adata, tmp_path):
        write_scgpt(tmp_path / "weights")
        MoRE.setup_anndata(adata, batch_key="batch")
        model = MoRE(adata, backbone=str(tmp_path / "weights"), n_latent=10)
        model.train(max_epochs=1, accelerator="cpu", enable_progress_bar=False)
        model.save(tmp_path / "model")
        write_scgpt(tmp_path / "weights", seed=1)
        with pytest.raises(ValueError, match="original"):
            MoRE.load(tmp_path / "model", adata, accelerator="cpu")


class TestHub:
    """Nothing is downloaded unless a hub id is given."""

    @pytest.fixture
    def downloads(self, folders, monkeypatch):
        calls = []

        def download(hub_id, *, revision, allow_patterns):
            calls.append((hub_id, revision, allow_patterns))
            return str(folders["scgpt"].parent)

        monkeypatch.setattr("huggingface_hub.snapshot_download", download)
        return calls

    def test_hub_id_revision_and_subfolder(self, folders, downloads, kind):
        name = kind.split("_")[0]
        backbone = get_backbone(name, hub_id="someone/models", revision="abc", subfolder=kind)
        np.testing.assert_array_equal(encode(backbone), encode(get_backbone(folders[kind])))
        (call,) = downloads
        assert call[:2] == ("someone/models", "abc")
        wanted = {"geneformer_v1": "config.json", "geneformer_v2": "model.safetensors", "scgpt": "best_model.pt"}
        assert f"{kind}/{wanted[kind]}" in call[2]
        assert not any(pattern in ("*", "**") for pattern in call[2])

    def test_a_folder_downloads_nothing(self, folders, downloads, kind):
        get_backbone(folders[kind])
        assert downloads == []

    def test_offline_the_cache_of_the_hub_is_read(self, folders, tmp_path, monkeypatch):
        """What HF_HUB_OFFLINE=1 and HF_HOME set."""
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        with pytest.raises(ValueError, match=r"hub_id='someone/models'.*not on this machine.*HF_HUB_OFFLINE"):
            get_backbone("scgpt", hub_id="someone/models")
        repository = tmp_path / "models--someone--models"
        shutil.copytree(folders["scgpt"], repository / "snapshots" / ("a" * 40))
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text("a" * 40)
        backbone = get_backbone("scgpt", hub_id="someone/models")
        assert backbone.fingerprint() == get_backbone(folders["scgpt"]).fingerprint()

    @pytest.mark.parametrize(
        ("kwargs", "message"),
        [
            ({}, "not none of them"),
            ({"path": "here", "hub_id": "a/b"}, "not both"),
            ({"path": ".", "revision": "main"}, "revision='main' belongs to a hub_id"),
            ({"path": "/no/such/folder"}, "is not a folder"),
            ({"path": ".", "subfolder": "nothing"}, "nothing is not a folder"),
        ],
    )
    @pytest.mark.parametrize("name", ["geneformer", "scgpt"])
    def test_where_weights_may_be(self, name, kwargs, message):
        with pytest.raises(ValueError, match=message):
            get_backbone(name, **kwargs)


@pytest.mark.parametrize(
    ("package", "kind", "kwargs"),
    [("transformers", "geneformer", "path"), ("huggingface_hub", "scgpt", "hub_id")],
)
def test_a_missing_package_names_the_extra(folders, monkeypatch, package, kind, kwargs):
    def refuse(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(_checkpoints, "import_module", refuse)
    arguments = {"path": folders["geneformer_v2"]} if kwargs == "path" else {"hub_id": "a/b"}
    with pytest.raises(ImportError, match=rf"{package}.*more-scvi\[foundation\]"):
        get_backbone(kind, **arguments)


def test_no_file_imports_the_extra_before_it_is_needed():
    for path in Path(_tokens.__file__).parent.glob("*.py"):
        for node in ast.parse(path.read_text()).body:
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [getattr(node, "module", "")]
            assert not {str(n).split(".")[0] for n in names} & {"transformers", "peft", "huggingface_hub"}, path


def test_folders_are_compared_on_ones_own_cells(folders):
    """Layers are mixed as with the backbone itself, and a folder is called by its last part."""
    adata = simulate_batches(120, len(SYMBOLS), 3, 2, markers=0.2, gene_names=SYMBOLS, seed=0)
    names = [f"scgpt:{folders['scgpt']}", str(folders["geneformer_v2"])]
    keys = {"batch_key": "batch", "labels_key": "cell_type", "train_kwargs": {"max_epochs": 1}, "progress": False}
    found = compare_backbones(adata, names, regimes=["S1-60", "S9-50"], seeds=[0], max_rotations=1, **keys)
    assert found.backbones == ("none", "scgpt:scgpt", "geneformer_v2") and found.left_out.empty
    cost = found.cost.loc[["scgpt:scgpt", "geneformer_v2"]]
    assert (cost["megabytes"] == 2 * (LAYERS + 1) * D / 1e3).all() and (cost["frozen"] > 0).all()
