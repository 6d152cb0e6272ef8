"""Small random models and SAE suites, written to disk in the formats that real ones have.

byte_tokenizer  a tokenizer without merges
add_bos         gives the tokenizer of a model folder a BOS, as Llama's has
begun           a loaded scope as if its tokenizer added a token, or two
write_model     a Qwen3 model folder with random weights and a byte-level tokenizer
write_suite     an SAE suite in the official format: layer{n}.sae.pt and config.json
write_config    the config.json of one
random_sae      the four tensors of one official SAE file
"""

import copy
import json
from pathlib import Path

import torch

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def byte_tokenizer(chat_template: str | None):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=259, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator(["a b"], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=chat_template,
    )


LLAMA = "<|endoftext|>" + CHATML  # a chat template brings the BOS itself


def add_bos(folder: Path, pattern: str = "<|endoftext|> $A", chat_template: str = LLAMA) -> Path:
    """Write a tokenizer that adds by default what `pattern` says; returns `folder`."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = byte_tokenizer(chat_template)
    core = tokenizer.backend_tokenizer
    added = [(token, core.token_to_id(token)) for token in pattern.split() if token != "$A"]
    core.post_processor = TemplateProcessing(single=pattern, special_tokens=added)
    tokenizer.save_pretrained(folder)
    return Path(folder)


def begun(scope, tokens: int = 1):
    """A copy of a scope whose texts begin with its last tokens of the vocabulary."""
    new = copy.copy(scope)
    new.prefix = tuple(range(len(scope.tokenizer) - tokens, len(scope.tokenizer)))
    return new


def write_model(
    folder: Path,
    d_model: int = 16,
    n_layers: int = 3,
    max_tokens: int = 64,
    chat_template: str | None = CHATML,
    dtype: torch.dtype = torch.bfloat16,
) -> Path:
    """A random Qwen3 causal language model as `save_pretrained` writes it; returns `folder`."""
    from transformers import Qwen3Config, Qwen3ForCausalLM
    from transformers.utils import logging

    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=259,
        hidden_size=d_model,
        intermediate_size=2 * d_model,
        num_hidden_layers=n_layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=max_tokens,
        tie_word_embeddings=True,
    )
    hook = logging.set_tqdm_hook(lambda bar, args, kwargs: bar(*args, **kwargs | {"disable": True}))
    Qwen3ForCausalLM(config).to(dtype).save_pretrained(folder)
    logging.set_tqdm_hook(hook)
    byte_tokenizer(chat_template).save_pretrained(folder)
    return Path(folder)


def random_sae(d_model: int = 16, d_sae: int = 64, seed: int = 0) -> dict[str, torch.Tensor]:
    """W_enc (d_sae, d_model), W_dec (d_model, d_sae) with unit columns, b_enc, b_dec; float32."""
    noise = torch.Generator().manual_seed(seed)
    w_dec = torch.randn(d_model, d_sae, generator=noise)
    w_dec /= w_dec.norm(dim=0)
    return {
        "W_enc": w_dec.T.contiguous(),
        "W_dec": w_dec,
        "b_enc": 0.1 * torch.randn(d_sae, generator=noise),
        "b_dec": 0.1 * torch.randn(d_model, generator=noise),
    }


def write_suite(
    folder: Path,
    layers=range(3),
    d_model: int = 16,
    d_sae: int = 64,
    k: int = 4,
    n_layers: int = 3,
    config: bool = True,
) -> Path:
    """An SAE suite as the official repos hold it; `config=False` leaves config.json out."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for layer in layers:
        torch.save(random_sae(d_model, d_sae, seed=layer), folder / f"layer{layer}.sae.pt")
    if config:
        write_config(folder, d_model, d_sae, k, n_layers)
    return folder


def write_config(folder: Path, d_model: int, d_sae: int, k: int, n_layers: int) -> None:
    """The config.json of an official suite."""
    values = {
        "model_type": "topk_sae",
        "base_model": "test/model",
        "d_model": d_model,
        "d_sae": d_sae,
        "k": k,
        "hook_point": "resid_post",
        "num_layers": n_layers,
    }
    (folder / "config.json").write_text(json.dumps(values, indent=2))
