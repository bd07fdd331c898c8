@register.loss("cross_entropy")
def cross_entropy(a, b):
    """CE"""
