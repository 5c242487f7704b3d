"""Tiny backbones with layers that adapters may enter, and counts in their genes."""

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
import torch
from mudata import MuData
from sklearn.linear_model import LogisticRegression
from torch import nn

import more_scvi as more
from more_scvi._compat import no_pull
from more_scvi.backbones import Backbone, MoreMini, MoreMiniSizes, TopLayers, register_backbone
from more_scvi.data import GeneVocabulary

N_GENES, D_MODEL, N_LAYERS = 60, 16, 3
SYMBOLS = tuple(f"GENE{i}" for i in range(N_GENES))


def fitted(data, epochs=30, **kwargs):
    """A model of batches and labels, "Unknown" where there is none."""
    more.MoRE.setup_anndata(data, batch_key="batch", labels_key="label", unlabeled_category="Unknown")
    model = more.MoRE(data, n_views=0, seed=0, **kwargs)
    model.train(max_epochs=epochs, accelerator="cpu", enable_progress_bar=False, logger=False)
    return model


def regression_on_genes(taught, asked):
    """Types of cells by logistic regression on log-normalised genes of others."""

    def values(data):
        x = sp.csr_matrix(data.X, dtype=float)
        x = sp.diags(1e4 / np.asarray(x.sum(1)).ravel()) @ x
        x.data = np.log1p(x.data)
        return x

    fit = LogisticRegression(max_iter=300).fit(values(taught), taught.obs["cell_type"])
    return fit.predict(values(asked))


