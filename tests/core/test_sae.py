"""An SAE: the math against plain loops, bad input, and files of every kind."""

import json
import os
import pickle
import sys
import zipfile

import naive
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qs_helpers.loading.origin import file_layer
from qs_helpers.loading.saefile import find_k
from qs_helpers.loading.scope import load_sae
from qs_helpers.sae import CONVENTIONS, SparseActs, TopKSAE, sparse_change

D_MODEL, D_SAE, K = 8, 40, 5


def weights(d_model=D_MODEL, d_sae=D_SAE, seed=0):
    g = torch.Generator().manual_seed(seed)
    return {
        "W_enc": torch.randn(d_sae, d_model, generator=g),
        "W_dec": torch.randn(d_model, d_sae, generator=g),
        "b_enc": torch.randn(d_sae, generator=g),
        "b_dec": torch.randn(d_model, generator=g),
    }


@pytest.fixture
def sae():
    return TopKSAE(**weights(), k=K, layer=3)


@pytest.fixture
def x():
    return torch.randn(2, 7, D_MODEL, generator=torch.Generator().manual_seed(9))


def save(folder, tensors=None, name="layer3.sae.pt", **config):
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(weights() if tensors is None else tensors, folder / name)
    if config:
        (folder / "config.json").write_text(json.dumps(config))
    return folder / name


def acts_of(values, indices):
    return SparseActs(torch.tensor(values), torch.tensor(indices))


# ---- the math


@settings(max_examples=40, deadline=None)
@given(
    d_model=st.integers(1, 6),
    d_sae=st.integers(1, 20),
    tokens=st.integers(0, 5),
    seed=st.integers(0, 10**6),
    chunk=st.integers(1, 400),
    data=st.data(),
)
def test_encode_and_decode_equal_the_loops(d_model, d_sae, tokens, seed, chunk, data):
    k = data.draw(st.integers(1, d_sae))
    subtract = data.draw(st.booleans())
    w = weights(d_model, d_sae, seed)
    # Whole numbers make ties, zeros and negative pre-activations common.
    w = {name: tensor.mul(2).round() for name, tensor in w.items()}
    sae = TopKSAE(**w, k=k, convention="centered" if subtract else "official")
    x = torch.randn(tokens, d_model, generator=torch.Generator().manual_seed(seed)).mul(2).round()
    acts = sae.encode(x, chunk_bytes=chunk)
    assert acts.values.shape == acts.indices.shape == (tokens, k)
    lists = {name: tensor.tolist() for name, tensor in w.items()}
    for token, values, indices in zip(x.tolist(), *acts, strict=True):
        b_dec = lists["b_dec"] if subtract else None
        every = naive.encode(token, lists["W_enc"], lists["b_enc"], d_sae, b_dec)
        # Ties may be broken either way: the values are given, and each sits at its own feature.
        assert values.tolist() == [value for value, _ in every[:k]]
        pre = {index: value for value, index in every}
        assert [pre[i] for i in indices.tolist()] == values.tolist()
        assert len(set(indices.tolist())) == k
        entries = list(zip(values.tolist(), indices.tolist(), strict=True))
        wanted = naive.decode(entries, lists["W_dec"], lists["b_dec"])
        got = sae.decode(SparseActs(values, indices))
        assert got.tolist() == pytest.approx(wanted, rel=1e-5, abs=1e-4)


def test_shapes_and_dtypes(sae, x):
    acts = sae.encode(x)
    assert acts.values.shape == acts.indices.shape == (2, 7, K)
    assert acts.values.dtype == torch.float32 and acts.indices.dtype == torch.int64
    assert (acts.values.diff(dim=-1) <= 0).all(), "in descending order"
    assert sae.decode(acts).shape == (2, 7, D_MODEL)
    assert torch.equal(sae.reconstruct(x), sae.decode(acts))
    assert sae.encode(x[0, 0]).values.shape == (K,)
    assert sae.reconstruct(x[0, 0]).shape == (D_MODEL,)
    assert sae.encode(x[:0]).values.shape == (0, 7, K)
    assert sae.reconstruct(x[:0]).shape == (0, 7, D_MODEL)
    assert sae.encode(x.bfloat16()).values.dtype == torch.float32
    assert torch.equal(sae.encode(x.bfloat16()).values, sae.encode(x.bfloat16().float()).values)


def test_chunks_do_not_change_the_result(sae, x):
    whole, single = sae.encode(x), sae.encode(x, chunk_bytes=1)
    assert torch.equal(whole.indices, single.indices)
    assert torch.allclose(whole.values, single.values, atol=1e-6)


