"""`python -m tests.cluster.own_slurm COMMAND ...`: runs a command beside a SLURM of its own.

Two nodes on this machine, with folders, key and ports of their own on 127.0.0.1: no systemd, no control groups, nothing
of a SLURM that may be installed. Debian's packages are installed where they are missing and this is root. Whoever runs
it is the user of all jobs and daemons, which end with this process, however it ends.

The command sees `SLURM_CONF`; where no cluster can be had it runs all the same, with the reason in
`MEDPRETRAIN3D_NO_CLUSTER`. The exit code is the command's.
"""

from __future__ import annotations

import ctypes
import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

PACKAGES = ("munge", "slurmctld", "slurmd", "slurm-client")
CLIENTS = ("sbatch", "srun", "scontrol", "squeue", "scancel", "sinfo")
PROGRAMS = ("munged", "slurmctld", "slurmd", *CLIENTS)
NODES = ("one", "two")
START_S = 15.0
PORTS = (16817, 16917, 17017)
"""First of those of a cluster; below what the kernel hands out."""
NO_CLUSTER = "MEDPRETRAIN3D_NO_CLUSTER"

CONFIG = """
ClusterName=medpretrain3d
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmctldPort={ports[0]}
SrunPortRange={ports[10]}-{ports[90]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SchedulerType=sched/backfill
# Seconds in which a job would wait for nothing.
SchedulerParameters=batch_sched_delay=0,sched_interval=2,sched_min_interval=0,bf_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
# Nodes claim more than this machine has, so that jobs of real size can be tried out with `sbatch --test-only`.
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName=one NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=128 RealMemory=2000000 Gres=gpu:8 State=UNKNOWN
NodeName=two NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=128 RealMemory=2000000 Gres=gpu:8 State=UNKNOWN
PartitionName=all Nodes=one,two Default=YES MaxTime=INFINITE State=UP
"""


class NoCluster(Exception):
    """A SLURM cannot be installed or started here; the message says why."""


def main(command: Sequence[str]) -> int:
    """Run a command beside a cluster."""
    for signum in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, lambda number, _: sys.exit(128 + number))
    try:
        with own_slurm() as config:
            path = f"{config.parent / 'bin'}:{os.environ.get('PATH', os.defpath)}"
            return subprocess.run(command, env={**os.environ, "SLURM_CONF": str(config), "PATH": path}).returncode
    except NoCluster as error:
        line = "=" * 100
        print(f"{line}\nNO SLURM: the tests on a cluster are NOT RUN\n{error}\n{line}", flush=True)
        return subprocess.run(command, env={**os.environ, NO_CLUSTER: str(error)}).returncode


