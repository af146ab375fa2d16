"""Files and folders that are there complete or not at all, on the disk and not only in memory."""

from medpretrain3d.atomic.finished import finished_file, finished_folder, write_text
from medpretrain3d.atomic.leftovers import put_back, remove_unfinished
from medpretrain3d.atomic.lock import locked, locked_folder
from medpretrain3d.atomic.tail import write_tail

__all__ = [
    "finished_file",
    "finished_folder",
    "locked",
    "locked_folder",
    "put_back",
    "remove_unfinished",
    "write_tail",
    "write_text",
]
