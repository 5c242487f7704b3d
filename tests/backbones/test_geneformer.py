"""geneformer: the files as published, the numbers of transformers, ranks that nothing random decides."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.sparse import csr_matrix

from more_scvi.backbones import Geneformer, get_backbone
from more_scvi.data import match_genes

from .tiny_checkpoints import ENSEMBL, LAYERS, POSITIONS, SYMBOLS, D, read_pickle, toy_counts, write_geneformer

X = toy_counts()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """version -> folder and transformers' own model."""
    root = tmp_path_factory.mktemp("geneformer")
    return {v: (root / v, write_geneformer(root / v, v)) for v in ("v1", "v2")}


@pytest.fixture(params=["v1", "v2"])
def version(request):
    return request.param


@pytest.fixture
def folder(folders, version, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(folders[version][0], tmp_path / version)


def encode(backbone, x=X, genes=SYMBOLS, **kwargs):
    return backbone.encode(x, match_genes(genes, backbone.vocabulary), **kwargs)


def reference_ids(folder, version, cell, length=POSITIONS):
    """Token ids of one cell, written out from the description of the format."""
    suffix = {"v1": "_gc30M", "v2": "_gc104M"}[version]
    tokens = read_pickle(folder / f"token_dictionary{suffix}.pkl")
    medians = read_pickle(folder / f"gene_median_dictionary{suffix}.pkl")
    scaled = {gene: float(c) / float(cell.sum()) * 1e4 / medians[gene] for gene, c in zip(ENSEMBL, cell, strict=True)}
    genes = sorted((g for g in ENSEMBL if scaled[g] > 0), key=lambda g: -scaled[g])
    if version == "v1":
        return [int(tokens[g]) for g in genes[:length]]
    return [tokens["<cls>"], *(tokens[g] for g in genes[: length - 2]), tokens["<eos>"]]


def reference_features(folders, version, x=X, pool="mean"):
    """Pooled hidden states of transformers, one cell at a time."""
    folder, model = folders[version]
    marks = 0 if version == "v1" else 1
    rows = []
    for cell in x:
        ids = reference_ids(folder, version, cell)
        with torch.no_grad():
            states = model(torch.tensor([ids]), output_hidden_states=True).hidden_states
        pooled = [h[0, 0] if pool == "cls" else h[0, marks : len(ids) - marks].mean(0) for h in states]
        rows.append(torch.cat(pooled).numpy())
    return np.stack(rows)


def test_features_are_pooled_hidden_states_of_all_layers(folders, version):
    backbone = get_backbone(folders[version][0])
    features = encode(backbone)
    assert features.dtype == np.float32
    assert (backbone.n_pooled, backbone.n_layers, backbone.n_features) == (LAYERS + 1, LAYERS, (LAYERS + 1) * D)
    np.testing.assert_allclose(features, reference_features(folders, version), atol=5e-6)


def test_cls_is_the_first_token_where_there_is_one(folders):
    features = encode(get_backbone(folders["v2"][0], pool="cls"))
    np.testing.assert_allclose(features, reference_features(folders, "v2", pool="cls"), atol=5e-6)
    with pytest.raises(ValueError, match="no <cls> token; use 'mean'"):
        get_backbone(folders["v1"][0], pool="cls")


def test_names_of_genes_may_be_symbols_ids_versions_or_former_ids(folders, version):
    backbone = get_backbone(folders[version][0])
    features = encode(backbone)
    former = [f"ENSG9{i:010d}" if i < 5 else gene for i, gene in enumerate(ENSEMBL)]
    for genes in (ENSEMBL, [f"{gene}.{3 + i}" for i, gene in enumerate(ENSEMBL)], former):
        np.testing.assert_array_equal(encode(backbone, genes=genes), features)


def test_repeated_names_are_summed(folders, version):
    backbone = get_backbone(folders[version][0])
    half = np.floor(X / 2)
    features = encode(backbone, np.hstack([half, X - half]), [*SYMBOLS, *ENSEMBL])
    np.testing.assert_array_equal(features, encode(backbone))


def test_log_normalised_values_give_the_order_of_counts(folders, version):
    backbone = get_backbone(folders[version][0])
    logged = np.log1p(X / X.sum(1, keepdims=True) * 1e4)
    np.testing.assert_allclose(encode(backbone, logged, normalised=True), encode(backbone), atol=1e-5)
    assert np.abs(encode(backbone, logged) - encode(backbone)).max() > 0.01


def test_ties_do_not_depend_on_the_order_of_columns(folders, version):
    backbone = get_backbone(folders[version][0])
    backbone.genes.medians[:] = 2.0  # every gene with the same count ties
    order = np.random.default_rng(0).permutation(len(SYMBOLS))
    shuffled = encode(backbone, X[:, order], [SYMBOLS[i] for i in order])
    np.testing.assert_array_equal(shuffled, encode(backbone))


def test_max_length_keeps_the_highest_ranks(folders, version):
    backbone = get_backbone(folders[version][0], max_length=8)
    ids = reference_ids(folders[version][0], version, X[-1], 8)
    assert backbone._sequence(np.arange(len(SYMBOLS))[X[-1] > 0], X[-1][X[-1] > 0])[0].tolist() == ids
    assert backbone.fingerprint() != get_backbone(folders[version][0]).fingerprint()


@pytest.mark.parametrize("value", [2, POSITIONS + 1, 0, -5])
def test_max_length_out_of_range(folders, value):
    with pytest.raises(ValueError, match=f"choose 3 to {POSITIONS}"):
        get_backbone(folders["v2"][0], max_length=value)


def test_layers_from_cached_tokens_are_those_of_the_whole(folders, version):
    backbone = get_backbone(folders[version][0])
    match = match_genes(SYMBOLS, backbone.vocabulary)
    last = encode(backbone)[:, -D:]
    for depth in (1, LAYERS):
        values, keep = backbone.tokens(X, match, depth=depth)
        assert values.dtype == np.float16 and values.shape == (*keep.shape, D)
        top = backbone.top_layers(depth)
        assert (top.kind, len(top.layers)) == ("transformers", depth)
        out = top(torch.from_numpy(values).float(), torch.from_numpy(keep))
        np.testing.assert_allclose(out.numpy(), last, atol=5e-3)  # float16 tokens
        names = [name for name, _ in top.layers.named_modules() if name.endswith(top.lora_targets)]
        assert len(names) == 2 * depth


def test_peft_enters_the_layers(folders):
    from peft import LoraConfig, inject_adapter_in_model

    top = get_backbone(folders["v1"][0]).top_layers(1)
    inject_adapter_in_model(LoraConfig(r=2, target_modules=list(top.lora_targets), init_lora_weights=False), top)
    h = torch.randn(2, 5, D)
    loss = top(h, torch.ones(2, 5, dtype=torch.bool)).pow(2).sum()
    loss.backward()
    adapters = {name: p for name, p in top.named_parameters() if "lora_" in name}
    assert len(adapters) == 4
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in adapters.values())


