import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from snakemake.cli import parse_args

from rank_increase.notation import log_alpha
from rank_increase.tables import read_provenance, read_table
from rank_increase.toy.algorithm1 import stages
from rank_increase.toy.diagonal_flow import diagonal_run
from rank_increase.toy.problem import Problem
from rank_increase.toy.theorem import activation_levels, middles

ROOT = Path(__file__).parents[2]
TINY = ROOT / "tests" / "data" / "tiny.yaml"
TABLES = [
    f"results/tiny/tables/{name}.parquet"
    for name in ("losses", "trajectory", "events", "stages", "theorem", "orbits", "perturbations", "returns")
]
TARGETS = ["toy", "assumptions", "fig06", *TABLES]


def command(tree, folder, *arguments, config=(TINY,)):
    configfiles = ["--configfile", *config] if config else []
    fixed = [
        sys.executable,
        "-m",
        "snakemake",
        "--snakefile",
        tree / "Snakefile",
        "--directory",
        folder,
        "--cores",
        "2",
    ]
    return [str(argument) for argument in [*fixed, *arguments, *configfiles]]


def snakemake(tree, folder, *arguments, config=(TINY,), prefix=()):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    line = [*prefix, *command(tree, folder, *arguments, config=config)]
    return subprocess.run(line, cwd=tree, env=environment, capture_output=True, text=True)


def planned(run):
    """How many jobs of each rule a dry run announces."""
    assert run.returncode == 0, run.stderr
    output = run.stdout + run.stderr
    if "Nothing to be done" in output:
        return {}
    table = re.search(r"(?m)^-+ +-+\n((?:\w+ +\d+\n)+)", output)[1]
    jobs = dict(line.split() for line in table.splitlines())
    return {rule: int(count) for rule, count in jobs.items() if rule != "total"}


@pytest.fixture(scope="session")
def tree(tmp_path_factory):
    """A copy of the repository, to be edited."""
    copy = tmp_path_factory.mktemp("repository")
    for name in ("Snakefile", "profiles", "config", "envs", "workflow"):
        if (ROOT / name).is_dir() and not (ROOT / name).is_symlink():
            shutil.copytree(ROOT / name, copy / name, symlinks=True)
        else:
            shutil.copy2(ROOT / name, copy / name, follow_symlinks=False)
    return copy


@pytest.fixture(scope="session")
def finished(tree, tmp_path_factory):
    """The folder of a finished run of the study "tiny"."""
    folder = tmp_path_factory.mktemp("run")
    run = snakemake(tree, folder, *TARGETS)
    assert run.returncode == 0, run.stderr
    return folder


@pytest.fixture
def edited(tree):
    """Edits files of the copied repository and takes the edits back."""
    kept = {}

    def edit(name, change):
        path = tree / name
        kept.setdefault(path, path.read_text())
        path.write_text(change(path.read_text()))

    yield edit
    for path, text in kept.items():
        path.write_text(text)


def test_a_run_leaves_tables_figures_and_logs_and_nothing_half_done(tree, finished):
    results = finished / "results" / "tiny"
    assert all((finished / table).stat().st_size > 0 for table in TABLES)
    assert {path.name for path in (results / "figures").iterdir()} == {"fig06.pdf", "fig06.png"}
    assert not [path for path in results.rglob("*") if path.name.startswith(".")]
    logs = [path for path in (results / "logs").rglob("*.log")]
    assert len(logs) == len(list((results / "benchmarks").rglob("*.tsv"))) > 10
    assert all(path.read_text() for path in logs)
    assert not (tree / "results").exists()
    assert not (tree / ".snakemake").exists()


