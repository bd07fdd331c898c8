"""Compiled inner loops of the toy attention head (paper, eq. 1): outputs, residuals and gradients, block by block.

A block is several samples side by side, in arrays whose last axis is the sample. What is written for one sample then
runs on all of them, in vector instructions; plain loops over dimensions or tokens, which are short, use these badly.
The data of a block stay in the caches next to the processor, so a gradient costs one pass over the data.

All is in this file, since Numba compiles a cached function again only if its own file has changed.
"""

import operator
from functools import cache
from math import factorial, log

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba import config, njit, types
from numba.core import cgutils
from numba.extending import intrinsic, lower_builtin, models, register_model, type_callable

COMPILE = {"error_model": "numpy", "cache": True}

# Samples in a block: float64 numbers in a vector register. Half as many registers are needed, and there are half as
# many, if they are not of AVX-512.
LANES = 8 if config.CPU_NAME is None and llvmlite.binding.get_host_cpu_features().get("avx512f") else 4

# Subnormal numbers, below 2e-308, slow Intel processors down fifty times. None arise if numbers below this bound are
# set to zero: a product of two larger ones is above 1e-300. This is harmless: a product of weights, or an attention
# weight, of that size changes the gradient by about as much, which is lost beside anything of order 1.
NEGLIGIBLE = 1e-150

_VECTOR = ir.VectorType(ir.DoubleType(), LANES)
_BITS = ir.VectorType(ir.IntType(64), LANES)
_INDEX = ir.IntType(64)
_FUSED = ["contract"]  # a product and a sum may be one instruction, with one rounding error


def flush(x):
    """`x`, an array, with zero where it is negligible; NaNs stay."""
    return np.where(abs(x) < NEGLIGIBLE, 0.0, x)


def lanes_array(*shape):
    """Zeros of shape (*shape, LANES), aligned with the lines of the cache: loads that touch two lines take twice."""
    size, line = LANES * int(np.prod(shape)), 8
    memory = np.zeros(size + line)
    start = -(memory.ctypes.data // memory.itemsize) % line
    return memory[start : start + size].reshape(*shape, LANES)


def in_lanes(X):
    """X, of shape (samples, tokens, dim), in blocks: shape (blocks, dim, tokens, LANES), with zeros as last samples."""
    samples, tokens, dim = X.shape
    whole, left = divmod(samples, LANES)
    blocks = lanes_array(whole + (left > 0), dim, tokens)
    blocks[:whole] = X[: samples - left].reshape(whole, LANES, tokens, dim).transpose(0, 3, 2, 1)
    if left:
        blocks[whole, :, :, :left] = X[samples - left :].T
    return blocks


class Lanes(types.Type):
    """Numba's type of `length` vectors of LANES numbers.

    Operators work element by element. A number, or a single vector, meets all vectors of the other operand.
    """

    def __init__(self, length):
        super().__init__(f"Lanes({length})")
        self.length = length


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager, kind):
        super().__init__(manager, kind, ir.ArrayType(_VECTOR, kind.length))


def _unpack(builder, value, kind, length):
    """The vectors of a value of type `kind`, or a number; a single one is repeated `length` times."""
    if isinstance(kind, types.Float):
        undefined = ir.Constant(_VECTOR, ir.Undefined)
        first = builder.insert_element(undefined, value, ir.Constant(ir.IntType(32), 0))
        everywhere = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
        vectors = [builder.shuffle_vector(first, undefined, everywhere)]
    else:
        vectors = [builder.extract_value(value, i) for i in range(kind.length)]
    return vectors * length if len(vectors) == 1 else vectors


def _pack(builder, vectors):
    value = ir.Constant(ir.ArrayType(_VECTOR, len(vectors)), ir.Undefined)
    for i, vector in enumerate(vectors):
        value = builder.insert_value(value, vector, i)
    return value


def _zeros(length):
    return ir.Constant(ir.ArrayType(_VECTOR, length), [[0.0] * LANES] * length)


