"""The page of answers: each a sentence that a rule makes from the numbers, so that it stays true when they change."""

import numpy as np
from catalogue import BACKBONES, COLUMNS, DATASETS, REGIMES, SHORT, TEXTS
from frame import markdown
from gathered import OURS, Results, interval, marked, number, probability, signed

from more_scvi.evaluation._compare import Comparison

LOSS = 0.01
"""A row counts as lost if MoRE is further behind the best peer."""
JUDGED = ("annotation", "LR", "CiLISI", "structure")
"""Figures that a loss term may be kept for; the dimension is shown, but more is not always better."""
NOISE = {"LR": (0.0, 0.05), "novelty_kNN": (0.5, 0.05), "FOSCTTM": (0.5, 0.05), "structure": (0.0, 0.05)}
MUST = {"onehot-LR": {"structure": (0.0, 0.2), "novelty_kNN": (0.5, 0.1)}, "random": NOISE, "shuffled": NOISE}
"""Control → figure → chance, and how far from it the mean may be; macro-F1 (LR) has a chance in every row."""
VERDICT = {True: "as it must be", False: "**not as it must be**"}


def answers(results: Results) -> str:
    """The whole page."""
    questions = {
        "Does the pre-trained backbone help?": _backbone,
        "Which parts of the loss earn their place?": _losses,
        "Where does MoRE lose, and to whom?": _defeats,
        "Does it mix batches without bending the data?": _mixing,
        "Do the controls behave?": _controls,
    }
    parts = [part for question, answer in questions.items() for part in (f"## {question}", answer(results))]
    return "\n\n".join(["# Answers", TEXTS["answers"], *parts]) + "\n"


def say(found: Comparison | None, subject: str, other: str) -> str:
    """The comparison as a sentence without its full stop."""
    if found is None:
        return f"{subject} against {other}: not measured yet"
    verdict, gain = found.verdict(), found.difference
    if verdict in ("better", "worse"):
        return f"{subject} is **{verdict}** than {other} by {number(abs(gain))} in the mean ({evidence(found)})"
    words = f"{subject} is level with" if verdict == "level" else f"no reliable difference between {subject} and"
    return f"{words} {other} ({signed(gain)}, {evidence(found)})"


def evidence(found: Comparison) -> str:
    won, tied, lost = found.tally()
    certain = "too few data sets for an interval" if found.interval is None else f"95 % {interval(found)}"
    return f"{certain}; won {won}, level {tied}, lost {lost} of {found.n_rows} row{'s' * (found.n_rows != 1)}"


def _backbone(results: Results) -> str:
    lines, rows, missing = [], [], []
    for regime in REGIMES:
        found = {name: results.compare(name, regime.metric, regime) for name in BACKBONES}
        if not any(found.values()):
            missing.append(regime.words)
            continue
        said = [say(found[name], "pre-training", words) for name, words in BACKBONES.items()]
        lines.append(f"- **{regime.words[0].upper()}{regime.words[1:]}**: {'; '.join(said)}.")
        for name, of in ((name, of) for name, of in found.items() if of):
            row = {"regime": regime.words, "without": BACKBONES[name], "figure": COLUMNS[regime.metric]}
            row |= {"rows": of.n_rows, "Δ": signed(of.difference), "95 %": interval(of), "p": probability(of)}
            more = {m: results.compare(name, m, regime) for m in JUDGED[1:]}
            row |= {"r": number(of.effect, 2)} | {f"Δ {m}": signed(c and c.difference) for m, c in more.items()}
            rows.append(row)
    lines += [f"- Not measured yet: {'; '.join(missing)}."] if missing else []
    return "\n".join(lines) + (f"\n\n{TEXTS['answers_backbone']}\n\n{markdown(rows)}" if rows else "")


def _losses(results: Results) -> str:
    rows = []
    for name in [name for name in results.variants if name not in BACKBONES]:
        found = {metric: results.compare(name, metric) for metric in (*JUDGED, "dimension")}
        if (first := found["annotation"]) is not None:
            row = {"variant": f"`{name}`", "rows": first.n_rows, "splits": len(first.splits)}
            rows.append(row | {f"Δ {COLUMNS[m]}": marked(of, 1 if m == "dimension" else 3) for m, of in found.items()})
    return f"{TEXTS['answers_losses']}\n\n{markdown(rows)}" if rows else "Not measured yet."


