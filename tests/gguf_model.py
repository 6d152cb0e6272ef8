"""A Qwen3 model in llama.cpp, with the vectors of a file that `export_steering` wrote.

write_gguf    a model of transformers as llama.cpp reads it
opened        it, loaded by llama-cpp-python
logits        of token ids, with the vectors of a file or without
"""

import ctypes
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch


def write_gguf(model, path: Path) -> Path:
    """The weights in float32 and no tokenizer, as ids are fed directly; returns `path`."""
    import gguf

    config = model.config
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3, config.num_hidden_layers)
    writer = gguf.GGUFWriter(path, "qwen3")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("no_vocab")
    for name, weight in model.state_dict().items():
        if name != "lm_head.weight" or not config.tie_word_embeddings:
            name = names.get_name(name, try_suffixes=(".weight",))
            writer.add_tensor(name, weight.float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@contextmanager
def opened(path: Path, kv_type: int = 0, n_ctx: int = 64):
    """A .gguf model with one thread; its KV cache is float32 (0) or float16 (1, the default)."""
    import llama_cpp

    form = {"n_ctx": n_ctx, "type_k": kv_type, "type_v": kv_type, "logits_all": True}
    threads = {"n_threads": 1, "n_threads_batch": 1}
    llm = llama_cpp.Llama(str(path), **form, **threads, verbose=False)
    try:
        yield llm
    finally:
        llm.close()


def logits(llm, ids: list[int], file: Path | None = None, shift: int = 0) -> torch.Tensor:
    """Float32 [len(ids), vocabulary], with the vectors of `file`, each `shift` layers later."""
    import llama_cpp

    rows = _rows(file, shift, llama_cpp.llama_model_n_layer(llm.model), llm.n_embd())
    data = rows.ctypes.data_as(ctypes.POINTER(ctypes.c_float)) if file else None
    form = (rows.size, llm.n_embd(), 1, len(rows))
    assert llama_cpp.llama_set_adapter_cvec(llm.ctx, data, *form) == 0
    llm.reset()
    llm.eval(ids)
    return torch.from_numpy(llm.scores[: len(ids)].copy())


def _rows(file: Path | None, shift: int, n_layers: int, d_model: int) -> np.ndarray:
    """As llama.cpp packs such a file: one row for each layer from 1 on, 0 where it has none."""
    import gguf

    rows = np.zeros((n_layers - 1, d_model), np.float32)
    for tensor in gguf.GGUFReader(file).tensors if file else ():
        rows[int(tensor.name.removeprefix("direction.")) + shift - 1] = tensor.data
    return rows
