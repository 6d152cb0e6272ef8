"""Projects on which notebooks run as on an official preset, with small random weights.

A lane is the preset's own YAML with the sizes of CUT, a model of its family, depth and tokenizer's
switches, a suite with an SAE of every layer, and the datasets that it names, all served by a Hub on
loopback under the names and commits of the catalog.

FAMILIES    a preset of each family of the catalog
Lane        the project of one of them, and its Hub
"""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import torch
import yaml
from hub_server import HubServer
from safetensors.torch import save_file
from suites import write_config

from qs_helpers.loading.catalog import TINY, get_group
from qs_helpers.presets import dataset_parts, preset_sections
from qs_helpers.texts import load_texts

ROOT = Path(__file__).resolve().parents[1]
FAMILIES = {
    "qwen3": "qwen3-1.7b-l50",
    "qwen3-moe": "qwen3-30b-a3b-l50",
    "qwen3.5": "qwen3.5-2b-l100",
    "qwen3.5-moe": "qwen3.5-35b-a3b-l100",
    "qwen3.5-conditional": "qwen3.5-27b-l50",
    "community": "openinterp-qwen3.6-27b",  # a suite of three layers, with files of its own
}
# The one override: every size that decides how long a notebook takes, and nothing else. A part that
# a preset leaves out, with a 0, stays out.
CUT = {"N_TEXTS": 8, "N_DOCS": 24, "N_PROMPTS": 12, "N_VALIDATION": 6, "MAX_NEW_TOKENS": 6}
CUT |= {"N_TEST": 12, "N_TRAIN": 16, "STEPS": 1, "N_PAIRS": 4, "REDRAWS": 2}
CUT |= {"REFUSAL_TOKENS": 5, "ANSWER_TOKENS": 6, "N_ITEMS": [16, 12], "RANDOM_MODELS": 1}

D_MODEL, D_SAE = 32, 256
# What Qwen's own template does with the switch, in few words.
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n"
    "{% endif %}{% endif %}"
)
TEXT = dict(
    vocab_size=2064,  # a few rows more than the tokenizer has tokens, as in official models
    hidden_size=D_MODEL,
    intermediate_size=64,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=16,
    max_position_embeddings=4096,
    initializer_range=0.1,
    tie_word_embeddings=False,
)
EXPERTS = dict(moe_intermediate_size=16, num_experts=4, num_experts_per_tok=2)
LINEAR = dict(
    linear_num_key_heads=2,
    linear_num_value_heads=2,
    linear_key_head_dim=8,
    linear_value_head_dim=8,
)
VISION = dict(
    depth=1,
    hidden_size=16,
    intermediate_size=16,
    num_heads=2,
    patch_size=4,
    num_position_embeddings=16,
    out_hidden_size=D_MODEL,
)


def network(family: str, n_layers: int):
    """A random model of a family, of its official depth."""
    import transformers as hf

    torch.manual_seed(0)
    text = TEXT | {"num_hidden_layers": n_layers}
    if family == "qwen3":
        return hf.Qwen3ForCausalLM(hf.Qwen3Config(**text))
    if family == "qwen3-moe":
        return hf.Qwen3MoeForCausalLM(hf.Qwen3MoeConfig(**text, **EXPERTS, decoder_sparse_step=1))
    if family == "qwen3.5":
        return hf.Qwen3_5ForCausalLM(hf.Qwen3_5TextConfig(**text, **LINEAR))
    both = {"vision_config": VISION, "tie_word_embeddings": False}
    if family == "qwen3.5-moe":
        text |= LINEAR | EXPERTS | {"shared_expert_intermediate_size": 16}
        return hf.Qwen3_5MoeForConditionalGeneration(hf.Qwen3_5MoeConfig(text_config=text, **both))
    return hf.Qwen3_5ForConditionalGeneration(hf.Qwen3_5Config(text_config=text | LINEAR, **both))


