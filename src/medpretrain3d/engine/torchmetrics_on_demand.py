"""torchmetrics without what Lightning does not use of it.

Lightning needs two classes, `Metric` and `MetricCollection`. Their package imports all its metrics when it is imported,
and with them torchvision, scipy.signal and scipy.stats: a fifth of the CPU time that a stage takes to start.
"""

from __future__ import annotations

import logging
import sys
from importlib import import_module, metadata
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any

PACKAGE = "torchmetrics"
NEEDED = {"Metric": f"{PACKAGE}.metric", "MetricCollection": f"{PACKAGE}.collections"}
"""Module of each class that Lightning asks the package for."""


class _OnDemand(ModuleType):
    """The package before its own code has run, which it does when anything but `NEEDED` or a submodule is asked for."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(f"module {PACKAGE!r} has no attribute {name!r}")
        if name in NEEDED:
            try:
                import_module(f"{PACKAGE}.utilities")  # first, as the package does: it and `metric` import each other
                setattr(self, name, getattr(import_module(NEEDED[name]), name))
                return self.__dict__[name]
            except ImportError:  # of a version that is built otherwise: all of it, then
                pass
        self.__class__ = ModuleType  # type: ignore[assignment]  # from now on an ordinary module
        assert self.__spec__ is not None
        assert self.__spec__.loader is not None
        self.__spec__.loader.exec_module(self)
        return getattr(self, name)


def take_torchmetrics_on_demand() -> None:
    """Let the package be imported without its metrics; too late, and without effect, where it was imported before."""
    if PACKAGE in sys.modules or (spec := find_spec(PACKAGE)) is None:
        return
    package = module_from_spec(spec)
    package.__class__ = _OnDemand
    package.__version__ = metadata.version(PACKAGE)  # type: ignore[attr-defined]  # a module's
    package._logger = logging.getLogger(PACKAGE)  # type: ignore[attr-defined]  # which its modules import from it
    sys.modules[PACKAGE] = package
