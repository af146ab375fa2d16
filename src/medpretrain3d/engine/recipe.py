"""Recipes: the YAML that configures a run, looked at before jsonargparse follows its aliases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from jsonargparse import get_loader, set_loader

from medpretrain3d.documents import check_yaml, read_text
from medpretrain3d.documents.yaml_file import MAX_BYTES
from medpretrain3d.errors import UserError
from medpretrain3d.moved import with_current_class_paths

_load = get_loader("yaml")


def check_recipe(path: Path) -> None:
    """Refuse a file that is no recipe; whether its keys and values are known is the parser's affair.

    Raises:
        UserError: the file is missing or too large, no YAML in UTF-8, gives a key twice, is nested too deeply, grows
            when its aliases are followed, or is no mapping.
    """
    text = read_text(path, "give a recipe such as those in configs/", MAX_BYTES)
    try:
        document = load_recipe(text)
    except yaml.YAMLError as error:
        raise UserError(f"{path}: is not valid YAML ({' '.join(str(error).split())}); mend it") from error
    if not isinstance(document, dict):
        raise UserError(f"{path}: holds a {type(document).__name__}, wanted keys and values as in configs/; mend it")


def load_recipe(text: str) -> Any:
    """What jsonargparse makes of a text, if it is one that stays small.

    Raises:
        YAMLError: see `check_yaml`, or a value that its tag does not fit.
    """
    check_yaml(text)
    try:
        return with_current_class_paths(_load(text))
    except (ValueError, TypeError, AttributeError, OverflowError, KeyError) as error:
        raise yaml.YAMLError(f"a value cannot be read ({error})") from error


set_loader("yaml", load_recipe, (yaml.YAMLError,))
