"""Failed jobs of a run of Snakemake in a few sentences: what failed, why, what to do, and where the log is."""

import re
from pathlib import Path

from rank_increase.disk import is_full

LOG_END = 20000  # characters of a log, among whose last lines the reasons are
PROFILE = "slurm/config.yaml"
NO_ROOM = r"the disk (of .* )?is full|too little disk|the quota is used up|No space left|Disk quota exceeded"
MAKE_ROOM = "make room on that disk, and run the same command again"
FULL = "the disk of {} is full"
INTERRUPTED = ("it was interrupted", "run the same command again: it resumes, a training run from its last checkpoint")
# What Snakemake, Slurm or the job says; why it failed, None for the job's own words; what to do.
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
    (r"received SIGINT", *INTERRUPTED),
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
    (NO_ROOM, None, MAKE_ROOM),
    (
        r"(the disk is read-only|there is no permission): .* cannot be written",
        None,
        "make it writable, or name another folder (`--directory`, `data_dir`, `scratch_dir`)",
    ),
    (r"died with <Signals.SIG(INT|TERM)|interrupted by SIG", *INTERRUPTED),
)
# What Snakemake says once it has received a SIGINT or a SIGTERM.
STOPPED = r"(?m)^(Terminating processes on user request|Will exit after finishing currently running jobs)"
# Of a group, Snakemake 9.27 says which jobs it has, and not why it failed; its own log is named if it was submitted.
ERROR = (
    r"(?m)^(?:RuleException:\n(?P<exception>(?:.+\n){1,6}?)(?:\[.*\]\n)?)?"
    r"(?:Error in rule (?P<rule>\w+).*|    message: Error in group (?P<group>\w+))\n"
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
        Empty if no job is found in the logs, and neither a full disk nor an interruption explains that.
    """
    text = "".join(Path(log).read_text(errors="replace") for log in logs)
    jobs = {}
    for error in re.finditer(ERROR, text):
        name, block = error["rule"] or f"group {error['group']}", error["block"]
        outputs = _field(block, "output") or name
        jobs[name, outputs] = (block, error["exception"] or "", error.end())
    finished = {match[1]: match.start() for match in re.finditer(r"Finished jobid: (\d+)", text)}
    stopped, reasons = re.search(STOPPED, text), {}
    for (name, _), (block, exception, end) in jobs.items():
        if finished.get(_field(block, "jobid"), 0) < end:
            kind, why, advice = _reason(name, block, exception, stopped)
            reasons.setdefault(kind, (why, advice, []))[2].append((name, block))
    if reasons:
        return "\n".join(_paragraph(*reason) for reason in reasons.values())
    if stopped:
        return "The run was interrupted: run the same command again, and it resumes."
    return explain_full_disk() or ""


def explain_full_disk():
    """A sentence if there is no room in the working directory, where Snakemake keeps notes of its own; else None."""
    return f"{FULL.format(Path.cwd())}: {MAKE_ROOM}." if is_full(".") else None


def _field(block, key):
    match = re.search(rf"(?m)^\s+{key}: (.*)$", block)
    return match[1].strip() if match else ""


def _logs(block):
    """Logs of a failed job or group: those of its rules, and the cluster's."""
    named = re.findall(r"(?m)^\s+log: (.*)$", block)
    paths = [path for line in named for path in re.split(r",\s*", line.split(" (check log")[0])]
    return list(dict.fromkeys(Path(path) for path in paths if Path(path).is_file() and Path(path).stat().st_size))


def _reason(name, block, exception, stopped):
    """What kind of reason a job failed for, why it did, and what to do; jobs of one kind come together."""
    ends = {path: path.read_text(errors="replace")[-LOG_END:] for path in _logs(block)}
    messages = [_last_error(text) for path, text in ends.items() if "slurm_logs" not in path.parts]
    message = re.sub(r"^([\w.]+:|\d\d:\d\d:\d\d( failed:)?) ", "", max(messages, default="", key=len)).rstrip(".")
    # The command that sbatch was given has every setting in it, and could be taken for a reason.
    said = re.sub(r"(?s)sbatch call:.*?\n(?=For further|\s+jobid)", "", block) + exception
    full = FULL.format(Path(_field(block, "output").split(",")[0]).absolute().parent)
    for pattern, why, advice in REASONS:
        if any(re.search(pattern, part) for part in (said, *messages, *map(_ends_of_jobs, ends.values()))):
            return pattern, why or message or full, advice
    if is_full(_field(block, "output").split(",")[0]):  # and the log may lack its end
        return NO_ROOM, full, MAKE_ROOM
    if message:
        return message, message, "change what it names, and run the same command again"
    if name.startswith("group ") and not any("slurm_logs" in path.parts for path in ends):
        return NOT_SUBMITTED, *NOT_SUBMITTED
    if stopped:
        return INTERRUPTED, *INTERRUPTED
    return "", "it does not say why", "read the end of its log"


def _last_error(text):
    """Last line of a rule's log if it is that of an exception, or of a run that stopped; else nothing."""
    last = text.rstrip().rpartition("\n")[2]
    said = "Traceback" in text or re.search(r"\d (failed: |interrupted by )|the same command goes on", last)
    return last if said else ""


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