def _defeats(results: Results) -> str:
    """The best peer of a row is picked with hindsight, which is hard on MoRE where many peers are close together."""
    lines, lost = [], []
    for metric in ("annotation", "novelty", "rare", "pearson", "FOSCTTM"):
        best = results.best_peers(metric)
        if best.empty:
            lines.append(f"- **{COLUMNS[metric]}**: not measured yet.")
            continue
        behind, ahead = best[best["gain"] < -LOSS], int((best["gain"] > LOSS).sum())
        rows = f"{len(best)} row{'s' * (len(best) != 1)}"
        lines.append(
            f"- **{COLUMNS[metric]}**: against the best peer of each of {rows}, MoRE is ahead by more "
            f"than {number(LOSS, 2)} in {ahead}, within it in {len(best) - ahead - len(behind)}, behind in "
            f"{len(behind)} ({signed(best['gain'].mean())} in the mean)."
        )
        for of in behind.itertuples():
            row = {"behind by": number(-of.gain), "data set": of.dataset, "protocol": of.protocol}
            row |= {"figure": COLUMNS[metric], "MoRE": number(of.ours), "best": number(of.other)}
            lost.append((of.gain, row | {"which": f"`{of.best}`", "splits": of.n_splits}))
    table = markdown([row for _, row in sorted(lost, key=lambda one: one[0])]) if lost else ""
    return "\n".join(lines) + f"\n\nEvery row that is lost by more than {number(LOSS, 2)}:\n\n{table}" * bool(lost)


def _mixing(results: Results) -> str:
    means = []
    for metric, one in (("CiLISI", "as mixed as by chance"), ("structure", "unchanged")):
        of = results.values(OURS, metric)
        if of.empty:
            return "Not measured yet."
        means.append(f"{metric} {number(of.mean())} ({number(of.min())} to {number(of.max())}; 1 is {one})")
    both: dict[str, list[str]] = {"better": [], "worse": []}
    for other in (method for method in results.peers if method not in SHORT):
        found = [results.compare(other, metric) for metric in ("CiLISI", "structure")]
        verdicts = {of.verdict() if of else "not measured" for of in found}
        both.get(verdicts.pop() if len(verdicts) == 1 else "", []).append(f"`{other}`")
    said = [f"{verdict} at both than {', '.join(names) or 'none'}" for verdict, names in both.items()]
    return f"MoRE, mean over rows: {' and '.join(means)}. It is reliably {' and '.join(said)} of its peers."


def _controls(results: Results) -> str:
    lines = []
    for name, figures in MUST.items():
        said, fine = [], True
        for metric, (chance, margin) in figures.items():
            values = results.values(name, metric)
            values = values[[dataset in DATASETS for dataset, _ in values.index]]
            if metric == "LR" and len(values):  # in every row at most what guessing gives
                guessed = np.array([1 / DATASETS[dataset].types for dataset, _ in values.index])
                chance, fine = guessed.mean(), fine and bool((values <= guessed + margin).all())
            fine = fine and not bool(abs(values.mean() - chance) > margin)
            words = "macro-F1" if metric == "LR" else COLUMNS[metric]
            said += [f"{words} {number(values.mean())} (chance {number(chance)})"] if len(values) else []
        lines.append(f"- `{name}`: {'; '.join([*said, VERDICT[fine]]) if said else 'not measured yet'}.")
    if (leak := results.against_best("annotation", ours="LEAK")) is None:
        return "\n".join([*lines, "- `LEAK`: not measured yet."])
    sure = f"by {number(leak.difference)} ({evidence(leak)}); {VERDICT[bool(leak.rows['difference'].min() > 0)]}."
    return "\n".join([*lines, f"- `LEAK`, which was given the hidden labels, is ahead of the best of each row {sure}"])