def write_official(folder: Path, family: str, n_layers: int) -> Path:
    """A model folder as an official repo holds it: bfloat16, a chat template with a switch."""
    from transformers import AutoTokenizer
    from transformers.utils import logging

    bar = logging.set_tqdm_hook(lambda bar, args, kwargs: bar(*args, **kwargs | {"disable": True}))
    network(family, n_layers).to(torch.bfloat16).save_pretrained(folder)
    logging.set_tqdm_hook(bar)
    tokenizer = AutoTokenizer.from_pretrained(TINY["tiny"] / "model")
    tokenizer.add_tokens(["<think>", "</think>"])
    tokenizer.eos_token, tokenizer.chat_template = "<|im_end|>", TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


def write_saes(folder: Path, n_layers: int, k: int, community=()) -> Path:
    """A suite in which a token's k features give back most of its residual: rotations of the axes,
    both ways, so that a notebook that leaves out unreadable suites keeps this one.

    community: the layers of a suite that subtracts b_dec, in safetensors, turned, a config for each
    """
    folder.mkdir(parents=True)
    for layer in community or range(n_layers):
        draw = torch.Generator().manual_seed(layer)
        turns = [
            torch.linalg.qr(torch.randn(D_MODEL, D_MODEL, generator=draw))[0] for _ in range(4)
        ]
        axes = torch.cat([sign * turn for turn in turns for sign in (1, -1)])
        # Of equal bases a token's k largest would be spread over all: the first takes most.
        weights = torch.tensor([1.0, 0.2, 0.2, 0.2]).repeat_interleave(2 * D_MODEL)
        sae = {"W_enc": axes * weights[:, None], "W_dec": axes.T.contiguous()}
        sae |= {"b_enc": torch.zeros(D_SAE), "b_dec": torch.zeros(D_MODEL)}
        if community:
            sae |= {"W_enc": sae["W_enc"].T.contiguous(), "W_dec": axes}
            sae["b_dec"] = 0.1 * torch.randn(D_MODEL, generator=draw)
            save_file(sae, folder / f"sae_L{layer}_latest.safetensors")
            said = {"architecture": "topk", "d_in": D_MODEL, "d_sae": D_SAE, "k": k, "layer": layer}
            said |= {"hook_name": f"model.language_model.layers.{layer}"}
            (folder / f"sae_L{layer}_cfg.json").write_text(json.dumps(said))
        else:
            torch.save(sae, folder / f"layer{layer}.sae.pt")
    if not community:
        write_config(folder, D_MODEL, D_SAE, k, n_layers)
    return folder


def _table(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)


def write_datasets(folder: Path) -> dict[str, Path]:
    """What the official presets name, in the layout of the Hub: of the natural sets' own texts."""
    remarks = load_texts("natural", "remarks")
    spoken = folder / "toxicity"
    languages = sorted({t.language for t in remarks})
    for language in languages:
        rows = [t for t in remarks if t.language == language]
        rows = [{"text": t.text, "toxic": int(t.label == "toxic")} for t in rows]
        _table(spoken / f"{language}.csv", rows)
    files = "\n".join(f"  - {{split: {x}, path: {x}.csv}}" for x in languages)
    card = f"---\nconfigs:\n- config_name: default\n  data_files:\n{files}\n---\n"
    (spoken / "README.md").write_text(card)
    made = {"textdetox/multilingual_toxicity_dataset": spoken}
    requests = load_texts("natural", "requests", ["en"])
    names = {"harmful": "mlabonne/harmful_behaviors", "harmless": "mlabonne/harmless_alpaca"}
    for label, name in names.items():
        rows = [{"text": t.text} for t in requests if t.label == label]
        cut = len(rows) * 3 // 4
        for part, some in (("train", rows[:cut]), ("test", rows[cut:])):
            _table(folder / label / f"{part}.csv", some)
        made[name] = folder / label
    return made


def write_benchmarks(folder: Path, sources: list[str]) -> dict[str, Path]:
    """The benchmarks that a preset names, with their configurations: questions of the natural sets,
    in the columns that such datasets have."""
    asked = [t.text for t in load_texts("natural", "questions")]
    made, configs = {}, {}
    for number, source in enumerate(sources):
        repo, name, _ = dataset_parts(source)
        made[repo] = place = folder / repo.replace("/", "--")
        configs.setdefault(repo, []).append(name or "default")
        some = asked[number * 20 : number * 20 + 24]
        key = ("question", "problem", "prompt")[number % 3]
        rows = [{key: text, "answer": 1, "category": f"c{i % 4}"} for i, text in enumerate(some)]
        _table(place / f"{configs[repo][-1]}.csv", rows)
        said = [
            f"- {{config_name: {x}, data_files: [{{split: test, path: {x}.csv}}]}}\n"
            for x in configs[repo]
        ]
        (place / "README.md").write_text(f"---\nconfigs:\n{''.join(said)}---\n")
    return made


