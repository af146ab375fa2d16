"""What pyproject.toml cannot say: a wheel holds the stages and the recipes below the package, in `programs/`.

At the top of site-packages modules called `pretrain` and `finetune` would be in everyone's way. An editable
installation finds them in the checkout (`medpretrain3d.command_line.installation`).
"""

from __future__ import annotations

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
PROGRAMS = Path("medpretrain3d", "programs")


class BuildWithPrograms(build_py):
    """Copies `pretrain/`, `finetune/` and `configs/` beside the modules of the package."""

    def run(self) -> None:
        """Build, then copy."""
        super().run()
        if self.editable_mode:
            return
        for source, target in self._programs().items():
            self.mkpath(str(Path(target).parent))
            self.copy_file(source, target)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        """Everything that is built."""
        return [*super().get_outputs(include_bytecode), *([] if self.editable_mode else self._programs().values())]

    def _programs(self) -> dict[str, str]:
        """Files of the checkout and where they go."""
        patterns = ("pretrain/*.py", "finetune/*.py", "configs/*/*")
        files = [file for pattern in patterns for file in sorted(HERE.glob(pattern)) if file.is_file()]
        return {str(file): str(Path(self.build_lib) / PROGRAMS / file.relative_to(HERE)) for file in files}


setup(cmdclass={"build_py": BuildWithPrograms})
