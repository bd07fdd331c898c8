"""Algorithm 1 of the paper: the stages of incremental learning in the limit alpha -> 0, from eqs. (7) to (11).

With weight decay lambda, which the paper does not have, u + v grows at the rate g - lambda and u - v at -g - lambda. So
with b the logarithm of u + v to the base alpha, and time in units of ln(1/alpha), b changes at the rate lambda - g, and
that of u - v is 2 (1 + lambda t) - b: their sum is that of c = u^2 - v^2. A coordinate becomes active when one of the
two is zero, which takes |g| > lambda. On the support |u| = |v| and g = lambda sgn(u v) at rest.
"""

import numpy as np
from scipy.integrate import LSODA

from rank_increase.toy.diagonal_flow import JACOBIAN_SAMPLES, differentiate_g
from rank_increase.toy.runs import Stage

TIE = 1e-9  # waits closer than this share of them are equal but for rounding


def time_until_active(b, g, support, decay=0.0, half=1.0):
    """Delta_k(i) of eq. (8), infinite on the support.

    Coordinates of the support have |g_i| = lambda; its rounding error would give them a wait of almost zero.

    Parameters
    ----------
    b : array, shape (p,)
        Logarithm of u + v to the base alpha, in [0, 2 half].
    g : array, shape (p,)
    support : array of bool, shape (p,)
    decay : float
        Weight decay lambda: coordinates with |g_i| <= lambda do not grow, and wait forever.
    half : float
        1 + lambda t at the present time t.
    """
    rate = abs(g) - decay
    waiting = ~support & (rate > 0)
    wait = np.full(len(b), np.inf)
    wait[waiting] = np.where(g > 0, b, 2 * half - b)[waiting] / rate[waiting]
    return wait


def stages(head, coordinates, *, max_time, decay=0.0, epsilon=1e-3):
    """Yield the stages of Algorithm 1 up to rescaled time `max_time`.

    Parameters
    ----------
    head : object with `loss_and_g` and `subset`, such as heads.DiagonalHead
    coordinates : int
        Number p of coordinates.
    max_time : float
    decay : float
        Weight decay lambda.
    epsilon : float
        Size of the weights of the activated coordinate at which part (B) starts; the paper lets it go to zero.

    Raises
    ------
    ArithmeticError
        If two coordinates become active at the same time, or part (B) does not come to rest.
    """
    b, p, time = np.ones(coordinates), np.zeros(coordinates), 0.0
    while True:
        g = head.loss_and_g(p)[1]
        wait = time_until_active(b, g, p != 0, decay, 1 + decay * time)
        i = np.argmin(wait)
        time += wait[i]
        if not time <= max_time:
            return
        tied = np.flatnonzero(wait <= wait[i] * (1 + TIE))
        if len(tied) > 1:
            raise ArithmeticError(
                f"coordinates {', '.join(map(str, tied))} become active together at time {time:.6g}, but Assumption"
                " 4.2 and Algorithm 1 need a single one: tell identical heads apart, for instance by attention biases"
            )
        b -= (g - decay) * wait[i]
        sign = np.sign(g[i])
        start = p.copy()
        start[i] = sign * epsilon**2
        p, curvature = descend(head, start, decay)
        was_active = start != 0
        b[was_active] = (1 + decay * time) * (1 - np.sign(start[was_active]))  # without rounding errors
        deactivated = np.flatnonzero(was_active & (p == 0))
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


def descend(head, p, decay=0.0, *, rest=0.1, gone=1e-10, patience=1e6):
    """The limit of the gradient flow from |u| = |v|, eq. (11), and the curvature of the loss there.

    On the support, dz/dt = 2 (sgn(p) g(p) - lambda) with z = ln|p|. Near rest, Newton's method takes over. Its result
    is accepted only if it stays near and is a strict minimum.

    Parameters
    ----------
    head : object with `loss_and_g` and `subset`
    p : array, shape (p,)
        Start; only its nonzero entries move.
    decay : float
        Weight decay lambda.
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
        Least eigenvalue of the Hessian of L(u, s u), with the penalty of weight decay, on the support.

    Raises
    ------
    ArithmeticError
        If the flow does not come to rest.
    """
    p, time = p.copy(), 0.0
    speed = 2 * abs(np.sign(p) * head.loss_and_g(p)[1] - decay)[p != 0].max()
    while (p != 0).any():
        active = np.flatnonzero(p)
        flow = _SupportFlow(head, p, active, decay)
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
                if (found := _newton(head, p, active, decay)) is not None:
                    return found
                slow /= 10
        if not shrunk.any():
            raise ArithmeticError(
                f"part (B) of Algorithm 1 has not come to rest by time {solver.t:.3g}: the loss has no minimum on the"
                " support, as with hard labels, or a very flat one"
            )
        p[active] = flow.sign * np.exp(solver.y)
        p[active[shrunk]] = 0.0
        time = solver.t
    return p, np.inf


class _SupportFlow:
    """The flow on the support in z = ln|p|."""

    def __init__(self, head, p, active, decay):
        self.head, self.active, self.sign, self.decay = head, active, np.sign(p[active]), decay
        self.few = head.subset(slice(JACOBIAN_SAMPLES))
        self.p = np.zeros_like(p)

    def _at(self, z):
        # A trial step may overshoot; a large finite number makes the solver shorten it, infinity would not.
        self.p[self.active] = self.sign * np.exp(np.minimum(z, 30.0))
        return self.p

    def velocity(self, _, z):
        return 2 * (self.sign * self.head.loss_and_g(self._at(z))[1][self.active] - self.decay)

    def jacobian(self, _, z):
        p = self._at(z)
        return 2 * self.sign[:, None] * _derivatives(self.few, p, self.active) * p[self.active]


def _derivatives(head, p, active):
    """dg/dp on the support."""
    return differentiate_g(head, p, active)[np.ix_(active, active)]


def _newton(head, p, active, decay, iterations=12, near=0.3):
    """Rest point near p, where g[active] = lambda sgn(p), with its curvature; None without a strict minimum nearby."""
    found, pull = p.copy(), decay * np.sign(p[active])
    derivatives = _derivatives(head, found, active)
    for _ in range(iterations):
        step = np.linalg.solve(derivatives, head.loss_and_g(found)[1][active] - pull)
        found[active] -= step
        if (abs(found[active] - p[active]) > near * abs(p[active])).any():
            return None
        if abs(step).max() < 1e-12:
            break
    else:
        return None
    derivatives = _derivatives(head, found, active)
    dp_du = 2 * np.sign(p[active]) * np.sqrt(abs(found[active]))  # p = s u^2; the terms with g - lambda s vanish
    hessian = -(derivatives + derivatives.T) / 2 * np.outer(dp_du, dp_du)
    curvature = np.linalg.eigvalsh(hessian)[0]
    return (found, curvature) if curvature > 0 else None
