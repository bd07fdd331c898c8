"""Datasets of torchvision, by name."""

from typing import Literal

from rank_increase.registry import register


@register.source("torchvision")
def torchvision(downloads, threads, *, name: Literal["CIFAR10", "CIFAR100"], mirrors: list[str] = []):  # noqa: B006
    """Datasets of torchvision, by name."""
    raise NotImplementedError
