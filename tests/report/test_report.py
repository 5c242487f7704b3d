"""The page and its twin say what the inputs say, and the page needs nothing else."""

import base64
import json
import os
import re
import shutil
import signal
import subprocess
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import anndata
import mudata
import numpy as np
import pandas as pd
import pytest
from matplotlib.cbook import is_math_text
from matplotlib.figure import Figure
from matplotlib.text import Text

from more_scvi._compat import no_pull
from more_scvi.data import simulate_batches
from more_scvi.evaluation import Split
from more_scvi.report import add_umaps, write_report
from more_scvi.report._figures import pictures
from more_scvi.report._summary import summarise

from .conftest import SCORES, made_up, tidy

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Page(HTMLParser):
    """Text by heading, tables as lists of rows, attributes of images and links."""

    def __init__(self, html):
        super().__init__()
        self.headings, self.tables, self.images, self.links, self.problems = [], [], [], [], []
        self._open, self._cell = [], None
        self.feed(html)
        assert not self._open, f"not closed: {self._open}"

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag not in ("meta", "link", "img", "br"):
            self._open.append(tag)
        if tag == "img":
            self.images.append(attrs)
        if "href" in attrs:
            self.links.append(attrs["href"])
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("th", "td"):
            self.tables[-1][-1].append("")
            self._cell = tag
        if tag in ("h1", "h2", "h3"):
            self.headings.append("")
            self._cell = tag

    def handle_endtag(self, tag):
        assert self._open.pop() == tag
        if tag == self._cell:
            self._cell = None

    def handle_data(self, data):
        if self._cell in ("th", "td"):
            self.tables[-1][-1][-1] += data.strip()
        elif self._cell:
            self.headings[-1] += data


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    return write_report(made_up(), tmp_path_factory.mktemp("report") / "report.html")


@pytest.fixture(scope="module")
def report(paths):
    """The page as text and its twin."""
    return paths[0].read_text(encoding="utf-8"), json.loads(paths[1].read_text())


def test_page_and_twin_lie_side_by_side_and_nothing_else(paths):
    assert sorted(path.name for path in paths[0].parent.iterdir()) == ["report.html", "report.json"]


def test_page_has_its_sections_tables_and_pictures(report):
    page = Page(report[0])
    for heading in ("How well does MoRE work on blood?", "Which types are found", "What it costs", "Make it again"):
        assert heading in page.headings
    assert len(page.images) == 9
    for image in page.images:
        assert len(image["alt"]) > 20
        assert base64.b64decode(image["src"].removeprefix("data:image/png;base64,")).startswith(b"\x89PNG")
        assert int(image["width"]) > 200 and int(image["height"]) > 100
    anchors = set(re.findall(r'id="([^"]+)"', report[0]))
    assert {link[1:] for link in page.links if link.startswith("#")} <= anchors


def test_page_asks_for_nothing_from_elsewhere(report):
    assert not re.findall(r"""(?:src|href|url|action)\s*[=(]\s*["']?(?:https?:)?//""", report[0])
    assert not re.search(r"<script|@import|<iframe|<link(?! rel=\"icon\" href=\"data:,\")", report[0])


def test_methods_are_ranked_and_controls_stand_apart(report):
    page = Page(report[0])
    s1, s2a = page.tables[:2]
    assert [row[0] for row in s1] == ["method", "more", "lr_hvg", "pca", "controls", "LEAK:more", "onehot-LR", "random"]
    assert s1[0][1:] == ["F1 own", "F1 probe", "F1 15-NN", "CiLISI", "structure", "splits"]
    assert s1[1][1].startswith("0.86") and "0.86 to 0.87" in s1[1][1]
    assert s2a[3][2].startswith("0.69")  # pca, probe
    assert s1[2][2] == "–"  # a classifier has no probe
    controls = report[0].split('<tbody class="controls">')[1].split("</tbody>")[0]
    assert "random" in controls and 'class="more"' not in controls


