"""Tiny models of other libraries and what they compute: writes tests/data/foreign_*.safetensors.

`pip install transformers==5.24.0 timm==1.0.31; python tests/networks/make_foreign_models.py`. The tests read what it
wrote, and need neither. Biases are zero and LayerNorm's gains random: what an attention layer receives (`x`), its
weights over the tokens (`probabilities`, of each head) and what it adds (`added`) then follow from products alone.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file

DATA = Path(__file__).parents[1] / "data"
# No two sizes are equal, so that no mix-up goes unnoticed.
DIM, HEADS, LAYERS, TOKENS, BATCH = 24, 3, 2, 5, 2


def gpt2():
    """GPT-2; its modules of attention."""
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"n_embd": DIM, "n_head": HEADS, "n_layer": LAYERS, "n_positions": 8, "vocab_size": 11}
    model = GPT2LMHeadModel(GPT2Config(**sizes, initializer_range=0.3, attn_implementation="eager"))
    return model, [block.attn for block in model.transformer.h]


def gpt_neox():
    """GPT-NeoX, with half of the features rotated."""
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    sizes = {"hidden_size": DIM, "num_attention_heads": HEADS, "num_hidden_layers": LAYERS, "intermediate_size": 28}
    rotary = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}}
    config = GPTNeoXConfig(
        **sizes, **rotary, vocab_size=11, max_position_embeddings=8, initializer_range=0.3, attn_implementation="eager"
    )
    model = GPTNeoXForCausalLM(config)
    return model, [layer.attention for layer in model.gpt_neox.layers]


def timm_vit():
    """A vision transformer of timm."""
    from timm.models.vision_transformer import VisionTransformer

    model = VisionTransformer(4, 2, 3, 5, embed_dim=DIM, depth=LAYERS, num_heads=HEADS, mlp_ratio=1)
    for block in model.blocks:
        block.attn.fused_attn = False  # so that the weights over the tokens exist
        torch.nn.init.normal_(block.attn.qkv.weight, std=0.3)
    return model, [block.attn for block in model.blocks]


def record(name, make):
    """Write the weights of a model, and what its attention layers receive and compute."""
    torch.manual_seed(0)
    model, attentions = make()
    model.eval()
    seen = {}
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key.endswith("bias"):
                parameter.zero_()
            elif parameter.ndim == 1:
                parameter.uniform_(0.5, 1.5)
    for layer, attention in enumerate(attentions):

        def hook(module, args, kwargs, output, layer=layer):
            x = args[0] if args else kwargs["hidden_states"]
            added = output[0] if isinstance(output, tuple) else output
            seen.update({f"x.{layer}": x, f"added.{layer}": added})
            if isinstance(output, tuple):
                seen[f"probabilities.{layer}"] = output[1]

        attention.register_forward_hook(hook, with_kwargs=True)
        if name == "timm_vit":
            keep = lambda _, args, output, layer=layer: seen.update({f"probabilities.{layer}": args[0]})  # noqa: E731
            attention.attn_drop.register_forward_hook(keep)
    with torch.no_grad():
        model(torch.randn(BATCH, 3, 4, 4) if name == "timm_vit" else torch.randint(11, (BATCH, TOKENS)))
    weights = {key: weight for key, weight in model.state_dict().items() if "attn" in key or "attention" in key}
    weights = {f"model.{key}": value.contiguous() for key, value in weights.items()}
    seen = {f"seen.{key}": value.contiguous() for key, value in seen.items()}
    save_file({**weights, **seen}, DATA / f"foreign_{name}.safetensors")


if __name__ == "__main__":
    for name, make in {"gpt2": gpt2, "gpt_neox": gpt_neox, "timm_vit": timm_vit}.items():
        record(name, make)
