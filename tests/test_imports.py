"""What is imported at the start is left alone by the garbage collector."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest

from medpretrain3d.imports import uncollected_imports


@pytest.mark.parametrize("is_on", [True, False])
def test_nothing_is_collected_meanwhile_and_then_as_before(is_on):
    assert gc.isenabled()
    try:
        (gc.enable if is_on else gc.disable)()
        with uncollected_imports():
            assert not gc.isenabled()
        assert gc.isenabled() == is_on
        with pytest.raises(ImportError), uncollected_imports():
            raise ImportError
        assert gc.isenabled() == is_on
    finally:
        gc.enable()


def test_a_command_is_imported_so():
    code = (
        "import gc\n"
        "from medpretrain3d.cli import command_module\n"
        "command_module('evaluate')\n"
        "frozen = gc.get_freeze_count()\n"
        "command_module('evaluate')\n"
        "print(gc.isenabled(), frozen > 100_000, gc.get_freeze_count() == frozen)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True", "True"]
