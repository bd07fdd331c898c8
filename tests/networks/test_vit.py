"""The model, and the mistakes of earlier reproductions that it must not share (heads mixed, factors transposed)."""

import pytest
import torch
import torch.nn.functional as F

from rank_increase.networks.attention import Attention, Product, scale_linear_layers
from rank_increase.networks.vit import VisionTransformer
from rank_increase.notation import WEIGHTS
from rank_increase.registry import find
from second import Transformer

# No two sizes are equal, so that no transposition goes unnoticed.
SIZES = {
    "patch_size": 4,
    "dim": 12,
    "depth": 2,
    "heads": 3,
    "dim_head": 5,
    "mlp_dim": 7,
}


def make(scale=1.0, seed=0, shape=(8, 8, 3), **sizes):
    torch.manual_seed(seed)
    model = VisionTransformer(shape, 4, **{**SIZES, **sizes})
    model.scale_initial_weights(scale)
    return model


def layer_weights(model, layer):
    """The four weights of a layer, by the names of the paper."""
    return {name: model.weights()[f"layer_{layer}.{name}"] for name in WEIGHTS}


def second(depth=2):
    """The second implementation, with initial weights of its own."""
    return Transformer(image_size=8, channels=3, classes=4, **{**SIZES, "depth": depth})


def test_head_products_give_the_attention_logits_of_the_forward_pass(monkeypatch):
    model, seen, attend = make().double(), [], F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda q, k, v, **_: seen.append((q, k)) or attend(q, k, v))
    inputs = []
    for block in model.blocks:
        block.attention.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    model(torch.randn(2, 3, 8, 8, dtype=torch.float64))
    layers = [layer_weights(model, layer) for layer in range(2)]
    for x, (q, k), weights in zip(inputs, seen, layers, strict=True):
        W_K, W_Q = weights["W_K"].double(), weights["W_Q"].double()
        assert W_K.shape == W_Q.shape == (3, 12, 5)
        for head in range(3):
            product = W_K[head] @ W_Q[head].T
            assert product.shape == (12, 12)
            logits = x @ product.T @ x.transpose(1, 2)  # query first: (batch, tokens, tokens)
            queries = q.shape[2]  # the last layer asks for the class token alone
            torch.testing.assert_close(q[:, head] @ k[:, head].transpose(1, 2), logits[:, :queries])


def test_value_output_product_gives_what_a_head_adds():
    model, x = make().double(), torch.randn(2, 5, 12, dtype=torch.float64)
    attention, weights = model.blocks[0].attention, layer_weights(model, 0)
    total = 0
    for head in range(3):
        W_K, W_Q, W_V, W_O = (weights[name][head].double() for name in WEIGHTS)
        P = torch.softmax(x @ W_Q @ W_K.T @ x.transpose(1, 2) / 5**0.5, dim=-1)
        total = total + P @ x @ (W_V @ W_O.T)
    torch.testing.assert_close(attention(x), total)
    torch.testing.assert_close(attention(x, first_only=True), total[:, :1])