def test_only_positive_features_are_active():
    w = weights()
    w["b_enc"] -= 100
    w["b_enc"][:2] = 100
    acts = TopKSAE(**w, k=K).encode(torch.ones(3, D_MODEL))
    assert ((acts.values > 0).sum(-1) == 2).all()
    assert torch.allclose(
        TopKSAE(**w, k=K).decode(acts), TopKSAE(**w, k=2).reconstruct(torch.ones(3, D_MODEL))
    )


def test_by_columns_lays_w_dec_out_anew_and_computes_the_same(sae, x):
    columns, acts = sae.by_columns(), sae.encode(x)
    assert columns.W_dec.T.is_contiguous() and not sae.W_dec.T.is_contiguous()
    assert torch.equal(columns.W_dec, sae.W_dec) and columns.W_enc is sae.W_enc
    assert torch.equal(columns.decode(acts), sae.decode(acts))
    assert torch.equal(columns.direction([3, 0]), sae.direction([3, 0]))
    empty = SparseActs(acts.values * 0, acts.indices)
    assert torch.equal(columns.decode(empty), sae.decode(empty))

    def louder(acts):
        return SparseActs(acts.values * 2, acts.indices)

    assert torch.equal(columns.splice(x, louder), sae.splice(x, louder))


def test_decoding_changes_nothing_in_the_sae(sae, x):
    before = {name: id(value) for name, value in vars(sae).items()}
    strides = sae.W_dec.stride()
    acts = sae.encode(x)
    for _ in range(5):
        sae.decode(acts)
    assert sae.W_dec.stride() == strides
    assert {name: id(value) for name, value in vars(sae).items()} == before


def test_read_as_shares_what_was_checked_and_counts_anew(sae, x):
    sae.encode(x)
    other = sae.read_as("centered")
    assert other.W_enc is sae.W_enc and other._known is sae._known
    assert sum(other.settled.values()) == 0 and other.convention == "centered"
    with pytest.raises(ValueError, match="no convention 'upside down'"):
        sae.read_as("upside down")


def test_direction_is_a_column_of_w_dec(sae):
    assert torch.equal(sae.direction([3, 0]), sae.W_dec[:, [3, 0]].T)
    assert sae.direction(7).shape == (1, D_MODEL)
    assert torch.equal(sae.direction(torch.tensor([7])), sae.direction(7))
    assert sae.direction([]).shape == (0, D_MODEL)
    one = sae.decode(acts_of([[2.0]], [[7]])) - sae.decode(acts_of([[0.0]], [[7]]))
    assert torch.allclose(one, 2 * sae.direction(7), atol=1e-6)