class TestFolders:
    """The layouts in which people have the files."""

    def test_published_repository(self, folders, version, tmp_path):
        source = folders[version][0]
        place = {"v1": "geneformer/gene_dictionaries_30m", "v2": "geneformer"}[version]
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / "model").mkdir()
        for path in source.iterdir():
            shutil.copy(path, tmp_path / (place if "dict" in path.name else "model"))
        expected = encode(get_backbone(source))
        np.testing.assert_array_equal(encode(get_backbone(tmp_path / "model")), expected)
        by_name = get_backbone("geneformer", path=tmp_path, subfolder="model")
        np.testing.assert_array_equal(encode(by_name), expected)

    def test_dictionaries_one_folder_up_without_a_version_in_their_names(self, folders, version, tmp_path):
        source = folders[version][0]
        (tmp_path / "gf").mkdir()
        for path in source.iterdir():
            stem = path.stem.split("_gc")[0]
            shutil.copy(path, tmp_path / f"{stem}.pkl" if "dict" in path.name else tmp_path / "gf")
        np.testing.assert_array_equal(encode(get_backbone(tmp_path / "gf")), encode(get_backbone(source)))

    def test_both_versions_in_one_place(self, folders, version, tmp_path):
        for path in [*folders["v1"][0].glob("*dict*"), *folders["v2"][0].glob("*dict*")]:
            shutil.copy(path, tmp_path)
        source = folders[version][0]
        backbone = get_backbone(source, dictionaries=tmp_path)
        np.testing.assert_array_equal(encode(backbone), encode(get_backbone(source)))

    def test_json_copies(self, folder, version):
        expected = encode(get_backbone(folder))
        for path in list(folder.glob("*.pkl")):
            plain = {k: v.item() if hasattr(v, "item") else v for k, v in read_pickle(path).items()}
            path.with_suffix(".json").write_text(json.dumps(plain))
            path.unlink()
        np.testing.assert_array_equal(encode(get_backbone(folder)), expected)

    def test_fine_tuned_classifiers_and_bare_encoders(self, folders, tmp_path):
        folder = shutil.copytree(folders["v2"][0], tmp_path / "m")
        state = load_file(folder / "model.safetensors")  # may map the file, which is written anew below
        body = {name: t.clone() for name, t in state.items() if name.startswith("bert.")}
        extra = {"bert.pooler.dense.weight": torch.randn(D, D), "bert.pooler.dense.bias": torch.randn(D)}
        expected = encode(get_backbone(folders["v2"][0]))
        save_file({**body, **extra, "classifier.weight": torch.randn(3, D)}, folder / "model.safetensors")
        np.testing.assert_array_equal(encode(get_backbone(folder)), expected)
        save_file({name.removeprefix("bert."): t for name, t in body.items()}, folder / "model.safetensors")
        np.testing.assert_array_equal(encode(get_backbone(folder)), expected)

    def test_texts_of_bert_are_not_taken_for_cells(self, folder):
        (folder / "vocab.txt").write_text("the\n")
        with pytest.raises(ValueError, match="no backbone recognises"):
            get_backbone(folder)


