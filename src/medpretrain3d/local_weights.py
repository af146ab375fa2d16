"""Released weights that lie on this machine: where those of a hub are looked for before the network is asked."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path("pretrained")
"""Of what is called `owner/name`: `pretrained/<owner>/<name>/`."""


def local_weights(hub_id: str) -> Path:
    """Return where a checkpoint of a hub belongs, `owner/name` or `owner/name/file`, whether it is there or not."""
    return FOLDER.joinpath(*hub_id.split("/"))
