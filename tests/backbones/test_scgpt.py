"""scgpt: three spellings of one model, the numbers of torch's own encoder, bins and choices without chance."""

import json
import shutil

import numpy as np
import pytest
import torch

from more_scvi.backbones import ScGPT, get_backbone
from more_scvi.data import match_genes

from .tiny_checkpoints import LAYERS, SYMBOLS, D, toy_counts, write_scgpt

X = toy_counts()
SPELLINGS = ("flash", "native", "wrapped")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """spelling -> folder and the reference model."""
    root = tmp_path_factory.mktemp("scgpt")
    return {name: (root / name, write_scgpt(root / name, name)) for name in SPELLINGS}


@pytest.fixture
def folder(folders, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(folders["flash"][0], tmp_path / "scgpt")


def encode(backbone, x=X, genes=SYMBOLS, **kwargs):
    return backbone.encode(x, match_genes(genes, backbone.vocabulary), **kwargs)


def reference_bins(values):
    """Quantile bins of one cell; a value on several edges gets the middle one, instead of a random one."""
    edges = np.quantile(values, np.linspace(0, 1, 50))
    bins = [np.ceil(((edges <= v).sum() + (edges < v).sum()) / 2) for v in values]
    return np.clip(bins, 1, 50)


def reference_features(model, pool, x=X, cls_value=-2.0):
    rows = []
    for cell in x:
        genes = np.flatnonzero(cell)
        ids = torch.tensor([[len(SYMBOLS) + 1, *genes]])
        values = torch.tensor([[cls_value, *reference_bins(cell[genes])]], dtype=torch.float32)
        with torch.no_grad():
            states = model.hidden_states(ids, values, torch.ones(ids.shape, dtype=torch.bool))
        rows.append(torch.cat([h[0, 0] if pool == "cls" else h[0, 1:].mean(0) for h in states]).numpy())
    return np.stack(rows)


@pytest.mark.parametrize("pool", ["cls", "mean"])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_features_are_pooled_hidden_states_of_all_layers(folders, spelling, pool):
    folder, model = folders[spelling]
    backbone = get_backbone(folder, pool=pool)
    assert (backbone.n_pooled, backbone.n_layers, backbone.n_features) == (LAYERS + 1, LAYERS, (LAYERS + 1) * D)
    np.testing.assert_allclose(encode(backbone), reference_features(model, pool), atol=5e-6)


def test_the_cls_token_is_read_by_default(folders):
    folder, model = folders["native"]
    np.testing.assert_allclose(encode(get_backbone(folder)), reference_features(model, "cls"), atol=5e-6)
    zero = encode(get_backbone(folder, cls_value=0))
    np.testing.assert_allclose(zero, reference_features(model, "cls", cls_value=0.0), atol=5e-6)


def test_without_args_json_sizes_come_from_the_tensors(folder):
    expected = encode(get_backbone(folder))
    (folder / "args.json").unlink()
    backbone = get_backbone(folder)
    assert (backbone.sizes.n_heads, backbone.sizes.n_bins, backbone.max_length) == (8, 51, 1200)
    np.testing.assert_array_equal(encode(backbone), expected)


def test_special_tokens_that_the_vocabulary_lacks_come_last(folder):
    expected = encode(get_backbone(folder))
    vocab = {name: i for name, i in json.loads((folder / "vocab.json").read_text()).items() if name[0] != "<"}
    (folder / "vocab.json").write_text(json.dumps(vocab))
    np.testing.assert_array_equal(encode(get_backbone(folder)), expected)


def test_other_spellings_of_the_arguments(folder):
    expected = encode(get_backbone(folder))
    args = json.loads((folder / "args.json").read_text())
    args |= {"nhead": args.pop("nheads"), "layer_size": args.pop("embsize")}
    (folder / "args.json").write_text(json.dumps(args))
    np.testing.assert_array_equal(encode(get_backbone(folder)), expected)


def test_log_normalised_values_give_the_bins_of_counts(folders):
    backbone = get_backbone(folders["flash"][0])
    scaled = X / X.sum(1, keepdims=True) * 1e4
    difference = encode(backbone, np.log1p(scaled), normalised=True) - encode(backbone, scaled)
    assert np.abs(difference).max() < 0.05


def test_repeated_names_are_summed_and_case_matters(folders):
    backbone = get_backbone(folders["flash"][0])
    half = np.floor(X / 2)
    features = encode(backbone, np.hstack([half, X - half]), [*SYMBOLS, *SYMBOLS])
    np.testing.assert_array_equal(features, encode(backbone))
    mouse = match_genes([name.title() for name in SYMBOLS], backbone.vocabulary)
    assert mouse.n_matched == 0


class TestChoice:
    """Cells with more genes than max_length."""

    def test_order_of_columns_and_other_cells_do_not_matter(self, folders):
        backbone = get_backbone(folders["flash"][0], max_length=12)
        features = encode(backbone)
        order = np.random.default_rng(0).permutation(len(SYMBOLS))
        np.testing.assert_array_equal(encode(backbone, X[:, order], [SYMBOLS[i] for i in order]), features)
        np.testing.assert_array_equal(encode(backbone, X[-1:]), features[-1:])

    def test_genes_of_high_bins_are_read_more_often(self, folders):
        backbone = get_backbone(folders["flash"][0], max_length=21)
        rng = np.random.default_rng(0)
        high, low = 0, 0
        for _ in range(40):
            counts = rng.permutation(np.arange(1.0, 61.0))
            read = backbone._sequence(np.arange(60), counts)[0][1:]
            assert len(read) == 20 == len(set(read.tolist()))
            high += (counts[read] > 30).sum()
            low += (counts[read] <= 30).sum()
        assert high > 1.5 * low

    def test_alike_cells_are_read_by_the_same_genes(self, folders):
        backbone = get_backbone(folders["flash"][0], max_length=21)
        counts = np.random.default_rng(0).permutation(np.arange(1.0, 61.0))
        ids = [backbone._sequence(np.arange(60), c)[0] for c in (counts, counts * 3)]
        np.testing.assert_array_equal(*ids)

    def test_bins_are_those_of_the_whole_cell(self, folders):
        counts = np.arange(1.0, 61.0)
        whole = dict(zip(*get_backbone(folders["flash"][0])._sequence(np.arange(60), counts), strict=True))
        part = get_backbone(folders["flash"][0], max_length=9)._sequence(np.arange(60), counts)
        assert all(whole[i] == v for i, v in zip(*part, strict=True))


def test_layers_from_cached_tokens_are_those_of_the_whole(folders):
    backbone = get_backbone(folders["flash"][0])
    match = match_genes(SYMBOLS, backbone.vocabulary)
    last = encode(backbone)[:, -D:]
    for depth in (1, LAYERS):
        values, keep = backbone.tokens(X, match, depth=depth)
        top = backbone.top_layers(depth)
        assert top.kind == "own"
        out = top(torch.from_numpy(values).float(), torch.from_numpy(keep))
        np.testing.assert_allclose(out.numpy(), last, atol=1e-2)  # float16 tokens
        linear = [n for n, m in top.layers.named_modules() if isinstance(m, torch.nn.Linear)]
        assert sum(name.endswith(top.lora_targets) for name in linear) == 2 * depth


def test_no_fused_path_passes_changes_of_a_layer_by(folders):
    """In evaluation mode without gradients, a module put around a projection must be called."""
    top = get_backbone(folders["flash"][0]).top_layers(1)
    calls = []
    for target in top.lora_targets:
        getattr(top.layers[0], target).register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        top.eval()(torch.randn(2, 4, D), torch.ones(2, 4, dtype=torch.bool))
    assert len(calls) == 2


def _tensors(change):
    def apply(folder):
        state = torch.load(folder / "best_model.pt", weights_only=True)
        change(state)
        torch.save(state, folder / "best_model.pt")

    return apply


def _permute(parts):
    def change(state):
        name = "transformer_encoder.layers.1.self_attn.Wqkv.weight"
        thirds = state[name].chunk(3)
        state[name] = torch.cat([thirds[i] for i in parts])

    return change


def _swap(a, b):
    def change(state):
        state[a], state[b] = state[b].clone(), state[a].clone()

    return change


def _shuffle_vocabulary(folder):
    path = folder / "vocab.json"
    vocab = json.loads(path.read_text())
    ids = list(vocab.values())
    path.write_text(json.dumps(dict(zip(vocab, ids[:3][::-1] + ids[3:], strict=True))))


_LAYER = "transformer_encoder.layers.0."
MUTATIONS = {
    "q and k swapped": (_tensors(_permute((1, 0, 2))), None),
    "k and v swapped": (_tensors(_permute((0, 2, 1))), None),
    "norms swapped": (_tensors(_swap(f"{_LAYER}norm1.weight", f"{_LAYER}norm2.weight")), None),
    "tensor dropped": (_tensors(lambda s: s.pop(f"{_LAYER}linear2.bias")), "1 tensors are missing .*0 unexpected"),
    "tensor renamed": (
        _tensors(lambda s: s.update({"value_encoder.linear3.bias": s.pop("value_encoder.linear2.bias")})),
        r"missing \(embedding\.value2\.bias\).*unexpected \(value_encoder\.linear3\.bias\)",
    ),
    "wrong shape": (_tensors(lambda s: s.update({f"{_LAYER}linear2.bias": torch.zeros(D + 1)})), r"shape \(33,\)"),
    "dictionary damaged": (_shuffle_vocabulary, None),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_mutations_are_refused_or_change_the_features(folder, folders, mutation):
    """The comparison with the reference would notice each of them."""
    damage, message = MUTATIONS[mutation]
    damage(folder)
    if message:
        with pytest.raises(ValueError, match=message):
            get_backbone(folder)
    else:
        assert np.abs(encode(get_backbone(folder)) - reference_features(folders["flash"][1], "cls")).max() > 1e-3


def test_padding_never_reaches_a_mean(folders):
    """Padded rows of attention are not zero; one counted in a mean would show in the shorter cells."""
    backbone = get_backbone(folders["flash"][0], pool="mean")
    with torch.no_grad():
        backbone.embedding.gene.weight[len(SYMBOLS)] = 1e3  # the embedding of <pad>
    np.testing.assert_allclose(encode(backbone), reference_features(folders["flash"][1], "mean"), atol=5e-6)


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"max_length": 1}, ValueError, "max_length=1"),
        ({"max_length": 2.5}, ValueError, "max_length=2.5"),
        ({"cls_value": "zero"}, TypeError, "cls_value='zero'"),
        ({"pool": "max"}, ValueError, "choose one of mean, cls"),
        ({"min_overlap": 2}, ValueError, "min_overlap=2"),
    ],
)
def test_unknown_options(folders, kwargs, error, message):
    with pytest.raises(error, match=message):
        ScGPT.load(folders["flash"][0], **kwargs)