def _tensors(change):
    def apply(folder):
        state = load_file(folder / "model.safetensors")
        change(state)
        save_file({name: t.contiguous() for name, t in state.items()}, folder / "model.safetensors")

    return apply


def _swap(state, a, b):
    state[a], state[b] = state[b].clone(), state[a].clone()


def _edit(name, **changes):
    def apply(folder):
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return apply


def _damage_medians(folder):
    for path in folder.glob("gene_median*"):
        medians = read_pickle(path)
        values = list(medians.values())[::-1]
        path.with_suffix(".json").write_text(json.dumps(dict(zip(medians, values, strict=True))))
        path.unlink()


_ATTENTION = "bert.encoder.layer.1.attention.self."
_NORM, _LN = "bert.encoder.layer.0.", "LayerNorm.weight"
MUTATIONS = {
    "q and k swapped": (_tensors(lambda s: _swap(s, f"{_ATTENTION}query.bias", f"{_ATTENTION}key.bias")), None),
    "k and v swapped": (_tensors(lambda s: _swap(s, f"{_ATTENTION}key.weight", f"{_ATTENTION}value.weight")), None),
    "norms swapped": (_tensors(lambda s: _swap(s, f"{_NORM}output.{_LN}", f"{_NORM}attention.output.{_LN}")), None),
    "tensor dropped": (_tensors(lambda s: s.pop(f"{_NORM}output.dense.bias")), r"1 tensors are missing .*0 unexpected"),
    "tensor renamed": (
        _tensors(lambda s: s.update({f"{_ATTENTION}q.bias": s.pop(f"{_ATTENTION}query.bias")})),
        r"1 tensors are missing .*query\.bias.*1 unexpected .*q\.bias",
    ),
    "wrong activation": (_edit("config.json", hidden_act="gelu"), None),
    "dictionary damaged": (_damage_medians, None),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_mutations_are_refused_or_change_the_features(folders, tmp_path, mutation):
    """The comparison with transformers would notice each of them."""
    damage, message = MUTATIONS[mutation]
    folder = shutil.copytree(folders["v2"][0], tmp_path / "m")
    damage(folder)
    if message:
        with pytest.raises(ValueError, match=message):
            get_backbone(folder)
    else:
        assert np.abs(encode(get_backbone(folder)) - reference_features(folders, "v2")).max() > 1e-3


def test_sparse_matrices_and_hidden_genes(folders, version):
    backbone = get_backbone(folders[version][0])
    np.testing.assert_array_equal(encode(backbone, csr_matrix(X)), encode(backbone))
    visible = np.arange(len(SYMBOLS)) % 2 == 0
    np.testing.assert_array_equal(encode(backbone, visible=visible), encode(backbone, X * visible))


def test_initial_weights_leave_the_random_numbers_of_the_user_alone(folders):
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    Geneformer.load(folders["v1"][0])
    torch.testing.assert_close(torch.rand(3), expected)
