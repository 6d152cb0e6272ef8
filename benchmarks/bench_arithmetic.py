"""Encode, decode, splice and one feature, on the official shapes with random weights.

Peers: SAELens's TopKSAE; the five lines of the model cards; the bare float32 matmul of an encoder,
the floor of everything that computes all pre-activations in float32.
"""

import gc
from statistics import median

import torch
from peers import random_pair
from sae_lens.saes import topk_sae
from timing import Row, compared, interleaved

from qs_helpers import SparseActs

SHAPES = [(2048, 32768, 50), (4096, 65536, 100), (5120, 81920, 100)]
TOKENS, MANY = 512, 4096


def named(shape) -> str:
    return f"{shape[0]} × {shape[1]}, k {shape[2]}"


def pair(shape, device):
    """Our SAE and SAELens's, each with its matrices as it has them after loading."""
    ours, theirs = random_pair(topk_sae, *shape)
    for name in ("W_enc", "W_dec"):
        weight = getattr(theirs, name)
        weight.data = weight.data.contiguous()
    return ours.to(device), theirs.to(device)


def tokens(n, d_model, device):
    return torch.randn(n, d_model, generator=torch.Generator().manual_seed(1)).to(device)


def made_of_features(sae):
    """Tokens as an SAE is trained to read them: k features of different strength and a little
    noise, with two dimensions far above the others, as residual streams have."""
    chance = torch.Generator().manual_seed(2)
    chosen = torch.rand(TOKENS, sae.d_sae, generator=chance).topk(sae.k).indices
    strength = 0.3 + 2 * torch.rand(TOKENS, sae.k, generator=chance)
    rows = torch.nn.functional.normalize(sae.W_enc.cpu(), dim=-1)
    x = torch.nn.functional.embedding_bag(chosen, rows, mode="sum", per_sample_weights=strength)
    x += 0.3 * x.std() * torch.randn(x.shape, generator=chance)
    size = x.std()
    x[:, 1] += 30 * size
    x[:, 2] -= 100 * size
    return x.to(sae.device)


def five_lines(x, sae):
    """As the model cards show it: dense pre-activations, TopK, and a dense vector of features."""
    pre = x @ sae.W_enc.T + sae.b_enc
    values, indices = pre.topk(sae.k, dim=-1)
    return torch.zeros_like(pre).scatter_(-1, indices, values)


def doubled(acts):
    return SparseActs(acts.values * 2, acts.indices)


def spliced(x, sae):
    """x with all features doubled and the error kept, as one writes it around SAELens."""
    acts = sae.encode(x)
    return x + sae.decode(2 * acts) - sae.decode(acts)


def same_sets(acts, dense, k) -> tuple[float, float]:
    """(share of tokens with the same active features, largest difference of their values)."""
    values, indices = dense.topk(k, dim=-1)
    both = acts.indices.sort(-1).values == indices.sort(-1).values
    return both.all(-1).float().mean().item(), (acts.values - values).abs().max().item()


