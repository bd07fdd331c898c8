"""The explorer's live panel against the library: the same problems, by the page's script in a browser and by ours."""

from pathlib import Path

import numpy as np
import pytest

from rank_increase.pages.explorer import PAGE
from rank_increase.toy import algorithm1
from rank_increase.toy.diagonal_flow import diagonal_run
from rank_increase.toy.problem import Problem, attention
from rank_increase.toy.theorem import activation_levels

SHAPE = {"samples": 40, "tokens": 4, "dim": 4, "teacher_std_KQ": 0.6, "teacher_std_VO": 0.8}
COUNT = 6
SEEDS = [34, 1, 7]


@pytest.fixture(scope="module")
def scripted(chromium):
    """Runs a script after that of the live model, on a blank page, and gives what it returns."""
    source = Path(PAGE, "diagonal_flow.js").read_text()

    def run(script, *arguments):
        chromium.get("about:blank")
        return chromium.execute_script(f"{source}\n{script}", *arguments)

    return run


@pytest.fixture(scope="module", params=SEEDS)
def drawn(request, scripted):
    """A problem as the page draws it, its first stages by the page and by the library."""
    found = scripted(
        """
        const [seed, shape, count] = arguments;
        const problem = drawProblem(seed, shape);
        const found = [];
        for (const stage of stages(problem)) if (found.push({...stage, p: [...stage.p]}) === count) break;
        const {X, Y, theta_0, teacher} = problem;
        return {X: [...X], Y: [...Y], theta_0: theta_0.map((w) => [...w]), teacher: teacher.map((w) => [...w]), found};
        """,
        request.param,
        SHAPE,
        COUNT,
    )
    X, Y = (np.reshape(found[name], [SHAPE[key] for key in ("samples", "tokens", "dim")]) for name in "XY")
    problem = Problem(X, Y, np.array(found["theta_0"]), np.array(found["teacher"]))
    expected = []
    for stage in algorithm1.stages(problem.head(), 2 * SHAPE["dim"], max_time=np.inf):
        expected.append(stage)
        if len(expected) == COUNT:
            return request.param, problem, found["found"], expected


def test_problems_are_those_of_the_paper(drawn):
    _, problem, *_ = drawn
    np.testing.assert_allclose(problem.Y, attention(problem.X, problem.teacher), rtol=1e-10, atol=1e-12)
    assert np.mean(problem.X) == pytest.approx(0, abs=0.12) and np.std(problem.X) == pytest.approx(1, abs=0.1)


def test_loss_and_gradient_are_those_of_the_library(scripted, drawn):
    seed, problem, *_ = drawn
    p = np.random.default_rng(0).normal(size=8)
    script = "const {loss, g} = diagonalHead(drawProblem(arguments[0], arguments[1])).lossAndG(arguments[2]);"
    found = scripted(f"{script} return [loss, ...g];", seed, SHAPE, p.tolist())
    loss, g = problem.head().loss_and_g(p)
    np.testing.assert_allclose(found, [loss, *g], rtol=1e-9, atol=1e-12)


def test_stages_are_those_of_algorithm_1(drawn):
    *_, found, expected = drawn
    assert [stage["coordinate"] for stage in found] == [stage.coordinate for stage in expected]
    np.testing.assert_allclose([stage["time"] for stage in found], [stage.time for stage in expected], rtol=1e-5)
    np.testing.assert_allclose([stage["p"] for stage in found], [stage.product for stage in expected], atol=1e-6)
    np.testing.assert_allclose([stage["loss"] for stage in found], [stage.loss for stage in expected], atol=1e-8)


@pytest.mark.parametrize("digits", [1, 8, 300, 3000])
def test_training_is_the_gradient_flow_at_any_init_scale(scripted, drawn, digits):
    """Products differ by less than a line's width, also at jumps, whose times the products are most sensitive to."""
    seed, problem, _, expected = drawn
    log_alpha, end = -digits * np.log(10), 1.25 * expected[-1].time
    script = "const records = [...train(drawProblem(arguments[0], arguments[1]), arguments[2], arguments[3])];"
    give = "return records.map(({time, loss, p}) => [time, loss, ...p]);"
    time, loss, *p = np.transpose(scripted(f"{script} {give}", seed, SHAPE, log_alpha, end))
    weight = np.sqrt(activation_levels(expected))
    run = diagonal_run(problem, log_alpha, time * -log_alpha, 1e-9, 1e-9, weight=weight)
    kept = np.searchsorted(run.time, time * -log_alpha * (1 - 1e-12))
    assert (time[0], time[-1]) == (0, pytest.approx(end))
    np.testing.assert_allclose(p, run.values.reshape(len(run.time), -1)[kept].T, atol=0.01)
    np.testing.assert_allclose(loss, run.loss[kept], atol=0.01 * run.loss[0])