@pytest.fixture
def in_float64():
    """Numbers that rounding on one machine and another does not move apart."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("depth", [1, 3])
def test_logits_and_gradients_are_those_of_a_second_implementation(in_float64, depth):
    model, images, labels = make(depth=depth), torch.randn(6, 3, 8, 8), torch.tensor([0, 1, 2, 3, 0, 1])
    reference = second(depth)
    with torch.no_grad():
        for parameter in model.parameters():  # biases and LayerNorms too are to tell
            parameter.add_(0.5 * torch.randn(parameter.shape))
    assert set(reference.weights) == set(dict(model.named_parameters()))
    reference.weights = {name: value.detach().clone().requires_grad_() for name, value in model.named_parameters()}
    found, expected = model(images), reference.logits(images)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    F.cross_entropy(found, labels).backward()
    F.cross_entropy(expected, labels).backward()
    for name, parameter in model.named_parameters():
        gradient = reference.weights[name].grad
        assert gradient.abs().max() > 1e-6, name
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-9, atol=1e-12, msg=name)


def test_initial_weights_are_drawn_layer_by_layer():
    model = make(scale=0.25)
    torch.manual_seed(0)
    reference = second()
    reference.scale(0.25)
    torch.testing.assert_close(dict(model.named_parameters()), reference.weights, rtol=1e-6, atol=0)


def test_last_layer_without_other_tokens_has_the_same_logits_and_gradients(in_float64):
    model, images = make(), torch.randn(4, 3, 8, 8)
    short = model(images)
    gradients = torch.autograd.grad(short.square().sum(), list(model.parameters()))
    last = model.blocks[-1]
    forward, last.forward = last.forward, lambda x, first_only: forward(x)
    full = model(images)
    exact = {"rtol": 1e-10, "atol": 1e-12}
    torch.testing.assert_close(short, full, **exact)
    torch.testing.assert_close(gradients, torch.autograd.grad(full.square().sum(), list(model.parameters())), **exact)


def test_patches_are_squares_of_the_image_in_reading_order():
    model, seen = make(), []
    model.patch_embedding.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    images = torch.randn(2, 3, 8, 8)
    model(images)
    squares = [images[:, :, row : row + 4, column : column + 4] for row in (0, 4) for column in (0, 4)]
    expected = torch.stack([square.permute(0, 2, 3, 1).flatten(1) for square in squares], dim=1)
    torch.testing.assert_close(seen[0], expected)


def test_init_scale_multiplies_defaults_of_all_layers_but_the_token_embedding():
    default, small = dict(make().named_parameters()), dict(make(scale=0.1).named_parameters())
    for name, value in default.items():
        fixed = name.startswith(("patch_embedding", "class_token", "position")) or "norm" in name
        torch.testing.assert_close(small[name], value if fixed else 0.1 * value, msg=name)
    assert {"blocks.1.attention.W_O.weight", "blocks.1.mlp.0.bias", "head.weight"} <= set(small)


def test_default_scale_is_torchs_own():
    model = make(dim=64, heads=2, dim_head=64)
    for weight in (model.blocks[0].attention.W_K.weight, model.blocks[0].mlp[0].weight, model.head.weight):
        bound = weight.shape[1] ** -0.5  # uniform within +- 1 / sqrt(inputs)
        assert float(weight.detach().abs().max()) <= bound
        assert float(weight.detach().std()) == pytest.approx(bound / 3**0.5, rel=0.1)


@pytest.mark.parametrize("heads", [1, 3])
def test_weights_are_contiguous_copies(heads):
    model = make(heads=heads)
    before = model.weights()
    kept = {name: weight.clone() for name, weight in before.items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    torch.testing.assert_close(before, kept, rtol=0, atol=0)
    assert all(weight.is_contiguous() for weight in before.values())


@pytest.mark.parametrize("scale", [0.01, 0.5, 3])
def test_init_std_is_proportional_to_scale(scale):
    of_default, scaled = (layer_weights(make(s), 1) for s in (1, scale))
    for name, weight in of_default.items():
        assert float(scaled[name].std()) == pytest.approx(scale * float(weight.std()), rel=1e-5)


def test_attention_matrices_are_parameters_of_their_own_without_bias():
    names = [name for name, _ in make().named_parameters() if "attention." in name]
    assert names == [f"blocks.{b}.attention.{w}.weight" for b in range(2) for w in WEIGHTS]


def test_papers_cifar_model_has_its_sizes():
    paper = {"patch_size": 4, "dim": 512, "depth": 6, "heads": 8, "dim_head": 128, "mlp_dim": 512}
    model = make(shape=(32, 32, 3), **paper)
    assert model.position.shape == (65, 512)
    assert [tuple(w.shape) for w in layer_weights(model, 5).values()] == [(8, 512, 128)] * 4
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(15.8e6, rel=0.01)


def test_patches_that_do_not_fill_the_image_are_refused():
    with pytest.raises(ValueError, match="patches of 3 pixels do not fill images of 8"):
        make(patch_size=3)


def test_images_that_are_not_square_are_refused():
    with pytest.raises(ValueError, match="images of 8 x 4 pixels are not square"):
        make(shape=(8, 4, 3))


def test_products_are_those_of_the_paper_by_the_names_of_the_weights():
    model = make()
    assert model.products() == [
        Product("KQ", 0, "layer_0.W_K", "layer_0.W_Q"),
        Product("VO", 0, "layer_0.W_V", "layer_0.W_O"),
        Product("KQ", 1, "layer_1.W_K", "layer_1.W_Q"),
        Product("VO", 1, "layer_1.W_V", "layer_1.W_O"),
    ]
    factors = {name for product in model.products() for name in (product.A, product.B)}
    assert factors == set(model.weights())


def test_weights_are_those_of_the_second_implementation():
    torch.manual_seed(0)
    reference, found = second(), make().weights()
    assert len(found) == 2 * 4
    for name, weight in found.items():
        layer, letter = int(name[6]), name[-1]
        assert weight.shape == (3, 12, 5)
        for head in range(3):
            torch.testing.assert_close(weight[head], reference.attention_matrix(layer, letter, head), rtol=0, atol=0)


def test_scaling_reaches_linear_layers_within_modules_and_nothing_else():
    torch.manual_seed(0)
    modules = [torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.LayerNorm(2)), Attention(4, 2, 3)]
    before = [parameter.detach().clone() for module in modules for parameter in module.parameters()]
    scale_linear_layers(modules, 0.5)
    after = [parameter.detach() for module in modules for parameter in module.parameters()]
    factors = [0.5, 0.5, 1, 1, 0.5, 0.5, 0.5, 0.5]  # of the linear layer, the LayerNorm, and the attention
    for value, initial, factor in zip(after, before, factors, strict=True):
        torch.testing.assert_close(value, factor * initial, rtol=0, atol=0)


def test_it_is_registered_with_its_sizes_as_options():
    entry = find("model", "vit")
    assert entry.load() is VisionTransformer
    assert set(entry.options().model_fields) == {*SIZES, "position_std", "pooling"}
    assert all(entry.options().model_fields[name].description for name in SIZES)


def test_positions_and_class_token_have_the_std_of_the_option():
    for std in (0.02, 1.0):
        model = make(position_std=std, shape=(64, 64, 3), dim=64)
        assert model.position.detach().std().item() == pytest.approx(std, rel=0.05)
        assert model.class_token.detach().std().item() == pytest.approx(std, rel=0.4)
    assert torch.equal(make().position, make(position_std=0.02).position)  # the default
    assert not make(position_std=0.0).position.any()


def test_mean_pooling_classifies_the_mean_of_all_tokens_and_has_no_class_token(in_float64):
    model, images = make(pooling="mean"), torch.randn(4, 3, 8, 8)
    assert model.position.shape == (4, 12) and "class_token" not in dict(model.named_parameters())
    x = torch.stack([images[:, :, row : row + 4, column : column + 4].permute(0, 2, 3, 1).flatten(1)
                     for row in (0, 4) for column in (0, 4)], dim=1) @ model.patch_embedding.weight.T  # fmt: skip
    x = x + model.patch_embedding.bias + model.position
    for block in model.blocks:
        x = block(x)
    expected = sum(x[:, token] for token in range(4)) / 4
    torch.testing.assert_close(model(images), model.head(model.norm(expected)), rtol=1e-10, atol=1e-12)
    model(images).square().sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in model.parameters())


@pytest.mark.parametrize("pooling", ["class_token", "mean"])
def test_under_autocast_the_residual_stream_is_bfloat16_and_the_classifier_float32(pooling):
    model, seen = make(pooling=pooling), {}
    for name, module in model.named_modules():
        module.register_forward_hook(lambda _, args, out, name=name: seen.update({name: (args[0].dtype, out.dtype)}))
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(torch.randn(4, 3, 8, 8))
        assert torch.is_autocast_enabled("cpu")  # as before
    for n in range(2):
        assert seen[f"blocks.{n}"] == (torch.bfloat16, torch.bfloat16)
        assert seen[f"blocks.{n}.mlp"][1] == seen[f"blocks.{n}.attention"][1] == torch.bfloat16
    assert seen["norm"] == seen["head"] == (torch.float32, torch.float32)
    assert logits.dtype == torch.float32
    logits.sum().backward()
    assert {parameter.grad.dtype for parameter in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("pooling", ["class_token", "mean"])
def test_the_model_is_one_graph_in_both_precisions(pooling):
    model, images = make(pooling=pooling), torch.randn(4, 3, 8, 8)
    plain = model(images)
    model.compile(fullgraph=True, backend="eager")  # an error at any break of the graph
    torch.testing.assert_close(model(images), plain)
    with torch.autocast("cpu", torch.bfloat16):
        model(images).sum().backward()
