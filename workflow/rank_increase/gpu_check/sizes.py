"""What the command trains and measures: at the size of the paper, and at one that a CPU manages in a test."""

from dataclasses import dataclass

CIFAR = {"family": "vit", "patch_size": 4, "dim": 512, "depth": 6, "heads": 8, "dim_head": 128, "mlp_dim": 512}
VIT_B = {"family": "vit", "patch_size": 16, "dim": 768, "depth": 12, "heads": 12, "dim_head": 64, "mlp_dim": 3072}
RECIPE = {"epochs": 500, "warmup_epochs": 15, "batch_size": 512, "learning_rate": 1e-4, "snapshots": 30}


@dataclass(frozen=True)
class Case:
    """A model whose training is timed, on images of random pixels."""

    label: str
    model: dict
    shape: tuple  # of an image: height, width, channels
    classes: int
    batch_size: int


@dataclass(frozen=True)
class Size:
    """One size of the command.

    Attributes
    ----------
    cases : tuple of Case
        What is timed; the checks train the first.
    steps : int
        Steps that are timed at a time.
    check_batch : int
        Samples of a step of the checks, which also run on the CPU.
    product, interval : int, float
        Side of the square matrices whose product gives the device's rate, and seconds for which it is timed at a time.
    model, recipe : dict
        Of the runs on the images of `--data`.
    alphas : tuple of str
        Their init scales, in the order in which they are trained.
    """

    cases: tuple
    steps: int
    check_batch: int
    product: int
    interval: float
    model: dict
    recipe: dict
    alphas: tuple


# As in config/paper.yaml; the default init scale comes first.
ALPHAS = ("1", "0.1", "0.2", "0.5", "2")
_TINY = {"family": "vit", "patch_size": 4, "dim": 16, "depth": 2, "heads": 2, "dim_head": 8, "mlp_dim": 16}
SIZES = {
    "paper": Size(
        cases=(
            Case("CIFAR-10", CIFAR, (32, 32, 3), 10, 512),
            Case("CIFAR-10, mean pooling (a departure)", {**CIFAR, "pooling": "mean"}, (32, 32, 3), 10, 512),
            Case("ViT-B/16", VIT_B, (224, 224, 3), 1000, 256),
        ),
        steps=20,
        check_batch=64,
        product=8192,
        interval=0.5,
        model=CIFAR,
        recipe=RECIPE,
        alphas=ALPHAS,
    ),
    "tiny": Size(
        cases=(
            Case("tiny", _TINY, (8, 8, 3), 3, 16),
            Case("tiny, mean pooling (a departure)", {**_TINY, "pooling": "mean"}, (8, 8, 3), 3, 16),
        ),
        steps=3,
        check_batch=16,
        product=128,
        interval=0.02,
        model=_TINY,
        recipe={**RECIPE, "epochs": 3, "warmup_epochs": 1, "batch_size": 16, "learning_rate": 1e-3, "snapshots": 3},
        alphas=("1", "0.1"),
    ),
}
