"""Pseudonyms of patients that headers name: one patient has the same one in every folder, store and call."""

from __future__ import annotations

import functools
import hashlib

_PREFIX = "dicom-"
_SALT = b"medpretrain3d patient of a DICOM header"
_ROUNDS = 100_000
"""30 ms of a core for each patient, and for each guess. Not scrypt, which machines in FIPS mode do not have, since all
have to find the same."""


@functools.cache
def pseudonym_of(identifier: str) -> str:
    """Return the pseudonym of an identifier, as `PatientID`.

    It does not show the identifier, but whoever has identifiers can look for them, and all of eight digits are tried in
    35 days of one core or far less on GPUs: it stops who happens to look, not who means to find a patient.
    """
    content = identifier.encode("utf-8", "surrogateescape")
    return f"{_PREFIX}{hashlib.pbkdf2_hmac('sha256', content, _SALT, _ROUNDS, dklen=8).hex()}"


def is_of_a_header(patient: str) -> bool:
    """Return whether a name of a patient is such a pseudonym, which means the same patient in every store."""
    return patient.startswith(_PREFIX)
