// The toy model with diagonal weights and Algorithm 1, at a size that a browser follows: the library's toy/problem.py,
// toy/heads.py, toy/diagonal_flow.py and toy/algorithm1.py. It uses nothing of the page, so that tests run it alone.

// Problems

// Standard normal numbers from a seed: mulberry32 and Box-Muller.
function normalNumbers(seed) {
  let counter = seed >>> 0;
  const uniform = () => {
    counter = (counter + 0x6d2b79f5) | 0;
    let mixed = Math.imul(counter ^ (counter >>> 15), counter | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return (((mixed ^ (mixed >>> 14)) >>> 0) + 0.5) / 2 ** 32;
  };
  return () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform());
}

// X and Y, arrays of samples * tokens * dim; teacher and theta_0, each the diagonals of W_K, W_Q, W_V and W_O.
function drawProblem(seed, { samples, tokens, dim, teacher_std_KQ: stdKQ, teacher_std_VO: stdVO }) {
  const normal = normalNumbers(seed);
  const draw = (count, std = 1) => Float64Array.from({ length: count }, () => std * normal());
  const X = draw(samples * tokens * dim);
  const teacher = [stdKQ, stdKQ, stdVO, stdVO].map((std) => draw(dim, std));
  const theta_0 = [1, 1, 1, 1].map((std) => draw(dim, std));
  const problem = { X, Y: new Float64Array(X.length), samples, tokens, dim };
  diagonalHead(problem).outputs(products(teacher), problem.Y);
  return { ...problem, teacher, theta_0 };
}

const products = ([W_K, W_Q, W_V, W_O]) =>
  Float64Array.from([...W_K.map((key, i) => key * W_Q[i]), ...W_V.map((value, i) => value * W_O[i])]);

// Loss and g = -dL/dp at the products p, the diagonals of W_K W_Q^T and of W_V W_O^T: paper eqs. (1) and (4).
function diagonalHead({ X, Y, samples, tokens, dim }) {
  const size = samples * tokens * dim;
  const P = new Float64Array(tokens);
  const PX = new Float64Array(dim);
  const slope = new Float64Array(tokens);

  // Calls `use` with each query token's place in X, after P and PX are its attention and what it attends to.
  function attend(p, use) {
    for (let sample = 0; sample < samples; sample += 1) {
      const first = sample * tokens * dim;
      for (let query = 0; query < tokens; query += 1) {
        const at = first + query * dim;
        let top = -Infinity;
        for (let key = 0; key < tokens; key += 1) {
          P[key] = 0;
          for (let i = 0; i < dim; i += 1) P[key] += X[at + i] * p[i] * X[first + key * dim + i];
          top = Math.max(top, P[key]);
        }
        let total = 0;
        for (let key = 0; key < tokens; key += 1) total += P[key] = Math.exp(P[key] - top);
        PX.fill(0);
        for (let key = 0; key < tokens; key += 1) {
          P[key] /= total;
          for (let i = 0; i < dim; i += 1) PX[i] += P[key] * X[first + key * dim + i];
        }
        use(at, first);
      }
    }
  }

  return {
    outputs(p, into) {
      attend(p, (at) => { for (let i = 0; i < dim; i += 1) into[at + i] = PX[i] * p[dim + i]; });
    },
    lossAndG(p) {
      const g = new Float64Array(2 * dim);
      let loss = 0;
      attend(p, (at, first) => {
        let mean = 0;
        for (let key = 0; key < tokens; key += 1) slope[key] = 0;
        for (let i = 0; i < dim; i += 1) {
          const residual = PX[i] * p[dim + i] - Y[at + i];
          loss += residual * residual;
          g[dim + i] -= (residual * PX[i]) / size;
          const back = (residual * p[dim + i]) / size;
          for (let key = 0; key < tokens; key += 1) slope[key] += back * X[first + key * dim + i];
        }
        for (let key = 0; key < tokens; key += 1) mean += P[key] * slope[key];
        for (let key = 0; key < tokens; key += 1) {
          const pull = P[key] * (slope[key] - mean);
          for (let i = 0; i < dim; i += 1) g[i] -= pull * X[at + i] * X[first + key * dim + i];
        }
      });
      return { loss: loss / (2 * size), g };
    },
  };
}

