"""The notebooks on random weights of an official shape: do they run, how long, with what memory?

    python benchmarks/bench_notebooks.py 1.7B         every notebook from 01 on
    python benchmarks/bench_notebooks.py 1.7B 01 02   these
    python benchmarks/bench_notebooks.py 1.7B -j 3    three at a time: their seconds are a bound
    python benchmarks/bench_notebooks.py 1.7B --small    few texts: do they reach the last cell?

Official weights are not needed to know time and memory. What is measured is the preset of that
shape as it stands: its layers, its numbers of texts, its batches. The model is one of Qwen3's
structure, with a tokenizer that was trained on the natural passages and filled up to the official
vocabulary, so that logits have their official size; the suite has official files for the layers
that the preset reads. Texts come from the bundled ones, where the preset asks for a Hub dataset.
Numbers that the notebooks find mean nothing here, and are not kept.

Writes runs/benchmarks/official/: the project it ran in, its pages, and notebooks.json.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch
import yaml
from lanes import CUT
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


def write_benchmarks(folder: Path, n: int) -> list[str]:
    """n files of as many items as there are for each, of bundled texts; their paths."""
    folder.mkdir()
    natural = project_root() / "qs_helpers" / "natural"
    sets = ("questions", "openings", "requests", "remarks")
    rows = [
        row for name in sets for row in (natural / f"{name}.jsonl").read_text("utf-8").split("\n")
    ]
    items = [json.dumps({"text": json.loads(row)["text"]}) for row in rows if row]
    paths = [folder / f"items{i}.jsonl" for i in range(n)]
    for i, path in enumerate(paths):
        path.write_text("\n".join(items[i::n]), "utf-8")
    return [f"../../benchmarks/{path.name}" for path in paths]


def write_project(folder: Path, size: str, small: bool = False) -> str:
    """The repository's notebooks and a preset that reads folder/model and folder/sae; its name.

    small: with the sizes of tests/lanes.py.
    """
    root, name = project_root(), f"random-{size.lower()}"
    shutil.copytree(root / "notebooks", folder / "notebooks")
    shutil.copytree(root / "figures", folder / "figures")
    params = folder / "notebooks" / "params"
    sections = yaml.safe_load((params / f"{PRESETS[size]}.yaml").read_text("utf-8"))
    sections["scope"] |= {"model": "../../model", "sae": "../../sae"}
    sections["04_toxicity"] |= {"DATA": "natural"}
    refuser = {"MODELS": [name], "SUITES": ["own"], "PROMPTS": ["natural"]}
    sections["06_abliteration_comparison"] |= refuser
    asked = sections["08_benchmark_overlap"]
    asked["BENCHMARKS"] = write_benchmarks(folder / "benchmarks", len(asked["BENCHMARKS"]))
    if small:
        for values in sections.values():
            values.update({name: CUT[name] for name in values.keys() & CUT})
    (params / f"{name}.yaml").write_text(yaml.safe_dump(sections, allow_unicode=True), "utf-8")
    return name


def run(folder: Path, preset: str, only, jobs: int) -> list[dict]:
    """Run the report, `jobs` notebooks at a time; [{notebook, seconds, memory_gb, device_gb}] in
    the notebooks' order."""
    command = [sys.executable, "-m", "qs_helpers.report", "--preset", preset, "-j", str(jobs)]
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


def main(size: str, only, jobs: int, small: bool) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    folder, clock = project_root() / "runs" / "benchmarks" / "official", time.monotonic()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    preset = write_project(folder, size, small)
    sections = yaml.safe_load((folder / "notebooks" / "params" / f"{preset}.yaml").read_text())
    layers = {n for values in sections.values() for n in values.get("LAYERS", [])}
    write_scope(folder, size, sorted(layers), device)
    print(f"{machine(device)}; written in {time.monotonic() - clock:.0f} s", flush=True)
    rows = run(folder, preset, only, jobs)
    for row in rows:
        print(
            "{notebook:30} {seconds:6.0f} s {memory_gb:5.1f} GB {device_gb:5.1f} GB".format(**row)
        )
    found = {
        "machine": machine(device),
        "size": size,
        "at a time": jobs,
        "small": small,
        "notebooks": rows,
    }
    write_json(folder / "notebooks.json", found)


if __name__ == "__main__":
    asked = argparse.ArgumentParser()
    asked.add_argument("size", choices=PRESETS)
    asked.add_argument("only", nargs="*")
    asked.add_argument("-j", "--jobs", type=int, default=1)
    asked.add_argument("--small", action="store_true")
    main(**vars(asked.parse_args()))
