"""results.json of a benchmark as a page and figures.

page     Markdown
figures  growth.png
"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from timing import RUNS

SECTIONS = {
    "arithmetic": "Encode, decode, splice",
    "loading": "From a file to its first use",
    "scan": "Features of a corpus",
    "use": "Reading and steering a model that runs",
    "training": "Training an SAE",
}
NOTES = {
    "arithmetic": "{tokens} tokens at a time, float32, random weights. *encode* reads noise, the "
    "hardest case: the k largest of its pre-activations hardly stand out, and the encoder's int8 "
    "screen leaves hundreds to thousands of features of each token to be computed exactly, which "
    "costs as much again or more. *made of features*: sums of k features, a little noise, and two "
    "massive dimensions, which is nearer to what an SAE reads. *five lines*: the snippet of the "
    "model cards. *float32 matmul*: the encoder's product alone, the floor of everything "
    "that computes all pre-activations in float32. *int8 product alone*: that of the screen, which "
    "no encoder so screened is faster than. Decoding is timed after W_dec was turned in "
    "memory, which is done once; SAELens turns it while loading. It reads k columns a token and "
    "computes next to nothing, so the machine's memory sets its speed, and it is compared with "
    "`sum` over as many numbers in one piece. *splice*: all features doubled, the error kept; "
    "around SAELens that takes two decodes. The figure has medians of 3 runs.",
    "loading": "A process that opens a file of the official format and encodes 8 tokens, or reads "
    "one column of W_dec; memory is the growth of its peak. *sae-lens* has its own loader of these "
    "files. Medians of 3 processes. *cold*: no page of the file is in the page cache.",
    "scan": "A model with six layers of the 1.7B shape, SAEs on three. The plain loop pads texts "
    "in their order and runs the whole model: {padding_in_order:.0%} of what it computes is "
    "padding, {padding:.0%} in our batches. The first row is a median of 2 runs, memory is of one "
    "process each: torch keeps a compiled product for every shape of batch (1024 at most) and the "
    "C library keeps what was freed; the last row is without either. The plan that is stated "
    "before: *{plan}*. *in shards*: tasks of the same small scan, a thread for each process, from "
    "the first start to the last end; starting a process and loading are not counted.",
    "use": "One text of {prompt} tokens and {new} more, random weights in bfloat16; one layer in "
    "the middle is read or changed. Prefill and decoding are timed apart, and the {new} tokens are "
    "given, the same ones in every arm, so that all arms do the same work (after EasySteer, which "
    "steers by 0 to that end). Decoding has {runs} runs. *steering* adds directions; *clamping* "
    "encodes each token to know what to change; *reconstruction* puts decode(encode(x)) in the "
    "place of x; *by TransformerLens* is its bridge around a copy of the model, as it comes.",
    "training": "One step of a TopK SAE in float32 with Adam, on the CPU, no feature silent yet. "
    "*sae-lens* is its `SAETrainer` with `TopKTrainingSAE` as it comes, *sparse* the same with "
    "`use_sparse_activations`, which needs `rescale_acts_by_decoder_norm` off.",
}
KINDS = {"faster": "{:.2f} × as fast", "share": "{:.3g} of it", "time": "{:.3f} of the time"}
SIGNS = {"faster": "≥ {:.3g} ×", "share": "≤ {:.3g}", "time": "≤ {:.3g}"}


GPU = """## On a GPU

