"""Compiled inner loops of the toy attention head (paper, eq. 1): outputs, residuals and gradients, sample by sample.

Everything a sample needs stays in the first-level cache, so a gradient costs one pass over the data. The number of
tokens and the dimension are constants of the compiled code: the compiler then unrolls the loop over tokens and
vectorises the loop over dimensions.
"""

from functools import cache
from math import exp, log

import numpy as np
from numba import njit

# Sums may be reordered (that is what lets them be vectorised); infinities and NaNs keep their meaning.
COMPILE = {"fastmath": {"reassoc", "contract", "nsz", "arcp"}, "error_model": "numpy", "cache": True}

# Subnormal numbers, below 2e-308, slow Intel processors down fifty times. If what is smaller than this is zero, none
# arise: the product of two numbers that are left is above 1e-300. And it can be zero: a product of weights, or an
# attention weight, of that size changes the gradient by about as much, which is lost beside anything of order 1.
NEGLIGIBLE = 1e-150
LOG_NEGLIGIBLE = log(NEGLIGIBLE)


def flush(x):
    """`x`, an array, with zero where it is negligible; NaNs stay."""
    return np.where(abs(x) < NEGLIGIBLE, 0.0, x)


@njit(**COMPILE, inline="always")
def row_products(A, B, out, tokens, dim):
    """out = A B^T."""
    for i in range(tokens):
        # Five sums side by side: one sum alone is unrolled so far that a short row falls out of the vector loop.
        for j in range(0, tokens - tokens % 5, 5):
            a0, a1, a2, a3, a4 = 0.0, 0.0, 0.0, 0.0, 0.0
            for k in range(dim):
                a = A[i, k]
                a0 += a * B[j, k]
                a1 += a * B[j + 1, k]
                a2 += a * B[j + 2, k]
                a3 += a * B[j + 3, k]
                a4 += a * B[j + 4, k]
            out[i, j], out[i, j + 1], out[i, j + 2], out[i, j + 3], out[i, j + 4] = a0, a1, a2, a3, a4
        for j in range(tokens - tokens % 5, tokens):
            a0 = 0.0
            for k in range(dim):
                a0 += A[i, k] * B[j, k]
            out[i, j] = a0


@njit(**COMPILE, inline="always")
def mix_rows(P, B, out, tokens, dim):
    """out = P B."""
    for i in range(tokens):
        for k in range(dim):
            total = 0.0
            for j in range(tokens):
                total += P[i, j] * B[j, k]
            out[i, k] = total


@njit(**COMPILE, inline="always")
def softmax_rows(S, tokens, dim):
    """Softmax of each row, in place; negligible entries are zero."""
    for i in range(tokens):
        largest = S[i, 0]
        for j in range(1, tokens):
            largest = max(largest, S[i, j])
        total = 0.0
        for j in range(tokens):
            S[i, j] -= largest
            S[i, j] = 0.0 if S[i, j] < LOG_NEGLIGIBLE else exp(S[i, j])
            total += S[i, j]
        for j in range(tokens):
            S[i, j] /= total


@njit(**COMPILE, inline="always")
def softmax_backward(P, G, tokens, dim):
    """The gradient G with respect to P = softmax(S) becomes that with respect to S."""
    for i in range(tokens):
        mean = 0.0
        for j in range(tokens):
            mean += G[i, j] * P[i, j]
        for j in range(tokens):
            G[i, j] = P[i, j] * (G[i, j] - mean)


@njit(**COMPILE, inline="always")
def scale_columns(x, q, out, tokens, dim):
    """out = x diag(q)."""
    for i in range(tokens):
        for k in range(dim):
            out[i, k] = x[i, k] * q[k]


@njit(**COMPILE, inline="always")
def diagonal_residual(Z, y, b, db, tokens, dim):
    """Squared error of Z diag(b); Z becomes the gradient with respect to it, and db grows by that of b."""
    total = 0.0
    for i in range(tokens):
        for k in range(dim):
            residual = Z[i, k] * b[k] - y[i, k]
            total += residual * residual
            db[k] += residual * Z[i, k]
            Z[i, k] = residual * b[k]
    return total


@njit(**COMPILE, inline="always")
def add_products(x, T, dq, tokens, dim):
    """dq grows by the column sums of x * T."""
    for i in range(tokens):
        for k in range(dim):
            dq[k] += x[i, k] * T[i, k]


@njit(**COMPILE, inline="always")
def subtract(E, y, tokens, dim):
    """Squared error of E, which becomes E - y."""
    total = 0.0
    for i in range(tokens):
        for k in range(dim):
            E[i, k] -= y[i, k]
            total += E[i, k] * E[i, k]
    return total


@cache
def compile_head(tokens, dim):
    """Compiled gradients of an attention head with `tokens` tokens of dimension `dim`.

    Returns
    -------
    diagonal : callable
        ``diagonal(X, Y, q, b, dq, db) -> total`` with S = X diag(q) X^T and output softmax(S) X diag(b).
    full : callable
        ``full(X, Y, A, B) -> total`` with S = A X^T and output softmax(S) B, where A = X W_K W_Q^T and
        B = X W_V W_O^T; overwrites A with T and B with R, whose X^T T and X^T R are the gradients.

    `total` is the sum of squared residuals; gradients are those of half of it.
    """

    @njit(**COMPILE)
    def diagonal(X, Y, q, b, dq, db):
        Z, P, G = np.empty((tokens, dim)), np.empty((tokens, tokens)), np.empty((tokens, tokens))
        dq[:], db[:], total = 0.0, 0.0, 0.0
        for sample in range(X.shape[0]):
            x = X[sample]
            scale_columns(x, q, Z, tokens, dim)
            row_products(Z, x, P, tokens, dim)
            softmax_rows(P, tokens, dim)
            mix_rows(P, x, Z, tokens, dim)
            total += diagonal_residual(Z, Y[sample], b, db, tokens, dim)
            row_products(Z, x, G, tokens, dim)
            softmax_backward(P, G, tokens, dim)
            mix_rows(G, x, Z, tokens, dim)
            add_products(x, Z, dq, tokens, dim)
        return total

    @njit(**COMPILE)
    def full(X, Y, A, B):
        E, P, G = np.empty((tokens, dim)), np.empty((tokens, tokens)), np.empty((tokens, tokens))
        total = 0.0
        for sample in range(X.shape[0]):
            a, b = A[sample], B[sample]
            row_products(a, X[sample], P, tokens, dim)
            softmax_rows(P, tokens, dim)
            mix_rows(P, b, E, tokens, dim)
            total += subtract(E, Y[sample], tokens, dim)
            row_products(E, b, G, tokens, dim)
            softmax_backward(P, G, tokens, dim)
            mix_rows(G, X[sample], a, tokens, dim)
            mix_rows(P.T, E, b, tokens, dim)
        return total

    return diagonal, full
