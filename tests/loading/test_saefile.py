"""SAE files of every kind: what is read from them, how little, and what is refused."""

import json
import os
import pickle
import random
import sys
import zipfile

import naive
import pytest
import torch
from small_sae import D_MODEL, D_SAE, K, save, weights

from qs_helpers.loading.catalog import file_layer
from qs_helpers.loading.saefile import find_k, load_sae
from qs_helpers.sae import SparseActs, TopKSAE


@pytest.fixture
def sae():
    return TopKSAE(**weights(), k=K, layer=3)


@pytest.fixture
def x():
    return torch.randn(2, 7, D_MODEL, generator=torch.Generator().manual_seed(9))


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


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("threshold", torch.ones(D_SAE)),
        ("b_gate", torch.ones(D_SAE)),
        ("W_skip", torch.ones(D_MODEL, D_MODEL)),
        ("log_scale", torch.tensor(0.5)),
        ("scaling_factor", torch.ones(D_SAE)),
        ("scale", 0.5),
        ("architecture", "jumprelu"),
        ("cfg", {"hook_point": "mlp_out"}),
        ("config", {"rescale_acts_by_decoder_norm": True}),
    ],
)
def test_a_file_that_holds_more_than_a_topk_sae_is_refused_by_name(tmp_path, key, value):
    path = save(tmp_path, weights() | {key: value}, k=K)
    named = next(iter(value)) if isinstance(value, dict) else key
    with pytest.raises(ValueError, match=rf"layer3.sae.pt (holds|says).*{named}"):
        load_sae(path)


def test_what_does_not_change_the_reading_may_lie_in_the_file(tmp_path, sae, x):
    extra = {"step": 10, "scale": 1.0, "cfg": {"architecture": "topk"}, "optimizer": {}}
    path = save(tmp_path, weights() | extra, k=K)
    assert torch.equal(load_sae(path).reconstruct(x), sae.reconstruct(x))


@pytest.mark.parametrize("name", ["W_enc", "W_dec", "b_enc", "b_dec"])
@pytest.mark.parametrize("form", ["sparse", "meta"])
def test_sparse_and_meta_tensors_are_refused_by_name(tmp_path, name, form):
    tensor = weights()[name]
    other = tensor.to_sparse() if form == "sparse" else tensor.to("meta")
    with pytest.raises(ValueError, match=rf"layer3.sae.pt .*({name}|plain tensors)"):
        load_sae(save(tmp_path, weights() | {name: other}, k=K))


@pytest.mark.parametrize(
    ("said", "convention"),
    [
        ({"apply_b_dec_to_input": True}, "openinterpretability"),
        ({"apply_b_dec_to_input": False}, "transposed"),
        ({}, "openinterpretability"),
    ],
)
def test_a_saelens_folder_is_read_as_its_own_cfg_says(tmp_path, said, convention):
    from safetensors.torch import save_file

    cfg = {"architecture": "topk", "k": K, "metadata": {"hook_name": "blocks.5.hook_resid_post"}}
    path = tmp_path / "sae_weights.safetensors"
    save_file(transposed(weights()), path)
    (tmp_path / "cfg.json").write_text(json.dumps(cfg | said))
    sae = load_sae(path)
    assert (sae.k, sae.layer, sae.convention) == (K, 5, convention)
    (tmp_path / "cfg.json").write_text(json.dumps(cfg | {"rescale_acts_by_decoder_norm": True}))
    with pytest.raises(
        ValueError, match=r"sae_weights.safetensors says rescale.*import_suite folds"
    ):
        load_sae(path)


POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 123\n"


@pytest.mark.parametrize("name", ["layer3.sae.pt", "layer3.pt", "sae_L3_latest.safetensors"])
def test_a_pointer_of_git_lfs_is_named_as_such(tmp_path, name):
    (tmp_path / name).write_text(POINTER)
    with pytest.raises(ValueError, match=f"{name} is a Git LFS pointer.*git lfs pull"):
        load_sae(tmp_path / name, k=K)


# ---- mutated files: nothing executes, and every refusal names the file


def flipped(content, dice):
    content = bytearray(content)
    for _ in range(dice.choice([1, 3, 30])):
        place = dice.randrange(len(content))
        content[place] ^= 1 << dice.randrange(8)
    return bytes(content)