// dg/dp along some of the coordinates, by differences; a row for each component of g.
function derivatives(head, p, columns) {
  const change = 1e-6;
  const { g } = head.lossAndG(p);
  const rows = Array.from(g, () => new Float64Array(p.length));
  for (const i of columns) {
    const moved = Float64Array.from(p);
    moved[i] += change;
    head.lossAndG(moved).g.forEach((value, row) => { rows[row][i] = (value - g[row]) / change; });
  }
  return rows;
}

// Solver

// LU decomposition with pivots, in place; gives the function that solves for a right side.
function factored(matrix) {
  const count = matrix.length;
  const order = matrix.map((_, row) => row);
  for (let column = 0; column < count; column += 1) {
    let pivot = column;
    for (let row = column + 1; row < count; row += 1) {
      if (Math.abs(matrix[row][column]) > Math.abs(matrix[pivot][column])) pivot = row;
    }
    [matrix[column], matrix[pivot]] = [matrix[pivot], matrix[column]];
    [order[column], order[pivot]] = [order[pivot], order[column]];
    for (let row = column + 1; row < count; row += 1) {
      const factor = (matrix[row][column] /= matrix[column][column]);
      for (let other = column + 1; other < count; other += 1) matrix[row][other] -= factor * matrix[column][other];
    }
  }
  return (right) => {
    const found = Float64Array.from(order, (row) => right[row]);
    for (let row = 0; row < count; row += 1) {
      for (let column = 0; column < row; column += 1) found[row] -= matrix[row][column] * found[column];
    }
    for (let row = count - 1; row >= 0; row -= 1) {
      for (let column = row + 1; column < count; column += 1) found[row] -= matrix[row][column] * found[column];
      found[row] /= matrix[row][row];
    }
    return found;
  };
}

// Yields { t, y, velocity } after each step of y' = velocity(y) up to `end`. The Rosenbrock method of order 2 of Shampine
// and Reichelt (1997, ode23s), which takes long steps while active coordinates rest and others drift.
function* solve({ velocity, jacobian }, y, end, { tolerance, firstStep, longestStep }) {
  const d = 1 / (2 + Math.SQRT2);
  let t = 0;
  let step = firstStep;
  let F0 = velocity(y);
  let J = jacobian(y);
  const combined = (of) => y.map((_, i) => of(i));
  while (t < end) {
    step = Math.min(step, longestStep, end - t);
    const invert = factored(J.map((row, i) => row.map((value, j) => (i === j) - step * d * value)));
    const k1 = invert(F0);
    const F1 = velocity(combined((i) => y[i] + 0.5 * step * k1[i]));
    const k2 = invert(combined((i) => F1[i] - k1[i])).map((value, i) => value + k1[i]);
    const next = combined((i) => y[i] + step * k2[i]);
    const F2 = velocity(next);
    const k3 = invert(combined((i) => F2[i] - (6 + Math.SQRT2) * (k2[i] - F1[i]) - 2 * (k1[i] - F0[i])));
    const error = Math.max(...combined((i) => Math.abs((step / 6) * (k1[i] - 2 * k2[i] + k3[i])))) / tolerance;
    if (error <= 1) {
      t = end - t - step < 1e-12 * end ? end : t + step;
      [y, F0, J] = [next, F2, jacobian(next)];
      yield { t, y, velocity: F0 };
    }
    step *= error > 0 ? Math.min(4, Math.max(0.2, 0.8 * error ** (-1 / 3))) : 4; // NaN, too, halves it and more
  }
}

// The flow

// ln|c| of each coordinate, c = u^2 - v^2, at the weights alpha * theta_0, and the state s with u v = |c|/2 sinh(2 s).
function logCoordinates([W_K, W_Q, W_V, W_O], logAlpha) {
  const u = [...W_K, ...W_V];
  const v = [...W_Q, ...W_O];
  const c = u.map((value, i) => Math.abs(value * value - v[i] * v[i]));
  return {
    logC: c.map((value) => Math.log(value) + 2 * logAlpha),
    s: Float64Array.from(c, (value, i) => Math.asinh((2 * u[i] * v[i]) / value) / 2),
  };
}

// A trial step may overshoot; a large finite number makes the solver shorten it, infinity would not.
const grown = (logC, size) => Math.exp(Math.min(logC + 2 * size, 30));
const productOf = (logC, s) =>
  s.map((value, i) => (Math.sign(value) * grown(logC[i], Math.abs(value)) * -Math.expm1(-4 * Math.abs(value))) / 4);

