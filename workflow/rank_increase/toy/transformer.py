"""Transformers with diagonal attention weights and fixed feed-forward weights (paper, Example 3.2), and their gradient.

The products u v are numbered as in Example 3.2, layer by layer and head by head, first the diagonal of W_K W_Q^T and
then that of W_V W_O^T: as an array, they are of shape (layers, heads, 2, dim).
"""

import numpy as np
from scipy.special import ndtr

from rank_increase.toy.kernels import flush
from rank_increase.toy.losses import LOSSES


def products(theta):
    """Products of the weights theta, shape (4, ..., dim), in their order; shape (p,)."""
    W_K, W_Q, W_V, W_O = theta
    return np.stack([W_K * W_Q, W_V * W_O], axis=-2).ravel()


class DiagonalTransformer:
    """A loss of the outputs of a diagonal transformer, as a function of its products.

    Parameters
    ----------
    X, Y : array, shape (samples, tokens, dim)
        Inputs and labels.
    loss : str
        A key of `losses.LOSSES`.
    bias : array, shape (layers, heads, tokens, tokens)
        Fixed, added to the attention logits.
    W_A, W_B : array, shape (layers, dim, hidden), or None
        Fixed feed-forward weights; with None, a layer is its attention alone, without feed-forward part or residual
        connections. The single head of paper eq. (1) is one such layer with one head.
    """

    def __init__(self, X, Y, *, loss, bias, W_A=None, W_B=None):
        self._fixed = {"loss": loss, "bias": bias, "W_A": W_A, "W_B": W_B}
        self.X, self.Y = X, Y
        self.shape = (*bias.shape[:2], 2, X.shape[2])
        self._inputs, self._labels = (np.ascontiguousarray(np.moveaxis(array, 0, -1)) for array in (X, Y))

    def subset(self, samples):
        """The same transformer on some of the samples: a slice or an array of indices."""
        return DiagonalTransformer(self.X[samples], self.Y[samples], **self._fixed)

    def loss_and_g(self, p):
        """Loss and g = -dL/dp of paper eq. (4), at the products p.

        Parameters
        ----------
        p : array, shape (layers * heads * 2 * dim,)

        Returns
        -------
        loss : float
        g : array, shape of `p`
        """
        Z, traces = self._forward(p)
        loss, dZ = LOSSES[self._fixed["loss"]](Z, self._labels)
        g = np.empty(self.shape)
        for layer in reversed(range(self.shape[0])):
            dZ, g[layer, :, 0], g[layer, :, 1] = _backward(dZ, traces[layer], need_inputs=layer > 0)
        return loss, -g.ravel()

    def outputs(self, p):
        """Outputs at the products p, shape (samples, tokens, dim)."""
        return np.moveaxis(self._forward(p)[0], -1, 0)

    def _forward(self, p):
        Z, traces = self._inputs, []
        for layer, (a, b) in enumerate(flush(p).reshape(self.shape).swapaxes(1, 2)):
            W_A, W_B = (None if W is None else W[layer] for W in (self._fixed["W_A"], self._fixed["W_B"]))
            Z, trace = _layer(Z, a, b, self._fixed["bias"][layer], W_A, W_B)
            traces.append(trace)
        return Z, traces


def _layer(Z, a, b, bias, W_A, W_B):
    """Outputs of a layer, and what its gradient needs; its products a and b are of shape (heads, dim)."""
    scaled = a[:, None, :, None] * Z  # (heads, tokens, dim, samples)
    S = np.einsum("hids,jds->hijs", scaled, Z)
    S += bias[..., None]
    S -= S.max(axis=2, keepdims=True)
    P = np.exp(S, out=S)
    P /= P.sum(axis=2, keepdims=True)
    mixed = np.einsum("hijs,jds->hids", P, Z)
    attended = np.einsum("hids,hd->ids", mixed, b)
    if W_A is None:
        return attended, (Z, a, b, P, mixed, scaled, None, None, None)
    attended += Z
    hidden = np.einsum("ids,dk->iks", attended, W_A)
    out = attended + np.einsum("iks,dk->ids", hidden * ndtr(hidden), W_B)
    return out, (Z, a, b, P, mixed, scaled, hidden, W_A, W_B)


def _backward(dZ, trace, need_inputs):
    """Slopes of the loss in a layer's inputs (None if not needed), a and b, from those in its outputs."""
    Z, a, b, P, mixed, scaled, hidden, W_A, W_B = trace
    if W_A is not None:
        slope = ndtr(hidden) + hidden * np.exp(-(hidden**2) / 2) / np.sqrt(2 * np.pi)  # of GELU, x ndtr(x)
        slope *= np.einsum("ids,dk->iks", dZ, W_B)
        dZ = dZ + np.einsum("iks,dk->ids", slope, W_A)
    db = np.einsum("hids,ids->hd", mixed, dZ)
    dmixed = b[:, None, :, None] * dZ
    dS = np.einsum("hids,jds->hijs", dmixed, Z)
    dS -= (dS * P).sum(axis=2, keepdims=True)
    dS *= P
    dscaled = np.einsum("hijs,jds->hids", dS, Z)
    da = np.einsum("hids,ids->hd", dscaled, Z)
    if not need_inputs:
        return None, da, db
    dinputs = np.einsum("hijs,hids->jds", P, dmixed)
    dinputs += np.einsum("hijs,hids->jds", dS, scaled)
    dinputs += np.einsum("hids,hd->ids", dscaled, a)
    return (dinputs if W_A is None else dinputs + dZ), da, db
