@register.optimizer("adam")
def adam(p):
    """Adam"""
@register.optimizer("sgd")
def sgd(p, *, momentum: NotNegative = 0.0):
    """SGD"""
