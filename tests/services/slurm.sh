#!/usr/bin/env bash
# SLURM on this machine: slurm.sh start FOLDER, and slurm.sh stop FOLDER. Needs root, slurm-wlm and munge.
# All files lie in FOLDER; what is to use it is started with SLURM_CONF=FOLDER/slurm.conf. Two CPUs, no accounting, no cgroups.
set -euo pipefail
folder=$(realpath -m "$2")
host=$(hostname -s)

free_port() {
    python3 -c "import socket; s = socket.socket(); s.bind(('127.0.0.1', 0)); print(s.getsockname()[1])"
}

configure() {
    cat >"$folder/slurm.conf" <<CONF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$(free_port)
SlurmdPort=$(free_port)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_interval=2
ReturnToService=2
JobRequeue=1
NodeName=$host NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=test Nodes=$host Default=YES MaxTime=60 State=UP
CONF
}

start() {
    mkdir -p "$folder/state" "$folder/spool"
    dd if=/dev/urandom of="$folder/munge.key" bs=1024 count=1 status=none
    chmod 600 "$folder/munge.key"
    munged --force --key-file="$folder/munge.key" --socket="$folder/munge.socket" --pid-file="$folder/munged.pid" \
        --log-file="$folder/munged.log" --seed-file="$folder/munged.seed"
    configure
    export SLURM_CONF=$folder/slurm.conf
    slurmctld
    slurmd
    for _ in {1..60}; do
        [[ $(sinfo --noheader --format=%T 2>/dev/null) != idle ]] || return 0
        sleep 1
    done
    tail "$folder"/*.log >&2
    stop
    return 1
}

stop() {
    export SLURM_CONF=$folder/slurm.conf
    squeue --noheader --format=%A | xargs --no-run-if-empty scancel --full --signal=KILL || true
    for name in slurmd slurmctld munged; do
        [[ -f $folder/$name.pid ]] || continue
        process=$(cat "$folder/$name.pid")
        kill "$process" || continue
        while kill -0 "$process" 2>/dev/null; do # it writes its state
            sleep 0.1
        done
    done
}

"$1"