@contextmanager
def own_slurm() -> Iterator[Path]:
    """Start a cluster and stop it at the end.

    Yields:
        Its configuration, for `SLURM_CONF`.

    Raises:
        NoCluster: there cannot be one here.
    """
    _install()
    folder = Path(tempfile.mkdtemp(prefix="slurm."))
    config = folder / "slurm.conf"
    try:
        yield from _started(folder, config)
    finally:
        for pid in _of_cluster(config):
            os.kill(pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


def _started(folder: Path, config: Path) -> Iterator[Path]:
    folder.chmod(0o755)  # munged asks for it
    (folder / "state").mkdir()
    for number in range(8):
        (folder / f"gpu{number}").touch()  # devices are only counted
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(64))
    key.chmod(0o600)
    (folder / "bin").mkdir()
    for name in CLIENTS:  # Snakemake's jobs forget SLURM_CONF; of most clusters it lies where all look
        program = folder / "bin" / name
        program.write_text(f'#!/bin/sh\nSLURM_CONF={config} exec {_path(name)} "$@"\n', encoding="utf-8")
        program.chmod(0o755)
    (folder / "gres.conf").write_text(f"NodeName=one,two Name=gpu File={folder}/gpu[0-7]\n", encoding="utf-8")
    (folder / "cgroup.conf").write_text("CgroupAutomount=no\n", encoding="utf-8")
    daemons: list[subprocess.Popen[bytes]] = []
    environment = {**os.environ, "SLURM_CONF": str(config)}

    def start(*words: str) -> subprocess.Popen[bytes]:
        with (folder / "daemons.log").open("ab") as log:
            daemons.append(
                subprocess.Popen(
                    [_path(words[0]), *words[1:]],
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    preexec_fn=_end_with_parent,
                )
            )
        return daemons[-1]

    def ask(*words: str) -> str:
        done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60)
        return done.stdout

    try:
        munge = [f"--{name}-file={folder}/munge.{name}" for name in ("key", "pid", "log", "seed")]
        start("munged", "--foreground", "--force", f"--socket={folder}/munge.socket", *munge)
        _wait(folder, daemons, (folder / "munge.socket").exists)
        for first in PORTS:
            ports = [first + number for number in range(100)]
            names = {"host": socket.gethostname().split(".")[0], "user": getpass.getuser(), "folder": folder}
            config.write_text(CONFIG.format(**names, ports=ports), encoding="utf-8")
            controller = start("slurmctld", "-D", "-i")
            try:
                _wait(folder, daemons, lambda: "UP" in ask("scontrol", "ping"))
                break
            except NoCluster:
                if first == PORTS[-1] or controller.poll() is None:
                    raise
                daemons.remove(controller)  # another one has these ports
        for node in NODES:
            start("slurmd", "-D", "-N", node)
        _wait(folder, daemons, lambda: ask("sinfo", "--noheader", "--Node", "--format=%T").split() == ["idle"] * 2)
        print(f"SLURM: {ask('sinfo', '--version').strip()}, nodes {', '.join(NODES)}, {folder}", flush=True)
        yield config
    finally:
        if len(daemons) > 1:
            ask("scancel", "--full", "--signal=KILL", "--state=RUNNING", f"--user={getpass.getuser()}")
            ask("scancel", f"--user={getpass.getuser()}")
        for daemon in reversed(daemons):
            daemon.terminate()
        for daemon in reversed(daemons):
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()


def _install() -> None:
    if all(map(_path, PROGRAMS)):
        return
    missing = ", ".join(name for name in PROGRAMS if not _path(name))
    if os.geteuid() or not shutil.which("apt-get"):
        raise NoCluster(f"{missing} not found; as root on Debian: apt-get install {' '.join(PACKAGES)}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "install", "--yes", "--no-install-recommends", *PACKAGES]
    for words in (["apt-get", "update"], install):
        try:
            done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=300)
        except subprocess.TimeoutExpired as error:
            raise NoCluster(f"{' '.join(words)}: not done in {error.timeout:.0f} s") from error
        if done.returncode and words == install:  # lists that are old may do
            raise NoCluster(f"{' '.join(words)}: {' '.join(done.stderr.split())[-400:]}")
    if missing := ", ".join(name for name in PROGRAMS if not _path(name)):
        raise NoCluster(f"the packages {' '.join(PACKAGES)} hold no {missing}")


def _path(program: str) -> str:
    return shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin") or ""


def _wait(folder: Path, daemons: list[subprocess.Popen[bytes]], condition: object) -> None:
    deadline = time.monotonic() + START_S
    while not condition():  # type: ignore[operator]
        dead = [daemon for daemon in daemons if daemon.poll() is not None]
        if dead or time.monotonic() > deadline:
            logs = [path for path in sorted(folder.glob("*.log")) if path.stat().st_size]
            last = "\n".join(
                [line for path in logs for line in path.read_text(errors="replace").splitlines() if "error" in line][
                    -10:
                ]
            )
            what = f"{Path(dead[0].args[0]).name} ended" if dead else f"not ready in {START_S:.0f} s"  # type: ignore[index]
            raise NoCluster(f"{what}\n{last}")
        time.sleep(0.1)


def _of_cluster(config: Path) -> list[int]:
    """Return what is left of the cluster and of its jobs: all have its configuration in their environment."""
    mark, found = f"SLURM_CONF={config}".encode(), []
    for path in Path("/proc").iterdir():
        try:
            if path.name.isdigit() and mark in (path / "environ").read_bytes().split(b"\0"):
                found.append(int(path.name))
        except OSError:  # gone, or another user's
            continue
    return found


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