def larger(a, b):
    """The larger of both, in compiled code; `a` where one is NaN."""


def zero_below(x, bound):
    """`x` with zero where it is below `bound`, in compiled code; NaNs stay."""


def _define(function, instruction):
    """Give `function` a meaning in compiled code: `instruction(builder, a, b)` on each pair of vectors."""

    @type_callable(function)
    def typer(context):
        def result(a, b):
            lengths = {kind.length for kind in (a, b) if isinstance(kind, Lanes)}
            if lengths and len(lengths - {1}) < 2 and all(isinstance(kind, (Lanes, types.Float)) for kind in (a, b)):
                return Lanes(max(lengths))
            return None

        return result

    def lower(context, builder, signature, arguments):
        length = signature.return_type.length
        a, b = (_unpack(builder, *argument, length) for argument in zip(arguments, signature.args, strict=True))
        return _pack(builder, [instruction(builder, *pair) for pair in zip(a, b, strict=True)])

    for kinds in [(Lanes, Lanes), (Lanes, types.Float), (types.Float, Lanes)]:
        lower_builtin(function, *kinds)(lower)


def _larger(builder, a, b):
    return builder.select(builder.fcmp_ordered(">", b, a), b, a)


def _zero_below(builder, x, bound):
    return builder.select(builder.fcmp_ordered("<", x, bound), ir.Constant(_VECTOR, [0.0] * LANES), x)


_define(operator.add, lambda builder, a, b: builder.fadd(a, b, flags=_FUSED))
_define(operator.sub, lambda builder, a, b: builder.fsub(a, b, flags=_FUSED))
_define(operator.mul, lambda builder, a, b: builder.fmul(a, b, flags=_FUSED))
_define(operator.truediv, lambda builder, a, b: builder.fdiv(a, b))
_define(larger, _larger)
_define(zero_below, _zero_below)


def _addresses(context, builder, kind, array, i, j, length):
    """Pointers to the vectors [i, j], [i, j + 1], ... of an array of shape (rows, columns, LANES)."""
    array = context.make_array(kind)(context, builder, array)
    start = cgutils.get_item_pointer(context, builder, kind, array, [i, j, ir.Constant(_INDEX, 0)])
    start = builder.bitcast(start, _VECTOR.as_pointer())
    return [builder.gep(start, [ir.Constant(_INDEX, n)], source_etype=_VECTOR) for n in range(length)]


def _load(builder, addresses):
    return _pack(builder, [builder.load(address, align=8, typ=_VECTOR) for address in addresses])


@intrinsic(prefer_literal=True)
def zeros(typing_context, length):
    """`length` vectors of zeros, for a constant `length`."""

    def lower(context, builder, signature, arguments):
        return _zeros(length.literal_value)

    return Lanes(length.literal_value)(length), lower


@intrinsic
def row(typing_context, array, i, like):
    """array[i], of an array of shape (rows, columns, LANES) with as many columns as `like` has vectors."""

    def lower(context, builder, signature, arguments):
        first = ir.Constant(_INDEX, 0)
        return _load(builder, _addresses(context, builder, array, *arguments[:2], first, like.length))

    return like(array, types.intp, like), lower


@intrinsic
def cell(typing_context, array, i, j):
    """array[i, j], a single vector, of an array of shape (rows, columns, LANES)."""

    def lower(context, builder, signature, arguments):
        return _load(builder, _addresses(context, builder, array, *arguments, 1))

    return Lanes(1)(array, types.intp, types.intp), lower


@intrinsic
def store(typing_context, array, i, j, value):
    """Write the vectors of `value` to array[i, j], array[i, j + 1], ..."""

    def lower(context, builder, signature, arguments):
        vectors = _unpack(builder, arguments[3], value, 1)
        addresses = _addresses(context, builder, array, *arguments[:3], value.length)
        for vector, address in zip(vectors, addresses, strict=True):
            builder.store(vector, address, align=8)
        return context.get_dummy_value()

    return types.none(array, types.intp, types.intp, value), lower


