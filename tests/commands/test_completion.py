from __future__ import annotations

import subprocess

import pytest

from medpretrain3d import cli

COMPLETE = """
. {script}
COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); COMPREPLY=()
$(complete -p medpretrain3d | sed 's/.*-F \\([^ ]*\\).*/\\1/')
echo ${{COMPREPLY[*]}}
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("completion") / "medpretrain3d.bash"
    with pytest.MonkeyPatch.context() as patch:
        printed: list[str] = []
        patch.setattr("builtins.print", lambda text, **_: printed.append(text))
        assert cli.main(["completion", "bash"]) == 0
    path.write_text("\n".join(printed))
    return path


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("pretr", "pretrain"),
        ("predict --ove", "--overlap"),
        ('predict --merge ""', "nms wbc distance"),
        ("finetune --config luna16_", "luna16_from_pn9"),
        ("pretrain --model.objective Sim", "SimCLR SimMIM"),
        ("pretrain --trainer.max_s", "--trainer.max_steps"),
        ("study pl", "plan"),
        ("study run ope", "openkbp openkbp_precision"),
    ],
)
def test_tab_completes_commands_options_choices_recipes_and_classes(script, words, completed):
    code = COMPLETE.format(script=script, words=f"medpretrain3d {words}")
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == completed.split()