def test_tables_of_a_run_hold_what_the_library_computes(finished):
    results = finished / "results" / "tiny"
    problem = Problem.load(results / "toy/diagonal/seed_99/problem.npz")
    assert problem.X.shape == (30, 4, 6)
    trajectory = read_table(results / "toy/diagonal/alpha_1e-3000/seed_99/trajectory.parquet")
    losses = read_table(results / "toy/diagonal/alpha_1e-3000/seed_99/losses.parquet")
    expected, unit = list(stages(problem.head(), 12, max_time=200)), -log_alpha("1e-3000")
    # The middles of the stages are recorded beside the 21 points that the config asks for.
    times = np.union1d(np.linspace(0, 200, 21), middles([stage.time for stage in expected], 200))
    weight = np.sqrt(activation_levels(expected))
    run = diagonal_run(problem, -unit, times * unit, 1e-10, 1e-6, weight=weight)
    np.testing.assert_allclose(losses["time"], run.time, rtol=1e-12)
    np.testing.assert_allclose(trajectory["value"], run.values.ravel(), atol=1e-12)
    np.testing.assert_array_equal(trajectory["rescaled_time"], losses["rescaled_time"].repeat(12))
    np.testing.assert_allclose(losses["loss"], run.loss, rtol=1e-10)
    events = read_table(results / "toy/diagonal/alpha_1e-3000/seed_99/events.parquet")
    coordinates = (events["product"] == "VO") * 6 + events["index"]
    assert coordinates.tolist() == [event.coordinate for event in run.events]
    found = read_table(results / "toy/diagonal/seed_99/stages.parquet")
    np.testing.assert_allclose(found["predicted_time"], [stage.time for stage in expected], rtol=1e-12)
    np.testing.assert_allclose(np.hstack([np.stack(found["KQ"]), np.stack(found["VO"])]), [s.product for s in expected])
    assert len(found) >= 5
    theorem = read_table(results / "toy/diagonal/seed_99/theorem.parquet")
    assert theorem["alpha"].tolist() == ["0.01"] * len(found) + ["1e-3000"] * len(found)
    tiny = theorem[theorem["alpha"] == "1e-3000"]
    assert tiny["distance"].max() < 1e-3
    np.testing.assert_allclose(tiny["measured_time"], tiny["predicted_time"], atol=0.5)
    assert tiny["measured_order"].tolist() == tiny["stage"].tolist()


def test_tables_of_the_study_have_the_rows_of_all_runs(finished):
    results = finished / "results" / "tiny"
    for name in ("losses", "trajectory", "events"):
        whole = read_table(finished / f"results/tiny/tables/{name}.parquet")
        parts = sorted(results.glob(f"toy/*/alpha_*/seed_*/{name}.parquet"))
        assert len(parts) == 4
        groups = whole.groupby(["variant", "alpha", "seed"], observed=True)
        for part in parts:
            variant, alpha, seed = part.parts[-4], part.parts[-3][6:], int(part.parts[-2][5:])
            assert len(groups.get_group((variant, alpha, seed))) == len(read_table(part))
    perturbations = read_table(finished / "results/tiny/tables/perturbations.parquet")
    assert set(perturbations["assumption"]) == {"plateaus", "activations"}
    assert len(perturbations) == 2 * 2 * 2 * 11 * 12


def test_every_table_says_where_it_comes_from(finished):
    promised = {"study", "rule", "params", "code", "commit", "versions", "device", "seed"}
    found = sorted((finished / "results").rglob("*.parquet"))
    assert len(found) > 12
    for path in found:
        provenance = read_provenance(path)
        assert promised <= set(provenance)
        assert provenance["study"] == "tiny"
        assert re.fullmatch("[0-9a-f]{12}", provenance["code"])
        assert provenance["seed"] == ("99" if "seed_99" in str(path) else None)


def test_there_is_nothing_more_to_do_even_after_a_fresh_checkout_or_an_edit_of_comments(tree, finished, edited):
    toy = [f"rank_increase/toy/{name}.py" for name in ("problem", "kernels", "diagonal_flow")]
    for name in ("scripts/toy/train_toy.py", *toy):
        edited(f"workflow/{name}", lambda text: text.replace('"""', '"""Edited: ', 1) + "\n# A remark.\n")
    edited("config/config.yaml", lambda text: f"# A remark.\n{text}")
    for path in [tree / "Snakefile", *(tree / "workflow").rglob("*.*")]:
        os.utime(path)
    assert planned(snakemake(tree, finished, "-n", *TARGETS)) == {}


def test_an_edit_of_code_reruns_its_users_alone_and_what_depends_on_them(tree, finished, edited):
    used = {
        "toy/assumptions": ("@dataclass(frozen=True)", "@dataclass(frozen=True, eq=True)"),
        "figures/style": ("= 6.5 ", "= 6 "),
    }
    for name, (old, new) in used.items():
        edited(f"workflow/rank_increase/{name}.py", lambda text, old=old, new=new: text.replace(old, new))
    jobs = planned(snakemake(tree, finished, "-n", *TARGETS))
    assert jobs.pop("assumptions") == 1
    assert jobs == {"perturb_toy": 2, "collect_toy_table": 1, "figure": 1, "fig06": 1}


