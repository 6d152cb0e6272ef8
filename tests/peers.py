"""The same random weights as our SAE and as that of others, for parity tests and benchmarks.

random_pair  our TopKSAE and SAELens's
"""

import torch

from qs_helpers.sae import TopKSAE


def random_pair(saelens, d_model, d_sae, k):
    """The same weights as our TopKSAE and as SAELens's; saelens: its module of TopK SAEs."""
    g = torch.Generator().manual_seed(d_sae)
    ours = TopKSAE(
        W_enc=torch.randn(d_sae, d_model, generator=g) / d_model**0.5,
        W_dec=torch.nn.functional.normalize(torch.randn(d_model, d_sae, generator=g), dim=0),
        b_enc=torch.randn(d_sae, generator=g) / 10,
        b_dec=torch.randn(d_model, generator=g) / 10,
        k=k,
    )
    config = saelens.TopKSAEConfig(
        d_in=d_model, d_sae=d_sae, k=k, apply_b_dec_to_input=False, normalize_activations="none"
    )
    with torch.device("meta"):  # no second random initialisation of the big one
        theirs = saelens.TopKSAE(config)
    theirs.load_state_dict(
        {"W_enc": ours.W_enc.T, "W_dec": ours.W_dec.T, "b_enc": ours.b_enc, "b_dec": ours.b_dec},
        assign=True,
    )
    return ours, theirs
