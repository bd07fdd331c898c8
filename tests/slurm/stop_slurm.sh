#!/bin/bash
# Ends what start_slurm.sh has started, by the process ids that it wrote down, and its jobs; removes its state.
set -uo pipefail
ROOT=${SLURM_TEST_ROOT:-/tmp/slurm-test}
export PATH=/usr/sbin:/sbin:$PATH SLURM_CONF=$ROOT/slurm.conf

[ -e "$SLURM_CONF" ] || exit 0
if timeout 10 scontrol ping > /dev/null 2>&1; then
    timeout 10 scancel --user=root
    for _ in {1..60}; do
        [ -z "$(timeout 10 squeue --noheader 2> /dev/null)" ] && break
        sleep 0.5
    done
fi
for name in slurmd slurmctld munged; do
    pgrep -F "$ROOT/$name.pid" "$name" > /dev/null 2>&1 || continue
    pid=$(cat "$ROOT/$name.pid")
    kill "$pid"
    timeout 20 tail --pid="$pid" -f /dev/null || kill -KILL "$pid"
done
for file in slurm.conf gres.conf; do
    [ "$(readlink "/etc/slurm/$file")" = "$ROOT/$file" ] && rm "/etc/slurm/$file"
done
rm -rf "$ROOT"
