"""The loss of the toy problem and its analytic gradient, for diagonal and for full weights."""

import numpy as np

from rank_increase.toy.kernels import compile_head, flush


class DiagonalHead:
    """Half the mean squared error of a head with diagonal weights, as a function of its products or weights."""

    def __init__(self, X, Y):
        self.X, self.Y = np.ascontiguousarray(X), np.ascontiguousarray(Y)
        self.dim = X.shape[2]
        self.shape = 2, self.dim
        self._kernel = compile_head(*X.shape[1:])[0]

    def subset(self, samples):
        """The same head on some of the samples: a slice or an array of indices."""
        return DiagonalHead(self.X[samples], self.Y[samples])

    def loss_and_g(self, p):
        """Loss and g = -dL/dp of paper eq. (4), at the products p.

        Parameters
        ----------
        p : array, shape (2 * dim,)
            The diagonals of W_K W_Q^T and of W_V W_O^T, one after the other.

        Returns
        -------
        loss : float
            Half the mean over all outputs of the squared error.
        g : array, shape (2 * dim,)
        """
        p, g, dim = flush(p), np.empty_like(p), self.dim
        total = self._kernel(self.X, self.Y, p[:dim], p[dim:], g[:dim], g[dim:])
        g /= -self.X.size
        return total / (2 * self.X.size), g

    def velocity(self, theta):
        """Loss and -dL/dtheta, shape (4, dim), of paper eqs. (3) and (4)."""
        W_K, W_Q, W_V, W_O = theta
        loss, g = self.loss_and_g(np.concatenate([W_K * W_Q, W_V * W_O]))
        g_KQ, g_VO = g[: self.dim], g[self.dim :]
        return loss, np.stack([W_Q * g_KQ, W_K * g_KQ, W_O * g_VO, W_V * g_VO])

    @staticmethod
    def values(theta):
        """Diagonal entries of the two products, shape (2, dim)."""
        return np.stack([theta[0] * theta[1], theta[2] * theta[3]])


class FullHead:
    """Half the mean squared error of a head with full weight matrices, as a function of them."""

    def __init__(self, X, Y):
        self.X, self.Y = np.ascontiguousarray(X), np.ascontiguousarray(Y)
        self._rows = self.X.reshape(-1, X.shape[2])  # (samples * tokens, dim)
        self._A, self._B = np.empty_like(self.X), np.empty_like(self.X)
        self._kernel = compile_head(*X.shape[1:])[1]

    def subset(self, samples):
        """The same head on some of the samples: a slice or an array of indices."""
        return FullHead(self.X[samples], self.Y[samples])

    def loss_and_gradients(self, products):
        """Loss and minus its gradient in the products.

        Parameters
        ----------
        products : array, shape (2, dim, dim)
            W_K W_Q^T and W_V W_O^T.

        Returns
        -------
        loss : float
            Half the mean over all outputs of the squared error.
        gradients : array, shape (2, dim, dim)
            -dL/d(W_K W_Q^T) and -dL/d(W_V W_O^T).
        """
        A, B = self._A.reshape(self._rows.shape), self._B.reshape(self._rows.shape)
        products = flush(products)
        np.matmul(self._rows, products[0], out=A)
        np.matmul(self._rows, products[1], out=B)
        total = self._kernel(self.X, self.Y, self._A, self._B)
        return total / (2 * self.X.size), np.stack([self._rows.T @ A, self._rows.T @ B]) / -self.X.size

    def velocity(self, theta):
        """Loss and -dL/dtheta, shape of `theta`, of paper eq. (3).

        Parameters
        ----------
        theta : array, shape (4, dim, d')
            W_K, W_Q, W_V and W_O; a d' < dim bounds the rank of the products.
        """
        W_K, W_Q, W_V, W_O = theta
        loss, (g_KQ, g_VO) = self.loss_and_gradients(np.stack([W_K @ W_Q.T, W_V @ W_O.T]))
        return loss, np.stack([g_KQ @ W_Q, g_KQ.T @ W_K, g_VO @ W_O, g_VO.T @ W_V])

    @staticmethod
    def values(theta):
        """Singular values of the two products, descending, shape (2, dim)."""
        W_K, W_Q, W_V, W_O = theta
        return np.linalg.svd(np.stack([W_K @ W_Q.T, W_V @ W_O.T]), compute_uv=False)
