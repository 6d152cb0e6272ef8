"""Language models with the shapes of Qwen3 and random weights."""

import torch
from suites import byte_tokenizer

# d_model, MLP width, layers, attention heads, key and value heads
SIZES = {"1.7B": (2048, 6144, 28, 16, 8), "8B": (4096, 12288, 36, 32, 8)}
SUITE = {"1.7B": (2048, 32768, 50), "8B": (4096, 65536, 100)}


def random_model(size: str, device, n_layers: int | None = None, vocabulary: int = 151936):
    """A Qwen3 of that shape in bfloat16, with fewer layers or tokens if asked."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    d_model, mlp, layers, heads, kv_heads = SIZES[size]
    config = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=d_model,
        intermediate_size=mlp,
        num_hidden_layers=n_layers or layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=128,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    with torch.device("meta"):
        model = Qwen3ForCausalLM(config).to(torch.bfloat16)
    model = model.to_empty(device=device)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.02) if weight.ndim > 1 else weight.data.fill_(1)
    fresh = type(model.model.rotary_emb)(config)  # its tables are no parameters
    model.model.rotary_emb = fresh.to(device)
    model.tie_weights()
    return model.eval().requires_grad_(False)


def write_random_model(folder, size: str, n_layers: int):
    """The folder of such a model, in which every byte is a token."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    random_model(size, "cpu", n_layers, vocabulary=259).save_pretrained(folder)
    byte_tokenizer(None).save_pretrained(folder)
    return folder