def cut(content, dice):
    return content[: dice.randrange(len(content))]


def swapped(content, dice):
    start, stop = sorted(dice.sample(range(len(content)), 2))
    return content[:start] + content[stop:] + content[start:stop]


def overwritten(content, dice):
    start = dice.randrange(len(content))
    return content[:start] + dice.randbytes(min(64, len(content) - start)) + content[start + 64 :]


def wrong_tensors(folder, dice):
    """The content of a file whose tensors are not what they should be."""
    found, name = weights(), dice.choice(["W_enc", "W_dec", "b_enc", "b_dec"])
    tensor = found.pop(name)
    change = dice.choice(["gone", "int", "more", "empty", "complex", "list", "renamed"])
    if change == "more":
        found |= {name: torch.cat([tensor, tensor])}
    elif change != "gone":
        key = dice.choice([f"{name} ", name.lower(), 7]) if change == "renamed" else name
        made = {"int": tensor.int(), "empty": tensor[:0], "complex": tensor.to(torch.complex64)}
        found |= {key: tensor.tolist() if change == "list" else made.get(change, tensor)}
    return saved(folder, found)


def foreign(folder, dice):
    """The content of a pickle that would write a file if it were run."""
    bomb = Bomb(folder / "executed")
    form = dice.choice(["plain", "zip", "legacy", "key"])
    if form == "plain":
        return pickle.dumps(dice.choice([bomb, {"W_enc": bomb}, [bomb]]), dice.randrange(6))
    held = {bomb: 1} if form == "key" else weights() | {dice.choice(["W_enc", "k"]): bomb}
    return saved(folder, held, _use_new_zipfile_serialization=form != "legacy")


def saved(folder, tensors, **options):
    torch.save(tensors, folder / "whole", **options)
    return (folder / "whole").read_bytes()


def mutant(folder, seed):
    """(name of a file, its content, whether it must be refused) for a seed."""
    from safetensors.torch import save as safe

    dice = random.Random(seed)
    kind = dice.choice(["flipped", "cut", "swapped", "overwritten", "foreign", "wrong"])
    if kind in ("foreign", "wrong"):
        make = foreign if kind == "foreign" else wrong_tensors
        return "layer3.sae.pt", make(folder, dice), True
    change = {"flipped": flipped, "cut": cut, "swapped": swapped, "overwritten": overwritten}[kind]
    name = dice.choice(["layer3.sae.pt", "layer3.safetensors"])
    whole = safe(weights()) if name.endswith(".safetensors") else saved(folder, weights())
    return name, change(whole, dice), kind == "cut"


def check_mutant(folder, seed):
    """An SAE that works, or a ValueError of one line that names the file."""
    folder.mkdir()
    name, content, hopeless = mutant(folder, seed)
    (folder / name).write_bytes(content)
    try:
        load_sae(folder / name, k=K).reconstruct(torch.ones(2, D_MODEL))
    except ValueError as error:
        assert name in str(error) and "\n" not in str(error), f"seed {seed}: {error}"
    else:
        assert not hopeless, f"seed {seed}: {name} was read"
    assert not (folder / "executed").exists(), f"seed {seed}"


@pytest.mark.parametrize("seed", range(20))
def test_a_mutated_file_works_or_is_named(tmp_path, seed):
    check_mutant(tmp_path / "mutant", seed)


@pytest.mark.long
def test_two_hundred_mutated_files(tmp_path):
    for seed in range(200):
        check_mutant(tmp_path / str(seed), seed)


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


def test_the_config_beside_a_file_says_how_it_is_read(tmp_path):
    """As `load_scope` reads it: its convention, and its k before the folder's."""
    folder = tmp_path / "suite-L0_7"
    folder.mkdir()
    torch.save(weights(), folder / "layer2.sae.pt")
    (folder / "config.json").write_text(json.dumps({"convention": "centered", "k": 5}))
    sae = load_sae(folder / "layer2.sae.pt")
    assert (sae.convention, sae.k, sae.layer) == ("centered", 5, 2)
    assert load_sae(folder / "layer2.sae.pt", convention="official").convention == "official"
    (folder / "config.json").write_text("{}")
    assert load_sae(folder / "layer2.sae.pt").k == 7