def test_weights_kept_in_bfloat16(sae, x):
    half = sae.to(dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16 and sae.dtype == torch.float32
    wide = half.to(dtype=torch.float32)
    assert torch.allclose(half.encode(x).values, wide.encode(x).values, atol=1e-5)
    assert torch.allclose(half.reconstruct(x), wide.reconstruct(x), atol=1e-5)
    assert half.direction(1).dtype == torch.float32


# ---- splice


def test_splice_without_a_change_is_x_itself(sae, x):
    x = x.bfloat16()
    assert sae.splice(x) is x
    assert sae.splice(x, lambda acts: acts) is x
    reordered = sae.splice(x, lambda a: SparseActs(a.values.flip(-1), a.indices.flip(-1)))
    assert reordered is x


def test_splice_adds_the_decoded_difference(sae, x):
    def double(acts):
        return SparseActs(acts.values * 2, acts.indices)

    wanted = x + (sae.reconstruct(x) - sae.b_dec)
    assert torch.allclose(sae.splice(x, double), wanted, atol=1e-5)
    full = sae.splice(x, lambda a: acts_of([[[1.5, 2.0]] * 7] * 2, [[[4, 9]] * 7] * 2))
    error = x - sae.reconstruct(x)
    wanted = error + sae.b_dec + 1.5 * sae.direction(4) + 2 * sae.direction(9)
    assert torch.allclose(full, wanted, atol=1e-5)


def test_splice_leaves_other_tokens_bit_for_bit(sae, x):
    def one_token(acts):
        acts.values[0, 3, 0] += 1  # the edit owns its copy
        return acts

    feature = sae.encode(x).indices[0, 3, 0]
    for residual in (x, x.bfloat16()):
        out = sae.splice(residual, one_token)
        same = (out == residual).all(-1)
        assert out.dtype == residual.dtype and int((~same).sum()) == 1 and not same[0, 3]
    assert torch.allclose(sae.splice(x, one_token)[0, 3], x[0, 3] + sae.direction(feature)[0])
    before = x.clone()
    sae.splice(x, one_token)
    assert torch.equal(x, before)


def test_sparse_change_cancels_exactly():
    old = acts_of([[3.0, 1.0, 0.0]], [[5, 2, 9]])
    new = acts_of([[1.0, 3.0, 2.0, 2.0]], [[2, 5, 9, 9]])  # 9 twice: an empty place before
    change = sparse_change(old, new)
    assert change.values.tolist() == [[0, 0, 4, 0, 0, 0, 0]]
    assert sparse_change(old, old).values.abs().max() == 0
    twice = acts_of([[1.0, 3.0]], [[5, 5]])
    assert sparse_change(old, twice).values.tolist() == [[1.0, -1.0, 0.0, 0.0, 0.0]]


# ---- bad input


def test_residuals_of_another_width_are_named(sae):
    with pytest.raises(ValueError, match=r"shape \(2, 9\) do not fit W_enc \(40, 8\) .*\[..., 8\]"):
        sae.encode(torch.ones(2, 9))
    with pytest.raises(ValueError, match=r"shape \(\) do not fit"):
        sae.encode(torch.tensor(1.0))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_residuals_are_named(sae, x, bad):
    x[1, 4, 2] = bad
    x[1, 6, 0] = bad
    with pytest.raises(ValueError, match=r"token \[1, 4\] given to .*layer 3.*2 of 14 tokens"):
        sae.encode(x)
    with pytest.raises(ValueError, match=r"token \[0\] given to"):
        sae.encode(x[1, 4])


@pytest.mark.parametrize("bad", [float("nan"), float("-inf")])
@pytest.mark.parametrize("name", ["W_enc", "W_dec", "b_enc", "b_dec"])
def test_nan_weights_are_named_before_any_number(tmp_path, x, name, bad):
    tensors = weights()
    tensors[name].view(-1)[-1] = bad
    path = save(tmp_path, tensors, d_model=D_MODEL, k=K)
    message = rf"{name} of TopKSAE\(layer 3, .*layer3.sae.pt\) holds NaN or inf; download"
    with pytest.raises(ValueError, match=message):
        load_sae(path).reconstruct(x)
    if name in ("W_enc", "b_enc", "b_dec"):
        with pytest.raises(ValueError, match=message):
            load_sae(path).encode(x)
    if name in ("W_dec", "b_dec"):
        with pytest.raises(ValueError, match=message):
            load_sae(path).decode(acts_of([[1.0]], [[0]]))
    if name == "W_dec":
        assert load_sae(path).direction(0).isfinite().all(), "its numbers are whole"
        with pytest.raises(ValueError, match=message):
            load_sae(path).direction(D_SAE - 1)
        with pytest.raises(ValueError, match=message):
            load_sae(path).splice(x, lambda acts: SparseActs(acts.values * 2, acts.indices))


@pytest.mark.parametrize("feature", [-1, D_SAE])
def test_features_out_of_range_are_named(sae, x, feature):
    message = rf"feature {feature} of TopKSAE\(layer 3.* is out of range; choose from 0 to 39"
    with pytest.raises(ValueError, match=message):
        sae.direction([0, feature])
    with pytest.raises(ValueError, match=message):
        sae.decode(acts_of([[1.0]], [[feature]]))
    with pytest.raises(ValueError, match=message):
        sae.splice(x, lambda acts: SparseActs(acts.values, torch.full_like(acts.indices, feature)))


def test_wrong_arguments_are_named(sae, x):
    with pytest.raises(ValueError, match="whole numbers, not torch.float32"):
        sae.direction([0.5])
    with pytest.raises(ValueError, match=r"values \(1, 2\) but indices \(1, 1\)"):
        sae.decode(acts_of([[1.0, 2.0]], [[0]]))
    with pytest.raises(ValueError, match=r"the edit made \(1,\) of acts \(2, 7, 5\)"):
        sae.splice(x, lambda acts: acts_of([1.0], [1]))
    for k in (0, 41, -1, 5.0, "5", True):
        with pytest.raises(ValueError, match=rf"k is {k!r} for .* from 1 to 40"):
            TopKSAE(**weights(), k=k)
    with pytest.raises(ValueError, match=r"W_enc \(40, 8\) but .*\(40, 8\).*make them \(d_sae"):
        TopKSAE(**weights() | {"W_dec": weights()["W_enc"]}, k=5)
    with pytest.raises(ValueError, match="no convention 'qwen'; choose one of .*'official'"):
        TopKSAE(**weights(), k=5, convention="qwen")


# ---- files


def test_official_file(tmp_path, sae, x):
    path = save(tmp_path, model_type="topk_sae", d_model=D_MODEL, d_sae=D_SAE, k=K)
    loaded = load_sae(path, expect_d_model=D_MODEL)
    assert (loaded.k, loaded.layer, loaded.convention) == (K, 3, "official")
    assert (loaded.d_model, loaded.d_sae, loaded.path) == (D_MODEL, D_SAE, str(path))
    assert torch.equal(loaded.reconstruct(x), sae.reconstruct(x))
    assert load_sae(path, k=2, layer=9).k == 2
    assert load_sae(path, k=2, layer=9).layer == 9
    assert load_sae(path, dtype=torch.bfloat16).W_dec.dtype == torch.bfloat16


def test_k_comes_from_config_then_folder_name(tmp_path):
    hub = tmp_path / "models--Qwen--SAE-Res-Qwen3-1.7B-Base-W32K-L0_50" / "snapshots" / "abc"
    assert find_k(save(hub)) == 50
    assert find_k(save(hub, k=7)) == 7
    assert find_k(save(hub, d_model=8)) == 50, "a config without k"
    bare = save(tmp_path / "renamed")
    with pytest.raises(
        ValueError, match="k of .*layer3.sae.pt is not known.*shapes cannot.*pass k="
    ):
        load_sae(bare)
    (bare.parent / "config.json").write_text("{")
    with pytest.raises(ValueError, match="config.json is not valid JSON; download it again"):
        load_sae(bare)
    (bare.parent / "config.json").write_text('{"k": 99}')
    with pytest.raises(ValueError, match="k is 99 for .*layer3.sae.pt.* from 1 to 40"):
        load_sae(bare)


@pytest.mark.parametrize(
    "name, layer",
    [
        ("layer12.sae.pt", 12),
        ("sae_L31_latest.safetensors", 31),
        ("layer_7.pt", 7),
        ("weights.pt", None),
    ],
)
def test_layer_comes_from_the_file_name(name, layer):
    assert file_layer(name) == layer


def transposed(tensors):
    turned = {name: tensors[name].T.contiguous() for name in ("W_enc", "W_dec")}
    return tensors | turned


def test_openinterpretability_files(tmp_path, x):
    from safetensors.torch import save_file

    path = tmp_path / "sae_L31_latest.safetensors"
    save_file(transposed(weights()), path)
    (tmp_path / "sae_L31_cfg.json").write_text(json.dumps({"architecture": "topk", "k": K}))
    (tmp_path / "sae_L11_cfg.json").write_text(json.dumps({"k": 1}))
    loaded = load_sae(path)
    assert (loaded.k, loaded.layer, loaded.convention) == (K, 31, "openinterpretability")
    w = {name: tensor.tolist() for name, tensor in weights().items()}
    for token, values in zip(x[0].tolist(), loaded.encode(x[0]).values.tolist(), strict=True):
        every = naive.encode(token, w["W_enc"], w["b_enc"], K, w["b_dec"])
        assert values == pytest.approx([value for value, _ in every], abs=1e-5)
    assert torch.equal(loaded.direction(4), weights()["W_dec"][:, [4]].T)
    assert loaded.W_dec.untyped_storage().nbytes() == 4 * D_MODEL * D_SAE, "a view, no copy"
    plain = load_sae(path, convention="transposed")
    assert torch.allclose(plain.reconstruct(x), TopKSAE(**weights(), k=K).reconstruct(x), atol=1e-5)


def test_leoninverse_files(tmp_path, x):
    w = transposed(weights())
    state = {"b_pre": w.pop("b_dec")} | w
    path = tmp_path / "layer3.pt"
    torch.save({"state": state, "scale": 0.5, "k": K, "width": D_SAE, "tokens": 10}, path)
    loaded = load_sae(path)
    assert (loaded.k, loaded.convention, loaded.input_scale) == (K, "leoninverse", 0.5)
    same = TopKSAE(**weights(), k=K, convention="centered")
    assert torch.equal(loaded.encode(x).indices, same.encode(x * 0.5).indices)
    assert torch.allclose(loaded.reconstruct(x), same.reconstruct(x * 0.5) / 0.5, atol=1e-5)
    # A direction and a splice are in units of the residual, as the reconstruction is.
    add = loaded.splice(x, lambda a: SparseActs(a.values + 1, a.indices)) - x
    step = loaded.direction(loaded.encode(x).indices).view(2, 7, K, D_MODEL).sum(-2)
    assert torch.allclose(add, step, atol=1e-5)
    torch.save({"state": state, "scale": float("nan"), "k": K}, path)
    with pytest.raises(ValueError, match="layer3.pt has scale nan, not a positive number"):
        load_sae(path)


def test_bfloat16_files_are_widened(tmp_path, x):
    path = save(tmp_path, {n: t.bfloat16() for n, t in weights().items()}, k=K)
    rounded = {n: t.bfloat16().float() for n, t in weights().items()}
    assert torch.equal(load_sae(path).encode(x).values, TopKSAE(**rounded, k=K).encode(x).values)


def test_every_convention_has_its_own_reading():
    assert all(name == row.name and row.used_by for name, row in CONVENTIONS.items())
    readings = {(row.keys, row.transposed, row.subtract_b_dec) for row in CONVENTIONS.values()}
    assert len(readings) == len(CONVENTIONS)


def test_an_sae_of_another_model_is_named(tmp_path):
    path = save(tmp_path, k=K)
    message = (
        r"width 8 \(W_enc \(40, 8\)\) but the model's have width 4096; SAEs that fit: .*8b-l50"
    )
    with pytest.raises(ValueError, match=message):
        load_sae(path, expect_d_model=4096)
    with pytest.raises(ValueError, match="SAEs that fit: none in the catalog"):
        load_sae(path, expect_d_model=10)


def test_wrong_shapes_and_keys_are_named(tmp_path):
    def refused(tensors, message, **kwargs):
        path = save(tmp_path, tensors, k=K)
        with pytest.raises(ValueError, match=rf"layer3.sae.pt {message}"):
            load_sae(path, **kwargs)

    w = weights()
    refused({n: w[n] for n in ("W_enc", "W_dec", "b_enc")}, r"misses b_dec \(it has W_enc, W_dec")
    refused({"encoder.weight": w["W_enc"]}, r"misses W_enc, .*\(it has encoder.weight\)")
    refused({}, "misses W_enc")
    refused(w | {"W_dec": w["W_enc"]}, r"has W_dec of shape \(40, 8\), not \(8, 40\)")
    refused(w | {"b_dec": w["b_dec"][None]}, r"has biases of shapes \(40,\) and \(1, 8\)")
    refused(w | {"W_enc": w["W_enc"].int()}, "has W_enc of dtype torch.int32, not floating")
    refused(w | {"b_enc": "text"}, "misses b_enc")
    refused(
        transposed(w),
        r"has W_enc of shape \(8, 40\), not \(40, 8\) as convention 'official' wants; "
        "its layout is that of convention 'openinterpretability'",
        convention="official",
    )
    with pytest.raises(ValueError, match="unknown convention 'qwen'; choose one of"):
        load_sae(save(tmp_path, k=K), convention="qwen")


def test_a_missing_file_is_named(tmp_path):
    save(tmp_path, k=K)
    save(tmp_path, name="layer10.sae.pt")
    with pytest.raises(FileNotFoundError, match=r"layer4.sae.pt; the folder has layers \[3, 10\]"):
        load_sae(tmp_path / "layer4.sae.pt")
    with pytest.raises(FileNotFoundError, match="the folder has no layer file"):
        load_sae(tmp_path / "elsewhere" / "layer4.sae.pt")


# ---- hostile and broken files


class Bomb:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return (open, (str(self.target), "w"))


@pytest.mark.parametrize("form", ["pickle", "torch", "torch-legacy", "beside-tensors"])
def test_a_malicious_pickle_executes_nothing(tmp_path, form):
    target, path = tmp_path / "executed", tmp_path / "layer0.sae.pt"
    if form == "pickle":
        path.write_bytes(pickle.dumps(Bomb(target)))
    elif form == "torch":
        torch.save(Bomb(target), path)
    elif form == "torch-legacy":
        torch.save(Bomb(target), path, _use_new_zipfile_serialization=False)
    else:
        torch.save(weights() | {"extra": Bomb(target)}, path)
    with pytest.raises(
        ValueError, match="layer0.sae.pt is not a whole file .*nothing in it was exec"
    ):
        load_sae(path, k=K)
    assert not target.exists()


@pytest.mark.parametrize("keep", [0.0, 0.1, 0.6, 0.99])
@pytest.mark.parametrize("kind", ["pt", "safetensors"])
def test_a_truncated_file_is_named(tmp_path, kind, keep):
    path = tmp_path / f"layer0.sae.{kind}"
    if kind == "pt":
        torch.save(weights(), path)
    else:
        from safetensors.torch import save_file

        save_file(weights(), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(
        ValueError, match=r"layer0.sae.* is not a whole .*download it again"
    ) as error:
        load_sae(path, k=K)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content", [b"<html>404</html>", b"PK\x03\x04", b"version https://git-lfs"]
)
def test_a_foreign_file_is_named(tmp_path, content):
    path = tmp_path / "layer0.sae.pt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="layer0.sae.pt is not a whole file of plain tensors"):
        load_sae(path, k=K)


def test_a_zip_of_something_else_is_named(tmp_path):
    path = tmp_path / "layer0.sae.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(ValueError, match="layer0.sae.pt is not a whole file of plain tensors"):
        load_sae(path, k=K)
    torch.save([1, 2], path)
    with pytest.raises(ValueError, match="layer0.sae.pt holds a list, not a dict of tensors"):
        load_sae(path, k=K)


# ---- reading no more than needed


def bytes_from_disk(path, use):
    """What `use` makes this process read from disk, the file being out of the page cache."""

    def counter():
        lines = dict(line.split(": ") for line in open("/proc/self/io").read().splitlines())
        return int(lines["read_bytes"])

    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    before = counter()
    use()
    return counter() - before


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts reads in /proc/self/io")
def test_reading_is_lazy(tmp_path):
    """Loading reads next to nothing, and a direction one page for each row of W_dec."""
    d_model, d_sae = 64, 32768
    path = save(tmp_path, weights(d_model, d_sae), k=K)
    matrix = 4 * d_model * d_sae
    whole = bytes_from_disk(path, lambda: load_sae(path).W_dec.sum())
    if whole < matrix:
        pytest.skip("the temporary folder is in memory, where no read can be counted")
    assert bytes_from_disk(path, lambda: load_sae(path)) < 0.2 * matrix
    assert bytes_from_disk(path, lambda: load_sae(path).direction([5])) < 0.2 * matrix


def test_encode_leaves_w_dec_alone(x):
    w = weights()
    absent = w | {"W_dec": w["W_dec"].to("meta")}  # has a shape and no numbers
    acts = TopKSAE(**absent, k=K).encode(x)
    assert torch.equal(acts.values, TopKSAE(**w, k=K).encode(x).values)


# ---- a few features


def some_by_encoding(sae, x, ids):
    """What `some` must give: all features encoded, then looked up."""
    acts = sae.encode(x)
    return (acts.values[..., None] * (acts.indices[..., None] == ids)).sum(-2)


@pytest.mark.parametrize("scale", [0.5, 1.0, 1e6])
def test_some_features_are_those_of_encode(scale):
    torch.manual_seed(0)
    sae = TopKSAE(**weights(16, 64), k=4)
    x = torch.randn(3, 40, 16) * scale
    ids = torch.tensor([3, 17, 3, 63])
    found = sae.some(x, ids)
    assert found.shape == (3, 40, 4) and (found > 0).any() and (found == 0).any()
    assert torch.allclose(found, some_by_encoding(sae, x, ids), rtol=1e-5, atol=1e-6 * scale)
    assert torch.equal(sae.some(x[:, :0], ids), torch.zeros(3, 0, 4))
    x[1, 2, 3] = float("nan")
    with pytest.raises(ValueError, match="NaN or inf"):
        sae.some(x, ids)


def test_tokens_at_which_none_of_them_can_fire_are_not_encoded(monkeypatch):
    torch.manual_seed(0)
    sae, seen = TopKSAE(**weights(16, 64), k=4), []
    whole = sae._top_k

    def counted(x, *args):
        seen.append(len(x))
        return whole(x, *args)

    monkeypatch.setattr(sae, "_top_k", counted)
    x, ids = torch.randn(500, 16), torch.tensor([5])
    pre = x @ sae.W_enc[5] + sae.b_enc[5]
    sae.some(x, ids)
    assert seen == [int((pre > -1e-4).sum())] and seen[0] < 400
    sae.some(x[pre < -0.1], ids)
    assert len(seen) == 1  # nothing to encode
