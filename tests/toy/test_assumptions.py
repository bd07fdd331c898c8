import numpy as np
import pytest

from rank_increase.notation import log_alpha
from rank_increase.toy.assumptions import Moment, activation_moments, perturb, perturbed_runs, random_moments
from rank_increase.toy.diagonal_flow import LogCoordinates, initial_state, integrate

TOLERANCES = {"rtol": 1e-10, "atol": 1e-6}
UNIT = -log_alpha("1e-32")
END = 220 * UNIT
WEIGHTS = {"threshold": 1e-5, "active": 0.1}


@pytest.fixture(scope="module")
def trajectory(small_problem):
    """A head, and the start of its flow at alpha = 1e-32."""
    problem = small_problem(2, samples=50)
    return problem.head(), *initial_state(problem.theta_0, -UNIT)


@pytest.fixture(scope="module")
def plateau(trajectory):
    """A state of that flow some time after three stages."""
    return integrate(*trajectory, np.array([0.0, 30.0]) * UNIT, **TOLERANCES)[0][-1]


def larger_weight(coordinates, s):
    return np.maximum(*(abs(weight) for weight in coordinates.weights(s)))


def test_noise_of_size_zero_changes_nothing():
    rng = np.random.default_rng(1)
    u, v = rng.standard_normal((2, 50))
    coordinates, s = LogCoordinates.of(u, v)
    moved, moved_s = perturb(coordinates, s, np.zeros((2, 50)), rng.random(50) < 0.5)
    np.testing.assert_allclose(moved.weights(moved_s), [u, v], rtol=1e-9)
    np.testing.assert_allclose(moved.log_c, coordinates.log_c, atol=1e-9)


def test_chosen_weights_get_their_noise_and_all_others_stay_exactly():
    rng = np.random.default_rng(2)
    u, v = rng.standard_normal((2, 200))
    noise, chosen = 0.05 * rng.standard_normal((2, 200)), rng.random(200) < 0.5
    coordinates, s = LogCoordinates.of(u, v)
    moved, moved_s = perturb(coordinates, s, noise, chosen)
    np.testing.assert_allclose(np.array(moved.weights(moved_s))[:, chosen], ([u, v] + noise)[:, chosen], rtol=1e-9)
    for name in ("log_c", "u_is_larger", "sign"):
        np.testing.assert_array_equal(getattr(moved, name)[~chosen], getattr(coordinates, name)[~chosen])
    np.testing.assert_array_equal(moved_s[~chosen], s[~chosen])


def test_weights_can_be_perturbed_at_a_tiny_init_scale(trajectory, plateau):
    _, coordinates, _ = trajectory
    noise, chosen = 0.05 * np.random.default_rng(3).standard_normal((2, 12)), larger_weight(coordinates, plateau) > 1e-5
    assert 3 <= chosen.sum() <= 9
    moved, moved_s = perturb(coordinates, plateau, noise, chosen)
    found = np.array(moved.weights(moved_s)) - coordinates.weights(plateau)
    np.testing.assert_allclose(found[:, chosen], noise[:, chosen], rtol=1e-7)
    np.testing.assert_array_equal(found[:, ~chosen], 0)
    assert (coordinates.log_c[chosen] < -100).all()
    assert (moved.log_c[chosen] > -20).all()


def runs_from(trajectory, moment, seed=0, std=0.05, points=21):
    head, coordinates, _ = trajectory
    options = {"std": std, "points": points, "rng": np.random.default_rng(seed), **WEIGHTS, **TOLERANCES}
    return {run.noise_on: run for run in perturbed_runs(head, coordinates, moment, **options)}


def test_noise_meets_nonnegligible_weights_or_those_of_the_support(trajectory):
    head, coordinates, s = trajectory
    # A moment at which a coordinate is on its way from 1e-5 to 0.1, between negligible and active.
    _, crossings = integrate(head, coordinates, s, np.array([0.0, END]), thresholds=[1e-3], **TOLERANCES)
    state, growing, time = crossings[2].state, crossings[2].coordinate, crossings[2].time
    size = larger_weight(coordinates, state)
    support = size > 0.1
    nonnegligible = size > 1e-5
    assert (nonnegligible & ~support)[growing]
    runs = runs_from(trajectory, Moment(time, state, time + UNIT), points=5)
    assert list(runs) == ["nonnegligible", "support"]
    product = coordinates.product(state)
    for name, chosen in (("nonnegligible", nonnegligible), ("support", support)):
        np.testing.assert_allclose(runs[name].times, np.linspace(time, time + UNIT, 5))
        np.testing.assert_array_equal(runs[name].perturbed[0] != product, chosen)
        np.testing.assert_allclose(runs[name].reference[0], product, atol=1e-12)
    np.testing.assert_array_equal(runs["support"].perturbed[0][support], runs["nonnegligible"].perturbed[0][support])
    # A coordinate that is being activated belongs to those that the assumption perturbs.
    activated = runs_from(trajectory, Moment(time, state, time + UNIT, growing), points=5)["support"]
    np.testing.assert_array_equal(activated.perturbed[0] != product, support | (np.arange(12) == growing))