// Yields { time, loss, p } of the gradient flow: rescaled time, loss and products, from 0 to rescaled time `end`.
function* train(problem, logAlpha, end, { tolerance = 1e-3, records = 300 } = {}) {
  const head = diagonalHead(problem);
  const { logC, s } = logCoordinates(problem.theta_0, logAlpha);
  const slopes = (state) =>
    state.map((value, i) => (grown(logC[i], Math.abs(value)) * (1 + Math.exp(-4 * Math.abs(value)))) / 2);
  const flow = {
    velocity: (state) => head.lossAndG(productOf(logC, state)).g,
    jacobian(state) {
      const slope = slopes(state);
      const moving = [...slope.keys()].filter((i) => slope[i] > 1e-4);
      return derivatives(head, productOf(logC, state), moving).map((row) => row.map((value, i) => value * slope[i]));
    },
  };
  const record = (t, state) => {
    const p = productOf(logC, state);
    return { time: t / -logAlpha, loss: head.lossAndG(p).loss, p };
  };
  yield record(0, s);
  const longestStep = (-logAlpha * end) / records;
  const steps = solve(flow, s, -logAlpha * end, { tolerance, firstStep: longestStep / 100, longestStep });
  for (const { t, y } of steps) yield record(t, y);
}

// Algorithm 1

// Yields the stages: { time, coordinate, loss, p }, in rescaled time; eqs. (7) to (11).
function* stages(problem) {
  const head = diagonalHead(problem);
  const b = new Float64Array(2 * problem.dim).fill(1);
  let p = new Float64Array(2 * problem.dim);
  let time = 0;
  for (;;) {
    const { g } = head.lossAndG(p);
    const waits = (rate, i) => p[i] === 0 && rate !== 0;
    const wait = g.map((rate, i) => (waits(rate, i) ? (rate > 0 ? b[i] : 2 - b[i]) / Math.abs(rate) : Infinity));
    const coordinate = wait.indexOf(Math.min(...wait));
    if (!Number.isFinite(wait[coordinate])) return;
    time += wait[coordinate];
    g.forEach((rate, i) => { b[i] -= rate * wait[coordinate]; });
    p = Float64Array.from(p);
    p[coordinate] = Math.sign(g[coordinate]) * 1e-6; // epsilon = 1e-3, squared
    const wasActive = p.map((value) => Math.sign(value));
    p = rest(head, p);
    wasActive.forEach((sign, i) => { if (sign !== 0) b[i] = 1 - sign; }); // on the support, without rounding errors
    yield { time, coordinate, loss: head.lossAndG(p).loss, p };
  }
}

// Where the flow from |u| = |v| comes to rest, part (B): dz/dt = 2 sgn(p) g(p) in z = ln|p| on the support. A coordinate
// that shrinks below 1e-10 has left it.
function rest(head, p) {
  for (;;) {
    const active = [...p.keys()].filter((i) => p[i] !== 0);
    if (active.length === 0) return p;
    const signs = active.map((i) => Math.sign(p[i]));
    const at = (z) => {
      const moved = new Float64Array(p.length);
      active.forEach((i, place) => { moved[i] = signs[place] * Math.exp(Math.min(z[place], 30)); });
      return moved;
    };
    const flow = {
      velocity(z) {
        const { g } = head.lossAndG(at(z));
        return z.map((_, place) => 2 * signs[place] * g[active[place]]);
      },
      jacobian(z) {
        const moved = at(z);
        const rows = derivatives(head, moved, active);
        return active.map((i, place) => Float64Array.from(active, (j) => 2 * signs[place] * rows[i][j] * moved[j]));
      },
    };
    const z = Float64Array.from(active, (i) => Math.log(Math.abs(p[i])));
    const speed = Math.max(...flow.velocity(z).map(Math.abs));
    const options = { tolerance: 1e-3, firstStep: 0.1 / speed, longestStep: Infinity };
    let gone = [];
    for (const { y, velocity } of solve(flow, z, 1e9 / speed, options)) {
      p = at(y);
      gone = active.filter((_, place) => y[place] < Math.log(1e-10) && velocity[place] < 0);
      if (gone.length > 0 || Math.max(...velocity.map(Math.abs)) < 1e-9 * speed) break;
    }
    if (gone.length === 0) return p;
    for (const i of gone) p[i] = 0;
  }
}
