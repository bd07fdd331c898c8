from rank_increase.registry import register
from rank_increase.options import Count
import torchnotexisting
@register.model("vit")
class VisionTransformer:
    """A ViT.

    Parameters
    ----------
    patch_size : int
        Side of a patch, in pixels.
    """
    def __init__(self, shape, classes, *, patch_size: Count, dim: Count):
        pass