def test_noise_is_gaussian_of_the_wanted_size_and_that_of_its_seed(quadratic):
    p = 4000
    rng = np.random.default_rng(1)
    u, v = 1 + rng.random((2, p))

    class Flat(quadratic):
        def __init__(self):
            pass

        def loss_and_g(self, p):
            return 0.0, np.zeros(len(p))

    coordinates, s = LogCoordinates.of(u, v)
    trajectory = Flat(), coordinates, s
    first, again, other = (
        runs_from(trajectory, Moment(0.0, s, 1.0), seed, points=2)["support"].perturbed[0] for seed in (4, 4, 5)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).all()
    # (u + du) (v + dv) - u v = u dv + v du + du dv, with du and dv of their own
    np.testing.assert_allclose((first - u * v).mean(), 0, atol=0.01)
    np.testing.assert_allclose((first - u * v).var() / np.mean(u**2 + v**2), 0.05**2, rtol=0.1)


def test_a_perturbed_run_returns_to_a_strict_minimum(quadratic):
    head = quadratic([[1.0, 0.3, 0.0], [0.3, 0.5, 0.0], [0.0, 0.0, 1.0]], [1.0, -0.5, 0.0])
    coordinates, s = LogCoordinates.of(np.array([0.5, 1.2, 0.3]), np.array([0.9, 0.4, 0.7]), log_alpha("1e-32"))
    state = integrate(head, coordinates, s, np.array([0.0, 20.0]) * UNIT, **TOLERANCES)[0][-1]
    for run in runs_from((head, coordinates, s), Moment(20 * UNIT, state, 26 * UNIT)).values():
        np.testing.assert_allclose(run.reference, [[1.0, -0.5, 0.0]] * 21, atol=1e-4)
        distance = abs(run.perturbed - run.reference).max(axis=1)
        assert distance[-1] < 1e-4 < 1e-2 < distance[0] < 0.5
        np.testing.assert_array_equal(run.perturbed[:, 2], run.reference[:, 2])


def test_a_perturbed_run_does_not_return_where_there_is_no_strict_minimum(quadratic):
    # The loss knows the sum of the products alone: along a valley they stay where the noise put them.
    head = quadratic(np.ones((2, 2)), [0.5, 0.5])
    coordinates, s = LogCoordinates.of(np.array([0.8, 0.9]), np.array([0.6, 0.5]))
    run = runs_from((head, coordinates, s), Moment(0.0, s, 100.0), points=3)["support"]
    np.testing.assert_allclose(run.perturbed[1:].sum(axis=1), 1.0, atol=1e-4)
    assert abs(run.perturbed[-1] - run.reference[-1]).max() > 5e-3


def moments_of(trajectory, seed, runs, kind, **options):
    rng = np.random.default_rng(seed)
    return kind(*trajectory, runs=runs, max_time=END, rng=rng, **options, **TOLERANCES)


def test_random_moments_are_sorted_of_the_wanted_length_and_those_of_their_seed(trajectory):
    options = {"active": 0.1, "follow": 6 * UNIT}
    first, again, other = (moments_of(trajectory, seed, 6, random_moments, **options) for seed in (0, 0, 1))
    times = [moment.time for moment in first]
    assert times == sorted(set(times)) == [moment.time for moment in again]
    assert len(times) == 6
    assert 0 < times[0] < times[-1] < END
    assert times[0] != other[0].time
    _, crossings = integrate(*trajectory, np.array([0.0, END + 12 * UNIT]), thresholds=[0.1], **TOLERANCES)
    for moment in first:  # halfway to the next activation, or after 6
        next_one = min([crossing.time for crossing in crossings if crossing.time > moment.time], default=np.inf)
        expected = min(moment.time + 6 * UNIT, (moment.time + next_one) / 2)
        np.testing.assert_allclose(moment.end, expected, rtol=1e-9)
    assert len({round(moment.end - moment.time, 6) for moment in first}) > 1
    expected, _ = integrate(*trajectory, np.array([0.0, *times, END + 12 * UNIT]), **TOLERANCES)
    np.testing.assert_allclose([moment.state for moment in first], expected[1:-1], rtol=1e-12)
    assert {moment.activated for moment in first} == {None}


def test_activations_are_followed_halfway_until_the_next_coordinate_becomes_active(trajectory):
    _, crossings = integrate(*trajectory, np.array([0.0, END]), thresholds=[1e-5, 0.1], **TOLERANCES)
    assert {crossing.direction for crossing in crossings} == {1}
    noticed = {crossing.time: crossing for crossing in crossings if crossing.threshold == 1e-5}
    active = {crossing.coordinate: crossing.time for crossing in crossings if crossing.threshold == 0.1}
    assert len(active) == 8
    moments = moments_of(trajectory, 0, 1000, activation_moments, **WEIGHTS)
    # Every coordinate but the last to become active; those that never do have no end.
    assert {moment.activated for moment in moments} == set(active) - {max(active, key=active.get)}
    assert [moment.time for moment in moments] == sorted(moment.time for moment in moments)
    for moment in moments:
        assert noticed[moment.time].coordinate == moment.activated
        np.testing.assert_array_equal(moment.state, noticed[moment.time].state)
        assert larger_weight(trajectory[1], moment.state)[moment.activated] == pytest.approx(1e-5, rel=1e-6)
        next_one = min(time for time in active.values() if time > active[moment.activated])
        assert moment.end == (active[moment.activated] + next_one) / 2


def test_activations_are_drawn_once_and_are_those_of_their_seed(trajectory):
    def times(seed):
        return [moment.time for moment in moments_of(trajectory, seed, 4, activation_moments, **WEIGHTS)]

    first = times(0)
    assert len(set(first)) == 4
    assert first == sorted(first) == times(0)
    assert any(times(seed) != first for seed in (1, 2, 3))
