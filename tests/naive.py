"""Plain-loop references for the numbers that the helper computes in fast ways.

Written from the formulas, with Python floats and lists, to be read rather than run on much.
"""

import math


def encode(x, W_enc, b_enc, k, b_dec=None):
    """One token: [(value, index)] of the k largest relu(W_enc @ (x - b_dec) + b_enc)."""
    centred = [value - (b_dec[i] if b_dec is not None else 0) for i, value in enumerate(x)]
    pre = [sum(w * v for w, v in zip(row, centred, strict=True)) for row in W_enc]
    acts = [max(p + b, 0.0) for p, b in zip(pre, b_enc, strict=True)]
    return sorted(((value, index) for index, value in enumerate(acts)), reverse=True)[:k]


def decode(entries, W_dec, b_dec):
    """One token: sum of value * column of W_dec over [(value, index)], plus b_dec."""
    return [
        bias + sum(value * row[index] for value, index in entries)
        for row, bias in zip(W_dec, b_dec, strict=True)
    ]


def norm(x):
    return math.sqrt(sum(value * value for value in x))


def sink_mask(tokens, factor, real=None):
    """[bool] for a list of tokens; the lower median of the real ones."""
    real = [True] * len(tokens) if real is None else real
    norms = sorted(norm(x) for x, is_real in zip(tokens, real, strict=True) if is_real)
    median = norms[(len(norms) - 1) // 2]
    return [r and norm(x) > factor * median for x, r in zip(tokens, real, strict=True)]


def fvu(tokens, reconstructions, keep):
    """Over the kept tokens: squared error over squared distance from their mean."""
    pairs = [
        p for p, kept in zip(zip(tokens, reconstructions, strict=True), keep, strict=True) if kept
    ]
    width = len(tokens[0])
    mean = [sum(x[i] for x, _ in pairs) / len(pairs) for i in range(width)]
    error = sum((x[i] - y[i]) ** 2 for x, y in pairs for i in range(width))
    total = sum((x[i] - mean[i]) ** 2 for x, _ in pairs for i in range(width))
    return error / total


def cross_entropy(logits, ids, real):
    """One sequence: nats of token j+1 given the logits at j, NaN where either is padding."""
    nats = []
    for j in range(len(ids) - 1):
        if not (real[j] and real[j + 1]):
            nats.append(math.nan)
            continue
        top = max(logits[j])
        log_sum = top + math.log(sum(math.exp(value - top) for value in logits[j]))
        nats.append(log_sum - logits[j][ids[j + 1]])
    return nats


def scan(tokens, d_sae, size):
    """Counts over [(text, position, [(value, feature)])]: fired and total of each feature, and its
    `size` strongest (value, text, position)."""
    fired, total, contexts = [0] * d_sae, [0.0] * d_sae, [[] for _ in range(d_sae)]
    for text, position, pairs in tokens:
        for value, feature in pairs:
            fired[feature] += 1
            total[feature] += value
            contexts[feature].append((value, text, position))
    top = [sorted(found, key=lambda c: (-c[0], c[1], c[2]))[:size] for found in contexts]
    return {"fired": fired, "total": total, "top": top}


def splitmix64(x):
    """The first number that the generator of Steele, Lea and Flood (2014) draws from state x."""
    x = (x + 0x9E3779B97F4A7C15) % 2**64
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) % 2**64
    return x ^ (x >> 31)


def activations(sae, x):
    """Dense activations of tokens x [tokens, d_model], feature by feature and token by token."""
    out = x.new_zeros(len(x), sae.d_sae)
    for token, row in enumerate(x):
        pre = sae.W_enc @ row + sae.b_enc
        for feature in pre.argsort(descending=True)[: sae.k].tolist():
            out[token, feature] = max(0.0, float(pre[feature]))
    return out


def or_rule(peak, toxic, other, k):
    """The published rule: the k features of the largest difference of firing shares on `peak`
    [texts, d_sae], and which texts of `other` have any of them above 0."""
    gaps = []
    for feature in range(peak.shape[1]):
        hits = [
            sum(peak[i, feature] > 0 for i in range(len(peak)) if toxic[i] == label)
            for label in (True, False)
        ]
        gaps.append(hits[0] / sum(toxic) - hits[1] / (len(toxic) - sum(toxic)))
    features = sorted(range(len(gaps)), key=lambda f: (-gaps[f], f))[:k]
    return features, [any(row[f] > 0 for f in features) for row in other]


def project_out(x, direction, strength):
    """One token: x - strength * (x . u) u, u the unit vector along `direction`."""
    size = norm(direction)
    unit = [value / size for value in direction]
    along = strength * sum(a * b for a, b in zip(x, unit, strict=True))
    return [a - along * b for a, b in zip(x, unit, strict=True)]


def odds(logits, tokens):
    """Log-odds of the next token being one of `tokens`: log P - log(1 - P)."""
    top = max(logits)
    shares = [math.exp(value - top) for value in logits]
    inside = sum(shares[t] for t in tokens)
    return math.log(inside) - math.log(sum(shares) - inside)


def choose(rows, n_layers):
    """The published selection over rows of (layer before which it is read, induce, kl, bypass):
    the place of the lowest bypass score among those that the filter keeps, or None."""
    kept = [
        (bypass, place)
        for place, (layer, induce, kl, bypass) in enumerate(rows)
        if not any(math.isnan(v) for v in (induce, kl, bypass))
        and layer < int(0.8 * n_layers)
        and kl <= 0.1
        and induce >= 0
    ]
    return min(kept)[1] if kept else None


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True)) / (norm(a) * norm(b))


def activation_gap(positive, negative, median):
    """Mean activation over the tokens (rows) of `positive` minus `negative`, by feature."""
    means = [
        [sum(column) / len(rows) for column in zip(*rows, strict=True)]
        for rows in (positive, negative)
    ]
    return [(a - b) / median for a, b in zip(*means, strict=True)]


def attribution(acts, gradients, columns):
    """Sum over tokens of z_j (gradient . d_j), by feature; acts [tokens][features]."""
    return [
        sum(
            token[j] * sum(g * d for g, d in zip(gradient, column, strict=True))
            for token, gradient in zip(acts, gradients, strict=True)
        )
        for j, column in enumerate(columns)
    ]
