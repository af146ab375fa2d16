"""Results stored in an archive through DICOMweb, as docs/howto/dicom.md has it: an Orthanc on this machine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pydicom
import pytest

from medpretrain3d.inference.writers import write_case
from tests.dicom_files import AXIAL, write_scan
from tests.inference.test_dicom_results import CLASSES, VOXELS, prediction

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Whatever proxy this machine has knows nothing of it."""
FIRST_PORT, NUM_PORTS, START_S = 18042, 8, 60
"""Below what the kernel hands out."""


def _missing() -> str:
    if shutil.which("Orthanc") is None or not PLUGIN.is_file():
        return "Orthanc and its DICOMweb plugin are not installed (Debian: orthanc, orthanc-dicomweb)"
    try:
        import dicomweb_client  # noqa: F401  # only whether it is there
    except ImportError:
        return "dicomweb-client is not installed"
    return ""


pytestmark = pytest.mark.skipif(bool(_missing()), reason=_missing() or "all there")


@pytest.fixture
def archive(tmp_path):
    """Address of a new Orthanc's DICOMweb."""
    for port in range(FIRST_PORT + os.getpid() % 100 * NUM_PORTS, FIRST_PORT + (os.getpid() % 100 + 1) * NUM_PORTS):
        config = tmp_path / f"{port}.json"
        config.write_text(
            json.dumps(
                {
                    "StorageDirectory": str(tmp_path / f"storage{port}"),
                    "IndexDirectory": str(tmp_path / f"storage{port}"),
                    "Plugins": [str(PLUGIN)],
                    "HttpPort": port,
                    "DicomServerEnabled": False,
                    "RemoteAccessAllowed": False,
                    "AuthenticationEnabled": False,
                }
            )
        )
        server = subprocess.Popen(["Orthanc", config], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            if _answers(server, f"http://127.0.0.1:{port}/system"):
                yield f"http://127.0.0.1:{port}/dicom-web"
                return
        finally:
            server.terminate()
            server.wait(30)
    pytest.fail("no Orthanc could be started")


def _answers(server: subprocess.Popen, address: str) -> bool:
    began = time.monotonic()
    while server.poll() is None and time.monotonic() - began < START_S:
        try:
            with DIRECT.open(address, timeout=5) as answer:
                return b"ApiVersion" in answer.read()
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    return False


def test_results_are_stored_beside_their_scan(archive, tmp_path):
    source = write_scan(tmp_path / "ct", VOXELS)
    write_case(tmp_path / "out", CLASSES, prediction(source, AXIAL), ["dicom-seg", "dicom-sr"])
    files = [*sorted(source.glob("*.dcm")), *sorted((tmp_path / "out").rglob("*.dcm"))]
    call = [Path(sys.executable).parent / "dicomweb_client", "--url", archive, "store", "instances", *files]
    done = subprocess.run(call, capture_output=True, env={**os.environ, "NO_PROXY": "127.0.0.1"})
    assert done.returncode == 0, done.stderr.decode()
    with DIRECT.open(f"{archive}/studies/1.2/instances", timeout=30) as answer:
        stored = json.loads(answer.read())
    modalities = [one["00080060"]["Value"][0] for one in stored]
    assert sorted(modalities) == ["CT"] * VOXELS.shape[2] + ["SEG", "SR"]
    ours = {str(pydicom.dcmread(path, specific_tags=["SOPInstanceUID"]).SOPInstanceUID) for path in files}
    assert {one["00080018"]["Value"][0] for one in stored} == ours
