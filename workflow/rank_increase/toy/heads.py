"""The loss of the toy problem and its analytic gradient, for diagonal, full and block-diagonal weights."""

import numpy as np

from rank_increase.toy.kernels import compile_head, flush, in_lanes, lanes_array


class DiagonalHead:
    """Half the mean squared error of a head with diagonal weights, as a function of its products or weights."""

    def __init__(self, X, Y):
        self.X, self.Y = X, Y
        tokens, self.dim = X.shape[1:]
        self.shape = 2, self.dim
        self._blocks = in_lanes(X), in_lanes(Y)
        self._gradients, self._memory = lanes_array(2, self.dim, 1), lanes_array(2 * tokens + self.dim, tokens)
        self._kernel = compile_head(tokens)[0]

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
        total = self._kernel(*self._blocks, *flush(p).reshape(2, -1), *self._gradients, self._memory)
        return total / (2 * self.X.size), self._gradients.sum(axis=(2, 3)).ravel() / -self.X.size

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
        self.X, self.Y = X, Y
        tokens, dim = X.shape[1:]
        self.shape = 2, dim, dim
        self._blocks = in_lanes(X), in_lanes(Y)
        self._gradients, self._memory = lanes_array(2, dim, dim), lanes_array(2 * tokens + 3 * dim, tokens)
        self._kernel = compile_head(tokens)[1]

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
        total = self._kernel(*self._blocks, *flush(products), *self._gradients, self._memory)
        return total / (2 * self.X.size), self._gradients.sum(axis=3) / -self.X.size

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


class BlockHead:
    """The loss of a head whose weights are block-diagonal, as a function of the blocks of its products.

    Of each product there are dim / block blocks, of shape (block, block); those of W_K W_Q^T come first. Blocks of size
    1 are diagonal weights, one block full ones.
    """

    def __init__(self, X, Y, block):
        self._head, dim = FullHead(X, Y), X.shape[2]
        self.shape = 2 * dim // block, block, block
        product, number = np.divmod(np.arange(self.shape[0])[:, None, None], dim // block)
        rows = number * block + np.arange(block)
        self._place = product, rows.swapaxes(1, 2), rows

    def loss_and_gradients(self, products):
        """As `FullHead.loss_and_gradients`, for the blocks of the products, shape (2 dim / block, block, block)."""
        whole = np.zeros(self._head.shape)
        whole[self._place] = products
        loss, gradients = self._head.loss_and_gradients(whole)
        return loss, gradients[self._place]
