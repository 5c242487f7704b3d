import contextlib
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from ._shared import Json, show


def doctor(as_json: Json = False) -> None:
    """Show versions, devices and backbones: what a bug report should hold."""
    with contextlib.redirect_stdout(sys.stderr):
        import torch

        from more_scvi.backbones._registry import get_backbone, list_backbones

        mini = get_backbone("more-mini")
    packages = ("more-scvi", "scvi-tools", "torch", "lightning", "anndata", "mudata", "scanpy", "numpy", "scib-metrics")
    summary: dict[str, Any] = {"python": platform.python_version(), "platform": platform.platform()}
    for package in packages:
        try:
            summary[package] = version(package)
        except PackageNotFoundError:
            summary[package] = "not installed"
    summary["devices"] = ["cpu", *(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))]
    summary["backbones"] = list(list_backbones())
    summary["more-mini"] = {"fingerprint": mini.fingerprint()[:16], "parameters": mini.n_parameters()}
    show(summary, as_json)
