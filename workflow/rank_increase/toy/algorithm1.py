"""Algorithm 1 of the paper: the stages of incremental learning in the limit alpha -> 0, from eqs. (7) to (11)."""

from dataclasses import dataclass

import numpy as np
from scipy.integrate import LSODA

from rank_increase.toy.diagonal_flow import JACOBIAN_SAMPLES, differentiate_g


@dataclass(frozen=True)
class Stage:
    """Stage k + 1 of Algorithm 1: the coordinate i_k that becomes active at T_{k+1}, and the weights that follow.

    Times are rescaled, t / ln(1/alpha). `product` is u * v at theta_{k+1}, of shape (p,); `sign` that of v_i u_i.
    `gap_to_next` is how much longer the next coordinate would have needed. `deactivated` are the coordinates that left
    the support. `curvature` is the least eigenvalue of the loss's Hessian in u on the support, positive where
    theta_{k+1} is a strict local minimum (Assumption 4.3).
    """

    time: float
    coordinate: int
    sign: int
    product: np.ndarray
    loss: float
    gap_to_next: float
    deactivated: tuple
    curvature: float


def time_until_active(b, g, support):
    """Delta_k(i) of eq. (8), infinite on the support.

    Coordinates of the support have g_i = 0; its rounding error would give them a wait of almost zero.

    Parameters
    ----------
    b : array, shape (p,)
        Logarithm of u + v to the base alpha, in [0, 2].
    g : array, shape (p,)
    support : array of bool, shape (p,)
    """
    waiting = ~support & (g != 0)
    wait = np.full(len(b), np.inf)
    wait[waiting] = (b[waiting] - 1 + np.sign(g[waiting])) / g[waiting]
    return wait


def stages(head, coordinates, *, max_time, epsilon=1e-3):
    """Yield the stages of Algorithm 1 up to rescaled time `max_time`.

    Parameters
    ----------
    head : object with `loss_and_g` and `subset`, such as heads.DiagonalHead
    coordinates : int
        Number p of coordinates.
    max_time : float
    epsilon : float
        Size of the weights of the activated coordinate at which part (B) starts; the paper lets it go to zero.

    Raises
    ------
    ArithmeticError
        If part (B) does not come to rest.
    """
    b, p, time = np.ones(coordinates), np.zeros(coordinates), 0.0
    while True:
        support = p != 0
        g = head.loss_and_g(p)[1]
        wait = time_until_active(b, g, support)
        i = np.argmin(wait)
        time += wait[i]
        if not time <= max_time:
            return
        b = np.where(support, b, b - g * wait[i])
        sign = np.sign(g[i])
        b[i] = 1 - sign  # exactly 0 or 2, without rounding errors
        start = p.copy()
        start[i] = sign * epsilon**2
        p, curvature = descend(head, start)
        deactivated = np.flatnonzero((start != 0) & (p == 0))
        b[deactivated] = 1 - np.sign(start[deactivated])
        yield Stage(
            time=time,
            coordinate=int(i),
            sign=int(sign),
            product=p,
            loss=head.loss_and_g(p)[0],
            gap_to_next=np.delete(wait, i).min(initial=np.inf) - wait[i],
            deactivated=tuple(deactivated.tolist()),
            curvature=curvature,
        )


def descend(head, p, *, rest=0.1, gone=1e-10, patience=1e6):
    """The limit of the gradient flow from |u| = |v|, eq. (11), and the curvature of the loss there.

    On the support, dz/dt = 2 sgn(p) g(p) with z = ln|p|. Near rest, Newton's method on g = 0 takes over. Its result is
    accepted only if it stays near and is a strict minimum.

    Parameters
    ----------
    head : object with `loss_and_g` and `subset`
    p : array, shape (p,)
        Start; only its nonzero entries move.
    rest : float
        Newton's method is tried when the speed |dz/dt| has fallen to this share of the speed at the start.
    gone : float
        A coordinate that has shrunk below this and still shrinks has left the support.
    patience : float
        Longest time, in units of 1 / speed at the start.

    Returns
    -------
    p : array, shape (p,)
    curvature : float
        Least eigenvalue of the Hessian of L(u, s u) on the support.

    Raises
    ------
    ArithmeticError
        If the flow does not come to rest.
    """
    p, time = p.copy(), 0.0
    speed = 2 * abs(head.loss_and_g(p)[1][p != 0]).max()
    while (p != 0).any():
        active = np.flatnonzero(p)
        flow = _SupportFlow(head, p, active)
        solver = LSODA(
            flow.velocity,
            time,
            np.log(abs(p[active])),
            patience / speed,
            first_step=0.1 / speed,
            rtol=1e-4,
            atol=1e-4,
            jac=flow.jacobian,
        )
        shrunk, slow = np.zeros(len(active), bool), rest * speed
        while solver.status == "running" and not shrunk.any():
            before = solver.y
            solver.step()
            velocity = (solver.y - before) / solver.step_size
            shrunk = (solver.y < np.log(gone)) & (velocity < 0)
            if abs(velocity).max() < slow:
                p[active] = flow.sign * np.exp(solver.y)
                if (found := _newton(head, p, active)) is not None:
                    return found
                slow /= 10
        if not shrunk.any():
            raise ArithmeticError(f"part (B) of Algorithm 1 has not come to rest by time {solver.t:.3g}")
        p[active] = flow.sign * np.exp(solver.y)
        p[active[shrunk]] = 0.0
        time = solver.t
    return p, np.inf


class _SupportFlow:
    """The flow on the support in z = ln|p|."""

    def __init__(self, head, p, active):
        self.head, self.active, self.sign = head, active, np.sign(p[active])
        self.few = head.subset(slice(JACOBIAN_SAMPLES))
        self.p = np.zeros_like(p)

    def _at(self, z):
        # A trial step may overshoot; a large finite number makes the solver shorten it, infinity would not.
        self.p[self.active] = self.sign * np.exp(np.minimum(z, 30.0))
        return self.p

    def velocity(self, _, z):
        return 2 * self.sign * self.head.loss_and_g(self._at(z))[1][self.active]

    def jacobian(self, _, z):
        p = self._at(z)
        return 2 * self.sign[:, None] * _derivatives(self.few, p, self.active) * p[self.active]


def _derivatives(head, p, active):
    """dg/dp on the support."""
    return differentiate_g(head, p, active)[np.ix_(active, active)]


def _newton(head, p, active, iterations=12, near=0.3):
    """Rest point of g[active] near p with its curvature, or None if there is no strict minimum nearby."""
    found = p.copy()
    derivatives = _derivatives(head, found, active)
    for _ in range(iterations):
        step = np.linalg.solve(derivatives, head.loss_and_g(found)[1][active])
        found[active] -= step
        if (abs(found[active] - p[active]) > near * abs(p[active])).any():
            return None
        if abs(step).max() < 1e-12:
            break
    else:
        return None
    derivatives = _derivatives(head, found, active)
    dp_du = 2 * np.sign(p[active]) * np.sqrt(abs(found[active]))  # p = s u^2; the terms with g vanish
    hessian = -(derivatives + derivatives.T) / 2 * np.outer(dp_du, dp_du)
    curvature = np.linalg.eigvalsh(hessian)[0]
    return (found, curvature) if curvature > 0 else None