@pytest.fixture(scope="session")
def trained(tree, finished, tmp_path_factory):
    """Plans again what is finished: the toy runs, and the training of a network."""
    config = tmp_path_factory.mktemp("config") / "network.yaml"
    model = "{family: vit, patch_size: 4, dim: 8, depth: 1, heads: 2, dim_head: 4, mlp_dim: 8}"
    recipe = "{epochs: 1, warmup_epochs: 0, snapshots: 2}"
    config.write_text(f"networks: {{digits: {{model: {model}, recipe: {recipe}}}}}\n")
    folder = shutil.copytree(finished, tmp_path_factory.mktemp("network") / "run")
    targets = ["toy", "results/tiny/networks/digits/alpha_0.3/seed_0/metrics.parquet"]
    run = snakemake(tree, folder, *targets, config=(TINY, config))
    assert run.returncode == 0, run.stderr
    return lambda: planned(snakemake(tree, folder, "-n", *targets, config=(TINY, config)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("edits", "trained_anew"),
    [
        ({"notation": ("α = {alpha}", "alpha = {alpha}"), "jobs": ("done in %.1f s", "took %.1f s")}, {}),
        ({"notation": ("PRODUCTS =", 'PRODUCT_LABELS = {"KQ": "K Q"}\nPRODUCTS =')}, {}),
        ({"networks/attention": ("class Attention(", "@abs\nclass Attention(")}, {"train_network": 1}),
        ({"toy/diagonal_flow": ("def integrate(", "@abs\ndef integrate(")}, {"train_toy": 4}),
    ],
)
def test_an_edit_plans_a_training_only_if_training_uses_what_is_edited(edits, trained_anew, trained, edited):
    for name, (old, new) in edits.items():
        edited(f"workflow/rank_increase/{name}.py", lambda text, old=old, new=new: text.replace(old, new))
    jobs = trained()
    assert {rule: number for rule, number in jobs.items() if rule.startswith("train_")} == trained_anew


def test_a_changed_setting_reruns_the_rules_that_read_it(tree, finished, tmp_path):
    (tmp_path / "more.yaml").write_text("assumptions: {plateaus: {std: 0.04}}\nfigures: {fig09: {movement: 0.1}}\n")
    jobs = planned(snakemake(tree, finished, "-n", *TARGETS, config=(TINY, tmp_path / "more.yaml")))
    assert jobs.pop("assumptions") == 1
    assert jobs == {"perturb_toy": 1, "collect_toy_table": 1}


def test_the_default_study_plans_a_job_for_every_run(tree, tmp_path):
    config = yaml.safe_load((ROOT / "config" / "config.yaml").read_text())
    lines = config["toy"]["runs"]
    runs = {
        (line.get("variant", "diagonal"), alpha, seed)
        for line in lines
        for alpha in line["alphas"]
        for seed in line["seeds"]
    }
    diagonal_seeds = {seed for variant, _, seed in runs if variant == "diagonal"}
    problems = {(variant, seed) for variant, _, seed in runs}
    problems |= {("diagonal", seed) for seed in config["assumptions"]["seeds"]}
    run = snakemake(tree, tmp_path, "-n", config=())
    jobs = planned(run)
    assert jobs["train_toy"] == len(runs)
    assert jobs["make_problem"] == len(problems)
    limits = {(variant, seed) for variant, seed in problems if variant in ("diagonal", "full", "full_dense")}
    assert jobs["run_algorithm1"] == jobs["compare_theorem"] == len(limits) > len(diagonal_seeds)
    assert jobs["perturb_toy"] == 2 * len(config["assumptions"]["seeds"])
    assert jobs["perturb_limit"] == len(diagonal_seeds)
    figures = set(re.findall(r"(?m): Figure (\w+)$", run.stdout + run.stderr))
    assert {f"fig{number:02}" for number in range(1, 13)} <= figures and jobs["figure"] == len(figures)
    assert jobs["all"] == 1
    assert not (tmp_path / "results").exists()


def wait_for(path, process, seconds=120):
    end = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_says_so_leaves_no_lock_and_resumes_with_the_same_command(tree, finished, tmp_path, number):
    (tmp_path / "long.yaml").write_text("toy: {max_time: 3000}\n")
    options = {"config": (TINY, tmp_path / "long.yaml")}
    folder = shutil.copytree(finished, tmp_path / "run")
    target = folder / "results/tiny/toy/diagonal_sgd/alpha_0.001/seed_99/trajectory.parquet"
    line, pipe = command(tree, folder, target.relative_to(folder), **options), subprocess.PIPE
    # Started in the background of a script, as by some CI systems, pytest and its children ignore SIGINT.
    heed = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    process = subprocess.Popen(
        line, cwd=tree, stdout=pipe, stderr=subprocess.STDOUT, text=True, start_new_session=True, **heed
    )
    wait_for(folder / "results/tiny/logs/train_toy/diagonal_sgd_alpha_0.001_seed_99.log", process)
    time.sleep(0.3)
    os.killpg(process.pid, number)  # as Ctrl-C does
    said, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "  why:  it was interrupted\n  do:   run the same command again: it resumes" in said
    assert "Traceback" not in said
    assert not list(target.parent.glob("*"))
    again = snakemake(tree, folder, target.relative_to(folder), **options)
    assert again.returncode == 0, again.stderr
    assert planned(again) == {"train_toy": 1}
    assert {path.name for path in target.parent.iterdir()} == {
        "losses.parquet",
        "trajectory.parquet",
        "events.parquet",
        "conservation.parquet",
    }
    assert not list((folder / ".snakemake").glob("locks/*"))


def test_a_truncated_table_is_named_and_made_anew_once_it_is_deleted(tree, finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "run")
    table, figure = Path("results/tiny/tables/losses.parquet"), "results/tiny/figures/fig06.pdf"
    whole = (folder / table).read_bytes()
    (folder / table).write_bytes(whole[: len(whole) // 2])
    run = snakemake(tree, folder, figure)
    assert run.returncode == 1
    assert f"  why:  {table} is damaged: delete it, and the same command makes it anew (" in run.stdout + run.stderr
    (folder / table).unlink()
    run = snakemake(tree, folder, figure)
    assert planned(run) == {"collect_toy_table": 1, "figure": 1}
    assert len(read_table(folder / table)) == len(read_table(finished / table))


def sentence(run):
    """What a failed call of Snakemake says beside its own remarks on profile and config files."""
    assert run.returncode == 1
    remarks = ("Using workflow specific profile", "Config file")
    return [line for line in (run.stdout + run.stderr).splitlines() if line and not line.startswith(remarks)]


def test_a_mistake_in_the_configuration_is_one_sentence_on_the_terminal(tree, tmp_path):
    (tmp_path / "wrong.yaml").write_text("toy: {samplez: 30}\n")
    run = snakemake(tree, tmp_path, "-n", config=(TINY, tmp_path / "wrong.yaml"))
    assert sentence(run) == ["config: unknown key `toy.samplez`; did you mean `samples`?"]


DEMO = (
    "config: the study 'demo' is what config/config.yaml says and nothing else: give yours a name, `study: NAME` in the"
    " file that --configfile names, or --config study=NAME."
)


NAMELESS = "config: the key `study` is missing."


@pytest.mark.parametrize(("name", "said"), [("study: demo", DEMO), ("", NAMELESS)])
def test_another_configuration_does_not_overwrite_the_demo(tree, tmp_path, name, said):
    (tmp_path / "mine.yaml").write_text(f"{name}\ntoy: {{runs: [{{alphas: ['0.01'], seeds: [99]}}]}}\n")
    assert sentence(snakemake(tree, tmp_path, "-n", config=[tmp_path / "mine.yaml"])) == [said]
    assert sentence(snakemake(tree, tmp_path, "-n", "--config", "figures={dpi: 300}", config=())) == [DEMO]
    assert planned(snakemake(tree, tmp_path, "-n", "fig06", "--config", "study=mine", config=[tmp_path / "mine.yaml"]))
    assert planned(snakemake(tree, tmp_path, "-n", "fig06", config=[tree / "config/config.yaml"]))


def test_a_key_that_a_file_has_twice_is_one_sentence_on_the_terminal(tree, tmp_path):
    file = tmp_path / "twice.yaml"
    file.write_text("toy: {samples: 30, samples: 40}\n")
    run = snakemake(tree, tmp_path, "-n", config=(TINY, file))
    assert sentence(run) == [f"{file} has the key `samples` twice, in lines 1 and 1."]


def test_a_file_in_place_of_the_data_is_one_sentence_on_the_terminal(tree, tmp_path):
    file = tmp_path / "data"
    file.touch()
    run = snakemake(tree, tmp_path, "-n", "--config", f"data_dir={file}")
    assert sentence(run) == [f"config: `data_dir` is '{file}', but {file} is a file: name a folder."]


def test_figures_without_data_say_so_and_stop_nothing(tree, tmp_path):
    # In so short a time no weight passes any threshold, and Algorithm 1 activates nothing.
    (tmp_path / "short.yaml").write_text("study: short\ntoy: {max_time: 1}\n")
    figures = ["fig09", "fig10", "fig_stage_times"]
    run = snakemake(tree, tmp_path, *figures, config=(TINY, tmp_path / "short.yaml"))
    assert run.returncode == 0, run.stderr
    results = tmp_path / "results/short"
    assert {path.stem for path in (results / "figures").glob("*.png")} == set(figures)
    assert {path.stem for path in (results / "figures").glob("*.pdf")} == set(figures)
    said = {figure: (results / f"logs/figures/{figure}.log").read_text() for figure in figures}
    sentences = {figure: [line[9:] for line in text.splitlines()[1:]] for figure, text in said.items()}
    assert sentences == {
        "fig09": [],
        "fig10": ["The table perturbations has no rows with assumption activations and seed 99."],
        "fig_stage_times": ["Algorithm 1 activates no coordinate in the time of the runs."],
    }


def test_a_job_that_fails_stops_nothing_but_what_needs_it(tree, tmp_path):
    (tmp_path / "lost.yaml").write_text("datasets: {lost: {source: image_folder, path: nowhere, size: 8}}\n")
    lost = "results/tiny/datasets/lost/manifest.json"
    run = snakemake(tree, tmp_path, lost, "fig06", "--prioritize", lost, config=(TINY, tmp_path / "lost.yaml"))
    assert run.returncode == 1
    assert "FAILED: prepare_dataset" in run.stdout + run.stderr
    assert (tmp_path / "results/tiny/figures/fig06.png").exists()


@pytest.mark.parametrize("profiles", [[], ["--profile", "slurm"]])
def test_every_profile_keeps_going(monkeypatch, profiles):
    monkeypatch.chdir(ROOT)
    _, options = parse_args(profiles)
    assert options.keep_going and options.rerun_incomplete


def test_a_folder_without_permission_is_one_sentence_on_the_terminal(tree, tmp_path):
    # Root writes anywhere, unless it gives up the capability to.
    prefix = ["setpriv", "--bounding-set", "-dac_override"] if os.geteuid() == 0 else []
    if prefix and (not shutil.which("setpriv") or subprocess.run([*prefix, "true"]).returncode):
        pytest.skip("root cannot give up its right to write anywhere on this machine")
    (tmp_path / "results").mkdir(mode=0o555)
    expected = f"no permission to write to {tmp_path}/results: choose another folder with --directory."
    assert sentence(snakemake(tree, tmp_path, "-n", prefix=prefix)) == [expected]


def test_snakemake_finds_nothing_to_say_about_the_style_of_the_rules(tree, tmp_path):
    run = snakemake(tree, tmp_path, "--lint", config=())
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.slow
def test_everything_is_made_and_then_there_is_nothing_to_do(tree, finished):
    run = snakemake(tree, finished)
    assert run.returncode == 0, run.stderr
    figures = finished / "results" / "tiny" / "figures"
    for number in (2, 6, 7, 8, 9, 10):
        for suffix in ("pdf", "png"):
            assert (figures / f"fig{number:02}.{suffix}").stat().st_size > 5000
    assert f"Figures in {figures}" in run.stdout + run.stderr
    assert "Nothing to be done" in (again := snakemake(tree, finished)).stdout + again.stderr