@intrinsic
def total(typing_context, value):
    """The sum of the vectors of `value`, a single vector."""

    def lower(context, builder, signature, arguments):
        vectors = _unpack(builder, arguments[0], value, 1)
        while len(vectors) > 1:
            pairs = zip(vectors[::2], vectors[1::2], strict=False)
            last = vectors[len(vectors) // 2 * 2 :]
            vectors = [builder.fadd(*pair, flags=_FUSED) for pair in pairs] + last
        return _pack(builder, vectors)

    return Lanes(1)(value), lower


@intrinsic
def _power_of_two(typing_context, shifted):
    """2^n from n + `_SHIFT`, whose last 12 bits are n + 1023: moved by 52 bits, they are sign and exponent of 2^n."""

    def lower(context, builder, signature, arguments):
        vectors = [builder.bitcast(vector, _BITS) for vector in _unpack(builder, arguments[0], shifted, 1)]
        vectors = [builder.shl(vector, ir.Constant(_BITS, [52] * LANES)) for vector in vectors]
        return _pack(builder, [builder.bitcast(vector, _VECTOR) for vector in vectors])

    return shifted(shifted), lower


_SHIFT = 1.5 * 2.0**52 + 1023  # adding it rounds: float64 numbers of this size are integers
_LOG2_E = 1 / log(2)
_LN2_HIGH, _LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10  # to 84 bits; n * high has no error
_SERIES = tuple(1 / factorial(n) for n in range(13, -1, -1))  # the next term is below 4e-18 for |x| < ln(2) / 2


@njit(**COMPILE)
def exp(x):
    """Exponential of vectors of numbers between -708 and 709, to two units in the last place; NaNs stay."""
    shifted = x * _LOG2_E + _SHIFT
    n = shifted - _SHIFT
    rest = x - n * _LN2_HIGH - n * _LN2_LOW
    sums = rest * _SERIES[0] + _SERIES[1]
    for coefficient in _SERIES[2:]:
        sums = sums * rest + coefficient
    return sums * _power_of_two(shifted)


# The matrices of a block, below, are arrays of shape (rows, tokens, LANES). x, and what is like it, has a row for each
# dimension. Attention is transposed: row j has what all tokens i give to token j. `zero` is a row of zeros.


@njit(**COMPILE)
def products(x, a, out, zero):
    """out[j] = sum_k x[k, j] a[k], of token j of x with all tokens of a."""
    for j in range(x.shape[1]):
        sums = zero
        for k in range(x.shape[0]):
            sums = sums + row(a, k, zero) * cell(x, k, j)
        store(out, j, 0, sums)


@njit(**COMPILE)
def mixture(P, x, k, zero):
    """sum_j P[j] x[k, j], component k of the tokens of x mixed by P."""
    sums = zero
    for j in range(x.shape[1]):
        sums = sums + row(P, j, zero) * cell(x, k, j)
    return sums


@njit(**COMPILE)
def transform(x, M, out, zero):
    """out[i] = sum_k x[k] M[k, i], the tokens of x times the matrix M."""
    for i in range(M.shape[1]):
        sums = zero
        for k in range(M.shape[0]):
            sums = sums + row(x, k, zero) * M[k, i]
        store(out, i, 0, sums)


@njit(**COMPILE)
def softmax(S, zero):
    """Softmax over the rows of S, in place; negligible entries are zero."""
    largest = row(S, 0, zero)
    for j in range(1, S.shape[0]):
        largest = larger(largest, row(S, j, zero))
    sums = zero
    for j in range(S.shape[0]):
        weights = zero_below(exp(larger(row(S, j, zero) - largest, -700.0)), NEGLIGIBLE)
        sums = sums + weights
        store(S, j, 0, weights)
    share = 1.0 / sums
    for j in range(S.shape[0]):
        store(S, j, 0, row(S, j, zero) * share)


@njit(**COMPILE)
def softmax_backward(P, G, zero):
    """Turn the gradient G with respect to P = softmax(S) into that with respect to S, in place."""
    mean = zero
    for j in range(P.shape[0]):
        mean = mean + row(P, j, zero) * row(G, j, zero)
    for j in range(P.shape[0]):
        store(G, j, 0, row(P, j, zero) * (row(G, j, zero) - mean))


@njit(**COMPILE)
def add(vector, out, i, j):
    """Add to out[i, j]."""
    store(out, i, j, cell(out, i, j) + vector)


@njit(**COMPILE)
def add_outer_products(x, a, out, zero):
    """Add x[k] a[i], summed over tokens, to out[k, i]."""
    for k in range(x.shape[0]):
        values = row(x, k, zero)
        for i in range(a.shape[0]):
            add(total(values * row(a, i, zero)), out, k, i)


@cache
def compile_head(tokens):
    """Compiled gradients of an attention head with `tokens` tokens; fastest up to twenty, whose sums fit in registers.

    Returns
    -------
    diagonal : callable
        ``diagonal(X, Y, q, b, dq, db, memory) -> total`` with S = X diag(q) X^T and output softmax(S) X diag(b).
        Gradients, of shape (dim, 1, LANES), are written to dq and db; `memory` is of shape
        (2 * tokens + dim, tokens, LANES).
    full : callable
        ``full(X, Y, Q, B, dQ, dB, memory) -> total`` with S = X Q X^T and output softmax(S) X B. Gradients, of shape
        (dim, dim, LANES), are written to dQ and dB; `memory` is of shape (2 * tokens + 3 * dim, tokens, LANES).

    X and Y are from `in_lanes`, other arrays from `lanes_array`. `total` is the sum of squared residuals; gradients are
    those of half of it, and still to be summed over the last axis.
    """

    @njit(**COMPILE)
    def diagonal(X, Y, q, b, dq, db, memory):
        P, G, E = memory[:tokens], memory[tokens : 2 * tokens], memory[2 * tokens :]
        zero = error = zeros(tokens)
        dq[:], db[:] = 0.0, 0.0
        for block in range(len(X)):
            x, y = X[block], Y[block]
            for k in range(len(q)):
                store(E, k, 0, row(x, k, zero) * q[k])
            products(x, E, P, zero)
            softmax(P, zero)
            for k in range(len(b)):
                z = mixture(P, x, k, zero)
                residual = z * b[k] - row(y, k, zero)
                error = error + residual * residual
                add(total(residual * z), db, k, 0)
                store(E, k, 0, residual * b[k])
            products(x, E, G, zero)
            softmax_backward(P, G, zero)
            for k in range(len(q)):
                add(total(row(x, k, zero) * mixture(G, x, k, zero)), dq, k, 0)
        store(P, 0, 0, total(error))
        return P[0, 0].sum()

    @njit(**COMPILE)
    def full(X, Y, Q, B, dQ, dB, memory):
        P, G, memory = memory[:tokens], memory[tokens : 2 * tokens], memory[2 * tokens :]
        A, V, E = memory[: len(Q)], memory[len(Q) : 2 * len(Q)], memory[2 * len(Q) :]
        zero = error = zeros(tokens)
        dQ[:], dB[:] = 0.0, 0.0
        for block in range(len(X)):
            x, y = X[block], Y[block]
            transform(x, Q, A, zero)
            transform(x, B, V, zero)
            products(x, A, P, zero)
            softmax(P, zero)
            for k in range(len(B)):
                residual = mixture(P, V, k, zero) - row(y, k, zero)
                error = error + residual * residual
                store(E, k, 0, residual)
            products(V, E, G, zero)
            softmax_backward(P, G, zero)
            for k in range(len(Q)):
                store(A, k, 0, mixture(G, x, k, zero))  # the gradient with respect to X Q
                residual = row(E, k, zero)
                for j in range(tokens):
                    store(V, k, j, total(row(P, j, zero) * residual))  # and X B
            add_outer_products(x, A, dQ, zero)
            add_outer_products(x, V, dB, zero)
        store(P, 0, 0, total(error))
        return P[0, 0].sum()

    return diagonal, full