class Lane:
    """A project in `folder` with the notebooks, the preset of a family and a Hub that has what it
    names; a context manager, since the Hub is a server.

    thinking: whether prompts let the model think; change: {section: {name: value}} on top of all.
    """

    def __init__(self, folder: Path, family: str, thinking: bool = False, change=None):
        self.folder, self.preset = Path(folder), FAMILIES[family]
        group = get_group(self.preset)
        sections = preset_sections(self.preset, ROOT / "notebooks" / "params")
        for values in sections.values():
            values.update({name: CUT[name] for name in values.keys() & CUT if values[name] != 0})
        # The same repo, but its files say its sizes: the catalog's are those of the real one.
        sections["scope"] |= {"sae": group.sae_repo, "thinking": thinking}
        for section, values in (change or {}).items():
            sections.setdefault(section, {}).update(values)
        params = self.folder / "notebooks" / "params"
        params.mkdir(parents=True)
        (params / f"{self.preset}.yaml").write_text(yaml.safe_dump(sections, allow_unicode=True))
        for notebook in (ROOT / "notebooks").glob("0[1-9]_*.ipynb"):
            shutil.copy(notebook, params.parent)
        model = write_official(self.folder / "hub" / "model", family, group.n_layers)
        models = [group.model_repo, *sections["06_abliteration_comparison"]["MODELS"]]
        repos = dict.fromkeys(models, model)
        sizes = group.n_layers, group.k, group.some_layers
        repos |= {group.sae_repo: write_saes(self.folder / "hub" / "sae", *sizes)}
        if other := sections.get("09_moe_routing", {}).get("OTHER"):  # a second suite, as the first
            second = get_group(other)
            said = {"scope": {"sae": second.sae_repo}, "common": sections["common"]}
            (params / f"{other}.yaml").write_text(yaml.safe_dump(said))
            sizes = second.n_layers, second.k, second.some_layers
            repos |= {second.sae_repo: write_saes(self.folder / "hub" / "other", *sizes)}
        repos |= write_datasets(self.folder / "hub" / "texts")
        benchmarks = sections["08_benchmark_overlap"]["BENCHMARKS"]
        repos |= write_benchmarks(self.folder / "hub" / "benchmarks", benchmarks)
        self.sections, self.hub = sections, HubServer(repos, any_commit=True)

    def __enter__(self):
        self.hub.__enter__()
        return self

    def __exit__(self, *error):
        self.hub.__exit__(*error)

    def report(self, *given: str) -> subprocess.CompletedProcess:
        """A report on the preset, as from the command line."""
        env = {k: v for k, v in os.environ.items() if k != "QS_OUT"}
        env |= {"QS_ROOT": str(self.folder), "HF_ENDPOINT": self.hub.url}
        env |= {"HF_HOME": str(self.folder / "home")}
        argv = [sys.executable, "-m", "qs_helpers.report", "--preset", self.preset, *given]
        return subprocess.run(argv, env=env, cwd=self.folder, capture_output=True, text=True)

    def run(self, notebook: str, *given: str) -> tuple[dict, str]:
        """results.json of one notebook, and all that its cells printed; it must reach its end."""
        done = self.report("--only", notebook, *given)
        assert done.returncode == 0, done.stdout + done.stderr
        (ran,) = self.folder.glob(f"runs/*/{notebook}*.ipynb")
        (found,) = self.folder.glob(f"runs/*/{ran.stem}/results.json")
        outputs = [
            output
            for cell in json.loads(ran.read_text("utf-8"))["cells"]
            for output in cell.get("outputs", [])
        ]
        assert not [output for output in outputs if output["output_type"] == "error"]
        printed = "".join("".join(output.get("text", "")) for output in outputs)
        return json.loads(found.read_text("utf-8")), printed
