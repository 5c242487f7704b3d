"""Whoever kills ``save(overwrite=True)``, at whatever moment: the folder holds the old model or the new one, whole."""

import os
import signal
import time

import numpy as np
import pandas as pd
import torch

import more_scvi as more

KILLS = 100


def mark(model, number):
    """Make all weights, and the curve that is written into the card, this number."""
    for parameter in model.module.parameters():
        parameter.data.fill_(number)
    model.history_ = {"mark": pd.DataFrame({"mark": [float(number)]}, index=pd.Index([0], name="epoch"))}


def read(folder):
    """The number of a saved model, all of which has to be of one save."""
    model = more.MoRE.load(folder, adata=False, accelerator="cpu")
    number = int(model.history_["mark"].iloc[0, 0])
    assert all(torch.all(parameter == number) for parameter in model.module.parameters())
    return number


def save_for(model, folder, seconds):
    """Save in a process that the system ends after so many seconds; whether it was ended."""
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process at once: no block of Python's is left
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            model.save(folder, overwrite=True)
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def test_a_save_that_is_killed_at_any_moment_leaves_one_whole_model(make_model, tmp_path):
    model = make_model(backbone=None)
    mark(model, 0)
    started = time.perf_counter()
    model.save(tmp_path)
    model.save(tmp_path, overwrite=True)
    usual = (time.perf_counter() - started) / 2
    rng, current, kills = np.random.default_rng(0), 0, 0
    for number in range(1, 10 * KILLS):
        mark(model, number)
        kills += save_for(model, tmp_path, usual * rng.uniform(0.01, 1.5))
        found = read(tmp_path)
        assert found in (current, number)
        current = found
        if kills == KILLS:
            break
    assert kills == KILLS
    mark(model, -1)
    model.save(tmp_path, overwrite=True)
    assert read(tmp_path) == -1