def test_the_best_of_a_column_is_never_a_control(report):
    best = re.findall(r'<th scope="row">([^<]+)</th>((?:(?!</tr>).)*class="best")', report[0], re.DOTALL)
    assert {name for name, _ in best} == {"more", "pca"}


def test_methods_that_score_alike_are_both_the_best():
    given = made_up()
    alike = tidy({**SCORES, "lr_hvg": (0.858, None, None, None, None)})
    protocol = summarise(replace(given, table=alike))["protocols"]["S1"]
    assert sorted(protocol["best"]["own"]) == ["lr_hvg", "more"]


def test_twin_holds_scores_types_confusions_and_split(report, inputs):
    twin = report[1]
    assert twin["data"] == {
        "name": "blood",
        "cells": 200,
        "features": {"rna": 30},
        "batches": 2,
        "types": 4,
        "unlabelled": 0,
    }
    more = next(row for row in twin["protocols"]["S1"]["methods"] if row["method"] == "more")
    assert more["scores"]["own"] == pytest.approx({"mean": 0.865, "min": 0.86, "max": 0.87})
    assert (twin["shown"]["hidden"], twin["shown"]["scored"], twin["shown"]["correct"]) == (100, 100, 95)
    assert sum(sum(row.values()) for row in twin["confusion"].values()) == 100
    assert sum(row["n"] for row in twin["per_type"].values()) == 100
    assert Split.from_json(twin["split"]) == inputs.split
    assert twin["diagnosis"]["checks"][0]["check"] == "too_short"
    assert twin["versions"] == {"python": "3.12.1", "torch": "2.5.0"}
    assert len(twin["splits"]) == 4 and twin["splits"][-1]["held_out"] == "batch1"
    cost = {row["method"]: row for row in twin["cost"]}
    assert cost["more"]["seconds"] == pytest.approx(3.5) and cost["more"]["trained"] == 1000
    assert cost["pca"]["trained"] is None


def test_f1_per_type_is_that_of_scikit_learn(report, inputs):
    from sklearn.metrics import f1_score

    on, types = inputs.scored, sorted(report[1]["per_type"])
    expected = f1_score(inputs.labels[on], inputs.prediction[on], labels=types, average=None)
    np.testing.assert_allclose([report[1]["per_type"][name]["f1"] for name in types], expected)


def test_what_comes_from_the_data_cannot_break_the_page(inputs, tmp_path):
    evil = "<script>alert(1)</script>"
    inputs.adata.obs["cell_type"] = inputs.adata.obs["cell_type"].astype(str).replace("type0", evil)
    inputs = replace(inputs, name='"><b>', command="x && <i>")
    html = write_report(inputs, tmp_path / "report.html")[0].read_text()
    assert evil not in html and "<i>" not in html and '"><b>' not in html
    assert "&lt;script&gt;" in html
    Page(html)


UGLY = {
    "type0": '<b>bold</b> & "quoted"',
    "type1": "$\\frac{$",
    "type2": "_a$x_{1}$",
    "type3": "CD4-positive, αβ memory T cell of the lamina propria; donor's `1` </td></table>" * 2,
    "pca": "obsm:$x$<i>&'_",
    "batch0": "_first <img src=x onerror=alert(1)>",
    "batch1": "$\\badmacro$ & co",
    "blood": "</title><script>alert(1)</script>",
}


