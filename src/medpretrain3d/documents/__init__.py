"""Documents: the text, JSON, YAML and CSV that files hold, read and written in one way, in bounded time and memory.

Whatever is wrong with a file is one `UserError` that begins with its path. What a JSON file has to hold is written down
as a `TypedDict`, so a value of another type is found when the file is read and not where it is used.
"""

from medpretrain3d.documents.artifact import Artifact
from medpretrain3d.documents.json_file import json_text, parse_json, read_json
from medpretrain3d.documents.schema import SCHEMA, CaseId, Name, Number, Numbers, Text, Triple, Whole, checked
from medpretrain3d.documents.table import NA_VALUES, Row, csv_text, read_rows, read_table
from medpretrain3d.documents.text import LARGE, SMALL, read_bytes, read_text
from medpretrain3d.documents.yaml_file import check_yaml, parse_yaml, read_yaml

__all__ = [
    "LARGE",
    "NA_VALUES",
    "SCHEMA",
    "SMALL",
    "Artifact",
    "CaseId",
    "Name",
    "Number",
    "Numbers",
    "Row",
    "Text",
    "Triple",
    "Whole",
    "check_yaml",
    "checked",
    "csv_text",
    "json_text",
    "parse_json",
    "parse_yaml",
    "read_bytes",
    "read_json",
    "read_rows",
    "read_table",
    "read_text",
    "read_yaml",
]
