#!/bin/bash
# Boots a Slurm of one node and two pretended GPUs on this machine: Debian or Ubuntu, as root, systemd not needed.
# What is installed or runs already is left alone. stop_slurm.sh ends it.
set -euo pipefail
ROOT=${SLURM_TEST_ROOT:-/tmp/slurm-test}  # configuration, state and logs
CPUS=${SLURM_TEST_CPUS:-32}  # may be more than the machine has
HOST=$(hostname -s)
export PATH=/usr/local/sbin:/usr/sbin:/sbin:$PATH DEBIAN_FRONTEND=noninteractive SLURM_CONF=$ROOT/slurm.conf

wait_for() {  # wait_for SECONDS WHAT COMMAND...
    local end=$((SECONDS + $1)) what=$2
    shift 2
    until "$@" > /dev/null 2>&1; do
        ((SECONDS < end)) || { echo "$what does not come up: see $ROOT/*.log" >&2; exit 1; }
        sleep 0.2
    done
}

[ "$(id -u)" = 0 ] || { echo "only root can start a Slurm" >&2; exit 1; }
PACKAGES=(munge slurmctld slurmd slurm-client procps)
if ! dpkg --status "${PACKAGES[@]}" > /dev/null 2>&1; then
    command -v apt-get > /dev/null || { echo "this needs Debian or Ubuntu, for their packages of Slurm" >&2; exit 1; }
    apt-get update -qq
    if [ ! -e /usr/sbin/policy-rc.d ]; then  # keeps packages from starting their services: that is done below
        printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d && chmod +x /usr/sbin/policy-rc.d
        trap 'rm -f /usr/sbin/policy-rc.d' EXIT
    fi
    apt-get install -y -qq --no-install-recommends "${PACKAGES[@]}"
fi

mkdir -p "$ROOT"/{slurmctld,slurmd} /run/munge
chmod 755 "$ROOT"
for number in 0 1; do  # Slurm wants a device for each GPU: this is /dev/null by another name
    [ -c "$ROOT/gpu$number" ] || mknod "$ROOT/gpu$number" c 1 3
done
echo "NodeName=$HOST Name=gpu File=$ROOT/gpu[0-1]" > "$ROOT/gres.conf"
cat > "$ROOT/slurm.conf" <<END
ClusterName=test
SlurmctldHost=$HOST(127.0.0.1)
SlurmUser=root
SlurmdUser=root
StateSaveLocation=$ROOT/slurmctld
SlurmdSpoolDir=$ROOT/slurmd
SlurmctldPidFile=$ROOT/slurmctld.pid
SlurmdPidFile=$ROOT/slurmd.pid
SlurmctldLogFile=$ROOT/slurmctld.log
SlurmdLogFile=$ROOT/slurmd.log
# No cgroups: limits of memory are not enforced.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_interval=5,bf_interval=5
ReturnToService=2
MinJobAge=300
KillWait=5
# How long a requeued job waits before it may start again; 120 s by default.
AuthInfo=cred_expire=10
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
GresTypes=gpu
NodeName=$HOST NodeAddr=127.0.0.1 CPUs=$CPUS RealMemory=64000 Gres=gpu:2
PartitionName=DEFAULT Nodes=$HOST MaxTime=INFINITE DefaultTime=60 OverSubscribe=NO
PartitionName=main Default=YES PriorityTier=10 PreemptMode=OFF
PartitionName=urgent PriorityTier=100 PreemptMode=OFF
PartitionName=requeue PriorityTier=1 PreemptMode=REQUEUE
PartitionName=cancel PriorityTier=1 PreemptMode=CANCEL
END
# Where every command and job finds it.
mkdir -p /etc/slurm
[ -e /etc/slurm/slurm.conf ] && [ ! -L /etc/slurm/slurm.conf ] && { echo "this machine has a Slurm" >&2; exit 1; }
ln -sfn "$ROOT/slurm.conf" /etc/slurm/slurm.conf
ln -sfn "$ROOT/gres.conf" /etc/slurm/gres.conf

if ! munge -n 2> /dev/null | unmunge > /dev/null 2>&1; then
    [ -s /etc/munge/munge.key ] || head -c 1024 /dev/urandom > /etc/munge/munge.key
    mkdir -p /var/log/munge /var/lib/munge
    chown munge: /etc/munge/munge.key /run/munge /var/log/munge /var/lib/munge
    chmod 400 /etc/munge/munge.key
    chmod 755 /run/munge
    runuser -u munge -- munged --force
    cp /run/munge/munged.pid "$ROOT/munged.pid"
fi
scontrol ping > /dev/null 2>&1 || slurmctld
wait_for 60 slurmctld scontrol ping
pgrep -F "$ROOT/slurmd.pid" slurmd > /dev/null 2>&1 || slurmd
wait_for 60 "the node" sh -c "sinfo -h -o %T | grep -Eq 'idle|mixed|allocated|completing'"
sinfo -o "%P %T %c CPUs, %m MB, %G"
