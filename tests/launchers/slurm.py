"""Slurm on the hosts of one machine: munged, slurmctld on the first host, slurmd on each, ended with the hosts."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from hosts import Hosts, killed_at_last, popen, until

CONFIGURATION = """
ClusterName=sftref
SlurmctldHost=h0
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
MailProg=/bin/true
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/builtin
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
ReturnToService=2
InactiveLimit=0
KillWait=5
SlurmdParameters=config_overrides
NodeName={names} CPUs=8 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
PROGRAMS = {"munged": "munge", "slurmctld": "slurmctld", "slurmd": "slurmd", "srun": "slurm-client"}


def unavailable() -> str:
    """Which of Debian's packages are missing; empty if none is."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin"
    missing = [package for name, package in PROGRAMS.items() if shutil.which(name, path=path) is None]
    return f"not installed: Debian's {', '.join(missing)}" if missing else ""


@contextlib.contextmanager
def slurm(hosts: Hosts) -> Iterator[dict[str, str]]:
    """Start Slurm on all hosts, and wait until every node is idle; the variables that its commands need.

    Raises:
        TimeoutError: a daemon or a node did not start; the message has the end of the logs.
    """
    folder = hosts.folder
    names = f"h[0-{len(hosts.names) - 1}]" if len(hosts.names) > 1 else "h0"
    (folder / "slurm.conf").write_text(CONFIGURATION.format(folder=folder, names=names))
    (folder / "state").mkdir()
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    socket = folder / "munge.socket"
    munged = ["/usr/sbin/munged", "--foreground", "--force", f"--socket={socket}", f"--key-file={key}",
              f"--log-file={folder}/munged.log", f"--pid-file={folder}/munged.pid",
              f"--seed-file={folder}/munged.seed"]  # fmt: skip
    variables = {"SLURM_CONF": str(folder / "slurm.conf")}
    with contextlib.ExitStack() as running:

        def daemon(host: str, *words: str) -> None:
            log = running.enter_context((folder / f"{Path(words[0]).name}-{host}.out").open("w"))
            process = popen(hosts.on(host, *words), env=os.environ | variables, stdout=log, stderr=log)
            running.enter_context(killed_at_last(process))

        try:
            daemon("h0", *munged)
            until(socket.exists, "munged's socket")
            daemon("h0", "/usr/sbin/slurmctld", "-D", "-i")
            for host in hosts.names:
                (folder / f"spool-{host}").mkdir()
                daemon(host, "/usr/sbin/slurmd", "-D", "-N", host)

            def idle() -> bool:
                states = hosts.run("h0", "sinfo", "--noheader", "--Node", "--format=%T", **variables).stdout.split()
                return states == ["idle"] * len(hosts.names)

            until(idle, "idle nodes")
        except TimeoutError as error:
            logs = "\n".join(f"{log.name}: {log.read_text()[-800:]}" for log in sorted(folder.glob("*.out")))
            raise TimeoutError(f"{error}\n{logs}") from error
        yield variables