Measured on: {machine}. The same tasks, TF32 off. A large encoder is screened with float16 products,
whose error is bounded (qs_helpers/fast/halves.py), so that it need not take as long as a float32
product, which is the floor of the peers. Below 2^36 tokens × weights the plain product is taken:
512 tokens of the smallest shape were screened when this was measured, and were slower so. Decoding
takes most of its time for what does not depend on the tokens: checks, and starting many small
kernels; a sum over the same bytes has none of that. Of decoding with a model the quartiles are
wide, as the host sets the pace: nothing near 2 % is told apart there.
"""
NOTEBOOKS = """The notebooks with random weights of the {size} shape (`python
benchmarks/bench_notebooks.py {size}`), {how}. What they find there means nothing. {notes}
"""


def page(found: dict, gpu: dict | None = None) -> str:
    lines = [
        "# Speed and memory",
        "",
        f"Measured on: {found['machine']}. Medians of {RUNS} runs in turn, ours and the "
        "peer's, unless said otherwise. A ratio is that of the two medians; in brackets are the "
        "quartiles of the ratios run by run, outside of which it may lie where they vary. Ratios "
        "carry over to other machines roughly, times do not. `make bench` measures anew.",
    ]
    for section, title in SECTIONS.items():
        if section not in found["parts"]:  # younger than what was measured
            continue
        rows = found["parts"][section]["rows"]
        about = found["about"] | {"tokens": found["tokens"]}
        lines += ["", f"## {title}", "", NOTES[section].format(**about), ""]
        lines += ["| what | shape | ours | peer | | ratio | target |", "|---" * 7 + "|"]
        lines += ["| " + " | ".join(_cells(row)) + " |" for row in rows]
        if section == "arithmetic":
            figure = "![Milliseconds by tokens, width, k and layers](growth.png)"
            lines += ["", *_exactness(found), "", figure]
    return "\n".join(lines + (_on_gpu(gpu) if gpu else [])) + "\n"


def _on_gpu(gpu: dict) -> list[str]:
    """The section on what was measured apart, on another machine: benchmarks/gpu.json."""
    lines = ["", *GPU.format(**gpu["about"], machine=gpu["machine"]).splitlines(), ""]
    lines += ["| what | shape | ours | peer | | ratio | target |", "|---" * 7 + "|"]
    lines += ["| " + " | ".join(_cells(row)) + " |" for row in gpu["rows"]]
    lines += ["", *NOTEBOOKS.format(**gpu["about"]).splitlines(), ""]
    lines += ["| notebook | time | memory | on the GPU | |", "|---" * 5 + "|"]
    for row in gpu["notebooks"]:
        sizes = (f"{row[name]:.1f} GB" for name in ("memory_gb", "device_gb"))
        cells = [row["notebook"], f"{row['seconds']:.0f} s", *sizes, row["about"]]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _cells(row: dict) -> list[str]:
    target = ""
    if row["target"] is not None:
        target = SIGNS[row["kind"]].format(row["target"]) + (": met" if row["met"] else ": missed")
        low, high = row.get("quartiles") or (row["ratio"], row["ratio"])
        target += ", by the median alone" * (low < row["target"] < high)
    value = {name: f"{row[name]:,.1f} {row['unit']}" for name in ("ours", "theirs")}
    ratio = KINDS[row["kind"]].format(row["ratio"])
    if row.get("quartiles"):
        ratio += " ({:.3g} to {:.3g})".format(*row["quartiles"])
    return [row["task"], row["shape"], value["ours"], row["peer"], value["theirs"], ratio, target]


def _exactness(found: dict) -> list[str]:
    lines = []
    for shape, exact in found["exact"].items():
        settled = exact["settled"]
        rest = settled["float32"] + settled["all"]
        how = f"{rest} of {sum(settled.values())} tokens needed more than int8 products"
        if not sum(settled.values()):
            how = "not screened on this machine"
        lines.append(
            f"- {shape}: the same features as SAELens at {exact['same features']:.1%} of the "
            f"tokens, values within {exact['largest difference']:.1e}; {how}. Of tokens made of "
            f"features: the same at {exact['made of features']:.1%}."
        )
    return lines


def figures(found: dict, folder: Path) -> None:
    """Cost of one call by tokens, width and k, and of a scan by layers; logarithmic but for k."""
    sizes = {
        "tokens": "tokens in a call",
        "d_sae": "features (d_sae)",
        "k": "active features (k)",
        "layers": "layers scanned",
    }
    fig, axes = plt.subplots(1, 4, figsize=(11, 3.4), layout="constrained")
    for ax, (along, label) in zip(axes, sizes.items(), strict=True):
        grown = [row for part in found["parts"].values() for row in part["growth"]]
        rows = [row for row in grown if row["along"] == along]
        for task, style in (("encode", "-"), ("decode", "--"), ("scan", "-")):
            those = [row for row in rows if row["task"] == task]
            for who, color in (("ours", "#0072B2"), ("sae-lens", "#D55E00")):
                if those:
                    x, y = [row["at"] for row in those], [row[who] for row in those]
                    ax.plot(x, y, style, color=color, marker="o", ms=3, label=f"{task}, {who}")
        at = sorted({row["at"] for row in rows})
        ax.set(xscale="log", yscale="log", xlabel=label, ylim=(0.5, None))
        ax.set_xticks(at, [f"{value:,}" for value in at], fontsize=7)
        ax.minorticks_off()
        ax.grid(alpha=0.3)
        ax.legend(fontsize=6)
    axes[0].set_ylabel("milliseconds")
    about = "2048 × 32768, k 50, 512 tokens, but for what varies; layers: the scan below"
    fig.suptitle(f"Cost at {about}", fontsize=10)
    fig.savefig(folder / "growth.png", dpi=120)
    plt.close(fig)