class Tags(HTMLParser):
    """Start tags of a page and their attributes, without values, and all of its text."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, *(name for name, _ in attrs)))

    def handle_data(self, data):
        self.text += data


def test_any_name_is_shown_as_text(inputs, report, tmp_path, monkeypatch):
    """Nothing in a name makes an element or an attribute, and no figure reads one as a formula."""
    ugly = inputs.adata
    for key in ("cell_type", "batch"):
        ugly.obs[key] = ugly.obs[key].astype(str).replace(UGLY)
    inputs.result.prediction = np.array([UGLY[name] for name in inputs.result.prediction], dtype=object)
    records = [{**r, "method": UGLY.get(r["method"], r["method"])} for r in inputs.records]
    records = [{**r, "held_out": UGLY.get(r["held_out"])} for r in records]
    table = inputs.table.replace({"method": UGLY})
    save = Figure.savefig

    def checked(figure, *args, **kwargs):
        assert not [text for text in figure.findobj(Text) if is_math_text(text.get_text())]
        return save(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", checked)
    command = "more-scvi evaluate '<b>$x$&.h5ad'"
    inputs = replace(inputs, table=table, records=records, name=UGLY["blood"], command=command, notes=["<u>$"])
    page, twin = (path.read_text(encoding="utf-8") for path in write_report(inputs, tmp_path / "report.html"))
    found, plain = Tags(page), Tags(report[0])
    extra = Counter(found.tags) - Counter(plain.tags)
    assert extra == Counter({("p",): 1})  # of the note
    assert not Counter(plain.tags) - Counter(found.tags)
    for name in (*UGLY.values(), command):
        assert name in found.text
    assert set(json.loads(twin)["per_type"]) == {UGLY[f"type{i}"] for i in range(4)}
    Page(page)


def test_cells_without_a_label_are_neither_hidden_nor_scored(inputs):
    unlabelled = np.flatnonzero(inputs.split.hidden)[:10]
    labels = inputs.adata.obs["cell_type"].astype(str).to_numpy()
    labels[unlabelled] = "Unknown"
    inputs.adata.obs["cell_type"] = labels
    twin = summarise(inputs)
    assert twin["data"]["unlabelled"] == 10 and twin["data"]["types"] == 4
    assert (twin["shown"]["hidden"], twin["shown"]["scored"], twin["shown"]["correct"]) == (90, 90, 90)
    assert "Unknown" not in twin["per_type"]


def test_without_a_model_what_it_would_say_is_left_out(inputs, tmp_path):
    inputs.result.model = None
    page, twin = write_report(inputs, tmp_path / "report.html")
    parsed = Page(page.read_text())
    assert "How the model trained" not in parsed.headings and len(parsed.images) == 8
    assert json.loads(twin.read_text())["diagnosis"] is None


def test_several_modalities_show_their_weights(inputs, monkeypatch):
    cells = inputs.adata.obs_names
    protein = anndata.AnnData(np.ones((len(cells), 3), dtype=np.float32), obs=pd.DataFrame(index=cells))
    with no_pull():
        mdata = mudata.MuData({"rna": inputs.adata.copy(), "prot": protein})
    mdata.obs = inputs.adata.obs.copy()
    for key in ("X_umap_more", "X_umap_pca"):
        mdata.obsm[key] = inputs.adata.obsm[key]
    weights = pd.DataFrame({"rna": 0.75, "protein": 0.25}, index=cells)
    inputs.result.model.get_modality_weights = lambda: weights
    inputs = replace(inputs, adata=mdata)
    written = summarise(inputs)
    assert written["data"]["features"] == {"rna": 30, "prot": 3}
    assert set(written["modality_weights"]) == {"type0", "type1", "type2", "type3"}
    assert written["modality_weights"]["type0"] == pytest.approx({"rna": 0.75, "protein": 0.25})
    monkeypatch.setattr("more_scvi.report._figures._maps", lambda _: {})
    assert "mean weight of each modality" in pictures(inputs, written)["weights"].alt


def test_an_existing_report_is_replaced_whole_or_not_at_all(inputs, tmp_path):
    page, twin = tmp_path / "report.html", tmp_path / "report.json"
    page.write_text("old")
    twin.write_text("old")
    inputs.result.model.diagnose = lambda: 1 / 0
    with pytest.raises(ZeroDivisionError):
        write_report(inputs, page)
    assert page.read_text() == twin.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 2


def dying(real, counted, step, how, half=False):
    """A function that ends the process at the given step, after half of its work where it can be halved."""

    def call(*args):
        if next(counted) == step:
            if half:
                real(args[0], args[1][: len(args[1]) // 2])
            if how == "interrupted":
                raise KeyboardInterrupt
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args)

    return call


@pytest.mark.parametrize("how", ["killed", "interrupted"])
def test_who_dies_while_writing_leaves_whole_files(inputs, tmp_path, monkeypatch, how):
    """Killed, with half of a file written or before a rename, or stopped by Ctrl-C, which leaves no file beside."""
    monkeypatch.setattr("more_scvi.report._write.pictures", lambda *_: {})
    page, twin = tmp_path / "report.html", tmp_path / "report.json"
    new = [path.read_text() for path in write_report(inputs, page)]
    for step in range(20):
        page.write_text("old")
        twin.write_text("old")
        child = os.fork()
        if child == 0:
            counted = iter(range(1000))
            Path.write_bytes = dying(Path.write_bytes, counted, step, how, half=True)
            os.replace = dying(os.replace, counted, step, how)
            try:
                write_report(inputs, page)
            except KeyboardInterrupt:
                os._exit(1)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        assert page.read_text() in ("old", new[0]) and twin.read_text() in ("old", new[1])
        if how == "interrupted":
            assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.json"]
        if status == 0:
            break
        assert step >= 3 or page.read_text() == "old"  # nothing is renamed before all is written
    assert step == 4  # two writes, two renames, and none left


def test_inputs_that_do_not_fit_are_refused(inputs, tmp_path):
    with pytest.raises(KeyError, match=r"'louvain'.*cell_type"):
        replace(inputs, labels_key="louvain")
    with pytest.raises(ValueError, match="no method 'more'"):
        replace(inputs, table=tidy({"pca": SCORES["pca"]}))
    with pytest.raises(ValueError, match="'result': 3"):
        replace(inputs, result=SimpleNamespace(prediction=["a"] * 3))
    with pytest.raises(ValueError, match="classifier"):
        replace(inputs, result=SimpleNamespace(prediction=None))
    with pytest.raises(KeyError, match="add_umaps"):
        replace(inputs, adata=simulate_batches(200))
    with pytest.raises(ValueError, match=r"ends in \.html"):
        write_report(inputs, tmp_path / "report.pdf")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        write_report(inputs, tmp_path / "no" / "report.html")
    assert not list(tmp_path.iterdir())


def test_umaps_keep_groups_apart_and_the_seed_decides():
    adata = simulate_batches(60)
    groups = np.repeat([0, 1], 30)
    z = np.random.default_rng(0).normal(size=(60, 5)) + 20 * groups[:, None]
    add_umaps(adata, z, z[:, ::-1])
    xy = adata.obsm["X_umap_more"]
    within = np.linalg.norm(xy - xy[groups == 0].mean(0), axis=1)
    assert within[groups == 0].max() < within[groups == 1].min()
    again = simulate_batches(60)
    add_umaps(again, z, z[:, ::-1])
    np.testing.assert_array_equal(again.obsm["X_umap_more"], xy)


@pytest.mark.skipif(BROWSER is None, reason="no chromium or chrome on this machine")
def test_a_browser_shows_it_without_errors_and_without_the_network(paths, tmp_path):
    page = tmp_path / "probed.html"
    # the page reports what it loaded, after loading
    probe = """<script>addEventListener("load", () => {
      const images = [...document.images];
      document.title = JSON.stringify({
        broken: images.filter(i => !i.naturalWidth).length, images: images.length,
        fetched: performance.getEntriesByType("resource").map(e => e.name).filter(n => !n.startsWith("data:")),
        wide: document.documentElement.scrollWidth > innerWidth, errors: window.problems});
    })</script>"""
    catch = "window.problems = []; addEventListener('error', e => problems.push(String(e.message)), true)"
    html = paths[0].read_text().replace("</body>", probe + "</body>")
    html = html.replace("<head>", f"<head><script>{catch}</script>", 1)
    page.write_text(html)
    arguments = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=500,900", "--virtual-time-budget=5000"]
    command = [BROWSER, *arguments, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", Path(page).as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    title = re.search(r"<title>(.*?)</title>", done.stdout, re.DOTALL)[1]
    seen = json.loads(title.replace("&quot;", '"').replace("&amp;", "&"))
    assert seen == {"broken": 0, "images": 9, "fetched": [], "wide": False, "errors": []}
