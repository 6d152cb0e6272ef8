"""The notebooks on random weights of an official shape: do they run, how long, with what memory?

    python benchmarks/bench_notebooks.py 1.7B         every notebook from 01 on
    python benchmarks/bench_notebooks.py 1.7B 01 02   these

Official weights are not needed to know time and memory. What is measured is the preset of that
shape as it stands: its layers, its numbers of texts, its batches. The model is one of Qwen3's
structure, with a tokenizer that was trained on the natural passages and filled up to the official
vocabulary, so that logits have their official size; the suite has official files for the layers
that the preset reads. Texts come from the bundled ones, where the preset asks for a Hub dataset.
Numbers that the notebooks find mean nothing here, and are not kept.

Writes runs/benchmarks/official/: the project it ran in, its pages, and notebooks.json.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch
import yaml
from shapes import SUITE, random_model
from suites import CHATML
from timing import machine

from qs_helpers.evidence.files import write_json
from qs_helpers.presets import project_root

PRESETS = {"1.7B": "qwen3-1.7b-l50", "8B": "qwen3-8b-l50"}
WORDS = 8000  # tokens that are learnt from passages; the others are never read


def write_tokenizer(folder: Path, vocabulary: int) -> None:
    """A byte-level BPE tokenizer with a chat template; what was not learnt decodes to letters."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    passages = project_root() / "qs_helpers" / "natural" / "passages.jsonl"
    texts = [json.loads(line)["text"] for line in passages.read_text("utf-8").splitlines()]
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=WORDS,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    state = json.loads(core.to_str())
    known = state["model"]["vocab"]
    for n in range(len(known), vocabulary):  # words of four letters and a q
        known["Ġ" + "".join(chr(97 + n // 26**place % 26) for place in range(4)) + "q"] = n
    core = Tokenizer.from_str(json.dumps(state))
    core.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHATML,
    ).save_pretrained(folder)


def write_sae(path: Path, d_model: int, d_sae: int, device) -> None:
    """One official file: directions of length one, an encoder that reads along them."""
    W_dec = torch.nn.functional.normalize(torch.randn(d_model, d_sae, device=device), dim=0)
    zeros = {"b_enc": torch.zeros(d_sae), "b_dec": torch.zeros(d_model)}
    torch.save({"W_enc": W_dec.T.contiguous().cpu(), "W_dec": W_dec.cpu(), **zeros}, path)


def write_scope(folder: Path, size: str, layers, device) -> None:
    """model/ and sae/ of that size, the suite with files for `layers`."""
    d_model, d_sae, k = SUITE[size]
    model, suite = random_model(size, device), folder / "sae"
    model.cpu().save_pretrained(folder / "model")
    write_tokenizer(folder / "model", model.config.vocab_size)
    suite.mkdir(parents=True)
    for layer in layers:
        write_sae(suite / f"layer{layer}.sae.pt", d_model, d_sae, device)
    about = {"model_type": "topk_sae", "base_model": "random", "hook_point": "resid_post"}
    about |= {"d_model": d_model, "d_sae": d_sae, "k": k}
    about |= {"num_layers": model.config.num_hidden_layers}
    (suite / "config.json").write_text(json.dumps(about))


def write_project(folder: Path, size: str, **changes) -> str:
    """The repository's notebooks and a preset that reads folder/model and folder/sae; its name.

    changes: {notebook: {parameter: value}} beside those that stand for the Hub."""
    root, name = project_root(), f"random-{size.lower()}"
    shutil.copytree(root / "notebooks", folder / "notebooks")
    shutil.copytree(root / "figures", folder / "figures")
    params = folder / "notebooks" / "params"
    sections = yaml.safe_load((params / f"{PRESETS[size]}.yaml").read_text("utf-8"))
    sections["scope"] |= {"model": "../../model", "sae": "../../sae"}
    sections["04_toxicity"] |= {"DATA": "natural"}
    refuser = {"MODELS": [name], "SUITES": ["own"], "PROMPTS": ["natural"]}
    sections["06_abliteration_comparison"] |= refuser
    for notebook, values in changes.items():
        sections[notebook] |= values
    (params / f"{name}.yaml").write_text(yaml.safe_dump(sections, allow_unicode=True), "utf-8")
    return name


def run(folder: Path, preset: str, only) -> list[dict]:
    """Run the report; [{notebook, ran, seconds, memory_gb, device_gb}] in the notebooks' order."""
    command = [sys.executable, "-m", "qs_helpers.report", "--preset", preset]
    env = os.environ | {"QS_ROOT": str(folder)}
    subprocess.run(command + (["--only", *only] if only else []), env=env, check=False)
    rows = []
    for path in sorted((folder / "runs" / preset).glob("*/results.json")):
        found = json.loads(path.read_text("utf-8"))
        rows.append(
            {
                "notebook": path.parent.name,
                "seconds": found["seconds"],
                "memory_gb": found["peak_rss_mb"] / 1e3,
                "device_gb": found.get("peak_device_mb", 0) / 1e3,
            }
        )
    return rows


def main(size: str, only) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    folder, clock = project_root() / "runs" / "benchmarks" / "official", time.monotonic()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    preset = write_project(folder, size)
    sections = yaml.safe_load((folder / "notebooks" / "params" / f"{preset}.yaml").read_text())
    layers = {n for values in sections.values() for n in values.get("LAYERS", [])}
    write_scope(folder, size, sorted(layers), device)
    print(f"{machine(device)}; written in {time.monotonic() - clock:.0f} s", flush=True)
    rows = run(folder, preset, only)
    for row in rows:
        print(
            "{notebook:30} {seconds:6.0f} s {memory_gb:5.1f} GB {device_gb:5.1f} GB".format(**row)
        )
    found = {"machine": machine(device), "size": size, "notebooks": rows}
    write_json(folder / "notebooks.json", found)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
