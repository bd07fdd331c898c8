"""Failed jobs of a run of Snakemake in a few sentences: what failed, why, what to do, and where the log is."""

import re
from pathlib import Path

LOG_END = 20000  # characters of a log, among whose last lines the reasons are
PROFILE = "slurm/config.yaml"
# What Snakemake or Slurm says of a job; why it failed; what to do.
REASONS = (
    (
        r"[Ii]nvalid partition",
        "the partition that it asks for does not exist",
        f"put one that `sinfo` lists into {PROFILE}, as `slurm_partition`",
    ),
    (
        r"[Ii]nvalid account|given account .* invalid|test the validity of the .* account",
        "Slurm does not let you compute on this account in this partition",
        f"put one that `sshare -U` or your site's pages list into {PROFILE}, as `slurm_account`",
    ),
    (
        r"node configuration is not available|[Ii]nvalid generic resource",
        "no node of the partition has the GPUs, cores or memory that it asks for",
        f"compare `sinfo -o '%P %c %m %G'` with `vit.hardware` in the config, or name another partition in {PROFILE}",
    ),
    (
        r"time limit is invalid",
        "it asks for more time than the partition gives",
        f"put a limit for `runtime` into {PROFILE}: a training run goes on in its next attempt",
    ),
    (
        r"OUT_OF_MEMORY|oom.kill|out of memory|MemoryError",
        "it needed more memory than it had asked for",
        "raise its memory (`mem_mb` under `vit.hardware` in the config, for a training run), or lower `pass_size`"
        " if it was the GPU's",
    ),
    (
        r"status is: '(TIMEOUT|DEADLINE)'|DUE TO TIME LIMIT|received SIGURG|the SLURM job is about to end",
        "its time was up",
        "run the same command again: a training run goes on where it was; for others, raise `runtime`",
    ),
    (
        r"status is: '(NODE_FAIL|BOOT_FAIL)'|DUE TO NODE FAILURE",
        "its node failed",
        "run the same command again",
    ),
    (
        r"status is: '(CANCELLED|PREEMPTED)'|\*\*\* JOB \d+ ON \S+ CANCELLED|the same command goes on",
        "it was cancelled or had to make room",
        "run the same command again: a training run goes on where it was",
    ),
    (
        r"died with <Signals.SIGKILL",
        "it was killed, which is what the system does to a job that takes more memory than there is",
        "raise its memory (`mem_mb`); `dmesg` on the node, or whoever runs it, can say whether that was why",
    ),
)
# Of a group, Snakemake 9.27 says which jobs it has, and not why it failed; its own log is named if it was submitted.
ERROR = (
    r"(?m)^(?:Error in rule (?P<rule>\w+).*|    message: Error in group (?P<group>\w+))\n"
    r"(?P<block>(?:(?:[ \t]|sbatch: |For further).*\n)+)"
)
NOT_SUBMITTED = (
    "Slurm did not take it, for a reason that Snakemake does not pass on for jobs in a group",
    f"ask Slurm: `sbatch --test-only --account=... --partition=... --wrap true`, with those of {PROFILE}",
)


def describe_failures(logs):
    """What failed in a run of Snakemake, as text to print; jobs that failed for one reason come together.

    Parameters
    ----------
    logs : list of str
        Snakemake's own logs of the run, files. Only the last attempt of a job counts, and none if that succeeded.

    Returns
    -------
    str
        Empty if no job is found in the logs.
    """
    text = "".join(Path(log).read_text(errors="replace") for log in logs)
    jobs = {}
    for error in re.finditer(ERROR, text):
        name, block = error["rule"] or f"group {error['group']}", error["block"]
        outputs = _field(block, "output") or name
        jobs[name, outputs] = (block, error.end())
    finished = {match[1]: match.start() for match in re.finditer(r"Finished jobid: (\d+)", text)}
    reasons = {}
    for (name, _), (block, end) in jobs.items():
        if finished.get(_field(block, "jobid"), 0) < end:
            reasons.setdefault(_reason(name, block), []).append((name, block))
    return "\n".join(_paragraph(*reason, failed) for reason, failed in reasons.items())


def _field(block, key):
    match = re.search(rf"(?m)^\s+{key}: (.*)$", block)
    return match[1].strip() if match else ""


def _logs(block):
    """Logs of a failed job or group: those of its rules, and the cluster's."""
    named = re.findall(r"(?m)^\s+log: (.*)$", block)
    paths = [path for line in named for path in re.split(r",\s*", line.split(" (check log")[0])]
    return list(dict.fromkeys(Path(path) for path in paths if Path(path).is_file() and Path(path).stat().st_size))


def _reason(name, block):
    """Why a job failed, and what to do."""
    ends = {path: path.read_text(errors="replace")[-LOG_END:] for path in _logs(block)}
    messages = [_last_error(text) for path, text in ends.items() if "slurm_logs" not in path.parts]
    # The command that sbatch was given has every setting in it, and could be taken for a reason.
    said = re.sub(r"(?s)sbatch call:.*?\n(?=For further|\s+jobid)", "", block)
    for pattern, why, advice in REASONS:
        if any(re.search(pattern, part) for part in (said, *messages, *map(_ends_of_jobs, ends.values()))):
            return why, advice
    if message := max(messages, default="", key=len):
        sentence = re.sub(r"^([\w.]+:|\d\d:\d\d:\d\d) ", "", message)
        return sentence.rstrip("."), "change what it names, and run the same command again"
    if name.startswith("group ") and not any("slurm_logs" in path.parts for path in ends):
        return NOT_SUBMITTED
    return "it does not say why", "read the end of its log"


def _last_error(text):
    """Last line of a rule's log if it is that of an exception, or of a run that stopped; else nothing."""
    lines = text.rstrip().splitlines()
    if lines and ("Traceback" in text or "the same command goes on" in lines[-1]):
        return lines[-1]
    return ""


def _ends_of_jobs(text):
    """Lines of a cluster's log in which Slurm, or Snakemake on the node, says how the job ended."""
    return "\n".join(
        line for line in text.splitlines() if re.match(r"(slurmstepd|srun)\S* |.* died with <Signals", line)
    )


def _paragraph(why, advice, failed):
    (name, block), others = failed[0], len(failed) - 1
    output = _field(block, "output").split(",")[0]
    more = f", and {others} more job{'s' * (others > 1)}" if others else ""
    lines = [
        f"FAILED: {name}{f' for {output}' if output else ''}{more}",
        f"  why:  {why}",
        f"  do:   {advice}",
    ]
    return "\n".join([*lines, *(f"  log:  {path}" for path in _logs(block))])
