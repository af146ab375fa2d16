"""Files of JSON are written in one way, by `documents.json_text`, so that none holds a NaN, which is no JSON."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]
NO_FILE = {
    "json_file.py": 3,  # the one way itself, and a look at characters
    "plan.py": 2,  # plain data, and keys
    "model_card.py": 1,  # a line of Markdown
    "run_checkpoint.py": 1,  # plain data, as is the next
    "completeness.py": 1,
    "peers.py": 1,  # a message, as are the next
    "rendezvous.py": 2,
    "check_processes.py": 2,
    "finished_cases.py": 1,  # plain data
    "sidecar.py": 2,  # bytes to hash, as are the next
    "prepare_case.py": 1,
    "index.py": 1,
    "registration.py": 1,
    "validation_detections.py": 1,
}
"""Where `json.dumps` makes no file, and how often."""


def test_no_file_of_json_is_written_past_json_text():
    found: Counter[str] = Counter()
    for folder in ("src", "pretrain", "finetune"):
        for path in (ROOT / folder).rglob("*.py"):
            code = re.sub(r"^ *(>>>|\.\.\.) .*$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE)  # examples
            found[path.name] += len(re.findall(r"json\.dumps?\(", code))
    assert {name: number for name, number in found.items() if number} == NO_FILE