@torch.no_grad()
def one_shape(shape, device) -> tuple[list[Row], dict]:
    ours, theirs = pair(shape, device)
    x = tokens(TOKENS, shape[0], device)
    acts, lens_acts, dense = ours.encode(x), theirs.encode(x), five_lines(x, ours)
    share, difference = same_sets(acts, lens_acts, shape[2])
    exact = {"same features": share, "largest difference": difference, "settled": ours.settled}
    ours = ours.by_columns()  # as one asks for before many tokens are decoded
    feature, cuda = torch.tensor([7], device=device), torch.device(device).type == "cuda"
    targets = {"encode": 5 if cuda else 3, "decode": 5 if cuda else 50}
    made = made_of_features(ours)
    lens_made = theirs.encode(made)
    agree = same_sets(ours.encode(made), lens_made, shape[2])
    exact |= {"made of features": agree[0]}
    read = torch.randn(
        TOKENS * shape[2], shape[0], device=device
    )  # as many bytes as a decode reads
    tasks = {
        "encode": {
            "ours": lambda: ours.encode(x),
            "sae-lens": lambda: theirs.encode(x),
            "five lines": lambda: five_lines(x, ours),
            "float32 matmul": lambda: torch.addmm(ours.b_enc, x, ours.W_enc.T),
        },
        "encode what is made of features": {
            "ours": lambda: ours.encode(made),
            "sae-lens": lambda: theirs.encode(made),
            "float32 matmul": lambda: torch.addmm(ours.b_enc, made, ours.W_enc.T),
        },
        "decode": {
            "ours": lambda: ours.decode(acts),
            "sae-lens": lambda: theirs.decode(lens_acts),
            "five lines": lambda: dense @ ours.W_dec.T + ours.b_dec,
            "a sum over the same bytes": lambda: read.sum(),
        },
        "splice": {
            "ours": lambda: ours.splice(x, doubled),
            "sae-lens": lambda: spliced(x, theirs),
        },
        "one feature": {
            "ours": lambda: ours.some(x, feature),
            "sae-lens": lambda: theirs.encode(x)[:, feature],
        },
    }
    if not cuda:  # no encoder that is screened in int8 is faster than this
        whole, weights = ((30 * part).clamp(-127, 127).to(torch.int8) for part in (x, ours.W_enc))
        tasks["int8 product alone"] = {
            "ours": lambda: torch._int_mm(whole, weights.T),
            "float32 matmul": lambda: torch.addmm(ours.b_enc, x, ours.W_enc.T),
        }
    if cuda:  # as a scan encodes them
        many = tokens(MANY, shape[0], device)
        tasks[f"encode {MANY:,} tokens"] = {
            "ours": lambda: ours.encode(many),
            "sae-lens": lambda: theirs.encode(many),
            "five lines": lambda: five_lines(many, ours),
            "float32 matmul": lambda: torch.addmm(ours.b_enc, many, ours.W_enc.T),
        }
    rows = []
    for task, functions in tasks.items():
        found = interleaved(functions, device)
        for peer in list(found)[1:]:
            target = targets.get(task) if peer == "sae-lens" and shape != SHAPES[2] else None
            if peer == "a sum over the same bytes" and shape != SHAPES[2]:
                target = 0.85
            row = compared("arithmetic", task, named(shape), found, "ours", peer, target=target)
            rows.append(row)
    return rows, exact


def arithmetic(device) -> tuple[list[Row], dict[str, dict]]:
    rows, exact = [], {}
    for shape in SHAPES:
        found, exact[named(shape)] = one_shape(shape, device)
        rows += found
        gc.collect()
    return rows, exact


GROWTH = {
    "tokens": [(2048, 32768, 50, n) for n in (1, 8, 64, 512, 2048)],
    "d_sae": [(2048, n, 50, TOKENS) for n in (8192, 16384, 32768, 65536)],
    "k": [(2048, 32768, n, TOKENS) for n in (25, 50, 100, 200)],
}


def growth(device) -> list[dict]:
    """[{along, at, task, ours, sae-lens}]: milliseconds of encode and decode, one size varied."""
    found = []
    for along, cases in GROWTH.items():
        for case in cases:
            at = dict(zip(("d_model", "d_sae", "k", "tokens"), case, strict=True))[along]
            found += [{"along": along, "at": at, **times} for times in one_case(case, device)]
            gc.collect()
    return found


@torch.no_grad()
def one_case(case, device) -> list[dict]:
    *shape, n = case
    ours, theirs = pair(shape, device)
    x = tokens(n, shape[0], device)
    acts, dense = ours.encode(x), theirs.encode(x)
    ours = ours.by_columns()
    tasks = {
        "encode": {"ours": lambda: ours.encode(x), "sae-lens": lambda: theirs.encode(x)},
        "decode": {"ours": lambda: ours.decode(acts), "sae-lens": lambda: theirs.decode(dense)},
    }
    found = []
    for task, functions in tasks.items():
        times = interleaved(functions, device, runs=3)
        found.append({"task": task, **{name: median(value) * 1e3 for name, value in times.items()}})
    return found