def tiny_mini(seed: int = 0) -> MoreMini:
    """A more-mini with random tables and a random read-out."""
    rng, n_sets = np.random.default_rng(seed), 4
    sizes = MoreMiniSizes(
        N_GENES, 4, n_sets, 5 * n_sets, n_features=8, n_tokens=4, d_model=D_MODEL, n_layers=N_LAYERS, n_heads=2
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        backbone = MoreMini(sizes, GeneVocabulary(SYMBOLS, ("",) * N_GENES))
        backbone.transformer.randomise_readout()
    tables = {
        "gene_mean": rng.uniform(0.2, 1, N_GENES),
        "gene_scale": rng.uniform(0.5, 1.5, N_GENES),
        "gene_share": np.ones(N_GENES),
        "components": np.linalg.qr(rng.normal(size=(N_GENES, 4)))[0],
        "program_scale": rng.uniform(1.5, 2.5, 4 + n_sets),
        "whitening": rng.normal(size=(4 + n_sets, 8)) / 3,
        "member_gene": np.concatenate([rng.permutation(N_GENES)[:5] for _ in range(n_sets)]),
        "member_set": np.repeat(np.arange(n_sets), 5),
    }
    own = backbone.front.state_dict()
    backbone.front.load_state_dict({k: torch.as_tensor(v, dtype=own[k].dtype) for k, v in tables.items()})
    return backbone


class BertLayer(nn.Module):
    """A layer of transformers under the name and signature that TopLayers asks for."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, h, keep):
        out = self.layer(h, attention_mask=torch.where(keep, 0.0, -1e9)[:, None, None, :])
        return out[0] if isinstance(out, tuple) else out


class Mean(nn.Module):
    def forward(self, h, keep):
        return (h * keep[..., None]).sum(1) / keep.sum(1, keepdim=True)


class TinyBert(Backbone):
    """A BertModel with random weights over the genes above the cell's mean, most counts first; at most 20 of them."""

    name, n_layers, n_pooled, n_features = "tiny-bert", N_LAYERS, N_LAYERS + 1, (N_LAYERS + 1) * D_MODEL

    def __init__(self, seed: int = 0):
        from transformers import BertConfig, BertModel

        super().__init__()
        self.vocabulary = GeneVocabulary(SYMBOLS, ("",) * N_GENES)
        config = BertConfig(
            vocab_size=N_GENES + 1,
            hidden_size=D_MODEL,
            num_hidden_layers=N_LAYERS,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=20,
            hidden_dropout_prob=0.5,
        )
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.bert = BertModel(config, add_pooling_layer=False)
        for parameter in self.bert.parameters():
            parameter.data.mul_(5.0)  # initial weights are so small that layers change nothing
        self.freeze()

    def _embedded(self, x, match):
        x = np.asarray(x.todense() if hasattr(x, "todense") else x)
        known = x[:, match.vocab_index >= 0]
        lengths = np.clip((known > known.mean(1, keepdims=True)).sum(1), 1, 20)
        order = np.argsort(-np.where(match.vocab_index >= 0, x, -1), axis=1, kind="stable")[:, : lengths.max()]
        keep = np.arange(lengths.max()) < lengths[:, None]
        ids = np.where(keep, 1 + match.vocab_index[order], 0)
        return self.bert.embeddings(torch.from_numpy(ids)), torch.from_numpy(keep)

    def _layers(self):
        return [BertLayer(layer) for layer in self.bert.encoder.layer]

    @torch.no_grad()
    def encode(self, x, match, *, visible=None, normalised=False):
        h, keep = self._embedded(x if visible is None else x.multiply(visible).tocsr(), match)
        pooled = [Mean()(h, keep)]
        for layer in self._layers():
            h = layer(h, keep)
            pooled.append(Mean()(h, keep))
        return torch.cat(pooled, 1).numpy()

    @torch.no_grad()
    def tokens(self, x, match, *, depth, normalised=False):
        h, keep = self._embedded(x, match)
        for layer in self._layers()[: self.n_layers - depth]:
            h = layer(h, keep)
        return h.half().numpy(), keep.numpy()

    def top_layers(self, depth):
        layers = self._layers()[self.n_layers - depth :]
        return TopLayers(layers, Mean(), d_model=D_MODEL, lora_targets=("query", "value"), kind="transformers")


class Blocks(Backbone):
    """Four blocks of log counts of genes, of which the third tells types and the others are noise; no layers."""

    name, n_pooled, n_features = "blocks", 4, 40

    def __init__(self, scale: float = 1.0):
        super().__init__()
        self.vocabulary, self.scale = GeneVocabulary(SYMBOLS, ("",) * N_GENES), scale
        self.freeze()

    def config(self):
        return {"scale": self.scale}

    def encode(self, x, match, *, visible=None, normalised=False):
        x = np.log1p(np.asarray(x.todense()) * (1.0 if visible is None else visible))
        noise = np.random.default_rng(int(x[:, 0].sum())).normal(size=(len(x), 40))
        noise[:, 20:30] = x[:, :10]
        noise[:, :10] *= self.scale
        return noise.astype(np.float32)


register_backbone("tiny-mini", tiny_mini)
register_backbone("tiny-bert", TinyBert)
register_backbone("blocks", Blocks)


@pytest.fixture(scope="session")
def few_genes():
    """160 cells of 3 types in 2 batches, 60 genes; half of the labels are hidden."""
    adata = more.data.simulate_batches(160, N_GENES, 3, 2, gene_names=SYMBOLS, markers=0.5, seed=1)
    hidden = np.random.default_rng(0).random(adata.n_obs) < 0.5
    adata.obs["label"] = np.where(hidden, "Unknown", adata.obs["cell_type"].astype(str))
    return adata


# without weight decay a parameter moves only if it had a gradient
FIT = {"accelerator": "cpu", "enable_progress_bar": False, "batch_size": 80, "plan_kwargs": {"weight_decay": 0.0}}


@pytest.fixture(scope="session")
def make_model(few_genes):
    """Builds a model on a copy of the cells; trains it unless ``epochs`` is None."""

    def make(backbone="tiny-mini", epochs=None, **kwargs):
        adata = few_genes.copy()
        more.MoRE.setup_anndata(adata, batch_key="batch", labels_key="label")
        model = more.MoRE(adata, backbone=backbone, seed=0, n_variable=60, n_components=10, n_wide=20, **kwargs)
        if epochs is not None:
            model.train(max_epochs=epochs, **FIT)
        return model

    return make


@pytest.fixture(scope="session")
def tiny_sizes():
    return {"d": D_MODEL, "layers": N_LAYERS, "features": 8, "tokens": 4}


@pytest.fixture(scope="session")
def make_multi(few_genes):
    """Builds a model of RNA and twelve antibodies on the same cells; trains it unless ``epochs`` is None."""

    def make(epochs=None, **kwargs):
        rna = few_genes.copy()
        adt = ad.AnnData(sp.csr_matrix(np.random.default_rng(1).poisson(few_genes.X[:, :36:3].toarray() * 4 + 1.0)))
        adt.obs_names, adt.var_names = rna.obs_names, [f"adt{i}" for i in range(adt.n_vars)]
        with no_pull():
            mdata = MuData({"rna": rna, "adt": adt[::-1].copy()})
        for key in ("batch", "label"):
            mdata.obs[key] = rna.obs[key].reindex(mdata.obs_names).to_numpy()
            del mdata["rna"].obs[key]
        more.MoRE.setup_mudata(mdata, {"rna": "rna", "protein": "adt"}, batch_key="batch", labels_key="label")
        model = more.MoRE(mdata, backbone=None, seed=0, n_variable=60, n_components=10, n_wide=20, **kwargs)
        if epochs is not None:
            model.train(max_epochs=epochs, **FIT)
        return model

    return make


@pytest.fixture(scope="session")
def demo_cells():
    """Real cells and a simulated platform."""
    adata = more.data.load_demo()
    adata.obs["truth"] = adata.obs["cell_type"].astype(str)
    return adata


@pytest.fixture(scope="session")
def demo_model(demo_cells):
    """Trained on every other one of them; to be asked only."""
    adata = demo_cells[::2].copy()
    more.MoRE.setup_anndata(adata, batch_key="platform", labels_key="cell_type")
    model = more.MoRE(adata, seed=0)
    model.train(max_epochs=20, loss_weights="fast", accelerator="cpu", enable_progress_bar=False)
    return model
